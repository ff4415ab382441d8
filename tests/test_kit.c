/* The kit's small things: printing, chance, sampling, files, progress, histories, command lines. */
#include "harness.h"

#include <fcntl.h>
#include <heed/kit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness_files.h"

/* ---- printing ---- */

static void prints_as(heed_tensor t, const char *expected) {
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    ck_assert_int_eq(heed_print(t, file), HEED_OK);
    fclose(file);
    ck_assert_str_eq(text, expected);
    free(text);
}

START_TEST(print_shows_dtype_shape_and_rows) {
    heed_ctx *ctx = test_ref();
    const float numbers[] = {1, -2.5f, 3e-7f, NAN, INFINITY, 100};
    prints_as(heed_from(ctx, HEED_F32, TEST_SHAPE(2, 3), numbers),
              "f32[2, 3]\n[[    1,  -2.5, 3e-07],\n [  nan,   inf,   100]]\n");
    prints_as(heed_from(ctx, HEED_F32, TEST_SHAPE(1, 3, 1), numbers),
              "f32[1, 3, 1]\n[[[    1],\n  [ -2.5],\n  [3e-07]]]\n");
    prints_as(heed_full(ctx, HEED_F64, HEED_SCALAR, 0.1), "f64[]\n0.1\n");
    prints_as(heed_arange(ctx, HEED_I32, 3), "i32[3]\n[0, 1, 2]\n");
    prints_as(heed_full(ctx, HEED_BOOL, TEST_SHAPE(2), 1.0), "bool[2]\n[true, true]\n");
    prints_as(heed_transpose(heed_from(ctx, HEED_F32, TEST_SHAPE(2, 2), numbers), 0, 1),
              "f32[2, 2]\n[[    1, 3e-07],\n [ -2.5,   nan]]\n");
    prints_as(heed_zeros(ctx, HEED_F32, TEST_SHAPE(1000000, 0)), "f32[1000000, 0]\n[]\n");
    prints_as((heed_tensor){0}, "none\n");
    prints_as(heed_arange(ctx, HEED_I32, 2000), "i32[2000]\n[   0,    1,    2, ..., 1997, 1998, 1999]\n");
    prints_as(heed_zeros(ctx, HEED_F32, TEST_SHAPE(7, 200)),
              "f32[7, 200]\n[[0, 0, 0, ..., 0, 0, 0],\n [0, 0, 0, ..., 0, 0, 0],\n [0, 0, 0, ..., 0, 0, "
              "0],\n ...,\n"
              " [0, 0, 0, ..., 0, 0, 0],\n [0, 0, 0, ..., 0, 0, 0],\n [0, 0, 0, ..., 0, 0, 0]]\n");
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(print_reports_what_it_cannot_write) {
    heed_ctx *ctx = test_ref();
    heed_tensor t = heed_zeros(ctx, HEED_F32, TEST_SHAPE(3));
    FILE *full = fopen("/dev/full", "w");
    ck_assert_ptr_nonnull(full);
    setvbuf(full, NULL, _IONBF, 0);
    ck_assert_int_eq(heed_print(t, full), HEED_ERROR_IO);
    fclose(full);
    ck_assert_int_eq(heed_print(t, NULL), HEED_ERROR_ARGUMENT);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- chance ---- */

START_TEST(random_bits_are_splitmix64) {
    /* The first outputs for seed 0 as published with the generator. */
    ck_assert_uint_eq(heed_random_bits(0, 0), 0xe220a8397b1dcdafu);
    ck_assert_uint_eq(heed_random_bits(0, 1), 0x6e789e6aa1b965f4u);
    ck_assert_uint_eq(heed_random_bits(0, 2), 0x06c45d188009454fu);
    int count[10] = {0};
    double sum = 0.0;
    for (uint64_t i = 0; i < 100000; i++) {
        int64_t digit = heed_random_below(5, i, 10);
        double unit = heed_random_unit(6, i);
        ck_assert(digit >= 0 && digit < 10 && unit >= 0.0 && unit < 1.0);
        count[digit]++;
        sum += unit;
    }
    /* Five deviations of 100,000 draws. */
    for (int digit = 0; digit < 10; digit++) ck_assert(abs(count[digit] - 10000) < 500);
    ck_assert(fabs(sum / 100000.0 - 0.5) < 0.005);
    ck_assert_int_eq(heed_random_below(1, 2, 1), 0);
    ck_assert_int_eq(heed_random_below(1, 2, 0), 0);
    ck_assert_int_eq(heed_random_below(1, 2, -5), 0);
    ck_assert(heed_random_below(1, 2, INT64_MAX) >= 0);
}
END_TEST

/* How often each of three indices is drawn, of 30,000. */
static void draw(const float *logits, const heed_sample_options *options, int *count) {
    memset(count, 0, 3 * sizeof *count);
    for (uint64_t i = 0; i < 30000; i++) {
        int64_t index = heed_sample(logits, 3, heed_random_unit(1, i), options);
        ck_assert(index >= 0 && index < 3);
        count[index]++;
    }
}

START_TEST(sample_follows_the_distribution) {
    const float logits[] = {logf(1), logf(2), logf(3)};
    int count[3];
    draw(logits, NULL, count);
    ck_assert(abs(count[0] - 5000) < 350 && abs(count[1] - 10000) < 450 && abs(count[2] - 15000) < 450);
    draw(logits, &(heed_sample_options){.temperature = 0.5}, count); /* 1 : 4 : 9 */
    ck_assert(abs(count[0] - 2143) < 250 && abs(count[1] - 8571) < 450 && abs(count[2] - 19286) < 450);
    draw(logits, &(heed_sample_options){.top_k = 2}, count);
    ck_assert(count[0] == 0 && abs(count[1] - 12000) < 450);
    draw(logits, &(heed_sample_options){.top_k = 1}, count);
    ck_assert_int_eq(count[2], 30000);
    draw((const float[]){1, -INFINITY, 1}, NULL, count);
    ck_assert(count[1] == 0 && abs(count[0] - 15000) < 450);
    /* Of equal ones the first counts as larger. */
    draw((const float[]){2, 2, 2}, &(heed_sample_options){.top_k = 1}, count);
    ck_assert_int_eq(count[0], 30000);
    /* Far below the smallest that exp() can give. */
    draw((const float[]){0, -1e30f, -3e38f}, &(heed_sample_options){.temperature = 1e-30}, count);
    ck_assert_int_eq(count[0], 30000);
}
END_TEST

START_TEST(sample_refuses_what_has_no_answer) {
    const float good[] = {1, 2}, nan[] = {1, NAN}, infinite[] = {1, INFINITY},
                none[] = {-INFINITY, -INFINITY};
    ck_assert_int_eq(heed_sample(good, 0, 0.5, NULL), -1);
    ck_assert_int_eq(heed_sample(NULL, 2, 0.5, NULL), -1);
    ck_assert_int_eq(heed_sample(good, 2, 1.0, NULL), -1);
    ck_assert_int_eq(heed_sample(good, 2, -0.1, NULL), -1);
    ck_assert_int_eq(heed_sample(good, 2, NAN, NULL), -1);
    ck_assert_int_eq(heed_sample(nan, 2, 0.5, NULL), -1);
    ck_assert_int_eq(heed_sample(infinite, 2, 0.5, NULL), -1);
    ck_assert_int_eq(heed_sample(none, 2, 0.5, NULL), -1);
    ck_assert_int_eq(heed_sample(good, 2, 0.5, &(heed_sample_options){.temperature = -1}), -1);
    ck_assert_int_eq(heed_sample(good, 2, 0.5, &(heed_sample_options){.temperature = NAN}), -1);
    ck_assert_int_eq(heed_sample(good, 2, 0.5, &(heed_sample_options){.top_k = -1}), -1);
    ck_assert_int_eq(heed_sample(good, 2, 0.5, &(heed_sample_options){.reserved = {1}}), -1);
    ck_assert_int_eq(heed_sample(good, 2, 0.5, &(heed_sample_options){.top_k = 100}), 1);
}
END_TEST

/* ---- files ---- */

START_TEST(file_read_gives_all_bytes) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES], *bytes;
    size_t size;
    test_directory_make(directory);
    test_path(directory, "file", path);
    heed_ctx *ctx = test_ref();
    size_t large = 300001;
    char *content = malloc(large);
    for (size_t i = 0; i < large; i++) content[i] = (char)(i * 7 % 251);
    test_file_write(path, content, large);
    ck_assert_int_eq(heed_bytes_read(ctx, path, &bytes, &size), HEED_OK);
    ck_assert_uint_eq(size, large);
    ck_assert_mem_eq(bytes, content, large);
    ck_assert_int_eq(bytes[large], 0);
    free(bytes);
    free(content);
    test_file_write(path, "", 0);
    ck_assert_int_eq(heed_bytes_read(ctx, path, &bytes, &size), HEED_OK);
    ck_assert(bytes && size == 0);
    free(bytes);
    ck_assert_int_eq(heed_bytes_read(ctx, directory, &bytes, &size), HEED_ERROR_IO);
    ck_assert_ptr_null(bytes);
    test_error(ctx, HEED_ERROR_IO, "Is a directory", "a directory");
    unlink(path);
    ck_assert_int_eq(heed_bytes_read(ctx, path, &bytes, &size), HEED_ERROR_IO);
    ck_assert(!bytes && size == 0);
    /* After an error nothing is done. */
    test_file_write(path, "abc", 3);
    ck_assert_int_eq(heed_bytes_read(ctx, path, &bytes, &size), HEED_ERROR_IO);
    ck_assert_ptr_null(bytes);
    test_error(ctx, HEED_ERROR_IO, "No such file", "a missing file");
    ck_assert_int_eq(heed_bytes_read(ctx, NULL, &bytes, &size), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no path", "no path");
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}
END_TEST

/* ---- progress ---- */

static char *progress_text(FILE *file, const char *path, int64_t first, int64_t total, double every) {
    heed_progress *progress = heed_progress_new(
        &(heed_progress_options){.file = file, .first = first, .total = total, .every = every});
    ck_assert_ptr_nonnull(progress);
    for (int64_t step = first; step < total; step++) {
        heed_progress_values values = {.step = step,
                                       .tokens = 100,
                                       .loss = 2.5,
                                       .grad_norm = 0.25,
                                       .validation = 2.75,
                                       .has_validation = step == first + 4};
        ck_assert_int_eq(heed_progress_step(progress, &values), HEED_OK);
    }
    ck_assert_int_eq(heed_progress_end(progress), HEED_OK);
    fclose(file);
    size_t size;
    return test_file_read(path, &size);
}

START_TEST(progress_in_a_file_is_plain_lines) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "log", path);
    char *text = progress_text(fopen(path, "w"), path, 10, 20, 1000.0);
    /* The first step, the one with a validation, the last. */
    ck_assert_ptr_nonnull(strstr(text, "step 11/20  loss 2.5000  "));
    ck_assert_ptr_nonnull(strstr(text, "\nstep 15/20  loss 2.5000  validation 2.7500  "));
    char *last = strstr(text, "\nstep 20/20  loss 2.5000  validation 2.7500  ");
    ck_assert_ptr_nonnull(last);
    ck_assert_ptr_nonnull(strstr(last, " tokens/s  gradient norm 0.25  left 0:00\n"));
    int lines = 0;
    for (const char *c = text; *c; c++) {
        lines += *c == '\n';
        ck_assert(*c != '\r' && *c != '\033');
    }
    ck_assert_int_eq(lines, 3);
    free(text);
    test_directory_remove(directory);
}
END_TEST

