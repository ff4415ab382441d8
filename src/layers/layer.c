/* What the layers share. */
#include "layers/layer.h"

#include <math.h>

bool heed_layer_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...) {
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    heed_error_set(ctx, status, where, message);
    return false;
}

bool heed_layer_begin(heed_ctx *ctx, const char *where, const void *options, const uint64_t *reserved,
                      size_t words) {
    if (heed_failed(ctx)) return false;
    if (!options) return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "options must be given");
    if (!heed_reserved_zero(reserved, words))
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    return true;
}

bool heed_layer_positive(heed_ctx *ctx, const char *where, const char *name, int64_t value) {
    return value >= 1 || heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s %lld is not at least 1", name,
                                         (long long)value);
}

bool heed_layer_not_negative(heed_ctx *ctx, const char *where, const char *name, double value) {
    return (value >= 0 && isfinite(value)) ||
           heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s %g is not a number of at least 0", name,
                           value);
}

bool heed_layer_probability(heed_ctx *ctx, const char *where, const char *name, double value) {
    return (value >= 0 && value < 1) ||
           heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s %g is not in [0, 1)", name, value);
}

bool heed_layer_divides(heed_ctx *ctx, const char *where, const char *name, int64_t value, const char *of,
                        int64_t whole) {
    return whole % value == 0 ||
           heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s %lld does not divide %s %lld", name,
                           (long long)value, of, (long long)whole);
}

bool heed_layer_activation(heed_ctx *ctx, const char *where, heed_activation activation) {
    int number = (int)activation;
    return (number >= HEED_ACTIVATION_NONE && number <= HEED_ACTIVATION_SIGMOID) ||
           heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not an activation", number);
}

/* ---- memory ---- */

/* The node of a live tensor that the innermost scope owns, else NULL. */
static struct heed_node *of_this_scope(heed_ctx *ctx, heed_tensor t) {
    struct heed_node *node = t.node;
    if (!node || node->serial != t.serial || node->flags & HEED_NODE_INERT) return NULL;
    return node->ctx == ctx && node->scope == ctx->scope ? node : NULL;
}

enum { MOST_OTHERS = 4 };

heed_tensor heed_scope_end_with(heed_ctx *ctx, heed_tensor result, int others,
                                const heed_tensor *const *other) {
    struct heed_node *kept[MOST_OTHERS] = {NULL};
    const bool inside = others <= MOST_OTHERS && heed_enter(ctx);
    for (int i = 0; inside && i < others; i++) {
        if (!other[i] || other[i]->node == result.node) continue;
        kept[i] = of_this_scope(ctx, *other[i]);
        if (kept[i]) heed_node_take_from_scope(kept[i]);
    }
    result = heed_scope_end(ctx, result);
    for (int i = 0; inside && i < others; i++)
        if (kept[i]) heed_node_give_to_scope(kept[i]);
    if (inside) heed_leave(ctx);
    return result;
}

heed_tensor heed_scope_end_two(heed_ctx *ctx, heed_tensor result, const heed_tensor *also) {
    return heed_scope_end_with(ctx, result, 1, &also);
}

void heed_layer_retire(heed_ctx *ctx, heed_tensor t) {
    struct heed_node *node = t.node;
    if (!node || node->flags & HEED_NODE_INERT || node->ctx != ctx || !heed_enter(ctx)) return;
    if (node->serial == t.serial && node->scope) heed_node_retire(node);
    heed_leave(ctx);
}

void heed_layer_replace(heed_ctx *ctx, heed_tensor old, heed_tensor next) {
    if (old.node == next.node || !heed_enter(ctx)) return;
    struct heed_node *node = of_this_scope(ctx, old);
    if (node) heed_node_retire(node);
    heed_leave(ctx);
}
