/* Decoder blocks and stacks: self-attention, attention to a memory, feed-forward. */
#include "layers/block.h"

struct decoder_layer {
    struct heed_part attention, cross_attention, feed_forward;
};

static const heed_module_class layer_class = {.name = "DecoderLayer",
                                              .self_bytes = sizeof(struct decoder_layer),
                                              .use = "heed_decoder_layer_forward()"};

static heed_module *make_layer(heed_ctx *ctx, const struct heed_block_plan *plan) {
    heed_module *module = heed_module_new(ctx, &layer_class);
    struct decoder_layer *layer = heed_module_self(module, &layer_class);
    if (!layer) return module;
    layer->attention =
        (struct heed_part){.post_norm = plan->options.post_norm, .dropout = plan->options.dropout};
    layer->cross_attention = layer->feed_forward = layer->attention;
    layer->attention.module = heed_module_child(module, "attention", heed_block_attention(ctx, plan));
    layer->attention.norm = heed_module_child(module, "norm1", heed_block_norm(ctx, plan));
    layer->cross_attention.module =
        heed_module_child(module, "cross_attention", heed_block_cross_attention(ctx, plan));
    layer->cross_attention.norm = heed_module_child(module, "norm2", heed_block_norm(ctx, plan));
    layer->feed_forward.module =
        heed_module_child(module, "feed_forward", heed_block_feed_forward(ctx, plan));
    layer->feed_forward.norm = heed_module_child(module, "norm3", heed_block_norm(ctx, plan));
    return module;
}

heed_module *heed_decoder_layer_new(heed_ctx *ctx, const heed_transformer_options *options) {
    struct heed_block_plan plan;
    if (!heed_block_plan_from(ctx, "decoder_layer", options, &plan)) return heed_inert_module();
    return make_layer(ctx, &plan);
}

/* Without a memory the cross-attention would be a second self-attention. */
static bool ready(heed_module *module, const heed_module_class *type, const char *where, heed_tensor x,
                  heed_tensor memory) {
    if (!heed_module_ready(module, type, where, x)) return false;
    return !heed_is_none(memory) ||
           heed_layer_fail(module->ctx, HEED_ERROR_ARGUMENT, where, "the memory is none");
}

heed_tensor heed_decoder_layer_forward(heed_module *module, heed_tensor x, heed_tensor memory,
                                       const heed_score *score, const heed_score *cross_score) {
    if (!ready(module, &layer_class, "decoder_layer", x, memory)) return heed_module_refused(module, x);
    const struct decoder_layer *layer = heed_module_self(module, &layer_class);
    heed_scope_begin(module->ctx);
    x = heed_part_attend(&layer->attention, x, HEED_NONE, NULL, score, NULL);
    x = heed_part_attend(&layer->cross_attention, x, memory, NULL, cross_score, NULL);
    return heed_scope_end(module->ctx, heed_part_apply(&layer->feed_forward, x));
}

/* ---- the stack ---- */

struct decoder {
    heed_module *layers, *norm;
};

static const heed_module_class decoder_class = {
    .name = "Decoder", .self_bytes = sizeof(struct decoder), .use = "heed_decoder_forward()"};

heed_module *heed_decoder_new(heed_ctx *ctx, const heed_transformer_options *options) {
    struct heed_block_plan plan;
    if (!heed_block_plan_from(ctx, "decoder", options, &plan) ||
        !heed_layer_positive(ctx, "decoder", "layers", options->layers))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &decoder_class);
    struct decoder *decoder = heed_module_self(module, &decoder_class);
    if (!decoder) return module;
    decoder->layers = heed_stack_fill(module, &plan, make_layer);
    decoder->norm = heed_module_find(module, "norm");
    return module;
}

heed_tensor heed_decoder_forward(heed_module *module, heed_tensor x, heed_tensor memory,
                                 const heed_score *score, const heed_score *cross_score) {
    if (!ready(module, &decoder_class, "decoder", x, memory)) return heed_module_refused(module, x);
    const struct decoder *decoder = heed_module_self(module, &decoder_class);
    heed_scope_begin(module->ctx);
    for (heed_module *layer = decoder->layers->first; layer; layer = layer->sibling) {
        heed_tensor y = heed_decoder_layer_forward(layer, x, memory, score, cross_score);
        heed_layer_replace(module->ctx, x, y);
        x = y;
    }
    return heed_scope_end(module->ctx, decoder->norm ? heed_forward(decoder->norm, x) : x);
}
