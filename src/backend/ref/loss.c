/* Reference kernels: cross-entropy of rows, mean squared error, binary cross-entropy; where backward begins.
 */
#include "backend/ref/ref.h"

#include <math.h>

#include "backend/unary.h"

/* What Σ is multiplied with. */
static double reduction_factor(heed_reduction reduction, int64_t terms) {
    return reduction == HEED_REDUCE_MEAN && terms > 0 ? 1 / (double)terms : 1;
}

/* ---- cross-entropy ---- */

static int64_t target_of(const struct heed_cross_entropy_args *args, int64_t row) {
    return ((const int32_t *)args->target.data)[row];
}

static bool row_counts(const struct heed_cross_entropy_args *args, int64_t row) {
    return target_of(args, row) != args->ignore_index;
}

static int64_t rows_that_count(const struct heed_cross_entropy_args *args) {
    int64_t count = 0;
    for (int64_t row = 0; row < args->x.size[0]; row++) count += row_counts(args, row);
    return count;
}

/* log softmax(x)[class] = x[class] − maximum − log_sum. A row of −∞ throughout has maximum −∞. */
struct row_normaliser {
    double maximum, log_sum;
};

static struct row_normaliser row_normaliser(const struct heed_view *x, int64_t row) {
    struct row_normaliser n = {-INFINITY, 0};
    double sum = 0;
    for (int64_t c = 0; c < x->size[1] && !isnan(n.maximum); c++) {
        double value = heed_ref_get2(x, row, c);
        if (isnan(value) || value > n.maximum) n.maximum = value;
    }
    if (n.maximum == -INFINITY) return n;
    for (int64_t c = 0; c < x->size[1]; c++) sum += exp(heed_ref_get2(x, row, c) - n.maximum);
    n.log_sum = log(sum);
    return n;
}

static double log_probability(const struct heed_cross_entropy_args *args, const struct row_normaliser *n,
                              int64_t row, int64_t class) {
    if (n->maximum == -INFINITY) return -INFINITY;
    return heed_ref_get2(&args->x, row, class) - n->maximum - n->log_sum;
}

/* The wanted distribution q. */
static double wanted(const struct heed_cross_entropy_args *args, int64_t row, int64_t class) {
    double q = args->smoothing / (double)args->x.size[1];
    return class == target_of(args, row) ? q + 1 - args->smoothing : q;
}

static double row_loss(const struct heed_cross_entropy_args *args, int64_t row) {
    struct row_normaliser n = row_normaliser(&args->x, row);
    double loss = 0;
    for (int64_t c = 0; c < args->x.size[1]; c++) {
        double q = wanted(args, row, c);
        if (q != 0) loss -= q * log_probability(args, &n, row, c); /* 0·−∞ must be 0 */
    }
    return loss;
}

static heed_status cross_entropy_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)saved, (void)scratch;
    const struct heed_cross_entropy_args *args = p;
    int64_t classes = args->x.size[1];
    double sum = 0;
    for (int64_t row = 0; row < args->x.size[0]; row++) {
        if (!row_counts(args, row)) continue;
        int64_t target = target_of(args, row);
        if (target < 0 || target >= classes) {
            return heed_exec_fail(exec, HEED_ERROR_ARGUMENT, HEED_PRIMITIVE_CROSS_ENTROPY,
                                  "target %lld of row %lld is not in 0 to %lld", (long long)target,
                                  (long long)row, (long long)classes - 1);
        }
        sum += row_loss(args, row);
    }
    heed_ref_store(&args->y, 0, sum * reduction_factor(args->reduction, rows_that_count(args)));
    return HEED_OK;
}

/* dx = dy·factor·(softmax(x) − q); rows that do not count, or are −∞ throughout, get 0. */
static heed_status cross_entropy_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_cross_entropy_args *args = p;
    if (!heed_has(&args->dx.view)) return HEED_OK;
    double dy = heed_ref_load(&args->dy, 0) * reduction_factor(args->reduction, rows_that_count(args));
    for (int64_t row = 0; row < args->x.size[0]; row++) {
        bool counts = row_counts(args, row);
        struct row_normaliser n = row_normaliser(&args->x, row);
        for (int64_t c = 0; c < args->x.size[1]; c++) {
            double dx = 0;
            if (counts && n.maximum != -INFINITY) {
                dx = dy * (exp(log_probability(args, &n, row, c)) - wanted(args, row, c));
            }
            heed_ref_contribute(&args->dx, row * args->dx.view.stride[0] + c, dx);
        }
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_cross_entropy = {"ref", NULL, NULL, cross_entropy_forward,
                                                   cross_entropy_backward};

/* ---- losses of pairs ---- */

static double pair_loss(bool bce, double x, double t) {
    if (bce) return fmax(x, 0) - x * t + log1p(exp(-fabs(x)));
    return (x - t) * (x - t);
}

static heed_status pair_loss_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_pair_loss_args *args = p;
    int64_t count = heed_view_count(&args->x);
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += pair_loss(args->bce, heed_ref_load(&args->x, i), heed_ref_load(&args->t, i));
    }
    heed_ref_store(&args->y, 0, sum * reduction_factor(args->reduction, count));
    return HEED_OK;
}

static heed_status pair_loss_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_pair_loss_args *args = p;
    int64_t count = heed_view_count(&args->x);
    double dy = heed_ref_load(&args->dy, 0) * reduction_factor(args->reduction, count);
    for (int64_t i = 0; i < count; i++) {
        double x = heed_ref_load(&args->x, i), t = heed_ref_load(&args->t, i);
        double dx = args->bce ? heed_unary_value(HEED_UNARY_SIGMOID, 0, x) - t : 2 * (x - t);
        double dt = args->bce ? -x : -dx;
        if (heed_has(&args->dx.view)) heed_ref_contribute(&args->dx, i, dy * dx);
        if (heed_has(&args->dt.view)) heed_ref_contribute(&args->dt, i, dy * dt);
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_pair_loss = {"ref", NULL, NULL, pair_loss_forward, pair_loss_backward};

/* ---- where backward begins ---- */

static heed_status loss_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)saved, (void)scratch;
    const struct heed_loss_args *args = p;
    const double loss = heed_ref_load(&args->loss, 0);
    if (!isfinite(loss))
        return heed_exec_fail(exec, HEED_ERROR_NUMERIC, HEED_PRIMITIVE_LOSS, HEED_LOSS_NOT_FINITE,
                              isnan(loss) ? (double)NAN : loss, (unsigned long long)args->step);
    heed_ref_contribute(&args->dloss, 0, 1);
    return HEED_OK;
}

const struct heed_kernel heed_ref_loss = {"ref", NULL, NULL, loss_forward, NULL};
