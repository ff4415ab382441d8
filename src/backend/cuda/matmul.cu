/* y = a · b with broadcast batch dimensions, forward and backward: da = dy · bᵀ, db = aᵀ · dy; a batch
 * dimension that an operand repeats is summed in its gradient, in order.
 *
 * "cublaslt" applies where the product of forward is one that cuBLASLt can be given (lt.cu), after batches
 * that share b were joined to rows; gradients whose strides it cannot be given are heed's own products in it
 * too. "cuda" applies always: the sum over batches is inside its kernel. */
#include "backend/cuda/lt.cuh"

/* Only batch dimensions of a gradient may repeat. */
static bool writable(const struct heed_view *v) {
    for (int d = v->rank - 2; heed_has(v) && d < v->rank; d++)
        if (v->stride[d] == 0 && v->size[d] > 1) return false;
    return true;
}

/* ---- with workspace by cuBLASLt, without by heed ---- */

static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                            const struct heed_view *c, bool add, void *workspace) {
    const struct cuda_product x = cuda_product_of(a, b, c, add);
    return workspace ? cuda_lt_multiply(exec, HEED_PRIMITIVE_MATMUL, &x, workspace)
                     : cuda_product_run(exec, HEED_PRIMITIVE_MATMUL, &x);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *workspace) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    return multiply(exec, &a->a, &a->b, &a->y, false, workspace);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *workspace) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    const struct heed_view at = cuda_transposed(&a->a), bt = cuda_transposed(&a->b);
    heed_status status = HEED_OK;
    if (!writable(&a->da.view) || !writable(&a->db.view))
        return heed_host->fail(exec, HEED_ERROR_INTERNAL, HEED_PRIMITIVE_MATMUL,
                               "a gradient repeats rows or columns");
    if (heed_has(&a->da.view)) status = multiply(exec, &a->dy, &bt, &a->da.view, a->da.add, workspace);
    if (status == HEED_OK && heed_has(&a->db.view))
        status = multiply(exec, &at, &a->dy, &a->db.view, a->db.add, workspace);
    return status;
}

/* ---- the kernels ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    return cuda_computes(a->y.dtype, why);
}

const struct heed_kernel heed_cuda_matmul = {"cuda", applies, NULL, forward, backward};

static bool applies_lt(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    if (!cuda_computes(a->y.dtype, why)) return false;
    const struct cuda_product x = cuda_product_of(&a->a, &a->b, &a->y, false);
    const char *reason = cuda_lt_refuses(exec, &x);
    if (reason) why->reason = reason;
    return !reason;
}

static void sizes_lt(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    const int64_t of_a = heed_view_count(&a->a), of_b = heed_view_count(&a->b);
    sizes->forward_scratch = cuda_lt_workspace_bytes(a->y.dtype, heed_view_count(&a->y));
    sizes->backward_scratch = cuda_lt_workspace_bytes(a->y.dtype, of_a > of_b ? of_a : of_b);
}

const struct heed_kernel heed_cuda_matmul_lt = {"cublaslt", applies_lt, sizes_lt, forward, backward};
