/* Mixed precision by the public interface: which kernel makes attention and why, its numbers against ref,
 * that a gradient is planned for only where there is a tape, and that the layers of a model need no kernel of
 * f32 for what is bf16. On the emulated device, with the fake cuDNN, or on a GPU, with the machine's; ends
 * with 77 where there is none. */
#include <stdlib.h>
#include <string.h>

#include "cudnn_in_use.h"
#include "emulation.h"

/* ---- calls ---- */

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, QUERIES = 16, KEYS = 20, WIDTH = 8 };

struct call {
    const char *name, *by; /* what heed_explain says of attention */
    bool causal, lengths, cap, packed;
    heed_dtype leaves, bias; /* of q, k and v; HEED_I32: there is no bias */
    double dropout;
    int64_t queries, width; /* 0: as above */
    int times;              /* forward and backward, gradients added up; 0: once */
};

static const struct call calls[] = {
    {"plain", "cudnn", .bias = HEED_I32},
    {"twice", "cudnn", .bias = HEED_I32, .times = 2},
    {"causal", "cudnn", .causal = true, .bias = HEED_I32},
    {"lengths", "cudnn", .lengths = true, .bias = HEED_I32},
    {"causal lengths", "cudnn", .causal = true, .lengths = true, .bias = HEED_I32, .times = 2},
    {"bf16 already", "cudnn", .leaves = HEED_BF16, .bias = HEED_I32},
    {"bias of bf16", "cudnn", .bias = HEED_BF16},
    {"bias of bf16, twice", "cudnn", .leaves = HEED_BF16, .bias = HEED_BF16, .times = 2},
    {"packed", "cudnn", .packed = true, .causal = true, .bias = HEED_I32},
    {"packed, twice", "cudnn", .packed = true, .bias = HEED_I32, .times = 2},
    {"bias of f32", "not cudnn: the bias is not bf16", .bias = HEED_F32},
    {"soft cap", "not cudnn: there are stages other than one bias", .cap = true, .bias = HEED_I32},
    {"dropout", "not cudnn: cuDNN's dropout has random numbers of its own", .bias = HEED_I32, .dropout = 0.3},
    {"few queries", "not cudnn: there are fewer than 8 queries", .queries = 7, .bias = HEED_I32},
    {"odd width", "not cudnn: a head's width is no multiple of 8", .width = 6, .bias = HEED_I32},
};
enum { CALLS = sizeof calls / sizeof *calls, TENSORS = 4, MOST = BATCH * HEADS * KEYS * KEYS };

static heed_ctx *context(const char *name) {
    return heed_ctx_new(
        &(heed_ctx_options){.device = name, .precision = HEED_BF16, .seed = 9, .poison = true});
}

static heed_tensor leaf(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *size, uint64_t seed) {
    const heed_tensor t = test_tensor(ctx, dtype, seed, rank, size);
    heed_require_grad(t, true);
    return t;
}

/* q, k, v and the bias, if there is one. */
static int make_leaves(heed_ctx *ctx, const struct call *c, heed_tensor to[TENSORS]) {
    const int64_t queries = c->queries ? c->queries : QUERIES, width = c->width ? c->width : WIDTH;
    const int first = c->packed; /* packed sequences have no batch */
    const int64_t q[] = {BATCH, HEADS, queries, width}, k[] = {BATCH, KV_HEADS, KEYS, width};
    to[0] = leaf(ctx, c->leaves, 4 - first, q + first, 1);
    to[1] = leaf(ctx, c->leaves, 4 - first, k + first, 2);
    to[2] = leaf(ctx, c->leaves, 4 - first, k + first, 3);
    to[3] = (heed_tensor){NULL};
    if (c->bias == HEED_I32) return 3;
    to[3] = leaf(ctx, c->bias, TEST_SHAPE(HEADS, queries, KEYS), 4);
    return 4;
}

static heed_tensor attend(heed_ctx *ctx, const struct call *c, const heed_tensor *leaves) {
    static const int32_t lengths[BATCH] = {13, KEYS}, starts[2][3] = {{0, 9, QUERIES}, {0, 5, KEYS}};
    heed_mask *mask = c->causal ? heed_mask_causal(ctx, HEED_TOP_LEFT) : NULL;
    heed_score *score = heed_score_new(ctx);
    if (c->lengths) {
        heed_mask *own = heed_mask_key_lengths(heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH), lengths));
        mask = mask ? heed_mask_and(mask, own) : own;
    }
    if (c->cap) score = heed_score_softcap(score, 3);
    if (c->bias != HEED_I32) score = heed_score_bias(score, leaves[3]);
    if (mask) score = heed_score_mask(score, mask);
    const heed_attention_options options = {.dropout = c->dropout};
    if (!c->packed) return heed_attention(leaves[0], leaves[1], leaves[2], score, &options, NULL);
    return heed_attention_packed(leaves[0], leaves[1], leaves[2],
                                 heed_from(ctx, HEED_I32, TEST_SHAPE(3), starts[0]),
                                 heed_from(ctx, HEED_I32, TEST_SHAPE(3), starts[1]), score, &options, NULL);
}

