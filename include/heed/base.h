/**
 * @file base.h
 * @brief The words every other header uses: export macro, version, status codes, dtypes, handles.
 */
#ifndef HEED_BASE_H
#define HEED_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
/** Marks what the shared library exports; everything else is hidden. */
#define HEED_API __attribute__((visibility("default")))
#else
#define HEED_API
#endif

/** The version of the interface these headers describe. */
#define HEED_VERSION_MAJOR 0
/** Likewise. */
#define HEED_VERSION_MINOR 1
/** Likewise. */
#define HEED_VERSION_PATCH 0

/** The largest number of dimensions of a tensor. */
#define HEED_MAX_RANK 8

/** Every status: the name of the constant, and the words that heed_status_text() gives for it. */
#define HEED_STATUS_LIST(X)                                                                                  \
    X(HEED_OK, "ok")                                                                                         \
    X(HEED_ERROR_ARGUMENT, "bad argument")                                                                   \
    X(HEED_ERROR_SHAPE, "shapes do not match")                                                               \
    X(HEED_ERROR_DTYPE, "dtypes do not match")                                                               \
    X(HEED_ERROR_STALE, "handle outlived its scope")                                                         \
    X(HEED_ERROR_CONTEXT, "tensors of different contexts")                                                   \
    X(HEED_ERROR_STATE, "called at the wrong time")                                                          \
    X(HEED_ERROR_THREAD, "context used by two threads at once")                                              \
    X(HEED_ERROR_MEMORY, "out of memory")                                                                    \
    X(HEED_ERROR_GRADIENT, "no gradient")                                                                    \
    X(HEED_ERROR_NUMERIC, "not a finite number")                                                             \
    X(HEED_ERROR_DEVICE, "device unavailable")                                                               \
    X(HEED_ERROR_UNSUPPORTED, "not supported")                                                               \
    X(HEED_ERROR_IO, "input or output failed")                                                               \
    X(HEED_ERROR_FORMAT, "malformed file")                                                                   \
    X(HEED_ERROR_INTERNAL, "internal error")

/** What a function reports. HEED_OK is zero; everything else is an error. */
typedef enum heed_status {
#define HEED_STATUS_ENUM(name, text) name,
    HEED_STATUS_LIST(HEED_STATUS_ENUM)
#undef HEED_STATUS_ENUM
} heed_status;

/** The type of a tensor's elements. Zero is f32, the default everywhere. */
typedef enum heed_dtype {
    HEED_F32 = 0,  /**< IEEE binary32 */
    HEED_F64 = 1,  /**< IEEE binary64; on the device "cpu" every operation runs on the reference kernels */
    HEED_BF16 = 2, /**< bfloat16, the upper half of an f32: 8 bits of precision, f32's range */
    HEED_I32 = 3,  /**< 32-bit signed integers: class indices, lengths */
    HEED_BOOL = 4  /**< one byte, 0 or 1; in masks 1 says "may attend" */
} heed_dtype;

struct heed_node;

/** A context: memory, threads, tape, random numbers, the first error. One thread at a time. */
typedef struct heed_ctx heed_ctx;

/**
 * A tensor is a small value, passed and returned by copy. `(heed_tensor){0}` means "none" where an
 * argument is optional. A handle that outlived its scope is recognised (HEED_ERROR_STALE) for as
 * long as its context lives.
 */
typedef struct heed_tensor {
    struct heed_node *node; /**< internal */
    uint64_t serial;        /**< internal: tells a live handle from a stale one */
} heed_tensor;

/** A node of the module tree: a layer or a model. */
typedef struct heed_module heed_module;

/** An optimiser with its state. */
typedef struct heed_optim heed_optim;

/** What happens to attention scores before the softmax: stages and a mask. */
typedef struct heed_score heed_score;

/** Which queries may attend to which keys: a small immutable object. */
typedef struct heed_mask heed_mask;

/** Keys and values of earlier positions. */
typedef struct heed_cache heed_cache;

/** One cache for each layer of a GPT. */
typedef struct heed_gpt_cache heed_gpt_cache;

/** The version of the library that is linked, e.g. "0.1.0". The string is static. */
HEED_API const char *heed_version(void);

/** The words of a status ("shapes do not match"). The string is static; never NULL. */
HEED_API const char *heed_status_text(heed_status status);

/** The name of a dtype ("f32"); "?" for a value that is none. The string is static. */
HEED_API const char *heed_dtype_name(heed_dtype dtype);

/** Bytes of one element; 0 for a value that is no dtype. */
HEED_API size_t heed_dtype_bytes(heed_dtype dtype);

/** Whether this is the handle `(heed_tensor){0}`, "no tensor". */
static inline bool heed_is_none(heed_tensor t) {
    return t.node == NULL;
}

/** A list of sizes as the two arguments "rank, sizes": `heed_zeros(ctx, HEED_F32, HEED_SHAPE(2, 3))`. */
#define HEED_SHAPE(...)                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                           \
        __VA_ARGS__                                                                                          \
    }

/** The shape of a scalar, as the two arguments "rank, sizes". */
#define HEED_SCALAR 0, NULL

/** A list of dimensions as the two arguments "count, dims": `heed_sum(x, HEED_DIMS(0, 1), false)`. */
#define HEED_DIMS(...)                                                                                       \
    (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), (const int[]) {                                       \
        __VA_ARGS__                                                                                          \
    }

/** All dimensions, as the two arguments "count, dims". */
#define HEED_ALL 0, NULL

#ifdef __cplusplus
}
#endif
#endif
