/* Attention that cuDNN refuses: a plain problem, changed. */
#ifndef HEED_TESTS_CUDA_CUDNN_REFUSALS_H
#define HEED_TESTS_CUDA_CUDNN_REFUSALS_H

#include "backend/primitives.h"

struct cudnn_refusal {
    const char *part; /* of the reason */
    void (*change)(struct heed_attention_args *a);
};

enum { CUDNN_REFUSALS = 24 };
extern const struct cudnn_refusal cudnn_refusals[CUDNN_REFUSALS];

#endif
