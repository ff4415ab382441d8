/* y = activation(x·wᵀ + bias): a product with the bias in its epilogue, then the activation as an elementwise
 * pass.
 *
 * saved: z = x·wᵀ + bias [rows, out], where there is an activation. Backward: dz = dy · activation'(z) [rows,
 * out] in scratch; dx = dz·w, dw = dzᵀ·x, dbias = Σ over rows of dz. */
#include "backend/cuda/product.cuh"

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    if (a->x.dtype != HEED_F32 && a->x.dtype != HEED_F64) {
        why->reason = "dtype is not f32 or f64";
        return false;
    }
    return true;
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    if (a->activation == HEED_ACTIVATION_NONE) return;
    sizes->saved = sizes->backward_scratch =
        (size_t)a->x.size[0] * (size_t)a->w.size[0] * heed_dtype_bytes(a->x.dtype);
}

static struct heed_view matrix(void *data, const struct heed_linear_args *a) {
    const int64_t rows = a->x.size[0], out = a->w.size[0];
    return {data, a->x.dtype, 2, {rows, out}, {out, 1}};
}

/* Runs an elementwise kernel of the same device. */
static heed_status activate(struct heed_exec *exec, const struct heed_unary_args *args, bool backward) {
    const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_UNARY, args);
    if (!kernel) return HEED_ERROR_UNSUPPORTED;
    return backward ? heed_host->backward(exec, kernel, args, NULL)
                    : heed_host->forward(exec, kernel, args, NULL);
}

template <typename T>
static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, bool a_turned,
                            const struct heed_view *b, bool b_turned, const struct heed_view *c,
                            const void *bias, bool add) {
    cuda_product<T> x = {};
    x.m = c->size[0];
    x.n = c->size[1];
    x.k = a->size[a_turned ? 0 : 1];
    x.a = static_cast<const T *>(a->data);
    x.b = static_cast<const T *>(b->data);
    x.bias = static_cast<const T *>(bias);
    x.c = static_cast<T *>(c->data);
    x.a_row = a->stride[a_turned ? 1 : 0];
    x.a_column = a->stride[a_turned ? 0 : 1];
    x.b_row = b->stride[b_turned ? 1 : 0];
    x.b_column = b->stride[b_turned ? 0 : 1];
    x.c_row = c->stride[0];
    x.c_column = c->stride[1];
    x.add = add;
    return cuda_product_run(exec, HEED_PRIMITIVE_LINEAR, x);
}

static heed_status multiply(struct heed_exec *exec, const struct heed_view *a, bool a_turned,
                            const struct heed_view *b, bool b_turned, const struct heed_view *c,
                            const void *bias, bool add) {
    return c->dtype == HEED_F64 ? multiply<double>(exec, a, a_turned, b, b_turned, c, bias, add)
                                : multiply<float>(exec, a, a_turned, b, b_turned, c, bias, add);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    struct heed_unary_args unary = {};
    unary.op = heed_activation_unary(a->activation);
    unary.y = a->y;
    const bool activated = a->activation != HEED_ACTIVATION_NONE;
    unary.x = activated && saved ? matrix(saved, a) : a->y;
    const heed_status status = multiply(exec, &a->x, false, &a->w, true, &unary.x, a->bias.data, false);
    return status == HEED_OK && activated ? activate(exec, &unary, false) : status;
}

/* dz, where it is asked for or in scratch; dy itself where there is no activation. */
static heed_status through_activation(struct heed_exec *exec, const struct heed_linear_args *a, void *saved,
                                      void *scratch, struct heed_view *dz) {
    *dz = a->dy;
    if (a->activation == HEED_ACTIVATION_NONE) return HEED_OK;
    struct heed_unary_args unary = {};
    unary.op = heed_activation_unary(a->activation);
    unary.x = matrix(saved, a);
    unary.y = matrix(scratch, a);
    unary.dy = a->dy;
    *dz = unary.dx.view = heed_has(&a->dz) ? a->dz : matrix(scratch, a);
    /* dz may lie where dy does, and y, where the derivative is a function of it, where dz does: each element
     * is read before it is written. */
    if (heed_unary_needs(unary.op) & HEED_NEEDS_Y) {
        const heed_status status = activate(exec, &unary, false);
        if (status != HEED_OK) return status;
    }
    return activate(exec, &unary, true);
}

/* dbias = Σ over rows. */
static heed_status sum_rows(struct heed_exec *exec, const struct heed_view *dz,
                            const struct heed_grad_view *dbias) {
    struct heed_copy_args copy = {};
    copy.x = *dz;
    copy.y.view = {dbias->view.data, dz->dtype, 2, {dz->size[0], dz->size[1]}, {0, 1}};
    copy.y.add = true;
    if (!dbias->add) {
        struct heed_fill_args fill = {};
        fill.y = dbias->view;
        const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_FILL, &fill);
        const heed_status status =
            kernel ? heed_host->forward(exec, kernel, &fill, NULL) : HEED_ERROR_UNSUPPORTED;
        if (status != HEED_OK) return status;
    }
    const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_COPY, &copy);
    return kernel ? heed_host->forward(exec, kernel, &copy, NULL) : HEED_ERROR_UNSUPPORTED;
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    struct heed_view dz;
    heed_status status = through_activation(exec, a, saved, scratch, &dz);
    if (status == HEED_OK && heed_has(&a->dx.view))
        status = multiply(exec, &dz, false, &a->w, false, &a->dx.view, NULL, a->dx.add);
    if (status == HEED_OK && heed_has(&a->dw.view))
        status = multiply(exec, &dz, true, &a->x, false, &a->dw.view, NULL, a->dw.add);
    if (status == HEED_OK && heed_has(&a->dbias.view)) status = sum_rows(exec, &dz, &a->dbias);
    return status;
}

const struct heed_kernel heed_cuda_linear = {"cuda", applies, sizes, forward, backward};
