/* The language of CUDA kernels for the host's compiler: the names that a kernel uses, each by what the
 * emulation of threads (block.h) does. Types come from CUDA's own headers.
 *
 * What is different: shared memory is declared through macros (EMULATED_SHARED, EMULATED_DYNAMIC_SHARED),
 * launches are a macro, and there are no atomics on floating-point numbers, since what they give depends on
 * the order of threads. */
#ifndef HEED_TESTS_CUDA_EMULATED_KERNEL_H
#define HEED_TESTS_CUDA_EMULATED_KERNEL_H

#include "emulated/block.h"
#include "emulated/math.h"
#include "emulated/memory.h"
#include "emulated/stream.h"

#include <driver_types.h>
#include <limits>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <vector_functions.h>
#include <vector_types.h>

/* ---- qualifiers ---- */

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ _Pragma("GCC error \"shared memory is declared by the macros of device.cuh\"")

/* ---- where a thread is ---- */

#define threadIdx (::emulated::thread_index)
#define blockIdx (::emulated::block_index)
#define blockDim (::emulated::block_size)
#define gridDim (::emulated::grid_size)
static const int warpSize = emulated::LANES;

/* ---- shared memory ---- */

#define EMULATED_SHARED(type, name, count)                                                                   \
    static ::emulated::shared_array name##_shared = {#name, ::emulated::place::here(),                       \
                                                     sizeof(type) * (count), 0, nullptr};                    \
    type(&name)[count] = *static_cast<type(*)[count]>(::emulated::shared_static(&name##_shared))
#define EMULATED_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(::emulated::shared_dynamic())

/* ---- barriers ---- */

static inline void __syncthreads(emulated::place at = emulated::place::here()) {
    emulated::barrier(false, at);
}

static inline int __syncthreads_count(int predicate, emulated::place at = emulated::place::here()) {
    return emulated::barrier(predicate != 0, at);
}

static inline int __syncthreads_or(int predicate, emulated::place at = emulated::place::here()) {
    return emulated::barrier(predicate != 0, at) != 0;
}

static inline int __syncthreads_and(int predicate, emulated::place at = emulated::place::here()) {
    return emulated::barrier(predicate == 0, at) == 0;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, emulated::place at = emulated::place::here()) {
    emulated::meet(mask, 0, emulated::meeting_kind::sync, at);
}

/* The emulation keeps all memory in order. */
static inline void __threadfence() {
}
static inline void __threadfence_block() {
}

/* ---- votes ---- */

static inline unsigned __ballot_sync(unsigned mask, int predicate,
                                     emulated::place at = emulated::place::here()) {
    const emulated::meeting all = emulated::meet(mask, predicate != 0, emulated::meeting_kind::vote, at);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < emulated::LANES; lane++)
        if (all.present >> lane & 1 && all.given[lane]) votes |= 1u << lane;
    return votes;
}

static inline int __any_sync(unsigned mask, int predicate, emulated::place at = emulated::place::here()) {
    return __ballot_sync(mask, predicate, at) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, emulated::place at = emulated::place::here()) {
    return __ballot_sync(mask, predicate == 0, at) == 0;
}

/* ---- shuffles ---- */

namespace emulated {

/* Where a shuffle reads: among the `width` lanes that the caller is in, and if not there, from itself. */
enum class shuffle { from, up, down, across };

static inline int shuffle_source(shuffle kind, int lane, int operand, int width) {
    const int first = lane & ~(width - 1), last = first + width - 1;
    int source = lane;
    switch (kind) {
    case shuffle::from:
        return first + (operand & (width - 1));
    case shuffle::up:
        source = lane - operand;
        return source < first ? lane : source;
    case shuffle::down:
        source = lane + operand;
        break;
    case shuffle::across:
        source = lane ^ operand;
        break;
    }
    return source > last ? lane : source;
}

template <typename T> T exchange(shuffle kind, unsigned mask, T value, int operand, int width, place at) {
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= sizeof(uint64_t),
                  "not shuffled by CUDA");
    if (width < 1 || width > LANES || width & (width - 1)) fail_at(at, "a shuffle of width %d", width);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    const meeting all = meet(mask, bits, meeting_kind::shuffle, at);
    const int source = shuffle_source(kind, (int)all.lane, operand, width);
    if (source < 0 || source >= LANES || !(all.present >> source & 1))
        fail_at(at, "lane %u reads lane %d, which takes no part (mask %08x, there are %08x)", all.lane,
                source, mask, all.present);
    memcpy(&value, &all.given[source], sizeof value);
    return value;
}

} // namespace emulated

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = emulated::LANES,
                            emulated::place at = emulated::place::here()) {
    return emulated::exchange(emulated::shuffle::from, mask, value, lane, width, at);
}

