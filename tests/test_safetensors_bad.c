/* Safetensors files that are not as they should be: every one gives an error that says what is wrong, and
 * none does harm. */
#include "harness.h"

#include <heed/io.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness_files.h"

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
static heed_ctx *ctx;

static void setup(void) {
    test_directory_make(directory);
    test_path(directory, "bad.safetensors", path);
    ctx = test_cpu();
}

static void teardown(void) {
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}

/* ---- headers ---- */

/* One tensor of the given dtype, shape and data_offsets, as text of JSON. */
#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *header;
    int data; /* bytes behind it */
    const char *message;
} headers[] = {
    {"", 0, "header does not begin with '{'"},
    {"[]", 0, "header does not begin with '{'"},
    {" {}", 0, "header does not begin with '{'"},
    {"{", 0, "header is not valid JSON at byte 1"},
    {"{}x", 0, "header is not valid JSON"},
    {"{}{}", 0, "header is not valid JSON"},
    {"{'a':1}", 0, "header is not valid JSON"},
    {"{\"a\\u0000b\":1}", 0, "header is not valid JSON"},
    {"{\"\xFF\":1}", 0, "header is not valid JSON"},
    {"{\"\\ud800\":1}", 0, "header is not valid JSON"},
    {"{" T("a", "\"F32\"", "[1]", "[0,4]") "," T("a", "\"F32\"", "[1]", "[0,4]") "}", 4,
     "duplicate object key"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate object key"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0, "duplicate object key"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":null}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__: the value of \"k\" is not a string"},
    {"{\"a\":1}", 0, "tensor \"a\": is not described by an object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor \"a\": has no dtype"},
    {"{" T("a", "32", "[1]", "[0,4]") "}", 4, "tensor \"a\": dtype is not a string"},
    {"{" T("a", "\"F33\"", "[1]", "[0,4]") "}", 4, "tensor \"a\": dtype \"F33\" is not known"},
    {"{" T("a", "\"f32\"", "[1]", "[0,4]") "}", 4, "tensor \"a\": dtype \"f32\" is not known"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor \"a\": has no shape"},
    {"{" T("a", "\"F32\"", "{}", "[0,4]") "}", 4, "tensor \"a\": shape is not an array"},
    {"{" T("a", "\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4,
     "tensor \"a\": shape has 9 sizes, the most is 8"},
    {"{" T("a", "\"F32\"", "[1,1.0]", "[0,4]") "}", 4, "tensor \"a\": shape[1] is not an integer"},
    {"{" T("a", "\"F32\"", "[1e0]", "[0,4]") "}", 4, "tensor \"a\": shape[0] is not an integer"},
    {"{" T("a", "\"F32\"", "[\"1\"]", "[0,4]") "}", 4, "tensor \"a\": shape[0] is not an integer"},
    {"{" T("a", "\"F32\"", "[null]", "[0,4]") "}", 4, "tensor \"a\": shape[0] is not an integer"},
    {"{" T("a", "\"F32\"", "[-1]", "[0,4]") "}", 4, "tensor \"a\": shape[0] is -1"},
    {"{" T("a", "\"F32\"", "[9223372036854775808]", "[0,4]") "}", 4, "too big integer"},
    {"{" T("a", "\"F32\"", "[9223372036854775807]", "[0,4]") "}", 4, "of F32 is too large"},
    {"{" T("a", "\"F32\"", "[4294967296,4294967296]", "[0,0]") "}", 0, "of F32 is too large"},
    {"{" T("a", "\"F32\"", "[4294967296,4294967296,0]", "[0,0]") "}", 0, "of F32 is too large"},
    {"{" T("a", "\"F4\"", "[3]", "[0,1]") "}", 1, "shape [3] of F4 is too large or no whole number of bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor \"a\": has no data_offsets"},
    {"{" T("a", "\"F32\"", "[1]", "4") "}", 4, "data_offsets is not an array of two integers"},
    {"{" T("a", "\"F32\"", "[1]", "[0]") "}", 4, "data_offsets is not an array of two integers"},
    {"{" T("a", "\"F32\"", "[1]", "[0,4,8]") "}", 4, "data_offsets is not an array of two integers"},
    {"{" T("a", "\"F32\"", "[1]", "[0.0,4]") "}", 4, "data_offsets[0] is not an integer"},
    {"{" T("a", "\"F32\"", "[1]", "[0,true]") "}", 4, "data_offsets[1] is not an integer"},
    {"{" T("a", "\"F32\"", "[1]", "[-4,0]") "}", 4, "tensor \"a\": data_offsets[0] is -4"},
    {"{" T("a", "\"F32\"", "[1]", "[4,0]") "}", 4, "tensor \"a\": data begins at byte 4, after its end at 0"},
    {"{" T("a", "\"F32\"", "[2]", "[0,8]") "}", 4,
     "tensor \"a\": data ends at byte 8, the file has 4 bytes of data"},
    {"{" T("a", "\"F32\"", "[1]", "[9223372036854775803,9223372036854775807]") "}", 4,
     "data ends at byte 9223372036854775807"},
    {"{" T("a.weight", "\"F32\"", "[2,2]", "[0,12]") "}", 12,
     "bad.safetensors: tensor \"a.weight\": data is 12 bytes, shape [2,2] of F32 needs 16"},
    {"{" T("a", "\"F32\"", "[0]", "[0,4]") "}", 4, "data is 4 bytes, shape [0] of F32 needs 0"},
    {"{" T("a", "\"F32\"", "[]", "[0,8]") "}", 8, "data is 8 bytes, shape [] of F32 needs 4"},
    {"{" T("a", "\"F64\"", "[1]", "[0,8]") "," T("b", "\"F32\"", "[1]", "[4,8]") "}", 8,
     "tensor \"b\": data begins at byte 4, inside tensor \"a\" that ends at 8"},
    {"{" T("a", "\"F32\"", "[1]", "[0,4]") "," T("b", "\"F32\"", "[1]", "[0,4]") "}", 4,
     "tensor \"b\": data begins at byte 0, inside tensor \"a\" that ends at 4"},
    {"{" T("a", "\"F64\"", "[1]", "[0,8]") "," T("b", "\"F32\"", "[0]", "[4,4]") "}", 8,
     "inside tensor \"a\""},
    {"{" T("a", "\"F32\"", "[1]", "[4,8]") "}", 8,
     "tensor \"a\": data begins at byte 4, the data before it ends at 0"},
    {"{" T("a", "\"F32\"", "[1]", "[0,4]") "," T("b", "\"F32\"", "[1]", "[8,12]") "}", 12,
     "tensor \"b\": data begins at byte 8, the data before it ends at 4"},
    {"{" T("a", "\"F32\"", "[1]", "[0,4]") "}", 5,
     "the last tensor ends at byte 4 of the data, the file has 5"},
    {"{}", 1, "the last tensor ends at byte 0 of the data, the file has 1"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"stride\":[1]}}", 4,
     "tensor \"a\": key \"stride\" is not known"},
    {"{\"a\\n\\u001b[31m\":1}", 0, "tensor \"a??[31m\": is not described"},
};

