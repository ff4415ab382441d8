/* Matrix products by cuBLASLt: C (+)= A · B, with bias, GELU and the gradient of a bias in the same launch.
 *
 * Memory traffic: A, B and C once where their tiles fit the second-level cache; the bias and the sums are
 * small; GELU's argument, where it is kept, is one more store of C's size. What a separate pass would cost
 * instead: a load and a store of C for the bias, a load and a store for GELU, a load of A for the sums.
 *
 * cuBLASLt's matrices are in column-major order. A row-major matrix is its transpose there, so it is given
 * Cᵀ = Bᵀ · Aᵀ: its A is our B, its rows of D are our columns of C.
 *
 * It applies where each matrix has one stride of 1 — C that of its columns, as all results and gradients have
 * it — and another that is at least the extent of the first, where batches are one stride apart — after what
 * continues the rows or columns of a matrix was joined to them — and nothing is empty. Both factors have one
 * dtype, and the result that too, or f32 where it is bf16; a bias has the result's. GELU and bias are
 * fused in f32 and bf16. cuBLASLt's GELU is the tanh form, which is heed's HEED_ACTIVATION_GELU_TANH; how
 * exact its tanh is NVIDIA does not say, so it is used only where products are rounded anyway (TF32, bf16).
 * ReLU is left to heed: of NaN heed's is NaN, and max(x, 0) need not be. DGELU belongs to the product that
 * makes dy, which is another operation's.
 *
 * HEED_CUDA_PRODUCTS chooses: f32 (sums and factors of f32 are f32; the default), tf32 (factors of f32 are
 * rounded to 10 bits of mantissa for tensor cores), own (no cuBLASLt). f64 is f64, and bf16 sums in f32,
 * always.
 *
 * The same bits every time: one algorithm per problem, asked for once; of those that divide k only those that
 * add the parts in a step of their own. (Adding in place is in the order in which blocks come.) */
#include "backend/cuda/lt.cuh"
#include "backend/cuda/lt_library.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is kept ---- */

/* An operand as cuBLASLt sees it. */
struct lt_operand {
    int64_t transposed, ld, stride, alignment;
};

/* All that an algorithm depends on. Compared as bytes: words of one size only. */
struct lt_problem {
    int64_t dtype, d_dtype, epilogue; /* of the factors, of D */
    int64_t m, n, k, batch;           /* D [m, n] */
    struct lt_operand a, b, d;
    int64_t vector_alignment, aux_alignment, aux_ld;
    int64_t workspace; /* the most there is */
};

struct lt_plan {
    struct lt_problem problem;
    uint64_t used; /* when last; 0: never, the plan is empty */
    bool found;    /* there is an algorithm */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace; /* that the algorithm takes */
};

enum { SETS = 64, WAYS = 4 };

struct cuda_lt {
    const struct cuda_lt_library *library;
    const char *off; /* why there is no handle */
    cublasLtHandle_t handle;
    bool tf32;
    uint64_t uses;
    struct lt_plan plan[SETS][WAYS];
};

/* ---- types ---- */

struct lt_type {
    cudaDataType_t scale;
    cublasComputeType_t compute;
    bool epilogues;
};

