/* Writing files: whatever stops it, there is the old file or the new one. */
#include "harness.h"

#include <fcntl.h>
#include <heed/io.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness_files.h"

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES], temp[TEST_PATH_BYTES];
static heed_ctx *ctx;

static void setup(void) {
    test_directory_make(directory);
    test_path(directory, "a.safetensors", path);
    test_path(directory, "a.safetensors.tmp", temp);
    ctx = test_cpu();
}

static void teardown(void) {
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}

/* A file of one tensor that is `value` everywhere. */
static heed_status save(heed_ctx *of, const char *where, int64_t count, double value) {
    heed_tensor t = heed_full(of, HEED_F32, HEED_SHAPE(count), value);
    const char *name = "t";
    char text[32];
    snprintf(text, sizeof text, "%g", value);
    const heed_metadata pair = {"value", text};
    const heed_status status = heed_tensors_save(of, where, 1, &name, &t, 1, &pair);
    heed_free(t);
    return status;
}

/* Checks that the file is complete, and returns its value. */
static double load(const char *where) {
    heed_file *file = heed_file_open(ctx, where);
    ck_assert_msg(file != NULL, "%s", heed_error(ctx));
    const heed_tensor t = heed_file_tensor(file, "t");
    int64_t count;
    double *values = test_values(t, &count);
    const double value = values[0];
    for (int64_t i = 0; i < count; i++) ck_assert_double_eq(values[i], value);
    ck_assert_double_eq(strtod(heed_file_metadata(file, "value"), NULL), value);
    free(values);
    heed_free(t);
    heed_file_free(file);
    return value;
}

/* ---- what can be in the way ---- */

START_TEST(old_files_are_replaced) {
    ck_assert_int_eq(save(ctx, path, 10, 1), HEED_OK);
    ck_assert_int_eq(save(ctx, path, 5, 2), HEED_OK);
    ck_assert_double_eq(load(path), 2);
    ck_assert_int_eq(test_directory_count(directory), 1);
}
END_TEST

START_TEST(paths_without_directory) {
    char old[TEST_PATH_BYTES];
    ck_assert_ptr_nonnull(getcwd(old, sizeof old));
    ck_assert_int_eq(chdir(directory), 0);
    ck_assert_int_eq(save(ctx, "a.safetensors", 10, 1), HEED_OK);
    ck_assert_int_eq(chdir(old), 0);
    ck_assert_double_eq(load(path), 1);
}
END_TEST

START_TEST(links_stay_links) {
    char link[TEST_PATH_BYTES];
    struct stat about;
    test_path(directory, "latest", link);
    ck_assert_int_eq(save(ctx, path, 10, 1), HEED_OK);
    ck_assert_int_eq(symlink("a.safetensors", link), 0);
    ck_assert_int_eq(save(ctx, link, 10, 2), HEED_OK);
    ck_assert(lstat(link, &about) == 0 && S_ISLNK(about.st_mode));
    ck_assert_double_eq(load(path), 2);
}
END_TEST

static void check_fails(const char *where, heed_status status, const char *message) {
    ck_assert_int_eq(save(ctx, where, 10, 1), status);
    test_error(ctx, status, message, where);
}

START_TEST(places_where_nothing_can_be_written) {
    char name[TEST_PATH_BYTES];
    check_fails(directory, HEED_ERROR_IO, "is a directory");
    check_fails(test_path(directory, "none/a", name), HEED_ERROR_IO,
                "none/a: cannot open its directory: No such file");
    check_fails(test_path(directory, "", name), HEED_ERROR_IO, "is a directory");
    check_fails(test_path(directory, "none/", name), HEED_ERROR_IO, "is the path of a directory");
    char *long_name = malloc(300);
    memset(long_name, 'n', 299);
    long_name[299] = '\0';
    check_fails(test_path(directory, long_name, name), HEED_ERROR_IO, "File name too long");
    free(long_name);
    ck_assert_int_eq(test_directory_count(directory), 0);
}
END_TEST

START_TEST(what_has_the_temporary_name_is_not_followed) {
    char other[TEST_PATH_BYTES];
    test_path(directory, "other", other);
    test_file_write(other, "precious", 8);
    ck_assert_int_eq(symlink("other", temp), 0);
    check_fails(path, HEED_ERROR_IO, "cannot create its temporary file");
    ck_assert_int_eq(unlink(temp), 0);
    ck_assert_int_eq(link(other, temp), 0);
    check_fails(path, HEED_ERROR_IO, "its temporary file a.safetensors.tmp is in the way");
    ck_assert_int_eq(unlink(temp), 0);
    ck_assert_int_eq(mkfifo(temp, 0600), 0);
    check_fails(path, HEED_ERROR_IO, "its temporary file");
    char *content = test_file_read(other, NULL);
    ck_assert_str_eq(content, "precious");
    free(content);
}
END_TEST

START_TEST(leftovers_are_replaced) {
    char *rubbish = calloc(1, 100000);
    test_file_write(temp, rubbish, 100000);
    free(rubbish);
    ck_assert_int_eq(save(ctx, path, 10, 1), HEED_OK);
    ck_assert_double_eq(load(path), 1);
    ck_assert_int_eq(test_directory_count(directory), 1);
}
END_TEST

