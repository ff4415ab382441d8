/* NVIDIA's compiler at run time. It is looked for when it is first needed: whoever does not need it need not
 * have it. */
#ifndef HEED_SRC_BACKEND_CUDA_NVRTC_CUH
#define HEED_SRC_BACKEND_CUDA_NVRTC_CUH

#include "backend/cuda/device.cuh"
#include "backend/cuda/hash.cuh"

enum { CUDA_WHY_BYTES = 240 };

/* A block of the context's. NULL: there is no memory, which is noted in the device. */
static inline void *cuda_code_block(struct heed_exec *exec, size_t bytes) {
    void *block = heed_host->block_new(exec->memory, bytes);
    if (!block) cuda_of(exec)->starved = true;
    return block;
}

/* Code for a device, in memory of the context. */
struct cuda_image {
    void *bytes;
    size_t size;
};

/* Compiles a program against the embedded sources for an architecture (90 is sm_90). False: there is no
 * image, and `why` (of CUDA_WHY_BYTES) has one line of the reason: that of NVRTC where the program is wrong.
 */
bool cuda_nvrtc_compile(struct heed_exec *exec, const char *program, int architecture,
                        struct cuda_image *image, char *why);

/* Its version, or why it is not there, for heed_explain; in CUDA_WHY_BYTES. */
void cuda_nvrtc_describe(char *text);

/* Adds what an image depends on beside its program: the version of the library, 0 where there is none, the
 * options that it is given, and the embedded sources. */
void cuda_nvrtc_add_to(struct cuda_hash *h);

#endif
