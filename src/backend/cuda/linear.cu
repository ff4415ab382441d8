/* y = activation(x·wᵀ + bias): a product with the bias in its epilogue, then the activation as an elementwise
 * pass, which moves 12 bytes an element in f32 (8 where z is not kept).
 *
 * saved: z = x·wᵀ + bias [rows, out], where there is an activation. Backward: dz = dy · activation'(z) [rows,
 * out] in scratch; dx = dz·w, dw = dzᵀ·x, dbias = Σ over rows of dz.
 *
 * "cublaslt" applies where the product of forward is one that cuBLASLt can be given (lt.cu). There dbias
 * comes with dw; and the tanh form of GELU is in the epilogue, where products are rounded more than their
 * results and out is a multiple of 8. It keeps z then even if nobody asks, in scratch: another epilogue may
 * be another algorithm, and what is recorded has the same bits as what is not. "cuda" applies always. */
#include "backend/cuda/lt.cuh"

/* ---- the products ---- */

/* z, y, dz and the like: in bf16 z is rounded, because that is what is kept. */
static struct heed_view matrix(void *data, const struct heed_linear_args *a) {
    const int64_t rows = a->x.size[0], out = a->w.size[0];
    return {data, a->y.dtype, 2, {rows, out}, {out, 1}};
}

static struct cuda_product product_z(const struct heed_linear_args *a, const struct heed_view *z) {
    const struct heed_view wt = heed_view_transposed(&a->w);
    struct cuda_product x = cuda_product_of(&a->x, &wt, z, false);
    cuda_product_bias(&x, &a->bias);
    return x;
}

static struct cuda_product product_dx(const struct heed_linear_args *a, const struct heed_view *dz) {
    return cuda_product_of(dz, &a->w, &a->dx.view, a->dx.add);
}

static struct cuda_product product_dw(const struct heed_linear_args *a, const struct heed_view *dz) {
    const struct heed_view dzt = heed_view_transposed(dz);
    return cuda_product_of(&dzt, &a->x, &a->dw.view, a->dw.add);
}

/* ---- scratch and what is saved ---- */

enum : size_t { ALIGN = 64 };

static size_t aligned(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t z_bytes(const struct heed_linear_args *a) {
    if (a->activation == HEED_ACTIVATION_NONE) return 0;
    return (size_t)a->x.size[0] * (size_t)a->w.size[0] * heed_dtype_bytes(a->y.dtype);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    sizes->saved = sizes->backward_scratch = z_bytes(a);
}

static bool fuses_gelu(const struct heed_exec *exec, const struct heed_linear_args *a) {
    const struct cuda_product z = product_z(a, &a->y);
    return a->activation == HEED_ACTIVATION_GELU_TANH && cuda_lt_fuses_gelu(exec, &z);
}

/* Where things are in the scratch of "cublaslt". Forward: z and the workspace; backward: dz, the sums of its
 * rows, and the workspace. */
struct room {
    size_t sums, workspace, bytes;
};

static struct room forward_room(const struct heed_exec *exec, const struct heed_linear_args *a) {
    struct room room;
    room.sums = room.workspace = fuses_gelu(exec, a) ? aligned(z_bytes(a)) : 0;
    const struct cuda_product z = product_z(a, &a->y);
    room.bytes = room.workspace + cuda_lt_workspace_bytes(&z);
    return room;
}

static struct room backward_room(const struct heed_linear_args *a) {
    const struct heed_view dz = matrix(NULL, a);
    size_t dx_bytes = 0, dw_bytes = 0;
    if (heed_has(&a->dx.view)) {
        const struct cuda_product dx = product_dx(a, &dz);
        dx_bytes = cuda_lt_workspace_bytes(&dx);
    }
    if (heed_has(&a->dw.view)) {
        const struct cuda_product dw = product_dw(a, &dz);
        dw_bytes = cuda_lt_workspace_bytes(&dw);
    }
    struct room room;
    room.sums = aligned(z_bytes(a));
    room.workspace = room.sums + aligned((size_t)a->w.size[0] * heed_dtype_bytes(a->dbias.view.dtype));
    room.bytes = room.workspace + (dx_bytes > dw_bytes ? dx_bytes : dw_bytes);
    return room;
}

static void sizes_lt(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    sizes->saved = z_bytes(a);
    sizes->forward_scratch = forward_room(exec, a).bytes;
    sizes->backward_scratch = backward_room(a).bytes;
}

/* ---- other kernels of the device ---- */

static heed_status activate(struct heed_exec *exec, const struct heed_unary_args *args, bool backward) {
    const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_UNARY, args);
    if (!kernel) return HEED_ERROR_UNSUPPORTED;
    return backward ? heed_host->backward(exec, kernel, args, NULL)
                    : heed_host->forward(exec, kernel, args, NULL);
}

