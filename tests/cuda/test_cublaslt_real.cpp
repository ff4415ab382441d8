/* The real cuBLASLt, without a GPU: it has every function that heed looks for; its descriptors, which need no
 * device, take every attribute that heed sets in the size that heed has for it, and in no other, and there
 * are descriptors of every combination of types that heed asks for. Ends with 77 (skipped) where it is not
 * installed. */
#include "backend/cuda/lt_library.cuh"

#include <cstdio>
#include <cstdint>

#include "fakes/cublaslt_sizes.h"

static const struct cuda_lt_library *library;
static cublasLtMatmulDesc_t product;
static cublasLtMatrixLayout_t layout;
static cublasLtMatmulPreference_t preference;

static cublasStatus_t set(const cublaslt_size &x, const void *value, size_t bytes) {
    switch (x.kind) {
    case PRODUCT:
        return library->cublasLtMatmulDescSetAttribute(product, (cublasLtMatmulDescAttributes_t)x.attribute,
                                                       value, bytes);
    case LAYOUT:
        return library->cublasLtMatrixLayoutSetAttribute(layout, (cublasLtMatrixLayoutAttribute_t)x.attribute,
                                                         value, bytes);
    case PREFERENCE:
        return library->cublasLtMatmulPreferenceSetAttribute(
            preference, (cublasLtMatmulPreferenceAttributes_t)x.attribute, value, bytes);
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
}

/* 1 is a value that every attribute may have. */
static int wrong_sizes() {
    int wrong = 0;
    for (const cublaslt_size &x : cublaslt_sizes) {
        const uint64_t one = 1;
        const cublasStatus_t right = set(x, &one, x.bytes), shorter = set(x, &one, x.bytes - 1);
        if (right == CUBLAS_STATUS_SUCCESS && shorter != CUBLAS_STATUS_SUCCESS) continue;
        printf("attribute %d of kind %d, %zu bytes: %s; a byte less: %s\n", x.attribute, x.kind, x.bytes,
               library->cublasLtGetStatusString(right), library->cublasLtGetStatusString(shorter));
        wrong++;
    }
    return wrong;
}

/* Of products, factors and results; what goes together only a handle could say, which takes a device. */
static int wrong_types() {
    static const struct {
        cublasComputeType_t compute;
        cudaDataType_t scale, factors, result;
    } kinds[] = {{CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F},
                 {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F},
                 {CUBLAS_COMPUTE_64F, CUDA_R_64F, CUDA_R_64F, CUDA_R_64F},
                 {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF},
                 {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_32F}};
    int wrong = 0;
    for (const auto &k : kinds) {
        cublasLtMatmulDesc_t of_product = NULL;
        cublasLtMatrixLayout_t of[2] = {};
        const bool ok =
            library->cublasLtMatmulDescCreate(&of_product, k.compute, k.scale) == CUBLAS_STATUS_SUCCESS &&
            library->cublasLtMatrixLayoutCreate(&of[0], k.factors, 8, 8, 8) == CUBLAS_STATUS_SUCCESS &&
            library->cublasLtMatrixLayoutCreate(&of[1], k.result, 8, 8, 8) == CUBLAS_STATUS_SUCCESS;
        if (!ok)
            printf("no descriptors for factors of type %d and results of type %d\n", k.factors, k.result);
        wrong += !ok;
        if (of_product) library->cublasLtMatmulDescDestroy(of_product);
        for (cublasLtMatrixLayout_t x : of)
            if (x) library->cublasLtMatrixLayoutDestroy(x);
    }
    return wrong;
}

int main() {
    library = cuda_lt_library_get();
    if (library->missing) {
        puts(library->missing);
        return library->cublasLtGetVersion ? 1 : 77; /* it is there, and lacks a function */
    }
    printf("cuBLASLt %zu\n", library->cublasLtGetVersion());
    bool ok = library->cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
                  CUBLAS_STATUS_SUCCESS &&
              library->cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 5, 7, 8) == CUBLAS_STATUS_SUCCESS &&
              library->cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS;
    ok = ok && wrong_sizes() == 0 && wrong_types() == 0;
    ok = ok && library->cublasLtMatmulDescDestroy(product) == CUBLAS_STATUS_SUCCESS &&
         library->cublasLtMatrixLayoutDestroy(layout) == CUBLAS_STATUS_SUCCESS &&
         library->cublasLtMatmulPreferenceDestroy(preference) == CUBLAS_STATUS_SUCCESS;
    return ok ? 0 : 1;
}
