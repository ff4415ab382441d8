/* The values of the reference kernels by hand: of those without gradient, and forward where central
 * differences cannot tell one right formula from another. */
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

/* ---- copies ---- */

START_TEST(copy_converts) {
    double x[6] = {1.9, -1.9, 1e300, -INFINITY, NAN, 0};
    int32_t i[6];
    uint8_t b[6];
    forward(HEED_PRIMITIVE_COPY, &(struct heed_copy_args){.x = F64(x), .y = GRADIENT(VECTOR(i, HEED_I32))});
    forward(HEED_PRIMITIVE_COPY, &(struct heed_copy_args){.x = F64(x), .y = GRADIENT(VECTOR(b, HEED_BOOL))});
    ck_assert_mem_eq(i, ((int32_t[6]){1, -1, INT32_MAX, INT32_MIN, 0, 0}), sizeof i);
    ck_assert_mem_eq(b, ((uint8_t[6]){1, 1, 1, 1, 1, 0}), sizeof b);
}
END_TEST

START_TEST(copy_sums_into_repeats) {
    double x[6] = {1, 2, 3, 4, 5, 6}, y[3] = {10, 20, 30};
    struct heed_copy_args args = {.x = MATRIX(x, 2, 3), .y = {{y, HEED_F64, 2, {2, 3}, {0, 1}}, true}};
    forward(HEED_PRIMITIVE_COPY, &args);
    EQUALS(y, 15, 27, 39);
}
END_TEST

START_TEST(fill_and_random) {
    int32_t count[4];
    double u[5], n[5];
    struct heed_random random = {.seed = 3, .stream = HEED_STREAM_INIT, .step = 0, .ordinal = 9};
    forward(HEED_PRIMITIVE_FILL, &(struct heed_fill_args){.y = VECTOR(count, HEED_I32), .arange = true});
    ck_assert_mem_eq(count, ((int32_t[4]){0, 1, 2, 3}), sizeof count);
    forward(HEED_PRIMITIVE_FILL, &(struct heed_fill_args){.y = F64(u), .value = -2.5});
    EQUALS(u, -2.5, -2.5, -2.5, -2.5, -2.5);
    forward(HEED_PRIMITIVE_RANDOM,
            &(struct heed_random_args){.y = F64(u), .a = -1, .b = 3, .random = random});
    forward(HEED_PRIMITIVE_RANDOM,
            &(struct heed_random_args){.y = F64(n), .normal = true, .a = 5, .b = 2, .random = random});
    for (int i = 0; i < 5; i++) {
        ck_assert_double_eq_tol(u[i], -1 + 4 * heed_uniform_f64(&random, (uint64_t)i), 1e-15);
        ck_assert_double_eq_tol(n[i], 5 + 2 * heed_normal_f64(&random, (uint64_t)i), 1e-14);
    }
}
END_TEST

/* ---- where backward begins ---- */

START_TEST(loss) {
    double x = -3, dx = 7;
    struct heed_loss_args args = {.loss = SCALAR(&x), .dloss = GRADIENT(SCALAR(&dx)), .step = 12};
    ck_assert_int_eq(forward(HEED_PRIMITIVE_LOSS, &args), HEED_OK);
    ck_assert_double_eq(dx, 1);
    args.dloss.add = true;
    ck_assert_int_eq(forward(HEED_PRIMITIVE_LOSS, &args), HEED_OK);
    ck_assert_double_eq(dx, 2);
    x = -NAN;
    ck_assert_int_eq(forward(HEED_PRIMITIVE_LOSS, &args), HEED_ERROR_NUMERIC);
    test_error(ctx, HEED_ERROR_NUMERIC, "backward: the loss is nan at step 12", "NaN");
}
END_TEST

/* ---- optimisers ---- */

START_TEST(gradient_norm) {
    double g1[2] = {3, 4}, g2[3] = {NAN, -20, INFINITY};
    struct heed_grad_norm found;
    struct heed_param_item items[] = {{.count = 2, .grad = g1}, {.count = 3, .grad = g2}};
    struct heed_grad_norm_args args = {
        .dtype = HEED_F64, .items = 1, .item = items, .scale = 1, .result = &found};
    forward(HEED_PRIMITIVE_GRAD_NORM, &args);
    ck_assert_double_eq(found.norm, 5);
    ck_assert_int_eq(found.first_bad, -1);
    args.items = 2;
    args.scale = 2;
    args.clamp = 7;
    forward(HEED_PRIMITIVE_GRAD_NORM, &args);
    ck_assert(isnan(found.norm));
    ck_assert_int_eq(found.first_bad, 1);
    EQUALS(g1, 6, 7);
    EQUALS(g2, NAN, -7, 7);
}
END_TEST

