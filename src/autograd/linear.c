/* y = activation(x·wᵀ + bias), and several such products of one x at once. */
#include "autograd/heads.h"
#include "autograd/tape.h"
#include "backend/joined.h"

#include <string.h>

/* Inputs: x, then weight and bias of each product. */
enum { X, W, BIAS };
#define W_OF(i) (W + 2 * (i))
#define BIAS_OF(i) (BIAS + 2 * (i))

/* What the kernel sees are the arguments of the product of all. */
struct linear_args {
    struct heed_linear_args whole;
    struct heed_joined joined;
};

/* ---- backward ---- */

/* The arguments of product i alone; nothing if no gradient arrived there. */
static bool alone(struct heed_backward *b, const struct linear_args *args, int i,
                  struct heed_linear_args *one) {
    const struct heed_view dy = heed_dy(b, i);
    if (!heed_has(&dy)) return false;
    *one = args->whole;
    heed_joined_narrow(&args->joined, i, one);
    one->dw = heed_dx(b, W_OF(i));
    one->dbias = heed_dx(b, BIAS_OF(i));
    return b->ok;
}

/* Where some of the gradients are missing: those that arrived, one by one. */
static heed_status backward_some(struct heed_backward *b, const struct linear_args *args) {
    struct heed_linear_args one;
    heed_status status = b->ok ? HEED_OK : b->ctx->status;
    struct heed_grad_view dx = heed_dx_rows(b, X);
    for (int i = 0; i < args->joined.count && status == HEED_OK; i++) {
        if (!alone(b, args, i, &one)) continue;
        one.dx = dx;
        dx.add = true;
        status = heed_exec_backward(&b->ctx->exec, b->entry->kernel, &one, NULL);
    }
    return b->ok ? status : b->ctx->status;
}

static heed_status heads_backward(struct heed_backward *b) {
    struct linear_args *args = b->args;
    struct heed_linear_args *whole = &args->whole;
    struct heed_grad_view dw[HEED_MAX_JOINED], dbias[HEED_MAX_JOINED];
    const struct heed_grad_view *each_dw[HEED_MAX_JOINED], *each_dbias[HEED_MAX_JOINED];
    whole->dy = whole->y;
    whole->y.data = NULL;
    if (!heed_dy_side_by_side(b, &whole->dy)) return backward_some(b, args);
    whole->dx = heed_dx_rows(b, X);
    for (int i = 0; i < args->joined.count; i++) {
        dw[i] = heed_dx(b, W_OF(i));
        dbias[i] = heed_dx(b, BIAS_OF(i));
        each_dw[i] = &dw[i];
        each_dbias[i] = &dbias[i];
    }
    if (!b->ok) return b->ctx->status;
    return heed_joined_backward(&b->ctx->exec, b->entry->kernel, whole, &args->joined, each_dw, each_dbias);
}

/* The gradients of weight and bias before that of x: x may end then and make room for it. */
static heed_status weights_backward(struct heed_backward *b) {
    struct heed_linear_args *args = b->args;
    args->dx = (struct heed_grad_view){0};
    args->dw = heed_dx(b, W);
    args->dbias = heed_dx(b, BIAS);
    const bool wanted = heed_has(&args->dw.view) || heed_has(&args->dbias.view);
    const heed_status status = wanted ? heed_backward_run(b) : HEED_OK;
    heed_backward_done_with(b, &args->x);
    args->dw = args->dbias = (struct heed_grad_view){0};
    return status;
}

/* dy becomes the gradient of the product without its activation, in place where nobody else reads it. What
 * the kernel kept for that ends. */
static heed_status activation_backward(struct heed_backward *b) {
    struct heed_linear_args *args = b->args;
    const struct heed_view *dy = &args->dy;
    args->dx = args->dw = args->dbias = (struct heed_grad_view){0};
    args->dz = heed_dy_ends(b, 0) ? *dy : heed_backward_temp(b, dy->dtype, dy->rank, dy->size);
    const heed_status status = heed_backward_run(b);
    heed_backward_done_with_kernel(b);
    args->dy = args->dz;
    args->dz.data = NULL;
    return status;
}

/* Where x is the activation of another product, which goes nowhere else, the kernel may be able to take dx on
 * to what was activated. Returns the entry of that product then, and otherwise NULL. */
static struct heed_entry *take_inner(struct heed_backward *b) {
    struct heed_linear_args *args = b->args;
    const struct heed_kernel *kernel = b->entry->kernel;
    struct heed_entry *entry = kernel->takes_inner ? heed_sole_producer(b, X) : NULL;
    if (!entry || entry->op != b->entry->op || !entry->kernel->saves_argument || !entry->kernel_saved)
        return NULL;
    const struct heed_linear_args *inner = entry->args;
    args->inner_activation = inner->activation;
    args->inner = inner->y;
    args->inner.data = entry->kernel_saved->data;
    if (inner->activation != HEED_ACTIVATION_NONE && kernel->takes_inner(&b->ctx->exec, args)) return entry;
    args->inner.data = NULL;
    return NULL;
}