START_TEST(progress_on_a_terminal_is_one_line) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    FILE *file = fopen(ptsname(terminal), "w");
    ck_assert_ptr_nonnull(file);
    heed_progress *progress = heed_progress_new(&(heed_progress_options){.file = file, .total = 2});
    for (int64_t step = 0; step < 2; step++)
        ck_assert_int_eq(heed_progress_step(progress, &(heed_progress_values){.step = step, .loss = 1.0}),
                         HEED_OK);
    ck_assert_int_eq(heed_progress_end(progress), HEED_OK);
    char text[1000] = "";
    ssize_t size = 0, got;
    while (!memchr(text, '\n', (size_t)size) &&
           (got = read(terminal, text + size, sizeof text - 1 - (size_t)size)) > 0)
        size += got;
    ck_assert(!strncmp(text, "\rstep 1/2 ", 10));
    ck_assert_ptr_nonnull(strstr(text, "\033[K\rstep 2/2 "));
    ck_assert_ptr_eq(strchr(text, '\n'), text + size - 1);
    fclose(file);
    close(terminal);
}
END_TEST

START_TEST(progress_reports_errors) {
    FILE *full = fopen("/dev/full", "w");
    heed_progress *progress = heed_progress_new(&(heed_progress_options){.file = full, .total = 2});
    ck_assert_int_eq(heed_progress_step(progress, &(heed_progress_values){.loss = 1.0}), HEED_ERROR_IO);
    ck_assert_int_eq(heed_progress_end(progress), HEED_ERROR_IO);
    ck_assert_ptr_null(heed_progress_new(NULL));
    ck_assert_ptr_null(heed_progress_new(&(heed_progress_options){.total = 2}));
    ck_assert_ptr_null(heed_progress_new(&(heed_progress_options){.file = full, .first = 3, .total = 2}));
    ck_assert_ptr_null(heed_progress_new(&(heed_progress_options){.file = full, .first = -1, .total = 2}));
    ck_assert_ptr_null(heed_progress_new(&(heed_progress_options){.file = full, .every = NAN}));
    ck_assert_ptr_null(heed_progress_new(&(heed_progress_options){.file = full, .reserved = {1}}));
    ck_assert_int_eq(heed_progress_step(NULL, &(heed_progress_values){.loss = 1.0}), HEED_ERROR_ARGUMENT);
    ck_assert_int_eq(heed_progress_end(NULL), HEED_OK);
    fclose(full);
}
END_TEST

