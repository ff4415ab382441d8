/* Numbers of bf16 in kernels: memory holds them, f32 computes with them (tensor/bf16.h says how they round).
 */
#ifndef HEED_SRC_BACKEND_CUDA_BF16_CUH
#define HEED_SRC_BACKEND_CUDA_BF16_CUH

#include "backend/cuda/device.cuh"
#include "tensor/bf16.h"

struct cuda_bf16 {
    uint16_t bits;

    cuda_bf16() = default;
    HEED_EVERYWHERE inline explicit cuda_bf16(float number) : bits(heed_bf16_of(number)) {
    }
    /* Of any other number, rounded once. */
    template <typename N>
    HEED_EVERYWHERE inline explicit cuda_bf16(N number) : bits(heed_bf16_of_double((double)number)) {
    }
    HEED_EVERYWHERE inline operator float() const {
        return heed_bf16_value(bits);
    }
};

/* What kernels compute with, of elements of T. */
template <typename T> struct cuda_computed { typedef T type; };
template <> struct cuda_computed<cuda_bf16> { typedef float type; };

#endif
