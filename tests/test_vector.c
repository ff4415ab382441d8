/* The vectorised functions of every instruction set of this machine against libm in double: over sweeps
 * through all exponents, and at the values where formulas break. */
#include "harness.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/elementwise.h"
#include "backend/unary.h"

static const char *const isa_name[HEED_ISAS] = {"baseline", "avx2", "avx512"};

/* ---- sweeps ---- */

/* A function over a range: its largest error relative to the result, in units of 2⁻²⁴ (half a unit in the
 * last place of a number just above a power of two). Results below the smallest normal number need only be
 * near 0. */
struct sweep {
    const char *name;
    enum heed_unary op;
    double from, to;
    double most;
};

static const struct sweep sweeps[] = {
    {"exp", HEED_UNARY_EXP, -87.3, 88.7, 4},
    {"exp near 0", HEED_UNARY_EXP, -0.5, 0.5, 4},
    {"log", HEED_UNARY_LOG, 1e-30, 1e30, 4},
    {"log near 1", HEED_UNARY_LOG, 0.5, 2, 4},
    {"log of large", HEED_UNARY_LOG, 1e30, 3.4e38, 4},
    {"sqrt", HEED_UNARY_SQRT, 0, 1e6, 2},
    {"tanh", HEED_UNARY_TANH, -12, 12, 6},
    {"tanh near 0", HEED_UNARY_TANH, -1, 1, 6},
    {"sigmoid", HEED_UNARY_SIGMOID, -87, 30, 8},
    {"silu", HEED_UNARY_SILU, -80, 30, 8},
    {"gelu", HEED_UNARY_GELU, -12, 12, 20},
    {"gelu near 0", HEED_UNARY_GELU, -1, 1, 12},
};

/* Element i of n numbers from a to b, f32; geometric where that is possible. */
static float sweep_point(const struct sweep *s, int i, int n) {
    double u = (double)i / (n - 1);
    if (s->from > 0 && s->to / s->from > 100) return (float)(s->from * pow(s->to / s->from, u));
    return (float)(s->from + (s->to - s->from) * u);
}

static void run(enum heed_isa isa, enum heed_unary op, float c, int64_t n, const float *x, float *y) {
    const void *in[] = {x};
    const int step[] = {1};
    heed_unary_vectors(isa)->forward[op](&c, n, in, step, y);
}

static void slope(enum heed_isa isa, enum heed_unary op, int64_t n, const float *dy, const float *x,
                  float *dx) {
    const float c = 0;
    const void *in[] = {dy, x};
    const int step[] = {1, 1};
    heed_unary_vectors(isa)->backward[op](&c, n, in, step, dx);
}

START_TEST(test_sweeps) {
    enum { POINTS = 20011 };
    static float x[POINTS], y[POINTS];
    const struct sweep *s = &sweeps[_i];
    const int points = test_small() ? 1511 : POINTS;
    for (int i = 0; i < points; i++) x[i] = sweep_point(s, i, points);
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        double worst = 0;
        float at = 0;
        run((enum heed_isa)isa, s->op, 0, points, x, y);
        for (int i = 0; i < points; i++) {
            double right = heed_unary_value(s->op, 0, x[i]);
            double error = fabs(y[i] - right) / fmax(fabs(right), 0x1p-126) * 0x1p24;
            if (!(error <= worst)) worst = error, at = x[i];
        }
        ck_assert_msg(worst <= s->most, "%s (%s): error %.2f at %.9g", s->name, isa_name[isa], worst, at);
    }
}
END_TEST

/* Derivatives of activations cross 0, so their error is taken absolutely. */
START_TEST(test_slopes) {
    enum { POINTS = 4001 };
    static const enum heed_unary ops[] = {HEED_UNARY_GELU, HEED_UNARY_GELU_TANH, HEED_UNARY_SILU};
    static float x[POINTS], dy[POINTS], dx[POINTS];
    for (int i = 0; i < POINTS; i++) {
        x[i] = -20 + 40 * (float)i / (POINTS - 1);
        dy[i] = 1;
    }
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        for (int o = 0; o < 3; o++) {
            slope((enum heed_isa)isa, ops[o], POINTS, dy, x, dx);
            for (int i = 0; i < POINTS; i++) {
                double right = heed_unary_gradient(ops[o], 0, x[i], 0, 1);
                ck_assert_msg(fabs(dx[i] - right) < 6e-7, "slope %d (%s) at %g: %.9g and not %.9g",
                              (int)ops[o], isa_name[isa], x[i], dx[i], right);
            }
        }
    }
}
END_TEST