/* ---- histories ---- */

static const char *const columns[] = {"training", "held out"};

static void load_fails(heed_ctx *ctx, const char *path, const char *content, const char *part) {
    heed_history *history = heed_history_new(ctx, 2, columns);
    test_file_write(path, content, strlen(content));
    ck_assert_int_ne(heed_history_load(history, path, 100), HEED_OK);
    test_error(ctx, HEED_ERROR_FORMAT, part, content);
    /* It is as empty as before. */
    ck_assert_int_eq(heed_history_add(history, 1, (const double[]){1, 2}), HEED_OK);
    heed_history_free(history);
}

START_TEST(history_comes_back_from_its_file) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "history.csv", path);
    heed_ctx *ctx = test_ref();
    heed_history *history = heed_history_new(ctx, 2, columns);
    for (int64_t step = 1; step <= 1000; step++)
        heed_history_add(history, step, (double[]){1.0 / (double)step, step % 10 ? NAN : 2.5});
    ck_assert_int_eq(heed_history_save(history, path), HEED_OK);
    size_t size;
    char *text = test_file_read(path, &size);
    ck_assert(!strncmp(text, "step,training,held out\n1,1,\n2,0.5,\n", 35));
    ck_assert_ptr_nonnull(strstr(text, "\n10,0.1,2.5\n"));
    heed_history *again = heed_history_new(ctx, 2, columns);
    ck_assert_int_eq(heed_history_load(again, path, INT64_MAX), HEED_OK);
    ck_assert_int_eq(heed_history_save(again, path), HEED_OK);
    char *same = test_file_read(path, &size);
    ck_assert_str_eq(same, text);
    /* Only the beginning; then it goes on. */
    heed_history *part = heed_history_new(ctx, 2, columns);
    ck_assert_int_eq(heed_history_load(part, path, 3), HEED_OK);
    ck_assert_int_eq(heed_history_add(part, 3, (double[]){7, 8}), HEED_OK);
    ck_assert_int_eq(heed_history_save(part, path), HEED_OK);
    free(same);
    same = test_file_read(path, &size);
    ck_assert_str_eq(same, "step,training,held out\n1,1,\n2,0.5,\n3,7,8\n");
    test_ok(ctx);
    ck_assert_int_eq(heed_history_add(part, 3, (double[]){7, 8}), HEED_ERROR_ARGUMENT);
    test_error(ctx, HEED_ERROR_ARGUMENT, "step 3 comes after step 3", "a step twice");
    ck_assert_int_eq(heed_history_load(part, path, 9), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "has rows already", "loading twice");
    free(same);
    free(text);
    heed_history_free(history);
    heed_history_free(again);
    heed_history_free(part);
    heed_history_free(NULL);
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}
END_TEST

