/* Kernels that are compiled when they are first needed, with what is known then.
 *
 * A program is known by a hash of the architecture, of NVRTC's version and options, of the embedded sources
 * and of what is its own. It is looked for in the context (at most 64, the one longest unused makes room),
 * then on disk (code_cache.cuh), then compiled (nvrtc.cuh). What cannot be had is remembered as that, with
 * the reason. Nothing is shared between contexts but the files. */
#ifndef HEED_SRC_BACKEND_CUDA_SPECIALISE_CUH
#define HEED_SRC_BACKEND_CUDA_SPECIALISE_CUH

#include "backend/cuda/code_cache.cuh"

/* A program: what distinguishes it from others, and its text, which is asked for only if it is compiled. The
 * text is a block of the context's; NULL: there is no memory for it. */
struct cuda_program {
    struct cuda_hash own;
    char *(*text)(struct heed_exec *exec, const void *self);
    const void *self;
};

/* The kernel of this name. NULL if there is none: *why has the reason, which lives as long as the next call.
 */
cudaKernel_t cuda_special_kernel(struct heed_exec *exec, const struct cuda_program *program, const char *name,
                                 const char **why);

/* Whether general kernels are to be replaced by specialised ones; HEED_CUDA_SPECIALISE=0 says no. Where there
 * is no general one, only what must be known is then compiled in. */
bool cuda_special_wanted(const struct heed_exec *exec);

/* A line for heed_explain. Returns bytes as snprintf. */
size_t cuda_special_describe(const struct cuda_device *device, char *text, size_t size);

/* Gives all back; nothing of it may be running. */
void cuda_special_close(struct cuda_device *device);

#endif