START_TEST(two_writers_at_once) {
    ck_assert_int_eq(save(ctx, path, 10, 1), HEED_OK);
    const int fd = open(temp, O_WRONLY | O_CREAT, 0666);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    check_fails(path, HEED_ERROR_IO, "is being written by another program");
    ck_assert(test_file_exists(temp));
    ck_assert_double_eq(load(path), 1);
    close(fd);
    ck_assert_int_eq(save(ctx, path, 10, 2), HEED_OK);
    ck_assert_double_eq(load(path), 2);
}
END_TEST

/* ---- a full disk ---- */

START_TEST(devices_are_written_directly) {
    struct stat about;
    ck_assert_int_eq(save(ctx, "/dev/full", 1000, 1), HEED_ERROR_IO);
    test_error(ctx, HEED_ERROR_IO, "/dev/full: writing failed: No space left on device", "/dev/full");
    ck_assert(stat("/dev/full", &about) == 0 && S_ISCHR(about.st_mode));
    ck_assert_int_eq(save(ctx, "/dev/null", 1000, 1), HEED_OK);
    ck_assert(stat("/dev/null", &about) == 0 && S_ISCHR(about.st_mode));
}
END_TEST

/* Signals are as a program has them by default: the limit and the pipe must not end the process. */
START_TEST(a_limit_on_file_sizes) {
    ck_assert_int_eq(save(ctx, path, 10, 1), HEED_OK);
    size_t bytes, bytes_after;
    char *before = test_file_read(path, &bytes);
    struct rlimit old, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    for (rlim_t most = 0; most < 5000; most += 97) {
        limit = (struct rlimit){.rlim_cur = most, .rlim_max = old.rlim_max};
        /* No assertion in between: Check writes to a file of its own. */
        setrlimit(RLIMIT_FSIZE, &limit);
        const heed_status status = save(ctx, path, 1250, 2);
        setrlimit(RLIMIT_FSIZE, &old);
        ck_assert_int_eq(status, HEED_ERROR_IO);
        test_error(ctx, HEED_ERROR_IO, "a.safetensors: writing failed: File too large", "limit");
        char *after = test_file_read(path, &bytes_after);
        ck_assert_uint_eq(bytes_after, bytes);
        ck_assert_mem_eq(after, before, bytes);
        free(after);
        ck_assert_int_eq(test_directory_count(directory), 1);
    }
    free(before);
    sigset_t pending, mask;
    sigpending(&pending);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    ck_assert(!sigismember(&pending, SIGXFSZ) && !sigismember(&mask, SIGXFSZ) &&
              !sigismember(&mask, SIGPIPE));
    ck_assert_int_eq(save(ctx, path, 1250, 2), HEED_OK);
    ck_assert_double_eq(load(path), 2);
}
END_TEST

START_TEST(a_closed_pipe) {
    int ends[2];
    char name[64];
    ck_assert_int_eq(pipe(ends), 0);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[1]);
    ck_assert_int_eq(save(ctx, name, 10, 1), HEED_OK);
    close(ends[0]);
    ck_assert_int_eq(save(ctx, name, 10, 1), HEED_ERROR_IO);
    test_error(ctx, HEED_ERROR_IO, "Broken pipe", "pipe");
    close(ends[1]);
}
END_TEST

/* ---- killed ---- */

/* Saves again and again until it is killed. */
static void save_for_ever(void) {
    heed_ctx *own = heed_ctx_new(NULL);
    for (double value = 1;; value++) {
        if (save(own, path, 100000, value) != HEED_OK) _exit(1);
    }
}

START_TEST(killed_while_writing) {
    for (int round = 0; round < test_size(8, 4); round++) {
        ck_assert_int_eq(save(ctx, path, 100000, 0), HEED_OK);
        const pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) save_for_ever();
        while (load(path) == 0) {
        }
        nanosleep(&(struct timespec){0, 700000L * (round + 1)}, NULL);
        ck_assert_int_eq(kill(child, SIGKILL), 0);
        int end;
        ck_assert_int_eq(waitpid(child, &end, 0), child);
        ck_assert(WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL);
        ck_assert_double_ge(load(path), 1);
        ck_assert_int_le(test_directory_count(directory), 2);
    }
    ck_assert_int_eq(save(ctx, path, 10, 5), HEED_OK);
    ck_assert_int_eq(test_directory_count(directory), 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("files_replace");
    TCase *tcase = test_case(suite, "replace");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, old_files_are_replaced);
    tcase_add_test(tcase, paths_without_directory);
    tcase_add_test(tcase, links_stay_links);
    tcase_add_test(tcase, places_where_nothing_can_be_written);
    tcase_add_test(tcase, what_has_the_temporary_name_is_not_followed);
    tcase_add_test(tcase, leftovers_are_replaced);
    tcase_add_test(tcase, two_writers_at_once);
    tcase_add_test(tcase, devices_are_written_directly);
    tcase_add_test(tcase, a_limit_on_file_sizes);
    tcase_add_test(tcase, a_closed_pipe);
    tcase_add_test(tcase, killed_while_writing);
    return test_main(suite);
}