START_TEST(history_refuses_malformed_files) {
    char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
    test_directory_make(directory);
    test_path(directory, "history.csv", path);
    heed_ctx *ctx = test_ref();
    static const char *const heading[] = {"",
                                          "\n",
                                          "step,training\n",
                                          "step,training,held out,more\n",
                                          "step,held out,training\n",
                                          "training,held out\n",
                                          "step,training,held out"};
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++) load_fails(ctx, path, heading[i], "line 1");
    static const char *const row[] = {"x",        "1",      "1,2",         "1,2,3,4", "1,2,3", "1,2,x\n",
                                      "-1,2,3\n", ",2,3\n", "1e300,2,3\n", "1;2;3\n", "\n",    "nan,1,2\n"};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char content[200];
        snprintf(content, sizeof content, "step,training,held out\n0,1,2\n%s", row[i]);
        load_fails(ctx, path, content, "line 3");
    }
    ck_assert_ptr_null(heed_history_new(ctx, 0, columns));
    test_error(ctx, HEED_ERROR_ARGUMENT, "0 columns", "no columns");
    ck_assert_ptr_null(heed_history_new(ctx, 7, columns));
    test_error(ctx, HEED_ERROR_ARGUMENT, "7 columns", "too many columns");
    ck_assert_ptr_null(heed_history_new(ctx, 1, (const char *[]){"a,b"}));
    test_error(ctx, HEED_ERROR_ARGUMENT, "name of column 0", "a comma in a name");
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}
END_TEST

