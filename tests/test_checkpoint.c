/* Checkpoints: going on as if nothing had happened, and bad files that change nothing. */
#include "harness.h"

#include <heed/io.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_files.h"

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES], other[TEST_PATH_BYTES];

static void setup(void) {
    test_directory_make(directory);
    test_path(directory, "run.safetensors", path);
    test_path(directory, "other.safetensors", other);
}

static void teardown(void) {
    test_directory_remove(directory);
}

/* ---- a run: a small language model with dropout, on data that follow from the position ---- */

enum { VOCABULARY = 11, LENGTH = 6, BATCH = 3, STEPS = 60, HALF = 30 };

struct run {
    heed_ctx *ctx;
    heed_module *model;
    heed_optim *optim;
    int64_t position;
};

static heed_optim *make_optim(heed_module *model, const char *kind) {
    const heed_adamw_options adam = {.weight_decay = 0.1, .clip_norm = 0.5};
    if (strcmp(kind, "adamw") == 0) return heed_adamw_new(model, &adam);
    if (strcmp(kind, "adam") == 0) return heed_adam_new(model, &adam);
    const double momentum = strcmp(kind, "momentum") == 0 ? 0.9 : 0;
    return heed_sgd_new(model, &(heed_sgd_options){.momentum = momentum, .clip_value = 0.1});
}

static struct run run_new(const char *device, const char *kind, int64_t width) {
    struct run run = {.ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = 5})};
    run.model = heed_gpt_new(run.ctx, &(heed_gpt_options){.vocabulary = VOCABULARY,
                                                          .length = LENGTH,
                                                          .layers = 2,
                                                          .heads = 2,
                                                          .width = width,
                                                          .dropout = 0.2});
    run.optim = make_optim(run.model, kind);
    ck_assert_msg(!heed_failed(run.ctx), "%s", heed_error(run.ctx));
    return run;
}

static void run_free(struct run *run) {
    heed_optim_free(run->optim);
    heed_module_free(run->model);
    heed_ctx_free(run->ctx);
}

static heed_tensor tokens(heed_ctx *ctx, int64_t position, int shift) {
    int32_t token[BATCH * LENGTH];
    for (int i = 0; i < BATCH * LENGTH; i++) {
        const int64_t at = position * BATCH + i / LENGTH + i % LENGTH + shift;
        token[i] = (int32_t)(at * at % VOCABULARY);
    }
    return heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, LENGTH), token);
}

/* One step; returns the bits of the loss. With `die` the process ends in the middle of it. */
static double run_step(struct run *run, bool die) {
    heed_step_begin(run->ctx, HEED_TRAIN);
    const heed_tensor x = tokens(run->ctx, run->position, 0), y = tokens(run->ctx, run->position, 1);
    const heed_tensor loss = heed_cross_entropy(heed_forward(run->model, x), y, NULL);
    heed_backward(loss);
    if (die) raise(SIGKILL);
    heed_optim_step(run->optim, heed_schedule_warmup_cosine(run->position, 5, STEPS, 0.01));
    const double value = heed_item(loss);
    run->position++;
    ck_assert_msg(heed_step_end(run->ctx) == HEED_OK, "%s", heed_error(run->ctx));
    return value;
}

static heed_status run_save(const struct run *run, const char *where) {
    return heed_checkpoint_save(run->model, run->optim, where,
                                &(heed_checkpoint_info){.position = run->position, .text = "half"});
}

/* All of a run as bytes: what its checkpoint would be. In a block for free(). */
static char *run_bytes(const struct run *run, size_t *bytes) {
    char name[TEST_PATH_BYTES];
    test_path(directory, "bytes", name);
    ck_assert_msg(run_save(run, name) == HEED_OK, "%s", heed_error(run->ctx));
    char *content = test_file_read(name, bytes);
    ck_assert_int_eq(unlink(name), 0);
    return content;
}

static void check_same_run(const struct run *run, const char *expected, size_t expected_bytes) {
    size_t bytes;
    char *now = run_bytes(run, &bytes);
    ck_assert_uint_eq(bytes, expected_bytes);
    ck_assert_mem_eq(now, expected, bytes);
    free(now);
}

/* ---- resuming ---- */

static const struct {
    const char *device, *kind;
} resumed[] = {{"ref", "adamw"}, {"cpu", "adamw"}, {"cpu", "adam"}, {"cpu", "sgd"}, {"cpu", "momentum"}};

