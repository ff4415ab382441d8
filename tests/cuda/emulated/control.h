/* What a test may ask of the emulated device: libheed_cudaemu.so exports heed_emulated(). */
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
    int64_t launches; /* so far */
};

/* Kept up to date; the address stays. */
typedef struct emulated_control *heed_emulated_function(void);
__attribute__((visibility("default"))) struct emulated_control *heed_emulated(void);

#ifdef __cplusplus
}
#endif

#endif
