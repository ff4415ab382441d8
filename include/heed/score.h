/**
 * @file score.h
 * @brief Scores: what happens between q·kᵀ and the weights that multiply v.
 *
 * A score is a list of stages and a mask:
 *
 *     s = q·kᵀ·scale → stage₁ → stage₂ → … → mask → normaliser → dropout → ·v
 *
 * Stages act in the order they were added, the mask last; at most 8 stages. All of them run inside one
 * kernel, forward and backward, in memory linear in the lengths (but for a bias that is quadratic itself).
 *
 * Every function here returns its score, so that calls nest, and reports errors through the score's context.
 * Where one of them fails, which is also where the context has an error already, or is given NULL, the score
 * stays an error wherever it is used, even after heed_error_clear(): it lacks what it was asked for. So it is
 * with what heed_score_new() returns when it fails. A score belongs to the innermost scope of its context
 * (outside a step: to the context). Tensors given to a score must be alive when it is used, and have the
 * dtype of q; where that is bf16, f32 is taken too.
 */
#ifndef HEED_SCORE_H
#define HEED_SCORE_H

#include <heed/mask.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A score with no stages and no mask: q·kᵀ / sqrt(width) (Vaswani et al. 2017, eq. 1). */
HEED_API heed_score *heed_score_new(heed_ctx *ctx);

/** Replaces the factor 1/sqrt(width) that q·kᵀ is multiplied with. */
HEED_API heed_score *heed_score_scale(heed_score *score, double scale);

/** Sets the mask; a second one is joined by `and`. NULL changes nothing. */
HEED_API heed_score *heed_score_mask(heed_score *score, heed_mask *mask);

/* ---- stages ---- */

/** Adds a stage: s + bias. @param bias broadcast to [batch.., heads, queries, keys]; its
 *  gradient is summed to its own shape inside the kernel. A score that is −∞ at the end is masked. */
HEED_API heed_score *heed_score_bias(heed_score *score, heed_tensor bias);

/** Adds a stage: cap · tanh(s / cap), which keeps scores within ± cap (Gemma Team 2024, "Gemma 2", section
 *  2). @param cap finite, > 0 */
HEED_API heed_score *heed_score_softcap(heed_score *score, double cap);

/** Options of heed_score_t5(). */
typedef struct heed_t5_options {
    bool causal;          /**< buckets of the past only: every later key is in bucket 0 (T5's decoder) */
    int64_t max_distance; /**< from here on all distances share the last bucket; 0: 128 */
    heed_align align;     /**< where queries are among the keys, if the lengths differ */
    uint64_t reserved[4]; /**< must be zero */
} heed_t5_options;

/** Adds a stage: s + table[head, bucket(key − query)], the relative positions of T5 (Raffel et al. 2020,
 *  section 2.1): half of the buckets are for single distances, the others grow logarithmically.
 *  @param table [heads or 1, buckets]; an even number of at least 2 buckets, of at least 4 unless causal; its
 *  gradient is summed in the kernel by distance @param options NULL for the defaults */
HEED_API heed_score *heed_score_t5(heed_score *score, heed_tensor table, const heed_t5_options *options);

/** Adds a stage: s + table[head, clip(key − query, −max, max) + max], clipped relative positions (Shaw et
 *  al. 2018, section 3.2, as a bias). @param table [heads or 1, 2·max + 1]; with gradient, as in
 *  heed_score_t5() @param align where queries are among the keys, if the lengths differ */
HEED_API heed_score *heed_score_relative(heed_score *score, heed_tensor table, heed_align align);

/** Adds a stage: s − slope[head] · |key − query|, attention with linear biases (Press et al. 2022).
 *  @param slopes [heads], receives gradients; none: the slopes of the paper, 2^(−8i/n), i = 1 … n, if the
 *  number n of heads is a power of two; otherwise those for the next smaller power, then every other one of
 *  the next larger.
 *  @param align where queries are among the keys, if the lengths differ */
HEED_API heed_score *heed_score_alibi(heed_score *score, heed_tensor slopes, heed_align align);

/* ---- the normaliser ---- */

/** What makes weights of scores. */
typedef enum heed_normalizer {
    HEED_NORMALIZER_SOFTMAX = 0, /**< e^s / Σ e^s over the keys a query sees */
    HEED_NORMALIZER_SIGMOID, /**< 1 / (1 + e^−s), each for itself (Ramapuram et al. 2024, who add a bias of
                                −log(keys)) */
    HEED_NORMALIZER_RELU     /**< max(s, 0); the scale is the caller's (Wortsman et al. 2023: 1/keys) */
} heed_normalizer;

/** Replaces the softmax. */
HEED_API heed_score *heed_score_normalizer(heed_score *score, heed_normalizer kind);

/** Adds e^sink[head] to the softmax's denominator, so that the weights of a row may sum to less than 1 (Xiao
 *  et al. 2024, section 3.3, as a number that learns). @param sink [heads], with gradient. Only with the
 *  softmax; one per score. */
HEED_API heed_score *heed_score_sink(heed_score *score, heed_tensor sink);

/* ---- a custom stage ---- */

enum { HEED_STAGE_MAX_PARAMS = 4, HEED_STAGE_MAX_AUX = 4 };

