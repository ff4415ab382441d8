/* Layers: parameters, values against the functional calls, options, errors, memory. */
#include "harness_modules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static heed_tensor input(uint64_t seed, int rank, const int64_t *sizes) {
    return test_tensor(ctx, HEED_F32, seed, rank, sizes);
}

/* Backward of Σ y², then the gradients of all parameters. */
static void train(const heed_module *module, heed_tensor y) {
    heed_backward(heed_sum(heed_mul(y, y), HEED_ALL, false));
    test_gradients(module);
}

/* ---- dense ---- */

START_TEST(dense) {
    heed_module *m =
        heed_dense_new(ctx, &(heed_dense_options){.in = 5, .out = 3, .activation = HEED_ACTIVATION_GELU});
    test_params(m, "weight[3,5] bias[3]");
    int64_t count;
    double *w = test_values(heed_param_find(m, "weight"), &count);
    for (int64_t i = 0; i < count; i++) ck_assert(fabs(w[i]) <= 1 / sqrt(5) && w[i] != 0);
    free(w);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(1, TEST_SHAPE(2, 7, 5)), y = heed_forward(m, x);
    test_shape(y, "[2,7,3]");
    test_same(y, heed_gelu(heed_linear(x, heed_param_find(m, "weight"), heed_param_find(m, "bias"), NULL)),
              "dense");
    train(m, y);
    heed_forward(m, input(1, TEST_SHAPE(2, 6)));
    test_error(ctx, HEED_ERROR_SHAPE, "linear: x[2,6] does not match w[3,5]", "wrong width");
    heed_step_end(ctx);
    heed_module_free(m);
    m = heed_dense_new(
        ctx,
        &(heed_dense_options){.in = 2, .out = 2, .no_bias = true, .weight_init = {HEED_INIT_CONSTANT, 3, 0}});
    test_params(m, "weight[2,2]");
    test_equals(heed_forward(m, heed_full(ctx, HEED_F32, TEST_SHAPE(2), 1)), 2, (float[]){6, 6}, "no bias");
    heed_module_free(m);
}
END_TEST

/* ---- dropout, norms, embedding ---- */