START_TEST(headers_are_refused) {
    size_t bytes;
    char *file =
        test_safetensors(headers[_i].header, strlen(headers[_i].header), (size_t)headers[_i].data, &bytes);
    test_file_write(path, file, bytes);
    free(file);
    ck_assert_ptr_null(heed_file_open(ctx, path));
    test_error(ctx, HEED_ERROR_FORMAT, headers[_i].message, headers[_i].header);
}
END_TEST

START_TEST(deep_nesting_is_refused) {
    char header[40000];
    memset(header, '[', sizeof header);
    test_put(header, "{\"a\":");
    size_t bytes;
    char *file = test_safetensors(header, sizeof header, 0, &bytes);
    test_file_write(path, file, bytes);
    free(file);
    ck_assert_ptr_null(heed_file_open(ctx, path));
    test_error(ctx, HEED_ERROR_FORMAT, "header is not valid JSON", "nesting");
}
END_TEST

START_TEST(long_names_are_cut_in_messages) {
    char header[3000];
    memset(header, 'n', sizeof header);
    test_put(header, "{\"");
    test_put(header + sizeof header - 4, "\":1}");
    size_t bytes;
    char *file = test_safetensors(header, sizeof header, 0, &bytes);
    test_file_write(path, file, bytes);
    free(file);
    ck_assert_ptr_null(heed_file_open(ctx, path));
    test_error(ctx, HEED_ERROR_FORMAT, "nnn…\": is not described by an object", "long name");
}
END_TEST

