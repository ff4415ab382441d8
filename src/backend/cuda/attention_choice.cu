/* From the arguments of a call to the program of its specialised kernels: the constants of choice.cuh, the
 * user's stages, and the file of the kernels. */
#include "backend/cuda/attention_choice.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what is chosen ---- */

static const char *name_of(const heed_stage_rule *rule) {
    return rule->name ? rule->name : "without a name";
}

static int slices(int64_t width) {
    return (int)((width + CUDA_SLICE - 1) / CUDA_SLICE);
}

/* Adds to the constants. */
static void define(struct cuda_choice *choice, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void define(struct cuda_choice *choice, const char *format, ...) {
    const size_t used = strlen(choice->constants);
    va_list list;
    va_start(list, format);
    vsnprintf(choice->constants + used, sizeof choice->constants - used, format, list);
    va_end(list);
}

static void choose_stages(const struct heed_attention_args *a, struct cuda_choice *choice) {
    uint64_t kinds = 0, params = 0;
    for (int i = 0; i < a->stages; i++) {
        const struct heed_stage *stage = &a->stage[i];
        kinds |= (uint64_t)stage->kind << 4 * i;
        if (stage->kind != HEED_STAGE_CUSTOM) continue;
        params |= (uint64_t)stage->rule->n_params << 4 * i;
        choice->rule[i] = stage->rule;
        choice->custom = true;
    }
    choice->stages = a->stages;
    define(choice,
           "#define HEED_CHOSEN 1\n#define HEED_CHOSEN_REAL %s\n#define HEED_CHOSEN_STAGES %d\n"
           "#define HEED_CHOSEN_STAGE_KINDS 0x%llxull\n#define HEED_CHOSEN_CUSTOM %d\n"
           "#define HEED_CHOSEN_PARAMS 0x%llxull\n",
           a->q.dtype == HEED_F64 ? "double" : "float", a->stages, (unsigned long long)kinds, choice->custom,
           (unsigned long long)params);
}

/* Columns of a result that a block makes at once: twice as many of wide f32 heads, for which there is room.
 */
static int columns(const struct heed_attention_args *a) {
    const int64_t widest = a->q.size[3] > a->v.size[3] ? a->q.size[3] : a->v.size[3];
    return (a->q.dtype == HEED_F64 || widest <= CUDA_VALUE_COLUMNS ? 1 : 2) * CUDA_VALUE_COLUMNS;
}

/* The rest. `masks` below 0: it is left to be found at run time. */
static void choose_rest(const struct heed_attention_args *a, int masks, uint64_t mask_kinds,
                        struct cuda_choice *choice) {
    static const char *const normalizers[] = {"HEED_NORMALIZER_SOFTMAX", "HEED_NORMALIZER_SIGMOID",
                                              "HEED_NORMALIZER_RELU"};
    const bool all = masks >= 0;
    define(
        choice,
        "#define HEED_CHOSEN_ALL %d\n#define HEED_CHOSEN_MASKS %d\n#define HEED_CHOSEN_MASK_KINDS 0x%llxull\n"
        "#define HEED_CHOSEN_NORMALIZER %s\n#define HEED_CHOSEN_DROPS %d\n#define HEED_CHOSEN_SLICES %d\n"
        "#define HEED_CHOSEN_VALUE_SLICES %d\n#define HEED_CHOSEN_VALUE_COLUMNS %d\n",
        all, all ? masks : 0, all ? (unsigned long long)mask_kinds : 0, normalizers[all ? a->normalizer : 0],
        all && a->threshold < 65536, all ? slices(a->q.size[3]) : 0, all ? slices(a->v.size[3]) : 0,
        all ? columns(a) : 0);
}

void cuda_attention_choose(const struct heed_exec *exec, const struct heed_attention_args *a,
                           struct cuda_choice *choice) {
    uint64_t mask_kinds = 0;
    const int masks = cuda_special_wanted(exec) ? cuda_mask_kinds(a->mask, &mask_kinds) : -1;
    memset(choice, 0, sizeof *choice);
    choose_stages(a, choice);
    choose_rest(a, masks, mask_kinds, choice);
    choice->special = choice->custom || masks >= 0;
    choice->hash = cuda_hash_new();
    cuda_hash_text(&choice->hash, choice->constants);
    for (int i = 0; i < a->stages; i++) {
        if (!choice->rule[i]) continue;
        const char backward = choice->rule[i]->backward != NULL;
        cuda_hash_add(&choice->hash, &backward, 1);
        cuda_hash_text(&choice->hash, name_of(choice->rule[i]));
        cuda_hash_text(&choice->hash, choice->rule[i]->cuda);
    }
}

/* ---- the text ---- */

struct writer {
    char *at;
    size_t used, size;
};

static void write(struct writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void write(struct writer *w, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(w->at ? w->at + w->used : NULL, w->at ? w->size - w->used : 0, format, list);
    va_end(list);
    if (n > 0) w->used += (size_t)n;
}

/* A stage in a namespace of its own. Messages of the compiler count its lines. */
static void write_stage(struct writer *w, const struct cuda_choice *choice, int i) {
    write(w, "namespace heed_stage_%d {\n#line 1 \"", i);
    for (const char *c = name_of(choice->rule[i]); *c; c++)
        if (*c != '"' && *c != '\\' && (unsigned char)*c >= ' ') write(w, "%c", *c);
    write(w, "\"\n%s\n}\n#line 1 \"heed.cu\"\n", choice->rule[i]->cuda);
}

/* A call of each stage, by its number. */
static void write_calls(struct writer *w, const struct cuda_choice *choice) {
    write(w, "static __device__ inline real user_forward(int stage, real s, const heed_cell &at) {\n");
    for (int i = 0; i < choice->stages; i++)
        if (choice->rule[i]) write(w, "    if (stage == %d) return heed_stage_%d::forward(s, at);\n", i, i);
    write(w, "    return s;\n}\n"
             "static __device__ inline real user_backward(int stage, real s, real g, const heed_cell &at, "
             "const heed_sums &sums) {\n");
    for (int i = 0; i < choice->stages; i++)
        if (choice->rule[i] && choice->rule[i]->backward)
            write(w, "    if (stage == %d) return heed_stage_%d::backward(s, g, at, sums);\n", i, i);
    write(w, "    return g;\n}\n");
}

static void write_program(struct writer *w, const struct cuda_choice *choice, enum cuda_attention_part part) {
    static const char *const files[] = {"forward", "backward", "scores"};
    write(w, "%s", choice->constants);
    if (choice->custom) {
        write(w, "#include \"backend/cuda/stage.cuh\"\n");
        for (int i = 0; i < choice->stages; i++)
            if (choice->rule[i]) write_stage(w, choice, i);
        write_calls(w, choice);
    }
    write(w, "#include \"backend/cuda/attention_%s.cu\"\n", files[part]);
}

struct wanted {
    const struct cuda_choice *choice;
    enum cuda_attention_part part;
};

/* The program of a file's kernels. */
static char *text_of(struct heed_exec *exec, const void *self) {
    const struct wanted *wanted = static_cast<const struct wanted *>(self);
    struct writer w = {};
    write_program(&w, wanted->choice, wanted->part);
    w.size = w.used + 1;
    w.at = static_cast<char *>(cuda_code_block(exec, w.size));
    w.used = 0;
    if (w.at) write_program(&w, wanted->choice, wanted->part);
    return w.at;
}

/* ---- the kernels ---- */

static heed_status fail(struct heed_exec *exec, const struct cuda_choice *choice, const char *why) {
    const char *name = "";
    for (int i = 0; i < choice->stages; i++)
        if (choice->rule[i]) name = name_of(choice->rule[i]);
    return heed_host->fail(exec, HEED_ERROR_UNSUPPORTED, HEED_PRIMITIVE_ATTENTION,
                           "the CUDA source of the stage %.40s cannot be used: %s", name, why);
}

heed_status cuda_attention_kernel(struct heed_exec *exec, const struct cuda_choice *choice,
                                  enum cuda_attention_part part, const char *name, cudaKernel_t *kernel) {
    *kernel = NULL;
    if (!choice->special) return HEED_OK;
    const struct wanted wanted = {choice, part};
    const char *why = NULL;
    struct cuda_program program = {choice->hash, text_of, &wanted};
    cuda_hash_add(&program.own, &part, sizeof part);
    cuda_of(exec)->starved = false;
    *kernel = cuda_special_kernel(exec, &program, name, &why);
    if (cuda_of(exec)->starved)
        return heed_host->fail(exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_ATTENTION,
                               "no memory for specialised kernels");
    return *kernel || !choice->custom ? HEED_OK : fail(exec, choice, why);
}
