/* cuBLASLt, opened when a device is: libheed_cuda.so needs it neither to be built by a linker nor to start.
 */
#ifndef HEED_SRC_BACKEND_CUDA_LT_LIBRARY_CUH
#define HEED_SRC_BACKEND_CUDA_LT_LIBRARY_CUH

#include <cublasLt.h>

/* Every function that heed calls. */
#define CUDA_LT_FUNCTIONS(X)                                                                                 \
    X(cublasLtCreate)                                                                                        \
    X(cublasLtDestroy)                                                                                       \
    X(cublasLtGetStatusString)                                                                               \
    X(cublasLtGetVersion)                                                                                    \
    X(cublasLtMatmul)                                                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                        \
    X(cublasLtMatmulDescCreate)                                                                              \
    X(cublasLtMatmulDescDestroy)                                                                             \
    X(cublasLtMatmulDescSetAttribute)                                                                        \
    X(cublasLtMatmulPreferenceCreate)                                                                        \
    X(cublasLtMatmulPreferenceDestroy)                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                  \
    X(cublasLtMatrixLayoutCreate)                                                                            \
    X(cublasLtMatrixLayoutDestroy)                                                                           \
    X(cublasLtMatrixLayoutSetAttribute)

/* `library->cublasLtMatmul(…)`, as the header declares it. */
struct cuda_lt_library {
    const char *missing; /* NULL: all is there. Otherwise why not, in words that stay. */
#define CUDA_LT_MEMBER(name) decltype(&::name) name;
    CUDA_LT_FUNCTIONS(CUDA_LT_MEMBER)
#undef CUDA_LT_MEMBER
};

/* Opened by the first call, and never closed. */
const struct cuda_lt_library *cuda_lt_library_get();

#endif
