/* The memory of the emulated device.
 *
 * Nobody may touch it but kernels and copies: in between it is inaccessible, so host code that follows a
 * pointer of the device's dies on the spot. An allocation has an inaccessible page before and behind it, is
 * filled with NaN, and where it ends within a page the rest must be as it was when it is freed. Freed memory
 * stays inaccessible for long. */
#ifndef HEED_TESTS_CUDA_EMULATED_MEMORY_H
#define HEED_TESTS_CUDA_EMULATED_MEMORY_H

#include <cstddef>

/* Specialised kernels, in libraries of their own, use it too. */
#pragma GCC visibility push(default)
namespace emulated {

/* What the emulation keeps is one thread's of the host at a time; they nest. */
struct locked {
    locked();
    ~locked();
    locked(const locked &) = delete;
};

/* NULL when there is none. */
void *memory_new(size_t bytes);
/* Memory that comes and goes in the order of a stream: nobody may touch it before it has arrived, and no call
 * may name it once it is to leave. */
void *memory_new_later(size_t bytes);
void memory_arrive(void *memory);
void memory_leave(const char *who, void *memory);
/* These end the process if it is no such memory; `who` says who asks. */
void memory_free(const char *who, void *memory);
void memory_check(const char *who, const void *memory, size_t bytes);
/* Whether an address is, or was, one of the device. */
bool memory_is(const void *address);

/* Memory of the host that the device reads and writes by itself, whenever it comes to it. */
void *memory_pinned_new(size_t bytes);
void memory_pinned_free(const char *who, void *memory);
bool memory_is_pinned(const void *address);

struct memory_sum {
    size_t allocations, bytes;
    size_t pinned; /* allocations of the host's */
};
memory_sum memory_living();

/* Device memory is open to the calling thread of the host between these two, which nest; other threads wait.
 */
void enter();
void leave();

} // namespace emulated
#pragma GCC visibility pop

#endif
