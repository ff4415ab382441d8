/* What Linux tells of this process's memory, in /proc/self. */
#include "bench.h"

#include <stdio.h>
#include <string.h>

static size_t status_bytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    char line[256];
    unsigned long long kilobytes = 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), " %llu", &kilobytes) == 1)
            break;
    fclose(file);
    return (size_t)kilobytes * 1024;
}

size_t bench_memory_now(void) {
    return status_bytes("VmRSS:");
}

size_t bench_memory_peak(void) {
    return status_bytes("VmHWM:");
}

void bench_memory_reset_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file); /* proc(5): resets VmHWM to VmRSS */
    fclose(file);
}
