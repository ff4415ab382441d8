/* Elementwise operations of one, two and three tensors. */
#include "autograd/tape.h"

#include <math.h>

/* ---- one tensor ---- */

static heed_status unary_backward(struct heed_backward *b) {
    struct heed_unary_args *args = b->args;
    unsigned needs = heed_unary_needs(args->op);
    if (!(needs & HEED_NEEDS_X)) args->x.data = NULL;
    if (!(needs & HEED_NEEDS_Y)) args->y.data = NULL;
    args->dy = heed_dy(b, 0);
    args->dx = heed_dx(b, 0);
    return heed_backward_run(b);
}

static heed_tensor unary(const struct heed_op *op, enum heed_unary kind, heed_tensor x, double constant) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 1, &x) || !heed_call_float(&c, 0, "x")) return heed_call_end(&c);
    struct heed_unary_args args = {.op = kind, .c = constant, .x = heed_call_view(&c, 0)};
    args.y = heed_call_output(&c, args.x.dtype, args.x.rank, args.x.size);
    unsigned needs = heed_unary_needs(kind);
    if (needs & HEED_NEEDS_X) heed_call_save_view(&c, &args.x);
    if (needs & HEED_NEEDS_Y) heed_call_save_output(&c, 0);
    if (needs == HEED_NEEDS_X) heed_call_can_remake(&c, &args.y);
    return heed_call_run(&c, HEED_PRIMITIVE_UNARY, &args, sizeof args);
}

