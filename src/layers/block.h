/* What encoder and decoder blocks share: their parts, and a part with its residual and norm. */
#ifndef HEED_SRC_LAYERS_BLOCK_H
#define HEED_SRC_LAYERS_BLOCK_H

#include "layers/layer.h"

/* What a block is built from: its options, and what GPT-2 does otherwise than the default. */
struct heed_block_plan {
    const char *where; /* for messages */
    heed_transformer_options options;
    double hidden_dropout; /* inside the feed-forward part */
    heed_init weight;      /* of products; default: each layer's */
    heed_init residual;    /* of the products that end a residual branch; default: as weight */
};

/* The plan of plain options; false (and an error) if they are wrong. */
bool heed_block_plan_from(heed_ctx *ctx, const char *where, const heed_transformer_options *options,
                          struct heed_block_plan *plan);

heed_module *heed_block_attention(heed_ctx *ctx, const struct heed_block_plan *plan);
/* Without rotary positions: queries and keys are of different sequences. */
heed_module *heed_block_cross_attention(heed_ctx *ctx, const struct heed_block_plan *plan);
heed_module *heed_block_feed_forward(heed_ctx *ctx, const struct heed_block_plan *plan);
heed_module *heed_block_norm(heed_ctx *ctx, const struct heed_block_plan *plan);

/* One part of a block as it runs: y = x + dropout(part(norm(x))), or norm(x + dropout(part(x))) with
 * post_norm. */
struct heed_part {
    heed_module *module, *norm;
    bool post_norm;
    double dropout;
};

/* What goes from part to part: x, and its norm if that has been made with it (heed_residual_norm()), which
 * the next part then begins with, and ends; otherwise none. */
struct heed_residual {
    heed_tensor x, normed;
};

/* The norm that a part begins with; NULL if it begins with none. For the part before it. */
static inline heed_module *heed_part_norm(const struct heed_part *part) {
    return part->post_norm ? NULL : part->norm;
}

/* The part as attention of the stream to `memory` (none: to itself, and to what `cache` holds; it may be
 * NULL). `next`: what the next part begins with, NULL if that is not known. */
struct heed_residual heed_part_attend(const struct heed_part *part, struct heed_residual in,
                                      heed_module *next, heed_tensor memory, heed_cache *cache,
                                      const heed_score *score, heed_tensor *weights);

/* The part as a module of one input. */
struct heed_residual heed_part_apply(const struct heed_part *part, struct heed_residual in,
                                     heed_module *next);

/* heed_scope_end() for what a stream has become, and `also`, which may be NULL. */
struct heed_residual heed_residual_end(heed_ctx *ctx, struct heed_residual stream, const heed_tensor *also);

/* Ends what a stream was, if the innermost scope made it. */
void heed_residual_replace(heed_ctx *ctx, struct heed_residual old, struct heed_residual next);

/* The stream behind `norm`, that of the last part's `next`; NULL: as it is. */
heed_tensor heed_residual_normed(struct heed_residual stream, heed_module *norm);

/* ---- blocks and stacks ---- */

heed_module *heed_encoder_layer_make(heed_ctx *ctx, const struct heed_block_plan *plan);

/* The block with a cache and the attention weights; each NULL if not wanted. `next` as of its last part. */
struct heed_residual heed_encoder_layer_run(heed_module *module, struct heed_residual in, heed_module *next,
                                            heed_cache *cache, const heed_score *score, heed_tensor *weights);

/* What the block behind `layer` in a list begins with, or, behind the last, `norm`; NULL if with no norm. */
heed_module *heed_encoder_layer_next(const heed_module *layer, heed_module *norm);

/* Fills a stack: children `layers.0` … made by `make`, and `norm` where the plan has one. Returns the list.
 */
typedef heed_module *heed_block_maker(heed_ctx *ctx, const struct heed_block_plan *plan);
heed_module *heed_stack_fill(heed_module *stack, const struct heed_block_plan *plan, heed_block_maker *make);

/* Whether a stack of this plan ends in a norm. */
static inline bool heed_stack_has_norm(const struct heed_block_plan *plan) {
    return !plan->options.post_norm && !plan->options.no_final_norm;
}

#endif
