/* Contexts of mixed precision: what is bf16 and what is f32, how long a parameter's copy lives, and that
 * programs train as they do in f32. */
#include "harness.h"

#include <heed/io.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness_files.h"
#include "tensor/internal.h"

static const heed_tensor none;

static heed_ctx *mixed(const struct test_device *device) {
    return test_ctx_with(device, (heed_ctx_options){.seed = 3, .precision = HEED_BF16});
}

static void on_devices(void (*test)(const struct test_device *device)) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    for (int i = 0; i < count; i++) test(&devices[i]);
}

static bool same_bits(heed_tensor a, heed_tensor b) {
    int64_t n, m;
    double *x = test_values(a, &n), *y = test_values(b, &m);
    const bool same = n == m && memcmp(x, y, (size_t)n * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

/* Whether every element is a bf16 number. */
static bool is_rounded(heed_tensor t) {
    int64_t n;
    bool all = true;
    double *values = test_values(t, &n);
    for (int64_t i = 0; i < n; i++) all = all && test_bf16_value(test_bf16(values[i])) == values[i];
    free(values);
    return all;
}

/* ---- what is what ---- */

static void dtypes(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    heed_module *dense = heed_dense_new(ctx, &(heed_dense_options){.in = 8, .out = 8});
    const heed_tensor w = heed_param_find(dense, "weight"), bias = heed_param_find(dense, "bias");
    const heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(8, 8)),
                      wide = test_tensor(ctx, HEED_F64, 2, TEST_SHAPE(8, 8)), low = heed_matmul(x, x);
    const struct {
        const char *name;
        heed_tensor t;
        heed_dtype dtype;
    } rows[] = {
        {"matmul", low, HEED_BF16},
        {"linear", heed_linear(x, w, bias, NULL), HEED_BF16},
        {"dense", heed_forward(dense, x), HEED_BF16},
        {"matmul of f64", heed_matmul(wide, wide), HEED_F64},
        {"layer_norm", heed_layer_norm(x, bias, none, 0), HEED_BF16},
        {"rms_norm of f64", heed_rms_norm(wide, none, 0), HEED_F64},
        {"rotary", heed_rotary(x, NULL), HEED_BF16},
        {"embedding", heed_embedding(w, heed_arange(ctx, HEED_I32, 3)), HEED_BF16},
        {"softmax", heed_softmax(low, 0), HEED_F32},
        {"sum", heed_sum(low, HEED_ALL, false), HEED_F32},
        {"mean", heed_mean(low, HEED_DIMS(1), false), HEED_F32},
        {"max", heed_max(low, HEED_ALL, false), HEED_BF16},
        {"mse", heed_mse(low, x, HEED_REDUCE_MEAN), HEED_F32},
        {"cross_entropy", heed_cross_entropy(low, heed_arange(ctx, HEED_I32, 8), NULL), HEED_F32},
        {"exp of f32", heed_exp(x), HEED_F32},
        {"gelu of bf16", heed_gelu(low), HEED_BF16},
        {"f32 and bf16", heed_add(x, low), HEED_F32},
        {"bf16 and a parameter", heed_mul(low, bias), HEED_BF16},
        {"bf16 and part of a parameter", heed_add(low, heed_slice(w, 0, 2, 3, 1)), HEED_BF16},
        {"f32 and a parameter", heed_mul(x, bias), HEED_F32},
        {"parameters", heed_mul(w, bias), HEED_F32},
        {"where", heed_where(heed_less(x, low), x, low), HEED_F32},
        {"cat", heed_cat(2, (heed_tensor[]){low, w}, 0), HEED_BF16},
        {"cat with f32", heed_cat(2, (heed_tensor[]){low, x}, 0), HEED_F32},
    };
    test_ok(ctx);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        test_check(heed_dtype_of(rows[i].t) == rows[i].dtype, "%s is %s and not %s", rows[i].name,
                   heed_dtype_name(heed_dtype_of(rows[i].t)), heed_dtype_name(rows[i].dtype));
    ck_assert_int_eq(heed_dtype_of(w), HEED_F32);
    const bool is_cpu = strcmp(device->device, "cpu") == 0 && !test_elsewhere();
    ck_assert_uint_eq(heed_fallbacks(ctx), is_cpu ? 2 : 0); /* those of f64 */
    heed_module_free(dense);
    heed_ctx_free(ctx);
}

START_TEST(dtypes_of_results) {
    on_devices(dtypes);
}
END_TEST

/* Attention: its output is bf16, what tells of the softmax f32; biases are taken as they are. */
static void attention_dtypes(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    const heed_tensor q = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(1, 2, 5, 8));
    const heed_tensor bias = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(5, 5));
    heed_score *score = heed_score_bias(heed_score_alibi(heed_score_new(ctx), none, HEED_TOP_LEFT), bias);
    heed_tensor weights, lse;
    const heed_tensor y = heed_attention_lse(q, q, q, score, NULL, &weights, &lse);
    test_ok(ctx);
    ck_assert_int_eq(heed_dtype_of(y), HEED_BF16);
    ck_assert_int_eq(heed_dtype_of(weights), HEED_F32);
    ck_assert_int_eq(heed_dtype_of(lse), HEED_F32);
    ck_assert(!is_rounded(lse));
    heed_ctx_free(ctx);
}

