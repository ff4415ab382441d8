/* The normaliser of a softmax: the maximum and the sum of exponentials of a row, found in one pass (Milakov &
 * Gimelshein 2018). */
#ifndef HEED_SRC_BACKEND_CUDA_SOFTMAX_CUH
#define HEED_SRC_BACKEND_CUDA_SOFTMAX_CUH

#include "backend/cuda/reduce.cuh"

/* The maximum of some numbers, and Σ e^(x − maximum). Nothing but −∞ has a sum of 0; NaN, which the maximum
 * passes over, makes the sum NaN. */
template <typename T> struct cuda_normaliser { T maximum, sum; };

/* What is to be subtracted: of nothing but −∞, any number. */
template <typename T> __device__ inline T cuda_base(T maximum) {
    return maximum == -(T)INFINITY ? 0 : maximum;
}

/* The reduction (reduce.cuh). */
template <typename T> struct cuda_normalise {
    static __device__ inline cuda_normaliser<T> none() {
        return {-(T)INFINITY, 0};
    }
    static __device__ inline cuda_normaliser<T> join(cuda_normaliser<T> a, cuda_normaliser<T> b) {
        const T maximum = std::fmax(a.maximum, b.maximum), m = cuda_base(maximum);
        return {maximum, a.sum * std::exp(a.maximum - m) + b.sum * std::exp(b.maximum - m)};
    }
};

/* With some more numbers. */
template <typename T, int N>
__device__ inline cuda_normaliser<T> cuda_with(cuda_normaliser<T> before, const cuda_pack<T, N> &x) {
    T maximum = before.maximum;
    for (T number : x.at) maximum = std::fmax(maximum, number);
    const T m = cuda_base(maximum);
    T sum = before.sum * std::exp(before.maximum - m);
    for (T number : x.at) sum += std::exp(number - m);
    return {maximum, sum};
}

#endif
