/* Functions of CUDA's that the host's mathematical library lacks. */
#ifndef HEED_TESTS_CUDA_EMULATED_MATH_H
#define HEED_TESTS_CUDA_EMULATED_MATH_H

#include <cmath>

static inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

/* One rounding each: the emulation is compiled without contraction. */
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}

/* Sine and cosine of π·x. The nearest half is taken off exactly. */
static inline void sincospi(double x, double *sine, double *cosine) {
    const double halves = std::floor(2.0 * x + 0.5);
    const double angle = 3.14159265358979323846 * (x - 0.5 * halves), s = std::sin(angle),
                 c = std::cos(angle);
    switch ((long long)std::fmod(halves, 4.0) & 3) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
        break;
    }
}

#endif