START_TEST(attention_keeps_statistics_in_f32) {
    on_devices(attention_dtypes);
}
END_TEST

/* A product is that of the rounded operands, and gradients of f32 tensors are not rounded. */
static void products(const struct test_device *device) {
    heed_ctx *ctx = mixed(device), *plain = test_ctx(device);
    heed_tensor y[2], dw[2];
    for (int explicitly = 0; explicitly < 2; explicitly++) {
        heed_ctx *c = explicitly ? plain : ctx;
        heed_step_begin(c, HEED_TRAIN);
        const heed_tensor x = test_tensor(c, HEED_F32, 1, TEST_SHAPE(33, 40)),
                          w = test_tensor(c, HEED_F32, 2, TEST_SHAPE(24, 40));
        heed_require_grad(w, true);
        y[explicitly] = explicitly ? heed_linear(heed_cast(x, HEED_BF16), heed_cast(w, HEED_BF16), none, NULL)
                                   : heed_linear(x, w, none, NULL);
        const heed_tensor dy = test_tensor(c, HEED_BF16, 3, TEST_SHAPE(33, 24));
        heed_backward_with(y[explicitly], &(heed_backward_options){.gradient = dy});
        test_ok(c);
        dw[explicitly] = heed_grad(w);
        ck_assert_int_eq(heed_dtype_of(dw[explicitly]), HEED_F32);
    }
    ck_assert(same_bits(y[0], y[1]));
    ck_assert(!is_rounded(dw[0]) && is_rounded(dw[1]));
    int64_t n;
    char text[200];
    double *exact = test_values(dw[0], &n), *rounded = test_values(dw[1], &n);
    ck_assert_msg(test_close(n, rounded, exact, (struct test_tolerance){0x1p-8, 1e-5}, test_largest(n, exact),
                             text, sizeof text),
                  "%s", text);
    free(exact);
    free(rounded);
    heed_step_end(ctx);
    heed_step_end(plain);
    heed_ctx_free(ctx);
    heed_ctx_free(plain);
}

START_TEST(products_of_rounded_operands) {
    on_devices(products);
}
END_TEST

/* What a program reads, and what its own operations are given, need not know of bf16. */

static heed_status doubled(const heed_custom_call *call) {
    const float *x = call->input[0].data;
    float *y = call->output[0].data;
    if (call->input[0].dtype != HEED_F32) return HEED_ERROR_DTYPE;
    for (int i = 0; i < 16; i++) y[i] = 2 * x[i];
    return HEED_OK;
}

