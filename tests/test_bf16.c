/* bf16 tensors: conversions bit by bit on every device, and what operations do with the dtype. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERNS = 1 << 16 };

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float f32_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* `count` numbers of a dtype cast to another, read as that. */
static void cast(const struct test_device *device, heed_dtype from, const void *data, int64_t count,
                 heed_dtype to, void *result) {
    heed_ctx *ctx = test_ctx(device);
    const heed_tensor t = heed_cast(heed_from(ctx, from, 1, &count, data), to);
    ck_assert_int_eq(heed_dtype_of(t), to);
    ck_assert_int_eq(heed_read(t, result, (size_t)count * heed_dtype_bytes(to)), HEED_OK);
    test_ok(ctx);
    heed_ctx_free(ctx);
}

static void on_devices(void (*test)(const struct test_device *device)) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    for (int i = 0; i < count; i++) test(&devices[i]);
}

/* ---- conversions ---- */

static void all_patterns(const struct test_device *device) {
    static uint16_t half[PATTERNS], back[PATTERNS];
    static float wide[PATTERNS];
    static double wider[PATTERNS];
    for (int i = 0; i < PATTERNS; i++) half[i] = (uint16_t)i;
    cast(device, HEED_BF16, half, PATTERNS, HEED_F32, wide);
    cast(device, HEED_BF16, half, PATTERNS, HEED_F64, wider);
    for (uint32_t i = 0; i < PATTERNS; i++) {
        test_check(bits_of(wide[i]) == i << 16 || (isnan(wide[i]) && isnan(f32_of(i << 16))),
                   "pattern %04x is read as %08x", i, bits_of(wide[i]));
        test_check(wider[i] == (double)f32_of(i << 16) || (isnan(wider[i]) && isnan(wide[i])),
                   "pattern %04x is read as %g", i, wider[i]);
    }
    for (int from_f64 = 0; from_f64 < 2; from_f64++) {
        cast(device, from_f64 ? HEED_F64 : HEED_F32, from_f64 ? (void *)wider : wide, PATTERNS, HEED_BF16,
             back);
        for (uint32_t i = 0; i < PATTERNS; i++)
            test_check(back[i] == half[i] || (isnan(wide[i]) && isnan(test_bf16_value(back[i]))),
                       "pattern %04x comes back as %04x", i, back[i]);
    }
}

START_TEST(every_pattern_survives) {
    on_devices(all_patterns);
}
END_TEST

/* Between each finite number and the one above it in magnitude, which may be infinity: the middle and its
 * neighbours. */
static void ties(const struct test_device *device) {
    static float value[3 * PATTERNS];
    static uint16_t expected[3 * PATTERNS], rounded[3 * PATTERNS];
    int64_t count = 0;
    for (uint32_t i = 0; i < PATTERNS; i++) {
        if ((i & 0x7fff) >= 0x7f80) continue; /* infinite, NaN */
        for (uint32_t around = 0; around < 3; around++) {
            value[count] = f32_of((i << 16) + 0x7fff + around);
            const bool up = around == 2 || (around == 1 && i % 2 == 1);
            expected[count++] = (uint16_t)(up ? i + 1 : i);
        }
    }
    cast(device, HEED_F32, value, count, HEED_BF16, rounded);
    for (int64_t i = 0; i < count; i++)
        test_check(rounded[i] == expected[i], "%a becomes %04x and not %04x", (double)value[i], rounded[i],
                   expected[i]);
}

START_TEST(rounding_is_to_nearest_even) {
    on_devices(ties);
}
END_TEST

/* NaN whose payload is in the lower half only must not become an infinity. */
static void odd_nans(const struct test_device *device) {
    float value[40];
    uint16_t rounded[40];
    for (uint32_t i = 0; i < 40; i++) value[i] = f32_of((i % 2 ? 0xff800000 : 0x7f800000) | 1u << (i / 2));
    cast(device, HEED_F32, value, 40, HEED_BF16, rounded);
    for (int i = 0; i < 40; i++)
        test_check(isnan(test_bf16_value(rounded[i])), "NaN %08x becomes %04x", bits_of(value[i]),
                   rounded[i]);
}

