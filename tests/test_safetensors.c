/* Safetensors files that are as they should be: what is written, what is read back, and what is asked about
 * them. */
#include "harness.h"

#include <heed/io.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness_files.h"

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
static heed_ctx *ctx;

static void setup(void) {
    test_directory_make(directory);
    test_path(directory, "a.safetensors", path);
    ctx = test_cpu();
}

static void teardown(void) {
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}

static heed_file *open_ok(void) {
    heed_file *file = heed_file_open(ctx, path);
    ck_assert_msg(file != NULL, "%s", heed_error(ctx));
    return file;
}

static void check_same(heed_tensor a, heed_tensor b) {
    test_ok(ctx);
    ck_assert_int_eq(heed_dtype_of(a), heed_dtype_of(b));
    ck_assert_int_eq(heed_rank(a), heed_rank(b));
    for (int i = 0; i < heed_rank(a); i++) ck_assert_int_eq(heed_size(a, i), heed_size(b, i));
    const size_t bytes = (size_t)heed_count(a) * heed_dtype_bytes(heed_dtype_of(a));
    char *x = malloc(bytes + 1), *y = malloc(bytes + 1);
    ck_assert_int_eq(heed_read(a, x, bytes), HEED_OK);
    ck_assert_int_eq(heed_read(b, y, bytes), HEED_OK);
    ck_assert_mem_eq(x, y, bytes);
    free(x);
    free(y);
}

/* ---- round trips ---- */

enum { SHAPES = 7 };
static const struct {
    int rank;
    int64_t size[HEED_MAX_RANK];
} shapes[SHAPES] = {{0, {0}},
                    {1, {1}},
                    {1, {0}},
                    {2, {3, 5}},
                    {3, {2, 0, 4}},
                    {8, {1, 2, 1, 2, 1, 3, 1, 2}},
                    {8, {1, 1, 1, 1, 1, 1, 1, 1}}};
static const heed_dtype dtypes[] = {HEED_F32, HEED_F64, HEED_BF16, HEED_I32, HEED_BOOL};

static heed_tensor make(heed_dtype dtype, int rank, const int64_t *size, uint64_t seed) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= size[i];
    char *data = malloc((size_t)count * 8 + 1);
    struct test_random random = {seed};
    for (int64_t i = 0; i < count * 8; i++)
        data[i] = (char)(dtype == HEED_BOOL ? test_bits(&random) & 1 : test_bits(&random));
    const heed_tensor t = heed_from(ctx, dtype, rank, size, data);
    free(data);
    test_ok(ctx);
    return t;
}

START_TEST(every_dtype_and_shape) {
    const heed_dtype dtype = dtypes[_i / SHAPES];
    const heed_tensor t = make(dtype, shapes[_i % SHAPES].rank, shapes[_i % SHAPES].size, (uint64_t)_i);
    const char *name = "t";
    ck_assert_int_eq(heed_tensors_save(ctx, path, 1, &name, &t, 0, NULL), HEED_OK);
    heed_file *file = open_ok();
    ck_assert_int_eq(heed_file_count(file), 1);
    const heed_tensor back = heed_file_tensor(file, "t");
    check_same(t, back);
    heed_file_free(file);
    check_same(t, back);
    ck_assert_int_eq(test_directory_count(directory), 1);
}
END_TEST

START_TEST(strided_views_are_written_row_major) {
    const float data[] = {1, 2, 3, 4, 5, 6};
    const heed_tensor t = heed_transpose(heed_from(ctx, HEED_F32, HEED_SHAPE(2, 3), data), 0, 1);
    const char *name = "t";
    ck_assert_int_eq(heed_tensors_save(ctx, path, 1, &name, &t, 0, NULL), HEED_OK);
    heed_file *file = open_ok();
    test_equals(heed_file_tensor(file, "t"), 6, (const float[]){1, 4, 2, 5, 3, 6}, "transposed");
    heed_file_free(file);
}
END_TEST

START_TEST(no_tensors_at_all) {
    ck_assert_int_eq(heed_tensors_save(ctx, path, 0, NULL, NULL, 0, NULL), HEED_OK);
    heed_file *file = open_ok();
    ck_assert_int_eq(heed_file_count(file), 0);
    ck_assert_int_eq(heed_file_find(file, "t"), -1);
    heed_file_free(file);
}
END_TEST

/* ---- the bytes themselves ---- */

