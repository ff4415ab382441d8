/* heed_residual_norm(): the shared tables, and that it is what dropout, addition and norm are one by one. */
#include "harness_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "tensor/internal.h"

static const heed_tensor none;

static heed_residual_norm_options options_of(const struct op_case *row) {
    return row->options ? *(const heed_residual_norm_options *)row->options : (heed_residual_norm_options){0};
}

/* Both results, or the norm. */
static void call_residual_norm(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const heed_residual_norm_options options = options_of(row);
    out[0] = heed_residual_norm(in[0], in[1], in[2], in[3], &options, row->outputs == 2 ? &out[1] : NULL);
}

static void call_sum_alone(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const heed_residual_norm_options options = options_of(row);
    heed_residual_norm(in[0], in[1], in[2], in[3], &options, out);
}

/* As a pre-norm block has it: the norm leads to what is added to the sum again. */
static void call_block(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const heed_residual_norm_options options = options_of(row);
    heed_tensor sum, y = heed_residual_norm(heed_mul_scalar(in[0], 2), in[1], in[2], in[3], &options, &sum);
    out[0] = heed_residual_norm(sum, heed_tanh(y), in[2], none, &options, &out[1]);
}

static void call_twice(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const heed_residual_norm_options options = options_of(row);
    heed_tensor x = heed_mul_scalar(in[0], 2);
    out[0] = heed_residual_norm(x, x, in[1], none, &options, &out[1]);
}

static void call_defaults(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_residual_norm(in[0], in[1], in[2], in[3], NULL, NULL);
}

/* clang-format off */
#define N OP_NORMAL
#define WISH(...) .options = &(const heed_residual_norm_options){__VA_ARGS__}
#define DROP(...) .random = true, .options = &(const heed_residual_norm_options){.dropout = 0.3, __VA_ARGS__}
/* x and branch [.., n], weight and bias [n]. */
#define FOUR(n, ...) {{N, SIZES(__VA_ARGS__, n)}, {N, SIZES(__VA_ARGS__, n)}, {N, SIZES(n)}, {N, SIZES(n)}}
#define THREE(n, ...) {{N, SIZES(__VA_ARGS__, n)}, {N, SIZES(__VA_ARGS__, n)}, {N, SIZES(n)}}
#define TWO(n, ...) {{N, SIZES(__VA_ARGS__, n)}, {N, SIZES(__VA_ARGS__, n)}}
#define WIDE(n, rows) {"residual_norm, " #n " wide", call_residual_norm, FOUR(n, rows), OP_ROWS, 2, DROP(.eps = 1e-4),\
     .no_difference = true}