template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = emulated::LANES,
                               emulated::place at = emulated::place::here()) {
    return emulated::exchange(emulated::shuffle::up, mask, value, (int)lanes, width, at);
}

template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = emulated::LANES,
                                 emulated::place at = emulated::place::here()) {
    return emulated::exchange(emulated::shuffle::down, mask, value, (int)lanes, width, at);
}

template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = emulated::LANES,
                                emulated::place at = emulated::place::here()) {
    return emulated::exchange(emulated::shuffle::across, mask, value, lanes, width, at);
}

/* ---- atomics ---- */

namespace emulated {
template <typename T> constexpr void only_integers() {
    static_assert(std::is_integral<T>::value,
                  "what atomics on floating-point numbers give depends on the order");
}
template <typename T> using same = typename std::enable_if<true, T>::type; /* takes no part in deduction */
} // namespace emulated

template <typename T> static inline T atomicAdd(T *at, emulated::same<T> value) {
    emulated::only_integers<T>();
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

template <typename T> static inline T atomicOr(T *at, emulated::same<T> value) {
    emulated::only_integers<T>();
    return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}

template <typename T> static inline T atomicAnd(T *at, emulated::same<T> value) {
    emulated::only_integers<T>();
    return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);
}

template <typename T> static inline T atomicExch(T *at, emulated::same<T> value) {
    emulated::only_integers<T>();
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}

template <typename T> static inline T atomicCAS(T *at, emulated::same<T> expected, emulated::same<T> value) {
    emulated::only_integers<T>();
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <typename T> static inline T atomicMax(T *at, emulated::same<T> value) {
    T before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (before < value) {
        const T found = atomicCAS(at, before, value);
        if (found == before) break;
        before = found;
    }
    return before;
}

template <typename T> static inline T atomicMin(T *at, emulated::same<T> value) {
    T before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < before) {
        const T found = atomicCAS(at, before, value);
        if (found == before) break;
        before = found;
    }
    return before;
}

/* ---- loads and stores by which cache ---- */

template <typename T> static inline T __ldg(const T *from) {
    return *from;
}
template <typename T> static inline T __ldcs(const T *from) {
    return *from;
}
template <typename T> static inline void __stcs(T *to, T value) {
    *to = value;
}

/* ---- launching ---- */

namespace emulated {

/* The runtime's part (runtime.cpp): the bytes of dynamic shared memory that a kernel may have, whether it is
 * to be started or a test asked for a failure, and whether a parameter has pointers that only the host can
 * follow. */
size_t shared_allowed(const void *kernel);
bool may_launch(const char *kernel, cudaStream_t stream);
void check_parameter(const char *kernel, int number, const void *parameter, size_t bytes);

/* Sizes wider than CUDA's must not lose bits on the way there. */
static inline dim3 extent(dim3 size) {
    return size;
}
template <typename T, typename = typename std::enable_if<std::is_integral<T>::value>::type>
dim3 extent(T size) {
    if (size < 0 || (uint64_t)size > std::numeric_limits<unsigned>::max())
        fail("a launch with an extent of %lld", (long long)size);
    return dim3((unsigned)size);
}

template <typename... Parameters, typename... Arguments>
void launch_kernel(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                   cudaStream_t stream, const Arguments &...arguments) {
    struct call {
        void (*kernel)(Parameters...);
        std::tuple<Parameters...> parameters;
    };
    call it = {kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
    if (!may_launch(name, stream)) return;
    std::apply(
        [name](Parameters &...each) {
            int number = 0;
            /* What lies between members is no pointer. */
            (__builtin_clear_padding(&each), ...);
            (check_parameter(name, number++, &each, sizeof each), ...);
        },
        it.parameters);
    const size_t allowed = shared_allowed(reinterpret_cast<const void *>(kernel));
    stream_do(stream, [=] {
        launch_run({name, grid, block, shared, allowed,
                    [](const void *given) {
                        const call *c = static_cast<const call *>(given);
                        std::apply(c->kernel, c->parameters);
                    },
                    &it});
    });
}

} // namespace emulated

/* kernel<<<grid, block, shared, stream>>>(…) */
#ifdef EMULATED_TWINS
#include "emulated/twin.h"
#define EMULATED_LAUNCH(kernel, ...)                                                                         \
    ((void)::emulated::twin_of<kernel, ::emulated::twin_file(__FILE__)>::added)
#else
#define EMULATED_LAUNCH(kernel, grid, block, shared, stream, ...)                                            \
    ::emulated::launch_kernel(#kernel, kernel, ::emulated::extent(grid), ::emulated::extent(block), shared,  \
                              stream, __VA_ARGS__)
#endif

#endif