/* ---- command lines ---- */

struct given {
    bool flag;
    int64_t count;
    int small;
    double number;
    const char *text;
};

/* Parses one command line of up to 8 words, cut at spaces; returns the message. */
static const char *parse(struct given *given, const char *line) {
    static char words[200], message[200];
    char *argv[10] = {"program"};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    const heed_arg args[] = {
        {"flag", HEED_ARG_FLAG, &given->flag, "a"},  {"count", HEED_ARG_COUNT, &given->count, "b"},
        {"small", HEED_ARG_INT, &given->small, "c"}, {"number", HEED_ARG_NUMBER, &given->number, "d"},
        {"text", HEED_ARG_TEXT, &given->text, "e"},
    };
    *given = (struct given){.count = -1, .small = -1, .number = -1, .text = "default"};
    message[0] = 0;
    heed_status status = heed_args_parse(argc, argv, 5, args, message, sizeof message);
    ck_assert_msg(status == (message[0] ? HEED_ERROR_ARGUMENT : HEED_OK), "%s", line);
    ck_assert_ptr_null(strchr(message, '\n'));
    return message;
}

START_TEST(args_are_read) {
    struct given given;
    ck_assert_str_eq(parse(&given, ""), "");
    ck_assert(!given.flag && given.count == -1 && given.small == -1 && given.number < 0);
    ck_assert_str_eq(given.text, "default");
    ck_assert_str_eq(parse(&given, "--flag --count 12 --small=3 --number -1.5e3 --text=a=b"), "");
    ck_assert(given.flag && given.count == 12 && given.small == 3 && given.number == -1500.0);
    ck_assert_str_eq(given.text, "a=b");
    ck_assert_str_eq(parse(&given, "--count 1 --count 9223372036854775807 --text --flag"), "");
    ck_assert(given.count == INT64_MAX && !given.flag);
    ck_assert_str_eq(given.text, "--flag");
}
END_TEST

