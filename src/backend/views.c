#include "backend/views.h"

struct visitor {
    heed_view_visit *visit;
    void *self;
};

static void input(const struct visitor *v, struct heed_view *view, bool backward_reads) {
    v->visit(v->self, view, HEED_FORWARD_READS | (backward_reads ? HEED_BACKWARD_READS : 0));
}

static void output(const struct visitor *v, struct heed_view *view, bool backward_reads) {
    v->visit(v->self, view, HEED_FORWARD_WRITES | (backward_reads ? HEED_BACKWARD_READS : 0));
}

static void arrives(const struct visitor *v, struct heed_view *dy) {
    v->visit(v->self, dy, HEED_BACKWARD_READS);
}

static void gradient(const struct visitor *v, struct heed_grad_view *dx) {
    v->visit(v->self, &dx->view, HEED_BACKWARD_WRITES | (dx->add ? HEED_BACKWARD_READS : 0));
}

static bool wanted(const struct heed_grad_view *dx) {
    return heed_has(&dx->view);
}

/* ---- elementwise ---- */

static void visit_copy(const struct visitor *v, struct heed_copy_args *a) {
    input(v, &a->x, false);
    v->visit(v->self, &a->y.view, HEED_FORWARD_WRITES | (a->y.add ? HEED_FORWARD_READS : 0));
}

static void visit_loss(const struct visitor *v, struct heed_loss_args *a) {
    input(v, &a->loss, false);
    v->visit(v->self, &a->dloss.view, HEED_FORWARD_WRITES | (a->dloss.add ? HEED_FORWARD_READS : 0));
}

static void visit_unary(const struct visitor *v, struct heed_unary_args *a) {
    const unsigned needs = heed_unary_needs(a->op);
    input(v, &a->x, needs & HEED_NEEDS_X);
    output(v, &a->y, needs & HEED_NEEDS_Y);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_binary(const struct visitor *v, struct heed_binary_args *a) {
    const bool da = wanted(&a->da), db = wanted(&a->db), both = heed_binary_needs_both(a->op);
    const bool factors = a->op == HEED_BINARY_MUL || a->op == HEED_BINARY_DIV;
    input(v, &a->a, both || (factors && db));
    input(v, &a->b, both || a->op == HEED_BINARY_DIV || (factors && da));
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->da);
    gradient(v, &a->db);
}

static void visit_where(const struct visitor *v, struct heed_where_args *a) {
    input(v, &a->a, false);
    input(v, &a->b, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->da);
    gradient(v, &a->db);
}