/* A norm of 2, but for the guard against 0, clipped to 1: gradients are halved. */
static const struct heed_grad_norm twice_too_large = {2 - 1e-6, -1};

/* One parameter 2 with gradient 0.5 (halved from 1), twice, by hand. */
START_TEST(sgd_steps) {
    double p = 2, g = 1, m = NAN;
    struct heed_param_item item = {1, &p, &g, &m, NULL, 0.1, 0.5};
    struct heed_update_args args = {.kind = HEED_UPDATE_SGD,
                                    .dtype = HEED_F64,
                                    .items = 1,
                                    .item = &item,
                                    .norm = &twice_too_large,
                                    .max_norm = 1,
                                    .momentum = 0.9,
                                    .nesterov = true,
                                    .step = 1};
    forward(HEED_PRIMITIVE_UPDATE, &args); /* g = 1.5, m = 1.5, p −= 0.1·(1.5 + 1.35) */
    ck_assert_double_eq_tol(m, 1.5, 1e-15);
    ck_assert_double_eq_tol(p, 1.715, 1e-15);
    args.step = 2;
    args.nesterov = false;
    forward(HEED_PRIMITIVE_UPDATE, &args); /* g = 1.3575, m = 2.7075 */
    ck_assert_double_eq_tol(m, 2.7075, 1e-14);
    ck_assert_double_eq_tol(p, 1.44425, 1e-14);
    item.moment1 = NULL;
    forward(HEED_PRIMITIVE_UPDATE, &args); /* g = 1.222125 */
    ck_assert_double_eq_tol(p, 1.3220375, 1e-14);
}
END_TEST

START_TEST(adam_steps) {
    for (int decoupled = 0; decoupled < 2; decoupled++) {
        double p = 2, g = 1, m = 0, v = 0;
        struct heed_param_item item = {1, &p, &g, &m, &v, 0.1, 0.5};
        struct heed_update_args args = {.kind = decoupled ? HEED_UPDATE_ADAMW : HEED_UPDATE_ADAM,
                                        .dtype = HEED_F64,
                                        .items = 1,
                                        .item = &item,
                                        .norm = &twice_too_large,
                                        .max_norm = 1,
                                        .beta1 = 0.9,
                                        .beta2 = 0.99,
                                        .eps = 1e-8,
                                        .step = 1};
        forward(HEED_PRIMITIVE_UPDATE, &args);
        double grad = decoupled ? 0.5 : 1.5; /* the first step is rate·sign(g), but for eps */
        ck_assert_double_eq_tol(m, 0.1 * grad, 1e-15);
        ck_assert_double_eq_tol(v, 0.01 * grad * grad, 1e-15);
        ck_assert_double_eq_tol(p, (decoupled ? 1.9 : 2) - 0.1, 1e-8);
    }
}
END_TEST

/* ---- one element at a time ---- */

START_TEST(unary_values) {
    static const struct {
        enum heed_unary op;
        double x, y;
    } rows[] = {
        {HEED_UNARY_NEG, 2, -2},
        {HEED_UNARY_ABS, -2, 2},
        {HEED_UNARY_EXP, 1, 2.718281828459045},
        {HEED_UNARY_LOG, 10, 2.302585092994046},
        {HEED_UNARY_SQRT, 2, 1.4142135623730951},
        {HEED_UNARY_TANH, 0.5, 0.46211715726000975},
        {HEED_UNARY_SIGMOID, -1, 0.2689414213699951},
        {HEED_UNARY_SIGMOID, 1, 0.7310585786300049},
        {HEED_UNARY_RELU, -3, 0},
        {HEED_UNARY_RELU, 3, 3},
        {HEED_UNARY_GELU, 1, 0.8413447460685429}, /* Φ(1) */
        {HEED_UNARY_GELU, -1, -0.15865525393145707},
        {HEED_UNARY_GELU_TANH, 1, 0.8411919906082768},
        {HEED_UNARY_SILU, 1, 0.7310585786300049},
        {HEED_UNARY_ADD_SCALAR, 1, 3.5},
        {HEED_UNARY_MUL_SCALAR, 2, 5},
        {HEED_UNARY_POW_SCALAR, 4, 32},
        {HEED_UNARY_MAX_SCALAR, -3, 2.5},
        {HEED_UNARY_MAX_SCALAR, 3, 3},
        {HEED_UNARY_MIN_SCALAR, -3, -3},
        {HEED_UNARY_MIN_SCALAR, 3, 2.5},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double x = rows[i].x, y;
        struct heed_unary_args args = {.op = rows[i].op, .c = 2.5, .x = SCALAR(&x), .y = SCALAR(&y)};
        forward(HEED_PRIMITIVE_UNARY, &args);
        EQUALS(&y, rows[i].y);
    }
}
END_TEST