/* In a process of its own: 30 steps, a checkpoint, and killed within the next step. */
static void train_and_die(const char *device, const char *kind) {
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct run run = run_new(device, kind, 8);
        while (run.position < HALF) run_step(&run, false);
        if (run_save(&run, path) != HEED_OK) _exit(1);
        run_step(&run, true);
        _exit(2);
    }
    int end;
    ck_assert_int_eq(waitpid(child, &end, 0), child);
    ck_assert(WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL);
}

START_TEST(resuming_gives_the_same_bits) {
    const char *device = resumed[_i].device, *kind = resumed[_i].kind;
    train_and_die(device, kind);

    double loss[STEPS];
    struct run whole = run_new(device, kind, 8);
    for (int i = 0; i < STEPS; i++) loss[i] = run_step(&whole, false);
    ck_assert_double_lt(loss[STEPS - 1], loss[0]);
    size_t bytes;
    char *expected = run_bytes(&whole, &bytes);
    run_free(&whole);

    struct run run = run_new(device, kind, 8);
    run_step(&run, false); /* what a load must replace completely */
    heed_checkpoint_info info;
    ck_assert_msg(heed_checkpoint_load(run.model, run.optim, path, &info) == HEED_OK, "%s",
                  heed_error(run.ctx));
    ck_assert_int_eq(info.position, HALF);
    ck_assert_int_eq(info.optim_steps, HALF);
    ck_assert_int_eq(info.version, 1);
    ck_assert_str_eq(info.text, "half");
    run.position = info.position;
    heed_checkpoint_info_clear(&info);
    ck_assert_ptr_null(info.text);
    for (int i = HALF; i < STEPS; i++) {
        const double now = run_step(&run, false);
        ck_assert_msg(memcmp(&now, &loss[i], sizeof now) == 0, "step %d: %.17g, not %.17g", i, now, loss[i]);
    }
    check_same_run(&run, expected, bytes);
    free(expected);
    run_free(&run);
}
END_TEST

START_TEST(gradients_left_over_are_forgotten) {
    struct run run = run_new("cpu", "sgd", 8);
    ck_assert_int_eq(run_save(&run, path), HEED_OK);
    heed_step_begin(run.ctx, HEED_TRAIN);
    heed_backward(heed_sum(heed_forward(run.model, tokens(run.ctx, 0, 0)), HEED_ALL, false));
    ck_assert_int_eq(heed_step_end(run.ctx), HEED_OK);
    ck_assert(!heed_is_none(heed_grad(heed_param_at(run.model, 0, NULL, 0))));
    ck_assert_int_eq(heed_checkpoint_load(run.model, run.optim, path, NULL), HEED_OK);
    ck_assert(heed_is_none(heed_grad(heed_param_at(run.model, 0, NULL, 0))));
    run_free(&run);
}
END_TEST

START_TEST(a_model_without_optimiser) {
    struct run run = run_new("cpu", "adamw", 8);
    heed_checkpoint_info info;
    run_step(&run, false);
    ck_assert_int_eq(heed_checkpoint_save(run.model, NULL, path, NULL), HEED_OK);
    size_t bytes;
    char *before = run_bytes(&run, &bytes);
    ck_assert_int_eq(heed_checkpoint_load(run.model, NULL, path, &info), HEED_OK);
    ck_assert_int_eq(info.position, 0);
    ck_assert_int_eq(info.optim_steps, 0);
    ck_assert_str_eq(info.text, "");
    heed_checkpoint_info_clear(&info);
    check_same_run(&run, before, bytes);
    ck_assert_int_ne(heed_checkpoint_load(run.model, run.optim, path, &info), HEED_OK);
    ck_assert_ptr_null(info.text);
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "was saved with the optimiser \"none\", expected \"adamw\"",
               "none");
    check_same_run(&run, before, bytes);

    /* The other way round the optimiser in the file is left aside. */
    ck_assert_int_eq(run_save(&run, path), HEED_OK);
    ck_assert_int_eq(heed_checkpoint_load(run.model, NULL, path, NULL), HEED_OK);
    free(before);
    run_free(&run);
}
END_TEST

/* ---- files that do not fit ---- */

static void check_load_fails(struct run *run, const char *where, heed_status status, const char *message) {
    size_t bytes;
    heed_checkpoint_info info = {.position = 3};
    char *before = run_bytes(run, &bytes);
    ck_assert_int_eq(heed_checkpoint_load(run->model, run->optim, where, &info), status);
    ck_assert_msg(info.position == 0 && info.text == NULL, "%s", message);
    test_error(run->ctx, status, message, message);
    check_same_run(run, before, bytes);
    free(before);
}

