/* Multi-head self-attention over many short sequences: what its files share.
 *
 * A task takes a few sequences from the input to the output, or back, so that what lies between stays in the
 * second-level cache. The columns of projected queries, keys and values are in lane order: (group of
 * HEED_LANES heads, element, head in the group). That comes from the order in which weights are packed and
 * costs nothing; attention reads vectors whose lanes are heads (vector/attention_lanes.h), and nothing is
 * transposed.
 *
 * Gradients of weights are sums over all rows. On the way tasks put one factor of each into panels:
 * attention's output, forward, and the gradients of projected rows, backward, a slab of rows at a time; the
 * other is read where it is. Tiles of the gradients are then made of these, each by one thread in one order.
 *
 * mha_short.c                  when it applies, forward and backward as passes of the threads
 * mha_short_plan.c             how it is cut, and its memory
 * vector/mha_short_pack.c      weights into panels, in lane order
 * vector/mha_short.c           a task forward
 * vector/mha_short_backward.c  a task backward
 * vector/mha_short_weights.c   a tile of the weights' gradients */
#ifndef HEED_SRC_BACKEND_CPU_MHA_SHORT_H
#define HEED_SRC_BACKEND_CPU_MHA_SHORT_H

#include "backend/cpu/attention_short.h"
#include "backend/cpu/gemm.h"

enum { HEED_MHA_QUERY, HEED_MHA_KEY, HEED_MHA_VALUE, HEED_MHA_INPUTS };

/* Elements of a head's queries, keys or values. */
enum { HEED_MHA_SHORT_WIDTH = 16 };

/* Rows of a matrix as panels of B of vector/gemm.c, slice by slice. */
struct heed_mha_panels {
    float *at; /* NULL: not wanted */
    int64_t rows, columns, slice;
};

/* A part of all rows, with tasks that end where it ends. */
struct heed_mha_slab {
    int64_t row, rows, task, tasks; /* the first, how many */
    struct heed_mha_panels dprojected;
};

struct heed_mha_short_plan {
    const struct heed_mha_args *args;
    struct heed_short_plan attention; /* without an area */
    const struct heed_gemm_vectors *gemm;
    /* Rows of the input; columns of input and output, of attention's output. */
    int64_t rows, in, out, joined;
    /* Where queries, keys and values begin in a projected row; where they end; from one row to the next. */
    int64_t first[HEED_MHA_INPUTS + 1], step;
    int64_t head_width[HEED_MHA_INPUTS];
    /* A task: so many sequences, with room for rows up to the end of a register block. */
    int64_t tasks, sequences, room;
    /* Packed weights of the direction, and, if there are any, biases of projected rows. */
    float *in_panels, *out_panels, *biases;
    int64_t units, units_per_task; /* of packing: HEED_LANES columns of projected rows or of the output */
    /* Projected rows, by task if they are saved, else by worker; attention's output by worker, and saved. */
    float *projected, *outputs;
    bool saves;
    struct heed_mha_panels kept;
    float *workers; /* private areas */
    int64_t worker_floats;
    /* Backward. */
    bool inner;                  /* something before the output projection wants gradients */
    bool wants[HEED_MHA_INPUTS]; /* of projected queries, keys, values */
    struct heed_mha_slab slab;
    /* Tiles of the weights' gradients: columns of the input, of the output, in each; how many. */
    int64_t in_tile, out_tile, in_tiles, out_tiles;
    void (*sums)(const float *x, int64_t x_row, int64_t rows, int64_t columns, float *sum, bool add);
};

struct heed_mha_vectors {
    int lanes;
    void (*pack)(const struct heed_mha_short_plan *plan, int64_t unit);
    void (*forward)(const struct heed_mha_short_plan *plan, int64_t task, int worker);
    void (*pack_backward)(const struct heed_mha_short_plan *plan, int64_t unit);
    void (*backward)(const struct heed_mha_short_plan *plan, int64_t task, int worker);
    void (*weights)(const struct heed_mha_short_plan *plan, int64_t tile, int worker);
};

HEED_CPU_TABLE(mha)

/* The plan of a direction, without memory. */
struct heed_mha_short_plan heed_mha_short_plan(const struct heed_exec *exec,
                                               const struct heed_mha_args *args);

/* Places the areas of the plan behind `memory` and tells their bytes; NULL: only that. What is saved comes
 * first. */
size_t heed_mha_short_place_saved(struct heed_mha_short_plan *plan, void *memory);
size_t heed_mha_short_place_forward(const struct heed_exec *exec, struct heed_mha_short_plan *plan,
                                    void *memory);
size_t heed_mha_short_place_backward(const struct heed_exec *exec, struct heed_mha_short_plan *plan,
                                     void *memory);

/* The slice of `row`: its first row, and how many it has. */
static inline int64_t heed_mha_slice(const struct heed_mha_panels *x, int64_t row, int64_t *depth) {
    *depth = heed_cpu_part(x->rows, x->slice, row / x->slice);
    return row - row % x->slice;
}

/* The panel of a slice that begins with `column`. */
static inline float *heed_mha_panel(const struct heed_mha_panels *x, int64_t slice, int64_t depth,
                                    int64_t column) {
    return x->at + slice * x->columns + column * depth;
}

/* The gradients of an input's projection. */
static inline const struct heed_grad_view *heed_mha_short_dw(const struct heed_mha_args *a, int input) {
    return input == HEED_MHA_QUERY ? &a->dwq : input == HEED_MHA_KEY ? &a->dwk : &a->dwv;
}
static inline const struct heed_grad_view *heed_mha_short_db(const struct heed_mha_args *a, int input) {
    return input == HEED_MHA_QUERY ? &a->dbq : input == HEED_MHA_KEY ? &a->dbk : &a->dbv;
}
static inline bool heed_mha_short_wants(const struct heed_mha_args *a, int input) {
    return heed_has(&heed_mha_short_dw(a, input)->view) || heed_has(&heed_mha_short_db(a, input)->view);
}

#endif
