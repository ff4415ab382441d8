/* What the emulation tells the sanitizers. Its own files are not instrumented — they are what makes threads
 * look as if they ran at once — so CMake says in EMULATED_ADDRESS and EMULATED_THREAD what the kernels are
 * built with. */
#ifndef HEED_TESTS_CUDA_EMULATED_SANITIZE_H
#define HEED_TESTS_CUDA_EMULATED_SANITIZE_H

#include <cstddef>

#ifndef EMULATED_ADDRESS
#define EMULATED_ADDRESS 0
#endif
#ifndef EMULATED_THREAD
#define EMULATED_THREAD 0
#endif

#if EMULATED_ADDRESS
extern "C" {
void __sanitizer_start_switch_fiber(void **fake_frames, const void *stack, size_t bytes);
void __sanitizer_finish_switch_fiber(void *fake_frames, const void **stack, size_t *bytes);
void __asan_poison_memory_region(const volatile void *memory, size_t bytes);
void __asan_unpoison_memory_region(const volatile void *memory, size_t bytes);
}
#endif

#if EMULATED_THREAD
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void *__tsan_get_current_fiber();
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *token);
void __tsan_release(void *token);
}
#endif

namespace emulated {

/* Memory that kernels may, and may not, touch. */
static inline void allow(void *memory, size_t bytes) {
#if EMULATED_ADDRESS
    __asan_unpoison_memory_region(memory, bytes);
#else
    (void)memory, (void)bytes;
#endif
}

static inline void forbid(void *memory, size_t bytes) {
#if EMULATED_ADDRESS
    __asan_poison_memory_region(memory, bytes);
#else
    (void)memory, (void)bytes;
#endif
}

/* Who acquires a token sees what all that released it before had done. */
static inline void release(char *token) {
#if EMULATED_THREAD
    __tsan_release(token);
#else
    (void)token;
#endif
}

static inline void acquire(char *token) {
#if EMULATED_THREAD
    __tsan_acquire(token);
#else
    (void)token;
#endif
}

} // namespace emulated

#endif
