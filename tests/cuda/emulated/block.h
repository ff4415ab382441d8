/* The threads of a kernel on the CPU: blocks one after another, the threads of a block in turns.
 *
 * A thread runs until it has to wait for others: at a barrier, or where lanes of a warp meet. So between two
 * such places a thread is never interrupted, and what a kernel computes depends on the order in which
 * threads get their turns only if the kernel has a race. HEED_CUDA_SEED chooses that order:
 *   0 (or none)  who waited longest goes on
 *   1            who waited least goes on; blocks in reverse
 *   other        anyone; blocks in some order
 *
 * What a kernel must not do ends the process with a line that says which kernel, block, thread and place. */
#ifndef HEED_TESTS_CUDA_EMULATED_BLOCK_H
#define HEED_TESTS_CUDA_EMULATED_BLOCK_H

#include <cstddef>
#include <cstdint>
#include <vector_types.h>

/* Specialised kernels, in libraries of their own, use it too. */
#pragma GCC visibility push(default)
namespace emulated {

enum {
    LANES = 32,
    MOST_THREADS = 1024,       /* of a block */
    STATIC_SHARED = 48 * 1024, /* bytes; dynamic shared memory too, unless the kernel was allowed more */
    MOST_SHARED = 99 * 1024,   /* the least that any of our targets has (sm_86, sm_89, sm_120) */
};

/* Where in the source a thread waits. As a default argument: where the function with it is called. */
struct place {
    const char *file;
    int line;
    static constexpr place here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

/* Ends the process: "emulated CUDA: …", and what kernel, block and thread are running. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail_at(place at, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- launching ---- */

struct launch {
    const char *kernel; /* its name, as the source has it */
    dim3 grid, block;
    size_t dynamic_shared, most_dynamic_shared; /* asked for and allowed, in bytes */
    void (*run)(const void *arguments);         /* one thread of it */
    const void *arguments;
};

/* Runs all threads of all blocks. One kernel runs at a time: the caller sees to that. */
void launch_run(const launch &launch);

/* ---- for the running thread ---- */

struct thread;
extern thread *current; /* NULL while no kernel runs */
extern uint3 thread_index;
extern uint3 block_index;
extern dim3 block_size, grid_size;

/* Waits for all threads of the block; how many of them gave true. All must come to the same place, so none
 * may have returned. */
int barrier(bool counted, place at);

/* What the lanes of a warp gave where they met. */
struct meeting {
    unsigned lane;         /* of the caller */
    unsigned present;      /* those who met: the lanes of the mask that have not returned */
    const uint64_t *given; /* by lane */
};

enum class meeting_kind { sync, shuffle, vote };

/* Waits for the lanes that the mask names. Valid until the thread waits again. */
meeting meet(unsigned mask, uint64_t given, meeting_kind kind, place at);

/* ---- shared memory ---- */

/* An array in the source. */
struct shared_array {
    const char *name;
    place at;
    size_t bytes;
    unsigned long block; /* the last block that used it */
    char *memory;
};

/* A block's arrays are filled with NaN, with room between them that must still be so when the block ends. */
void shared_begin(size_t dynamic_bytes);
void *shared_static(shared_array *array);
void *shared_dynamic();
void shared_end();

} // namespace emulated
#pragma GCC visibility pop

#endif