static const struct op_case cases[] = {
    {"residual_norm", call_residual_norm, FOUR(7, 4), OP_ROWS, 2},
    {"residual_norm, defaults", call_defaults, FOUR(5, 2, 3), OP_ROWS},
    {"residual_norm, dropout", call_residual_norm, FOUR(8, 6), OP_ROWS, 2, DROP()},
    {"residual_norm, dropout, odd width", call_residual_norm, FOUR(7, 2, 9), OP_ROWS, 2, DROP()},
    {"residual_norm, dropout that is off", call_residual_norm, FOUR(7, 4), OP_ROWS, 2, WISH(.dropout = 0.3)},
    {"residual_norm, the norm alone", call_residual_norm, FOUR(6, 5), OP_ROWS, DROP()},
    {"residual_norm, the sum alone", call_sum_alone, TWO(6, 5), OP_ROWS, DROP()},
    {"residual_norm, the sum alone, weighted", call_sum_alone, {{N, SIZES(5, 6)}, {N, SIZES(5, 6)}, {N, SIZES(6),
     .constant = true}, {N, SIZES(6), .constant = true}}, OP_ROWS, DROP()},
    {"residual_norm, blocks", call_block, FOUR(6, 2, 3), OP_ROWS, 2, DROP(.eps = 1e-2)},
    {"residual_norm, one tensor twice", call_twice, {{N, SIZES(3, 6)}, {N, SIZES(6)}}, OP_ROWS, 2, DROP(.eps = 1e-2)},
    {"residual_norm, no bias", call_residual_norm, THREE(5, 3), OP_ROWS, 2, WISH(.eps = 1e-3)},
    {"residual_norm, no weight", call_residual_norm, {{N, SIZES(3, 5)}, {N, SIZES(3, 5)}, {OP_NONE}, {N, SIZES(5)}},
     OP_ROWS, 2},
    {"residual_norm, plain", call_residual_norm, TWO(5, 2, 3), OP_ROWS, 2, DROP()},
    {"residual_norm, rms", call_residual_norm, THREE(7, 4), OP_ROWS, 2, DROP(.rms = true)},
    {"residual_norm, rms, bias", call_residual_norm, FOUR(7, 4), OP_ROWS, 2, WISH(.rms = true, .eps = 1e-2)},
    {"residual_norm, vector", call_residual_norm, {{N, SIZES(6)}, {N, SIZES(6)}, {N, SIZES(6)}, {N, SIZES(6)}},
     OP_ROWS, 2, DROP()},
    {"residual_norm, strided", call_residual_norm, {{N, SIZES(4, 6), OP_TRANSPOSED}, {N, SIZES(4, 6), OP_SLICED},
     {N, SIZES(6), OP_SLICED}, {N, SIZES(6)}}, OP_ROWS, 2, DROP()},
    {"residual_norm, repeated", call_residual_norm, {{N, SIZES(3, 2, 5), OP_REPEATED}, {N, SIZES(3, 2, 5)}, {N,
     SIZES(5)}, {N, SIZES(5)}}, OP_ROWS, 2, DROP()},
    {"residual_norm, constant x", call_residual_norm, {{N, SIZES(3, 5), .constant = true}, {N, SIZES(3, 5)}, {N,
     SIZES(5)}, {N, SIZES(5)}}, OP_ROWS, 2, DROP()},
    {"residual_norm, constant branch", call_residual_norm, {{N, SIZES(3, 5)}, {N, SIZES(3, 5), .constant = true}, {N,
     SIZES(5)}, {N, SIZES(5)}}, OP_ROWS, 2, DROP()},
    {"residual_norm, weight alone", call_residual_norm, {{N, SIZES(3, 5), .constant = true}, {N, SIZES(3, 5),
     .constant = true}, {N, SIZES(5)}, {N, SIZES(5), .constant = true}}, OP_ROWS, 2, DROP()},
    {"residual_norm, no rows", call_residual_norm, FOUR(4, 0), OP_ROWS, 2, DROP()},
    {"residual_norm, empty rows", call_residual_norm, TWO(0, 3), OP_ROWS, 2, DROP()},
    {"residual_norm, equal values", call_residual_norm, {{OP_VALUE, SIZES(3, 5), .limit = 2}, {OP_VALUE, SIZES(3, 5),
     .limit = 1}, {N, SIZES(5)}}, OP_ROWS, 2, .no_difference = true},
    {"residual_norm, large", call_residual_norm, FOUR(384, 300), OP_ROWS, 2, DROP(), .big = true},
    {"residual_norm, large, odd width", call_residual_norm, FOUR(531, 70), OP_ROWS, 2, DROP(), .big = true},
    {"residual_norm, short rows", call_residual_norm, FOUR(12, 1000), OP_ROWS, 2, DROP(.eps = 1e-2), .big = true},
    {"residual_norm, rms, large", call_residual_norm, THREE(385, 300), OP_ROWS, 2, DROP(.rms = true), .big = true},
    WIDE(1000, 5), WIDE(1028, 3), WIDE(2048, 3), WIDE(8192, 2), WIDE(8196, 2), WIDE(16384, 2), WIDE(16392, 2),
};

