/* Initialisers: ranges, moments, orthogonality, and what they refuse. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static heed_ctx *ctx;

static void setup(void) {
    ctx = test_ref();
}

static void teardown(void) {
    heed_ctx_free(ctx);
}

struct statistics {
    double mean, deviation, low, high;
};

static struct statistics look(heed_tensor t) {
    int64_t count;
    double *x = test_values(t, &count), sum = 0, squares = 0;
    struct statistics s = {.low = INFINITY, .high = -INFINITY};
    for (int64_t i = 0; i < count; i++) {
        sum += x[i];
        squares += x[i] * x[i];
        s.low = fmin(s.low, x[i]);
        s.high = fmax(s.high, x[i]);
    }
    free(x);
    s.mean = sum / (double)count;
    s.deviation = sqrt(squares / (double)count - s.mean * s.mean);
    return s;
}

static struct statistics made(heed_dtype dtype, int rank, const int64_t *sizes, heed_init init) {
    heed_tensor t = heed_zeros(ctx, dtype, rank, sizes);
    heed_init_tensor(t, init);
    test_ok(ctx);
    return look(t);
}

START_TEST(constants) {
    struct statistics s = made(HEED_F32, TEST_SHAPE(4, 5), (heed_init){HEED_INIT_ONES, 7, 7});
    ck_assert(s.low == 1 && s.high == 1);
    s = made(HEED_F64, TEST_SHAPE(4, 5), (heed_init){HEED_INIT_CONSTANT, -2.5, 0});
    ck_assert(s.low == -2.5 && s.high == -2.5);
    heed_tensor t = heed_full(ctx, HEED_F32, TEST_SHAPE(3), 9);
    heed_init_tensor(t, (heed_init){HEED_INIT_ZEROS, 0, 0});
    test_equals(t, 3, (float[]){0, 0, 0}, "zeros");
}
END_TEST

/* The mean of n independent numbers of deviation d is within 5·d/sqrt(n) of theirs but once in a million. */
static void check_moments(struct statistics s, double count, double mean, double deviation) {
    ck_assert_msg(fabs(s.mean - mean) < 5 * deviation / sqrt(count), "mean %g", s.mean);
    ck_assert_msg(fabs(s.deviation - deviation) < 5 * deviation / sqrt(count), "deviation %g", s.deviation);
}

static void check_uniform(struct statistics s, double count, double low, double high) {
    check_moments(s, count, (low + high) / 2, (high - low) / sqrt(12));
    ck_assert_msg(s.low >= low && s.high <= high, "[%g, %g] is outside [%g, %g]", s.low, s.high, low, high);
    double gap = (high - low) * 20 / count;
    ck_assert_msg(s.low < low + gap && s.high > high - gap, "[%g, %g] does not fill [%g, %g]", s.low, s.high,
                  low, high);
}

START_TEST(distributions) {
    const double n = 60 * 40;
    check_moments(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_NORMAL, 3, 0.5}), n, 3, 0.5);
    check_moments(made(HEED_F64, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_NORMAL, -1, 2}), n, -1, 2);
    check_uniform(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_UNIFORM, -1, 3}), n, -1, 3);
    check_uniform(made(HEED_F64, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_UNIFORM, 5, 6}), n, 5, 6);
}
END_TEST