static cudaDataType_t data_type(heed_dtype dtype) {
    return dtype == HEED_F64 ? CUDA_R_64F : dtype == HEED_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* By the dtype of the factors. */
static struct lt_type type_of(const struct cuda_lt *lt, heed_dtype dtype) {
    switch (dtype) {
    case HEED_F64:
        return {CUDA_R_64F, CUBLAS_COMPUTE_64F, false};
    case HEED_BF16:
        return {CUDA_R_32F, CUBLAS_COMPUTE_32F, true};
    default:
        return {CUDA_R_32F, lt->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, true};
    }
}

/* Where factors are rounded; that columns are a multiple of 8 is the library's condition. */
bool cuda_lt_fuses_gelu(const struct heed_exec *exec, const struct cuda_product *x) {
    const bool tf32 = x->a_dtype == HEED_F32 && cuda_of(exec)->lt->tf32;
    return (tf32 || x->c_dtype == HEED_BF16) && x->n % 8 == 0;
}

/* ---- errors ---- */

static heed_status check(struct heed_exec *exec, enum heed_primitive primitive, cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return HEED_OK;
    const struct cuda_lt_library *library = cuda_of(exec)->lt->library;
    return heed_host->fail(exec, status == CUBLAS_STATUS_ALLOC_FAILED ? HEED_ERROR_MEMORY : HEED_ERROR_DEVICE,
                           primitive, "cuBLASLt: %s", library->cublasLtGetStatusString(status));
}

/* ---- opening and closing ---- */

static bool choose(struct cuda_lt *lt, char *why, size_t bytes) {
    const char *wish = getenv("HEED_CUDA_PRODUCTS");
    if (!wish || !*wish || strcmp(wish, "f32") == 0) return true;
    lt->tf32 = strcmp(wish, "tf32") == 0;
    if (strcmp(wish, "own") == 0) lt->off = "HEED_CUDA_PRODUCTS is own";
    if (lt->tf32 || lt->off) return true;
    snprintf(why, bytes, "HEED_CUDA_PRODUCTS=%.40s is not one of f32, tf32, own", wish);
    return false;
}

/* A device that cuBLASLt does not know is no error: heed has its own products for it. */
static bool open_handle(struct cuda_lt *lt, char *why, size_t bytes) {
    if (lt->off) return true;
    lt->library = cuda_lt_library_get();
    lt->off = lt->library->missing;
    if (lt->off) return true;
    const cublasStatus_t status = lt->library->cublasLtCreate(&lt->handle);
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    lt->handle = NULL;
    lt->off = "cuBLASLt: cublasLtCreate refuses the device";
    if (status != CUBLAS_STATUS_ALLOC_FAILED) return true;
    snprintf(why, bytes, "cuBLASLt: out of memory");
    return false;
}

bool cuda_lt_open(struct cuda_device *device, char *why, size_t bytes) {
    struct cuda_lt *lt =
        static_cast<struct cuda_lt *>(heed_host->block_new(device->exec->memory, sizeof *lt));
    if (!lt) {
        snprintf(why, bytes, "out of memory");
        return false;
    }
    memset(lt, 0, sizeof *lt);
    device->lt = lt;
    return choose(lt, why, bytes) && open_handle(lt, why, bytes);
}

static void clear(const struct cuda_lt *lt, struct lt_plan *plan) {
    if (plan->product) lt->library->cublasLtMatmulDescDestroy(plan->product);
    if (plan->a) lt->library->cublasLtMatrixLayoutDestroy(plan->a);
    if (plan->b) lt->library->cublasLtMatrixLayoutDestroy(plan->b);
    if (plan->d) lt->library->cublasLtMatrixLayoutDestroy(plan->d);
    memset(plan, 0, sizeof *plan);
}

void cuda_lt_close(struct cuda_device *device) {
    struct cuda_lt *lt = device->lt;
    if (!lt) return;
    for (int set = 0; lt->handle && set < SETS; set++)
        for (int way = 0; way < WAYS; way++) clear(lt, &lt->plan[set][way]);
    if (lt->handle) lt->library->cublasLtDestroy(lt->handle);
    heed_host->block_free(device->exec->memory, lt);
    device->lt = NULL;
}

void cuda_lt_describe(const struct cuda_device *device, char *text, size_t size) {
    const struct cuda_lt *lt = device->lt;
    if (lt->off) {
        snprintf(text, size, "heed's own products (%s)", lt->off);
        return;
    }
    const size_t version = lt->library->cublasLtGetVersion();
    snprintf(text, size, "cuBLASLt %zu.%zu.%zu, products in %s", version / 10000, version / 100 % 100,
             version % 100, lt->tf32 ? "tf32" : "f32");
}

/* ---- a product as cuBLASLt sees it ---- */

static const char *const EMPTY = "cuBLASLt: nothing to multiply";

/* Sums that continue the inner dimension. */
static const char *join_sums(struct cuda_product *x) {
    for (int d = x->sum.rank - 1; d >= 0; d--) {
        if (x->k == 1) {
            x->a_column = x->sum.a[d];
            x->b_row = x->sum.b[d];
        } else if (x->sum.a[d] != x->k * x->a_column || x->sum.b[d] != x->k * x->b_row) {
            return "cuBLASLt: a sum over batches does not continue the inner dimension";
        }
        x->k *= x->sum.size[d];
    }
    x->sum = {};
    return NULL;
}

/* Whether a batch dimension continues the rows of A and C, and B is the same for all. */
static bool join_rows(struct cuda_product *x, int d) {
    const struct cuda_repeat *r = &x->batch;
    if (r->b[d] != 0) return false;
    if (x->m == 1) {
        x->a_row = r->a[d];
        x->c_row = r->c[d];
    } else if (r->a[d] != x->m * x->a_row || r->c[d] != x->m * x->c_row) {
        return false;
    }
    x->m *= r->size[d];
    return true;
}

/* The same of the columns of B and C. */
static bool join_columns(struct cuda_product *x, int d) {
    const struct cuda_repeat *r = &x->batch;
    if (r->a[d] != 0) return false;
    if (x->n == 1) {
        x->b_column = r->b[d];
        x->c_column = r->c[d];
    } else if (r->b[d] != x->n * x->b_column || r->c[d] != x->n * x->c_column) {
        return false;
    }
    x->n *= r->size[d];
    return true;
}

/* Leaves one batch dimension, or none. */
static const char *join_batches(struct cuda_product *x, bool as_is) {
    struct cuda_repeat one = {};
    for (int d = x->batch.rank - 1; d >= 0; d--) {
        const struct cuda_repeat *r = &x->batch;
        if (!as_is && (join_rows(x, d) || join_columns(x, d))) continue;
        if (one.rank == 0) {
            one.rank = 1;
            one.size[0] = r->size[d];
            one.a[0] = r->a[d];
            one.b[0] = r->b[d];
            one.c[0] = r->c[d];
        } else if (r->a[d] == one.size[0] * one.a[0] && r->b[d] == one.size[0] * one.b[0] &&
                   r->c[d] == one.size[0] * one.c[0]) {
            one.size[0] *= r->size[d];
        } else {
            return "cuBLASLt: batches are not one stride apart";
        }
    }
    one.count = one.rank ? one.size[0] : 1;
    x->batch = one;
    return NULL;
}

/* Whether `slow` lines of `fast` elements are a matrix with a leading dimension. */
static bool is_matrix(int64_t fast, int64_t slow, int64_t fast_stride, int64_t slow_stride, int64_t *ld) {
    if (fast > 1 && fast_stride != 1) return false;
    *ld = slow > 1 ? slow_stride : fast;
    return *ld >= fast;
}

static const char *refuses_dtypes(const struct cuda_product *x) {
    if (x->a_dtype != x->b_dtype) return "cuBLASLt: factors have two dtypes";
    if (x->c_dtype != x->a_dtype && (x->a_dtype != HEED_BF16 || x->c_dtype != HEED_F32))
        return "cuBLASLt: the result is narrower than the factors";
    if (x->bias && x->bias_dtype != x->c_dtype) return "cuBLASLt: the bias has not the result's dtype";
    return NULL;
}

/* Leaves *x at most one batch dimension, and describes it but for pointers. `as_is`: it has a bias or the
 * like, which says what rows and columns are. */
static const char *describe(struct cuda_product *x, bool as_is, struct lt_problem *p) {
    const char *reason = NULL;
    memset(p, 0, sizeof *p);
    if (x->m == 0 || x->n == 0 || x->k == 0) return EMPTY;
    if ((x->batch.rank && x->batch.count == 0) || (x->sum.rank && x->sum.count == 0)) return EMPTY;
    if ((reason = refuses_dtypes(x)) || (reason = join_sums(x)) || (reason = join_batches(x, as_is)))
        return reason;
    if (!is_matrix(x->n, x->m, x->c_column, x->c_row, &p->d.ld))
        return "cuBLASLt: rows of the result are not contiguous";
    if (!is_matrix(x->n, x->k, x->b_column, x->b_row, &p->a.ld)) {
        p->a.transposed = 1;
        if (!is_matrix(x->k, x->n, x->b_row, x->b_column, &p->a.ld))
            return "cuBLASLt: neither rows nor columns of a factor are contiguous";
    }
    if (!is_matrix(x->k, x->m, x->a_column, x->a_row, &p->b.ld)) {
        p->b.transposed = 1;
        if (!is_matrix(x->m, x->k, x->a_row, x->a_column, &p->b.ld))
            return "cuBLASLt: neither rows nor columns of a factor are contiguous";
    }
    p->dtype = x->a_dtype;
    p->d_dtype = x->c_dtype;
    p->m = x->n;
    p->n = x->m;
    p->k = x->k;
    p->batch = x->batch.count;
    p->a.stride = x->batch.b[0];
    p->b.stride = x->batch.a[0];
    p->d.stride = x->batch.c[0];
    const int64_t extents[] = {p->m, p->n, p->k, p->batch, p->a.ld, p->b.ld, p->d.ld};
    for (int64_t extent : extents)
        if (extent > INT32_MAX) return "cuBLASLt: an extent is beyond 31 bits";
    return NULL;
}

const char *cuda_lt_refuses(const struct heed_exec *exec, const struct cuda_product *product) {
    if (cuda_of(exec)->lt->off) return cuda_of(exec)->lt->off;
    struct cuda_product x = *product;
    struct lt_problem problem;
    return describe(&x, x.bias, &problem);
}

/* ---- plans ---- */

/* Where k is divided, the parts are kept in f32 (f64): not more of them than 16, nor shorter than SHORTEST,
 * which is many times what an algorithm takes in a step. */
enum : size_t {
    SHORTEST = 128,
    MOST_PARTS = 16,
    LEAST_WORKSPACE = (size_t)64 << 10,
    MOST_WORKSPACE = (size_t)32 << 20,
    WORKSPACE_ALIGN = 256
};

/* For so many elements of C, each a sum of k products. */
static size_t most_workspace(bool f64, size_t elements, size_t k) {
    const size_t parts = k / SHORTEST < MOST_PARTS ? k / SHORTEST : (size_t)MOST_PARTS,
                 part = f64 ? sizeof(double) : sizeof(float);
    if (parts == 0 || elements <= LEAST_WORKSPACE / (parts * part)) return LEAST_WORKSPACE;
    return elements < MOST_WORKSPACE / (parts * part) ? elements * parts * part : (size_t)MOST_WORKSPACE;
}

size_t cuda_lt_workspace_bytes(const struct cuda_product *x) {
    const int64_t batches = x->batch.rank ? x->batch.count : 1, sums = x->sum.rank ? x->sum.count : 1;
    return most_workspace(cuda_is_f64(x), (size_t)(x->m * x->n * batches), (size_t)(x->k * sums)) +
           WORKSPACE_ALIGN; /* scratch is aligned to less */
}

/* What algorithms may rely on: vectors of 16 bytes. */
static int64_t alignment_of(const void *data) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(data) | 16;
    return (int64_t)(address & (0 - address));
}