START_TEST(nan_stays_nan) {
    on_devices(odd_nans);
}
END_TEST

/* What a float cannot tell from the middle: one rounding goes up or down, two go to even. */
static void f64_rounds_once(const struct test_device *device) {
    const double one = 1, ulp = 0x1p-7, middle = one + ulp / 2, tiny = 0x1p-40;
    const double value[] = {middle,
                            middle + tiny,
                            middle - tiny,
                            middle + ulp,
                            middle + ulp + tiny,
                            middle + ulp - tiny,
                            -(middle + tiny),
                            1e-50,
                            -1e300,
                            0x1.fep127 + 0x1.ffffp118,
                            0x1p-133 * 0.5 + 0x1p-180};
    const double expected[] = {one,          one + ulp, one,       one + 2 * ulp, one + 2 * ulp, one + ulp,
                               -(one + ulp), 0,         -INFINITY, 0x1.fep127,    0x1p-133};
    enum { COUNT = sizeof value / sizeof *value };
    uint16_t rounded[COUNT];
    cast(device, HEED_F64, value, COUNT, HEED_BF16, rounded);
    for (int i = 0; i < COUNT; i++)
        test_check(test_bf16_value(rounded[i]) == expected[i], "%a becomes %a and not %a", value[i],
                   test_bf16_value(rounded[i]), expected[i]);
}

START_TEST(from_f64_it_is_one_rounding) {
    on_devices(f64_rounds_once);
}
END_TEST

static void whole_numbers(const struct test_device *device) {
    const int32_t number[] = {0, 1, -1, 255, 256, 257, 259, -257, INT32_MAX, 16777217};
    const double as_bf16[] = {0, 1, -1, 255, 256, 256, 260, -256, 2147483648.0, 16777216};
    const int32_t back[] = {0, 1, -1, 255, 256, 256, 260, -256, INT32_MAX, 16777216};
    uint16_t half[10];
    int32_t again[10];
    uint8_t truth[10];
    cast(device, HEED_I32, number, 10, HEED_BF16, half);
    cast(device, HEED_BF16, half, 10, HEED_I32, again);
    cast(device, HEED_BF16, half, 10, HEED_BOOL, truth);
    for (int i = 0; i < 10; i++) {
        test_check(test_bf16_value(half[i]) == as_bf16[i], "%d becomes %g", number[i],
                   test_bf16_value(half[i]));
        test_check(again[i] == back[i] && truth[i] == (number[i] != 0), "%d comes back as %d, %d", number[i],
                   again[i], truth[i]);
    }
}

START_TEST(whole_numbers_convert) {
    on_devices(whole_numbers);
}
END_TEST

/* Views of every kind, lines longer and shorter than a vector, in both directions. */
static void strided(const struct test_device *device) {
    heed_ctx *ctx = test_ctx(device);
    const heed_tensor x = test_tensor(ctx, HEED_F32, 5, TEST_SHAPE(7, 9, 67));
    const heed_tensor views[] = {heed_transpose(x, 0, 2), heed_permute(x, 3, (int[]){1, 0, 2}),
                                 heed_slice(x, 2, 3, 60, 1), heed_slice(x, 2, 0, 67, 3),
                                 heed_broadcast(heed_slice(x, 0, 2, 3, 1), 3, (int64_t[]){5, 9, 67})};
    for (int i = 0; i < 5; i++) {
        int64_t n, m;
        double *exact = test_values(views[i], &n);
        const heed_tensor low = heed_cast(views[i], HEED_BF16), turned = heed_transpose(low, 0, 1);
        double *rounded = test_values(heed_transpose(heed_cast(turned, HEED_F32), 0, 1), &m);
        test_check(n == m, "view %d has other sizes", i);
        for (int64_t j = 0; j < n; j++)
            test_check(fabs(rounded[j] - exact[j]) <= fabs(exact[j]) * 0x1p-8, "view %d: %g is %g", i,
                       exact[j], rounded[j]);
        free(exact);
        free(rounded);
    }
    test_ok(ctx);
    heed_ctx_free(ctx);
}

