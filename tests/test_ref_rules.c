/* What the reference kernels promise of infinities, NaN, ties, empty rows and wrong indices, and the values
 * of those without gradient. */
#include "harness_kernels.h"

#include <math.h>
#include <string.h>

#include "backend/masks.h"
#include "tensor/internal.h"

static heed_ctx *ctx;

static void open_ctx(void) {
    ctx = test_ref();
}

static void close_ctx(void) {
    heed_ctx_free(ctx);
}

static heed_status forward(enum heed_primitive primitive, const void *args) {
    return kernel_forward(ctx, primitive, args);
}

static void backward(enum heed_primitive primitive, const void *args) {
    kernel_backward(ctx, primitive, args);
}

/* ---- rows ---- */

START_TEST(softmax_of_empty_rows) {
    double x[6] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, 1, 1}, y[6], dy[6] = {NAN, 1, 1, 1, 2, 3},
           dx[6];
    struct heed_softmax_args args = {
        .x = MATRIX(x, 2, 3), .y = MATRIX(y, 2, 3), .dy = MATRIX(dy, 2, 3), .dx = GRADIENT(MATRIX(dx, 2, 3))};
    forward(HEED_PRIMITIVE_SOFTMAX, &args);
    EQUALS(y, 0, 0, 0, 0, 0.5, 0.5);
    backward(HEED_PRIMITIVE_SOFTMAX, &args);
    EQUALS(dx, 0, 0, 0, 0, -0.25, 0.25);
    args.log = true;
    forward(HEED_PRIMITIVE_SOFTMAX, &args);
    EQUALS(y, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -log(2), -log(2));
    backward(HEED_PRIMITIVE_SOFTMAX, &args);
    EQUALS(dx, 0, 0, 0, 1, -1, 0);
}
END_TEST

START_TEST(softmax_of_extremes) {
    double x[9] = {NAN, -INFINITY, 0, 1e308, 1e308, -1e308, -3.4e38, -3.4e38, -3.4e38}, y[9];
    forward(HEED_PRIMITIVE_SOFTMAX, &(struct heed_softmax_args){.x = MATRIX(x, 3, 3), .y = MATRIX(y, 3, 3)});
    EQUALS(y, NAN, NAN, NAN, 0.5, 0.5, 0, 1 / 3., 1 / 3., 1 / 3.);
}
END_TEST

START_TEST(cross_entropy_of_ignored_and_empty_rows) {
    double x[6] = {NAN, 1, 2, -INFINITY, -INFINITY, -INFINITY}, y[1], dy[1] = {1}, dx[6];
    int32_t target[2] = {-100, -100};
    struct heed_cross_entropy_args args = {.ignore_index = -100,
                                           .x = MATRIX(x, 2, 3),
                                           .target = VECTOR(target, HEED_I32),
                                           .y = {y, HEED_F64, 0, {0}, {0}},
                                           .dy = {dy, HEED_F64, 0, {0}, {0}},
                                           .dx = GRADIENT(MATRIX(dx, 2, 3))};
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &args);
    EQUALS(y, 0);
    backward(HEED_PRIMITIVE_CROSS_ENTROPY, &args);
    EQUALS(dx, 0, 0, 0, 0, 0, 0);
    target[1] = 2;
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &args);
    EQUALS(y, INFINITY);
    backward(HEED_PRIMITIVE_CROSS_ENTROPY, &args);
    EQUALS(dx, 0, 0, 0, 0, 0, 0);
    target[0] = 3;
    ck_assert_int_eq(forward(HEED_PRIMITIVE_CROSS_ENTROPY, &args), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "cross_entropy: target 3 of row 0 is not in 0 to 2",
               "a target out of range");
}
END_TEST

START_TEST(cross_entropy_ignores_what_has_no_weight) {
    double x[3] = {0, -INFINITY, 0}, y[1];
    int32_t target[1] = {2};
    struct heed_cross_entropy_args args = {
        .x = MATRIX(x, 1, 3), .target = VECTOR(target, HEED_I32), .y = {y, HEED_F64, 0, {0}, {0}}};
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &args);
    EQUALS(y, log(2));
}
END_TEST

