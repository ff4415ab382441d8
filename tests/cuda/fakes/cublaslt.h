/* What a test may ask of the fake cuBLASLt: it exports heed_fake_cublaslt(). */
#ifndef HEED_TESTS_CUDA_FAKES_CUBLASLT_H
#define HEED_TESTS_CUDA_FAKES_CUBLASLT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fake_cublaslt {
    int64_t handles, objects;     /* alive: handles; descriptors, layouts and preferences */
    int64_t heuristics, products; /* calls so far */
    int64_t slopes;               /* products that went on through GELU's gradient */
    /* The last product, in the library's own terms (columns first). */
    int64_t m, n, k, batch;
    int epilogue, compute, factors, result; /* the last two: types */
    int64_t workspace;                      /* bytes that it took */
};

/* Kept up to date; the address stays. */
typedef struct fake_cublaslt *heed_fake_cublaslt_function(void);
__attribute__((visibility("default"))) struct fake_cublaslt *heed_fake_cublaslt(void);

#ifdef __cplusplus
}
#endif

#endif
