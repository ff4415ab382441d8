/* bf16 on the CPU: conversion of lines, and kernels of f32 for operands of which some are bf16 (bf16.c). */
#ifndef HEED_SRC_BACKEND_CPU_BF16_H
#define HEED_SRC_BACKEND_CPU_BF16_H

#include "backend/cpu/cpu.h"

struct heed_bf16_vectors {
    void (*widen)(int64_t n, const uint16_t *x, float *y);
    void (*round)(int64_t n, const float *x, uint16_t *y); /* to nearest even; NaN stays NaN */
};
HEED_CPU_TABLE(bf16)

#endif
