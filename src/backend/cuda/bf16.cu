/* Kernels of f32 for operands of which some are bf16 (backend/widened.h), behind those that read bf16
 * themselves. Memory traffic: 6 bytes for each element that is read or written, beside what the kernel of f32
 * moves. */
#include "backend/cuda/device.cuh"

extern "C" {
#include "backend/widened.h"
}

#define KERNEL_FORWARD(name, primitive)                                                                      \
    HEED_WIDENED(name, HEED_PRIMITIVE_##primitive, heed_cuda_##name, heed_cuda_copy)                         \
    const struct heed_kernel heed_cuda_##name##_bf16 = {"cuda-bf16", name##_applies, name##_sizes,           \
                                                        name##_forward};

#define KERNEL(name, primitive)                                                                              \
    HEED_WIDENED(name, HEED_PRIMITIVE_##primitive, heed_cuda_##name, heed_cuda_copy)                         \
    HEED_WIDENED_BACKWARD(name)                                                                              \
    const struct heed_kernel heed_cuda_##name##_bf16 = {"cuda-bf16", name##_applies, name##_sizes,           \
                                                        name##_forward, name##_backward};

KERNEL_FORWARD(argmax, ARGMAX)
KERNEL(attention, ATTENTION)
KERNEL(binary, BINARY)
KERNEL_FORWARD(copy, COPY)
KERNEL(cross_entropy, CROSS_ENTROPY)
KERNEL(dropout, DROPOUT)
KERNEL(gather, GATHER)
KERNEL(norm, NORM)
KERNEL(pair_loss, PAIR_LOSS)
KERNEL(reduce, REDUCE)
KERNEL(residual_norm, RESIDUAL_NORM)
KERNEL(rotary, ROTARY)
KERNEL(softmax, SOFTMAX)
KERNEL(unary, UNARY)
KERNEL(where, WHERE)
