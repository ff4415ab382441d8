/* Kernels that are compiled at run time, on the emulated device: a list of specialisations against ref,
 * users' stages that are wrong, where compiled code is kept, and the compiler failing. With HEED_TEST_NVRTC
 * every program of this is compiled by NVIDIA's compiler for all targets too (emulated/nvrtc.cpp). */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "harness_attention.h"

enum { BATCH = 2, HEADS = 2, QUERIES = 37, KEYS = 41, WAVE = 4 };

/* ---- a call ---- */

/* What is asked of attention. */
struct wish {
    const char *name;
    heed_dtype dtype;
    int64_t width;
    bool softcap, bias, alibi, sink, wave, ramp, causal, window, lengths;
    heed_normalizer normalizer;
    double dropout;
    const heed_stage_rule *rule;
};

static const int64_t wave_shape[WAVE][3] = {{2}, {HEADS, 1}, {BATCH, HEADS, QUERIES}, {HEADS, KEYS}};
static const int wave_rank[WAVE] = {1, 2, 3, 2};

/* Tensors that have gradients: q, k, v, bias, and parameters. */
enum { Q, K, V, BIAS, PARAMS, INPUTS = PARAMS + WAVE };

static heed_mask *mask_of(heed_ctx *ctx, const struct wish *w) {
    static const int32_t lengths[BATCH] = {41, 7};
    heed_mask *mask = NULL;
    if (w->causal) mask = heed_mask_causal(ctx, HEED_BOTTOM_RIGHT);
    if (w->window) mask = heed_mask_or(mask, heed_mask_window(ctx, 9, 3, HEED_TOP_LEFT));
    if (w->lengths) {
        heed_tensor t = heed_from(ctx, HEED_I32, TEST_SHAPE(BATCH), lengths);
        heed_mask *own = heed_mask_key_lengths(t);
        mask = mask ? heed_mask_and(mask, own) : own;
    }
    return mask;
}

/* Forward, and backward of the output and the weights. Fills the results in if all is well. */
static bool call(heed_ctx *ctx, const struct wish *w, double *result[INPUTS + 2], int64_t count[INPUTS + 2]) {
    heed_tensor in[INPUTS] = {{0}}, weights;
    heed_step_begin(ctx, HEED_TRAIN);
    in[Q] = test_tensor(ctx, w->dtype, 1, TEST_SHAPE(BATCH, HEADS, QUERIES, w->width));
    in[K] = test_tensor(ctx, w->dtype, 2, TEST_SHAPE(BATCH, 1, KEYS, w->width));
    in[V] = test_tensor(ctx, w->dtype, 3, TEST_SHAPE(BATCH, 1, KEYS, 5));
    if (w->bias) in[BIAS] = test_tensor(ctx, w->dtype, 4, TEST_SHAPE(HEADS, QUERIES, KEYS));
    for (int i = 0; w->wave && i < WAVE; i++)
        in[PARAMS + i] = test_tensor(ctx, w->dtype, (uint64_t)(5 + i), wave_rank[i], wave_shape[i]);
    for (int i = 0; i < INPUTS; i++)
        if (in[i].node) heed_require_grad(in[i], true);
    heed_score *score = heed_score_new(ctx);
    if (w->softcap) heed_score_softcap(score, 2);
    if (w->bias) heed_score_bias(score, in[BIAS]);
    if (w->wave) heed_score_custom(score, &test_wave, &in[PARAMS], WAVE, NULL);
    if (w->alibi) heed_score_alibi(score, (heed_tensor){0}, HEED_TOP_LEFT);
    if (w->ramp) heed_score_custom(score, &test_ramp, NULL, 0, NULL);
    if (w->rule) heed_score_custom(score, w->rule, NULL, 0, NULL);
    if (w->sink) heed_score_sink(score, test_tensor(ctx, w->dtype, 20, TEST_SHAPE(HEADS)));
    heed_score_normalizer(score, w->normalizer);
    heed_score_mask(score, mask_of(ctx, w));
    const heed_attention_options options = {.dropout = w->dropout};
    heed_tensor y = heed_attention(in[Q], in[K], in[V], score, &options, &weights);
    heed_tensor one = test_tensor(ctx, w->dtype, 30, TEST_SHAPE(BATCH, HEADS, QUERIES, KEYS));
    heed_backward(heed_add(heed_sum(heed_mul(y, y), HEED_ALL, false),
                           heed_sum(heed_mul(weights, one), HEED_ALL, false)));
    const bool fine = !heed_failed(ctx);
    for (int i = 0; i < INPUTS + 2; i++) {
        const heed_tensor t = i == INPUTS ? y : i == INPUTS + 1 ? weights : in[i];
        result[i] = fine && t.node ? test_values(i < INPUTS ? heed_grad(t) : t, &count[i]) : NULL;
    }
    heed_step_end(ctx);
    return fine;
}