START_TEST(bytes_are_as_the_format_says) {
    const char *names[] = {"mask", "b", "a", "wide"};
    const heed_tensor tensors[] = {heed_from(ctx, HEED_BOOL, HEED_SHAPE(3), (const char[]){1, 0, 1}),
                                   heed_from(ctx, HEED_I32, 0, NULL, (const int32_t[]){7}),
                                   heed_from(ctx, HEED_F32, HEED_SHAPE(1, 2), (const float[]){1, -2}),
                                   heed_from(ctx, HEED_F64, HEED_SHAPE(1), (const double[]){1})};
    const heed_metadata pairs[] = {{"z", "\"quoted\""}, {"k", "v"}};
    ck_assert_int_eq(heed_tensors_save(ctx, path, 4, names, tensors, 2, pairs), HEED_OK);

    const char header[] = "{\"__metadata__\":{\"k\":\"v\",\"z\":\"\\\"quoted\\\"\"},"
                          "\"wide\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                          "\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[8,16]},"
                          "\"b\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[16,20]},"
                          "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[20,23]}}";
    const unsigned char data[] = {0, 0, 0, 0,    0, 0, 0xF0, 0x3F, 0, 0, 0x80, 0x3F,
                                  0, 0, 0, 0xC0, 7, 0, 0,    0,    1, 0, 1};
    const size_t length = sizeof header - 1, padded = (length + 7) / 8 * 8;
    size_t bytes;
    unsigned char *file = (unsigned char *)test_file_read(path, &bytes);
    ck_assert_uint_eq(bytes, 8 + padded + sizeof data);
    for (int i = 0; i < 8; i++) ck_assert_uint_eq(file[i], (unsigned char)(padded >> 8 * i));
    ck_assert_mem_eq(file + 8, header, length);
    for (size_t i = length; i < padded; i++) ck_assert_uint_eq(file[8 + i], ' ');
    ck_assert_mem_eq(file + 8 + padded, data, sizeof data);
    free(file);
}
END_TEST

START_TEST(order_of_arguments_does_not_matter) {
    const char *names[] = {"a", "b", "c"}, *other_names[] = {"c", "a", "b"};
    const heed_tensor a = make(HEED_F32, 1, (int64_t[]){3}, 1), b = make(HEED_F64, 1, (int64_t[]){2}, 2),
                      c = make(HEED_BOOL, 1, (int64_t[]){5}, 3);
    const heed_metadata pairs[] = {{"x", "1"}, {"y", "2"}}, other_pairs[] = {{"y", "2"}, {"x", "1"}};
    size_t bytes, other_bytes;
    heed_tensors_save(ctx, path, 3, names, (heed_tensor[]){a, b, c}, 2, pairs);
    char *file = test_file_read(path, &bytes);
    heed_tensors_save(ctx, path, 3, other_names, (heed_tensor[]){c, a, b}, 2, other_pairs);
    char *other = test_file_read(path, &other_bytes);
    test_ok(ctx);
    ck_assert_uint_eq(bytes, other_bytes);
    ck_assert_mem_eq(file, other, bytes);
    free(file);
    free(other);
}
END_TEST

/* ---- asking ---- */

static void write_by_hand(const char *header, size_t data_bytes) {
    size_t bytes;
    char *file = test_safetensors(header, strlen(header), data_bytes, &bytes);
    test_file_write(path, file, bytes);
    free(file);
}

