/**
 * @file mask.h
 * @brief Masks: who may attend to whom.
 *
 * A mask is a small immutable object, made by one call and joined by heed_mask_and(), heed_mask_or() and
 * heed_mask_not(). It belongs to the innermost scope of its context (outside a step: to the context), so
 * that expressions nest. Using one after its scope has ended is an error. It is detected only until a newer
 * mask or score reuses its memory, so do not keep the pointer across steps. A function whose arguments are
 * wrong leaves the error in the context, if it has one, and returns a mask that is an error where it is used;
 * NULL, which stands for "all allowed", is returned by heed_mask_and() and heed_mask_or() of NULL only.
 *
 * Nothing of a mask has the size [queries × keys], except where the caller gives it: kernels ask for a tile
 * at a time, leave out the work of tiles where nothing is visible, and the tests of those where everything
 * is.
 *
 * Tensors are checked against the problem, and their values against their range, when the mask is used.
 * "Broadcast to" means NumPy's rules: missing leading dimensions and sizes of 1 repeat. A mask has at most 16
 * parts and 16 tensors.
 */
#ifndef HEED_MASK_H
#define HEED_MASK_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- by distance ---- */

/** Which corner of the [queries × keys] rectangle positions are counted from. They differ only where the
 *  lengths do. */
typedef enum heed_align {
    HEED_TOP_LEFT = 0, /**< query i is at the position of key i (training; PyTorch's is_causal) */
    HEED_BOTTOM_RIGHT  /**< the last query is at the position of the last key: query i is at
                            i + keys − queries (decoding with a cache) */
} heed_align;

/** No key after the query: those up to its position. */
HEED_API heed_mask *heed_mask_causal(heed_ctx *ctx, heed_align align);

/**
 * Keys near the query: from `left` before its position to `right` after it, both included (Beltagy et al.
 * 2020, "Longformer", section 3.1). Mistral's sliding window of W keys (Jiang et al. 2023, section 2) is
 * left = W − 1, right = 0.
 *
 * @param left,right ≥ 0; −1 is unlimited
 */
HEED_API heed_mask *heed_mask_window(heed_ctx *ctx, int64_t left, int64_t right, heed_align align);

/** Keys at a distance: low ≤ k − position of the query ≤ high. @param low,high of any sign, low ≤ high */
HEED_API heed_mask *heed_mask_band(heed_ctx *ctx, int64_t low, int64_t high, heed_align align);

/* ---- by length ---- */

/** Keys below a length only. @param lengths i32, broadcast to [batch..]; each in 0 … keys */
HEED_API heed_mask *heed_mask_key_lengths(heed_tensor lengths);

/** Queries below a length only; the others see nothing and get output 0. @param lengths i32, broadcast to
 *  [batch..]; each in 0 … queries */
HEED_API heed_mask *heed_mask_query_lengths(heed_tensor lengths);

/** A prefix that all queries see, and causal after it: k < prefix or k ≤ position of the query (the prefix
 *  language model of Raffel et al. 2020, "T5", section 3.2.1). @param prefix i32, broadcast to [batch..];
 *  each in 0 … keys */
HEED_API heed_mask *heed_mask_prefix(heed_tensor prefix, heed_align align);

/* ---- by segment, by key ---- */

/**
 * Segments: a query sees the keys that have its id, as when several documents are packed into one row
 * (Krell et al. 2021, "Efficient sequence packing without cross-contamination"). Ids may come in any order;
 * what has a negative id sees nothing and is seen by nothing: padding.
 *
 * @param query_ids i32, broadcast to [batch.., queries]
 * @param key_ids i32, broadcast to [batch.., keys]; none: the same as query_ids
 */
HEED_API heed_mask *heed_mask_segments(heed_tensor query_ids, heed_tensor key_ids);

/**
 * One interval of queries per key: key k is visible to the queries first[k] ≤ q < end[k].
 *
 * FlashMask (Wang et al. 2024, "FlashMask: efficient and rich mask extension of FlashAttention") describes a
 * mask by two intervals per key that are *masked*, one below the diagonal and one above. Here that is
 * `and(not(intervals(lower start, lower end)), not(intervals(upper start, upper end)))`, its causal form
 * `and(causal, not(intervals(lower start, lower end)))`; memory is linear in the length either way.
 *
 * @param first,end i32, broadcast to [batch.., heads, keys]; each in 0 … queries. end ≤ first: no query
 */
HEED_API heed_mask *heed_mask_key_intervals(heed_tensor first, heed_tensor end);

/**
 * A tree whose nodes are the queries, in depth-first order: a node sees itself and its ancestors, as in
 * tree-structured speculative decoding (Miao et al. 2024, "SpecInfer", section 4.2). Node j's subtree is the
 * nodes j … end[j] − 1, so query q sees node j where j ≤ q < end[j].
 *
 * @param ends i32, broadcast to [batch.., nodes]; j < end[j] ≤ nodes
 * @param prefix the number of keys before the nodes that all see (a cache): keys = prefix + nodes
 */
HEED_API heed_mask *heed_mask_tree(heed_tensor ends, int64_t prefix);

/* ---- by block ---- */