static void free_all(double *result[INPUTS + 2]) {
    for (int i = 0; i < INPUTS + 2; i++) free(result[i]);
}

static heed_ctx *cuda(void) {
    return heed_ctx_new(&(heed_ctx_options){.device = "cudaemu", .seed = 3});
}

/* What heed_explain says of specialised kernels. */
struct said {
    int compiled, from_disk, in_memory, dropped;
    char text[4000];
};

static struct said said_by(const heed_ctx *ctx) {
    struct said s = {0};
    heed_explain(ctx, s.text, sizeof s.text);
    const char *line = strstr(s.text, "specialised kernels");
    ck_assert_msg(line != NULL, "%s", s.text);
    const char *numbers = strstr(line, ": ");
    if (numbers)
        sscanf(numbers, ": %d compiled, %d read from disk, %d in memory, %d dropped", &s.compiled,
               &s.from_disk, &s.in_memory, &s.dropped);
    return s;
}

/* A call on a new context. */
static struct said once(const struct wish *w) {
    double *result[INPUTS + 2];
    int64_t count[INPUTS + 2];
    heed_ctx *ctx = cuda();
    call(ctx, w, result, count);
    test_ok(ctx);
    const struct said s = said_by(ctx);
    free_all(result);
    heed_ctx_free(ctx);
    return s;
}

/* ---- specialisations against ref ---- */

static const struct wish list[] = {
    {"nothing", .width = 8},
    {"causal", .width = 64, .causal = true},
    {"wide", .width = 200, .causal = true, .alibi = true},
    {"soft cap, bias, dropout", .width = 33, .softcap = true, .bias = true, .dropout = 0.25},
    {"masks", .width = 32, .causal = true, .window = true, .lengths = true, .sink = true},
    {"sigmoid in f64", .dtype = HEED_F64, .width = 16, .normalizer = HEED_NORMALIZER_SIGMOID,
     .lengths = true},
    {"relu", .width = 16, .normalizer = HEED_NORMALIZER_RELU, .bias = true},
    {"own stage", .width = 64, .wave = true, .causal = true},
    {"own stages among others", .width = 40, .softcap = true, .bias = true, .wave = true, .alibi = true,
     .ramp = true},
    {"own stage in f64", .dtype = HEED_F64, .width = 8, .wave = true, .dropout = 0.5},
};
enum { LIST = sizeof list / sizeof list[0] };

