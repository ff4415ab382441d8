/* How many processors the process may use: quotas of control groups in made-up folders, and the affinity
 * mask. */
#include "harness.h"
#include "tensor/processors.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void write_file(const char *root, const char *name, const char *text) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        ck_assert(mkdir(path, 0700) == 0 || errno == EEXIST);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static const struct {
    const char *groups;
    const char *name[2], *text[2]; /* files under the mount */
    int processors;                /* 0: no limit */
} quotas[] = {
    {"0::/\n", {"cpu.max"}, {"max 100000\n"}, 0},
    {"0::/\n", {"cpu.max"}, {"200000 100000\n"}, 2},
    {"0::/\n", {"cpu.max"}, {"150000 100000\n"}, 2},
    {"0::/\n", {"cpu.max"}, {"1000 100000\n"}, 1},
    {"0::/a/b\n", {"a/b/cpu.max", "a/cpu.max"}, {"max 100000\n", "300000 100000\n"}, 3},
    {"0::/a/b\n", {"a/b/cpu.max", "a/cpu.max"}, {"200000 100000\n", "300000 100000\n"}, 2},
    {"0::/not/seen/from/inside\n", {"cpu.max"}, {"400000 100000\n"}, 4},
    {"3:cpuset:/\n2:cpu,cpuacct:/x\n0::/\n",
     {"cpu,cpuacct/x/cpu.cfs_quota_us", "cpu,cpuacct/x/cpu.cfs_period_us"},
     {"500000\n", "100000\n"},
     5},
    {"1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us", "cpu/x/cpu.cfs_period_us"}, {"-1\n", "100000\n"}, 0},
    {"1:cpuset:/x\n",
     {"cpuset/x/cpu.cfs_quota_us", "cpuset/x/cpu.cfs_period_us"},
     {"100000\n", "100000\n"},
     0},
    {"0::/\n", {"cpu.max"}, {"nonsense\n"}, 0},
    {"0::/\n", {"cpu.max"}, {"100000 0\n"}, 0},
    {"no colons\n:\n", {"cpu.max"}, {"100000 100000\n"}, 0},
    {"", {NULL}, {NULL}, 0},
};

START_TEST(control_groups) {
    char root[] = "/tmp/heed-test-XXXXXX", groups[64];
    ck_assert_ptr_nonnull(mkdtemp(root));
    write_file(root, "groups", quotas[_i].groups);
    for (int i = 0; i < 2; i++)
        if (quotas[_i].name[i]) write_file(root, quotas[_i].name[i], quotas[_i].text[i]);
    snprintf(groups, sizeof groups, "%s/groups", root);
    int expected = quotas[_i].processors ? quotas[_i].processors : INT_MAX;
    ck_assert_int_eq(heed_cgroup_processors(groups, root), expected);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(heed_cgroup_processors(groups, root), INT_MAX);
}
END_TEST

START_TEST(affinity) {
    cpu_set_t all, one;
    ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
    ck_assert_int_ge(heed_processors(), 1);
    ck_assert_int_le(heed_processors(), CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
    ck_assert_int_eq(heed_processors(), 1);
    ck_assert_int_eq(sched_setaffinity(0, sizeof all, &all), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("processors");
    TCase *counts = test_case(suite, "counts");
    tcase_add_loop_test(counts, control_groups, 0, (int)(sizeof quotas / sizeof *quotas));
    tcase_add_test(counts, affinity);
    return test_main(suite);
}
