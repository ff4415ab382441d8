#include "harness_optim.h"

#include <math.h>

#include "tensor/internal.h"

heed_ctx *optim_ctx;
heed_module *optim_model;
heed_tensor optim_weight, optim_bias;

const heed_module_class optim_model_class = {.name = "Model"};
static const heed_init ones = {HEED_INIT_ONES, 0, 0};

heed_module *optim_model_new(heed_ctx *of) {
    heed_module *module = heed_module_new(of, &optim_model_class);
    heed_module_param(module, "weight", HEED_SHAPE(OPTIM_ROWS, OPTIM_COLUMNS), ones);
    heed_module_param(module, "bias", HEED_SHAPE(OPTIM_COLUMNS), ones);
    return module;
}

void optim_setup(void) {
    optim_ctx = test_cpu();
    optim_model = optim_model_new(optim_ctx);
    optim_weight = heed_param_find(optim_model, "weight");
    optim_bias = heed_param_find(optim_model, "bias");
}

void optim_teardown(void) {
    heed_module_free(optim_model);
    ck_assert_uint_eq(optim_ctx->modules, 0);
    heed_ctx_free(optim_ctx);
}

float optim_gradient(int t, int i) {
    return (float)(sin(1.7 * i + 0.9 * t) * (i % 3 == 0 ? 10 : 0.1));
}

void optim_backward(int t, double factor, bool with_bias) {
    float g[OPTIM_COUNT];
    for (int i = 0; i < OPTIM_COUNT; i++) g[i] = optim_gradient(t, i);
    heed_tensor loss = heed_sum(
        heed_mul(optim_weight, heed_from(optim_ctx, HEED_F32, HEED_SHAPE(OPTIM_ROWS, OPTIM_COLUMNS), g)),
        HEED_ALL, false);
    if (with_bias) {
        heed_tensor c = heed_from(optim_ctx, HEED_F32, HEED_SHAPE(OPTIM_COLUMNS), g);
        loss = heed_add(loss, heed_sum(heed_mul(optim_bias, c), HEED_ALL, false));
    }
    heed_backward(heed_mul_scalar(loss, factor));
}

void optim_train(heed_optim *optim, int t, double rate) {
    heed_step_begin(optim_ctx, HEED_TRAIN);
    optim_backward(t, 1, true);
    heed_optim_step(optim, rate);
    ck_assert_msg(heed_step_end(optim_ctx) == HEED_OK, "%s", heed_error(optim_ctx));
}

void optim_check(heed_tensor t, int count, const double *expected, const char *what) {
    float actual[OPTIM_COUNT];
    ck_assert_int_eq(heed_read(t, actual, (size_t)count * sizeof *actual), HEED_OK);
    for (int i = 0; i < count; i++)
        ck_assert_msg(fabs(actual[i] - expected[i]) <= 1e-6 * (1 + fabs(expected[i])),
                      "%s: element %d is %.9g, not %.9g", what, i, actual[i], expected[i]);
}

/* ---- the formulas ---- */

struct optim_reference optim_reference_new(void) {
    struct optim_reference r = {{0}, {0}, {0}};
    for (int i = 0; i < OPTIM_COUNT; i++) r.p[i] = 1;
    return r;
}

void optim_reference_adam(struct optim_reference *r, int count, int t, int step, double rate, double decay,
                          bool decoupled) {
    const double b1 = 0.9, b2 = 0.999;
    for (int i = 0; i < count; i++) {
        double g = optim_gradient(t, i) + (decoupled ? 0 : decay * r->p[i]);
        if (decoupled) r->p[i] *= 1 - rate * decay;
        r->m[i] = b1 * r->m[i] + (1 - b1) * g;
        r->v[i] = b2 * r->v[i] + (1 - b2) * g * g;
        double m = r->m[i] / (1 - pow(b1, step)), v = r->v[i] / (1 - pow(b2, step));
        r->p[i] -= rate * m / (sqrt(v) + 1e-8);
    }
}