START_TEST(views_convert) {
    on_devices(strided);
}
END_TEST

static void filled(const struct test_device *device) {
    heed_ctx *ctx = test_ctx(device);
    const heed_tensor t = heed_full(ctx, HEED_BF16, TEST_SHAPE(3, 50), 1.00390625 + 0x1p-20);
    const heed_tensor count = heed_arange(ctx, HEED_BF16, 300);
    ck_assert(heed_item(heed_slice(heed_slice(t, 0, 2, 3, 1), 1, 49, 50, 1)) == 1.0078125);
    ck_assert(heed_at(count, 1, (int64_t[]){255}) == 255 && heed_at(count, 1, (int64_t[]){259}) == 260);
    ck_assert(heed_at(heed_zeros(ctx, HEED_BF16, TEST_SHAPE(5)), 1, (int64_t[]){4}) == 0);
    test_ok(ctx);
    heed_ctx_free(ctx);
}

START_TEST(tensors_are_filled) {
    on_devices(filled);
}
END_TEST

/* ---- operations ---- */

/* A gradient has the dtype of its tensor, whatever lies between. */
static void gradient_dtypes(const struct test_device *device) {
    heed_ctx *ctx = test_ctx(device);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor wide = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(4, 6)),
                      low = test_tensor(ctx, HEED_BF16, 2, TEST_SHAPE(6, 4));
    heed_require_grad(wide, true);
    heed_require_grad(low, true);
    const heed_tensor y = heed_matmul(heed_cast(wide, HEED_BF16), low);
    ck_assert_int_eq(heed_dtype_of(y), HEED_BF16);
    heed_backward(heed_cross_entropy(y, heed_arange(ctx, HEED_I32, 4), NULL));
    test_ok(ctx);
    ck_assert_int_eq(heed_dtype_of(heed_grad(wide)), HEED_F32);
    ck_assert_int_eq(heed_dtype_of(heed_grad(low)), HEED_BF16);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_ctx_free(ctx);
}

START_TEST(gradients_have_the_dtype_of_their_tensor) {
    on_devices(gradient_dtypes);
}
END_TEST

/* Contributions of several operations to one gradient, of which some are views of the others' memory. */
static void many_uses(const struct test_device *device) {
    static double first[6 * 6];
    heed_ctx *ctx = test_ctx(device);
    heed_step_begin(ctx, HEED_TRAIN);
    const heed_tensor x = test_tensor(ctx, HEED_BF16, 1, TEST_SHAPE(6, 6));
    heed_require_grad(x, true);
    const heed_tensor index = heed_arange(ctx, HEED_I32, 4);
    const heed_tensor parts[] = {
        heed_matmul(x, x), heed_gelu(heed_transpose(x, 0, 1)), heed_mul(x, heed_slice(x, 0, 2, 3, 1)),
        heed_softmax(heed_add(x, x), -1),
        heed_layer_norm(x, heed_reshape(heed_slice(x, 0, 1, 2, 1), 1, (int64_t[]){6}), (heed_tensor){0}, 0)};
    heed_tensor sum = heed_sum(heed_embedding(x, index), HEED_ALL, false);
    for (int i = 0; i < 5; i++)
        sum = heed_add(sum, heed_sum(heed_mul(parts[i], test_tensor(ctx, HEED_BF16, 9, TEST_SHAPE(6, 6))),
                                     HEED_ALL, false));
    heed_backward(sum);
    test_ok(ctx);
    int64_t n;
    char text[200];
    double *values = test_values(heed_grad(x), &n);
    if (strcmp(device->device, "ref") == 0) memcpy(first, values, sizeof first);
    const bool close = test_close(n, values, first, (struct test_tolerance){0x1p-6, 0x1p-7},
                                  test_largest(n, first), text, sizeof text);
    ck_assert_msg(close, "%s: %s", device->device, text);
    free(values);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_ctx_free(ctx);
}