static heed_status doubled_back(const heed_custom_call *call) {
    for (int i = 0; i < 16; i++)
        ((float *)call->d_input[0].data)[i] = 2 * ((const float *)call->d_output[0].data)[i];
    return HEED_OK;
}

static void old_programs(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(4, 4));
    heed_require_grad(x, true);
    const heed_tensor low = heed_matmul(x, x);
    float values[16];
    ck_assert_int_eq(heed_read(low, values, sizeof values), HEED_OK);
    for (int i = 0; i < 16; i++) ck_assert((double)values[i] == heed_at(low, 2, (int64_t[]){i / 4, i % 4}));
    heed_tensor y;
    const heed_custom_options options = {.name = "doubled",
                                         .inputs = 1,
                                         .input = &low,
                                         .outputs = 1,
                                         .output = &(heed_raw){.dtype = HEED_F32, .rank = 2, .size = {4, 4}},
                                         .forward = doubled,
                                         .backward = doubled_back};
    ck_assert_int_eq(heed_custom_op(ctx, &options, &y), HEED_OK);
    heed_backward(heed_sum(y, HEED_ALL, false));
    test_ok(ctx);
    ck_assert_int_eq(heed_dtype_of(heed_grad(x)), HEED_F32);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_ctx_free(ctx);
}

START_TEST(programs_need_not_know) {
    on_devices(old_programs);
}
END_TEST

/* ---- copies of parameters ---- */

static uint64_t copies(const heed_ctx *ctx) {
    return ctx->exec.last[HEED_PRIMITIVE_COPY].runs;
}

static void one_copy(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    heed_module *dense = heed_dense_new(ctx, &(heed_dense_options){.in = 8, .out = 8, .no_bias = true});
    heed_optim *sgd = heed_sgd_new(dense, NULL);
    const heed_tensor w = heed_param_find(dense, "weight");
    const heed_tensor x = heed_keep(heed_cast(test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(8, 8)), HEED_BF16));
    for (int step = 0; step < 3; step++) {
        heed_step_begin(ctx, HEED_TRAIN);
        const uint64_t before = copies(ctx);
        const heed_tensor y =
            heed_matmul(heed_linear(heed_forward(dense, x), w, none, NULL), heed_transpose(w, 0, 1));
        ck_assert_uint_eq(copies(ctx) - before, 1);
        const heed_tensor expected = heed_linear(x, heed_cast(w, HEED_BF16), none, NULL);
        ck_assert(same_bits(heed_linear(x, w, none, NULL), expected));
        heed_backward(heed_sum(y, HEED_ALL, false));
        heed_optim_step(sgd, 0.1);
        ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    }
    /* Written by hand it is made again too. */
    float values[64];
    for (int i = 0; i < 64; i++) values[i] = (float)i / 64;
    ck_assert_int_eq(heed_write(w, values, sizeof values), HEED_OK);
    const heed_tensor expected = heed_linear(x, heed_cast(w, HEED_BF16), none, NULL);
    ck_assert(same_bits(heed_linear(x, w, none, NULL), expected));
    /* Between forward and backward that is an error, as it is in f32. */
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor loss = heed_sum(heed_linear(heed_forward(dense, x), w, none, NULL), HEED_ALL, false);
    heed_write(w, values, sizeof values);
    heed_backward(loss);
    test_error(ctx, HEED_ERROR_STATE, "linear", "a weight was written");
    heed_step_end(ctx);
    heed_free(x);
    heed_optim_free(sgd);
    heed_module_free(dense);
    heed_ctx_free(ctx);
}

START_TEST(a_parameter_is_copied_once_a_step) {
    on_devices(one_copy);
}
END_TEST

