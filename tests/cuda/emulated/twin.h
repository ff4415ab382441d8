/* Kernels under the names that nvcc gives them, so that they can stand for those of a library that nvcc made
 * (simulated/abi.cpp). With EMULATED_TWINS a launch in the source starts nothing, but puts its kernel here.
 */
#ifndef HEED_TESTS_CUDA_EMULATED_TWIN_H
#define HEED_TESTS_CUDA_EMULATED_TWIN_H

#include "emulated/block.h"

#include <typeinfo>
#include <utility>

namespace emulated {

void check_parameter(const char *kernel, int number, const void *parameter, size_t bytes);

struct twin {
    uint64_t file; /* in which it is launched */
    int parameters;
    const size_t *bytes; /* of each */
    /* Looks for pointers of the host; at[i] is parameter i. */
    void (*check)(const char *kernel, void *const *at);
    void (*run)(const void *at); /* a thread of it */
};

/* `tag` is typeid(twin_tag<kernel>).name(). */
bool twin_add(const char *tag, const twin &kernel);
/* By the name in a library that nvcc made; NULL if there is none. */
const twin *twin_find(const char *name);

} // namespace emulated

/* Not in the namespace: only so has the name of the tag the kernel's in it as it stands elsewhere. */
template <auto KERNEL> struct twin_tag {};

namespace emulated {

template <auto KERNEL, typename FUNCTION> struct twin_with;

template <auto KERNEL, typename... PARAMETERS> struct twin_with<KERNEL, void (*)(PARAMETERS...)> {
    static constexpr size_t bytes[] = {sizeof(PARAMETERS)..., 0};

    template <size_t... I>
    static void check_each(const char *kernel, void *const *at, std::index_sequence<I...>) {
        (__builtin_clear_padding(static_cast<PARAMETERS *>(at[I])), ...);
        (check_parameter(kernel, (int)I, at[I], sizeof(PARAMETERS)), ...);
    }
    static void check(const char *kernel, void *const *at) {
        check_each(kernel, at, std::index_sequence_for<PARAMETERS...>{});
    }

    template <size_t... I> static void call(void *const *at, std::index_sequence<I...>) {
        KERNEL(*static_cast<const PARAMETERS *>(at[I])...);
    }
    static void run(const void *at) {
        call(static_cast<void *const *>(at), std::index_sequence_for<PARAMETERS...>{});
    }

    static twin of(uint64_t file) {
        return {file, (int)sizeof...(PARAMETERS), bytes, check, run};
    }
};

/* Where this is mentioned, the kernel is added when the library is loaded. */
template <auto KERNEL, uint64_t FILE_NUMBER> struct twin_of {
    static inline const bool added =
        twin_add(typeid(twin_tag<KERNEL>).name(), twin_with<KERNEL, decltype(KERNEL)>::of(FILE_NUMBER));
};

/* A number for a file's name (FNV-1a). */
constexpr uint64_t twin_file(const char *name) {
    uint64_t number = 0xcbf29ce484222325u;
    for (; *name; name++) number = (number ^ (unsigned char)*name) * 0x100000001b3u;
    return number;
}

} // namespace emulated

#endif
