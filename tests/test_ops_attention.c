/* heed_attention(): every pair of features that change what is computed, over odd shapes and strides. */
#include "harness_ops.h"

#include <math.h>

/* Inputs of every row: q, k, v, additive biases, a dense mask, key lengths. Those that a row does not give
 * are left out. */
enum { Q, K, V, BIAS, BIAS2, DENSE, LENGTHS };

/* What else a row asks for. */
struct wish {
    bool causal, bottom_right;
    double scale, dropout;
    bool weights;
};

static heed_tensor attend(const struct op_case *row, const heed_tensor *in, heed_tensor *weights) {
    static const struct wish plain;
    const struct wish *wish = row->options ? row->options : &plain;
    heed_ctx *ctx = heed_context(in[Q]);
    heed_score *score = heed_score_new(ctx);
    if (wish->scale != 0) heed_score_scale(score, wish->scale);
    if (in[BIAS].node) heed_score_bias(score, in[BIAS]);
    if (in[BIAS2].node) heed_score_bias(score, in[BIAS2]);
    if (wish->causal) heed_score_mask(score, heed_mask_causal(ctx, HEED_TOP_LEFT));
    if (wish->bottom_right) heed_score_mask(score, heed_mask_causal(ctx, HEED_BOTTOM_RIGHT));
    if (in[DENSE].node) heed_score_mask(score, heed_mask_dense(in[DENSE]));
    if (in[LENGTHS].node) heed_score_mask(score, heed_mask_key_lengths(in[LENGTHS]));
    heed_attention_options options = {.dropout = wish->dropout};
    return heed_attention(in[Q], in[K], in[V], score, &options, weights);
}

static void call_attention(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = attend(row, in, row->outputs > 1 ? &out[1] : NULL);
}

/* Only the weights are used: no gradient arrives at the result. */
static void call_weights(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    attend(row, in, &out[0]);
}

static void call_no_score(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_attention(in[Q], in[K], in[V], NULL, NULL, NULL);
}

/* One tensor as query, key and value. */
static void call_self(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    out[0] = heed_attention(in[Q], in[Q], in[Q], NULL, NULL, NULL);
}

