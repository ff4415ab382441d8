/* The unary operations on one number in kernels: what backend/unary.h specifies, in the precision of T. */
#ifndef HEED_SRC_BACKEND_CUDA_UNARY_CUH
#define HEED_SRC_BACKEND_CUDA_UNARY_CUH

#include "backend/cuda/device.cuh"

extern "C" {
#include "backend/unary.h"
}

/* a / b, in f32 within 2 units in the last place and without the detour of an exact division; b is at most
 * 2¹²⁶, or infinite. */
__device__ inline float cuda_quotient(float a, float b) {
    return __fdividef(a, b);
}
__device__ inline double cuda_quotient(double a, double b) {
    return a / b;
}

/* 1 / (1 + e^−x) by an exponential that cannot overflow; keeps its relative precision where it is small. */
template <typename T> __device__ inline T cuda_sigmoid(T x) {
    const T e = exp(-fabs(x));
    return cuda_quotient(x < 0 ? e : (T)1, 1 + e);
}

/* Φ(x), which keeps its relative precision where it is small, and e^(−x²/2), which it is made of. */
template <typename T> struct cuda_normal { T cdf, bell; };

__device__ inline cuda_normal<double> cuda_normal_of(double x) {
    return {0.5 * erfc(-x * HEED_SQRT_HALF), exp(-0.5 * x * x)};
}

/* Φ(−a) = e^(−a²/2)·t·P(t) with t = 1 / (1 + 0.34·a), the form of Hastings 1955, a = |x|. P is fitted to all
 * a below 14 by weighted least squares that end in a minimax: 3·10⁻⁸ relative, and 4·10⁻⁷ when computed in
 * f32 up to a = 3, further out what rounding a² makes of the exponential (10⁻⁶ at 5). Erfcf is as exact, and
 * twice as long. */
__device__ inline cuda_normal<float> cuda_normal_of(float x) {
    const float a = fminf(fabsf(x), 20), bell = expf(-0.5f * a * a); /* 0 long before 20 */
    const float t = cuda_quotient(1.0f, fmaf(0.34f, a, 1));
    float p = -2.612050118e-02f;
    p = fmaf(p, t, 1.394995480e-01f);
    p = fmaf(p, t, -2.731327320e-01f);
    p = fmaf(p, t, 2.021825270e-01f);
    p = fmaf(p, t, -4.471826607e-02f);
    p = fmaf(p, t, 1.153590478e-01f);
    p = fmaf(p, t, 1.151976978e-01f);
    p = fmaf(p, t, 1.361121898e-01f);
    p = fmaf(p, t, 1.356205039e-01f);
    const float tail = bell * (t * p);
    return {x < 0 ? tail : 1 - tail, bell};
}

template <typename T> __device__ inline T cuda_gelu_slope(T x) {
    const cuda_normal<T> normal = cuda_normal_of(x);
    return normal.cdf + x * (T)HEED_INVERSE_SQRT_2PI * normal.bell;
}

/* ½·(1 + tanh u) = sigmoid(2u) without the cancellation, u = √(2/π)·(x + 0.044715·x³). */
template <typename T> __device__ inline T cuda_gelu_tanh_inner(T x) {
    return (T)(2 * HEED_SQRT_2_OVER_PI) * (x + (T)HEED_GELU_CUBIC * x * x * x);
}

/* sigmoid(v) and sigmoid(v)·sigmoid(−v), of one exponential. */
template <typename T> struct cuda_sigmoids { T one, product; };
template <typename T> __device__ inline cuda_sigmoids<T> cuda_sigmoids_of(T v) {
    const T e = exp(-fabs(v)), most = cuda_quotient((T)1, 1 + e), least = e * most;
    return {v < 0 ? least : most, most * least};
}

template <typename T> __device__ inline T cuda_gelu_tanh_slope(T x) {
    const cuda_sigmoids<T> s = cuda_sigmoids_of(cuda_gelu_tanh_inner(x));
    const T steep = (T)(2 * HEED_SQRT_2_OVER_PI) * (1 + (T)(3 * HEED_GELU_CUBIC) * x * x);
    /* Where the square overflows, the product is 0. */
    return s.product == 0 ? s.one : s.one + x * s.product * steep;
}