static cublasStatus_t make_layout(const struct cuda_lt *lt, cudaDataType_t type, int64_t rows,
                                  int64_t columns, const struct lt_operand *operand, int64_t batch,
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

/* Where the bias, or its gradient, and what GELU keeps are. */
static cublasStatus_t set_pointers(const struct cuda_lt *lt, const struct lt_plan *plan, void *vector,
                                   void *aux) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (vector)
        status = set_product(lt, plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector, sizeof vector);
    if (aux && status == CUBLAS_STATUS_SUCCESS)
        status = set_product(lt, plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
    return status;
}

static cublasStatus_t make_product(const struct cuda_lt *lt, const struct lt_problem *p,
                                   struct lt_plan *plan) {
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
static cublasStatus_t set_alignments(const struct cuda_lt *lt, const struct lt_plan *plan) {
    const struct lt_problem *p = &plan->problem;
    return set_pointers(lt, plan, p->vector_alignment ? address_of(p->vector_alignment) : NULL,
                        p->aux_alignment ? address_of(p->aux_alignment) : NULL);
}

static cublasStatus_t set_preferences(const struct cuda_lt *lt, const struct lt_problem *p,
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

/* The first of its suggestions; that there is none is no error. */
static cublasStatus_t choose_algorithm(const struct cuda_lt *lt, struct lt_plan *plan) {
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

/* FNV-1a over the words. */
static uint64_t hash(const struct lt_problem *p) {
    const int64_t *word = &p->dtype;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *p / sizeof *word; i++) h = (h ^ (uint64_t)word[i]) * 1099511628211u;
    return h ^ h >> 32;
}

/* The plan for a problem: the one there is, or a new one in place of the one of its set that was not used
 * for longest. */
static cublasStatus_t find_plan(struct cuda_lt *lt, const struct lt_problem *p, struct lt_plan **found) {
    struct lt_plan *set = lt->plan[hash(p) % SETS], *oldest = set;
    for (int way = 0; way < WAYS; way++) {
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

/* ---- running ---- */

static cublasLtEpilogue_t epilogue_of(const struct cuda_product *x, enum cuda_lt_end end) {
    switch (end) {
    case CUDA_LT_PLAIN:
        break;
    case CUDA_LT_GELU:
        return x->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case CUDA_LT_SUMS:
        return CUBLASLT_EPILOGUE_BGRADB;
    }
    return x->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static const char *word_of(int64_t epilogue) {
    switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
        return "";
    case CUBLASLT_EPILOGUE_BIAS:
        return " with bias";
    case CUBLASLT_EPILOGUE_BGRADB:
        return " with the gradient of the bias";
    default:
        return " with GELU";
    }
}

/* For heed_explain. */
static void note(struct heed_exec *exec, enum heed_primitive primitive, const struct cuda_lt *lt,
                 const struct lt_problem *p) {
    struct heed_last_run *last = &exec->last[primitive];
    const char *type = p->dtype == HEED_F64      ? "f64"
                       : p->d_dtype == HEED_BF16 ? "bf16"
                       : p->dtype == HEED_BF16   ? "bf16 to f32"
                       : lt->tf32                ? "tf32"
                                                 : "f32";
    snprintf(last->note, sizeof last->note, "%s, %lld x %lld x %lld, %lld times%s", type, (long long)p->n,
             (long long)p->m, (long long)p->k, (long long)p->batch, word_of(p->epilogue));
}

static cublasStatus_t start(struct heed_exec *exec, const struct lt_plan *plan, const struct cuda_product *x,
                            void *workspace) {
    const struct cuda_lt *lt = cuda_of(exec)->lt;
    const float one = 1, beta = x->add ? 1 : 0;
    const double one_f64 = 1, beta_f64 = x->add ? 1 : 0;
    const bool f64 = cuda_is_f64(x);
    const uintptr_t at = (reinterpret_cast<uintptr_t>(workspace) + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN;
    return lt->library->cublasLtMatmul(
        lt->handle, plan->product, f64 ? static_cast<const void *>(&one_f64) : &one, x->b, plan->a, x->a,
        plan->b, f64 ? static_cast<const void *>(&beta_f64) : &beta, x->c, plan->d, x->c, plan->d,
        &plan->algorithm, plan->workspace ? reinterpret_cast<void *>(at * WORKSPACE_ALIGN) : NULL,
        plan->workspace, cuda_stream(cuda_of(exec)));
}

heed_status cuda_lt_run(struct heed_exec *exec, enum heed_primitive primitive,
                        const struct cuda_product *product, enum cuda_lt_end end, void *aux, void *workspace,
                        bool *done) {
    struct cuda_lt *lt = cuda_of(exec)->lt;
    struct cuda_product x = *product;
    struct lt_problem p;
    struct lt_plan *plan = NULL;
    *done = false;
    if (lt->off || describe(&x, x.bias || end != CUDA_LT_PLAIN, &p)) return HEED_OK;
    p.epilogue = epilogue_of(&x, end);
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !type_of(lt, x.a_dtype).epilogues) return HEED_OK;
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.batch != 1) return HEED_OK;
    void *vector = end == CUDA_LT_SUMS ? aux : const_cast<void *>(x.bias);
    void *kept = end == CUDA_LT_GELU ? aux : NULL;
    p.a.alignment = alignment_of(x.b);
    p.b.alignment = alignment_of(x.a);
    p.d.alignment = alignment_of(x.c);
    p.vector_alignment = vector ? alignment_of(vector) : 0;
    p.aux_alignment = kept ? alignment_of(kept) : 0;
    p.aux_ld = kept ? p.m : 0;
    p.workspace = (int64_t)most_workspace(cuda_is_f64(&x), (size_t)(p.m * p.n * p.batch), (size_t)p.k);
    heed_status status = check(exec, primitive, find_plan(lt, &p, &plan));
    if (status != HEED_OK || !plan->found) return status;
    status = check(exec, primitive, set_pointers(lt, plan, vector, kept));
    if (status == HEED_OK) status = check(exec, primitive, start(exec, plan, &x, workspace));
    if (status != HEED_OK) return status;
    *done = true;
    note(exec, primitive, lt, &p);
    return cuda_started(exec, primitive);
}

/* Every row of C = bias: what a product without that epilogue is added to. */
static heed_status spread_bias(struct heed_exec *exec, const struct cuda_product *x) {
    struct heed_copy_args copy = {};
    copy.x = {const_cast<void *>(x->bias), x->bias_dtype, 2, {x->m, x->n}, {0, 1}};
    copy.y.view = {x->c, x->c_dtype, 2, {x->m, x->n}, {x->c_row, x->c_column}};
    const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_COPY, &copy);
    return kernel ? heed_host->forward(exec, kernel, &copy, NULL) : HEED_ERROR_UNSUPPORTED;
}

heed_status cuda_lt_multiply(struct heed_exec *exec, enum heed_primitive primitive,
                             const struct cuda_product *product, void *workspace) {
    bool done = false;
    heed_status status = cuda_lt_run(exec, primitive, product, CUDA_LT_PLAIN, NULL, workspace, &done);
    if (status != HEED_OK || done) return status;
    const char *reason = cuda_lt_refuses(exec, product);
    if (product->bias && !reason) {
        struct cuda_product x = *product;
        x.bias = NULL;
        x.add = true;
        status = spread_bias(exec, product);
        if (status == HEED_OK)
            status = cuda_lt_run(exec, primitive, &x, CUDA_LT_PLAIN, NULL, workspace, &done);
        if (status != HEED_OK || done) return status;
    }
    struct heed_last_run *last = &exec->last[primitive];
    snprintf(last->note, sizeof last->note, "own product (%s)",
             reason ? reason : "cuBLASLt has no algorithm");
    return cuda_product_run(exec, primitive, product);
}