START_TEST(args_that_are_wrong_are_named) {
    static const char *const wrong[][2] = {
        {"--bogus", "unknown argument '--bogus'"},
        {"word", "unknown argument 'word'"},
        {"-f", "unknown argument '-f'"},
        {"--", "unknown argument '--'"},
        {"--fla", "unknown argument '--fla'"},
        {"--flags", "unknown argument '--flags'"},
        {"--count", "--count: a value must follow"},
        {"--text", "--text: a value must follow"},
        {"--text=", "--text: '' is empty"},
        {"--flag=1", "--flag: '1' is not wanted"},
        {"--count x", "--count: 'x' is not a whole number"},
        {"--count -1", "--count: '-1' is not a whole number"},
        {"--count 1.5", "--count: '1.5' is not a whole number"},
        {"--count=", "--count: '' is not a whole number"},
        {"--count 9223372036854775808", "is too large"},
        {"--small 2147483648", "is too large"},
        {"--number x", "--number: 'x' is not a number"},
        {"--number nan", "--number: 'nan' is not a number"},
        {"--number 1e999", "is not a number"},
        {"--number 1x", "is not a number"},
    };
    struct given given;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *message = parse(&given, wrong[i][0]);
        ck_assert_msg(strstr(message, wrong[i][1]) != NULL, "%s: \"%s\"", wrong[i][0], message);
    }
    char *argv[] = {"program", "--x"};
    ck_assert_int_eq(heed_args_parse(2, argv, 0, NULL, NULL, 0), HEED_ERROR_ARGUMENT);
}
END_TEST

START_TEST(args_help_lists_all) {
    char *text = NULL;
    size_t size;
    int64_t steps;
    bool flag;
    const heed_arg args[] = {{"steps", HEED_ARG_COUNT, &steps, "how many"},
                             {"flag", HEED_ARG_FLAG, &flag, "whether"}};
    FILE *file = open_memstream(&text, &size);
    ck_assert_int_eq(heed_args_help(file, "program", "Does something.", 2, args), HEED_OK);
    fclose(file);
    ck_assert_str_eq(text, "program [OPTION]...\nDoes something.\n\n  --steps N         how many\n"
                           "  --flag            whether\n");
    free(text);
    file = fopen("/dev/full", "w");
    ck_assert_int_eq(heed_args_help(file, "program", "Does something.", 2, args), HEED_ERROR_IO);
    fclose(file);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kit");
    TCase *tests = test_case(suite, "print");
    tcase_add_test(tests, print_shows_dtype_shape_and_rows);
    tcase_add_test(tests, print_reports_what_it_cannot_write);
    tests = test_case(suite, "chance");
    tcase_add_test(tests, random_bits_are_splitmix64);
    tcase_add_test(tests, sample_follows_the_distribution);
    tcase_add_test(tests, sample_refuses_what_has_no_answer);
    tests = test_case(suite, "files");
    tcase_add_test(tests, file_read_gives_all_bytes);
    tests = test_case(suite, "progress");
    tcase_add_test(tests, progress_in_a_file_is_plain_lines);
    tcase_add_test(tests, progress_on_a_terminal_is_one_line);
    tcase_add_test(tests, progress_reports_errors);
    tests = test_case(suite, "history");
    tcase_add_test(tests, history_comes_back_from_its_file);
    tcase_add_test(tests, history_refuses_malformed_files);
    tests = test_case(suite, "args");
    tcase_add_test(tests, args_are_read);
    tcase_add_test(tests, args_that_are_wrong_are_named);
    tcase_add_test(tests, args_help_lists_all);
    return test_main(suite);
}