/* One step after the other, so that what a step reads can end before the next one needs memory. */
static heed_status linear_backward(struct heed_backward *b) {
    struct heed_linear_args *args = b->args;
    const heed_activation activation = args->activation;
    heed_status status = HEED_OK;
    args->y.data = NULL;
    args->dy = heed_dy_rows(b, 0);
    if (b->entry->inner_done)
        heed_backward_done_with_kernel(b);
    else if (activation != HEED_ACTIVATION_NONE)
        status = activation_backward(b);
    args->activation = HEED_ACTIVATION_NONE;
    if (status == HEED_OK) status = weights_backward(b);
    struct heed_entry *inner = take_inner(b);
    args->dx = heed_dx_rows(b, X);
    if (status == HEED_OK && heed_has(&args->dx.view)) status = heed_backward_run(b);
    if (inner) inner->inner_done = status == HEED_OK && b->ok && heed_has(&args->dx.view);
    args->inner.data = NULL;
    args->activation = activation;
    return b->ok ? status : b->ctx->status;
}

static const struct heed_op op_linear = {"linear", HEED_PRODUCT, linear_backward, NULL};
static const struct heed_op op_heads = {"linear", HEED_PRODUCT, heads_backward, NULL};

/* ---- what both begin with ---- */

/* [.., n] as a matrix with contiguous rows, copied only if strides make it necessary. */
static struct heed_view as_rows(struct heed_call *c, int i) {
    struct heed_view v = heed_call_view(c, i), rows;
    if (!c->ok) return v;
    int64_t n = v.size[v.rank - 1], size[2] = {1, n};
    for (int d = 0; d + 1 < v.rank; d++) size[0] *= v.size[d];
    if (heed_view_reshape(&v, 2, size, &rows) && (n <= 1 || rows.stride[1] == 1) &&
        (size[0] <= 1 || rows.stride[0] >= n)) {
        if (n <= 1) rows.stride[1] = 1;
        if (size[0] <= 1) rows.stride[0] = n;
        return rows;
    }
    v = heed_call_dense(c, i);
    if (c->ok) heed_view_reshape(&v, 2, size, &rows);
    return c->ok ? rows : v;
}

static bool check_product(struct heed_call *c, int w_input, int bias_input) {
    char one[128], two[128];
    if (!heed_call_float(c, X, "x") || !heed_call_float(c, w_input, "w")) return false;
    const struct heed_view *x = &c->input[X]->view, *w = &c->input[w_input]->view;
    if (x->rank < 1 || w->rank != 2 || x->size[x->rank - 1] != w->size[1])
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                              heed_named_shape("x", x, one, sizeof one),
                              heed_named_shape("w", w, two, sizeof two));
    if (!c->input[bias_input]) return true;
    const struct heed_view *bias = &c->input[bias_input]->view;
    if (!heed_call_float(c, bias_input, "bias")) return false;
    return (bias->rank == 1 && bias->size[0] == w->size[0]) ||
           heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                          heed_named_shape("bias", bias, one, sizeof one),
                          heed_named_shape("w", w, two, sizeof two));
}

static bool check_options(struct heed_call *c, const heed_linear_options *options) {
    if (!options) return true;
    if (!heed_reserved_zero(options->reserved, 4))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if ((unsigned)options->activation > HEED_ACTIVATION_SIGMOID)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%d is not an activation", (int)options->activation);
    return true;
}

static struct heed_linear_args begin_product(struct heed_call *c) {
    return (struct heed_linear_args){
        .x = as_rows(c, X), .w = as_rows(c, W), .bias = heed_call_dense(c, BIAS)};
}

static heed_tensor run_product(struct heed_call *c, const struct heed_linear_args *args, size_t bytes) {
    heed_call_save_view(c, &args->x);
    heed_call_save(c, &args->w);
    heed_call_save(c, &args->bias);
    return heed_call_run(c, HEED_PRIMITIVE_LINEAR, args, bytes);
}

/* ---- one product ---- */

heed_tensor heed_linear(heed_tensor x, heed_tensor w, heed_tensor bias, const heed_linear_options *options) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_linear, NULL, 3, (heed_tensor[]){x, w, bias}) ||
        !check_product(&c, W, BIAS) || !check_options(&c, options))
        return heed_call_end(&c);
    struct heed_view vx = heed_call_view(&c, X);
    struct heed_linear_args args = begin_product(&c);
    if (!c.ok) return heed_call_end(&c);
    args.activation = options ? options->activation : HEED_ACTIVATION_NONE;
    int64_t size[HEED_MAX_RANK];
    memcpy(size, vx.size, sizeof size);
    size[vx.rank - 1] = args.w.size[0];
    args.y = (struct heed_view){.dtype = vx.dtype, .rank = 2, .size = {args.x.size[0], args.w.size[0]}};
    heed_view_set_contiguous(&args.y);
    heed_call_choose(&c, HEED_PRIMITIVE_LINEAR, &args);
    args.y.data = heed_call_output(&c, vx.dtype, vx.rank, size).data;
    if (c.ok && args.activation != HEED_ACTIVATION_NONE &&
        (!c.kernel->remakes || c.kernel->remakes(&c.ctx->exec, &args)))
        heed_call_can_remake(&c, &args.y);
    return run_product(&c, &args, sizeof args);
}