template <typename T> __device__ inline T cuda_silu_slope(T x) {
    const cuda_sigmoids<T> s = cuda_sigmoids_of(x);
    return s.one + x * s.product;
}

/* Powers that occur by products, which are exacter and faster; the exponent is the same for all threads. */
template <typename T> __device__ inline T cuda_power(T x, T exponent) {
    if (exponent == 1) return x;
    if (exponent == 2) return x * x;
    if (exponent == 3) return x * x * x;
    if (exponent == -1) return 1 / x;
    return pow(x, exponent);
}

/* X(NAME, op(x, c), dy · d op(x, c) / dx of what heed_unary_needs() names of x and y) */
/* clang-format off */
#define CUDA_UNARY_LIST(X)                                                                                   \
    X(NEG,        -x,                                            -dy)                                        \
    X(ABS,        fabs(x),                                       x < 0 ? -dy : x == 0 ? (T)0 : dy)           \
    X(EXP,        exp(x),                                        dy * y)                                     \
    X(LOG,        log(x),                                        dy / x)                                     \
    X(SQRT,       sqrt(x),                                       dy / (2 * y))                               \
    X(TANH,       tanh(x),                                       dy * fma(-y, y, (T)1))                      \
    X(SIGMOID,    cuda_sigmoid(x),                               dy * y * (1 - y))                           \
    X(RELU,       x <= 0 ? (T)0 : x,                             y <= 0 ? (T)0 : dy)                         \
    X(GELU,       x * cuda_normal_of(x).cdf,                      dy * cuda_gelu_slope(x))                    \
    X(GELU_TANH,  x * cuda_sigmoid(cuda_gelu_tanh_inner(x)),     dy * cuda_gelu_tanh_slope(x))               \
    X(SILU,       x * cuda_sigmoid(x),                           dy * cuda_silu_slope(x))                    \
    X(ADD_SCALAR, x + c,                                         dy)                                         \
    X(MUL_SCALAR, x * c,                                         dy * c)                                     \
    X(POW_SCALAR, cuda_power(x, c),                              c == 0 ? (T)0 : dy * c * cuda_power(x, c - 1))\
    X(MAX_SCALAR, x < c ? c : x,                                 x < c ? (T)0 : dy)                          \
    X(MIN_SCALAR, x > c ? c : x,                                 x > c ? (T)0 : dy)
/* clang-format on */

/* Each x becomes op(x, c); of HEED_UNARIES, which is no operation, it stays. One choice for all of them, so
 * that the compiler can make them side by side. */
template <typename T, int N> __device__ inline void cuda_unary_values(enum heed_unary op, T c, T (&all)[N]) {
    switch (op) {
#define CUDA_UNARY_VALUE(name, value, gradient)                                                              \
    case HEED_UNARY_##name:                                                                                  \
        for (T & at : all) {                                                                                 \
            const T x = at;                                                                                  \
            at = value;                                                                                      \
        }                                                                                                    \
        break;
        CUDA_UNARY_LIST(CUDA_UNARY_VALUE)
#undef CUDA_UNARY_VALUE
    case HEED_UNARIES:
        break;
    }
}

/* Each dy becomes dy · d op(x, c) / dx, given the x or the y of each. */
template <typename T, int N>
__device__ inline void cuda_unary_gradients(enum heed_unary op, T c, const T (&known)[N], T (&all)[N]) {
    switch (op) {
#define CUDA_UNARY_GRADIENT(name, value, gradient)                                                           \
    case HEED_UNARY_##name:                                                                                  \
        for (int i = 0; i < N; i++) {                                                                        \
            const T x = known[i], y = x, dy = all[i];                                                        \
            (void)x, (void)y;                                                                                \
            all[i] = gradient;                                                                               \
        }                                                                                                    \
        break;
        CUDA_UNARY_LIST(CUDA_UNARY_GRADIENT)
#undef CUDA_UNARY_GRADIENT
    case HEED_UNARIES:
        break;
    }
}

#endif
