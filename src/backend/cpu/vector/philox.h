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

#endif
