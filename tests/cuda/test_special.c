/* Kernels that are compiled at run time: a list of specialisations against ref, users' stages that are wrong,
 * where compiled code is kept, and all that may fail. With HEED_TEST_NVRTC every program of this is compiled
 * by NVIDIA's compiler too, for all targets or two (emulated/nvrtc.cpp). On a GPU (HEED_TEST_DEVICE=cuda)
 * what asks the emulation is left out.
 *
 * usage: cuda_special [NAME]: with a name, that specialisation against ref and nothing else. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emulation.h"
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
    bool forward;     /* only */
    bool stages_only; /* are known, HEED_CUDA_SPECIALISE=0 */
    bool all_targets; /* NVIDIA's compiler makes it for all, the others for two */
};

static const int64_t wave_shape[WAVE][3] = {{2}, {HEADS, 1}, {BATCH, HEADS, QUERIES}, {HEADS, KEYS}};
static const int wave_rank[WAVE] = {1, 2, 3, 2};

/* Tensors that have gradients: q, k, v, bias, and parameters. */
enum { Q, K, V, BIAS, PARAMS, INPUTS = PARAMS + WAVE };

/* The gradients of these, the output, and the weights. NULL: not asked for. */
enum { RESULTS = INPUTS + 2 };
struct results {
    double *values[RESULTS];
    int64_t count[RESULTS];
};

static void free_results(struct results *r) {
    for (int i = 0; i < RESULTS; i++) free(r->values[i]);
}

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

/* Calls of the emulation that may fail: which is to, and how many there were until results were read. NULL:
 * none is to. */
static struct emulated_control *failing;
static int64_t calls_made;

static void fail_no_more(void) {
    if (!failing) return;
    calls_made = failing->calls;
    failing->fail_at = 0;
}

/* Forward, and backward of the output and the weights. Without results if it fails. */
static bool call(heed_ctx *ctx, const struct wish *w, struct results *r) {
    heed_tensor in[INPUTS] = {{0}}, weights;
    memset(r, 0, sizeof *r);
    heed_step_begin(ctx, HEED_TRAIN);
    in[Q] = test_tensor(ctx, w->dtype, 1, TEST_SHAPE(BATCH, HEADS, QUERIES, w->width));
    in[K] = test_tensor(ctx, w->dtype, 2, TEST_SHAPE(BATCH, 1, KEYS, w->width));
    in[V] = test_tensor(ctx, w->dtype, 3, TEST_SHAPE(BATCH, 1, KEYS, 5));
    if (w->bias) in[BIAS] = test_tensor(ctx, w->dtype, 4, TEST_SHAPE(HEADS, QUERIES, KEYS));
    for (int i = 0; w->wave && i < WAVE; i++)
        in[PARAMS + i] = test_tensor(ctx, w->dtype, 5 + (uint64_t)i, wave_rank[i], wave_shape[i]);
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
    if (!w->forward)
        heed_backward(heed_add(heed_sum(heed_mul(y, y), HEED_ALL, false),
                               heed_sum(heed_mul(weights, one), HEED_ALL, false)));
    const bool fine = heed_sync(ctx) == HEED_OK;
    fail_no_more();
    for (int i = 0; fine && i < RESULTS; i++) {
        const heed_tensor t = i == INPUTS ? y : i == INPUTS + 1 ? weights : in[i];
        if (t.node && (i >= INPUTS || !w->forward))
            r->values[i] = test_values(i < INPUTS ? heed_grad(t) : t, &r->count[i]);
    }
    heed_step_end(ctx);
    return fine;
}

static heed_ctx *ref(void) {
    return heed_ctx_new(&(heed_ctx_options){.device = "ref", .seed = 3});
}

/* Ends the test if results are not those of ref. */
static void agree(const struct wish *w, const struct results *found, const struct results *expected) {
    const struct test_tolerance near = {1e-4, w->dtype == HEED_F64 ? 1e-10 : 2e-5};
    for (int i = 0; i < RESULTS; i++) {
        char text[200];
        const double *values = expected->values[i];
        if (!values) continue;
        ck_assert_msg(test_close(expected->count[i], found->values[i], values, near,
                                 test_largest(expected->count[i], values), text, sizeof text),
                      "%s: result %d: %s", w->name, i, text);
    }
}

