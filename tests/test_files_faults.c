/* Every system call and every allocation on the way to a file and back fails once. The linker hands the calls
 * of the libraries to the functions here (--wrap). */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <heed/io.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "harness_files.h"

/* ---- calls that fail on command ---- */

static bool armed;       /* calls are counted */
static int64_t calls;    /* so far */
static int64_t fail_at;  /* the one that fails */
static bool in_portions; /* transfers are cut short, and every other one is interrupted */

static bool fails(int number) {
    if (!armed || ++calls != fail_at) return false;
    errno = number;
    return true;
}

/* How much of a transfer goes through; −1: interrupted. */
static ssize_t portion(size_t bytes) {
    static int turn;
    if (!armed || !in_portions) return (ssize_t)bytes;
    if (turn++ % 2) return bytes < 7 ? (ssize_t)bytes : 7;
    errno = EINTR;
    return -1;
}

#define WRAP(type, name, parameters, arguments, failed, number)                                              \
    type __real_##name parameters;                                                                           \
    type __wrap_##name parameters;                                                                           \
    type __wrap_##name parameters {                                                                          \
        if (fails(number)) return failed;                                                                    \
        return __real_##name arguments;                                                                      \
    }

WRAP(void *, malloc, (size_t bytes), (bytes), NULL, ENOMEM)
WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), NULL, ENOMEM)
WRAP(void *, realloc, (void *old, size_t bytes), (old, bytes), NULL, ENOMEM)
WRAP(char *, strdup, (const char *text), (text), NULL, ENOMEM)
WRAP(char *, realpath, (const char *from, char *to), (from, to), NULL, ENOMEM)
WRAP(int, fsync, (int fd), (fd), -1, EIO)
WRAP(int, flock, (int fd, int operation), (fd, operation), -1, ENOLCK)
WRAP(int, ftruncate, (int fd, off_t bytes), (fd, bytes), -1, EIO)
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), -1, EACCES)

ssize_t __real_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes) {
    if (fails(ENOSPC)) return -1;
    const ssize_t part = portion(bytes);
    return part < 0 ? part : __real_write(fd, data, (size_t)part);
}

ssize_t __real_pread(int fd, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *data, size_t bytes, off_t offset) {
    if (fails(EIO)) return -1;
    const ssize_t part = portion(bytes);
    return part < 0 ? part : __real_pread(fd, data, (size_t)part, offset);
}

/* A close that fails has closed. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
    const bool failed = fails(EIO);
    const int result = __real_close(fd);
    if (failed) errno = EIO;
    return failed ? -1 : result;
}

int __real_openat(int at, const char *path, int flags, ...);
int __wrap_openat(int at, const char *path, int flags, ...);
int __wrap_openat(int at, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const int mode = va_arg(list, int);
    va_end(list);
    return fails(EMFILE) ? -1 : __real_openat(at, path, flags, mode);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    return fails(EMFILE) ? -1 : __real_open(path, flags, 0666);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
    return fails(EMFILE) ? -1 : __real_fcntl(fd, command, 0);
}

/* ---- a model and its files ---- */

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
static heed_ctx *ctx;
static heed_module *model;
static heed_optim *optim;

static void setup(void) {
    test_directory_make(directory);
    test_path(directory, "a.safetensors", path);
    ctx = test_ref();
    model = heed_dense_new(ctx, &(heed_dense_options){.in = 3, .out = 2});
    optim = heed_adamw_new(model, NULL);
    test_ok(ctx);
}

static void teardown(void) {
    heed_optim_free(optim);
    heed_module_free(model);
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}

static void train(void) {
    const heed_tensor x = heed_full(ctx, HEED_F32, HEED_SHAPE(1, 3), 0.5);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(heed_sum(heed_forward(model, x), HEED_ALL, false));
    heed_optim_step(optim, 0.1);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    heed_free(x);
}

static int open_files(void) {
    return test_directory_count("/proc/self/fd");
}

static char *model_bytes(size_t *bytes) {
    char name[TEST_PATH_BYTES];
    test_path(directory, "compare", name);
    ck_assert_int_eq(heed_checkpoint_save(model, optim, name, NULL), HEED_OK);
    char *content = test_file_read(name, bytes);
    ck_assert_int_eq(unlink(name), 0);
    return content;
}

