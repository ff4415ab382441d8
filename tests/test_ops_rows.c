/* Reductions, softmax, norms and losses. */
#include "harness_ops.h"

#include <math.h>

static void call_sum(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_sum(in[0], row->count, row->dims, row->keep);
}

static void call_mean(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_mean(in[0], row->count, row->dims, row->keep);
}

static void call_max(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_max(in[0], row->count, row->dims, row->keep);
}

static void call_argmax(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_argmax(in[0], row->dim);
}

static void call_softmax(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_softmax(in[0], row->dim);
}

static void call_log_softmax(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_log_softmax(in[0], row->dim);
}

static void call_layer_norm(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_layer_norm(in[0], in[1], in[2], row->number);
}

static void call_rms_norm(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_rms_norm(in[0], in[1], row->number);
}

static void call_cross_entropy(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_cross_entropy(in[0], in[1], row->options);
}

static void call_mse(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_mse(in[0], in[1], (heed_reduction)row->count);
}

static void call_bce(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_bce_with_logits(in[0], in[1], (heed_reduction)row->count);
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define DIMS(...) .count = (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), .dims = {__VA_ARGS__}
#define CROSS(...) &(const heed_cross_entropy_options){__VA_ARGS__}

#define REDUCTION(name, a)                                                                                   \
    {#name ", all", call_##name, {{a, SIZES(3, 7)}}, OP_REDUCE},                                             \
    {#name ", all of a scalar", call_##name, {{a}}, OP_REDUCE, .keep = true},                                \
    {#name ", last", call_##name, {{a, SIZES(2, 3, 17)}}, OP_REDUCE, DIMS(-1)},                              \
    {#name ", first", call_##name, {{a, SIZES(5, 3, 4)}}, OP_REDUCE, DIMS(0), .keep = true},                 \
    {#name ", middle", call_##name, {{a, SIZES(3, 5, 4)}}, OP_REDUCE, DIMS(1)},                              \
    {#name ", first and last", call_##name, {{a, SIZES(3, 5, 4)}}, OP_REDUCE, DIMS(2, 0)},                   \
    {#name ", transposed", call_##name, {{a, SIZES(4, 6), OP_TRANSPOSED}}, OP_REDUCE, DIMS(1)},              \
    {#name ", sliced", call_##name, {{a, SIZES(4, 6), OP_SLICED}}, OP_REDUCE, DIMS(0)},                      \
    {#name ", no rows", call_##name, {{a, SIZES(0, 3)}}, OP_REDUCE, DIMS(1)},                                \
    {#name ", long", call_##name, {{a, SIZES(16411)}}, OP_REDUCE, .no_difference = true},                    \
    {#name ", many rows", call_##name, {{a, SIZES(515, 3)}}, OP_REDUCE, DIMS(0), .no_difference = true},     \
    {#name ", large, all", call_##name, {{a, SIZES(70, 1001)}}, OP_REDUCE, .big = true},                     \
    {#name ", large, last", call_##name, {{a, SIZES(301, 257)}}, OP_REDUCE, DIMS(1), .big = true},           \
    {#name ", large, first", call_##name, {{a, SIZES(301, 257)}}, OP_REDUCE, DIMS(0), .big = true},          \
    {#name ", large, permuted", call_##name, {{a, SIZES(60, 33, 40), OP_OUTER}}, OP_REDUCE, DIMS(0, 2), .big = true}

#define SOFT(name)                                                                                           \
    {#name ", last", call_##name, {{N, SIZES(4, 9)}}, OP_ROWS, .dim = -1},                                   \
    {#name ", first", call_##name, {{N, SIZES(5, 3)}}, OP_ROWS, .dim = 0},                                   \
    {#name ", middle", call_##name, {{N, SIZES(2, 5, 3)}}, OP_ROWS, .dim = 1},                               \
    {#name ", one element", call_##name, {{N, SIZES(3, 1)}}, OP_ROWS, .dim = 1},                             \
    {#name ", vector", call_##name, {{N, SIZES(17)}}, OP_ROWS, .dim = 0},                                    \
    {#name ", transposed", call_##name, {{N, SIZES(4, 6), OP_TRANSPOSED}}, OP_ROWS, .dim = 1},               \
    {#name ", sliced", call_##name, {{N, SIZES(3, 5), OP_SLICED}}, OP_ROWS, .dim = 1},                       \
    {#name ", repeated", call_##name, {{N, SIZES(3, 5), OP_REPEATED}}, OP_ROWS, .dim = 0},                   \
    {#name ", no rows", call_##name, {{N, SIZES(0, 5)}}, OP_ROWS, .dim = 1},                                 \
    {#name ", empty rows", call_##name, {{N, SIZES(5, 0)}}, OP_ROWS, .dim = 1},                              \
    {#name ", large values", call_##name, {{OP_LARGE, SIZES(9, 33)}}, OP_ROWS, .dim = 1, .no_difference = true,\
     .extreme = true},                                                                                       \
    {#name ", extreme values", call_##name, {{OP_EXTREME, SIZES(25, 5)}}, OP_ROWS, .dim = 1,                 \
     .no_difference = true, .extreme = true},                                                                \
    {#name ", nothing but -inf", call_##name, {{OP_VALUE, SIZES(2, 5), .limit = -INFINITY}}, OP_ROWS, .dim = 1,\
     .no_difference = true},                                                                                 \
    {#name ", some -inf", call_##name, {{OP_INFINITE, SIZES(40, 3)}}, OP_ROWS, .dim = 1, .no_difference = true},\
    {#name ", large", call_##name, {{N, SIZES(130, 515)}}, OP_ROWS, .dim = 1, .big = true},                  \
    {#name ", 1000 wide", call_##name, {{N, SIZES(3, 1000)}}, OP_ROWS, .dim = 1, .no_difference = true},     \
    {#name ", 4096 wide", call_##name, {{N, SIZES(2, 4096)}}, OP_ROWS, .dim = 1, .no_difference = true},     \
    {#name ", 8196 wide", call_##name, {{N, SIZES(2, 8196)}}, OP_ROWS, .dim = 1, .no_difference = true},     \
    {#name ", short rows", call_##name, {{N, SIZES(128, 32, 8)}}, OP_ROWS, .dim = 2, .big = true},           \
    {#name ", large, first", call_##name, {{N, SIZES(65, 300)}}, OP_ROWS, .dim = 0, .big = true}

static const struct op_case cases[] = {
    REDUCTION(sum, N),
    REDUCTION(mean, N),
    REDUCTION(max, OP_DISTINCT),
    {"sum of nothing", call_sum, {{N, SIZES(3, 0)}}, OP_REDUCE, DIMS(1)},
    {"sum of nothing at all", call_sum, {{N, SIZES(0)}}, OP_REDUCE},
    {"mean of nothing", call_mean, {{N, SIZES(3, 0)}}, OP_REDUCE, DIMS(1), .no_difference = true},
    {"sum of repeated", call_sum, {{N, SIZES(4, 5), OP_REPEATED}}, OP_REDUCE, DIMS(0)},
    {"sum, infinite", call_sum, {{OP_INFINITE, SIZES(6, 5)}}, OP_REDUCE, DIMS(1), .no_difference = true},
    {"max, ties", call_max, {{OP_TIES, SIZES(6, 9)}}, OP_REDUCE, DIMS(1), .no_difference = true},
    {"max, NaN and infinite", call_max, {{OP_EXTREME, SIZES(20, 4)}}, OP_REDUCE, DIMS(1),
     .no_difference = true, .extreme = true},
    {"argmax", call_argmax, {{OP_TIES, SIZES(5, 9)}}, OP_EXACT, .dim = 1, .no_gradient = true},
    {"argmax, first", call_argmax, {{OP_TIES, SIZES(7, 4)}}, OP_EXACT, .dim = -2, .no_gradient = true},
    {"argmax, extreme", call_argmax, {{OP_EXTREME, SIZES(30, 4)}}, OP_EXACT, .dim = 1, .no_gradient = true},
    {"argmax, integers", call_argmax, {{OP_INDEX, SIZES(5, 9), .limit = 4}}, OP_EXACT, .dim = 1,
     .no_gradient = true, .falls_back = true},
    {"argmax, large", call_argmax, {{N, SIZES(200, 301)}}, OP_EXACT, .dim = 1, .no_gradient = true,
     .big = true},
    SOFT(softmax),
    SOFT(log_softmax),
    {"layer_norm", call_layer_norm, {{N, SIZES(4, 7)}, {N, SIZES(7)}, {N, SIZES(7)}}, OP_ROWS},
    {"layer_norm, plain", call_layer_norm, {{N, SIZES(2, 3, 5)}}, OP_ROWS},
    {"layer_norm, no bias", call_layer_norm, {{N, SIZES(3, 5)}, {N, SIZES(5)}}, OP_ROWS, .number = 1e-3},
    {"layer_norm, no weight", call_layer_norm, {{N, SIZES(3, 5)}, {OP_NONE}, {N, SIZES(5)}}, OP_ROWS},
    {"layer_norm, vector", call_layer_norm, {{N, SIZES(6)}, {N, SIZES(6)}, {N, SIZES(6)}}, OP_ROWS},
    {"layer_norm, strided", call_layer_norm, {{N, SIZES(4, 6), OP_TRANSPOSED}, {N, SIZES(6), OP_SLICED}, {N,
     SIZES(6)}}, OP_ROWS},
    {"layer_norm, repeated", call_layer_norm, {{N, SIZES(3, 2, 5), OP_REPEATED}, {N, SIZES(5)}, {N, SIZES(5)}}, OP_ROWS},
    {"layer_norm, no rows", call_layer_norm, {{N, SIZES(0, 4)}, {N, SIZES(4)}, {N, SIZES(4)}}, OP_ROWS},
    {"layer_norm, equal values", call_layer_norm, {{OP_VALUE, SIZES(3, 5), .limit = 2}, {N, SIZES(5)}},
     OP_ROWS, .no_difference = true},
    {"layer_norm, large", call_layer_norm, {{N, SIZES(300, 384)}, {N, SIZES(384)}, {N, SIZES(384)}}, OP_ROWS,
     .big = true},
    {"layer_norm, odd width", call_layer_norm, {{N, SIZES(70, 531)}, {N, SIZES(531)}, {N, SIZES(531)}},
     OP_ROWS, .big = true},
    {"layer_norm, 1000 wide", call_layer_norm, {{N, SIZES(5, 1000)}, {N, SIZES(1000)}, {N, SIZES(1000)}},
     OP_ROWS, .no_difference = true},
    {"layer_norm, 1028 wide", call_layer_norm, {{N, SIZES(3, 1028)}, {N, SIZES(1028)}}, OP_ROWS,
     .no_difference = true},
    {"layer_norm, 8192 wide", call_layer_norm, {{N, SIZES(2, 8192)}, {N, SIZES(8192)}, {N, SIZES(8192)}},
     OP_ROWS, .no_difference = true},
    {"layer_norm, 8196 wide", call_layer_norm, {{N, SIZES(2, 8196)}, {N, SIZES(8196)}, {N, SIZES(8196)}},
     OP_ROWS, .no_difference = true},
    {"layer_norm, 2048 wide", call_layer_norm, {{N, SIZES(3, 2048)}, {N, SIZES(2048)}, {N, SIZES(2048)}},
     OP_ROWS, .no_difference = true},
    {"layer_norm, 16384 wide", call_layer_norm, {{N, SIZES(2, 16384)}, {N, SIZES(16384)}}, OP_ROWS,
     .no_difference = true},
    {"layer_norm, 16392 wide", call_layer_norm, {{N, SIZES(2, 16392)}, {N, SIZES(16392)}, {N, SIZES(16392)}},
     OP_ROWS, .no_difference = true},
    {"rms_norm", call_rms_norm, {{N, SIZES(4, 7)}, {N, SIZES(7)}}, OP_ROWS},
    {"rms_norm, plain", call_rms_norm, {{N, SIZES(2, 3, 5)}}, OP_ROWS, .number = 1e-2},
    {"rms_norm, strided", call_rms_norm, {{N, SIZES(3, 4), OP_SLICED}, {N, SIZES(4)}}, OP_ROWS},
    {"rms_norm, no rows", call_rms_norm, {{N, SIZES(0, 4)}, {N, SIZES(4)}}, OP_ROWS},
    {"rms_norm, large", call_rms_norm, {{N, SIZES(300, 385)}, {N, SIZES(385)}}, OP_ROWS, .big = true},
    {"rms_norm, 1000 wide", call_rms_norm, {{N, SIZES(5, 1000)}, {N, SIZES(1000)}}, OP_ROWS,
     .no_difference = true},
    {"cross_entropy", call_cross_entropy, {{N, SIZES(5, 7)}, {OP_INDEX, SIZES(5), .limit = 7}}, OP_ROWS},
    {"cross_entropy, sum", call_cross_entropy, {{N, SIZES(2, 3, 7)}, {OP_INDEX, SIZES(2, 3), .limit = 7}},
     OP_ROWS, .options = CROSS(.reduction = HEED_REDUCE_SUM)},
    {"cross_entropy, one row", call_cross_entropy, {{N, SIZES(7)}, {OP_INDEX, .limit = 7}}, OP_ROWS},
    {"cross_entropy, ignore", call_cross_entropy, {{N, SIZES(9, 4)}, {OP_INDEX, SIZES(9), .limit = 4}},
     OP_ROWS, .options = CROSS(.has_ignore = true, .ignore_index = 2)},
    {"cross_entropy, default ignore", call_cross_entropy, {{N, SIZES(3, 4)}, {OP_VALUE, SIZES(3),
     .limit = -100, .other_dtype = true, .dtype = HEED_I32}}, OP_ROWS},
    {"cross_entropy, smoothing", call_cross_entropy, {{N, SIZES(6, 5)}, {OP_INDEX, SIZES(6), .limit = 5}},
     OP_ROWS, .options = CROSS(.label_smoothing = 0.1)},
    {"cross_entropy, all at once", call_cross_entropy, {{N, SIZES(6, 5), OP_TRANSPOSED}, {OP_INDEX, SIZES(6),
     OP_SLICED, .limit = 5}}, OP_ROWS, .options = CROSS(.label_smoothing = 0.3, .has_ignore = true,
     .ignore_index = 1, .reduction = HEED_REDUCE_SUM)},
    {"cross_entropy, smoothing 1", call_cross_entropy, {{N, SIZES(3, 5)}, {OP_INDEX, SIZES(3), .limit = 5}},
     OP_ROWS, .options = CROSS(.label_smoothing = 1)},
    {"cross_entropy, no rows", call_cross_entropy, {{N, SIZES(0, 5)}, {OP_INDEX, SIZES(0), .limit = 5}},
     OP_ROWS},
    {"cross_entropy, large values", call_cross_entropy, {{OP_LARGE, SIZES(7, 50)}, {OP_INDEX, SIZES(7),
     .limit = 50}}, OP_ROWS, .no_difference = true},
    {"cross_entropy, large", call_cross_entropy, {{N, SIZES(300, 257)}, {OP_INDEX, SIZES(300), .limit = 257}},
     OP_ROWS, .big = true},
    {"cross_entropy, large, smoothing", call_cross_entropy, {{N, SIZES(20, 5003)}, {OP_INDEX, SIZES(20),
     .limit = 5003}}, OP_ROWS, .big = true, .options = CROSS(.label_smoothing = 0.1)},
    {"cross_entropy, many classes", call_cross_entropy, {{N, SIZES(5, 16397)}, {OP_INDEX, SIZES(5),
     .limit = 16397}}, OP_ROWS, .no_difference = true},
    {"mse", call_mse, {{N, SIZES(3, 5)}, {N, SIZES(3, 5)}}, OP_ROWS},
    {"mse, sum", call_mse, {{N, SIZES(3, 5), OP_TRANSPOSED}, {N, SIZES(3, 5), OP_REPEATED}}, OP_ROWS,
     .count = HEED_REDUCE_SUM},
    {"mse, scalars", call_mse, {{N}, {N}}, OP_ROWS},
    {"mse, sum of nothing", call_mse, {{N, SIZES(0)}, {N, SIZES(0)}}, OP_ROWS, .count = HEED_REDUCE_SUM},
    {"mse, large", call_mse, {{N, SIZES(300, 257)}, {N, SIZES(300, 257)}}, OP_ROWS, .big = true},
    {"bce_with_logits", call_bce, {{N, SIZES(3, 5)}, {OP_UNIT, SIZES(3, 5)}}, OP_ROWS},
    {"bce_with_logits, sum", call_bce, {{N, SIZES(3, 5), OP_SLICED}, {OP_UNIT, SIZES(3, 5)}}, OP_ROWS,
     .count = HEED_REDUCE_SUM},
    {"bce_with_logits, large values", call_bce, {{OP_LARGE, SIZES(131)}, {OP_UNIT, SIZES(131)}}, OP_ROWS,
     .no_difference = true},
    {"bce_with_logits, large", call_bce, {{N, SIZES(300, 257)}, {OP_UNIT, SIZES(300, 257)}}, OP_ROWS,
     .big = true},
};

static const struct op_wrong wrongs[] = {
    {{"sum, no such dimension", call_sum, {{N, SIZES(2, 3)}}, DIMS(2)}, HEED_ERROR_ARGUMENT, "sum: "},
    {{"mean, a dimension twice", call_mean, {{N, SIZES(2, 3)}}, DIMS(1, -1)}, HEED_ERROR_ARGUMENT, "mean: "},
    {{"sum of bool", call_sum, {{OP_MASK, SIZES(2, 3)}}}, HEED_ERROR_DTYPE, "sum: "},
    {{"max of nothing", call_max, {{N, SIZES(2, 0)}}, DIMS(1)}, HEED_ERROR_SHAPE, "max: "},
    {{"argmax of nothing", call_argmax, {{N, SIZES(2, 0)}}, .dim = 1}, HEED_ERROR_SHAPE, "argmax: "},
    {{"argmax, no such dimension", call_argmax, {{N, SIZES(2, 3)}}, .dim = 2}, HEED_ERROR_ARGUMENT,
     "argmax: "},
    {{"softmax, no such dimension", call_softmax, {{N, SIZES(2, 3)}}, .dim = -3}, HEED_ERROR_ARGUMENT,
     "softmax: "},
    {{"softmax of integers", call_softmax, {{OP_INDEX, SIZES(3), .limit = 3}}}, HEED_ERROR_DTYPE,
     "softmax: "},
    {{"layer_norm, weight too long", call_layer_norm, {{N, SIZES(2, 3)}, {N, SIZES(4)}}}, HEED_ERROR_SHAPE,
     "layer_norm: "},
    {{"layer_norm, bias of rank 2", call_layer_norm, {{N, SIZES(2, 3)}, {N, SIZES(3)}, {N, SIZES(1, 3)}}},
     HEED_ERROR_SHAPE, "layer_norm: "},
    {{"layer_norm of a scalar", call_layer_norm, {{N}}}, HEED_ERROR_SHAPE, "layer_norm: "},
    {{"layer_norm, dtypes clash", call_layer_norm, {{N, SIZES(2, 3)}, {N, SIZES(3), .other_dtype = true,
     .dtype = HEED_F64}}}, HEED_ERROR_DTYPE, "layer_norm: "},
    {{"layer_norm, negative eps", call_layer_norm, {{N, SIZES(2, 3)}}, .number = -1}, HEED_ERROR_ARGUMENT,
     "layer_norm: "},
    {{"rms_norm, weight too short", call_rms_norm, {{N, SIZES(2, 3)}, {N, SIZES(2)}}}, HEED_ERROR_SHAPE,
     "rms_norm: "},
    {{"cross_entropy, target out of range", call_cross_entropy, {{N, SIZES(2, 3)}, {OP_VALUE, SIZES(2),
     .limit = 3, .other_dtype = true, .dtype = HEED_I32}}}, HEED_ERROR_ARGUMENT, "cross_entropy: "},
    {{"cross_entropy, negative target", call_cross_entropy, {{N, SIZES(2, 3)}, {OP_VALUE, SIZES(2),
     .limit = -1, .other_dtype = true, .dtype = HEED_I32}}}, HEED_ERROR_ARGUMENT, "cross_entropy: "},
    {{"cross_entropy, target of floats", call_cross_entropy, {{N, SIZES(2, 3)}, {N, SIZES(2)}}},
     HEED_ERROR_DTYPE, "cross_entropy: "},
    {{"cross_entropy, shapes clash", call_cross_entropy, {{N, SIZES(2, 3)}, {OP_INDEX, SIZES(3),
     .limit = 3}}}, HEED_ERROR_SHAPE, "cross_entropy: "},
    {{"cross_entropy, no classes", call_cross_entropy, {{N, SIZES(2, 0)}, {OP_INDEX, SIZES(2), .limit = 1}}},
     HEED_ERROR_ARGUMENT, "cross_entropy: "},
    {{"cross_entropy, smoothing 2", call_cross_entropy, {{N, SIZES(2, 3)}, {OP_INDEX, SIZES(2), .limit = 3}},
     .options = CROSS(.label_smoothing = 2)}, HEED_ERROR_ARGUMENT, "cross_entropy: "},
    {{"cross_entropy, reserved words", call_cross_entropy, {{N, SIZES(2, 3)}, {OP_INDEX, SIZES(2),
     .limit = 3}}, .options = CROSS(.reserved = {0, 1})}, HEED_ERROR_ARGUMENT, "cross_entropy: "},
    {{"mse, shapes differ", call_mse, {{N, SIZES(2, 3)}, {N, SIZES(3)}}}, HEED_ERROR_SHAPE, "mse: "},
    {{"mse, no such reduction", call_mse, {{N, SIZES(3)}, {N, SIZES(3)}}, .count = 7}, HEED_ERROR_ARGUMENT,
     "mse: "},
    {{"bce_with_logits, shapes differ", call_bce, {{N, SIZES(2, 3)}, {N, SIZES(3, 2)}}}, HEED_ERROR_SHAPE,
     "bce_with_logits: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("reductions, softmax, norms and losses");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
