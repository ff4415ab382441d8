/* The attributes of cuBLASLt that heed sets, and how many bytes each has: for the fake, and for the test that
 * asks the real library. */
#ifndef HEED_TESTS_CUDA_FAKES_CUBLASLT_SIZES_H
#define HEED_TESTS_CUDA_FAKES_CUBLASLT_SIZES_H

#include <cublasLt.h>

enum kind { HANDLE, PRODUCT, LAYOUT, PREFERENCE, KINDS };

struct cublaslt_size {
    enum kind kind;
    int attribute;
    size_t bytes;
};

static const cublaslt_size cublaslt_sizes[] = {
    {PRODUCT, CUBLASLT_MATMUL_DESC_TRANSA, sizeof(int32_t)},
    {PRODUCT, CUBLASLT_MATMUL_DESC_TRANSB, sizeof(int32_t)},
    {PRODUCT, CUBLASLT_MATMUL_DESC_EPILOGUE, sizeof(uint32_t)},
    {PRODUCT, CUBLASLT_MATMUL_DESC_BIAS_POINTER, sizeof(void *)},
    {PRODUCT, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, sizeof(void *)},
    {PRODUCT, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, sizeof(int64_t)},
    {LAYOUT, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, sizeof(int32_t)},
    {LAYOUT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, sizeof(int64_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, sizeof(uint64_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, sizeof(uint32_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, sizeof(uint32_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, sizeof(uint32_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, sizeof(uint32_t)},
    {PREFERENCE, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, sizeof(uint32_t)},
};

#endif
