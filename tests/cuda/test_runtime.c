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

static void explains(const heed_ctx *ctx, const char *part) {
    char text[4000];
    heed_explain(ctx, text, sizeof text);
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" is not in\n%s", part, text);
}

/* The device and its libraries in a line, also where one of them is not there. */
START_TEST(described) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(1)});
    explains(
        ctx,
        "cuda:1 emulated 1, 2 multiprocessors of sm_80, 768 of 1024 MiB free, runtime 13.0, driver 13.1, "
        "NVRTC 13.0, cuBLASLt ");
    explains(ctx, ", products in f32, cuDNN 9.");
    setenv("HEED_FAKE_NVRTC_VERSION", "12", 1);
    explains(ctx, ", NVRTC 12.0, ");
    setenv("HEED_NVRTC", "/nonexistent/nvrtc", 1);
    explains(ctx, ", driver 13.1, NVRTC is not there: /nonexistent/nvrtc: cannot open");
    heed_ctx_free(ctx);
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

/* A step of training, on a batch that is written anew. */
static void train(heed_ctx *ctx, heed_module *model, heed_optim *optim) {
    float numbers[8 * 20], gradient[8 * 5];
    for (int i = 0; i < 8 * 20; i++) numbers[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 8 * 5; i++) gradient[i] = (float)(i % 5) - 2;
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = heed_from(ctx, HEED_F32, TEST_SHAPE(8, 20), numbers);
    heed_tensor dy = heed_from(ctx, HEED_F32, TEST_SHAPE(8, 5), gradient);
    heed_backward_with(heed_gelu(heed_forward(model, x)), &(heed_backward_options){.gradient = dy});
    heed_optim_step(optim, 1e-3);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
}

/* A steady step asks the device for no memory, and the host does not wait for it. */
START_TEST(steady_steps) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1); /* nothing is done before somebody waits */
    struct emulated_control *emulated = emulation();
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(0)});
    heed_module *model = heed_dense_new(ctx, &(heed_dense_options){.in = 20, .out = 5});
    heed_optim *optim = heed_adamw_new(model, NULL);
    for (int step = 0; step < 3; step++) train(ctx, model, optim);
    ck_assert_int_eq(heed_sync(ctx), HEED_OK);
    const int64_t allocated = emulated->allocated, waits = emulated->waits, launches = emulated->launches;
    for (int step = 0; step < 3; step++) train(ctx, model, optim);
    ck_assert_int_eq(emulated->allocated, allocated);
    ck_assert_int_eq(emulated->waits, waits);
    ck_assert_int_gt(emulated->launches, launches);
    ck_assert_int_eq(heed_sync(ctx), HEED_OK);
    ck_assert_int_gt(emulated->waits, waits);
    for (int step = 0; step < 2; step++) ck_assert_int_eq(work(ctx), HEED_OK);
    const int64_t before = emulated->allocated;
    for (int step = 0; step < 5; step++) ck_assert_int_eq(work(ctx), HEED_OK);
    ck_assert_int_eq(emulated->allocated, before);
    heed_ctx_free(ctx);
    nothing_lives("steady steps");
}
END_TEST

/* How often attending with lengths makes the host wait. */
static int64_t waits_of(heed_tensor x, const heed_score *score) {
    const int64_t before = emulation()->waits;
    heed_attention(x, x, x, score, NULL, NULL);
    return emulation()->waits - before;
}

static const heed_score *score_of(heed_tensor lengths) {
    heed_ctx *ctx = heed_context(lengths);
    heed_mask *mask = heed_mask_or(heed_mask_key_lengths(lengths), heed_mask_causal(ctx, HEED_TOP_LEFT));
    return heed_score_mask(heed_score_new(ctx), mask);
}

/* The values of a mask are looked at when it is first attended with, and again when they were written to. The
 * host waits for them only where it did not write them itself. */