/* ---- reductions ---- */

START_TEST(maximum_with_ties_and_nan) {
    double x[8] = {1, 3, 3, 2, 5, NAN, 7, NAN}, y[2], dy[2] = {6, 8}, dx[8];
    struct heed_reduce_args args = {.op = HEED_REDUCE_OP_MAX,
                                    .x = MATRIX(x, 2, 4),
                                    .y = {y, HEED_F64, 2, {2, 4}, {1, 0}},
                                    .reduced = 4,
                                    .dy = {dy, HEED_F64, 2, {2, 4}, {1, 0}},
                                    .dx = GRADIENT(MATRIX(dx, 2, 4))};
    forward(HEED_PRIMITIVE_REDUCE, &args);
    EQUALS(y, 3, NAN);
    backward(HEED_PRIMITIVE_REDUCE, &args);
    EQUALS(dx, 0, 3, 3, 0, 0, 4, 0, 4);
    int32_t index[2];
    forward(HEED_PRIMITIVE_ARGMAX,
            &(struct heed_argmax_args){.x = MATRIX(x, 2, 4), .y = VECTOR(index, HEED_I32)});
    ck_assert_int_eq(index[0], 1);
    ck_assert_int_eq(index[1], 1);
}
END_TEST

START_TEST(reducing_nothing) {
    double none[1] = {0}, y[2] = {7, 7};
    struct heed_reduce_args args = {.op = HEED_REDUCE_OP_SUM,
                                    .x = {none, HEED_F64, 2, {2, 0}, {1, 1}},
                                    .y = {y, HEED_F64, 2, {2, 0}, {1, 0}},
                                    .reduced = 0};
    forward(HEED_PRIMITIVE_REDUCE, &args);
    EQUALS(y, 0, 0);
    args.op = HEED_REDUCE_OP_MEAN;
    forward(HEED_PRIMITIVE_REDUCE, &args);
    EQUALS(y, NAN, NAN);
}
END_TEST

/* ---- one element at a time ---- */

START_TEST(branch_not_taken_gets_zero) {
    uint8_t condition[2] = {1, 0};
    double a[2] = {1, NAN}, b[2] = {INFINITY, 2}, y[2], dy[2] = {NAN, INFINITY}, da[2], db[2];
    struct heed_where_args args = {.condition = VECTOR(condition, HEED_BOOL),
                                   .a = F64(a),
                                   .b = F64(b),
                                   .y = F64(y),
                                   .dy = F64(dy),
                                   .da = GRADIENT(F64(da)),
                                   .db = GRADIENT(F64(db))};
    forward(HEED_PRIMITIVE_WHERE, &args);
    EQUALS(y, 1, 2);
    backward(HEED_PRIMITIVE_WHERE, &args);
    EQUALS(da, NAN, 0);
    EQUALS(db, 0, INFINITY);
}
END_TEST

START_TEST(maxima_that_meet) {
    double a[4] = {1, 2, NAN, 3}, b[4] = {1, 3, 0, NAN}, y[4], dy[4] = {1, 1, 1, 1}, da[4], db[4];
    struct heed_binary_args args = {.op = HEED_BINARY_MAXIMUM,
                                    .a = F64(a),
                                    .b = F64(b),
                                    .y = F64(y),
                                    .dy = F64(dy),
                                    .da = GRADIENT(F64(da)),
                                    .db = GRADIENT(F64(db))};
    forward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(y, 1, 3, NAN, NAN);
    backward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(da, 0.5, 0, 1, 1);
    EQUALS(db, 0.5, 1, 1, 1);
    args.op = HEED_BINARY_MINIMUM;
    forward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(y, 1, 2, NAN, NAN);
    backward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(da, 0.5, 1, 1, 1);
    EQUALS(db, 0.5, 0, 1, 1);
}
END_TEST

