/* Which gradients an optimiser uses: none that is not finite, each once; of frozen, late and shared
 * parameters. */
#include "harness_optim.h"

#include <math.h>

#include "optim/optim.h"

/* ---- gradients that are not finite ---- */

static const double bad_factors[] = {NAN, INFINITY};

START_TEST(bad_gradient) {
    heed_optim *optim =
        heed_adamw_new(optim_model, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    for (int t = 0; t < 3; t++) optim_train(optim, t, 0.1);
    float before[OPTIM_COUNT], after[OPTIM_COUNT];
    heed_read(optim_weight, before, sizeof before);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    heed_backward(heed_sum(optim_weight, HEED_ALL, false)); /* the first one is fine, the second is not */
    heed_tensor bad = heed_full(optim_ctx, HEED_F32, HEED_SCALAR, bad_factors[_i]);
    heed_backward_with(heed_sum(optim_bias, HEED_ALL, false), &(heed_backward_options){.gradient = bad});
    const heed_status known = heed_optim_step(optim, 0.1);
    ck_assert(test_late(optim_ctx) || known == HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_step_end(optim_ctx), HEED_ERROR_NUMERIC);
    test_error(optim_ctx, HEED_ERROR_NUMERIC, "adamw: gradient of bias is not finite at step 3", "NaN");
    heed_read(optim_weight, after, sizeof after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_int_eq(heed_optim_steps(optim), 3);
    optim_train(optim, 3, 0.1); /* nothing of the bad step is left */
    ck_assert(isfinite(heed_optim_grad_norm(optim)));
    heed_optim_free(optim);
}
END_TEST

/* A loss that is not finite stops the step too, whatever its gradients would be. */
START_TEST(bad_loss) {
    heed_optim *optim = heed_adamw_new(optim_model, NULL);
    float before[OPTIM_COUNT], after[OPTIM_COUNT];
    for (int t = 0; t < 3; t++) optim_train(optim, t, 0.1);
    heed_read(optim_weight, before, sizeof before);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    heed_tensor loss = heed_add_scalar(heed_sum(optim_weight, HEED_ALL, false), bad_factors[_i]);
    const heed_status known = heed_backward(loss);
    heed_optim_step(optim, 0.1);
    ck_assert(test_late(optim_ctx) || known == HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_step_end(optim_ctx), HEED_ERROR_NUMERIC);
    char expected[64]; /* counted as by the optimiser */
    snprintf(expected, sizeof expected, "backward: the loss is %s at step 3", _i == 0 ? "nan" : "inf");
    test_error(optim_ctx, HEED_ERROR_NUMERIC, expected, "bad loss");
    ck_assert(heed_is_none(heed_grad(optim_weight)));
    heed_read(optim_weight, after, sizeof after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_int_eq(heed_optim_steps(optim), 3);
    heed_optim_free(optim);
}
END_TEST

START_TEST(nothing_after_an_error) {
    heed_optim *optim = heed_sgd_new(optim_model, NULL);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    optim_backward(0, 1, true);
    heed_error_set(optim_ctx, HEED_ERROR_IO, "test", "an earlier error");
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_IO);
    heed_step_end(optim_ctx);
    heed_error_clear(optim_ctx);
    double untouched[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) untouched[i] = 1;
    optim_check(optim_weight, OPTIM_COUNT, untouched, "weight");
    heed_optim_step(optim, NAN);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "sgd: rate nan", "NaN rate");
    heed_optim_step(optim, -1);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "sgd: rate -1", "negative rate");
    heed_optim_free(optim);
}
END_TEST

/* ---- which parameters take part ---- */

/* Gradients add up until a step consumes them. */
START_TEST(accumulation) {
    heed_optim *optim = heed_sgd_new(optim_model, NULL);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    optim_backward(0, 0.5, false);
    heed_step_end(optim_ctx);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    optim_backward(0, 1.5, false);
    heed_optim_step(optim, 0.1);
    ck_assert(heed_is_none(heed_grad(optim_weight)));
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_GRADIENT); /* nothing is left to apply */
    ck_assert_int_eq(heed_optim_steps(optim), 1);
    test_error(optim_ctx, HEED_ERROR_GRADIENT,
               "sgd: no parameter has a gradient; was heed_backward() called?", "a second update");
    heed_step_end(optim_ctx);
    double w[OPTIM_COUNT], b[OPTIM_COLUMNS] = {1, 1, 1, 1};
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 1 - 0.2 * optim_gradient(0, i);
    optim_check(optim_weight, OPTIM_COUNT, w, "weight");
    optim_check(optim_bias, OPTIM_COLUMNS, b, "bias without gradient");
    heed_optim_free(optim);
}
END_TEST