/* Two uses of one parameter: contributions are added in f32. */
static void shared_gradient(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    heed_module *dense = heed_dense_new(ctx, &(heed_dense_options){.in = 4, .out = 4, .no_bias = true});
    const heed_tensor w = heed_param_find(dense, "weight");
    float big[16], small[16], gradient[16];
    for (int i = 0; i < 16; i++) {
        big[i] = 256;
        small[i] = 0.25f;
    }
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor one = heed_forward(dense, heed_from(ctx, HEED_F32, HEED_SHAPE(4, 4), big)),
                      two = heed_forward(dense, heed_from(ctx, HEED_F32, HEED_SHAPE(4, 4), small));
    heed_backward(heed_sum(heed_add(one, two), HEED_ALL, false));
    ck_assert_int_eq(heed_read(heed_grad(w), gradient, sizeof gradient), HEED_OK);
    for (int i = 0; i < 16; i++) ck_assert(gradient[i] == 1025.0f); /* bf16 has 1024 and 1032 */
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_module_free(dense);
    heed_ctx_free(ctx);
}

START_TEST(gradients_of_parameters_add_up_in_f32) {
    on_devices(shared_gradient);
}
END_TEST

/* Copies lie side by side as the parameters do: the projections of one tensor are one product, as in f32. */
static void joined(const struct test_device *device) {
    heed_ctx *ctx = mixed(device);
    heed_module *mha = heed_mha_new(ctx, &(heed_mha_options){.width = 16, .heads = 2, .rotary = true});
    const heed_tensor x = test_tensor(ctx, HEED_BF16, 1, TEST_SHAPE(2, 5, 16));
    const struct heed_last_run *linear = &ctx->exec.last[HEED_PRIMITIVE_LINEAR];
    const heed_tensor y = heed_forward(mha, x);
    test_ok(ctx);
    ck_assert_uint_eq(linear->runs, 2); /* and that of the output */
    ck_assert_int_eq(heed_dtype_of(y), HEED_BF16);
    heed_module_free(mha);
    heed_ctx_free(ctx);
}

START_TEST(projections_stay_joined) {
    on_devices(joined);
}
END_TEST

/* Making a model, and a step, of which each allocation fails once. */
static void train_once(heed_ctx *ctx) {
    const int32_t text[] = {1, 2, 3, 4};
    heed_module *gpt = heed_gpt_new(
        ctx, &(heed_gpt_options){
                 .vocabulary = 5, .length = 4, .layers = 1, .heads = 1, .width = 2, .rotary = true});
    heed_optim *optim = heed_adamw_new(gpt, NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = heed_from(ctx, HEED_I32, TEST_SHAPE(1, 4), text);
    heed_backward(heed_cross_entropy(heed_forward(gpt, x), x, NULL));
    heed_optim_step(optim, 0.1);
    heed_step_end(ctx);
    heed_optim_free(optim);
    heed_module_free(gpt);
}

START_TEST(every_allocation_fails) {
    setenv("HEED_TEST_PRECISION", "bf16", 1); /* the contexts are made by the harness */
    ck_assert_int_gt(test_failing_allocations("ref", 1, false, train_once), 100);
    ck_assert_int_gt(test_failing_allocations("cpu", 3, true, train_once), test_elsewhere() ? 60 : 100);
}
END_TEST

/* ---- a language model ---- */

enum { VOCABULARY = 24, LENGTH = 24, BATCH = 4, STEPS = 40 };

struct run {
    heed_ctx *ctx;
    heed_module *gpt;
    heed_optim *optim;
    int64_t step;
    size_t before, after; /* memory in use around the last forward */
};

static struct run run_new(const struct test_device *device, heed_dtype precision) {
    struct run run = {.ctx = test_ctx_with(device, (heed_ctx_options){.seed = 5, .precision = precision})};
    run.gpt = heed_gpt_new(run.ctx, &(heed_gpt_options){.vocabulary = VOCABULARY,
                                                        .length = LENGTH,
                                                        .layers = 2,
                                                        .heads = 2,
                                                        .width = 32,
                                                        .dropout = 0.1});
    run.optim = heed_adamw_new(run.gpt, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    test_ok(run.ctx);
    return run;
}

static void run_free(struct run *run) {
    heed_optim_free(run->optim);
    heed_module_free(run->gpt);
    heed_ctx_free(run->ctx);
}

/* Squares modulo the vocabulary: something to learn, slowly. */
static heed_tensor tokens(heed_ctx *ctx, int64_t step, int shift) {
    int32_t token[BATCH * LENGTH];
    for (int64_t i = 0; i < BATCH * LENGTH; i++) {
        const int64_t at = step * 7 + i / LENGTH * 3 + i % LENGTH + shift;
        token[i] = (int32_t)(at * at % VOCABULARY);
    }
    return heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, LENGTH), token);
}

