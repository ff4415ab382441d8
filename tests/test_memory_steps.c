/* Memory of whole training steps: a steady step calls the allocator zero times, and every allocation may
 * fail. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, LENGTH = 6, VOCABULARY = 11 };

struct training {
    heed_ctx *ctx;
    heed_module *model;
    heed_optim *optim;
};

/* Attention as one operation and made of several. */
static const heed_gpt_options models[] = {
    {.vocabulary = VOCABULARY, .length = LENGTH, .layers = 2, .heads = 2, .width = 8, .dropout = 0.1},
    {.vocabulary = VOCABULARY,
     .length = LENGTH,
     .layers = 2,
     .heads = 2,
     .kv_heads = 1,
     .width = 8,
     .norm = HEED_NORM_RMS,
     .qk_norm = true,
     .rotary = true}};
static const heed_gpt_options *model = &models[0];

static heed_ctx *context(const char *device, struct test_allocator *state, size_t chunk_bytes) {
    return heed_ctx_new(&(heed_ctx_options){.device = device,
                                            .threads = 1,
                                            .seed = 3,
                                            .allocator = test_allocator(state),
                                            .chunk_bytes = chunk_bytes});
}

static struct training start(heed_ctx *ctx) {
    struct training t = {.ctx = ctx};
    t.model = heed_gpt_new(ctx, model);
    t.optim = heed_adamw_new(t.model, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    return t;
}

static void stop(struct training *t) {
    heed_optim_free(t->optim);
    heed_module_free(t->model);
}

static heed_status step(struct training *t, double *loss_value) {
    int32_t tokens[BATCH * (LENGTH + 1)];
    for (int i = 0; i < BATCH * (LENGTH + 1); i++) tokens[i] = i * 7 % VOCABULARY;
    heed_step_begin(t->ctx, HEED_TRAIN);
    heed_tensor all = heed_from(t->ctx, HEED_I32, TEST_SHAPE(BATCH, LENGTH + 1), tokens);
    heed_tensor x = heed_slice(all, 1, 0, LENGTH, 1), y = heed_slice(all, 1, 1, LENGTH + 1, 1);
    heed_tensor loss = heed_cross_entropy(heed_forward(t->model, x), y, NULL);
    heed_backward(loss);
    heed_optim_step(t->optim, 1e-2);
    if (!heed_failed(t->ctx)) *loss_value = heed_item(loss);
    return heed_step_end(t->ctx);
}

static const char *const device_names[] = {"ref", "cpu"};

START_TEST(a_steady_step_calls_the_allocator_zero_times) {
    struct test_allocator state = {0};
    model = &models[_i / 2];
    struct training t = start(context(device_names[_i % 2], &state, 0));
    double loss = 0, first = 0;
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(step(&t, &loss) == HEED_OK, "%s", heed_error(t.ctx));
        if (i == 0) first = loss;
    }
    int64_t calls = state.calls;
    for (int i = 0; i < 10; i++) ck_assert_int_eq(step(&t, &loss), HEED_OK);
    ck_assert_int_eq(state.calls, calls);
    ck_assert_msg(loss < first, "the loss went from %g to %g", first, loss);
    stop(&t);
    heed_ctx_free(t.ctx);
    ck_assert_int_eq(state.living, 0);
}
END_TEST

/* The values of all parameters (malloc; the caller's). */
static float *weights(const struct training *t, size_t *bytes) {
    *bytes = (size_t)heed_param_count(t->model) * sizeof(float);
    float *all = malloc(*bytes), *at = all;
    for (int64_t i = 0; i < heed_param_tensors(t->model); i++) {
        heed_tensor param = heed_param_at(t->model, i, NULL, 0);
        heed_read(param, at, (size_t)heed_count(param) * sizeof(float));
        at += heed_count(param);
    }
    return all;
}

/* One try: the n-th allocation of a step fails. Returns false when the step has fewer than n. */
static bool fail_in_step(const char *device, int64_t n, bool for_good) {
    struct test_allocator state = {0};
    struct training t = start(context(device, &state, 1));
    test_ok(t.ctx);
    size_t bytes;
    float *before = weights(&t, &bytes);
    state = (struct test_allocator){.living = state.living, .fail_at = n, .for_good = for_good};
    double loss = NAN;
    heed_status status = step(&t, &loss);
    bool reached = state.calls >= n;
    if (reached) {
        ck_assert_msg(status == HEED_ERROR_MEMORY, "allocation %d of a step failed: %s (%s)", (int)n,
                      heed_status_text(status), heed_error(t.ctx));
        heed_error_clear(t.ctx);
        float *after = weights(&t, &bytes);
        ck_assert_msg(memcmp(before, after, bytes) == 0, "allocation %d failed and weights changed", (int)n);
        free(after);
        state.fail_at = 0;
        status = step(&t, &loss);
        ck_assert_msg(status == HEED_OK, "the step after the failure of allocation %d: %s", (int)n,
                      heed_error(t.ctx));
    }
    ck_assert_int_eq(status, HEED_OK);
    ck_assert(isfinite(loss));
    free(before);
    stop(&t);
    heed_ctx_free(t.ctx);
    ck_assert_msg(state.living == 0, "allocation %d failed: %d blocks leaked", (int)n, (int)state.living);
    return reached;
}

START_TEST(every_allocation_of_a_step_may_fail) {
    const int64_t stride = test_size(1, 9);
    int64_t n = 1;
    model = &models[_i / 4];
    while (fail_in_step(device_names[_i % 2], n, _i / 2 % 2)) n += stride;
    ck_assert_msg(n > 30, "a step had only %d allocations", (int)n);
}
END_TEST

static void build_and_step(heed_ctx *ctx) {
    double loss;
    struct training t = start(ctx);
    step(&t, &loss);
    stop(&t);
}

START_TEST(every_allocation_of_a_program_may_fail) {
    model = &models[_i / 4];
    const int64_t n =
        test_failing_allocations(device_names[_i % 2], test_size(1, 9), _i / 2 % 2, build_and_step);
    ck_assert_msg(n > 50, "a program had only %d allocations", (int)n);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("memory of training steps");
    tcase_add_loop_test(test_case(suite, "steady"), a_steady_step_calls_the_allocator_zero_times, 0, 4);
    TCase *tcase = test_case(suite, "failing");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, every_allocation_of_a_step_may_fail, 0, 8);
    tcase_add_loop_test(tcase, every_allocation_of_a_program_may_fail, 0, 8);
    return test_main(suite);
}
