/**
 * @file cache.h
 * @brief Caches of keys and values, for writing a sequence on without computing its past again.
 *
 * A cache holds the keys and values of one attention layer in order, side by side in memory. It belongs to
 * the caller, lives across steps, and is freed before its context. Gradients do not flow through it.
 */
#ifndef HEED_CACHE_H
#define HEED_CACHE_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Options of heed_cache_new(). */
typedef struct heed_cache_options {
    int64_t batch;        /**< sequences; must be given */
    int64_t kv_heads;     /**< key/value heads; must be given */
    int64_t width;        /**< of a head's keys; must be given */
    int64_t value_width;  /**< of a head's values; 0: width */
    int64_t capacity;     /**< most positions; must be given, but with a window may be 0: any number */
    int64_t window;       /**< 0: all keys stay. Otherwise a position attends to itself and the window − 1
                               before it: older keys leave, and memory is that of twice the window */
    heed_dtype dtype;     /**< f32, f64 or bf16; of mixed precision f32 is bf16 */
    uint64_t reserved[4]; /**< must be zero */
} heed_cache_options;

/** An empty cache. Never NULL: after an error an inert one. */
HEED_API heed_cache *heed_cache_new(heed_ctx *ctx, const heed_cache_options *options);

/** NULL is fine. What heed_cache_append() gave lives on to the end of its scope. */
HEED_API void heed_cache_free(heed_cache *cache);

/**
 * Appends keys and values, and gives all that the new positions may attend to, in order, the new ones last:
 * without a window all of them; with one the window − 1 before the first new one, and the new ones. Causal
 * masks aligned HEED_BOTTOM_RIGHT fit them. Of several positions in a window each still needs a mask of the
 * window's length; one position alone needs none.
 *
 * @param k [batch, kv_heads, length, width] @param v [batch, kv_heads, length, value_width]
 * @param[out] k_all,v_all views of the cache in the innermost scope, [batch, kv_heads, all, …], inert after
 *        an error. Use the views before the next append: they do not include rows appended later, and with a
 *        window the append may overwrite what they show. A backward that needs them after a later append is
 *        refused
 * @return HEED_ERROR_STATE beyond the capacity, and where gradients would be recorded (use HEED_EVAL, or
 *         heed_detach() what is appended). The cache is then as it was.
 */
HEED_API heed_status heed_cache_append(heed_cache *cache, heed_tensor k, heed_tensor v, heed_tensor *k_all,
                                       heed_tensor *v_all);

/** The position of the next key: how many were appended so far. 0 for NULL. */
HEED_API int64_t heed_cache_position(const heed_cache *cache);

/** The keys that the last position attends to: all, or at most the window. 0 for NULL. */
HEED_API int64_t heed_cache_length(const heed_cache *cache);

/** Goes back: forgets the keys from `position` on. With a window only as far as its older keys are still
 *  there (HEED_ERROR_STATE). */
HEED_API heed_status heed_cache_truncate(heed_cache *cache, int64_t position);

/** Forgets all keys. */
HEED_API void heed_cache_reset(heed_cache *cache);

#ifdef __cplusplus
}
#endif
#endif
