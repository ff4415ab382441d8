/* What the files of the CUDA backend share: the device of a context, launching kernels, strided views in
 * kernels.
 *
 * device.cu    the device: memory, copies, the error word
 * staging.cuh  the way between the host's memory and the device's
 * retired.cuh  what ends when the kernels that may need it are done
 * backend.cu   the table of kernels, and the plugin's entry
 * kernel.cuh   the language of kernels, and what of heed they see
 * walk.cuh     positions of strided views; pack.cuh: elements that are loaded together
 * bf16.cuh     numbers of bf16; bf16.cu: kernels of f32 for them
 * map.cuh      kernels that compute an element from elements
 * reduce.cuh   what threads of a group know together, and rows for groups
 * fold.cuh     sums and other reductions over dimensions; gradients that repeat
 * unary.cuh    functions of one number; philox.cuh: random numbers; softmax.cuh: normalisers
 * norm.cuh     norms of rows
 * items.cuh    lists of parameters for one launch
 * choice.cuh   what kernels may know when they are compiled; specialise.cuh: compiling them at run time, of
 * hash.cuh, nvrtc.cuh, code_cache.cuh, sources.cuh, rtc/ (headers for NVRTC)
 * product.cuh  matrix products; lt.cuh: by cuBLASLt, which lt_library.cuh opens
 * cudnn.cuh    cuDNN, in several files, of which it tells
 * NAME.cu      one primitive, or one family of them, each: the kernels with their formula and memory traffic,
 * when they apply, and their rows of the table
 *
 * All kernels of a context go to one stream, in order, and memory comes and goes in that order; the host
 * waits only to read. A kernel that finds an error (an index out of range, say) raises the context's error
 * word, which the host looks at when it waits; kernels of optimisers look at it too and then change nothing.
 */
#ifndef HEED_SRC_BACKEND_CUDA_DEVICE_CUH
#define HEED_SRC_BACKEND_CUDA_DEVICE_CUH

#include "backend/cuda/kernel.cuh"

#include "backend/cuda/retired.cuh"
#include "backend/cuda/staging.cuh"

extern "C" {
#include "backend/plugin.h"
#include "backend/views.h"
}

/* ---- the device of a context ---- */

struct cuda_lt;     /* lt.cu */
struct dnn_session; /* cudnn_plans.cu */

/* A norm of gradients that the host has not waited for, and who is to be told if it is not finite. */
struct cuda_watched_norm {
    struct heed_grad_witness *witness;
    int64_t step;
};

enum { CUDA_WATCHED_NORMS = 64 };

struct cuda_device {
    struct heed_exec *exec;
    int ordinal;
    cudaStream_t stream;
    cudaMemPool_t pool; /* NULL: the device has none */
    struct cuda_staging staging;
    struct cuda_retired retired;
    struct cuda_fault_word *fault;  /* in device memory */
    struct cuda_fault_word *seen;   /* what the host read of it: in pinned memory */
    struct cuda_lt *lt;             /* cuBLASLt, or why not */
    struct dnn_session *dnn;        /* cuDNN; NULL: nobody asked for it yet */
    struct cuda_specials *specials; /* specialise.cuh; NULL: none was asked for yet */
    int processors;                 /* streaming multiprocessors */
    int architecture;               /* 90: sm_90 */
    bool specialises;               /* HEED_CUDA_SPECIALISE is not 0 */
    bool starved;                   /* a block for specialised kernels could not be had */
    bool blocking;                  /* HEED_CUDA_BLOCKING=1: wait after every kernel, for debugging */
    struct cuda_watched_norm norm[CUDA_WATCHED_NORMS]; /* since the host waited last */
    int norms;
    char name[256];
};

extern const struct heed_services *heed_host;
extern const struct heed_device heed_cuda_device;

static inline struct cuda_device *cuda_of(const struct heed_exec *exec) {
    return static_cast<struct cuda_device *>(exec->remote.self);
}

/* The stream of a context, whose device is from now on that of the calling thread: contexts of several
 * devices may take turns there, with each other and with other users of CUDA. */
cudaStream_t cuda_stream(const struct cuda_device *device);

/* Reports a failed call of the runtime. */
heed_status cuda_check(struct heed_exec *exec, enum heed_primitive primitive, cudaError_t status);

/* After the kernels of a primitive were started. */
heed_status cuda_started(struct heed_exec *exec, enum heed_primitive primitive);

/* A ticket for a norm that is about to be found. The host does not run further ahead than there are tickets.
 */
heed_status cuda_watch_norm(struct heed_exec *exec, struct heed_grad_witness *witness, int64_t step,
                            int *ticket);

/* Starts a kernel on the context's stream. The kernel is named here and not chosen by a pointer: so the
 * emulation knows at compile time what there is to start. */
