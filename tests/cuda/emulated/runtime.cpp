/* Device memory is pages that the host may not touch; it is filled with NaN when it is given out. */
#include "emulated/runtime.h"

#include <map>

static std::map<void *, size_t> chunks;
static int inside;

enum { PAGE = 4096 };

static void protect(int rights) {
    for (const auto &chunk : chunks) mprotect(chunk.first, chunk.second, rights);
}

void emulated_enter() {
    if (inside++ == 0) protect(PROT_READ | PROT_WRITE);
}

void emulated_leave() {
    if (--inside == 0) protect(PROT_NONE);
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device < 2 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated %d", device);
    properties->multiProcessorCount = 2;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorMemoryAllocation ? "out of memory" : "emulated error";
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    void *pages = mmap(NULL, bytes, inside ? PROT_READ | PROT_WRITE : PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
    chunks[pages] = bytes;
    *memory = pages;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    const auto found = chunks.find(memory);
    if (found == chunks.end()) return memory ? cudaErrorInvalidValue : cudaSuccess;
    munmap(memory, found->second);
    chunks.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes) {
    *free_bytes = *all_bytes = (size_t)1 << 30;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t) {
    emulated_enter();
    memset(to, byte, bytes);
    emulated_leave();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind, cudaStream_t) {
    emulated_enter();
    memcpy(to, from, bytes);
    emulated_leave();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    static char streams[2];
    *stream = reinterpret_cast<cudaStream_t>(streams);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}
}
