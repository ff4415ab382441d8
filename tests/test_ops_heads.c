/* Projections taken apart into heads (autograd/heads.h): that one product of several weights is what each
 * would give, and so are its gradients. */
#include "harness_ops.h"

#include "autograd/heads.h"
#include "tensor/internal.h"

enum { PARTS = 3 };

/* Inputs of every row. x of key and value none: that before. Weights and biases apart, or those of all as
 * one leaf that is sliced, so that they lie one after the other. */
enum { X, W = X + PARTS, BIAS = W + PARTS, W_ALL = BIAS + PARTS, BIAS_ALL };

struct wish {
    int64_t heads[PARTS], rows[PARTS]; /* rows: of each weight, where they are one leaf */
    bool prepared;                     /* queries and keys are normed and turned where they lie */
    bool last_alone;                   /* only v is used */
};

static heed_tensor rows_of(heed_tensor all, const int64_t *rows, int part) {
    int64_t first = 0;
    for (int i = 0; i < part; i++) first += rows[i];
    return heed_is_none(all) ? all : heed_slice(all, 0, first, first + rows[part], 1);
}

static void call_heads(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *wish = row->options;
    heed_tensor x[PARTS], w[PARTS], bias[PARTS], part[PARTS];
    for (int i = 0; i < PARTS; i++) {
        x[i] = i > 0 && heed_is_none(in[X + i]) ? x[i - 1] : in[X + i];
        w[i] = heed_is_none(in[W_ALL]) ? in[W + i] : rows_of(in[W_ALL], wish->rows, i);
        bias[i] = heed_is_none(in[BIAS_ALL]) ? in[BIAS + i] : rows_of(in[BIAS_ALL], wish->rows, i);
    }
    heed_project_heads(PARTS, x, w, bias, wish->heads, part);
    for (int i = 0; i < 2 && wish->prepared; i++)
        part[i] = heed_rotary_over(heed_rms_norm(part[i], (heed_tensor){0}, 1e-2), NULL);
    for (int i = 0; i < PARTS; i++) out[i] = part[i];
    if (wish->last_alone) out[0] = part[2];
}

/* A weight that is x. */
static void call_x_is_w(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_tensor given[OP_INPUTS];
    for (int i = 0; i < OP_INPUTS; i++) given[i] = in[i];
    given[W + 1] = in[X];
    call_heads(row, given, out);
}

/* x is made by an operation that needs neither it nor its result. */
static void call_rotary_over(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_rotary_over(heed_mul_scalar(in[0], 2), NULL);
}

/* clang-format off */
#define N OP_NORMAL
#define NO {OP_NONE}
#define M(...) {N, SIZES(__VA_ARGS__)}
#define P(...) {OP_WEIGHT, SIZES(__VA_ARGS__)}
#define WISH(...) .outputs = 3, .options = &(const struct wish){__VA_ARGS__}
#define CALL(name, ...) name, call_heads, {__VA_ARGS__}, OP_PRODUCT

