/* Opening cuDNN. */
#include "backend/cuda/cudnn.cuh"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

/* The first whose attention on Blackwell can be told to be deterministic; older ones are not tested. */
enum { DNN_OLDEST = 91800 };

static struct dnn_library library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A function as it is in the library; false where there is none. */
template <typename Function> static bool find(void *opened, const char *name, Function *function) {
    *function = reinterpret_cast<Function>(dlsym(opened, name));
    return *function != NULL;
}

static void open_library() {
    void *opened = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
        library.missing = "libcudnn.so.9 cannot be opened";
        return;
    }
    bool whole = true;
#define FIND(name) whole = find(opened, #name, &library.name) && whole;
    DNN_FUNCTIONS(FIND)
#undef FIND
    if (!whole) {
        library.missing = "libcudnn.so.9 lacks functions";
        return;
    }
    library.version = library.cudnnGetVersion();
    if (library.version < DNN_OLDEST) library.missing = "cuDNN is older than 9.18";
}

const struct dnn_library *dnn_library_open() {
    pthread_once(&once, open_library);
    return &library;
}
