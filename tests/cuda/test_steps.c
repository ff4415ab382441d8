/* Training steps on a device that runs behind the host: what errors that are known late leave as it was, how
 * often the host waits, and every call of the runtime failing once. On the emulation. */
#include <math.h>
#include <string.h>

#include <heed/io.h>

#include "emulation.h"
#include "harness_files.h"
#include "optim/optim.h"

/* ---- a model ---- */

enum { BATCH = 2, LENGTH = 6, ROWS = BATCH * LENGTH, WIDTH = 8, HEADS = 2, CLASSES = 11 };

static heed_ctx *context(const heed_ctx_options *options) {
    heed_ctx_options own = *options;
    own.device = emulation_device();
    own.seed = 3;
    return heed_ctx_new(&own);
}

/* An embedding, an encoder's layer, and the classes. */
static heed_module *model_new(heed_ctx *ctx) {
    heed_module *parts[3] = {
        heed_embedding_new(ctx, &(heed_embedding_options){.rows = CLASSES, .width = WIDTH}),
        heed_encoder_layer_new(ctx, &(heed_transformer_options){.width = WIDTH, .heads = HEADS}),
        heed_dense_new(ctx, &(heed_dense_options){.in = WIDTH, .out = CLASSES})};
    return heed_sequential_new(ctx, 3, parts);
}

/* What a program has of a batch, in its own memory. */
struct batch {
    int32_t tokens[ROWS], target[ROWS];
};

static struct batch batch_of(int number) {
    struct batch b;
    for (int i = 0; i < ROWS; i++) {
        b.tokens[i] = (number + 3 * i) % CLASSES;
        b.target[i] = (b.tokens[i] + 1) % CLASSES;
    }
    return b;
}

/* Attention once more, within sequences that lie one behind the other in the same rows. */
static heed_tensor packed(heed_ctx *ctx, heed_tensor x, const heed_score *score) {
    const int32_t starts[BATCH + 1] = {0, LENGTH - 1, ROWS};
    const heed_tensor at = heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH + 1), starts), none = {0};
    heed_tensor h = heed_reshape(x, TEST_SHAPE(ROWS, HEADS, WIDTH / HEADS));
    h = heed_transpose(h, 0, 1);
    h = heed_attention_packed(h, h, h, at, none, score, NULL, NULL);
    return heed_reshape(heed_transpose(h, 0, 1), TEST_SHAPE(BATCH, LENGTH, WIDTH));
}

/* The loss of a batch whose tensors are made for it, lengths and starts of sequences too. */
static heed_tensor loss_of(heed_module *model, const struct batch *batch) {
    heed_ctx *ctx = heed_module_ctx(model);
    const int32_t lengths[BATCH] = {LENGTH - 1, LENGTH - 2};
    const heed_tensor tokens = heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH, LENGTH), batch->tokens);
    const heed_tensor target = heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH, LENGTH), batch->target);
    heed_mask *mask = heed_mask_key_lengths(heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH), lengths));
    const heed_score *score = heed_score_mask(heed_score_new(ctx), mask);
    heed_tensor x = heed_forward(heed_module_find(model, "0"), tokens);
    x = heed_encoder_layer_forward(heed_module_find(model, "1"), x, score);
    x = heed_add(x, packed(ctx, x, score));
    return heed_cross_entropy(heed_forward(heed_module_find(model, "2"), x), target, NULL);
}

static heed_status train(heed_module *model, heed_optim *optim, int number, double *loss) {
    heed_ctx *ctx = heed_module_ctx(model);
    const struct batch batch = batch_of(number);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor y = loss_of(model, &batch);
    heed_backward(y);
    heed_optim_step(optim, 0.01);
    if (loss) *loss = heed_item(y);
    return heed_step_end(ctx);
}

/* ---- errors that are known late ---- */

enum fault { BAD_INDEX, BAD_TARGET, BAD_NORM, BAD_LOSS, FAULTS };
static const char *const fault_messages[FAULTS] = {
    "gather: index 99 is not in 0 to 10", "cross_entropy: target 99 is not in 0 to 10",
    ": gradient of 0.weight is not finite at step 2", "backward: the loss is -inf at step 2"};

