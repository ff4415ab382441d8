/* The CUDA runtime for the CUDA backend's sources compiled by the host's compiler: kernels run on the CPU
 * (kernel.h), and device memory cannot be touched by the host except while they do (memory.h).
 *
 * Streams are queues (stream.h). Memory of the host that is not pinned is read, or written, before a copy
 * returns, as CUDA has it. Wrong use
 * of the runtime (a pointer that is not of the device, more bytes than there are, a stream that is none) ends
 * the process with a line that says so, where CUDA would return an error or do harm. Two devices, and a
 * stream is one of the device that was the thread's when it was made. Device 0 has pools of memory. */
#ifndef HEED_TESTS_CUDA_EMULATED_RUNTIME_H
#define HEED_TESTS_CUDA_EMULATED_RUNTIME_H

#include "emulated/kernel.h"

#ifndef CUDART_VERSION
#define CUDART_VERSION 13000
#endif

#define HEED_START(kernel, grid, block, shared, stream, ...)                                                 \
    EMULATED_LAUNCH(kernel, grid, block, shared, stream, __VA_ARGS__)
#define HEED_SHARED(type, name, count) EMULATED_SHARED(type, name, count)
#define HEED_DYNAMIC_SHARED(type, name) EMULATED_DYNAMIC_SHARED(type, name)

extern "C" {
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *kind);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value);
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool);
cudaError_t cudaMallocFromPoolAsync(void **memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream);
cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream);
cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *options,
                                void **values, unsigned count, enum cudaLibraryOption *library_options,
                                void **library_values, unsigned library_count);
cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name);
cudaError_t cudaLibraryUnload(cudaLibrary_t library);
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value);
}

/* As CUDA's own header has it: for a kernel's name. */
template <typename Kernel>
static inline cudaError_t cudaFuncSetAttribute(Kernel *kernel, enum cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

#endif
