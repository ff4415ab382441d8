/* What kernels see: CUDA's language, heed's argument structs, errors that kernels find, who owns which
 * element. Nothing of the host: NVRTC reads this too (choice.cuh).
 *
 * The same sources are compiled by nvcc and, with HEED_EMULATED, by the host's compiler against an emulation
 * of kernels on the CPU (tests/cuda/emulated). So kernels use the macros below for what the emulation must
 * see. */
#ifndef HEED_SRC_BACKEND_CUDA_KERNEL_CUH
#define HEED_SRC_BACKEND_CUDA_KERNEL_CUH

#ifdef HEED_EMULATED
#include "emulated/runtime.h"
#else
#ifndef __CUDACC_RTC__
#include <cuda_runtime.h>
#endif
/* kernel<<<grid, block, bytes of dynamic shared memory, stream>>>(…) */
#define HEED_START(kernel, grid, block, shared, stream, ...)                                                 \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
/* An array of a block's threads: HEED_SHARED(float, name, 256). */
#define HEED_SHARED(type, name, count) __shared__ type name[count]
/* The dynamic shared memory, aligned to 16 bytes. */
#define HEED_DYNAMIC_SHARED(type, name)                                                                      \
    extern __shared__ __align__(16) unsigned char heed_dynamic_shared[];                                     \
    type *name = reinterpret_cast<type *>(heed_dynamic_shared)
#endif

extern "C" {
#include "backend/primitives.h"
}

enum { HEED_WARP = 32 };

/* ---- errors that kernels find ---- */

/* What `detail` holds, each says. */
enum cuda_fault {
    CUDA_FAULT_NONE,
    CUDA_FAULT_INDEX,    /* detail: the index, the number of things there are */
    CUDA_FAULT_TARGET,   /* detail: the class, the number of classes */
    CUDA_FAULT_GRADIENT, /* detail: the number of the first bad item, the ticket of the norm */
    CUDA_FAULT_LOSS,     /* detail: the bits of a double, the step */
    CUDA_FAULTS
};

/* The error word: of the first fault only. In device memory. */
struct cuda_fault_word {
    unsigned fault; /* enum cuda_fault */
    unsigned primitive;
    long long detail[2];
    int norm; /* 1 + the ticket of the first norm that was found since: no step from that one on changes
                 anything. 0: none was */
};

/* Keeps a fault if it is the first. */
static __device__ inline void cuda_raise(struct cuda_fault_word *word, enum cuda_fault fault,
                                         enum heed_primitive primitive, long long a, long long b) {
    if (atomicCAS(&word->fault, (unsigned)CUDA_FAULT_NONE, (unsigned)fault) != CUDA_FAULT_NONE) return;
    word->primitive = (unsigned)primitive;
    word->detail[0] = a;
    word->detail[1] = b;
}

/* ---- elements ---- */

/* for (int64_t i = CUDA_FIRST; i < count; i += CUDA_STEP): all elements, neighbours by neighbouring threads.
 */
#define CUDA_FIRST ((int64_t)blockIdx.x * blockDim.x + threadIdx.x)
#define CUDA_STEP ((int64_t)gridDim.x * blockDim.x)

#endif
