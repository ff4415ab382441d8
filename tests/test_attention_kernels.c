/* The attention kernels of the CPU backend against the reference kernel, on random problems: shapes, packed
 * sequences, strides, masks, up to four stages of every kind and broadcast pattern, sinks, normalisers,
 * dropout, grouped heads, weights, log-sum-exp, wanted and unwanted gradients, poison in masked places. A
 * problem is made from a seed alone; HEED_FUZZ=N tries N of them. */
#include "harness_attention.h"
#include "harness_masks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/sequences.h"
#include "tensor/internal.h"
#include "tensor/memory.h"

#define GAP 12345.0f /* between the elements of a strided view */

#define STAGES 4
#define MOST_SEQUENCES 6
#define FOUR(name) name, name##_END = name + STAGES - 1

enum {
    Q,
    K,
    V,
    Y,
    WEIGHTS,
    LSE,
    DY,
    DWEIGHTS,
    DLSE,
    DQ,
    DK,
    DV,
    SINK,
    DSINK,
    FOUR(STAGE),
    FOUR(DSTAGE),
    FOUR(PARAM),
    FOUR(DPARAM),
    BUFFERS
};
static const char *const names[BUFFERS] = {[Y] = "y",         [WEIGHTS] = "weights",
                                           [LSE] = "lse",     [DQ] = "dq",
                                           [DK] = "dk",       [DV] = "dv",
                                           [DSINK] = "dsink", [DSTAGE] = "dstage 0",
                                           "dstage 1",        "dstage 2",
                                           "dstage 3",        [DPARAM] = "dparam 0",
                                           "dparam 1",        "dparam 2",
                                           "dparam 3"};

struct buffer {
    float *data, *start; /* what it holds before each run */
    int64_t count;
    struct heed_view view;
};

struct problem {
    struct test_random random;
    struct heed_attention_args args;
    struct buffer buffer[BUFFERS];
    struct test_masks masks;
    int32_t starts[2][MOST_SEQUENCES + 1]; /* of queries and keys, where they are packed */
    unsigned shared;                       /* repeats of what has rows of queries or keys: 1 if packed */
    char text[400];
};

static int64_t below(struct problem *p, int64_t n) {
    return (int64_t)(test_bits(&p->random) % (uint64_t)n);
}

static bool chance(struct problem *p, double probability) {
    return test_uniform(&p->random) < probability;
}

/* ---- making a problem ---- */

/* Strides over the given sizes: the last dimension contiguous, the others in random order with gaps;
 * dimensions in `repeats` have stride 0. */