START_TEST(dropout) {
    heed_module *m = heed_dropout_new(ctx, 0.25);
    heed_tensor x = heed_full(ctx, HEED_F32, TEST_SHAPE(4000), 3);
    test_same(heed_forward(m, x), x, "outside of steps");
    heed_step_begin(ctx, HEED_TRAIN);
    int64_t count, kept = 0;
    double *y = test_values(heed_forward(m, x), &count);
    for (int64_t i = 0; i < count; i++) {
        ck_assert(y[i] == 0 || fabs(y[i] - 4) < 1e-4);
        kept += y[i] != 0;
    }
    free(y);
    ck_assert_msg(kept > 2850 && kept < 3150, "%d of 4000 kept", (int)kept);
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

START_TEST(norms) {
    heed_module *layer = heed_layer_norm_new(ctx, &(heed_norm_options){.width = 6, .eps = 0.1});
    heed_module *rms = heed_rms_norm_new(ctx, &(heed_norm_options){.width = 6});
    heed_module *plain = heed_layer_norm_new(ctx, &(heed_norm_options){.width = 6, .no_weight = true});
    heed_module *half = heed_layer_norm_new(ctx, &(heed_norm_options){.width = 6, .no_bias = true});
    test_params(layer, "weight[6] bias[6]");
    test_params(rms, "weight[6]");
    test_params(plain, "");
    test_params(half, "weight[6]");
    heed_tensor x = input(2, TEST_SHAPE(3, 6));
    test_same(heed_forward(layer, x), heed_layer_norm(x, none, none, 0.1), "layer norm");
    test_same(heed_forward(plain, x), heed_layer_norm(x, none, none, 0), "without weight");
    test_same(heed_forward(rms, x), heed_rms_norm(x, none, 0), "rms norm");
    heed_step_begin(ctx, HEED_TRAIN);
    train(layer, heed_exp(heed_forward(layer, x)));
    train(rms, heed_exp(heed_forward(rms, x)));
    heed_step_end(ctx);
    heed_module_free(layer);
    heed_module_free(rms);
    heed_module_free(plain);
    heed_module_free(half);
}
END_TEST

START_TEST(embedding) {
    heed_module *m = heed_embedding_new(ctx, &(heed_embedding_options){.rows = 9, .width = 4});
    test_params(m, "weight[9,4]");
    heed_tensor index = heed_from(ctx, HEED_I32, TEST_SHAPE(2, 3), (int32_t[]){0, 8, 3, 3, 1, 2});
    heed_tensor y = heed_forward(m, index);
    test_shape(y, "[2,3,4]");
    test_same(y, heed_embedding(heed_param_find(m, "weight"), index), "embedding");
    heed_forward(m, heed_full(ctx, HEED_I32, TEST_SHAPE(1), 9));
    test_late(ctx);
    ck_assert(heed_failed(ctx));
    heed_error_clear(ctx);
    heed_module_free(m);
}
END_TEST

/* ---- sequential ---- */

static heed_module *dense_new(int64_t in, int64_t out) {
    return heed_dense_new(ctx,
                          &(heed_dense_options){.in = in, .out = out, .activation = HEED_ACTIVATION_TANH});
}

START_TEST(sequential) {
    heed_module *m = heed_sequential_new(
        ctx, 3, (heed_module *[]){dense_new(4, 8), heed_dropout_new(ctx, 0), dense_new(8, 2)});
    test_params(m, "0.weight[8,4] 0.bias[8] 2.weight[2,8] 2.bias[2]");
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = input(3, TEST_SHAPE(5, 4)), y = heed_forward(m, x);
    test_shape(y, "[5,2]");
    test_same(y, heed_forward(heed_module_find(m, "2"), heed_forward(heed_module_find(m, "0"), x)),
              "sequential");
    train(m, y);
    heed_step_end(ctx);
    heed_module_free(m);
    m = heed_sequential_new(ctx, 0, NULL);
    x = input(3, TEST_SHAPE(5));
    test_same(heed_forward(m, x), x, "empty");
    heed_module_free(m);
}
END_TEST

START_TEST(sequential_owns) {
    heed_module *twice = dense_new(2, 2);
    heed_module *m = heed_sequential_new(ctx, 3, (heed_module *[]){twice, twice, dense_new(2, 2)});
    test_error(ctx, HEED_ERROR_ARGUMENT, "already has a place", "one module twice");
    ck_assert(!heed_is_valid(heed_forward(m, input(1, TEST_SHAPE(2)))));
    test_error(ctx, HEED_ERROR_STATE, "inert", "half-made");
    heed_module_free(m);
    m = heed_sequential_new(ctx, 2, (heed_module *[]){dense_new(2, 2), NULL});
    test_error(ctx, HEED_ERROR_ARGUMENT, "no child given", "NULL");
    heed_module_free(m);
    m = heed_sequential_new(ctx, 2, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "sequential: ", "no list");
    heed_module_free(m);
    m = dense_new(2, 2);
    heed_error_set(ctx, HEED_ERROR_IO, "test", "an earlier error");
    heed_module_free(heed_sequential_new(ctx, 1, &m)); /* frees m */
    heed_error_clear(ctx);
}
END_TEST

/* A module may answer with a tensor of its own, which lives on. */
static heed_tensor constant;
static heed_tensor constant_forward(heed_module *module, heed_tensor x) {
    (void)module, (void)x;
    return constant;
}
static const heed_module_class constant_class = {.name = "Constant", .forward = constant_forward};

START_TEST(sequential_keeps_what_is_not_its_own) {
    constant = heed_keep(heed_full(ctx, HEED_F32, TEST_SHAPE(2), 5));
    heed_module *m = heed_sequential_new(ctx, 3,
                                         (heed_module *[]){heed_module_new(ctx, &constant_class),
                                                           heed_dropout_new(ctx, 0.5), dense_new(2, 2)});
    heed_tensor x = input(1, TEST_SHAPE(2));
    test_shape(heed_forward(m, x), "[2]");
    ck_assert(heed_is_valid(x));
    test_equals(constant, 2, (float[]){5, 5}, "kept");
    heed_free(constant);
    heed_module_free(m);
}
END_TEST

/* Without a tape the activations of a layer end when the next one has run. */
START_TEST(evaluation_keeps_two_activations) {
    heed_module *modules[8];
    for (int i = 0; i < 8; i++) modules[i] = dense_new(64, 64);
    heed_module *m = heed_sequential_new(ctx, 8, modules);
    const size_t activation = 1000 * 64 * sizeof(float);
    heed_tensor x = heed_keep(input(1, TEST_SHAPE(1000, 64)));
    heed_step_begin(ctx, HEED_EVAL);
    heed_free(heed_forward(m, x));
    heed_step_end(ctx);
    heed_step_begin(ctx, HEED_EVAL);
    size_t before = heed_memory(ctx).in_use;
    heed_tensor y = heed_forward(m, x);
    test_ok(ctx);
    ck_assert_uint_le(heed_memory(ctx).in_use, before + activation + 4096);
    ck_assert_uint_le(heed_memory(ctx).peak, before + 5 * activation);
    ck_assert(heed_is_valid(y));
    heed_step_end(ctx);
    heed_free(x);
    heed_module_free(m);
}
END_TEST

/* ---- multi-head attention ---- */

/* The forms of Flux's MultiHeadAttention(dims), and fewer key/value heads. */
static const struct {
    heed_mha_options options;
    const char *params;
    int64_t query, key, value;
    const char *result;
} mha_forms[] = {
    {{.width = 8, .heads = 2},
     "q.weight[8,8] q.bias[8] k.weight[8,8] k.bias[8] v.weight[8,8] v.bias[8] out.weight[8,8] out.bias[8]",
     8,
     8,
     8,
     "[2,5,8]"},
    {{.width = 6, .qk_width = 12, .v_width = 12, .out_width = 5, .heads = 3, .no_bias = true},
     "q.weight[12,6] k.weight[12,6] v.weight[12,6] out.weight[5,12]",
     6,
     6,
     6,
     "[2,5,5]"},
    {{.query_width = 3,
      .key_width = 4,
      .value_width = 5,
      .qk_width = 8,
      .v_width = 6,
      .out_width = 7,
      .heads = 2},
     "q.weight[8,3] q.bias[8] k.weight[8,4] k.bias[8] v.weight[6,5] v.bias[6] out.weight[7,6] out.bias[7]",
     3,
     4,
     5,
     "[2,5,7]"},
    {{.width = 8, .heads = 4, .kv_heads = 2, .key_width = 3, .no_bias = true},
     "q.weight[8,8] k.weight[4,3] v.weight[4,3] out.weight[8,8]",
     8,
     3,
     3,
     "[2,5,8]"},
    {{.width = 8, .heads = 1, .key_width = 3, .value_width = 8, .no_bias = true},
     "q.weight[8,8] k.weight[8,3] v.weight[8,8] out.weight[8,8]",
     8,
     3,
     8,
     "[2,5,8]"},
};

START_TEST(mha_form) {
    heed_module *m = heed_mha_new(ctx, &mha_forms[_i].options);
    test_ok(ctx);
    test_params(m, mha_forms[_i].params);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = input(1, TEST_SHAPE(2, 5, mha_forms[_i].query)),
                k = input(2, TEST_SHAPE(2, 6, mha_forms[_i].key));
    heed_tensor v = input(3, TEST_SHAPE(2, 6, mha_forms[_i].value)), weights;
    heed_tensor y = heed_mha_forward(m, q, k, v, NULL, &weights);
    test_shape(y, mha_forms[_i].result);
    ck_assert_int_eq(heed_size(weights, 1), mha_forms[_i].options.heads);
    heed_tensor total = heed_sum(weights, HEED_DIMS(-1), false);
    test_same(total, heed_full(ctx, HEED_F32, TEST_SHAPE(2, mha_forms[_i].options.heads, 5), 1),
              "sums of weights");
    train(m, y);
    heed_step_end(ctx);
    heed_module_free(m);
}
END_TEST

/* The projections by hand, heads cut out, attended and joined. */
static heed_tensor heads_of(heed_tensor x, heed_module *projection, int64_t heads) {
    x = heed_forward(projection, x);
    int64_t length = heed_size(x, 1), width = heed_size(x, 2) / heads;
    return heed_permute(heed_reshape(x, TEST_SHAPE(-1, length, heads, width)), 4, (int[]){0, 2, 1, 3});
}

static heed_tensor mha_by_hand(heed_module *m, heed_tensor q, heed_tensor k, heed_tensor v, int64_t heads) {
    heed_tensor y = heed_attention(heads_of(q, heed_module_find(m, "q"), heads),
                                   heads_of(k, heed_module_find(m, "k"), heads),
                                   heads_of(v, heed_module_find(m, "v"), heads), NULL, NULL, NULL);
    y = heed_permute(y, 4, (int[]){0, 2, 1, 3});
    y = heed_reshape(y, TEST_SHAPE(heed_size(y, 0), heed_size(y, 1), -1));
    return heed_forward(heed_module_find(m, "out"), y);
}

START_TEST(mha_calls) {
    heed_module *m =
        heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .init = {HEED_INIT_NORMAL, 0, 1}});
    heed_tensor x = input(1, TEST_SHAPE(2, 5, 8)), c = input(2, TEST_SHAPE(2, 3, 8)),
                v = input(3, TEST_SHAPE(2, 3, 8));
    test_same(heed_forward(m, x), mha_by_hand(m, x, x, x, 2), "self");
    test_same(heed_mha_forward(m, x, none, none, NULL, NULL), mha_by_hand(m, x, x, x, 2), "self, typed");
    test_same(heed_mha_forward(m, x, c, none, NULL, NULL), mha_by_hand(m, x, c, c, 2), "value is the key");
    test_same(heed_mha_forward(m, x, c, v, NULL, NULL), mha_by_hand(m, x, c, v, 2), "cross");
    heed_tensor one = heed_reshape(heed_slice(x, 0, 1, 2, 1), TEST_SHAPE(5, 8));
    test_shape(heed_mha_forward(m, one, none, none, NULL, NULL), "[5,8]");
    heed_module_free(m);
}
END_TEST

