/**
 * @file context.h
 * @brief Contexts, errors, steps and scopes.
 *
 * Errors are values that flow. An operation that fails returns an inert tensor, the context keeps
 * the *first* error, and every later operation of that context does nothing, so that a program asks
 * once, at the end of a step. No function of the library aborts, exits or prints.
 *
 * An operation all of whose tensors are none has no context to tell: its error is kept by the context of the
 * first tensor that its result meets, and lost if it meets none.
 */
#ifndef HEED_CONTEXT_H
#define HEED_CONTEXT_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where a context takes its memory from. Called only from the thread that uses the context. */
typedef struct heed_allocator {
    void *(*alloc)(void *user, size_t bytes); /**< NULL when there is none; aligned as by malloc */
    void (*free)(void *user, void *memory, size_t bytes); /**< bytes: as they were asked for */
    void *user;                                           /**< handed to both */
} heed_allocator;

/** Options of heed_ctx_new(). Zero is the default of each. */
typedef struct heed_ctx_options {
    const char *device;       /**< "cpu" (default); "ref", the plain specification; "cuda" or "cuda:1", a GPU:
                                   backend NAME is libheed_NAME.so, sought in $HEED_BACKEND_PATH if that is
                                   set, else beside libheed and where the system looks */
    uint64_t seed;            /**< of all random numbers */
    int threads;              /**< 0: as many as the process may use; at most 256 */
    heed_allocator allocator; /**< default: malloc and free */
    size_t chunk_bytes;       /**< asked of the allocator at a time (default 64 MiB, then doubling, of which
                                   pages never touched cost nothing); 1 makes every block a call of its own */
    bool strict;              /**< an operation that only the reference kernels can do is an error */
    bool poison;              /**< for tests: fills memory with NaN before and after use */
    heed_dtype precision;     /**< HEED_F32 (default): every operation in the dtype of its inputs; HEED_BF16:
                                   mixed precision, see below */
    bool any_dropout;         /**< attention's dropout may use random numbers of a library's own where that is
                                   faster (cuDNN, in bf16): the same again for a seed on one device and library
                                   version, but other weights are dropped than by heed's kernels and on other
                                   devices */
    uint64_t reserved[6];     /**< must be zero */
} heed_ctx_options;

/**
 * @page precision Mixed precision
 *
 * With `.precision = HEED_BF16` the same program computes with bf16 where that is safe. Parameters, their
 * gradients and the optimiser's state stay f32, and so do checkpoints; tensors of f64 and whole numbers are
 * left alone. Every operation accumulates in f32 or better and rounds its result once, to nearest even.
 *
 * - Matrix products (heed_matmul(), heed_linear(), attention's q, k, v, multi-head attention) read f32 as
 *   bf16 and give bf16. The bf16 copy of a parameter is made once after each change of it.
 * - Norms, rotary positions and embeddings give bf16; mean, deviation, scale and shift of a norm are f32.
 * - Softmax, sums and means, losses, attention's weights and log-sum-exp are f32.
 * - Other operations follow their inputs. f32 and bf16 may meet, and give f32; but a module's parameter meets
 *   what it is given: bf16 with a parameter is bf16.
 * - heed_read() of a bf16 tensor gives f32 where that many bytes are asked for; heed_custom_op() is given
 *   f32; caches are bf16 unless they are f64.
 *
 * A gradient has the dtype of its tensor. heed_explain() tells the precision. The devices "cpu", "ref" and
 * "cuda" have it; on a backend without it it is HEED_ERROR_UNSUPPORTED.
 */

/**
 * Makes a context. @param options NULL for all defaults.
 * @return never NULL: what failed is told by heed_failed() and heed_error() of the result, which
 * also accept the inert context one gets when there is no memory at all. Free it either way.
 *
 * The first context of a process calls `openblas_set_num_threads(1)`, which acts on the whole
 * process: heed divides work over its own threads.
 */
HEED_API heed_ctx *heed_ctx_new(const heed_ctx_options *options);

/** Ends a context with everything it owns; modules and optimisers must be freed before. NULL is fine. */
HEED_API void heed_ctx_free(heed_ctx *ctx);

/** Whether an error is kept. True for NULL. */
HEED_API bool heed_failed(const heed_ctx *ctx);

/** The status of the first error, HEED_OK if there is none. */
HEED_API heed_status heed_error_status(const heed_ctx *ctx);