/* ---- the tests ---- */

static bool same(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

START_TEST(every_call_of_a_save_fails_once) {
    ck_assert_int_eq(heed_checkpoint_save(model, optim, path, NULL), HEED_OK);
    size_t old_bytes, new_bytes, bytes;
    char *old = test_file_read(path, &old_bytes);
    train();
    char *new = model_bytes(&new_bytes);
    const int files = open_files();
    json_set_alloc_funcs(__wrap_malloc, free);
    for (fail_at = 1; fail_at == 1 || calls >= fail_at - 1; fail_at++) {
        calls = 0;
        armed = true;
        const heed_status status = heed_checkpoint_save(model, optim, path, NULL);
        armed = false;
        char *now = test_file_read(path, &bytes);
        const bool written = status == HEED_OK || strstr(heed_error(ctx), "was written") != NULL;
        ck_assert_int_eq(status, heed_error_status(ctx));
        if (calls < fail_at) ck_assert_int_eq(status, HEED_OK);
        ck_assert_msg(written ? same(now, bytes, new, new_bytes) : same(now, bytes, old, old_bytes),
                      "call %d: %s", (int)fail_at, heed_error(ctx));
        if (written) test_file_write(path, old, old_bytes);
        ck_assert_msg(test_directory_count(directory) == 1, "call %d left a file: %s", (int)fail_at,
                      heed_error(ctx));
        ck_assert_int_eq(open_files(), files);
        heed_error_clear(ctx);
        free(now);
    }
    json_set_alloc_funcs(__real_malloc, free);
    ck_assert_int_gt(fail_at, 30);
    free(old);
    free(new);
}
END_TEST

/* jansson's own allocations while it parses are left out: heed asks for that memory before (see
 * src/io/header.c). */
START_TEST(every_call_of_a_load_fails_once) {
    ck_assert_int_eq(heed_checkpoint_save(model, optim, path, NULL), HEED_OK);
    train();
    size_t old_bytes, bytes;
    char *old = model_bytes(&old_bytes);
    const int files = open_files();
    for (fail_at = 1; fail_at == 1 || calls >= fail_at - 1; fail_at++) {
        heed_checkpoint_info info;
        calls = 0;
        armed = true;
        const heed_status status = heed_checkpoint_load(model, optim, path, &info);
        armed = false;
        ck_assert_int_eq(status, heed_error_status(ctx));
        if (calls < fail_at) ck_assert_int_eq(status, HEED_OK);
        ck_assert_int_eq(status == HEED_OK, info.text != NULL);
        heed_error_clear(ctx);
        ck_assert_int_eq(open_files(), files);
        char *now = model_bytes(&bytes);
        ck_assert_int_eq(status != HEED_OK, same(now, bytes, old, old_bytes));
        if (status == HEED_OK) train();
        free(now);
        heed_checkpoint_info_clear(&info);
    }
    ck_assert_int_gt(fail_at, 30);
    free(old);
}
END_TEST

START_TEST(transfers_in_portions) {
    size_t whole_bytes, bytes;
    char *whole = model_bytes(&whole_bytes);
    armed = in_portions = true;
    ck_assert_int_eq(heed_checkpoint_save(model, optim, path, NULL), HEED_OK);
    armed = false;
    char *pieces = test_file_read(path, &bytes);
    ck_assert(same(whole, whole_bytes, pieces, bytes));
    free(pieces);
    train();
    armed = true;
    ck_assert_int_eq(heed_checkpoint_load(model, optim, path, NULL), HEED_OK);
    armed = false;
    pieces = model_bytes(&bytes);
    ck_assert(same(whole, whole_bytes, pieces, bytes));
    free(pieces);
    free(whole);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("files_faults");
    TCase *tcase = test_case(suite, "faults");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, every_call_of_a_save_fails_once);
    tcase_add_test(tcase, every_call_of_a_load_fails_once);
    tcase_add_test(tcase, transfers_in_portions);
    return test_main(suite);
}