/* One storage for the parts of one input width; gradients lie likewise without an optimiser. */
START_TEST(mha_places) {
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 6, .heads = 2});
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(heed_sum(heed_forward(m, input(1, TEST_SHAPE(4, 6))), HEED_ALL, false));
    test_ok(ctx);
    static const char *const names[2][3] = {{"q.weight", "k.weight", "v.weight"},
                                            {"q.bias", "k.bias", "v.bias"}};
    for (int i = 0; i < 2; i++) {
        const struct heed_node *q = heed_param_find(m, names[i][0]).node;
        for (int p = 1; p < 3; p++) {
            const struct heed_node *node = heed_param_find(m, names[i][p]).node;
            ptrdiff_t apart = p * heed_view_count(&q->view) * (ptrdiff_t)sizeof(float);
            ck_assert_ptr_eq(node->storage, q->storage);
            ck_assert_int_eq((char *)node->view.data - (char *)q->view.data, apart);
            ck_assert_int_eq((char *)node->grad.data - (char *)q->grad.data, apart);
        }
    }
    heed_step_end(ctx);
    heed_module_free(m);
    m = heed_mha_new(ctx, &(heed_mha_options){.width = 6, .heads = 2, .key_width = 4, .value_width = 6});
    const struct heed_node *q = heed_param_find(m, "q.weight").node, *k = heed_param_find(m, "k.weight").node;
    const struct heed_node *v = heed_param_find(m, "v.weight").node;
    ck_assert(v->storage == q->storage && k->storage != q->storage);
    ck_assert_int_eq((char *)v->view.data - (char *)q->view.data, 36 * sizeof(float));
    heed_module_free(m);
}
END_TEST

