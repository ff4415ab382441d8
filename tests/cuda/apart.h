/* For tests of what ends the process: a case in a process of its own, and what it said. */
#ifndef HEED_TESTS_CUDA_APART_H
#define HEED_TESTS_CUDA_APART_H

#include <check.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

/* Runs a case in a process of its own; what it printed. */
template <typename Run> static void run_apart(Run run, char *output, size_t bytes) {
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        run();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (;;) {
        char rest[4096];
        const bool room = length + 1 < bytes;
        const ssize_t n =
            read(ends[0], room ? output + length : rest, room ? bytes - 1 - length : sizeof rest);
        if (n <= 0) break;
        if (room) length += (size_t)n;
    }
    output[length] = '\0';
    close(ends[0]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (status != 0 && length == 0)
        snprintf(output, bytes, "ended with status %d and without a word", status);
}

/* Whether one of several texts, divided by |, is in another. */
static inline bool has(const char *output, const char *texts) {
    char text[256];
    while (*texts) {
        const size_t length = strcspn(texts, "|");
        snprintf(text, sizeof text, "%.*s", (int)length, texts);
        if (strstr(output, text)) return true;
        texts += length + (texts[length] == '|');
    }
    return false;
}

/* A program whose only test is a loop over the rows of a table. */
static inline int run_table(const char *name, const TTest *test, int rows) {
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create("cases");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test, 0, rows);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