static void visit_dropout(const struct visitor *v, struct heed_dropout_args *a) {
    input(v, &a->x, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

/* ---- along dimensions ---- */

static void visit_reduce(const struct visitor *v, struct heed_reduce_args *a) {
    const bool max = a->op == HEED_REDUCE_OP_MAX;
    input(v, &a->x, max);
    output(v, &a->y, max);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_softmax(const struct visitor *v, struct heed_softmax_args *a) {
    input(v, &a->x, false);
    output(v, &a->y, true);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_norm(const struct visitor *v, struct heed_norm_args *a) {
    input(v, &a->x, true);
    input(v, &a->weight, true);
    input(v, &a->bias, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
    gradient(v, &a->dweight);
    gradient(v, &a->dbias);
}

static void visit_residual_norm(const struct visitor *v, struct heed_residual_norm_args *a) {
    const bool makes_sum = heed_has(&a->x) || heed_has(&a->branch);
    input(v, &a->x, false);
    input(v, &a->branch, false);
    input(v, &a->weight, true);
    input(v, &a->bias, false);
    v->visit(v->self, &a->sum, HEED_BACKWARD_READS | (makes_sum ? HEED_FORWARD_WRITES : HEED_FORWARD_READS));
    output(v, &a->y, false);
    arrives(v, &a->dsum);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
    gradient(v, &a->dbranch);
    gradient(v, &a->dweight);
    gradient(v, &a->dbias);
}

static void visit_rotary(const struct visitor *v, struct heed_rotary_args *a) {
    input(v, &a->x, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_gather(const struct visitor *v, struct heed_gather_args *a) {
    input(v, &a->x, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_cross_entropy(const struct visitor *v, struct heed_cross_entropy_args *a) {
    input(v, &a->x, true);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
}

static void visit_pair_loss(const struct visitor *v, struct heed_pair_loss_args *a) {
    input(v, &a->x, true);
    input(v, &a->t, true);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->dx);
    gradient(v, &a->dt);
}

/* ---- products ---- */

static void visit_matmul(const struct visitor *v, struct heed_matmul_args *a) {
    input(v, &a->a, wanted(&a->db));
    input(v, &a->b, wanted(&a->da));
    output(v, &a->y, false);
    arrives(v, &a->dy);
    gradient(v, &a->da);
    gradient(v, &a->db);
}

static void visit_linear(const struct visitor *v, struct heed_linear_args *a) {
    input(v, &a->x, wanted(&a->dw));
    input(v, &a->w, wanted(&a->dx));
    input(v, &a->bias, false);
    output(v, &a->y, false);
    arrives(v, &a->dy);
    v->visit(v->self, &a->dz, HEED_BACKWARD_WRITES);
    gradient(v, &a->dx);
    gradient(v, &a->dw);
    gradient(v, &a->dbias);
}

static void visit_attention(const struct visitor *v, struct heed_attention_args *a) {
    struct heed_view *const inputs[] = {&a->q, &a->k, &a->v, &a->sink};
    struct heed_view *const results[] = {&a->weights, &a->lse, &a->chosen, &a->column_sums};
    struct heed_view *const arriving[] = {&a->dy, &a->dweights, &a->dlse};
    struct heed_grad_view *const gradients[] = {&a->dq, &a->dk, &a->dv, &a->dsink};
    for (int i = 0; i < 4; i++) input(v, inputs[i], true);
    output(v, &a->y, true);
    for (int i = 0; i < 4; i++) output(v, results[i], false);
    for (int i = 0; i < 3; i++) arrives(v, arriving[i]);
    for (int i = 0; i < 4; i++) gradient(v, gradients[i]);
    for (int i = 0; i < a->stages; i++) {
        input(v, &a->stage[i].tensor, true);
        gradient(v, &a->stage[i].dtensor);
    }
    for (int i = 0; i < a->params; i++) {
        input(v, &a->param[i].tensor, true);
        gradient(v, &a->param[i].dtensor);
    }
}

bool heed_args_visit(enum heed_primitive primitive, void *args, heed_view_visit *visit, void *self) {
    const struct visitor v = {visit, self};
    switch (primitive) {
    case HEED_PRIMITIVE_COPY:
        visit_copy(&v, args);
        return true;
    case HEED_PRIMITIVE_FILL:
        output(&v, &((struct heed_fill_args *)args)->y, false);
        return true;
    case HEED_PRIMITIVE_RANDOM:
        output(&v, &((struct heed_random_args *)args)->y, false);
        return true;
    case HEED_PRIMITIVE_UNARY:
        visit_unary(&v, args);
        return true;
    case HEED_PRIMITIVE_BINARY:
        visit_binary(&v, args);
        return true;
    case HEED_PRIMITIVE_WHERE:
        visit_where(&v, args);
        return true;
    case HEED_PRIMITIVE_REDUCE:
        visit_reduce(&v, args);
        return true;
    case HEED_PRIMITIVE_ARGMAX:
        input(&v, &((struct heed_argmax_args *)args)->x, false);
        return true;
    case HEED_PRIMITIVE_SOFTMAX:
        visit_softmax(&v, args);
        return true;
    case HEED_PRIMITIVE_NORM:
        visit_norm(&v, args);
        return true;
    case HEED_PRIMITIVE_RESIDUAL_NORM:
        visit_residual_norm(&v, args);
        return true;
    case HEED_PRIMITIVE_ROTARY:
        visit_rotary(&v, args);
        return true;
    case HEED_PRIMITIVE_MATMUL:
        visit_matmul(&v, args);
        return true;
    case HEED_PRIMITIVE_LINEAR:
        visit_linear(&v, args);
        return true;
    case HEED_PRIMITIVE_GATHER:
        visit_gather(&v, args);
        return true;
    case HEED_PRIMITIVE_DROPOUT:
        visit_dropout(&v, args);
        return true;
    case HEED_PRIMITIVE_CROSS_ENTROPY:
        visit_cross_entropy(&v, args);
        return true;
    case HEED_PRIMITIVE_PAIR_LOSS:
        visit_pair_loss(&v, args);
        return true;
    case HEED_PRIMITIVE_ATTENTION:
        visit_attention(&v, args);
        return true;
    case HEED_PRIMITIVE_LOSS:
        visit_loss(&v, args);
        return true;
    case HEED_PRIMITIVE_MHA:
    case HEED_PRIMITIVE_GRAD_NORM:
    case HEED_PRIMITIVE_UPDATE:
    case HEED_PRIMITIVES:
        break;
    }
    return false;
}

size_t heed_args_bytes(enum heed_primitive primitive) {
    static const size_t bytes[HEED_PRIMITIVES] = {
#define ARGS_BYTES(name, word, args) [HEED_PRIMITIVE_##name] = sizeof(struct args),
        HEED_PRIMITIVE_LIST(ARGS_BYTES)
#undef ARGS_BYTES
    };
    return bytes[primitive];
}

struct look {
    heed_dtype dtype;
    bool found, others;
};

static void look(void *self, struct heed_view *view, unsigned how) {
    struct look *l = self;
    (void)how;
    if (!heed_has(view)) return;
    if (view->dtype == l->dtype)
        l->found = true;
    else
        l->others = true;
}

static struct look look_for(heed_dtype dtype, enum heed_primitive primitive, const void *args) {
    struct look l = {dtype, false, false};
    if (!heed_args_visit(primitive, (void *)(uintptr_t)args, look, &l)) l.others = true;
    return l;
}

bool heed_args_are_f32(enum heed_primitive primitive, const void *args) {
    return !look_for(HEED_F32, primitive, args).others;
}

bool heed_args_are_bf16(enum heed_primitive primitive, const void *args) {
    return !look_for(HEED_BF16, primitive, args).others;
}

bool heed_args_have_bf16(enum heed_primitive primitive, const void *args) {
    return look_for(HEED_BF16, primitive, args).found;
}
