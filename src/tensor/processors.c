#include "tensor/processors.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bits of the affinity mask that are tried; systems with more processors are not known. */
enum { FEWEST_BITS = 1024, MOST_BITS = 1 << 18 };

static int processors_of_mask(void) {
    for (int bits = FEWEST_BITS; bits <= MOST_BITS; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)bits);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)bits);
        int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online <= INT_MAX ? (int)online : 1;
}

/* ---- control groups ---- */

/* The first line of a file, without its end. False if it cannot be read. */
static bool first_line(const char *folder, const char *name, char *line, int bytes) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path) return false;
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool read = fgets(line, bytes, file) != NULL;
    fclose(file);
    if (read) line[strcspn(line, "\n")] = 0;
    return read;
}

static int processors_of_quota(const char *quota, const char *period) {
    char *end_quota, *end_period;
    long long q = strtoll(quota, &end_quota, 10), p = strtoll(period, &end_period, 10);
    if (end_quota == quota || end_period == period || q <= 0 || p <= 0)
        return INT_MAX; /* "max" or −1: none */
    long long count = q / p + (q % p != 0);
    return count < INT_MAX ? (int)count : INT_MAX;
}

/* The quota of the group with this folder, of either version. */
static int processors_of_folder(const char *folder) {
    char quota[64], period[64];
    if (first_line(folder, "cpu.max", quota, sizeof quota)) {
        char *space = strchr(quota, ' ');
        return space ? processors_of_quota(quota, space + 1) : INT_MAX;
    }
    if (first_line(folder, "cpu.cfs_quota_us", quota, sizeof quota) &&
        first_line(folder, "cpu.cfs_period_us", period, sizeof period))
        return processors_of_quota(quota, period);
    return INT_MAX;
}

/* The least of a group's quota and those of the groups it lies in. A container may see only the end of its
 * path, as the root: folders that do not exist say nothing. */
static int processors_of_group(const char *root, const char *group) {
    char folder[PATH_MAX];
    int n = snprintf(folder, sizeof folder, "%s%s", root, group);
    if (n < 0 || (size_t)n >= sizeof folder) return INT_MAX;
    int least = INT_MAX;
    for (;;) {
        int count = processors_of_folder(folder);
        if (count < least) least = count;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < strlen(root)) return least;
        *slash = 0;
    }
}

/* Whether a comma-separated list has the controller "cpu". */
static bool has_cpu(const char *list) {
    for (; list; list = strchr(list, ',')) {
        if (*list == ',') list++;
        size_t length = strcspn(list, ",");
        if (length == 3 && memcmp(list, "cpu", 3) == 0) return true;
    }
    return false;
}

/* One line "number:controllers:path" of the file of groups. */
static int processors_of_line(char *line, const char *mount) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) return INT_MAX;
    controllers++;
    *path++ = 0;
    if (*controllers == 0) return processors_of_group(mount, path); /* version 2 */
    if (!has_cpu(controllers)) return INT_MAX;
    char root[PATH_MAX];
    int n = snprintf(root, sizeof root, "%s/%s", mount, controllers);
    return n >= 0 && (size_t)n < sizeof root ? processors_of_group(root, path) : INT_MAX;
}

int heed_cgroup_processors(const char *groups, const char *mount) {
    FILE *file = fopen(groups, "re");
    if (!file) return INT_MAX;
    int least = INT_MAX;
    char *line = NULL;
    size_t bytes = 0;
    while (getline(&line, &bytes, file) > 0) {
        int count = processors_of_line(line, mount);
        if (count < least) least = count;
    }
    free(line);
    fclose(file);
    return least;
}

int heed_processors(void) {
    int by_mask = processors_of_mask();
    int by_quota = heed_cgroup_processors("/proc/self/cgroup", "/sys/fs/cgroup");
    return by_mask < by_quota ? by_mask : by_quota;
}
