/* Values and gradients against PyTorch's, from files that tests/goldens/make.py wrote: per tensor, the
 * largest difference is at most 1e-4 of the largest value. */
#include "harness.h"

#include <heed/io.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A file of goldens, a prefix of the names in it, and the context that everything is computed in. */
struct goldens {
    heed_ctx *ctx;
    heed_file *file;
    const char *prefix;
    double floor; /* stands in for the largest value of a gradient that is zero: that of a bias of keys */
};

static const struct test_device devices[] = {{"ref", NULL, 1}, {"cpu", NULL, 2}};

static struct goldens open_goldens(int device, const char *name) {
    struct goldens g = {.ctx = test_ctx(&devices[device]), .prefix = ""};
    char path[1024];
    snprintf(path, sizeof path, "%s/goldens/%s.safetensors", HEED_TESTS_DIR, name);
    g.file = heed_file_open(g.ctx, path);
    test_ok(g.ctx);
    return g;
}

static void close_goldens(struct goldens *g) {
    test_ok(g->ctx);
    heed_file_free(g->file);
    heed_ctx_free(g->ctx);
}

static const char *full_name(const struct goldens *g, const char *part, const char *name, char *text,
                             size_t bytes) {
    snprintf(text, bytes, "%s%s%s", g->prefix, part, name);
    return text;
}

static heed_tensor golden(const struct goldens *g, const char *name) {
    char full[256];
    heed_tensor t = heed_file_tensor(g->file, full_name(g, "", name, full, sizeof full));
    test_ok(g->ctx);
    return t;
}

/* The same, asking for its gradient; none if the file has it not. */
static heed_tensor golden_leaf(const struct goldens *g, const char *name) {
    char full[256];
    if (heed_file_find(g->file, full_name(g, "", name, full, sizeof full)) < 0) return (heed_tensor){0};
    heed_tensor t = golden(g, name);
    heed_require_grad(t, true);
    return t;
}

static void compare(const struct goldens *g, heed_tensor actual, const char *part, const char *name) {
    char full[256], text[200];
    full_name(g, part, name, full, sizeof full);
    test_ok(g->ctx);
    heed_tensor wanted = heed_file_tensor(g->file, full);
    int64_t count, wanted_count;
    double *a = test_values(actual, &count), *w = test_values(wanted, &wanted_count);
    ck_assert_msg(count == wanted_count, "%s has %lld elements and not %lld", full, (long long)count,
                  (long long)wanted_count);
    double scale = test_largest(count, w);
    if (scale < 1e-8) scale = g->floor;
    bool close = test_close(count, a, w, (struct test_tolerance){0, 1e-4}, scale, text, sizeof text);
    ck_assert_msg(close, "%s: %s", full, text);
    free(a);
    free(w);
}

/* Every parameter's value from `part`, or its gradient against `part`. */
static void load_params(const struct goldens *g, heed_module *module, const char *part) {
    for (int64_t i = 0; i < heed_param_tensors(module); i++) {
        char name[128], full[256];
        heed_tensor param = heed_param_at(module, i, name, sizeof name);
        heed_tensor value = heed_file_tensor(g->file, full_name(g, part, name, full, sizeof full));
        int64_t count = heed_count(param);
        float *data = malloc((size_t)count * sizeof *data);
        heed_read(value, data, (size_t)count * sizeof *data);
        heed_write(param, data, (size_t)count * sizeof *data);
        free(data);
        heed_free(value);
        test_ok(g->ctx);
    }
}

static void compare_params(const struct goldens *g, heed_module *module, const char *part, bool gradients) {
    for (int64_t i = 0; i < heed_param_tensors(module); i++) {
        char name[128];
        heed_tensor param = heed_param_at(module, i, name, sizeof name);
        compare(g, gradients ? heed_grad(param) : param, part, name);
    }
}

/* ---- multi-head attention ---- */

static const char *const projection_names[] = {"q.weight", "k.weight", "v.weight", "out.weight",
                                               "q.bias",   "k.bias",   "v.bias",   "out.bias"};