struct results {
    int tensors; /* y, then gradients */
    int64_t count[TENSORS + 1];
    double *numbers[TENSORS + 1];
};

static void keep(struct results *to, heed_tensor t) {
    to->numbers[to->tensors] = test_values(t, &to->count[to->tensors]);
    to->tensors++;
}

static void explains(heed_ctx *ctx, const struct call *c) {
    char text[8000], begin[100];
    const bool lacks = strcmp(c->by, "cudnn") == 0 && !cudnn_has_gradient(c->bias != HEED_I32);
    const char *by = lacks ? "not cudnn: cuDNN has no plan for its gradient" : c->by;
    heed_explain(ctx, text, sizeof text);
    const char *attention = strstr(text, "\nattention: ");
    snprintf(begin, sizeof begin, strncmp(by, "not ", 4) == 0 ? "    %s" : "\nattention: %s, ", by);
    ck_assert_msg(attention && strstr(attention, begin), "%s: \"%s\" is not in\n%s", c->name, begin, text);
}

static void run(const char *name, const struct call *c, struct results *to) {
    heed_ctx *ctx = context(name);
    heed_tensor leaves[TENSORS];
    test_ok(ctx);
    *to = (struct results){0};
    const int count = make_leaves(ctx, c, leaves);
    for (int i = 0; i < (c->times ? c->times : 1); i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        const heed_tensor y = attend(ctx, c, leaves);
        heed_backward(heed_sum(heed_mul(y, y), HEED_ALL, false));
        test_ok(ctx);
        if (i == 0) keep(to, y);
        heed_step_end(ctx);
    }
    for (int i = 0; i < count; i++) {
        ck_assert_int_eq(heed_dtype_of(heed_grad(leaves[i])), heed_dtype_of(leaves[i]));
        keep(to, heed_grad(leaves[i]));
    }
    if (strcmp(name, "ref") != 0) explains(ctx, c);
    test_ok(ctx);
    heed_ctx_free(ctx);
}

START_TEST(numbers) {
    const struct call *c = &calls[_i];
    struct results expected, actual;
    char text[200];
    run("ref", c, &expected);
    run(emulation_device(), c, &actual);
    ck_assert_int_eq(actual.tensors, expected.tensors);
    for (int i = 0; i < actual.tensors; i++) {
        /* The output is rounded before the gradient is made of it, and P on the way. */
        const double scale = test_largest(expected.count[i], expected.numbers[i]);
        ck_assert_int_eq(actual.count[i], expected.count[i]);
        ck_assert_msg(test_close(actual.count[i], actual.numbers[i], expected.numbers[i],
                                 (struct test_tolerance){0x1p-6, 0x1p-6}, scale, text, sizeof text),
                      "%s: tensor %d: %s", c->name, i, text);
        free(actual.numbers[i]);
        free(expected.numbers[i]);
    }
}
END_TEST

/* ---- plans ---- */

static void attend_in(heed_ctx *ctx, int mode, bool wants_gradient) {
    heed_tensor leaves[TENSORS];
    heed_step_begin(ctx, mode);
    make_leaves(ctx, &calls[0], leaves);
    for (int i = 0; i < 3; i++) heed_require_grad(leaves[i], wants_gradient);
    attend(ctx, &calls[0], leaves);
    test_ok(ctx);
    heed_step_end(ctx);
}

START_TEST(plans) {
    heed_ctx *ctx = context(emulation_device());
    attend_in(ctx, HEED_EVAL, true);
    const int64_t forward = cudnn_fake()->plans;
    attend_in(ctx, HEED_TRAIN, false);
    attend_in(ctx, HEED_EVAL, true);
    ck_assert_int_eq(cudnn_fake()->plans, forward);
    attend_in(ctx, HEED_TRAIN, true);
    ck_assert_int_eq(cudnn_fake()->plans, forward + 1);
    attend_in(ctx, HEED_EVAL, true);
    attend_in(ctx, HEED_TRAIN, true);
    ck_assert_int_eq(cudnn_fake()->plans, forward + 1);
    heed_ctx_free(ctx);
    ck_assert_int_eq(cudnn_fake()->handles, 0);
    ck_assert_int_eq(cudnn_fake()->descriptors, 0);
}
END_TEST

