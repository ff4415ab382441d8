/* Multi-head attention with norms of queries and keys and with rotary positions: as a layer, in blocks, in a
 * GPT. */
#include "harness_modules.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tensor/internal.h"

static heed_ctx *ctx;
static const heed_tensor none;

static void setup(void) {
    ctx = test_cpu();
}

static void teardown(void) {
    heed_ctx_free(ctx);
}

static heed_tensor input(uint64_t seed, int rank, const int64_t *sizes) {
    return test_tensor(ctx, HEED_F32, seed, rank, sizes);
}

/* One projection by hand: [2, length, width] to [2, heads, length, head width]. */
static heed_tensor head_part(heed_module *m, const char *name, const char *norm, heed_tensor x, int64_t heads,
                             const heed_rotary_options *rotary) {
    char weight[32], bias[32], gain[32];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    snprintf(gain, sizeof gain, "%s.weight", norm);
    x = heed_linear(x, heed_param_find(m, weight), heed_param_find(m, bias), NULL);
    x = heed_reshape(x, 4, (int64_t[]){heed_size(x, 0), heed_size(x, 1), heads, heed_size(x, 2) / heads});
    heed_tensor g = heed_param_find(m, gain);
    if (!heed_is_none(g)) x = heed_rms_norm(x, g, 1e-3);
    x = heed_contiguous(heed_permute(x, 4, (int[]){0, 2, 1, 3}));
    return rotary ? heed_rotary(x, rotary) : x;
}

static heed_tensor by_hand(heed_module *m, heed_tensor query, heed_tensor key, const heed_mha_options *o,
                           const heed_score *score) {
    const int64_t kv_heads = o->kv_heads ? o->kv_heads : o->heads;
    const heed_rotary_options options = {.half_split = o->rotary_half_split, .base = o->rotary_base},
                              *rotary = o->rotary ? &options : NULL;
    heed_tensor q = head_part(m, "q", "q_norm", query, o->heads, rotary),
                k = head_part(m, "k", "k_norm", key, kv_heads, rotary),
                v = head_part(m, "v", "", key, kv_heads, NULL);
    heed_tensor y = heed_permute(heed_attention(q, k, v, score, NULL, NULL), 4, (int[]){0, 2, 1, 3});
    y = heed_reshape(y, 3, (int64_t[]){heed_size(y, 0), heed_size(y, 1), heed_size(y, 2) * heed_size(y, 3)});
    return heed_linear(y, heed_param_find(m, "out.weight"), heed_param_find(m, "out.bias"), NULL);
}

static const heed_mha_options forms[] = {
    {.width = 8, .heads = 2, .rotary = true},
    {.width = 8, .heads = 2, .qk_norm = true, .eps = 1e-3},
    {.width = 12, .heads = 3, .kv_heads = 1, .qk_norm = true, .eps = 1e-3, .rotary = true, .no_bias = true},
    {.width = 8,
     .heads = 2,
     .qk_width = 12,
     .v_width = 6,
     .rotary = true,
     .rotary_half_split = true,
     .rotary_base = 50},
};

/* Self and cross, with a mask and weights, and the gradient of every parameter. */
START_TEST(form) {
    const heed_mha_options *o = &forms[_i];
    heed_module *m = heed_mha_new(ctx, o);
    test_shake(m);
    ck_assert(heed_is_none(heed_param_find(m, "q_norm.weight")) == !o->qk_norm);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, TEST_SHAPE(2, 5, o->width)), c = input(2, TEST_SHAPE(2, 7, o->width)), weights;
    const heed_score *causal = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT));
    test_same(heed_forward(m, x), by_hand(m, x, x, o, NULL), "self");
    test_same(heed_mha_forward(m, x, c, none, NULL, NULL), by_hand(m, x, c, o, NULL), "cross");
    heed_tensor y = heed_mha_forward(m, x, none, none, causal, &weights);
    test_same(y, by_hand(m, x, x, o, causal), "causal");
    test_shape(weights, o->heads == 2 ? "[2,2,5,5]" : "[2,3,5,5]");
    test_same(heed_sum(weights, HEED_DIMS(3), false), heed_full(ctx, HEED_F32, TEST_SHAPE(2, o->heads, 5), 1),
              "rows");
    heed_backward(heed_sum(heed_mul(y, y), HEED_ALL, false));
    test_gradients(m);
    heed_step_end(ctx);
    heed_tensor flat = input(3, TEST_SHAPE(5, o->width)), deep = input(3, TEST_SHAPE(1, 1, 5, o->width));
    test_same(heed_forward(m, flat), heed_forward(m, deep), "batch dimensions");
    heed_module_free(m);
}
END_TEST

