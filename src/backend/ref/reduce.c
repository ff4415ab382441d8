/* Reference kernels: sum, mean and maximum over dimensions, and the index of a row's maximum. */
#include "backend/ref/ref.h"

#include <math.h>

/* Of two numbers the larger; NaN wins. */
static double larger(double a, double b) {
    return isnan(a) || a > b ? a : b;
}

static double reduced(const struct heed_reduce_args *args, const struct heed_walk *own,
                      struct heed_walk *repeated) {
    double result = args->op == HEED_REDUCE_OP_MAX ? -INFINITY : 0;
    for (heed_walk_restart(repeated); repeated->more; heed_walk_next(repeated)) {
        double x = heed_ref_load(&args->x, heed_ref_offset(&args->x, own->at) +
                                               heed_ref_offset(&args->x, repeated->at));
        result = args->op == HEED_REDUCE_OP_MAX ? larger(result, x) : result + x;
    }
    return args->op == HEED_REDUCE_OP_MEAN ? result / (double)args->reduced : result;
}

static heed_status reduce_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_reduce_args *args = p;
    struct heed_walk own, repeated;
    for (heed_walk_split(&args->y, &own, &repeated); own.more; heed_walk_next(&own)) {
        heed_ref_put(&args->y, own.at, reduced(args, &own, &repeated));
    }
    return HEED_OK;
}

static double sum_dx(const void *p, const int64_t *at) {
    const struct heed_reduce_args *args = p;
    return heed_ref_get(&args->dy, at);
}

static double mean_dx(const void *p, const int64_t *at) {
    const struct heed_reduce_args *args = p;
    return heed_ref_get(&args->dy, at) / (double)args->reduced;
}

static bool is_maximum(double x, double y) {
    return x == y || (isnan(x) && isnan(y));
}

/* The gradient of a maximum is divided evenly among the elements that equal it. */
static void max_backward(const struct heed_reduce_args *args) {
    const struct heed_view *x = &args->x, *dx = &args->dx.view;
    struct heed_walk own, repeated;
    for (heed_walk_split(&args->y, &own, &repeated); own.more; heed_walk_next(&own)) {
        double y = heed_ref_get(&args->y, own.at), dy = heed_ref_get(&args->dy, own.at);
        int64_t x_start = heed_ref_offset(x, own.at), dx_start = heed_ref_offset(dx, own.at), equal = 0;
        for (heed_walk_restart(&repeated); repeated.more; heed_walk_next(&repeated)) {
            equal += is_maximum(heed_ref_load(x, x_start + heed_ref_offset(x, repeated.at)), y);
        }
        for (heed_walk_restart(&repeated); repeated.more; heed_walk_next(&repeated)) {
            double element = heed_ref_load(x, x_start + heed_ref_offset(x, repeated.at));
            double share = is_maximum(element, y) ? dy / (double)equal : 0;
            heed_ref_contribute(&args->dx, dx_start + heed_ref_offset(dx, repeated.at), share);
        }
    }
}

static heed_status reduce_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_reduce_args *args = p;
    if (!heed_has(&args->dx.view)) return HEED_OK;
    if (args->op == HEED_REDUCE_OP_MAX) {
        max_backward(args);
    } else {
        heed_ref_gradient(&args->dx, args->op == HEED_REDUCE_OP_SUM ? sum_dx : mean_dx, args);
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_reduce = {"ref", NULL, NULL, reduce_forward, reduce_backward};

/* ---- argmax ---- */

static int64_t first_maximum(const struct heed_view *x, int64_t row) {
    int64_t best = 0;
    for (int64_t i = 0; i < x->size[1]; i++) {
        double value = heed_ref_get2(x, row, i);
        if (isnan(value)) return i;
        if (value > heed_ref_get2(x, row, best)) best = i;
    }
    return best;
}

static heed_status argmax_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_argmax_args *args = p;
    for (int64_t row = 0; row < args->x.size[0]; row++) {
        heed_ref_store(&args->y, row, (double)first_maximum(&args->x, row));
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_argmax = {"ref", NULL, NULL, argmax_forward, NULL};
