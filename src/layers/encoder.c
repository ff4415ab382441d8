/* Encoder blocks and stacks. */
#include "layers/block.h"

struct encoder_layer {
    struct heed_part attention, feed_forward;
};

static heed_tensor layer_forward(heed_module *module, heed_tensor x) {
    return heed_encoder_layer_run(module, x, NULL, NULL, NULL);
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

heed_tensor heed_encoder_layer_run(heed_module *module, heed_tensor x, heed_cache *cache,
                                   const heed_score *score, heed_tensor *weights) {
    if (weights) *weights = heed_module_refused(module, x);
    if (!heed_module_ready(module, &layer_class, "encoder_layer", x)) return heed_module_refused(module, x);
    const struct encoder_layer *layer = heed_module_self(module, &layer_class);
    heed_scope_begin(module->ctx);
    heed_tensor attended = heed_part_attend(&layer->attention, x, HEED_NONE, cache, score, weights);
    return heed_scope_end_two(module->ctx, heed_part_apply(&layer->feed_forward, attended), weights);
}

heed_tensor heed_encoder_layer_forward(heed_module *layer, heed_tensor x, const heed_score *score) {
    return heed_encoder_layer_run(layer, x, NULL, score, NULL);
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
    heed_scope_begin(module->ctx);
    for (heed_module *layer = encoder->layers->first; layer; layer = layer->sibling) {
        heed_tensor y = heed_encoder_layer_run(layer, x, NULL, score, NULL);
        heed_layer_replace(module->ctx, x, y);
        x = y;
    }
    return heed_scope_end(module->ctx, encoder->norm ? heed_forward(encoder->norm, x) : x);
}
