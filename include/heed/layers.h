/**
 * @file layers.h
 * @brief Layers: modules whose forward is one functional call each.
 *
 * Constructors never return NULL; after an error they return an inert module. A module belongs to the
 * caller until it is given to another.
 */
#ifndef HEED_LAYERS_H
#define HEED_LAYERS_H

#include <heed/attention.h>
#include <heed/cache.h>
#include <heed/module.h>
#include <heed/ops.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Options of heed_dense_new(). */
typedef struct heed_dense_options {
    int64_t in;                 /**< width of the input; must be given */
    int64_t out;                /**< width of the output; must be given */
    heed_activation activation; /**< default none */
    bool no_bias;               /**< without bias */
    heed_init weight_init;      /**< default: uniform ±1/sqrt(in), as PyTorch's Linear */
    heed_init bias_init;        /**< default: the same */
    uint64_t reserved[4];       /**< must be zero */
} heed_dense_options;

/** heed_linear() with parameters `weight` [out, in] and `bias` [out]. x [.., in] → [.., out] */
HEED_API heed_module *heed_dense_new(heed_ctx *ctx, const heed_dense_options *options);

/** heed_dropout() with probability p. */
HEED_API heed_module *heed_dropout_new(heed_ctx *ctx, double p);

/** Options of heed_layer_norm_new() and heed_rms_norm_new(). */
typedef struct heed_norm_options {
    int64_t width;        /**< of the last dimension; must be given */
    double eps;           /**< 0: 1e-5 */
    bool no_weight;       /**< without `weight` (and then without bias) */
    bool no_bias;         /**< without `bias` (layer norm only) */
    uint64_t reserved[4]; /**< must be zero */
} heed_norm_options;

/** heed_layer_norm() with parameters `weight` (ones) and `bias` (zeros). */
HEED_API heed_module *heed_layer_norm_new(heed_ctx *ctx, const heed_norm_options *options);

/** heed_rms_norm() with parameter `weight` (ones). */
HEED_API heed_module *heed_rms_norm_new(heed_ctx *ctx, const heed_norm_options *options);

/** Options of heed_embedding_new(). */
typedef struct heed_embedding_options {
    int64_t rows;          /**< how many indices there are; must be given */
    int64_t width;         /**< of a row; must be given */
    heed_init weight_init; /**< default: normal, deviation 1, as PyTorch's Embedding */
    uint64_t reserved[4];  /**< must be zero */
} heed_embedding_options;

/** heed_embedding() with parameter `weight` [rows, width]. i32 [..] → [.., width] */
HEED_API heed_module *heed_embedding_new(heed_ctx *ctx, const heed_embedding_options *options);

/** One module after the other; owns them (children "0", "1", …), also when it fails. */
HEED_API heed_module *heed_sequential_new(heed_ctx *ctx, int count, heed_module *const *modules);

/**
 * Options of heed_mha_new(). Only width and heads must be given; every other width defaults to width.
 * Flux's MultiHeadAttention(dims) is: n → .width = n; in ⇒ qkv ⇒ out → .width = in, .qk_width = qkv,
 * .v_width = qkv, .out_width = out; (q, k, v) ⇒ (qk, v') ⇒ out → all six.
 */
typedef struct heed_mha_options {
    int64_t width;          /**< of query, and the default of what follows */
    int64_t heads;          /**< divides qk_width and v_width */
    int64_t kv_heads;       /**< 0: heads; fewer share keys and values among query heads */
    int64_t query_width;    /**< of the query input; 0: width */
    int64_t key_width;      /**< of the key input; 0: width */
    int64_t value_width;    /**< of the value input; 0: key_width if given, else width */
    int64_t qk_width;       /**< all heads of the projected query together; 0: width */
    int64_t v_width;        /**< all heads of the projected value together; 0: qk_width */
    int64_t out_width;      /**< of the result; 0: width */
    bool no_bias;           /**< no bias in any projection */
    double dropout;         /**< of the attention weights */
    heed_init init;         /**< of the weights; default Glorot uniform; biases start at 0 */
    bool qk_norm;           /**< RMS norm of each head's query and key, with a gain that heads share (as the
                                 layer norm of Dehghani et al. 2023, section 2.2) */
    double eps;             /**< of these norms; 0: 1e-5 */
    bool rotary;            /**< heed_rotary() of queries and keys, after the norms; heads of even width */
    bool rotary_half_split; /**< as in heed_rotary_options */
    double rotary_base;     /**< likewise; 0: 10000 */
    uint64_t reserved[6];   /**< must be zero */
} heed_mha_options;

/** Multi-head attention with parameters q.weight, q.bias, likewise k, v and out, and with `qk_norm`
 *  q_norm.weight and k_norm.weight [width of a head]. Its single-input form is plain self-attention; use
 *  heed_mha_forward() for more. With `rotary` queries and keys count their positions from 0 each. */
HEED_API heed_module *heed_mha_new(heed_ctx *ctx, const heed_mha_options *options);

/** heed_multi_head_attention() with the module's parameters. key or value none as there.
 *  @param score NULL for plain scaled dot products  @param[out] weights may be NULL */
HEED_API heed_tensor heed_mha_forward(heed_module *mha, heed_tensor query, heed_tensor key, heed_tensor value,
                                      const heed_score *score, heed_tensor *weights);

/**
 * Self-attention of x that goes on from what a cache holds: its keys and values are appended, and its queries
 * attend to all that the cache gives back (heed_cache_append()). Rotary positions go on likewise.
 *
 * @param x [batch.., length, width] @param cache of this layer alone
 * @param score of [length × keys]: causal masks are of HEED_BOTTOM_RIGHT here  @param[out] weights may be
 * NULL
 */
HEED_API heed_tensor heed_mha_forward_cached(heed_module *mha, heed_tensor x, heed_cache *cache,
                                             const heed_score *score, heed_tensor *weights);

/** Options of heed_feed_forward_new(). */
typedef struct heed_feed_forward_options {
    int64_t width;              /**< must be given */
    int64_t hidden;             /**< 0: 4 · width */
    heed_activation activation; /**< default GELU; HEED_ACTIVATION_NONE cannot be asked for */
    double dropout;             /**< after the activation */
    bool no_bias;               /**< in either product */
    uint64_t reserved[4];       /**< must be zero */
} heed_feed_forward_options;

/** heed_feed_forward() with parameters `in.weight`, `in.bias`, `out.weight`, `out.bias`. */
HEED_API heed_module *heed_feed_forward_new(heed_ctx *ctx, const heed_feed_forward_options *options);

/** linear(dropout(activation(linear(x, w1, b1))), w2, b2) (Vaswani et al. 2017, eq. 2). Biases may be none.
 */
HEED_API heed_tensor heed_feed_forward(heed_tensor x, heed_tensor w1, heed_tensor b1, heed_tensor w2,
                                       heed_tensor b2, heed_activation activation, double dropout);

#ifdef __cplusplus
}
#endif
#endif