START_TEST(checkpoints_of_other_models_and_optimisers) {
    struct run run = run_new("cpu", "adamw", 8), wide = run_new("cpu", "adamw", 12),
               sgd = run_new("cpu", "sgd", 8), momentum = run_new("cpu", "momentum", 8);
    struct run *all[] = {&run, &wide, &sgd, &momentum};
    for (int i = 0; i < 4; i++) run_step(all[i], false);
    run_save(&run, path);
    check_load_fails(&wide, path, HEED_ERROR_SHAPE,
                     "tensor \"model.tokens.weight\" is F32 [11,8], expected F32 [11,12]");
    check_load_fails(&sgd, path, HEED_ERROR_ARGUMENT,
                     "was saved with the optimiser \"adamw\", expected \"sgd\"");
    run_save(&sgd, path);
    check_load_fails(&momentum, path, HEED_ERROR_FORMAT,
                     "tensor \"optimiser.sgd.momentum.tokens.weight\" is missing");
    run_save(&momentum, path);
    check_load_fails(&sgd, path, HEED_ERROR_FORMAT, "is not expected");
    check_load_fails(&run, other, HEED_ERROR_IO, "other.safetensors: cannot open: No such file");
    heed_params_save(run.model, path);
    check_load_fails(&run, path, HEED_ERROR_FORMAT, "is not a checkpoint of heed");
    test_file_write(path, "junk that is no safetensors file", 32);
    check_load_fails(&run, path, HEED_ERROR_FORMAT, "run.safetensors: header of");
    for (int i = 0; i < 4; i++) run_free(all[i]);
}
END_TEST

/* Replaces text of the same length in a file. */
static void edit(const char *where, const char *from, const char *to) {
    size_t bytes;
    char *content = test_file_read(where, &bytes);
    char *at = memmem(content, bytes, from, strlen(from));
    ck_assert_msg(at != NULL, "no %s", from);
    ck_assert_uint_eq(strlen(from), strlen(to));
    test_put(at, to);
    test_file_write(where, content, bytes);
    free(content);
}

static const struct {
    const char *from, *to;
    heed_status status;
    const char *message;
} edits[] = {
    {"heed.version\":\"1", "heed.version\":\"9", HEED_ERROR_UNSUPPORTED,
     "has format version 9, this library reads 1"},
    {"heed.version\":\"1", "heed.version\":\"x", HEED_ERROR_FORMAT, "metadata \"heed.version\" is \"x\""},
    {"heed.version", "heed.Version", HEED_ERROR_FORMAT, "metadata \"heed.version\" is missing"},
    {"heed.format", "heed.Format", HEED_ERROR_FORMAT, "is not a checkpoint of heed"},
    {"\"checkpoint\"", "\"parameters\"", HEED_ERROR_FORMAT, "is not a checkpoint of heed"},
    {"\"adamw\"", "\"adamx\"", HEED_ERROR_ARGUMENT,
     "was saved with the optimiser \"adamx\", expected \"adamw\""},
    {"heed.optimiser\"", "heed.Optimiser\"", HEED_ERROR_FORMAT, "metadata \"heed.optimiser\" is missing"},
    {"optimiser_steps\":\"2", "optimiser_steps\":\"-", HEED_ERROR_FORMAT,
     "expected a number of at most 92233720368547"},
    {"optimiser_steps\":\"2", "optimiser_steps\":\"1", HEED_ERROR_FORMAT,
     "2 updates of a parameter, 1 of the optimiser"},
    {"heed.position\":\"2", "heed.position\":\" ", HEED_ERROR_FORMAT, "metadata \"heed.position\" is \" \""},
    {"random.seed\":\"5", "random.seed\":\"\n", HEED_ERROR_FORMAT, "not valid JSON"},
    {"random.step\"", "random.Step\"", HEED_ERROR_FORMAT, "metadata \"heed.random.step\" is missing"},
    {"random.ordinal\"", "random.Ordinal\"", HEED_ERROR_FORMAT,
     "metadata \"heed.random.ordinal\" is missing"},
    {"heed.text", "heed.Text", HEED_ERROR_FORMAT, "metadata \"heed.text\" is missing"},
    {"\"model.tokens.weight", "\"model.Tokens.weight", HEED_ERROR_FORMAT,
     "tensor \"model.tokens.weight\" is missing"},
    {"\"optimiser.adamw.m.tok", "\"optimiser.adamw.M.tok", HEED_ERROR_FORMAT,
     "adamw.m.tokens.weight\" is missing"},
    {"\"shape\":[11,8]", "\"shape\":[8,11]", HEED_ERROR_SHAPE, "is F32 [8,11], expected F32 [11,8]"},
    {"\"dtype\":\"F32\",\"shape\":[11,8]", "\"dtype\":\"I32\",\"shape\":[11,8]", HEED_ERROR_DTYPE,
     "is I32 [11,8], expected F32"},
};