/* More problems than there are plans kept, each of its own length, without a tape. */
enum { PROBLEMS = 70 };

static heed_tensor attend_long(heed_tensor all, int number) {
    const heed_tensor x = heed_slice(all, 2, 0, 8 + number, 1);
    return heed_attention(x, x, x, NULL, NULL, NULL);
}

/* Plans make room for others while kernels of theirs are still to run, and the host waits for none. */
START_TEST(plans_make_room) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1); /* nothing is done before somebody waits */
    setenv("HEED_CUDA_BLOCKING", "0", 1);
    heed_ctx *ctx = context(emulation_device());
    const struct emulated_control *emulated = emulation();
    const heed_tensor all = test_tensor(ctx, HEED_BF16, 5, TEST_SHAPE(1, 1, 8 + PROBLEMS, 8));
    heed_tensor y[PROBLEMS];
    const int64_t waits = emulated->waits, before = cudnn_fake()->plans;
    for (int i = 0; i < PROBLEMS; i++) y[i] = attend_long(all, i);
    ck_assert_int_eq(emulated->waits, waits);
    ck_assert_int_eq(cudnn_fake()->plans - before, PROBLEMS);
    for (int i = 0; i < PROBLEMS; i++) {
        uint16_t first[8 * (8 + PROBLEMS)], again[8 * (8 + PROBLEMS)];
        const size_t bytes = (size_t)heed_count(y[i]) * sizeof *first;
        ck_assert_int_eq(heed_read(y[i], first, bytes), HEED_OK);
        ck_assert_int_eq(heed_read(attend_long(all, i), again, bytes), HEED_OK);
        ck_assert_mem_eq(first, again, bytes);
    }
    ck_assert_int_gt(cudnn_fake()->plans - before, PROBLEMS);
    heed_ctx_free(ctx);
    ck_assert_int_eq(cudnn_fake()->descriptors, 0);
}
END_TEST

/* ---- a model ---- */

START_TEST(nothing_is_widened) {
    char text[8000];
    int32_t tokens[2 * QUERIES];
    heed_ctx *ctx = context(emulation_device());
    heed_module *gpt = heed_gpt_new(ctx, &(heed_gpt_options){.vocabulary = 16,
                                                             .length = QUERIES,
                                                             .layers = 2,
                                                             .heads = 2,
                                                             .width = 16,
                                                             .rotary = _i % 2 == 1});
    heed_optim *optim = heed_adamw_new(gpt, NULL);
    for (int i = 0; i < 2 * QUERIES; i++) tokens[i] = i % 16;
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = heed_from(ctx, HEED_I32, TEST_SHAPE(2, QUERIES), tokens);
    const heed_tensor logits = heed_dropout(heed_forward(gpt, x), 0.1);
    heed_backward(heed_cross_entropy(logits, x, NULL));
    heed_softmax(heed_tanh(heed_add(logits, logits)), -1);
    heed_optim_step(optim, 1e-3);
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    heed_explain(ctx, text, sizeof text);
    ck_assert_msg(strstr(text, "-bf16, ") == NULL, "%s", text);
    for (int i = 0; i < 11; i++) {
        static const char *const kernels[] = {
            "copy: cuda",          "unary: cuda",         "binary: cuda",    "\nnorm: cuda",
            "linear: cublaslt",    "gather: cuda",        "dropout: cuda",   "softmax: cuda",
            "cross_entropy: cuda", "residual_norm: cuda", "attention: cudnn"};
        ck_assert_msg(strstr(text, kernels[i]) != NULL, "no %s in\n%s", kernels[i], text);
    }
    heed_optim_free(optim);
    heed_module_free(gpt);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    const int status = cudnn_begin();
    if (status) return status;
    Suite *suite = suite_create("cuda_mixed");
    TCase *tcase = test_case(suite, "attention");
    tcase_add_loop_test(tcase, numbers, 0, CALLS);
    if (cudnn_fake()) {
        tcase_add_test(tcase, plans);
        tcase_add_test(tcase, plans_make_room);
    }
    tcase_add_loop_test(tcase, nothing_is_widened, 0, 2);
    return test_main(suite);
}
