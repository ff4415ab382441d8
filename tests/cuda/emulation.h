/* Where a test finds the emulated device. */
#ifndef HEED_TESTS_CUDA_EMULATION_H
#define HEED_TESTS_CUDA_EMULATION_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulated/control.h"
#include "harness.h"

/* "cudaemu", or what HEED_TEST_DEVICE says: "cuda", the shipped library, on the emulation or on a GPU. */
static inline const char *emulation_device(void) {
    return test_elsewhere() ? getenv("HEED_TEST_DEVICE") : "cudaemu";
}

/* It is in the runtime's place, or in the plugin. NULL: the device is a GPU. Each call brings the numbers of
 * what is alive up to date. */
static inline struct emulated_control *emulation(void) {
    char path[4096];
    static heed_emulated_function *function;
    if (function) return function();
    heed_ctx_free(heed_ctx_new(&(heed_ctx_options){.device = emulation_device()})); /* loads it */
    snprintf(path, sizeof path, "%s/libheed_%s.so", getenv("HEED_BACKEND_PATH"), emulation_device());
    void *runtime = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
    void *library = runtime ? runtime : dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    void *found = library ? dlsym(library, "heed_emulated") : NULL;
    memcpy(&function, &found, sizeof function);
    return function ? function() : NULL;
}

#endif
