/* OpenBLAS is watched. A build with DYNAMIC_ARCH chooses its kernels when it is loaded, and on a processor
 * younger than itself it chooses those of a Pentium 4. While the process has no threads but OpenBLAS's own
 * idle ones, heed makes it choose again; only between cores that a table knows to work, and never against the
 * user's OPENBLAS_CORETYPE. */
#include "backend/cpu/openblas.h"

#include <cblas.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Present in builds with DYNAMIC_ARCH only. */
void gotoblas_dynamic_init(void) __attribute__((weak));
void gotoblas_dynamic_quit(void) __attribute__((weak));

#define VARIABLE "OPENBLAS_CORETYPE"

#define FROM_ALL(version, to)                                                                                \
    {version, "Prescott", to}, {version, "Core2", to}, {version, "Penryn", to}, {version, "Nehalem", to},    \
        {version, "Barcelona", to}, {                                                                        \
        version, "Sandybridge", to                                                                           \
    }

const struct heed_blas_change heed_blas_changes[] = {
    FROM_ALL("0.3.21", "Haswell"),     FROM_ALL("0.3.21", "Zen"),     FROM_ALL("0.3.21", "SkylakeX"),
    {"0.3.21", "Haswell", "SkylakeX"}, {"0.3.21", "Zen", "SkylakeX"}, {NULL, NULL, NULL},
};

/* Cores with kernels for an instruction set; all others are baseline. */
static const struct {
    const char *core;
    enum heed_isa isa;
} fitting[] = {
    {"Haswell", HEED_ISA_AVX2},          {"Zen", HEED_ISA_AVX2},
    {"SkylakeX", HEED_ISA_AVX512},       {"Cooperlake", HEED_ISA_AVX512},
    {"SapphireRapids", HEED_ISA_AVX512},
};

static enum heed_isa isa_of_core(const char *core) {
    for (size_t i = 0; i < sizeof fitting / sizeof *fitting; i++)
        if (strcmp(fitting[i].core, core) == 0) return fitting[i].isa;
    return HEED_ISA_BASELINE;
}

const char *heed_blas_best_core(enum heed_isa isa, bool amd) {
    if (isa == HEED_ISA_AVX512) return "SkylakeX";
    if (isa == HEED_ISA_AVX2) return amd ? "Zen" : "Haswell";
    return "Prescott";
}

bool heed_blas_may_change(const char *version, const char *from, const char *to) {
    for (const struct heed_blas_change *c = heed_blas_changes; c->version != NULL; c++)
        if (strcmp(c->version, version) == 0 && strcmp(c->from, from) == 0 && strcmp(c->to, to) == 0)
            return true;
    return false;
}

/* ---- what there is ---- */

static bool processor_is_amd(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d;
    char vendor[13] = "";
    if (!__get_cpuid(0, &a, &b, &c, &d)) return false;
    memcpy(vendor, &b, 4);
    memcpy(vendor + 4, &d, 4);
    memcpy(vendor + 8, &c, 4);
    return strcmp(vendor, "AuthenticAMD") == 0;
#else
    return false;
#endif
}

/* "0.3.21" out of "OpenBLAS 0.3.21 DYNAMIC_ARCH …". */
static void read_version(char version[32]) {
    if (sscanf(openblas_get_config(), "OpenBLAS %31s", version) != 1) strcpy(version, "?");
}

/* Threads of this process; 0 if unknown. */
static int count_threads(void) {
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    int threads = 0;
    if (status == NULL) return 0;
    while (threads == 0 && fgets(line, sizeof line, status) != NULL) sscanf(line, "Threads: %d", &threads);
    fclose(status);
    return threads;
}

/* Whether no thread runs but this one and the idle ones that OpenBLAS starts when it is loaded. */
static bool process_is_alone(void) {
    enum { POSIX_THREADS = 1 };
    const int threads = count_threads();
    const int expected = openblas_get_parallel() == POSIX_THREADS ? openblas_get_num_threads() : 1;
    return threads > 0 && threads <= expected;
}

/* ---- choosing again ---- */

bool heed_blas_select(const char *core) {
    char before[64];
    const char *set = getenv(VARIABLE);
    if (gotoblas_dynamic_init == NULL || gotoblas_dynamic_quit == NULL) return false;
    if (set != NULL && strlen(set) >= sizeof before) return false;
    if (set != NULL) strcpy(before, set);
    if (setenv(VARIABLE, core, 1) != 0) return false;
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    if (set == NULL)
        unsetenv(VARIABLE);
    else
        setenv(VARIABLE, before, 1);
    return strcmp(openblas_get_corename(), core) == 0;
}

static char report[160];
static bool fits;

void heed_blas_watch(void) {
    char version[32], from[32];
    const enum heed_isa isa = heed_cpu_isa_detect();
    const char *best = heed_blas_best_core(isa, processor_is_amd());
    const char *note = "";
    read_version(version);
    snprintf(from, sizeof from, "%s", openblas_get_corename());
    if (isa_of_core(from) >= isa)
        note = "";
    else if (getenv(VARIABLE) != NULL)
        note = " (older than the processor, as " VARIABLE " says)";
    else if (!heed_blas_may_change(version, from, best))
        note = " (older than the processor; no change known to work)";
    else if (!process_is_alone())
        note = " (older than the processor; left alone because threads run)";
    else if (heed_blas_select(best))
        note = " (re-selected from ";
    else
        note = " (older than the processor; re-selecting failed)";
    const char *core = openblas_get_corename();
    const bool changed = strcmp(core, from) != 0;
    fits = isa_of_core(core) >= isa;
    snprintf(report, sizeof report, "OpenBLAS %s %s%s%s%s", version, core, note, changed ? from : "",
             changed ? ")" : "");
}

__attribute__((constructor)) static void watch_when_loaded(void) {
    heed_blas_watch();
}

/* ---- what the backend asks ---- */

void heed_cpu_blas_prepare(void) {
    static atomic_flag prepared = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&prepared)) openblas_set_num_threads(1);
}

const char *heed_cpu_blas_report(void) {
    return report;
}

bool heed_cpu_blas_fits(void) {
    return fits;
}