static void check_mha(struct goldens *g, int64_t heads, bool causal) {
    heed_step_begin(g->ctx, HEED_TRAIN);
    heed_tensor query = golden_leaf(g, "query"), key = golden_leaf(g, "key"), value = golden_leaf(g, "value");
    heed_tensor bias = golden_leaf(g, "bias"), p[8], weights;
    for (int i = 0; i < 8; i++) p[i] = golden_leaf(g, projection_names[i]);
    heed_score *score = heed_score_new(g->ctx);
    char full[256];
    if (causal) heed_score_mask(score, heed_mask_causal(g->ctx, HEED_TOP_LEFT));
    if (bias.node) heed_score_bias(score, bias);
    if (heed_file_find(g->file, full_name(g, "", "lengths", full, sizeof full)) >= 0)
        heed_score_mask(score, heed_mask_key_lengths(golden(g, "lengths")));
    heed_mha_weights w = {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]};
    heed_tensor y = heed_multi_head_attention(query, key, value, &w, score,
                                              &(heed_mha_call_options){.heads = heads}, &weights);
    compare(g, y, "", "y");
    compare(g, weights, "", "weights");
    heed_tensor both = heed_add(heed_sum(heed_mul(y, golden(g, "dy")), HEED_ALL, false),
                                heed_sum(heed_mul(weights, golden(g, "dweights")), HEED_ALL, false));
    heed_backward(both);
    const char *const input_names[] = {"query", "key", "value", "bias"};
    const heed_tensor input[] = {query, key, value, bias};
    for (int i = 0; i < 4; i++)
        if (input[i].node) compare(g, heed_grad(input[i]), "grad.", input_names[i]);
    for (int i = 0; i < 8; i++)
        if (p[i].node) compare(g, heed_grad(p[i]), "grad.", projection_names[i]);
    ck_assert_int_eq(heed_step_end(g->ctx), HEED_OK);
}

START_TEST(multi_head_attention) {
    struct goldens g = open_goldens(_i, "mha");
    g.floor = 1;
    g.prefix = "causal.";
    check_mha(&g, 4, true);
    g.prefix = "cross.";
    check_mha(&g, 3, false);
    g.prefix = "bias.";
    check_mha(&g, 2, false);
    close_goldens(&g);
}
END_TEST

/* ---- encoder layers ---- */

START_TEST(encoder_layers) {
    struct goldens g = open_goldens(_i, "encoder");
    g.floor = 1;
    for (int post = 0; post < 2; post++) {
        g.prefix = post ? "post." : "pre.";
        heed_module *layer = heed_encoder_layer_new(
            g.ctx,
            &(heed_transformer_options){.width = 16, .heads = 4, .hidden = 32, .post_norm = post == 1});
        load_params(&g, layer, "param.");
        heed_step_begin(g.ctx, HEED_TRAIN);
        heed_tensor x = golden_leaf(&g, "x");
        heed_score *score = heed_score_mask(heed_score_new(g.ctx), heed_mask_causal(g.ctx, HEED_TOP_LEFT));
        heed_tensor y = heed_encoder_layer_forward(layer, x, score);
        compare(&g, y, "", "y");
        heed_backward_with(y, &(heed_backward_options){.gradient = golden(&g, "dy")});
        compare(&g, heed_grad(x), "grad.", "x");
        compare_params(&g, layer, "grad.param.", true);
        heed_step_end(g.ctx);
        heed_module_free(layer);
    }
    close_goldens(&g);
}
END_TEST

/* ---- single operations ---- */

START_TEST(layer_norm) {
    struct goldens g = open_goldens(_i, "layer_norm");
    heed_step_begin(g.ctx, HEED_TRAIN);
    heed_tensor x = golden_leaf(&g, "x"), weight = golden_leaf(&g, "weight"), bias = golden_leaf(&g, "bias");
    heed_tensor y = heed_layer_norm(x, weight, bias, 0);
    compare(&g, y, "", "y");
    heed_backward_with(y, &(heed_backward_options){.gradient = golden(&g, "dy")});
    compare(&g, heed_grad(x), "grad.", "x");
    compare(&g, heed_grad(weight), "grad.", "weight");
    compare(&g, heed_grad(bias), "grad.", "bias");
    heed_step_end(g.ctx);
    close_goldens(&g);
}
END_TEST

START_TEST(cross_entropy) {
    static const struct {
        const char *prefix;
        heed_cross_entropy_options options;
    } cases[] = {
        {"mean.", {0}},
        {"sum.", {.reduction = HEED_REDUCE_SUM}},
        {"ignore.", {.has_ignore = true, .ignore_index = 2}},
        {"smooth.", {.label_smoothing = 0.1}},
        {"all.",
         {.reduction = HEED_REDUCE_SUM, .has_ignore = true, .ignore_index = 8, .label_smoothing = 0.25}},
    };
    struct goldens g = open_goldens(_i, "cross_entropy");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        g.prefix = "";
        heed_step_begin(g.ctx, HEED_TRAIN);
        heed_tensor logits = golden_leaf(&g, "logits"), target = golden(&g, "target");
        g.prefix = cases[i].prefix;
        if (cases[i].options.has_ignore) { /* then −100 is no target: the file has class 0 there */
            int32_t classes[9];
            heed_read(target, classes, sizeof classes);
            for (int k = 0; k < 9; k++)
                if (classes[k] < 0) classes[k] = 0;
            target = heed_from(g.ctx, HEED_I32, TEST_SHAPE(3, 3), classes);
        }
        heed_tensor loss = heed_cross_entropy(logits, target, &cases[i].options);
        compare(&g, loss, "", "loss");
        heed_backward(loss);
        compare(&g, heed_grad(logits), "grad.", "logits");
        heed_step_end(g.ctx);
    }
    close_goldens(&g);
}
END_TEST

