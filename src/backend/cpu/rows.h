/* The inner loops of kernels that treat each row of a matrix [rows, n] by itself. */
#ifndef HEED_SRC_BACKEND_CPU_ROWS_H
#define HEED_SRC_BACKEND_CPU_ROWS_H

#include "backend/cpu/cpu.h"

/* ---- softmax ---- */

struct heed_softmax_vectors {
    void (*forward)(bool log, int64_t rows, int64_t n, const float *x, float *y);
    void (*backward)(bool log, int64_t rows, int64_t n, const float *y, const float *dy, bool add, float *dx);
};
HEED_CPU_TABLE(softmax)

/* ---- norms ---- */

/* Of a row: mean (0 for RMS) and reciprocal standard deviation (or root of the mean square). */
struct heed_norm_statistics {
    float mean, rstd;
};

/* Rows of n elements, `row` elements apart. */
struct heed_norm_rows {
    bool rms;
    float eps;
    int64_t count, n, row;
    const float *x, *weight, *bias;          /* weight and bias may be NULL */
    struct heed_norm_statistics *statistics; /* one each; may be NULL in forward */
};

/* Of those rows. dy is contiguous; dx, dweight and dbias may be NULL. */
struct heed_norm_gradients {
    const float *dy,
        *before; /* before: what is added to dx, in rows as those of dx, which it may be, or NULL */
    float *dx;
    int64_t dx_row;
    bool sum; /* whether dweight and dbias are added to or overwritten with the sums over these rows */
    float *dweight, *dbias;
};

struct heed_norm_vectors {
    void (*forward)(const struct heed_norm_rows *rows, float *y);
    void (*backward)(const struct heed_norm_rows *rows, const struct heed_norm_gradients *gradients);
};
HEED_CPU_TABLE(norm)

/* ---- losses and arg max ---- */

/* Of a row: its maximum (NaN is passed over), Σ e^(x − maximum) and Σ (x − maximum). A row of −∞ has maximum
 * −∞ and sum 0. */
struct heed_logits {
    float maximum, sum, shifted;
};

struct heed_loss_vectors {
    struct heed_logits (*look)(int64_t n, const float *x);
    /* dx[c] = e^(x[c] − maximum)·factor − base, or added. */
    void (*cross_entropy_back)(int64_t n, const float *x, float maximum, float factor, float base, bool add,
                               float *dx);
    /* Σ of the losses of n pairs. */
    double (*squares)(int64_t n, const float *x, const float *t);
    double (*logistic)(int64_t n, const float *x, const float *t);
    /* sigmoid(x) − t, to map. */
    void (*logistic_back)(const void *self, int64_t n, const void *const *in, const int *step, void *out);
    /* The first index of the maximum; the first NaN wins. n ≥ 1. */
    int64_t (*argmax)(int64_t n, const float *x);
};
HEED_CPU_TABLE(loss)

#endif
