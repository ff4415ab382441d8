/* Transposing between rows in memory and vectors whose lanes are rows: four neighbouring floats of a row are
 * a group, and a vector is HEED_LANES / 4 groups. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_GROUPS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_GROUPS_H

#include "backend/cpu/vector/vector.h"

#if HEED_VECTOR_BYTES == 64

/* Group g from p[g · step]. */
static inline vf vf_load_groups(const float *p, int64_t step) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + step), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * step), 2);
    return (vf)_mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * step), 3);
}

/* Group g from p + offset[g · step]. */
static inline vf vf_gather_groups(const float *p, const int64_t *offset, int step) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p + offset[0]));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + offset[step]), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + offset[2 * step]), 2);
    return (vf)_mm512_insertf32x4(v, _mm_loadu_ps(p + offset[3 * step]), 3);
}

static inline void vf_scatter_groups(float *p, const int64_t *offset, int step, vf x) {
    const __m512 v = (__m512)x;
    _mm_storeu_ps(p + offset[0], _mm512_castps512_ps128(v));
    _mm_storeu_ps(p + offset[step], _mm512_extractf32x4_ps(v, 1));
    _mm_storeu_ps(p + offset[2 * step], _mm512_extractf32x4_ps(v, 2));
    _mm_storeu_ps(p + offset[3 * step], _mm512_extractf32x4_ps(v, 3));
}

#define HEED_GROUP_UNPACK(which, a, b) (vf) _mm512_unpack##which##_ps((__m512)(a), (__m512)(b))
#define HEED_GROUP_PAIRS(which, a, b) (vf) _mm512_unpack##which##_pd((__m512d)(a), (__m512d)(b))

#elif HEED_VECTOR_BYTES == 32

static inline vf vf_load_groups(const float *p, int64_t step) {
    return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
}

static inline vf vf_gather_groups(const float *p, const int64_t *offset, int step) {
    return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + offset[0])),
                                    _mm_loadu_ps(p + offset[step]), 1);
}

static inline void vf_scatter_groups(float *p, const int64_t *offset, int step, vf x) {
    _mm_storeu_ps(p + offset[0], _mm256_castps256_ps128((__m256)x));
    _mm_storeu_ps(p + offset[step], _mm256_extractf128_ps((__m256)x, 1));
}

#define HEED_GROUP_UNPACK(which, a, b) (vf) _mm256_unpack##which##_ps((__m256)(a), (__m256)(b))
#define HEED_GROUP_PAIRS(which, a, b) (vf) _mm256_unpack##which##_pd((__m256d)(a), (__m256d)(b))

#else

static inline vf vf_load_groups(const float *p, int64_t step) {
    (void)step;
    return vf_load(p);
}

static inline vf vf_gather_groups(const float *p, const int64_t *offset, int step) {
    (void)step;
    return vf_load(p + offset[0]);
}

static inline void vf_scatter_groups(float *p, const int64_t *offset, int step, vf x) {
    (void)step;
    vf_store(p + offset[0], x);
}

#define HEED_GROUP_UNPACK_lo(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HEED_GROUP_UNPACK_hi(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define HEED_GROUP_PAIRS_lo(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define HEED_GROUP_PAIRS_hi(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#define HEED_GROUP_UNPACK(which, a, b) HEED_GROUP_UNPACK_##which(a, b)
#define HEED_GROUP_PAIRS(which, a, b) HEED_GROUP_PAIRS_##which(a, b)

#endif

/* Transposes 4 × 4 within each group: vector i holding rows i, 4 + i, 8 + i, … becomes vector i holding
 * column i of all rows in order, and the other way round. */
static inline void vf_transpose_groups(vf v[4]) {
    const vf ab = HEED_GROUP_UNPACK(lo, v[0], v[1]), cd = HEED_GROUP_UNPACK(lo, v[2], v[3]);
    const vf ab2 = HEED_GROUP_UNPACK(hi, v[0], v[1]), cd2 = HEED_GROUP_UNPACK(hi, v[2], v[3]);
    v[0] = HEED_GROUP_PAIRS(lo, ab, cd);
    v[1] = HEED_GROUP_PAIRS(hi, ab, cd);
    v[2] = HEED_GROUP_PAIRS(lo, ab2, cd2);
    v[3] = HEED_GROUP_PAIRS(hi, ab2, cd2);
}

/* to[c · step + lane] = x[offset[lane] + c], c < count: rows become lanes. Returns 0, or NaN in lanes where
 * something is not finite; if nobody looks at that, it costs nothing. */
HEED_INLINE vf vf_lanes_from_rows(const float *x, const int64_t *offset, int64_t count, float *to,
                                  int64_t step) {
    const int64_t quads = count / 4 * 4;
    vf bad = {0};
    for (int64_t c = 0; c < quads; c += 4, to += 4 * step) {
        vf block[4];
        HEED_UNROLL
        for (int i = 0; i < 4; i++) block[i] = vf_gather_groups(x + c, offset + i, 4);
        vf_transpose_groups(block);
        HEED_UNROLL
        for (int i = 0; i < 4; i++) {
            vf_store(to + i * step, block[i]);
            bad = vf_fma(block[i], vf_set(0.0f), bad);
        }
    }
    for (int64_t c = quads; c < count; c++, to += step) {
        vf one;
        for (int l = 0; l < HEED_LANES; l++) one[l] = x[c + offset[l]];
        vf_store(to, one);
        bad = vf_fma(one, vf_set(0.0f), bad);
    }
    return bad;
}

/* The other way, for the first `lanes` lanes; adds to what is there, if asked. */
HEED_INLINE void vf_lanes_to_rows(const float *from, int64_t step, float *x, const int64_t *offset, int lanes,
                                  int64_t count, bool add) {
    const int64_t quads = lanes == HEED_LANES ? count / 4 * 4 : 0;
    for (int64_t c = 0; c < quads; c += 4, from += 4 * step) {
        vf block[4];
        HEED_UNROLL
        for (int i = 0; i < 4; i++) block[i] = vf_load(from + i * step);
        vf_transpose_groups(block);
        HEED_UNROLL
        for (int i = 0; i < 4; i++) {
            if (add) block[i] += vf_gather_groups(x + c, offset + i, 4);
            vf_scatter_groups(x + c, offset + i, 4, block[i]);
        }
    }
    for (int64_t c = quads; c < count; c++, from += step) {
        for (int l = 0; l < lanes; l++) x[c + offset[l]] = add ? x[c + offset[l]] + from[l] : from[l];
    }
}

#endif
