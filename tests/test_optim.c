/* Optimisers against their formulas, groups, clipping, bad gradients, frozen and late parameters, state. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

enum { ROWS = 3, COLUMNS = 4, N = ROWS * COLUMNS };

static heed_ctx *ctx;
static heed_module *model; /* weight [3, 4] and bias [4], all ones */
static heed_tensor weight, bias;

static const heed_module_class model_class = {.name = "Model"};
static const heed_init ones = {HEED_INIT_ONES, 0, 0};

static heed_module *model_new(heed_ctx *of) {
    heed_module *module = heed_module_new(of, &model_class);
    heed_module_param(module, "weight", HEED_SHAPE(ROWS, COLUMNS), ones);
    heed_module_param(module, "bias", HEED_SHAPE(COLUMNS), ones);
    return module;
}

static void setup(void) {
    ctx = test_cpu();
    model = model_new(ctx);
    weight = heed_param_find(model, "weight");
    bias = heed_param_find(model, "bias");
}

static void teardown(void) {
    heed_module_free(model);
    ck_assert_uint_eq(ctx->modules, 0);
    heed_ctx_free(ctx);
}

/* The gradient of element i in step t: some large, some small, of both signs. */
static float gradient(int t, int i) {
    return (float)(sin(1.7 * i + 0.9 * t) * (i % 3 == 0 ? 10 : 0.1));
}

/* Leaves gradients at the weight, and at the bias if it is wanted; `factor` multiplies them. */
static void backward(int t, double factor, bool with_bias) {
    float g[N];
    for (int i = 0; i < N; i++) g[i] = gradient(t, i);
    heed_tensor loss =
        heed_sum(heed_mul(weight, heed_from(ctx, HEED_F32, HEED_SHAPE(ROWS, COLUMNS), g)), HEED_ALL, false);
    if (with_bias) {
        heed_tensor c = heed_from(ctx, HEED_F32, HEED_SHAPE(COLUMNS), g);
        loss = heed_add(loss, heed_sum(heed_mul(bias, c), HEED_ALL, false));
    }
    heed_backward(heed_mul_scalar(loss, factor));
}

static void train(heed_optim *optim, int t, double rate) {
    heed_step_begin(ctx, HEED_TRAIN);
    backward(t, 1, true);
    heed_optim_step(optim, rate);
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
}

static void check_values(heed_tensor t, int count, const double *expected, const char *what) {
    float actual[N];
    ck_assert_int_eq(heed_read(t, actual, (size_t)count * sizeof *actual), HEED_OK);
    for (int i = 0; i < count; i++)
        ck_assert_msg(fabs(actual[i] - expected[i]) <= 1e-6 * (1 + fabs(expected[i])),
                      "%s: element %d is %.9g, not %.9g", what, i, actual[i], expected[i]);
}

/* ---- the formulas, written once more in double ---- */

struct reference {
    double p[N], m[N], v[N];
};

static struct reference reference_new(void) {
    struct reference r = {{0}, {0}, {0}};
    for (int i = 0; i < N; i++) r.p[i] = 1;
    return r;
}

static void reference_sgd(struct reference *r, int count, int t, double rate, const heed_sgd_options *o) {
    for (int i = 0; i < count; i++) {
        double g = gradient(t, i) + o->weight_decay * r->p[i];
        r->m[i] = o->momentum * r->m[i] + g;
        r->p[i] -= rate * (o->nesterov ? g + o->momentum * r->m[i] : r->m[i]);
    }
}

static void reference_adam(struct reference *r, int count, int t, int step, double rate, double decay,
                           bool decoupled) {
    const double b1 = 0.9, b2 = 0.999;
    for (int i = 0; i < count; i++) {
        double g = gradient(t, i) + (decoupled ? 0 : decay * r->p[i]);
        if (decoupled) r->p[i] *= 1 - rate * decay;
        r->m[i] = b1 * r->m[i] + (1 - b1) * g;
        r->v[i] = b2 * r->v[i] + (1 - b2) * g * g;
        double m = r->m[i] / (1 - pow(b1, step)), v = r->v[i] / (1 - pow(b2, step));
        r->p[i] -= rate * m / (sqrt(v) + 1e-8);
    }
}

static const heed_sgd_options sgd_cases[] = {{.momentum = 0},
                                             {.weight_decay = 0.3},
                                             {.momentum = 0.9},
                                             {.momentum = 0.8, .nesterov = true, .weight_decay = 0.1}};

