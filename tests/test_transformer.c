/* Transformer blocks and stacks against their formulas, positions, and the GPT. */
#include "harness_modules.h"

#include <math.h>
#include <stdlib.h>

#include "layers/module.h"

static heed_ctx *ctx;
static const heed_tensor none;

static void setup(void) {
    ctx = test_cpu();
}

static void teardown(void) {
    ck_assert_uint_eq(ctx->modules, 0);
    heed_ctx_free(ctx);
}

static heed_tensor input(uint64_t seed, int64_t batch, int64_t length, int64_t width) {
    return test_tensor(ctx, HEED_F32, seed, TEST_SHAPE(batch, length, width));
}

static heed_tensor part(heed_module *module, const char *name, heed_tensor x) {
    return heed_forward(heed_module_find(module, name), x);
}

static heed_score *causal(void) {
    return heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT));
}

/* ---- encoders ---- */

static const char encoder_layer_params[] =
    "attention.q.weight[8,8] attention.q.bias[8] attention.k.weight[8,8] attention.k.bias[8] "
    "attention.v.weight[8,8] attention.v.bias[8] attention.out.weight[8,8] attention.out.bias[8] "
    "norm1.weight[8] norm1.bias[8] feed_forward.in.weight[32,8] feed_forward.in.bias[32] "
    "feed_forward.out.weight[8,32] feed_forward.out.bias[8] norm2.weight[8] norm2.bias[8]";

static heed_tensor encoder_layer_by_hand(heed_module *m, heed_tensor x, const heed_score *score,
                                         bool post_norm) {
    heed_module *attention = heed_module_find(m, "attention");
    if (post_norm) {
        x = part(m, "norm1", heed_add(x, heed_mha_forward(attention, x, none, none, score, NULL)));
        return part(m, "norm2", heed_add(x, part(m, "feed_forward", x)));
    }
    x = heed_add(x, heed_mha_forward(attention, part(m, "norm1", x), none, none, score, NULL));
    return heed_add(x, part(m, "feed_forward", part(m, "norm2", x)));
}

START_TEST(encoder_layer) {
    bool post_norm = _i == 1;
    heed_module *m = heed_encoder_layer_new(
        ctx, &(heed_transformer_options){.width = 8, .heads = 2, .post_norm = post_norm});
    test_ok(ctx);
    test_params(m, encoder_layer_params);
    test_shake(m);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, 2, 5, 8);
    test_same(heed_forward(m, x), encoder_layer_by_hand(m, x, NULL, post_norm), "plain");
    heed_tensor y = heed_encoder_layer_forward(m, x, causal());
    test_same(y, encoder_layer_by_hand(m, x, causal(), post_norm), "causal");
    heed_backward(heed_sum(heed_mul(y, input(2, 2, 5, 8)), HEED_ALL, false));
    test_gradients(m);
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