#define WRONG(name, ...) name, call_residual_norm, {__VA_ARGS__}
static const struct op_wrong wrongs[] = {
    {{WRONG("shapes differ", {N, SIZES(2, 3)}, {N, SIZES(3)})}, HEED_ERROR_SHAPE,
     "residual_norm: branch[3] does not match x[2,3]"},
    {{WRONG("no branch", {N, SIZES(2, 3)})}, HEED_ERROR_ARGUMENT, "residual_norm: branch is missing"},
    {{WRONG("no x", {OP_NONE}, {N, SIZES(2, 3)})}, HEED_ERROR_ARGUMENT, "residual_norm: x is missing"},
    {{WRONG("scalars", {N}, {N})}, HEED_ERROR_SHAPE, "residual_norm: x has no dimension"},
    {{WRONG("weight too long", {N, SIZES(2, 3)}, {N, SIZES(2, 3)}, {N, SIZES(4)})}, HEED_ERROR_SHAPE,
     "residual_norm: weight[4] does not match x[2,3]"},
    {{WRONG("bias of rank 2", {N, SIZES(2, 3)}, {N, SIZES(2, 3)}, {N, SIZES(3)}, {N, SIZES(1, 3)})},
     HEED_ERROR_SHAPE, "residual_norm: bias[1,3]"},
    {{WRONG("integers", {OP_INDEX, SIZES(2, 3), .limit = 3}, {N, SIZES(2, 3)})}, HEED_ERROR_DTYPE,
     "residual_norm: x is i32"},
    {{WRONG("dtypes clash", {N, SIZES(2, 3)}, {N, SIZES(2, 3), .other_dtype = true, .dtype = HEED_F64})},
     HEED_ERROR_DTYPE, "residual_norm: branch is f64"},
    {{WRONG("negative eps", {N, SIZES(2, 3)}, {N, SIZES(2, 3)}), WISH(.eps = -1)}, HEED_ERROR_ARGUMENT,
     "residual_norm: eps -1 is negative"},
    {{WRONG("probability 1", {N, SIZES(2, 3)}, {N, SIZES(2, 3)}), WISH(.dropout = 1)}, HEED_ERROR_ARGUMENT,
     "residual_norm: probability 1 is not in [0, 1)"},
    {{WRONG("reserved words", {N, SIZES(2, 3)}, {N, SIZES(2, 3)}), WISH(.reserved = {0, 1})}, HEED_ERROR_ARGUMENT,
     "residual_norm: reserved words"},
};
/* clang-format on */

/* ---- one operation or three ---- */

enum { X, BRANCH, WEIGHT, BIAS, LEAVES, Y = LEAVES, SUM, NEXT, NUMBERS };

struct outcome {
    double *values[NUMBERS]; /* gradients of the leaves; the results; random numbers that are drawn next */
    int64_t count[NUMBERS];
};

struct way {
    heed_dtype dtype;
    int64_t rows, n;
    bool rms;
    int uses; /* 1: the norm, 2: the sum, 3: both */
    double dropout;
};

static heed_tensor three(const struct way *way, const heed_tensor *in, heed_tensor *sum) {
    *sum = heed_add(in[X], heed_dropout(in[BRANCH], way->dropout));
    return way->rms ? heed_rms_norm(*sum, in[WEIGHT], 1e-3)
                    : heed_layer_norm(*sum, in[WEIGHT], in[BIAS], 1e-3);
}

static heed_tensor one(const struct way *way, const heed_tensor *in, heed_tensor *sum) {
    const heed_residual_norm_options options = {.rms = way->rms, .eps = 1e-3, .dropout = way->dropout};
    return heed_residual_norm(in[X], in[BRANCH], in[WEIGHT], way->rms ? none : in[BIAS], &options, sum);
}

