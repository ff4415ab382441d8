/* Every allocation of the kit fails once. The linker hands the libraries' calls to the functions here
 * (--wrap). */
#include "harness.h"

#include <errno.h>
#include <heed/kit.h>
#include <stdlib.h>
#include <string.h>

#include "harness_files.h"

/* ---- calls that fail on command ---- */

static bool armed;      /* calls are counted */
static int64_t calls;   /* so far */
static int64_t fail_at; /* the one that fails */

static bool fails(void) {
    if (!armed || ++calls != fail_at) return false;
    errno = ENOMEM;
    return true;
}

#define WRAP(name, parameters, arguments)                                                                    \
    void *__real_##name parameters;                                                                          \
    void *__wrap_##name parameters;                                                                          \
    void *__wrap_##name parameters {                                                                         \
        return fails() ? NULL : __real_##name arguments;                                                     \
    }

WRAP(malloc, (size_t bytes), (bytes))
WRAP(calloc, (size_t count, size_t bytes), (count, bytes))
WRAP(realloc, (void *old, size_t bytes), (old, bytes))

/* ---- what is done while they fail ---- */

static char directory[TEST_PATH_BYTES], csv[TEST_PATH_BYTES], png[TEST_PATH_BYTES], words[TEST_PATH_BYTES];

/* Uses everything that allocates; what fails leaves its error in the context. */
static heed_status use_all(heed_ctx *ctx, heed_tensor weights) {
    heed_tensor x, y;
    int64_t count, known;
    heed_text *text = heed_text_open(ctx, words, &(heed_text_options){.batch = 2, .length = 3});
    heed_text_batch(text, 0, &x, &y);
    heed_text_tokens(ctx, "abc", 3);
    heed_text_known_words(text, "abc abd ", 8, &count, &known);
    heed_text_free(text);
    text =
        heed_text_from(ctx, "0123456789", 10, &(heed_text_options){.batch = 1, .length = 1, .held_out = 0.5});
    heed_text_free(text);
    heed_history *history = heed_history_new(ctx, 1, (const char *[]){"loss"});
    for (int64_t step = 1; step <= 300; step++)
        heed_history_add(history, step, (double[]){1.0 / (double)step});
    heed_history_save(history, csv);
    heed_history_plot(history, png, NULL);
    heed_history_free(history);
    history = heed_history_new(ctx, 1, (const char *[]){"loss"});
    heed_history_load(history, csv, INT64_MAX);
    heed_history_free(history);
    heed_plot_attention(weights, png, NULL);
    return heed_error_status(ctx);
}

START_TEST(every_allocation_may_fail) {
    test_directory_make(directory);
    test_path(directory, "csv", csv);
    test_path(directory, "png", png);
    test_path(directory, "words", words);
    /* As many words as make the set of them grow. */
    char *text = malloc(20000);
    size_t size = 0;
    for (int i = 0; i < 3000; i++)
        size += (size_t)sprintf(text + size, "%c%c%c ", 'a' + i / 676, 'a' + i / 26 % 26, 'a' + i % 26);
    test_file_write(words, text, size);
    free(text);
    heed_ctx *ctx = test_ref();
    heed_tensor weights = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 4, 4), 0.25);
    heed_step_begin(ctx, HEED_EVAL);
    ck_assert_int_eq(use_all(ctx, weights), HEED_OK);
    heed_step_end(ctx);
    int64_t failures = 0;
    for (fail_at = 1;; fail_at++) {
        heed_step_begin(ctx, HEED_EVAL);
        calls = 0;
        armed = true;
        heed_status status = use_all(ctx, weights);
        armed = false;
        heed_step_end(ctx);
        if (calls < fail_at) break;
        ck_assert_msg(status == HEED_ERROR_MEMORY, "allocation %lld: \"%s\"", (long long)fail_at,
                      heed_error(ctx));
        heed_error_clear(ctx);
        failures++;
    }
    ck_assert_int_gt(failures, 20);
    test_ok(ctx);
    heed_ctx_free(ctx);
    /* No temporary file is left. */
    ck_assert_int_eq(test_directory_count(directory), 3);
    test_directory_remove(directory);
}
END_TEST

START_TEST(without_a_context_failures_are_results) {
    heed_ctx *ctx = test_ref();
    heed_tensor t = heed_zeros(ctx, HEED_F32, TEST_SHAPE(3));
    FILE *null = fopen("/dev/null", "w");
    heed_progress_options options = {.file = null, .total = 1};
    fail_at = 1;
    calls = 0;
    armed = true;
    heed_progress *progress = heed_progress_new(&options);
    calls = 0;
    heed_status status = heed_print(t, null);
    armed = false;
    ck_assert_ptr_null(progress);
    ck_assert_int_eq(status, HEED_ERROR_MEMORY);
    fclose(null);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kit_faults");
    TCase *tests = test_case(suite, "memory");
    tcase_add_test(tests, every_allocation_may_fail);
    tcase_add_test(tests, without_a_context_failures_are_results);
    return test_main(suite);
}
