/* Random numbers in bulk: words, and dropout of whole arrays. */
#include "backend/cpu/random.h"
#include "backend/cpu/vector/philox.h"

enum { GROUP_WORDS = 4 * HEED_LANES };

/* The words of HEED_LANES blocks, block after block. */
static inline void group(const struct heed_random *r, uint32_t block, vu out[4]) {
    vu word[4];
    vu_philox(r->seed, vu_block_order(block), vu_set(r->ordinal), vu_set(r->step), vu_set(r->stream), word);
    vu_block_after_block(word, out);
}

static void words(const struct heed_random *random, uint32_t block, int64_t n, uint32_t *word) {
    int64_t left = 4 * n;
    for (; left > 0; left -= GROUP_WORDS, word += GROUP_WORDS, block += HEED_LANES) {
        vu out[4];
        uint32_t last[GROUP_WORDS];
        const bool whole = left >= GROUP_WORDS;
        group(random, block, out);
        for (int j = 0; j < 4; j++) vu_store((whole ? word : last) + j * HEED_LANES, out[j]);
        if (!whole) memcpy(word, last, (size_t)left * sizeof *word);
    }
}

/* ---- dropout ---- */

/* The elements of word i are 2i (its lower half) and 2i + 1. keep: bit e of vector pair. */
struct kept {
    vm low, high; /* of the first and the last HEED_LANES of 2·HEED_LANES elements */
};

#if HEED_VECTOR_BYTES == 64

static inline struct kept compare(vu word, uint32_t threshold) {
    const uint32_t bits = _mm512_cmplt_epu16_mask((__m512i)word, _mm512_set1_epi16((short)threshold));
    return (struct kept){vm_of_bits(bits), vm_of_bits(bits >> 16)};
}

#else

static inline struct kept compare(vu word, uint32_t threshold) {
    const vi limit = vi_set((int32_t)threshold);
    const vi even = (vi)((vi)(word & 0xffffu) < limit), odd = (vi)((vi)(word >> 16) < limit);
#if HEED_VECTOR_BYTES == 32
    return (struct kept){__builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11),
                         __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15)};
#else
    return (struct kept){__builtin_shufflevector(even, odd, 0, 4, 1, 5),
                         __builtin_shufflevector(even, odd, 2, 6, 3, 7)};
#endif
}

#endif

static inline void drop(vm keep, vf scale, int64_t n, const float *before, const float *x, float *y) {
    if (n >= HEED_LANES) {
        const vf kept = vf_where(keep, vf_load(x) * scale);
        vf_store(y, before != NULL ? vf_load(before) + kept : kept);
    } else if (n > 0) {
        const vf kept = vf_where(keep, vf_load_part(x, n) * scale);
        vf_store_part(y, before != NULL ? vf_load_part(before, n) + kept : kept, n);
    }
}

static inline const float *behind(const float *before, int64_t i) {
    return before != NULL ? before + i : NULL;
}

static void keep_all(int64_t n, const float *before, const float *x, float *y) {
    const vm all = vm_first(HEED_LANES);
    for (int64_t i = 0; i < n; i += HEED_LANES)
        drop(all, vf_set(1.0f), n - i, behind(before, i), x + i, y + i);
}

static void dropout(const struct heed_random *random, uint32_t threshold, uint64_t element, int64_t n,
                    const float *before, const float *x, float *y) {
    const vf scale = vf_set((float)heed_keep_scale(threshold));
    uint32_t block = (uint32_t)(element >> 3);
    if (threshold > 0xffff) {
        keep_all(n, before, x, y);
        return;
    }
    for (int64_t i = 0; i < n; block += HEED_LANES) {
        vu word[4];
        group(random, block, word);
        for (int j = 0; j < 4; j++, i += 2 * HEED_LANES) {
            const struct kept kept = compare(word[j], threshold);
            const int64_t k = i + HEED_LANES;
            drop(kept.low, scale, n - i, behind(before, i), x + i, y + i);
            drop(kept.high, scale, n - k, behind(before, k), x + k, y + k);
        }
    }
}

const struct heed_random_vectors HEED_VECTOR_NAME(heed_random_vectors) = {
    .words = words,
    .dropout = dropout,
};
