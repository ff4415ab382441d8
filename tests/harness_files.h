/* Files for tests: a directory of one's own, contents in memory, safetensors files made by hand. */
#ifndef HEED_TESTS_HARNESS_FILES_H
#define HEED_TESTS_HARNESS_FILES_H

#include <stddef.h>
#include <stdint.h>

enum { TEST_PATH_BYTES = 512 };

/* Makes an empty directory below TMPDIR and puts its path into text (of TEST_PATH_BYTES). */
void test_directory_make(char *text);

/* Removes a directory with the files in it. */
void test_directory_remove(const char *path);

/* How many entries it has. */
int test_directory_count(const char *path);

/* directory/name; returns text (of TEST_PATH_BYTES). */
const char *test_path(const char *directory, const char *name, char *text);

void test_file_write(const char *path, const void *data, size_t bytes);

/* The contents with a NUL behind them, in a block for free(). */
char *test_file_read(const char *path, size_t *bytes);

/* Whether there is a file of this name. */
int test_file_exists(const char *path);

/* Copies a text without its NUL. */
void test_put(char *to, const char *text);

/* Length of the header, the header, and `data_bytes` of zeros, in a block for free(). */
char *test_safetensors(const char *header, size_t header_bytes, size_t data_bytes, size_t *bytes);

#endif