START_TEST(gradients_add_up) {
    on_devices(many_uses); /* ref is the first */
}
END_TEST

/* Losses and statistics of bf16 tensors are f32; other results are bf16. */
static void result_dtypes(const struct test_device *device) {
    heed_ctx *ctx = test_ctx(device);
    const heed_tensor x = test_tensor(ctx, HEED_BF16, 1, TEST_SHAPE(1, 2, 5, 8));
    heed_tensor weights, lse;
    const heed_tensor y = heed_attention_lse(x, x, x, NULL, NULL, &weights, &lse);
    const heed_tensor low[] = {y,
                               heed_exp(x),
                               heed_softmax(x, -1),
                               heed_sum(x, HEED_ALL, false),
                               heed_layer_norm(x, (heed_tensor){0}, (heed_tensor){0}, 0),
                               heed_rotary(x, NULL)};
    for (int i = 0; i < 6; i++) test_check(heed_dtype_of(low[i]) == HEED_BF16, "result %d is not bf16", i);
    ck_assert_int_eq(heed_dtype_of(weights), HEED_F32);
    ck_assert_int_eq(heed_dtype_of(lse), HEED_F32);
    ck_assert_int_eq(heed_dtype_of(heed_mse(x, x, HEED_REDUCE_MEAN)), HEED_F32);
    test_ok(ctx);
    heed_ctx_free(ctx);
}

START_TEST(losses_and_statistics_are_f32) {
    on_devices(result_dtypes);
}
END_TEST

START_TEST(dtypes_that_clash) {
    heed_ctx *ctx = test_cpu();
    const heed_tensor wide = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(4, 4)),
                      low = test_tensor(ctx, HEED_BF16, 2, TEST_SHAPE(4, 4));
    heed_add(low, wide);
    test_error(ctx, HEED_ERROR_DTYPE, "add: b is f32, but the first argument is bf16", "add");
    heed_matmul(wide, low);
    test_error(ctx, HEED_ERROR_DTYPE, "matmul: b is bf16, but the first argument is f32", "matmul");
    heed_linear(low, wide, (heed_tensor){0}, NULL);
    test_error(ctx, HEED_ERROR_DTYPE, "linear: w is f32, but the first argument is bf16", "linear");
    heed_where(heed_less(low, low), low, wide);
    test_error(ctx, HEED_ERROR_DTYPE, "where: a is bf16 and b f32, not both f32, f64 or bf16", "where");
    heed_cat(2, (heed_tensor[]){wide, low}, 0);
    test_error(ctx, HEED_ERROR_SHAPE, "cat: bf16 tensor[4,4] does not match f32 tensor[4,4]", "cat");
    heed_less(low, wide);
    test_error(ctx, HEED_ERROR_DTYPE, "less: a is bf16, but b is f32", "less");
    heed_normal(ctx, HEED_BF16, TEST_SHAPE(3), 0, 1);
    test_error(ctx, HEED_ERROR_DTYPE, "normal: random numbers are f32 or f64, not bf16", "normal");
    float values[16];
    heed_read(low, values, sizeof values);
    test_error(ctx, HEED_ERROR_ARGUMENT, "read: 64 bytes given; tensor bf16[4,4] has 32", "read");
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("bf16");
    TCase *conversions = test_case(suite, "conversions");
    tcase_add_test(conversions, every_pattern_survives);
    tcase_add_test(conversions, rounding_is_to_nearest_even);
    tcase_add_test(conversions, nan_stays_nan);
    tcase_add_test(conversions, from_f64_it_is_one_rounding);
    tcase_add_test(conversions, whole_numbers_convert);
    tcase_add_test(conversions, views_convert);
    tcase_add_test(conversions, tensors_are_filled);
    TCase *operations = test_case(suite, "operations");
    tcase_add_test(operations, gradients_have_the_dtype_of_their_tensor);
    tcase_add_test(operations, gradients_add_up);
    tcase_add_test(operations, losses_and_statistics_are_f32);
    tcase_add_test(operations, dtypes_that_clash);
    return test_main(suite);
}
