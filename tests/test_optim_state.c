/* An optimiser's life, memory, options and state. */
#include "harness_optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

/* ---- lives ---- */

START_TEST(freed_in_any_order) {
    heed_module *module = optim_model_new(optim_ctx);
    heed_optim *optim = heed_adam_new(module, NULL);
    heed_module_free(module);
    heed_optim_step(optim, 0.1);
    test_error(optim_ctx, HEED_ERROR_STALE, "adam: parameter weight was freed", "freed module");
    struct heed_optim_state *state = malloc(sizeof *state);
    ck_assert(!heed_optim_state_at(optim, 0, state));
    free(state);
    heed_optim_free(optim);
    heed_optim_free(NULL);
    optim = heed_adam_new(optim_model, NULL);
    heed_optim_free(optim);
    optim = heed_sgd_new(optim_model, NULL);
    optim_train(optim, 0, 0.1);
    heed_optim_free(optim);
}
END_TEST

static void build_train_free(void) {
    heed_module *module = optim_model_new(optim_ctx);
    heed_optim *optim = heed_adamw_new(module, NULL);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    heed_backward(heed_sum(heed_param_find(module, "weight"), HEED_ALL, false));
    heed_optim_step(optim, 0.1);
    ck_assert_int_eq(heed_step_end(optim_ctx), HEED_OK);
    heed_optim_free(optim);
    heed_module_free(module);
}

START_TEST(memory_returns) {
    build_train_free();
    size_t before = heed_memory(optim_ctx).in_use;
    build_train_free();
    ck_assert_uint_eq(heed_memory(optim_ctx).in_use, before);
}
END_TEST

START_TEST(steady_step_allocates_nothing) {
    heed_optim *optim = heed_adamw_new(optim_model, &(heed_adamw_options){.clip_norm = 1});
    for (int t = 0; t < 3; t++) optim_train(optim, t, 0.1);
    uint64_t calls = heed_memory(optim_ctx).calls;
    for (int t = 3; t < 6; t++) optim_train(optim, t, 0.1);
    ck_assert_uint_eq(heed_memory(optim_ctx).calls, calls);
    heed_optim_free(optim);
}
END_TEST

/* ---- options ---- */

static void check_inert(heed_optim *optim, const char *part) {
    ck_assert_ptr_nonnull(optim);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, part, part);
    ck_assert_int_ne(heed_optim_step(optim, 0.1), HEED_OK);
    ck_assert_int_ne(heed_optim_group(optim, "", 1, 1), HEED_OK);
    ck_assert_int_eq(heed_optim_state_count(optim), 0);
    ck_assert(heed_optim_steps(optim) == 0 && heed_optim_grad_norm(optim) == 0);
    heed_optim_free(optim);
}

START_TEST(bad_options) {
    check_inert(heed_sgd_new(optim_model, &(heed_sgd_options){.momentum = 1.5}), "sgd: momentum 1.5");
    check_inert(heed_sgd_new(optim_model, &(heed_sgd_options){.nesterov = true}),
                "nesterov needs a momentum");
    check_inert(heed_sgd_new(optim_model, &(heed_sgd_options){.clip_norm = -1}), "clip_norm -1");
    check_inert(heed_sgd_new(optim_model, &(heed_sgd_options){.reserved = {0, 0, 0, 1}}), "sgd: reserved");
    check_inert(heed_adam_new(optim_model, &(heed_adamw_options){.beta1 = 1}), "adam: beta1 1");
    check_inert(heed_adamw_new(optim_model, &(heed_adamw_options){.beta2 = -0.1}), "adamw: beta2 -0.1");
    check_inert(heed_adamw_new(optim_model, &(heed_adamw_options){.eps = NAN}), "eps nan");
    check_inert(heed_adamw_new(optim_model, &(heed_adamw_options){.weight_decay = INFINITY}),
                "weight_decay inf");
    check_inert(heed_adamw_new(optim_model, &(heed_adamw_options){.reserved = {1}}), "adamw: reserved");
    heed_optim *optim = heed_adamw_new(NULL, NULL);
    ck_assert_int_ne(heed_optim_step(optim, 0.1), HEED_OK);
    ck_assert_int_ne(heed_optim_step(NULL, 0.1), HEED_OK);
    heed_optim_free(optim);
    test_ok(optim_ctx);
}
END_TEST

/* ---- state ---- */