/** The first error in one line, e.g. `linear: x[8,64,384] does not match w[512,385]`; "" if there is
 *  none. Belongs to the context and lives until the error is cleared. Of an error that arose while a module
 *  ran it begins with the innermost module: `layers.1 (Dense): linear: …`. */
HEED_API const char *heed_error(const heed_ctx *ctx);

/** Forgets the error, together with the tape and gradients half made. Parameters are untouched. A step that
 * is running goes on and is still to be ended. */
HEED_API void heed_error_clear(heed_ctx *ctx);

/** Puts a custom error into the context (kept if it is the first); returns `status`.
 *  For layers and operations outside the library. @param where the operation's name */
HEED_API heed_status heed_error_set(heed_ctx *ctx, heed_status status, const char *where,
                                    const char *message);

/** Flags of a step. */
enum {
    HEED_EVAL = 0,                         /**< no tape, no dropout */
    HEED_RECORD = 1,                       /**< operations are recorded for heed_backward() */
    HEED_RANDOM = 2,                       /**< dropout acts */
    HEED_TRAIN = HEED_RECORD | HEED_RANDOM /**< both */
};

/**
 * Begins a step: a scope with its own tape. Steps do not nest (HEED_ERROR_STATE).
 * Outside a step operations work too, without tape and dropout; what they make then lives until it
 * is given to heed_free() or the context ends.
 */
HEED_API heed_status heed_step_begin(heed_ctx *ctx, unsigned flags);

/** Ends the step, its scopes and its tape. @return the status of the first error kept. */
HEED_API heed_status heed_step_end(heed_ctx *ctx);

/**
 * Waits until all queued work of the device is done. On a device that runs asynchronously heed_step_end()
 * reports only errors known by then; this reports all of them.
 * @return the status of the first error kept
 */
HEED_API heed_status heed_sync(heed_ctx *ctx);

/** Whether a step has begun and not ended. False for NULL. */
HEED_API bool heed_in_step(const heed_ctx *ctx);

/** Begins a scope inside the current one: what operations make now ends with it. */
HEED_API heed_status heed_scope_begin(heed_ctx *ctx);

/** Ends the innermost scope begun by heed_scope_begin(). @param result handed to the outer scope, may
 *  be none. @return result, still valid */
HEED_API heed_tensor heed_scope_end(heed_ctx *ctx, heed_tensor result);

/** The state of the random numbers; saved and restored by checkpoints. */
typedef struct heed_random_state {
    uint64_t seed;        /**< the key */
    uint64_t step;        /**< training steps begun so far */
    uint64_t ordinal;     /**< random operations so far outside of steps */
    uint64_t reserved[5]; /**< zero */
} heed_random_state;

/** The state now; taken between steps. */
HEED_API heed_random_state heed_random_get(const heed_ctx *ctx);

/** Goes back to a state; HEED_ERROR_STATE inside a step. */
HEED_API heed_status heed_random_set(heed_ctx *ctx, const heed_random_state *state);

/** Memory of a context, in bytes: of the host and of its device together. */
typedef struct heed_memory_info {
    size_t in_use;   /**< in living blocks */
    size_t peak;     /**< the most ever in living blocks */
    size_t reserved; /**< taken from the allocator */
    uint64_t calls;  /**< of the allocator's alloc so far */
} heed_memory_info;

/** What the context's memory looks like now. With a device of its own memory `peak` is the sum of the two
 * peaks. */
HEED_API heed_memory_info heed_memory(const heed_ctx *ctx);

/**
 * Tells in words which backend, instruction set, BLAS core, threads and precision the context uses, and which
 * kernel last ran for each primitive, with the reasons why earlier candidates did not.
 * @param[out] text filled with at most `size` bytes, always terminated; may be NULL if size is 0
 * @return the bytes the whole text needs, without the terminator (as snprintf does)
 *
 * The environment variable HEED_LOG=1 makes heed_ctx_new() write the first lines of this to stderr;
 * it is the only case in which the library writes anywhere by itself.
 */
HEED_API size_t heed_explain(const heed_ctx *ctx, char *text, size_t size);

/** How often operations fell through to the reference kernels although the device is not "ref". */
HEED_API uint64_t heed_fallbacks(const heed_ctx *ctx);

#ifdef __cplusplus
}
#endif
#endif