static double run_step(struct run *run) {
    heed_ctx *ctx = run->ctx;
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = tokens(ctx, run->step, 0), y = tokens(ctx, run->step, 1);
    run->before = heed_memory(ctx).in_use;
    const heed_tensor loss = heed_cross_entropy(heed_forward(run->gpt, x), y, NULL);
    run->after = heed_memory(ctx).in_use;
    heed_backward(loss);
    heed_optim_step(run->optim, heed_schedule_warmup_cosine(run->step++, 10, STEPS, 3e-3));
    const double value = heed_item(loss);
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    return value;
}

/* The loss of every step stays within 0.01 of that in f32, on a curve that falls from 3.2 by more than 1.5;
 * and the devices within that of each other, since they round the same numbers. */
START_TEST(training_follows_f32) {
    static const struct test_device devices[] = {{"ref", NULL, 1}, {"cpu", NULL, 2}};
    static double loss[2][2][STEPS];
    const int steps = test_small() ? 12 : STEPS;
    for (int d = 0; d < 2; d++)
        for (int low = 0; low < 2; low++) {
            struct run run = run_new(&devices[d], low ? HEED_BF16 : HEED_F32);
            for (int i = 0; i < steps; i++) loss[d][low][i] = run_step(&run);
            if (d == 1) ck_assert_uint_eq(heed_fallbacks(run.ctx), 0);
            run_free(&run);
        }
    for (int d = 0; d < 2; d++) {
        bool differs = false;
        for (int i = 0; i < steps; i++) {
            test_check(fabs(loss[d][1][i] - loss[d][0][i]) <= 0.01, "%s, step %d: loss %g, in f32 %g",
                       devices[d].device, i, loss[d][1][i], loss[d][0][i]);
            test_check(fabs(loss[0][1][i] - loss[d][1][i]) <= 0.01, "step %d: loss %g on cpu, %g on ref", i,
                       loss[d][1][i], loss[0][1][i]);
            differs = differs || loss[d][1][i] != loss[d][0][i];
        }
        ck_assert(differs);
        ck_assert_msg(test_small() || loss[d][1][0] - loss[d][1][steps - 1] > 1.5, "loss from %g to %g",
                      loss[d][1][0], loss[d][1][steps - 1]);
    }
}
END_TEST

START_TEST(any_number_of_threads_gives_the_same_bits) {
    double loss[4][6] = {{0}};
    for (int threads = 1; threads <= 3; threads++) {
        struct run run = run_new(&(struct test_device){"cpu", NULL, threads}, HEED_BF16);
        for (int i = 0; i < 6; i++) loss[threads][i] = run_step(&run);
        ck_assert(memcmp(loss[threads], loss[1], sizeof *loss) == 0);
        run_free(&run);
    }
}
END_TEST

/* What forward leaves for backward takes little more than half: masks and statistics are as large as before.
 */
START_TEST(activations_take_half_the_memory) {
    size_t kept[2];
    if (test_elsewhere()) return; /* ref keeps products in double */
    for (int low = 0; low < 2; low++) {
        struct run run = run_new(&(struct test_device){"cpu", NULL, 1}, low ? HEED_BF16 : HEED_F32);
        for (int i = 0; i < 2; i++) run_step(&run); /* the first makes the copies of parameters too */
        kept[low] = run.after - run.before;
        run_free(&run);
    }
    ck_assert_msg(kept[1] <= kept[0] * 0.6, "%zu bytes, %zu in f32", kept[1], kept[0]);
}
END_TEST