START_TEST(edited_checkpoints) {
    struct run run = run_new("cpu", "adamw", 8);
    run_step(&run, false);
    run_step(&run, false);
    run_save(&run, path);
    run_step(&run, false);
    edit(path, edits[_i].from, edits[_i].to);
    check_load_fails(&run, path, edits[_i].status, edits[_i].message);
    run_free(&run);
}
END_TEST

START_TEST(cut_checkpoints) {
    struct run run = run_new("cpu", "adamw", 8);
    run_step(&run, false);
    size_t bytes;
    char *whole = run_bytes(&run, &bytes);
    for (size_t i = 1; i < 40; i++) {
        test_file_write(path, whole, bytes * i / 40);
        ck_assert_int_ne(heed_checkpoint_load(run.model, run.optim, path, NULL), HEED_OK);
        ck_assert_int_eq(heed_error_status(run.ctx), HEED_ERROR_FORMAT);
        heed_error_clear(run.ctx);
    }
    check_same_run(&run, whole, bytes);
    free(whole);
    run_free(&run);
}
END_TEST

/* ---- arguments ---- */

START_TEST(not_within_a_step) {
    struct run run = run_new("cpu", "adamw", 8);
    run_save(&run, path);
    heed_params_save(run.model, other);
    for (int i = 0; i < 3; i++) {
        heed_step_begin(run.ctx, HEED_EVAL);
        if (i == 0) run_save(&run, path);
        if (i == 1) heed_checkpoint_load(run.model, run.optim, path, NULL);
        if (i == 2) heed_params_load(run.model, other);
        ck_assert_int_eq(heed_step_end(run.ctx), HEED_ERROR_STATE);
        test_error(run.ctx, HEED_ERROR_STATE, ".safetensors: models are saved and loaded between steps",
                   "in a step");
    }
    run_free(&run);
}
END_TEST

START_TEST(bad_info_is_refused) {
    struct run run = run_new("cpu", "sgd", 8);
    heed_checkpoint_save(run.model, run.optim, path, &(heed_checkpoint_info){.position = -1});
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "a position of -1 is negative", "position");
    heed_checkpoint_save(run.model, run.optim, path, &(heed_checkpoint_info){.text = "\xFF"});
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "metadata \"heed.text\" is not UTF-8", "text");
    heed_checkpoint_save(run.model, run.optim, path, &(heed_checkpoint_info){.reserved = {1}});
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "reserved words of the info are not zero", "reserved");
    heed_checkpoint_save(run.model, run.optim, NULL, NULL);
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "no path given", "path");
    struct run second = run_new("cpu", "sgd", 8);
    heed_checkpoint_save(run.model, second.optim, path, NULL);
    test_error(run.ctx, HEED_ERROR_CONTEXT, "model and optimiser are of different contexts", "contexts");
    ck_assert_int_eq(test_directory_count(directory), 0);
    run_free(&second);
    run_free(&run);
}
END_TEST

/* An optimiser may have less than the model, but nothing else. */
START_TEST(the_optimiser_belongs_to_the_model) {
    struct run run = run_new("cpu", "adamw", 8);
    heed_module *twin = heed_gpt_new(
        run.ctx,
        &(heed_gpt_options){.vocabulary = VOCABULARY, .length = LENGTH, .layers = 2, .heads = 2, .width = 8});
    heed_optim *of_a_part = make_optim(heed_module_find(run.model, "tokens"), "adamw");
    heed_checkpoint_save(twin, run.optim, path, NULL);
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "the optimiser is of another model", "saving");
    ck_assert_int_eq(test_directory_count(directory), 0);
    run_save(&run, path);
    heed_checkpoint_load(twin, run.optim, path, NULL);
    test_error(run.ctx, HEED_ERROR_ARGUMENT, "the optimiser is of another model", "loading");
    ck_assert_int_eq(heed_checkpoint_save(run.model, of_a_part, other, NULL), HEED_OK);
    ck_assert_int_eq(heed_checkpoint_load(run.model, of_a_part, other, NULL), HEED_OK);
    heed_optim_free(of_a_part);
    heed_module_free(twin);
    run_free(&run);
}
END_TEST

