/* Elementwise operations: two tensors, a tensor and a number, one tensor. */
#include "harness_ops.h"

#include <math.h>

#define CALL2(name)                                                                                          \
    static void call_##name(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {            \
        (void)row;                                                                                           \
        out[0] = heed_##name(in[0], in[1]);                                                                  \
    }
#define CALL1(name)                                                                                          \
    static void call_##name(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {            \
        (void)row;                                                                                           \
        out[0] = heed_##name(in[0]);                                                                         \
    }
#define CALL_SCALAR(name)                                                                                    \
    static void call_##name(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {            \
        out[0] = heed_##name(in[0], row->number);                                                            \
    }

CALL2(add)
CALL2(sub)
CALL2(mul)
CALL2(div)
CALL2(pow)
CALL2(maximum)
CALL2(minimum)
CALL2(equal)
CALL2(less)
CALL2(greater)
CALL_SCALAR(add_scalar)
CALL_SCALAR(sub_scalar)
CALL_SCALAR(mul_scalar)
CALL_SCALAR(div_scalar)
CALL_SCALAR(pow_scalar)
CALL1(neg)
CALL1(abs)
CALL1(exp)
CALL1(log)
CALL1(sqrt)
CALL1(tanh)
CALL1(sigmoid)
CALL1(relu)
CALL1(silu)
CALL1(gelu)
CALL1(gelu_tanh)

/* Between −number and number, or with one bound only. */
static void call_clamp(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_clamp(in[0], -row->number, row->number);
}

static void call_clamp_low(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_clamp(in[0], row->number, INFINITY);
}

static void call_clamp_high(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_clamp(in[0], -INFINITY, row->number);
}

/* x used twice: two contributions to one gradient. */
static void call_square(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_mul(in[0], in[0]);
}

