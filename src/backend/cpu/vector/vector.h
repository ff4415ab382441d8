/* Vectors of f32 and their mathematics, written once for every instruction set.
 *
 * Every vector/x.c of this folder is compiled once per instruction set, as a CMake object library with
 *     baseline  -DHEED_VECTOR_SUFFIX=_baseline -DHEED_VECTOR_BYTES=16
 *     AVX2      -DHEED_VECTOR_SUFFIX=_avx2     -DHEED_VECTOR_BYTES=32 -mavx2 -mfma
 *     AVX-512   -DHEED_VECTOR_SUFFIX=_avx512   -DHEED_VECTOR_BYTES=64 -mavx2 -mfma -mavx512f -mavx512dq
 * -mavx512bw -mavx512vl -mprefer-vector-width=512 (the last two on x86-64 only). What such a file exports is
 * named HEED_VECTOR_NAME(x); usually that is one constant table of functions, reached through HEED_CPU_TABLE
 * in cpu.h. Sources in the folder above are compiled once.
 *
 * Types: vf, HEED_LANES floats; vi, as many int32_t; vm, one truth value per lane (a mask register on
 * AVX-512, all bits of a lane elsewhere). Plain operators work on vf and vi. Functions take memory at any
 * alignment of an element.
 *
 * NaN: vf_max(a, b) and vf_min(a, b) return b if either is NaN. Comparisons with NaN are false.
 * The functions at the end take and give what libm does at ±0, ±inf, NaN and beyond the range, except that
 * exp gives exact 0 below 2⁻¹²⁶. tests/test_vector.c holds their errors. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_VECTOR_H
#define HEED_SRC_BACKEND_CPU_VECTOR_VECTOR_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifndef HEED_VECTOR_BYTES
#define HEED_VECTOR_BYTES 16
#endif
#ifndef HEED_VECTOR_SUFFIX
#define HEED_VECTOR_SUFFIX _baseline
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if HEED_VECTOR_BYTES == 64 && !defined(__AVX512VL__)
#error "64-byte vectors need the AVX-512 flags"
#elif HEED_VECTOR_BYTES == 32 && !(defined(__AVX2__) && defined(__FMA__))
#error "32-byte vectors need -mavx2 -mfma"
#endif

#define HEED_VECTOR_PASTE(name, suffix) name##suffix
#define HEED_VECTOR_PASTE2(name, suffix) HEED_VECTOR_PASTE(name, suffix)
#define HEED_VECTOR_NAME(name) HEED_VECTOR_PASTE2(name, HEED_VECTOR_SUFFIX)

#define HEED_LANES (HEED_VECTOR_BYTES / 4)

/* For functions whose loops unroll only once their arguments are constants. */
#define HEED_INLINE static inline __attribute__((always_inline))

/* Before a loop of constant length (at most 16) over vectors that should stay in registers. */
#if defined(__clang__)
#define HEED_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HEED_UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vf __attribute__((vector_size(HEED_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(HEED_VECTOR_BYTES)));
typedef float vf_memory __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t vi_memory __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));
#if HEED_VECTOR_BYTES == 64
typedef __mmask16 vm;
#else
typedef vi vm;
#endif

/* ---- memory ---- */

static inline vf vf_load(const float *p) {
    return *(const vf_memory *)p;
}

static inline void vf_store(float *p, vf x) {
    *(vf_memory *)p = x;
}

/* x, in a register from here on: the compiler may not read it from memory again at each use, which it does
 * where it thinks registers are few, though loads are then what is slow. */
static inline vf vf_hold(vf x) {
#if defined(__x86_64__) && HEED_VECTOR_BYTES == 64
    __asm__("" : "+v"(x));
#elif defined(__x86_64__)
    __asm__("" : "+x"(x));
#endif
    return x;
}

static inline vi vi_load(const int32_t *p) {
    return *(const vi_memory *)p;
}

static inline void vi_store(int32_t *p, vi x) {
    *(vi_memory *)p = x;
}