/* ---- products ---- */

/* The reference kernel of linear products, and how many it made. */
static int64_t forwards, backwards;

static heed_status counted_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    forwards++;
    return heed_ref_kernels[HEED_PRIMITIVE_LINEAR]->forward(exec, args, saved, scratch);
}

static heed_status counted_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_linear_args *a = args;
    backwards += heed_has(&a->dx.view) + heed_has(&a->dw.view);
    return heed_ref_kernels[HEED_PRIMITIVE_LINEAR]->backward(exec, args, saved, scratch);
}

static void counted_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    heed_ref_kernels[HEED_PRIMITIVE_LINEAR]->sizes(exec, args, sizes);
}

static const struct heed_kernel counted = {
    .name = "counted", .sizes = counted_sizes, .forward = counted_forward, .backward = counted_backward};

/* With the output's product. */
START_TEST(products) {
    if (test_elsewhere()) return; /* it counts runs of a kernel of ref */
    static const struct {
        const char *what, *frozen;
        int inputs; /* 1: query, key and value are one; 2: key and value are; 3: all differ */
        int64_t forwards, backwards;
    } rows[] = {{"self", NULL, 1, 2, 4},
                {"key is value", NULL, 2, 3, 6},
                {"three inputs", NULL, 3, 4, 8},
                {"self, all frozen", "", 1, 2, 2},
                {"self, a frozen weight", "k.weight", 1, 2, 5},
                {"self, a frozen bias", "q.bias", 1, 2, 6},
                {"key is value, frozen query", "q.weight", 2, 3, 5}};
    heed_ctx *ref = test_ref();
    ref->exec.kernel[HEED_PRIMITIVE_LINEAR][0] = &counted;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        heed_module *m = heed_mha_new(ref, &(heed_mha_options){.width = 8, .heads = 2, .rotary = true});
        heed_tensor x[3];
        if (rows[i].frozen && !*rows[i].frozen) heed_module_freeze(m, true);
        if (rows[i].frozen && *rows[i].frozen) heed_require_grad(heed_param_find(m, rows[i].frozen), false);
        heed_step_begin(ref, HEED_TRAIN);
        for (int k = 0; k < 3; k++) {
            x[k] = k < rows[i].inputs ? test_tensor(ref, HEED_F32, 1, TEST_SHAPE(2, 5, 8)) : none;
            if (k < rows[i].inputs) heed_require_grad(x[k], true);
        }
        forwards = backwards = 0;
        heed_tensor y = heed_mha_forward(m, x[0], x[1], x[2], NULL, NULL);
        heed_backward(heed_sum(y, HEED_ALL, false));
        test_ok(ref);
        ck_assert_msg(forwards == rows[i].forwards && backwards == rows[i].backwards,
                      "%s: %d products and %d backward", rows[i].what, (int)forwards, (int)backwards);
        heed_step_end(ref);
        heed_module_free(m);
    }
    heed_ctx_free(ref);
}
END_TEST

START_TEST(products_of_a_cached_position) {
    if (test_elsewhere()) return; /* it counts runs of a kernel of ref */
    heed_ctx *ref = test_ref();
    ref->exec.kernel[HEED_PRIMITIVE_LINEAR][0] = &counted;
    heed_module *m = heed_mha_new(ref, &(heed_mha_options){.width = 8, .heads = 2});
    heed_cache *cache =
        heed_cache_new(ref, &(heed_cache_options){.batch = 1, .kv_heads = 2, .width = 4, .capacity = 3});
    heed_tensor x = test_tensor(ref, HEED_F32, 1, TEST_SHAPE(1, 1, 8));
    forwards = 0;
    heed_mha_forward_cached(m, x, cache, NULL, NULL);
    test_ok(ref);
    ck_assert_int_eq(forwards, 2);
    heed_cache_free(cache);
    heed_module_free(m);
    heed_ctx_free(ref);
}
END_TEST

/* ---- gradients ---- */

enum { MOST_PARAMS = 12 };

