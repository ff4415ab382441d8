/* Losses: one number out. */
#include "autograd/tape.h"

/* ---- cross-entropy ---- */

static heed_status cross_entropy_backward(struct heed_backward *b) {
    struct heed_cross_entropy_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy(b, 0);
    args->dx = heed_dx_rows(b, 0);
    return heed_backward_run(b);
}

static const struct heed_op op_cross_entropy = {"cross_entropy", HEED_PRECISE, cross_entropy_backward, NULL};

static bool check_cross_entropy(struct heed_call *c, const heed_cross_entropy_options *o) {
    char one[128], two[128];
    if (!heed_call_float(c, 0, "logits") || !heed_call_dtype(c, 1, "target", HEED_I32)) return false;
    const struct heed_view *x = &c->input[0]->view, *target = &c->input[1]->view;
    bool fits = x->rank >= 1 && target->rank == x->rank - 1;
    for (int d = 0; fits && d < target->rank; d++) fits = x->size[d] == target->size[d];
    if (!fits)
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                              heed_named_shape("logits", x, one, sizeof one),
                              heed_named_shape("target", target, two, sizeof two));
    if (!o) return true;
    if (!heed_reserved_zero(o->reserved, 4))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if ((unsigned)o->reduction > HEED_REDUCE_SUM)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%d is not a reduction", (int)o->reduction);
    if (!(o->label_smoothing >= 0.0 && o->label_smoothing <= 1.0))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "label smoothing %g is not in 0 to 1",
                              o->label_smoothing);
    return true;
}

heed_tensor heed_cross_entropy(heed_tensor logits, heed_tensor target,
                               const heed_cross_entropy_options *options) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_cross_entropy, NULL, 2, (heed_tensor[]){logits, target}) ||
        !check_cross_entropy(&c, options))
        return heed_call_end(&c);
    struct heed_cross_entropy_args args = {.ignore_index = -100};
    if (options) {
        args.reduction = options->reduction;
        args.smoothing = options->label_smoothing;
        if (options->has_ignore) args.ignore_index = options->ignore_index;
    }
    args.x = heed_call_dense(&c, 0);
    args.target = heed_call_dense(&c, 1);
    args.y = heed_call_output(&c, heed_precise_dtype(args.x.dtype), 0, NULL);
    heed_call_save(&c, &args.x);
    heed_call_save(&c, &args.target);
    if (!c.ok) return heed_call_end(&c);
    args.x = heed_view_rows(&args.x);
    heed_view_reshape(&args.target, 1, args.x.size, &args.target);
    return heed_call_run(&c, HEED_PRIMITIVE_CROSS_ENTROPY, &args, sizeof args);
}

/* ---- losses of pairs ---- */

static heed_status pair_loss_backward(struct heed_backward *b) {
    struct heed_pair_loss_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy(b, 0);
    args->dx = heed_dx(b, 0);
    args->dt = heed_dx(b, 1);
    return heed_backward_run(b);
}

static const struct heed_op op_mse = {"mse", HEED_PRECISE, pair_loss_backward, NULL};
static const struct heed_op op_bce = {"bce_with_logits", HEED_PRECISE, pair_loss_backward, NULL};

static heed_tensor pair_loss(const struct heed_op *op, heed_tensor x, heed_tensor target,
                             heed_reduction reduction) {
    struct heed_call c;
    char one[128], two[128];
    if (!heed_call_begin(&c, op, NULL, 2, (heed_tensor[]){x, target}) || !heed_call_float(&c, 0, "x") ||
        !heed_call_float(&c, 1, "target"))
        return heed_call_end(&c);
    struct heed_pair_loss_args args = {.bce = op == &op_bce, .reduction = reduction};
    args.x = heed_call_dense(&c, 0);
    args.t = heed_call_dense(&c, 1);
    if (c.ok && !heed_view_same_shape(&args.x, &args.t))
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("x", &args.x, one, sizeof one),
                       heed_named_shape("target", &args.t, two, sizeof two));
    if (c.ok && (unsigned)reduction > HEED_REDUCE_SUM)
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "%d is not a reduction", (int)reduction);
    args.y = heed_call_output(&c, heed_precise_dtype(args.x.dtype), 0, NULL);
    heed_call_save(&c, &args.x);
    heed_call_save(&c, &args.t);
    return heed_call_run(&c, HEED_PRIMITIVE_PAIR_LOSS, &args, sizeof args);
}

heed_tensor heed_mse(heed_tensor x, heed_tensor target, heed_reduction reduction) {
    return pair_loss(&op_mse, x, target, reduction);
}

heed_tensor heed_bce_with_logits(heed_tensor logits, heed_tensor target, heed_reduction reduction) {
    return pair_loss(&op_bce, logits, target, reduction);
}
