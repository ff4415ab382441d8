/* NVIDIA's compiler at run time. It is looked for when it is first needed: whoever does not need it need not
 * have it. */
#ifndef HEED_SRC_BACKEND_CUDA_NVRTC_CUH
#define HEED_SRC_BACKEND_CUDA_NVRTC_CUH

#include "backend/cuda/device.cuh"

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
 * `log` NULL, or gets what the assembler says of registers and memory: a block of the context's, maybe NULL.
 */
bool cuda_nvrtc_compile(struct heed_exec *exec, const char *program, int architecture,
                        struct cuda_image *image, char *why, char **log);

/* What libnvrtc.so is called; HEED_NVRTC overrides it. */
const char *cuda_nvrtc_name();

#endif
