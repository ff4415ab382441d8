/* Operations along one dimension: softmax and norms, also of a residual's sum. */
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

static bool check_norm(struct heed_call *c, const struct heed_view *x, double eps) {
    if (c->ok && x->rank == 0) heed_call_fail(c, HEED_ERROR_SHAPE, "x has no dimension");
    if (c->ok && !(eps >= 0.0)) heed_call_fail(c, HEED_ERROR_ARGUMENT, "eps %g is negative", eps);
    return c->ok;
}

static double eps_of(double eps) {
    return eps == 0.0 ? 1e-5 : eps;
}

static heed_tensor norm(const struct heed_op *op, heed_tensor x, heed_tensor weight, heed_tensor bias,
                        double eps) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 3, (heed_tensor[]){x, weight, bias}) || !heed_call_float(&c, 0, "x"))
        return heed_call_end(&c);
    struct heed_norm_args args = {.rms = op == &op_rms_norm, .eps = eps_of(eps)};
    args.x = heed_call_dense_rows(&c, 0);
    if (!check_norm(&c, &args.x, eps) || !check_vector(&c, 1, "weight", &args.x) ||
        !check_vector(&c, 2, "bias", &args.x))
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

/* ---- the norm of a residual's sum ---- */

enum { X, BRANCH, WEIGHT, BIAS };
enum { Y, SUM };

/* The sum is not an output if nobody asked for it. */
static heed_status residual_norm_backward(struct heed_backward *b) {
    struct heed_residual_norm_args *args = b->args;
    const struct heed_view none = {0};
    args->y.data = NULL;
    args->dy = heed_dy_rows(b, Y);
    args->dsum = b->entry->outputs > SUM ? heed_dy_rows(b, SUM) : none;
    args->dx = b->entry->outputs > SUM ? heed_dx_over(b, X, SUM) : heed_dx(b, X);
    args->dbranch = args->dweight = args->dbias = (struct heed_grad_view){0};
    if (args->threshold <= UINT16_MAX || !heed_dx_is_that_of(b, BRANCH, X, &args->dx))
        args->dbranch = heed_dx_rows(b, BRANCH);
    if (heed_has(&args->dx.view)) args->dx.view = heed_view_rows(&args->dx.view);
    if (heed_has(&args->dy)) {
        args->dweight = heed_dx(b, WEIGHT);
        args->dbias = heed_dx(b, BIAS);
    }
    return heed_backward_run(b);
}

static const struct heed_op op_residual_norm = {"residual_norm", HEED_FOLLOWS, residual_norm_backward, NULL,
                                                WEIGHT};

static bool check_residual(struct heed_call *c, const heed_residual_norm_options *o) {
    char one[128], two[128];
    if (!heed_call_float(c, X, "x") || !heed_call_float(c, BRANCH, "branch")) return false;
    const struct heed_view *x = &c->input[X]->view, *branch = &c->input[BRANCH]->view;
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if (!(o->dropout >= 0.0 && o->dropout < 1.0))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "probability %g is not in [0, 1)", o->dropout);
    if (!heed_view_same_shape(x, branch))
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                              heed_named_shape("branch", branch, one, sizeof one),
                              heed_named_shape("x", x, two, sizeof two));
    return check_norm(c, x, o->eps) && check_vector(c, WEIGHT, "weight", x) &&
           check_vector(c, BIAS, "bias", x);
}

/* What is made again is made of the sum, and backward needs no more either: x and the branch may end. */
static heed_tensor residual_norm(struct heed_call *c, const heed_tensor *input,
                                 const heed_residual_norm_options *o, bool wants_sum) {
    if (!heed_call_begin(c, &op_residual_norm, NULL, 4, input) || !check_residual(c, o))
        return heed_call_end(c);
    struct heed_residual_norm_args args = {.threshold = heed_keep_threshold(0),
                                           .rms = o->rms,
                                           .eps = eps_of(o->eps),
                                           .x = heed_call_dense(c, X),
                                           .branch = heed_call_dense(c, BRANCH),
                                           .weight = heed_call_dense(c, WEIGHT),
                                           .bias = heed_call_dense(c, BIAS)};
    const heed_dtype dtype = heed_call_result_dtype(c);
    if (!c->ok) return heed_call_end(c);
    if (o->dropout > 0.0 && c->ctx->flags & HEED_RANDOM) {
        args.threshold = heed_keep_threshold(o->dropout);
        args.random = heed_random_next(c->ctx);
    }
    args.y = heed_call_output(c, heed_rounded_dtype(c->ctx, dtype), args.x.rank, args.x.size);
    args.sum = (wants_sum ? heed_call_output : heed_call_temp)(c, dtype, args.x.rank, args.x.size);
    if (!c->ok) return heed_call_end(c);
    heed_call_save(c, &args.sum);
    heed_call_save(c, &args.weight);
    heed_call_save(c, &args.bias);
    heed_call_can_remake(c, &args.y);
    struct heed_view *const rows[] = {&args.x, &args.branch, &args.sum, &args.y};
    for (int i = 0; i < 4; i++) *rows[i] = heed_view_rows(rows[i]);
    heed_call_forward(c, HEED_PRIMITIVE_RESIDUAL_NORM, &args);
    args.x.data = args.branch.data = NULL;
    return heed_call_finish(c, &args, sizeof args);
}

heed_tensor heed_residual_norm(heed_tensor x, heed_tensor branch, heed_tensor weight, heed_tensor bias,
                               const heed_residual_norm_options *options, heed_tensor *sum) {
    static const heed_residual_norm_options defaults = {0};
    struct heed_call c;
    const heed_tensor y = residual_norm(&c, (heed_tensor[]){x, branch, weight, bias},
                                        options ? options : &defaults, sum != NULL);
    if (sum) *sum = heed_call_result(&c, SUM);
    return y;
}
