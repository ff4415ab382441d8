/* Opening cuBLASLt. */
#include "backend/cuda/lt_library.cuh"

#include <dlfcn.h>
#include <string.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
/* Of the major version whose header this is compiled with: its functions and constants stay what they are. */
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

/* It stays open: the process may end while other threads use it. Looked for where the system looks and, by
 * the run path of libheed_cuda.so, beside the toolkit's other libraries. */
static struct cuda_lt_library open_library() {
    struct cuda_lt_library library = {};
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        library.missing = "cuBLASLt: " LIBRARY " cannot be opened";
        return library;
    }
    void *symbol;
#define FIND(name)                                                                                           \
    symbol = dlsym(handle, #name);                                                                           \
    memcpy(&library.name, &symbol, sizeof symbol);                                                           \
    if (!symbol) library.missing = "cuBLASLt: " LIBRARY " has no " #name;
    CUDA_LT_FUNCTIONS(FIND)
#undef FIND
    return library;
}

const struct cuda_lt_library *cuda_lt_library_get() {
    static const struct cuda_lt_library library = open_library();
    return &library;
}