START_TEST(against_ref) {
    const struct wish *w = &list[_i];
    double *found[INPUTS + 2], *expected[INPUTS + 2];
    int64_t count[INPUTS + 2];
    heed_ctx *ctx = cuda(), *ref = heed_ctx_new(&(heed_ctx_options){.device = "ref", .seed = 3});
    const struct test_tolerance near = {1e-4, w->dtype == HEED_F64 ? 1e-10 : 2e-5};
    ck_assert_msg(call(ctx, w, found, count), "%s: %s", w->name, heed_error(ctx));
    ck_assert_msg(call(ref, w, expected, count), "%s: %s", w->name, heed_error(ref));
    for (int i = 0; i < INPUTS + 2; i++) {
        char text[200];
        if (!expected[i]) continue;
        ck_assert_msg(test_close(count[i], found[i], expected[i], near, test_largest(count[i], expected[i]),
                                 text, sizeof text),
                      "%s: result %d: %s", w->name, i, text);
    }
    const struct said s = said_by(ctx);
    ck_assert_msg(s.compiled + s.from_disk >= 2 && !strstr(s.text, "the general ones run"), "%s: %s", w->name,
                  s.text);
    free_all(found);
    free_all(expected);
    heed_ctx_free(ctx);
    heed_ctx_free(ref);
}
END_TEST

/* Twice the same bits, whatever the order of threads. */
START_TEST(same_bits) {
    double *result[2][INPUTS + 2];
    int64_t count[INPUTS + 2];
    for (int i = 0; i < 2; i++) {
        heed_ctx *ctx = cuda();
        setenv("HEED_CUDA_SEED", i ? "7" : "0", 1);
        call(ctx, &list[7], result[i], count);
        test_ok(ctx);
        heed_ctx_free(ctx);
    }
    unsetenv("HEED_CUDA_SEED");
    for (int i = 0; i < INPUTS + 2; i++) {
        if (result[0][i])
            ck_assert(memcmp(result[0][i], result[1][i], (size_t)count[i] * sizeof(double)) == 0);
        free(result[0][i]);
        free(result[1][i]);
    }
}
END_TEST

/* ---- users' stages that are wrong ---- */

static void keeps(const heed_tile *t) {
    (void)t;
}

static void refused(heed_stage_rule rule, const char *const part[3]) {
    double *result[INPUTS + 2];
    int64_t count[INPUTS + 2];
    heed_ctx *ctx = cuda();
    rule.forward = keeps;
    const struct wish w = {.width = 4, .rule = &rule};
    ck_assert(!call(ctx, &w, result, count));
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_UNSUPPORTED);
    for (int i = 0; i < 3 && part[i]; i++)
        ck_assert_msg(strstr(heed_error(ctx), part[i]) != NULL, "no \"%s\" in: %s", part[i], heed_error(ctx));
    ck_assert_msg(strchr(heed_error(ctx), '\n') == NULL, "more than a line: %s", heed_error(ctx));
    heed_ctx_free(ctx);
}

START_TEST(wrong_stages) {
    refused((heed_stage_rule){.name = "plain"}, (const char *const[3]){"attention: ", "no CUDA source"});
    /* The first error, and not the warning before it; lines are counted in the stage. */
    refused((heed_stage_rule){.name = "typo",
                              .cuda = "\n__device__ real forward(real s, const heed_cell &at) {\n"
                                      "    return s + unheard_of;\n}\n"},
            (const char *const[3]){"the stage typo", "error", "unheard_of"});
    refused((heed_stage_rule){.name = "typo",
                              .cuda = "\n__device__ real forward(real s, const heed_cell &at) {\n"
                                      "    return s + unheard_of;\n}\n"},
            (const char *const[3]){getenv("HEED_TEST_NVRTC") ? "typo(3)" : "typo:3"});
    refused((heed_stage_rule){.name = "empty", .cuda = ""},
            (const char *const[3]){"the stage empty", "error", "forward"});
    refused((heed_stage_rule){.name = "one way",
                              .backward = keeps,
                              .cuda = "__device__ real forward(real s, const heed_cell &at) { return s; }"},
            (const char *const[3]){"the stage one way", "error", "backward"});
}
END_TEST

/* A stage with an array that lives in local memory: what looks for that finds it. */
START_TEST(seeded_local_memory) {
    if (!getenv("HEED_TEST_NVRTC")) return;
    refused(
        (heed_stage_rule){.name = "local",
                          .cuda =
                              "__device__ real forward(real s, const heed_cell &at) {\n"
                              "    real table[64];\n"
                              "    for (int i = 0; i < 64; i++) table[i] = s * i + at.key;\n"
                              "    for (int i = 0; i < 64; i++) table[(at.query + i * i) % 64] += table[i];\n"
                              "    return table[at.key % 64];\n}\n"},
        (const char *const[3]){"bytes stack frame"});
}
END_TEST