static heed_ctx *cuda(void) {
    return heed_ctx_new(&(heed_ctx_options){.device = emulation_device(), .seed = 3});
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

/* A call on a new context, which must be right. */
static struct said once(const struct wish *w) {
    struct results found, expected;
    heed_ctx *ctx = cuda(), *plain = ref();
    ck_assert_msg(call(ctx, w, &found), "%s: %s", w->name, heed_error(ctx));
    ck_assert_msg(call(plain, w, &expected), "%s: %s", w->name, heed_error(plain));
    agree(w, &found, &expected);
    const struct said s = said_by(ctx);
    free_results(&found);
    free_results(&expected);
    heed_ctx_free(ctx);
    heed_ctx_free(plain);
    return s;
}

static void again(heed_ctx *ctx, const struct wish *w) {
    struct results r;
    ck_assert_msg(call(ctx, w, &r), "%s: %s", w->name, heed_error(ctx));
    free_results(&r);
}

/* ---- specialisations against ref ---- */

static const struct wish list[] = {
    {"nothing", .width = 8},
    {"causal", .width = 64, .causal = true, .all_targets = true},
    {"wide", .width = 200, .causal = true, .alibi = true, .all_targets = true},
    {"soft cap, bias, dropout", .width = 33, .softcap = true, .bias = true, .dropout = 0.25,
     .all_targets = true},
    {"masks", .width = 32, .causal = true, .window = true, .lengths = true, .sink = true},
    {"sigmoid in f64", .dtype = HEED_F64, .width = 16, .normalizer = HEED_NORMALIZER_SIGMOID,
     .lengths = true},
    {"relu", .width = 16, .normalizer = HEED_NORMALIZER_RELU, .bias = true},
    {"own stage", .width = 64, .wave = true, .causal = true},
    {"own stages among others", .width = 40, .softcap = true, .bias = true, .wave = true, .alibi = true,
     .ramp = true, .all_targets = true},
    {"nothing known but stages", .width = 40, .wave = true, .causal = true, .window = true, .dropout = 0.5,
     .stages_only = true},
    {"own stage in f64", .dtype = HEED_F64, .width = 8, .wave = true, .dropout = 0.5, .all_targets = true},
};
enum { LIST = sizeof list / sizeof list[0] };

static const char *only; /* the name of the one that is asked for */

START_TEST(against_ref) {
    const struct wish *w = &list[_i];
    if (only && strcmp(w->name, only) != 0) return;
    if (w->stages_only) setenv("HEED_CUDA_SPECIALISE", "0", 1);
    if (!w->all_targets) setenv("HEED_TEST_NVRTC_TARGETS", "90 120", 1);
    const struct said s = once(w);
    unsetenv("HEED_CUDA_SPECIALISE");
    unsetenv("HEED_TEST_NVRTC_TARGETS");
    ck_assert_msg(s.compiled + s.from_disk >= 2 && !strstr(s.text, "the general ones run"), "%s: %s", w->name,
                  s.text);
}
END_TEST

/* Twice the same bits, whatever the order of threads. */
START_TEST(same_bits) {
    struct results r[2];
    for (int i = 0; i < 2; i++) {
        heed_ctx *ctx = cuda();
        setenv("HEED_CUDA_SEED", i ? "7" : "0", 1);
        ck_assert_msg(call(ctx, &list[7], &r[i]), "%s", heed_error(ctx));
        heed_ctx_free(ctx);
    }
    unsetenv("HEED_CUDA_SEED");
    for (int i = 0; i < RESULTS; i++)
        if (r[0].values[i])
            ck_assert(memcmp(r[0].values[i], r[1].values[i], (size_t)r[0].count[i] * sizeof(double)) == 0);
    free_results(&r[0]);
    free_results(&r[1]);
}
END_TEST

/* ---- users' stages that are wrong ---- */

static void keeps(const heed_tile *t) {
    (void)t;
}

static void refused(heed_stage_rule rule, const char *const part[3]) {
    struct results r;
    heed_ctx *ctx = cuda();
    rule.forward = keeps;
    const struct wish w = {.width = 4, .rule = &rule};
    ck_assert(!call(ctx, &w, &r));
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
            (const char *const[3]){getenv("HEED_TEST_NVRTC") || !emulation() ? "typo(3)" : "typo:3"});
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

/* The general kernels run, and the user's stage does not. */
static void does_without(const char *reason) {
    char text[300], error[300];
    snprintf(text, sizeof text, "the general ones run where not: %s", reason);
    snprintf(error, sizeof error, "the stage ramp cannot be used: %s", reason);
    const struct said s = once(&list[0]);
    ck_assert_int_eq(s.compiled, 0);
    ck_assert_msg(strstr(s.text, text) != NULL, "%s", s.text);
    refused(test_ramp, (const char *const[3]){error});
}

START_TEST(no_compiler) {
    setenv("HEED_NVRTC", "/nonexistent/libnvrtc.so", 1);
    does_without("NVRTC is not there: /nonexistent/libnvrtc.so");
    setenv("HEED_CUDA_SPECIALISE", "0", 1);
    ck_assert(strstr(once(&list[0]).text, "specialised kernels: off") != NULL);
}
END_TEST

/* Code that is none, of the compiler's or on disk. */
START_TEST(no_code) {
    if (!emulation()) return;
    setenv("HEED_CUDA_CACHE", "", 1);
    setenv("HEED_FAKE_NVRTC", "nonsense", 1);
    does_without("the driver does not load the code: device kernel image is invalid");
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
    heed_ctx *ctx = cuda();
    for (int i = 0; i < 3; i++) {
        again(ctx, &list[0]);
        const struct said s = said_by(ctx);
        ck_assert_msg(s.compiled == 2 && s.from_disk == 0 && s.in_memory == 2 && !strstr(s.text, "on disk:"),
                      "%s", s.text);
    }
    heed_ctx_free(ctx);
    ck_assert_int_eq(files(folder, NULL), 2);
    const struct said later = once(&list[0]);
    ck_assert_msg(later.compiled == 0 && later.from_disk == 2, "%s", later.text);
    void (*const damage[])(const char *path) = {flip_last, halve, empty};
    for (int i = 0; i < 3; i++) {
        files(folder, damage[i]);
        const struct said damaged = once(&list[0]), mended = once(&list[0]);
        ck_assert_msg(damaged.compiled == 2 && damaged.from_disk == 0 &&
                          strstr(damaged.text, "; on disk: ") && strstr(damaged.text, ".cubin is damaged\n"),
                      "%s", damaged.text);
        ck_assert_msg(mended.compiled == 0 && mended.from_disk == 2 && !strstr(mended.text, "on disk:"), "%s",
                      mended.text);
    }
    clean(folder);
}
END_TEST

/* Another version of the compiler, another code. */
START_TEST(versions) {
    if (!emulation()) return;
    const char *folder = new_folder();
    for (int version = 12; version <= 13; version++) {
        setenv("HEED_FAKE_NVRTC_VERSION", version == 12 ? "12" : "13", 1);
        for (int i = 0; i < 2; i++) ck_assert_int_eq(once(&list[0]).compiled, i == 0 ? 2 : 0);
        ck_assert_int_eq(files(folder, NULL), 2 * (version - 11));
    }
    clean(folder);
}
END_TEST

/* With a folder that cannot be, and with none wanted. */
START_TEST(no_folder) {
    for (int i = 0; i < 2; i++) {
        setenv("HEED_CUDA_CACHE", i ? "" : "/proc/self/status/heed", 1);
        const struct said s = once(&list[0]), later = once(&list[0]);
        ck_assert_msg(s.compiled == 2 && later.compiled == 2 && later.from_disk == 0, "%s", later.text);
        ck_assert_msg((strstr(s.text, "; on disk: cannot write /proc/self/status/heed/") != NULL) == (i == 0),
                      "%s", s.text);
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
            struct results r;
            heed_ctx *ctx = cuda();
            const bool fine = call(ctx, &list[0], &r);
            free_results(&r);
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
    if (test_elsewhere()) return;
    heed_ctx *ctx = cuda();
    for (int i = 0; i < 5; i++) again(ctx, &list[i]);
    const struct said full = said_by(ctx);
    ck_assert_msg(full.in_memory == 8 && full.dropped == full.compiled + full.from_disk - 8 &&
                      full.dropped > 0,
                  "%s", full.text);
    for (int i = 0; i < 2; i++) { /* one that went comes again, one that is there does not */
        again(ctx, &list[i ? 4 : 0]);
        const struct said s = said_by(ctx);
        ck_assert_int_eq(s.compiled + s.from_disk, full.compiled + full.from_disk + 2);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* ---- failing ---- */

static void attend(heed_ctx *ctx) {
    struct results r;
    call(ctx, &list[7], &r);
    free_results(&r);
}

START_TEST(every_allocation_may_fail) {
    if (!emulation()) return;
    ck_assert_int_gt(test_failing_allocations(emulation_device(), 3, false, attend), 20);
}
END_TEST

/* Every call of the runtime and of the compiler, once: an error of the context, or all is right. The
 * emulation ends the process if anything is left. Returns how many there are. */
static int64_t every_call_fails(const struct wish *w, int64_t step) {
    struct results expected;
    heed_ctx *plain = ref();
    int64_t n = 1;
    ck_assert_msg(call(plain, w, &expected), "%s", heed_error(plain));
    heed_ctx_free(plain);
    failing = emulation();
    for (bool reached = true; reached; n += step) {
        struct results r;
        failing->calls = 0;
        failing->fail_at = n;
        heed_ctx *ctx = cuda();
        const bool fine = call(ctx, w, &r);
        reached = calls_made >= n;
        ck_assert_msg(fine || reached, "%s", heed_error(ctx));
        ck_assert_msg(strchr(heed_error(ctx), '\n') == NULL, "\"%s\" is more than a line", heed_error(ctx));
        if (fine) agree(w, &r, &expected);
        free_results(&r);
        heed_ctx_free(ctx);
    }
    free_results(&expected);
    failing = NULL;
    return n;
}

START_TEST(calls_may_fail_with_code_on_disk) {
    if (!emulation()) return;
    once(&list[7]);
    ck_assert_int_gt(every_call_fails(&list[7], test_size(1, 3)), 60);
}
END_TEST

START_TEST(calls_may_fail_with_nothing_on_disk) {
    if (test_elsewhere()) return; /* it compiles for each call */
    struct wish w = list[0];
    w.forward = true;
    setenv("HEED_CUDA_CACHE", "", 1);
    ck_assert_int_gt(every_call_fails(&w, 1), 15);
}
END_TEST

int main(int argc, char **argv) {
    Suite *suite = suite_create("special");
    TCase *tcase = test_case(suite, "specialised kernels");
    only = argc > 1 ? argv[1] : NULL;
    tcase_add_loop_test(tcase, against_ref, 0, LIST);
    if (only) return test_main(suite);
    tcase_add_test(tcase, wrong_stages);
    tcase_add_test(tcase, seeded_local_memory);
    if (getenv("HEED_TEST_NVRTC")) return test_main(suite); /* only what is about code */
    tcase_add_test(tcase, same_bits);
    tcase_add_test(tcase, no_compiler);
    tcase_add_test(tcase, memory_and_disk);
    tcase_add_test(tcase, no_folder);
    tcase_add_test(tcase, usual_folders);
    tcase_add_test(tcase, two_processes);
    tcase_add_test(tcase, no_code);
    tcase_add_test(tcase, versions);
    tcase_add_test(tcase, full_memory);
    tcase_add_test(tcase, every_allocation_may_fail);
    tcase_add_test(tcase, calls_may_fail_with_code_on_disk);
    tcase_add_test(tcase, calls_may_fail_with_nothing_on_disk);
    return test_main(suite);
}
