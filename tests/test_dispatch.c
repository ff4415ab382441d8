/* Dispatch: devices and instruction sets, which kernel is chosen and why, strictness, scratch, errors from
 * kernels. */
#include "harness.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "tensor/internal.h"

/* ---- opening ---- */

static heed_ctx *open_device(const char *device, const char *isa) {
    if (isa) {
        setenv("HEED_ISA", isa, 1);
    } else {
        unsetenv("HEED_ISA");
    }
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .threads = 1});
    unsetenv("HEED_ISA");
    return ctx;
}

static void refused(heed_ctx *ctx, const char *part) {
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_DEVICE);
    ck_assert_msg(strstr(heed_error(ctx), part) != NULL, "%s", heed_error(ctx));
    heed_ctx_free(ctx);
}

START_TEST(every_slot_ends_in_ref) {
    static const char *const devices[] = {"ref", "cpu"};
    for (int d = 0; d < 2; d++) {
        heed_ctx *ctx = open_device(devices[d], NULL);
        test_ok(ctx);
        ck_assert_str_eq(ctx->exec.device, devices[d]);
        for (int p = 0; p < HEED_PRIMITIVES; p++) {
            const struct heed_kernel *const *slot = ctx->exec.kernel[p];
            int last = 0;
            while (slot[last + 1]) last++;
            ck_assert_ptr_eq(slot[last], heed_ref_kernels[p]);
            ck_assert(d == 1 || last == 0);
            for (int i = 0; i < last; i++) ck_assert_str_ne(slot[i]->name, slot[i + 1]->name);
        }
        heed_ctx_free(ctx);
    }
}
END_TEST

START_TEST(unknown_devices_and_sets_are_refused) {
    refused(open_device("tpu", NULL), "no device \"tpu\": built in are \"cpu\" and \"ref\"");
    refused(open_device("cpu", "sse9"), "HEED_ISA=sse9 is not one of baseline, avx2, avx512");
    heed_ctx *ctx = open_device("cpu", "");
    test_ok(ctx);
    ck_assert_int_eq(ctx->exec.isa, heed_cpu_isa_detect());
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(instruction_sets_are_chosen_or_refused) {
    static const char *const names[HEED_ISAS] = {"baseline", "avx2", "avx512"};
    for (int isa = 0; isa < HEED_ISAS; isa++) {
        heed_ctx *ctx = open_device("cpu", names[isa]);
        if (isa > (int)heed_cpu_isa_detect()) {
            refused(ctx, "but this machine allows at most");
            continue;
        }
        test_ok(ctx);
        ck_assert_int_eq(ctx->exec.isa, isa);
        heed_ctx_free(ctx);
    }
}
END_TEST

START_TEST(description_is_as_snprintf) {
    char text[200], cut[10];
    heed_ctx *ctx = test_ref();
    size_t bytes = heed_exec_describe(&ctx->exec, text, sizeof text);
    ck_assert_uint_eq(bytes, strlen(text));
    ck_assert(strstr(text, "device ref") && strstr(text, "threads 1"));
    ck_assert_uint_eq(heed_exec_describe(&ctx->exec, cut, sizeof cut), bytes);
    ck_assert_str_eq(cut, "device re");
    ck_assert_uint_eq(heed_exec_describe(&ctx->exec, NULL, 0), bytes);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- choosing: two made-up kernels of `fill` before ref ---- */

static bool never(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec, (void)args;
    why->reason = "it is never right";
    return false;
}

static bool for_sevens(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec, (void)why;
    return ((const struct heed_fill_args *)args)->value == 7;
}

static heed_status fill_scratch(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)exec, (void)args, (void)saved;
    memset(scratch, 1, 5000);
    return HEED_OK;
}

static void sizes_5000(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    (void)exec, (void)args;
    sizes->forward_scratch = 5000;
}

static const struct heed_kernel kernel_never = {"never", never, NULL, fill_scratch, NULL};
static const struct heed_kernel kernel_sevens = {"sevens", for_sevens, sizes_5000, fill_scratch, NULL};

static void put_kernels(struct heed_exec *exec) {
    const struct heed_kernel **slot = exec->kernel[HEED_PRIMITIVE_FILL];
    slot[0] = &kernel_never;
    slot[1] = &kernel_sevens;
    slot[2] = heed_ref_kernels[HEED_PRIMITIVE_FILL];
    slot[3] = NULL;
}

static double element;

static struct heed_fill_args fill_with(double value) {
    return (struct heed_fill_args){.y = {&element, HEED_F64, 0, {0}, {0}}, .value = value};
}

START_TEST(first_that_applies_runs) {
    heed_ctx *ctx = test_ref();
    struct heed_exec *exec = &ctx->exec;
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_FILL];
    put_kernels(exec);
    struct heed_fill_args seven = fill_with(7), eight = fill_with(8);
    ck_assert_ptr_eq(heed_exec_select(exec, HEED_PRIMITIVE_FILL, &seven), &kernel_sevens);
    ck_assert_str_eq(last->why_not[0], "it is never right");
    ck_assert_ptr_null(last->why_not[1]);
    ck_assert_uint_eq(exec->fallbacks, 0);
    strcpy(last->note, "said by sevens");
    ck_assert_int_eq(heed_exec_run(exec, HEED_PRIMITIVE_FILL, &eight), HEED_OK);
    ck_assert_double_eq(element, 8);
    ck_assert_ptr_eq(last->kernel, heed_ref_kernels[HEED_PRIMITIVE_FILL]);
    ck_assert_str_eq(last->why_not[1], "it does not apply");
    ck_assert_str_eq(last->note, "");
    ck_assert_uint_eq(last->runs, 2);
    ck_assert_uint_eq(exec->fallbacks, 1);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(strict_refuses_ref) {
    heed_ctx *ctx = test_ref();
    put_kernels(&ctx->exec);
    ctx->exec.strict = true;
    struct heed_fill_args seven = fill_with(7), eight = fill_with(8);
    struct heed_copy_args copy = {.x = seven.y, .y = {seven.y, false}};
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_FILL, &seven), HEED_OK);
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_COPY, &copy),
                     HEED_OK); /* has no other kernel */
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_FILL, &eight), HEED_ERROR_UNSUPPORTED);
    test_error(ctx, HEED_ERROR_UNSUPPORTED, "strict: no ref kernel for fill: it is never right",
               "falling back");
    ck_assert_uint_eq(ctx->exec.fallbacks, 0);
    heed_ctx_free(ctx);
    ctx = heed_ctx_new(&(heed_ctx_options){.strict = true});
    heed_normal(ctx, HEED_F64, TEST_SHAPE(2), 0, 1);
    test_error(ctx, HEED_ERROR_UNSUPPORTED, "normal: strict: no cpu kernel for random: ", "an operation");
    heed_ctx_free(ctx);
}
END_TEST