/* ---- products whose results are taken apart into heads ---- */

/* Columns of the product's result [.., length, all], seen as [.., heads, length, width]. */
static struct heed_view heads_view(const struct heed_view *x, const struct heed_view *y, int64_t column,
                                   int64_t columns, int64_t heads) {
    const int rank = x->rank + 1;
    const int64_t row = y->stride[0];
    struct heed_view v = {.data = heed_view_at(y, column), .dtype = y->dtype, .rank = rank};
    v.size[rank - 1] = columns / heads;
    v.stride[rank - 1] = 1;
    v.size[rank - 2] = x->size[x->rank - 2];
    v.stride[rank - 2] = row;
    v.size[rank - 3] = heads;
    v.stride[rank - 3] = columns / heads;
    int64_t stride = row * v.size[rank - 2];
    for (int d = rank - 4; d >= 0; d--) {
        v.size[d] = x->size[d];
        v.stride[d] = stride;
        stride *= x->size[d];
    }
    return v;
}

/* Of one x, and with weights that lie one after the other. */
static void project_joined(int count, heed_tensor x, const heed_tensor *w, const heed_tensor *bias,
                           const int64_t *heads, heed_tensor *out) {
    struct heed_call c;
    heed_tensor input[1 + 2 * HEED_MAX_JOINED] = {x};
    for (int i = 0; i < count; i++) {
        input[W_OF(i)] = w[i];
        input[BIAS_OF(i)] = bias[i];
        out[i] = heed_handle(heed_ctx_of(x), NULL);
    }
    bool sound = heed_call_begin(&c, &op_heads, NULL, 1 + 2 * count, input);
    for (int i = 0; sound && i < count; i++) sound = check_product(&c, W_OF(i), BIAS_OF(i));
    if (!sound) {
        heed_call_end(&c);
        return;
    }
    const struct heed_view vx = heed_call_view(&c, X);
    struct linear_args args = {.whole = begin_product(&c), .joined.count = count};
    struct heed_linear_args *whole = &args.whole;
    int64_t column = 0;
    for (int i = 0; i < count; i++) column += args.joined.width[i] = c.input[W_OF(i)]->view.size[0];
    whole->w.size[0] = whole->bias.size[0] = column;
    whole->y = heed_call_temp(&c, vx.dtype, 2, (int64_t[]){whole->x.size[0], column});
    column = 0;
    for (int i = 0; c.ok && i < count; i++) {
        const struct heed_view v = heads_view(&vx, &whole->y, column, args.joined.width[i], heads[i]);
        heed_call_output_part(&c, &v);
        column += args.joined.width[i];
    }
    run_product(&c, whole, sizeof args);
    for (int i = 0; i < count; i++) out[i] = heed_call_result(&c, i);
}

static bool same_tensor(heed_tensor a, heed_tensor b) {
    return a.node == b.node && a.serial == b.serial;
}

/* Elements of one storage without gaps; of nothing an absent view. */
static struct heed_view dense_view(heed_tensor t) {
    return heed_is_valid(t) && heed_view_is_contiguous(&t.node->view) ? t.node->view : (struct heed_view){0};
}

static bool of_one_storage(heed_tensor a, heed_tensor b) {
    return !heed_is_valid(a) || !heed_is_valid(b) || a.node->storage == b.node->storage;
}

/* Tensors that are converted for a call lie anywhere. */
static bool is_read_in_place(heed_tensor t) {
    return !heed_is_valid(t) || t.node->view.dtype != HEED_F32 || t.node->storage->of_model ||
           !heed_is_mixed(t.node->ctx);
}

static bool joins(const heed_tensor *w, const heed_tensor *bias) {
    const struct heed_view w0 = dense_view(w[0]), w1 = dense_view(w[1]), b0 = dense_view(bias[0]),
                           b1 = dense_view(bias[1]);
    return is_read_in_place(w[0]) && is_read_in_place(bias[0]) && heed_has(&w0) && heed_has(&w1) &&
           w0.rank == 2 && w1.rank == 2 && of_one_storage(w[0], w[1]) && of_one_storage(bias[0], bias[1]) &&
           heed_joins(&w0, &b0, &w1, &b1);
}

void heed_project_heads(int count, const heed_tensor *x, const heed_tensor *w, const heed_tensor *bias,
                        const int64_t *heads, heed_tensor *out) {
    heed_ctx *ctx = heed_ctx_of(x[0]);
    for (int i = 0; i < count; i++) out[i] = heed_handle(ctx, NULL);
    if (!heed_enter(ctx)) return;
    for (int first = 0, next; first < count; first = next) {
        next = first + 1;
        while (next < count && same_tensor(x[first], x[next]) && joins(w + next - 1, bias + next - 1)) next++;
        project_joined(next - first, x[first], w + first, bias + first, heads + first, out + first);
    }
    for (int i = 0; i < count && heed_failed(ctx); i++) out[i] = heed_handle(ctx, NULL);
    heed_leave(ctx);
}