/* ---- whole files ---- */

static void check_open(heed_status status, const char *message) {
    ck_assert_ptr_null(heed_file_open(ctx, path));
    test_error(ctx, status, message, message);
}

static void write_length(uint64_t length, off_t file_bytes) {
    test_file_write(path, &length, sizeof length);
    ck_assert_int_eq(truncate(path, file_bytes), 0);
}

START_TEST(lengths_are_refused) {
    test_file_write(path, "", 0);
    check_open(HEED_ERROR_FORMAT, "is 0 bytes long, too short");
    test_file_write(path, "\2\0\0\0\0\0\0", 7);
    check_open(HEED_ERROR_FORMAT, "is 7 bytes long, too short");
    write_length(0, 8);
    check_open(HEED_ERROR_FORMAT, "header does not begin with '{'");
    write_length(3, 10);
    check_open(HEED_ERROR_FORMAT, "header of 3 bytes, the file has 2 left");
    write_length(100000000, 20);
    check_open(HEED_ERROR_FORMAT, "header of 100000000 bytes, the file has 12 left");
    write_length(100000001, 100000020);
    check_open(HEED_ERROR_FORMAT, "header of 100000001 bytes, the most is 100000000");
    write_length(UINT64_MAX, 20);
    check_open(HEED_ERROR_FORMAT, "header of 18446744073709551615 bytes");
    write_length(UINT64_MAX - 7, 20);
    check_open(HEED_ERROR_FORMAT, "header of 18446744073709551608 bytes");
}
END_TEST

START_TEST(the_longest_header_is_read) {
    const size_t length = 100000000;
    char *header = malloc(length);
    ck_assert_ptr_nonnull(header);
    memset(header, ' ', length);
    test_put(header, "{}");
    size_t bytes;
    char *file = test_safetensors(header, length, 0, &bytes);
    test_file_write(path, file, bytes);
    free(file);
    free(header);
    heed_file *opened = heed_file_open(ctx, path);
    test_ok(ctx);
    ck_assert_ptr_nonnull(opened);
    heed_file_free(opened);
}
END_TEST

START_TEST(what_is_no_file_is_refused) {
    check_open(HEED_ERROR_IO, "bad.safetensors: cannot open: No such file or directory");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    check_open(HEED_ERROR_IO, "is not a regular file");
    snprintf(path, sizeof path, "%s", directory);
    check_open(HEED_ERROR_IO, "is a directory");
    snprintf(path, sizeof path, "/dev/zero");
    check_open(HEED_ERROR_IO, "/dev/zero: is not a regular file");
    ck_assert_ptr_null(heed_file_open(ctx, NULL));
    test_error(ctx, HEED_ERROR_ARGUMENT, "no path given", "NULL");
    ck_assert_ptr_null(heed_file_open(ctx, ""));
    test_error(ctx, HEED_ERROR_ARGUMENT, "no path given", "empty");
}
END_TEST

START_TEST(a_bool_of_two_is_refused) {
    size_t bytes;
    const char header[] = "{" T("b", "\"BOOL\"", "[2]", "[0,2]") "}";
    char *file = test_safetensors(header, sizeof header - 1, 2, &bytes);
    file[bytes - 1] = 2;
    test_file_write(path, file, bytes);
    free(file);
    heed_file *opened = heed_file_open(ctx, path);
    ck_assert(!heed_is_valid(heed_file_tensor(opened, "b")));
    test_error(ctx, HEED_ERROR_FORMAT, "tensor \"b\": has an element that is neither 0 nor 1", "bool");
    heed_file_free(opened);
}
END_TEST