START_TEST(sgd) {
    const heed_sgd_options *o = &sgd_cases[_i];
    heed_optim *optim = heed_sgd_new(model, o);
    struct reference w = reference_new(), b = reference_new();
    for (int t = 0; t < 5; t++) {
        double rate = 0.01 * (t + 1);
        train(optim, t, rate);
        reference_sgd(&w, N, t, rate, o);
        reference_sgd(&b, COLUMNS, t, rate, o);
        check_values(weight, N, w.p, "weight");
        check_values(bias, COLUMNS, b.p, "bias");
    }
    ck_assert_int_eq(heed_optim_steps(optim), 5);
    heed_optim_free(optim);
}
END_TEST

/* Adam decays everything through the gradient; AdamW only matrices, and apart from it. */
START_TEST(adam) {
    bool decoupled = _i == 1;
    const heed_adamw_options o = {.weight_decay = 0.2};
    heed_optim *optim = decoupled ? heed_adamw_new(model, &o) : heed_adam_new(model, &o);
    struct reference w = reference_new(), b = reference_new();
    for (int t = 0; t < 5; t++) {
        double rate = 0.02 * (t + 1);
        train(optim, t, rate);
        reference_adam(&w, N, t, t + 1, rate, 0.2, decoupled);
        reference_adam(&b, COLUMNS, t, t + 1, rate, decoupled ? 0 : 0.2, decoupled);
        check_values(weight, N, w.p, "weight");
        check_values(bias, COLUMNS, b.p, "bias");
    }
    heed_optim_free(optim);
}
END_TEST

/* With both betas 0 Adam is p −= rate · g / (|g| + eps). */
START_TEST(betas_of_zero) {
    heed_optim *optim = heed_adam_new(model, &(heed_adamw_options){.has_betas = true, .eps = 0.5});
    train(optim, 0, 0.1);
    double expected[N];
    for (int i = 0; i < N; i++) expected[i] = 1 - 0.1 * gradient(0, i) / (fabs((double)gradient(0, i)) + 0.5);
    check_values(weight, N, expected, "weight");
    heed_optim_free(optim);
}
END_TEST

/* ---- groups ---- */

START_TEST(groups) {
    heed_optim *optim = heed_sgd_new(model, &(heed_sgd_options){.weight_decay = 0.5});
    ck_assert_int_eq(heed_optim_group(optim, "", 2, 0), HEED_OK);
    ck_assert_int_eq(heed_optim_group(optim, "ias", 0.25, 3), HEED_OK);
    train(optim, 0, 0.1);
    double w[N], b[COLUMNS];
    for (int i = 0; i < N; i++) w[i] = 1 - 0.2 * gradient(0, i);
    for (int i = 0; i < COLUMNS; i++) b[i] = 1 - 0.025 * (gradient(0, i) + 1.5);
    check_values(weight, N, w, "weight");
    check_values(bias, COLUMNS, b, "bias");
    heed_optim_group(optim, "biases", 1, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "sgd: no parameter's name contains \"biases\"", "no match");
    heed_optim_group(optim, NULL, 1, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no pattern", "NULL pattern");
    heed_optim_group(optim, "", -1, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "rate_scale -1", "negative scale");
    heed_optim_group(optim, "", 1, NAN);
    test_error(ctx, HEED_ERROR_ARGUMENT, "decay_scale nan", "NaN scale");
    heed_optim_free(optim);
}
END_TEST

/* A rule takes the place of AdamW's rank rule. */
START_TEST(decay_rule) {
    heed_optim *optim =
        heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.5, .has_betas = true, .eps = 1e30});
    heed_optim_group(optim, "bias", 1, 2);
    train(optim, 0, 0.1); /* so large an eps leaves the decay alone */
    double w[N], b[COLUMNS];
    for (int i = 0; i < N; i++) w[i] = 0.95;
    for (int i = 0; i < COLUMNS; i++) b[i] = 0.9;
    check_values(weight, N, w, "weight");
    check_values(bias, COLUMNS, b, "bias");
    heed_optim_free(optim);
}
END_TEST

/* ---- clipping ---- */

static double joint_norm(double clamp) {
    double squares = 0;
    for (int i = 0; i < N + COLUMNS; i++) {
        double g = gradient(0, i < N ? i : i - N);
        if (clamp > 0) g = fmax(-clamp, fmin(clamp, g));
        squares += g * g;
    }
    return sqrt(squares);
}