static void call_add_self(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_add(in[0], heed_add(in[0], in[0]));
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define P OP_POSITIVE
#define A OP_AWAY
#define E OP_EXTREME

/* Every layout and broadcast for one function of two tensors. */
#define PAIRS(name, f, a, b)                                                                                 \
    {#name ", equal shapes", f, {{a, SIZES(3, 7)}, {b, SIZES(3, 7)}}, OP_ELEMENTWISE},                       \
    {#name ", scalars", f, {{a}, {b}}, OP_ELEMENTWISE},                                                      \
    {#name ", scalar and matrix", f, {{a}, {b, SIZES(2, 5)}}, OP_ELEMENTWISE},                               \
    {#name ", row", f, {{a, SIZES(4, 1, 5)}, {b, SIZES(3, 1)}}, OP_ELEMENTWISE},                             \
    {#name ", last dimension", f, {{a, SIZES(2, 3, 17)}, {b, SIZES(17)}}, OP_ELEMENTWISE},                   \
    {#name ", column", f, {{a, SIZES(9, 1)}, {b, SIZES(9, 5)}}, OP_ELEMENTWISE},                             \
    {#name ", middle", f, {{a, SIZES(2, 1, 3)}, {b, SIZES(2, 4, 3)}}, OP_ELEMENTWISE},                       \
    {#name ", transposed", f, {{a, SIZES(4, 6), OP_TRANSPOSED}, {b, SIZES(4, 6)}}, OP_ELEMENTWISE},          \
    {#name ", sliced", f, {{a, SIZES(3, 4), OP_SLICED}, {b, SIZES(3, 4), OP_SLICED}}, OP_ELEMENTWISE},       \
    {#name ", repeated", f, {{a, SIZES(3, 4), OP_REPEATED}, {b, SIZES(3, 4), OP_OUTER}}, OP_ELEMENTWISE},    \
    {#name ", nothing", f, {{a, SIZES(0, 3)}, {b, SIZES(1, 3)}}, OP_ELEMENTWISE},                            \
    {#name ", rank 8", f, {{a, SIZES(1, 2, 1, 2, 1, 2, 1, 3)}, {b, SIZES(2, 1, 1, 2, 1, 1, 1, 3)}}, OP_ELEMENTWISE},\
    {#name ", large", f, {{a, SIZES(37, 1021)}, {b, SIZES(37, 1021)}}, OP_ELEMENTWISE, .big = true},         \
    {#name ", large rows", f, {{a, SIZES(64, 33, 40)}, {b, SIZES(40)}}, OP_ELEMENTWISE, .big = true},        \
    {#name ", large columns", f, {{a, SIZES(300, 1)}, {b, SIZES(300, 130)}}, OP_ELEMENTWISE, .big = true}

/* What holds of any function of one tensor; fill `a` is smooth for it, E are all values. */
#define ONE(name, a)                                                                                         \
    {#name, call_##name, {{a, SIZES(3, 11)}}, OP_ELEMENTWISE},                                               \
    {#name ", scalar", call_##name, {{a}}, OP_ELEMENTWISE},                                                  \
    {#name ", transposed", call_##name, {{a, SIZES(5, 6), OP_TRANSPOSED}}, OP_ELEMENTWISE},                  \
    {#name ", sliced", call_##name, {{a, SIZES(2, 3, 5), OP_SLICED}}, OP_ELEMENTWISE},                       \
    {#name ", repeated", call_##name, {{a, SIZES(4, 5), OP_REPEATED}}, OP_ELEMENTWISE},                      \
    {#name ", nothing", call_##name, {{a, SIZES(3, 0)}}, OP_ELEMENTWISE},                                    \
    {#name ", extreme values", call_##name, {{E, SIZES(131)}}, OP_ELEMENTWISE, .no_difference = true,        \
     .extreme = true},                                                                                       \
    {#name ", large values", call_##name, {{OP_LARGE, SIZES(4099)}}, OP_ELEMENTWISE, .big = true, .extreme = true},\
    {#name ", large", call_##name, {{a, SIZES(41, 1023)}}, OP_ELEMENTWISE, .big = true},                     \
    {#name ", large and transposed", call_##name, {{a, SIZES(203, 205), OP_TRANSPOSED}}, OP_ELEMENTWISE, .big = true}

#define SCALAR(name, c, a)                                                                                   \
    {#name " " #c, call_##name, {{a, SIZES(3, 11)}}, OP_ELEMENTWISE, .number = c},                           \
    {#name " " #c ", sliced", call_##name, {{a, SIZES(4, 5), OP_SLICED}}, OP_ELEMENTWISE, .number = c},      \
    {#name " " #c ", nothing", call_##name, {{a, SIZES(0)}}, OP_ELEMENTWISE, .number = c},                   \
    {#name " " #c ", extreme values", call_##name, {{E, SIZES(131)}}, OP_ELEMENTWISE, .number = c,           \
     .no_difference = true, .extreme = true},                                                                \
    {#name " " #c ", large", call_##name, {{a, SIZES(20011)}}, OP_ELEMENTWISE, .number = c, .big = true}

/* Where two are equal, and where one is NaN. */
#define EXTREMA(name)                                                                                        \
    {#name ", ties", call_##name, {{OP_TIES, SIZES(4, 9)}, {OP_TIES, SIZES(9)}}, OP_ELEMENTWISE, .no_difference = true},\
    {#name ", extreme values", call_##name, {{E, SIZES(60)}, {E, SIZES(60, 1)}}, OP_ELEMENTWISE,             \
     .no_difference = true, .extreme = true}

#define COMPARE(name)                                                                                        \
    {#name, call_##name, {{OP_TIES, SIZES(4, 9)}, {OP_TIES, SIZES(9)}}, OP_EXACT, .no_gradient = true},      \
    {#name ", indices", call_##name, {{OP_INDEX, SIZES(4, 9), .limit = 3}, {OP_INDEX, SIZES(4, 1), .limit = 3}},\
     OP_EXACT, .no_gradient = true},                                                                         \
    {#name ", extreme values", call_##name, {{E, SIZES(60)}, {E, SIZES(60, 1)}}, OP_EXACT, .no_gradient = true},\
    {#name ", nothing", call_##name, {{N, SIZES(0)}, {N, SIZES(3, 1)}}, OP_EXACT, .no_gradient = true},      \
    {#name ", large", call_##name, {{OP_TIES, SIZES(70, 300)}, {OP_TIES, SIZES(70, 300), OP_TRANSPOSED}}, OP_EXACT,\
     .no_gradient = true, .big = true}

static const struct op_case cases[] = {
    PAIRS(add, call_add, N, N),
    PAIRS(sub, call_sub, N, N),
    PAIRS(mul, call_mul, N, N),
    PAIRS(div, call_div, N, A),
    PAIRS(pow, call_pow, P, N),
    {"mul, extreme values", call_mul, {{E, SIZES(60)}, {N, SIZES(2, 60)}}, OP_ELEMENTWISE,
     .no_difference = true, .extreme = true},
    {"div, extreme values", call_div, {{E, SIZES(60)}, {E, SIZES(60, 1)}}, OP_ELEMENTWISE,
     .no_difference = true, .no_gradient = true, .extreme = true},
    {"pow, extreme values", call_pow, {{E, SIZES(40)}, {E, SIZES(40, 1)}}, OP_ELEMENTWISE,
     .no_difference = true, .no_gradient = true, .extreme = true},
    PAIRS(maximum, call_maximum, N, N),
    PAIRS(minimum, call_minimum, N, N),
    EXTREMA(maximum),
    EXTREMA(minimum),
    {"mul by itself", call_square, {{N, SIZES(4, 5)}}, OP_ELEMENTWISE},
    {"add to itself twice", call_add_self, {{N, SIZES(4, 5), OP_TRANSPOSED}}, OP_ELEMENTWISE},
    SCALAR(add_scalar, 1.5, N),
    SCALAR(sub_scalar, -0.3, N),
    SCALAR(mul_scalar, -2.5, N),
    SCALAR(mul_scalar, 0, N),
    SCALAR(div_scalar, 3, N),
    SCALAR(pow_scalar, 2, A),
    SCALAR(pow_scalar, 3, N),
    SCALAR(pow_scalar, 0.5, P),
    SCALAR(pow_scalar, -1.5, P),
    SCALAR(pow_scalar, 0, A),
    SCALAR(pow_scalar, 1, N),
    SCALAR(clamp, 0.7, N),
    SCALAR(clamp, INFINITY, N),
    SCALAR(clamp_low, 0.1, N),
    SCALAR(clamp_high, -0.4, N),
    {"clamp, at its bounds", call_clamp, {{OP_TIES, SIZES(41)}}, OP_ELEMENTWISE, .number = 1, .no_difference = true},
    ONE(neg, N),
    ONE(abs, A),
    ONE(exp, N),
    ONE(log, P),
    ONE(sqrt, P),
    ONE(tanh, N),
    ONE(sigmoid, N),
    ONE(relu, A),
    ONE(silu, N),
    ONE(gelu, N),
    ONE(gelu_tanh, N),
    COMPARE(equal),
    COMPARE(less),
    COMPARE(greater),
};

static const struct op_wrong wrongs[] = {
    {{"add, shapes clash", call_add, {{N, SIZES(2, 3)}, {N, SIZES(2, 4)}}}, HEED_ERROR_SHAPE, "add: "},
    {{"add, dtypes clash", call_add, {{N, SIZES(3)}, {N, SIZES(3), .other_dtype = true, .dtype = HEED_F64}}},
     HEED_ERROR_DTYPE, "add: "},
    {{"mul, integers", call_mul, {{OP_INDEX, SIZES(3), .limit = 9}, {OP_INDEX, SIZES(3), .limit = 9}}},
     HEED_ERROR_DTYPE, "mul: "},
    {{"div, bool", call_div, {{N, SIZES(3)}, {OP_MASK, SIZES(3)}}}, HEED_ERROR_DTYPE, "div: "},
    {{"sub, second is none", call_sub, {{N, SIZES(3)}}}, HEED_ERROR_ARGUMENT, "sub: "},
    {{"pow, first is none", call_pow, {{OP_NONE}, {N, SIZES(3)}}}, HEED_ERROR_ARGUMENT, "pow: "},
    {{"less, dtypes clash", call_less, {{N, SIZES(3)}, {OP_INDEX, SIZES(3), .limit = 9}}}, HEED_ERROR_DTYPE,
     "less: "},
    {{"equal, shapes clash", call_equal, {{N, SIZES(3)}, {N, SIZES(2)}}}, HEED_ERROR_SHAPE, "equal: "},
    {{"clamp, low above high", call_clamp, {{N, SIZES(3)}}, .number = -1}, HEED_ERROR_ARGUMENT, "clamp: low and high"},
    {{"clamp, NaN", call_clamp_low, {{N, SIZES(3)}}, .number = NAN}, HEED_ERROR_ARGUMENT, "clamp: low and high"},
    {{"clamp of integers", call_clamp, {{OP_INDEX, SIZES(3), .limit = 9}}, .number = 1}, HEED_ERROR_DTYPE, "clamp: "},
    {{"maximum, shapes clash", call_maximum, {{N, SIZES(2, 3)}, {N, SIZES(2, 4)}}}, HEED_ERROR_SHAPE, "maximum: "},
    {{"exp of integers", call_exp, {{OP_INDEX, SIZES(3), .limit = 9}}}, HEED_ERROR_DTYPE, "exp: "},
    {{"relu of bool", call_relu, {{OP_MASK, SIZES(3)}}}, HEED_ERROR_DTYPE, "relu: "},
    {{"add_scalar to integers", call_add_scalar, {{OP_INDEX, SIZES(3), .limit = 9}}}, HEED_ERROR_DTYPE,
     "add_scalar: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("elementwise operations");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
