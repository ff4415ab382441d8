/* The CUDA backend's device on the emulated runtime: opening it, what it says when that fails, and every call
 * of the runtime failing once. */
#include <string.h>

#include "emulation.h"

static const char *device(int number) {
    static char names[3][32];
    snprintf(names[number], sizeof names[number], "%s:%d", emulation_device(), number);
    return names[number];
}

static void nothing_lives(const char *when) {
    const struct emulated_control *emulated = emulation();
    ck_assert_msg(emulated->streams == 0, "%s: %d streams live", when, (int)emulated->streams);
    ck_assert_msg(emulated->allocations == 0, "%s: %d allocations live", when, (int)emulated->allocations);
}

START_TEST(devices) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(2)});
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_DEVICE);
    ck_assert_msg(strstr(heed_error(ctx), "there are 2 CUDA devices, and no number 2") != NULL, "%s",
                  heed_error(ctx));
    heed_ctx_free(ctx);
    heed_ctx *both[2] = {heed_ctx_new(&(heed_ctx_options){.device = device(0)}),
                         heed_ctx_new(&(heed_ctx_options){.device = device(1)})};
    char text[4000];
    for (int i = 0; i < 2; i++) {
        const char *const names[] = {"cuda:0 emulated 0, 2 multiprocessors", "cuda:1 emulated 1"};
        heed_explain(both[i], text, sizeof text);
        ck_assert_msg(strstr(text, names[i]) != NULL, "%s", text);
        test_equals(heed_arange(both[i], HEED_F32, 3), 3, (float[]){0, 1, 2}, "arange");
    }
    /* They take turns in one thread. */
    heed_tensor x[2];
    for (int i = 0; i < 2; i++) x[i] = heed_full(both[i], HEED_F32, TEST_SHAPE(3), i + 1);
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < 2; i++) x[i] = heed_add(x[i], x[i]);
    for (int i = 0; i < 2; i++) test_equals(x[i], 3, (float[]){4 * i + 4, 4 * i + 4, 4 * i + 4}, "turns");
    for (int i = 0; i < 2; i++) heed_ctx_free(both[i]);
    nothing_lives("both ended");
}
END_TEST

/* Fills, copies both ways, and waits. */
static heed_status work(heed_ctx *ctx) {
    const float numbers[6] = {1, 2, 3, 4, 5, 6};
    float back[6];
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = heed_from(ctx, HEED_F32, TEST_SHAPE(2, 3), numbers);
    heed_tensor zeros = heed_zeros(ctx, HEED_F32, TEST_SHAPE(3, 2));
    heed_write(zeros, numbers, sizeof numbers);
    heed_arange(ctx, HEED_I32, 5);
    heed_full(ctx, HEED_F64, TEST_SHAPE(300), 0.5);
    heed_read(x, back, sizeof back);
    return heed_step_end(ctx);
}

START_TEST(every_call_may_fail) {
    struct emulated_control *emulated = emulation();
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        emulated->calls = 0;
        emulated->fail_at = n;
        heed_ctx *ctx =
            heed_ctx_new(&(heed_ctx_options){.device = device(0), .chunk_bytes = 1, .poison = true});
        const heed_status status = work(ctx);
        reached = emulated->calls >= n;
        ck_assert_msg(reached == (status != HEED_OK), "call %d: %s", (int)n, heed_error(ctx));
        ck_assert_msg(strchr(heed_error(ctx), '\n') == NULL, "\"%s\" is more than a line", heed_error(ctx));
        heed_ctx_free(ctx);
        emulated->fail_at = 0;
        nothing_lives("after a failure");
    }
    ck_assert_int_gt(n, 15);
}
END_TEST

/* A steady step asks the device for no memory. */
START_TEST(steady_steps_allocate_nothing) {
    struct emulated_control *emulated = emulation();
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(0)});
    for (int step = 0; step < 2; step++) ck_assert_int_eq(work(ctx), HEED_OK);
    const int64_t before = emulation()->allocations;
    for (int step = 0; step < 5; step++) ck_assert_int_eq(work(ctx), HEED_OK);
    ck_assert_int_eq(emulation()->allocations, before);
    ck_assert_int_gt(emulated->launches, 0);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_runtime");
    TCase *tcase = test_case(suite, "runtime");
    tcase_add_test(tcase, devices);
    tcase_add_test(tcase, every_call_may_fail);
    tcase_add_test(tcase, steady_steps_allocate_nothing);
    return test_main(suite);
}
