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

/* A block of C: rows ≤ PRODUCT_ROWS, columns ≤ PRODUCT_COLUMNS (in vectors), both ≥ 1. In product.c, once for
 * all who multiply: it is long code. */
void HEED_VECTOR_NAME(heed_product_block)(const struct product *x, int rows, int columns, const float *a,
                                          const float *b, float *c);

/* Columns [0, n) of `rows` ≤ PRODUCT_ROWS rows. */
static inline void product_rows(const struct product *x, int rows, int64_t n) {
    const int64_t vectors = (n + HEED_LANES - 1) / HEED_LANES;
    for (int64_t v = 0; v < vectors; v += PRODUCT_COLUMNS) {
        const int columns = vectors - v < PRODUCT_COLUMNS ? (int)(vectors - v) : PRODUCT_COLUMNS;
        HEED_VECTOR_NAME(heed_product_block)
        (x, rows, columns, x->a, x->b + v * HEED_LANES, x->c + v * HEED_LANES);
    }
}

/* All m rows. Columns are the outer loop: a panel of B stays near while the rows of A pass. */
static inline void product_run(const struct product *x, int64_t m, int64_t n) {
    const int64_t vectors = (n + HEED_LANES - 1) / HEED_LANES;
    for (int64_t v = 0; v < vectors; v += PRODUCT_COLUMNS) {
        const int columns = vectors - v < PRODUCT_COLUMNS ? (int)(vectors - v) : PRODUCT_COLUMNS;
        for (int64_t i = 0; i < m; i += PRODUCT_ROWS) {
            const int rows = m - i < PRODUCT_ROWS ? (int)(m - i) : PRODUCT_ROWS;
            HEED_VECTOR_NAME(heed_product_block)
            (x, rows, columns, x->a + i * x->a_row, x->b + v * HEED_LANES,
             x->c + i * x->c_row + v * HEED_LANES);
        }
    }
}

#endif