static heed_status train_badly(heed_module *model, heed_optim *optim, enum fault fault) {
    heed_ctx *ctx = heed_module_ctx(model);
    struct batch batch = batch_of(5);
    if (fault == BAD_INDEX) batch.tokens[ROWS - 1] = 99;
    if (fault == BAD_TARGET) batch.target[3] = 99;
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor loss = loss_of(model, &batch);
    if (fault == BAD_LOSS) loss = heed_add_scalar(loss, -INFINITY);
    heed_backward_options options = {.retain = false};
    if (fault == BAD_NORM) options.gradient = heed_full(ctx, HEED_F32, HEED_SCALAR, NAN);
    heed_backward_with(loss, &options);
    heed_optim_step(optim, 0.01);
    return heed_step_end(ctx);
}

/* All numbers of a model and its optimiser: parameters, then the optimiser's state (malloc). */
struct numbers {
    char *data;
    size_t bytes;
    int64_t steps;
};

static char *more(struct numbers *n, size_t bytes) {
    n->data = realloc(n->data, n->bytes + bytes);
    ck_assert(n->data != NULL);
    n->bytes += bytes;
    return n->data + n->bytes - bytes;
}

static struct numbers numbers_of(heed_module *model, heed_optim *optim) {
    struct numbers n = {.steps = heed_optim_steps(optim)};
    for (int64_t i = 0; i < heed_param_tensors(model); i++) {
        const heed_tensor param = heed_param_at(model, i, NULL, 0);
        const size_t bytes = (size_t)heed_count(param) * sizeof(float);
        ck_assert_int_eq(heed_read(param, more(&n, bytes), bytes), HEED_OK);
    }
    for (int64_t i = 0; i < heed_optim_state_count(optim); i++) {
        struct heed_optim_state state;
        ck_assert(heed_optim_state_at(optim, i, &state));
        char *to = more(&n, (size_t)state.count * heed_dtype_bytes(state.dtype));
        ck_assert_int_eq(heed_optim_state_read(optim, i, to), HEED_OK);
    }
    return n;
}

static void same_numbers(struct numbers a, struct numbers b, const char *what) {
    ck_assert_msg(a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0, "%s: numbers differ", what);
    ck_assert_msg(a.steps == b.steps, "%s: %d and %d steps", what, (int)a.steps, (int)b.steps);
    free(a.data);
    free(b.data);
}

static heed_optim *optim_new(heed_module *model, int variant) {
    const double clip = variant & 1 ? 0.1 : 0;
    if (variant & 2)
        return heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = clip});
    return heed_sgd_new(model, &(heed_sgd_options){.momentum = 0.9, .clip_norm = clip});
}

struct training {
    heed_ctx *ctx;
    heed_module *model;
    heed_optim *optim;
};

static struct training training_new(int variant) {
    struct training t = {.ctx = context(&(heed_ctx_options){.threads = 1})};
    t.model = model_new(t.ctx);
    t.optim = optim_new(t.model, variant);
    return t;
}

static void training_free(struct training *t) {
    heed_optim_free(t->optim);
    heed_module_free(t->model);
    heed_ctx_free(t->ctx);
}

/* Two steps, a bad one with two more behind it, of which the host hears when it waits, and then a good one:
 * the bad one and those behind it have left no trace. */
static void goes_on(enum fault fault, int variant) {
    struct training mine = training_new(variant), calm = training_new(variant);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(train(mine.model, mine.optim, i, NULL), HEED_OK);
        ck_assert_int_eq(train(calm.model, calm.optim, i, NULL), HEED_OK);
    }
    const struct numbers before = numbers_of(mine.model, mine.optim);
    ck_assert_int_eq(train_badly(mine.model, mine.optim, fault), HEED_OK);
    for (int i = 2; i < 4; i++) ck_assert_int_eq(train(mine.model, mine.optim, i, NULL), HEED_OK);
    ck_assert_int_eq(heed_optim_steps(mine.optim), 5);
    heed_sync(mine.ctx);
    test_error(mine.ctx, fault < BAD_NORM ? HEED_ERROR_ARGUMENT : HEED_ERROR_NUMERIC, fault_messages[fault],
               "late");
    same_numbers(before, numbers_of(mine.model, mine.optim), fault_messages[fault]);
    ck_assert_int_eq(train(mine.model, mine.optim, 4, NULL), HEED_OK);
    ck_assert_int_eq(train(calm.model, calm.optim, 4, NULL), HEED_OK);
    same_numbers(numbers_of(mine.model, mine.optim), numbers_of(calm.model, calm.optim), "the next step");
    training_free(&mine);
    training_free(&calm);
}

