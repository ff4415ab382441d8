/* The GPT: parameters, start, forms, causality, errors, training, memory. */
#include "harness_modules.h"

#include <math.h>
#include <stdlib.h>

#include "layers/module.h"

static heed_ctx *ctx;

static void setup(void) {
    ctx = test_cpu();
}

static void teardown(void) {
    ck_assert_uint_eq(ctx->modules, 0);
    heed_ctx_free(ctx);
}

static const heed_gpt_options small = {.vocabulary = 11, .length = 8, .layers = 2, .heads = 2, .width = 8};

static heed_tensor tokens_of(uint64_t seed, int64_t batch, int64_t length) {
    int32_t values[64];
    struct test_random random = {seed};
    for (int i = 0; i < 64; i++) values[i] = (int32_t)(test_bits(&random) % 11);
    return heed_from(ctx, HEED_I32, TEST_SHAPE(batch, length), values);
}

START_TEST(gpt_parameters) {
    heed_module *m = heed_gpt_new(
        ctx, &(heed_gpt_options){.vocabulary = 50257, .length = 64, .layers = 3, .heads = 4, .width = 32});
    test_ok(ctx);
    const int64_t block = 4 * (32 * 32 + 32) + 2 * 2 * 32 + 2 * 4 * 32 * 32 + 5 * 32;
    ck_assert_int_eq(heed_param_count(m), 50257 * 32 + 64 * 32 + 3 * block + 2 * 32);
    ck_assert_int_eq(heed_param_tensors(m), 2 + 3 * 16 + 2);
    char first[40];
    heed_param_at(m, 0, first, sizeof first);
    ck_assert_str_eq(first, "tokens.weight");
    ck_assert(heed_is_valid(heed_param_find(m, "positions.weight")) &&
              heed_is_none(heed_param_find(m, "head.weight")));
    heed_module_free(m);
    heed_gpt_options options = small;
    options.untied = options.sinusoidal = options.no_bias = true;
    options.norm = HEED_NORM_RMS;
    options.hidden = 10;
    options.kv_heads = 1;
    m = heed_gpt_new(ctx, &options);
    ck_assert_int_eq(heed_param_count(m), 2 * 11 * 8 + 2 * (2 * 64 + 2 * 32 + 2 * 8 + 2 * 80) + 8);
    test_shape(heed_forward(m, tokens_of(1, 2, 7)), "[2,7,11]");
    heed_module_free(m);
}
END_TEST

static double deviation_of(const heed_module *m, const char *name) {
    int64_t count;
    double *x = test_values(heed_param_find(m, name), &count), squares = 0;
    for (int64_t i = 0; i < count; i++) squares += x[i] * x[i];
    free(x);
    return sqrt(squares / (double)count);
}

/* 0.02 for weights and tables, 0.02 / sqrt(2 · layers) for what ends a residual branch, 0 for biases. */
START_TEST(gpt_start) {
    heed_module *m = heed_gpt_new(
        ctx, &(heed_gpt_options){.vocabulary = 300, .length = 64, .layers = 8, .heads = 4, .width = 64});
    static const char *const full[] = {"tokens.weight", "positions.weight", "layers.0.attention.q.weight",
                                       "layers.7.attention.v.weight", "layers.3.feed_forward.in.weight"};
    static const char *const residual[] = {"layers.0.attention.out.weight",
                                           "layers.7.feed_forward.out.weight"};
    for (int i = 0; i < 5; i++)
        ck_assert_msg(fabs(deviation_of(m, full[i]) / 0.02 - 1) < 0.06, "%s", full[i]);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(fabs(deviation_of(m, residual[i]) / 0.005 - 1) < 0.06, "%s", residual[i]);
    ck_assert(deviation_of(m, "layers.0.attention.q.bias") == 0 &&
              deviation_of(m, "layers.0.feed_forward.in.bias") == 0);
    ck_assert(deviation_of(m, "norm.weight") == 1);
    heed_module_free(m);
}
END_TEST

