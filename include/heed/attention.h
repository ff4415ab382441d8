/**
 * @file attention.h
 * @brief Attention: softmax(score(q·kᵀ)) · v, composed from parts.
 *
 * Scores, like masks (mask.h), belong to the innermost scope of their context (outside a step: to the
 * context), so that expressions nest. Using one after its scope has ended is an error. It is detected only
 * until a newer mask or score reuses its memory, so do not keep the pointer across steps.
 */
#ifndef HEED_ATTENTION_H
#define HEED_ATTENTION_H

#include <heed/base.h>
#include <heed/mask.h>
#include <heed/score.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- attention ---- */

/** Options of heed_attention(). */
typedef struct heed_attention_options {
    double dropout;       /**< probability of dropping a weight under HEED_RANDOM, in [0, 1) */
    uint64_t reserved[6]; /**< must be zero */
} heed_attention_options;

/**
 * Attention of every query to the keys, per head.
 *
 * @param q [batch.., heads, queries, width]  @param k [batch.., kv_heads, keys, width]
 * @param v [batch.., kv_heads, keys, value_width]. heads must be a multiple of kv_heads: with fewer
 *        key/value heads, consecutive query heads share one (grouped-query attention, Ainslie et al. 2023)
 * @param score NULL for plain scaled dot products
 * @param options NULL for the defaults
 * @param[out] weights NULL, or where to put the weights [batch.., heads, queries, keys] that multiplied v
 *        (after dropout, as PyTorch and Flux return them); gradients flow through them
 * @return [batch.., heads, queries, value_width]
 *
 * A query that may attend to nothing gets output 0, weights 0 and gradients 0. NaN and Inf in masked
 * keys or values reach neither output nor gradients. A score of −∞ counts as masked.
 * Batch sizes must be equal, or 1 and then repeat.
 */
HEED_API heed_tensor heed_attention(heed_tensor q, heed_tensor k, heed_tensor v, const heed_score *score,
                                    const heed_attention_options *options, heed_tensor *weights);

/** The same, with the logarithm of the sum that the softmax divides by.
 *  @param[out] lse NULL, or where to put log Σ e^s over the keys a query sees and its sink, [batch.., heads,
 *  queries]; −∞ for a query that may attend to nothing. Gradients flow through it. Only with the softmax. */
HEED_API heed_tensor heed_attention_lse(heed_tensor q, heed_tensor k, heed_tensor v, const heed_score *score,
                                        const heed_attention_options *options, heed_tensor *weights,
                                        heed_tensor *lse);

/** Which weights heed_attention_weights() returns. */
typedef struct heed_weights_request {
    const int64_t *head;  /**< which heads, in any order; NULL: all */
    int64_t heads;        /**< how many of them */
    const int64_t *query; /**< which queries, in any order; NULL: all */
    int64_t queries;      /**< how many of them */
    uint64_t reserved[4]; /**< must be zero */
} heed_weights_request;

/** heed_attention() with some of the weights: they are made once more from each row's maximum and sum, so
 *  nothing larger than what is asked for is ever held. No gradient flows through them (heed_attention()'s
 *  whole matrix has one); asking for it is an error of backward.
 *  @param request NULL: of all heads and queries
 *  @param[out] weights NULL, or where to put [batch.., chosen heads, chosen queries, keys]
 *  @param[out] column_sums NULL, or where to put the sum of those weights over the chosen queries, [batch..,
 *  chosen heads, keys]: how much attention each key gets */
HEED_API heed_tensor heed_attention_weights(heed_tensor q, heed_tensor k, heed_tensor v,
                                            const heed_score *score, const heed_attention_options *options,
                                            const heed_weights_request *request, heed_tensor *weights,
                                            heed_tensor *column_sums);

/**
 * Attention within sequences of different lengths that lie one behind the other: nothing is padded, and no
 * query sees a key of another sequence.
 *
 * @param q [heads, queries of all, width]  @param k [kv_heads, keys of all, width]
 * @param v [kv_heads, keys of all, value_width]
 * @param query_starts i32 [sequences + 1]: sequence i has the queries query_starts[i] … query_starts[i + 1]
 * − 1. The first is 0, the last is the number of queries, and none is less than the one before: a sequence
 *        may be empty
 * @param key_starts the same of keys; none: query_starts
 * @param score,options as in heed_attention()
 * @param[out] lse NULL, or as in heed_attention_lse(), [heads, queries of all]
 * @return [heads, queries of all, value_width]
 *
 * The sequences are a batch, of which each entry has its own lengths. What counts positions (causal masks,
 * windows, biases by distance, intervals and trees, a predicate) counts within a sequence, and so
 * does HEED_BOTTOM_RIGHT; dropout and random masks are those of a batch, at [sequence, head, query, key] by
 * places within the sequence.
 * - Tensors with a number per sequence, or with blocks or a patch of cells, are broadcast to [sequences..]:
 *   heed_mask_key_lengths(), query_lengths(), prefix(), blocks(), block_lists(), patch(). Blocks are as many
 * as the longest sequence needs.
 * - Tensors with a number per query, key or cell have those of all sequences and no batch dimension:
 *   heed_mask_segments(), key_intervals(), tree(), dense(), heed_score_bias(), parameters of custom
 *   stages. A bias or dense mask that is large in both is read only where query and key are of one sequence.
 *
 * There are no weights to ask for: their rows would have different lengths.
 */
HEED_API heed_tensor heed_attention_packed(heed_tensor q, heed_tensor k, heed_tensor v,
                                           heed_tensor query_starts, heed_tensor key_starts,
                                           const heed_score *score, const heed_attention_options *options,
                                           heed_tensor *lse);

/** The projections of a multi-head attention, each [outputs, inputs] as in heed_linear(). */
typedef struct heed_mha_weights {
    heed_tensor q;        /**< [heads · head_width, query_width] */
    heed_tensor k;        /**< [kv_heads · head_width, key_width] */
    heed_tensor v;        /**< [kv_heads · value_head_width, value_width] */
    heed_tensor out;      /**< [out_width, heads · value_head_width] */
    heed_tensor q_bias;   /**< [heads · head_width] or none */
    heed_tensor k_bias;   /**< likewise */
    heed_tensor v_bias;   /**< likewise */
    heed_tensor out_bias; /**< [out_width] or none */
} heed_mha_weights;

/** Options of heed_multi_head_attention(). */
typedef struct heed_mha_call_options {
    int64_t heads;        /**< must be given */
    int64_t kv_heads;     /**< 0: as many as heads */
    double dropout;       /**< of the attention weights, as in heed_attention_options */
    uint64_t reserved[6]; /**< must be zero */
} heed_mha_call_options;

/**
 * Multi-head attention in one call (Vaswani et al. 2017, section 3.2.2): the inputs are projected, cut
 * into heads, attended, joined and projected again.
 *
 * @param query [batch.., queries, query_width]
 * @param key [batch.., keys, key_width], or none: self-attention, key and value are the query
 * @param value [batch.., keys, value_width], or none: value is the key
 * @param projections whose shapes must fit
 * @param score as in heed_attention()
 * @param options heads must be set
 * @param[out] weights as in heed_attention(); may be NULL
 * @return [batch.., queries, out_width]
 */
HEED_API heed_tensor heed_multi_head_attention(heed_tensor query, heed_tensor key, heed_tensor value,
                                               const heed_mha_weights *projections, const heed_score *score,
                                               const heed_mha_call_options *options, heed_tensor *weights);

#ifdef __cplusplus
}
#endif
#endif
