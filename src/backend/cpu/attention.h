/* Tiled attention, forward and backward: what its files share.
 *
 * Scores are made, used and forgotten in tiles of HEED_TILE_QUERIES × HEED_TILE_KEYS; of each query only the
 * maximum of its scores and the reciprocal of Σ e^(score − maximum) are saved (attention.md's reason: one
 * log-sum-exp loses large scores). Memory is linear in the length.
 *
 * attention.c        the kernel: when it applies, its two directions
 * attention_packed.c sequences of different lengths side by side
 * attention_plan.c   how work is cut and memory laid out, by shape alone
 * attention_sums.c   gradients of biases, parameters and sinks, which are summed over something
 * vector/attention_* the work of one task */
#ifndef HEED_SRC_BACKEND_CPU_ATTENTION_H
#define HEED_SRC_BACKEND_CPU_ATTENTION_H

#include <stdatomic.h>

#include "backend/cpu/cpu.h"
#include "backend/sequences.h"

enum { HEED_TILE_QUERIES = 48, HEED_TILE_KEYS = 64 };

/* Tasks that a call should have at least, where its shape allows. */
enum { HEED_ATTENTION_TASKS = 16 };

/* Where the gradient of a stage's tensor is gathered. */
enum heed_sum_scope {
    HEED_SUM_NONE,   /* not wanted */
    HEED_SUM_CELL,   /* per query and key: straight to its own memory */
    HEED_SUM_KEY,    /* summed over queries: [batch, heads, keys] */
    HEED_SUM_QUERY,  /* summed over keys: [strips, batch, heads, queries] */
    HEED_SUM_HEAD,   /* summed over both: [strips, batch, heads] */
    HEED_SUM_VECTOR, /* n numbers of a head, such as one per distance: [strips, batch, heads, n] */
    HEED_SUM_SINK    /* made with delta: [query chunks, batch, heads] */
};

struct heed_attention_sum {
    enum heed_sum_scope scope;
    const struct heed_grad_view *to;
    int64_t parts, count;                     /* [parts, batch, heads, count] */
    int64_t part_step, batch_step, head_step; /* in floats; packed sequences lie within one batch entry */
    float *data;
};

/* The sums of a plan: of stage i, of parameter j at HEED_MAX_STAGES + j, of the sink. */
enum {
    HEED_SUM_OF_PARAMS = HEED_MAX_STAGES,
    HEED_SUM_OF_SINK = HEED_MAX_STAGES + HEED_MAX_STAGE_PARAMS,
    HEED_SUMS
};

/* A task. What `part` is, each kind of task says. */
struct heed_attention_task {
    int64_t batch, head, part;
};

/* For the note. */
struct heed_attention_counts {
    atomic_llong tiles, skipped;
};

/* A part of the work of one of packed sequences. */
struct heed_attention_item {
    int64_t sequence, part;
};

/* Of packed sequences, `queries` and `keys` are those of the longest, and tasks get a plan of their sequence,
 * in which all sizes and places are its own (attention_packed.c). */
struct heed_attention_plan {
    const struct heed_attention_args *args;
    int64_t batch, heads, kv_heads, group; /* group: query heads per key/value head */
    int64_t queries, keys, width, value_width;
    int64_t width_row, value_row; /* rows of packed matrices: widths rounded up to whole vectors */
    float scale;
    bool drops;
    uint32_t threshold;
    float keep_scale;
    struct heed_attention_random random;
    int64_t rows, batch_rows, head_rows; /* queries of all heads; from one batch entry, head to the next */
    float *maximum, *reciprocal;         /* saved, one of each row; or scratch, where weights are chosen */

    int64_t key_block, key_blocks; /* keys that are packed at a time, a multiple of 128 */
    /* Forward: a task is a batch, a head and a chunk of queries. */
    int64_t query_chunk, query_chunks;
    /* Backward: a task is a batch, a key/value head and a strip: the key blocks strip, strip + strips, …, of
     * which it owns dk and dv. Where a bias gradient repeats over batches or heads, a task loops over them
     * instead. Strip 0 adds to dq itself, each other strip to a slab of its own; slabs are added up in order
     * at the end. */
    int64_t strips;
    bool batches_inside, heads_inside;
    float *delta; /* Σ over keys of probability · its gradient, one of each row */
    float *slabs; /* [strips − 1, rows, width] */
    struct heed_attention_sum sum[HEED_SUMS];

    /* Of packed sequences: their chunks of queries and their strips of keys, long ones first. */
    int64_t chunk_items, strip_items;
    struct heed_attention_item *chunk_item, *strip_item;
    double cells; /* Σ queries · keys */