START_TEST(nothing_changes_behind_a_fault) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1); /* nothing is done before somebody waits */
    for (int variant = 0; variant < 4; variant++) goes_on((enum fault)_i, variant);
}
END_TEST

/* Two optimisers, of which one steps more often: each counts again what it did. */
START_TEST(two_optimisers) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    heed_ctx *ctx = context(&(heed_ctx_options){.threads = 1});
    heed_module *model[2] = {model_new(ctx), model_new(ctx)};
    heed_optim *optim[2] = {optim_new(model[0], 2), optim_new(model[1], 1)};
    for (int i = 0; i < 5; i++) train(model[i % 3 == 2], optim[i % 3 == 2], i, NULL);
    const struct numbers before[2] = {numbers_of(model[0], optim[0]), numbers_of(model[1], optim[1])};
    ck_assert_int_eq(before[0].steps, 4);
    train(model[0], optim[0], 5, NULL); /* the last one that counts */
    train_badly(model[1], optim[1], BAD_INDEX);
    for (int i = 0; i < 5; i++) train(model[i % 3 == 2], optim[i % 3 == 2], i, NULL);
    heed_sync(ctx);
    test_error(ctx, HEED_ERROR_ARGUMENT, fault_messages[BAD_INDEX], "two optimisers");
    ck_assert_int_eq(heed_optim_steps(optim[0]), 5);
    same_numbers(before[1], numbers_of(model[1], optim[1]), "the second");
    free(before[0].data);
    for (int i = 0; i < 2; i++) {
        heed_optim_free(optim[i]);
        heed_module_free(model[i]);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* A step that leaves most parameters alone, whose loss is not finite. */
static void train_embedding_badly(heed_module *model, heed_optim *optim) {
    heed_ctx *ctx = heed_module_ctx(model);
    const struct batch batch = batch_of(1);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor tokens = heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH, LENGTH), batch.tokens);
    const heed_tensor x = heed_forward(heed_module_find(model, "0"), tokens);
    heed_backward(heed_add_scalar(heed_sum(x, HEED_ALL, false), INFINITY));
    heed_optim_step(optim, 0.01);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
}

/* What a parameter missed is not taken back from it. */
START_TEST(steps_of_some_parameters) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    struct training mine = training_new(2);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(train(mine.model, mine.optim, i, NULL), HEED_OK);
    const struct numbers before = numbers_of(mine.model, mine.optim);
    train_embedding_badly(mine.model, mine.optim);
    ck_assert_int_eq(train(mine.model, mine.optim, 3, NULL), HEED_OK);
    heed_sync(mine.ctx);
    test_error(mine.ctx, HEED_ERROR_NUMERIC, "backward: the loss is inf at step 3", "late");
    same_numbers(before, numbers_of(mine.model, mine.optim), "some parameters");
    training_free(&mine);
}
END_TEST

/* Gradients of a loss that was not finite are not added to. */
START_TEST(gradients_left_by_a_fault) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    struct training mine = training_new(2), calm = training_new(2);
    const struct batch batch = batch_of(7);
    heed_step_begin(mine.ctx, HEED_TRAIN);
    heed_backward(heed_mul_scalar(loss_of(mine.model, &batch), NAN));
    ck_assert_int_eq(heed_step_end(mine.ctx), HEED_OK);
    ck_assert(heed_is_valid(heed_grad(heed_param_at(mine.model, 0, NULL, 0))));
    heed_sync(mine.ctx);
    test_error(mine.ctx, HEED_ERROR_NUMERIC, "backward: the loss is", "late");
    ck_assert(!heed_is_valid(heed_grad(heed_param_at(mine.model, 0, NULL, 0))));
    ck_assert_int_eq(train(mine.model, mine.optim, 0, NULL), HEED_OK);
    ck_assert_int_eq(train(calm.model, calm.optim, 0, NULL), HEED_OK);
    same_numbers(numbers_of(mine.model, mine.optim), numbers_of(calm.model, calm.optim), "the next step");
    training_free(&mine);
    training_free(&calm);
}
END_TEST

