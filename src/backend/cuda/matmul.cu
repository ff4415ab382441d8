/* y = a · b with broadcast batch dimensions, forward and backward: da = dy · bᵀ, db = aᵀ · dy; a batch
 * dimension that an operand repeats is summed in its gradient, inside the kernel and in order. */
#include "backend/cuda/product.cuh"

static struct heed_view transposed(const struct heed_view *v) {
    struct heed_view t = *v;
    const int last = v->rank - 1;
    t.size[last] = v->size[last - 1];
    t.stride[last] = v->stride[last - 1];
    t.size[last - 1] = v->size[last];
    t.stride[last - 1] = v->stride[last];
    return t;
}

template <typename T>
static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                            const struct heed_view *c, bool add) {
    const int last = c->rank - 1;
    cuda_product<T> x = {};
    x.m = c->size[last - 1];
    x.n = c->size[last];
    x.k = a->size[last];
    x.a = static_cast<const T *>(a->data);
    x.b = static_cast<const T *>(b->data);
    x.c = static_cast<T *>(c->data);
    x.a_row = a->stride[last - 1];
    x.a_column = a->stride[last];
    x.b_row = b->stride[last - 1];
    x.b_column = b->stride[last];
    x.c_row = c->stride[last - 1];
    x.c_column = c->stride[last];
    x.add = add;
    for (int d = 0; d < last - 1; d++) {
        if (c->size[d] == 1) continue;
        cuda_repeat_add(c->stride[d] == 0 ? &x.sum : &x.batch, c->size[d], a->stride[d], b->stride[d],
                        c->stride[d]);
    }
    return cuda_product_run(exec, HEED_PRIMITIVE_MATMUL, x);
}

static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                            const struct heed_view *c, bool add) {
    return c->dtype == HEED_F64 ? multiply<double>(exec, a, b, c, add) : multiply<float>(exec, a, b, c, add);
}

/* Only batch dimensions of a gradient may repeat. */
static bool writable(const struct heed_view *v) {
    for (int d = v->rank - 2; heed_has(v) && d < v->rank; d++)
        if (v->stride[d] == 0 && v->size[d] > 1) return false;
    return true;
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    if (a->y.dtype != HEED_F32 && a->y.dtype != HEED_F64) {
        why->reason = "dtype is not f32 or f64";
        return false;
    }
    return true;
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    return multiply(exec, &a->a, &a->b, &a->y, false);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_matmul_args *a = static_cast<const struct heed_matmul_args *>(arguments);
    const struct heed_view at = transposed(&a->a), bt = transposed(&a->b);
    heed_status status = HEED_OK;
    if (!writable(&a->da.view) || !writable(&a->db.view))
        return heed_host->fail(exec, HEED_ERROR_INTERNAL, HEED_PRIMITIVE_MATMUL,
                               "a gradient repeats rows or columns");
    if (heed_has(&a->da.view)) status = multiply(exec, &a->dy, &bt, &a->da.view, a->da.add);
    if (status == HEED_OK && heed_has(&a->db.view))
        status = multiply(exec, &at, &a->dy, &a->db.view, a->db.add);
    return status;
}

const struct heed_kernel heed_cuda_matmul = {"cuda", applies, NULL, forward, backward};