START_TEST(clip_norm) {
    double norm = joint_norm(0), factor = 2 / norm;
    heed_optim *optim = heed_sgd_new(model, &(heed_sgd_options){.clip_norm = 2});
    train(optim, 0, 0.1);
    ck_assert(fabs(heed_optim_grad_norm(optim) - norm) < 1e-5 * norm);
    double w[N];
    for (int i = 0; i < N; i++) w[i] = 1 - 0.1 * factor * gradient(0, i);
    check_values(weight, N, w, "clipped");
    heed_optim_free(optim);
    optim = heed_sgd_new(model, &(heed_sgd_options){.clip_norm = 1.01 * norm});
    train(optim, 0, 0.1);
    for (int i = 0; i < N; i++) w[i] -= 0.1 * gradient(0, i);
    check_values(weight, N, w, "below the limit");
    heed_optim_free(optim);
}
END_TEST

START_TEST(clip_value) {
    heed_optim *optim = heed_sgd_new(model, &(heed_sgd_options){.clip_value = 0.5});
    train(optim, 0, 0.1);
    ck_assert(fabs(heed_optim_grad_norm(optim) - joint_norm(0.5)) < 1e-5);
    double w[N];
    for (int i = 0; i < N; i++) w[i] = 1 - 0.1 * fmax(-0.5, fmin(0.5, gradient(0, i)));
    check_values(weight, N, w, "clamped");
    heed_optim_free(optim);
}
END_TEST

START_TEST(clip_functions) {
    heed_step_begin(ctx, HEED_TRAIN);
    ck_assert(heed_clip_grad_norm(model, 1) == 0);
    backward(0, 1, true);
    double norm = joint_norm(0), expected[N];
    ck_assert(fabs(heed_clip_grad_norm(model, 0) - norm) < 1e-5 * norm);
    ck_assert(fabs(heed_clip_grad_norm(model, 3) - norm) < 1e-5 * norm);
    ck_assert(fabs(heed_clip_grad_norm(model, 100) - 3) < 1e-4);
    for (int i = 0; i < N; i++) expected[i] = gradient(0, i) * 3 / norm;
    check_values(heed_grad(weight), N, expected, "clipped by norm");
    ck_assert_int_eq(heed_clip_grad_value(model, 0.25), HEED_OK);
    for (int i = 0; i < N; i++) expected[i] = fmax(-0.25, fmin(0.25, expected[i]));
    check_values(heed_grad(weight), N, expected, "clipped by value");
    heed_clip_grad_value(model, 0);
    test_error(ctx, HEED_ERROR_ARGUMENT, "clip_grad_value", "a limit of 0");
    heed_error_set(ctx, HEED_ERROR_IO, "test", "an earlier error");
    ck_assert(isnan(heed_clip_grad_norm(model, 1)));
    heed_error_clear(ctx);
    ck_assert(isnan(heed_clip_grad_norm(NULL, 1)));
    heed_step_end(ctx);
}
END_TEST

/* ---- gradients that are not finite ---- */

static const double bad_factors[] = {NAN, INFINITY};

START_TEST(bad_gradient) {
    heed_optim *optim = heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    for (int t = 0; t < 3; t++) train(optim, t, 0.1);
    float before[N], after[N];
    heed_read(weight, before, sizeof before);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(heed_sum(weight, HEED_ALL, false)); /* the first one is fine, the second is not */
    heed_tensor bad = heed_full(ctx, HEED_F32, HEED_SCALAR, bad_factors[_i]);
    heed_backward_with(heed_sum(bias, HEED_ALL, false), &(heed_backward_options){.gradient = bad});
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_step_end(ctx), HEED_ERROR_NUMERIC);
    test_error(ctx, HEED_ERROR_NUMERIC, "adamw: gradient of bias is not finite at step 3", "NaN");
    heed_read(weight, after, sizeof after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_int_eq(heed_optim_steps(optim), 3);
    train(optim, 3, 0.1); /* nothing of the bad step is left */
    ck_assert(isfinite(heed_optim_grad_norm(optim)));
    heed_optim_free(optim);
}
END_TEST

