/* Kernels that are loaded at run time. Their code is a shared object of the host's, as emulated/nvrtc.cpp
 * makes it: kernel NAME is the emulated::entry NAME_entry there, and all else it needs is in the library with
 * the emulation. */
#include "emulated/library.h"
#include "emulated/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <elf.h>
#include <set>
#include <unistd.h>

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
    if (memcmp(code, ELFMAG, SELFMAG) != 0) return NULL;
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

extern "C" {

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *, void **,
                                unsigned, enum cudaLibraryOption *, void **, unsigned) {
    locked lock;
    if (fails()) return cudaErrorUnknown;
    *library = static_cast<cudaLibrary_t>(open_object(code));
    if (!*library) return cudaErrorInvalidKernelImage;
    libraries.insert(*library);
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    locked lock;
    char symbol[128];
    check_library("cudaLibraryGetKernel", library);
    if (fails()) return cudaErrorUnknown;
    snprintf(symbol, sizeof symbol, "%s_entry", name);
    *kernel = static_cast<cudaKernel_t>(dlsym(library, symbol));
    return *kernel ? cudaSuccess : cudaErrorSymbolNotFound;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
    locked lock;
    check_library("cudaLibraryUnload", library);
    libraries.erase(library);
    dlclose(library);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    const entry *e = static_cast<const entry *>(kernel);
    if (!may_launch(e->name, stream)) return cudaErrorLaunchOutOfResources;
    e->check(e->name, arguments);
    enter();
    launch_run({e->name, grid, block, shared, shared_allowed(kernel), e->run, arguments});
    leave();
    return cudaSuccess;
}
}