/* A weight [60, 40] has fan-in 40 and fan-out 60; what is behind counts to both; a vector is its own fan. */
START_TEST(fans) {
    const double n = 60 * 40, b = sqrt(6.0 / 100), k = sqrt(6.0 / 40);
    check_uniform(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_GLOROT_UNIFORM, 0, 0}), n, -b, b);
    check_moments(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_GLOROT_NORMAL, 0, 0}), n, 0,
                  sqrt(0.02));
    check_uniform(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_KAIMING_UNIFORM, 0, 0}), n, -k, k);
    check_moments(made(HEED_F32, TEST_SHAPE(60, 40), (heed_init){HEED_INIT_KAIMING_NORMAL, 0, 0}), n, 0,
                  sqrt(0.05));
    check_moments(made(HEED_F32, TEST_SHAPE(60, 8, 5), (heed_init){HEED_INIT_KAIMING_NORMAL, 0, 0}), n, 0,
                  sqrt(0.05));
    check_moments(made(HEED_F32, TEST_SHAPE(60, 8, 5), (heed_init){HEED_INIT_GLOROT_NORMAL, 0, 0}), n, 0,
                  sqrt(2.0 / (40 + 300)));
    check_moments(made(HEED_F32, TEST_SHAPE(800), (heed_init){HEED_INIT_GLOROT_NORMAL, 0, 0}), 800, 0,
                  sqrt(2.0 / 1600));
}
END_TEST

/* The Gram matrix of rows (wide) or columns (tall) is gain² times the identity. */
static void check_orthogonal(heed_dtype dtype, int64_t rows, int64_t columns, double gain, double tolerance) {
    heed_tensor t = heed_zeros(ctx, dtype, TEST_SHAPE(rows, columns));
    heed_init_tensor(t, (heed_init){HEED_INIT_ORTHOGONAL, gain, 0});
    test_ok(ctx);
    int64_t total;
    double *x = test_values(t, &total), square = gain != 0 ? gain * gain : 1;
    bool tall = rows > columns;
    int64_t count = tall ? columns : rows, length = tall ? rows : columns;
    for (int64_t a = 0; a < count; a++) {
        for (int64_t b = 0; b < count; b++) {
            double dot = 0;
            for (int64_t i = 0; i < length; i++)
                dot +=
                    tall ? x[i * columns + a] * x[i * columns + b] : x[a * columns + i] * x[b * columns + i];
            ck_assert_msg(fabs(dot - (a == b ? square : 0)) < tolerance, "[%d, %d] gain %g: (%d, %d) is %g",
                          (int)rows, (int)columns, gain, (int)a, (int)b, dot);
        }
    }
    free(x);
}

START_TEST(orthogonal) {
    check_orthogonal(HEED_F64, 7, 31, 0, 1e-13);
    check_orthogonal(HEED_F64, 31, 7, 3, 1e-12);
    check_orthogonal(HEED_F64, 40, 40, 1, 1e-13);
    check_orthogonal(HEED_F32, 24, 24, 0.5, 1e-6);
    check_orthogonal(HEED_F32, 1, 1, 2, 1e-6);
    heed_tensor empty = heed_zeros(ctx, HEED_F32, TEST_SHAPE(0, 3));
    ck_assert_int_eq(heed_init_tensor(empty, (heed_init){HEED_INIT_ORTHOGONAL, 0, 0}), HEED_OK);
}
END_TEST

static void fill(heed_ctx *of, float *values, heed_init_kind kind) {
    heed_tensor t = heed_zeros(of, HEED_F32, TEST_SHAPE(16, 8));
    heed_init_tensor(t, (heed_init){kind, 0, 1});
    ck_assert_int_eq(heed_read(t, values, 128 * sizeof *values), HEED_OK);
}

START_TEST(same_seed_same_values) {
    static const heed_init_kind kinds[] = {HEED_INIT_UNIFORM, HEED_INIT_NORMAL, HEED_INIT_ORTHOGONAL};
    heed_ctx *twin = test_ref();
    for (int i = 0; i < 3; i++) {
        float a[128], b[128], c[128];
        fill(ctx, a, kinds[i]);
        fill(twin, b, kinds[i]);
        ck_assert_mem_eq(a, b, sizeof a);
        fill(ctx, c, kinds[i]);
        fill(twin, b, kinds[i]);
        ck_assert_msg(memcmp(a, c, sizeof a) != 0, "two calls made the same numbers");
    }
    heed_ctx_free(twin);
}
END_TEST

