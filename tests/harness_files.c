#include "harness_files.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void test_directory_make(char *text) {
    const char *parent = getenv("TMPDIR");
    const int n =
        snprintf(text, TEST_PATH_BYTES, "%s/heed-test-XXXXXX", parent && *parent ? parent : P_tmpdir);
    ck_assert(n > 0 && n < TEST_PATH_BYTES);
    ck_assert_msg(mkdtemp(text) != NULL, "cannot make a directory %s", text);
}

static int is_dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

void test_directory_remove(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) return;
    for (const struct dirent *entry; (entry = readdir(directory));) {
        if (!is_dots(entry->d_name)) unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
    rmdir(path);
}

int test_directory_count(const char *path) {
    DIR *directory = opendir(path);
    ck_assert_ptr_nonnull(directory);
    int count = 0;
    for (const struct dirent *entry; (entry = readdir(directory));) count += !is_dots(entry->d_name);
    closedir(directory);
    return count;
}

const char *test_path(const char *directory, const char *name, char *text) {
    const int n = snprintf(text, TEST_PATH_BYTES, "%s/%s", directory, name);
    ck_assert(n > 0 && n < TEST_PATH_BYTES);
    return text;
}

void test_file_write(const char *path, const void *data, size_t bytes) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ck_assert_msg(fd >= 0, "cannot write %s", path);
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = write(fd, (const char *)data + done, bytes - done);
        ck_assert(n > 0);
        done += (size_t)n;
    }
    ck_assert_int_eq(close(fd), 0);
}

char *test_file_read(const char *path, size_t *bytes) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    ck_assert_msg(fd >= 0 && fstat(fd, &about) == 0, "cannot read %s", path);
    char *data = calloc(1, (size_t)about.st_size + 1);
    ck_assert_ptr_nonnull(data);
    for (size_t done = 0; done < (size_t)about.st_size;) {
        const ssize_t n = read(fd, data + done, (size_t)about.st_size - done);
        ck_assert(n > 0);
        done += (size_t)n;
    }
    close(fd);
    if (bytes) *bytes = (size_t)about.st_size;
    return data;
}

int test_file_exists(const char *path) {
    struct stat about;
    return lstat(path, &about) == 0;
}

void test_put(char *to, const char *text) {
    while (*text) *to++ = *text++;
}

char *test_safetensors(const char *header, size_t header_bytes, size_t data_bytes, size_t *bytes) {
    const uint64_t length = header_bytes;
    char *file = calloc(1, 8 + header_bytes + data_bytes + 1);
    ck_assert_ptr_nonnull(file);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, header_bytes);
    *bytes = 8 + header_bytes + data_bytes;
    return file;
}
