/* Blocks are computed HEED_LANES at a time, in an order that makes the 4 × 4 transposes within 16 bytes leave
 * the words of neighbouring blocks side by side: with Q = HEED_LANES / 4, lane 4q + j holds block Q·j + q, so
 * that transposed vector j holds the blocks from Q·j on. */
#include "backend/cpu/random.h"
#include "backend/cpu/vector/philox.h"

enum { QUADS = HEED_LANES / 4, GROUP_WORDS = 4 * HEED_LANES };

static inline vu block_order(uint32_t first) {
    vu order;
    for (int lane = 0; lane < HEED_LANES; lane++) order[lane] = (uint32_t)(QUADS * (lane % 4) + lane / 4);
    return order + vu_set(first);
}

#if HEED_VECTOR_BYTES == 64
#define INTERLEAVE(a, b, from)                                                                               \
    __builtin_shufflevector(a, b, (from), 16 + (from), (from) + 1, 17 + (from), 4 + (from), 20 + (from),     \
                            5 + (from), 21 + (from), 8 + (from), 24 + (from), 9 + (from), 25 + (from),       \
                            12 + (from), 28 + (from), 13 + (from), 29 + (from))
#define JOIN(a, b, from)                                                                                     \
    __builtin_shufflevector(a, b, (from), (from) + 1, 16 + (from), 17 + (from), 4 + (from), 5 + (from),      \
                            20 + (from), 21 + (from), 8 + (from), 9 + (from), 24 + (from), 25 + (from),      \
                            12 + (from), 13 + (from), 28 + (from), 29 + (from))
#elif HEED_VECTOR_BYTES == 32
#define INTERLEAVE(a, b, from)                                                                               \
    __builtin_shufflevector(a, b, (from), 8 + (from), (from) + 1, 9 + (from), 4 + (from), 12 + (from),       \
                            5 + (from), 13 + (from))
#define JOIN(a, b, from)                                                                                     \
    __builtin_shufflevector(a, b, (from), (from) + 1, 8 + (from), 9 + (from), 4 + (from), 5 + (from),        \
                            12 + (from), 13 + (from))
#else
#define INTERLEAVE(a, b, from) __builtin_shufflevector(a, b, (from), 4 + (from), (from) + 1, 5 + (from))
#define JOIN(a, b, from) __builtin_shufflevector(a, b, (from), (from) + 1, 4 + (from), 5 + (from))
#endif

/* The words of HEED_LANES blocks, block after block. */
static inline void group(const struct heed_random *r, uint32_t block, vu out[4]) {
    vu w[4];
    vu_philox(r->seed, block_order(block), vu_set(r->ordinal), vu_set(r->step), vu_set(r->stream), w);
    const vu ab0 = INTERLEAVE(w[0], w[1], 0), ab1 = INTERLEAVE(w[0], w[1], 2);
    const vu cd0 = INTERLEAVE(w[2], w[3], 0), cd1 = INTERLEAVE(w[2], w[3], 2);
    out[0] = JOIN(ab0, cd0, 0);
    out[1] = JOIN(ab0, cd0, 2);
    out[2] = JOIN(ab1, cd1, 0);
    out[3] = JOIN(ab1, cd1, 2);
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

static inline void drop(vm keep, vf scale, int64_t n, bool add, const float *x, float *y) {
    if (n >= HEED_LANES) {
        const vf kept = vf_where(keep, vf_load(x) * scale);
        vf_store(y, add ? vf_load(y) + kept : kept);
    } else if (n > 0) {
        const vf kept = vf_where(keep, vf_load_part(x, n) * scale);
        vf_store_part(y, add ? vf_load_part(y, n) + kept : kept, n);
    }
}

static void dropout(const struct heed_random *random, uint32_t threshold, uint64_t element, int64_t n,
                    bool add, const float *x, float *y) {
    const vf scale = vf_set((float)heed_keep_scale(threshold));
    uint32_t block = (uint32_t)(element >> 3);
    for (; n > 0; block += HEED_LANES) {
        vu word[4];
        group(random, block, word);
        for (int j = 0; j < 4; j++) {
            const struct kept kept = compare(word[j], threshold);
            drop(kept.low, scale, n, add, x, y);
            drop(kept.high, scale, n - HEED_LANES, add, x + HEED_LANES, y + HEED_LANES);
            n -= 2 * HEED_LANES;
            x += 2 * HEED_LANES;
            y += 2 * HEED_LANES;
        }
    }
}

const struct heed_random_vectors HEED_VECTOR_NAME(heed_random_vectors) = {
    .words = words,
    .dropout = dropout,
};