/* A loss that is not finite stops the step too, whatever its gradients would be. */
START_TEST(bad_loss) {
    heed_optim *optim = heed_adamw_new(model, NULL);
    float before[N], after[N];
    for (int t = 0; t < 3; t++) train(optim, t, 0.1);
    heed_read(weight, before, sizeof before);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor loss = heed_add_scalar(heed_sum(weight, HEED_ALL, false), bad_factors[_i]);
    ck_assert_int_eq(heed_backward(loss), HEED_ERROR_NUMERIC);
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_NUMERIC);
    heed_step_end(ctx);
    char expected[64]; /* counted as by the optimiser */
    snprintf(expected, sizeof expected, "backward: the loss is %s at step 3", _i == 0 ? "nan" : "inf");
    test_error(ctx, HEED_ERROR_NUMERIC, expected, "bad loss");
    ck_assert(heed_is_none(heed_grad(weight)));
    heed_read(weight, after, sizeof after);
    ck_assert_mem_eq(before, after, sizeof before);
    heed_optim_free(optim);
}
END_TEST

START_TEST(nothing_after_an_error) {
    heed_optim *optim = heed_sgd_new(model, NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    backward(0, 1, true);
    heed_error_set(ctx, HEED_ERROR_IO, "test", "an earlier error");
    ck_assert_int_eq(heed_optim_step(optim, 0.1), HEED_ERROR_IO);
    heed_step_end(ctx);
    heed_error_clear(ctx);
    double untouched[N];
    for (int i = 0; i < N; i++) untouched[i] = 1;
    check_values(weight, N, untouched, "weight");
    heed_optim_step(optim, NAN);
    test_error(ctx, HEED_ERROR_ARGUMENT, "sgd: rate nan", "NaN rate");
    heed_optim_step(optim, -1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "sgd: rate -1", "negative rate");
    heed_optim_free(optim);
}
END_TEST

/* ---- which parameters take part ---- */

/* Gradients add up until a step consumes them. */
START_TEST(accumulation) {
    heed_optim *optim = heed_sgd_new(model, NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    backward(0, 0.5, false);
    heed_step_end(ctx);
    heed_step_begin(ctx, HEED_TRAIN);
    backward(0, 1.5, false);
    heed_optim_step(optim, 0.1);
    ck_assert(heed_is_none(heed_grad(weight)));
    heed_optim_step(optim, 0.1); /* nothing is left to apply */
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    double w[N], b[COLUMNS] = {1, 1, 1, 1};
    for (int i = 0; i < N; i++) w[i] = 1 - 0.2 * gradient(0, i);
    check_values(weight, N, w, "weight");
    check_values(bias, COLUMNS, b, "bias without gradient");
    heed_optim_free(optim);
}
END_TEST

/* A gradient that was there before the optimiser came is used by it. */
START_TEST(gradient_before_optimiser) {
    heed_step_begin(ctx, HEED_TRAIN);
    backward(0, 1, false);
    heed_optim *optim = heed_sgd_new(model, NULL);
    heed_optim_step(optim, 0.1);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    double w[N];
    for (int i = 0; i < N; i++) w[i] = 1 - 0.1 * gradient(0, i);
    check_values(weight, N, w, "weight");
    heed_optim_free(optim);
}
END_TEST

/* A parameter that joins late is corrected as in its own first steps. */
START_TEST(frozen_and_late) {
    heed_optim *optim = heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.1});
    heed_module_freeze(model, true);
    heed_require_grad(weight, true);
    struct reference w = reference_new(), b = reference_new();
    for (int t = 0; t < 3; t++) {
        train(optim, t, 0.1);
        reference_adam(&w, N, t, t + 1, 0.1, 0.1, true);
    }
    check_values(bias, COLUMNS, b.p, "frozen");
    heed_module_freeze(model, false);
    for (int t = 3; t < 6; t++) {
        train(optim, t, 0.1);
        reference_adam(&w, N, t, t + 1, 0.1, 0.1, true);
        reference_adam(&b, COLUMNS, t, t - 2, 0.1, 0, true);
    }
    check_values(weight, N, w.p, "weight");
    check_values(bias, COLUMNS, b.p, "late bias");
    heed_optim_free(optim);
}
END_TEST

START_TEST(shared_parameter_once) {
    heed_module *root = heed_module_new(ctx, &model_class), *user = heed_module_new(ctx, &model_class);
    heed_module *maker = heed_module_child(root, "maker", model_new(ctx));
    heed_module_share(user, "tied", heed_param_find(maker, "weight"));
    heed_module_child(root, "user", user);
    heed_optim *optim = heed_sgd_new(root, &(heed_sgd_options){.momentum = 0.9});
    ck_assert_int_eq(heed_optim_state_count(optim), 2 + 1);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor tied = heed_param_find(root, "user.tied");
    heed_backward(heed_sum(heed_add(tied, heed_param_find(root, "maker.weight")), HEED_ALL, false));
    heed_optim_step(optim, 0.25);
    ck_assert(heed_optim_grad_norm(optim) == sqrt(N * 4.0));
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    double w[N];
    for (int i = 0; i < N; i++) w[i] = 0.5;
    check_values(tied, N, w, "tied");
    heed_optim_free(optim);
    heed_module_free(root);
}
END_TEST