/* In the tail gelu_tanh is e^2u: an argument of some size costs as many roundings. */
START_TEST(test_gelu_tanh) {
    enum { POINTS = 4001 };
    static float x[POINTS], y[POINTS];
    for (int i = 0; i < POINTS; i++) x[i] = -8 + 16 * (float)i / (POINTS - 1);
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        run((enum heed_isa)isa, HEED_UNARY_GELU_TANH, 0, POINTS, x, y);
        for (int i = 0; i < POINTS; i++) {
            double u = sqrt(2 / M_PI) * (x[i] + 0.044715 * pow(x[i], 3));
            double right = x[i] / (1 + exp(-2 * u));
            double allowed = (3e-7 + 1.5e-7 * fmax(0, -2 * u)) * fabs(right);
            ck_assert_msg(fabs(y[i] - right) <= allowed, "gelu_tanh (%s) at %g: %.9g and not %.9g",
                          isa_name[isa], x[i], y[i], right);
        }
    }
}
END_TEST

/* ---- single values ---- */

struct value {
    enum heed_unary op;
    float x, y;
};

static const struct value values[] = {
    {HEED_UNARY_EXP, 0, 1},
    {HEED_UNARY_EXP, -0.0f, 1},
    {HEED_UNARY_EXP, INFINITY, INFINITY},
    {HEED_UNARY_EXP, -INFINITY, 0},
    {HEED_UNARY_EXP, NAN, NAN},
    {HEED_UNARY_EXP, 88.8f, INFINITY},
    {HEED_UNARY_EXP, 3.4e38f, INFINITY},
    {HEED_UNARY_EXP, -87.5f, 0}, /* subnormal results are exact zeros */
    {HEED_UNARY_EXP, -100, 0},
    {HEED_UNARY_EXP, -3.4e38f, 0},
    {HEED_UNARY_LOG, 0, -INFINITY},
    {HEED_UNARY_LOG, -0.0f, -INFINITY},
    {HEED_UNARY_LOG, 1, 0},
    {HEED_UNARY_LOG, INFINITY, INFINITY},
    {HEED_UNARY_LOG, -1, NAN},
    {HEED_UNARY_LOG, -INFINITY, NAN},
    {HEED_UNARY_LOG, NAN, NAN},
    {HEED_UNARY_LOG, 1e-45f, -103.278931f},
    {HEED_UNARY_LOG, 1e-40f, -92.1034088f},
    {HEED_UNARY_SQRT, -1, NAN},
    {HEED_UNARY_SQRT, INFINITY, INFINITY},
    {HEED_UNARY_TANH, INFINITY, 1},
    {HEED_UNARY_TANH, -INFINITY, -1},
    {HEED_UNARY_TANH, 50, 1},
    {HEED_UNARY_TANH, -50, -1},
    {HEED_UNARY_TANH, 0, 0},
    {HEED_UNARY_TANH, 1e-40f, 1e-40f},
    {HEED_UNARY_TANH, NAN, NAN},
    {HEED_UNARY_SIGMOID, 0, 0.5f},
    {HEED_UNARY_SIGMOID, INFINITY, 1},
    {HEED_UNARY_SIGMOID, -INFINITY, 0},
    {HEED_UNARY_SIGMOID, 1e30f, 1},
    {HEED_UNARY_SIGMOID, -1e30f, 0},
    {HEED_UNARY_SIGMOID, NAN, NAN},
    {HEED_UNARY_RELU, -1, 0},
    {HEED_UNARY_RELU, 2, 2},
    {HEED_UNARY_RELU, NAN, NAN},
    {HEED_UNARY_RELU, INFINITY, INFINITY},
    {HEED_UNARY_RELU, -INFINITY, 0},
    {HEED_UNARY_GELU, 0, 0},
    {HEED_UNARY_GELU, INFINITY, INFINITY},
    {HEED_UNARY_GELU, 30, 30},
    {HEED_UNARY_GELU, -30, 0},
    {HEED_UNARY_GELU, -3.4e38f, 0},
    {HEED_UNARY_GELU, NAN, NAN},
    {HEED_UNARY_GELU_TANH, 0, 0},
    {HEED_UNARY_GELU_TANH, INFINITY, INFINITY},
    {HEED_UNARY_GELU_TANH, 1e30f, 1e30f},
    {HEED_UNARY_GELU_TANH, -1e30f, 0},
    {HEED_UNARY_GELU_TANH, NAN, NAN},
    {HEED_UNARY_SILU, 0, 0},
    {HEED_UNARY_SILU, 1e30f, 1e30f},
    {HEED_UNARY_SILU, -1e30f, 0},
    {HEED_UNARY_SILU, NAN, NAN},
};