/* ---- feed-forward ---- */

START_TEST(feed_forward) {
    heed_module *m = heed_feed_forward_new(ctx, &(heed_feed_forward_options){.width = 3, .dropout = 0.5});
    test_params(m, "in.weight[12,3] in.bias[12] out.weight[3,12] out.bias[3]");
    heed_tensor w1 = heed_param_find(m, "in.weight"), b1 = heed_param_find(m, "in.bias");
    heed_tensor w2 = heed_param_find(m, "out.weight"), b2 = heed_param_find(m, "out.bias");
    heed_tensor x = input(4, TEST_SHAPE(2, 5, 3));
    test_same(heed_forward(m, x), heed_linear(heed_gelu(heed_linear(x, w1, b1, NULL)), w2, b2, NULL), "GELU");
    test_same(heed_feed_forward(x, w1, b1, w2, none, HEED_ACTIVATION_NONE, 0),
              heed_linear(heed_linear(x, w1, b1, NULL), w2, none, NULL), "identity");
    heed_step_begin(ctx, HEED_TRAIN);
    train(m, heed_forward(m, x));
    heed_step_end(ctx);
    heed_module_free(m);
    m = heed_feed_forward_new(
        ctx, &(heed_feed_forward_options){
                 .width = 3, .hidden = 5, .activation = HEED_ACTIVATION_SILU, .no_bias = true});
    test_params(m, "in.weight[5,3] out.weight[3,5]");
    heed_module_free(m);
}
END_TEST

