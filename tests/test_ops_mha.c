/* heed_multi_head_attention(): projections of any widths around attention. */
#include "harness_ops.h"

/* Inputs of every row; those that a row does not give are left out. */
enum { QUERY, KEY, VALUE, WQ, WK, WV, WO, BQ, BK, BV, BO, BIAS, LENGTHS };

struct wish {
    int64_t heads, kv_heads;
    bool causal, empty_rows;
    double dropout;
};

static heed_tensor attend(const struct op_case *row, const heed_tensor *in, heed_tensor *weights) {
    const struct wish *wish = row->options;
    heed_ctx *ctx = heed_context(in[QUERY]);
    heed_score *score = NULL;
    if (wish->causal || wish->empty_rows || in[BIAS].node || in[LENGTHS].node) score = heed_score_new(ctx);
    if (in[BIAS].node) heed_score_bias(score, in[BIAS]);
    if (wish->causal) heed_score_mask(score, heed_mask_causal(ctx, HEED_TOP_LEFT));
    if (wish->empty_rows) heed_score_mask(score, heed_mask_causal(ctx, HEED_BOTTOM_RIGHT));
    if (in[LENGTHS].node) heed_score_mask(score, heed_mask_key_lengths(in[LENGTHS]));
    heed_mha_weights w = {.q = in[WQ],
                          .k = in[WK],
                          .v = in[WV],
                          .out = in[WO],
                          .q_bias = in[BQ],
                          .k_bias = in[BK],
                          .v_bias = in[BV],
                          .out_bias = in[BO]};
    heed_mha_call_options options = {
        .heads = wish->heads, .kv_heads = wish->kv_heads, .dropout = wish->dropout};
    return heed_multi_head_attention(in[QUERY], in[KEY], in[VALUE], &w, score, &options, weights);
}

static void call_mha(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    out[0] = attend(row, in, row->outputs > 1 ? &out[1] : NULL);
}

/* The same tensor as query and key: their gradients add up in one. */
static void call_key_is_query(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_tensor given[OP_INPUTS];
    for (int i = 0; i < OP_INPUTS; i++) given[i] = in[i];
    given[KEY] = in[QUERY];
    out[0] = attend(row, given, NULL);
}

/* And one tensor as all three. */
static void call_all_given(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_tensor given[OP_INPUTS];
    for (int i = 0; i < OP_INPUTS; i++) given[i] = in[i];
    given[KEY] = given[VALUE] = in[QUERY];
    out[0] = attend(row, given, NULL);
}

/* One matrix as all three projections, as of a shared parameter. */
static void call_shared(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    heed_tensor given[OP_INPUTS];
    for (int i = 0; i < OP_INPUTS; i++) given[i] = in[i];
    given[WK] = given[WV] = in[WQ];
    out[0] = attend(row, given, NULL);
}

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define NO {OP_NONE}
#define W(...) {N, SIZES(__VA_ARGS__)}
#define P(...) {OP_WEIGHT, SIZES(__VA_ARGS__)}
#define WISH(...) .options = &(const struct wish){__VA_ARGS__}
#define CALL(name, ...) name, call_mha, {__VA_ARGS__}, OP_ATTENTION
/* Four projections of equal widths, and their biases. */
#define SQUARE(d) P(d, d), P(d, d), P(d, d), P(d, d)
#define BIASES(d) W(d), W(d), W(d), W(d)