START_TEST(binary_values) {
    double a[2] = {6, -2}, b[2] = {2, 3}, y[2];
    static const double expected[][2] = {{8, 1}, {4, -5}, {12, -6}, {3, -2 / 3.}, {36, -8}, {6, 3}, {2, -2}};
    for (int op = 0; op < HEED_BINARY_EQUAL; op++) {
        forward(
            HEED_PRIMITIVE_BINARY,
            &(struct heed_binary_args){.op = (enum heed_binary)op, .a = F64(a), .b = F64(b), .y = F64(y)});
        kernel_equals(y, expected[op], 2);
    }
}
END_TEST

START_TEST(dropout_values) {
    enum { COUNT = 4000 };
    static double x[COUNT], y[COUNT];
    struct heed_random random = {.seed = 11, .stream = HEED_STREAM_TRAIN, .step = 2, .ordinal = 1};
    struct heed_dropout_args args = {
        .threshold = heed_keep_threshold(0.25), .random = random, .x = F64(x), .y = F64(y)};
    int kept = 0;
    for (int i = 0; i < COUNT; i++) x[i] = i + 1;
    forward(HEED_PRIMITIVE_DROPOUT, &args);
    for (int i = 0; i < COUNT; i++) {
        bool keep = heed_keep_element(&random, (uint64_t)i, args.threshold);
        EQUALS(y + i, keep ? x[i] * 4 / 3 : 0);
        kept += keep;
    }
    ck_assert_int_gt(kept, COUNT * 0.72);
    ck_assert_int_lt(kept, COUNT * 0.78);
}
END_TEST

/* ---- rows and losses ---- */

START_TEST(norm_values) {
    double x[4] = {1, 3, 5, 7}, y[4], weight[2] = {2, 3}, bias[2] = {10, 20};
    struct heed_norm_args args = {.eps = 3, .x = MATRIX(x, 2, 2), .y = MATRIX(y, 2, 2)};
    forward(HEED_PRIMITIVE_NORM, &args); /* deviations ∓1, variance 1, 1/sqrt(1 + 3) */
    EQUALS(y, -0.5, 0.5, -0.5, 0.5);
    args.weight = F64(weight);
    args.bias = F64(bias);
    forward(HEED_PRIMITIVE_NORM, &args);
    EQUALS(y, 9, 21.5, 9, 21.5);
    args.rms = true;
    args.bias.data = NULL;
    args.eps = 4; /* mean squares 5 and 37 */
    forward(HEED_PRIMITIVE_NORM, &args);
    EQUALS(y, 2 / 3., 3, 10 / sqrt(41), 21 / sqrt(41));
}
END_TEST

START_TEST(loss_values) {
    double x[4] = {0, log(3), 0, 0}, t[4] = {1, 0, 0, 1}, y;
    int32_t target[2] = {1, 0};
    struct heed_cross_entropy_args ce = {
        .ignore_index = -100, .x = MATRIX(x, 2, 2), .target = VECTOR(target, HEED_I32), .y = SCALAR(&y)};
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &ce); /* probabilities 3/4 and 1/2 */
    EQUALS(&y, (log(4 / 3.) + log(2)) / 2);
    ce.reduction = HEED_REDUCE_SUM;
    ce.smoothing = 0.5; /* 3/4 to the target, 1/4 to the other */
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &ce);
    EQUALS(&y, 0.75 * log(4 / 3.) + 0.25 * log(4) + log(2));
    ce.reduction = HEED_REDUCE_MEAN;
    ce.ignore_index = 0;
    forward(HEED_PRIMITIVE_CROSS_ENTROPY, &ce);
    EQUALS(&y, 0.75 * log(4 / 3.) + 0.25 * log(4));

    struct heed_pair_loss_args pair = {.x = F64(x), .t = F64(t), .y = SCALAR(&y)};
    forward(HEED_PRIMITIVE_PAIR_LOSS, &pair);
    EQUALS(&y, (1 + log(3) * log(3) + 0 + 1) / 4);
    pair.bce = true; /* −log sigmoid(0), −log(1 − sigmoid(log 3)), and log 2 twice */
    pair.reduction = HEED_REDUCE_SUM;
    forward(HEED_PRIMITIVE_PAIR_LOSS, &pair);
    EQUALS(&y, 3 * log(2) + log(4));
}
END_TEST

