/* What a test may ask of the fake cuDNN: it exports heed_fake_cudnn(). */
#ifndef HEED_TESTS_CUDA_FAKES_CUDNN_H
#define HEED_TESTS_CUDA_FAKES_CUDNN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fake_cudnn {
    int64_t handles, descriptors; /* alive */
    int64_t plans, runs;          /* so far: found, and executed */
};

/* Kept up to date; the address stays. */
typedef struct fake_cudnn *heed_fake_cudnn_function(void);
__attribute__((visibility("default"))) struct fake_cudnn *heed_fake_cudnn(void);

#ifdef __cplusplus
}
#endif

#endif
