/* Steps and scopes own memory; what is handed out or kept lives on. */
#include "harness.h"

#include <stdlib.h>

static const heed_tensor none;

static heed_tensor vector(heed_ctx *ctx, double value) {
    return heed_full(ctx, HEED_F32, TEST_SHAPE(4), value);
}

START_TEST(steps_do_not_nest) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    ck_assert_int_eq(heed_step_begin(ctx, HEED_TRAIN), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "step_begin: ", "nested step");
    heed_step_end(ctx);
    ck_assert_int_eq(heed_step_end(ctx), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "step_end: ", "no step");
    heed_scope_end(ctx, none);
    test_error(ctx, HEED_ERROR_STATE, "scope_end: ", "no scope");
    ck_assert_int_eq(heed_step_begin(ctx, 1u << 20), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "step_begin: ", "unknown flag");
    ck_assert_int_eq(heed_step_begin(ctx, HEED_EVAL), HEED_OK);
    heed_scope_end(ctx, none);
    test_error(ctx, HEED_ERROR_STATE, "scope_end: ", "the step's own scope");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(a_result_goes_outwards) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor outer = vector(ctx, 1);
    heed_scope_begin(ctx);
    heed_tensor inner = heed_add(outer, outer);
    heed_scope_begin(ctx);
    heed_tensor innermost = heed_mul(inner, inner);
    heed_tensor dropped = heed_mul(inner, outer);
    heed_tensor result = heed_scope_end(ctx, innermost);
    ck_assert(heed_is_valid(result) && heed_is_valid(innermost) && heed_is_valid(inner));
    ck_assert(!heed_is_valid(dropped));
    result = heed_scope_end(ctx, result);
    ck_assert(heed_is_valid(result) && heed_is_valid(outer) && !heed_is_valid(inner));
    test_equals(result, 4, (float[]){4, 4, 4, 4}, "result");
    /* An outer tensor as result stays what it is. */
    heed_scope_begin(ctx);
    ck_assert(heed_is_valid(heed_scope_end(ctx, outer)));
    heed_step_end(ctx);
    ck_assert(!heed_is_valid(result) && !heed_is_valid(outer));
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* A view handed outwards keeps the elements of the tensor that stays behind. */
START_TEST(a_view_keeps_its_elements) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_EVAL);
    heed_scope_begin(ctx);
    heed_tensor table = heed_arange(ctx, HEED_F32, 10);
    heed_tensor slice = heed_scope_end(ctx, heed_slice(table, 0, 3, 9, 2));
    ck_assert(!heed_is_valid(table));
    for (int i = 0; i < 5; i++) vector(ctx, 7);
    test_equals(slice, 3, (float[]){3, 5, 7}, "slice");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(the_end_of_a_step_ends_its_scopes) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_scope_begin(ctx);
    heed_tensor inner = vector(ctx, 1);
    heed_step_end(ctx);
    ck_assert(!heed_is_valid(inner));
    heed_error_clear(ctx);
    size_t before = heed_memory(ctx).in_use;
    for (int i = 0; i < 3; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_scope_begin(ctx);
        heed_exp(vector(ctx, 1));
        heed_step_end(ctx);
        heed_error_clear(ctx);
    }
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(outside_of_steps) {
    heed_ctx *ctx = test_ref();
    heed_tensor a = vector(ctx, 1), b = heed_add(a, a);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor c = heed_add(a, b);
    heed_step_end(ctx);
    ck_assert(heed_is_valid(a) && heed_is_valid(b) && !heed_is_valid(c));
    ck_assert_msg(!heed_requires_grad(b), "recorded outside of a step");
    heed_scope_begin(ctx);
    heed_tensor d = heed_add(a, b);
    d = heed_scope_end(ctx, d);
    test_equals(d, 4, (float[]){3, 3, 3, 3}, "d");
    heed_free(a);
    heed_free(b);
    heed_free(d);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(steps_give_their_memory_back) {
    heed_ctx *ctx = test_ref();
    size_t in_use = 0;
    uint64_t calls = 0;
    for (int i = 0; i < 6; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor x = heed_normal(ctx, HEED_F32, TEST_SHAPE(50, 60), 0, 1);
        heed_require_grad(x, true);
        heed_scope_begin(ctx);
        heed_tensor y = heed_scope_end(ctx, heed_gelu(heed_matmul(x, heed_transpose(x, 0, 1))));
        heed_backward(heed_sum(y, HEED_ALL, false));
        ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
        heed_memory_info info = heed_memory(ctx);
        if (i == 1) in_use = info.in_use;
        if (i == 1) calls = info.calls;
        if (i > 1) ck_assert_uint_eq(info.in_use, in_use);
        if (i > 1) ck_assert_uint_eq(info.calls, calls);
        ck_assert(info.peak >= info.in_use);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* Without a tape, scopes inside a long computation bound its memory. */
START_TEST(scopes_bound_memory) {
    size_t peak[2];
    for (int scoped = 0; scoped < 2; scoped++) {
        heed_ctx *ctx = test_ref();
        heed_step_begin(ctx, HEED_EVAL);
        heed_tensor x = heed_full(ctx, HEED_F32, TEST_SHAPE(100000), 0.5);
        for (int i = 0; i < 20; i++) {
            heed_scope_begin(ctx);
            heed_tensor y = heed_tanh(heed_add_scalar(x, 0.1));
            if (scoped)
                x = heed_scope_end(ctx, y);
            else
                x = y;
        }
        heed_step_end(ctx);
        test_ok(ctx);
        peak[scoped] = heed_memory(ctx).peak;
        heed_ctx_free(ctx);
    }
    ck_assert_msg(peak[1] < 25 * 400000 && peak[0] > 40 * 400000, "%zu and %zu bytes", peak[0], peak[1]);
}
END_TEST

START_TEST(keep_copies_and_detaches) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = heed_arange(ctx, HEED_F32, 6);
    heed_require_grad(x, true);
    heed_tensor turned = heed_transpose(heed_reshape(x, TEST_SHAPE(2, 3)), 0, 1);
    ck_assert(heed_requires_grad(turned) && !heed_is_contiguous(turned));
    heed_tensor kept = heed_keep(turned);
    heed_tensor detached = heed_detach(turned);
    ck_assert(heed_is_contiguous(kept) && !heed_requires_grad(kept) && !heed_requires_grad(detached));
    heed_step_end(ctx);
    ck_assert(!heed_is_valid(turned) && !heed_is_valid(detached));
    test_equals(kept, 6, (float[]){0, 3, 1, 4, 2, 5}, "kept");
    /* The caller's own: it may be written and ask for gradients of its own. */
    ck_assert_int_eq(heed_write(kept, (float[]){1, 1, 1, 1, 1, 1}, 6 * sizeof(float)), HEED_OK);
    ck_assert_int_eq(heed_require_grad(kept, true), HEED_OK);
    heed_free(kept);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(freeing_early_gives_memory_back) {
    heed_ctx *ctx = test_ref();
    heed_tensor small = vector(ctx, 1);
    heed_free(heed_zeros(ctx, HEED_F32, TEST_SHAPE(1000)));
    size_t before = heed_memory(ctx).in_use;
    heed_tensor large = heed_zeros(ctx, HEED_F32, TEST_SHAPE(100000));
    ck_assert(heed_memory(ctx).in_use >= before + 400000);
    heed_free(large);
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
    heed_free(large);
    test_ok(ctx);
    heed_free(small);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(random_numbers_of_validation_change_nothing) {
    float drawn[2][3];
    for (int validate = 0; validate < 2; validate++) {
        heed_ctx *ctx = test_ref();
        for (int step = 0; step < 3; step++) {
            heed_step_begin(ctx, HEED_TRAIN);
            drawn[validate][step] = (float)heed_item(heed_normal(ctx, HEED_F32, 0, NULL, 0, 1));
            heed_step_end(ctx);
            if (!validate) continue;
            heed_step_begin(ctx, HEED_EVAL);
            heed_normal(ctx, HEED_F32, TEST_SHAPE(100), 0, 1);
            heed_step_end(ctx);
        }
        heed_ctx_free(ctx);
    }
    for (int step = 0; step < 3; step++) ck_assert(drawn[0][step] == drawn[1][step]);
    ck_assert(drawn[0][0] != drawn[0][1]);
}
END_TEST

START_TEST(random_state_goes_back) {
    heed_ctx *ctx = test_ref();
    heed_random_state state = heed_random_get(ctx);
    double first = heed_item(heed_uniform(ctx, HEED_F64, 0, NULL, 0, 1));
    double second = heed_item(heed_uniform(ctx, HEED_F64, 0, NULL, 0, 1));
    ck_assert(first != second);
    ck_assert_int_eq(heed_random_set(ctx, &state), HEED_OK);
    ck_assert(heed_item(heed_uniform(ctx, HEED_F64, 0, NULL, 0, 1)) == first);
    heed_step_begin(ctx, HEED_TRAIN);
    ck_assert_int_eq(heed_random_set(ctx, &state), HEED_ERROR_STATE);
    heed_error_clear(ctx);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("scopes");
    TCase *tcase = test_case(suite, "scopes");
    tcase_add_test(tcase, steps_do_not_nest);
    tcase_add_test(tcase, a_result_goes_outwards);
    tcase_add_test(tcase, a_view_keeps_its_elements);
    tcase_add_test(tcase, the_end_of_a_step_ends_its_scopes);
    tcase_add_test(tcase, outside_of_steps);
    tcase_add_test(tcase, steps_give_their_memory_back);
    tcase_add_test(tcase, scopes_bound_memory);
    tcase_add_test(tcase, keep_copies_and_detaches);
    tcase_add_test(tcase, freeing_early_gives_memory_back);
    tcase_add_test(tcase, random_numbers_of_validation_change_nothing);
    tcase_add_test(tcase, random_state_goes_back);
    return test_main(suite);
}