START_TEST(gpt_forms) {
    heed_module *m = heed_gpt_new(ctx, &small);
    test_shake(m);
    heed_tensor tokens = tokens_of(1, 3, 6), weights;
    heed_tensor logits = heed_forward(m, tokens);
    test_shape(logits, "[3,6,11]");
    heed_tensor last = heed_gpt_forward(m, tokens, &(heed_gpt_call_options){.last_only = true}, NULL);
    test_shape(last, "[3,1,11]");
    test_same(last, heed_slice(logits, 1, 5, 6, 1), "last only");
    test_same(heed_gpt_forward(m, tokens, &(heed_gpt_call_options){.weights_layer = 1}, &weights), logits,
              "weights");
    test_shape(weights, "[3,2,6,6]");
    test_same(heed_sum(weights, HEED_DIMS(3), false), heed_full(ctx, HEED_F32, TEST_SHAPE(3, 2, 6), 1),
              "rows");
    for (int64_t q = 0; q < 6; q++)
        for (int64_t k = 0; k < 6; k++)
            ck_assert((heed_at(weights, 4, (int64_t[]){2, 1, q, k}) > 0) == (k <= q));
    test_shape(heed_forward(m, heed_reshape(heed_slice(tokens, 0, 0, 1, 1), TEST_SHAPE(6))), "[6,11]");
    test_shape(heed_forward(m, tokens_of(1, 3, 0)), "[3,0,11]");
    test_shape(heed_forward(m, tokens_of(1, 0, 4)), "[0,4,11]");
    heed_module_free(m);
}
END_TEST

/* Logits depend on what came before only. */
START_TEST(gpt_is_causal) {
    heed_module *m = heed_gpt_new(ctx, &small);
    int32_t a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {1, 2, 3, 4, 5, 9, 0, 1};
    heed_tensor x = heed_forward(m, heed_from(ctx, HEED_I32, TEST_SHAPE(1, 8), a));
    heed_tensor y = heed_forward(m, heed_from(ctx, HEED_I32, TEST_SHAPE(1, 8), b));
    test_same(heed_slice(x, 1, 0, 5, 1), heed_slice(y, 1, 0, 5, 1), "the same beginning");
    ck_assert(heed_item(heed_mse(x, y, HEED_REDUCE_SUM)) > 1e-6);
    heed_module_free(m);
}
END_TEST

static heed_tensor param(heed_module *m, const char *name) {
    return heed_param_find(m, name);
}

static heed_tensor block_by_hand(heed_module *m, heed_tensor x, const heed_score *score, double dropout) {
    heed_tensor h = heed_forward(heed_module_find(m, "norm1"), x);
    h = heed_mha_forward(heed_module_find(m, "attention"), h, (heed_tensor){0}, (heed_tensor){0}, score,
                         NULL);
    x = heed_add(x, heed_dropout(h, dropout));
    h = heed_linear(heed_forward(heed_module_find(m, "norm2"), x), param(m, "feed_forward.in.weight"),
                    param(m, "feed_forward.in.bias"), NULL);
    h = heed_linear(heed_gelu_tanh(h), param(m, "feed_forward.out.weight"), param(m, "feed_forward.out.bias"),
                    NULL);
    return heed_add(x, heed_dropout(h, dropout));
}

/* GPT-2's formula. Dropout acts on embeddings, attention weights and residual branches, not on hidden units.
 */
static heed_tensor gpt_by_hand(heed_module *m, heed_tensor tokens, double dropout) {
    heed_score *score = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT));
    heed_tensor positions = heed_slice(param(m, "positions.weight"), 0, 0, heed_size(tokens, 1), 1);
    heed_tensor x = heed_add(heed_embedding(param(m, "tokens.weight"), tokens), positions);
    x = heed_dropout(x, dropout);
    heed_module *layers = heed_module_find(m, "layers");
    for (int i = 0; i < 2; i++) x = block_by_hand(heed_module_find(layers, i ? "1" : "0"), x, score, dropout);
    return heed_linear(heed_forward(heed_module_find(m, "norm"), x), param(m, "tokens.weight"),
                       (heed_tensor){0}, NULL);
}

