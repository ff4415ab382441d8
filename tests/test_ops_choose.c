/* Joining, cutting, choosing, masking, dropout, and views: what moves numbers rather than computing them. */
#include "harness_ops.h"

#include <math.h>

static int given(const heed_tensor *in) {
    int count = 0;
    while (count < OP_INPUTS && in[count].node) count++;
    return count;
}

static void call_cat(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_cat(given(in), in, row->dim);
}

static void call_stack(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_stack(given(in), in, row->dim);
}

static void call_split(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_split(in[0], row->dim, row->count, row->size, out);
}

static void call_gather(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_gather(in[0], row->dim, in[1]);
}

static void call_index_select(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_index_select(in[0], row->dim, in[1]);
}

static void call_embedding(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_embedding(in[0], in[1]);
}

static void call_masked_fill(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_masked_fill(in[0], in[1], row->number);
}

static void call_where(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_where(in[0], in[1], in[2]);
}

static void call_dropout(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_dropout(in[0], row->number);
}

static void call_reshape(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_reshape(in[0], row->count, row->size);
}

static void call_permute(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_permute(in[0], row->count, row->dims);
}

static void call_transpose(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_transpose(in[0], row->dims[0], row->dims[1]);
}

static void call_slice(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_slice(in[0], row->dim, row->size[0], row->size[1], row->size[2]);
}

static void call_broadcast(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_broadcast(in[0], row->count, row->size);
}

static void call_squeeze(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_squeeze(in[0], row->dim);
}

static void call_unsqueeze(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = heed_unsqueeze(in[0], row->dim);
}

static void call_contiguous(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_contiguous(in[0]);
}

/* f32 → f64 → back, so that a row's outputs have its dtype. */
static void call_cast(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_cast(heed_cast(in[0], HEED_F64), heed_dtype_of(in[0]));
}

static void call_cast_to_i32(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_cast(in[0], HEED_I32);
}

static void call_cast_to_bool(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_cast(in[0], HEED_BOOL);
}