static inline vf vf_set(float x) {
    return x - (vf){0};
}

static inline vi vi_set(int32_t x) {
    return x - (vi){0};
}

/* 0, 1, 2, … */
static inline vi vi_lanes(void) {
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vi_load(lanes);
}

/* The same bits as the other type. */
static inline vi vf_bits(vf x) {
    return (vi)x;
}

static inline vf vf_of_bits(vi x) {
    return (vf)x;
}

static inline vf vf_of_int(vi x) {
    return __builtin_convertvector(x, vf);
}

/* ---- truth ---- */

#if HEED_VECTOR_BYTES == 64

static inline vm vm_less(vf a, vf b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
}

static inline vm vm_less_equal(vf a, vf b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
}

static inline vm vm_equal(vf a, vf b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
}

static inline vm vm_int_less(vi a, vi b) {
    return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b);
}

static inline vm vm_and(vm a, vm b) {
    return (vm)(a & b);
}

static inline vm vm_or(vm a, vm b) {
    return (vm)(a | b);
}

static inline vm vm_not(vm a) {
    return (vm)~a;
}

/* Lane i from bit i. */
static inline vm vm_of_bits(uint32_t bits) {
    return (vm)bits;
}

static inline uint32_t vm_bits(vm m) {
    return m;
}

static inline vf vf_select(vm m, vf yes, vf no) {
    return (vf)_mm512_mask_blend_ps(m, (__m512)no, (__m512)yes);
}

static inline vi vi_select(vm m, vi yes, vi no) {
    return (vi)_mm512_mask_blend_epi32(m, (__m512i)no, (__m512i)yes);
}

/* x where m, 0 elsewhere. */
static inline vf vf_where(vm m, vf x) {
    return (vf)_mm512_maskz_mov_ps(m, (__m512)x);
}

#else

static inline vm vm_less(vf a, vf b) {
    return (vm)(a < b);
}

static inline vm vm_less_equal(vf a, vf b) {
    return (vm)(a <= b);
}

static inline vm vm_equal(vf a, vf b) {
    return (vm)(a == b);
}

static inline vm vm_int_less(vi a, vi b) {
    return (vm)(a < b);
}

static inline vm vm_and(vm a, vm b) {
    return a & b;
}

static inline vm vm_or(vm a, vm b) {
    return a | b;
}

static inline vm vm_not(vm a) {
    return ~a;
}

static inline vm vm_of_bits(uint32_t bits) {
    static const int32_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const vi b = vi_load(bit);
    return (vm)((vi_set((int32_t)bits) & b) == b);
}

static inline uint32_t vm_bits(vm m) {
#if HEED_VECTOR_BYTES == 32
    return (uint32_t)_mm256_movemask_ps((__m256)m);
#elif defined(__x86_64__)
    return (uint32_t)_mm_movemask_ps((__m128)m);
#else
    uint32_t bits = 0;
    for (int i = 0; i < HEED_LANES; i++) bits |= (uint32_t)(m[i] & 1) << i;
    return bits;
#endif
}

static inline vi vi_select(vm m, vi yes, vi no) {
    return (m & yes) | (~m & no);
}

static inline vf vf_select(vm m, vf yes, vf no) {
#if HEED_VECTOR_BYTES == 32
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)m);
#else
    return (vf)vi_select(m, (vi)yes, (vi)no);
#endif
}

static inline vf vf_where(vm m, vf x) {
    return (vf)(m & (vi)x);
}

#endif

static inline bool vm_any(vm m) {
    return vm_bits(m) != 0;
}

/* Lanes below n (0 ≤ n; all from HEED_LANES on). */
static inline vm vm_first(int64_t n) {
    return vm_int_less(vi_lanes(), vi_set(n < HEED_LANES ? (int32_t)n : HEED_LANES));
}

/* ---- parts of a vector: the first n lanes, 0 ≤ n ≤ HEED_LANES; the others are 0 and memory there is not
 * touched ---- */