START_TEST(masks_are_looked_at_once) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1); /* nothing is done before somebody waits */
    emulation();                          /* looks for it, which waits */
    const int32_t lengths[4] = {3, 2, 1, 4}, wrong[4] = {3, 9, 1, 1}, others[2] = {4, 9};
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(0)});
    heed_tensor x = heed_full(ctx, HEED_F32, TEST_SHAPE(2, 1, 4, 8), 0.5);
    heed_tensor shorter = heed_full(ctx, HEED_F32, TEST_SHAPE(2, 1, 2, 8), 1);
    heed_tensor t = heed_from(ctx, HEED_I32, TEST_SHAPE(4), lengths), half = heed_slice(t, 0, 1, 3, 1);
    heed_tensor kept = heed_keep(half), made = heed_contiguous(heed_slice(t, 0, 0, 4, 3));
    const heed_score *score = score_of(half), *of_kept = score_of(kept), *of_made = score_of(made);
    ck_assert_int_eq(waits_of(x, score) + waits_of(x, of_kept), 0);
    ck_assert_int_eq(waits_of(x, of_made), 1);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(waits_of(x, score) + waits_of(x, of_kept) + waits_of(x, of_made), 0);
    ck_assert_int_eq(waits_of(shorter, score), 0);
    ck_assert_int_eq(heed_error_status(ctx), HEED_OK);
    ck_assert_int_eq(heed_write(kept, others, sizeof others), HEED_OK);
    ck_assert_int_eq(waits_of(x, of_kept), 0);
    test_error(ctx, HEED_ERROR_ARGUMENT, "key length 9", "written");
    /* A part that is written to makes all of it the device's. */
    ck_assert_int_eq(heed_write(heed_slice(t, 0, 1, 2, 1), wrong + 1, sizeof *wrong), HEED_OK);
    ck_assert_int_eq(waits_of(x, score), 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "key length 9", "a part written");
    ck_assert_int_eq(heed_write(t, wrong, sizeof wrong), HEED_OK);
    ck_assert_int_eq(waits_of(x, score), 0);
    test_error(ctx, HEED_ERROR_ARGUMENT, "key length 9", "written again");
    ck_assert_int_eq(heed_write(t, lengths, sizeof lengths), HEED_OK);
    ck_assert_int_eq(waits_of(shorter, of_made), 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "key length 3", "keys are fewer");
    heed_free(kept);
    heed_ctx_free(ctx);
    nothing_lives("masks");
}
END_TEST

static heed_tensor from_host(heed_ctx *ctx, int how) {
    const int32_t numbers[3] = {1, 0, 1}; /* enough bytes for each */
    const heed_dtype dtypes[] = {HEED_I32, HEED_BOOL, HEED_F32};
    return how < 3 ? heed_from(ctx, dtypes[how], TEST_SHAPE(3), numbers)
                   : heed_sinusoidal_positions(ctx, 3, 2);
}

/* A tensor whose elements could not be written is none. */
START_TEST(making_of_host_memory_may_fail) {
    struct emulated_control *emulated = emulation();
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(0), .chunk_bytes = 1});
    for (int how = 0; how < 4; how++) {
        int64_t n = 1;
        for (bool reached = true; reached; n++) {
            emulated->calls = 0;
            emulated->fail_at = n;
            const heed_tensor t = from_host(ctx, how);
            reached = emulated->calls >= n;
            emulated->fail_at = 0;
            ck_assert_msg(reached == heed_failed(ctx), "way %d, call %d: %s", how, (int)n, heed_error(ctx));
            ck_assert_msg(reached != heed_is_valid(t), "way %d, call %d: the tensor", how, (int)n);
            heed_error_clear(ctx);
            heed_free(t);
        }
        ck_assert_int_gt(n, 2);
    }
    heed_ctx_free(ctx);
    nothing_lives("making");
}
END_TEST

