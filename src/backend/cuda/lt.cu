/* Matrix products by cuBLASLt: C (+)= A · B, with bias, GELU and the gradient of a bias in the same launch.
 *
 * Memory traffic: A, B and C once where their tiles fit the second-level cache; the bias and the sums are
 * small; GELU's argument, where it is kept, is one more store of C's size. What a separate pass would cost
 * instead: a load and a store of C for the bias, a load and a store for GELU, a load of A for the sums.
 *
 * It applies where each matrix has one stride of 1 — C that of its columns, as all results and gradients have
 * it — and another that is at least the extent of the first, where batches are one stride apart — after what
 * continues the rows or columns of a matrix was joined to them — and nothing is empty. Both factors have one
 * dtype, and the result that too, or f32 where it is bf16; a bias has the result's. GELU and bias are
 * fused in f32 and bf16. cuBLASLt's GELU is the tanh form, which is heed's HEED_ACTIVATION_GELU_TANH; how
 * exact its tanh is NVIDIA does not say, so it is used only where products are rounded anyway (TF32, bf16).
 * ReLU is left to heed: of NaN heed's is NaN, and max(x, 0) need not be. The gradient through GELU belongs to
 * the product that makes dy, which is another operation's: the tape joins the two (autograd/linear.c).
 *
 * HEED_CUDA_PRODUCTS chooses: f32 (sums and factors of f32 are f32; the default), tf32 (factors of f32 are
 * rounded to 10 bits of mantissa for tensor cores), own (no cuBLASLt). f64 is f64, and bf16 sums in f32,
 * always. */
#include "backend/cuda/lt.cuh"
#include "backend/cuda/lt_plans.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void cuda_lt_close(struct cuda_device *device) {
    struct cuda_lt *lt = device->lt;
    if (!lt) return;
    if (lt->handle) {
        cuda_lt_clear_plans(lt);
        lt->library->cublasLtDestroy(lt->handle);
    }
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
/* ---- what it can make ---- */

const char *cuda_lt_refuses(const struct heed_exec *exec, const struct cuda_product *product) {
    if (cuda_of(exec)->lt->off) return cuda_of(exec)->lt->off;
    struct cuda_product x = *product;
    struct cuda_lt_problem problem;
    return cuda_lt_problem_of(&x, x.bias, &problem);
}

/* Where factors are rounded; that columns are a multiple of 8 is the library's condition. */
bool cuda_lt_fuses_gelu(const struct heed_exec *exec, const struct cuda_product *x) {
    const bool tf32 = x->a_dtype == HEED_F32 && cuda_of(exec)->lt->tf32;
    return (tf32 || x->c_dtype == HEED_BF16) && x->n % 8 == 0;
}

/* ---- workspace ---- */

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

/* ---- running ---- */

/* What algorithms may rely on: vectors of 16 bytes. */
static int64_t alignment_of(const void *data) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(data) | 16;
    return (int64_t)(address & (0 - address));
}

static cublasLtEpilogue_t epilogue_of(const struct cuda_product *x, enum cuda_lt_end end) {
    switch (end) {
    case CUDA_LT_PLAIN:
        break;
    case CUDA_LT_GELU:
        return x->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case CUDA_LT_SUMS:
        return CUBLASLT_EPILOGUE_BGRADB;
    case CUDA_LT_SLOPE:
        return CUBLASLT_EPILOGUE_DGELU;
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
    case CUBLASLT_EPILOGUE_DGELU:
        return " with the gradient of GELU";
    default:
        return " with GELU";
    }
}

/* For heed_explain. */
static void note(struct heed_exec *exec, enum heed_primitive primitive, const struct cuda_lt *lt,
                 const struct cuda_lt_problem *p) {
    struct heed_last_run *last = &exec->last[primitive];
    const char *type = p->dtype == HEED_F64      ? "f64"
                       : p->d_dtype == HEED_BF16 ? "bf16"
                       : p->dtype == HEED_BF16   ? "bf16 to f32"
                       : lt->tf32                ? "tf32"
                                                 : "f32";
    snprintf(last->note, sizeof last->note, "%s, %lld x %lld x %lld, %lld times%s", type, (long long)p->n,
             (long long)p->m, (long long)p->k, (long long)p->batch, word_of(p->epilogue));
}

static cublasStatus_t start(struct heed_exec *exec, const struct cuda_lt_plan *plan,
                            const struct cuda_product *x, void *workspace) {
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
    struct cuda_lt_problem p;
    struct cuda_lt_plan *plan = NULL;
    *done = false;
    if (lt->off || cuda_lt_problem_of(&x, x.bias || end != CUDA_LT_PLAIN, &p)) return HEED_OK;
    p.epilogue = epilogue_of(&x, end);
    const bool epilogues = x.a_dtype != HEED_F64 && p.batch == 1; /* there are in f32 and bf16 */
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !epilogues) return HEED_OK;
    void *vector = end == CUDA_LT_SUMS ? aux : const_cast<void *>(x.bias);
    void *kept = end == CUDA_LT_GELU || end == CUDA_LT_SLOPE ? aux : NULL;
    p.a.alignment = alignment_of(x.b);
    p.b.alignment = alignment_of(x.a);
    p.d.alignment = alignment_of(x.c);
    p.vector_alignment = vector ? alignment_of(vector) : 0;
    p.aux_alignment = kept ? alignment_of(kept) : 0;
    p.aux_ld = kept ? p.m : 0;
    p.workspace = (int64_t)most_workspace(cuda_is_f64(&x), (size_t)(p.m * p.n * p.batch), (size_t)p.k);
    heed_status status = check(exec, primitive, cuda_lt_find_plan(lt, &p, &plan));
    if (status != HEED_OK || !plan->found) return status;
    status = check(exec, primitive, cuda_lt_set_pointers(lt, plan, vector, kept));
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
