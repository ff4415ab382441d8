/* heed_rotary(): the shared tables, and what the positions mean. */
#include "harness_ops.h"

#include <math.h>
#include <stdlib.h>

/* Inputs of every row: x, positions. */
static void call_rotary(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_rotary_options options = {0};
    if (row->options) options = *(const heed_rotary_options *)row->options;
    options.positions = in[1];
    out[0] = heed_rotary(in[0], &options);
}

static void call_plain(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_rotary(in[0], NULL);
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define WISH(...) .options = &(const heed_rotary_options){__VA_ARGS__}
#define CALL(name, ...) name, call_rotary, {__VA_ARGS__}, OP_PRODUCT
#define PLACES(...) {OP_INDEX, SIZES(__VA_ARGS__), .limit = 90}

static const struct op_case cases[] = {
    {"no options", call_plain, {{N, SIZES(5, 6)}}, OP_PRODUCT},
    {CALL("heads", {N, SIZES(2, 3, 5, 6)})},
    {CALL("half split", {N, SIZES(2, 3, 5, 6)}), WISH(.half_split = true)},
    {CALL("base and offset", {N, SIZES(2, 3, 5, 8)}), WISH(.base = 50, .offset = 1000)},
    {CALL("a part", {N, SIZES(2, 2, 5, 7)}), WISH(.rotated = 4)},
    {CALL("a part, half split", {N, SIZES(2, 2, 5, 7)}), WISH(.rotated = 6, .half_split = true)},
    {CALL("negative offset", {N, SIZES(3, 4)}), WISH(.offset = -7)},
    {CALL("positions", {N, SIZES(2, 3, 5, 4)}, PLACES(5))},
    {CALL("positions of each batch", {N, SIZES(2, 3, 5, 4)}, PLACES(2, 5)), WISH(.offset = 3)},
    {CALL("positions of each head", {N, SIZES(2, 3, 5, 4)}, PLACES(1, 3, 5)), WISH(.half_split = true)},
    {CALL("positions, strided", {N, SIZES(2, 3, 5, 4)}, {OP_INDEX, SIZES(2, 5), OP_TRANSPOSED, .limit = 90})},
    {CALL("positions, repeated", {N, SIZES(2, 5, 4)}, {OP_INDEX, SIZES(2, 5), OP_REPEATED, .limit = 90})},
    {CALL("transposed", {N, SIZES(2, 6, 4), OP_TRANSPOSED})},
    {CALL("sliced", {N, SIZES(2, 3, 5, 6), OP_SLICED}), WISH(.half_split = true)},
    {CALL("outer", {N, SIZES(3, 5, 6), OP_OUTER})},
    {CALL("repeated", {N, SIZES(3, 5, 6), OP_REPEATED})},
    {CALL("width 2", {N, SIZES(4, 2)})},
    {CALL("no width", {N, SIZES(4, 0)})},
    {CALL("no length", {N, SIZES(2, 0, 4)})},
    {CALL("no batch", {N, SIZES(0, 3, 4)}, PLACES(0, 3))},
    {CALL("large", {N, SIZES(2, 4, 300, 64)}), .big = true},
    {CALL("large, half split", {N, SIZES(2, 4, 300, 80)}), .big = true, WISH(.half_split = true)},
    {CALL("large, positions", {N, SIZES(3, 2, 170, 66)}, {OP_INDEX, SIZES(3, 170), .limit = 5000}), .big = true},
    {CALL("one far row", {N, SIZES(1, 32, 1, 128)}), .big = true, WISH(.offset = 100000)},
};

static const struct op_wrong wrongs[] = {
    {{CALL("rank 1", {N, SIZES(4)})}, HEED_ERROR_SHAPE, "rotary: x[4] is not [.., length, width]"},
    {{CALL("odd width", {N, SIZES(2, 5)})}, HEED_ERROR_SHAPE, "rotary: the rotated width 5 is odd"},
    {{CALL("odd part", {N, SIZES(2, 6)}), WISH(.rotated = 3)}, HEED_ERROR_SHAPE, "rotary: the rotated width 3"},
    {{CALL("too wide", {N, SIZES(2, 6)}), WISH(.rotated = 8)}, HEED_ERROR_SHAPE, "rotary: rotated 8"},
    {{CALL("negative width", {N, SIZES(2, 6)}), WISH(.rotated = -2)}, HEED_ERROR_SHAPE, "rotary: rotated -2"},
    {{CALL("negative base", {N, SIZES(2, 6)}), WISH(.base = -1)}, HEED_ERROR_ARGUMENT, "rotary: the base -1"},
    {{CALL("base NaN", {N, SIZES(2, 6)}), WISH(.base = NAN)}, HEED_ERROR_ARGUMENT, "rotary: the base"},
    {{CALL("far offset", {N, SIZES(2, 6)}), WISH(.offset = INT64_C(1) << 40)}, HEED_ERROR_ARGUMENT,
     "rotary: the offset"},
    {{CALL("reserved words", {N, SIZES(2, 6)}), WISH(.reserved = {0, 1})}, HEED_ERROR_ARGUMENT,
     "rotary: reserved words"},
    {{CALL("integers", PLACES(2, 6))}, HEED_ERROR_DTYPE, "rotary: x is i32"},
    {{CALL("positions of floats", {N, SIZES(2, 6)}, {N, SIZES(2)})}, HEED_ERROR_DTYPE, "rotary: positions"},
    {{CALL("too few positions", {N, SIZES(3, 6)}, PLACES(2))}, HEED_ERROR_SHAPE,
     "rotary: positions[2] does not match x[3,6]"},
    {{CALL("another batch", {N, SIZES(2, 3, 6)}, PLACES(3, 3))}, HEED_ERROR_SHAPE, "rotary: positions[3,3]"},
    {{CALL("too many dimensions", {N, SIZES(3, 6)}, PLACES(1, 3))}, HEED_ERROR_SHAPE, "rotary: positions[1,3]"},
    {{CALL("a scalar position", {N, SIZES(1, 6)}, {OP_INDEX, .limit = 3})}, HEED_ERROR_SHAPE,
     "rotary: positions"},
};
/* clang-format on */

/* ---- what positions mean ---- */

static float *floats(heed_tensor t) {
    float *values = malloc((size_t)heed_count(t) * sizeof *values);
    ck_assert_int_eq(heed_read(t, values, (size_t)heed_count(t) * sizeof *values), HEED_OK);
    return values;
}

static void same_bits(heed_tensor a, heed_tensor b, const char *what) {
    float *x = floats(a), *y = floats(b);
    ck_assert_int_eq(heed_count(a), heed_count(b));
    for (int64_t i = 0; i < heed_count(a); i++) ck_assert_msg(x[i] == y[i], "%s: element %d", what, (int)i);
    free(x);
    free(y);
}

START_TEST(rotary_by_hand) {
    heed_ctx *ctx = test_cpu();
    heed_tensor x = heed_from(ctx, HEED_F32, TEST_SHAPE(2, 4), (float[]){1, 2, 3, 4, 1, 2, 3, 4});
    const double c = cos(1), s = sin(1), c2 = cos(0.01), s2 = sin(0.01);
    const double pairs[8] = {1, 2, 3, 4, c - 2 * s, s + 2 * c, 3 * c2 - 4 * s2, 3 * s2 + 4 * c2};
    const double half[8] = {1, 2, 3, 4, c - 3 * s, 2 * c2 - 4 * s2, s + 3 * c, 2 * s2 + 4 * c2};
    float *y = floats(heed_rotary(x, NULL)),
          *z = floats(heed_rotary(x, &(heed_rotary_options){.half_split = true}));
    for (int i = 0; i < 8; i++)
        ck_assert_msg(fabs(y[i] - pairs[i]) < 1e-6 && fabs(z[i] - half[i]) < 1e-6, "element %d", i);
    free(y);
    free(z);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* A row gives the same bits wherever it stands, whether its position is its place, an offset or given. */
START_TEST(rotary_of_a_row_alone) {
    heed_ctx *ctx = test_cpu();
    heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(2, 100, 24));
    heed_tensor all = heed_rotary(x, &(heed_rotary_options){.offset = 40});
    int32_t place[100];
    for (int i = 0; i < 100; i++) place[i] = 40 + i;
    heed_tensor given = heed_from(ctx, HEED_I32, TEST_SHAPE(100), place);
    same_bits(heed_rotary(x, &(heed_rotary_options){.positions = given}), all, "given");
    for (int64_t i = 0; i < 100; i += 11)
        same_bits(heed_rotary(heed_slice(x, 1, i, i + 1, 1), &(heed_rotary_options){.offset = 40 + i}),
                  heed_slice(all, 1, i, i + 1, 1), "alone");
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* Products depend on the distance alone. */
START_TEST(rotary_is_relative) {
    heed_ctx *ctx = test_cpu();
    heed_tensor q = test_tensor(ctx, HEED_F64, 1, TEST_SHAPE(1, 32)),
                k = test_tensor(ctx, HEED_F64, 2, TEST_SHAPE(1, 32));
    double first = 0;
    for (int64_t at = 0; at < 5000; at += 999) {
        heed_tensor a = heed_rotary(q, &(heed_rotary_options){.offset = at + 17}),
                    b = heed_rotary(k, &(heed_rotary_options){.offset = at});
        double product = heed_item(heed_sum(heed_mul(a, b), HEED_ALL, false));
        if (at == 0) first = product;
        ck_assert_msg(fabs(product - first) < 1e-9, "at %d: %.12g, not %.12g", (int)at, product, first);
    }
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("rotary positions");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    TCase *tests = test_case(suite, "positions");
    tcase_add_test(tests, rotary_by_hand);
    tcase_add_test(tests, rotary_of_a_row_alone);
    tcase_add_test(tests, rotary_is_relative);
    return test_main(suite);
}