/* A device that has something to tell does so before anything is loaded. */
START_TEST(loading_behind_a_fault) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    struct training mine = training_new(2);
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "saved", path);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(train(mine.model, mine.optim, i, NULL), HEED_OK);
    ck_assert_int_eq(heed_checkpoint_save(mine.model, mine.optim, path, NULL), HEED_OK);
    const struct numbers saved = numbers_of(mine.model, mine.optim);
    for (int i = 3; i < 5; i++) ck_assert_int_eq(train(mine.model, mine.optim, i, NULL), HEED_OK);
    ck_assert_int_eq(train_badly(mine.model, mine.optim, BAD_INDEX), HEED_OK);
    ck_assert_int_eq(heed_checkpoint_load(mine.model, mine.optim, path, NULL), HEED_ERROR_ARGUMENT);
    test_error(mine.ctx, HEED_ERROR_ARGUMENT, fault_messages[BAD_INDEX], "load");
    ck_assert_int_eq(heed_optim_steps(mine.optim), 5);
    ck_assert_int_eq(heed_checkpoint_load(mine.model, mine.optim, path, NULL), HEED_OK);
    same_numbers(saved, numbers_of(mine.model, mine.optim), "loaded");
    test_directory_remove(directory);
    training_free(&mine);
}
END_TEST

/* A layer that looks at its input on the host, which waits for it, and says what it is told to. */
static heed_status host_says;

static heed_status look(const heed_custom_call *call) {
    const size_t bytes = (size_t)(ROWS * WIDTH) * sizeof(float);
    memcpy(call->output[0].data, call->input[0].data, bytes);
    return host_says;
}

static heed_tensor look_forward(heed_module *module, heed_tensor x) {
    const heed_raw shape = {.dtype = HEED_F32, .rank = 3, .size = {BATCH, LENGTH, WIDTH}};
    heed_tensor y;
    heed_custom_op(
        heed_module_ctx(module),
        &(heed_custom_options){
            .name = "look", .inputs = 1, .input = &x, .outputs = 1, .output = &shape, .forward = look},
        &y);
    return y;
}

static heed_status look_at(heed_module *model, const struct batch *batch) {
    heed_ctx *ctx = heed_module_ctx(model);
    heed_step_begin(ctx, HEED_EVAL);
    heed_forward(model, heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH, LENGTH), batch->tokens));
    return heed_step_end(ctx);
}

/* The layer in which the host comes to wait is not to blame for what was wrong before it: in the step before,
 * or in its own. */
START_TEST(no_layer_is_blamed) {
    static const heed_module_class looking = {.name = "Looking", .forward = look_forward};
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    host_says = HEED_OK;
    heed_ctx *ctx = context(&(heed_ctx_options){.threads = 1});
    heed_module *parts[2] = {
        heed_embedding_new(ctx, &(heed_embedding_options){.rows = CLASSES, .width = WIDTH}),
        heed_module_new(ctx, &looking)};
    heed_module *model = heed_sequential_new(ctx, 2, parts);
    const struct batch good = batch_of(0);
    struct batch bad = good;
    bad.tokens[ROWS - 1] = 99;
    ck_assert_int_eq(look_at(_i ? model : parts[0], &bad), _i ? HEED_ERROR_ARGUMENT : HEED_OK);
    if (_i == 0) ck_assert_int_eq(look_at(model, &good), HEED_ERROR_ARGUMENT);
    ck_assert_str_eq(heed_error(ctx), fault_messages[BAD_INDEX]);
    heed_error_clear(ctx);
    ck_assert_int_eq(look_at(model, &good), HEED_OK);
    host_says = HEED_ERROR_NUMERIC; /* which is its own */
    ck_assert_int_eq(look_at(model, &good), HEED_ERROR_NUMERIC);
    test_error(ctx, HEED_ERROR_NUMERIC, "1 (Looking): look: ", "the layer's own");
    heed_module_free(model);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- waits ---- */

/* The host waits when it reads the loss, and else not at all. */
START_TEST(waits_of_a_step) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1);
    struct emulated_control *emulated = emulation();
    heed_ctx *ctx = context(&(heed_ctx_options){.precision = _i ? HEED_BF16 : HEED_F32});
    heed_module *model = model_new(ctx);
    heed_optim *optim = optim_new(model, 3);
    double loss = 0;
    for (int i = 0; i < 3; i++) ck_assert_int_eq(train(model, optim, i, &loss), HEED_OK);
    ck_assert_int_eq(heed_sync(ctx), HEED_OK);
    const int64_t waits = emulated->waits, allocated = emulated->allocated;
    for (int i = 0; i < 3; i++) ck_assert_int_eq(train(model, optim, i, NULL), HEED_OK);
    ck_assert_int_eq(emulated->waits - waits, 0);
    ck_assert_int_eq(train(model, optim, 3, &loss), HEED_OK);
    ck_assert_int_eq(emulated->waits - waits, 1);
    ck_assert_int_eq(emulated->allocated, allocated);
    ck_assert(isfinite(loss));
    heed_optim_free(optim);
    heed_module_free(model);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- every call failing once ---- */

