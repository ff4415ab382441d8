/* Copies of queries, keys and values in the layouts that products read.
 *
 * "Finite" says whether all elements are; blocks that are not take the exact path of attention_tile.h, because 0 · NaN
 * would carry what is masked into a result. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_PACK_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_PACK_H

#include "backend/cpu/attention.h"
#include "backend/cpu/vector/product.h"

/* Rows of `width` floats to rows of to_row, padded with zeros to whole vectors. Returns whether all are finite. */
static inline bool pack_rows(const float *x, int64_t x_row, int64_t rows, int64_t width, float *to, int64_t to_row) {
    vf bad = {0}; /* NaN where something is not finite: x·0 is 0 otherwise */
    for (int64_t i = 0; i < rows; i++, x += x_row, to += to_row) {
        int64_t j = 0;
        for (; j + HEED_LANES <= width; j += HEED_LANES) {
            const vf v = vf_load(x + j);
            bad = vf_fma(v, vf_set(0.0f), bad);
            vf_store(to + j, v);
        }
        if (j < width) {
            const vf v = vf_load_part(x + j, width - j);
            bad = vf_fma(v, vf_set(0.0f), bad);
            vf_store(to + j, v);
        }
    }
    return !vm_any(vm_not(vm_equal(bad, bad)));
}

#if defined(__x86_64__)

/* Groups of four floats: lane group g from row 4·g of x. */
static inline vf load_groups(const float *x, int64_t x_row) {
    const __m128 first = _mm_loadu_ps(x);
#if HEED_VECTOR_BYTES == 64
    __m512 v = _mm512_castps128_ps512(first);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(x + 4 * x_row), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(x + 8 * x_row), 2);
    return (vf)_mm512_insertf32x4(v, _mm_loadu_ps(x + 12 * x_row), 3);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(first), _mm_loadu_ps(x + 4 * x_row), 1);
#else
    (void)x_row;
    return (vf)first;
#endif
}

#if HEED_VECTOR_BYTES == 64
#define GROUP_UNPACK(which, a, b) _mm512_unpack##which##_ps(a, b)
#define GROUP_UNPACK2(which, a, b)                                                                 \
    (vf) _mm512_unpack##which##_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))
typedef __m512 group_vector;
#elif HEED_VECTOR_BYTES == 32
#define GROUP_UNPACK(which, a, b) _mm256_unpack##which##_ps(a, b)
#define GROUP_UNPACK2(which, a, b)                                                                 \
    (vf) _mm256_unpack##which##_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))
typedef __m256 group_vector;
#else
#define GROUP_UNPACK(which, a, b) _mm_unpack##which##_ps(a, b)
#define GROUP_UNPACK2(which, a, b) (vf) _mm_unpack##which##_pd(_mm_castps_pd(a), _mm_castps_pd(b))
typedef __m128 group_vector;
#endif

/* Transposes 4 × 4 within each group of four lanes. */
static inline void transpose_groups(vf v[4]) {
    const group_vector a = (group_vector)v[0], b = (group_vector)v[1], c = (group_vector)v[2], d = (group_vector)v[3];
    const group_vector ab = GROUP_UNPACK(lo, a, b), cd = GROUP_UNPACK(lo, c, d);
    const group_vector ab2 = GROUP_UNPACK(hi, a, b), cd2 = GROUP_UNPACK(hi, c, d);
    v[0] = GROUP_UNPACK2(lo, ab, cd);
    v[1] = GROUP_UNPACK2(hi, ab, cd);
    v[2] = GROUP_UNPACK2(lo, ab2, cd2);
    v[3] = GROUP_UNPACK2(hi, ab2, cd2);
}

/* HEED_LANES rows, four columns: column j to to + j·to_row. */
static inline void transpose_block(const float *x, int64_t x_row, float *to, int64_t to_row) {
    vf v[4];
    HEED_UNROLL
    for (int i = 0; i < 4; i++) v[i] = load_groups(x + i * x_row, x_row);
    transpose_groups(v);
    HEED_UNROLL
    for (int i = 0; i < 4; i++) vf_store(to + i * to_row, v[i]);
}

#else

static inline void transpose_block(const float *x, int64_t x_row, float *to, int64_t to_row) {
    for (int i = 0; i < HEED_LANES; i++) {
        for (int j = 0; j < 4; j++) to[j * to_row + i] = x[i * x_row + j];
    }
}

#endif

/* `rows` ≤ HEED_TILE_KEYS rows of `width` floats to [width, HEED_TILE_KEYS], padded with zeros. */
static inline void pack_transposed(const float *x, int64_t x_row, int64_t rows, int64_t width, float *to) {
    const int64_t whole_rows = rows / HEED_LANES * HEED_LANES, whole_width = width / 4 * 4;
    for (int64_t i = 0; i < whole_rows; i += HEED_LANES) {
        for (int64_t j = 0; j < whole_width; j += 4) {
            transpose_block(x + i * x_row + j, x_row, to + j * HEED_TILE_KEYS + i, HEED_TILE_KEYS);
        }
    }
    for (int64_t j = 0; j < width; j++) {
        float *line = to + j * HEED_TILE_KEYS;
        for (int64_t i = j < whole_width ? whole_rows : 0; i < rows; i++) line[i] = x[i * x_row + j];
        for (int64_t i = rows; i < HEED_TILE_KEYS; i++) line[i] = 0;
    }
}

#endif
