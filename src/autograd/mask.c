/* Masks: small immutable objects that say who may attend to whom. Making them, and joining them. */
#include "autograd/mask.h"

/* ---- making ---- */

static void mask_destroy(struct heed_object *object) {
    heed_mask *mask = (heed_mask *)object;
    heed_object_drop(mask->a);
    heed_object_drop(mask->b);
}

bool heed_mask_enter(heed_ctx *ctx) {
    return ctx && !ctx->broken && heed_enter(ctx);
}

static heed_mask refused; /* dead, without context; never written to */

heed_mask *heed_mask_refused(void) {
    return &refused;
}

heed_mask *heed_mask_made(heed_ctx *ctx, heed_mask *mask) {
    heed_leave(ctx);
    return mask ? mask : &refused;
}

void heed_mask_fail_dead(heed_ctx *ctx, const char *where, const heed_mask *mask) {
    if (mask == &refused)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a mask is the result of a call that failed");
    else
        heed_fail(ctx, HEED_ERROR_STALE, where, "a mask is used after its scope ended");
}

heed_mask *heed_mask_new(heed_ctx *ctx, const struct heed_mask_form *form) {
    if (ctx->status != HEED_OK) return NULL;
    heed_mask *mask = heed_object_new(ctx, HEED_OBJECT_MASK, sizeof *mask, mask_destroy);
    if (!mask) return NULL;
    mask->form = form;
    mask->bound.kind = form->kind;
    mask->parts = 1;
    mask->tensors = form->tensors;
    return mask;
}

static bool check_tensor(heed_ctx *ctx, const char *where, heed_tensor t, heed_dtype dtype) {
    struct heed_node *node = heed_node_of(t, where);
    if (!node)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a tensor is missing or the result of a failed operation");
    else if (node->ctx != ctx)
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the tensors belong to different contexts");
    else if (node->view.dtype != dtype)
        heed_fail(ctx, HEED_ERROR_DTYPE, where, "the tensor is %s, not %s", heed_dtype_name(node->view.dtype),
                  heed_dtype_name(dtype));
    return ctx->status == HEED_OK;
}

heed_mask *heed_mask_of_tensors(const char *where, const struct heed_mask_form *form,
                                const heed_tensor *tensor, const int64_t *number) {
    heed_ctx *ctx = heed_ctx_of(tensor[0]);
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    bool ok = true;
    for (int i = 0; ok && i < form->tensors; i++) ok = check_tensor(ctx, where, tensor[i], form->dtype);
    heed_mask *mask = ok ? heed_mask_new(ctx, form) : NULL;
    for (int i = 0; mask && i < form->tensors; i++) mask->tensor[i] = tensor[i];
    for (int i = 0; mask && number && i < HEED_MASK_NUMBERS; i++) mask->bound.number[i] = number[i];
    return heed_mask_made(ctx, mask);
}

bool heed_mask_aligned(heed_ctx *ctx, const char *where, heed_align align) {
    if (align == HEED_TOP_LEFT || align == HEED_BOTTOM_RIGHT) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not an alignment", (int)align);
    return false;
}

/* ---- joining ---- */

static heed_mask *join(heed_ctx *ctx, const char *where, const struct heed_mask_form *form, heed_mask *a,
                       heed_mask *b) {
    if (!heed_object_is(a, HEED_OBJECT_MASK) || (b && !heed_object_is(b, HEED_OBJECT_MASK))) {
        heed_mask_fail_dead(ctx, where, heed_object_is(a, HEED_OBJECT_MASK) ? b : a);
        return NULL;
    }
    if (b && b->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the masks belong to different contexts");
        return NULL;
    }
    const int parts = 1 + a->parts + (b ? b->parts : 0), tensors = a->tensors + (b ? b->tensors : 0);
    if (parts > HEED_MAX_MASKS || tensors > HEED_MAX_MASK_TENSORS) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a mask has at most %d parts and %d tensors",
                  HEED_MAX_MASKS, HEED_MAX_MASK_TENSORS);
        return NULL;
    }
    heed_mask *mask = heed_mask_new(ctx, form);
    if (!mask) return NULL;
    mask->a = a;
    mask->b = b;
    mask->parts = parts;
    mask->tensors = tensors;
    heed_object_ref(a);
    if (b) heed_object_ref(b);
    return mask;
}

static heed_mask *join_two(const char *where, const struct heed_mask_form *form, heed_mask *a, heed_mask *b) {
    heed_ctx *ctx = a->base.ctx;
    if (a == &refused) return a;
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = join(ctx, where, form, a, b);
    return heed_mask_made(ctx, mask);
}

static void describe_two(struct heed_mask_text *text, const heed_mask *mask, const char *word) {
    heed_mask_say_operand(text, mask->a, mask->form);
    heed_mask_say(text, " %s ", word);
    heed_mask_say_operand(text, mask->b, mask->form);
}

static void describe_and(struct heed_mask_text *text, const heed_mask *mask) {
    describe_two(text, mask, "∧");
}

static void describe_or(struct heed_mask_text *text, const heed_mask *mask) {
    describe_two(text, mask, "∨");
}

static void describe_not(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "¬");
    heed_mask_say_operand(text, mask->a, mask->form);
}

static const struct heed_mask_form form_and = {.kind = &heed_mask_kind_and, .describe = describe_and};
static const struct heed_mask_form form_or = {.kind = &heed_mask_kind_or, .describe = describe_or};
static const struct heed_mask_form form_not = {.kind = &heed_mask_kind_not, .describe = describe_not};

heed_mask *heed_mask_and(heed_mask *a, heed_mask *b) {
    return a && b ? join_two("mask_and", &form_and, a, b) : a ? a : b;
}

heed_mask *heed_mask_or(heed_mask *a, heed_mask *b) {
    if (a && b) return join_two("mask_or", &form_or, a, b);
    return a == &refused || b == &refused ? &refused : NULL;
}

heed_mask *heed_mask_not(heed_mask *a) {
    return a ? join_two("mask_not", &form_not, a, NULL) : &refused;
}