static void check_state(heed_optim *optim, int count, const char *const *names) {
    struct heed_optim_state *state = malloc(sizeof *state);
    ck_assert_int_eq(heed_optim_state_count(optim), count);
    for (int i = 0; i < count; i++) {
        ck_assert(heed_optim_state_at(optim, i, state));
        ck_assert_str_eq(state->name, names[i]);
        int64_t product = 1;
        for (int d = 0; d < state->rank; d++) product *= state->size[d];
        ck_assert_int_eq(product, state->count);
    }
    ck_assert(!heed_optim_state_at(optim, count, state) && !heed_optim_state_at(optim, -1, state));
    free(state);
    heed_optim_free(optim);
}

START_TEST(state_names) {
    check_state(heed_sgd_new(optim_model, NULL), 1, (const char *[]){"sgd.updates"});
    check_state(heed_sgd_new(optim_model, &(heed_sgd_options){.momentum = 0.5}), 3,
                (const char *[]){"sgd.momentum.weight", "sgd.momentum.bias", "sgd.updates"});
    check_state(heed_adamw_new(optim_model, NULL), 5,
                (const char *[]){"adamw.m.weight", "adamw.v.weight", "adamw.m.bias", "adamw.v.bias",
                                 "adamw.updates"});
    heed_optim *optim = heed_adam_new(optim_model, NULL);
    ck_assert_str_eq(heed_optim_kind(optim), "adam");
    ck_assert_ptr_eq(heed_optim_ctx(optim), optim_ctx);
    heed_optim_free(optim);
}
END_TEST

static void copy_state(const heed_optim *from, heed_optim *to) {
    struct heed_optim_state *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    for (int64_t i = 0; i < heed_optim_state_count(from); i++) {
        ck_assert(heed_optim_state_at(from, i, a) && heed_optim_state_at(to, i, b));
        ck_assert_int_eq(a->count, b->count);
        void *elements = malloc((size_t)a->count * heed_dtype_bytes(a->dtype));
        ck_assert_int_eq(heed_optim_state_read(from, i, elements), HEED_OK);
        ck_assert_int_eq(heed_optim_state_write(to, i, elements), HEED_OK);
        free(elements);
    }
    heed_optim_steps_set(to, heed_optim_steps(from));
    free(a);
    free(b);
}

/* Going on from copied state has the same bits as never having stopped. */
START_TEST(state_resumes) {
    heed_optim *optim = heed_adamw_new(optim_model, &(heed_adamw_options){.weight_decay = 0.1});
    for (int t = 0; t < 3; t++) optim_train(optim, t, 0.1);
    float start[OPTIM_COUNT], straight[OPTIM_COUNT], resumed[OPTIM_COUNT];
    heed_read(optim_weight, start, sizeof start);
    heed_optim *second = heed_adamw_new(optim_model, &(heed_adamw_options){.weight_decay = 0.1});
    copy_state(optim, second);
    for (int t = 3; t < 6; t++) optim_train(optim, t, 0.1);
    heed_read(optim_weight, straight, sizeof straight);
    heed_write(optim_weight, start, sizeof start);
    for (int t = 3; t < 6; t++) optim_train(second, t, 0.1);
    heed_read(optim_weight, resumed, sizeof resumed);
    ck_assert_mem_eq(straight, resumed, sizeof resumed);
    ck_assert_int_eq(heed_optim_steps(second), 6);
    heed_optim_free(optim);
    heed_optim_free(second);
}
END_TEST

/* The gradients of attention's q, k and v lie side by side as the weights do. */
START_TEST(gradients_lie_as_weights) {
    heed_module *mha = heed_mha_new(optim_ctx, &(heed_mha_options){.width = 6, .heads = 2});
    heed_optim *optim = heed_adamw_new(mha, NULL);
    test_ok(optim_ctx);
    const struct heed_node *q = heed_param_find(mha, "q.weight").node;
    static const char *const names[] = {"k.weight", "v.weight"};
    for (int i = 0; i < 2; i++) {
        const struct heed_node *other = heed_param_find(mha, names[i]).node;
        ptrdiff_t apart = (char *)other->view.data - (char *)q->view.data;
        ck_assert_int_eq(apart, (i + 1) * 36 * (ptrdiff_t)sizeof(float));
        ck_assert_int_eq((char *)other->grad.data - (char *)q->grad.data, apart);
    }
    heed_optim_free(optim);
    heed_module_free(mha);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("optim state");
    TCase *tcase = test_case(suite, "optim state");
    tcase_add_checked_fixture(tcase, optim_setup, optim_teardown);
    tcase_add_test(tcase, freed_in_any_order);
    tcase_add_test(tcase, memory_returns);
    tcase_add_test(tcase, steady_step_allocates_nothing);
    tcase_add_test(tcase, bad_options);
    tcase_add_test(tcase, state_names);
    tcase_add_test(tcase, state_resumes);
    tcase_add_test(tcase, gradients_lie_as_weights);
    return test_main(suite);
}