/* ---- errors ---- */

static void refused(heed_module *m, const char *part) {
    ck_assert_ptr_nonnull(m);
    test_error(ctx, HEED_ERROR_ARGUMENT, part, part);
    ck_assert_int_eq(heed_param_tensors(m), 0);
    heed_module_free(m);
}

START_TEST(bad_options) {
    const uint64_t r = 1;
    refused(heed_dense_new(ctx, NULL), "dense: options must be given");
    refused(heed_dense_new(ctx, &(heed_dense_options){.in = 3}), "dense: out 0 is not at least 1");
    refused(heed_dense_new(ctx, &(heed_dense_options){.in = -1, .out = 1}), "dense: in -1");
    refused(heed_dense_new(ctx, &(heed_dense_options){.in = 1, .out = 1, .reserved = {r}}),
            "dense: reserved words");
    refused(heed_dense_new(ctx, &(heed_dense_options){.in = 1, .out = 1, .activation = (heed_activation)50}),
            "dense: 50 is not an activation");
    refused(heed_dense_new(
                ctx, &(heed_dense_options){.in = 1, .out = 1, .weight_init = {(heed_init_kind)99, 0, 0}}),
            "init: kind 99");
    refused(heed_dropout_new(ctx, 1), "dropout: p 1 is not in [0, 1)");
    refused(heed_dropout_new(ctx, NAN), "dropout: p nan");
    refused(heed_layer_norm_new(ctx, &(heed_norm_options){.width = 0}), "layer_norm: width 0");
    refused(heed_rms_norm_new(ctx, &(heed_norm_options){.width = 1, .eps = -1}), "rms_norm: eps -1");
    refused(heed_rms_norm_new(ctx, &(heed_norm_options){.width = 1, .reserved = {0, r}}),
            "rms_norm: reserved");
    refused(heed_embedding_new(ctx, &(heed_embedding_options){.rows = 5}), "embedding: width 0");
    refused(
        heed_embedding_new(ctx, &(heed_embedding_options){.rows = 5, .width = 1, .reserved = {0, 0, 0, r}}),
        "embedding: reserved");
    refused(heed_mha_new(ctx, NULL), "mha: options must be given");
    refused(heed_mha_new(ctx, &(heed_mha_options){.heads = 2}), "mha: width 0 is not at least 1");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8}), "mha: heads 0 is not at least 1");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 64, .heads = 5}),
            "mha: heads 5 does not divide qk_width 64");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 64, .heads = 4, .v_width = 6}),
            "mha: heads 4 does not divide v_width 6");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 64, .heads = 8, .kv_heads = 3}),
            "mha: kv_heads 3 does not divide heads 8");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .key_width = -4}),
            "mha: key_width -4");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .dropout = 1}), "mha: dropout 1");
    refused(heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2, .reserved = {0, 0, 0, 0, 0, r}}),
            "mha: reserved");
    refused(heed_feed_forward_new(ctx, &(heed_feed_forward_options){.width = 2, .hidden = -1}),
            "feed_forward: hidden -1");
    refused(heed_feed_forward_new(ctx, &(heed_feed_forward_options){.width = 2, .dropout = -1}),
            "feed_forward: dropout -1");
    refused(heed_feed_forward_new(ctx, &(heed_feed_forward_options){.width = 2, .reserved = {r}}),
            "feed_forward: reserved");
    heed_module_free(heed_dense_new(NULL, &(heed_dense_options){.in = 1, .out = 1}));
    heed_module_free(heed_dropout_new(NULL, 0.5));
}
END_TEST