static void make_view(struct problem *p, struct buffer *b, const int64_t size[4], bool dense,
                      unsigned repeats) {
    int order[4] = {3, 2, 1, 0};
    struct heed_view *v = &b->view;
    int64_t stride = 1;
    *v = (struct heed_view){.dtype = HEED_F32, .rank = 4};
    for (int i = 3; i > 1 && !dense; i--) {
        const int j = 1 + (int)below(p, i), other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    for (int i = 0; i < 4; i++) {
        const int d = order[i];
        v->size[d] = size[d];
        v->stride[d] = repeats >> d & 1 ? 0 : stride;
        if (!(repeats >> d & 1)) stride *= size[d];
        if (!dense && i < 3 && size[d] > 0) stride += below(p, 2) * below(p, 20);
    }
    b->count = stride > 0 ? stride : 1;
    b->data = malloc((size_t)b->count * sizeof(float));
    b->start = malloc((size_t)b->count * sizeof(float));
    for (int64_t i = 0; i < b->count; i++) b->start[i] = GAP;
    v->data = b->data;
}

static float *at(const struct buffer *b, float *base, int64_t i, int64_t j, int64_t k, int64_t l) {
    const int64_t *s = b->view.stride;
    return base + i * s[0] + j * s[1] + k * s[2] + l * s[3];
}

#define EACH(size, i, j, k, l)                                                                               \
    for (int64_t i = 0; i < (size)[0]; i++)                                                                  \
        for (int64_t j = 0; j < (size)[1]; j++)                                                              \
            for (int64_t k = 0; k < (size)[2]; k++)                                                          \
                for (int64_t l = 0; l < (size)[3]; l++)

static void fill(struct problem *p, struct buffer *b, double scale) {
    EACH(b->view.size, i, j, k, l) * at(b, b->start, i, j, k, l) = (float)(scale * test_normal(&p->random));
}

static void make_input(struct problem *p, int which, const int64_t size[4], double scale) {
    make_view(p, &p->buffer[which], size, chance(p, 0.3), p->shared);
    fill(p, &p->buffer[which], scale);
}

static int64_t pick(struct problem *p, const int64_t *list, int count) {
    return list[below(p, count)];
}

static void make_mask(struct problem *p, int64_t batch, int64_t heads, int64_t queries, int64_t keys) {
    const struct heed_packed *packed = &p->args.packed;
    p->masks = (struct test_masks){
        .random = {test_bits(&p->random)}, .batch = batch, .heads = heads, .queries = queries, .keys = keys};
    if (heed_is_packed(packed)) {
        p->masks.queries = packed->most_queries;
        p->masks.keys = packed->most_keys;
        p->masks.query_starts = packed->query_starts;
        p->masks.key_starts = packed->key_starts;
    }
    p->args.mask = test_mask_tree(&p->masks, (int)below(p, 3));
}

/* A tensor of a stage and, mostly, a gradient of the same repeats. */
static void make_score_tensor(struct problem *p, int which, int gradient, const int64_t size[4], bool dense,
                              unsigned repeats, struct heed_view *tensor, struct heed_grad_view *dtensor) {
    struct buffer *b = &p->buffer[which], *db = &p->buffer[gradient];
    make_view(p, b, size, dense || chance(p, 0.5), repeats);
    fill(p, b, 1);
    *tensor = b->view;
    if (!chance(p, 0.7)) return;
    make_view(p, db, size, dense || chance(p, 0.5), repeats);
    fill(p, db, 1);
    *dtensor = (struct heed_grad_view){db->view, chance(p, 0.5)};
}

static void make_bias(struct problem *p, int i, const int64_t cells[4], bool masks) {
    struct heed_stage *stage = &p->args.stage[i];
    struct buffer *b = &p->buffer[STAGE + i];
    make_score_tensor(p, STAGE + i, DSTAGE + i, cells, false, (unsigned)below(p, 16) | p->shared,
                      &stage->tensor, &stage->dtensor);
    if (!masks || !chance(p, 0.2)) return;
    EACH(cells, j, k, l, m) if (chance(p, 0.1)) * at(b, b->start, j, k, l, m) = -INFINITY;
}

/* The wave, once. */
static void make_custom(struct problem *p, int i, const int64_t cells[4]) {
    struct heed_attention_args *a = &p->args;
    const int64_t batch = cells[0], heads = cells[1];
    const int64_t size[WAVE_PARAMS][4] = {
        {batch, heads, 1, 2}, {batch, heads, 1, 1}, {batch, heads, cells[2], 1}, {batch, heads, 1, cells[3]}};
    const unsigned repeats[WAVE_PARAMS] = {3, 1, (unsigned)below(p, 8) | p->shared,
                                           (unsigned)below(p, 4) | p->shared};
    a->stage[i].rule = chance(p, 0.3) ? &test_wave_f32 : &test_wave;
    a->params = WAVE_PARAMS;
    for (int j = 0; j < WAVE_PARAMS; j++) {
        a->param[j].scope = test_wave.scope[j];
        make_score_tensor(p, PARAM + j, DPARAM + j, size[j], j < 2, repeats[j], &a->param[j].tensor,
                          &a->param[j].dtensor);
    }
}

static void make_stages(struct problem *p, const int64_t cells[4]) {
    struct heed_attention_args *a = &p->args;
    a->stages = chance(p, 0.35) ? 0 : 1 + (int)below(p, STAGES);
    bool additive = true;
    for (int i = 0; i < a->stages; i++) {
        a->stage[i].kind = (enum heed_stage_kind)below(p, a->params ? 3 : 4);
        additive = additive && a->stage[i].kind <= HEED_STAGE_DISTANCE;
    }
    for (int i = 0; i < a->stages; i++) {
        const bool packed = heed_is_packed(&a->packed);
        const int64_t lengths = packed ? a->packed.most_queries + a->packed.most_keys : cells[2] + cells[3];
        const int64_t n = lengths > 0 ? lengths - 1 : 0;
        switch (a->stage[i].kind) {
        case HEED_STAGE_BIAS:
            make_bias(p, i, cells, additive);
            break;
        case HEED_STAGE_DISTANCE:
            a->stage[i].align = chance(p, 0.5) ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT;
            make_score_tensor(p, STAGE + i, DSTAGE + i, (int64_t[]){cells[0], cells[1], 1, n}, false,
                              (unsigned)below(p, 4), &a->stage[i].tensor, &a->stage[i].dtensor);
            break;
        case HEED_STAGE_SOFTCAP:
            a->stage[i].cap = 0.3 + 3 * test_uniform(&p->random);
            break;
        case HEED_STAGE_CUSTOM:
            if (a->params) {
                a->stage[i].kind = HEED_STAGE_SOFTCAP;
                a->stage[i].cap = 2;
            } else {
                make_custom(p, i, cells);
            }
            break;
        }
    }
    if (chance(p, 0.25)) a->normalizer = (heed_normalizer)(1 + below(p, 2));
    if (a->normalizer == HEED_NORMALIZER_SOFTMAX && chance(p, 0.3)) {
        make_score_tensor(p, SINK, DSINK, (int64_t[]){cells[0], cells[1], 1, 1}, false,
                          1 + (unsigned)below(p, 2) * 2, &a->sink, &a->dsink);
    }
}

static void make_output(struct problem *p, int which, const int64_t size[4], bool dense) {
    make_view(p, &p->buffer[which], size, dense, p->shared);
    fill(p, &p->buffer[which], 1); /* what a gradient is added to */
}

static void make_gradient(struct problem *p, int which, int of, struct heed_grad_view *gradient) {
    if (chance(p, 0.15)) return;
    make_output(p, which, p->buffer[of].view.size, chance(p, 0.3));
    *gradient = (struct heed_grad_view){p->buffer[which].view, chance(p, 0.4)};
}

/* [batch, 1, heads, queries] without the 1. */
static struct heed_view lse_view(const struct buffer *b) {
    struct heed_view v = b->view;
    v.rank = 3;
    for (int d = 1; d < 3; d++) {
        v.size[d] = v.size[d + 1];
        v.stride[d] = v.stride[d + 1];
    }
    return v;
}

/* Sequences of some lengths, as the batch; queries and keys become those of all. */
static void make_packed(struct problem *p, const int64_t *lengths, int count, int64_t *batch,
                        int64_t *queries, int64_t *keys) {
    struct heed_packed *packed = &p->args.packed;
    const bool self = chance(p, 0.5);
    *batch = 1 + below(p, MOST_SEQUENCES);
    *packed = (struct heed_packed){
        .sequences = *batch, .query_starts = p->starts[0], .key_starts = p->starts[self ? 0 : 1]};
    for (int64_t i = 0; i < *batch; i++) {
        for (int j = 0; j < 2; j++) p->starts[j][i + 1] = p->starts[j][i] + (int32_t)pick(p, lengths, count);
        const struct heed_sequence s = heed_sequence_at(packed, i);
        if (s.queries > packed->most_queries) packed->most_queries = s.queries;
        if (s.keys > packed->most_keys) packed->most_keys = s.keys;
    }
    *queries = packed->query_starts[*batch];
    *keys = packed->key_starts[*batch];
    p->shared = 1;
}

static void make_problem(struct problem *p, uint64_t seed) {
    static const int64_t lengths[] = {0, 1, 2, 5, 8, 8, 16, 31, 47, 48, 49, 63, 64, 65, 97, 130, 200, 300};
    static const int64_t widths[] = {1, 3, 4, 4, 8, 16, 16, 17, 32, 33, 64, 80};
    const int few = test_small() ? 13 : 18;
    *p = (struct problem){.random = {seed * 7919 + 1}};
    const bool many = chance(p, 0.3); /* many short sequences */
    int64_t batch = many ? 1 + below(p, 7) : 1 + below(p, 3);
    const int64_t kv_heads = many ? 1 + below(p, 20) : 1 + below(p, 3);
    const int64_t group = chance(p, 0.7) ? 1 : 1 + below(p, 3), heads = kv_heads * group;
    int64_t queries = pick(p, lengths, many ? 8 : few);
    int64_t keys = chance(p, 0.5) ? queries : pick(p, lengths, many ? 8 : few);
    const bool decoding = !many && chance(p, 0.25); /* a sequence written on */
    const bool plain = decoding && chance(p, 0.6);  /* with nothing but what its kernel knows */
    if (decoding) {
        queries = 1 + below(p, 4);
        keys = 40 + below(p, test_size(500, 200));
    }
    const bool packed = !decoding && chance(p, 0.3);
    if (packed) make_packed(p, lengths, many ? 8 : few, &batch, &queries, &keys);
    const int64_t width = pick(p, widths, many ? 7 : 12),
                  value_width = chance(p, 0.6) ? width : pick(p, widths, many ? 7 : 12);
    const int64_t cells[4] = {batch, heads, queries, keys};
    struct heed_attention_args *a = &p->args;
    make_input(p, Q, (int64_t[]){batch, heads, queries, width}, 1);
    make_input(p, K, (int64_t[]){batch, kv_heads, keys, width}, 1);
    make_input(p, V, (int64_t[]){batch, kv_heads, keys, value_width}, 1);
    make_input(p, DY, (int64_t[]){batch, heads, queries, value_width}, 1);
    make_output(p, Y, p->buffer[DY].view.size, false);
    a->q = p->buffer[Q].view;
    a->k = p->buffer[K].view;
    a->v = p->buffer[V].view;
    a->y = p->buffer[Y].view;
    a->scale = chance(p, 0.8) ? 1 / sqrt((double)width) : test_normal(&p->random);
    if (chance(p, 0.7)) make_mask(p, batch, heads, queries, keys);
    if (plain) {
        a->stages = (int)below(p, 3);
        for (int i = 0; i < a->stages; i++) make_bias(p, i, cells, true);
    } else {
        make_stages(p, cells);
    }
    a->threshold = plain || chance(p, 0.6) ? 65536 : (uint32_t)below(p, 65536);
    a->random = (struct heed_random){.seed = seed, .stream = 1, .step = 3, .ordinal = 5};
    if (!plain && !packed && chance(p, 0.4)) {
        make_output(p, WEIGHTS, cells, true);
        a->weights = p->buffer[WEIGHTS].view;
        make_input(p, DWEIGHTS, cells, 1);
        if (chance(p, 0.7)) a->dweights = p->buffer[DWEIGHTS].view;
    }
    if (!plain && a->normalizer == HEED_NORMALIZER_SOFTMAX && chance(p, 0.3)) {
        const int64_t rows[4] = {batch, 1, heads, queries};
        make_output(p, LSE, rows, true);
        a->lse = lse_view(&p->buffer[LSE]);
        make_view(p, &p->buffer[DLSE], rows, true, p->shared);
        fill(p, &p->buffer[DLSE], 1);
        if (chance(p, 0.7)) a->dlse = lse_view(&p->buffer[DLSE]);
    }
    const bool others = heed_has(&a->dweights) || heed_has(&a->dlse);
    if (!others || chance(p, 0.7)) a->dy = p->buffer[DY].view;
    make_gradient(p, DQ, Q, &a->dq);
    make_gradient(p, DK, K, &a->dk);
    make_gradient(p, DV, V, &a->dv);
    snprintf(
        p->text, sizeof p->text,
        "seed %llu: %s%lld x %lld (%lld) heads, %lld x %lld, width %lld %lld, mask %s, %d stages, dropout "
        "%u, normaliser %d, %s%s%s%s%s%s",
        (unsigned long long)seed, packed ? "packed " : "", (long long)batch, (long long)heads,
        (long long)kv_heads, (long long)queries, (long long)keys, (long long)width, (long long)value_width,
        a->mask ? a->mask->kind->name : "none", a->stages, a->threshold, (int)a->normalizer,
        heed_has(&a->sink) ? "sink " : "", heed_has(&a->lse) ? "lse " : "", heed_has(&a->dlse) ? "dlse " : "",
        heed_has(&a->weights) ? "weights " : "", heed_has(&a->dweights) ? "dweights " : "",
        heed_has(&a->dy) ? "dy" : "");
}

static void drop_problem(struct problem *p) {
    for (int i = 0; i < BUFFERS; i++) {
        free(p->buffer[i].data);
        free(p->buffer[i].start);
    }
    test_masks_free(&p->masks);
}

/* NaN and Inf in keys and values that no query of their heads can see. */
static void poison(struct problem *p) {
    const struct heed_attention_args *a = &p->args;
    const int64_t group = a->q.size[1] / a->k.size[1];
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    for (int64_t b = 0; b < a->k.size[0]; b++) {
        for (int64_t h = 0; h < a->k.size[1]; h++) {
            const struct heed_sequence s = heed_is_packed(&a->packed)
                                               ? heed_sequence_at(&a->packed, b)
                                               : (struct heed_sequence){0, a->q.size[2], 0, a->k.size[2]};
            for (int64_t key = 0; key < s.keys; key++) {
                bool seen = false;
                for (int64_t q = 0; q < s.queries * group; q++) {
                    const struct heed_box box = {
                        .batch = b, .head = h * group + q % group, .queries = s.queries, .keys = s.keys};
                    seen = seen || heed_mask_test(a->mask, &box, q / group, key);
                }
                if (seen || a->k.size[3] == 0 || a->v.size[3] == 0) continue;
                *at(&p->buffer[K], p->buffer[K].start, b, h, s.key + key, below(p, a->k.size[3])) =
                    bad[below(p, 3)];
                *at(&p->buffer[V], p->buffer[V].start, b, h, s.key + key, below(p, a->v.size[3])) =
                    bad[below(p, 3)];
            }
        }
    }
}

/* ---- running it ---- */

static void reset(struct problem *p) {
    for (int i = 0; i < BUFFERS; i++) {
        if (p->buffer[i].data)
            memcpy(p->buffer[i].data, p->buffer[i].start, (size_t)p->buffer[i].count * sizeof(float));
    }
}

static void run(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel) {
    struct heed_attention_args forward = p->args;
    struct heed_sizes sizes = {0};
    reset(p);
    memset(&forward.dy, 0, sizeof forward.dy);
    memset(&forward.dweights, 0, sizeof forward.dweights);
    memset(&forward.dlse, 0, sizeof forward.dlse);
    if (kernel->sizes) kernel->sizes(exec, &forward, &sizes);
    void *saved = heed_block_new(exec->memory, sizes.saved);
    ck_assert_int_eq(heed_exec_forward(exec, kernel, &forward, saved), HEED_OK);
    struct heed_attention_args backward = p->args;
    backward.weights.data = backward.lse.data = NULL;
    ck_assert_int_eq(heed_exec_backward(exec, kernel, &backward, saved), HEED_OK);
    heed_block_free(exec->memory, saved);
}

/* All elements, and a 1 after them: sums that cancel have errors of the size of their terms. */
static double *results(const struct problem *p, int which, int64_t *count) {
    const struct buffer *b = &p->buffer[which];
    double *values = malloc((size_t)(b->count + 1) * sizeof(double));
    for (int64_t i = 0; i < b->count; i++) values[i] = b->data[i];
    values[b->count] = 1;
    *count = b->count + 1;
    return values;
}

static bool is_output(int which) {
    return names[which] != NULL;
}

static heed_ctx *contexts[32];
static const struct test_device *devices;
static int device_count;

static void open_contexts(void) {
    device_count = test_devices(&devices);
    for (int i = 0; i < device_count; i++) contexts[i] = test_ctx(&devices[i]);
}

static void close_contexts(void) {
    for (int i = 0; i < device_count; i++) heed_ctx_free(contexts[i]);
}

/* How far a kernel may be from the reference: sums of rounded terms in another order, over keys or queries of
 * sums over the width. Where scores are large, an error of a score is one of its probability. */
/* Gradients of stages are sums over batch and heads too. */
static struct test_tolerance tolerance_of(const struct problem *p, int which) {
    const struct heed_attention_args *a = &p->args;
    double terms = (double)(a->k.size[2] + a->q.size[2] + 16) * (double)(a->q.size[3] + a->v.size[3] + 16);
    if (which == DSINK || which >= DSTAGE) terms *= (double)(a->q.size[0] * a->q.size[1] + 1);
    const double factor = (1 + fabs(a->scale)) * (1 + heed_keep_scale(a->threshold));
    return (struct test_tolerance){.relative = 1e-5, .absolute = 1e-7 * sqrt(terms) * factor};
}

static void compare(const struct problem *p, double *const *expected, const char *device,
                    const char *kernel) {
    for (int i = 0; i < BUFFERS; i++) {
        int64_t count;
        char text[200];
        if (!p->buffer[i].data || !is_output(i)) continue;
        double *values = results(p, i, &count);
        const bool close = test_close(count, values, expected[i], tolerance_of(p, i),
                                      fmin(10, test_largest(count, expected[i])), text, sizeof text);
        ck_assert_msg(close, "%s, %s %s, %s: %s", p->text, device, kernel, names[i], text);
        free(values);
    }
}

static void keep_bits(const struct problem *p, float *bits[BUFFERS]) {
    for (int i = 0; i < BUFFERS; i++) {
        if (!p->buffer[i].data || !is_output(i)) continue;
        const size_t bytes = (size_t)p->buffer[i].count * sizeof(float);
        free(bits[i]);
        bits[i] = memcpy(malloc(bytes), p->buffer[i].data, bytes);
    }
}

static void compare_bits(const struct problem *p, float *const bits[BUFFERS], const char *device,
                         const char *what) {
    for (int i = 0; i < BUFFERS; i++) {
        if (!p->buffer[i].data || !is_output(i)) continue;
        ck_assert_msg(memcmp(bits[i], p->buffer[i].data, (size_t)p->buffer[i].count * sizeof(float)) == 0,
                      "%s, %s, %s: bits of %s differ", p->text, device, what, names[i]);
    }
}

static int tried[HEED_MAX_KERNELS]; /* problems that the kernel at each place of the slot applied to */

/* What is masked reaches nothing; the logarithm of an empty row's sum is −∞. */
static void check_finite(const struct problem *p, double *const *expected) {
    for (int i = 0; i < BUFFERS; i++) {
        if (!expected[i] || !is_output(i)) continue;
        for (int64_t j = 0; j < p->buffer[i].count; j++)
            ck_assert_msg(isfinite(expected[i][j]) || (i == LSE && expected[i][j] == -INFINITY),
                          "%s: %s has %g", p->text, names[i], expected[i][j]);
    }
}

/* On every device with every kernel that applies; the same bits for any number of threads, and whatever the
 * mask can prove. */
static void check(struct problem *p, bool poisoned) {
    double *expected[BUFFERS] = {NULL};
    float *bits[BUFFERS] = {NULL};
    int64_t count;
    run(p, &contexts[0]->exec, heed_ref_kernels[HEED_PRIMITIVE_ATTENTION]);
    for (int i = 0; i < BUFFERS; i++) {
        if (p->buffer[i].data) expected[i] = results(p, i, &count);
    }
    if (poisoned) check_finite(p, expected);
    for (int k = 0; k < HEED_MAX_KERNELS; k++) {
        for (int d = 1; d < device_count; d++) {
            struct heed_exec *exec = &contexts[d]->exec;
            const struct heed_kernel *kernel = exec->kernel[HEED_PRIMITIVE_ATTENTION][k];
            struct heed_why why = {NULL};
            char device[64];
            if (!kernel || kernel == heed_ref_kernels[HEED_PRIMITIVE_ATTENTION]) break;
            if (kernel->applies && !kernel->applies(exec, &p->args, &why)) break;
            tried[k]++;
            run(p, exec, kernel);
            compare(p, expected, test_device_name(&devices[d], device, sizeof device), kernel->name);
            if (devices[d].threads == 1) {
                keep_bits(p, bits);
                const struct heed_bound_mask *mask = p->args.mask;
                if (!mask) continue;
                p->args.mask = test_mask_without_proofs(&p->masks, mask);
                run(p, exec, kernel);
                compare_bits(p, bits, device, "a mask without proofs");
                p->args.mask = mask;
                p->masks.nodes--;
            } else {
                compare_bits(p, bits, device, kernel->name);
            }
        }
    }
    for (int i = 0; i < BUFFERS; i++) {
        free(expected[i]);
        free(bits[i]);
    }
}

enum { PARTS = 4 }; /* of the problems: each is a test with a time of its own */

START_TEST(random_problems) {
    const char *fuzz = getenv("HEED_FUZZ");
    const int count = fuzz ? atoi(fuzz) : (int)test_size(300, 60);
    open_contexts();
    for (int seed = _i; seed < count; seed += PARTS) {
        struct problem p;
        make_problem(&p, (uint64_t)seed);
        const bool poisoned = seed % 3 == 0;
        if (poisoned) poison(&p);
        check(&p, poisoned);
        drop_problem(&p);
    }
    for (int k = 0; contexts[1]->exec.kernel[HEED_PRIMITIVE_ATTENTION][k + 1] && count >= 100 * PARTS; k++) {
        ck_assert_msg(tried[k] > 0, "no problem was for %s",
                      contexts[1]->exec.kernel[HEED_PRIMITIVE_ATTENTION][k]->name);
    }
    close_contexts();
}
END_TEST

int main(void) {
    Suite *suite = suite_create("attention_kernels");
    TCase *tests = test_case(suite, "against_ref");
    tcase_add_loop_test(tests, random_problems, 0, PARTS);
    return test_main(suite);
}