/* ---- parameters alone ---- */

START_TEST(parameters_come_back) {
    struct run run = run_new("cpu", "adamw", 8), second = run_new("ref", "sgd", 8);
    run_step(&run, false);
    ck_assert_int_eq(heed_params_save(run.model, path), HEED_OK);
    ck_assert_msg(heed_params_load(second.model, path) == HEED_OK, "%s", heed_error(second.ctx));
    char name[200];
    for (int64_t i = 0; i < heed_param_tensors(run.model); i++) {
        const heed_tensor a = heed_param_at(run.model, i, name, sizeof name),
                          b = heed_param_find(second.model, name);
        const size_t bytes = (size_t)heed_count(a) * sizeof(float);
        float *x = malloc(bytes), *y = malloc(bytes);
        heed_read(a, x, bytes);
        heed_read(b, y, bytes);
        ck_assert_mem_eq(x, y, bytes);
        free(x);
        free(y);
    }
    test_ok(second.ctx);
    run_free(&run);
    run_free(&second);
}
END_TEST

START_TEST(parameters_that_do_not_fit) {
    heed_ctx *ctx = test_cpu();
    heed_module *model = heed_dense_new(ctx, &(heed_dense_options){.in = 3, .out = 2});
    const heed_tensor weight = heed_zeros(ctx, HEED_F32, HEED_SHAPE(2, 3)),
                      bias = heed_zeros(ctx, HEED_F32, HEED_SHAPE(2)),
                      wide = heed_zeros(ctx, HEED_F64, HEED_SHAPE(2)),
                      flat = heed_zeros(ctx, HEED_F32, HEED_SHAPE(6));
    const struct {
        int count;
        const char *names[3];
        heed_tensor tensors[3];
        heed_status status;
        const char *message;
    } rows[] = {
        {1, {"weight"}, {weight}, HEED_ERROR_FORMAT, "run.safetensors: tensor \"bias\" is missing"},
        {3,
         {"weight", "bias", "more"},
         {weight, bias, bias},
         HEED_ERROR_FORMAT,
         "tensor \"more\" is not expected"},
        {2,
         {"weight", "bias"},
         {flat, bias},
         HEED_ERROR_SHAPE,
         "tensor \"weight\" is F32 [6], expected F32 [2,3]"},
        {2,
         {"weight", "bias"},
         {weight, wide},
         HEED_ERROR_DTYPE,
         "tensor \"bias\" is F64 [2], expected F32 [2]"},
    };
    heed_params_save(model, other);
    size_t bytes, bytes_after;
    char *before = test_file_read(other, &bytes);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        heed_tensors_save(ctx, path, rows[i].count, rows[i].names, rows[i].tensors, 0, NULL);
        test_ok(ctx);
        ck_assert_int_eq(heed_params_load(model, path), rows[i].status);
        test_error(ctx, rows[i].status, rows[i].message, rows[i].message);
    }
    heed_checkpoint_save(model, NULL, path, NULL);
    heed_params_load(model, path);
    test_error(ctx, HEED_ERROR_ARGUMENT, "is a checkpoint: heed_checkpoint_load() reads it", "checkpoint");
    heed_params_save(model, other);
    char *after = test_file_read(other, &bytes_after);
    ck_assert(bytes == bytes_after && memcmp(before, after, bytes) == 0);
    free(before);
    free(after);
    heed_module_free(model);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("checkpoint");
    TCase *tcase = test_case(suite, "checkpoint");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, resuming_gives_the_same_bits, 0, sizeof resumed / sizeof *resumed);
    tcase_add_test(tcase, gradients_left_over_are_forgotten);
    tcase_add_test(tcase, a_model_without_optimiser);
    tcase_add_test(tcase, checkpoints_of_other_models_and_optimisers);
    tcase_add_loop_test(tcase, edited_checkpoints, 0, sizeof edits / sizeof *edits);
    tcase_add_test(tcase, cut_checkpoints);
    tcase_add_test(tcase, not_within_a_step);
    tcase_add_test(tcase, bad_info_is_refused);
    tcase_add_test(tcase, the_optimiser_belongs_to_the_model);
    tcase_add_test(tcase, parameters_come_back);
    tcase_add_test(tcase, parameters_that_do_not_fit);
    return test_main(suite);
}
