/**
 * @file tensor.h
 * @brief Making tensors, reading and writing them, looking at them in another shape.
 *
 * A tensor made by a function of this page belongs to the innermost scope of its context.
 * Dimensions count from 0; negative ones count from the end. Sizes may be 0 everywhere.
 */
#ifndef HEED_TENSOR_H
#define HEED_TENSOR_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- making ---- */

/** A copy of row-major C data. @param data product(sizes) elements of `dtype` */
HEED_API heed_tensor heed_from(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes,
                               const void *data);

/** All zeros. */
HEED_API heed_tensor heed_zeros(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes);

/** All `value` (converted to dtype; for bool any value but 0 is 1). */
HEED_API heed_tensor heed_full(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double value);

/** 0, 1, …, count − 1. Not for bool. */
HEED_API heed_tensor heed_arange(heed_ctx *ctx, heed_dtype dtype, int64_t count);

/** Independent normal numbers, f32 or f64 (Philox4x32-10, Salmon et al. 2011; Box–Muller 1958).
 *  @param deviation ≥ 0 */
HEED_API heed_tensor heed_normal(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double mean,
                                 double deviation);

/** Independent uniform numbers in [low, high), f32 or f64; the same bits on every backend. low ≤ high. */
HEED_API heed_tensor heed_uniform(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double low,
                                  double high);

/* ---- asking ---- */

/** The context; for a none or stale handle the inert context, whose error says so. Never NULL. */
HEED_API heed_ctx *heed_context(heed_tensor t);

/** Whether the handle is of a living tensor that is not inert. Reports no error. */
HEED_API bool heed_is_valid(heed_tensor t);

/** The number of dimensions; −1 for a tensor that is not valid. */
HEED_API int heed_rank(heed_tensor t);

/** The size of one dimension; −1 for a tensor that is not valid or a dimension out of range. */
HEED_API int64_t heed_size(heed_tensor t, int dim);

/** The number of elements; −1 for a tensor that is not valid. */
HEED_API int64_t heed_count(heed_tensor t);

/** The dtype; HEED_F32 for a tensor that is not valid. */
HEED_API heed_dtype heed_dtype_of(heed_tensor t);

/** Whether elements lie in row-major order without gaps. */
HEED_API bool heed_is_contiguous(heed_tensor t);

/* ---- C memory ---- */

/** Copies all elements out, row-major, in the tensor's dtype. @param bytes must be count × element size; in
 *  mixed precision a bf16 tensor is read as f32 where that many bytes are given */
HEED_API heed_status heed_read(heed_tensor t, void *data, size_t bytes);

/**
 * Overwrites all elements from row-major C data of the tensor's dtype. Only for tensors that no
 * recorded operation made (leaves: parameters, inputs); a backward that still needs the old values
 * fails with HEED_ERROR_STATE.
 */
HEED_API heed_status heed_write(heed_tensor t, const void *data, size_t bytes);

/** The value of a tensor of one element, any dtype; NaN (and an error) for others. */
HEED_API double heed_item(heed_tensor t);

/** One element by its indices, one per dimension; NaN (and an error) if out of range. */
HEED_API double heed_at(heed_tensor t, int rank, const int64_t *index);

/* ---- keeping ---- */

/** A new, detached, contiguous tensor with the same values that belongs to the caller: heed_free(). */
HEED_API heed_tensor heed_keep(heed_tensor t);

/** Ends a tensor before its scope does, or one from heed_keep(). None and stale handles are fine. */
HEED_API void heed_free(heed_tensor t);

/** The same elements as a leaf that no gradient flows through. */
HEED_API heed_tensor heed_detach(heed_tensor t);

/* ---- views: the same elements in another shape, without a copy; gradients flow through all ---- */

/** The same elements in row-major order under new sizes, one of which may be −1 (inferred). A view where
 *  the strides allow it, else a copy. */
HEED_API heed_tensor heed_reshape(heed_tensor t, int rank, const int64_t *sizes);

/** Dimension i of the result is dimension dims[i] of t. @param rank must be t's */
HEED_API heed_tensor heed_permute(heed_tensor t, int rank, const int *dims);

/** Two dimensions exchanged. */
HEED_API heed_tensor heed_transpose(heed_tensor t, int dim0, int dim1);

/** Indices start, start + step, … < stop of one dimension. Negative start and stop count from the end;
 *  both are clipped to the dimension as in Python. step ≥ 1. */
HEED_API heed_tensor heed_slice(heed_tensor t, int dim, int64_t start, int64_t stop, int64_t step);

/** Repeats dimensions of size 1, and new leading ones, to the given sizes (NumPy's rules). */
HEED_API heed_tensor heed_broadcast(heed_tensor t, int rank, const int64_t *sizes);

/** Drops a dimension of size 1. */
HEED_API heed_tensor heed_squeeze(heed_tensor t, int dim);

/** Adds a dimension of size 1 before `dim` (−1: at the end). */
HEED_API heed_tensor heed_unsqueeze(heed_tensor t, int dim);

/** The same elements in row-major order: t itself if they already are, else a copy. */
HEED_API heed_tensor heed_contiguous(heed_tensor t);

/** Another dtype. Floats become i32 by truncation (NaN 0, clamped), bool by ≠ 0. Gradients flow
 *  between float dtypes only. */
HEED_API heed_tensor heed_cast(heed_tensor t, heed_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
