/* What a test, and fakes of libraries that work on the device (fakes/), may ask of the emulated device:
 * libheed_cudaemu.so exports heed_emulated(). */
#ifndef HEED_TESTS_CUDA_EMULATED_CONTROL_H
#define HEED_TESTS_CUDA_EMULATED_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emulated_control {
    /* Calls of the runtime so far that may fail, launches among them, and the one that is to (counted from 1;
     * 0: none). The caller may set both. */
    int64_t calls, fail_at;
    /* What is alive. */
    int64_t streams, events, allocations;
    /* So far: launches, allocations of device memory, and how often the host waited for what was not done. */
    int64_t launches, allocated, waits;

    /* For fakes of libraries. Whether the call that they are in is the one that is to fail; it is counted. */
    int (*fails)(void);
    /* These end the process, in the name of `who`, where that is no stream, or memory of the device with so
     * many bytes from there. */
    void (*check_stream)(const char *who, const void *stream);
    void (*check_memory)(const char *who, const void *memory, size_t bytes);
    /* Ends it with a line of the caller's. */
    void (*end)(const char *line);
    /* Work in the order of a stream: it runs when the stream comes to it, and may touch memory of the device.
     */
    void (*queue)(const void *stream, void (*work)(void *data), void *data);
    /* In between the caller may touch memory of the device. */
    void (*enter)(void);
    void (*leave)(void);
};

/* Kept up to date; the address stays. */
typedef struct emulated_control *heed_emulated_function(void);
__attribute__((visibility("default"))) struct emulated_control *heed_emulated(void);

#ifdef __cplusplus
}
#endif

#endif
