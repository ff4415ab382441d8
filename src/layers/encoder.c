/* Encoder blocks and stacks. */
#include "layers/block.h"

struct encoder_layer {
    struct heed_part attention, feed_forward;
};

static heed_tensor layer_forward(heed_module *module, heed_tensor x) {
    return heed_encoder_layer_forward(module, x, NULL);
}

static const heed_module_class layer_class = {
    .name = "EncoderLayer", .self_bytes = sizeof(struct encoder_layer), .forward = layer_forward};

heed_module *heed_encoder_layer_make(heed_ctx *ctx, const struct heed_block_plan *plan) {
    heed_module *module = heed_module_new(ctx, &layer_class);
    struct encoder_layer *layer = heed_module_self(module, &layer_class);
    if (!layer) return module;
    const bool post_norm = plan->options.post_norm;
    const double dropout = plan->options.dropout;
    layer->attention = (struct heed_part){.post_norm = post_norm, .dropout = dropout};
    layer->feed_forward = layer->attention;
    layer->attention.module = heed_module_child(module, "attention", heed_block_attention(ctx, plan));
    layer->attention.norm = heed_module_child(module, "norm1", heed_block_norm(ctx, plan));
    layer->feed_forward.module =
        heed_module_child(module, "feed_forward", heed_block_feed_forward(ctx, plan));
    layer->feed_forward.norm = heed_module_child(module, "norm2", heed_block_norm(ctx, plan));
    return module;
}

heed_module *heed_encoder_layer_new(heed_ctx *ctx, const heed_transformer_options *options) {
    struct heed_block_plan plan;
    if (!heed_block_plan_from(ctx, "encoder_layer", options, &plan)) return heed_inert_module();
    return heed_encoder_layer_make(ctx, &plan);
}

struct heed_residual heed_encoder_layer_run(heed_module *module, struct heed_residual in, heed_module *next,
                                            heed_cache *cache, const heed_score *score,
                                            heed_tensor *weights) {
    const struct heed_residual refused = {heed_module_refused(module, in.x), HEED_NONE};
    if (weights) *weights = refused.x;
    if (!heed_module_ready(module, &layer_class, "encoder_layer", in.x)) return refused;
    const struct encoder_layer *layer = heed_module_self(module, &layer_class);
    heed_scope_begin(module->ctx);
    const struct heed_residual attended = heed_part_attend(
        &layer->attention, in, heed_part_norm(&layer->feed_forward), HEED_NONE, cache, score, weights);
    const struct heed_residual y =
        heed_residual_end(module->ctx, heed_part_apply(&layer->feed_forward, attended, next), weights);
    heed_module_ran(module);
    return y;
}

heed_tensor heed_encoder_layer_forward(heed_module *layer, heed_tensor x, const heed_score *score) {
    return heed_encoder_layer_run(layer, (struct heed_residual){.x = x}, NULL, NULL, score, NULL).x;
}

heed_module *heed_encoder_layer_next(const heed_module *layer, heed_module *norm) {
    const struct encoder_layer *next = heed_module_self(layer->sibling, &layer_class);
    return next ? heed_part_norm(&next->attention) : norm;
}

/* ---- the stack ---- */

struct encoder {
    heed_module *layers, *norm;
};

static heed_tensor encoder_forward(heed_module *module, heed_tensor x) {
    return heed_encoder_forward(module, x, NULL);
}

static const heed_module_class encoder_class = {
    .name = "Encoder", .self_bytes = sizeof(struct encoder), .forward = encoder_forward};

heed_module *heed_encoder_new(heed_ctx *ctx, const heed_transformer_options *options) {
    struct heed_block_plan plan;
    if (!heed_block_plan_from(ctx, "encoder", options, &plan) ||
        !heed_layer_positive(ctx, "encoder", "layers", options->layers))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &encoder_class);
    struct encoder *encoder = heed_module_self(module, &encoder_class);
    if (!encoder) return module;
    encoder->layers = heed_stack_fill(module, &plan, heed_encoder_layer_make);
    encoder->norm = heed_module_find(module, "norm");
    return module;
}

heed_tensor heed_encoder_forward(heed_module *module, heed_tensor x, const heed_score *score) {
    if (!heed_module_ready(module, &encoder_class, "encoder", x)) return heed_module_refused(module, x);
    const struct encoder *encoder = heed_module_self(module, &encoder_class);
    struct heed_residual stream = {.x = x};
    heed_scope_begin(module->ctx);
    for (heed_module *layer = encoder->layers->first; layer; layer = layer->sibling) {
        heed_module *next = heed_encoder_layer_next(layer, encoder->norm);
        const struct heed_residual y = heed_encoder_layer_run(layer, stream, next, NULL, score, NULL);
        heed_residual_replace(module->ctx, stream, y);
        stream = y;
    }
    const heed_tensor y = heed_scope_end(module->ctx, heed_residual_normed(stream, encoder->norm));
    heed_module_ran(module);
    return y;
}
