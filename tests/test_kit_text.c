/* Texts as data sets, their entropy and their words. */
#include "harness.h"

#include <heed/kit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness_files.h"

enum { SIZE = 1000, TRAIN = 900, BATCH = 4, LENGTH = 10 };

static const heed_text_options options = {.batch = BATCH, .length = LENGTH};

/* Even bytes count up, and odd ones tell how often they have come round: a window tells where it is from. */
static void make_bytes(unsigned char *bytes) {
    for (int i = 0; i < SIZE; i++) bytes[i] = (unsigned char)(i % 2 ? i / 256 : i % 256);
}

static heed_text *make_text(heed_ctx *ctx) {
    unsigned char bytes[SIZE];
    make_bytes(bytes);
    heed_text *text = heed_text_from(ctx, bytes, sizeof bytes, &options);
    test_ok(ctx);
    ck_assert_ptr_nonnull(text);
    return text;
}

/* Copies out a batch of `rows`, checks that y is x moved by one, and returns the windows of LENGTH + 1. */
static void windows_of(heed_tensor x, heed_tensor y, int64_t rows, int32_t (*window)[LENGTH + 1]) {
    int32_t a[BATCH][LENGTH], b[BATCH][LENGTH];
    ck_assert(heed_rank(x) == 2 && heed_size(x, 0) == rows && heed_size(x, 1) == LENGTH);
    ck_assert(heed_dtype_of(x) == HEED_I32 && heed_dtype_of(y) == HEED_I32);
    ck_assert_int_eq(heed_read(x, a, (size_t)rows * sizeof *a), HEED_OK);
    ck_assert_int_eq(heed_read(y, b, (size_t)rows * sizeof *b), HEED_OK);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(window[r], a[r], sizeof a[r]);
        window[r][LENGTH] = b[r][LENGTH - 1];
        ck_assert_mem_eq(window[r] + 1, b[r], sizeof b[r]);
    }
}

/* Where a window stands in the text; it must be there. */
static int place_of(const int32_t *window) {
    unsigned char bytes[SIZE];
    make_bytes(bytes);
    for (int start = 0; start + LENGTH < SIZE; start++) {
        int same = 0;
        while (same <= LENGTH && window[same] == bytes[start + same]) same++;
        if (same > LENGTH) return start;
    }
    ck_abort_msg("the window is not of the text");
    return -1;
}