/* Sizes that cannot be are errors of memory and not of arithmetic. */
START_TEST(huge_options) {
    const int64_t huge = INT64_MAX / 2;
    heed_module *m = heed_dense_new(ctx, &(heed_dense_options){.in = huge, .out = huge});
    test_error(ctx, HEED_ERROR_MEMORY, "", "dense");
    heed_module_free(m);
    m = heed_mha_new(ctx, &(heed_mha_options){.width = huge, .heads = 1});
    test_error(ctx, HEED_ERROR_MEMORY, "mha", "mha");
    heed_module_free(m);
    m = heed_mha_new(ctx, &(heed_mha_options){.width = (int64_t)1 << 30, .heads = 1});
    test_error(ctx, HEED_ERROR_MEMORY, "", "mha within int64");
    heed_module_free(m);
    m = heed_feed_forward_new(ctx, &(heed_feed_forward_options){.width = huge});
    test_error(ctx, HEED_ERROR_MEMORY, "feed_forward", "feed-forward");
    heed_module_free(m);
}
END_TEST

START_TEST(bad_calls) {
    heed_module *mha = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2}),
                *other = dense_new(8, 8);
    heed_tensor x = input(1, TEST_SHAPE(4, 8)), weights = x;
    ck_assert(!heed_is_valid(heed_mha_forward(other, x, none, none, NULL, &weights)));
    ck_assert(!heed_is_valid(weights));
    test_error(ctx, HEED_ERROR_ARGUMENT, "mha: the module is of class Dense, not MultiHeadAttention",
               "wrong class");
    ck_assert(!heed_is_valid(heed_mha_forward(mha, none, x, x, NULL, NULL)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "mha: the input is none", "no query");
    weights = x;
    ck_assert(!heed_is_valid(heed_mha_forward(NULL, x, none, none, NULL, &weights)));
    ck_assert(!heed_is_valid(weights));
    test_error(ctx, HEED_ERROR_ARGUMENT, "mha: the module is NULL", "no module");
    ck_assert(!heed_is_valid(heed_forward(mha, input(1, TEST_SHAPE(4, 7)))));
    test_error(ctx, HEED_ERROR_SHAPE, "multi_head_attention", "wrong width");
    ck_assert(!heed_is_valid(heed_mha_forward(mha, x, input(1, TEST_SHAPE(3, 9)), none, NULL, NULL)));
    test_error(ctx, HEED_ERROR_SHAPE, "multi_head_attention", "wrong key width");
    heed_forward(mha, heed_zeros(ctx, HEED_F64, TEST_SHAPE(4, 8)));
    ck_assert(heed_failed(ctx));
    heed_error_clear(ctx);
    heed_module_free(mha);
    heed_module_free(other);
}
END_TEST