/** What a parameter of a stage belongs to: its shape, and what a tile sees of it. */
typedef enum heed_param_scope {
    HEED_PER_CALL = 0, /**< [n], seen whole */
    HEED_PER_HEAD,     /**< [heads or 1, n]; a tile sees the n numbers of its head */
    HEED_PER_QUERY,    /**< broadcast to [batch.., heads, queries]; a tile sees one number per row */
    HEED_PER_KEY       /**< broadcast to [batch.., heads, keys]; a tile sees one number per column */
} heed_param_scope;

/** A tile of the score matrix of one head: cell (r, c) is query `query` + r against key `key` + c and lies at
 *  [r · row_stride + c] of s, g and each aux. */
typedef struct heed_tile {
    int64_t batch;             /**< batch dimensions folded into one */
    int64_t head;              /**< of the query */
    int64_t query;             /**< of the first row */
    int64_t key;               /**< of the first column */
    int64_t queries;           /**< of the whole matrix */
    int64_t keys;              /**< of the whole matrix */
    int rows;                  /**< of this tile */
    int columns;               /**< of this tile, ≤ 64 */
    int64_t row_stride;        /**< elements from one row to the next */
    const uint64_t *visible;   /**< a word per row: bit c is set if the mask allows the cell */
    float *s;                  /**< forward: the scores, to be changed; NULL in backward */
    float *g;                  /**< backward: gradient of the result, to become that of the scores */
    float *const *aux;         /**< n_aux tiles: what forward leaves there backward finds */
    const float *const *param; /**< the parameters, as their scopes say */
    float *const *dparam;      /**< backward: add to these; NULL where not wanted */
    void *user;                /**< from heed_score_custom() */
} heed_tile;

/** The same in double. */
typedef struct heed_tile_f64 {
    int64_t batch;              /**< batch dimensions folded into one */
    int64_t head;               /**< of the query */
    int64_t query;              /**< of the first row */
    int64_t key;                /**< of the first column */
    int64_t queries;            /**< of the whole matrix */
    int64_t keys;               /**< of the whole matrix */
    int rows;                   /**< of this tile */
    int columns;                /**< of this tile, ≤ 64 */
    int64_t row_stride;         /**< elements from one row to the next */
    const uint64_t *visible;    /**< a word per row */
    double *s;                  /**< forward: the scores; NULL in backward */
    double *g;                  /**< backward: the gradient */
    double *const *aux;         /**< n_aux tiles */
    const double *const *param; /**< the parameters */
    double *const *dparam;      /**< backward: add to these; NULL where not wanted */
    void *user;                 /**< from heed_score_custom() */
} heed_tile_f64;

/**
 * A custom stage: a function of each score, its place, and parameters.
 *
 * The functions are called for tiles of any size up to 64 columns, from several threads at once; backward
 * calls forward again on the same scores. So they must depend on what the tile gives and on nothing else, and
 * write nothing but s, g, aux and dparam. The result of a cell must not depend on other cells. Cells that the
 * mask hides have s = g = 0 on entry, and what is left there is ignored; what is added to dparam must not
 * count them, which g = 0 sees to where it is a factor.
 *
 * On the device "cuda" the functions here cannot be called; `cuda` is what they do, as CUDA source for one
 * score. It is compiled by NVRTC with heed's own attention, for both element types, when it is first used:
 *
 *     __device__ real forward(real s, const heed_cell &at);       // the new score
 *     __device__ real backward(real s, real g, const heed_cell &at, const heed_sums &sums);
 *                                                                 // the gradient of s, the score before
 *
 * `real` is float or double. backward is there if the rule has one; it is called with the score that forward
 * was given, so nothing is kept in between (no aux). heed_cell has batch, head, query, key, queries, keys (as
 * in heed_tile, int64_t) and param[i], what the cell sees of parameter i: a vector, or one number at [0].
 * sums.add(i, element, value) adds to the gradient of that. The functions are not called for hidden cells.
 * They may be called any number of times, and what they compute must depend on their arguments only. There
 * are no `user` pointer and no headers; helpers, enums and constants may be in the source, which is in a
 * namespace of its own. Its text must not change while the rule lives.
 */
typedef struct heed_stage_rule {
    const char *name;                                /**< for messages */
    int n_aux;                                       /**< tiles kept from forward to backward */
    int n_params;                                    /**< parameters */
    heed_param_scope scope[HEED_STAGE_MAX_PARAMS];   /**< of each parameter */
    void (*forward)(const heed_tile *tile);          /**< changes s */
    void (*backward)(const heed_tile *tile);         /**< changes g, adds to dparam. NULL: the stage only adds
                                                        something that has no gradient */
    void (*forward_f64)(const heed_tile_f64 *tile);  /**< the same for f64 tensors; NULL: f32 only */
    void (*backward_f64)(const heed_tile_f64 *tile); /**< likewise */
    const char *cuda; /**< the same as CUDA source, for the device "cuda"; see above. NULL: the stage is an
                         error there */
    uint64_t reserved[3]; /**< must be zero */
} heed_stage_rule;

/** Adds a custom stage. @param rule must live until the step ends; so must its name
 *  @param params rule->n_params tensors @param n_params their number
 *  @param user handed to the functions; must live until the step ends
 *  Gradients of the parameters are gathered in private memory and summed in a fixed order: the same bits for
 *  any number of threads. A score has at most 8 such parameters in all. */
HEED_API heed_score *heed_score_custom(heed_score *score, const heed_stage_rule *rule,
                                       const heed_tensor *params, int n_params, void *user);

#ifdef __cplusplus
}
#endif
#endif