/* Parameters and the optimiser's state are f32 in files too, and go on in either precision. */
START_TEST(checkpoints_hold_f32) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "run.safetensors", path);
    struct run low = run_new(&(struct test_device){"cpu", NULL, 1}, HEED_BF16);
    for (int i = 0; i < 3; i++) run_step(&low);
    ck_assert_int_eq(heed_checkpoint_save(low.gpt, low.optim, path, NULL), HEED_OK);
    heed_file *file = heed_file_open(low.ctx, path);
    heed_file_entry entry;
    for (int64_t i = 0; heed_file_info(file, i, &entry); i++)
        ck_assert_msg(strcmp(entry.dtype_name, "BF16") != 0, "%s is bf16", entry.name);
    heed_file_free(file);
    struct run wide = run_new(&(struct test_device){"cpu", NULL, 1}, HEED_F32);
    ck_assert_int_eq(heed_checkpoint_load(wide.gpt, wide.optim, path, NULL), HEED_OK);
    const heed_tensor a = heed_param_find(low.gpt, "tokens.weight"),
                      b = heed_param_find(wide.gpt, "tokens.weight");
    ck_assert(same_bits(a, b) && !is_rounded(a));
    wide.step = low.step;
    const double before = run_step(&low), after = run_step(&wide);
    ck_assert_msg(fabs(before - after) < 0.01, "%g and %g", before, after);
    run_free(&low);
    run_free(&wide);
    test_directory_remove(directory);
}
END_TEST

/* Token by token through caches, which are bf16, as all at once. */
static void decoding(const struct test_device *device) {
    struct run run = run_new(device, HEED_BF16);
    run_step(&run);
    const heed_tensor all = tokens(run.ctx, 1, 0);
    const heed_tensor whole = heed_gpt_forward(run.gpt, all, NULL, NULL);
    heed_gpt_cache *cache = heed_gpt_cache_new(run.gpt, BATCH, LENGTH);
    for (int at = 0; at < 6; at++) {
        const heed_gpt_call_options call = {.cache = cache};
        const heed_tensor logits = heed_gpt_forward(run.gpt, heed_slice(all, 1, at, at + 1, 1), &call, NULL);
        test_ok(run.ctx);
        int64_t n;
        double *actual = test_values(logits, &n),
               *expected = test_values(heed_slice(whole, 1, at, at + 1, 1), &n);
        char text[200];
        const bool close = test_close(n, actual, expected, (struct test_tolerance){0x1p-6, 0x1p-6},
                                      test_largest(n, expected), text, sizeof text);
        ck_assert_msg(close, "%s, position %d: %s", device->device, at, text);
        free(actual);
        free(expected);
    }
    heed_gpt_cache_free(cache);
    run_free(&run);
}

START_TEST(caches_are_bf16) {
    on_devices(decoding);
}
END_TEST

/* ---- computed again ---- */

/* A hidden layer whose handle ends is computed again in backward; with a living handle it is kept. */
static void gradients(const struct test_device *device, heed_activation activation, bool keep,
                      double *dw[2]) {
    heed_ctx *ctx = mixed(device);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(20, 32));
    const heed_tensor w[2] = {test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(48, 32)),
                              test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(16, 48))};
    for (int i = 0; i < 2; i++) heed_require_grad(w[i], true);
    if (!keep) heed_scope_begin(ctx);
    const heed_tensor normed = heed_layer_norm(x, none, none, 0);
    heed_tensor hidden = heed_linear(normed, w[0], none, &(heed_linear_options){.activation = activation});
    heed_tensor y = heed_linear(hidden, w[1], none, NULL);
    if (!keep) y = heed_scope_end(ctx, y);
    heed_backward_with(
        y, &(heed_backward_options){.gradient = test_tensor(ctx, HEED_BF16, 4, TEST_SHAPE(20, 16))});
    test_ok(ctx);
    int64_t n;
    for (int i = 0; i < 2; i++) dw[i] = test_values(heed_grad(w[i]), &n);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_ctx_free(ctx);
}

