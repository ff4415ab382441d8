/* The CUDA runtime for the CUDA backend's sources compiled by the host's compiler: kernels run on the CPU
 * (kernel.h), and device memory cannot be touched by the host except while they do. */
#ifndef HEED_TESTS_CUDA_EMULATED_RUNTIME_H
#define HEED_TESTS_CUDA_EMULATED_RUNTIME_H

#include "emulated/kernel.h"
#include "emulated/math.h"

#include <driver_types.h>

/* A parameter of a kernel that is read where it lies. */
#undef __grid_constant__
#define __grid_constant__

/* Device memory is open between these two; they nest. */
void emulated_enter();
void emulated_leave();

#define HEED_START(kernel, grid, block, shared, stream, ...)                                                 \
    do {                                                                                                     \
        emulated_enter();                                                                                    \
        CU_LAUNCH((kernel), grid, block, shared, stream, __VA_ARGS__);                                       \
        emulated_leave();                                                                                    \
    } while (0)
#define HEED_SHARED(type, name, count) CU_SMEM(type, name, count)
#define HEED_DYNAMIC_SHARED(type, name) CU_DYN_SMEM(type, name)

extern "C" {
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDriverGetVersion(int *version);
}

#endif