START_TEST(parts_are_beginning_and_tail) {
    heed_ctx *ctx = test_ref();
    heed_text *text = make_text(ctx);
    unsigned char bytes[SIZE];
    make_bytes(bytes);
    size_t size;
    ck_assert_mem_eq(heed_text_bytes(text, HEED_TEXT_ALL, &size), bytes, SIZE);
    ck_assert_uint_eq(size, SIZE);
    ck_assert_mem_eq(heed_text_bytes(text, HEED_TEXT_TRAIN, &size), bytes, TRAIN);
    ck_assert_uint_eq(size, TRAIN);
    ck_assert_mem_eq(heed_text_bytes(text, HEED_TEXT_HELD_OUT, &size), bytes + TRAIN, SIZE - TRAIN);
    ck_assert_uint_eq(size, SIZE - TRAIN);
    heed_text_free(text);
    text = heed_text_from(ctx, bytes, SIZE,
                          &(heed_text_options){.batch = 1, .length = LENGTH, .held_out = 0.25});
    heed_text_bytes(text, HEED_TEXT_HELD_OUT, &size);
    ck_assert_uint_eq(size, 250);
    heed_text_free(text);
    ck_assert_ptr_null(heed_text_bytes(NULL, HEED_TEXT_ALL, &size));
    ck_assert_uint_eq(size, 0);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(batches_depend_on_seed_and_position_alone) {
    heed_ctx *ctx = test_ref();
    heed_text *text = make_text(ctx);
    int32_t first[50][BATCH][LENGTH + 1], window[BATCH][LENGTH + 1];
    heed_tensor x, y;
    bool seen[TRAIN] = {false};
    for (int position = 0; position < 50; position++) {
        heed_step_begin(ctx, HEED_TRAIN);
        ck_assert_int_eq(heed_text_batch(text, position, &x, &y), HEED_OK);
        windows_of(x, y, BATCH, first[position]);
        heed_step_end(ctx);
        for (int row = 0; row < BATCH; row++) {
            int place = place_of(first[position][row]);
            /* The last byte of the window is still one of the training part. */
            ck_assert_int_lt(place + LENGTH, TRAIN);
            seen[place] = true;
        }
    }
    int places = 0;
    for (int i = 0; i < TRAIN; i++) places += seen[i];
    ck_assert_int_gt(places, 150);
    heed_text_free(text);
    /* Another text, other things done in between, another order: the same windows. */
    text = make_text(ctx);
    heed_free(heed_normal(ctx, HEED_F32, TEST_SHAPE(10), 0, 1));
    for (int position = 49; position >= 0; position -= 7) {
        ck_assert_int_eq(heed_text_batch(text, position, &x, &y), HEED_OK);
        windows_of(x, y, BATCH, window);
        ck_assert_mem_eq(window, first[position], sizeof window);
        heed_free(x);
        heed_free(y);
    }
    /* Another seed: others. */
    heed_random_state state = heed_random_get(ctx);
    state.seed++;
    heed_random_set(ctx, &state);
    heed_text_batch(text, 3, &x, &y);
    windows_of(x, y, BATCH, window);
    ck_assert_mem_ne(window, first[3], sizeof window);
    ck_assert_int_eq(heed_text_batch(text, -1, &x, &y), HEED_ERROR_ARGUMENT);
    ck_assert(heed_is_none(x) && heed_is_none(y));
    test_error(ctx, HEED_ERROR_ARGUMENT, "position -1", "a negative position");
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(every_place_of_the_training_part_is_possible) {
    heed_ctx *ctx = test_ref();
    unsigned char bytes[30];
    for (int i = 0; i < 30; i++) bytes[i] = (unsigned char)i;
    heed_text *text =
        heed_text_from(ctx, bytes, 30, &(heed_text_options){.batch = 4, .length = 9, .held_out = 0.4});
    int count[30] = {0};
    for (int position = 0; position < 100; position++) {
        heed_tensor x, y;
        heed_text_batch(text, position, &x, &y);
        for (int64_t row = 0; row < 4; row++) count[(int)heed_at(x, 2, (int64_t[]){row, 0})]++;
        heed_free(x);
        heed_free(y);
    }
    /* The training part has 18 bytes, so windows of 10 begin at 0 to 8. */
    for (int i = 0; i < 30; i++) ck_assert_int_eq(count[i] > 0, i <= 8);
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(held_out_batches_follow_one_another) {
    heed_ctx *ctx = test_ref();
    heed_text *text = make_text(ctx);
    /* 100 bytes: 9 windows of 10 and the byte after each. */
    ck_assert_int_eq(heed_text_held_out_batches(text), 3);
    ck_assert_int_eq(heed_text_held_out_batches(NULL), 0);
    heed_tensor x, y;
    int32_t window[BATCH][LENGTH + 1];
    int next = TRAIN;
    for (int64_t i = 0; i < 3; i++) {
        int64_t rows = i < 2 ? BATCH : 1;
        ck_assert_int_eq(heed_text_held_out(text, i, &x, &y), HEED_OK);
        windows_of(x, y, rows, window);
        for (int64_t row = 0; row < rows; row++, next += LENGTH)
            ck_assert_int_eq(place_of(window[row]), next);
    }
    ck_assert_int_eq(heed_text_held_out(text, 3, &x, &y), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "batch 3 is not among the 3", "a batch too many");
    ck_assert_int_eq(heed_text_held_out(text, -1, &x, &y), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "batch -1", "a negative batch");
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- a model to measure: logits are a table's rows ---- */

static heed_module *table_model(heed_ctx *ctx, double value) {
    heed_init init = {.kind = HEED_INIT_CONSTANT, .a = value};
    return heed_embedding_new(ctx, &(heed_embedding_options){.rows = 256, .width = 256, .weight_init = init});
}

START_TEST(held_out_loss_is_the_mean_over_bytes) {
    heed_ctx *ctx = test_ref();
    heed_text *text = make_text(ctx);
    heed_module *model = table_model(ctx, 0.25);
    /* Whoever knows nothing loses log(256). */
    ck_assert(fabs(heed_text_held_out_loss(text, model, 0) - log(256.0)) < 1e-5);
    ck_assert(fabs(heed_text_held_out_loss(text, model, 1) - log(256.0)) < 1e-5);
    ck_assert(fabs(heed_text_held_out_loss(text, model, 99) - log(256.0)) < 1e-5);
    /* Byte 3 is every second one, and a model that likes it gains there what it loses elsewhere. */
    heed_tensor table = heed_param_find(model, "weight");
    float *weights = calloc(256 * 256, sizeof *weights);
    for (int row = 0; row < 256; row++) weights[row * 256 + 3] = 5.0f;
    heed_write(table, weights, 256 * 256 * sizeof *weights);
    free(weights);
    double sum = log(255.0 + exp(5.0)), total = 0.0;
    for (int i = TRAIN + 1; i <= TRAIN + 90; i++)
        total += sum - ((i % 2 ? i / 256 : i % 256) == 3 ? 5.0 : 0.0);
    ck_assert(fabs(heed_text_held_out_loss(text, model, 0) - total / 90.0) < 1e-5);
    test_ok(ctx);
    ck_assert(isnan(heed_text_held_out_loss(NULL, model, 0)));
    heed_error_set(ctx, HEED_ERROR_ARGUMENT, "test", "on purpose");
    ck_assert(isnan(heed_text_held_out_loss(text, model, 0)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "on purpose", "an error before");
    heed_module_free(model);
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- what is wrong ---- */

static void refuses(heed_ctx *ctx, size_t size, const heed_text_options *o, const char *part) {
    unsigned char bytes[SIZE] = {0};
    ck_assert_ptr_null(heed_text_from(ctx, bytes, size, o));
    test_error(ctx, HEED_ERROR_ARGUMENT, part, part);
}

START_TEST(texts_that_make_no_windows_are_refused) {
    heed_ctx *ctx = test_ref();
    refuses(ctx, 0, &options, "too short");
    refuses(ctx, 100, &options,
            "of its 100 bytes 90 are for training and 10 held out, and a window needs 11");
    refuses(ctx, 100, &(heed_text_options){.batch = 1, .length = 10, .held_out = 0.95}, "too short");
    refuses(ctx, SIZE, NULL, "batch and length");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1}, "batch and length");
    refuses(ctx, SIZE, &(heed_text_options){.length = 1}, "batch and length");
    refuses(ctx, SIZE, &(heed_text_options){.batch = -1, .length = 1}, "batch and length");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1, .length = INT64_MAX}, "batch and length");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1, .length = 1, .held_out = 1.0}, "held_out is 1");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1, .length = 1, .held_out = -0.1}, "held_out is -0.1");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1, .length = 1, .held_out = NAN}, "held_out is");
    refuses(ctx, SIZE, &(heed_text_options){.batch = 1, .length = 1, .reserved = {0, 1}}, "reserved");
    unsigned char bytes[110] = {0};
    heed_text *text = heed_text_from(ctx, bytes, sizeof bytes, &options);
    test_ok(ctx);
    ck_assert_int_eq(heed_text_held_out_batches(text), 1);
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(texts_are_opened_from_files) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "text", path);
    heed_ctx *ctx = test_ref();
    ck_assert_ptr_null(heed_text_open(ctx, path, &options));
    test_error(ctx, HEED_ERROR_IO, "No such file", "a missing file");
    test_file_write(path, "", 0);
    ck_assert_ptr_null(heed_text_open(ctx, path, &options));
    test_error(ctx, HEED_ERROR_ARGUMENT, "text is too short", "an empty file");
    unsigned char bytes[SIZE];
    make_bytes(bytes);
    test_file_write(path, bytes, SIZE);
    heed_text *text = heed_text_open(ctx, path, &options);
    test_ok(ctx);
    ck_assert_mem_eq(heed_text_bytes(text, HEED_TEXT_ALL, NULL), bytes, SIZE);
    heed_text_free(text);
    heed_text_free(NULL);
    /* After an error nothing is opened. */
    heed_error_set(ctx, HEED_ERROR_ARGUMENT, "test", "on purpose");
    ck_assert_ptr_null(heed_text_open(ctx, path, &options));
    heed_error_clear(ctx);
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}
END_TEST