/* ---- no compiler ---- */

START_TEST(no_compiler) {
    setenv("HEED_NVRTC", "/nonexistent/libnvrtc.so", 1);
    setenv("HEED_CUDA_CACHE", "", 1);
    const struct said s = once(&list[0]); /* by the general kernels */
    ck_assert_int_eq(s.compiled, 0);
    ck_assert_msg(
        strstr(s.text, "the general ones run where not: NVRTC is not there: /nonexistent/libnvrtc.so") !=
            NULL,
        "%s", s.text);
    refused(test_ramp, (const char *const[3]){"the stage ramp cannot be used: NVRTC is not there"});
    setenv("HEED_CUDA_SPECIALISE", "0", 1);
    ck_assert(strstr(once(&list[0]).text, "specialised kernels: off") != NULL);
}
END_TEST

/* ---- where code is kept ---- */

/* An empty folder that does not exist yet. */
static const char *new_folder(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/heed-special-XXXXXX");
    ck_assert(mkdtemp(path) != NULL);
    strcat(path, "/deep/er");
    setenv("HEED_CUDA_CACHE", path, 1);
    return path;
}

/* Visits the files; returns how many. */
static int files(const char *folder, void (*visit)(const char *path)) {
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        const size_t length = strlen(path);
        ck_assert_msg(strcmp(path + length - 6, ".cubin") == 0, "%s was left behind", path);
        if (visit) visit(path);
        n++;
    }
    if (dir) closedir(dir);
    return n;
}

static void clean(const char *folder) {
    char command[256];
    snprintf(command, sizeof command, "rm -r '%.*s'", (int)(strlen(folder) - strlen("/deep/er")), folder);
    ck_assert_int_eq(system(command), 0);
}

static void flip_last(const char *path) {
    FILE *file = fopen(path, "r+b");
    fseek(file, -1, SEEK_END);
    const int last = fgetc(file);
    fseek(file, -1, SEEK_END);
    fputc(last ^ 1, file);
    fclose(file);
}

static void halve(const char *path) {
    struct stat status;
    stat(path, &status);
    ck_assert_int_eq(truncate(path, status.st_size / 2), 0);
}

static void empty(const char *path) {
    ck_assert_int_eq(truncate(path, 0), 0);
}

START_TEST(memory_and_disk) {
    const char *folder = new_folder();
    double *result[INPUTS + 2];
    int64_t count[INPUTS + 2];
    heed_ctx *ctx = cuda();
    for (int i = 0; i < 3; i++) {
        call(ctx, &list[0], result, count);
        free_all(result);
        const struct said s = said_by(ctx);
        ck_assert_msg(s.compiled == 2 && s.from_disk == 0 && s.in_memory == 2, "%s", s.text);
    }
    heed_ctx_free(ctx);
    ck_assert_int_eq(files(folder, NULL), 2);
    const struct said later = once(&list[0]);
    ck_assert_msg(later.compiled == 0 && later.from_disk == 2, "%s", later.text);
    void (*const damage[])(const char *path) = {flip_last, halve, empty};
    for (int i = 0; i < 3; i++) {
        files(folder, damage[i]);
        const struct said damaged = once(&list[0]), mended = once(&list[0]);
        ck_assert_msg(damaged.compiled == 2 && damaged.from_disk == 0, "%s", damaged.text);
        ck_assert_msg(mended.compiled == 0 && mended.from_disk == 2, "%s", mended.text);
    }
    clean(folder);
}
END_TEST