START_TEST(a_file_cut_while_open_is_an_error) {
    size_t bytes;
    const char header[] = "{" T("a", "\"F32\"", "[4]", "[0,16]") "}";
    char *file = test_safetensors(header, sizeof header - 1, 16, &bytes);
    test_file_write(path, file, bytes);
    free(file);
    heed_file *opened = heed_file_open(ctx, path);
    ck_assert_int_eq(truncate(path, (off_t)bytes - 1), 0);
    ck_assert(!heed_is_valid(heed_file_tensor(opened, "a")));
    test_error(ctx, HEED_ERROR_FORMAT, "tensor \"a\": ended at byte", "cut");
    heed_file_free(opened);
}
END_TEST

/* ---- a good file, damaged ---- */

/* A file with tensors of all dtypes and metadata, in a block for free(). */
static char *good_file(size_t *bytes) {
    const char *names[] = {"a.weight", "b", "mask", "none", "scalar", "wide"};
    const heed_tensor tensors[] = {heed_full(ctx, HEED_F32, HEED_SHAPE(2, 3), 1.5),
                                   heed_full(ctx, HEED_I32, HEED_SHAPE(3), -7),
                                   heed_full(ctx, HEED_BOOL, HEED_SHAPE(5), 1),
                                   heed_zeros(ctx, HEED_F32, HEED_SHAPE(4, 0)),
                                   heed_full(ctx, HEED_F32, 0, NULL, 3),
                                   heed_full(ctx, HEED_F64, HEED_SHAPE(1, 2, 1), 0.1)};
    const heed_metadata pairs[] = {{"format", "test"}, {"x", "y"}};
    ck_assert_int_eq(heed_tensors_save(ctx, path, 6, names, tensors, 2, pairs), HEED_OK);
    return test_file_read(path, bytes);
}

/* A file in memory that can be opened by a path. */
struct memory_file {
    int fd;
    char path[64];
};

static struct memory_file memory_file_new(void) {
    struct memory_file file = {.fd = memfd_create("heed-test", MFD_CLOEXEC)};
    ck_assert_int_ge(file.fd, 0);
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.fd);
    return file;
}

static void memory_file_set(const struct memory_file *file, const char *data, size_t bytes) {
    ck_assert_int_eq(ftruncate(file->fd, (off_t)bytes), 0);
    ck_assert_int_eq(pwrite(file->fd, data, bytes, 0), (ssize_t)bytes);
}

/* Opens a file and reads all of it. Whatever opens must be consistent in itself. Returns whether it opened.
 */
static bool read_everything(const char *name) {
    heed_file *file = heed_file_open(ctx, name);
    if (!file) {
        ck_assert(heed_failed(ctx) && *heed_error(ctx));
        ck_assert_ptr_null(strchr(heed_error(ctx), '\n'));
        heed_error_clear(ctx);
        return false;
    }
    test_ok(ctx);
    for (int64_t i = 0; i < heed_file_count(file); i++) {
        heed_file_entry entry;
        ck_assert(heed_file_info(file, i, &entry));
        ck_assert_int_eq(heed_file_find(file, entry.name), i);
        const heed_tensor t = heed_file_tensor(file, entry.name);
        ck_assert_int_eq(heed_is_valid(t), !heed_failed(ctx));
        if (heed_is_valid(t)) {
            ck_assert_int_eq(heed_count(t) * (int64_t)heed_dtype_bytes(entry.dtype), entry.bytes);
        }
        heed_error_clear(ctx);
        heed_free(t);
    }
    heed_metadata pair;
    for (int64_t i = 0; heed_file_metadata_at(file, i, &pair); i++) {
        ck_assert_ptr_eq(heed_file_metadata(file, pair.key), pair.value);
    }
    heed_file_free(file);
    return true;
}

START_TEST(truncation_at_every_byte) {
    size_t bytes;
    char *file = good_file(&bytes);
    const struct memory_file copy = memory_file_new();
    for (size_t n = 0; n < bytes; n++) {
        memory_file_set(&copy, file, n);
        ck_assert_msg(!read_everything(copy.path), "the first %zu of %zu bytes were accepted", n, bytes);
    }
    memory_file_set(&copy, file, bytes);
    ck_assert(read_everything(copy.path));
    memory_file_set(&copy, file, bytes + 1); /* with the NUL behind it */
    ck_assert(!read_everything(copy.path));
    close(copy.fd);
    free(file);
}
END_TEST