static void nothing_lives(int64_t n) {
    const struct emulated_control *emulated = emulation();
    ck_assert_msg(emulated->streams == 0 && emulated->allocations == 0,
                  "call %d: %d streams and %d allocations live", (int)n, (int)emulated->streams,
                  (int)emulated->allocations);
}

/* Every block is an allocation of its own, of the device too, so that each fails in its turn. */
static const heed_ctx_options one_by_one = {.chunk_bytes = 1, .threads = 1};

START_TEST(making_may_fail) {
    struct emulated_control *emulated = emulation();
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        emulated->calls = 0;
        emulated->fail_at = n;
        heed_ctx *ctx = context(&one_by_one);
        heed_module *model = model_new(ctx);
        heed_optim *optim = optim_new(model, 3);
        heed_sync(ctx);
        reached = emulated->calls >= n;
        ck_assert_msg(reached == heed_failed(ctx), "call %d: \"%s\"", (int)n, heed_error(ctx));
        emulated->fail_at = 0;
        heed_optim_free(optim);
        heed_module_free(model);
        heed_ctx_free(ctx);
        nothing_lives(n);
    }
    ck_assert_int_gt(n, 50);
}
END_TEST

/* What lives of the device's and the host's memory when nothing is under way. */
struct living {
    int64_t allocations;
    size_t bytes;
};

static struct living living(heed_ctx *ctx) {
    ck_assert_int_eq(heed_sync(ctx), HEED_OK);
    return (struct living){emulation()->allocations, heed_memory(ctx).in_use};
}

START_TEST(steps_may_fail) {
    struct emulated_control *emulated = emulation();
    heed_ctx_options options = one_by_one;
    options.precision = _i ? HEED_BF16 : HEED_F32;
    heed_ctx *ctx = context(&options);
    heed_module *model = model_new(ctx);
    heed_optim *optim = optim_new(model, 3);
    double loss;
    for (int i = 0; i < 3; i++) ck_assert_int_eq(train(model, optim, i, &loss), HEED_OK);
    const struct living before = living(ctx);
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        emulated->calls = 0;
        emulated->fail_at = n;
        train(model, optim, 4, &loss);
        heed_sync(ctx);
        reached = emulated->calls >= n;
        emulated->fail_at = 0;
        ck_assert_msg(reached == heed_failed(ctx), "call %d of a step: \"%s\"", (int)n, heed_error(ctx));
        ck_assert_msg(strchr(heed_error(ctx), '\n') == NULL, "\"%s\" is more than a line", heed_error(ctx));
        heed_error_clear(ctx);
        ck_assert_msg(train(model, optim, 4, &loss) == HEED_OK && isfinite(loss),
                      "the step after call %d: \"%s\"", (int)n, heed_error(ctx));
        const struct living after = living(ctx);
        ck_assert_msg(after.allocations == before.allocations && after.bytes == before.bytes,
                      "call %d of a step: %d allocations and %zu bytes live, and before %d and %zu", (int)n,
                      (int)after.allocations, after.bytes, (int)before.allocations, before.bytes);
    }
    ck_assert_int_gt(n, 150);
    heed_optim_free(optim);
    heed_module_free(model);
    heed_ctx_free(ctx);
    nothing_lives(n);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_steps");
    TCase *tcase = test_case(suite, "errors"), *making = test_case(suite, "making fails"),
          *stepping = test_case(suite, "steps fail");
    tcase_add_loop_test(tcase, nothing_changes_behind_a_fault, 0, FAULTS);
    tcase_add_test(tcase, two_optimisers);
    tcase_add_test(tcase, steps_of_some_parameters);
    tcase_add_test(tcase, gradients_left_by_a_fault);
    tcase_add_test(tcase, loading_behind_a_fault);
    tcase_add_loop_test(tcase, no_layer_is_blamed, 0, 2);
    tcase_add_loop_test(tcase, waits_of_a_step, 0, 2);
    tcase_add_test(making, making_may_fail);
    tcase_add_loop_test(stepping, steps_may_fail, 0, 2);
    return test_main(suite);
}