START_TEST(tokens_are_bytes) {
    heed_ctx *ctx = test_ref();
    int32_t tokens[3];
    heed_tensor t = heed_text_tokens(ctx, "a\xff\n", 3);
    ck_assert(heed_rank(t) == 2 && heed_size(t, 0) == 1 && heed_size(t, 1) == 3);
    heed_read(t, tokens, sizeof tokens);
    ck_assert(tokens[0] == 'a' && tokens[1] == 255 && tokens[2] == '\n');
    ck_assert_int_eq(heed_size(heed_text_tokens(ctx, NULL, 0), 1), 0);
    test_ok(ctx);
    heed_text_tokens(ctx, "a", -1);
    ck_assert(heed_failed(ctx));
    heed_ctx_free(ctx);
}
END_TEST

/* ---- entropy and words ---- */

static heed_text *text_of(heed_ctx *ctx, const char *bytes, size_t size) {
    heed_text *text =
        heed_text_from(ctx, bytes, size, &(heed_text_options){.batch = 1, .length = 1, .held_out = 0.4});
    test_ok(ctx);
    return text;
}

START_TEST(entropy_is_that_of_single_bytes) {
    heed_ctx *ctx = test_ref();
    heed_text *text = text_of(ctx, "abababab", 8);
    ck_assert(fabs(heed_text_entropy(text) - log(2.0)) < 1e-12);
    heed_text_free(text);
    text = text_of(ctx, "aaaaaaaa", 8);
    ck_assert(heed_text_entropy(text) == 0.0);
    heed_text_free(text);
    text = text_of(ctx, "aab\0aab\0", 8); /* a half and two quarters */
    ck_assert(fabs(heed_text_entropy(text) - 1.5 * log(2.0)) < 1e-12);
    heed_text_free(text);
    ck_assert(heed_text_entropy(NULL) == 0.0);
    heed_ctx_free(ctx);
}
END_TEST

