/* heed-bench: times the cases of bench/cases/. Every case runs in a process of its own, so that none profits
 * from another's memory. */
#include "bench.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static const char usage[] =
    "usage: heed-bench [--list] [--case NAME] [--threads N] [--seconds S] [--device NAME]\n"
    "                  [--precision f32|bf16] [--json] [--explain]\n"
    "  --list       the names of the cases\n"
    "  --case NAME  only this one\n"
    "  --threads N  0: as many as the process may use (the default)\n"
    "  --seconds S  how long to repeat each case (default 2)\n"
    "  --device NAME  cpu (the default), ref, cuda, …\n"
    "  --precision P  bf16: mixed precision\n"
    "  --json       one JSON object per line\n"
    "  --explain    behind each case what heed_explain() says: which kernels ran, and why not others\n"
    "\n"
    "GB/s: by the bytes that a run in f32 moves at least. GFLOP/s: by the additions and multiplications of\n"
    "its products. Both where the case says them, and on a GPU in percent of its memory's peak and of\n"
    "that of f32 outside of tensor cores.\n";

struct arguments {
    const char *name; /* of a case; NULL: all */
    const char *device;
    heed_dtype precision;
    int threads;
    double seconds;
    bool json, list, help, explain;
    bool headless; /* one of all cases: the heading stands already */
};

struct timing {
    double min_ms, median_ms;
    int runs;
    size_t peak_bytes;
};

/* What a run does, in a second and at most; 0: not known. */
struct rates {
    double bytes, operations; /* of a run */
    double gb, gflop;         /* in a second of the median */
    struct bench_peaks peaks;
};

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Milliseconds of each of `count` runs that follow one another without waiting. */
static double time_of(struct bench *b, int count) {
    const double before = now_ms();
    for (int i = 0; i < count && !heed_failed(b->ctx); i++) b->row->run(b);
    heed_sync(b->ctx);
    return (now_ms() - before) / count;
}

/* Runs that are timed together: on a device as many as take about 2 ms, since waiting for it takes longer
 * than some cases. */
static int together(struct bench *b, const char *device) {
    if (strcmp(device, "cpu") == 0 || strcmp(device, "ref") == 0) return 1;
    const double ms = time_of(b, 5);
    return ms < 0.02 ? 100 : ms < 2 ? (int)(2 / ms) : 1;
}

/* Runs the case until `seconds` have passed: at least 5 times, after two runs that do not count. */
static bool measure(struct bench *b, const char *device, double seconds, struct timing *timing) {
    enum { MOST = 100000 };
    double *ms = malloc(MOST * sizeof *ms);
    if (!ms) return false;
    time_of(b, 2);
    const int count = together(b, device);
    int rounds = 0;
    const double start = now_ms();
    while (!heed_failed(b->ctx) && rounds < MOST && (rounds < 5 || now_ms() - start < seconds * 1e3))
        ms[rounds++] = time_of(b, count);
    if (rounds > 0) {
        qsort(ms, (size_t)rounds, sizeof *ms, by_size);
        timing->min_ms = ms[0];
        timing->median_ms = rounds % 2 ? ms[rounds / 2] : (ms[rounds / 2 - 1] + ms[rounds / 2]) / 2;
        timing->runs = rounds * count;
    }
    free(ms);
    return !heed_failed(b->ctx);
}

/* The word after `key` in heed_explain()'s first line, up to a comma: "instruction set avx512, blas OpenBLAS
 * …". */
static void explained(const heed_ctx *ctx, const char *key, char *word, size_t bytes) {
    char text[1024];
    heed_explain(ctx, text, sizeof text);
    const char *at = strstr(text, key);
    size_t length = 0;
    if (at) {
        at += strlen(key);
        length = strcspn(at, ",;\n");
    }
    snprintf(word, bytes, "%.*s", (int)length, at ? at : "");
}

/* All of it. */
static void print_explained(const heed_ctx *ctx) {
    const size_t bytes = heed_explain(ctx, NULL, 0) + 1;
    char *text = malloc(bytes);
    if (text) {
        heed_explain(ctx, text, bytes);
        fputs(text, stdout);
    }
    free(text);
}