START_TEST(info_lists_tensors_in_the_order_of_their_data) {
    write_by_hand("{\"late\":{\"data_offsets\":[6,10],\"shape\":[2,2],\"dtype\":\"U8\"},"
                  "\"early\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,6]}} \n ",
                  10);
    heed_file *file = open_ok();
    heed_file_entry entry;
    ck_assert_int_eq(heed_file_count(file), 2);
    ck_assert(heed_file_info(file, 0, &entry));
    ck_assert_str_eq(entry.name, "early");
    ck_assert_str_eq(entry.dtype_name, "F16");
    ck_assert(!entry.readable);
    ck_assert_int_eq(entry.rank, 1);
    ck_assert_int_eq(entry.bytes, 6);
    ck_assert(heed_file_info(file, 1, &entry));
    ck_assert_str_eq(entry.name, "late");
    ck_assert_int_eq(entry.size[0], 2);
    ck_assert_int_eq(entry.size[1], 2);
    ck_assert_int_eq(heed_file_find(file, "late"), 1);
    ck_assert(!heed_file_info(file, 2, &entry) && !heed_file_info(file, -1, &entry) && entry.name == NULL);

    ck_assert(!heed_is_valid(heed_file_tensor(file, "early")));
    test_error(ctx, HEED_ERROR_UNSUPPORTED, "a.safetensors: tensor \"early\": reading F16 is not supported",
               "F16");
    heed_file_tensor(file, "none");
    test_error(ctx, HEED_ERROR_ARGUMENT, "a.safetensors: has no tensor \"none\"", "missing");
    heed_file_tensor(file, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no name given", "no name");
    heed_file_free(file);
}
END_TEST

START_TEST(metadata_of_any_text) {
    const heed_metadata pairs[] = {
        {"text", "two\nlines, \xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8D"}, {"", "no key"}, {"empty", ""}};
    ck_assert_int_eq(heed_tensors_save(ctx, path, 0, NULL, NULL, 3, pairs), HEED_OK);
    heed_file *file = open_ok();
    for (int i = 0; i < 3; i++) ck_assert_str_eq(heed_file_metadata(file, pairs[i].key), pairs[i].value);
    ck_assert_ptr_null(heed_file_metadata(file, "other"));
    heed_metadata pair;
    ck_assert(heed_file_metadata_at(file, 1, &pair));
    ck_assert_str_eq(pair.key, "empty");
    ck_assert(!heed_file_metadata_at(file, 3, &pair) && !heed_file_metadata_at(file, -1, &pair) &&
              pair.key == NULL);
    heed_file_free(file);
}
END_TEST

START_TEST(every_dtype_of_the_format_is_known) {
    static const struct {
        const char *name;
        int bits;
    } known[] = {{"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},
                 {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},     {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
                 {"I16", 16}, {"U16", 16},    {"F8_E5M2FNUZ", 8}, {"F16", 16},    {"BF16", 16},
                 {"I32", 32}, {"U32", 32},    {"F32", 32},        {"C64", 64},    {"F64", 64},
                 {"I64", 64}, {"U64", 64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char header[200];
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%d]}}",
                 known[i].name, known[i].bits / 2);
        write_by_hand(header, (size_t)known[i].bits / 2);
        heed_file_free(open_ok());
    }
}
END_TEST

/* More data than 32 bits can count, most of it a hole in the file. */
START_TEST(files_of_more_than_4_gib) {
    char header[300];
    const int64_t large = (int64_t)5 << 30;
    snprintf(header, sizeof header,
             "{\"large\":{\"dtype\":\"U8\",\"shape\":[5,1073741824],\"data_offsets\":[0,%lld]},"
             "\"small\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[%lld,%lld]}}",
             (long long)large, (long long)large, (long long)large + 8);
    write_by_hand(header, 0);
    const int32_t value[] = {11, -12};
    FILE *raw = fopen(path, "r+b");
    ck_assert_ptr_nonnull(raw);
    ck_assert_int_eq(fseeko(raw, 8 + (off_t)strlen(header) + large, SEEK_SET), 0);
    ck_assert_uint_eq(fwrite(value, sizeof value, 1, raw), 1);
    ck_assert_int_eq(fclose(raw), 0);
    heed_file *file = open_ok();
    const heed_tensor t = heed_file_tensor(file, "small");
    int32_t back[2];
    ck_assert_int_eq(heed_read(t, back, sizeof back), HEED_OK);
    ck_assert_int_eq(back[0], 11);
    ck_assert_int_eq(back[1], -12);
    heed_file_free(file);
}
END_TEST

/* ---- arguments that cannot be written ---- */

static void check_save(heed_status status, const char *message, const char *name, heed_tensor t) {
    ck_assert_int_eq(heed_tensors_save(ctx, path, 1, &name, &t, 0, NULL), status);
    test_error(ctx, status, message, name);
    ck_assert_int_eq(test_directory_count(directory), 0);
}