static inline vf vf_load_part(const float *p, int64_t n) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_maskz_loadu_ps(vm_first(n), p);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_maskload_ps(p, (__m256i)vm_first(n));
#else
    vf x = {0};
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return x;
#endif
}

static inline void vf_store_part(float *p, vf x, int64_t n) {
#if HEED_VECTOR_BYTES == 64
    _mm512_mask_storeu_ps(p, vm_first(n), (__m512)x);
#elif HEED_VECTOR_BYTES == 32
    _mm256_maskstore_ps(p, (__m256i)vm_first(n), (__m256)x);
#else
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
#endif
}

/* ---- arithmetic ---- */

/* a·b + c; rounded once where the processor can. */
static inline vf vf_fma(vf a, vf b, vf c) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* c − a·b */
static inline vf vf_fnma(vf a, vf b, vf c) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return c - a * b;
#endif
}

static inline vf vf_max(vf a, vf b) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vf_select(vm_less(b, a), a, b);
#endif
}

static inline vf vf_min(vf a, vf b) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return vf_select(vm_less(a, b), a, b);
#endif
}

static inline vf vf_sqrt(vf x) {
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif HEED_VECTOR_BYTES == 32
    return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (vf)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < HEED_LANES; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* 1/x within an ulp or so for 2⁻¹²⁶ ≤ |x| ≤ 2¹²⁶, NaN for NaN; not for other numbers. */
static inline vf vf_reciprocal(vf x) {
#if HEED_VECTOR_BYTES == 64
    const vf near =
        (vf)_mm512_rcp14_ps((__m512)x); /* 14 bits, and a step of Newton's: sooner than a division */
    return vf_fma(near, vf_fnma(x, near, vf_set(1.0f)), near);
#else
    return vf_set(1.0f) / x;
#endif
}

static inline vf vf_abs(vf x) {
    return vf_of_bits(vf_bits(x) & 0x7fffffff);
}

/* |x| with the sign of s. */
static inline vf vf_copysign(vf x, vf s) {
    return vf_of_bits((vf_bits(x) & 0x7fffffff) | (vf_bits(s) & INT32_MIN));
}

/* ---- across lanes, always in the same order: halves are folded onto each other ---- */

typedef float vf4 __attribute__((vector_size(16)));

static inline float vf4_sum(vf4 x) {
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1);
    x += __builtin_shufflevector(x, x, 1, 0, 3, 2);
    return x[0];
}

/* NaN in any lane gives NaN. */
static inline float vf4_max(vf4 x) {
    float m = x[0];
    for (int i = 1; i < 4; i++) m = m > x[i] || m != m ? m : x[i];
    return m;
}

#if HEED_VECTOR_BYTES == 16

static inline float vf_sum(vf x) {
    return vf4_sum((vf4)x);
}

static inline float vf_largest(vf x) {
    return vf4_max((vf4)x);
}

#else

typedef float vf8 __attribute__((vector_size(32)));

static inline float vf8_sum(vf8 x) {
    return vf4_sum(__builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7));
}

/* The larger of each lane; NaN if either is. */
static inline vf8 vf8_larger(vf8 a, vf8 b) {
    const __m256 m = _mm256_max_ps((__m256)a, (__m256)b);
    return (vf8)_mm256_blendv_ps(m, (__m256)a, _mm256_cmp_ps((__m256)a, (__m256)a, _CMP_UNORD_Q));
}

static inline float vf8_max(vf8 x) {
    x = vf8_larger(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
    x = vf8_larger(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
    x = vf8_larger(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
    return x[0];
}

#if HEED_VECTOR_BYTES == 32

static inline float vf_sum(vf x) {
    return vf8_sum((vf8)x);
}

static inline float vf_largest(vf x) {
    return vf8_max((vf8)x);
}

#else

static inline float vf_sum(vf x) {
    return vf8_sum(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
}

static inline float vf_largest(vf x) {
    return vf8_max(vf8_larger(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
                              __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)));
}

#endif
#endif

#include "vector_math.h"

#endif
