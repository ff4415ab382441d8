/* Optimisers against their formulas, groups, clipping. */
#include "harness_optim.h"

#include <math.h>

static void reference_sgd(struct optim_reference *r, int count, int t, double rate,
                          const heed_sgd_options *o) {
    for (int i = 0; i < count; i++) {
        double g = optim_gradient(t, i) + o->weight_decay * r->p[i];
        r->m[i] = o->momentum * r->m[i] + g;
        r->p[i] -= rate * (o->nesterov ? g + o->momentum * r->m[i] : r->m[i]);
    }
}

static const heed_sgd_options sgd_cases[] = {{.momentum = 0},
                                             {.weight_decay = 0.3},
                                             {.momentum = 0.9},
                                             {.momentum = 0.8, .nesterov = true, .weight_decay = 0.1}};

START_TEST(sgd) {
    const heed_sgd_options *o = &sgd_cases[_i];
    heed_optim *optim = heed_sgd_new(optim_model, o);
    struct optim_reference w = optim_reference_new(), b = optim_reference_new();
    for (int t = 0; t < 5; t++) {
        double rate = 0.01 * (t + 1);
        optim_train(optim, t, rate);
        reference_sgd(&w, OPTIM_COUNT, t, rate, o);
        reference_sgd(&b, OPTIM_COLUMNS, t, rate, o);
        optim_check(optim_weight, OPTIM_COUNT, w.p, "weight");
        optim_check(optim_bias, OPTIM_COLUMNS, b.p, "bias");
    }
    ck_assert_int_eq(heed_optim_steps(optim), 5);
    heed_optim_free(optim);
}
END_TEST

/* Adam decays everything through the gradient; AdamW only matrices, and apart from it. */
START_TEST(adam) {
    bool decoupled = _i == 1;
    const heed_adamw_options o = {.weight_decay = 0.2};
    heed_optim *optim = decoupled ? heed_adamw_new(optim_model, &o) : heed_adam_new(optim_model, &o);
    struct optim_reference w = optim_reference_new(), b = optim_reference_new();
    for (int t = 0; t < 5; t++) {
        double rate = 0.02 * (t + 1);
        optim_train(optim, t, rate);
        optim_reference_adam(&w, OPTIM_COUNT, t, t + 1, rate, 0.2, decoupled);
        optim_reference_adam(&b, OPTIM_COLUMNS, t, t + 1, rate, decoupled ? 0 : 0.2, decoupled);
        optim_check(optim_weight, OPTIM_COUNT, w.p, "weight");
        optim_check(optim_bias, OPTIM_COLUMNS, b.p, "bias");
    }
    heed_optim_free(optim);
}
END_TEST

/* With both betas 0 Adam is p −= rate · g / (|g| + eps). */
START_TEST(betas_of_zero) {
    heed_optim *optim = heed_adam_new(optim_model, &(heed_adamw_options){.has_betas = true, .eps = 0.5});
    optim_train(optim, 0, 0.1);
    double expected[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++)
        expected[i] = 1 - 0.1 * optim_gradient(0, i) / (fabs((double)optim_gradient(0, i)) + 0.5);
    optim_check(optim_weight, OPTIM_COUNT, expected, "weight");
    heed_optim_free(optim);
}
END_TEST

/* ---- groups ---- */

START_TEST(groups) {
    heed_optim *optim = heed_sgd_new(optim_model, &(heed_sgd_options){.weight_decay = 0.5});
    ck_assert_int_eq(heed_optim_group(optim, "", 2, 0), HEED_OK);
    ck_assert_int_eq(heed_optim_group(optim, "ias", 0.25, 3), HEED_OK);
    optim_train(optim, 0, 0.1);
    double w[OPTIM_COUNT], b[OPTIM_COLUMNS];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 1 - 0.2 * optim_gradient(0, i);
    for (int i = 0; i < OPTIM_COLUMNS; i++) b[i] = 1 - 0.025 * (optim_gradient(0, i) + 1.5);
    optim_check(optim_weight, OPTIM_COUNT, w, "weight");
    optim_check(optim_bias, OPTIM_COLUMNS, b, "bias");
    heed_optim_group(optim, "biases", 1, 1);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "sgd: no parameter's name contains \"biases\"", "no match");
    heed_optim_group(optim, NULL, 1, 1);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "no pattern", "NULL pattern");
    heed_optim_group(optim, "", -1, 1);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "rate_scale -1", "negative scale");
    heed_optim_group(optim, "", 1, NAN);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "decay_scale nan", "NaN scale");
    heed_optim_free(optim);
}
END_TEST

