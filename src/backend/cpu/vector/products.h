/* The vector halves of matmul and linear. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_PRODUCTS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_PRODUCTS_H

#include "backend/cpu/cpu.h"

/* C [m, n] = A · B, or += with `add`; A [m, k] and B [k, n] of any strides, rows of C contiguous. */
struct heed_small_product {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_column;
    const float *b;
    int64_t b_row, b_column;
    float *c;
    int64_t c_row;
    bool add;
};

/* A block of rows between a linear layer's product and its output. */
struct heed_activate {
    heed_activation activation;
    int64_t rows, columns;
    const float *bias; /* may be NULL */
    const float *x;    /* the product */
    float *pre;        /* NULL, or where x + bias goes; may be x */
    float *y;          /* activation(x + bias); may be x */
    float *copy;       /* NULL, or where y goes too */
    int64_t x_row, pre_row, y_row, copy_row;
};

struct heed_product_vectors {
    /* Whether `small` takes a product of this shape (and does it better than a BLAS). */
    bool (*fits)(int64_t m, int64_t n, int64_t k);
    void (*small)(const struct heed_small_product *product);
    void (*activate)(const struct heed_activate *a);
    /* dz = dy · activation'(kept), kept being what heed_unary_needs() names; n elements. dz may be dy. */
    void (*slope)(heed_activation activation, const float *kept, const float *dy, float *dz, int64_t n);
    /* sum[c] (+)= Σ of column c over all rows of x, in an order that depends on the shape only. */
    void (*column_sums)(const float *x, int64_t x_row, int64_t rows, int64_t columns, float *sum, bool add);
};

HEED_CPU_TABLE(product)

#endif