static bool same(float a, float b) {
    return (isnan(a) && isnan(b)) || a == b || (isfinite(b) && fabsf(a - b) <= 1e-6f * fabsf(b));
}

/* Alone, and at every place of a longer row, so that main loops and tails agree. */
START_TEST(test_single_values) {
    enum { MOST = 37 };
    const struct value *v = &values[_i];
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        for (int n = 1; n <= MOST; n += 6) {
            float x[MOST], y[MOST + 1];
            for (int i = 0; i < n; i++) x[i] = v->x;
            y[n] = 7;
            run((enum heed_isa)isa, v->op, 0, n, x, y);
            for (int i = 0; i < n; i++)
                ck_assert_msg(same(y[i], v->y), "op %d (%s) of %g: %g and not %g", (int)v->op, isa_name[isa],
                              v->x, y[i], v->y);
            ck_assert(y[n] == 7);
        }
    }
}
END_TEST

/* Slopes beyond the range: 0 or 1, never NaN. */
START_TEST(test_far_slopes) {
    static const enum heed_unary ops[] = {HEED_UNARY_GELU, HEED_UNARY_GELU_TANH, HEED_UNARY_SILU};
    static const float x[] = {30, -30, 1e10f, -1e10f, 3e38f, -3e38f};
    static const float dy[] = {1, 1, 1, 1, 1, 1};
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        for (int o = 0; o < 3; o++) {
            float dx[6];
            slope((enum heed_isa)isa, ops[o], 6, dy, x, dx);
            for (int i = 0; i < 6; i++)
                ck_assert_msg(fabsf(dx[i] - (x[i] > 0 ? 1 : 0)) < 1e-9f, "slope %d (%s) at %g: %g",
                              (int)ops[o], isa_name[isa], x[i], dx[i]);
        }
    }
}
END_TEST

/* A power that is a product is that product; every other is libm's. */
START_TEST(test_powers) {
    static const float exponents[] = {0, 1, 2, 3, -1, -2, 0.5f, 2.5f, -0.7f, 10};
    static const float x[] = {0.1f, 0.5f, 1, 1.7f, 3, 100};
    for (int isa = 0; isa <= (int)heed_cpu_isa_detect(); isa++) {
        for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
            float y[6];
            run((enum heed_isa)isa, HEED_UNARY_POW_SCALAR, exponents[e], 6, x, y);
            for (int i = 0; i < 6; i++) {
                double right = pow((double)x[i], (double)exponents[e]);
                ck_assert_msg(fabs(y[i] - right) <= 3e-7 * right, "%g to the power %g (%s): %g", x[i],
                              exponents[e], isa_name[isa], y[i]);
            }
        }
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("vector");
    TCase *accuracy = test_case(suite, "accuracy");
    tcase_add_loop_test(accuracy, test_sweeps, 0, (int)(sizeof sweeps / sizeof *sweeps));
    tcase_add_test(accuracy, test_slopes);
    tcase_add_test(accuracy, test_gelu_tanh);
    tcase_add_test(accuracy, test_powers);
    TCase *edges = test_case(suite, "edges");
    tcase_add_loop_test(edges, test_single_values, 0, (int)(sizeof values / sizeof *values));
    tcase_add_test(edges, test_far_slopes);
    return test_main(suite);
}