START_TEST(gpt_formula) {
    heed_gpt_options options = small;
    options.dropout = 0.2;
    heed_module *m = heed_gpt_new(ctx, &options);
    test_shake(m);
    heed_random_state state = heed_random_get(ctx);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor expected = heed_keep(gpt_by_hand(m, tokens_of(1, 2, 8), 0.2));
    heed_step_end(ctx);
    heed_random_set(ctx, &state);
    heed_step_begin(ctx, HEED_TRAIN);
    test_same(heed_forward(m, tokens_of(1, 2, 8)), expected, "training");
    heed_step_end(ctx);
    heed_step_begin(ctx, HEED_EVAL);
    test_same(heed_forward(m, tokens_of(1, 2, 8)), gpt_by_hand(m, tokens_of(1, 2, 8), 0), "evaluation");
    heed_step_end(ctx);
    heed_free(expected);
    heed_module_free(m);
}
END_TEST

START_TEST(gpt_errors) {
    heed_module *m = heed_gpt_new(ctx, &small);
    heed_tensor tokens = tokens_of(1, 1, 8), weights;
    ck_assert(!heed_is_valid(heed_forward(m, tokens_of(1, 1, 9))));
    test_error(ctx, HEED_ERROR_SHAPE, "gpt: length 9 exceeds the model's 8", "too long");
    heed_gpt_forward(m, tokens, &(heed_gpt_call_options){.weights_layer = 2}, &weights);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt: weights_layer 2 is not in 0 to 1", "no such layer");
    ck_assert(!heed_is_valid(weights));
    heed_gpt_forward(m, tokens, &(heed_gpt_call_options){.reserved = {0, 1}}, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt: reserved words", "reserved");
    heed_gpt_forward(m, tokens_of(1, 2, 0), &(heed_gpt_call_options){.last_only = true}, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "gpt: length 0 has no last position", "nothing");
    heed_forward(m, heed_full(ctx, HEED_I32, TEST_SHAPE(1, 2), 11));
    test_late(ctx);
    ck_assert(heed_failed(ctx));
    heed_error_clear(ctx);
    heed_forward(m, heed_full(ctx, HEED_I32, HEED_SCALAR, 1));
    test_error(ctx, HEED_ERROR_SHAPE, "gpt: tokens have rank 0", "a scalar");
    heed_forward(m, heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 4)));
    test_error(ctx, HEED_ERROR_DTYPE, "embedding", "floating tokens");
    heed_module_free(m);
}
END_TEST

static void refused(heed_module *m, const char *message) {
    test_error(ctx, HEED_ERROR_ARGUMENT, message, message);
    heed_module_free(m);
}

START_TEST(bad_options) {
    refused(heed_gpt_new(ctx, NULL), "gpt: options must be given");
    refused(heed_gpt_new(ctx, &(heed_gpt_options){.layers = 1, .heads = 1, .width = 1}), "gpt: vocabulary 0");
    refused(heed_gpt_new(ctx, &(heed_gpt_options){.vocabulary = 1, .heads = 1, .width = 1}), "gpt: layers 0");
    refused(heed_gpt_new(ctx, &(heed_gpt_options){.vocabulary = 1, .layers = 1, .heads = 4, .width = 6}),
            "gpt: heads 4 does not divide width 6");
    refused(heed_gpt_new(
                ctx, &(heed_gpt_options){.vocabulary = 1, .layers = 1, .heads = 1, .width = 1, .dropout = 2}),
            "gpt: dropout 2");
    heed_gpt_options gpt = small;
    gpt.reserved[0] = 1;
    refused(heed_gpt_new(ctx, &gpt), "gpt: reserved");
    gpt.reserved[0] = 0;
    gpt.length = -5;
    refused(heed_gpt_new(ctx, &gpt), "gpt: length -5");
}
END_TEST