START_TEST(kinks) {
    double x[5] = {-3, 0, 2, 3, NAN}, y[5], dy[5] = {1, 1, 1, 1, 1}, dx[5];
    struct heed_unary_args args = {
        .op = HEED_UNARY_ABS, .c = 2, .x = F64(x), .y = F64(y), .dy = F64(dy), .dx = GRADIENT(F64(dx))};
    forward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(y, 3, 0, 2, 3, NAN);
    backward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(dx, -1, 0, 1, 1, 1);
    args.op = HEED_UNARY_MAX_SCALAR;
    forward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(y, 2, 2, 2, 3, NAN);
    backward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(dx, 0, 0, 1, 1, 1);
    args.op = HEED_UNARY_MIN_SCALAR;
    forward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(y, -3, 0, 2, 2, NAN);
    backward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(dx, 1, 1, 1, 0, 1);
}
END_TEST

START_TEST(power_at_zero) {
    double a[4] = {0, 0, 0, 3}, b[4] = {2, 0, 1, 0}, y[4], dy[4] = {1, 1, 1, 1}, da[4], db[4];
    struct heed_binary_args args = {.op = HEED_BINARY_POW,
                                    .a = F64(a),
                                    .b = F64(b),
                                    .y = F64(y),
                                    .dy = F64(dy),
                                    .da = GRADIENT(F64(da)),
                                    .db = GRADIENT(F64(db))};
    forward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(y, 0, 1, 0, 1);
    backward(HEED_PRIMITIVE_BINARY, &args);
    EQUALS(da, 0, 0, 1, 0);
    EQUALS(db, 0, 0, 0, log(3));
}
END_TEST

START_TEST(power_zero_is_flat) {
    double x[2] = {0, INFINITY}, y[2], dy[2] = {1, 1}, dx[2];
    struct heed_unary_args args = {.op = HEED_UNARY_POW_SCALAR,
                                   .c = 0,
                                   .x = F64(x),
                                   .y = F64(y),
                                   .dy = F64(dy),
                                   .dx = GRADIENT(F64(dx))};
    forward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(y, 1, 1);
    backward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(dx, 0, 0);
}
END_TEST

START_TEST(relu_selects) {
    double x[3] = {-1, NAN, 0}, y[3], dy[3] = {NAN, 2, INFINITY}, dx[3];
    struct heed_unary_args args = {
        .op = HEED_UNARY_RELU, .x = F64(x), .y = F64(y), .dy = F64(dy), .dx = GRADIENT(F64(dx))};
    forward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(y, 0, NAN, 0);
    backward(HEED_PRIMITIVE_UNARY, &args);
    EQUALS(dx, 0, 2, 0);
}
END_TEST

START_TEST(activations_far_out) {
    static const enum heed_unary ops[] = {HEED_UNARY_GELU, HEED_UNARY_GELU_TANH, HEED_UNARY_SILU};
    double x[4] = {-1e30, 1e30, -800, 800}, y[4], dy[4] = {1, 1, 1, 1}, dx[4];
    for (int i = 0; i < 3; i++) {
        struct heed_unary_args args = {
            .op = ops[i], .x = F64(x), .y = F64(y), .dy = F64(dy), .dx = GRADIENT(F64(dx))};
        forward(HEED_PRIMITIVE_UNARY, &args);
        EQUALS(y, 0, 1e30, 0, 800);
        backward(HEED_PRIMITIVE_UNARY, &args);
        EQUALS(dx, 0, 1, 0, 1);
    }
}
END_TEST

START_TEST(comparisons) {
    double a[4] = {1, 2, NAN, 3}, b[4] = {2, 2, NAN, -3};
    uint8_t y[4];
    static const uint8_t expected[3][4] = {{0, 1, 0, 0}, {1, 0, 0, 0}, {0, 0, 0, 1}};
    for (int i = 0; i < 3; i++) {
        enum heed_binary op = (enum heed_binary)(HEED_BINARY_EQUAL + i);
        struct heed_binary_args args = {.op = op, .a = F64(a), .b = F64(b), .y = VECTOR(y, HEED_BOOL)};
        forward(HEED_PRIMITIVE_BINARY, &args);
        ck_assert_mem_eq(y, expected[i], 4);
    }
}
END_TEST