static struct outcome run(const struct test_device *device, const struct way *way, bool fused) {
    heed_ctx *ctx = test_ctx(device);
    heed_tensor leaf[LEAVES], in[LEAVES], sum;
    struct outcome o = {{NULL}, {0}};
    heed_random_set(ctx, &(heed_random_state){.seed = 5});
    for (int i = 0; i < LEAVES; i++) {
        leaf[i] = i < WEIGHT ? test_tensor(ctx, way->dtype, (uint64_t)i + 1, TEST_SHAPE(way->rows, way->n))
                             : test_tensor(ctx, way->dtype, (uint64_t)i + 1, TEST_SHAPE(way->n));
        heed_require_grad(leaf[i], true);
    }
    heed_step_begin(ctx, HEED_TRAIN);
    for (int i = 0; i < LEAVES; i++) in[i] = i < WEIGHT ? heed_mul_scalar(leaf[i], 1) : leaf[i];
    heed_tensor y = (fused ? one : three)(way, in, &sum);
    heed_tensor next = heed_dropout(heed_full(ctx, way->dtype, TEST_SHAPE(64), 1), 0.5);
    heed_tensor used = way->uses == 1 ? y : way->uses == 2 ? heed_tanh(sum) : heed_mul(heed_tanh(y), sum);
    heed_backward(heed_sum(heed_mul(used, used), HEED_ALL, false));
    const heed_tensor result[] = {y, sum, next};
    for (int i = Y; i <= NEXT; i++) o.values[i] = test_values(result[i - Y], &o.count[i]);
    for (int i = 0; i < LEAVES; i++)
        if (!heed_is_none(heed_grad(leaf[i]))) o.values[i] = test_values(heed_grad(leaf[i]), &o.count[i]);
    test_ok(ctx);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
    return o;
}

/* Whether each operation's own rounding of the branch and of dsum makes no difference: f32 of vectors. */
static bool is_bitwise(const struct test_device *device, const struct way *way) {
    return !test_elsewhere() && way->dtype == HEED_F32 && strcmp(device->device, "cpu") == 0;
}

static void compare(const struct way *way, const struct test_device *device, struct outcome *a,
                    struct outcome *b) {
    const double bits = way->dtype == HEED_BF16 ? 0x1p-4 : way->dtype == HEED_F32 ? 1e-5 : 1e-13;
    char name[80];
    for (int i = 0; i < NUMBERS; i++) {
        const bool sums = (i == WEIGHT || i == BIAS) && way->n % 8 != 0;
        const double allowed = i == NEXT || (is_bitwise(device, way) && !sums) ? 0 : bits;
        double largest = 0;
        ck_assert_msg(!a->values[i] == !b->values[i], "numbers %d are there or are not", i);
        for (int64_t k = 0; k < a->count[i]; k++) largest = fmax(largest, fabs(a->values[i][k]));
        for (int64_t k = 0; k < a->count[i]; k++) {
            const double right = a->values[i][k], found = b->values[i][k];
            if (!(fabs(right - found) <= allowed * largest))
                ck_abort_msg("%s, %dx%d: number %d of %d is %.9g and not %.9g",
                             test_device_name(device, name, sizeof name), (int)way->rows, (int)way->n, (int)k,
                             i, found, right);
        }
        free(a->values[i]);
        free(b->values[i]);
    }
}

START_TEST(one_is_three) {
    static const int64_t sizes[][2] = {{40, 32}, {7, 13}, {33, 100}, {600, 8}, {3, 1000}};
    static const heed_dtype dtypes[] = {HEED_F32, HEED_F64, HEED_BF16};
    const struct test_device *devices;
    const int count = test_devices(&devices);
    for (int d = 0; d < count; d++)
        for (int t = 0; t < (test_has_bf16() ? 3 : 2); t++)
            for (int i = 0; i < 12; i++) {
                const struct way way = {.dtype = dtypes[t],
                                        .rows = sizes[_i][0],
                                        .n = sizes[_i][1],
                                        .rms = i & 1,
                                        .uses = 1 + i / 2 % 3,
                                        .dropout = i < 6 ? 0.2 : 0};
                struct outcome a = run(&devices[d], &way, false), b = run(&devices[d], &way, true);
                compare(&way, &devices[d], &a, &b);
            }
}
END_TEST

