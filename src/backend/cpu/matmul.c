/* Batched matrix products with broadcast batch dimensions, forward and backward.
 *
 * All three products (y = a·b, da = dy·bᵀ, db = aᵀ·dy) are the same code: transposing is exchanging two
 * strides. An operand whose strides OpenBLAS cannot take is copied first, and a gradient that cannot be
 * written as it is goes through a temporary; both are rare. */
#include "backend/cpu/product.h"

#include "tensor/memory.h"

static bool matmul_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_matmul_args *a = arguments;
    const int last = a->y.rank - 1;
    (void)exec;
    if (!heed_cpu_takes_f32(HEED_PRIMITIVE_MATMUL, a, why)) return false;
    if (!heed_cpu_product_fits(a->y.size[last - 1], a->y.size[last], a->a.size[last])) {
        why->reason = "a size is beyond 31 bits";
        return false;
    }
    return true;
}

/* ---- views ---- */

static bool takes(const struct heed_view *v) {
    const int last = v->rank - 1;
    return heed_cpu_product_takes(v->size[last - 1], v->size[last], v->stride[last - 1], v->stride[last]);
}

/* The view with dimensions below `ranks` that repeat reduced to one index. */
static struct heed_view once(const struct heed_view *v, int ranks) {
    struct heed_view o = *v;
    for (int d = 0; d < ranks; d++) {
        if (o.stride[d] == 0) o.size[d] = 1;
    }
    return o;
}

/* New contiguous memory for the elements of v, which repeats in the batch dimensions that v repeats in. */
static bool temporary(struct heed_exec *exec, const struct heed_view *v, struct heed_view *t) {
    *t = once(v, v->rank - 2);
    if (!heed_view_set_contiguous(t)) return false;
    t->data = heed_block_new(exec->memory, (size_t)heed_view_count(t) * sizeof(float));
    for (int d = 0; d < v->rank; d++) {
        if (t->size[d] != v->size[d]) t->stride[d] = 0;
        t->size[d] = v->size[d];
    }
    return t->data != NULL;
}

static heed_status out_of_memory(struct heed_exec *exec) {
    return heed_exec_fail(exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_MATMUL, "no memory for a contiguous copy");
}

/* v as an operand; *block is a copy's memory, NULL if it needed none. */
static heed_status operand(struct heed_exec *exec, const struct heed_view *v, struct heed_view *out,
                           void **block) {
    *out = *v;
    *block = NULL;
    if (takes(v)) return HEED_OK;
    if (!temporary(exec, v, out)) return out_of_memory(exec);
    *block = out->data;
    const int batch = v->rank - 2;
    const struct heed_copy_args copy = {.x = once(v, batch), .y.view = once(out, batch)};
    return heed_exec_run(exec, HEED_PRIMITIVE_COPY, &copy);
}

/* ---- products ---- */

static void repeat_add(struct heed_cpu_repeat *r, int64_t size, int64_t a, int64_t b, int64_t c) {
    r->size[r->rank] = size;
    r->a[r->rank] = a;
    r->b[r->rank] = b;
    r->c[r->rank] = c;
    r->rank++;
}

/* The last batch dimension is more rows where A and C go on evenly and B is the same; the last summed one is
 * a longer inner dimension where A and B go on evenly. Fewer and larger products. */
static void collapse(struct heed_cpu_product *x) {
    struct heed_cpu_repeat *batch = &x->batch, *sum = &x->sum;
    while (batch->rank > 0) {
        const int d = batch->rank - 1;
        if (x->m == 1) { /* a single row has no stride of its own */
            x->a_row = batch->a[d];
            x->c_row = batch->c[d];
        }
        if (batch->b[d] != 0 || batch->a[d] != x->m * x->a_row || batch->c[d] != x->m * x->c_row) break;
        if (!heed_cpu_product_fits(x->m * batch->size[d], x->n, x->k)) break;
        if (!heed_cpu_product_takes(x->m * batch->size[d], x->k, x->a_row, x->a_column)) break;
        x->m *= batch->size[d];
        batch->rank--;
    }
    while (sum->rank > 0) {
        const int d = sum->rank - 1;
        if (sum->a[d] != x->k * x->a_column || sum->b[d] != x->k * x->b_row) break;
        if (!heed_cpu_product_fits(x->m, x->n, x->k * sum->size[d])) break;
        if (!heed_cpu_product_takes(x->m, x->k * sum->size[d], x->a_row, x->a_column)) break;
        if (!heed_cpu_product_takes(x->k * sum->size[d], x->n, x->b_row, x->b_column)) break;
        x->k *= sum->size[d];
        sum->rank--;
    }
}

