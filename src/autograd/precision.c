/* Mixed precision: in which dtype an operation takes its inputs and gives its result.
 *
 * Parameters stay f32 (the masters), and so do their gradients. A matrix product reads f32 inputs as bf16: of
 * a model's own storage a copy is kept as long as that is not written to; anything else is converted for the
 * call. The tape knows nothing of such copies: an input is still the f32 tensor, whose gradient the kernel
 * writes in f32. What follows its inputs takes parameters as they are and rounds its result. */
#include "autograd/tape.h"

/* ---- what inputs are read as ---- */

static heed_status convert(heed_ctx *ctx, const struct heed_view *x, const struct heed_view *y) {
    struct heed_copy_args copy = {.x = *x, .y.view = *y};
    return heed_exec_run(&ctx->exec, HEED_PRIMITIVE_COPY, &copy);
}

/* The bf16 copy of a storage of f32, made again if that was written to. NULL after an error. */
static struct heed_storage *copy_of(heed_ctx *ctx, struct heed_storage *storage) {
    const int64_t count = (int64_t)(storage->bytes / sizeof(float));
    const struct heed_view master = {storage->data, HEED_F32, 1, {count}, {1}};
    if (storage->low && storage->low_version == storage->version) return storage->low;
    if (!storage->low) storage->low = heed_storage_new(ctx, (size_t)count * heed_dtype_bytes(HEED_BF16));
    if (!storage->low) return NULL;
    const struct heed_view low = {storage->low->data, HEED_BF16, 1, {count}, {1}};
    storage->low_version = storage->version;
    if (convert(ctx, &master, &low) == HEED_OK) return storage->low;
    heed_storage_drop(storage->low);
    return storage->low = NULL;
}

/* Part of a model: the same part of its copy, laid out alike, so that what lies side by side still does. */
static bool read_copy(struct heed_call *c, const struct heed_node *node, struct heed_view *v) {
    struct heed_storage *low = c->temps < HEED_MAX_SAVED ? copy_of(c->ctx, node->storage) : NULL;
    if (!low) return false;
    const size_t place = (size_t)((const char *)v->data - (const char *)node->storage->data);
    heed_storage_ref(low);
    c->temp[c->temps++] = low;
    v->dtype = HEED_BF16;
    v->data = (char *)low->data + place / sizeof(float) * heed_dtype_bytes(HEED_BF16);
    return true;
}

/* Anything else: contiguous, but what repeats still does. */
static bool read_converted(struct heed_call *c, struct heed_view *v) {
    struct heed_view x = *v;
    for (int d = 0; d < x.rank; d++)
        if (x.stride[d] == 0 && x.size[d] > 1) x.size[d] = 1;
    const struct heed_view y = heed_call_temp(c, HEED_BF16, x.rank, x.size);
    if (!c->ok || convert(c->ctx, &x, &y) != HEED_OK) return false;
    for (int d = 0; d < x.rank; d++) v->stride[d] = x.size[d] == v->size[d] ? y.stride[d] : 0;
    v->dtype = HEED_BF16;
    v->data = y.data;
    return true;
}

static void lower_input(struct heed_call *c, int i) {
    const struct heed_node *node = c->input[i];
    for (int j = 0; j < c->lowered; j++)
        if (c->input[c->low[j].input] == node) {
            c->low[c->lowered] = c->low[j];
            c->low[c->lowered++].input = i;
            return;
        }
    struct heed_view v = node->view;
    if (node->storage->of_model ? read_copy(c, node, &v) : read_converted(c, &v)) {
        c->low[c->lowered].input = i;
        c->low[c->lowered++].view = v;
    } else {
        c->ok = false;
    }
}

/* How many of the inputs the op's class is about. */
static int operands(const struct heed_call *c) {
    const int some = c->op->operands;
    return some && some < c->inputs ? some : c->inputs;
}

void heed_call_lower(struct heed_call *c) {
    if (!heed_is_mixed(c->ctx) || c->op->precision != HEED_PRODUCT) return;
    for (int i = 0; c->ok && i < operands(c); i++)
        if (c->input[i] && c->input[i]->view.dtype == HEED_F32) lower_input(c, i);
}

/* ---- what comes of it ---- */

static bool is_f32_or_bf16(heed_dtype dtype) {
    return dtype == HEED_F32 || dtype == HEED_BF16;
}

heed_dtype heed_precise_dtype(heed_dtype dtype) {
    return dtype == HEED_BF16 ? HEED_F32 : dtype;
}

heed_dtype heed_rounded_dtype(const heed_ctx *ctx, heed_dtype dtype) {
    return heed_is_mixed(ctx) && is_f32_or_bf16(dtype) ? HEED_BF16 : dtype;
}

/* That of the first floating-point input. */
static heed_dtype first_dtype(struct heed_call *c) {
    for (int i = 0; i < c->inputs; i++) {
        const struct heed_view v = heed_call_view(c, i);
        if (heed_has(&v) && heed_is_float(v.dtype)) return v.dtype;
    }
    return HEED_F32;
}

/* The widest among the operands that are not a model's own, if there are such. */
static heed_dtype followed_dtype(struct heed_call *c) {
    bool found = false;
    for (int i = 0; i < operands(c); i++) {
        const struct heed_node *node = c->input[i];
        if (!node || !is_f32_or_bf16(node->view.dtype) || (node->storage && node->storage->of_model))
            continue;
        if (node->view.dtype == HEED_F32) return HEED_F32;
        found = true;
    }
    return found ? HEED_BF16 : first_dtype(c);
}

heed_dtype heed_call_result_dtype(struct heed_call *c) {
    const heed_dtype first = first_dtype(c);
    if (!heed_is_mixed(c->ctx) || !is_f32_or_bf16(first)) return first;
    switch (c->op->precision) {
    case HEED_FOLLOWS:
        return followed_dtype(c);
    case HEED_PRODUCT:
        break;
    case HEED_ROUNDED:
        return heed_rounded_dtype(c->ctx, first);
    case HEED_PRECISE:
        return HEED_F32;
    }
    return first;
}
