/* A product as cuBLASLt sees it: what its plans are known by. */
#ifndef HEED_SRC_BACKEND_CUDA_LT_PROBLEM_CUH
#define HEED_SRC_BACKEND_CUDA_LT_PROBLEM_CUH

#include "backend/cuda/product.cuh"

/* An operand as cuBLASLt sees it. */
struct cuda_lt_operand {
    int64_t transposed, ld, stride, alignment;
};

/* All that an algorithm depends on. Compared as bytes: words of one size only. */
struct cuda_lt_problem {
    int64_t dtype, d_dtype, epilogue; /* of the factors, of D */
    int64_t m, n, k, batch;           /* D [m, n] */
    struct cuda_lt_operand a, b, d;
    int64_t vector_alignment, aux_alignment, aux_ld;
    int64_t workspace; /* the most there is */
};

/* Leaves *x at most one batch dimension, and describes it but for pointers and what it ends in; or says why
 * cuBLASLt cannot make it. `as_is`: it has a bias or the like, which says what rows and columns are. */
const char *cuda_lt_problem_of(struct cuda_product *x, bool as_is, struct cuda_lt_problem *p);

#endif
