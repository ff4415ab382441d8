/* Plans of cuBLASLt: descriptors and an algorithm for each problem, kept with the context. */
#ifndef HEED_SRC_BACKEND_CUDA_LT_PLANS_CUH
#define HEED_SRC_BACKEND_CUDA_LT_PLANS_CUH

#include "backend/cuda/lt_library.cuh"
#include "backend/cuda/lt_problem.cuh"

struct cuda_lt_plan {
    struct cuda_lt_problem problem;
    uint64_t used; /* when last; 0: never, the plan is empty */
    bool found;    /* there is an algorithm */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace; /* that the algorithm takes */
};

enum { CUDA_LT_SETS = 64, CUDA_LT_WAYS = 4 };

struct cuda_lt {
    const struct cuda_lt_library *library;
    const char *off; /* why there is no handle */
    cublasLtHandle_t handle;
    bool tf32;
    uint64_t uses;
    struct cuda_lt_plan plan[CUDA_LT_SETS][CUDA_LT_WAYS];
};

/* The plan for a problem: the one there is, or a new one in place of the one of its set that was not used
 * for longest. */
cublasStatus_t cuda_lt_find_plan(struct cuda_lt *lt, const struct cuda_lt_problem *p,
                                 struct cuda_lt_plan **found);

/* Where the bias, or its gradient, and what GELU keeps are. */
cublasStatus_t cuda_lt_set_pointers(const struct cuda_lt *lt, const struct cuda_lt_plan *plan, void *vector,
                                    void *aux);

void cuda_lt_clear_plans(struct cuda_lt *lt);

#endif
