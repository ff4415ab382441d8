/* What cuBLASLt is asked for once per problem. The same bits every time: one algorithm; of those that divide
 * k only those that add the parts in a step of their own. (Adding in place is in the order in which blocks
 * come.) */
#include "backend/cuda/lt_plans.cuh"

#include <string.h>

struct lt_type {
    cudaDataType_t scale;
    cublasComputeType_t compute;
};

static cudaDataType_t data_type(heed_dtype dtype) {
    return dtype == HEED_F64 ? CUDA_R_64F : dtype == HEED_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* By the dtype of the factors. */
static struct lt_type type_of(const struct cuda_lt *lt, heed_dtype dtype) {
    switch (dtype) {
    case HEED_F64:
        return {CUDA_R_64F, CUBLAS_COMPUTE_64F};
    case HEED_BF16:
        return {CUDA_R_32F, CUBLAS_COMPUTE_32F};
    default:
        return {CUDA_R_32F, lt->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F};
    }
}

/* ---- descriptors ---- */

static cublasStatus_t make_layout(const struct cuda_lt *lt, cudaDataType_t type, int64_t rows,
                                  int64_t columns, const struct cuda_lt_operand *operand, int64_t batch,
                                  cublasLtMatrixLayout_t *layout) {
    const int32_t count = (int32_t)batch;
    const bool transposed = operand->transposed;
    cublasStatus_t status =
        lt->library->cublasLtMatrixLayoutCreate(layout, type, (uint64_t)(transposed ? columns : rows),
                                                (uint64_t)(transposed ? rows : columns), operand->ld);
    if (status != CUBLAS_STATUS_SUCCESS) *layout = NULL;
    if (status != CUBLAS_STATUS_SUCCESS || batch == 1) return status;
    status = lt->library->cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                           &count, sizeof count);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return lt->library->cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                         &operand->stride, sizeof operand->stride);
}

static cublasStatus_t set_product(const struct cuda_lt *lt, cublasLtMatmulDesc_t product,
                                  cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes) {
    return lt->library->cublasLtMatmulDescSetAttribute(product, attribute, value, bytes);
}

cublasStatus_t cuda_lt_set_pointers(const struct cuda_lt *lt, const struct cuda_lt_plan *plan, void *vector,
                                    void *aux) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (vector)
        status = set_product(lt, plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector, sizeof vector);
    if (aux && status == CUBLAS_STATUS_SUCCESS)
        status = set_product(lt, plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
    return status;
}

static cublasStatus_t make_product(const struct cuda_lt *lt, const struct cuda_lt_problem *p,
                                   struct cuda_lt_plan *plan) {
    const struct lt_type type = type_of(lt, (heed_dtype)p->dtype);
    const cudaDataType_t factors = data_type((heed_dtype)p->dtype),
                         result = data_type((heed_dtype)p->d_dtype);
    const int32_t op_a = p->a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                  op_b = p->b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint32_t epilogue = (uint32_t)p->epilogue;
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t bytes;
        bool wanted;
    } attribute[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a, true},
        {CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b, true},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, true},
        {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &p->aux_ld, sizeof p->aux_ld, p->aux_ld > 0},
    };
    cublasStatus_t status = lt->library->cublasLtMatmulDescCreate(&plan->product, type.compute, type.scale);
    if (status != CUBLAS_STATUS_SUCCESS) plan->product = NULL;
    for (const auto &a : attribute)
        if (status == CUBLAS_STATUS_SUCCESS && a.wanted)
            status = set_product(lt, plan->product, a.name, a.value, a.bytes);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = make_layout(lt, factors, p->m, p->k, &p->a, p->batch, &plan->a);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = make_layout(lt, factors, p->k, p->n, &p->b, p->batch, &plan->b);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = make_layout(lt, result, p->m, p->n, &p->d, p->batch, &plan->d);
    return status;
}

/* An address of that alignment and no more. */
static void *address_of(int64_t alignment) {
    return reinterpret_cast<void *>((uintptr_t)alignment);
}

