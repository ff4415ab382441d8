/* From the arguments of attention to a problem of cuDNN's. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_PROBLEM_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_PROBLEM_CUH

#include "backend/cuda/cudnn_attention.cuh"
#include "backend/cuda/device.cuh"

enum { DNN_VECTOR = 8 /* elements of 16 bytes */ };

/* Whether heed's rules are kept for these arguments, whatever cuDNN has plans for; else why not. */
bool dnn_keeps_rules(const struct heed_exec *exec, const struct heed_attention_args *a, struct heed_why *why);

/* The mask of key lengths among these arguments' masks; NULL: none. */
const struct heed_bound_mask *dnn_lengths_of(const struct heed_attention_args *a);

/* The problem of a call. Packed sequences are one of a batch of equal lengths. */
void dnn_problem_of(const struct heed_attention_args *a, bool backward, struct dnn_attention *p);

/* What backward will be, as far as forward knows: with all gradients, laid out as the tensors are. */
void dnn_expect_backward(const struct heed_attention_args *a, struct dnn_attention *p);

/* Rows that vectors of 16 bytes can be read from. */
bool dnn_is_laid_out(const struct heed_view *v);

/* Whether cuDNN may write a gradient where it belongs. */
bool dnn_is_direct(const struct heed_grad_view *g);

/* Strides of a contiguous tensor of these sizes. */
void dnn_set_dense(const struct heed_view *v, int64_t stride[3]);

#endif
