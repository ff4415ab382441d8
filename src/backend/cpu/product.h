/* Matrix products over heed's threads: what matmul and linear are made of. */
#ifndef HEED_SRC_BACKEND_CPU_PRODUCT_H
#define HEED_SRC_BACKEND_CPU_PRODUCT_H

#include "backend/cpu/cpu.h"

/* Dimensions over which products are repeated. */
struct heed_cpu_repeat {
    int rank;
    int64_t size[HEED_MAX_RANK];
    int64_t a[HEED_MAX_RANK], b[HEED_MAX_RANK], c[HEED_MAX_RANK]; /* strides */
};

/* C = A · B, or C += A · B with `add`; A [m, k], B [k, n], C [m, n], one for each index of `batch`. With
 * `sum`, products over its indices are added up in order. One of the two strides of A and of B is 1 (or its
 * dimension is); rows of C are contiguous. Sizes and strides fit 31 bits: heed_cpu_product_fits(). */
struct heed_cpu_product {
    int64_t m, n, k;
    const float *a, *b;
    float *c;
    int64_t a_row, a_column, b_row, b_column, c_row;
    struct heed_cpu_repeat batch, sum;
    bool add;
    /* Called for each finished tile of C by the thread that made it; may be NULL. */
    void (*finish)(void *arg, int64_t row, int64_t column, int64_t rows, int64_t columns);
    void *finish_arg;
};

bool heed_cpu_product_fits(int64_t m, int64_t n, int64_t k);

/* Whether a matrix can be an operand as it is. */
bool heed_cpu_product_takes(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride);

/* Work is cut by shape alone. Only memory can fail, which is reported as an error of `primitive`. */
heed_status heed_cpu_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                                 const struct heed_cpu_product *product);

#endif
