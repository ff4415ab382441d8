/* Matrix products and linear. */
#include "harness_ops.h"

static const heed_tensor none;

static void call_matmul(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_matmul(in[0], in[1]);
}

static void call_linear(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_linear_options options = {.activation = (heed_activation)row->count};
    out[0] = heed_linear(in[0], in[1], in[2], row->count ? &options : NULL);
}

/* x is the weight too: its gradient is the sum of both. */
static void call_linear_of_itself(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_linear_options options = {.activation = (heed_activation)row->count};
    out[0] = heed_linear(in[0], in[0], none, &options);
}

/* Both get the same gradient, which neither may write over. */
static void call_sum_of_linears(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_linear_options options = {.activation = (heed_activation)row->count};
    out[0] = heed_add(heed_linear(in[0], in[1], none, &options), heed_linear(in[2], in[1], none, &options));
}

static void call_linear_reserved(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_linear(in[0], in[1], in[2], &(heed_linear_options){.reserved = {1}});
}

/* One matrix as both operands. */
static void call_gram(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_matmul(in[0], heed_transpose(in[0], -1, -2));
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define T OP_TRANSPOSED
#define MATMUL(name, a, b) {"matmul, " name, call_matmul, {{N, a}, {N, b}}, OP_PRODUCT}
#define BIG_MATMUL(name, a, b) {"matmul, " name, call_matmul, {{N, a}, {N, b}}, OP_PRODUCT, .big = true}
/* Every activation is smooth at the sums that these inputs give; relu's kink is hit by none. */
#define ACTIVATED(name, activation)                                                                          \
    {"linear, " name, call_linear, {{N, SIZES(2, 3, 5)}, {N, SIZES(4, 5)}, {N, SIZES(4)}}, OP_PRODUCT,       \
     .count = activation},                                                                                   \
    {"linear without bias, " name, call_linear, {{N, SIZES(3, 5)}, {N, SIZES(4, 5)}}, OP_PRODUCT,            \
     .count = activation},                                                                                   \
    {"large linear, " name, call_linear, {{N, SIZES(131, 67)}, {N, SIZES(93, 67)}, {N, SIZES(93)}}, OP_PRODUCT,\
     .count = activation, .big = true}

static const struct op_case cases[] = {
    MATMUL("plain", SIZES(3, 5), SIZES(5, 4)),
    MATMUL("one element", SIZES(1, 1), SIZES(1, 1)),
    MATMUL("row times column", SIZES(1, 9), SIZES(9, 1)),
    MATMUL("column times row", SIZES(5, 1), SIZES(1, 6)),
    MATMUL("batches", SIZES(3, 2, 4), SIZES(3, 4, 5)),
    MATMUL("left batch repeats", SIZES(1, 2, 4), SIZES(3, 4, 5)),
    MATMUL("right batch repeats", SIZES(3, 2, 4), SIZES(4, 5)),
    MATMUL("both repeat", SIZES(3, 1, 2, 4), SIZES(2, 4, 2)),
    {"matmul, left transposed", call_matmul, {{N, SIZES(3, 5), T}, {N, SIZES(5, 4)}}, OP_PRODUCT},
    {"matmul, right transposed", call_matmul, {{N, SIZES(2, 3, 5)}, {N, SIZES(2, 5, 4), T}}, OP_PRODUCT},
    {"matmul, both transposed", call_matmul, {{N, SIZES(2, 3, 5), T}, {N, SIZES(2, 5, 4), T}}, OP_PRODUCT},
    {"matmul, sliced", call_matmul, {{N, SIZES(3, 5), OP_SLICED}, {N, SIZES(5, 4), OP_SLICED}}, OP_PRODUCT},
    {"matmul, heads", call_matmul, {{N, SIZES(3, 2, 4), OP_OUTER}, {N, SIZES(3, 4, 2), OP_OUTER}},
     OP_PRODUCT},
    {"matmul, repeated rows", call_matmul, {{N, SIZES(3, 4), OP_REPEATED}, {N, SIZES(4, 2), OP_REPEATED}},
     OP_PRODUCT},
    MATMUL("no rows", SIZES(0, 5), SIZES(5, 4)),
    MATMUL("nothing to sum", SIZES(3, 0), SIZES(0, 4)),
    MATMUL("no batches", SIZES(0, 3, 2), SIZES(0, 2, 4)),
    {"matmul with itself", call_gram, {{N, SIZES(4, 3)}}, OP_PRODUCT},
    {"matmul, infinite", call_matmul, {{OP_INFINITE, SIZES(6, 3)}, {N, SIZES(3, 2)}}, OP_PRODUCT,
     .no_difference = true, .no_gradient = true},
    BIG_MATMUL("large", SIZES(131, 257), SIZES(257, 93)),
    BIG_MATMUL("wide", SIZES(7, 64), SIZES(64, 1003)),
    BIG_MATMUL("tall", SIZES(1003, 17), SIZES(17, 9)),
    BIG_MATMUL("deep", SIZES(5, 3001), SIZES(3001, 6)),
    BIG_MATMUL("vector times matrix", SIZES(1, 515), SIZES(515, 387)),
    BIG_MATMUL("many small", SIZES(200, 8, 4), SIZES(200, 4, 8)),
    BIG_MATMUL("shared right", SIZES(9, 33, 65), SIZES(65, 129)),
    {"matmul, large, both transposed", call_matmul, {{N, SIZES(3, 130, 70), T}, {N, SIZES(3, 70, 90), T}},
     OP_PRODUCT, .big = true},
    {"matmul, large, sliced", call_matmul, {{N, SIZES(130, 70), OP_SLICED}, {N, SIZES(70, 90), OP_OUTER}},
     OP_PRODUCT, .big = true},
    BIG_MATMUL("a gradient that is a sum of none", SIZES(2, 1, 100, 150), SIZES(2, 0, 150, 130)),
    BIG_MATMUL("a batch of none, shared right", SIZES(2, 0, 100, 64), SIZES(0, 64, 100)),
    ACTIVATED("no activation", HEED_ACTIVATION_NONE),
    ACTIVATED("relu", HEED_ACTIVATION_RELU),
    ACTIVATED("gelu", HEED_ACTIVATION_GELU),
    ACTIVATED("gelu_tanh", HEED_ACTIVATION_GELU_TANH),
    ACTIVATED("silu", HEED_ACTIVATION_SILU),
    ACTIVATED("tanh", HEED_ACTIVATION_TANH),
    ACTIVATED("sigmoid", HEED_ACTIVATION_SIGMOID),
    {"linear of itself", call_linear_of_itself, {{N, SIZES(4, 5)}}, OP_PRODUCT},
    {"linear of itself, gelu", call_linear_of_itself, {{N, SIZES(4, 5)}}, OP_PRODUCT, .count = HEED_ACTIVATION_GELU},
    {"linear, sum of two", call_sum_of_linears, {{N, SIZES(3, 5)}, {N, SIZES(4, 5)}, {N, SIZES(3, 5)}}, OP_PRODUCT,
     .count = HEED_ACTIVATION_SILU},
    {"linear, vector", call_linear, {{N, SIZES(5)}, {N, SIZES(4, 5)}, {N, SIZES(4)}}, OP_PRODUCT},
    {"linear, strided", call_linear, {{N, SIZES(3, 5), T}, {N, SIZES(4, 5), T}, {N, SIZES(4), OP_SLICED}},
     OP_PRODUCT},
    {"linear, sliced", call_linear, {{N, SIZES(2, 3, 5), OP_SLICED}, {N, SIZES(4, 5), OP_SLICED}, {N,
     SIZES(4)}}, OP_PRODUCT},
    {"linear, repeated rows", call_linear, {{N, SIZES(3, 5), OP_REPEATED}, {N, SIZES(4, 5)}, {N, SIZES(4)}},
     OP_PRODUCT, .count = HEED_ACTIVATION_GELU},
    {"linear, no rows", call_linear, {{N, SIZES(0, 5)}, {N, SIZES(4, 5)}, {N, SIZES(4)}}, OP_PRODUCT},
    {"linear, no outputs", call_linear, {{N, SIZES(3, 5)}, {N, SIZES(0, 5)}}, OP_PRODUCT},
    {"linear, no inputs", call_linear, {{N, SIZES(3, 0)}, {N, SIZES(4, 0)}, {N, SIZES(4)}}, OP_PRODUCT},
    {"linear, constant input", call_linear, {{N, SIZES(3, 5), .constant = true}, {N, SIZES(4, 5)}, {N,
     SIZES(4)}}, OP_PRODUCT, .count = HEED_ACTIVATION_SILU},
    {"linear, constant weight", call_linear, {{N, SIZES(3, 5)}, {N, SIZES(4, 5), .constant = true}},
     OP_PRODUCT},
    {"linear, large values", call_linear, {{OP_LARGE, SIZES(9, 5)}, {N, SIZES(33, 5)}, {N, SIZES(33)}},
     OP_PRODUCT, .count = HEED_ACTIVATION_GELU_TANH, .no_difference = true},
    {"linear, wide", call_linear, {{N, SIZES(65, 384)}, {N, SIZES(1153, 384)}, {N, SIZES(1153)}}, OP_PRODUCT,
     .big = true},
};

static const struct op_wrong wrongs[] = {
    {{"matmul, inner sizes differ", call_matmul, {{N, SIZES(2, 3)}, {N, SIZES(4, 2)}}}, HEED_ERROR_SHAPE,
     "matmul: "},
    {{"matmul, batches clash", call_matmul, {{N, SIZES(2, 3, 4)}, {N, SIZES(3, 4, 2)}}}, HEED_ERROR_SHAPE,
     "matmul: "},
    {{"matmul of a vector", call_matmul, {{N, SIZES(3)}, {N, SIZES(3, 2)}}}, HEED_ERROR_SHAPE, "matmul: "},
    {{"matmul, dtypes clash", call_matmul, {{N, SIZES(2, 3)}, {N, SIZES(3, 2), .other_dtype = true,
     .dtype = HEED_F64}}}, HEED_ERROR_DTYPE, "matmul: "},
    {{"matmul of integers", call_matmul, {{OP_INDEX, SIZES(2, 2), .limit = 2}, {OP_INDEX, SIZES(2, 2),
     .limit = 2}}}, HEED_ERROR_DTYPE, "matmul: "},
    {{"linear, widths differ", call_linear, {{N, SIZES(8, 64, 384)}, {N, SIZES(512, 385)}}}, HEED_ERROR_SHAPE,
     "linear: x[8,64,384] does not match w[512,385]"},
    {{"linear, bias too long", call_linear, {{N, SIZES(2, 3)}, {N, SIZES(4, 3)}, {N, SIZES(5)}}},
     HEED_ERROR_SHAPE, "linear: "},
    {{"linear of a scalar", call_linear, {{N}, {N, SIZES(4, 3)}}}, HEED_ERROR_SHAPE, "linear: "},
    {{"linear, weight of rank 3", call_linear, {{N, SIZES(2, 3)}, {N, SIZES(1, 4, 3)}}}, HEED_ERROR_SHAPE,
     "linear: "},
    {{"linear, no weight", call_linear, {{N, SIZES(2, 3)}}}, HEED_ERROR_ARGUMENT, "linear: "},
    {{"linear, no such activation", call_linear, {{N, SIZES(2, 3)}, {N, SIZES(4, 3)}}, .count = 99},
     HEED_ERROR_ARGUMENT, "linear: "},
    {{"linear, reserved words", call_linear_reserved, {{N, SIZES(2, 3)}, {N, SIZES(4, 3)}}},
     HEED_ERROR_ARGUMENT, "linear: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("matrix products");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