/* The gradients of all parameters that want one, and of x, after `times` backward passes. */
static void gradients(heed_module *m, const heed_mha_options *o, bool layer, int times, double **grad,
                      int64_t *count) {
    heed_tensor x = input(1, TEST_SHAPE(2, 5, o->width)), y[3], leaf[MOST_PARAMS];
    const int64_t params = heed_param_tensors(m);
    heed_module_zero_grad(m);
    heed_require_grad(x, true);
    for (int i = 0; i < times; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        y[i] = layer ? heed_forward(m, x) : by_hand(m, x, x, o, NULL);
        heed_backward(heed_sum(heed_mul(y[i], heed_mul_scalar(y[i], i + 1)), HEED_ALL, false));
        heed_step_end(ctx);
    }
    for (int64_t i = 0; i < params; i++) leaf[i] = heed_param_at(m, i, NULL, 0);
    leaf[params] = x;
    for (int64_t i = 0; i <= params; i++) {
        heed_tensor g = heed_grad(leaf[i]);
        ck_assert(heed_is_valid(g) == heed_requires_grad(leaf[i]));
        count[i] = 0;
        grad[i] = heed_is_none(g) ? NULL : test_values(g, &count[i]);
    }
    heed_free(x);
}

/* Joined products have the gradients of products one by one: all wanted or some, once or added up, in the
 * layer's buffer or in the optimiser's. */
START_TEST(gradients_by_hand) {
    static const char *const frozen[] = {NULL, "q.weight", "k.weight", "v.weight", "k.bias"};
    const heed_mha_options *o = &forms[_i];
    for (int i = 0; i < 20; i++) {
        heed_module *m = heed_mha_new(ctx, o);
        heed_optim *optim = i % 2 ? heed_sgd_new(m, NULL) : NULL;
        const char *name = frozen[i / 4];
        double *expected[MOST_PARAMS] = {NULL}, *actual[MOST_PARAMS] = {NULL};
        int64_t count[MOST_PARAMS] = {0}, params = heed_param_tensors(m);
        char text[200];
        test_shake(m);
        if (name && !heed_is_none(heed_param_find(m, name)))
            heed_require_grad(heed_param_find(m, name), false);
        gradients(m, o, false, 1 + i / 2 % 2, expected, count);
        gradients(m, o, true, 1 + i / 2 % 2, actual, count);
        for (int64_t p = 0; p <= params; p++) {
            if (!expected[p]) continue;
            double scale = fmax(test_largest(count[p], expected[p]), 1);
            ck_assert_msg(test_close(count[p], actual[p], expected[p], (struct test_tolerance){1e-5, 1e-5},
                                     scale, text, sizeof text),
                          "try %d, parameter %d: %s", i, (int)p, text);
            free(expected[p]);
            free(actual[p]);
        }
        heed_optim_free(optim);
        heed_module_free(m);
    }
}
END_TEST

START_TEST(parameters) {
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .qk_norm = true});
    test_params(m, "q.weight[8,8] q.bias[8] k.weight[8,8] k.bias[8] v.weight[8,8] v.bias[8] out.weight[8,8] "
                   "out.bias[8] q_norm.weight[4] k_norm.weight[4]");
    test_same(heed_param_find(m, "q_norm.weight"), heed_full(ctx, HEED_F32, TEST_SHAPE(4), 1), "gain");
    heed_module_free(m);
}
END_TEST

/* Without positions the other way round would be the same. */
START_TEST(rotary_knows_order) {
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .rotary = true});
    heed_tensor x = input(1, TEST_SHAPE(1, 6, 8));
    heed_tensor back = heed_from(ctx, HEED_I32, TEST_SHAPE(6), (int32_t[]){5, 4, 3, 2, 1, 0});
    heed_tensor y = heed_forward(m, heed_index_select(x, 1, back));
    double distance = heed_item(heed_mse(heed_forward(m, x), heed_index_select(y, 1, back), HEED_REDUCE_SUM));
    ck_assert_msg(distance > 1e-5, "distance %g", distance);
    heed_module_free(m);
}
END_TEST

static void refused(heed_module *m, const char *message) {
    test_error(ctx, HEED_ERROR_ARGUMENT, message, message);
    heed_module_free(m);
}

