/* Errors flow: the first is kept, results are inert, nothing is read through a handle that died. */
#include "harness.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const heed_tensor none;

static heed_tensor vector(heed_ctx *ctx, int64_t n) {
    return heed_full(ctx, HEED_F32, TEST_SHAPE(n), 2);
}

START_TEST(first_error_is_kept) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor a = vector(ctx, 3), b = vector(ctx, 4);
    heed_tensor bad = heed_add(a, b);
    ck_assert(!heed_is_valid(bad));
    ck_assert(heed_failed(ctx));
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_SHAPE);
    char first[512];
    snprintf(first, sizeof first, "%s", heed_error(ctx));
    ck_assert_msg(strncmp(first, "add: ", 5) == 0, "%s", first);
    ck_assert_msg(strstr(first, "[3]") && strstr(first, "[4]"), "the sizes are not named: %s", first);

    heed_softmax(a, 5);
    heed_tensor later = heed_exp(a);
    ck_assert_msg(!heed_is_valid(later), "an operation went on after an error");
    ck_assert(!heed_is_valid(heed_exp(bad)));
    ck_assert_int_ne(heed_backward(bad), HEED_OK);
    ck_assert_str_eq(heed_error(ctx), first);
    ck_assert_int_eq(heed_step_end(ctx), HEED_ERROR_SHAPE);
    ck_assert_msg(heed_failed(ctx), "the end of the step forgot the error");

    heed_error_clear(ctx);
    test_ok(ctx);
    ck_assert_str_eq(heed_error(ctx), "");
    ck_assert_int_eq(heed_step_begin(ctx, HEED_TRAIN), HEED_OK);
    ck_assert(heed_is_valid(heed_exp(vector(ctx, 3))));
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(inert_tensors_answer) {
    heed_ctx *ctx = test_ref();
    heed_tensor bad = heed_add(vector(ctx, 3), vector(ctx, 4));
    ck_assert_int_eq(heed_rank(bad), -1);
    ck_assert_int_eq(heed_size(bad, 0), -1);
    ck_assert_int_eq(heed_count(bad), -1);
    ck_assert(heed_context(bad) == ctx);
    ck_assert(isnan(heed_item(bad)));
    float value;
    ck_assert_int_ne(heed_read(bad, &value, sizeof value), HEED_OK);
    ck_assert(!heed_requires_grad(bad));
    ck_assert(!heed_is_valid(heed_keep(bad)));
    heed_free(bad);
    ck_assert(heed_context(bad) == ctx);
    heed_error_clear(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* The error does not reach back: what was made before it can be read still. */
START_TEST(values_made_before_are_there) {
    heed_ctx *ctx = test_ref();
    heed_tensor a = vector(ctx, 2);
    heed_add(a, vector(ctx, 5));
    ck_assert(heed_is_valid(a));
    heed_error_clear(ctx);
    test_equals(a, 2, (float[]){2, 2}, "a");
    heed_ctx_free(ctx);
}
END_TEST

static void expect_stale(heed_ctx *ctx, heed_tensor t, const char *what) {
    ck_assert_msg(!heed_is_valid(t), "%s: the handle is still valid", what);
    heed_tensor other = vector(ctx, 2);
    ck_assert(!heed_is_valid(heed_add(other, t)));
    test_error(ctx, HEED_ERROR_STALE, "add: ", what);
    float value[2];
    ck_assert_int_ne(heed_read(t, value, sizeof value), HEED_OK);
    heed_error_clear(ctx);
    heed_free(t);
    test_ok(ctx);
    heed_free(other);
}

START_TEST(stale_handles_are_recognised) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor of_step = vector(ctx, 2);
    heed_scope_begin(ctx);
    heed_tensor of_scope = vector(ctx, 2);
    heed_tensor freed = vector(ctx, 2);
    heed_free(freed);
    ck_assert(!heed_is_valid(freed));
    heed_scope_end(ctx, none);
    ck_assert(!heed_is_valid(of_scope));
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);

    /* The records are in use again, by others. */
    heed_tensor more[40];
    for (int i = 0; i < 40; i++) more[i] = vector(ctx, 2);
    expect_stale(ctx, of_step, "after its step");
    expect_stale(ctx, of_scope, "after its scope");
    expect_stale(ctx, freed, "after heed_free()");
    for (int i = 0; i < 40; i++) ck_assert(heed_is_valid(more[i]));
    for (int i = 0; i < 40; i++) heed_free(more[i]);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(kept_tensors_live_until_freed) {
    heed_ctx *ctx = test_ref();
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor kept = heed_keep(heed_mul_scalar(vector(ctx, 2), 3));
    heed_step_end(ctx);
    test_equals(kept, 2, (float[]){6, 6}, "kept");
    heed_free(kept);
    expect_stale(ctx, kept, "kept and freed");
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(other_contexts_are_refused) {
    heed_ctx *one = test_ref(), *two = test_ref();
    heed_tensor a = vector(one, 2), b = vector(two, 2);
    ck_assert(!heed_is_valid(heed_mul(a, b)));
    test_error(one, HEED_ERROR_CONTEXT, "mul: ", "operands of two contexts");
    test_ok(two);
    heed_scope_begin(one);
    heed_scope_end(one, b);
    test_error(one, HEED_ERROR_CONTEXT, "scope_end: ", "result of another context");
    ck_assert_msg(heed_is_valid(b), "the other context's tensor suffered");
    heed_ctx_free(one);
    heed_ctx_free(two);
}
END_TEST

/* An error names the operation, also when memory ends and when one operation is made of others. */
START_TEST(the_operation_is_named) {
    heed_ctx *ctx = test_cpu();
    heed_tensor one = vector(ctx, 1);
    heed_exp(heed_broadcast(one, TEST_SHAPE(INT64_C(1) << 50)));
    test_error(ctx, HEED_ERROR_MEMORY, "exp: out of memory", "memory");
    heed_zeros(ctx, HEED_F32, -1, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "zeros: ", "zeros");
    heed_full(ctx, HEED_F32, TEST_SHAPE(INT64_C(1) << 50), 1);
    test_error(ctx, HEED_ERROR_MEMORY, "full: ", "full");
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(none_arguments) {
    ck_assert(!heed_is_valid(none));
    heed_tensor result = heed_add(none, none);
    ck_assert(!heed_is_valid(result));
    ck_assert(heed_failed(heed_context(result)));
    ck_assert(heed_context(none) != NULL);
    ck_assert_str_ne(heed_error(heed_context(none)), "");
    ck_assert(!heed_is_valid(heed_softmax(none, 0)));
    ck_assert(!heed_is_valid(heed_cat(0, NULL, 0)));
    ck_assert(!heed_is_valid(heed_attention(none, none, none, NULL, NULL, NULL)));
    ck_assert(!heed_is_valid(heed_cross_entropy(none, none, NULL)));
    ck_assert(!heed_is_valid(heed_grad(none)));
    ck_assert_int_ne(heed_backward(none), HEED_OK);
    ck_assert_int_ne(heed_require_grad(none, true), HEED_OK);
    ck_assert(isnan(heed_item(none)));
    ck_assert_int_eq(heed_rank(none), -1);
    heed_grad_clear(none);
    heed_free(none);
    ck_assert(!heed_is_valid(heed_keep(none)));
    ck_assert(!heed_is_valid(heed_mask_dense(none) ? none : none));
    /* A context's own error is not hidden by a none. */
    heed_ctx *ctx = test_ref();
    heed_add(vector(ctx, 1), none);
    test_error(ctx, HEED_ERROR_ARGUMENT, "add: ", "one none");
    /* What was made of none finds the context of the first tensor that has one. */
    heed_add(result, vector(ctx, 1));
    test_error(ctx, HEED_ERROR_ARGUMENT, "add: argument 1 was made of no tensor", "made of none");
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 2, 4));
    ck_assert(heed_context(heed_attention(result, q, q, NULL, NULL, NULL)) == ctx);
    test_error(ctx, HEED_ERROR_ARGUMENT, "attention: argument 1 was made of no tensor", "attention of none");
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(no_context) {
    ck_assert(heed_failed(NULL));
    ck_assert_str_ne(heed_error(NULL), "");
    heed_ctx_free(NULL);
    heed_error_clear(NULL);
    ck_assert_int_ne(heed_step_begin(NULL, HEED_TRAIN), HEED_OK);
    ck_assert_int_ne(heed_step_end(NULL), HEED_OK);
    ck_assert(!heed_is_valid(heed_zeros(NULL, HEED_F32, TEST_SHAPE(2))));
    ck_assert(!heed_is_valid(heed_scope_end(NULL, none)));
    heed_module *module = heed_dense_new(NULL, &(heed_dense_options){.in = 2, .out = 2});
    ck_assert(module != NULL);
    ck_assert(!heed_is_valid(heed_forward(module, none)));
    heed_module_free(module);
    heed_module_free(NULL);
    heed_optim_free(NULL);
    char text[64];
    ck_assert(heed_explain(NULL, text, sizeof text) > 0);
}
END_TEST

static void refuse(heed_ctx_options options, heed_status status, const char *part) {
    heed_ctx *ctx = heed_ctx_new(&options);
    ck_assert_msg(heed_error_status(ctx) == status, "%s: %s", part, heed_error(ctx));
    ck_assert_msg(strstr(heed_error(ctx), part) != NULL, "\"%s\" does not have \"%s\"", heed_error(ctx),
                  part);
    ck_assert(!heed_is_valid(vector(ctx, 3)));
    heed_error_clear(ctx);
    ck_assert_msg(heed_failed(ctx), "a context that could not be made has lost its error");
    ck_assert_int_ne(heed_step_begin(ctx, HEED_EVAL), HEED_OK);
    heed_ctx_free(ctx);
}

static void nothing(heed_ctx *ctx) {
    (void)ctx;
}

START_TEST(contexts_that_cannot_be_made) {
    refuse((heed_ctx_options){.device = "abacus"}, HEED_ERROR_DEVICE, "ctx_new: no device \"abacus\"");
    refuse((heed_ctx_options){.threads = 257}, HEED_ERROR_ARGUMENT, "257");
    refuse((heed_ctx_options){.threads = -1}, HEED_ERROR_ARGUMENT, "-1");
    refuse((heed_ctx_options){.reserved = {0, 0, 5}}, HEED_ERROR_ARGUMENT, "reserved");
    setenv("HEED_ISA", "abacus", 1);
    if (!test_elsewhere()) refuse((heed_ctx_options){.device = "cpu"}, HEED_ERROR_DEVICE, "abacus");
    unsetenv("HEED_ISA");
    /* Without any memory, and with a little. */
    ck_assert_int_gt(test_failing_allocations("cpu", 1, true, nothing), 2);
}
END_TEST

START_TEST(errors_of_the_callers_own) {
    heed_ctx *ctx = test_ref();
    ck_assert_int_eq(heed_error_set(ctx, HEED_ERROR_IO, "my_loader", "no such file"), HEED_ERROR_IO);
    ck_assert_str_eq(heed_error(ctx), "my_loader: no such file");
    heed_error_set(ctx, HEED_ERROR_SHAPE, "later", "not kept");
    ck_assert_str_eq(heed_error(ctx), "my_loader: no such file");
    heed_error_clear(ctx);
    ck_assert_int_eq(heed_error_set(ctx, HEED_OK, "x", "y"), HEED_OK);
    test_ok(ctx);
    heed_error_set(ctx, HEED_ERROR_IO, NULL, NULL);
    ck_assert_str_ne(heed_error(ctx), "");
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(words) {
#define CHECK_WORDS(name, words) ck_assert_str_eq(heed_status_text(name), words);
    HEED_STATUS_LIST(CHECK_WORDS)
#undef CHECK_WORDS
    ck_assert(heed_status_text((heed_status)999) != NULL);
    ck_assert_str_eq(heed_dtype_name(HEED_F32), "f32");
    ck_assert_str_eq(heed_dtype_name((heed_dtype)99), "?");
    ck_assert_uint_eq(heed_dtype_bytes(HEED_F64), 8);
    ck_assert_uint_eq(heed_dtype_bytes((heed_dtype)99), 0);
}
END_TEST

/* ---- two threads ---- */

struct meeting {
    heed_ctx *ctx;
    pthread_barrier_t inside, done;
    bool refused;
};

static void *intrude(void *arg) {
    struct meeting *meeting = arg;
    pthread_barrier_wait(&meeting->inside);
    meeting->refused = heed_step_begin(meeting->ctx, HEED_EVAL) == HEED_ERROR_THREAD;
    pthread_barrier_wait(&meeting->done);
    return NULL;
}

static heed_status wait_inside(const heed_custom_call *call) {
    struct meeting *meeting = call->user;
    pthread_barrier_wait(&meeting->inside);
    pthread_barrier_wait(&meeting->done);
    ((float *)call->output[0].data)[0] = 1;
    return HEED_OK;
}

START_TEST(two_threads_at_once) {
    struct meeting meeting = {.ctx = test_ref()};
    pthread_barrier_init(&meeting.inside, NULL, 2);
    pthread_barrier_init(&meeting.done, NULL, 2);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, intrude, &meeting), 0);
    heed_step_begin(meeting.ctx, HEED_EVAL);
    heed_raw shape = {.dtype = HEED_F32, .rank = 1, .size = {1}};
    heed_tensor result;
    heed_custom_op(
        meeting.ctx,
        &(heed_custom_options){
            .name = "wait", .outputs = 1, .output = &shape, .forward = wait_inside, .user = &meeting},
        &result);
    pthread_join(thread, NULL);
    ck_assert_msg(meeting.refused, "a second thread was let in");
    ck_assert_int_eq(heed_step_end(meeting.ctx), HEED_ERROR_THREAD);
    test_error(meeting.ctx, HEED_ERROR_THREAD, "thread", "two threads");
    pthread_barrier_destroy(&meeting.inside);
    pthread_barrier_destroy(&meeting.done);
    heed_ctx_free(meeting.ctx);
}
END_TEST

static void *use_alone(void *arg) {
    heed_ctx *ctx = arg;
    heed_step_begin(ctx, HEED_EVAL);
    heed_exp(vector(ctx, 1000));
    return heed_step_end(ctx) == HEED_OK ? ctx : NULL;
}

START_TEST(two_threads_in_turn) {
    heed_ctx *ctx = test_cpu();
    use_alone(ctx);
    pthread_t thread;
    void *ok;
    ck_assert_int_eq(pthread_create(&thread, NULL, use_alone, ctx), 0);
    pthread_join(thread, &ok);
    ck_assert(ok != NULL);
    ck_assert(use_alone(ctx) != NULL);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(a_context_for_each_thread) {
    pthread_t thread[4];
    heed_ctx *ctx[4];
    for (int i = 0; i < 4; i++) {
        ctx[i] = test_ctx(&(struct test_device){"cpu", NULL, 2});
        ck_assert_int_eq(pthread_create(&thread[i], NULL, use_alone, ctx[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *ok;
        pthread_join(thread[i], &ok);
        ck_assert(ok != NULL);
        heed_ctx_free(ctx[i]);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("errors");
    TCase *tcase = test_case(suite, "errors");
    tcase_add_test(tcase, first_error_is_kept);
    tcase_add_test(tcase, inert_tensors_answer);
    tcase_add_test(tcase, values_made_before_are_there);
    tcase_add_test(tcase, stale_handles_are_recognised);
    tcase_add_test(tcase, kept_tensors_live_until_freed);
    tcase_add_test(tcase, other_contexts_are_refused);
    tcase_add_test(tcase, the_operation_is_named);
    tcase_add_test(tcase, none_arguments);
    tcase_add_test(tcase, no_context);
    tcase_add_test(tcase, contexts_that_cannot_be_made);
    tcase_add_test(tcase, errors_of_the_callers_own);
    tcase_add_test(tcase, words);
    tcase = test_case(suite, "threads");
    tcase_add_test(tcase, two_threads_at_once);
    tcase_add_test(tcase, two_threads_in_turn);
    tcase_add_test(tcase, a_context_for_each_thread);
    return test_main(suite);
}