/* A rule takes the place of AdamW's rank rule. */
START_TEST(decay_rule) {
    heed_optim *optim = heed_adamw_new(
        optim_model, &(heed_adamw_options){.weight_decay = 0.5, .has_betas = true, .eps = 1e30});
    heed_optim_group(optim, "bias", 1, 2);
    optim_train(optim, 0, 0.1); /* so large an eps leaves the decay alone */
    double w[OPTIM_COUNT], b[OPTIM_COLUMNS];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 0.95;
    for (int i = 0; i < OPTIM_COLUMNS; i++) b[i] = 0.9;
    optim_check(optim_weight, OPTIM_COUNT, w, "weight");
    optim_check(optim_bias, OPTIM_COLUMNS, b, "bias");
    heed_optim_free(optim);
}
END_TEST

/* ---- clipping ---- */

static double joint_norm(double clamp) {
    double squares = 0;
    for (int i = 0; i < OPTIM_COUNT + OPTIM_COLUMNS; i++) {
        double g = optim_gradient(0, i < OPTIM_COUNT ? i : i - OPTIM_COUNT);
        if (clamp > 0) g = fmax(-clamp, fmin(clamp, g));
        squares += g * g;
    }
    return sqrt(squares);
}

START_TEST(clip_norm) {
    double norm = joint_norm(0), factor = 2 / norm;
    heed_optim *optim = heed_sgd_new(optim_model, &(heed_sgd_options){.clip_norm = 2});
    optim_train(optim, 0, 0.1);
    ck_assert(fabs(heed_optim_grad_norm(optim) - norm) < 1e-5 * norm);
    double w[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 1 - 0.1 * factor * optim_gradient(0, i);
    optim_check(optim_weight, OPTIM_COUNT, w, "clipped");
    heed_optim_free(optim);
    optim = heed_sgd_new(optim_model, &(heed_sgd_options){.clip_norm = 1.01 * norm});
    optim_train(optim, 0, 0.1);
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] -= 0.1 * optim_gradient(0, i);
    optim_check(optim_weight, OPTIM_COUNT, w, "below the limit");
    heed_optim_free(optim);
}
END_TEST

START_TEST(clip_value) {
    heed_optim *optim = heed_sgd_new(optim_model, &(heed_sgd_options){.clip_value = 0.5});
    optim_train(optim, 0, 0.1);
    ck_assert(fabs(heed_optim_grad_norm(optim) - joint_norm(0.5)) < 1e-5);
    double w[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) w[i] = 1 - 0.1 * fmax(-0.5, fmin(0.5, optim_gradient(0, i)));
    optim_check(optim_weight, OPTIM_COUNT, w, "clamped");
    heed_optim_free(optim);
}
END_TEST

START_TEST(clip_functions) {
    heed_step_begin(optim_ctx, HEED_TRAIN);
    ck_assert(heed_clip_grad_norm(optim_model, 1) == 0);
    optim_backward(0, 1, true);
    double norm = joint_norm(0), expected[OPTIM_COUNT];
    ck_assert(fabs(heed_clip_grad_norm(optim_model, 0) - norm) < 1e-5 * norm);
    ck_assert(fabs(heed_clip_grad_norm(optim_model, 3) - norm) < 1e-5 * norm);
    ck_assert(fabs(heed_clip_grad_norm(optim_model, 100) - 3) < 1e-4);
    for (int i = 0; i < OPTIM_COUNT; i++) expected[i] = optim_gradient(0, i) * 3 / norm;
    optim_check(heed_grad(optim_weight), OPTIM_COUNT, expected, "clipped by norm");
    ck_assert_int_eq(heed_clip_grad_value(optim_model, 0.25), HEED_OK);
    for (int i = 0; i < OPTIM_COUNT; i++) expected[i] = fmax(-0.25, fmin(0.25, expected[i]));
    optim_check(heed_grad(optim_weight), OPTIM_COUNT, expected, "clipped by value");
    heed_clip_grad_value(optim_model, 0);
    test_error(optim_ctx, HEED_ERROR_ARGUMENT, "clip_grad_value", "a limit of 0");
    heed_error_set(optim_ctx, HEED_ERROR_IO, "test", "an earlier error");
    ck_assert(isnan(heed_clip_grad_norm(optim_model, 1)));
    heed_error_clear(optim_ctx);
    ck_assert(isnan(heed_clip_grad_norm(NULL, 1)));
    heed_step_end(optim_ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("optim");
    TCase *tcase = test_case(suite, "optim");
    tcase_add_checked_fixture(tcase, optim_setup, optim_teardown);
    tcase_add_loop_test(tcase, sgd, 0, 4);
    tcase_add_loop_test(tcase, adam, 0, 2);
    tcase_add_test(tcase, betas_of_zero);
    tcase_add_test(tcase, groups);
    tcase_add_test(tcase, decay_rule);
    tcase_add_test(tcase, clip_norm);
    tcase_add_test(tcase, clip_value);
    tcase_add_test(tcase, clip_functions);
    return test_main(suite);
}