#define DEFINE_UNARY(name, kind)                                                                             \
    heed_tensor heed_##name(heed_tensor x) {                                                                 \
        static const struct heed_op op = {#name, HEED_FOLLOWS, unary_backward, NULL};                        \
        return unary(&op, HEED_UNARY_##kind, x, 0.0);                                                        \
    }

#define DEFINE_SCALAR(name, kind, constant)                                                                  \
    heed_tensor heed_##name(heed_tensor x, double c) {                                                       \
        static const struct heed_op op = {#name, HEED_FOLLOWS, unary_backward, NULL};                        \
        return unary(&op, HEED_UNARY_##kind, x, constant);                                                   \
    }

DEFINE_UNARY(neg, NEG)
DEFINE_UNARY(abs, ABS)
DEFINE_UNARY(exp, EXP)
DEFINE_UNARY(log, LOG)
DEFINE_UNARY(sqrt, SQRT)
DEFINE_UNARY(tanh, TANH)
DEFINE_UNARY(sigmoid, SIGMOID)
DEFINE_UNARY(relu, RELU)
DEFINE_UNARY(silu, SILU)
DEFINE_UNARY(gelu, GELU)
DEFINE_UNARY(gelu_tanh, GELU_TANH)
DEFINE_SCALAR(add_scalar, ADD_SCALAR, c)
DEFINE_SCALAR(sub_scalar, ADD_SCALAR, -c)
DEFINE_SCALAR(mul_scalar, MUL_SCALAR, c)
DEFINE_SCALAR(div_scalar, MUL_SCALAR, 1.0 / c)
DEFINE_SCALAR(pow_scalar, POW_SCALAR, c)

/* A bound that is infinite is none. */
heed_tensor heed_clamp(heed_tensor x, double low, double high) {
    static const struct heed_op op = {"clamp", HEED_FOLLOWS, unary_backward, NULL};
    if (!(low <= high)) {
        heed_ctx *ctx = heed_ctx_of(x);
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, op.name, "low and high are not two numbers with low ≤ high");
        return heed_handle(ctx, NULL);
    }
    if (heed_dtype_of(x) != HEED_F64) low = (float)low, high = (float)high; /* what kernels compare with */
    if (low > -INFINITY) x = unary(&op, HEED_UNARY_MAX_SCALAR, x, low);
    return high < INFINITY || low == -INFINITY ? unary(&op, HEED_UNARY_MIN_SCALAR, x, high) : x;
}

/* ---- two tensors ---- */

static heed_status binary_backward(struct heed_backward *b) {
    struct heed_binary_args *args = b->args;
    args->dy = heed_dy(b, 0);
    args->da = heed_dx_expanded(b, 0, &args->dy);
    args->db = heed_dx_expanded(b, 1, &args->dy);
    return heed_backward_run(b);
}

/* An input of the result's shape shares the gradient instead of copying it. */
static bool share_whole(struct heed_backward *b, int i) {
    struct heed_view dy = heed_dy(b, 0);
    if (!heed_wants(b, i) || !heed_view_same_shape(&b->entry->input[i]->view, &dy)) return false;
    if (b->entry->input[i]->view.dtype != dy.dtype) return false;
    heed_dx_share(b, i, 0, &dy);
    return true;
}

static heed_status sum_backward(struct heed_backward *b) {
    struct heed_binary_args *args = b->args;
    args->dy = heed_dy(b, 0);
    bool shared_a = share_whole(b, 0);
    bool shared_b = args->op == HEED_BINARY_ADD && share_whole(b, 1);
    args->da = shared_a ? (struct heed_grad_view){0} : heed_dx_expanded(b, 0, &args->dy);
    args->db = shared_b ? (struct heed_grad_view){0} : heed_dx_expanded(b, 1, &args->dy);
    if (!heed_has(&args->da.view) && !heed_has(&args->db.view)) return HEED_OK;
    return heed_backward_run(b);
}

static bool both_given(struct heed_call *c) {
    for (int i = 0; c->ok && i < 2; i++)
        if (!c->input[i]) heed_call_fail(c, HEED_ERROR_ARGUMENT, "%s is missing", i ? "b" : "a");
    return c->ok;
}

static bool check_binary_dtypes(struct heed_call *c, enum heed_binary kind) {
    if (!both_given(c)) return false;
    if (kind < HEED_BINARY_EQUAL) return heed_call_float(c, 0, "a") && heed_call_float(c, 1, "b");
    heed_dtype a = c->input[0]->view.dtype, b = c->input[1]->view.dtype;
    if (heed_dtypes_meet(c->ctx, a, b)) return true;
    return heed_call_fail(c, HEED_ERROR_DTYPE, "a is %s, but b is %s", heed_dtype_name(a),
                          heed_dtype_name(b));
}

/* What each gradient is made of: the other factor, or for quotients and powers both. */
static void save_factors(struct heed_call *c, const struct heed_binary_args *args) {
    const enum heed_binary kind = args->op;
    bool want_a = c->input[0]->producer || c->input[0]->flags & HEED_NODE_WANTS_GRAD;
    bool want_b = c->input[1]->producer || c->input[1]->flags & HEED_NODE_WANTS_GRAD;
    bool both = heed_binary_needs_both(kind);
    if (kind == HEED_BINARY_MUL || kind == HEED_BINARY_DIV || both) {
        if (want_b || both) heed_call_save_view(c, &args->a);
        if (want_a || kind != HEED_BINARY_MUL) heed_call_save_view(c, &args->b);
    }
}

static heed_tensor binary(const struct heed_op *op, enum heed_binary kind, heed_tensor a, heed_tensor b) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, NULL, 2, (heed_tensor[]){a, b}) || !check_binary_dtypes(&c, kind))
        return heed_call_end(&c);
    struct heed_view va = heed_call_view(&c, 0), vb = heed_call_view(&c, 1);
    struct heed_binary_args args = {.op = kind};
    int rank;
    int64_t size[HEED_MAX_RANK];
    char one[112], two[112];
    if (!heed_shape_broadcast(va.rank, va.size, vb.rank, vb.size, &rank, size)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("a", &va, one, sizeof one),
                       heed_named_shape("b", &vb, two, sizeof two));
        return heed_call_end(&c);
    }
    heed_view_expand(&va, rank, size, &args.a);
    heed_view_expand(&vb, rank, size, &args.b);
    args.y =
        heed_call_output(&c, kind < HEED_BINARY_EQUAL ? heed_call_result_dtype(&c) : HEED_BOOL, rank, size);
    save_factors(&c, &args);
    return heed_call_run(&c, HEED_PRIMITIVE_BINARY, &args, sizeof args);
}