/* q, k and v as views of one tensor [batch, length, 3, heads, width], as a joined projection gives them. */
static void call_joined(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    (void)row;
    heed_tensor part[3];
    for (int i = 0; i < 3; i++)
        part[i] = heed_permute(heed_squeeze(heed_slice(in[0], 2, i, i + 1, 1), 2), 4, (int[]){0, 2, 1, 3});
    out[0] = heed_attention(part[0], part[1], part[2], NULL, NULL, NULL);
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define WISH(...) .options = &(const struct wish){__VA_ARGS__}
#define CALL(name, ...) name, call_attention, {__VA_ARGS__}, OP_ATTENTION
#define QKV(b, h, q, k, d) {N, SIZES(b, h, q, d)}, {N, SIZES(b, h, k, d)}, {N, SIZES(b, h, k, d)}
#define MASKED {OP_MASK, SIZES(2, 1, 5, 7)}
#define SHORT {OP_INDEX, SIZES(2), .limit = 8}

static const struct op_case cases[] = {
    {"no score", call_no_score, {QKV(2, 3, 5, 5, 4)}, OP_ATTENTION},
    {"one tensor as all three", call_self, {{N, SIZES(2, 2, 5, 3)}}, OP_ATTENTION},
    {"joined projections", call_joined, {{N, SIZES(2, 5, 3, 2, 4)}}, OP_ATTENTION},
    {CALL("other length", QKV(2, 1, 5, 7, 4))},
    {CALL("other width of values", {N, SIZES(2, 2, 3, 4)}, {N, SIZES(2, 2, 5, 4)}, {N, SIZES(2, 2, 5, 7)})},
    {CALL("one key", QKV(1, 1, 3, 1, 2))},
    {CALL("width 1", QKV(1, 2, 3, 4, 1))},
    {CALL("scale", QKV(1, 2, 3, 4, 5)), WISH(.scale = 0.25)},
    {CALL("negative scale", QKV(1, 2, 3, 4, 5)), WISH(.scale = -1)},
    {CALL("causal", QKV(2, 2, 5, 5, 3)), WISH(.causal = true)},
    {CALL("causal, more keys", QKV(1, 2, 3, 7, 3)), WISH(.causal = true)},
    {CALL("causal, fewer keys", QKV(1, 2, 7, 3, 3)), WISH(.causal = true)},
    {CALL("causal at the end, more keys", QKV(1, 2, 3, 7, 3)), WISH(.bottom_right = true)},
    {CALL("causal at the end, fewer keys: empty rows", QKV(1, 2, 7, 3, 3)), WISH(.bottom_right = true)},
    {CALL("both causal", QKV(1, 1, 3, 5, 3)), WISH(.causal = true, .bottom_right = true)},
    {CALL("dense mask", QKV(2, 3, 5, 7, 4), {0}, {0}, {OP_MASK, SIZES(2, 3, 5, 7)})},
    {CALL("dense mask by key", QKV(2, 3, 5, 7, 4), {0}, {0}, {OP_MASK, SIZES(7)})},
    {CALL("dense mask by query", QKV(2, 3, 5, 7, 4), {0}, {0}, {OP_MASK, SIZES(5, 1)})},
    {CALL("dense mask, nothing allowed", QKV(2, 1, 3, 4, 2), {0}, {0}, {OP_FALSE, SIZES(3, 4)})},
    {CALL("dense mask, transposed", QKV(2, 3, 5, 7, 4), {0}, {0}, {OP_MASK, SIZES(5, 7), OP_TRANSPOSED})},
    {CALL("key lengths", QKV(2, 3, 5, 7, 4), {0}, {0}, {0}, SHORT)},
    {CALL("key lengths of 0", QKV(2, 2, 3, 4, 4), {0}, {0}, {0}, {OP_VALUE, SIZES(2), .limit = 0,
     .other_dtype = true, .dtype = HEED_I32})},
    {CALL("causal, dense and lengths", QKV(2, 3, 5, 7, 4), {0}, {0}, MASKED, SHORT), WISH(.causal = true)},
    {CALL("bias", QKV(2, 3, 5, 7, 4), {N, SIZES(2, 3, 5, 7)})},
    {CALL("bias by key", QKV(2, 3, 5, 7, 4), {N, SIZES(7)})},
    {CALL("bias by head", QKV(2, 3, 5, 7, 4), {N, SIZES(3, 1, 1)})},
    {CALL("bias by query and head", QKV(2, 3, 5, 7, 4), {N, SIZES(1, 3, 5, 1)})},
    {CALL("bias of all", QKV(2, 3, 5, 7, 4), {N})},
    {CALL("bias, strided", QKV(2, 3, 5, 7, 4), {N, SIZES(3, 5, 7), OP_TRANSPOSED})},
    {CALL("bias of -inf", QKV(2, 3, 5, 7, 4), {OP_INFINITE, SIZES(5, 7), .constant = true})},
    {CALL("two biases", QKV(2, 3, 5, 7, 4), {N, SIZES(5, 7)}, {N, SIZES(2, 1, 1, 7)})},
    {CALL("bias and causal", QKV(2, 3, 5, 7, 4), {N, SIZES(3, 5, 7)}), WISH(.causal = true)},
    {CALL("bias and dense mask", QKV(2, 3, 5, 7, 4), {N, SIZES(5, 7)}, {0}, MASKED)},
    {CALL("bias and lengths", QKV(2, 3, 5, 7, 4), {N, SIZES(5, 7)}, {0}, {0}, SHORT)},
    {CALL("bias, empty rows", QKV(1, 2, 7, 3, 3), {N, SIZES(7, 3)}), WISH(.bottom_right = true)},
    {CALL("groups", {N, SIZES(2, 6, 5, 4)}, {N, SIZES(2, 2, 7, 4)}, {N, SIZES(2, 2, 7, 4)})},
    {CALL("one key head", {N, SIZES(2, 3, 5, 4)}, {N, SIZES(2, 1, 7, 4)}, {N, SIZES(2, 1, 7, 3)})},
    {CALL("groups, bias, causal", {N, SIZES(2, 4, 5, 4)}, {N, SIZES(2, 2, 7, 4)}, {N, SIZES(2, 2, 7, 4)}, {N,
     SIZES(4, 5, 7)}), WISH(.causal = true)},
    {CALL("groups and lengths", {N, SIZES(2, 4, 5, 4)}, {N, SIZES(2, 2, 7, 4)}, {N, SIZES(2, 2, 7, 4)}, {0},
     {0}, {0}, SHORT)},
    {CALL("keys of one batch", {N, SIZES(3, 2, 4, 3)}, {N, SIZES(1, 2, 5, 3)}, {N, SIZES(1, 2, 5, 3)})},
    {CALL("queries of one batch", {N, SIZES(1, 2, 4, 3)}, {N, SIZES(3, 2, 5, 3)}, {N, SIZES(3, 2, 5, 3)})},
    {CALL("no batch dimension", {N, SIZES(2, 4, 3)}, {N, SIZES(2, 5, 3)}, {N, SIZES(2, 5, 3)}),
     WISH(.causal = true)},
    {CALL("two batch dimensions", {N, SIZES(2, 2, 1, 3, 4)}, {N, SIZES(2, 2, 1, 5, 4)}, {N, SIZES(2, 2, 1, 5,
     4)}, {N, SIZES(2, 1, 1, 3, 5)})},
    {CALL("weights", QKV(2, 2, 3, 5, 4)), .outputs = 2},
    {CALL("weights, causal, bias", QKV(2, 2, 3, 5, 4), {N, SIZES(3, 5)}), .outputs = 2, WISH(.causal = true)},
    {CALL("weights, empty rows", QKV(1, 2, 5, 3, 4)), .outputs = 2, WISH(.bottom_right = true)},
    {CALL("weights, groups", {N, SIZES(1, 4, 3, 4)}, {N, SIZES(1, 2, 5, 4)}, {N, SIZES(1, 2, 5, 4)}),
     .outputs = 2},
    {CALL("weights, dropout", QKV(2, 2, 3, 5, 4)), .outputs = 2, .random = true, WISH(.dropout = 0.4)},
    {"weights alone", call_weights, {{N, SIZES(2, 2, 3, 4)}, {N, SIZES(2, 2, 5, 4)}, {N, SIZES(2, 2, 5, 4),
     .constant = true}}, OP_ATTENTION, WISH(.causal = true)},
    {CALL("dropout", QKV(2, 2, 5, 7, 4)), .random = true, WISH(.dropout = 0.5)},
    {CALL("dropout, causal, bias", QKV(2, 2, 5, 7, 4), {N, SIZES(2, 5, 7)}), .random = true,
     WISH(.dropout = 0.2, .causal = true)},
    {CALL("dropout, groups, lengths", {N, SIZES(2, 4, 5, 4)}, {N, SIZES(2, 2, 7, 4)}, {N, SIZES(2, 2, 7, 4)},
     {0}, {0}, {0}, SHORT), .random = true, WISH(.dropout = 0.3)},
    {CALL("dropout, not random", QKV(1, 2, 3, 4, 4)), WISH(.dropout = 0.5)},
    {CALL("strided", {N, SIZES(2, 2, 5, 4), OP_SLICED}, {N, SIZES(2, 2, 7, 4), OP_TRANSPOSED}, {N, SIZES(2, 2,
     7, 4), OP_OUTER})},
    {CALL("repeated batch", {N, SIZES(2, 2, 5, 4), OP_REPEATED}, {N, SIZES(2, 2, 7, 4)}, {N, SIZES(2, 2, 7,
     4), OP_REPEATED})},
    {CALL("no queries", QKV(2, 2, 0, 5, 4))},
    {CALL("no keys", QKV(2, 2, 3, 0, 4))},
    {CALL("no batch", QKV(0, 2, 3, 4, 4))},
    {CALL("no width", {N, SIZES(1, 2, 3, 0)}, {N, SIZES(1, 2, 4, 0)}, {N, SIZES(1, 2, 4, 3)})},
    {CALL("large scores", {OP_LARGE, SIZES(1, 2, 9, 8)}, {OP_LARGE, SIZES(1, 2, 11, 8)}, {N, SIZES(1, 2, 11,
     8)}), .no_difference = true, .no_gradient = true},
    {CALL("constant keys and values", {N, SIZES(1, 2, 3, 4)}, {N, SIZES(1, 2, 5, 4), .constant = true}, {N,
     SIZES(1, 2, 5, 4), .constant = true}, {N, SIZES(3, 5)})},
    {CALL("only the bias wants a gradient", {N, SIZES(1, 2, 3, 4), .constant = true}, {N, SIZES(1, 2, 5, 4),
     .constant = true}, {N, SIZES(1, 2, 5, 4), .constant = true}, {N, SIZES(3, 5)})},
    {CALL("two tiles", QKV(1, 2, 70, 131, 9)), .no_difference = true},
    {CALL("two tiles, causal, dropout", QKV(1, 2, 70, 67, 33)), .no_difference = true, .random = true, WISH(.dropout =
     0.3, .causal = true)},
    {CALL("large", QKV(2, 3, 150, 131, 32)), .big = true},
    {CALL("large, causal", QKV(2, 2, 197, 197, 64)), .big = true, WISH(.causal = true)},
    {CALL("large, causal at the end", QKV(1, 2, 65, 193, 40)), .big = true, WISH(.bottom_right = true)},
    {CALL("large, all masks", QKV(2, 2, 129, 150, 17), {0}, {0}, {OP_MASK, SIZES(2, 1, 129, 150)}, {OP_INDEX,
     SIZES(2), .limit = 151}), .big = true, WISH(.causal = true)},
    {CALL("large, bias", QKV(2, 3, 70, 90, 33), {N, SIZES(3, 70, 90)}), .big = true},
    {CALL("large, bias by key", QKV(2, 3, 70, 90, 33), {N, SIZES(90)}), .big = true},
    {CALL("large, dropout", QKV(2, 2, 130, 140, 32)), .big = true, .random = true, WISH(.dropout = 0.1,
     .causal = true)},
    {CALL("large, groups", {N, SIZES(2, 6, 70, 24)}, {N, SIZES(2, 2, 131, 24)}, {N, SIZES(2, 2, 131, 40)}),
     .big = true},
    {CALL("large, weights", QKV(1, 2, 70, 131, 32)), .big = true, .outputs = 2},
    {CALL("many short", QKV(128, 8, 8, 8, 4)), .big = true},
    {CALL("one query", QKV(2, 4, 1, 513, 64)), .big = true, WISH(.bottom_right = true)},
    {CALL("one query, groups", {N, SIZES(1, 8, 1, 40)}, {N, SIZES(1, 2, 40, 40)}, {N, SIZES(1, 2, 40, 9)}),
     .big = true},
    {CALL("few queries, groups, bias", {N, SIZES(2, 8, 3, 33)}, {N, SIZES(2, 2, 1300, 33)}, {N, SIZES(2, 2,
     1300, 47)}, {N, SIZES(8, 1, 1300)}), .big = true, WISH(.bottom_right = true)},
    {CALL("one query, many heads", QKV(1, 32, 1, 1100, 8)), .big = true},
    {CALL("few queries, many keys", QKV(1, 1, 3, 100, 4)), WISH(.bottom_right = true)},
    {CALL("few queries, many keys, wide values", {N, SIZES(1, 1, 3, 2)}, {N, SIZES(1, 1, 100, 2)}, {N, SIZES(1, 1,
     100, 70)}, {N, SIZES(3, 100)}), .random = true, WISH(.dropout = 0.2)},
    {CALL("few queries, many keys, few allowed", QKV(1, 1, 3, 100, 2), {0}, {0}, {0}, {OP_INDEX, SIZES(1), .limit =
     8})},
    {CALL("few queries, many keys, nothing allowed", QKV(1, 1, 3, 100, 2), {0}, {0}, {OP_FALSE, SIZES(3, 100)})},
    {CALL("few queries, lengths", {N, SIZES(2, 2, 4, 16)}, {N, SIZES(2, 2, 150, 16)}, {N, SIZES(2, 2, 150,
     16)}, {0}, {0}, {0}, {OP_INDEX, SIZES(2), .limit = 151}), .big = true},
    {CALL("wide heads", QKV(1, 1, 40, 50, 300)), .big = true},
    {CALL("long", QKV(1, 1, 33, 1100, 16)), .big = true},
};

static const struct op_wrong wrongs[] = {
    {{"heads do not divide", call_attention, {{N, SIZES(1, 3, 2, 4)}, {N, SIZES(1, 2, 2, 4)}, {N, SIZES(1, 2,
     2, 4)}}}, HEED_ERROR_SHAPE, "attention: q has 3 heads, which is not a multiple of k's 2"},
    {{"widths differ", call_attention, {{N, SIZES(1, 1, 2, 4)}, {N, SIZES(1, 1, 2, 5)}, {N, SIZES(1, 1, 2,
     4)}}}, HEED_ERROR_SHAPE, "attention: "},
    {{"keys and values differ", call_attention, {{N, SIZES(1, 1, 2, 4)}, {N, SIZES(1, 1, 3, 4)}, {N, SIZES(1,
     1, 2, 4)}}}, HEED_ERROR_SHAPE, "attention: "},
    {{"batches clash", call_attention, {{N, SIZES(2, 1, 2, 4)}, {N, SIZES(3, 1, 3, 4)}, {N, SIZES(3, 1, 3,
     4)}}}, HEED_ERROR_SHAPE, "attention: "},
    {{"rank 2", call_no_score, {{N, SIZES(2, 4)}, {N, SIZES(3, 4)}, {N, SIZES(3, 4)}}}, HEED_ERROR_SHAPE,
     "attention: "},
    {{"dtypes clash", call_attention, {{N, SIZES(1, 1, 2, 4)}, {N, SIZES(1, 1, 2, 4), .other_dtype = true,
     .dtype = HEED_F64}, {N, SIZES(1, 1, 2, 4)}}}, HEED_ERROR_DTYPE, "attention: "},
    {{"no value", call_attention, {{N, SIZES(1, 1, 2, 4)}, {N, SIZES(1, 1, 2, 4)}}}, HEED_ERROR_ARGUMENT,
     "attention: "},
    {{"bias does not fit", call_attention, {QKV(1, 1, 2, 3, 4), {N, SIZES(2, 2)}}}, HEED_ERROR_SHAPE,
     "attention: "},
    {{"mask does not fit", call_attention, {QKV(1, 1, 2, 3, 4), {0}, {0}, {OP_MASK, SIZES(3, 3)}}},
     HEED_ERROR_SHAPE, "attention: "},
    {{"mask of floats", call_attention, {QKV(1, 1, 2, 3, 4), {0}, {0}, {N, SIZES(2, 3)}}}, HEED_ERROR_DTYPE,
     "mask"},
    {{"length beyond the keys", call_attention, {QKV(1, 1, 2, 3, 4), {0}, {0}, {0}, {OP_VALUE, SIZES(1),
     .limit = 4, .other_dtype = true, .dtype = HEED_I32}}}, HEED_ERROR_ARGUMENT, "attention: "},
    {{"negative length", call_attention, {QKV(1, 1, 2, 3, 4), {0}, {0}, {0}, {OP_VALUE, SIZES(1), .limit = -1,
     .other_dtype = true, .dtype = HEED_I32}}}, HEED_ERROR_ARGUMENT, "attention: "},
    {{"too few lengths", call_attention, {QKV(3, 1, 2, 3, 4), {0}, {0}, {0}, {OP_INDEX, SIZES(2),
     .limit = 3}}}, HEED_ERROR_SHAPE, "attention: "},
    {{"longer than can be counted", call_no_score, {QKV(1, 1, INT64_MAX, INT64_MAX, 0)}}, HEED_ERROR_MEMORY,
     "attention: "},
    {{"batches of more than can be counted", call_no_score, {{N, SIZES(INT64_C(1) << 32, 1, 1, 1, 0)}, {N,
     SIZES(1, INT64_C(1) << 32, 1, 1, 0)}, {N, SIZES(1, 1, 1, 1, 0)}}}, HEED_ERROR_MEMORY, "attention: "},
    {{"dropout of 1", call_attention, {QKV(1, 1, 2, 3, 4)}, WISH(.dropout = 1)}, HEED_ERROR_ARGUMENT,
     "attention: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("attention");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