START_TEST(encoder) {
    const heed_transformer_options options = {
        .layers = 2, .width = 8, .heads = 2, .hidden = 12, .norm = HEED_NORM_RMS};
    heed_module *m = heed_encoder_new(ctx, &options);
    test_ok(ctx);
    ck_assert_int_eq(heed_param_tensors(m), 2 * (16 - 2) + 1);
    ck_assert(heed_is_valid(heed_param_find(m, "layers.1.feed_forward.in.weight")));
    ck_assert(heed_is_valid(heed_param_find(m, "norm.weight")) &&
              heed_is_none(heed_param_find(m, "norm.bias")));
    test_shake(m);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_module *layers = heed_module_find(m, "layers");
    heed_tensor x = input(1, 3, 4, 8), y = x;
    for (int i = 0; i < 2; i++)
        y = heed_encoder_layer_forward(heed_module_find(layers, i ? "1" : "0"), y, causal());
    y = part(m, "norm", y);
    heed_tensor z = heed_encoder_forward(m, x, causal());
    test_same(z, y, "stack");
    heed_backward(heed_sum(heed_mul(z, input(2, 3, 4, 8)), HEED_ALL, false));
    test_gradients(m);
    ck_assert(!heed_is_valid(heed_forward(layers, x)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "class List has no form with one input", "a list");
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

START_TEST(final_norm) {
    heed_transformer_options options = {.layers = 1, .width = 4, .heads = 1, .no_bias = true};
    heed_module *m = heed_encoder_new(ctx, &options);
    ck_assert_ptr_nonnull(heed_module_find(m, "norm"));
    ck_assert(heed_is_none(heed_param_find(m, "layers.0.attention.q.bias")));
    ck_assert(heed_is_none(heed_param_find(m, "layers.0.feed_forward.in.bias")));
    ck_assert(heed_is_valid(heed_param_find(m, "layers.0.norm1.bias")));
    heed_module_free(m);
    options.no_final_norm = true;
    m = heed_encoder_new(ctx, &options);
    ck_assert_ptr_null(heed_module_find(m, "norm"));
    test_shape(heed_forward(m, input(1, 1, 2, 4)), "[1,2,4]");
    heed_module_free(m);
    options = (heed_transformer_options){.layers = 1, .width = 4, .heads = 1, .post_norm = true};
    m = heed_decoder_new(ctx, &options);
    ck_assert_ptr_null(heed_module_find(m, "norm"));
    heed_module_free(m);
}
END_TEST

/* ---- decoders ---- */

static heed_tensor decoder_layer_by_hand(heed_module *m, heed_tensor x, heed_tensor memory, bool post_norm) {
    heed_module *attention = heed_module_find(m, "attention"),
                *cross = heed_module_find(m, "cross_attention");
    if (post_norm) {
        x = part(m, "norm1", heed_add(x, heed_mha_forward(attention, x, none, none, causal(), NULL)));
        x = part(m, "norm2", heed_add(x, heed_mha_forward(cross, x, memory, none, NULL, NULL)));
        return part(m, "norm3", heed_add(x, part(m, "feed_forward", x)));
    }
    x = heed_add(x, heed_mha_forward(attention, part(m, "norm1", x), none, none, causal(), NULL));
    x = heed_add(x, heed_mha_forward(cross, part(m, "norm2", x), memory, none, NULL, NULL));
    return heed_add(x, part(m, "feed_forward", part(m, "norm3", x)));
}

START_TEST(decoder) {
    bool post_norm = _i == 1;
    heed_module *m = heed_decoder_new(
        ctx, &(heed_transformer_options){.layers = 2, .width = 8, .heads = 2, .post_norm = post_norm});
    test_ok(ctx);
    ck_assert_int_eq(heed_param_tensors(m), 2 * (8 + 8 + 4 + 6) + (post_norm ? 0 : 2));
    test_shake(m);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, 2, 5, 8), memory = input(2, 2, 7, 8), y = x;
    heed_require_grad(memory, true);
    heed_module *layers = heed_module_find(m, "layers");
    for (int i = 0; i < 2; i++)
        y = decoder_layer_by_hand(heed_module_find(layers, i ? "1" : "0"), y, memory, post_norm);
    if (!post_norm) y = part(m, "norm", y);
    heed_tensor z = heed_decoder_forward(m, x, memory, causal(), NULL);
    test_same(z, y, "decoder");
    heed_backward(heed_sum(heed_mul(z, input(3, 2, 5, 8)), HEED_ALL, false));
    test_gradients(m);
    ck_assert(heed_is_valid(heed_grad(memory)));
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

START_TEST(decoder_errors) {
    const heed_transformer_options options = {.layers = 1, .width = 4, .heads = 1};
    heed_module *m = heed_decoder_new(ctx, &options), *layer = heed_decoder_layer_new(ctx, &options);
    heed_tensor x = input(1, 1, 2, 4);
    ck_assert(!heed_is_valid(heed_decoder_forward(m, x, none, NULL, NULL)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "decoder: the memory is none", "no memory");
    ck_assert(!heed_is_valid(heed_decoder_layer_forward(layer, x, none, NULL, NULL)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "decoder_layer: the memory is none", "no memory");
    heed_forward(m, x);
    test_error(ctx, HEED_ERROR_ARGUMENT, "use heed_decoder_forward()", "one input");
    heed_forward(layer, x);
    test_error(ctx, HEED_ERROR_ARGUMENT, "use heed_decoder_layer_forward()", "one input");
    heed_decoder_forward(layer, x, x, NULL, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "decoder: the module is of class DecoderLayer, not Decoder",
               "wrong class");
    heed_encoder_forward(m, x, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "encoder: the module is of class Decoder, not Encoder",
               "wrong class");
    heed_module_free(m);
    heed_module_free(layer);
}
END_TEST

/* ---- dropout ---- */

/* x + dropout(branch), the branch being attention or the feed-forward part. */
static heed_tensor residual(heed_tensor x, heed_tensor branch, double dropout) {
    return heed_add(x, heed_dropout(branch, dropout));
}

static heed_tensor dropped_by_hand(heed_module *m, heed_tensor x, bool post_norm) {
    heed_module *attention = heed_module_find(m, "attention");
    if (post_norm) {
        x = part(m, "norm1", residual(x, heed_mha_forward(attention, x, none, none, NULL, NULL), 0.3));
        return part(m, "norm2", residual(x, part(m, "feed_forward", x), 0.3));
    }
    x = residual(x, heed_mha_forward(attention, part(m, "norm1", x), none, none, NULL, NULL), 0.3);
    return residual(x, part(m, "feed_forward", part(m, "norm2", x)), 0.3);
}

/* Under HEED_RANDOM only, in the same places as PyTorch's TransformerEncoderLayer, by the numbers of the
 * step. */
START_TEST(dropout_places) {
    bool post_norm = _i == 1;
    heed_module *m = heed_encoder_layer_new(
        ctx, &(heed_transformer_options){.width = 8, .heads = 2, .dropout = 0.3, .post_norm = post_norm});
    heed_tensor x = heed_keep(input(1, 2, 5, 8)), plain = heed_keep(heed_forward(m, x));
    heed_step_begin(ctx, HEED_EVAL);
    test_same(heed_forward(m, x), plain, "evaluation");
    heed_step_end(ctx);
    heed_random_state state = heed_random_get(ctx);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor expected = heed_keep(dropped_by_hand(m, x, post_norm));
    heed_step_end(ctx);
    heed_random_set(ctx, &state);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor y = heed_forward(m, x);
    test_same(y, expected, "training");
    ck_assert(heed_item(heed_mse(y, plain, HEED_REDUCE_SUM)) > 1e-3);
    heed_step_end(ctx);
    heed_free(expected);
    heed_free(plain);
    heed_free(x);
    heed_module_free(m);
}
END_TEST

/* Attention weights and hidden units are dropped too. */
START_TEST(inner_dropout) {
    heed_module *m =
        heed_encoder_layer_new(ctx, &(heed_transformer_options){.width = 8, .heads = 2, .dropout = 0.5});
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, 2, 16, 8), weights;
    heed_mha_forward(heed_module_find(m, "attention"), x, none, none, NULL, &weights);
    double zeros = heed_item(heed_sum(
        heed_cast(heed_equal(weights, heed_zeros(ctx, HEED_F32, TEST_SHAPE(1))), HEED_F32), HEED_ALL, false));
    ck_assert_msg(zeros > 0.35 * 1024 && zeros < 0.65 * 1024, "%g of 1024 weights are 0", zeros);
    heed_module *feed_forward = heed_module_find(m, "feed_forward");
    ck_assert(heed_item(heed_mse(heed_forward(feed_forward, x), heed_forward(feed_forward, x),
                                 HEED_REDUCE_SUM)) > 1e-3);
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

/* ---- memory ---- */

static size_t evaluation_peak(bool decodes, int64_t layers) {
    heed_ctx *usual = ctx;
    ctx = test_cpu();
    const heed_transformer_options options = {.layers = layers, .width = 32, .heads = 2};
    heed_module *m = decodes ? heed_decoder_new(ctx, &options) : heed_encoder_new(ctx, &options);
    heed_tensor x = input(1, 4, 256, 32);
    size_t before = heed_memory(ctx).in_use;
    heed_step_begin(ctx, HEED_EVAL);
    if (decodes)
        heed_decoder_forward(m, x, x, NULL, NULL);
    else
        heed_encoder_forward(m, x, NULL);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    size_t peak = heed_memory(ctx).peak - before;
    heed_module_free(m);
    heed_ctx_free(ctx);
    ctx = usual;
    return peak;
}

/* Layers end what they made: more of them don't need more memory. */
START_TEST(evaluation_memory) {
    size_t two = evaluation_peak(_i == 1, 2), ten = evaluation_peak(_i == 1, 10);
    ck_assert_msg(ten < two + 20000, "peak %zu with 2 layers, %zu with 10", two, ten);
}
END_TEST

/* ---- positions ---- */

START_TEST(sinusoids) {
    heed_tensor t = heed_sinusoidal_positions(ctx, 6, 5);
    test_shape(t, "[6,5]");
    for (int64_t p = 0; p < 6; p++) {
        for (int64_t c = 0; c < 5; c++) {
            double angle = (double)p / pow(10000, (double)(c - c % 2) / 5);
            double expected = c % 2 ? cos(angle) : sin(angle);
            ck_assert(fabs(heed_at(t, 2, (int64_t[]){p, c}) - expected) < 1e-6);
        }
    }
    test_shape(heed_sinusoidal_positions(ctx, 0, 5), "[0,5]");
    heed_sinusoidal_positions(ctx, -1, 5);
    test_error(ctx, HEED_ERROR_SHAPE, "-1", "negative length");
}
END_TEST

START_TEST(positions) {
    bool sinusoidal = _i == 1;
    heed_module *m =
        heed_positions_new(ctx, &(heed_positions_options){.length = 6, .width = 4, .sinusoidal = sinusoidal});
    test_params(m, sinusoidal ? "" : "weight[6,4]");
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, 3, 5, 4), y = heed_forward(m, x);
    heed_tensor table = sinusoidal ? heed_sinusoidal_positions(ctx, 6, 4) : heed_param_find(m, "weight");
    test_same(y, heed_add(x, heed_slice(table, 0, 0, 5, 1)), "positions");
    if (!sinusoidal) {
        heed_backward(heed_sum(y, HEED_ALL, false));
        heed_tensor g = heed_grad(table);
        ck_assert(heed_at(g, 2, (int64_t[]){4, 3}) == 3 && heed_at(g, 2, (int64_t[]){5, 0}) == 0);
    }
    heed_forward(m, input(1, 1, 7, 4));
    test_error(ctx, HEED_ERROR_SHAPE, "positions: length 7 exceeds the table's 6", "too long");
    heed_forward(m, heed_zeros(ctx, HEED_F32, TEST_SHAPE(4)));
    test_error(ctx, HEED_ERROR_SHAPE, "positions: rank 1", "a vector");
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

/* ---- options ---- */

static void refused(heed_module *m, const char *message) {
    test_error(ctx, HEED_ERROR_ARGUMENT, message, message);
    heed_module_free(m);
}

START_TEST(bad_options) {
    heed_transformer_options o = {.layers = 1, .width = 8, .heads = 3};
    refused(heed_encoder_new(ctx, &o), "encoder: heads 3 does not divide width 8");
    o.heads = 2;
    o.layers = 0;
    refused(heed_encoder_new(ctx, &o), "encoder: layers 0");
    refused(heed_decoder_new(ctx, &o), "decoder: layers 0");
    o.reserved[5] = 1;
    refused(heed_encoder_layer_new(ctx, &o), "encoder_layer: reserved");
    refused(heed_decoder_layer_new(ctx, &o), "decoder_layer: reserved");
    refused(heed_encoder_layer_new(ctx, NULL), "encoder_layer: options must be given");
    refused(heed_encoder_layer_new(ctx, &(heed_transformer_options){.width = 8}), "encoder_layer: heads 0");
    refused(heed_encoder_layer_new(ctx, &(heed_transformer_options){.width = 8, .heads = 2, .kv_heads = 3}),
            "kv_heads 3 does not divide heads 2");
    refused(heed_encoder_layer_new(
                ctx, &(heed_transformer_options){.width = 8, .heads = 2, .norm = (heed_norm_kind)7}),
            "7 is not a kind of norm");
    refused(heed_positions_new(ctx, &(heed_positions_options){.width = 8}), "positions: length 0");
    refused(heed_positions_new(ctx, &(heed_positions_options){.width = 8, .length = 1, .reserved = {1}}),
            "positions: reserved");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("transformer");
    TCase *tcase = test_case(suite, "transformer");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, encoder_layer, 0, 2);
    tcase_add_test(tcase, encoder);
    tcase_add_test(tcase, final_norm);
    tcase_add_loop_test(tcase, decoder, 0, 2);
    tcase_add_test(tcase, decoder_errors);
    tcase_add_loop_test(tcase, dropout_places, 0, 2);
    tcase_add_test(tcase, inner_dropout);
    tcase_add_loop_test(tcase, evaluation_memory, 0, 2);
    tcase_add_test(tcase, sinusoids);
    tcase_add_loop_test(tcase, positions, 0, 2);
    tcase_add_test(tcase, bad_options);
    return test_main(suite);
}
