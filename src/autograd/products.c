/* Matrix products. */
#include "autograd/tape.h"

#include <string.h>

/* ---- matmul ---- */

static heed_status matmul_backward(struct heed_backward *b) {
    struct heed_matmul_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy(b, 0);
    args->da = heed_dx_expanded(b, 0, &args->a);
    args->db = heed_dx_expanded(b, 1, &args->b);
    return heed_backward_run(b);
}

static const struct heed_op op_matmul = {"matmul", HEED_PRODUCT, matmul_backward, NULL};

heed_tensor heed_matmul(heed_tensor a, heed_tensor b) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_matmul, NULL, 2, (heed_tensor[]){a, b}) || !heed_call_float(&c, 0, "a") ||
        !heed_call_float(&c, 1, "b"))
        return heed_call_end(&c);
    struct heed_view va = heed_call_view(&c, 0), vb = heed_call_view(&c, 1);
    struct heed_matmul_args args = {0};
    int64_t size[HEED_MAX_RANK];
    int rank = 0;
    char one[112], two[112];
    if (va.rank < 2 || vb.rank < 2 || va.size[va.rank - 1] != vb.size[vb.rank - 2] ||
        !heed_shape_broadcast(va.rank - 2, va.size, vb.rank - 2, vb.size, &rank, size)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("a", &va, one, sizeof one),
                       heed_named_shape("b", &vb, two, sizeof two));
        return heed_call_end(&c);
    }
    rank += 2;
    size[rank - 2] = va.size[va.rank - 2];
    size[rank - 1] = va.size[va.rank - 1];
    heed_view_expand(&va, rank, size, &args.a);
    size[rank - 2] = vb.size[vb.rank - 2];
    size[rank - 1] = vb.size[vb.rank - 1];
    heed_view_expand(&vb, rank, size, &args.b);
    size[rank - 2] = va.size[va.rank - 2];
    args.y = heed_call_output(&c, va.dtype, rank, size);
    heed_call_save_input(&c, 0);
    heed_call_save_input(&c, 1);
    return heed_call_run(&c, HEED_PRIMITIVE_MATMUL, &args, sizeof args);
}

/* ---- linear ---- */

static heed_status linear_backward(struct heed_backward *b) {
    struct heed_linear_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy_rows(b, 0);
    args->dx = heed_dx_rows(b, 0);
    args->dw = heed_dx(b, 1);
    args->dbias = heed_dx(b, 2);
    return heed_backward_run(b);
}

static const struct heed_op op_linear = {"linear", HEED_PRODUCT, linear_backward, NULL};

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

static bool check_linear(struct heed_call *c, const heed_linear_options *options) {
    char one[128], two[128];
    if (!heed_call_float(c, 0, "x") || !heed_call_float(c, 1, "w")) return false;
    const struct heed_view *x = &c->input[0]->view, *w = &c->input[1]->view;
    if (x->rank < 1 || w->rank != 2 || x->size[x->rank - 1] != w->size[1])
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                              heed_named_shape("x", x, one, sizeof one),
                              heed_named_shape("w", w, two, sizeof two));
    if (c->input[2]) {
        const struct heed_view *bias = &c->input[2]->view;
        if (!heed_call_float(c, 2, "bias")) return false;
        if (bias->rank != 1 || bias->size[0] != w->size[0])
            return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                                  heed_named_shape("bias", bias, one, sizeof one),
                                  heed_named_shape("w", w, two, sizeof two));
    }
    if (!options) return true;
    if (!heed_reserved_zero(options->reserved, 4))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if ((unsigned)options->activation > HEED_ACTIVATION_SIGMOID)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%d is no activation", (int)options->activation);
    return true;
}

heed_tensor heed_linear(heed_tensor x, heed_tensor w, heed_tensor bias, const heed_linear_options *options) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_linear, NULL, 3, (heed_tensor[]){x, w, bias}) || !check_linear(&c, options))
        return heed_call_end(&c);
    struct heed_linear_args args = {.activation = options ? options->activation : HEED_ACTIVATION_NONE};
    struct heed_view vx = heed_call_view(&c, 0);
    int64_t size[HEED_MAX_RANK];
    memcpy(size, vx.size, sizeof size);
    args.x = as_rows(&c, 0);
    args.w = as_rows(&c, 1);
    args.bias = heed_call_dense(&c, 2);
    if (!c.ok) return heed_call_end(&c);
    size[vx.rank - 1] = args.w.size[0];
    struct heed_view y = heed_call_output(&c, vx.dtype, vx.rank, size);
    if (!c.ok) return heed_call_end(&c);
    int64_t rows[2] = {args.x.size[0], args.w.size[0]};
    heed_view_reshape(&y, 2, rows, &args.y);
    heed_call_save(&c, &args.x);
    heed_call_save(&c, &args.w);
    heed_call_save(&c, &args.bias);
    return heed_call_run(&c, HEED_PRIMITIVE_LINEAR, &args, sizeof args);
}