/* With a file where the folder should be, and with no folder wanted. */
START_TEST(no_folder) {
    for (int i = 0; i < 2; i++) {
        setenv("HEED_CUDA_CACHE", i ? "" : "/proc/self/status/heed", 1);
        const struct said s = once(&list[0]), again = once(&list[0]);
        ck_assert_msg(s.compiled == 2 && again.compiled == 2 && again.from_disk == 0, "%s", again.text);
    }
}
END_TEST

/* $XDG_CACHE_HOME/heed, or ~/.cache/heed. */
START_TEST(usual_folders) {
    char folder[128];
    const char *own = new_folder();
    unsetenv("HEED_CUDA_CACHE");
    for (int i = 0; i < 2; i++) {
        setenv(i ? "HOME" : "XDG_CACHE_HOME", own, 1);
        if (i) unsetenv("XDG_CACHE_HOME");
        once(&list[0]);
        snprintf(folder, sizeof folder, "%s/%sheed", own, i ? ".cache/" : "");
        ck_assert_int_eq(files(folder, NULL), 2);
    }
    clean(own);
}
END_TEST

/* Both may compile, and what is then there is whole. */
START_TEST(two_processes) {
    const char *folder = new_folder();
    pid_t child[2];
    for (int i = 0; i < 2; i++) {
        child[i] = fork();
        if (child[i] == 0) {
            double *result[INPUTS + 2];
            int64_t count[INPUTS + 2];
            heed_ctx *ctx = cuda();
            const bool fine = call(ctx, &list[0], result, count);
            if (fine) free_all(result);
            heed_ctx_free(ctx);
            _exit(fine ? 0 : 1);
        }
    }
    for (int i = 0; i < 2; i++) {
        int status = 0;
        ck_assert_int_eq(waitpid(child[i], &status, 0), child[i]);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    ck_assert_int_eq(files(folder, NULL), 2);
    ck_assert_int_eq(once(&list[0]).from_disk, 2);
    clean(folder);
}
END_TEST

/* The build for tests keeps 8 programs; the one that was unused for longest goes. */
START_TEST(full_memory) {
    double *result[INPUTS + 2];
    int64_t count[INPUTS + 2];
    heed_ctx *ctx = cuda();
    for (int i = 0; i < 5; i++) {
        call(ctx, &list[i], result, count);
        test_ok(ctx);
        free_all(result);
    }
    const struct said full = said_by(ctx);
    ck_assert_msg(full.in_memory == 8 && full.dropped == full.compiled + full.from_disk - 8 &&
                      full.dropped > 0,
                  "%s", full.text);
    for (int i = 0; i < 2; i++) {
        call(ctx, &list[i ? 4 : 0], result,
             count); /* one that went comes again, one that is there does not */
        test_ok(ctx);
        free_all(result);
        const struct said s = said_by(ctx);
        ck_assert_int_eq(s.compiled + s.from_disk, full.compiled + full.from_disk + 2);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* ---- failing ---- */

static void attend(heed_ctx *ctx) {
    double *result[INPUTS + 2];
    int64_t count[INPUTS + 2];
    if (call(ctx, &list[7], result, count)) free_all(result);
}

START_TEST(every_allocation_may_fail) {
    ck_assert_int_gt(test_failing_allocations("cudaemu", 3, false, attend), 20);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("special");
    TCase *tcase = test_case(suite, "specialised kernels");
    tcase_add_loop_test(tcase, against_ref, 0, LIST);
    tcase_add_test(tcase, wrong_stages);
    tcase_add_test(tcase, seeded_local_memory);
    if (!getenv("HEED_TEST_NVRTC")) { /* else only what is about code */
        tcase_add_test(tcase, same_bits);
        tcase_add_test(tcase, no_compiler);
        tcase_add_test(tcase, memory_and_disk);
        tcase_add_test(tcase, no_folder);
        tcase_add_test(tcase, usual_folders);
        tcase_add_test(tcase, two_processes);
        tcase_add_test(tcase, full_memory);
        tcase_add_test(tcase, every_allocation_may_fail);
    }
    return test_main(suite);
}