static void remade(const struct test_device *device) {
    static const size_t count[2] = {48 * 32, 16 * 48};
    for (int activation = HEED_ACTIVATION_NONE; activation <= HEED_ACTIVATION_SIGMOID; activation++) {
        double *kept[2], *again[2];
        gradients(device, (heed_activation)activation, true, kept);
        gradients(device, (heed_activation)activation, false, again);
        for (int i = 0; i < 2; i++) {
            test_check(memcmp(kept[i], again[i], count[i] * sizeof(double)) == 0,
                       "%s, activation %d: other bits in gradient %d", device->device, activation, i);
            free(kept[i]);
            free(again[i]);
        }
    }
}

START_TEST(what_is_computed_again_has_the_same_bits) {
    on_devices(remade);
}
END_TEST

/* ---- words and errors ---- */

START_TEST(explain_tells_the_precision) {
    static char text[16384];
    struct run run = run_new(&(struct test_device){"cpu", NULL, 1}, HEED_BF16);
    run_step(&run);
    heed_explain(run.ctx, text, sizeof text);
    ck_assert_ptr_nonnull(
        strstr(text, "\nprecision bf16: f32 parameters, gradients of them, statistics and losses\n"));
    ck_assert_msg(test_elsewhere() || strstr(text, "\nlinear: cpu-bf16, "), "%s", text);
    run_free(&run);
    struct run plain = run_new(&(struct test_device){"cpu", NULL, 1}, HEED_F32);
    heed_explain(plain.ctx, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "\nprecision f32\n"));
    run_free(&plain);
}
END_TEST

START_TEST(wrong_use) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.precision = HEED_I32});
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_ARGUMENT);
    ck_assert_str_eq(heed_error(ctx), "ctx_new: precision is i32, not f32 or bf16");
    heed_ctx_free(ctx);
    ctx = mixed(&(struct test_device){"cpu", NULL, 1});
    const heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(4, 4)),
                      wide = test_tensor(ctx, HEED_F64, 1, TEST_SHAPE(4, 4));
    heed_matmul(x, wide);
    test_error(ctx, HEED_ERROR_DTYPE, "matmul: b is f64, but the first argument is f32", "f64");
    heed_add(heed_matmul(x, x), wide);
    test_error(ctx, HEED_ERROR_DTYPE, "add: b is f64, but the first argument is bf16", "f64");
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mixed precision");
    TCase *tensors = test_case(suite, "dtypes");
    tcase_add_test(tensors, dtypes_of_results);
    tcase_add_test(tensors, attention_keeps_statistics_in_f32);
    tcase_add_test(tensors, products_of_rounded_operands);
    tcase_add_test(tensors, programs_need_not_know);
    TCase *parameters = test_case(suite, "parameters");
    tcase_add_test(parameters, a_parameter_is_copied_once_a_step);
    tcase_add_test(parameters, gradients_of_parameters_add_up_in_f32);
    tcase_add_test(parameters, projections_stay_joined);
    tcase_add_test(parameters, every_allocation_fails);
    TCase *model = test_case(suite, "a language model");
    tcase_add_test(model, training_follows_f32);
    tcase_add_test(model, any_number_of_threads_gives_the_same_bits);
    tcase_add_test(model, activations_take_half_the_memory);
    tcase_add_test(model, checkpoints_hold_f32);
    tcase_add_test(model, caches_are_bf16);
    TCase *tape = test_case(suite, "tape");
    tcase_add_test(tape, what_is_computed_again_has_the_same_bits);
    TCase *words = test_case(suite, "words");
    tcase_add_test(words, explain_tells_the_precision);
    tcase_add_test(words, wrong_use);
    return test_main(suite);
}