/* ---- products ---- */

START_TEST(product_values) {
    double a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, -1, 2, 3, 1}, y[4], bias[2] = {1, -4};
    forward(HEED_PRIMITIVE_MATMUL,
            &(struct heed_matmul_args){.a = MATRIX(a, 2, 3), .b = MATRIX(b, 3, 2), .y = MATRIX(y, 2, 2)});
    EQUALS(y, 1 - 2 + 9, 4 + 3, 4 - 5 + 18, 10 + 6);
    struct heed_linear_args linear = {.activation = HEED_ACTIVATION_RELU,
                                      .x = MATRIX(a, 2, 3),
                                      .w = MATRIX(b, 2, 3),
                                      .bias = F64(bias),
                                      .y = MATRIX(y, 2, 2)};
    forward(HEED_PRIMITIVE_LINEAR, &linear); /* −2 + 1, 11 − 4, −2 + 1, 29 − 4 */
    EQUALS(y, 0, 7, 0, 25);
}
END_TEST

/* ---- attention ---- */

/* Four query heads, two key/value heads: heads 0 and 1 read values 1 and 2, heads 2 and 3 values 10 and 20.
 * Query 0 sees key 0 only; the score of key 1 is log 3 more than that of key 0. */
START_TEST(attention_values) {
    double q[8] = {1, 1, 1, 1, 1, 1, 1, 1}, k[4] = {0, 1, 0, 1}, v[4] = {1, 2, 10, 20}, y[8], w[16];
    struct heed_bound_mask causal = {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR}};
    struct heed_attention_args args = {.q = {q, HEED_F64, 4, {1, 4, 2, 1}, {8, 2, 1, 1}},
                                       .k = {k, HEED_F64, 4, {1, 2, 2, 1}, {4, 2, 1, 1}},
                                       .v = {v, HEED_F64, 4, {1, 2, 2, 1}, {4, 2, 1, 1}},
                                       .y = {y, HEED_F64, 4, {1, 4, 2, 1}, {8, 2, 1, 1}},
                                       .weights = {w, HEED_F64, 4, {1, 4, 2, 2}, {16, 4, 2, 1}},
                                       .scale = log(3),
                                       .mask = &causal,
                                       .threshold = 65536};
    forward(HEED_PRIMITIVE_ATTENTION, &args);
    EQUALS(y, 1, 1.75, 1, 1.75, 10, 17.5, 10, 17.5);
    for (int head = 0; head < 4; head++) EQUALS(w + 4 * head, 1, 0, 0.25, 0.75);

    args.threshold = heed_keep_threshold(0.5);
    args.random = (struct heed_random){.seed = 1, .stream = HEED_STREAM_TRAIN, .step = 4, .ordinal = 2};
    struct heed_attention_random random = heed_attention_random(&args.random);
    forward(HEED_PRIMITIVE_ATTENTION, &args);
    static const double before[4] = {1, 0, 0.25, 0.75};
    for (uint32_t i = 0; i < 16; i++) {
        bool keep = heed_attention_keep(&random, i >> 1 & 1, i & 1, i >> 2, args.threshold);
        EQUALS(w + i, keep ? 2 * before[i & 3] : 0);
    }
    for (int i = 0; i < 8; i++) EQUALS(y + i, w[2 * i] * v[i / 4 * 2] + w[2 * i + 1] * v[i / 4 * 2 + 1]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ref_values");
    TCase *tc = test_case(suite, "values");
    tcase_add_checked_fixture(tc, open_ctx, close_ctx);
    tcase_add_test(tc, copy_converts);
    tcase_add_test(tc, copy_sums_into_repeats);
    tcase_add_test(tc, fill_and_random);
    tcase_add_test(tc, loss);
    tcase_add_test(tc, gradient_norm);
    tcase_add_test(tc, sgd_steps);
    tcase_add_test(tc, adam_steps);
    tcase_add_test(tc, unary_values);
    tcase_add_test(tc, binary_values);
    tcase_add_test(tc, dropout_values);
    tcase_add_test(tc, norm_values);
    tcase_add_test(tc, loss_values);
    tcase_add_test(tc, product_values);
    tcase_add_test(tc, attention_values);
    return test_main(suite);
}