/* The bytes of a case are those of f32, and so is what a device gives. */
static struct rates rates_of(const struct arguments *a, const struct bench *b, const struct timing *t) {
    const struct bench_case *row = b->row;
    struct rates r = {.peaks = {.source = ""}};
    char name[128], key[80];
    snprintf(key, sizeof key, "%s%s ", a->device, strchr(a->device, ':') ? "" : ":0");
    explained(b->ctx, key, name, sizeof name);
    if (row->operations) r.operations = row->operations(row);
    if (a->precision == HEED_F32) {
        r.bytes = row->bytes;
        r.peaks = bench_peaks_of(a->device, name);
    }
    if (t->median_ms > 0) {
        r.gb = r.bytes / t->median_ms * 1e-6;
        r.gflop = r.operations / t->median_ms * 1e-6;
    }
    return r;
}

/* A rate and its share of a peak; nothing where they are not known. */
static void print_rate(double rate, double peak) {
    if (rate > 0)
        printf(" %10.1f", rate);
    else
        printf(" %10s", "");
    if (rate > 0 && peak > 0)
        printf(" %4.0f %%", 100 * rate / peak);
    else
        printf(" %6s", "");
}

static void print_heading(const struct arguments *a) {
    if (!a->json && !a->headless)
        printf("%-28s %10s %10s %6s %10s %10s %6s %10s %6s\n", "case", "min ms", "median ms", "runs",
               "peak MiB", "GB/s", "", "GFLOP/s", "");
}

static void print_timing(const struct arguments *a, const struct bench *b, const struct timing *t) {
    const struct rates r = rates_of(a, b, t);
    if (!a->json) {
        printf("%-28s %10.3f %10.3f %6d %10.1f", b->row->name, t->min_ms, t->median_ms, t->runs,
               (double)t->peak_bytes / 1048576);
        print_rate(r.gb, r.peaks.bytes * 1e-9);
        print_rate(r.gflop, r.peaks.operations * 1e-9);
        putchar('\n');
        return;
    }
    char isa[64], blas[128], threads[16];
    explained(b->ctx, "instruction set ", isa, sizeof isa);
    explained(b->ctx, "blas ", blas, sizeof blas);
    explained(b->ctx, "threads ", threads, sizeof threads);
    printf("{\"case\": \"%s\", \"min_ms\": %.6f, \"median_ms\": %.6f, \"runs\": %d, \"peak_bytes\": %zu, "
           "\"threads\": %s, \"isa\": \"%s\", \"blas\": \"%s\", \"compiler\": \"%s\", "
           "\"device\": \"%s\", \"precision\": \"%s\", \"bytes\": %.0f, \"operations\": %.0f, "
           "\"gb_per_s\": %.3f, \"gflop_per_s\": %.3f, \"peak_gb_per_s\": %.1f, \"peak_gflop_per_s\": %.1f, "
           "\"peak_source\": \"%s\", \"fallbacks\": %llu}\n",
           b->row->name, t->min_ms, t->median_ms, t->runs, t->peak_bytes, threads[0] ? threads : "0", isa,
           blas, COMPILER, a->device, heed_dtype_name(a->precision), r.bytes, r.operations, r.gb, r.gflop,
           r.peaks.bytes * 1e-9, r.peaks.operations * 1e-9, r.peaks.source,
           (unsigned long long)heed_fallbacks(b->ctx));
}

static int run_one(const struct arguments *a, const struct bench_case *row) {
    struct bench b = {.row = row,
                      .ctx = heed_ctx_new(&(heed_ctx_options){
                          .device = a->device, .precision = a->precision, .threads = a->threads, .seed = 1})};
    size_t before = bench_memory_now();
    bench_memory_reset_peak();
    row->setup(&b);
    struct timing timing = {0};
    bool ok = measure(&b, a->device, a->seconds, &timing);
    size_t peak = bench_memory_peak();
    timing.peak_bytes = peak > before ? peak - before : 0;
    if (ok) {
        print_heading(a);
        print_timing(a, &b, &timing);
        if (a->explain) print_explained(b.ctx);
    } else {
        fprintf(stderr, "heed-bench: %s: %s\n", row->name, heed_error(b.ctx));
    }
    heed_optim_free(b.optim);
    heed_module_free(b.module);
    heed_ctx_free(b.ctx);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Starts this program again for one case. */
static int run_in_child(const struct arguments *a, const char *name) {
    char threads[32], seconds[32];
    snprintf(threads, sizeof threads, "%d", a->threads);
    snprintf(seconds, sizeof seconds, "%g", a->seconds);
    const char *argv[] = {"heed-bench",
                          "--case",
                          name,
                          "--threads",
                          threads,
                          "--seconds",
                          seconds,
                          "--device",
                          a->device,
                          "--precision",
                          heed_dtype_name(a->precision),
                          a->json ? "--json" : "--headless",
                          a->explain ? "--explain" : NULL,
                          NULL};
    pid_t child;
    int status;
    fflush(stdout);
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, (char *const *)argv, environ) != 0)
        return EXIT_FAILURE;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return EXIT_FAILURE;
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