static heed_status copy(struct heed_exec *exec, const struct heed_copy_args *args) {
    const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_COPY, args);
    return kernel ? heed_host->forward(exec, kernel, args, NULL) : HEED_ERROR_UNSUPPORTED;
}

/* dbias = Σ over rows. */
static heed_status sum_rows(struct heed_exec *exec, const struct heed_view *dz,
                            const struct heed_grad_view *dbias) {
    struct heed_copy_args sum = {};
    sum.x = *dz;
    sum.y.view = {dbias->view.data, dbias->view.dtype, 2, {dz->size[0], dz->size[1]}, {0, 1}};
    sum.y.add = true;
    if (!dbias->add) {
        struct heed_fill_args fill = {};
        fill.y = dbias->view;
        const struct heed_kernel *kernel = heed_host->select(exec, HEED_PRIMITIVE_FILL, &fill);
        const heed_status status =
            kernel ? heed_host->forward(exec, kernel, &fill, NULL) : HEED_ERROR_UNSUPPORTED;
        if (status != HEED_OK) return status;
    }
    return copy(exec, &sum);
}

/* ---- forward: with workspace by cuBLASLt, without by heed ---- */

static heed_status multiply(struct heed_exec *exec, const struct cuda_product *x, void *workspace) {
    return workspace ? cuda_lt_multiply(exec, HEED_PRIMITIVE_LINEAR, x, workspace)
                     : cuda_product_run(exec, HEED_PRIMITIVE_LINEAR, x);
}

static heed_status product_and_activation(struct heed_exec *exec, const struct heed_linear_args *a,
                                          void *saved, void *workspace) {
    const bool activated = a->activation != HEED_ACTIVATION_NONE;
    struct heed_unary_args unary = {};
    unary.op = heed_activation_unary(a->activation);
    unary.y = a->y;
    unary.x = activated && saved ? matrix(saved, a) : a->y;
    const struct cuda_product x = product_z(a, &unary.x);
    const heed_status status = multiply(exec, &x, workspace);
    return status == HEED_OK && activated ? activate(exec, &unary, false) : status;
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    return product_and_activation(exec, static_cast<const struct heed_linear_args *>(arguments), saved, NULL);
}

static heed_status forward_lt(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    void *workspace = static_cast<char *>(scratch) + forward_room(exec, a).workspace;
    if (fuses_gelu(exec, a)) {
        const struct cuda_product fused = product_z(a, &a->y);
        bool done;
        const heed_status status = cuda_lt_run(exec, HEED_PRIMITIVE_LINEAR, &fused, CUDA_LT_GELU,
                                               saved ? saved : scratch, workspace, &done);
        if (status != HEED_OK || done) return status;
    }
    return product_and_activation(exec, a, saved, workspace);
}

/* ---- backward ---- */

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

/* dw and dbias by one product, where cuBLASLt has it. Into `sums` first where dbias is added to. */
static heed_status weights_and_bias(struct heed_exec *exec, const struct heed_linear_args *a,
                                    const struct cuda_product *dw, void *sums, void *workspace, bool *done) {
    const struct heed_grad_view *dbias = &a->dbias;
    void *to = dbias->add ? sums : dbias->view.data;
    const heed_status status =
        cuda_lt_run(exec, HEED_PRIMITIVE_LINEAR, dw, CUDA_LT_SUMS, to, workspace, done);
    if (status != HEED_OK || !*done || !dbias->add) return status;
    struct heed_copy_args add = {};
    add.x = {sums, dbias->view.dtype, 1, {dbias->view.size[0]}, {1}};
    add.y = *dbias;
    return copy(exec, &add);
}