START_TEST(errors) {
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 6, .heads = 2, .rotary = true}),
            "mha: rotary positions need heads of even width, not 3");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .qk_norm = true, .eps = -1}),
            "mha: eps -1");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .rotary = true, .rotary_base = -1}),
            "mha: rotary_base -1");
    refused(
        heed_gpt_new(
            ctx,
            &(heed_gpt_options){
                .vocabulary = 3, .layers = 1, .heads = 1, .width = 2, .rotary = true, .sinusoidal = true}),
        "gpt: positions are sinusoidal or rotary");
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .rotary = true});
    heed_tensor weights;
    ck_assert(!heed_is_valid(heed_mha_forward(m, input(1, TEST_SHAPE(8)), none, none, NULL, &weights)));
    ck_assert(!heed_is_valid(weights));
    test_error(ctx, HEED_ERROR_SHAPE, "mha: an input has rank 1", "rank 1");
    heed_forward(m, input(1, TEST_SHAPE(2, 7)));
    test_error(ctx, HEED_ERROR_SHAPE, "linear: x[2,7] does not match w[8,8]", "width");
    heed_mha_forward(m, input(1, TEST_SHAPE(2, 4, 8)), input(1, TEST_SHAPE(3, 4, 8)), none, NULL, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "attention: ", "batches");
    heed_module_free(m);
}
END_TEST

/* ---- blocks and models ---- */

static const heed_transformer_options block = {
    .layers = 2, .width = 8, .heads = 2, .qk_norm = true, .rotary = true, .rotary_half_split = true};

START_TEST(stacks) {
    heed_module *encoder = heed_encoder_new(ctx, &block), *decoder = heed_decoder_new(ctx, &block);
    test_shake(encoder);
    test_shake(decoder);
    ck_assert(heed_is_valid(heed_param_find(encoder, "layers.1.attention.k_norm.weight")));
    ck_assert(heed_is_valid(heed_param_find(decoder, "layers.1.cross_attention.q_norm.weight")));
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, TEST_SHAPE(2, 5, 8));
    heed_tensor y = heed_decoder_forward(decoder, x, heed_forward(encoder, x), NULL, NULL);
    test_shape(y, "[2,5,8]");
    heed_backward(heed_sum(heed_mul(y, heed_mul(y, y)), HEED_ALL, false));
    test_gradients(encoder);
    test_gradients(decoder);
    heed_step_end(ctx);
    /* Positions of the memory are not the decoder's. */
    heed_tensor memory = input(2, TEST_SHAPE(1, 4, 8)), one = input(3, TEST_SHAPE(1, 3, 8));
    heed_tensor order = heed_from(ctx, HEED_I32, TEST_SHAPE(4), (int32_t[]){2, 0, 3, 1});
    test_same(heed_decoder_forward(decoder, one, memory, NULL, NULL),
              heed_decoder_forward(decoder, one, heed_index_select(memory, 1, order), NULL, NULL), "memory");
    heed_module_free(encoder);
    heed_module_free(decoder);
}
END_TEST

START_TEST(gpt) {
    heed_module *m = heed_gpt_new(ctx, &(heed_gpt_options){.vocabulary = 11,
                                                           .length = 8,
                                                           .layers = 2,
                                                           .heads = 2,
                                                           .kv_heads = 1,
                                                           .width = 8,
                                                           .norm = HEED_NORM_RMS,
                                                           .rotary = true,
                                                           .qk_norm = true});
    ck_assert(heed_is_none(heed_param_find(m, "positions.weight")));
    ck_assert(heed_is_valid(heed_param_find(m, "layers.0.attention.q_norm.weight")));
    heed_optim *optim = heed_adamw_new(m, NULL);
    const int32_t text[8] = {1, 2, 3, 1, 2, 4, 1, 2};
    double first = 0, loss = 0;
    for (int i = 0; i < 250; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor all = heed_from(ctx, HEED_I32, TEST_SHAPE(1, 8), text);
        heed_tensor logits = heed_forward(m, heed_slice(all, 1, 0, 7, 1));
        heed_tensor mean = heed_cross_entropy(logits, heed_slice(all, 1, 1, 8, 1), NULL);
        heed_backward(mean);
        if (i == 0) test_gradients(m);
        heed_optim_step(optim, 0.01);
        loss = heed_item(mean);
        if (i == 0) first = loss;
        ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    }
    ck_assert_msg(loss < 0.3 * first, "loss went from %g to %g", first, loss);
    heed_optim_free(optim);
    heed_module_free(m);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mha_parts");
    TCase *tcase = test_case(suite, "mha_parts");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, form, 0, sizeof forms / sizeof *forms);
    tcase_add_loop_test(tcase, gradients_by_hand, 0, sizeof forms / sizeof *forms);
    tcase_add_test(tcase, products);
    tcase_add_test(tcase, products_of_a_cached_position);
    tcase_add_test(tcase, parameters);
    tcase_add_test(tcase, rotary_knows_order);
    tcase_add_test(tcase, errors);
    tcase_add_test(tcase, stacks);
    tcase_add_test(tcase, gpt);
    return test_main(suite);
}