START_TEST(bad_arguments) {
    const heed_tensor t = heed_zeros(ctx, HEED_F32, HEED_SHAPE(2));
    const char *twice[] = {"a", "a"};
    const heed_metadata same[] = {{"k", "1"}, {"k", "2"}}, bad[] = {{"k", "\xFF"}}, missing[] = {{"k", NULL}};
    check_save(HEED_ERROR_ARGUMENT, "a tensor has no name", "", t);
    check_save(HEED_ERROR_ARGUMENT, "a tensor has no name", NULL, t);
    check_save(HEED_ERROR_ARGUMENT, "can have the name \"__metadata__\"", "__metadata__", t);
    check_save(HEED_ERROR_ARGUMENT, "the name is not UTF-8", "a\xC3", t);
    check_save(HEED_ERROR_ARGUMENT, "the name is not UTF-8", "\xED\xA0\x80", t);
    check_save(HEED_ERROR_ARGUMENT, "the name is not UTF-8", "\xC0\x80", t);
    check_save(HEED_ERROR_ARGUMENT, "tensor \"t\": none", "t", (heed_tensor){0});
    heed_tensors_save(ctx, path, 2, twice, (heed_tensor[]){t, t}, 0, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "tensor \"a\" is given twice", "twice");
    heed_tensors_save(ctx, path, 0, NULL, NULL, 2, same);
    test_error(ctx, HEED_ERROR_ARGUMENT, "metadata \"k\" is given twice", "metadata twice");
    heed_tensors_save(ctx, path, 0, NULL, NULL, 1, bad);
    test_error(ctx, HEED_ERROR_ARGUMENT, "metadata \"k\" is not UTF-8", "metadata");
    heed_tensors_save(ctx, path, 0, NULL, NULL, 1, missing);
    test_error(ctx, HEED_ERROR_ARGUMENT, "without key or value", "metadata");
    heed_tensors_save(ctx, path, -1, NULL, NULL, 0, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "a count is negative", "count");
    heed_tensors_save(ctx, path, 1, NULL, NULL, 0, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "a list is missing", "list");
    heed_tensors_save(ctx, NULL, 0, NULL, NULL, 0, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no path given", "path");
    ck_assert_int_eq(test_directory_count(directory), 0);
}
END_TEST

START_TEST(other_contexts_and_stale_tensors) {
    heed_ctx *other = test_ref();
    const heed_tensor foreign = heed_zeros(other, HEED_F32, HEED_SHAPE(2));
    check_save(HEED_ERROR_CONTEXT, "tensor \"t\": is of another context", "t", foreign);
    heed_ctx_free(other);
    heed_step_begin(ctx, HEED_EVAL);
    const heed_tensor stale = heed_zeros(ctx, HEED_F32, HEED_SHAPE(2));
    heed_step_end(ctx);
    check_save(HEED_ERROR_STALE, "tensor \"t\": none, or its scope has ended", "t", stale);
}
END_TEST

START_TEST(nothing_happens_after_an_error) {
    const heed_tensor t = heed_zeros(ctx, HEED_F32, HEED_SHAPE(2));
    const char *name = "t";
    ck_assert_int_eq(heed_tensors_save(ctx, path, 1, &name, &t, 0, NULL), HEED_OK);
    heed_file *file = open_ok();
    heed_error_set(ctx, HEED_ERROR_NUMERIC, "test", "an earlier error");
    ck_assert_ptr_null(heed_file_open(ctx, path));
    ck_assert(!heed_is_valid(heed_file_tensor(file, "t")));
    ck_assert_int_eq(heed_tensors_save(ctx, directory, 1, &name, &t, 0, NULL), HEED_ERROR_NUMERIC);
    test_error(ctx, HEED_ERROR_NUMERIC, "an earlier error", "kept");
    heed_file_free(file);
}
END_TEST

START_TEST(null_is_accepted) {
    heed_file_entry entry;
    heed_metadata pair;
    heed_file_free(NULL);
    ck_assert_int_eq(heed_file_count(NULL), 0);
    ck_assert(!heed_file_info(NULL, 0, &entry));
    ck_assert_int_eq(heed_file_find(NULL, "a"), -1);
    ck_assert(heed_is_none(heed_file_tensor(NULL, "a")));
    ck_assert_ptr_null(heed_file_metadata(NULL, "a"));
    ck_assert(!heed_file_metadata_at(NULL, 0, &pair));
    ck_assert_ptr_null(heed_file_open(NULL, path));
    ck_assert_int_ne(heed_tensors_save(NULL, path, 0, NULL, NULL, 0, NULL), HEED_OK);
    ck_assert_int_ne(heed_params_save(NULL, path), HEED_OK);
    ck_assert_int_ne(heed_params_load(NULL, path), HEED_OK);
    ck_assert_int_ne(heed_checkpoint_save(NULL, NULL, path, NULL), HEED_OK);
    ck_assert_int_ne(heed_checkpoint_load(NULL, NULL, path, NULL), HEED_OK);
    heed_checkpoint_info_clear(NULL);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors");
    TCase *tcase = test_case(suite, "safetensors");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, every_dtype_and_shape, 0, 4 * SHAPES);
    tcase_add_test(tcase, strided_views_are_written_row_major);
    tcase_add_test(tcase, no_tensors_at_all);
    tcase_add_test(tcase, bytes_are_as_the_format_says);
    tcase_add_test(tcase, order_of_arguments_does_not_matter);
    tcase_add_test(tcase, info_lists_tensors_in_the_order_of_their_data);
    tcase_add_test(tcase, metadata_of_any_text);
    tcase_add_test(tcase, every_dtype_of_the_format_is_known);
    tcase_add_test(tcase, files_of_more_than_4_gib);
    tcase_add_test(tcase, bad_arguments);
    tcase_add_test(tcase, other_contexts_and_stale_tensors);
    tcase_add_test(tcase, nothing_happens_after_an_error);
    tcase_add_test(tcase, null_is_accepted);
    return test_main(suite);
}