/* A gradient that was there before the optimiser came is used by it. */
START_TEST(gradient_before_optimiser) {
    heed_step_begin(optim_ctx, HEED_TRAIN);
    optim_backward(0, 1, false);
    heed_optim *optim = heed_sgd_new(optim_model, NULL);
    heed_optim_step(optim, 0.1);
    ck_assert_int_eq(heed_step_end(optim_ctx), HEED_OK);
    double w[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 1 - 0.1 * optim_gradient(0, i);
    optim_check(optim_weight, OPTIM_COUNT, w, "weight");
    heed_optim_free(optim);
}
END_TEST

/* A parameter that joins late is corrected as in its own first steps. */
START_TEST(frozen_and_late) {
    heed_optim *optim = heed_adamw_new(optim_model, &(heed_adamw_options){.weight_decay = 0.1});
    heed_module_freeze(optim_model, true);
    heed_require_grad(optim_weight, true);
    struct optim_reference w = optim_reference_new(), b = optim_reference_new();
    for (int t = 0; t < 3; t++) {
        optim_train(optim, t, 0.1);
        optim_reference_adam(&w, OPTIM_COUNT, t, t + 1, 0.1, 0.1, true);
    }
    optim_check(optim_bias, OPTIM_COLUMNS, b.p, "frozen");
    heed_module_freeze(optim_model, false);
    for (int t = 3; t < 6; t++) {
        optim_train(optim, t, 0.1);
        optim_reference_adam(&w, OPTIM_COUNT, t, t + 1, 0.1, 0.1, true);
        optim_reference_adam(&b, OPTIM_COLUMNS, t, t - 2, 0.1, 0, true);
    }
    optim_check(optim_weight, OPTIM_COUNT, w.p, "weight");
    optim_check(optim_bias, OPTIM_COLUMNS, b.p, "late bias");
    heed_optim_free(optim);
}
END_TEST

START_TEST(shared_parameter_once) {
    heed_module *root = heed_module_new(optim_ctx, &optim_model_class),
                *user = heed_module_new(optim_ctx, &optim_model_class);
    heed_module *maker = heed_module_child(root, "maker", optim_model_new(optim_ctx));
    heed_module_share(user, "tied", heed_param_find(maker, "weight"));
    heed_module_child(root, "user", user);
    heed_optim *optim = heed_sgd_new(root, &(heed_sgd_options){.momentum = 0.9});
    ck_assert_int_eq(heed_optim_state_count(optim), 2 + 1);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    heed_tensor tied = heed_param_find(root, "user.tied");
    heed_backward(heed_sum(heed_add(tied, heed_param_find(root, "maker.weight")), HEED_ALL, false));
    heed_optim_step(optim, 0.25);
    ck_assert(heed_optim_grad_norm(optim) == sqrt(OPTIM_COUNT * 4.0));
    ck_assert_int_eq(heed_step_end(optim_ctx), HEED_OK);
    double w[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 0.5;
    optim_check(tied, OPTIM_COUNT, w, "tied");
    heed_optim_free(optim);
    heed_module_free(root);
}
END_TEST

/* A second backward through a graph whose parameters an update changed is refused. */
START_TEST(update_bumps_versions) {
    heed_optim *optim = heed_sgd_new(optim_model, NULL);
    heed_step_begin(optim_ctx, HEED_TRAIN);
    heed_tensor loss = heed_sum(heed_mul(optim_weight, optim_weight), HEED_ALL, false);
    heed_backward_with(loss, &(heed_backward_options){.retain = true});
    heed_optim_step(optim, 0.1);
    test_ok(optim_ctx);
    heed_backward(loss);
    test_error(optim_ctx, HEED_ERROR_STATE, "", "changed parameters");
    heed_step_end(optim_ctx);
    heed_optim_free(optim);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("optim gradients");
    TCase *tcase = test_case(suite, "optim gradients");
    tcase_add_checked_fixture(tcase, optim_setup, optim_teardown);
    tcase_add_loop_test(tcase, bad_gradient, 0, 2);
    tcase_add_loop_test(tcase, bad_loss, 0, 2);
    tcase_add_test(tcase, nothing_after_an_error);
    tcase_add_test(tcase, accumulation);
    tcase_add_test(tcase, gradient_before_optimiser);
    tcase_add_test(tcase, frozen_and_late);
    tcase_add_test(tcase, shared_parameter_once);
    tcase_add_test(tcase, update_bumps_versions);
    return test_main(suite);
}