/* The choice of an algorithm looks at these addresses to see how they are aligned; what is chosen is for
 * every address that is aligned as well. */
static cublasStatus_t set_alignments(const struct cuda_lt *lt, const struct cuda_lt_plan *plan) {
    const struct cuda_lt_problem *p = &plan->problem;
    return cuda_lt_set_pointers(lt, plan, p->vector_alignment ? address_of(p->vector_alignment) : NULL,
                                p->aux_alignment ? address_of(p->aux_alignment) : NULL);
}

static cublasStatus_t set_preferences(const struct cuda_lt *lt, const struct cuda_lt_problem *p,
                                      cublasLtMatmulPreference_t preference) {
    const uint64_t workspace = (uint64_t)p->workspace;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* and not to divide at all, of course */
    const uint32_t a = (uint32_t)p->a.alignment, b = (uint32_t)p->b.alignment, d = (uint32_t)p->d.alignment;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } attribute[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &d, sizeof d},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d, sizeof d},
    };
    for (const auto &x : attribute) {
        const cublasStatus_t status =
            lt->library->cublasLtMatmulPreferenceSetAttribute(preference, x.name, x.value, x.bytes);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- algorithms ---- */

/* The first of its suggestions; that there is none is no error. */
static cublasStatus_t choose_algorithm(const struct cuda_lt *lt, struct cuda_lt_plan *plan) {
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    cublasStatus_t status = lt->library->cublasLtMatmulPreferenceCreate(&preference);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = set_preferences(lt, &plan->problem, preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->library->cublasLtMatmulAlgoGetHeuristic(
            lt->handle, plan->product, plan->a, plan->b, plan->d, plan->d, preference, 1, &result, &found);
    lt->library->cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    plan->found = found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    plan->algorithm = result.algo;
    plan->workspace = result.workspaceSize;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- what is kept ---- */

/* FNV-1a over the words. */
static uint64_t hash(const struct cuda_lt_problem *p) {
    const int64_t *word = &p->dtype;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *p / sizeof *word; i++) h = (h ^ (uint64_t)word[i]) * 1099511628211u;
    return h ^ h >> 32;
}

static void clear(const struct cuda_lt *lt, struct cuda_lt_plan *plan) {
    if (plan->product) lt->library->cublasLtMatmulDescDestroy(plan->product);
    if (plan->a) lt->library->cublasLtMatrixLayoutDestroy(plan->a);
    if (plan->b) lt->library->cublasLtMatrixLayoutDestroy(plan->b);
    if (plan->d) lt->library->cublasLtMatrixLayoutDestroy(plan->d);
    memset(plan, 0, sizeof *plan);
}

cublasStatus_t cuda_lt_find_plan(struct cuda_lt *lt, const struct cuda_lt_problem *p,
                                 struct cuda_lt_plan **found) {
    struct cuda_lt_plan *set = lt->plan[hash(p) % CUDA_LT_SETS], *oldest = set;
    for (int way = 0; way < CUDA_LT_WAYS; way++) {
        if (set[way].used && memcmp(&set[way].problem, p, sizeof *p) == 0) {
            *found = &set[way];
            set[way].used = ++lt->uses;
            return CUBLAS_STATUS_SUCCESS;
        }
        if (set[way].used < oldest->used) oldest = &set[way];
    }
    clear(lt, oldest);
    oldest->problem = *p;
    cublasStatus_t status = make_product(lt, p, oldest);
    if (status == CUBLAS_STATUS_SUCCESS) status = set_alignments(lt, oldest);
    if (status == CUBLAS_STATUS_SUCCESS) status = choose_algorithm(lt, oldest);
    if (status != CUBLAS_STATUS_SUCCESS) {
        clear(lt, oldest);
        return status;
    }
    oldest->used = ++lt->uses;
    *found = oldest;
    return CUBLAS_STATUS_SUCCESS;
}

void cuda_lt_clear_plans(struct cuda_lt *lt) {
    for (int set = 0; set < CUDA_LT_SETS; set++)
        for (int way = 0; way < CUDA_LT_WAYS; way++) clear(lt, &lt->plan[set][way]);
}