static const struct op_case cases[] = {
    {CALL("self", W(2, 5, 6), NO, NO, SQUARE(6)), WISH(2)},
    {CALL("self, biases", W(2, 5, 6), NO, NO, SQUARE(6), BIASES(6)), WISH(3)},
    {CALL("self, some biases", W(2, 5, 6), NO, NO, SQUARE(6), NO, W(6), NO, W(6)), WISH(2)},
    {CALL("one head", W(1, 4, 3), NO, NO, SQUARE(3)), WISH(1)},
    {CALL("heads of width 1", W(2, 4, 6), NO, NO, SQUARE(6), BIASES(6)), WISH(6)},
    {CALL("cross", W(2, 4, 6), W(2, 5, 6), W(2, 5, 6), SQUARE(6), BIASES(6)), WISH(2)},
    {CALL("cross, key is value", W(2, 4, 6), W(2, 5, 6), NO, SQUARE(6)), WISH(2)},
    {CALL("value without key", W(2, 5, 6), NO, W(2, 5, 4), P(6, 6), P(6, 6), P(6, 4), P(6, 6)), WISH(2)},
    {CALL("all widths differ", W(2, 3, 5), W(2, 4, 3), W(2, 4, 7), P(4, 5), P(4, 3), P(6, 7), P(9, 6), W(4),
     W(4), W(6), W(9)), WISH(2)},
    {CALL("in, qkv and out", W(2, 3, 5), NO, NO, P(8, 5), P(8, 5), P(8, 5), P(3, 8)), WISH(4)},
    {CALL("groups", W(2, 5, 6), NO, NO, P(8, 6), P(4, 6), P(4, 6), P(6, 8), W(8), W(4), W(4), W(6)), WISH(4,
     2)},
    {CALL("one key head", W(2, 5, 6), NO, NO, P(8, 6), P(2, 6), P(3, 6), P(6, 12)), WISH(4, 1)},
    {CALL("causal", W(2, 5, 6), NO, NO, SQUARE(6), BIASES(6)), WISH(2, .causal = true)},
    {CALL("empty rows", W(2, 5, 6), W(2, 3, 6), NO, SQUARE(6), BIASES(6)), WISH(2, .empty_rows = true)},
    {CALL("bias", W(2, 5, 6), NO, NO, SQUARE(6), NO, NO, NO, NO, W(2, 5, 5)), WISH(2)},
    {CALL("lengths", W(2, 5, 6), NO, NO, SQUARE(6), NO, NO, NO, NO, NO, {OP_INDEX, SIZES(2), .limit = 6}),
     WISH(2)},
    {CALL("all scores", W(2, 5, 6), NO, NO, SQUARE(6), BIASES(6), W(5), {OP_INDEX, SIZES(2), .limit = 6}),
     WISH(2, .causal = true)},
    {CALL("weights", W(2, 5, 6), NO, NO, SQUARE(6)), .outputs = 2, WISH(2)},
    {CALL("weights, cross, causal", W(2, 4, 6), W(2, 5, 6), W(2, 5, 6), SQUARE(6), BIASES(6)), .outputs = 2,
     WISH(2, .causal = true)},
    {CALL("dropout", W(2, 5, 6), NO, NO, SQUARE(6)), .random = true, WISH(2, .dropout = 0.3)},
    {CALL("dropout, weights", W(2, 5, 6), NO, NO, SQUARE(6), BIASES(6)), .random = true, .outputs = 2, WISH(2,
     .causal = true, .dropout = 0.3)},
    {"key is query", call_key_is_query, {W(2, 4, 6), NO, W(2, 4, 6), SQUARE(6)}, OP_ATTENTION, WISH(2)},
    {"all are given and one", call_all_given, {W(2, 4, 6), NO, NO, SQUARE(6), BIASES(6)}, OP_ATTENTION,
     WISH(2)},
    {"shared projection", call_shared, {W(2, 4, 6), NO, NO, P(6, 6), NO, NO, P(6, 6)}, OP_ATTENTION, WISH(2)},
    {CALL("no batch", W(4, 6), NO, NO, SQUARE(6), BIASES(6)), WISH(2)},
    {CALL("two batch dimensions", W(2, 2, 3, 4), NO, NO, SQUARE(4)), WISH(2)},
    {CALL("strided", {N, SIZES(2, 4, 6), OP_OUTER}, {N, SIZES(2, 5, 6), OP_SLICED}, NO, {OP_WEIGHT, SIZES(6,
     6), OP_TRANSPOSED}, {OP_WEIGHT, SIZES(6, 6), OP_SLICED}, P(6, 6), P(6, 6)), WISH(2)},
    {CALL("repeated batch", {N, SIZES(2, 4, 6), OP_REPEATED}, NO, NO, SQUARE(6)), WISH(2)},
    {CALL("empty batch", W(0, 4, 6), NO, NO, SQUARE(6), BIASES(6)), WISH(2)},
    {CALL("no queries", W(2, 0, 6), W(2, 3, 6), NO, SQUARE(6)), WISH(2)},
    {CALL("no keys", W(2, 3, 6), W(2, 0, 6), NO, SQUARE(6), BIASES(6)), WISH(2)},
    {CALL("constant input", {N, SIZES(2, 5, 6), .constant = true}, NO, NO, SQUARE(6), BIASES(6)), WISH(2)},
    {CALL("constant projections", W(2, 5, 6), NO, NO, {OP_WEIGHT, SIZES(6, 6), .constant = true}, {OP_WEIGHT,
     SIZES(6, 6), .constant = true}, {OP_WEIGHT, SIZES(6, 6), .constant = true}, {OP_WEIGHT, SIZES(6, 6),
     .constant = true}), WISH(2)},
    {CALL("many short", W(64, 8, 32), NO, NO, SQUARE(32)), .big = true, WISH(8)},
    /* The short kernel takes 16 heads of any instruction set. */
    {CALL("short", W(19, 8, 40), NO, NO, P(64, 40), P(64, 40), P(64, 40), P(40, 64)), .big = true, WISH(16)},
    {CALL("short, weights", W(13, 8, 32), NO, NO, P(32, 32), P(32, 32), P(32, 32), P(32, 32)), .big = true,
     .outputs = 2, WISH(16)},
    {CALL("short, length 1", W(67, 1, 16), NO, NO, SQUARE(16), BIASES(16)), .big = true, WISH(16)},
    {CALL("short, length 5, all widths differ", W(21, 5, 19), NO, NO, P(48, 19), P(48, 19), P(80, 19), P(23,
     80), W(48), W(48), W(80), W(23)), .big = true, WISH(16)},
    {CALL("short, length 32, two groups of heads", W(5, 32, 24), NO, NO, P(160, 24), P(160, 24), P(64, 24), P(9,
     64), NO, W(160), NO, W(9)), .big = true, WISH(32)},
    {CALL("short, length 13, causal", W(9, 13, 16), NO, NO, P(112, 16), P(112, 16), P(112, 16), P(50, 112), NO, NO,
     W(112)), .big = true, WISH(16, .causal = true)},
    {CALL("short, lengths", W(40, 6, 16), NO, NO, P(32, 16), P(32, 16), P(32, 16), P(16, 32), W(32), NO, NO, NO,
     NO, {OP_INDEX, SIZES(40), .limit = 7}), .big = true, .outputs = 2, WISH(16)},
    {CALL("short, dropout", W(12, 9, 16), NO, NO, SQUARE(16)), .big = true, .random = true, WISH(16, .dropout =
     0.4)},
    {CALL("short, dropout, weights, all scores", W(12, 11, 16), NO, NO, P(64, 16), P(64, 16), P(64, 16), P(16,
     64), NO, NO, NO, NO, NO, {OP_INDEX, SIZES(12), .limit = 12}), .big = true, .random = true, .outputs = 2,
     WISH(16, .causal = true, .dropout = 0.2)},
    {CALL("short, many rows", W(310, 7, 16), NO, NO, SQUARE(16), BIASES(16)), .big = true, WISH(16)},
    {CALL("short, constant projections", W(12, 6, 16), NO, NO, {OP_WEIGHT, SIZES(32, 16), .constant = true},
     P(32, 16), {OP_WEIGHT, SIZES(32, 16), .constant = true}, {OP_WEIGHT, SIZES(16, 32), .constant = true}),
     .big = true, WISH(16)},
    {CALL("short, all but the output constant", {N, SIZES(12, 6, 16), .constant = true}, NO, NO, {OP_WEIGHT,
     SIZES(32, 16), .constant = true}, {OP_WEIGHT, SIZES(32, 16), .constant = true}, {OP_WEIGHT, SIZES(32, 16),
     .constant = true}, P(16, 32)), .big = true, WISH(16)},
    {CALL("large", W(2, 70, 48), NO, NO, SQUARE(48), BIASES(48)), .big = true, WISH(4, .causal = true)},
    {CALL("large, cross, groups", W(2, 67, 48), W(2, 131, 40), NO, P(64, 48), P(32, 40), P(32, 40), P(33,
     64)), .big = true, WISH(4, 2)},
    {CALL("large, dropout, weights", W(2, 70, 48), NO, NO, SQUARE(48)), .big = true, .random = true,
     .outputs = 2, WISH(4, .dropout = 0.1)},
};