/* ---- training and memory ---- */

static double train_step(heed_module *m, heed_optim *optim, unsigned flags) {
    heed_step_begin(ctx, flags);
    heed_tensor all = tokens_of(5, 4, 8);
    heed_tensor x = heed_slice(all, 1, 0, 7, 1), y = heed_slice(all, 1, 1, 8, 1);
    heed_tensor loss = heed_cross_entropy(heed_forward(m, x), y, NULL);
    if (optim) {
        heed_backward(loss);
        heed_optim_step(optim, 0.01);
    }
    double value = heed_item(loss);
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    return value;
}

START_TEST(gpt_learns) {
    heed_gpt_options options = small;
    options.dropout = _i == 1 ? 0.05 : 0;
    options.sinusoidal = _i == 2;
    heed_module *m = heed_gpt_new(ctx, &options);
    heed_optim *optim = heed_adamw_new(m, &(heed_adamw_options){.clip_norm = 1});
    double before = train_step(m, NULL, HEED_EVAL);
    ck_assert_msg(fabs(before - log(11)) < 0.2, "loss %g at the start", before);
    for (int i = 0; i < 120; i++) train_step(m, optim, HEED_TRAIN);
    double after = train_step(m, NULL, HEED_EVAL);
    ck_assert_msg(after < 0.3 * before, "loss went from %g to %g", before, after);
    heed_optim_free(optim);
    heed_module_free(m);
}
END_TEST

