/* The unary operations on one number in kernels: what backend/unary.h specifies, in the precision of T. */
#ifndef HEED_SRC_BACKEND_CUDA_UNARY_CUH
#define HEED_SRC_BACKEND_CUDA_UNARY_CUH

#include "backend/cuda/device.cuh"

extern "C" {
#include "backend/unary.h"
}

/* 1 / (1 + e^−x) by an exponential that cannot overflow; keeps its relative precision where it is small. */
template <typename T> __device__ inline T cuda_sigmoid(T x) {
    const T e = exp(-fabs(x));
    return (x < 0 ? e : (T)1) / (1 + e);
}

/* Φ(x); by erfc it keeps its relative precision where it is small. */
template <typename T> __device__ inline T cuda_normal_cdf(T x) {
    return (T)0.5 * erfc(-x * (T)HEED_SQRT_HALF);
}

template <typename T> __device__ inline T cuda_gelu_slope(T x) {
    return cuda_normal_cdf(x) + x * (T)HEED_INVERSE_SQRT_2PI * exp((T)-0.5 * x * x);
}

/* ½·(1 + tanh u) = sigmoid(2u) without the cancellation, u = √(2/π)·(x + 0.044715·x³). */
template <typename T> __device__ inline T cuda_gelu_tanh_inner(T x) {
    return (T)(2 * HEED_SQRT_2_OVER_PI) * (x + (T)HEED_GELU_CUBIC * x * x * x);
}

template <typename T> __device__ inline T cuda_gelu_tanh_slope(T x) {
    const T inner = cuda_gelu_tanh_inner(x), s = cuda_sigmoid(inner), rest = s * cuda_sigmoid(-inner);
    const T steep = (T)(2 * HEED_SQRT_2_OVER_PI) * (1 + (T)(3 * HEED_GELU_CUBIC) * x * x);
    return rest == 0 ? s : s + x * rest * steep; /* where the square overflows, rest is 0 */
}

template <typename T> __device__ inline T cuda_silu_slope(T x) {
    const T s = cuda_sigmoid(x);
    return s * (1 + x * cuda_sigmoid(-x));
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
    X(EXP,        exp(x),                                        dy * y)                                     \
    X(LOG,        log(x),                                        dy / x)                                     \
    X(SQRT,       sqrt(x),                                       dy / (2 * y))                               \
    X(TANH,       tanh(x),                                       dy * fma(-y, y, (T)1))                      \
    X(SIGMOID,    cuda_sigmoid(x),                               dy * y * (1 - y))                           \
    X(RELU,       x <= 0 ? (T)0 : x,                             y <= 0 ? (T)0 : dy)                         \
    X(GELU,       x * cuda_normal_cdf(x),                        dy * cuda_gelu_slope(x))                    \
    X(GELU_TANH,  x * cuda_sigmoid(cuda_gelu_tanh_inner(x)),     dy * cuda_gelu_tanh_slope(x))               \
    X(SILU,       x * cuda_sigmoid(x),                           dy * cuda_silu_slope(x))                    \
    X(ADD_SCALAR, x + c,                                         dy)                                         \
    X(MUL_SCALAR, x * c,                                         dy * c)                                     \
    X(POW_SCALAR, cuda_power(x, c),                              c == 0 ? (T)0 : dy * c * cuda_power(x, c - 1))
/* clang-format on */

/* op(x, c); of HEED_UNARIES, which is no operation, x itself. */
template <typename T> __device__ inline T cuda_unary_value(enum heed_unary op, T c, T x) {
    switch (op) {
#define CUDA_UNARY_VALUE(name, value, gradient)                                                              \
    case HEED_UNARY_##name:                                                                                  \
        return value;
        CUDA_UNARY_LIST(CUDA_UNARY_VALUE)
#undef CUDA_UNARY_VALUE
    case HEED_UNARIES:
        break;
    }
    return x;
}

/* dy · d op(x, c) / dx. */
template <typename T> __device__ inline T cuda_unary_gradient(enum heed_unary op, T c, T x, T y, T dy) {
    switch (op) {
#define CUDA_UNARY_GRADIENT(name, value, gradient)                                                           \
    case HEED_UNARY_##name:                                                                                  \
        return gradient;
        CUDA_UNARY_LIST(CUDA_UNARY_GRADIENT)
#undef CUDA_UNARY_GRADIENT
    case HEED_UNARIES:
        break;
    }
    return dy;
}

#endif