static bool wrong(const char *option, const char *value, const char *why) {
    fprintf(stderr, "heed-bench: %s: '%s' %s; --help lists the options\n", option, value, why);
    return false;
}

/* Takes an option that is followed by a value. */
static bool take(struct arguments *a, const char *option, const char *value) {
    char *end;
    if (strcmp(option, "--case") == 0) {
        a->name = value;
        return bench_case_named(value) || wrong(option, value, "is no case (--list names them)");
    }
    if (strcmp(option, "--device") == 0) {
        a->device = value;
        return true;
    }
    if (strcmp(option, "--precision") == 0) {
        a->precision = strcmp(value, "bf16") == 0 ? HEED_BF16 : HEED_F32;
        return a->precision == HEED_BF16 || strcmp(value, "f32") == 0 ||
               wrong(option, value, "is neither f32 nor bf16");
    }
    if (strcmp(option, "--threads") == 0) {
        const long threads = strtol(value, &end, 10);
        if (*end || end == value || threads < 0 || threads > 256)
            return wrong(option, value, "is no whole number up to 256");
        a->threads = (int)threads;
        return true;
    }
    a->seconds = strtod(value, &end);
    return (!*end && end != value && a->seconds >= 0 && a->seconds <= 1e6) ||
           wrong(option, value, "is no number of seconds");
}

static bool parse(int argc, char **argv, struct arguments *a) {
    *a = (struct arguments){.device = "cpu", .precision = HEED_F32, .seconds = 2};
    for (int i = 1; i < argc; i++) {
        bool *flag = strcmp(argv[i], "--json") == 0       ? &a->json
                     : strcmp(argv[i], "--list") == 0     ? &a->list
                     : strcmp(argv[i], "--help") == 0     ? &a->help
                     : strcmp(argv[i], "--explain") == 0  ? &a->explain
                     : strcmp(argv[i], "--headless") == 0 ? &a->headless
                                                          : NULL;
        if (flag) {
            *flag = true;
        } else if (strcmp(argv[i], "--case") != 0 && strcmp(argv[i], "--threads") != 0 &&
                   strcmp(argv[i], "--seconds") != 0 && strcmp(argv[i], "--device") != 0 &&
                   strcmp(argv[i], "--precision") != 0) {
            return wrong("arguments", argv[i], "is unknown");
        } else if (i + 1 == argc) {
            return wrong("arguments", argv[i], "needs a value");
        } else if (!take(a, argv[i], argv[i + 1])) {
            return false;
        } else {
            i++;
        }
    }
    return true;
}

static int run_all(const struct arguments *a) {
    int failed = 0;
    print_heading(a);
    for (int i = 0; bench_case_at(i); i++)
        if (run_in_child(a, bench_case_at(i)->name) != EXIT_SUCCESS) failed++;
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void list(void) {
    for (int i = 0; bench_case_at(i); i++)
        printf("%-28s %s\n", bench_case_at(i)->name, bench_case_at(i)->what);
}

int main(int argc, char **argv) {
    struct arguments a;
    int status = EXIT_SUCCESS;
    /* Where the variable is preset, OpenBLAS has chosen its kernels by it already: begin anew without it. */
    if (getenv("OPENBLAS_CORETYPE")) {
        unsetenv("OPENBLAS_CORETYPE");
        execv("/proc/self/exe", argv);
    }
    if (!parse(argc, argv, &a)) return 2;
    if (a.help)
        fputs(usage, stdout);
    else if (a.list)
        list();
    else
        status = a.name ? run_one(&a, bench_case_named(a.name)) : run_all(&a);
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    fputs("heed-bench: standard output cannot be written\n", stderr);
    return EXIT_FAILURE;
}
