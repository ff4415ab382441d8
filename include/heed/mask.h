/**
 * @file mask.h
 * @brief Masks: who may attend to whom.
 *
 * A mask is a small immutable object, made by one call and joined by heed_mask_and(), heed_mask_or() and
 * heed_mask_not(). It belongs to the innermost scope of its context (outside a step: to the context), so
 * that expressions nest. Using one after its scope ended is an error. A function whose arguments are wrong
 * returns NULL and leaves the error in the context.
 */
#ifndef HEED_MASK_H
#define HEED_MASK_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which corner of the [queries × keys] rectangle positions are counted from. They differ only where the
 *  lengths do. */
typedef enum heed_align {
    HEED_TOP_LEFT = 0, /**< query i is at the position of key i (training; PyTorch's is_causal) */
    HEED_BOTTOM_RIGHT  /**< the last query is at the position of the last key (decoding with a cache) */
} heed_align;

/** No key after the query: query i sees keys 0 … i, aligned at the bottom right 0 … i + keys − queries. */
HEED_API heed_mask *heed_mask_causal(heed_ctx *ctx, heed_align align);

/** Keys below a length only. @param lengths i32 [batch..]; each in 0 … keys, checked when used */
HEED_API heed_mask *heed_mask_key_lengths(heed_tensor lengths);

/** An explicit mask. @param allowed bool, broadcast to [batch.., heads, queries, keys] */
HEED_API heed_mask *heed_mask_dense(heed_tensor allowed);

/** Where both allow. @param a,b NULL stands for "all allowed" */
HEED_API heed_mask *heed_mask_and(heed_mask *a, heed_mask *b);

/** A mask in words ("causal ∧ key_lengths"), as snprintf does. NULL is "all". */
HEED_API size_t heed_mask_describe(const heed_mask *mask, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