/* ---- running ---- */

START_TEST(scratch_is_given_back_or_missed) {
    struct test_allocator state = {.calls = 0};
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){
        .device = "ref", .threads = 1, .allocator = test_allocator(&state), .chunk_bytes = 1});
    test_ok(ctx);
    put_kernels(&ctx->exec);
    struct heed_fill_args seven = fill_with(7);
    size_t before = heed_memory(ctx).in_use;
    state.fail_at = state.calls + 1;
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_FILL, &seven), HEED_ERROR_MEMORY);
    test_error(ctx, HEED_ERROR_MEMORY, "fill: no memory for 5000 bytes of scratch", "no memory");
    state.fail_at = 0;
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_FILL, &seven), HEED_OK);
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
    ck_assert_uint_ge(heed_memory(ctx).peak, before + 5000);
    heed_ctx_free(ctx);
    ck_assert_int_eq(state.living, 0);
}
END_TEST

START_TEST(no_backward_is_an_error) {
    heed_ctx *ctx = test_ref();
    struct heed_fill_args args = fill_with(1);
    const struct heed_kernel *kernel = heed_exec_select(&ctx->exec, HEED_PRIMITIVE_FILL, &args);
    ck_assert_int_eq(heed_exec_backward(&ctx->exec, kernel, &args, NULL), HEED_ERROR_GRADIENT);
    test_error(ctx, HEED_ERROR_GRADIENT, "fill: it has no gradient", "backward of fill");
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(kernels_report_with_the_word) {
    heed_ctx *ctx = test_ref();
    ck_assert_int_eq(heed_exec_fail(&ctx->exec, HEED_ERROR_SHAPE, HEED_PRIMITIVE_NORM, "%d of %s", 3, "them"),
                     HEED_ERROR_SHAPE);
    test_error(ctx, HEED_ERROR_SHAPE, "norm: 3 of them", "a kernel's error");
    ck_assert_str_eq(heed_primitive_word(HEED_PRIMITIVE_MHA), "multi_head_attention");
    ck_assert_str_eq(heed_primitive_word(HEED_PRIMITIVES), "?");
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("dispatch");
    TCase *tc = test_case(suite, "opening");
    tcase_add_test(tc, every_slot_ends_in_ref);
    tcase_add_test(tc, unknown_devices_and_sets_are_refused);
    tcase_add_test(tc, instruction_sets_are_chosen_or_refused);
    tcase_add_test(tc, description_is_as_snprintf);
    tc = test_case(suite, "choosing");
    tcase_add_test(tc, first_that_applies_runs);
    tcase_add_test(tc, strict_refuses_ref);
    tc = test_case(suite, "running");
    tcase_add_test(tc, scratch_is_given_back_or_missed);
    tcase_add_test(tc, no_backward_is_an_error);
    tcase_add_test(tc, kernels_report_with_the_word);
    return test_main(suite);
}
