/* y = a · b with broadcast batch dimensions, forward and backward: da = dy · bᵀ, db = aᵀ · dy; a batch
 * dimension that an operand repeats is summed in its gradient, in order. Operations and memory traffic are
 * those of the products: 2·m·n·k, and each factor once for every tile of the result along the other one.
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

/* ---- the products ---- */

static struct cuda_product product_y(const struct heed_matmul_args *a) {
    return cuda_product_of(&a->a, &a->b, &a->y, false);
}

static struct cuda_product product_da(const struct heed_matmul_args *a) {
    const struct heed_view bt = heed_view_transposed(&a->b);
    return cuda_product_of(&a->dy, &bt, &a->da.view, a->da.add);
}

static struct cuda_product product_db(const struct heed_matmul_args *a) {
    const struct heed_view at = heed_view_transposed(&a->a);
    return cuda_product_of(&at, &a->dy, &a->db.view, a->db.add);
}

/* ---- running them: with workspace by cuBLASLt, without by heed ---- */

static heed_status multiply(struct heed_exec *exec, const struct cuda_product *x, void *workspace) {
    return workspace ? cuda_lt_multiply(exec, HEED_PRIMITIVE_MATMUL, x, workspace)
                     : cuda_product_run(exec, HEED_PRIMITIVE_MATMUL, x);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *workspace) {
    const struct cuda_product y = product_y(static_cast<const struct heed_matmul_args *>(arguments));
    return multiply(exec, &y, workspace);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *workspace) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    heed_status status = HEED_OK;
    if (!writable(&a->da.view) || !writable(&a->db.view))
        return heed_host->fail(exec, HEED_ERROR_INTERNAL, HEED_PRIMITIVE_MATMUL,
                               "a gradient repeats rows or columns");
    if (heed_has(&a->da.view)) {
        const struct cuda_product da = product_da(a);
        status = multiply(exec, &da, workspace);
    }
    if (status == HEED_OK && heed_has(&a->db.view)) {
        const struct cuda_product db = product_db(a);
        status = multiply(exec, &db, workspace);
    }
    return status;
}

/* ---- the kernels ---- */

const struct heed_kernel heed_cuda_matmul = {"cuda", NULL, NULL, forward, backward};

static bool applies_lt(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    const struct cuda_product x = product_y(a);
    const char *reason = cuda_lt_refuses(exec, &x);
    if (reason) why->reason = reason;
    return !reason;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static void sizes_lt(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    const struct cuda_product y = product_y(a);
    sizes->forward_scratch = cuda_lt_workspace_bytes(&y);
    if (heed_has(&a->da.view)) {
        const struct cuda_product da = product_da(a);
        sizes->backward_scratch = cuda_lt_workspace_bytes(&da);
    }
    if (heed_has(&a->db.view)) {
        const struct cuda_product db = product_db(a);
        sizes->backward_scratch = larger(sizes->backward_scratch, cuda_lt_workspace_bytes(&db));
    }
}

const struct heed_kernel heed_cuda_matmul_lt = {"cublaslt", applies_lt, sizes_lt, forward, backward};
