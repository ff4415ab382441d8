/* bf16 on the CPU: conversion of lines, and kernels of f32 for operands of which some are bf16 (bf16.c). */
#ifndef HEED_SRC_BACKEND_CPU_BF16_H
#define HEED_SRC_BACKEND_CPU_BF16_H

#include "backend/cpu/cpu.h"

struct heed_bf16_vectors {
    void (*widen)(int64_t n, const uint16_t *x, float *y);
    void (*round)(int64_t n, const float *x, uint16_t *y); /* to nearest even; NaN stays NaN */
    void (*round_in_place)(int64_t n, float *x);           /* to numbers of bf16, which stay f32 */
};
HEED_CPU_TABLE(bf16)

/* Each is the kernel of the same name for arguments of which some, not none, are bf16. */
extern const struct heed_kernel heed_cpu_copy_bf16;
extern const struct heed_kernel heed_cpu_unary_bf16;
extern const struct heed_kernel heed_cpu_binary_bf16;
extern const struct heed_kernel heed_cpu_where_bf16;
extern const struct heed_kernel heed_cpu_reduce_bf16;
extern const struct heed_kernel heed_cpu_argmax_bf16;
extern const struct heed_kernel heed_cpu_softmax_bf16;
extern const struct heed_kernel heed_cpu_norm_bf16;
extern const struct heed_kernel heed_cpu_residual_norm_bf16;
extern const struct heed_kernel heed_cpu_rotary_bf16;
extern const struct heed_kernel heed_cpu_matmul_bf16;
extern const struct heed_kernel heed_cpu_linear_bf16;
extern const struct heed_kernel heed_cpu_gather_bf16;
extern const struct heed_kernel heed_cpu_dropout_bf16;
extern const struct heed_kernel heed_cpu_cross_entropy_bf16;
extern const struct heed_kernel heed_cpu_pair_loss_bf16;
extern const struct heed_kernel heed_cpu_attention_short_bf16;
extern const struct heed_kernel heed_cpu_attention_decode_bf16;
extern const struct heed_kernel heed_cpu_attention_bf16;

#endif