/* dx, and on to what x is the activation of, by the same product where cuBLASLt has it. */
static heed_status gradient_of_x(struct heed_exec *exec, const struct heed_linear_args *a,
                                 const struct heed_view *dz, void *workspace) {
    const struct cuda_product dx = product_dx(a, dz);
    if (!heed_has(&a->inner)) return multiply(exec, &dx, workspace);
    bool done = false;
    heed_status status =
        cuda_lt_run(exec, HEED_PRIMITIVE_LINEAR, &dx, CUDA_LT_SLOPE, a->inner.data, workspace, &done);
    if (status != HEED_OK || done) return status;
    status = multiply(exec, &dx, workspace);
    struct heed_unary_args unary = {};
    unary.op = heed_activation_unary(a->inner_activation);
    unary.x = a->inner;
    unary.dy = unary.dx.view = a->dx.view; /* each element is read before it is written */
    return status == HEED_OK ? activate(exec, &unary, true) : status;
}

static heed_status gradients(struct heed_exec *exec, const struct heed_linear_args *a,
                             const struct heed_view *dz, void *sums, void *workspace) {
    bool summed = false;
    heed_status status = HEED_OK;
    if (heed_has(&a->dx.view)) status = gradient_of_x(exec, a, dz, workspace);
    if (status == HEED_OK && heed_has(&a->dw.view)) {
        const struct cuda_product dw = product_dw(a, dz);
        if (workspace && heed_has(&a->dbias.view) && a->dbias.view.dtype == a->dw.view.dtype)
            status = weights_and_bias(exec, a, &dw, sums, workspace, &summed);
        if (status == HEED_OK && !summed) status = multiply(exec, &dw, workspace);
    }
    if (status == HEED_OK && heed_has(&a->dbias.view) && !summed) status = sum_rows(exec, dz, &a->dbias);
    return status;
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    struct heed_view dz;
    const heed_status status = through_activation(exec, a, saved, scratch, &dz);
    return status == HEED_OK ? gradients(exec, a, &dz, NULL, NULL) : status;
}

static heed_status backward_lt(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    const struct room room = backward_room(a);
    char *base = static_cast<char *>(scratch);
    struct heed_view dz;
    const heed_status status = through_activation(exec, a, saved, scratch, &dz);
    if (status != HEED_OK) return status;
    return gradients(exec, a, &dz, base + room.sums, base + room.workspace);
}

/* ---- the output again ---- */

/* Of the argument that was kept. */
static heed_status remake(struct heed_exec *exec, const void *arguments, const void *saved) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    struct heed_unary_args unary = {};
    unary.op = heed_activation_unary(a->activation);
    unary.x = matrix(const_cast<void *>(saved), a);
    unary.y = a->y;
    return activate(exec, &unary, false);
}

/* ---- the kernels ---- */

const struct heed_kernel heed_cuda_linear = {"cuda", NULL, sizes, forward, backward,
                                             remake, NULL, true,  NULL};

static bool applies_lt(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    const struct cuda_product x = product_z(a, &a->y);
    const char *reason = cuda_lt_refuses(exec, &x);
    if (reason) why->reason = reason;
    return !reason;
}

/* Where GELU is fused it is of more digits than what is kept of its argument in bf16. */
static bool remakes_lt(const struct heed_exec *exec, const void *arguments) {
    return !fuses_gelu(exec, static_cast<const struct heed_linear_args *>(arguments));
}

/* Where forward could have fused that GELU. */
static bool takes_inner(const struct heed_exec *exec, const void *arguments) {
    const struct heed_linear_args *a = static_cast<const struct heed_linear_args *>(arguments);
    if (a->inner_activation != HEED_ACTIVATION_GELU_TANH || a->inner.dtype != a->x.dtype) return false;
    if (a->inner.size[0] != a->x.size[0] || a->inner.size[1] != a->x.size[1]) return false;
    struct heed_linear_args with_dx = *a;
    with_dx.dx.view = a->inner;
    const struct heed_view dz = matrix(NULL, a);
    const struct cuda_product dx = product_dx(&with_dx, &dz);
    return cuda_lt_fuses_gelu(exec, &dx);
}

const struct heed_kernel heed_cuda_linear_lt = {"cublaslt", applies_lt, sizes_lt, forward_lt, backward_lt,
                                                remake,     remakes_lt, true,     takes_inner};