START_TEST(every_flipped_bit) {
    size_t bytes;
    char *file = good_file(&bytes);
    const struct memory_file copy = memory_file_new();
    int opened = 0;
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        file[bit / 8] = (char)(file[bit / 8] ^ 1 << bit % 8);
        memory_file_set(&copy, file, bytes);
        opened += read_everything(copy.path);
        file[bit / 8] = (char)(file[bit / 8] ^ 1 << bit % 8);
    }
    ck_assert_int_gt(opened, 0); /* bits of elements, names and metadata */
    close(copy.fd);
    free(file);
}
END_TEST

/* What is put into headers by chance. */
static const char *const pieces[] = {"-1",
                                     "0",
                                     "1",
                                     "2",
                                     "1e9",
                                     "0.5",
                                     "4294967296",
                                     "9223372036854775807",
                                     "18446744073709551616",
                                     "{}",
                                     "[]",
                                     "null",
                                     "\"F64\"",
                                     "\"BOOL\"",
                                     "\"\"",
                                     "\"shape\"",
                                     "\"__metadata__\":{},",
                                     ",",
                                     ":",
                                     "{",
                                     "}",
                                     "[",
                                     "]",
                                     "\\u0000",
                                     "\xFF",
                                     "  "};

/* Replaces up to 4 bytes at a random place of the text by a piece. Returns the new length; there must be
 * room. */
static size_t splice(struct test_random *random, char *text, size_t bytes) {
    const char *piece = pieces[test_bits(random) % (sizeof pieces / sizeof *pieces)];
    const size_t added = strlen(piece), at = test_bits(random) % bytes;
    size_t removed = test_bits(random) % 5;
    if (removed > bytes - at) removed = bytes - at;
    memmove(text + at + added, text + at + removed, bytes - at - removed);
    test_put(text + at, piece);
    return bytes + added - removed;
}

static size_t mutate(struct test_random *random, char *text, size_t bytes) {
    for (uint64_t left = 1 + test_bits(random) % 4; left > 0 && bytes > 0; left--) {
        if (test_bits(random) % 2) {
            bytes = splice(random, text, bytes);
        } else {
            text[test_bits(random) % bytes] = (char)test_bits(random);
        }
    }
    return bytes;
}

/* The length field follows the header in most rounds, so that what is behind it is reached. */
START_TEST(random_damage) {
    size_t bytes;
    char *file = good_file(&bytes);
    uint64_t header;
    memcpy(&header, file, 8);
    char *damaged = malloc(bytes + 1000);
    ck_assert_ptr_nonnull(damaged);
    const struct memory_file copy = memory_file_new();
    struct test_random random = {(uint64_t)_i};
    for (int64_t round = test_size(5000, 500); round > 0; round--) {
        memcpy(damaged, file, 8 + header);
        const uint64_t length = mutate(&random, damaged + 8, header);
        memcpy(damaged + 8 + length, file + 8 + header, bytes - 8 - header);
        size_t total = length + bytes - header;
        if (test_bits(&random) % 8)
            memcpy(damaged, &length, 8);
        else
            total = 8 + mutate(&random, damaged + 8, total - 8);
        memory_file_set(&copy, damaged, total);
        read_everything(copy.path);
    }
    close(copy.fd);
    free(damaged);
    free(file);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors_bad");
    TCase *tcase = test_case(suite, "refused");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, headers_are_refused, 0, sizeof headers / sizeof *headers);
    tcase_add_test(tcase, deep_nesting_is_refused);
    tcase_add_test(tcase, long_names_are_cut_in_messages);
    tcase_add_test(tcase, lengths_are_refused);
    tcase_add_test(tcase, what_is_no_file_is_refused);
    tcase_add_test(tcase, a_bool_of_two_is_refused);
    tcase_add_test(tcase, a_file_cut_while_open_is_an_error);
    if (!test_small()) tcase_add_test(tcase, the_longest_header_is_read);
    TCase *damage = test_case(suite, "damage");
    tcase_add_checked_fixture(damage, setup, teardown);
    tcase_add_test(damage, truncation_at_every_byte);
    tcase_add_test(damage, every_flipped_bit);
    tcase_add_loop_test(damage, random_damage, 0, 3);
    return test_main(suite);
}
