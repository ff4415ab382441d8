/* The OpenBLAS watch. Everything that changes the process runs in a child. */
#include "harness.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/openblas.h"

#define VARIABLE "OPENBLAS_CORETYPE"

/* ---- a product that must be right on every core ---- */

enum { M = 37, N = 53, K = 71 };

static float number(int i) {
    return (float)(i * 7 % 13 - 6);
}

static bool product_is_right(void) {
    static float a[M * K], b[N * K], c[M * N];
    for (int i = 0; i < M * K; i++) a[i] = number(i);
    for (int i = 0; i < N * K; i++) b[i] = number(i + 5);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, a, K, b, K, 0, c, N);
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            float sum = 0; /* integers: exact in any order */
            for (int k = 0; k < K; k++) sum += a[i * K + k] * b[j * K + k];
            if (c[i * N + j] != sum) return false;
        }
    }
    return true;
}

/* ---- this program again, as another process with its own environment ---- */

static char self[4096];

/* Runs one of the roles below; its exit status, and the first line it printed. */
static int run_role(const char *role, const char *argument, const char *core, char line[256]) {
    char command[8192];
    snprintf(command, sizeof command, "env %s%s %s '%s' %s %s", core ? VARIABLE "=" : "-u " VARIABLE,
             core ? core : "", "HEED_TEST_ROLE=1", self, role, argument ? argument : "");
    FILE *pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    line[0] = '\0';
    if (fgets(line, 256, pipe) != NULL) line[strcspn(line, "\n")] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Prints the report of the constructor. */
static int role_report(void) {
    puts(heed_cpu_blas_report());
    return product_is_right() ? 0 : 1;
}

/* Changes to a core, as the watch does; 2: the machine or build cannot. */
static int role_select(const char *core) {
    char before[64] = "";
    const char *set = getenv(VARIABLE);
    if (set != NULL) snprintf(before, sizeof before, "%s", set);
    bool selected = heed_blas_select(core);
    const char *now = getenv(VARIABLE);
    if ((now == NULL) != (set == NULL) || (now != NULL && strcmp(now, before) != 0)) return 3;
    puts(openblas_get_corename());
    if (!product_is_right()) return 1;
    return selected ? 0 : 2;
}

/* Starts from a core that is too old, without the user having said so, and lets the watch look. */
static int role_watch(const char *core) {
    if (!heed_blas_select(core)) return 2;
    heed_blas_watch();
    puts(heed_cpu_blas_report());
    return product_is_right() ? 0 : 1;
}

/* The same while another thread of the program runs. */
static void *wait_for_end(void *arg) {
    (void)arg;
    for (;;) pause();
    return NULL;
}

static int role_watch_threaded(const char *core) {
    pthread_t thread;
    if (!heed_blas_select(core)) return 2;
    if (pthread_create(&thread, NULL, wait_for_end, NULL) != 0) return 2;
    heed_blas_watch();
    puts(heed_cpu_blas_report());
    return product_is_right() ? 0 : 1;
}

static int play_role(int argc, char **argv) {
    const char *role = argv[1], *argument = argc > 2 ? argv[2] : NULL;
    if (strcmp(role, "report") == 0) return role_report();
    if (strcmp(role, "select") == 0) return role_select(argument);
    if (strcmp(role, "watch") == 0) return role_watch(argument);
    if (strcmp(role, "watch-threaded") == 0) return role_watch_threaded(argument);
    return 4;
}

/* ---- what the machine and the library allow ---- */

static bool version_is(const char *version) {
    char text[64];
    snprintf(text, sizeof text, "OpenBLAS %s ", version);
    return strncmp(openblas_get_config(), text, strlen(text)) == 0;
}

static bool can_change(void) {
    char line[256];
    return heed_cpu_isa_detect() >= HEED_ISA_AVX2 && run_role("select", "Haswell", NULL, line) == 0;
}

/* ---- tests ---- */

START_TEST(test_best_core) {
    ck_assert_str_eq(heed_blas_best_core(HEED_ISA_AVX512, false), "SkylakeX");
    ck_assert_str_eq(heed_blas_best_core(HEED_ISA_AVX512, true), "SkylakeX");
    ck_assert_str_eq(heed_blas_best_core(HEED_ISA_AVX2, false), "Haswell");
    ck_assert_str_eq(heed_blas_best_core(HEED_ISA_AVX2, true), "Zen");
}
END_TEST

START_TEST(test_table) {
    ck_assert(heed_blas_may_change("0.3.21", "Prescott", "SkylakeX"));
    ck_assert(heed_blas_may_change("0.3.21", "Haswell", "SkylakeX"));
    ck_assert(!heed_blas_may_change("0.3.21", "SkylakeX", "Haswell"));
    ck_assert(!heed_blas_may_change("0.3.5", "Prescott", "SkylakeX"));
    ck_assert(!heed_blas_may_change("?", "Prescott", "SkylakeX"));
}
END_TEST

/* Whatever was chosen: it is named, and it multiplies. */
START_TEST(test_report) {
    char line[256];
    ck_assert_int_eq(run_role("report", NULL, NULL, line), 0);
    ck_assert_msg(strncmp(line, "OpenBLAS ", 9) == 0, "report is \"%s\"", line);
}
END_TEST

/* What the user chose is left alone, and said. */
START_TEST(test_user_chose) {
    char line[256];
    ck_assert_int_eq(run_role("report", NULL, "Prescott", line), 0);
    if (heed_cpu_isa_detect() == HEED_ISA_BASELINE || strstr(line, "Prescott") == NULL) return;
    ck_assert_msg(strstr(line, VARIABLE) != NULL, "report is \"%s\"", line);
    ck_assert_msg(strstr(line, "re-selected") == NULL, "report is \"%s\"", line);
}
END_TEST

/* Every change in the table that this machine can make: the core runs, the environment is as before, products
 * are right. */
START_TEST(test_changes) {
    char line[256];
    int made = 0;
    if (!can_change()) return;
    for (const struct heed_blas_change *c = heed_blas_changes; c->version != NULL; c++) {
        const bool avx512 = strcmp(c->to, "SkylakeX") == 0;
        if (!version_is(c->version) || (avx512 && heed_cpu_isa_detect() < HEED_ISA_AVX512)) continue;
        ck_assert_msg(run_role("select", c->to, c->from, line) == 0, "%s to %s: \"%s\"", c->from, c->to,
                      line);
        ck_assert_str_eq(line, c->to);
        made++;
    }
    ck_assert(made > 0 || !version_is("0.3.21"));
}
END_TEST

/* An unknown name changes nothing that matters. */
START_TEST(test_unknown_core) {
    char line[256];
    ck_assert_int_eq(run_role("select", "Nonsense", NULL, line), 2);
}
END_TEST

START_TEST(test_watch) {
    char line[256], expected[256];
    if (!can_change()) return;
    const int status = run_role("watch", "Prescott", NULL, line);
    ck_assert_int_eq(status, 0);
    if (!version_is("0.3.21")) {
        ck_assert_msg(strstr(line, "no change known to work") != NULL, "report is \"%s\"", line);
        return;
    }
    snprintf(expected, sizeof expected, "(re-selected from Prescott)");
    ck_assert_msg(strstr(line, expected) != NULL, "report is \"%s\"", line);
}
END_TEST

START_TEST(test_watch_with_threads) {
    char line[256];
    if (!can_change()) return;
    ck_assert_int_eq(run_role("watch-threaded", "Prescott", NULL, line), 0);
    ck_assert_msg(strstr(line, "Prescott (older than the processor") != NULL, "report is \"%s\"", line);
}
END_TEST

START_TEST(test_prepare) {
    heed_cpu_blas_prepare();
    ck_assert_int_eq(openblas_get_num_threads(), 1);
    openblas_set_num_threads(2);
    heed_cpu_blas_prepare(); /* once only: who raises it again is not overruled */
    ck_assert_int_eq(openblas_get_num_threads(), 2);
}
END_TEST

int main(int argc, char **argv) {
    if (argc > 1 && getenv("HEED_TEST_ROLE") != NULL) return play_role(argc, argv);
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return 77; /* skipped */
    self[length] = '\0';
    Suite *suite = suite_create("openblas");
    TCase *rules = test_case(suite, "rules");
    tcase_add_test(rules, test_best_core);
    tcase_add_test(rules, test_table);
    tcase_add_test(rules, test_prepare);
    TCase *children = test_case(suite, "children");
    tcase_add_test(children, test_report);
    tcase_add_test(children, test_user_chose);
    tcase_add_test(children, test_changes);
    tcase_add_test(children, test_unknown_core);
    tcase_add_test(children, test_watch);
    tcase_add_test(children, test_watch_with_threads);
    return test_main(suite);
}
