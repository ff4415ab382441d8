/* Reference kernel: softmax of rows, or its logarithm. */
#include "backend/ref/ref.h"

#include <math.h>

/* ---- softmax ---- */

/* NaN wins. −∞ for a row without elements. */
static double row_maximum(const struct heed_view *x, int64_t row) {
    double maximum = -INFINITY;
    for (int64_t i = 0; i < x->size[1]; i++) {
        double value = heed_ref_get2(x, row, i);
        if (isnan(value) || value > maximum) maximum = value;
        if (isnan(value)) break;
    }
    return maximum;
}

static void softmax_row(const struct heed_softmax_args *args, int64_t row) {
    double maximum = row_maximum(&args->x, row), sum = 0;
    bool empty = maximum == -INFINITY;
    for (int64_t i = 0; i < args->x.size[1] && !empty; i++)
        sum += exp(heed_ref_get2(&args->x, row, i) - maximum);
    for (int64_t i = 0; i < args->x.size[1]; i++) {
        double shifted = heed_ref_get2(&args->x, row, i) - maximum;
        double value = args->log ? shifted - log(sum) : exp(shifted) / sum;
        if (empty) value = args->log ? -INFINITY : 0;
        heed_ref_put2(&args->y, row, i, value);
    }
}

static heed_status softmax_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_softmax_args *args = p;
    for (int64_t row = 0; row < args->x.size[0]; row++) softmax_row(args, row);
    return HEED_OK;
}

/* A row that was −∞ throughout is known by its output. */
static bool row_was_empty(const struct heed_softmax_args *args, int64_t row) {
    for (int64_t i = 0; i < args->y.size[1]; i++) {
        if (heed_ref_get2(&args->y, row, i) != (args->log ? -INFINITY : 0)) return false;
    }
    return true;
}

/* softmax: dx = y·(dy − Σ y·dy); its logarithm: dx = dy − e^y·Σ dy. */
static void softmax_row_backward(const struct heed_softmax_args *args, int64_t row) {
    bool empty = row_was_empty(args, row);
    int64_t n = args->y.size[1], start = row * args->dx.view.stride[0];
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += heed_ref_get2(&args->dy, row, i) * (args->log ? 1 : heed_ref_get2(&args->y, row, i));
    }
    for (int64_t i = 0; i < n; i++) {
        double y = heed_ref_get2(&args->y, row, i), dy = heed_ref_get2(&args->dy, row, i);
        double dx = args->log ? dy - exp(y) * sum : y * (dy - sum);
        heed_ref_contribute(&args->dx, start + i, empty ? 0 : dx);
    }
}

static heed_status softmax_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_softmax_args *args = p;
    if (!heed_has(&args->dx.view)) return HEED_OK;
    for (int64_t row = 0; row < args->y.size[0]; row++) softmax_row_backward(args, row);
    return HEED_OK;
}

const struct heed_kernel heed_ref_softmax = {"ref", NULL, NULL, softmax_forward, softmax_backward};