/* Uniform numbers are the same on every device, so that models start alike. */
START_TEST(same_on_every_device) {
    const struct test_device *device;
    int devices = test_devices(&device);
    float expected[128], values[128];
    fill(ctx, expected, HEED_INIT_UNIFORM);
    for (int i = 0; i < devices; i++) {
        heed_ctx *other = test_ctx(&device[i]);
        fill(other, values, HEED_INIT_UNIFORM);
        ck_assert_mem_eq(expected, values, sizeof values);
        heed_ctx_free(other);
    }
}
END_TEST

/* A leaf with gaps: only its own elements are written. */
START_TEST(strided_leaf) {
    heed_tensor whole = heed_full(ctx, HEED_F32, TEST_SHAPE(3, 4), 7);
    heed_tensor part = heed_detach(heed_slice(whole, 1, 0, 4, 2));
    ck_assert_int_eq(heed_init_tensor(part, (heed_init){HEED_INIT_ONES, 0, 0}), HEED_OK);
    test_equals(whole, 12, (float[]){1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7}, "strided");
    heed_init_tensor(part, (heed_init){HEED_INIT_UNIFORM, 0, 1});
    test_ok(ctx);
    ck_assert(heed_at(whole, 2, (int64_t[]){1, 1}) == 7 && heed_at(whole, 2, (int64_t[]){1, 2}) < 1);
}
END_TEST

START_TEST(refused) {
    const heed_init ones = {HEED_INIT_ONES, 0, 0};
    heed_init_tensor(heed_full(ctx, HEED_F32, HEED_SCALAR, 1), ones);
    test_error(ctx, HEED_ERROR_SHAPE, "init: ", "rank 0");
    heed_init_tensor(heed_zeros(ctx, HEED_I32, TEST_SHAPE(2)), ones);
    test_error(ctx, HEED_ERROR_DTYPE, "i32", "dtype");
    heed_tensor t = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 2));
    heed_init_tensor(t, (heed_init){HEED_INIT_DEFAULT, 0, 0});
    test_error(ctx, HEED_ERROR_ARGUMENT, "kind 0", "default");
    heed_init_tensor(t, (heed_init){(heed_init_kind)77, 0, 0});
    test_error(ctx, HEED_ERROR_ARGUMENT, "kind 77", "unknown kind");
    heed_init_tensor(t, (heed_init){HEED_INIT_NORMAL, 0, -1});
    test_error(ctx, HEED_ERROR_ARGUMENT, "init: mean 0 and deviation -1", "negative deviation");
    heed_init_tensor(t, (heed_init){HEED_INIT_UNIFORM, 1, 0});
    test_error(ctx, HEED_ERROR_ARGUMENT, "init: there are no numbers from 1 to 0", "bounds");
    heed_normal(ctx, HEED_F32, TEST_SHAPE(2), NAN, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "normal: mean nan", "mean");
    heed_uniform(ctx, HEED_F64, TEST_SHAPE(2), -1e308, 1e308);
    test_error(ctx, HEED_ERROR_ARGUMENT, "uniform: there are no numbers", "bounds too far apart");
    heed_init_tensor(heed_broadcast(t, 2, (int64_t[]){5, 2}), ones);
    test_error(ctx, HEED_ERROR_SHAPE, "repeats", "repeated");
    ck_assert_int_ne(heed_init_tensor((heed_tensor){0}, ones), HEED_OK);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_require_grad(t, true);
    heed_init_tensor(heed_exp(t), ones);
    test_error(ctx, HEED_ERROR_STATE, "recorded", "recorded tensor");
    heed_step_end(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("init");
    TCase *tcase = test_case(suite, "init");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, constants);
    tcase_add_test(tcase, distributions);
    tcase_add_test(tcase, fans);
    tcase_add_test(tcase, orthogonal);
    tcase_add_test(tcase, same_seed_same_values);
    tcase_add_test(tcase, same_on_every_device);
    tcase_add_test(tcase, strided_leaf);
    tcase_add_test(tcase, refused);
    return test_main(suite);
}