/* Five updates with gradients that are given: those of Σ parameter · gradient. The last two are clipped. */
START_TEST(adamw) {
    struct goldens g = open_goldens(_i, "adamw");
    heed_module *layer = heed_dense_new(g.ctx, &(heed_dense_options){.in = 6, .out = 4});
    load_params(&g, layer, "before.");
    heed_adamw_options options = {.beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1};
    heed_optim *optim = heed_adamw_new(layer, &options);
    for (int step = 0; step < 5; step++) {
        char name[64];
        heed_step_begin(g.ctx, HEED_TRAIN);
        snprintf(name, sizeof name, "gradient.%d.weight", step);
        heed_tensor weight = heed_mul(heed_param_find(layer, "weight"), golden(&g, name));
        snprintf(name, sizeof name, "gradient.%d.bias", step);
        heed_tensor bias = heed_mul(heed_param_find(layer, "bias"), golden(&g, name));
        heed_backward(heed_add(heed_sum(weight, HEED_ALL, false), heed_sum(bias, HEED_ALL, false)));
        if (step >= 3) heed_clip_grad_norm(layer, 1.0);
        heed_optim_step(optim, 1e-2);
        ck_assert_msg(heed_step_end(g.ctx) == HEED_OK, "%s", heed_error(g.ctx));
    }
    compare_params(&g, layer, "after.", false);
    heed_optim_free(optim);
    heed_module_free(layer);
    close_goldens(&g);
}
END_TEST

START_TEST(rotary) {
    static const heed_rotary_options options[2] = {
        {.half_split = false}, {.half_split = true, .base = 500, .rotated = 8, .offset = 77}};
    for (int i = 0; i < 2; i++) {
        struct goldens g = open_goldens(_i, "rotary");
        g.prefix = i ? "half." : "pairs.";
        heed_step_begin(g.ctx, HEED_TRAIN);
        heed_tensor x = golden_leaf(&g, "x"), y = heed_rotary(x, &options[i]);
        compare(&g, y, "", "y");
        heed_backward_with(y, &(heed_backward_options){.gradient = golden(&g, "dy")});
        compare(&g, heed_grad(x), "grad.", "x");
        heed_step_end(g.ctx);
        close_goldens(&g);
    }
}
END_TEST

/* ---- a whole step ---- */

START_TEST(gpt_step) {
    struct goldens g = open_goldens(_i, "gpt");
    heed_module *gpt = heed_gpt_new(
        g.ctx, &(heed_gpt_options){.vocabulary = 17, .length = 8, .layers = 2, .heads = 2, .width = 16});
    load_params(&g, gpt, "param.");
    heed_optim *optim =
        heed_adamw_new(gpt, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1, .eps = 1e-4});
    heed_step_begin(g.ctx, HEED_TRAIN);
    heed_tensor logits = heed_forward(gpt, golden(&g, "tokens"));
    compare(&g, logits, "", "logits");
    heed_tensor loss = heed_cross_entropy(logits, golden(&g, "targets"), NULL);
    compare(&g, loss, "", "loss");
    heed_backward(loss);
    g.floor = 1e-2;
    compare_params(&g, gpt, "grad.", true);
    heed_optim_step(optim, 1e-3);
    ck_assert_msg(heed_step_end(g.ctx) == HEED_OK, "%s", heed_error(g.ctx));
    compare_params(&g, gpt, "after.", false);
    heed_optim_free(optim);
    heed_module_free(gpt);
    close_goldens(&g);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("goldens");
    TCase *tcase = test_case(suite, "PyTorch");
    tcase_add_loop_test(tcase, multi_head_attention, 0, 2);
    tcase_add_loop_test(tcase, encoder_layers, 0, 2);
    tcase_add_loop_test(tcase, layer_norm, 0, 2);
    tcase_add_loop_test(tcase, cross_entropy, 0, 2);
    tcase_add_loop_test(tcase, adamw, 0, 2);
    tcase_add_loop_test(tcase, rotary, 0, 2);
    tcase_add_loop_test(tcase, gpt_step, 0, 2);
    return test_main(suite);
}