#define CUDA_RUN(exec, kernel, grid, block, shared, ...)                                                     \
    HEED_START(kernel, grid, block, shared, cuda_stream(cuda_of(exec)), __VA_ARGS__)

/* ---- shapes of launches ---- */

enum { CUDA_BLOCK = 256 };

/* Blocks of CUDA_BLOCK threads for so many elements, each thread striding over as many as it takes. They are
 * many times what runs at once, so that the last of them leave no multiprocessor idle for long. */
static inline unsigned cuda_blocks(const struct heed_exec *exec, int64_t elements) {
    const int64_t wanted = (elements + CUDA_BLOCK - 1) / CUDA_BLOCK;
    const int64_t most = (int64_t)cuda_of(exec)->processors * 64;
    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

/* Whether kernels of f32 and f64 compute in this dtype. */
static inline bool cuda_computes(heed_dtype dtype, struct heed_why *why) {
    if (dtype == HEED_F32 || dtype == HEED_F64) return true;
    why->reason = "dtype is neither f32 nor f64";
    return false;
}

/* Whether they take the arguments of a primitive that computes in `dtype`, of which none is bf16. */
static inline bool cuda_takes(enum heed_primitive primitive, const void *args, heed_dtype dtype,
                              struct heed_why *why) {
    if (!heed_args_have_bf16(primitive, args)) return cuda_computes(dtype, why);
    why->reason = "some of it is bf16";
    return false;
}

/* Whether they do, or read and write bf16 where all of them is. */
static inline bool cuda_takes_either(enum heed_primitive primitive, const void *args, heed_dtype dtype,
                                     struct heed_why *why) {
    if (heed_args_are_bf16(primitive, args) || cuda_takes(primitive, args, dtype, why)) return true;
    if (heed_args_have_bf16(primitive, args)) why->reason = "some of it is bf16, and some is not";
    return false;
}

/* ---- the table ---- */

/* Every kernel of the backend: its primitive, and what its name is behind heed_cuda_. Of several kernels of a
 * primitive the first that applies runs. Multi-head attention is heed's own composite of the others. */
#define HEED_CUDA_KERNELS(X)                                                                                 \
    X(ARGMAX, argmax)                                                                                        \
    X(ARGMAX, argmax_bf16)                                                                                   \
    X(ATTENTION, attention_cudnn)                                                                            \
    X(ATTENTION, attention)                                                                                  \
    X(ATTENTION, attention_bf16)                                                                             \
    X(BINARY, binary)                                                                                        \
    X(BINARY, binary_bf16)                                                                                   \
    X(COPY, copy)                                                                                            \
    X(COPY, copy_bf16)                                                                                       \
    X(CROSS_ENTROPY, cross_entropy)                                                                          \
    X(CROSS_ENTROPY, cross_entropy_bf16)                                                                     \
    X(DROPOUT, dropout)                                                                                      \
    X(DROPOUT, dropout_bf16)                                                                                 \
    X(FILL, fill)                                                                                            \
    X(GATHER, gather)                                                                                        \
    X(GATHER, gather_bf16)                                                                                   \
    X(GRAD_NORM, grad_norm)                                                                                  \
    X(LINEAR, linear_lt)                                                                                     \
    X(LINEAR, linear)                                                                                        \
    X(LOSS, loss)                                                                                            \
    X(MATMUL, matmul_lt)                                                                                     \
    X(MATMUL, matmul)                                                                                        \
    X(NORM, norm)                                                                                            \
    X(NORM, norm_bf16)                                                                                       \
    X(PAIR_LOSS, pair_loss)                                                                                  \
    X(PAIR_LOSS, pair_loss_bf16)                                                                             \
    X(RANDOM, random)                                                                                        \
    X(REDUCE, reduce)                                                                                        \
    X(REDUCE, reduce_bf16)                                                                                   \
    X(RESIDUAL_NORM, residual_norm)                                                                          \
    X(RESIDUAL_NORM, residual_norm_bf16)                                                                     \
    X(ROTARY, rotary)                                                                                        \
    X(ROTARY, rotary_bf16)                                                                                   \
    X(SOFTMAX, softmax)                                                                                      \
    X(SOFTMAX, softmax_bf16)                                                                                 \
    X(UNARY, unary)                                                                                          \
    X(UNARY, unary_bf16)                                                                                     \
    X(UPDATE, update)                                                                                        \
    X(WHERE, where)                                                                                          \
    X(WHERE, where_bf16)

#define HEED_CUDA_DECLARE(primitive, name) extern const struct heed_kernel heed_cuda_##name;
HEED_CUDA_KERNELS(HEED_CUDA_DECLARE)
#undef HEED_CUDA_DECLARE

#endif
