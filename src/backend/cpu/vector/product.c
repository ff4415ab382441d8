/* The register blocks of product.h: one copy of the loop for every number of rows and columns, so that all of
 * C's block is in registers. */
#include "backend/cpu/vector/product.h"

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

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PRODUCT_ONE_COPY
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PRODUCT_ONE_COPY
#endif
#endif

#ifdef PRODUCT_ONE_COPY

/* Sanitizers take minutes over the copies; one with variable bounds has the same results. */
void HEED_VECTOR_NAME(heed_product_block)(const struct product *x, int rows, int columns, const float *a,
                                          const float *b, float *c) {
    product_block(x, rows, columns, a, b, c);
}

#else

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

void HEED_VECTOR_NAME(heed_product_block)(const struct product *x, int rows, int columns, const float *a,
                                          const float *b, float *c) {
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

#endif
