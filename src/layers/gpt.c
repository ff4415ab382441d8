/* GPT: a decoder-only language model as GPT-2. */
#include "layers/block.h"

#include <math.h>

struct gpt {
    heed_module *tokens, *positions, *layers, *norm;
    heed_tensor head; /* what logits are products with: the token table if tied */
    double token_scale, dropout;
    int64_t length, count; /* the longest sequence, the number of layers */
};

static heed_tensor gpt_forward(heed_module *module, heed_tensor x) {
    return heed_gpt_forward(module, x, NULL, NULL);
}

static const heed_module_class gpt_class = {
    .name = "GPT", .self_bytes = sizeof(struct gpt), .forward = gpt_forward};

/* ---- construction ---- */

static const heed_init gpt_init = {HEED_INIT_NORMAL, 0, 0.02};

static bool plan_from(heed_ctx *ctx, const heed_gpt_options *o, struct heed_block_plan *plan) {
    static const char where[] = "gpt";
    if (!HEED_LAYER_BEGIN(ctx, where, o) || !heed_layer_positive(ctx, where, "vocabulary", o->vocabulary) ||
        !heed_layer_not_negative(ctx, where, "length", (double)o->length) ||
        !heed_layer_positive(ctx, where, "layers", o->layers))
        return false;
    const heed_transformer_options options = {
        .layers = o->layers,
        .width = o->width,
        .heads = o->heads,
        .kv_heads = o->kv_heads,
        .hidden = o->hidden,
        .activation = o->activation == HEED_ACTIVATION_NONE ? HEED_ACTIVATION_GELU_TANH : o->activation,
        .norm = o->norm,
        .no_bias = o->no_bias,
        .dropout = o->dropout,
    };
    if (!heed_block_plan_from(ctx, where, &options, plan)) return false;
    plan->hidden_dropout = 0; /* GPT-2 drops weights, residual branches and embeddings only */
    plan->weight = gpt_init;
    plan->residual = (heed_init){HEED_INIT_NORMAL, 0, gpt_init.b / sqrt(2.0 * (double)o->layers)};
    return true;
}

static void add_embeddings(heed_module *module, struct gpt *gpt, const heed_gpt_options *o) {
    heed_ctx *ctx = module->ctx;
    gpt->tokens = heed_module_child(
        module, "tokens",
        heed_embedding_new(ctx, &(heed_embedding_options){
                                    .rows = o->vocabulary, .width = o->width, .weight_init = gpt_init}));
    gpt->positions = heed_module_child(
        module, "positions",
        heed_positions_new(ctx, &(heed_positions_options){
                                    .length = gpt->length, .width = o->width, .sinusoidal = o->sinusoidal}));
}

static void add_head(heed_module *module, struct gpt *gpt, const heed_gpt_options *o) {
    if (o->untied)
        heed_module_child(module, "head",
                          heed_dense_new(module->ctx, &(heed_dense_options){.in = o->width,
                                                                            .out = o->vocabulary,
                                                                            .no_bias = true,
                                                                            .weight_init = gpt_init}));
    gpt->head = heed_param_find(module, o->untied ? "head.weight" : "tokens.weight");
}

heed_module *heed_gpt_new(heed_ctx *ctx, const heed_gpt_options *options) {
    struct heed_block_plan plan;
    if (!plan_from(ctx, options, &plan)) return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &gpt_class);
    struct gpt *gpt = heed_module_self(module, &gpt_class);
    if (!gpt) return module;
    gpt->length = heed_size_or(options->length, 1024);
    gpt->count = options->layers;
    gpt->dropout = options->dropout;
    /* Rows of deviation 0.02 would drown in sines of amplitude 1 (Vaswani et al. 2017, section 3.4). */
    gpt->token_scale = options->sinusoidal ? sqrt((double)options->width) : 1;
    add_embeddings(module, gpt, options);
    gpt->layers = heed_stack_fill(module, &plan, heed_encoder_layer_make);
    gpt->norm = heed_module_find(module, "norm");
    add_head(module, gpt, options);
    return module;
}

/* ---- running ---- */

static bool call_is_sound(heed_module *module, const struct gpt *gpt, heed_tensor tokens,
                          const heed_gpt_call_options *o, bool wants_weights) {
    static const char where[] = "gpt";
    heed_ctx *ctx = module->ctx;
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved))
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    if (wants_weights && (o->weights_layer < 0 || o->weights_layer >= gpt->count))
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "weights_layer %lld is not in 0 to %lld",
                               (long long)o->weights_layer, (long long)gpt->count - 1);
    if (!heed_is_valid(tokens)) return true; /* the first operation says what is wrong */
    if (heed_rank(tokens) < 1) return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "tokens have rank 0");
    int64_t length = heed_size(tokens, -1);
    if (length > gpt->length)
        return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "length %lld exceeds the model's %lld",
                               (long long)length, (long long)gpt->length);
    if (o->last_only && length == 0)
        return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "length 0 has no last position");
    return true;
}

static heed_tensor embed(heed_module *module, const struct gpt *gpt, heed_tensor tokens) {
    heed_scope_begin(module->ctx);
    heed_tensor x = heed_forward(gpt->tokens, tokens);
    if (gpt->token_scale != 1) x = heed_mul_scalar(x, gpt->token_scale);
    return heed_scope_end(module->ctx, heed_dropout(heed_forward(gpt->positions, x), gpt->dropout));
}

static heed_tensor run_blocks(heed_module *module, const struct gpt *gpt, heed_tensor x,
                              int64_t weights_layer, heed_tensor *weights) {
    heed_ctx *ctx = module->ctx;
    const heed_score *score = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT));
    int64_t i = 0;
    for (heed_module *layer = gpt->layers->first; layer; layer = layer->sibling, i++) {
        heed_tensor y = heed_encoder_layer_run(layer, x, score, i == weights_layer ? weights : NULL);
        heed_layer_replace(ctx, x, y);
        x = y;
    }
    return x;
}

/* Norm and head work on each position alone, so that the others need not be computed. */
static heed_tensor logits_of(const struct gpt *gpt, heed_tensor x, bool last_only) {
    if (last_only) x = heed_slice(x, -2, -1, heed_size(x, -2), 1);
    return heed_linear(heed_forward(gpt->norm, x), gpt->head, HEED_NONE, NULL);
}

heed_tensor heed_gpt_forward(heed_module *module, heed_tensor tokens, const heed_gpt_call_options *options,
                             heed_tensor *weights) {
    static const heed_gpt_call_options defaults = {0};
    if (!options) options = &defaults;
    if (weights) *weights = heed_module_refused(module, tokens);
    if (!heed_module_ready(module, &gpt_class, "gpt", tokens)) return heed_module_refused(module, tokens);
    const struct gpt *gpt = heed_module_self(module, &gpt_class);
    if (!call_is_sound(module, gpt, tokens, options, weights != NULL))
        return heed_module_refused(module, tokens);
    heed_scope_begin(module->ctx);
    heed_tensor x = run_blocks(module, gpt, embed(module, gpt, tokens), options->weights_layer, weights);
    return heed_scope_end_two(module->ctx, logits_of(gpt, x, options->last_only), weights);
}
