/* Reference kernels of one element at a time: unary, binary, where, dropout. */
#include "backend/ref/ref.h"

#include <math.h>

#include "backend/unary.h"

/* ---- unary ---- */

static double unary_value(const void *p, const int64_t *at) {
    const struct heed_unary_args *args = p;
    return heed_unary_value(args->op, args->c, heed_ref_get(&args->x, at));
}

static heed_status unary_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_unary_args *args = p;
    heed_ref_map(&args->y, unary_value, args);
    return HEED_OK;
}

static double unary_dx(const void *p, const int64_t *at) {
    const struct heed_unary_args *args = p;
    unsigned needs = heed_unary_needs(args->op);
    double x = needs & HEED_NEEDS_X ? heed_ref_get(&args->x, at) : 0;
    double y = needs & HEED_NEEDS_Y ? heed_ref_get(&args->y, at) : 0;
    return heed_unary_gradient(args->op, args->c, x, y, heed_ref_get(&args->dy, at));
}

static heed_status unary_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_unary_args *args = p;
    heed_ref_gradient(&args->dx, unary_dx, args);
    return HEED_OK;
}

const struct heed_kernel heed_ref_unary = {"ref", NULL, NULL, unary_forward, unary_backward};

/* ---- binary ---- */

static double binary_value(const void *p, const int64_t *at) {
    const struct heed_binary_args *args = p;
    double a = heed_ref_get(&args->a, at), b = heed_ref_get(&args->b, at);
    switch (args->op) {
    case HEED_BINARY_ADD:
        return a + b;
    case HEED_BINARY_SUB:
        return a - b;
    case HEED_BINARY_MUL:
        return a * b;
    case HEED_BINARY_DIV:
        return a / b;
    case HEED_BINARY_POW:
        return pow(a, b);
    case HEED_BINARY_MAXIMUM:
        return a < b || b != b ? b : a;
    case HEED_BINARY_MINIMUM:
        return b < a || b != b ? b : a;
    case HEED_BINARY_EQUAL:
        return a == b;
    case HEED_BINARY_LESS:
        return a < b;
    case HEED_BINARY_GREATER:
        return a > b;
    case HEED_BINARIES:
        break;
    }
    return NAN;
}

static heed_status binary_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_binary_args *args = p;
    heed_ref_map(&args->y, binary_value, args);
    return HEED_OK;
}

/* What of dy belongs to x, the gradient of the larger of x and y. */
static double share_of_larger(double dy, double x, double y) {
    return x < y ? 0 : x == y ? dy / 2 : dy;
}

static double binary_da(const void *p, const int64_t *at) {
    const struct heed_binary_args *args = p;
    double dy = heed_ref_get(&args->dy, at);
    if (args->op == HEED_BINARY_ADD || args->op == HEED_BINARY_SUB) return dy;
    double b = heed_ref_get(&args->b, at);
    if (args->op == HEED_BINARY_MUL) return dy * b;
    if (args->op == HEED_BINARY_DIV) return dy / b;
    double a = heed_ref_get(&args->a, at);
    if (args->op == HEED_BINARY_MAXIMUM) return share_of_larger(dy, a, b);
    if (args->op == HEED_BINARY_MINIMUM) return share_of_larger(dy, b, a);
    if (b == 0) return 0;
    return dy * b * pow(a, b - 1);
}

static double binary_db(const void *p, const int64_t *at) {
    const struct heed_binary_args *args = p;
    double dy = heed_ref_get(&args->dy, at);
    if (args->op == HEED_BINARY_ADD) return dy;
    if (args->op == HEED_BINARY_SUB) return -dy;
    double a = heed_ref_get(&args->a, at);
    if (args->op == HEED_BINARY_MUL) return dy * a;
    double b = heed_ref_get(&args->b, at);
    if (args->op == HEED_BINARY_DIV) return -dy * (a / b) / b;
    if (args->op == HEED_BINARY_MAXIMUM) return share_of_larger(dy, b, a);
    if (args->op == HEED_BINARY_MINIMUM) return share_of_larger(dy, a, b);
    if (a == 0 && b >= 0) return 0;
    return dy * pow(a, b) * log(a);
}

static heed_status binary_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_binary_args *args = p;
    heed_ref_gradient(&args->da, binary_da, args);
    heed_ref_gradient(&args->db, binary_db, args);
    return HEED_OK;
}

const struct heed_kernel heed_ref_binary = {"ref", NULL, NULL, binary_forward, binary_backward};

/* ---- where: the branch that is not taken is not read, so its NaN goes nowhere ---- */

static double where_value(const void *p, const int64_t *at) {
    const struct heed_where_args *args = p;
    return heed_ref_get(heed_ref_get(&args->condition, at) != 0 ? &args->a : &args->b, at);
}

static heed_status where_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_where_args *args = p;
    heed_ref_map(&args->y, where_value, args);
    return HEED_OK;
}

static double where_da(const void *p, const int64_t *at) {
    const struct heed_where_args *args = p;
    return heed_ref_get(&args->condition, at) != 0 ? heed_ref_get(&args->dy, at) : 0;
}

static double where_db(const void *p, const int64_t *at) {
    const struct heed_where_args *args = p;
    return heed_ref_get(&args->condition, at) != 0 ? 0 : heed_ref_get(&args->dy, at);
}

static heed_status where_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_where_args *args = p;
    heed_ref_gradient(&args->da, where_da, args);
    heed_ref_gradient(&args->db, where_db, args);
    return HEED_OK;
}

const struct heed_kernel heed_ref_where = {"ref", NULL, NULL, where_forward, where_backward};

/* ---- dropout: what is dropped is exactly 0, whatever it was ---- */

double heed_ref_dropped(const struct heed_random *random, uint32_t threshold, const struct heed_view *v,
                        int64_t element) {
    if (!heed_keep_element(random, (uint64_t)element, threshold)) return 0;
    return heed_ref_load(v, element) * heed_keep_scale(threshold);
}

static double dropped(const struct heed_dropout_args *args, const struct heed_view *v, int64_t element) {
    return heed_ref_dropped(&args->random, args->threshold, v, element);
}

static heed_status dropout_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_dropout_args *args = p;
    int64_t count = heed_view_count(&args->y);
    for (int64_t e = 0; e < count; e++) heed_ref_store(&args->y, e, dropped(args, &args->x, e));
    return HEED_OK;
}

static heed_status dropout_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_dropout_args *args = p;
    if (!heed_has(&args->dx.view)) return HEED_OK;
    int64_t count = heed_view_count(&args->dx.view);
    for (int64_t e = 0; e < count; e++) heed_ref_contribute(&args->dx, e, dropped(args, &args->dy, e));
    return HEED_OK;
}

const struct heed_kernel heed_ref_dropout = {"ref", NULL, NULL, dropout_forward, dropout_backward};
