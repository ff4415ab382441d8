/* Elementwise computation over strided and repeated views, with sums (or maxima) over the dimensions that the
 * result repeats: what unary, binary, where, reduce and the adding copy are made of. */
#ifndef HEED_SRC_BACKEND_CPU_MAP_H
#define HEED_SRC_BACKEND_CPU_MAP_H

#include "backend/cpu/cpu.h"

#define HEED_MAP_INPUTS 4

/* The elements a function computes at once, at most. */
#define HEED_MAP_BLOCK 2048

/* out[0 … n) from inputs that lie side by side (step 1) or are one element (step 0). */
typedef void heed_map_fn(const void *self, int64_t n, const void *const *in, const int *step, void *out);

struct heed_map {
    heed_map_fn *fn;  /* NULL: the first input (f32) as it is */
    const void *self; /* for fn */
    int inputs;
    struct heed_view in[HEED_MAP_INPUTS]; /* in out's shape; elements of 1 or 4 bytes */
    struct heed_grad_view out;            /* f32; or of another dtype if it is contiguous and written over */
    bool max;                             /* maximum instead of sum; NaN wins */
    float scale;                          /* the result is multiplied by it before it is written or added */
};

/* Scratch bytes that heed_map_run() wants; depends on shapes and strides only. */
size_t heed_map_scratch(const struct heed_map *map);

void heed_map_run(const struct heed_exec *exec, const struct heed_map *map, void *scratch);

/* ---- the inner loops ---- */

struct heed_map_vectors {
    /* acc[j] = acc[j] + Σ_i t[i, j], or the maximum, of a contiguous [m, n]. */
    void (*add_rows)(int64_t m, int64_t n, const float *t, float *acc);
    void (*max_rows)(int64_t m, int64_t n, const float *t, float *acc);
    /* acc[i] = acc[i] + Σ_j t[i, j] */
    void (*add_columns)(int64_t m, int64_t n, const float *t, float *acc);
    void (*max_columns)(int64_t m, int64_t n, const float *t, float *acc);
    /* y[i] = scale·x[i], or added to y[i]. */
    void (*write)(int64_t n, float scale, const float *x, float *y);
    void (*add)(int64_t n, float scale, const float *x, float *y);
};

HEED_CPU_TABLE(map)

#endif