/* c (+)= a·b, summed over the dimensions in which c repeats; rows or columns of c are contiguous. */
static heed_status run(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                       const struct heed_view *c, bool add) {
    const int last = c->rank - 1;
    const struct heed_view at = heed_view_transposed(a), bt = heed_view_transposed(b),
                           ct = heed_view_transposed(c);
    if (c->stride[last] != 1 && c->size[last] > 1) {
        return run(exec, &bt, &at, &ct, add);
    }
    struct heed_cpu_product x = {.m = c->size[last - 1],
                                 .n = c->size[last],
                                 .k = a->size[last],
                                 .a = a->data,
                                 .b = b->data,
                                 .c = c->data,
                                 .a_row = a->stride[last - 1],
                                 .a_column = a->stride[last],
                                 .b_row = b->stride[last - 1],
                                 .b_column = b->stride[last],
                                 .c_row = c->stride[last - 1],
                                 .add = add};
    for (int d = 0; d < last - 1; d++) {
        if (c->size[d] == 1) continue;
        repeat_add(c->stride[d] == 0 ? &x.sum : &x.batch, c->size[d], a->stride[d], b->stride[d],
                   c->stride[d]);
    }
    collapse(&x);
    return heed_cpu_product_run(exec, HEED_PRIMITIVE_MATMUL, &x);
}

/* Whether products can be written to v as it is. */
static bool writable(const struct heed_view *v) {
    const int last = v->rank - 1;
    const bool rows = (v->stride[last] == 1 || v->size[last] <= 1) && takes(v);
    const struct heed_view t = heed_view_transposed(v);
    return rows || ((t.stride[last] == 1 || t.size[last] <= 1) && takes(&t));
}

/* Adds t to the gradient, or writes it, where the gradient may repeat in any dimension. */
static heed_status deliver(struct heed_exec *exec, const struct heed_view *t,
                           const struct heed_grad_view *gradient) {
    const int batch = t->rank - 2;
    const struct heed_copy_args copy = {.x = once(t, batch), .y = {once(&gradient->view, batch), true}};
    if (!gradient->add) {
        const struct heed_fill_args fill = {.y = once(&gradient->view, gradient->view.rank)};
        const heed_status status = heed_exec_run(exec, HEED_PRIMITIVE_FILL, &fill);
        if (status) return status;
    }
    return heed_exec_run(exec, HEED_PRIMITIVE_COPY, &copy);
}

static heed_status run_into(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                            const struct heed_grad_view *c) {
    if (writable(&c->view)) {
        return run(exec, a, b, &c->view, c->add);
    }
    struct heed_view t;
    if (!temporary(exec, &c->view, &t)) return out_of_memory(exec);
    heed_status status = run(exec, a, b, &t, false);
    if (!status) status = deliver(exec, &t, c);
    heed_block_free(exec->memory, t.data);
    return status;
}

/* c (+)= a·b for operands of any strides. */
static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, const struct heed_view *b,
                            const struct heed_grad_view *c) {
    struct heed_view left, right;
    void *blocks[2] = {NULL, NULL};
    heed_status status = operand(exec, a, &left, &blocks[0]);
    if (!status) status = operand(exec, b, &right, &blocks[1]);
    if (!status) status = run_into(exec, &left, &right, c);
    for (int i = 0; i < 2; i++) heed_block_free(exec->memory, blocks[i]);
    return status;
}

static heed_status matmul_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_matmul_args *a = arguments;
    const struct heed_grad_view y = {.view = a->y};
    (void)saved, (void)scratch;
    return multiply(exec, &a->a, &a->b, &y);
}

static heed_status matmul_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                   void *scratch) {
    const struct heed_matmul_args *a = arguments;
    heed_status status = HEED_OK;
    (void)saved, (void)scratch;
    if (heed_has(&a->da.view)) {
        const struct heed_view bt = heed_view_transposed(&a->b);
        status = multiply(exec, &a->dy, &bt, &a->da);
    }
    if (!status && heed_has(&a->db.view)) {
        const struct heed_view at = heed_view_transposed(&a->a);
        status = multiply(exec, &at, &a->dy, &a->db);
    }
    return status;
}

const struct heed_kernel heed_cpu_matmul = {
    .name = "cpu", .applies = matmul_applies, .forward = matmul_forward, .backward = matmul_backward};