/* What could not be written is not taken for what is there: the host asks the device. */
START_TEST(writing_may_fail) {
    setenv("HEED_CUDA_SCHEDULE", "1", 1); /* nothing is done before somebody waits */
    struct emulated_control *emulated = emulation();
    const int32_t lengths[2] = {2, 1}, wrong[2] = {9, 1};
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(0)});
    const heed_tensor x = heed_full(ctx, HEED_F32, TEST_SHAPE(2, 1, 4, 8), 0.5);
    const heed_tensor t = heed_from(ctx, HEED_I32, TEST_SHAPE(2), lengths);
    const heed_score *score = score_of(t);
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        ck_assert_int_eq(heed_write(t, lengths, sizeof lengths), HEED_OK);
        ck_assert_int_eq(waits_of(x, score), 0);
        test_ok(ctx);
        emulated->calls = 0;
        emulated->fail_at = n;
        heed_write(t, wrong, sizeof wrong);
        reached = emulated->calls >= n;
        emulated->fail_at = 0;
        ck_assert_msg(reached == heed_failed(ctx), "call %d: %s", (int)n, heed_error(ctx));
        heed_error_clear(ctx);
        ck_assert_int_eq(waits_of(x, score), reached);
        const bool refused = heed_failed(ctx);
        heed_error_clear(ctx);
        int32_t there[2];
        ck_assert_int_eq(heed_read(t, there, sizeof there), HEED_OK);
        ck_assert_msg(refused == (there[0] == 9), "call %d: %d is there", (int)n, (int)there[0]);
    }
    ck_assert_int_gt(n, 2);
    heed_ctx_free(ctx);
    nothing_lives("writing");
}
END_TEST

/* More than the ring of pinned memory holds goes there and back, on a device with pools and on one without;
 * small pieces in between come in their turn. */
START_TEST(large_copies) {
    enum { COUNT = 1400003, PIECES = 100 };
    float *numbers = malloc(COUNT * sizeof *numbers), *back = malloc(COUNT * sizeof *back);
    ck_assert(numbers && back);
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device(_i)});
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < COUNT; i++) numbers[i] = (float)((i + turn) % 100003);
        heed_tensor x = heed_from(ctx, HEED_F32, TEST_SHAPE(COUNT), numbers);
        memset(numbers, 0, COUNT * sizeof *numbers);              /* it may change at once */
        heed_tensor last = heed_slice(x, 0, COUNT - 2, COUNT, 1); /* a kernel reads it before the host does */
        test_equals(
            heed_add(last, last), 2,
            (float[]){(float)(2 * ((COUNT - 2 + turn) % 100003)), (float)(2 * ((COUNT - 1 + turn) % 100003))},
            "last");
        heed_tensor sum = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1));
        for (int i = 0; i < PIECES; i++) {
            float one = (float)i;
            sum = heed_add(sum, heed_from(ctx, HEED_F32, TEST_SHAPE(1), &one));
            one = 1e6F;
        }
        ck_assert_int_eq(heed_read(x, back, COUNT * sizeof *back), HEED_OK);
        for (int i = 0; i < COUNT; i++)
            if (back[i] != (float)((i + turn) % 100003)) ck_abort_msg("number %d is %g", i, (double)back[i]);
        test_equals(sum, 1, (float[]){PIECES * (PIECES - 1) * 0.5F}, "sum");
    }
    heed_ctx_free(ctx);
    nothing_lives("large copies");
    free(numbers);
    free(back);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_runtime");
    TCase *tcase = test_case(suite, "runtime");
    tcase_add_test(tcase, devices);
    tcase_add_test(tcase, described);
    tcase_add_test(tcase, every_call_may_fail);
    tcase_add_test(tcase, steady_steps);
    tcase_add_test(tcase, masks_are_looked_at_once);
    tcase_add_test(tcase, making_of_host_memory_may_fail);
    tcase_add_test(tcase, writing_may_fail);
    tcase_add_loop_test(tcase, large_copies, 0, 2);
    return test_main(suite);
}
