/* Random numbers in kernels: the words, uniforms and kept elements of tensor/philox.h, bit for bit, and its
 * normals up to the last digit. */
#ifndef HEED_SRC_BACKEND_CUDA_PHILOX_CUH
#define HEED_SRC_BACKEND_CUDA_PHILOX_CUH

#include "backend/cuda/kernel.cuh"

/* Philox4x32-10; see tensor/philox.c. */
__device__ inline void cuda_philox(uint64_t seed, const uint32_t (&counter)[4], uint32_t (&word)[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    word[0] = x0;
    word[1] = x1;
    word[2] = x2;
    word[3] = x3;
}

/* Block `block` of an operation. */
__device__ inline void cuda_random_block(const struct heed_random &r, uint32_t block, uint32_t (&word)[4]) {
    const uint32_t counter[4] = {block, r.ordinal, r.step, r.stream};
    cuda_philox(r.seed, counter, word);
}

/* ---- words to numbers ---- */

__device__ inline float cuda_uniform(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

__device__ inline double cuda_uniform(uint32_t low, uint32_t high) {
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

/* Box and Muller: two normals of two uniforms, u in (0, 1] and v in [0, 1). */
__device__ inline void cuda_normal_pair(double u, double v, double (&pair)[2]) {
    const double radius = sqrt(-2.0 * log(u));
    double s, c;
    sincospi(2.0 * v, &s, &c);
    pair[0] = radius * c;
    pair[1] = radius * s;
}

/* The four uniforms or normals in f32, or the two in f64, of a block of words. */
__device__ inline void cuda_uniforms(const uint32_t (&word)[4], float (&u)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) u[j] = cuda_uniform(word[j]);
}

__device__ inline void cuda_uniforms(const uint32_t (&word)[4], double (&u)[2]) {
#pragma unroll
    for (int j = 0; j < 2; j++) u[j] = cuda_uniform(word[2 * j], word[2 * j + 1]);
}

__device__ inline void cuda_normals(const uint32_t (&word)[4], float (&n)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        double pair[2];
        cuda_normal_pair(((double)word[j] + 1.0) * 0x1p-32, (double)word[j + 1] * 0x1p-32, pair);
        n[j] = (float)pair[0];
        n[j + 1] = (float)pair[1];
    }
}

__device__ inline void cuda_normals(const uint32_t (&word)[4], double (&n)[2]) {
    double u[2];
    cuda_uniforms(word, u);
    cuda_normal_pair(1.0 - u[0], u[1], n);
}

/* ---- dropout ---- */

/* Word i. No index that the compiler does not know: that would put the words into local memory. */
__device__ inline uint32_t cuda_word(const uint32_t (&word)[4], int i) {
    uint32_t own = word[0];
    if (i == 1) own = word[1];
    if (i == 2) own = word[2];
    if (i == 3) own = word[3];
    return own;
}

/* Half h (0 to 7) of a block's words is that of the block's h-th element. */
__device__ inline bool cuda_keep(const uint32_t (&word)[4], int half, uint32_t threshold) {
    return (cuda_word(word, half >> 1) >> (16 * (half & 1)) & 0xFFFFu) < threshold;
}

/* Which of the N elements from `element` on, a multiple of N, are kept: bit j is that of the j-th. */
template <int N>
__device__ inline unsigned cuda_kept(const struct heed_random &random, uint32_t threshold, int64_t element) {
    static_assert(8 % N == 0, "they are all of one block of words");
    if (threshold > 0xFFFFu) return (1u << N) - 1;
    uint32_t word[4];
    unsigned kept = 0;
    cuda_random_block(random, (uint32_t)(element >> 3), word);
#pragma unroll
    for (int j = 0; j < N; j++)
        kept |= (unsigned)cuda_keep(word, (int)(element & (8 - N)) + j, threshold) << j;
    return kept;
}

/* The block of words that holds the bits of query q and key k, and which half of it they are. */
__device__ inline void cuda_attention_block(const struct heed_attention_random &r, uint32_t q, uint32_t k,
                                            uint32_t row, uint32_t (&word)[4]) {
    const uint32_t counter[4] = {q, 16 * (k >> 7) + ((k & 31) >> 1), row, r.call};
    cuda_philox(r.key, counter, word);
}
__device__ inline int cuda_attention_half(uint32_t k) {
    return (int)(2 * (k >> 5 & 3) + (k & 1));
}

#endif
