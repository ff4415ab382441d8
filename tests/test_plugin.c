/* Backends in shared objects: finding them, and every way in which that fails. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static void refused(const char *device, const char *part) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = 1});
    ck_assert_msg(heed_error_status(ctx) == HEED_ERROR_DEVICE, "%s: %s", device, heed_error(ctx));
    ck_assert_msg(strstr(heed_error(ctx), part) != NULL, "%s: \"%s\" does not have \"%s\"", device,
                  heed_error(ctx), part);
    ck_assert_msg(strchr(heed_error(ctx), '\n') == NULL, "\"%s\" is more than a line", heed_error(ctx));
    ck_assert(!heed_is_valid(heed_zeros(ctx, HEED_F32, TEST_SHAPE(2))));
    ck_assert_int_eq(heed_sync(ctx), HEED_ERROR_DEVICE);
    heed_ctx_free(ctx);
}

START_TEST(names) {
    static const char *const wrong[] = {"",
                                        ":",
                                        "Sim",
                                        "sim:",
                                        "sim:x",
                                        "sim:1x",
                                        "sim:-1",
                                        "sim:256",
                                        "../tests/sim",
                                        "si m",
                                        "sim/",
                                        ":1",
                                        "a_name_that_is_longer_than_any_backend_has"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) refused(wrong[i], "is not a name of a device");
    refused("abacus", "libheed_abacus.so");
    refused("abacus:3",
            "ctx_new: no device \"abacus:3\": built in are \"cpu\" and \"ref\"; libheed_abacus.so could "
            "not be opened (");
    refused("abacus", "); see HEED_BACKEND_PATH");
}
END_TEST

START_TEST(files) {
    refused("empty", "is not a backend of heed");
    refused("old", "of another version");
    refused("sim:2", "there are 2 of them, and no number 2");
    setenv("HEED_BACKEND_PATH", "/nonexistent", 1);
    refused("sim", "/nonexistent/libheed_sim.so");
}
END_TEST

/* What a context tells of its device; several at once; and nothing is lost between host and device. */
START_TEST(opens) {
    static const char *const devices[] = {"sim", "sim:0", "sim:1"};
    static const char *const described[] = {"sim:0", "sim:0", "sim:1"};
    heed_ctx *ctx[3];
    char text[4000];
    for (int i = 0; i < 3; i++) {
        ctx[i] = heed_ctx_new(&(heed_ctx_options){.device = devices[i], .poison = true});
        test_ok(ctx[i]);
        heed_explain(ctx[i], text, sizeof text);
        ck_assert_msg(strstr(text, described[i]) != NULL, "%s", text);
    }
    for (int i = 0; i < 3; i++) {
        const bool truth[4] = {true, false, true, true};
        const float numbers[4] = {1, 2, 3, 4};
        bool back[4];
        heed_tensor x = heed_from(ctx[i], HEED_F32, TEST_SHAPE(2, 2), numbers);
        heed_tensor b = heed_from(ctx[i], HEED_BOOL, TEST_SHAPE(4), truth);
        heed_tensor wide = heed_zeros(ctx[i], HEED_F32, TEST_SHAPE(2, 4));
        heed_tensor middle = heed_slice(wide, 1, 1, 3, 1);
        ck_assert_int_eq(heed_write(middle, numbers, sizeof numbers), HEED_OK); /* to every second element */
        test_equals(wide, 8, (float[]){0, 1, 2, 0, 0, 3, 4, 0}, "written with gaps");
        test_equals(heed_transpose(x, 0, 1), 4, (float[]){1, 3, 2, 4}, "read across");
        ck_assert_int_eq(heed_read(b, back, sizeof back), HEED_OK);
        ck_assert_mem_eq(back, truth, sizeof truth);
        ck_assert(heed_item(heed_sum(x, HEED_ALL, false)) == 10);
        ck_assert_int_eq(heed_sync(ctx[i]), HEED_OK);
        test_ok(ctx[i]);
    }
    heed_tensor here = heed_zeros(ctx[0], HEED_F32, TEST_SHAPE(1)),
                there = heed_zeros(ctx[2], HEED_F32, TEST_SHAPE(1));
    heed_add(here, there);
    test_error(ctx[0], HEED_ERROR_CONTEXT, "another context", "two devices");
    for (int i = 0; i < 3; i++) heed_ctx_free(ctx[i]);
}
END_TEST

/* A backend whose kernels would take bf16 for f32 must not see it. */
START_TEST(mixed_precision_must_be_known) {
    setenv("HEED_SIM_WITHOUT_BF16", "1", 1);
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = "sim", .precision = HEED_BF16});
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_UNSUPPORTED);
    ck_assert_str_eq(heed_error(ctx), "ctx_new: device \"sim\" has no mixed precision yet");
    heed_ctx_free(ctx);
    ctx = heed_ctx_new(&(heed_ctx_options){.device = "sim"});
    test_ok(ctx);
    heed_ctx_free(ctx);
    unsetenv("HEED_SIM_WITHOUT_BF16");
    ctx = heed_ctx_new(&(heed_ctx_options){.device = "sim", .precision = HEED_BF16});
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(every_allocation_may_fail) {
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        struct test_allocator state = {.fail_at = n, .for_good = _i == 1};
        heed_ctx *ctx = heed_ctx_new(
            &(heed_ctx_options){.device = "sim", .allocator = test_allocator(&state), .chunk_bytes = 1});
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor x = heed_normal(ctx, HEED_F32, TEST_SHAPE(3, 4), 0, 1);
        heed_require_grad(x, true);
        heed_tensor loss =
            heed_mean(heed_mul(heed_transpose(x, 0, 1), heed_transpose(x, 0, 1)), HEED_ALL, false);
        heed_backward(loss);
        heed_item(loss);
        const heed_status status = heed_step_end(ctx);
        reached = state.calls >= n;
        ck_assert_msg(reached == (status != HEED_OK), "allocation %d: %s", (int)n, heed_error(ctx));
        heed_ctx_free(ctx);
        ck_assert_int_eq(state.living, 0);
    }
    ck_assert_int_gt(n, 10);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("plugin");
    TCase *tcase = test_case(suite, "plugin");
    tcase_add_test(tcase, names);
    tcase_add_test(tcase, files);
    tcase_add_test(tcase, opens);
    tcase_add_test(tcase, mixed_precision_must_be_known);
    tcase_add_loop_test(tcase, every_allocation_may_fail, 0, 2);
    return test_main(suite);
}
