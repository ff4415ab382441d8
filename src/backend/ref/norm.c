/* Reference kernel: layer norm (Ba et al. 2016, eq. 3–4) and RMS norm (Zhang & Sennrich 2019, eq. 4) of rows.
 */
#include "backend/ref/ref.h"

#include <math.h>

/* What is saved of each row. */
struct row_statistics {
    double mean; /* 0 for RMS */
    double rstd; /* reciprocal standard deviation, or reciprocal root of the mean square */
};

static int64_t row_length(const struct heed_norm_args *args) {
    return args->x.size[args->x.rank - 1];
}

static int64_t row_count(const struct heed_norm_args *args) {
    int64_t rows = 1;
    for (int d = 0; d + 1 < args->x.rank; d++) rows *= args->x.size[d];
    return rows;
}

/* Where a row of x or dx begins. */
static int64_t row_start(const struct heed_view *v, int64_t row) {
    int64_t start = 0;
    for (int d = v->rank - 2; d >= 0; d--) {
        start += row % v->size[d] * v->stride[d];
        row /= v->size[d];
    }
    return start;
}

static double x_at(const struct heed_norm_args *args, int64_t row, int64_t i) {
    return heed_ref_load(&args->x, row_start(&args->x, row) + i);
}

static void norm_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_norm_args *args = p;
    sizes->saved = (size_t)row_count(args) * sizeof(struct row_statistics);
}

static struct row_statistics row_look(const struct heed_norm_args *args, int64_t row) {
    int64_t n = row_length(args);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x_at(args, row, i);
    double mean = args->rms ? 0 : sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double deviation = x_at(args, row, i) - mean;
        squares += deviation * deviation;
    }
    return (struct row_statistics){mean, 1 / sqrt(squares / (double)n + args->eps)};
}

static heed_status norm_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)scratch;
    const struct heed_norm_args *args = p;
    struct row_statistics *keep = saved;
    for (int64_t row = 0; row < row_count(args); row++) {
        struct row_statistics s = row_look(args, row);
        if (keep) keep[row] = s;
        for (int64_t i = 0; i < row_length(args); i++) {
            double y = (x_at(args, row, i) - s.mean) * s.rstd;
            if (heed_has(&args->weight)) y *= heed_ref_load(&args->weight, i);
            if (heed_has(&args->bias)) y += heed_ref_load(&args->bias, i);
            heed_ref_put2(&args->y, row, i, y);
        }
    }
    return HEED_OK;
}

/* x̂ of one element. */
static double normalised(const struct heed_norm_args *args, const struct row_statistics *s, int64_t row,
                         int64_t i) {
    return (x_at(args, row, i) - s[row].mean) * s[row].rstd;
}

/* The gradient of x̂. */
static double weighted_dy(const struct heed_norm_args *args, int64_t row, int64_t i) {
    return heed_ref_get2(&args->dy, row, i) * (heed_has(&args->weight) ? heed_ref_load(&args->weight, i) : 1);
}

/* With g = dy·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)); RMS has no mean(g). */
static void row_dx(const struct heed_norm_args *args, const struct row_statistics *s, int64_t row) {
    int64_t n = row_length(args), start = row_start(&args->dx.view, row);
    double sum = 0, product = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += weighted_dy(args, row, i);
        product += weighted_dy(args, row, i) * normalised(args, s, row, i);
    }
    double mean = args->rms ? 0 : sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double centred = weighted_dy(args, row, i) - mean - normalised(args, s, row, i) * product / (double)n;
        heed_ref_contribute(&args->dx, start + i, s[row].rstd * centred);
    }
}

static heed_status norm_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)scratch;
    const struct heed_norm_args *args = p;
    const struct row_statistics *s = saved;
    int64_t rows = row_count(args), n = row_length(args);
    for (int64_t row = 0; row < rows && heed_has(&args->dx.view); row++) row_dx(args, s, row);
    for (int64_t i = 0; i < n; i++) {
        double dweight = 0, dbias = 0;
        for (int64_t row = 0; row < rows; row++) {
            double dy = heed_ref_get2(&args->dy, row, i);
            dweight += dy * normalised(args, s, row, i);
            dbias += dy;
        }
        if (heed_has(&args->dweight.view)) heed_ref_contribute(&args->dweight, i, dweight);
        if (heed_has(&args->dbias.view)) heed_ref_contribute(&args->dbias, i, dbias);
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_norm = {"ref", NULL, norm_sizes, norm_forward, norm_backward};
