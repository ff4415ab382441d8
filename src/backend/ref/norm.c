/* Reference kernel: layer norm (Ba et al. 2016, eq. 3–4) and RMS norm (Zhang & Sennrich 2019, eq. 4) of rows.
 */
#include "backend/ref/ref.h"

#include <math.h>

/* What is saved of each row. */
struct row_statistics {
    double mean; /* 0 for RMS */
    double rstd; /* reciprocal standard deviation, or reciprocal root of the mean square */
};

static void norm_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_norm_args *args = p;
    sizes->saved = (size_t)args->x.size[0] * sizeof(struct row_statistics);
}

static struct row_statistics row_look(const struct heed_norm_args *args, int64_t row) {
    int64_t n = args->x.size[1];
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += heed_ref_get2(&args->x, row, i);
    double mean = args->rms ? 0 : sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double deviation = heed_ref_get2(&args->x, row, i) - mean;
        squares += deviation * deviation;
    }
    return (struct row_statistics){mean, 1 / sqrt(squares / (double)n + args->eps)};
}

static heed_status norm_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)scratch;
    const struct heed_norm_args *args = p;
    struct row_statistics *keep = saved;
    for (int64_t row = 0; row < args->x.size[0]; row++) {
        struct row_statistics s = row_look(args, row);
        if (keep) keep[row] = s;
        for (int64_t i = 0; i < args->x.size[1]; i++) {
            double y = (heed_ref_get2(&args->x, row, i) - s.mean) * s.rstd;
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
    return (heed_ref_get2(&args->x, row, i) - s[row].mean) * s[row].rstd;
}

/* The gradient of x̂. */
static double weighted_dy(const struct heed_norm_args *args, int64_t row, int64_t i) {
    return heed_ref_get2(&args->dy, row, i) * (heed_has(&args->weight) ? heed_ref_load(&args->weight, i) : 1);
}

/* With g = dy·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)); RMS has no mean(g). */
static void row_dx(const struct heed_norm_args *args, const struct row_statistics *s, int64_t row) {
    int64_t n = args->x.size[1], start = row * args->dx.view.stride[0];
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
    int64_t rows = args->x.size[0], n = args->x.size[1];
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
