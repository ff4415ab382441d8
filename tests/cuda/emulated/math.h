/* Functions of numbers and bits that CUDA has and the host's library lacks. Those of the fast kind (__expf)
 * are the exact ones here. */
#ifndef HEED_TESTS_CUDA_EMULATED_MATH_H
#define HEED_TESTS_CUDA_EMULATED_MATH_H

#include <algorithm>
#include <cstdint>
#include <math.h>
#include <string.h>

/* ---- numbers ---- */

using std::max;
using std::min;

/* The C library has functions of these names, which are not for its users. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

static inline float rsqrtf(float x) {
    return 1 / sqrtf(x);
}
static inline double rsqrt(double x) {
    return 1 / sqrt(x);
}
static inline float __fdividef(float x, float y) {
    return x / y;
}
static inline float __frcp_rn(float x) {
    return 1 / x;
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
/* Operations that the compiler does not fuse with others. */
static inline float __fadd_rn(float x, float y) {
    return x + y;
}
static inline float __fmul_rn(float x, float y) {
    return x * y;
}
static inline float __fdiv_rn(float x, float y) {
    return x / y;
}
static inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
static inline double __dadd_rn(double x, double y) {
    return x + y;
}
static inline double __dmul_rn(double x, double y) {
    return x * y;
}
static inline double __fma_rn(double x, double y, double z) {
    return fma(x, y, z);
}

/* Sine and cosine of π·x: of what is left when the nearest half is taken off, which is exact. */
static inline void sincospi(double x, double *sine, double *cosine) {
    int quarter = 0;
    const double rest = remquo(x, 0.5, &quarter) * 3.14159265358979323846;
    const double s = sin(rest), c = cos(rest);
    const bool swapped = quarter & 1, negative = quarter & 2;
    *sine = (negative ? -1 : 1) * (swapped ? c : s);
    *cosine = (negative != swapped ? -1 : 1) * (swapped ? s : c);
}

static inline double sinpi(double x) {
    double sine, cosine;
    sincospi(x, &sine, &cosine);
    return sine;
}
static inline double cospi(double x) {
    double sine, cosine;
    sincospi(x, &sine, &cosine);
    return cosine;
}
static inline float sinpi(float x) {
    return (float)sinpi((double)x);
}
static inline float cospi(float x) {
    return (float)cospi((double)x);
}

/* ---- bits ---- */

namespace emulated {
template <typename To, typename From> To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulated

static inline int __float_as_int(float x) {
    return emulated::bits_of<int>(x);
}
static inline unsigned __float_as_uint(float x) {
    return emulated::bits_of<unsigned>(x);
}
static inline float __int_as_float(int x) {
    return emulated::bits_of<float>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulated::bits_of<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return emulated::bits_of<long long>(x);
}
static inline double __longlong_as_double(long long x) {
    return emulated::bits_of<double>(x);
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
    return (unsigned)((uint64_t)x * y >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}

#endif
