/* What fakes of NVIDIA's libraries share. Each has the name of the library that it stands for, works on the
 * memory of the emulated device in order with its kernels, and ends the process with a line where the library
 * would have been used wrongly: where the real one returns an error or does harm. */
#ifndef HEED_TESTS_CUDA_FAKES_LIBRARY_H
#define HEED_TESTS_CUDA_FAKES_LIBRARY_H

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <string>
#include <vector>

#include "emulated/control.h"

namespace fakes {

static inline int keep_name(struct dl_phdr_info *info, size_t, void *names) {
    static_cast<std::vector<std::string> *>(names)->push_back(info->dlpi_name);
    return 0;
}

/* The emulation is part of whoever was built for it: of the program, or of a plugin whose symbols are its
 * own. */
static inline struct emulated_control *find_emulated() {
    std::vector<std::string> names;
    dl_iterate_phdr(keep_name, &names);
    for (const std::string &name : names) {
        void *object = dlopen(name.empty() ? NULL : name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        heed_emulated_function *function = NULL;
        void *symbol = object ? dlsym(object, "heed_emulated") : NULL;
        memcpy(&function, &symbol, sizeof function);
        if (object) dlclose(object);
        if (function) return function();
    }
    fputs("a fake library finds no emulated CUDA in this process\n", stderr);
    abort();
}

static inline struct emulated_control *emulated() {
    static struct emulated_control *const control = find_emulated();
    return control;
}

[[noreturn]] static inline void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

[[noreturn]] static inline void wrong(const char *format, ...) {
    char line[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    emulated()->end(line);
    abort();
}

} // namespace fakes

#endif
