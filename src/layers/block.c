/* The parts of transformer blocks (Vaswani et al. 2017, section 3.1; pre-norm: Xiong et al. 2020). */
#include "layers/block.h"

static bool norm_kind_is_known(heed_ctx *ctx, const char *where, heed_norm_kind kind) {
    return kind == HEED_NORM_LAYER || kind == HEED_NORM_RMS ||
           heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not a kind of norm", (int)kind);
}

bool heed_block_plan_from(heed_ctx *ctx, const char *where, const heed_transformer_options *options,
                          struct heed_block_plan *plan) {
    if (!HEED_LAYER_BEGIN(ctx, where, options) || !heed_layer_positive(ctx, where, "width", options->width) ||
        !heed_layer_positive(ctx, where, "heads", options->heads) ||
        !heed_layer_divides(ctx, where, "heads", options->heads, "width", options->width) ||
        !heed_layer_probability(ctx, where, "dropout", options->dropout) ||
        !norm_kind_is_known(ctx, where, options->norm))
        return false;
    *plan = (struct heed_block_plan){.where = where, .options = *options, .hidden_dropout = options->dropout};
    return true;
}

static heed_module *make_attention(heed_ctx *ctx, const struct heed_block_plan *plan, bool rotary) {
    const heed_transformer_options *o = &plan->options;
    return heed_mha_make(ctx,
                         &(heed_mha_options){.width = o->width,
                                             .heads = o->heads,
                                             .kv_heads = o->kv_heads,
                                             .no_bias = o->no_bias,
                                             .dropout = o->dropout,
                                             .init = plan->weight,
                                             .qk_norm = o->qk_norm,
                                             .eps = o->eps,
                                             .rotary = rotary,
                                             .rotary_half_split = o->rotary_half_split,
                                             .rotary_base = o->rotary_base},
                         plan->residual);
}

heed_module *heed_block_attention(heed_ctx *ctx, const struct heed_block_plan *plan) {
    return make_attention(ctx, plan, plan->options.rotary);
}

heed_module *heed_block_cross_attention(heed_ctx *ctx, const struct heed_block_plan *plan) {
    return make_attention(ctx, plan, false);
}

heed_module *heed_block_feed_forward(heed_ctx *ctx, const struct heed_block_plan *plan) {
    const heed_transformer_options *o = &plan->options;
    return heed_feed_forward_make(
        ctx,
        &(heed_feed_forward_options){.width = o->width,
                                     .hidden = o->hidden,
                                     .activation = o->activation,
                                     .dropout = plan->hidden_dropout,
                                     .no_bias = o->no_bias},
        (struct heed_feed_forward_inits){.in = plan->weight, .out = plan->residual});
}

heed_module *heed_block_norm(heed_ctx *ctx, const struct heed_block_plan *plan) {
    heed_norm_options options = {.width = plan->options.width, .eps = plan->options.eps};
    return plan->options.norm == HEED_NORM_RMS ? heed_rms_norm_new(ctx, &options)
                                               : heed_layer_norm_new(ctx, &options);
}

/* ---- running a part ---- */

static heed_tensor before(const struct heed_part *part, struct heed_residual in) {
    if (part->post_norm) return in.x;
    return heed_is_none(in.normed) ? heed_forward(part->norm, in.x) : in.normed;
}

/* The residual connection, with the norm behind it if it is known. */
static struct heed_residual after(const struct heed_part *part, struct heed_residual in, heed_tensor branch,
                                  heed_module *next) {
    struct heed_residual out = {HEED_NONE, HEED_NONE};
    heed_layer_retire(part->module->ctx, in.normed);
    if (part->post_norm)
        out.x = heed_norm_residual(part->norm, in.x, branch, part->dropout, NULL);
    else if (next)
        out.normed = heed_norm_residual(next, in.x, branch, part->dropout, &out.x);
    else
        out.x = heed_add(in.x, heed_dropout(branch, part->dropout));
    return out;
}

struct heed_residual heed_part_attend(const struct heed_part *part, struct heed_residual in,
                                      heed_module *next, heed_tensor memory, heed_cache *cache,
                                      const heed_score *score, heed_tensor *weights) {
    heed_ctx *ctx = part->module->ctx;
    heed_scope_begin(ctx);
    heed_tensor branch =
        heed_mha_run(part->module, before(part, in), memory, HEED_NONE, cache, score, weights);
    return heed_residual_end(ctx, after(part, in, branch, next), weights);
}

struct heed_residual heed_part_apply(const struct heed_part *part, struct heed_residual in,
                                     heed_module *next) {
    heed_ctx *ctx = part->module->ctx;
    heed_scope_begin(ctx);
    return heed_residual_end(ctx, after(part, in, heed_forward(part->module, before(part, in)), next), NULL);
}

struct heed_residual heed_residual_end(heed_ctx *ctx, struct heed_residual stream, const heed_tensor *also) {
    const heed_tensor *const others[] = {&stream.normed, also};
    stream.x = heed_scope_end_with(ctx, stream.x, 2, others);
    return stream;
}

void heed_residual_replace(heed_ctx *ctx, struct heed_residual old, struct heed_residual next) {
    heed_layer_replace(ctx, old.x, next.x);
    heed_layer_replace(ctx, old.normed, next.normed);
}

heed_tensor heed_residual_normed(struct heed_residual stream, heed_module *norm) {
    if (!norm) return stream.x;
    return heed_is_none(stream.normed) ? heed_forward(norm, stream.x) : stream.normed;
}

/* ---- stacks ---- */

heed_module *heed_stack_fill(heed_module *stack, const struct heed_block_plan *plan, heed_block_maker *make) {
    heed_module *list = heed_module_child(stack, "layers", heed_list_new(stack->ctx));
    for (int64_t i = 0; i < plan->options.layers && !heed_failed(stack->ctx); i++)
        heed_list_add(list, i, make(stack->ctx, plan));
    if (heed_stack_has_norm(plan)) heed_module_child(stack, "norm", heed_block_norm(stack->ctx, plan));
    return list;
}
