/* Backward: what accumulates, what is kept, what is refused, and operations of one's own. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>

static const heed_tensor none;

static heed_tensor leaf(heed_ctx *ctx, double value) {
    heed_tensor t = heed_full(ctx, HEED_F32, TEST_SHAPE(2), value);
    heed_require_grad(t, true);
    return t;
}

static heed_tensor total(heed_tensor t) {
    return heed_sum(t, HEED_ALL, false);
}

START_TEST(gradients_accumulate_and_persist) {
    heed_ctx *ctx = test_ref();
    heed_tensor x = leaf(ctx, 3);
    ck_assert_msg(!heed_grad(x).node, "a gradient before any backward");
    for (int step = 1; step <= 3; step++) {
        heed_step_begin(ctx, HEED_TRAIN);
        ck_assert_int_eq(heed_backward(total(heed_mul(x, x))), HEED_OK);
        heed_step_end(ctx);
        heed_tensor grad = heed_grad(x);
        test_equals(grad, 2, (float[]){6.0f * (float)step, 6.0f * (float)step}, "gradient");
        heed_free(grad);
    }
    heed_grad_clear(x);
    ck_assert(!heed_grad(x).node);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(total(heed_mul_scalar(x, 2)));
    heed_backward(total(heed_mul_scalar(x, 5)));
    test_equals(heed_grad(x), 2, (float[]){7, 7}, "two losses in one step");
    heed_step_end(ctx);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(a_graph_is_freed_unless_retained) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = leaf(ctx, 2);
    heed_tensor loss = total(heed_exp(heed_mul(x, x)));
    size_t before = heed_memory(ctx).in_use;
    heed_backward_options retain = {.retain = true};
    ck_assert_int_eq(heed_backward_with(loss, &retain), HEED_OK);
    double *once, *twice;
    int64_t n;
    once = test_values(heed_grad(x), &n);
    ck_assert_int_eq(heed_backward(loss), HEED_OK);
    twice = test_values(heed_grad(x), &n);
    for (int64_t i = 0; i < n; i++) ck_assert(twice[i] == 2 * once[i]);
    free(once);
    free(twice);
    ck_assert_msg(heed_memory(ctx).in_use <= before + 1024, "the graph was not freed");
    ck_assert_int_eq(heed_backward(loss), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "retain", "third backward");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(overwritten_values_are_noticed) {
    heed_ctx *ctx = test_ref();
    heed_tensor x = leaf(ctx, 2);
    const float other[2] = {5, 5};
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor square = total(heed_mul(x, x));
    ck_assert_int_eq(heed_write(x, other, sizeof other), HEED_OK);
    ck_assert_int_eq(heed_backward(square), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "mul", "the square needs x");
    heed_step_end(ctx);
    /* A sum does not need its operands. */
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor sum = total(heed_add(x, x));
    heed_write(x, other, sizeof other);
    ck_assert_int_eq(heed_backward(sum), HEED_OK);
    test_equals(heed_grad(x), 2, (float[]){2, 2}, "gradient of a sum");
    ck_assert_int_ne(heed_write(heed_add(x, x), other, sizeof other), HEED_OK);
    test_error(ctx, HEED_ERROR_STATE, "write: ", "not a leaf");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(values_outlive_their_scope) {
    heed_ctx *ctx = test_ref();
    heed_tensor x = leaf(ctx, 0.5);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_tensor inner = heed_exp(heed_exp(x));
    heed_tensor loss = heed_scope_end(ctx, total(inner));
    ck_assert(!heed_is_valid(inner));
    for (int i = 0; i < 10; i++) heed_full(ctx, HEED_F32, TEST_SHAPE(2), 9);
    ck_assert_int_eq(heed_backward(loss), HEED_OK);
    float expected = (float)(exp(exp(0.5)) * exp(0.5));
    double got = heed_at(heed_grad(x), 1, (int64_t[]){1});
    ck_assert_msg(fabs(got - expected) < 1e-5, "%g and not %g", got, expected);
    heed_step_end(ctx);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(who_gets_a_gradient) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = leaf(ctx, 1), unused = leaf(ctx, 1), aside = leaf(ctx, 1);
    heed_tensor constant = heed_full(ctx, HEED_F32, TEST_SHAPE(2), 4);
    heed_tensor turned_off = leaf(ctx, 1);
    heed_require_grad(turned_off, false);
    ck_assert(heed_requires_grad(x) && !heed_requires_grad(constant) && !heed_requires_grad(turned_off));
    heed_tensor product = heed_mul(heed_mul(x, constant), turned_off);
    ck_assert(heed_requires_grad(product) && !heed_requires_grad(heed_mul(constant, turned_off)));
    ck_assert_msg(!heed_requires_grad(heed_equal(x, x)) && !heed_requires_grad(heed_argmax(x, 0)) &&
                      !heed_requires_grad(heed_cast(x, HEED_I32)),
                  "a gradient of what is no float");
    heed_exp(aside); /* on the tape, but not on the way to the loss */
    heed_backward(total(heed_add(product, heed_mul(heed_detach(product), product))));
    test_equals(heed_grad(x), 2, (float[]){20, 20}, "x");
    ck_assert(!heed_grad(unused).node && !heed_grad(aside).node);
    ck_assert(!heed_grad(constant).node && !heed_grad(turned_off).node);
    test_ok(ctx);
    ck_assert_int_eq(heed_require_grad(product, true), HEED_ERROR_GRADIENT);
    test_error(ctx, HEED_ERROR_GRADIENT, "not a leaf", "require_grad of a result");
    heed_step_end(ctx);

    heed_step_begin(ctx, HEED_EVAL);
    ck_assert_msg(!heed_requires_grad(heed_exp(leaf(ctx, 1))), "recorded in evaluation");
    heed_step_end(ctx);
    heed_step_begin(ctx, HEED_RANDOM);
    ck_assert(!heed_requires_grad(heed_exp(leaf(ctx, 1))));
    heed_step_end(ctx);
    heed_tensor index = heed_zeros(ctx, HEED_I32, TEST_SHAPE(2));
    ck_assert_int_eq(heed_require_grad(index, true), HEED_ERROR_DTYPE);
    heed_error_clear(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(what_backward_refuses) {
    heed_ctx *ctx = test_ref(), *other = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = leaf(ctx, 1);
    heed_tensor y = heed_exp(x);
    heed_backward(y);
    test_error(ctx, HEED_ERROR_SHAPE, "backward: output[2]", "no scalar");
    heed_step_end(ctx);

    const struct {
        heed_dtype dtype;
        int64_t size;
        heed_status status;
    } wrong[] = {{HEED_F32, 3, HEED_ERROR_SHAPE}, {HEED_F64, 2, HEED_ERROR_DTYPE}};
    for (int i = 0; i < 2; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        y = heed_exp(leaf(ctx, 1));
        heed_tensor gradient = heed_zeros(ctx, wrong[i].dtype, TEST_SHAPE(wrong[i].size));
        heed_backward_with(y, &(heed_backward_options){.gradient = gradient});
        test_error(ctx, wrong[i].status, "backward: ", "wrong gradient");
        heed_step_end(ctx);
    }
    heed_step_begin(ctx, HEED_TRAIN);
    y = heed_exp(leaf(ctx, 1));
    heed_backward_with(y, &(heed_backward_options){.gradient = leaf(other, 1)});
    test_error(ctx, HEED_ERROR_CONTEXT, "backward: ", "gradient of another context");
    heed_step_end(ctx);

    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(total(heed_full(ctx, HEED_F32, TEST_SHAPE(2), 1)));
    test_error(ctx, HEED_ERROR_GRADIENT, "backward: ", "nothing recorded");
    heed_step_end(ctx);

    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor condition = heed_less(leaf(ctx, 1), leaf(ctx, 2));
    heed_backward_with(condition, &(heed_backward_options){.gradient = condition});
    ck_assert_msg(heed_error_status(ctx) == HEED_ERROR_GRADIENT, "%s", heed_error(ctx));
    heed_error_clear(ctx);
    heed_step_end(ctx);

    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward_with(total(leaf(ctx, 1)), &(heed_backward_options){.reserved = {7}});
    test_error(ctx, HEED_ERROR_ARGUMENT, "reserved", "reserved words");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
    heed_ctx_free(other);
}
END_TEST

/* A program may clear errors that are not there: what is recorded stays. */
START_TEST(clearing_no_error_changes_nothing) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = leaf(ctx, 3), loss = total(heed_mul(x, x));
    heed_error_clear(ctx);
    ck_assert_int_eq(heed_backward(loss), HEED_OK);
    heed_error_clear(ctx);
    test_equals(heed_grad(x), 2, (float[]){6, 6}, "x");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(a_failed_step_leaves_no_gradient) {
    heed_ctx *ctx = test_ref();
    heed_tensor x = leaf(ctx, 1);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(total(heed_mul_scalar(x, 3)));
    heed_add(x, heed_zeros(ctx, HEED_F32, TEST_SHAPE(5)));
    heed_step_end(ctx);
    heed_error_clear(ctx);
    ck_assert_msg(!heed_grad(x).node, "half a step's gradient is still there");
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(total(heed_mul_scalar(x, 2)));
    test_equals(heed_grad(x), 2, (float[]){2, 2}, "the next step's");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(shared_and_deep_graphs) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    /* Doubling by adding to itself: 2^12 paths, 12 operations. */
    heed_tensor x = leaf(ctx, 1), y = x;
    for (int i = 0; i < 12; i++) y = heed_add(y, y);
    heed_backward(total(y));
    test_equals(heed_grad(x), 2, (float[]){4096, 4096}, "diamonds");
    /* Long enough to break a recursion. */
    heed_tensor deep = leaf(ctx, 1);
    y = deep;
    for (int i = 0; i < 20000; i++) y = heed_add_scalar(y, 1e-6);
    heed_backward(total(y));
    test_equals(heed_grad(deep), 2, (float[]){1, 1}, "chain");
    test_ok(ctx);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- operations of one's own ---- */

/* out0 = a · b + c (c may be none), out1 = the sum of a: the second gets no gradient in most tests. */
static heed_status fma_forward(const heed_custom_call *call) {
    const float *a = call->input[0].data, *b = call->input[1].data, *c = call->input[2].data;
    float *product = call->output[0].data, *sum = call->output[1].data;
    *sum = 0;
    for (int64_t i = 0; i < call->input[0].size[0]; i++) {
        product[i] = a[i] * b[i] + (c ? c[i] : 0);
        *sum += a[i];
    }
    return call->user ? HEED_ERROR_NUMERIC : HEED_OK;
}

static heed_status fma_backward(const heed_custom_call *call) {
    const float *a = call->input[0].data, *b = call->input[1].data;
    const float *d_product = call->d_output[0].data, *d_sum = call->d_output[1].data;
    float *da = call->d_input[0].data, *db = call->d_input[1].data, *dc = call->d_input[2].data;
    for (int64_t i = 0; i < call->input[0].size[0]; i++) {
        if (da) da[i] = d_product[i] * b[i] + *d_sum;
        if (db) db[i] = d_product[i] * a[i];
        if (dc) dc[i] = d_product[i];
    }
    return HEED_OK;
}

static heed_status custom(heed_ctx *ctx, const heed_tensor *input, bool has_backward, void *user,
                          heed_tensor *out) {
    const heed_raw shapes[2] = {{.dtype = HEED_F32, .rank = 1, .size = {2}}, {.dtype = HEED_F32}};
    heed_custom_options options = {.name = "fma",
                                   .inputs = 3,
                                   .input = input,
                                   .outputs = 2,
                                   .output = shapes,
                                   .forward = fma_forward,
                                   .backward = has_backward ? fma_backward : NULL,
                                   .user = user};
    return heed_custom_op(ctx, &options, out);
}

START_TEST(custom_operations) {
    heed_ctx *ctx = test_cpu();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor wide = heed_from(ctx, HEED_F32, TEST_SHAPE(4), (float[]){1, 9, 2, 9});
    heed_require_grad(wide, true);
    heed_tensor b = leaf(ctx, 3), c = leaf(ctx, 10), out[2];
    heed_tensor a = heed_slice(wide, 0, 0, 4, 2); /* strided: the operation sees it contiguous */
    ck_assert_int_eq(custom(ctx, (heed_tensor[]){a, b, c}, true, NULL, out), HEED_OK);
    test_equals(out[0], 2, (float[]){13, 16}, "product");
    test_equals(out[1], 1, (float[]){3}, "sum");
    heed_backward(total(heed_mul(out[0], out[0])));
    test_equals(heed_grad(wide), 4, (float[]){78, 0, 96, 0}, "gradient of a");
    test_equals(heed_grad(b), 2, (float[]){26, 64}, "gradient of b");
    test_equals(heed_grad(c), 2, (float[]){26, 32}, "gradient of c");
    /* Both outputs, an input that is none, and one that wants nothing. */
    heed_grad_clear(b);
    heed_tensor constant = heed_full(ctx, HEED_F32, TEST_SHAPE(2), 2);
    custom(ctx, (heed_tensor[]){constant, b, none}, true, NULL, out);
    heed_backward(heed_add(total(out[0]), heed_mul_scalar(out[1], 100)));
    test_equals(heed_grad(b), 2, (float[]){2, 2}, "gradient of b alone");
    test_ok(ctx);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(custom_operations_that_fail) {
    heed_ctx *ctx = test_ref();
    heed_tensor out[2];
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor in[3] = {leaf(ctx, 1), leaf(ctx, 2), none};
    ck_assert_int_eq(custom(ctx, in, false, NULL, out), HEED_OK);
    heed_backward(total(out[0]));
    test_error(ctx, HEED_ERROR_GRADIENT, "fma", "no backward");
    heed_step_end(ctx);

    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor again[3] = {leaf(ctx, 1), leaf(ctx, 2), none};
    ck_assert_int_eq(custom(ctx, again, true, ctx, out), HEED_ERROR_NUMERIC);
    ck_assert(!heed_is_valid(out[0]) && !heed_is_valid(out[1]));
    test_error(ctx, HEED_ERROR_NUMERIC, "fma", "a failing forward");
    ck_assert_int_ne(heed_custom_op(ctx, &(heed_custom_options){.name = "empty", .outputs = 1}, out),
                     HEED_OK);
    test_error(ctx, HEED_ERROR_ARGUMENT, "", "no forward");
    ck_assert_int_ne(heed_custom_op(ctx, NULL, out), HEED_OK);
    test_error(ctx, HEED_ERROR_ARGUMENT, "", "no options");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backward");
    TCase *tcase = test_case(suite, "backward");
    tcase_add_test(tcase, gradients_accumulate_and_persist);
    tcase_add_test(tcase, a_graph_is_freed_unless_retained);
    tcase_add_test(tcase, overwritten_values_are_noticed);
    tcase_add_test(tcase, values_outlive_their_scope);
    tcase_add_test(tcase, who_gets_a_gradient);
    tcase_add_test(tcase, what_backward_refuses);
    tcase_add_test(tcase, clearing_no_error_changes_nothing);
    tcase_add_test(tcase, a_failed_step_leaves_no_gradient);
    tcase_add_test(tcase, shared_and_deep_graphs);
    tcase = test_case(suite, "custom operations");
    tcase_add_test(tcase, custom_operations);
    tcase_add_test(tcase, custom_operations_that_fail);
    return test_main(suite);
}
