/* Copies of queries, keys and values in the layouts that products read.
 *
 * "Finite" says whether all elements are; blocks that are not take the exact path of attention_tile.h,
 * because 0 · NaN would carry what is masked into a result. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_PACK_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_PACK_H

#include "backend/cpu/attention.h"
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/product.h"

/* Rows of `width` floats to rows of to_row, padded with zeros to whole vectors. Returns whether all are
 * finite. */
static inline bool pack_rows(const float *x, int64_t x_row, int64_t rows, int64_t width, float *to,
                             int64_t to_row) {
    vf bad = {0}; /* NaN where something is not finite: x·0 is 0 otherwise */
    for (int64_t i = 0; i < rows; i++, x += x_row, to += to_row) {
        int64_t j = 0;
        for (; j + HEED_LANES <= width; j += HEED_LANES) {
            const vf v = vf_load(x + j);
            bad = vf_fma(v, vf_set(0.0f), bad);
            vf_store(to + j, v);
        }
        if (j < width) {
            const vf v = vf_load_part(x + j, width - j);
            bad = vf_fma(v, vf_set(0.0f), bad);
            vf_store(to + j, v);
        }
    }
    return !vm_any(vm_not(vm_equal(bad, bad)));
}

/* HEED_LANES rows, four columns: column j to to + j·to_row. */
static inline void transpose_block(const float *x, int64_t x_row, float *to, int64_t to_row) {
    vf v[4];
    HEED_UNROLL
    for (int i = 0; i < 4; i++) v[i] = vf_load_groups(x + i * x_row, 4 * x_row);
    vf_transpose_groups(v);
    HEED_UNROLL
    for (int i = 0; i < 4; i++) vf_store(to + i * to_row, v[i]);
}

/* `rows` ≤ HEED_TILE_KEYS rows of `width` floats to [width, HEED_TILE_KEYS], padded with zeros. */
static inline void pack_transposed(const float *x, int64_t x_row, int64_t rows, int64_t width, float *to) {
    const int64_t whole_rows = rows / HEED_LANES * HEED_LANES, whole_width = width / 4 * 4;
    for (int64_t i = 0; i < whole_rows; i += HEED_LANES) {
        for (int64_t j = 0; j < whole_width; j += 4) {
            transpose_block(x + i * x_row + j, x_row, to + j * HEED_TILE_KEYS + i, HEED_TILE_KEYS);
        }
    }
    for (int64_t j = 0; j < width; j++) {
        float *line = to + j * HEED_TILE_KEYS;
        for (int64_t i = j < whole_width ? whole_rows : 0; i < rows; i++) line[i] = x[i * x_row + j];
        for (int64_t i = rows; i < HEED_TILE_KEYS; i++) line[i] = 0;
    }
}

#endif
