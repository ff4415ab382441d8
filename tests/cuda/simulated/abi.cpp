/* What libraries made by nvcc call for their kernels, beside the runtime's public functions: so the backend
 * as it is shipped, unchanged, runs on the emulation, its kernels by their twins (emulated/twin.h). */
#include "emulated/memory.h"
#include "emulated/runtime.h"
#include "emulated/twin.h"

#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

using namespace emulated;

/* Of the launch that is being written: <<<…>>> and the call are two calls here. */
struct configuration {
    dim3 grid, block;
    size_t shared;
    void *stream;
};
static thread_local std::vector<configuration> configurations;

/* Names by the function on the host that stands for the kernel. */
static std::map<const void *, const char *> &names() {
    static std::map<const void *, const char *> all;
    return all;
}

/* Copies of a kernel's parameters, each where any type may lie. */
class parameters {
    static constexpr size_t ALIGNMENT = 64;
    std::vector<void *> at;
    void *copies;

  public:
    parameters(const twin &kernel, void *const *given) : at((size_t)kernel.parameters), copies(NULL) {
        size_t all = 0;
        const auto end = [](size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; };
        for (int i = 0; i < kernel.parameters; i++) all += end(kernel.bytes[i]);
        copies = aligned_alloc(ALIGNMENT, all ? all : ALIGNMENT);
        if (!copies) fail("no memory");
        char *next = static_cast<char *>(copies);
        for (int i = 0; i < kernel.parameters; i++, next += end(kernel.bytes[i - 1])) {
            memcpy(next, given[i], kernel.bytes[i]);
            at[(size_t)i] = next;
        }
    }
    ~parameters() {
        free(copies);
    }
    parameters(const parameters &) = delete;
    void *const *list() const {
        return at.data();
    }
};

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
    names()[function] = name;
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

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **given, size_t shared,
                             cudaStream_t stream) {
    const auto found = names().find(function);
    if (found == names().end()) fail("%p is no kernel", function);
    const char *name = found->second;
    const twin *kernel = twin_find(name);
    if (!kernel) fail("no twin of %s", name);
    if (!may_launch(name, stream)) return cudaErrorLaunchOutOfResources;
    const auto own = std::make_shared<parameters>(*kernel, given);
    kernel->check(name, own->list());
    const size_t allowed = shared_allowed(function);
    stream_do(stream, [=] { launch_run({name, grid, block, shared, allowed, kernel->run, own->list()}); });
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **given, size_t shared,
                               cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, given, shared, stream);
}
}
