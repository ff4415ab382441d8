/**
 * @file autograd.h
 * @brief Backward, gradients, and custom operations.
 */
#ifndef HEED_AUTOGRAD_H
#define HEED_AUTOGRAD_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Options of heed_backward_with(). */
typedef struct heed_backward_options {
    heed_tensor gradient; /**< of the output, in its shape; none: 1, for a tensor of one element */
    bool retain;          /**< keep the graph for another backward; otherwise it is freed as it is used */
    uint64_t reserved[4]; /**< must be zero */
} heed_backward_options;

/** Gradients of a tensor of one element with respect to every leaf that asks for one. Added to what
 *  earlier calls left there. Does nothing after an error. A loss that is not finite is HEED_ERROR_NUMERIC,
 * with the number of training steps before this one, and leaves no gradient. On a device that runs behind the
 * host, that error comes when the host next waits for it, as those of heed_optim_step() do; until then no
 * step of an optimiser changes anything, and gradients that calls left before it are gone once it has come.
 */
HEED_API heed_status heed_backward(heed_tensor loss);

/** The same, of any tensor and with options. */
HEED_API heed_status heed_backward_with(heed_tensor output, const heed_backward_options *options);

/** Asks for the gradient of a leaf (f32, f64 or bf16, made by no recorded operation), or stops asking.
 *  Parameters of modules ask by themselves. */
HEED_API heed_status heed_require_grad(heed_tensor leaf, bool wanted);

/** Whether a gradient flows to this tensor: a leaf that asks, or made from one under HEED_RECORD. */
HEED_API bool heed_requires_grad(heed_tensor t);

/** The gradient a backward left at a leaf, as a tensor in its shape that changes with later backwards;
 *  none if there is none. Belongs to the innermost scope. */
HEED_API heed_tensor heed_grad(heed_tensor leaf);

/** Forgets the gradient of a leaf: the next backward writes instead of adding. */
HEED_API void heed_grad_clear(heed_tensor leaf);

/* ---- a custom operation ---- */

/** A tensor as raw memory: element (i, j, …) is at data[i·stride[0] + j·stride[1] + …]. */
typedef struct heed_raw {
    void *data;                    /**< NULL: not there, or not wanted */
    heed_dtype dtype;              /**< of the elements */
    int rank;                      /**< number of dimensions */
    int64_t size[HEED_MAX_RANK];   /**< elements per dimension */
    int64_t stride[HEED_MAX_RANK]; /**< in elements */
} heed_raw;

/** What the functions of a custom operation see: contiguous host memory, on every device. Where elements are
 *  elsewhere these are copies, and what is written goes back. */
typedef struct heed_custom_call {
    int inputs;               /**< how many tensors go in */
    int outputs;              /**< how many come out */
    const heed_raw *input;    /**< values; in backward too */
    const heed_raw *output;   /**< to be filled by forward; filled in backward */
    const heed_raw *d_output; /**< backward: gradients of the outputs; zeros where none arrived */
    const heed_raw *d_input;  /**< backward: zeroed, to be filled; data NULL where not wanted */
    void *user;               /**< from the options */
} heed_custom_call;

/** A custom operation: shapes in, memory to memory. */
typedef struct heed_custom_options {
    const char *name;         /**< for error messages; copied */
    int inputs;               /**< at most 16 */
    const heed_tensor *input; /**< none is allowed and gives data NULL */
    int outputs;              /**< at most 8 */
    const heed_raw *output;   /**< dtype, rank and size of each output; data and stride are ignored */
    /** Fills the outputs. Anything but HEED_OK becomes the context's error. Called on the caller's thread. */
    heed_status (*forward)(const heed_custom_call *call);
    /** Fills the wanted d_input. NULL: the operation has no gradient, and asking for it is an error. */
    heed_status (*backward)(const heed_custom_call *call);
    void *user;           /**< handed to both; must live until the step ends */
    uint64_t reserved[4]; /**< must be zero */
} heed_custom_options;

/** Runs a custom operation and records it. @param[out] result options->outputs handles, inert after an error
 */
HEED_API heed_status heed_custom_op(heed_ctx *ctx, const heed_custom_options *options, heed_tensor *result);

#ifdef __cplusplus
}
#endif
#endif
