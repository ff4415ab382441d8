/* Reference kernels of the optimisers: the norm of all gradients, and one step of every item. */
#include "backend/ref/ref.h"

#include <math.h>

/* ---- the norm ---- */

/* Scaled, then clamped; NaN stays. */
static double limited(const struct heed_grad_norm_args *args, double g) {
    if (args->scale != 1) g *= args->scale;
    if (args->clamp > 0 && g > args->clamp) return args->clamp;
    if (args->clamp > 0 && g < -args->clamp) return -args->clamp;
    return g;
}

static heed_status grad_norm_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_grad_norm_args *args = p;
    double squares = 0;
    int64_t first_bad = -1;
    for (int64_t item = 0; item < args->items; item++) {
        struct heed_view grad = {args->item[item].grad, args->dtype, 0, {0}, {0}};
        for (int64_t i = 0; i < args->item[item].count; i++) {
            heed_ref_store(&grad, i, limited(args, heed_ref_load(&grad, i)));
            double g = heed_ref_load(&grad, i);
            squares += g * g;
            if (!isfinite(g) && first_bad < 0) first_bad = item;
        }
    }
    return heed_grad_norm_found(args, sqrt(squares), first_bad);
}

const struct heed_kernel heed_ref_grad_norm = {"ref", NULL, NULL, grad_norm_forward, NULL};

/* ---- the step ---- */

/* The elements of an item. */
struct element {
    struct heed_view param, grad, moment1, moment2;
    double grad_scale;
    int64_t i;
};

static void update_sgd(const struct heed_update_args *args, const struct heed_param_item *item,
                       const struct element *e) {
    double p = heed_ref_load(&e->param, e->i);
    double g = heed_ref_load(&e->grad, e->i) * e->grad_scale + item->decay * p;
    if (heed_has(&e->moment1)) {
        double m = args->step == 1 ? g : args->momentum * heed_ref_load(&e->moment1, e->i) + g;
        heed_ref_store(&e->moment1, e->i, m);
        g = args->nesterov ? g + args->momentum * m : m;
    }
    heed_ref_store(&e->param, e->i, p - item->rate * g);
}

static void update_adam(const struct heed_update_args *args, const struct heed_param_item *item,
                        const struct element *e) {
    double p = heed_ref_load(&e->param, e->i), g = heed_ref_load(&e->grad, e->i) * e->grad_scale;
    if (args->kind == HEED_UPDATE_ADAM) {
        g += item->decay * p;
    } else {
        p -= item->rate * item->decay * p;
    }
    double m = args->beta1 * heed_ref_load(&e->moment1, e->i) + (1 - args->beta1) * g;
    double v = args->beta2 * heed_ref_load(&e->moment2, e->i) + (1 - args->beta2) * g * g;
    double correction1 = 1 - pow(args->beta1, (double)args->step);
    double correction2 = 1 - pow(args->beta2, (double)args->step);
    heed_ref_store(&e->moment1, e->i, m);
    heed_ref_store(&e->moment2, e->i, v);
    heed_ref_store(&e->param, e->i, p - item->rate / correction1 * m / (sqrt(v / correction2) + args->eps));
}

static heed_status update_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_update_args *args = p;
    if (!isfinite(args->norm->norm)) return HEED_OK;
    for (const struct heed_param_item *item = args->item; item < args->item + args->items; item++) {
        struct element e = {.param = {item->param, args->dtype, 0, {0}, {0}},
                            .grad = {item->grad, args->dtype, 0, {0}, {0}},
                            .moment1 = {item->moment1, args->dtype, 0, {0}, {0}},
                            .moment2 = {item->moment2, args->dtype, 0, {0}, {0}},
                            .grad_scale = heed_clip_factor(args->norm->norm, args->max_norm)};
        for (e.i = 0; e.i < item->count; e.i++) {
            if (args->kind == HEED_UPDATE_SGD) {
                update_sgd(args, item, &e);
            } else {
                update_adam(args, item, &e);
            }
        }
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_update = {"ref", NULL, NULL, update_forward, NULL};