/* A second backward through a graph whose parameters an update changed is refused. */
START_TEST(update_bumps_versions) {
    heed_optim *optim = heed_sgd_new(model, NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor loss = heed_sum(heed_mul(weight, weight), HEED_ALL, false);
    heed_backward_with(loss, &(heed_backward_options){.retain = true});
    heed_optim_step(optim, 0.1);
    test_ok(ctx);
    heed_backward(loss);
    test_error(ctx, HEED_ERROR_STATE, "", "changed parameters");
    heed_step_end(ctx);
    heed_optim_free(optim);
}
END_TEST

/* ---- lives ---- */

START_TEST(freed_in_any_order) {
    heed_module *module = model_new(ctx);
    heed_optim *optim = heed_adam_new(module, NULL);
    heed_module_free(module);
    heed_optim_step(optim, 0.1);
    test_error(ctx, HEED_ERROR_STALE, "adam: parameter weight was freed", "freed module");
    struct heed_optim_state *state = malloc(sizeof *state);
    ck_assert(!heed_optim_state_at(optim, 0, state));
    free(state);
    heed_optim_free(optim);
    heed_optim_free(NULL);
    optim = heed_adam_new(model, NULL);
    heed_optim_free(optim);
    optim = heed_sgd_new(model, NULL);
    train(optim, 0, 0.1);
    heed_optim_free(optim);
}
END_TEST

static void build_train_free(void) {
    heed_module *module = model_new(ctx);
    heed_optim *optim = heed_adamw_new(module, NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(heed_sum(heed_param_find(module, "weight"), HEED_ALL, false));
    heed_optim_step(optim, 0.1);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_optim_free(optim);
    heed_module_free(module);
}

START_TEST(memory_returns) {
    build_train_free();
    size_t before = heed_memory(ctx).in_use;
    build_train_free();
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
}
END_TEST

START_TEST(steady_step_allocates_nothing) {
    heed_optim *optim = heed_adamw_new(model, &(heed_adamw_options){.clip_norm = 1});
    for (int t = 0; t < 3; t++) train(optim, t, 0.1);
    uint64_t calls = heed_memory(ctx).calls;
    for (int t = 3; t < 6; t++) train(optim, t, 0.1);
    ck_assert_uint_eq(heed_memory(ctx).calls, calls);
    heed_optim_free(optim);
}
END_TEST

/* ---- options ---- */

static void check_inert(heed_optim *optim, const char *part) {
    ck_assert_ptr_nonnull(optim);
    test_error(ctx, HEED_ERROR_ARGUMENT, part, part);
    ck_assert_int_ne(heed_optim_step(optim, 0.1), HEED_OK);
    ck_assert_int_ne(heed_optim_group(optim, "", 1, 1), HEED_OK);
    ck_assert_int_eq(heed_optim_state_count(optim), 0);
    ck_assert(heed_optim_steps(optim) == 0 && heed_optim_grad_norm(optim) == 0);
    heed_optim_free(optim);
}

START_TEST(bad_options) {
    check_inert(heed_sgd_new(model, &(heed_sgd_options){.momentum = 1.5}), "sgd: momentum 1.5");
    check_inert(heed_sgd_new(model, &(heed_sgd_options){.nesterov = true}), "nesterov needs a momentum");
    check_inert(heed_sgd_new(model, &(heed_sgd_options){.clip_norm = -1}), "clip_norm -1");
    check_inert(heed_sgd_new(model, &(heed_sgd_options){.reserved = {0, 0, 0, 1}}), "sgd: reserved");
    check_inert(heed_adam_new(model, &(heed_adamw_options){.beta1 = 1}), "adam: beta1 1");
    check_inert(heed_adamw_new(model, &(heed_adamw_options){.beta2 = -0.1}), "adamw: beta2 -0.1");
    check_inert(heed_adamw_new(model, &(heed_adamw_options){.eps = NAN}), "eps nan");
    check_inert(heed_adamw_new(model, &(heed_adamw_options){.weight_decay = INFINITY}), "weight_decay inf");
    check_inert(heed_adamw_new(model, &(heed_adamw_options){.reserved = {1}}), "adamw: reserved");
    heed_optim *optim = heed_adamw_new(NULL, NULL);
    ck_assert_int_ne(heed_optim_step(optim, 0.1), HEED_OK);
    ck_assert_int_ne(heed_optim_step(NULL, 0.1), HEED_OK);
    heed_optim_free(optim);
    test_ok(ctx);
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
    check_state(heed_sgd_new(model, NULL), 1, (const char *[]){"sgd.updates"});
    check_state(heed_sgd_new(model, &(heed_sgd_options){.momentum = 0.5}), 3,
                (const char *[]){"sgd.momentum.weight", "sgd.momentum.bias", "sgd.updates"});
    check_state(heed_adamw_new(model, NULL), 5,
                (const char *[]){"adamw.m.weight", "adamw.v.weight", "adamw.m.bias", "adamw.v.bias",
                                 "adamw.updates"});
    heed_optim *optim = heed_adam_new(model, NULL);
    ck_assert_str_eq(heed_optim_kind(optim), "adam");
    ck_assert_ptr_eq(heed_optim_ctx(optim), ctx);
    heed_optim_free(optim);
}
END_TEST

static void copy_state(const heed_optim *from, heed_optim *to) {
    struct heed_optim_state *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    for (int64_t i = 0; i < heed_optim_state_count(from); i++) {
        ck_assert(heed_optim_state_at(from, i, a) && heed_optim_state_at(to, i, b));
        memcpy(b->data, a->data, (size_t)a->count * heed_dtype_bytes(a->dtype));
    }
    heed_optim_steps_set(to, heed_optim_steps(from));
    free(a);
    free(b);
}

/* Going on from copied state has the same bits as never having stopped. */
START_TEST(state_resumes) {
    heed_optim *optim = heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.1});
    for (int t = 0; t < 3; t++) train(optim, t, 0.1);
    float start[N], straight[N], resumed[N];
    heed_read(weight, start, sizeof start);
    heed_optim *second = heed_adamw_new(model, &(heed_adamw_options){.weight_decay = 0.1});
    copy_state(optim, second);
    for (int t = 3; t < 6; t++) train(optim, t, 0.1);
    heed_read(weight, straight, sizeof straight);
    heed_write(weight, start, sizeof start);
    for (int t = 3; t < 6; t++) train(second, t, 0.1);
    heed_read(weight, resumed, sizeof resumed);
    ck_assert_mem_eq(straight, resumed, sizeof resumed);
    ck_assert_int_eq(heed_optim_steps(second), 6);
    heed_optim_free(optim);
    heed_optim_free(second);
}
END_TEST