/* Overlapping parts of one tensor, in several shapes: gradients of views add up. */
static void call_views(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    heed_tensor head = heed_slice(in[0], 0, 0, 3, 1), tail = heed_slice(in[0], 0, -3, INT64_MAX, 1);
    heed_tensor turned = heed_transpose(heed_mul(head, tail), 0, 1);
    out[0] = heed_matmul(turned, heed_reshape(heed_slice(in[0], 0, 1, 4, 1), 2, (int64_t[]){3, -1}));
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define INDEX(n, ...) {OP_INDEX, SIZES(__VA_ARGS__), .limit = n}
#define DIMS(...) .count = (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), .dims = {__VA_ARGS__}
#define TO(...) .count = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .size = {__VA_ARGS__}

static const struct op_case cases[] = {
    {"cat, first", call_cat, {{N, SIZES(2, 3)}, {N, SIZES(1, 3)}, {N, SIZES(4, 3)}}, OP_EXACT, .dim = 0},
    {"cat, last", call_cat, {{N, SIZES(2, 3)}, {N, SIZES(2, 1)}, {N, SIZES(2, 0)}}, OP_EXACT, .dim = -1},
    {"cat, one", call_cat, {{N, SIZES(2, 3)}}, OP_EXACT, .dim = 1},
    {"cat, strided", call_cat, {{N, SIZES(2, 3), OP_TRANSPOSED}, {N, SIZES(2, 4), OP_SLICED}, {N, SIZES(2, 2),
     OP_REPEATED}}, OP_EXACT, .dim = 1},
    {"cat, large", call_cat, {{N, SIZES(30, 200, 7)}, {N, SIZES(30, 31, 7)}}, OP_EXACT, .dim = 1,
     .big = true},
    {"stack, first", call_stack, {{N, SIZES(2, 3)}, {N, SIZES(2, 3)}}, OP_EXACT, .dim = 0},
    {"stack, last", call_stack, {{N, SIZES(2, 3)}, {N, SIZES(2, 3), OP_TRANSPOSED}, {N, SIZES(2, 3)}},
     OP_EXACT, .dim = -1},
    {"stack, scalars", call_stack, {{N}, {N}, {N}}, OP_EXACT, .dim = 0},
    {"split", call_split, {{N, SIZES(3, 6)}}, OP_EXACT, .outputs = 3, .dim = 1, TO(1, 3, 2)},
    {"split, first, strided", call_split, {{N, SIZES(4, 5), OP_TRANSPOSED}}, OP_EXACT, .outputs = 2,
     .dim = -2, TO(4, 0)},
    {"gather", call_gather, {{N, SIZES(5, 3)}, INDEX(5, 4, 3)}, OP_EXACT, .dim = 0},
    {"gather, last", call_gather, {{N, SIZES(2, 3, 7)}, INDEX(7, 2, 2, 9)}, OP_EXACT, .dim = -1},
    {"gather, strided", call_gather, {{N, SIZES(5, 4), OP_TRANSPOSED}, {OP_INDEX, SIZES(3, 2), OP_TRANSPOSED,
     .limit = 5}}, OP_EXACT, .dim = 0},
    {"gather, nothing", call_gather, {{N, SIZES(5, 3)}, INDEX(5, 0, 3)}, OP_EXACT, .dim = 0},
    {"gather, large", call_gather, {{N, SIZES(200, 60)}, INDEX(200, 501, 60)}, OP_EXACT, .dim = 0,
     .big = true},
    {"index_select", call_index_select, {{N, SIZES(3, 5, 2)}, INDEX(5, 7)}, OP_EXACT, .dim = 1},
    {"index_select, strided", call_index_select, {{N, SIZES(4, 5), OP_SLICED}, INDEX(5, 3)}, OP_EXACT,
     .dim = -1},
    {"index_select, nothing", call_index_select, {{N, SIZES(4, 5)}, INDEX(5, 0)}, OP_EXACT, .dim = 0},
    {"index_select, large", call_index_select, {{N, SIZES(40, 60, 30)}, INDEX(60, 101)}, OP_EXACT, .dim = 1,
     .big = true},
    {"embedding", call_embedding, {{N, SIZES(5, 3)}, INDEX(5, 2, 4)}, OP_EXACT},
    {"embedding, scalar", call_embedding, {{N, SIZES(5, 3)}, {OP_INDEX, .limit = 5}}, OP_EXACT},
    {"embedding, strided", call_embedding, {{N, SIZES(5, 3), OP_TRANSPOSED}, {OP_INDEX, SIZES(3, 2),
     OP_SLICED, .limit = 5}}, OP_EXACT},
    {"embedding, nothing", call_embedding, {{N, SIZES(5, 3)}, INDEX(5, 0)}, OP_EXACT},
    {"embedding, large", call_embedding, {{N, SIZES(300, 130)}, INDEX(300, 20, 50)}, OP_EXACT, .big = true},
    {"embedding, few rows", call_embedding, {{N, SIZES(3, 384)}, INDEX(3, 1000)}, OP_EXACT, .big = true},
    {"masked_fill", call_masked_fill, {{N, SIZES(4, 6)}, {OP_MASK, SIZES(4, 6)}}, OP_EXACT, .number = -2.5},
    {"masked_fill, row", call_masked_fill, {{N, SIZES(2, 4, 6), OP_TRANSPOSED}, {OP_MASK, SIZES(6)}},
     OP_EXACT, .number = 3},
    {"masked_fill, -inf", call_masked_fill, {{N, SIZES(4, 6)}, {OP_MASK, SIZES(4, 1)}}, OP_EXACT,
     .number = -INFINITY, .no_difference = true},
    {"masked_fill, extreme values", call_masked_fill, {{OP_EXTREME, SIZES(40)}, {OP_MASK, SIZES(40)}},
     OP_EXACT, .number = 1, .no_difference = true},
    {"masked_fill, large", call_masked_fill, {{N, SIZES(70, 301)}, {OP_MASK, SIZES(70, 1)}}, OP_EXACT,
     .big = true},
    {"where", call_where, {{OP_MASK, SIZES(4, 6)}, {N, SIZES(4, 6)}, {N, SIZES(4, 6)}}, OP_EXACT},
    {"where, broadcast", call_where, {{OP_MASK, SIZES(4, 1)}, {N, SIZES(6)}, {N}}, OP_REDUCE},
    {"where, strided", call_where, {{OP_MASK, SIZES(4, 5), OP_TRANSPOSED}, {N, SIZES(4, 5), OP_SLICED}, {N,
     SIZES(4, 5), OP_REPEATED}}, OP_REDUCE},
    {"where, nothing", call_where, {{OP_MASK, SIZES(0)}, {N, SIZES(0)}, {N}}, OP_REDUCE},
    {"where, all false", call_where, {{OP_FALSE, SIZES(7)}, {OP_EXTREME, SIZES(7)}, {N, SIZES(7)}}, OP_EXACT,
     .no_difference = true},
    {"where, large", call_where, {{OP_MASK, SIZES(70, 301)}, {N, SIZES(70, 301)}, {N, SIZES(301)}}, OP_REDUCE,
     .big = true},
    {"dropout", call_dropout, {{N, SIZES(4, 9)}}, OP_ELEMENTWISE, .number = 0.5, .random = true},
    {"dropout, little", call_dropout, {{N, SIZES(6, 5), OP_TRANSPOSED}}, OP_ELEMENTWISE, .number = 0.1,
     .random = true},
    {"dropout, none", call_dropout, {{N, SIZES(4, 9)}}, OP_EXACT, .number = 0, .random = true},
    {"dropout, not random", call_dropout, {{N, SIZES(4, 9)}}, OP_EXACT, .number = 0.5},
    {"dropout, nothing", call_dropout, {{N, SIZES(0, 9)}}, OP_EXACT, .number = 0.5, .random = true},
    {"dropout, large", call_dropout, {{N, SIZES(70, 1001)}}, OP_ELEMENTWISE, .number = 0.3, .random = true,
     .big = true},
    {"reshape", call_reshape, {{N, SIZES(2, 6)}}, OP_EXACT, TO(3, -1)},
    {"reshape, copying", call_reshape, {{N, SIZES(4, 6), OP_TRANSPOSED}}, OP_EXACT, TO(3, 8)},
    {"reshape, sliced", call_reshape, {{N, SIZES(4, 6), OP_SLICED}}, OP_EXACT, TO(24)},
    {"reshape to a scalar", call_reshape, {{N, SIZES(1, 1)}}, OP_EXACT},
    {"reshape, nothing", call_reshape, {{N, SIZES(0, 3)}}, OP_EXACT, TO(5, 0, 2)},
    {"permute", call_permute, {{N, SIZES(2, 3, 4)}}, OP_EXACT, DIMS(2, 0, 1)},
    {"permute, negative", call_permute, {{N, SIZES(2, 3, 4), OP_SLICED}}, OP_EXACT, DIMS(-1, 1, 0)},
    {"transpose", call_transpose, {{N, SIZES(2, 3, 4)}}, OP_EXACT, .dims = {0, -1}},
    {"slice", call_slice, {{N, SIZES(2, 7)}}, OP_EXACT, .dim = 1, .size = {1, 6, 2}},
    {"slice, negative", call_slice, {{N, SIZES(7, 2)}}, OP_EXACT, .dim = 0, .size = {-5, -1, 1}},
    {"slice, clipped", call_slice, {{N, SIZES(4, 2)}}, OP_EXACT, .dim = 0, .size = {-100, 100, 3}},
    {"slice, empty", call_slice, {{N, SIZES(4, 2)}}, OP_EXACT, .dim = 0, .size = {3, 1, 1}},
    {"broadcast", call_broadcast, {{N, SIZES(3, 1)}}, OP_REDUCE, TO(2, 3, 4)},
    {"broadcast a scalar", call_broadcast, {{N}}, OP_REDUCE, TO(2, 3)},
    {"broadcast to nothing", call_broadcast, {{N, SIZES(1, 3)}}, OP_REDUCE, TO(0, 3)},
    {"squeeze", call_squeeze, {{N, SIZES(3, 1, 2)}}, OP_EXACT, .dim = 1},
    {"unsqueeze", call_unsqueeze, {{N, SIZES(3, 2), OP_TRANSPOSED}}, OP_EXACT, .dim = 1},
    {"unsqueeze, end", call_unsqueeze, {{N, SIZES(3, 2)}}, OP_EXACT, .dim = -1},
    {"contiguous", call_contiguous, {{N, SIZES(3, 4), OP_TRANSPOSED}}, OP_EXACT},
    {"contiguous, of several tiles", call_contiguous, {{N, SIZES(2, 131, 70), OP_TRANSPOSED}}, OP_EXACT,
     .no_difference = true},
    {"contiguous, already", call_contiguous, {{N, SIZES(3, 4)}}, OP_EXACT},
    {"contiguous, repeated", call_contiguous, {{N, SIZES(3, 4), OP_REPEATED}}, OP_REDUCE},
    {"contiguous, large", call_contiguous, {{N, SIZES(70, 40, 30), OP_OUTER}}, OP_EXACT, .big = true},
    {"cast", call_cast, {{N, SIZES(3, 4), OP_SLICED}}, OP_EXACT},
    {"cast to i32", call_cast_to_i32, {{OP_LARGE, SIZES(3, 40)}}, OP_EXACT, .no_gradient = true},
    {"cast to i32, extreme", call_cast_to_i32, {{OP_EXTREME, SIZES(60)}}, OP_EXACT, .no_gradient = true},
    {"cast to bool", call_cast_to_bool, {{OP_EXTREME, SIZES(60)}}, OP_EXACT, .no_gradient = true},
    {"views of one tensor", call_views, {{N, SIZES(4, 5)}}, OP_PRODUCT},
};

static const struct op_wrong wrongs[] = {
    {{"cat, other sizes", call_cat, {{N, SIZES(2, 3)}, {N, SIZES(2, 4)}}, .dim = 0}, HEED_ERROR_SHAPE,
     "cat: "},
    {{"cat, ranks differ", call_cat, {{N, SIZES(2, 3)}, {N, SIZES(2)}}, .dim = 0}, HEED_ERROR_SHAPE, "cat: "},
    {{"cat, no such dimension", call_cat, {{N, SIZES(2, 3)}}, .dim = 2}, HEED_ERROR_ARGUMENT, "cat: "},
    {{"stack, shapes differ", call_stack, {{N, SIZES(2, 3)}, {N, SIZES(3, 2)}}}, HEED_ERROR_SHAPE, "stack: "},
    {{"split, sizes do not add up", call_split, {{N, SIZES(2, 3)}}, .outputs = 2, .dim = 1, TO(1, 1)},
     HEED_ERROR_SHAPE, "split: "},
    {{"split, negative size", call_split, {{N, SIZES(2, 3)}}, .outputs = 2, .dim = 1, TO(4, -1)},
     HEED_ERROR_SHAPE, "split: "},
    {{"gather, out of range", call_gather, {{N, SIZES(2, 3)}, {OP_VALUE, SIZES(2, 3), .limit = 2,
     .other_dtype = true, .dtype = HEED_I32}}, .dim = 0}, HEED_ERROR_ARGUMENT, "gather: "},
    {{"gather, ranks differ", call_gather, {{N, SIZES(2, 3)}, INDEX(2, 2)}, .dim = 0}, HEED_ERROR_SHAPE,
     "gather: "},
    {{"gather, index too large", call_gather, {{N, SIZES(2, 3)}, INDEX(2, 2, 4)}, .dim = 0}, HEED_ERROR_SHAPE,
     "gather: "},
    {{"gather, float index", call_gather, {{N, SIZES(2, 3)}, {N, SIZES(2, 3)}}, .dim = 0}, HEED_ERROR_DTYPE,
     "gather: "},
    {{"index_select, negative", call_index_select, {{N, SIZES(2, 3)}, {OP_VALUE, SIZES(1), .limit = -1,
     .other_dtype = true, .dtype = HEED_I32}}, .dim = 0}, HEED_ERROR_ARGUMENT, "index_select: "},
    {{"index_select, index of rank 2", call_index_select, {{N, SIZES(2, 3)}, INDEX(2, 1, 1)}, .dim = 0},
     HEED_ERROR_SHAPE, "index_select: "},
    {{"embedding, out of range", call_embedding, {{N, SIZES(2, 3)}, {OP_VALUE, SIZES(4), .limit = 2,
     .other_dtype = true, .dtype = HEED_I32}}}, HEED_ERROR_ARGUMENT, "embedding: "},
    {{"embedding, table of rank 1", call_embedding, {{N, SIZES(3)}, INDEX(2, 2)}}, HEED_ERROR_SHAPE,
     "embedding: "},
    {{"masked_fill, mask of floats", call_masked_fill, {{N, SIZES(3)}, {N, SIZES(3)}}}, HEED_ERROR_DTYPE,
     "masked_fill: "},
    {{"masked_fill, mask too large", call_masked_fill, {{N, SIZES(3)}, {OP_MASK, SIZES(2, 3)}}},
     HEED_ERROR_SHAPE, "masked_fill: "},
    {{"where, shapes clash", call_where, {{OP_MASK, SIZES(3)}, {N, SIZES(2)}, {N, SIZES(3)}}},
     HEED_ERROR_SHAPE, "where: "},
    {{"where, condition of floats", call_where, {{N, SIZES(3)}, {N, SIZES(3)}, {N, SIZES(3)}}},
     HEED_ERROR_DTYPE, "where: "},
    {{"dropout of 1", call_dropout, {{N, SIZES(3)}}, .number = 1}, HEED_ERROR_ARGUMENT, "dropout: "},
    {{"dropout below 0", call_dropout, {{N, SIZES(3)}}, .number = -0.1}, HEED_ERROR_ARGUMENT, "dropout: "},
    {{"dropout of NaN", call_dropout, {{N, SIZES(3)}}, .number = NAN}, HEED_ERROR_ARGUMENT, "dropout: "},
    {{"reshape, other count", call_reshape, {{N, SIZES(2, 3)}}, TO(4)}, HEED_ERROR_SHAPE, "reshape: "},
    {{"reshape, two inferred", call_reshape, {{N, SIZES(2, 3)}}, TO(-1, -1)}, HEED_ERROR_SHAPE, "reshape: "},
    {{"reshape, nothing to infer from", call_reshape, {{N, SIZES(0, 3)}}, TO(0, -1)}, HEED_ERROR_SHAPE,
     "reshape: "},
    {{"reshape, rank 9", call_reshape, {{N, SIZES(1)}}, .count = 9, .size = {1, 1, 1, 1, 1, 1, 1, 1}},
     HEED_ERROR_SHAPE, "reshape: "},
    {{"permute, twice the same", call_permute, {{N, SIZES(2, 3)}}, DIMS(0, 0)}, HEED_ERROR_ARGUMENT,
     "permute: "},
    {{"permute, other rank", call_permute, {{N, SIZES(2, 3)}}, DIMS(0)}, HEED_ERROR_ARGUMENT, "permute: "},
    {{"transpose, no such dimension", call_transpose, {{N, SIZES(2, 3)}}, .dims = {0, 2}},
     HEED_ERROR_ARGUMENT, "transpose: "},
    {{"slice, step 0", call_slice, {{N, SIZES(2, 3)}}, .dim = 0, .size = {0, 1, 0}}, HEED_ERROR_ARGUMENT,
     "slice: "},
    {{"broadcast to a smaller shape", call_broadcast, {{N, SIZES(2, 3)}}, TO(3)}, HEED_ERROR_SHAPE,
     "broadcast: "},
    {{"broadcast to more than can be counted", call_broadcast, {{N, SIZES(1, 1)}},
     TO(INT64_C(1) << 40, INT64_C(1) << 40)}, HEED_ERROR_MEMORY, "broadcast: "},
    {{"broadcast, sizes clash", call_broadcast, {{N, SIZES(2, 3)}}, TO(4, 3)}, HEED_ERROR_SHAPE,
     "broadcast: "},
    {{"squeeze a larger dimension", call_squeeze, {{N, SIZES(2, 3)}}, .dim = 0}, HEED_ERROR_SHAPE,
     "squeeze: "},
    {{"unsqueeze too far", call_unsqueeze, {{N, SIZES(2, 3)}}, .dim = 4}, HEED_ERROR_ARGUMENT, "unsqueeze: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("joining, cutting, choosing and views");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