/* ---- indices ---- */

START_TEST(gather_reports_where) {
    double x[6] = {0, 1, 2, 3, 4, 5}, y[4];
    int32_t index[4] = {2, 0, 1, 3};
    struct heed_gather_args args = {
        .dim = 1, .x = MATRIX(x, 2, 3), .index = {index, HEED_I32, 2, {2, 2}, {2, 1}}, .y = MATRIX(y, 2, 2)};
    ck_assert_int_eq(forward(HEED_PRIMITIVE_GATHER, &args), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gather: index 3 at [1,1] is not in 0 to 2", "an index too large");
    index[3] = -1;
    ck_assert_int_eq(forward(HEED_PRIMITIVE_GATHER, &args), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "index -1 at [1,1]", "an index below 0");
    index[3] = 2;
    ck_assert_int_eq(forward(HEED_PRIMITIVE_GATHER, &args), HEED_OK);
    EQUALS(y, 2, 0, 4, 5);
    index[1] = 9;
    args.index.stride[0] = 0; /* one index for whole slices: its place is told in its own shape */
    ck_assert_int_eq(forward(HEED_PRIMITIVE_GATHER, &args), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "index 9 at [1] is not", "an index of slices");
}
END_TEST

/* ---- attention ---- */

/* One head, two queries, three keys, width and value width 1. */
struct little_attention {
    double q[2], k[3], v[3], y[2], w[6], dy[2], dq[2], dk[3], dv[3], bias[6], dbias[6];
    uint8_t allowed[6];
    struct heed_bound_mask mask;
    struct heed_attention_args args;
};

static struct heed_view four(void *data, heed_dtype dtype, int64_t rows, int64_t columns) {
    return (struct heed_view){
        data, dtype, 4, {1, 1, rows, columns}, {rows * columns, rows * columns, columns, 1}};
}

static void little_start(struct little_attention *a) {
    memset(a, 0, sizeof *a);
    for (int i = 0; i < 6; i++) a->allowed[i] = 1;
    for (int i = 0; i < 3; i++) a->v[i] = i + 1, a->k[i] = i;
    a->dy[0] = a->dy[1] = 1;
    a->q[0] = 1;
    a->mask = (struct heed_bound_mask){.kind = &heed_mask_kind_dense,
                                       .tensor = {four(a->allowed, HEED_BOOL, 2, 3)}};
    a->args = (struct heed_attention_args){.q = four(a->q, HEED_F64, 2, 1),
                                           .k = four(a->k, HEED_F64, 3, 1),
                                           .v = four(a->v, HEED_F64, 3, 1),
                                           .y = four(a->y, HEED_F64, 2, 1),
                                           .weights = four(a->w, HEED_F64, 2, 3),
                                           .scale = 1,
                                           .stages = 1,
                                           .stage = {{.tensor = four(a->bias, HEED_F64, 2, 3),
                                                      .dtensor = GRADIENT(four(a->dbias, HEED_F64, 2, 3))}},
                                           .mask = &a->mask,
                                           .threshold = 65536,
                                           .dy = four(a->dy, HEED_F64, 2, 1),
                                           .dq = GRADIENT(four(a->dq, HEED_F64, 2, 1)),
                                           .dk = GRADIENT(four(a->dk, HEED_F64, 3, 1)),
                                           .dv = GRADIENT(four(a->dv, HEED_F64, 3, 1))};
}

static void little_run(struct little_attention *a) {
    forward(HEED_PRIMITIVE_ATTENTION, &a->args);
    backward(HEED_PRIMITIVE_ATTENTION, &a->args);
}

START_TEST(masked_nan_reaches_nothing) {
    struct little_attention a;
    little_start(&a);
    a.k[1] = NAN, a.v[1] = INFINITY;
    a.allowed[1] = a.allowed[4] = 0;
    little_run(&a);
    EQUALS(a.w + 3, 0.5, 0, 0.5);
    EQUALS(a.y + 1, 2);
    EQUALS(a.dv, a.w[0] + 0.5, 0, a.w[2] + 0.5);
    EQUALS(a.dk + 1, 0);
    EQUALS(a.dbias + 1, 0);
    for (int i = 0; i < 2; i++) ck_assert(isfinite(a.dq[i]) && isfinite(a.y[i]));
}
END_TEST

START_TEST(minus_infinity_is_masked) {
    struct little_attention a;
    little_start(&a);
    a.v[1] = NAN;
    a.bias[1] = a.bias[4] = -INFINITY;
    little_run(&a);
    EQUALS(a.w + 3, 0.5, 0, 0.5);
    EQUALS(a.y + 1, 2);
    EQUALS(a.dv, a.w[0] + 0.5, 0, a.w[2] + 0.5);
    EQUALS(a.dbias + 4, 0);
    for (int i = 0; i < 2; i++) ck_assert(isfinite(a.dq[i]) && isfinite(a.y[i]));
}
END_TEST

START_TEST(fully_masked_row_is_zero) {
    struct little_attention a;
    little_start(&a);
    for (int i = 3; i < 6; i++) a.allowed[i] = 0;
    a.q[1] = NAN, a.dy[1] = NAN;
    little_run(&a);
    EQUALS(a.w + 3, 0, 0, 0);
    ck_assert_double_eq(a.y[1], 0);
    ck_assert_double_eq(a.dq[1], 0);
    EQUALS(a.dbias + 3, 0, 0, 0);
    EQUALS(a.dv, a.w[0], a.w[1], a.w[2]);
}
END_TEST

START_TEST(visible_nan_propagates) {
    struct little_attention a;
    little_start(&a);
    a.v[2] = NAN;
    a.allowed[5] = 0;
    little_run(&a);
    ck_assert(isnan(a.y[0]));
    EQUALS(a.y + 1, 1.5);
    a.v[2] = 3, a.k[2] = NAN;
    little_run(&a);
    EQUALS(a.w, NAN, NAN, NAN, 0.5, 0.5, 0);
}
END_TEST

START_TEST(huge_scores_are_finite) {
    struct little_attention a;
    little_start(&a);
    for (int i = 0; i < 3; i++) a.k[i] = -3.4e38;
    little_run(&a);
    EQUALS(a.w, 1 / 3., 1 / 3., 1 / 3.);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ref_rules");
    TCase *tc = test_case(suite, "rules");
    tcase_add_checked_fixture(tc, open_ctx, close_ctx);
    tcase_add_test(tc, softmax_of_empty_rows);
    tcase_add_test(tc, softmax_of_extremes);
    tcase_add_test(tc, cross_entropy_of_ignored_and_empty_rows);
    tcase_add_test(tc, cross_entropy_ignores_what_has_no_weight);
    tcase_add_test(tc, maximum_with_ties_and_nan);
    tcase_add_test(tc, reducing_nothing);
    tcase_add_test(tc, branch_not_taken_gets_zero);
    tcase_add_test(tc, power_at_zero);
    tcase_add_test(tc, maxima_that_meet);
    tcase_add_test(tc, kinks);
    tcase_add_test(tc, power_zero_is_flat);
    tcase_add_test(tc, relu_selects);
    tcase_add_test(tc, activations_far_out);
    tcase_add_test(tc, comparisons);
    tcase_add_test(tc, gather_reports_where);
    tcase_add_test(tc, masked_nan_reaches_nothing);
    tcase_add_test(tc, minus_infinity_is_masked);
    tcase_add_test(tc, fully_masked_row_is_zero);
    tcase_add_test(tc, visible_nan_propagates);
    tcase_add_test(tc, huge_scores_are_finite);
    return test_main(suite);
}