/* The gradients of attention's q, k and v lie side by side as the weights do. */
START_TEST(gradients_lie_as_weights) {
    heed_module *mha = heed_mha_new(ctx, &(heed_mha_options){.width = 6, .heads = 2});
    heed_optim *optim = heed_adamw_new(mha, NULL);
    test_ok(ctx);
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
    Suite *suite = suite_create("optim");
    TCase *tcase = test_case(suite, "optim");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, sgd, 0, 4);
    tcase_add_loop_test(tcase, adam, 0, 2);
    tcase_add_test(tcase, betas_of_zero);
    tcase_add_test(tcase, groups);
    tcase_add_test(tcase, decay_rule);
    tcase_add_test(tcase, clip_norm);
    tcase_add_test(tcase, clip_value);
    tcase_add_test(tcase, clip_functions);
    tcase_add_loop_test(tcase, bad_gradient, 0, 2);
    tcase_add_loop_test(tcase, bad_loss, 0, 2);
    tcase_add_test(tcase, nothing_after_an_error);
    tcase_add_test(tcase, accumulation);
    tcase_add_test(tcase, gradient_before_optimiser);
    tcase_add_test(tcase, frozen_and_late);
    tcase_add_test(tcase, shared_parameter_once);
    tcase_add_test(tcase, update_bumps_versions);
    tcase_add_test(tcase, freed_in_any_order);
    tcase_add_test(tcase, memory_returns);
    tcase_add_test(tcase, steady_step_allocates_nothing);
    tcase_add_test(tcase, bad_options);
    tcase_add_test(tcase, state_names);
    tcase_add_test(tcase, state_resumes);
    tcase_add_test(tcase, gradients_lie_as_weights);
    return test_main(suite);
}
