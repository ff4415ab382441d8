/* Philox4x32-10 of HEED_LANES counters at once; see tensor/philox.h for its source and meaning. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_PHILOX_H
#define HEED_SRC_BACKEND_CPU_VECTOR_PHILOX_H

#include "backend/cpu/vector/vector.h"

typedef uint32_t vu __attribute__((vector_size(HEED_VECTOR_BYTES)));
typedef uint32_t vu_memory __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));

static inline vu vu_set(uint32_t x) {
    return x - (vu){0};
}

static inline void vu_store(uint32_t *p, vu x) {
    *(vu_memory *)p = x;
}

/* The upper and lower words of the products with m. */
static inline void vu_multiply(vu x, uint32_t m, vu *high, vu *low) {
#if HEED_VECTOR_BYTES == 64
    const __m512i factor = _mm512_set1_epi64(m);
    const __m512i even = _mm512_mul_epu32((__m512i)x, factor);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), factor);
    *high = (vu)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    *low = (vu)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#elif HEED_VECTOR_BYTES == 32
    const __m256i factor = _mm256_set1_epi64x(m);
    const __m256i even = _mm256_mul_epu32((__m256i)x, factor);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), factor);
    *high = (vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    *low = (vu)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#elif defined(__x86_64__)
    const __m128i factor = _mm_set1_epi64x(m), upper = _mm_set1_epi64x((int64_t)0xffffffff00000000);
    const __m128i even = _mm_mul_epu32((__m128i)x, factor);
    const __m128i odd = _mm_mul_epu32(_mm_srli_epi64((__m128i)x, 32), factor);
    *high = (vu)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_and_si128(odd, upper));
    *low = (vu)_mm_or_si128(_mm_andnot_si128(upper, even), _mm_slli_epi64(odd, 32));
#else
    for (int i = 0; i < HEED_LANES; i++) {
        const uint64_t product = (uint64_t)x[i] * m;
        (*high)[i] = (uint32_t)(product >> 32);
        (*low)[i] = (uint32_t)product;
    }
#endif
}

/* word[w] lane i: word w of the block with counter (c0[i], c1[i], c2[i], c3[i]). */
static inline void vu_philox(uint64_t key, vu c0, vu c1, vu c2, vu c3, vu word[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        vu high0, low0, high1, low1;
        vu_multiply(c0, 0xd2511f53u, &high0, &low0);
        vu_multiply(c2, 0xcd9e8d57u, &high1, &low1);
        c0 = high1 ^ c1 ^ vu_set(k0);
        c1 = low1;
        c2 = high0 ^ c3 ^ vu_set(k1);
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    word[0] = c0;
    word[1] = c1;
    word[2] = c2;
    word[3] = c3;
}

/* ---- block after block ----
 *
 * Blocks are computed in an order that makes the 4 × 4 transposes within 16 bytes leave the words of
 * neighbouring blocks side by side: with Q = HEED_LANES / 4, lane 4q + j holds block Q·j + q, so that
 * transposed vector j holds the blocks from Q·j on. */

/* The blocks from `first` on in this order. */
static inline vu vu_block_order(uint32_t first) {
    vu order;
    for (int lane = 0; lane < HEED_LANES; lane++)
        order[lane] = (uint32_t)(HEED_LANES / 4 * (lane % 4) + lane / 4);
    return order + vu_set(first);
}

#if HEED_VECTOR_BYTES == 64
#define HEED_PHILOX_INTERLEAVE(a, b, from)                                                                   \
    __builtin_shufflevector(a, b, (from), 16 + (from), (from) + 1, 17 + (from), 4 + (from), 20 + (from),     \
                            5 + (from), 21 + (from), 8 + (from), 24 + (from), 9 + (from), 25 + (from),       \
                            12 + (from), 28 + (from), 13 + (from), 29 + (from))
#define HEED_PHILOX_JOIN(a, b, from)                                                                         \
    __builtin_shufflevector(a, b, (from), (from) + 1, 16 + (from), 17 + (from), 4 + (from), 5 + (from),      \
                            20 + (from), 21 + (from), 8 + (from), 9 + (from), 24 + (from), 25 + (from),      \
                            12 + (from), 13 + (from), 28 + (from), 29 + (from))
#elif HEED_VECTOR_BYTES == 32
#define HEED_PHILOX_INTERLEAVE(a, b, from)                                                                   \
    __builtin_shufflevector(a, b, (from), 8 + (from), (from) + 1, 9 + (from), 4 + (from), 12 + (from),       \
                            5 + (from), 13 + (from))
#define HEED_PHILOX_JOIN(a, b, from)                                                                         \
    __builtin_shufflevector(a, b, (from), (from) + 1, 8 + (from), 9 + (from), 4 + (from), 5 + (from),        \
                            12 + (from), 13 + (from))
#else
#define HEED_PHILOX_INTERLEAVE(a, b, from)                                                                   \
    __builtin_shufflevector(a, b, (from), 4 + (from), (from) + 1, 5 + (from))
#define HEED_PHILOX_JOIN(a, b, from) __builtin_shufflevector(a, b, (from), (from) + 1, 4 + (from), 5 + (from))
#endif

/* Words of blocks in this order, block after block. */
static inline void vu_block_after_block(const vu word[4], vu out[4]) {
    const vu ab0 = HEED_PHILOX_INTERLEAVE(word[0], word[1], 0),
             ab1 = HEED_PHILOX_INTERLEAVE(word[0], word[1], 2);
    const vu cd0 = HEED_PHILOX_INTERLEAVE(word[2], word[3], 0),
             cd1 = HEED_PHILOX_INTERLEAVE(word[2], word[3], 2);
    out[0] = HEED_PHILOX_JOIN(ab0, cd0, 0);
    out[1] = HEED_PHILOX_JOIN(ab0, cd0, 2);
    out[2] = HEED_PHILOX_JOIN(ab1, cd1, 0);
    out[3] = HEED_PHILOX_JOIN(ab1, cd1, 2);
}

/* ---- comparing ---- */

/* Bit i: whether the i-th 16-bit half of x (in memory order) is below the threshold, 0 ≤ threshold ≤ 65535.
 */
static inline uint32_t vu_halves_below(vu x, uint32_t threshold) {
#if HEED_VECTOR_BYTES == 64
    return _mm512_cmplt_epu16_mask((__m512i)x, _mm512_set1_epi16((short)threshold));
#elif HEED_VECTOR_BYTES == 32
    /* x < t where max(x, t) is not x, unsigned. */
    const __m256i t = _mm256_set1_epi16((short)threshold);
    const __m256i reached = _mm256_cmpeq_epi16(_mm256_max_epu16((__m256i)x, t), (__m256i)x);
    const uint32_t bytes = (uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(reached, reached));
    return ~((bytes & 0xff) | (bytes >> 8 & 0xff00)) & 0xffff;
#elif defined(__x86_64__)
    /* There is a signed comparison only: of numbers less 32768. */
    const __m128i shift = _mm_set1_epi16(INT16_MIN), t = _mm_set1_epi16((short)threshold);
    const __m128i less = _mm_cmplt_epi16(_mm_xor_si128((__m128i)x, shift), _mm_xor_si128(t, shift));
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(less, _mm_setzero_si128()));
#else
    uint32_t bits = 0;
    for (int i = 0; i < HEED_LANES; i++) {
        bits |= (uint32_t)((x[i] & 0xffff) < threshold) << 2 * i;
        bits |= (uint32_t)(x[i] >> 16 < threshold) << (2 * i + 1);
    }
    return bits;
#endif
}

#endif