/* The norm is made of the sum that is stored, in bf16 too: backward reads that. */
START_TEST(norm_of_what_is_stored) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    for (int d = 0; d < count && test_has_bf16(); d++) {
        heed_ctx *ctx = test_ctx(&devices[d]);
        int64_t n, m;
        heed_tensor x = test_tensor(ctx, HEED_BF16, 1, TEST_SHAPE(20, 72)),
                    branch = test_tensor(ctx, HEED_BF16, 2, TEST_SHAPE(20, 72)), sum;
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor y =
            heed_residual_norm(x, branch, none, none, &(heed_residual_norm_options){.dropout = 0.3}, &sum);
        double *found = test_values(y, &n), *right = test_values(heed_layer_norm(sum, none, none, 0), &m);
        for (int64_t i = 0; i < n; i++)
            if (found[i] != right[i]) ck_abort_msg("element %d is %g, not %g", (int)i, found[i], right[i]);
        free(found);
        free(right);
        test_ok(ctx);
        heed_step_end(ctx);
        heed_ctx_free(ctx);
    }
}
END_TEST

/* ---- memory ---- */

static size_t in_use(heed_ctx *ctx) {
    return heed_memory(ctx).in_use;
}

enum { ROWS = 128, WIDTH = 128, BYTES = ROWS * WIDTH * (int)sizeof(float) };

/* Of x, branch, sum and norm the tape keeps the sum; the norm is made again, with the same bits. */
START_TEST(keeps_the_sum) {
    double *gradients[2];
    int64_t count = 0;
    for (int nested = 0; nested < 2; nested++) {
        heed_ctx *ctx = test_cpu();
        heed_tensor leaf = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(ROWS, WIDTH)),
                    w = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(WIDTH, WIDTH)), sum;
        const heed_residual_norm_options options = {.dropout = 0.1};
        heed_require_grad(leaf, true);
        heed_require_grad(w, true);
        heed_random_set(ctx, &(heed_random_state){.seed = 5});
        heed_step_begin(ctx, HEED_TRAIN);
        const size_t before = in_use(ctx);
        if (nested) heed_scope_begin(ctx);
        heed_tensor y = heed_residual_norm(heed_mul_scalar(leaf, 2), heed_mul_scalar(leaf, 3), none, none,
                                           &options, &sum);
        heed_tensor z = heed_linear(y, w, none, NULL);
        if (nested) z = heed_scope_end(ctx, z);
        const size_t kept = in_use(ctx) - before;
        if (nested)
            ck_assert_msg(kept < 2 * BYTES + BYTES / 2, "%d bytes are kept, a tensor is %d", (int)kept,
                          BYTES);
        heed_backward(heed_sum(heed_mul(z, z), HEED_ALL, false));
        gradients[nested] = test_values(heed_grad(w), &count);
        test_ok(ctx);
        heed_step_end(ctx);
        heed_ctx_free(ctx);
    }
    ck_assert(memcmp(gradients[0], gradients[1], (size_t)count * sizeof *gradients[0]) == 0);
    free(gradients[0]);
    free(gradients[1]);
}
END_TEST

/* What the norm is made of again must be what it was. */
START_TEST(overwritten) {
    heed_ctx *ctx = test_cpu();
    heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(4, 8)),
                w = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(8, 8)),
                weight = test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(8)), loss;
    const float zeros[8] = {0};
    heed_require_grad(w, true);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_require_grad(x, true);
    heed_tensor y = heed_residual_norm(x, x, weight, none, NULL, NULL);
    loss = heed_scope_end(ctx, heed_sum(heed_linear(y, w, none, NULL), HEED_ALL, false));
    heed_write(weight, zeros, sizeof zeros);
    heed_backward(loss);
    test_error(ctx, HEED_ERROR_STATE, "a tensor that residual_norm needs was overwritten since", "weight");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("residual and norm");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    TCase *tests = test_case(suite, "one and three");
    tcase_add_loop_test(tests, one_is_three, 0, 5);
    tcase_add_test(tests, norm_of_what_is_stored);
    tcase_add_test(tests, keeps_the_sum);
    tcase_add_test(tests, overwritten);
    return test_main(suite);
}