/* An error says in which module it arose, and only that. */
START_TEST(errors_have_a_place) {
    heed_module *inner = heed_sequential_new(ctx, 2, (heed_module *[]){dense_new(8, 9), dense_new(8, 8)});
    heed_module *root = heed_sequential_new(ctx, 2, (heed_module *[]){dense_new(8, 8), inner});
    heed_tensor x = input(1, TEST_SHAPE(1, 8)), w = input(1, TEST_SHAPE(2, 9));
    heed_forward(root, x);
    ck_assert_str_eq(heed_error(ctx), "1.1 (Dense): linear: x[1,9] does not match w[8,8]");
    heed_error_clear(ctx);
    heed_forward(root, input(1, TEST_SHAPE(1, 7)));
    ck_assert_str_eq(heed_error(ctx), "0 (Dense): linear: x[1,7] does not match w[8,8]");
    heed_error_clear(ctx);
    heed_linear(x, w, none, NULL);
    ck_assert_str_eq(heed_error(ctx), "linear: x[1,8] does not match w[2,9]");
    heed_forward(root, x);
    ck_assert_str_eq(heed_error(ctx), "linear: x[1,8] does not match w[2,9]");
    heed_error_clear(ctx);
    heed_module_free(root);
    heed_module *encoder =
        heed_encoder_new(ctx, &(heed_transformer_options){.layers = 2, .width = 8, .heads = 2});
    heed_forward(encoder, input(1, TEST_SHAPE(1, 3, 7)));
    ck_assert_str_eq(heed_error(ctx),
                     "layers.0.norm1 (LayerNorm): layer_norm: weight[8] does not match x[1,3,7]");
    heed_error_clear(ctx);
    heed_encoder_forward(encoder, input(1, TEST_SHAPE(1, 3, 8)), heed_score_bias(heed_score_new(ctx), x));
    ck_assert_ptr_nonnull(
        strstr(heed_error(ctx), "layers.0.attention (MultiHeadAttention): multi_head_attention: bias[1,8]"));
    heed_error_clear(ctx);
    heed_module_free(encoder);
}
END_TEST

/* ---- memory ---- */

static heed_module *small_model(heed_ctx *of) {
    heed_module *parts[] = {
        heed_mha_new(of, &(heed_mha_options){.width = 4, .heads = 2, .key_width = 4}),
        heed_layer_norm_new(of, &(heed_norm_options){.width = 4}),
        heed_feed_forward_new(of, &(heed_feed_forward_options){.width = 4}),
        heed_embedding_new(of, &(heed_embedding_options){.rows = 2, .width = 4}),
    };
    return heed_sequential_new(of, 4, parts);
}

START_TEST(memory_returns) {
    heed_module_free(small_model(ctx));
    size_t before = heed_memory(ctx).in_use;
    heed_module_free(small_model(ctx));
    test_ok(ctx);
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
}
END_TEST

static void make_small_model(heed_ctx *own) {
    heed_module *module = small_model(own);
    heed_module_free(module);
    ck_assert(heed_failed(own) || own->modules == 0);
}

START_TEST(every_allocation_fails) {
    ck_assert_int_gt(test_failing_allocations("ref", 1, false, make_small_model), 30);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("layers");
    TCase *tcase = test_case(suite, "layers");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, dense);
    tcase_add_test(tcase, dropout);
    tcase_add_test(tcase, norms);
    tcase_add_test(tcase, embedding);
    tcase_add_test(tcase, sequential);
    tcase_add_test(tcase, sequential_owns);
    tcase_add_test(tcase, sequential_keeps_what_is_not_its_own);
    tcase_add_test(tcase, evaluation_keeps_two_activations);
    tcase_add_loop_test(tcase, mha_form, 0, sizeof mha_forms / sizeof *mha_forms);
    tcase_add_test(tcase, mha_calls);
    tcase_add_test(tcase, mha_places);
    tcase_add_test(tcase, feed_forward);
    tcase_add_test(tcase, bad_options);
    tcase_add_test(tcase, huge_options);
    tcase_add_test(tcase, bad_calls);
    tcase_add_test(tcase, errors_have_a_place);
    tcase_add_test(tcase, memory_returns);
    tcase_add_test(tcase, every_allocation_fails);
    return test_main(suite);
}