START_TEST(gpt_gradients) {
    heed_gpt_options options = small;
    options.untied = true;
    heed_module *m = heed_gpt_new(ctx, &options);
    test_shake(m);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(heed_cross_entropy(heed_forward(m, tokens_of(1, 3, 8)), tokens_of(2, 3, 8), NULL));
    test_gradients(m);
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

/* The losses of all steps by every way this machine has to compute are the same but for twenty roundings of
 * an f32 of their size (about 2.4); for any number of threads they are so to the bit. */
enum { AGREEING = 9 };

static void losses_agree(const char *name, const double *losses, const double *expected,
                         const double *one_thread) {
    for (int step = 0; step < AGREEING; step++) {
        const double tolerance = 20 * 0x1p-22;
        ck_assert_msg(fabs(losses[step] - expected[step]) < tolerance,
                      "%s: loss %.9g of step %d, on ref %.9g", name, losses[step], step, expected[step]);
        ck_assert_msg(losses[step] == one_thread[step], "%s: loss %.17g of step %d, with one thread %.17g",
                      name, losses[step], step, one_thread[step]);
    }
}

START_TEST(devices_agree) {
    const struct test_device *device;
    int devices = test_devices(&device);
    heed_ctx *usual = ctx;
    double expected[AGREEING], one_thread[AGREEING], losses[AGREEING];
    for (int i = 0; i < devices; i++) {
        char name[100];
        test_device_name(&device[i], name, sizeof name);
        ctx = test_ctx(&device[i]);
        heed_module *m = heed_gpt_new(ctx, &small);
        heed_optim *optim = heed_adamw_new(m, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
        for (int step = 0; step < AGREEING - 1; step++) losses[step] = train_step(m, optim, HEED_TRAIN);
        losses[AGREEING - 1] = train_step(m, NULL, HEED_EVAL);
        if (i == 0) memcpy(expected, losses, sizeof losses);
        if (device[i].threads == 1) memcpy(one_thread, losses, sizeof losses);
        losses_agree(name, losses, expected, one_thread);
        heed_optim_free(optim);
        heed_module_free(m);
        heed_ctx_free(ctx);
    }
    ctx = usual;
}
END_TEST

START_TEST(steady_step_allocates_nothing) {
    heed_gpt_options options = small;
    options.dropout = 0.1;
    heed_module *m = heed_gpt_new(ctx, &options);
    heed_optim *optim = heed_adamw_new(m, NULL);
    for (int i = 0; i < 3; i++) train_step(m, optim, HEED_TRAIN);
    heed_memory_info before = heed_memory(ctx);
    for (int i = 0; i < 3; i++) train_step(m, optim, HEED_TRAIN);
    heed_memory_info after = heed_memory(ctx);
    ck_assert_uint_eq(after.calls, before.calls);
    ck_assert_uint_eq(after.in_use, before.in_use);
    ck_assert_uint_eq(after.peak, before.peak);
    heed_optim_free(optim);
    heed_module_free(m);
}
END_TEST

static size_t evaluation_peak(int64_t layers) {
    heed_ctx *own = test_cpu();
    heed_module *m =
        heed_gpt_new(own, &(heed_gpt_options){.vocabulary = 16, .layers = layers, .heads = 2, .width = 32});
    heed_tensor tokens = heed_zeros(own, HEED_I32, TEST_SHAPE(4, 256));
    size_t before = heed_memory(own).in_use;
    heed_step_begin(own, HEED_EVAL);
    heed_forward(m, tokens);
    ck_assert_int_eq(heed_step_end(own), HEED_OK);
    size_t peak = heed_memory(own).peak - before;
    heed_module_free(m);
    heed_ctx_free(own);
    return peak;
}

/* Layers end what they made: more of them don't need more memory. */
START_TEST(evaluation_memory) {
    size_t two = evaluation_peak(2), ten = evaluation_peak(10);
    ck_assert_msg(ten < two + 20000, "peak %zu with 2 layers, %zu with 10", two, ten);
}
END_TEST

static void build_and_free(void) {
    heed_module *m = heed_gpt_new(
        ctx, &(heed_gpt_options){.vocabulary = 11, .layers = 1, .heads = 1, .width = 4, .sinusoidal = true});
    heed_module *d = heed_decoder_new(ctx, &(heed_transformer_options){.layers = 1, .width = 4, .heads = 1});
    train_step(m, NULL, HEED_TRAIN);
    heed_module_free(m);
    heed_module_free(d);
}

START_TEST(memory_returns) {
    build_and_free();
    size_t before = heed_memory(ctx).in_use;
    build_and_free();
    test_ok(ctx);
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
}
END_TEST

/* Making a model, and a step. */
static void train_once(heed_ctx *own) {
    const int32_t text[] = {1, 2, 3, 4};
    heed_module *m = heed_gpt_new(own, &(heed_gpt_options){.vocabulary = 5,
                                                           .length = 4,
                                                           .layers = 1,
                                                           .heads = 1,
                                                           .width = 2,
                                                           .dropout = 0.1,
                                                           .sinusoidal = true});
    heed_optim *optim = heed_adamw_new(m, NULL);
    heed_step_begin(own, HEED_TRAIN);
    heed_tensor x = heed_from(own, HEED_I32, TEST_SHAPE(1, 4), text);
    heed_backward(heed_cross_entropy(heed_forward(m, x), x, NULL));
    heed_optim_step(optim, 0.1);
    heed_step_end(own);
    heed_optim_free(optim);
    heed_module_free(m);
}

START_TEST(every_allocation_fails) {
    ck_assert_int_gt(test_failing_allocations("ref", 1, false, train_once), 100);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("gpt");
    TCase *tcase = test_case(suite, "gpt");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, gpt_parameters);
    tcase_add_test(tcase, gpt_start);
    tcase_add_test(tcase, gpt_forms);
    tcase_add_test(tcase, gpt_is_causal);
    tcase_add_test(tcase, gpt_formula);
    tcase_add_test(tcase, gpt_errors);
    tcase_add_test(tcase, bad_options);
    tcase_add_loop_test(tcase, gpt_learns, 0, 3);
    tcase_add_test(tcase, gpt_gradients);
    tcase_add_test(tcase, devices_agree);
    tcase_add_test(tcase, steady_step_allocates_nothing);
    tcase_add_test(tcase, evaluation_memory);
    tcase_add_test(tcase, memory_returns);
    tcase_add_test(tcase, every_allocation_fails);
    return test_main(suite);
}
