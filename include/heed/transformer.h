/**
 * @file transformer.h
 * @brief Transformer encoders, decoders and a GPT, built from the layers.
 */
#ifndef HEED_TRANSFORMER_H
#define HEED_TRANSFORMER_H

#include <heed/layers.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which normalisation a block uses. */
typedef enum heed_norm_kind {
    HEED_NORM_LAYER = 0, /**< heed_layer_norm() */
    HEED_NORM_RMS        /**< heed_rms_norm() */
} heed_norm_kind;

/** Options of transformer blocks and stacks. */
typedef struct heed_transformer_options {
    int64_t layers;             /**< of a stack; ignored by single blocks */
    int64_t width;              /**< must be given */
    int64_t heads;              /**< must be given */
    int64_t kv_heads;           /**< 0: heads */
    int64_t hidden;             /**< of the feed-forward part; 0: 4 · width */
    heed_activation activation; /**< of the feed-forward part; default GELU */
    heed_norm_kind norm;        /**< default layer norm */
    bool post_norm;             /**< normalise after the residual (Vaswani et al. 2017) instead of before */
    bool no_final_norm;         /**< a pre-norm stack normally ends in a norm */
    bool no_bias;               /**< no biases in products */
    double dropout;             /**< of attention weights, hidden units and residual branches */
    double eps;                 /**< of the norms; 0: 1e-5 */
    bool qk_norm;               /**< as in heed_mha_options */
    bool rotary;                /**< likewise, in self-attention */
    bool rotary_half_split;     /**< likewise */
    double rotary_base;         /**< likewise */
    uint64_t reserved[6];       /**< must be zero */
} heed_transformer_options;

/** One encoder block: self-attention and feed-forward, each with residual and norm. Children `attention`,
 *  `norm1`, `feed_forward`, `norm2`. */
HEED_API heed_module *heed_encoder_layer_new(heed_ctx *ctx, const heed_transformer_options *options);

/** x [batch.., length, width] → the same shape. @param score of the self-attention; may be NULL */
HEED_API heed_tensor heed_encoder_layer_forward(heed_module *layer, heed_tensor x, const heed_score *score);

/** A stack of encoder blocks: children `layers.0` …, and `norm` for a pre-norm stack. */
HEED_API heed_module *heed_encoder_new(heed_ctx *ctx, const heed_transformer_options *options);

/** The stack applied to x. @param score of every block; may be NULL */
HEED_API heed_tensor heed_encoder_forward(heed_module *encoder, heed_tensor x, const heed_score *score);

/** One decoder block: self-attention, cross-attention to `memory`, feed-forward. Children `attention`,
 * `norm1`, `cross_attention`, `norm2`, `feed_forward`, `norm3`. */
HEED_API heed_module *heed_decoder_layer_new(heed_ctx *ctx, const heed_transformer_options *options);

/** @param x [batch.., length, width]  @param memory [batch.., other length, width]
 *  @param score of the self-attention (usually causal)  @param cross_score of the cross-attention; each may
 * be NULL */
HEED_API heed_tensor heed_decoder_layer_forward(heed_module *layer, heed_tensor x, heed_tensor memory,
                                                const heed_score *score, const heed_score *cross_score);

/** A stack of decoder blocks. */
HEED_API heed_module *heed_decoder_new(heed_ctx *ctx, const heed_transformer_options *options);

/** The stack applied to x. */
HEED_API heed_tensor heed_decoder_forward(heed_module *decoder, heed_tensor x, heed_tensor memory,
                                          const heed_score *score, const heed_score *cross_score);

/** Sinusoidal positions [length, width], f32 (Vaswani et al. 2017, section 3.5). */
HEED_API heed_tensor heed_sinusoidal_positions(heed_ctx *ctx, int64_t length, int64_t width);

/** Options of heed_positions_new(). */
typedef struct heed_positions_options {
    int64_t length;       /**< the longest sequence; must be given */
    int64_t width;        /**< must be given */
    bool sinusoidal;      /**< a constant table instead of a learned one */
    heed_init init;       /**< of a learned table; default normal, deviation 0.02 */
    uint64_t reserved[4]; /**< must be zero */
} heed_positions_options;

/** Adds row i of a table to position i: x [batch.., length, width] → the same shape. Parameter `weight`
 *  [length, width] if learned. */
HEED_API heed_module *heed_positions_new(heed_ctx *ctx, const heed_positions_options *options);

/** Options of heed_gpt_new(). */
typedef struct heed_gpt_options {
    int64_t vocabulary;         /**< must be given */
    int64_t length;             /**< the longest sequence; 0: 1024 */
    int64_t layers;             /**< must be given */
    int64_t heads;              /**< must be given */
    int64_t kv_heads;           /**< 0: heads */
    int64_t width;              /**< must be given */
    int64_t hidden;             /**< 0: 4 · width */
    heed_activation activation; /**< default GELU (tanh form) */
    heed_norm_kind norm;        /**< default layer norm */
    bool sinusoidal;            /**< positions (tokens are then scaled by sqrt(width)); default learned */
    bool rotary;                /**< rotary positions in every block instead of either */
    bool rotary_half_split;     /**< as in heed_mha_options */
    double rotary_base;         /**< likewise */
    bool qk_norm;               /**< likewise */
    bool untied;                /**< an output projection of its own instead of the token table */
    bool no_bias;               /**< no biases in products */
    double dropout;             /**< everywhere GPT-2 has it */
    uint64_t reserved[6];       /**< must be zero */
} heed_gpt_options;

/** A pre-norm decoder-only language model as GPT-2 (Radford et al. 2019), initialised as there (normal 0.02,
 *  residual projections divided by sqrt(2 · layers)). tokens i32 [batch.., length] → logits [batch.., length,
 *  vocabulary]. Children `tokens`, `positions` (none if rotary), `layers.N`, `norm` (and `head` if untied).
 */
HEED_API heed_module *heed_gpt_new(heed_ctx *ctx, const heed_gpt_options *options);

/** Options of heed_gpt_forward(). */
typedef struct heed_gpt_call_options {
    bool last_only;        /**< logits of the last position only: [batch.., 1, vocabulary] */
    int64_t weights_layer; /**< of which block to return weights */
    heed_gpt_cache
        *cache; /**< the tokens go on from what it holds, and are added to it; NULL: from the start */
    uint64_t reserved[4]; /**< must be zero */
} heed_gpt_call_options;

/** The model with options. @param[out] weights attention weights [batch.., heads, length, keys] of
 *  one block; NULL if not wanted. keys is length, with a cache all positions so far. */
HEED_API heed_tensor heed_gpt_forward(heed_module *gpt, heed_tensor tokens,
                                      const heed_gpt_call_options *options, heed_tensor *weights);

/** A cache for each layer of a GPT, empty. Never NULL; to be freed by heed_gpt_cache_free() before the
 * context.
 *  @param batch sequences, the product of the tokens' batch sizes  @param capacity most positions of each; 0:
 *  the model's length, which is also the most */
HEED_API heed_gpt_cache *heed_gpt_cache_new(heed_module *gpt, int64_t batch, int64_t capacity);

/** NULL is fine. The model may have been freed before. */
HEED_API void heed_gpt_cache_free(heed_gpt_cache *cache);

/** Tokens that it holds: the position of the next one. 0 for NULL. */
HEED_API int64_t heed_gpt_cache_position(const heed_gpt_cache *cache);

/** Forgets all tokens from `position` on. */
HEED_API heed_status heed_gpt_cache_truncate(heed_gpt_cache *cache, int64_t position);

#ifdef __cplusplus
}
#endif
#endif