static void words_are(const heed_text *text, const char *sample, int64_t words, int64_t known) {
    int64_t found, found_known;
    ck_assert_int_eq(heed_text_known_words(text, sample, strlen(sample), &found, &found_known), HEED_OK);
    ck_assert_msg(found == words && found_known == known, "\"%s\": %lld words, %lld known", sample,
                  (long long)found, (long long)found_known);
}

START_TEST(words_are_counted_as_whole_words) {
    heed_ctx *ctx = test_ref();
    static const char bible[] = "In the beginning God created the heaven and the earth. \xc3\xa4 it's";
    heed_text *text = text_of(ctx, bible, sizeof bible - 1);
    words_are(text, "", 0, 0);
    words_are(text, "12:3 -- ", 0, 0);
    words_are(text, "In the beginning, God.", 4, 4);
    words_are(text, "in the begin ning heavens ", 5, 1);
    words_are(text, "the eart", 1, 1); /* what touches the end may be cut */
    words_are(text, "the earth", 1, 1);
    words_are(text, "the earth\n", 2, 2);
    words_are(text, "God1created ", 2, 2);
    words_are(text, "\xc3\xa4 \xc3\xb6 it's ", 4, 3);
    heed_text_free(text);
    /* More words than the set begins with. */
    size_t size = 0;
    char *many = malloc(20000 * 6), sample[] = "zzz aaa qqqq mno ";
    for (int i = 0; i < 20000; i++)
        size += (size_t)sprintf(many + size, "%c%c%c ", 'a' + i / 676 % 26, 'a' + i / 26 % 26, 'a' + i % 26);
    text = text_of(ctx, many, size);
    words_are(text, sample, 4, 3); /* of 26³ ones all but qqqq */
    free(many);
    heed_error_set(ctx, HEED_ERROR_ARGUMENT, "test", "on purpose");
    int64_t words, known;
    ck_assert_int_eq(heed_text_known_words(text, "a b", 3, &words, &known), HEED_ERROR_ARGUMENT);
    ck_assert(words == 0 && known == 0);
    ck_assert_int_eq(heed_text_known_words(NULL, "a b", 3, &words, &known), HEED_ERROR_ARGUMENT);
    heed_text_free(text);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kit_text");
    TCase *tests = test_case(suite, "windows");
    tcase_add_test(tests, parts_are_beginning_and_tail);
    tcase_add_test(tests, batches_depend_on_seed_and_position_alone);
    tcase_add_test(tests, every_place_of_the_training_part_is_possible);
    tcase_add_test(tests, held_out_batches_follow_one_another);
    tcase_add_test(tests, held_out_loss_is_the_mean_over_bytes);
    tcase_add_test(tests, texts_that_make_no_windows_are_refused);
    tcase_add_test(tests, texts_are_opened_from_files);
    tcase_add_test(tests, tokens_are_bytes);
    tests = test_case(suite, "words");
    tcase_add_test(tests, entropy_is_that_of_single_bytes);
    tcase_add_test(tests, words_are_counted_as_whole_words);
    return test_main(suite);
}
