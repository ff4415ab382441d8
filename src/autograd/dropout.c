/* Dropout: the mask is a function of the place in the random stream and is computed again in backward; so is
 * the result, if what it was made of can be. */
#include "autograd/tape.h"

static heed_status dropout_backward(struct heed_backward *b) {
    struct heed_dropout_args *args = b->args;
    if (b->entry->moves == 0) args->x.data = NULL; /* otherwise it is what y is made of again */
    args->y.data = NULL;
    args->dy = heed_dy_dense(b, 0);
    args->dx = heed_dx(b, 0);
    return heed_backward_run(b);
}

static const struct heed_op op_dropout = {"dropout", HEED_FOLLOWS, dropout_backward, NULL};

heed_tensor heed_dropout(heed_tensor x, double p) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_dropout, NULL, 1, &x) || !heed_call_float(&c, 0, "x"))
        return heed_call_end(&c);
    if (!(p >= 0.0 && p < 1.0)) {
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "probability %g is not in [0, 1)", p);
        return heed_call_end(&c);
    }
    if (p == 0.0 || !(c.ctx->flags & HEED_RANDOM)) {
        heed_call_end(&c);
        return x;
    }
    struct heed_dropout_args args = {.threshold = heed_keep_threshold(p), .random = heed_random_next(c.ctx)};
    args.x = heed_call_dense(&c, 0);
    args.y = heed_call_output(&c, args.x.dtype, args.x.rank, args.x.size);
    if (heed_call_is_remade(&c, 0)) {
        heed_call_save_view(&c, &args.x);
        heed_call_can_remake(&c, &args.y);
    }
    return heed_call_run(&c, HEED_PRIMITIVE_DROPOUT, &args, sizeof args);
}
