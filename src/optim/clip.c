/* Norms of gradients, and clipping. */
#include "optim/optim.h"

#include <math.h>

bool heed_grad_item(heed_tensor param, struct heed_param_item *item) {
    struct heed_node *node = param.node;
    if (node->serial != param.serial || !(node->flags & HEED_NODE_WANTS_GRAD) || !heed_grad_is_full(node))
        return false;
    *item = (struct heed_param_item){
        .count = heed_view_count(&node->view), .param = node->view.data, .grad = node->grad.data};
    return true;
}

/* ---- all gradients below a module ---- */

struct gather {
    struct heed_param_item *item;
    int64_t items;
};

static bool gather_item(void *arg, const char *name, heed_tensor param) {
    struct gather *g = arg;
    (void)name;
    if (heed_grad_item(param, &g->item[g->items])) g->items++;
    return true;
}

/* Waits for the norm. NaN after an error. */
static double norm_of(heed_ctx *ctx, const struct gather *g, double clamp, double scale,
                      struct heed_grad_norm *result) {
    const struct heed_grad_norm_args args = {.dtype = HEED_F32,
                                             .items = g->items,
                                             .item = g->item,
                                             .clamp = clamp,
                                             .scale = scale,
                                             .result = result};
    struct heed_grad_norm found;
    if (heed_exec_run(&ctx->exec, HEED_PRIMITIVE_GRAD_NORM, &args) != HEED_OK) return NAN;
    return heed_elements_read(&ctx->exec, &found, result, sizeof found) == HEED_OK ? found.norm : NAN;
}

/* The norm after clamping; clipped to max_norm. NaN after an error. */
static double clip(heed_module *module, double clamp, double max_norm) {
    heed_ctx *ctx = module->ctx;
    size_t tensors = (size_t)heed_param_tensors(module);
    struct gather g = {.item = heed_block_new(ctx->exec.memory, tensors * sizeof *g.item)};
    struct heed_grad_norm *result = heed_block_new(ctx->exec.elements, sizeof *result);
    double norm = NAN;
    if (g.item && result) {
        heed_param_walk(module, gather_item, &g);
        norm = norm_of(ctx, &g, clamp, 1, result);
        double factor = heed_clip_factor(norm, max_norm);
        if (isfinite(norm) && factor < 1 && isnan(norm_of(ctx, &g, 0, factor, result))) norm = NAN;
    } else {
        heed_fail(ctx, HEED_ERROR_MEMORY, "clip_grad", "out of memory");
    }
    heed_block_free(ctx->exec.memory, g.item);
    heed_block_free(ctx->exec.elements, result);
    return norm;
}

static double clip_inside(heed_module *module, double clamp, double max_norm) {
    heed_ctx *ctx = heed_module_ctx(module);
    if (heed_failed(ctx) || !module->ctx || !heed_enter(ctx)) return NAN;
    double norm = clip(module, clamp, max_norm);
    heed_leave(ctx);
    return norm;
}

double heed_clip_grad_norm(heed_module *module, double max_norm) {
    if (isnan(max_norm))
        heed_error_set(heed_module_ctx(module), HEED_ERROR_ARGUMENT, "clip_grad_norm",
                       "max_norm is not a number");
    return clip_inside(module, 0, max_norm);
}

heed_status heed_clip_grad_value(heed_module *module, double max_value) {
    heed_ctx *ctx = heed_module_ctx(module);
    if (!(max_value > 0))
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, "clip_grad_value", "max_value is not greater than 0");
    clip_inside(module, max_value, 0);
    return heed_error_status(ctx);
}