/**
 * Block-sparse: a grid that says of each block of cells whether it is visible (Child et al. 2019,
 * "Generating long sequences with sparse transformers"; Zaheer et al. 2020, "Big Bird").
 *
 * @param allowed bool, broadcast to [batch.., heads, ⌈queries / query_block⌉, ⌈keys / key_block⌉]
 * @param query_block,key_block ≥ 1: the size of a block. Multiples of 64 keys are skipped best
 */
HEED_API heed_mask *heed_mask_blocks(heed_tensor allowed, int64_t query_block, int64_t key_block);

/**
 * Block-sparse by lists: for each block of queries the blocks of keys that it sees (as in Yuan et al. 2025,
 * "Native sparse attention", where a score selects them). Order and repeats do not matter.
 *
 * @param blocks i32, broadcast to [batch.., heads, ⌈queries / query_block⌉, any number]; each in
 *        −1 … ⌈keys / key_block⌉ − 1, where −1 says "none"
 * @param query_block,key_block ≥ 1
 */
HEED_API heed_mask *heed_mask_block_lists(heed_tensor blocks, int64_t query_block, int64_t key_block);

/* ---- cell by cell ---- */

/** An explicit mask. @param allowed bool, broadcast to [batch.., heads, queries, keys] */
HEED_API heed_mask *heed_mask_dense(heed_tensor allowed);

/** Options of heed_mask_patch(). */
typedef struct heed_mask_patch_options {
    int64_t query;        /**< where its first row lies; may be negative */
    int64_t key;          /**< where its first column lies; likewise */
    bool visible_outside; /**< what it does not reach is visible */
    uint64_t reserved[4]; /**< must be zero */
} heed_mask_patch_options;

/** An explicit mask of a part: a rectangle of cells that may lie anywhere, also partly outside.
 *  @param allowed bool, broadcast to [batch.., heads, rows, columns], where rows and columns are its own last
 *  two sizes  @param options NULL: at the first query and key, nothing visible outside */
HEED_API heed_mask *heed_mask_patch(heed_tensor allowed, const heed_mask_patch_options *options);

/** Options of heed_mask_random(). */
typedef struct heed_mask_random_options {
    bool same_for_batch;  /**< one pattern for the whole batch */
    bool same_for_heads;  /**< one pattern for all heads */
    uint64_t reserved[4]; /**< must be zero */
} heed_mask_random_options;

/**
 * Each cell visible with a probability, independently. A function of seed and place alone: the same in
 * every call, on every backend, for any number of threads (Philox4x32-10, Salmon et al. 2011). It takes
 * nothing from the context's random numbers. Unlike dropout it acts before the softmax and scales nothing.
 *
 * @param keep in [0, 1], to the nearest multiple of 2⁻¹⁶
 * @param options NULL: every batch entry and head has its own pattern
 */
HEED_API heed_mask *heed_mask_random(heed_ctx *ctx, double keep, uint64_t seed,
                                     const heed_mask_random_options *options);

/* ---- by a function ---- */

/** What is known of a rectangle of cells. NONE and ALL are promises: heed asks no further. */
typedef enum heed_cover {
    HEED_COVER_SOME = 0, /**< not known; always right */
    HEED_COVER_NONE,     /**< no cell is visible */
    HEED_COVER_ALL       /**< all cells are */
} heed_cover;

/** A rectangle of cells. */
typedef struct heed_mask_tile {
    int64_t batch;   /**< batch dimensions counted as one, row-major */
    int64_t head;    /**< of the query */
    int64_t query;   /**< the first one */
    int64_t key;     /**< the first one */
    int64_t queries; /**< how many */
    int64_t keys;    /**< how many */
} heed_mask_tile;

/** A mask made of C functions. They are called from several threads at once, in any order and any number of
 *  times, forward and backward: they must be pure functions of their arguments and of what `user` points to,
 *  and not call heed. */
typedef struct heed_mask_predicate_options {
    const char *name; /**< for heed_mask_describe(); copied, at most 47 bytes of it. NULL: "predicate" */
    bool (*test)(void *user, int64_t batch, int64_t head, int64_t query, int64_t key); /**< must be given */
    heed_cover (*cover)(void *user, const heed_mask_tile *tile); /**< may be NULL: nothing is known */
    /** Handed to both. Must live, and not change, until backward has gone through every attention that used
     *  the mask (at the latest: until the step ends). */
    void *user;
    uint64_t reserved[4]; /**< must be zero */
} heed_mask_predicate_options;

/** A mask by a function. Slower than the kinds above: one call per cell of every tile that `cover` leaves. A
 *  GPU cannot call it: there `test` is called for every cell of every batch entry and head when attention
 *  is, and the answers stay in device memory until backward, a byte for each. */
HEED_API heed_mask *heed_mask_predicate(heed_ctx *ctx, const heed_mask_predicate_options *options);

/* ---- joining ---- */

/** Where both allow. @param a,b NULL stands for "all allowed" */
HEED_API heed_mask *heed_mask_and(heed_mask *a, heed_mask *b);

/** Where one allows or both do. @param a,b NULL stands for "all allowed": then so is the result, NULL */
HEED_API heed_mask *heed_mask_or(heed_mask *a, heed_mask *b);

/** Where `a` does not allow. Of NULL it is a mask that is an error where it is used. */
HEED_API heed_mask *heed_mask_not(heed_mask *a);

/** A mask in words ("causal ∧ window(256, 0)"), as snprintf does. NULL is "all". */
HEED_API size_t heed_mask_describe(const heed_mask *mask, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
