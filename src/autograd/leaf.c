/* Leaves: asking for gradients, reading and forgetting them. */
#include "autograd/tape.h"

heed_status heed_require_grad(heed_tensor leaf, bool wanted) {
    heed_ctx *ctx = heed_ctx_of(leaf);
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    struct heed_node *node = heed_node_of(leaf, "require_grad");
    if (ctx->status != HEED_OK) {
        node = NULL;
    } else if (!node) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "require_grad",
                  "the tensor is the result of an operation that failed");
    } else if (node->producer) {
        heed_fail(ctx, HEED_ERROR_GRADIENT, "require_grad", "the tensor is not a leaf: %s made it",
                  node->producer->op->name);
    } else if (!heed_is_float(node->view.dtype)) {
        heed_fail(ctx, HEED_ERROR_DTYPE, "require_grad", "%s tensors have no gradient",
                  heed_dtype_name(node->view.dtype));
    } else if (wanted) {
        node->flags |= HEED_NODE_WANTS_GRAD;
    } else {
        node->flags &= ~(unsigned)HEED_NODE_WANTS_GRAD;
    }
    heed_leave(ctx);
    return heed_error_status(ctx);
}

bool heed_requires_grad(heed_tensor t) {
    return heed_is_valid(t) && heed_node_requires_grad(t.node);
}

heed_tensor heed_grad(heed_tensor leaf) {
    static const struct heed_op op = {"grad", HEED_FOLLOWS, NULL, "it is a gradient itself"};
    struct heed_call c;
    if (!heed_call_begin(&c, &op, NULL, 1, &leaf)) return heed_call_end(&c);
    struct heed_node *node = c.input[0];
    c.record = false;
    if (!node || !heed_grad_is_full(node)) {
        heed_call_end(&c);
        return (heed_tensor){0};
    }
    struct heed_node *view = heed_node_view(c.ctx, node->grad_storage, &node->grad);
    if (view)
        c.output[c.outputs++] = view;
    else
        c.ok = false;
    return heed_call_end(&c);
}

void heed_grad_clear(heed_tensor leaf) {
    heed_ctx *ctx = heed_ctx_of(leaf);
    if (ctx->broken || !heed_enter(ctx)) return;
    struct heed_node *node = heed_node_of(leaf, "grad_clear");
    if (node) node->flags &= ~(unsigned)HEED_NODE_GRAD_FULL;
    heed_leave(ctx);
}
