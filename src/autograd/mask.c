/* Masks: small immutable objects that say who may attend to whom. */
#include "autograd/score.h"

#include "backend/masks.h"

static void mask_destroy(struct heed_object *object) {
    heed_mask *mask = (heed_mask *)object;
    heed_object_drop(mask->a);
    heed_object_drop(mask->b);
}

static heed_mask *mask_new(heed_ctx *ctx, const struct heed_mask_kind *kind) {
    if (ctx->status != HEED_OK) return NULL;
    heed_mask *mask = heed_object_new(ctx, HEED_OBJECT_MASK, sizeof *mask, mask_destroy);
    if (mask) mask->kind = kind;
    return mask;
}

heed_mask *heed_mask_causal(heed_ctx *ctx, heed_align align) {
    if (!ctx || ctx->broken || !heed_enter(ctx)) return NULL;
    heed_mask *mask = NULL;
    if (align != HEED_TOP_LEFT && align != HEED_BOTTOM_RIGHT)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "mask_causal", "%d is no alignment", (int)align);
    else
        mask = mask_new(ctx, &heed_mask_kind_causal);
    if (mask) mask->align = align;
    heed_leave(ctx);
    return mask;
}

static heed_mask *mask_of_tensor(heed_tensor t, const struct heed_mask_kind *kind, heed_dtype dtype,
                                 const char *where) {
    heed_ctx *ctx = heed_ctx_of(t);
    if (ctx->broken || !heed_enter(ctx)) return NULL;
    heed_mask *mask = NULL;
    struct heed_node *node = heed_node_of(t, where);
    if (!node)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "the tensor is the result of an operation that failed");
    else if (node->view.dtype != dtype)
        heed_fail(ctx, HEED_ERROR_DTYPE, where, "the tensor is %s, not %s", heed_dtype_name(node->view.dtype),
                  heed_dtype_name(dtype));
    else
        mask = mask_new(ctx, kind);
    if (mask) mask->tensor = t;
    heed_leave(ctx);
    return mask;
}

heed_mask *heed_mask_key_lengths(heed_tensor lengths) {
    return mask_of_tensor(lengths, &heed_mask_kind_key_lengths, HEED_I32, "mask_key_lengths");
}

heed_mask *heed_mask_dense(heed_tensor allowed) {
    return mask_of_tensor(allowed, &heed_mask_kind_dense, HEED_BOOL, "mask_dense");
}

static heed_mask *join(heed_ctx *ctx, heed_mask *a, heed_mask *b) {
    if (!heed_object_is(a, HEED_OBJECT_MASK) || !heed_object_is(b, HEED_OBJECT_MASK)) {
        heed_fail(ctx, HEED_ERROR_STALE, "mask_and", "a mask is used after its scope ended");
        return NULL;
    }
    if (b->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, "mask_and", "the masks belong to different contexts");
        return NULL;
    }
    heed_mask *mask = mask_new(ctx, &heed_mask_kind_and);
    if (!mask) return NULL;
    mask->a = a;
    mask->b = b;
    heed_object_ref(a);
    heed_object_ref(b);
    return mask;
}

heed_mask *heed_mask_and(heed_mask *a, heed_mask *b) {
    if (!a || !b) return a ? a : b;
    heed_ctx *ctx = a->base.ctx;
    if (!heed_enter(ctx)) return NULL;
    heed_mask *mask = join(ctx, a, b);
    heed_leave(ctx);
    return mask;
}

size_t heed_mask_describe(const heed_mask *mask, char *text, size_t size) {
    if (!mask || !heed_object_is(mask, HEED_OBJECT_MASK)) {
        int n = snprintf(text, size, "%s", mask ? "ended mask" : "all");
        return n > 0 ? (size_t)n : 0;
    }
    if (mask->kind != &heed_mask_kind_and) {
        const char *corner = mask->align == HEED_BOTTOM_RIGHT ? "causal (bottom-right)" : "causal";
        int n = snprintf(text, size, "%s", mask->kind == &heed_mask_kind_causal ? corner : mask->kind->name);
        return n > 0 ? (size_t)n : 0;
    }
    static const char and[] = " ∧ ";
    size_t used = heed_mask_describe(mask->a, text, size);
    int n = snprintf(used < size ? text + used : NULL, used < size ? size - used : 0, "%s", and);
    used += n > 0 ? (size_t)n : 0;
    return used +
           heed_mask_describe(mask->b, used < size ? text + used : NULL, used < size ? size - used : 0);
}
