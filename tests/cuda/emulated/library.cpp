/* Kernels that are loaded at run time. Their code is a shared object of the host's, as emulated/nvrtc.cpp
 * makes it: kernel NAME is the emulated::twin NAME_entry there, and all else it needs is in the library with
 * the emulation. */
#include "emulated/library.h"
#include "emulated/runtime.h"
#include "emulated/stream.h"
#include "emulated/twin.h"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <elf.h>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

using namespace emulated;

static std::set<cudaLibrary_t> libraries;

/* Where a shared object ends: at its table of sections. */
static size_t object_bytes(const void *code) {
    const Elf64_Ehdr *header = static_cast<const Elf64_Ehdr *>(code);
    return header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
}

/* dlopen wants a file. */
static void *open_object(const void *code) {
    char path[] = "/tmp/heed-emulated-XXXXXX";
    if (memcmp(code, ELFMAG, SELFMAG) != 0) return NULL; /* of no code there are as many bytes */
    const int file = mkstemp(path);
    if (file < 0) fail("cudaLibraryLoadData: no temporary file");
    const size_t bytes = object_bytes(code);
    if (::write(file, code, bytes) != (ssize_t)bytes) fail("cudaLibraryLoadData: the temporary file is cut");
    close(file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "emulated CUDA: %s\n", dlerror());
    unlink(path);
    return library;
}

static void check_library(const char *who, cudaLibrary_t library) {
    if (!libraries.count(library)) fail("%s: %p is no library", who, static_cast<void *>(library));
}

namespace emulated {

int libraries_living() {
    return (int)libraries.size();
}

} // namespace emulated

/* ---- kernels by an address ---- */

struct kernel_at {
    std::string name;
    const twin *kernel;
};

static std::map<const void *, kernel_at> &kernels() {
    static std::map<const void *, kernel_at> all;
    return all;
}

namespace emulated {

void kernel_add(const void *function, const char *name, const twin *kernel) {
    kernels()[function] = {name, kernel};
}

} // namespace emulated

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

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *, void **,
                                unsigned, enum cudaLibraryOption *, void **, unsigned) {
    locked lock;
    if (fails()) return failed(cudaErrorUnknown);
    *library = static_cast<cudaLibrary_t>(open_object(code));
    if (!*library) return failed(cudaErrorInvalidKernelImage);
    libraries.insert(*library);
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    locked lock;
    char symbol[128];
    check_library("cudaLibraryGetKernel", library);
    if (fails()) return failed(cudaErrorUnknown);
    snprintf(symbol, sizeof symbol, "%s_entry", name);
    const twin *entry = static_cast<const twin *>(dlsym(library, symbol));
    if (!entry) return failed(cudaErrorSymbolNotFound);
    kernel_add(entry, name, entry);
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<twin *>(entry));
    return cudaSuccess;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
    locked lock;
    check_library("cudaLibraryUnload", library);
    libraries.erase(library);
    dlclose(library);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **given, size_t shared,
                             cudaStream_t stream) {
    locked lock;
    const auto found = kernels().find(function);
    if (found == kernels().end()) fail("%p is no kernel", function);
    const char *name = found->second.name.c_str();
    const twin *kernel = found->second.kernel;
    if (!kernel) fail("no twin of %s", name);
    if (!may_launch(name, stream)) return failed(cudaErrorLaunchOutOfResources);
    const auto own = std::make_shared<parameters>(*kernel, given);
    kernel->check(name, own->list());
    const size_t allowed = shared_allowed(function);
    stream_do(stream, [=] { launch_run({name, grid, block, shared, allowed, kernel->run, own->list()}); });
    return cudaSuccess;
}
}
