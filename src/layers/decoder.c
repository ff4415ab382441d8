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

static struct heed_residual run_layer(heed_module *module, struct heed_residual in, heed_module *next,
                                      heed_tensor memory, const heed_score *score,
                                      const heed_score *cross_score) {
    if (!ready(module, &layer_class, "decoder_layer", in.x, memory))
        return (struct heed_residual){.x = heed_module_refused(module, in.x)};
    const struct decoder_layer *layer = heed_module_self(module, &layer_class);
    const struct heed_part *cross = &layer->cross_attention, *last = &layer->feed_forward;
    heed_scope_begin(module->ctx);
    struct heed_residual s =
        heed_part_attend(&layer->attention, in, heed_part_norm(cross), HEED_NONE, NULL, score, NULL);
    s = heed_part_attend(cross, s, heed_part_norm(last), memory, NULL, cross_score, NULL);
    s = heed_residual_end(module->ctx, heed_part_apply(last, s, next), NULL);
    heed_module_ran(module);
    return s;
}

heed_tensor heed_decoder_layer_forward(heed_module *module, heed_tensor x, heed_tensor memory,
                                       const heed_score *score, const heed_score *cross_score) {
    return run_layer(module, (struct heed_residual){.x = x}, NULL, memory, score, cross_score).x;
}

/* What the layer behind this one begins with, or, behind the last, the stack's norm. */
static heed_module *next_norm(const heed_module *layer, heed_module *norm) {
    const struct decoder_layer *next = heed_module_self(layer->sibling, &layer_class);
    return next ? heed_part_norm(&next->attention) : norm;
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
    struct heed_residual stream = {.x = x};
    heed_scope_begin(module->ctx);
    for (heed_module *layer = decoder->layers->first; layer; layer = layer->sibling) {
        const struct heed_residual y =
            run_layer(layer, stream, next_norm(layer, decoder->norm), memory, score, cross_score);
        heed_residual_replace(module->ctx, stream, y);
        stream = y;
    }
    const heed_tensor y = heed_scope_end(module->ctx, heed_residual_normed(stream, decoder->norm));
    heed_module_ran(module);
    return y;
}
