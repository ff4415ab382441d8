/* Operations along one dimension: softmax and norms. */
#include "autograd/tape.h"

/* ---- softmax ---- */

static heed_status softmax_backward(struct heed_backward *b) {
    struct heed_softmax_args *args = b->args;
    args->x.data = NULL;
    args->dy = heed_dy_rows(b, 0);
    args->dx = heed_dx_rows(b, 0);
    return heed_backward_run(b);
}

static const struct heed_op op_softmax = {"softmax", HEED_PRECISE, softmax_backward, NULL};
static const struct heed_op op_log_softmax = {"log_softmax", HEED_PRECISE, softmax_backward, NULL};

static heed_tensor softmax_last(const struct heed_op *op, heed_tensor x) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 1, &x)) return heed_call_end(&c);
    struct heed_softmax_args args = {.log = op == &op_log_softmax, .x = heed_call_dense(&c, 0)};
    args.y = heed_call_output(&c, heed_call_result_dtype(&c), args.x.rank, args.x.size);
    if (!c.ok) return heed_call_end(&c);
    args.x = heed_view_rows(&args.x);
    args.y = heed_view_rows(&args.y);
    heed_call_save_output(&c, 0);
    return heed_call_run(&c, HEED_PRIMITIVE_SOFTMAX, &args, sizeof args);
}

static heed_tensor softmax(const struct heed_op *op, heed_tensor x, int dim) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 1, &x) || !heed_call_float(&c, 0, "x")) return heed_call_end(&c);
    int last = c.input[0]->view.rank - 1;
    int d = heed_call_dim(&c, dim, last + 1);
    heed_tensor failed = heed_call_end(&c);
    if (d < 0) return failed;
    if (d == last) return softmax_last(op, x);
    return heed_transpose(softmax_last(op, heed_transpose(x, d, last)), d, last);
}

heed_tensor heed_softmax(heed_tensor x, int dim) {
    return softmax(&op_softmax, x, dim);
}

heed_tensor heed_log_softmax(heed_tensor x, int dim) {
    return softmax(&op_log_softmax, x, dim);
}

/* ---- norms ---- */

static heed_status norm_backward(struct heed_backward *b) {
    struct heed_norm_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy_rows(b, 0);
    args->dx = heed_dx_strided(b, 0);
    args->dweight = heed_dx(b, 1);
    args->dbias = heed_dx(b, 2);
    return heed_backward_run(b);
}

static const struct heed_op op_layer_norm = {"layer_norm", HEED_ROUNDED, norm_backward, NULL};
static const struct heed_op op_rms_norm = {"rms_norm", HEED_ROUNDED, norm_backward, NULL};

static bool check_vector(struct heed_call *c, int i, const char *name, const struct heed_view *x) {
    char one[128], two[128];
    if (!c->ok || !c->input[i]) return c->ok;
    const struct heed_view *v = &c->input[i]->view;
    if (!heed_call_float(c, i, name)) return false;
    if (v->rank == 1 && v->size[0] == x->size[x->rank - 1]) return true;
    return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                          heed_named_shape(name, v, one, sizeof one),
                          heed_named_shape("x", x, two, sizeof two));
}

static heed_tensor norm(const struct heed_op *op, heed_tensor x, heed_tensor weight, heed_tensor bias,
                        double eps) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 3, (heed_tensor[]){x, weight, bias}) || !heed_call_float(&c, 0, "x"))
        return heed_call_end(&c);
    struct heed_norm_args args = {.rms = op == &op_rms_norm, .eps = eps == 0.0 ? 1e-5 : eps};
    args.x = heed_call_dense_rows(&c, 0);
    if (c.ok && args.x.rank == 0) heed_call_fail(&c, HEED_ERROR_SHAPE, "x has no dimension");
    if (c.ok && !(eps >= 0.0)) heed_call_fail(&c, HEED_ERROR_ARGUMENT, "eps %g is negative", eps);
    if (!check_vector(&c, 1, "weight", &args.x) || !check_vector(&c, 2, "bias", &args.x))
        return heed_call_end(&c);
    args.weight = heed_call_dense(&c, 1);
    args.bias = heed_call_dense(&c, 2);
    args.y = heed_call_output(&c, heed_call_result_dtype(&c), args.x.rank, args.x.size);
    if (!c.ok) return heed_call_end(&c);
    heed_call_save_view(&c, &args.x);
    heed_call_save(&c, &args.weight);
    heed_call_save(&c, &args.bias);
    heed_call_can_remake(&c, &args.y);
    args.y = heed_view_rows(&args.y);
    return heed_call_run(&c, HEED_PRIMITIVE_NORM, &args, sizeof args);
}

heed_tensor heed_layer_norm(heed_tensor x, heed_tensor weight, heed_tensor bias, double eps) {
    return norm(&op_layer_norm, x, weight, bias, eps);
}

heed_tensor heed_rms_norm(heed_tensor x, heed_tensor weight, double eps) {
    return norm(&op_rms_norm, x, weight, (heed_tensor){0}, eps);
}
