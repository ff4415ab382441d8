/* GPT: a decoder-only language model as GPT-2. */
#include "layers/block.h"

#include <math.h>

struct gpt {
    heed_module *tokens, *positions, *layers, *norm; /* positions: NULL if rotary */
    heed_tensor head; /* what logits are products with: the token table if tied */
    double token_scale, dropout;
    int64_t length, count;        /* the longest sequence, the number of layers */
    int64_t kv_heads, head_width; /* of each layer */
};

struct heed_gpt_cache {
    heed_ctx *ctx;   /* NULL for the inert one */
    uint64_t serial; /* of the module whose keys these are, which may be gone */
    int64_t count;
    heed_cache **layer;
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
    if (o->rotary && o->sinusoidal)
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where,
                               "positions are sinusoidal or rotary, not both");
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
        .qk_norm = o->qk_norm,
        .rotary = o->rotary,
        .rotary_half_split = o->rotary_half_split,
        .rotary_base = o->rotary_base,
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
    if (o->rotary) return;
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
    gpt->kv_heads = heed_size_or(options->kv_heads, options->heads);
    gpt->head_width = options->width / options->heads;
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
    if (o->cache && (o->cache->ctx != ctx || o->cache->serial != module->serial))
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "the cache is that of another model");
    if (length > gpt->length)
        return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "length %lld exceeds the model's %lld",
                               (long long)length, (long long)gpt->length);
    if (o->last_only && length == 0)
        return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "length 0 has no last position");
    return true;
}

static heed_tensor embed(heed_module *module, const struct gpt *gpt, heed_tensor tokens, int64_t position) {
    heed_scope_begin(module->ctx);
    heed_tensor x = heed_forward(gpt->tokens, tokens);
    if (gpt->token_scale != 1) x = heed_mul_scalar(x, gpt->token_scale);
    if (gpt->positions) x = heed_positions_add(gpt->positions, x, position);
    return heed_scope_end(module->ctx, heed_dropout(x, gpt->dropout));
}

/* With `norm`, behind the last block too. */
static struct heed_residual run_blocks(heed_module *module, const struct gpt *gpt, heed_tensor x,
                                       heed_module *norm, const heed_gpt_call_options *o,
                                       heed_tensor *weights) {
    heed_ctx *ctx = module->ctx;
    const heed_score *score = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_BOTTOM_RIGHT));
    struct heed_residual stream = {.x = x};
    int64_t i = 0;
    for (heed_module *layer = gpt->layers->first; layer; layer = layer->sibling, i++) {
        heed_cache *cache = o->cache ? o->cache->layer[i] : NULL;
        const struct heed_residual y =
            heed_encoder_layer_run(layer, stream, heed_encoder_layer_next(layer, norm), cache, score,
                                   i == o->weights_layer ? weights : NULL);
        heed_residual_replace(ctx, stream, y);
        stream = y;
    }
    return stream;
}

/* Norm and head work on each position alone, so that of the last one alone the others need not be computed.
 */
static heed_tensor logits_of(heed_module *module, const struct gpt *gpt, heed_tensor x,
                             const heed_gpt_call_options *o, heed_tensor *weights) {
    struct heed_residual stream = run_blocks(module, gpt, x, o->last_only ? NULL : gpt->norm, o, weights);
    if (o->last_only) stream.x = heed_slice(stream.x, -2, -1, heed_size(stream.x, -2), 1);
    return heed_linear(heed_residual_normed(stream, gpt->norm), gpt->head, HEED_NONE, NULL);
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
    const int64_t position = heed_gpt_cache_position(options->cache);
    heed_scope_begin(module->ctx);
    heed_tensor x = logits_of(module, gpt, embed(module, gpt, tokens, position), options, weights);
    x = heed_scope_end_two(module->ctx, x, weights);
    heed_module_ran(module);
    if (options->cache && heed_failed(module->ctx)) heed_gpt_cache_truncate(options->cache, position);
    return x;
}

/* ---- its caches ---- */

static heed_gpt_cache inert_cache;

static heed_gpt_cache *make_cache(heed_module *module, const struct gpt *gpt, int64_t batch,
                                  int64_t capacity) {
    heed_ctx *ctx = module->ctx;
    heed_gpt_cache *cache =
        heed_block_zeroed(ctx->exec.memory, sizeof *cache + (size_t)gpt->count * sizeof *cache->layer);
    if (!cache) {
        heed_fail(ctx, HEED_ERROR_MEMORY, "gpt_cache", "out of memory");
        return &inert_cache;
    }
    *cache = (heed_gpt_cache){.ctx = ctx, .serial = module->serial, .layer = (heed_cache **)(cache + 1)};
    ctx->modules++;
    const heed_cache_options options = {
        .batch = batch, .kv_heads = gpt->kv_heads, .width = gpt->head_width, .capacity = capacity};
    for (; cache->count < gpt->count; cache->count++)
        cache->layer[cache->count] = heed_cache_new(ctx, &options);
    if (!heed_failed(ctx)) return cache;
    heed_gpt_cache_free(cache);
    return &inert_cache;
}

heed_gpt_cache *heed_gpt_cache_new(heed_module *module, int64_t batch, int64_t capacity) {
    static const char where[] = "gpt_cache";
    heed_ctx *ctx = heed_module_ctx(module);
    const struct gpt *gpt = heed_module_self(module, &gpt_class);
    if (heed_failed(ctx)) return &inert_cache;
    if (!gpt) {
        heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "the module is not a GPT");
        return &inert_cache;
    }
    if (!heed_layer_positive(ctx, where, "batch", batch) ||
        !heed_layer_not_negative(ctx, where, "capacity", (double)capacity) || !heed_enter(ctx))
        return &inert_cache;
    heed_gpt_cache *cache = &inert_cache;
    if (capacity > gpt->length)
        heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "capacity %lld exceeds the model's length %lld",
                        (long long)capacity, (long long)gpt->length);
    else
        cache = make_cache(module, gpt, batch, heed_size_or(capacity, gpt->length));
    heed_leave(ctx);
    return cache;
}

void heed_gpt_cache_free(heed_gpt_cache *cache) {
    if (!cache || !cache->ctx || !heed_enter(cache->ctx)) return;
    heed_ctx *ctx = cache->ctx;
    for (int64_t i = 0; i < cache->count; i++) heed_cache_free(cache->layer[i]);
    heed_block_free(ctx->exec.memory, cache);
    ctx->modules--;
    heed_leave(ctx);
}

int64_t heed_gpt_cache_position(const heed_gpt_cache *cache) {
    return cache && cache->count > 0 ? heed_cache_position(cache->layer[0]) : 0;
}

/* After a failed call the layers may differ: each goes back as far as it has to. */
heed_status heed_gpt_cache_truncate(heed_gpt_cache *cache, int64_t position) {
    if (!cache || !cache->ctx) return HEED_ERROR_ARGUMENT;
    if (position < 0 || position > heed_gpt_cache_position(cache))
        heed_layer_fail(cache->ctx, HEED_ERROR_ARGUMENT, "gpt_cache_truncate",
                        "position %lld is not in 0 to %lld", (long long)position,
                        (long long)heed_gpt_cache_position(cache));
    for (int64_t i = 0; i < cache->count; i++)
        if (position >= 0 && position <= heed_cache_position(cache->layer[i]))
            heed_cache_truncate(cache->layer[i], position);
    return heed_error_status(cache->ctx);
}