    float *workers; /* private areas; the last aux_tiles tiles of each are what stages keep for backward */
    int64_t worker_floats, aux_tiles;
    struct heed_attention_counts *counts;
};

/* Everything but memory. `backward` says for which direction. */
void heed_attention_plan_make(struct heed_attention_plan *plan, const struct heed_attention_args *args,
                              bool backward);

size_t heed_attention_saved_bytes(const struct heed_attention_plan *plan);
size_t heed_attention_scratch_bytes(const struct heed_attention_plan *plan, int workers, bool backward);

/* Lays saved and scratch out. */
void heed_attention_plan_place(struct heed_attention_plan *plan, void *saved, void *scratch, int workers,
                               bool backward);

/* ---- packed sequences (attention_packed.c) ---- */

/* Part of making a plan: the least and the most that sequences need. */
void heed_attention_plan_packed(struct heed_attention_plan *plan);

/* Strips of a sequence: by its share of all the work. */
int64_t heed_attention_strips_of(const struct heed_attention_plan *plan, const struct heed_sequence *s);

/* Counts chunks and, backward, strips of all sequences; and, once they have memory, lists them. */
void heed_attention_items_count(struct heed_attention_plan *plan, bool backward);
void heed_attention_items_list(const struct heed_attention_plan *plan, bool backward);

/* The plan of sequence i alone, with its arguments. */
void heed_attention_plan_of_sequence(const struct heed_attention_plan *plan, int64_t i,
                                     struct heed_attention_plan *own, struct heed_attention_args *args);

/* Summed gradients: before the tasks what has to be zero becomes so; after them sums are delivered. */
heed_status heed_attention_sums_open(struct heed_exec *exec, const struct heed_attention_plan *plan);
void heed_attention_sums_close(const struct heed_attention_plan *plan);

/* Floats that a sum is gathered in. */
int64_t heed_attention_sum_floats(const struct heed_attention_sum *sum);

/* The part of a sum that belongs to a strip (or chunk), batch and head. */
static inline float *heed_attention_sum_at(const struct heed_attention_sum *sum, int64_t part, int64_t batch,
                                           int64_t head) {
    return sum->data + part * sum->part_step + batch * sum->batch_step + head * sum->head_step;
}

/* Tiles that a stage keeps from forward to backward. */
static inline int heed_stage_aux(const struct heed_stage *stage) {
    if (stage->kind == HEED_STAGE_CUSTOM) return stage->rule->n_aux;
    return stage->kind == HEED_STAGE_SOFTCAP ? 1 : 0;
}

/* How many floats each part of a worker's area has, in the order the vector code lays them out. */
int64_t heed_attention_worker_floats(const struct heed_attention_plan *plan, bool backward);

static inline float *heed_attention_area(const struct heed_attention_plan *plan, int worker) {
    return plan->workers + worker * plan->worker_floats;
}

static inline float *heed_attention_aux(const struct heed_attention_plan *plan, int worker) {
    return heed_attention_area(plan, worker) + plan->worker_floats -
           plan->aux_tiles * HEED_TILE_QUERIES * HEED_TILE_KEYS;
}

static inline int64_t heed_ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* Rounded up to whole vectors of the widest kind. */
static inline int64_t heed_whole_vectors(int64_t floats) {
    return (floats + 15) / 16 * 16;
}

/* The line of dropout's random numbers (philox.h). */
static inline int64_t heed_attention_row(const struct heed_attention_plan *plan, int64_t batch,
                                         int64_t head) {
    return batch * plan->heads + head;
}

/* The place of a query among the rows of all heads: of its maximum, its sum, delta, … */
static inline int64_t heed_attention_at(const struct heed_attention_plan *plan, int64_t batch, int64_t head,
                                        int64_t query) {
    return batch * plan->batch_rows + head * plan->head_rows + query;
}

/* Element offset of [batch, head, row, 0]. */
static inline int64_t heed_attention_offset(const struct heed_view *v, int64_t batch, int64_t head,
                                            int64_t row) {
    return batch * v->stride[0] + head * v->stride[1] + row * v->stride[2];
}

typedef void heed_attention_work(const struct heed_attention_plan *plan,
                                 const struct heed_attention_task *task, int worker);

/* What the vector halves do. */
struct heed_attention_vectors {
    heed_attention_work *forward;  /* part: a chunk of queries */
    heed_attention_work *chosen;   /* part: HEED_TILE_KEYS keys; the head counts those that are chosen */
    heed_attention_work *delta;    /* part: a chunk of queries */
    heed_attention_work *backward; /* part: a strip; the head is that of keys and values */
};

HEED_CPU_TABLE(attention)

#endif
