/* What libraries made by nvcc call for their kernels, beside the runtime's public functions: so the backend
 * as it is shipped, unchanged, runs on the emulation, its kernels by their twins (emulated/twin.h). */
#include "emulated/library.h"
#include "emulated/memory.h"
#include "emulated/runtime.h"
#include "emulated/twin.h"

#include <vector>

using namespace emulated;

/* Of the launch that is being written: <<<…>>> and the call are two calls here. */
struct configuration {
    dim3 grid, block;
    size_t shared;
    void *stream;
};
static thread_local std::vector<configuration> configurations;

extern "C" {

void **__cudaRegisterFatBinary(void *) {
    static void *handle;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void **) {
}
void __cudaUnregisterFatBinary(void **) {
}
char __cudaInitModule(void **) {
    return 1;
}

void __cudaRegisterFunction(void **, const char *function, char *, const char *name, int, uint3 *, uint3 *,
                            dim3 *, dim3 *, int *) {
    kernel_add(function, name, twin_find(name));
}

void __cudaRegisterVar(void **, char *, char *, const char *name, int, size_t, int, int) {
    fail("%s: variables in device memory are not emulated", name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (configurations.empty()) fail("a launch without a configuration");
    const configuration c = configurations.back();
    configurations.pop_back();
    *grid = c.grid;
    *block = c.block;
    *shared = c.shared;
    *static_cast<void **>(stream) = c.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(void **kernel, const void *function) {
    *kernel = const_cast<void *>(function);
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **given, size_t shared,
                               cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, given, shared, stream);
}
}
