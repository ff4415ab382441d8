/* A matrix product of small, near matrices: C (+)= A · B.
 *
 * C [m, n] and B [k, n] have contiguous rows that are padded: HEED_LANES · ⌈n / HEED_LANES⌉ floats of each
 * row may be read (B) and written (C). A [m, k] has any strides, so a transposed operand costs nothing. The
 * inner loop keeps a block of PRODUCT_ROWS × PRODUCT_COLUMNS vectors of C in registers. Each element of C is
 * summed in order of k, in one chain, wherever the block's edges are. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_PRODUCT_H
#define HEED_SRC_BACKEND_CPU_VECTOR_PRODUCT_H

#include "backend/cpu/vector/vector.h"

#if HEED_VECTOR_BYTES == 64
#define PRODUCT_ROWS 6
#define PRODUCT_COLUMNS 4
#elif HEED_VECTOR_BYTES == 32
#define PRODUCT_ROWS 6
#define PRODUCT_COLUMNS 2
#else
#define PRODUCT_ROWS 4
#define PRODUCT_COLUMNS 2
#endif

/* One product. Row i of A starts at a + i·a_row, its element p is a_column further. */
struct product {
    int64_t k;
    const float *a;
    int64_t a_row, a_column;
    const float *b;
    int64_t b_row;
    float *c;
    int64_t c_row;
    bool add;
};

/* One register block; rows and columns are constants where this is inlined. */
static inline __attribute__((always_inline)) void
product_block(const struct product *x, int rows, int columns, const float *a, const float *b, float *c) {
    vf sum[PRODUCT_ROWS][PRODUCT_COLUMNS];
    HEED_UNROLL
    for (int i = 0; i < rows; i++) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++)
            sum[i][j] = x->add ? vf_load(c + i * x->c_row + j * HEED_LANES) : (vf){0};
    }
    for (int64_t p = 0; p < x->k; p++) {
        vf right[PRODUCT_COLUMNS];
        HEED_UNROLL
        for (int j = 0; j < columns; j++) right[j] = vf_load(b + j * HEED_LANES);
        HEED_UNROLL
        for (int i = 0; i < rows; i++) {
            const vf left = vf_set(a[i * x->a_row]);
            HEED_UNROLL
            for (int j = 0; j < columns; j++) sum[i][j] = vf_fma(left, right[j], sum[i][j]);
        }
        a += x->a_column;
        b += x->b_row;
    }
    HEED_UNROLL
    for (int i = 0; i < rows; i++) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++) vf_store(c + i * x->c_row + j * HEED_LANES, sum[i][j]);
    }
}

#define PRODUCT_CASE(rows, columns)                                                                          \
    case 10 * rows + columns:                                                                                \
        product_block(x, rows, columns, a, b, c);                                                            \
        break;
#if PRODUCT_COLUMNS == 4
#define PRODUCT_CASES(rows)                                                                                  \
    PRODUCT_CASE(rows, 1) PRODUCT_CASE(rows, 2) PRODUCT_CASE(rows, 3) PRODUCT_CASE(rows, 4)
#else
#define PRODUCT_CASES(rows) PRODUCT_CASE(rows, 1) PRODUCT_CASE(rows, 2)
#endif

/* rows ≤ PRODUCT_ROWS, columns ≤ PRODUCT_COLUMNS (in vectors), both ≥ 1. */
static void product_edge(const struct product *x, int rows, int columns, const float *a, const float *b,
                         float *c) {
    switch (10 * rows + columns) {
        PRODUCT_CASES(1)
        PRODUCT_CASES(2)
        PRODUCT_CASES(3)
        PRODUCT_CASES(4)
#if PRODUCT_ROWS == 6
        PRODUCT_CASES(5)
        PRODUCT_CASES(6)
#endif
    }
}

/* Columns [0, n) of `rows` ≤ PRODUCT_ROWS rows. */
static inline void product_rows(const struct product *x, int rows, int64_t n) {
    const int64_t vectors = (n + HEED_LANES - 1) / HEED_LANES;
    for (int64_t v = 0; v < vectors; v += PRODUCT_COLUMNS) {
        const int columns = vectors - v < PRODUCT_COLUMNS ? (int)(vectors - v) : PRODUCT_COLUMNS;
        product_edge(x, rows, columns, x->a, x->b + v * HEED_LANES, x->c + v * HEED_LANES);
    }
}

/* All m rows. Columns are the outer loop: a panel of B stays near while the rows of A pass. */
static inline void product_run(const struct product *x, int64_t m, int64_t n) {
    const int64_t vectors = (n + HEED_LANES - 1) / HEED_LANES;
    for (int64_t v = 0; v < vectors; v += PRODUCT_COLUMNS) {
        const int columns = vectors - v < PRODUCT_COLUMNS ? (int)(vectors - v) : PRODUCT_COLUMNS;
        for (int64_t i = 0; i < m; i += PRODUCT_ROWS) {
            const int rows = m - i < PRODUCT_ROWS ? (int)(m - i) : PRODUCT_ROWS;
            product_edge(x, rows, columns, x->a + i * x->a_row, x->b + v * HEED_LANES,
                         x->c + i * x->c_row + v * HEED_LANES);
        }
    }
}

#endif