static const struct op_case cases[] = {
    {CALL("one product", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("biases", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("groups", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(16, 6), M(16)), WISH({4, 2, 2}, {8, 4, 4})},
    {CALL("apart", M(2, 4, 6), NO, NO, P(4, 6), P(4, 6), P(8, 6)), WISH({2, 2, 4})},
    {CALL("apart, biases", M(2, 4, 6), NO, NO, P(4, 6), P(4, 6), P(8, 6), M(4), M(4), M(8)), WISH({2, 2, 4})},
    {CALL("biases apart", M(2, 4, 6), NO, NO, NO, NO, NO, M(4), M(4), M(4), P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("some biases", M(2, 4, 6), NO, NO, NO, NO, NO, NO, M(4), NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("key is value", M(2, 4, 6), M(2, 5, 6), NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("query is key", M(2, 4, 6), NO, M(2, 5, 6), NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("none are one", M(2, 4, 6), M(2, 5, 6), M(1, 3, 6), NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("widths in differ", M(2, 4, 6), M(2, 5, 4), M(2, 5, 3), P(4, 6), P(4, 4), P(4, 3)), WISH({2, 2, 2})},
    {CALL("no batch", M(4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("two batch dimensions", M(2, 3, 2, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("strided", {N, SIZES(2, 4, 6), OP_SLICED}, NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("transposed", {N, SIZES(2, 4, 6), OP_TRANSPOSED}, NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("repeated", {N, SIZES(2, 4, 6), OP_REPEATED}, NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("strided weights", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, {OP_WEIGHT, SIZES(12, 6), OP_TRANSPOSED}, {N, SIZES(12), OP_SLICED}), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("constant x", {N, SIZES(2, 4, 6), .constant = true}, NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("constant weights", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, {OP_WEIGHT, SIZES(12, 6), .constant = true}, M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("one constant weight", M(2, 4, 6), NO, NO, P(4, 6), {OP_WEIGHT, SIZES(4, 6), .constant = true}, P(4, 6)), WISH({2, 2, 2})},
    {CALL("heads of width 1", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(9, 6)), WISH({3, 3, 3}, {3, 3, 3})},
    {CALL("one head", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(9, 6), M(9)), WISH({1, 1, 1}, {3, 2, 4})},
    {CALL("one row", M(1, 1, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("no rows", M(2, 0, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), WISH({2, 2, 2}, {4, 4, 4})},
    {CALL("one is used", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), .options = &(const struct wish){{2, 2, 2}, {4, 4, 4}, .last_alone = true}},
    {CALL("two are used", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(12, 6), M(12)), .outputs = 2, .options = &(const struct wish){{2, 2, 2}, {4, 4, 4}}},
    {CALL("prepared", M(2, 4, 6), NO, NO, NO, NO, NO, NO, NO, NO, P(16, 6), M(16)), WISH({4, 2, 2}, {8, 4, 4}, .prepared = true)},
    {CALL("large", M(2, 70, 48), NO, NO, NO, NO, NO, NO, NO, NO, P(144, 48), M(144)), .big = true, WISH({6, 6, 6}, {48, 48, 48})},
    {CALL("large, prepared", M(2, 70, 48), NO, NO, NO, NO, NO, NO, NO, NO, P(128, 48), M(128)), .big = true, WISH({4, 2, 2}, {64, 32, 32}, .prepared = true)},
    {"x is a weight", call_x_is_w, {M(4, 6), NO, NO, P(4, 6), NO, P(4, 6)}, OP_PRODUCT, WISH({2, 2, 2})},
    {"rotary over x", call_rotary_over, {M(2, 3, 4)}, OP_PRODUCT},
    {"rotary over x, large", call_rotary_over, {M(2, 300, 66)}, OP_PRODUCT, .big = true},
};

static const struct op_wrong wrongs[] = {
    {{CALL("w does not fit", M(2, 4, 6), NO, NO, P(4, 6), P(4, 5), P(4, 6)), WISH({2, 2, 2})}, HEED_ERROR_SHAPE, "linear: x[2,4,6] does not match w[4,5]"},
    {{CALL("bias does not fit", M(2, 4, 6), NO, NO, P(4, 6), P(4, 6), P(4, 6), NO, M(5)), WISH({2, 2, 2})}, HEED_ERROR_SHAPE, "linear: bias[5] does not match w[4,6]"},
    {{CALL("no w", M(2, 4, 6), NO, NO, NO, P(4, 6), P(4, 6)), WISH({2, 2, 2})}, HEED_ERROR_ARGUMENT, "linear: w is missing"},
};
/* clang-format on */

/* What a tensor was before it was written over is not taken for what it was. */
START_TEST(rotary_over_what_is_needed) {
    heed_ctx *ctx = test_cpu();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor leaf = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(3, 4));
    heed_require_grad(leaf, true);
    heed_tensor y = heed_rotary_over(heed_exp(leaf), NULL); /* exp's gradient is made of its result */
    heed_backward(heed_sum(y, HEED_ALL, false));
    test_error(ctx, HEED_ERROR_STATE, "a tensor that exp needs was overwritten since", "exp");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* One for neighbours that read the same and lie side by side. */
START_TEST(products_are_counted) {
    heed_ctx *ctx = test_cpu();
    const struct {
        const char *what;
        bool key_apart, value_apart, w_apart;
        uint64_t products;
    } rows[] = {{"one of all", false, false, false, 1},
                {"of key and value", true, false, false, 2},
                {"of query and key", false, true, false, 2},
                {"each its own x", true, true, false, 3},
                {"weights apart", false, false, true, 3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        heed_tensor x[PARTS], w[PARTS], out[PARTS], all = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(12, 6));
        const heed_tensor no_bias[PARTS] = {{0}};
        x[0] = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(2, 4, 6));
        x[1] = rows[i].key_apart ? test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(2, 4, 6)) : x[0];
        x[2] = rows[i].value_apart ? test_tensor(ctx, HEED_F32, 4, TEST_SHAPE(2, 4, 6)) : x[1];
        for (int p = 0; p < PARTS; p++)
            w[p] = rows[i].w_apart ? test_tensor(ctx, HEED_F32, 5, TEST_SHAPE(4, 6))
                                   : heed_slice(all, 0, 4 * p, 4 * p + 4, 1);
        const uint64_t before = ctx->exec.last[HEED_PRIMITIVE_LINEAR].runs;
        heed_project_heads(PARTS, x, w, no_bias, (int64_t[]){2, 2, 2}, out);
        test_ok(ctx);
        const uint64_t products = ctx->exec.last[HEED_PRIMITIVE_LINEAR].runs - before;
        ck_assert_msg(products == rows[i].products, "%s: %d products", rows[i].what, (int)products);
    }
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("heads of projections");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    TCase *tcase = test_case(suite, "memory and products");
    tcase_add_test(tcase, rotary_over_what_is_needed);
    tcase_add_test(tcase, products_are_counted);
    return test_main(suite);
}