static const struct op_wrong wrongs[] = {
    {{"no heads", call_mha, {W(2, 5, 6), NO, NO, SQUARE(6)}, WISH(0)}, HEED_ERROR_ARGUMENT,
     "multi_head_attention: "},
    {{"heads do not divide", call_mha, {W(2, 5, 6), NO, NO, SQUARE(6)}, WISH(4)}, HEED_ERROR_SHAPE,
     "multi_head_attention: q weight[6,6] is not [a multiple of 4, 6]"},
    {{"key heads do not divide", call_mha, {W(2, 5, 6), NO, NO, SQUARE(6)}, WISH(3, 2)}, HEED_ERROR_ARGUMENT,
     "multi_head_attention: "},
    {{"no projection", call_mha, {W(2, 5, 6), NO, NO, P(6, 6), NO, P(6, 6), P(6, 6)}, WISH(2)},
     HEED_ERROR_ARGUMENT, "multi_head_attention: "},
    {{"projection does not fit the input", call_mha, {W(2, 5, 6), NO, NO, P(6, 5), P(6, 6), P(6, 6), P(6, 6)},
     WISH(2)}, HEED_ERROR_SHAPE, "multi_head_attention: query[2,5,6] does not match q weight[6,5]"},
    {{"key is wider than its projection", call_mha, {W(2, 5, 6), W(2, 4, 8), NO, SQUARE(6)}, WISH(2)},
     HEED_ERROR_SHAPE, "multi_head_attention: key[2,4,8] does not match k weight[6,6]"},
    {{"q and k differ in width", call_mha, {W(2, 5, 6), NO, NO, P(6, 6), P(4, 6), P(6, 6), P(6, 6)}, WISH(2)},
     HEED_ERROR_SHAPE, "multi_head_attention: "},
    {{"out does not fit", call_mha, {W(2, 5, 6), NO, NO, P(6, 6), P(6, 6), P(6, 6), P(6, 5)}, WISH(2)},
     HEED_ERROR_SHAPE, "multi_head_attention: v weight[6,6] does not match out weight[6,5]"},
    {{"bias too long", call_mha, {W(2, 5, 6), NO, NO, SQUARE(6), W(7)}, WISH(2)}, HEED_ERROR_SHAPE,
     "multi_head_attention: q bias[7] is not [6]"},
    {{"batches clash", call_mha, {W(2, 5, 6), W(3, 5, 6), NO, SQUARE(6)}, WISH(2)}, HEED_ERROR_SHAPE,
     "multi_head_attention: "},
    {{"lengths of key and value differ", call_mha, {W(2, 5, 6), W(2, 4, 6), W(2, 5, 6), SQUARE(6)}, WISH(2)},
     HEED_ERROR_SHAPE, "multi_head_attention: "},
    {{"rank 1", call_mha, {W(6), NO, NO, SQUARE(6)}, WISH(2)}, HEED_ERROR_SHAPE, "multi_head_attention: "},
    {{"negative dropout", call_mha, {W(2, 5, 6), NO, NO, SQUARE(6)}, WISH(2, .dropout = -1)},
     HEED_ERROR_ARGUMENT, "multi_head_attention: "},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("multi-head attention");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