#define DEFINE_BINARY(name, kind, backward, reason)                                                          \
    heed_tensor heed_##name(heed_tensor a, heed_tensor b) {                                                  \
        static const struct heed_op op = {#name, HEED_FOLLOWS, backward, reason};                            \
        return binary(&op, HEED_BINARY_##kind, a, b);                                                        \
    }

DEFINE_BINARY(add, ADD, sum_backward, NULL)
DEFINE_BINARY(sub, SUB, sum_backward, NULL)
DEFINE_BINARY(mul, MUL, binary_backward, NULL)
DEFINE_BINARY(div, DIV, binary_backward, NULL)
DEFINE_BINARY(pow, POW, binary_backward, NULL)
DEFINE_BINARY(maximum, MAXIMUM, binary_backward, NULL)
DEFINE_BINARY(minimum, MINIMUM, binary_backward, NULL)
DEFINE_BINARY(equal, EQUAL, NULL, "a comparison is constant almost everywhere")
DEFINE_BINARY(less, LESS, NULL, "a comparison is constant almost everywhere")
DEFINE_BINARY(greater, GREATER, NULL, "a comparison is constant almost everywhere")

/* ---- a condition ---- */

static heed_status where_backward(struct heed_backward *b) {
    struct heed_where_args *args = b->args;
    args->dy = heed_dy(b, 0);
    args->da = heed_dx_expanded(b, 1, &args->dy);
    args->db = heed_dx_expanded(b, 2, &args->dy);
    return heed_backward_run(b);
}

static const struct heed_op op_where = {"where", HEED_FOLLOWS, where_backward, NULL};
static const struct heed_op op_masked_fill = {"masked_fill", HEED_FOLLOWS, where_backward, NULL};

static bool expand_to(struct heed_call *c, const char *name, const struct heed_view *v, int rank,
                      const int64_t *size, struct heed_view *out) {
    char one[128], two[96];
    if (heed_view_expand(v, rank, size, out)) return true;
    return heed_call_fail(c, HEED_ERROR_SHAPE, "%s cannot be repeated to %s",
                          heed_named_shape(name, v, one, sizeof one),
                          heed_shape_text(rank, size, two, sizeof two));
}

heed_tensor heed_where(heed_tensor condition, heed_tensor a, heed_tensor b) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_where, NULL, 3, (heed_tensor[]){condition, a, b}) ||
        !heed_call_dtype(&c, 0, "condition", HEED_BOOL))
        return heed_call_end(&c);
    for (int i = 1; c.ok && i < 3; i++) {
        heed_dtype dtype = c.input[i] ? c.input[i]->view.dtype : HEED_BOOL;
        if (!c.input[i])
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "%s is missing", i == 1 ? "a" : "b");
        else if (!heed_is_float(dtype) || !heed_dtypes_meet(c.ctx, dtype, c.input[1]->view.dtype))
            heed_call_fail(&c, HEED_ERROR_DTYPE, "a is %s and b %s, not both f32, f64 or bf16",
                           heed_dtype_name(c.input[1]->view.dtype),
                           heed_dtype_name(c.input[2] ? c.input[2]->view.dtype : dtype));
    }
    struct heed_view vc = heed_call_view(&c, 0), va = heed_call_view(&c, 1), vb = heed_call_view(&c, 2);
    struct heed_where_args args = {0};
    int rank;
    int64_t size[HEED_MAX_RANK];
    char one[112], two[112];
    if (!c.ok) return heed_call_end(&c);
    if (!heed_shape_broadcast(va.rank, va.size, vb.rank, vb.size, &rank, size)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("a", &va, one, sizeof one),
                       heed_named_shape("b", &vb, two, sizeof two));
        return heed_call_end(&c);
    }
    int branches = rank;
    int64_t branch_size[HEED_MAX_RANK];
    for (int d = 0; d < rank; d++) branch_size[d] = size[d];
    if (!heed_shape_broadcast(vc.rank, vc.size, branches, branch_size, &rank, size)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("condition", &vc, one, sizeof one),
                       heed_shape_text(branches, branch_size, two, sizeof two));
        return heed_call_end(&c);
    }
    heed_view_expand(&vc, rank, size, &args.condition);
    heed_view_expand(&va, rank, size, &args.a);
    heed_view_expand(&vb, rank, size, &args.b);
    args.y = heed_call_output(&c, heed_call_result_dtype(&c), rank, size);
    heed_call_save_input(&c, 0);
    return heed_call_run(&c, HEED_PRIMITIVE_WHERE, &args, sizeof args);
}

/* The same primitive with a constant in place of a: no gradient flows there. */
heed_tensor heed_masked_fill(heed_tensor x, heed_tensor mask, double value) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_masked_fill, NULL, 3, (heed_tensor[]){mask, {0}, x}) ||
        !heed_call_dtype(&c, 0, "mask", HEED_BOOL))
        return heed_call_end(&c);
    if (!c.input[2] || !heed_is_float(c.input[2]->view.dtype)) {
        heed_call_fail(&c, HEED_ERROR_DTYPE, "x must be an f32, f64 or bf16 tensor");
        return heed_call_end(&c);
    }
    struct heed_view vm = heed_call_view(&c, 0), vx = heed_call_view(&c, 2);
    struct heed_where_args args = {.b = vx};
    if (!expand_to(&c, "mask", &vm, vx.rank, vx.size, &args.condition)) return heed_call_end(&c);
    struct heed_fill_args fill = {.y = heed_call_temp(&c, vx.dtype, 0, NULL), .value = value};
    if (!c.ok || heed_exec_run(&c.ctx->exec, HEED_PRIMITIVE_FILL, &fill) != HEED_OK) {
        c.ok = false;
        return heed_call_end(&c);
    }
    heed_view_expand(&fill.y, vx.rank, vx.size, &args.a);
    args.y = heed_call_output(&c, vx.dtype, vx.rank, vx.size);
    heed_call_save_input(&c, 0);
    return heed_call_run(&c, HEED_PRIMITIVE_WHERE, &args, sizeof args);
}
