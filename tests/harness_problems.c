#include "harness_problems.h"

#include "harness_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "backend/sequences.h"
#include "tensor/philox.h"

static struct heed_attention_args *args_of(struct problem *p) {
    return &p->call.args.attention;
}

static int64_t below(struct problem *p, int64_t n) {
    return (int64_t)(test_bits(&p->call.random) % (uint64_t)n);
}

static bool chance(struct problem *p, double probability) {
    return test_uniform(&p->call.random) < probability;
}

static int64_t pick(struct problem *p, const int64_t *list, int count) {
    return list[below(p, count)];
}

/* ---- tensors ---- */

/* Of new memory. The last dimension is dense unless it repeats. */
static struct heed_view make_view(struct problem *p, const char *name, bool dense, unsigned repeats, int rank,
                                  const int64_t *size) {
    p->name[p->call.blocks] = name;
    return kernel_view(&p->call, HEED_F32, dense ? KERNEL_DENSE : KERNEL_LINES, repeats, rank, size);
}

static void fill(struct problem *p, const struct heed_view *v, bool nothing) {
    struct heed_walk own, repeated;
    float *data = v->data;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own))
        data[heed_ref_offset(v, own.at)] = nothing ? NAN : (float)test_noise(&p->call.random);
}

static struct heed_view make_input(struct problem *p, const char *name, const int64_t size[4]) {
    const bool dense = chance(p, 0.3);
    const unsigned repeats = dense || chance(p, 0.7) ? 0 : (unsigned)below(p, 8);
    const struct heed_view v = make_view(p, name, dense, repeats | p->shared, 4, size);
    fill(p, &v, false);
    return v;
}

/* What a kernel fills holds NaN before. */
static struct heed_view make_output(struct problem *p, const char *name, bool dense, int rank,
                                    const int64_t *size) {
    const struct heed_view v = make_view(p, name, dense, p->shared, rank, size);
    fill(p, &v, true);
    return v;
}

static struct heed_grad_view make_gradient_of(struct problem *p, const char *name, bool dense,
                                              unsigned repeats, const int64_t size[4]) {
    const struct heed_grad_view g = {make_view(p, name, dense, repeats, 4, size), chance(p, 0.4)};
    fill(p, &g.view, !g.add);
    return g;
}

static struct heed_grad_view make_gradient(struct problem *p, const char *name, const struct heed_view *of) {
    if (chance(p, 0.15)) return (struct heed_grad_view){0};
    return make_gradient_of(p, name, chance(p, 0.3), p->shared, of->size);
}

/* ---- the score ---- */

/* A tensor of the score and, mostly, a gradient of the same repeats. */
static void make_score_tensor(struct problem *p, const char *const names[2], const int64_t size[4],
                              bool dense, unsigned repeats, struct heed_view *tensor,
                              struct heed_grad_view *dtensor) {
    *tensor = make_view(p, names[0], dense || chance(p, 0.5), repeats, 4, size);
    fill(p, tensor, false);
    if (!chance(p, 0.7)) return;
    p->sums[p->call.blocks] = true;
    *dtensor = make_gradient_of(p, names[1], dense || chance(p, 0.5), repeats, size);
}

static const char *const stage_names[PROBLEM_STAGES][2] = {
    {"stage 0", "dstage 0"}, {"stage 1", "dstage 1"}, {"stage 2", "dstage 2"}, {"stage 3", "dstage 3"}};
static const char *const param_names[WAVE_PARAMS][2] = {{"param of the call", "dparam of the call"},
                                                        {"param of heads", "dparam of heads"},
                                                        {"param of queries", "dparam of queries"},
                                                        {"param of keys", "dparam of keys"}};

static void make_bias(struct problem *p, int i, const int64_t cells[4], bool masks) {
    struct heed_stage *stage = &args_of(p)->stage[i];
    const struct heed_view *v = &stage->tensor;
    make_score_tensor(p, stage_names[i], cells, false, (unsigned)below(p, 16) | p->shared, &stage->tensor,
                      &stage->dtensor);
    if (!masks || !chance(p, 0.2)) return;
    struct heed_walk own, repeated;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own))
        if (chance(p, 0.1)) heed_ref_put(v, own.at, -INFINITY);
}

/* The wave, once. */
static void make_custom(struct problem *p, int i, const int64_t cells[4]) {
    struct heed_attention_args *a = args_of(p);
    const int64_t batch = cells[0], heads = cells[1];
    const int64_t size[WAVE_PARAMS][4] = {
        {batch, heads, 1, 2}, {batch, heads, 1, 1}, {batch, heads, cells[2], 1}, {batch, heads, 1, cells[3]}};
    const unsigned repeats[WAVE_PARAMS] = {3, 1, (unsigned)below(p, 8) | p->shared,
                                           (unsigned)below(p, 4) | p->shared};
    a->stage[i].rule = chance(p, 0.3) ? &test_wave_f32 : &test_wave;
    a->params = WAVE_PARAMS;
    for (int j = 0; j < WAVE_PARAMS; j++) {
        a->param[j].scope = test_wave.scope[j];
        make_score_tensor(p, param_names[j], size[j], j < 2, repeats[j], &a->param[j].tensor,
                          &a->param[j].dtensor);
    }
}

static void make_distances(struct problem *p, int i, const int64_t cells[4]) {
    const struct heed_packed *packed = &args_of(p)->packed;
    struct heed_stage *stage = &args_of(p)->stage[i];
    const int64_t lengths =
        heed_is_packed(packed) ? packed->most_queries + packed->most_keys : cells[2] + cells[3];
    stage->align = chance(p, 0.5) ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT;
    make_score_tensor(p, stage_names[i], (int64_t[]){cells[0], cells[1], 1, lengths > 0 ? lengths - 1 : 0},
                      false, (unsigned)below(p, 4), &stage->tensor, &stage->dtensor);
}

static void make_stages(struct problem *p, const int64_t cells[4]) {
    struct heed_attention_args *a = args_of(p);
    a->stages = chance(p, 0.35) ? 0 : 1 + (int)below(p, PROBLEM_STAGES);
    bool additive = true, custom = false;
    for (int i = 0; i < a->stages; i++) {
        a->stage[i].kind = (enum heed_stage_kind)below(p, custom ? 3 : 4);
        custom = custom || a->stage[i].kind == HEED_STAGE_CUSTOM;
        additive = additive && a->stage[i].kind <= HEED_STAGE_DISTANCE;
    }
    for (int i = 0; i < a->stages; i++) {
        switch (a->stage[i].kind) {
        case HEED_STAGE_BIAS:
            make_bias(p, i, cells, additive);
            break;
        case HEED_STAGE_DISTANCE:
            make_distances(p, i, cells);
            break;
        case HEED_STAGE_SOFTCAP:
            a->stage[i].cap = 0.3 + 3 * test_uniform(&p->call.random);
            break;
        case HEED_STAGE_CUSTOM:
            make_custom(p, i, cells);
            break;
        }
    }
}

static void make_normalizer(struct problem *p, const int64_t cells[4]) {
    static const char *const names[2] = {"sink", "dsink"};
    struct heed_attention_args *a = args_of(p);
    if (chance(p, 0.25)) a->normalizer = (heed_normalizer)(1 + below(p, 2));
    if (a->normalizer == HEED_NORMALIZER_SOFTMAX && chance(p, 0.3))
        make_score_tensor(p, names, (int64_t[]){cells[0], cells[1], 1, 1}, false,
                          1 + (unsigned)below(p, 2) * 2, &a->sink, &a->dsink);
}

static void make_mask(struct problem *p, const int64_t cells[4]) {
    const struct heed_packed *packed = &args_of(p)->packed;
    p->masks = (struct test_masks){.random = {test_bits(&p->call.random)},
                                   .edge = p->call.edge,
                                   .batch = cells[0],
                                   .heads = cells[1],
                                   .queries = cells[2],
                                   .keys = cells[3]};
    if (heed_is_packed(packed)) {
        p->masks.queries = packed->most_queries;
        p->masks.keys = packed->most_keys;
        p->masks.query_starts = packed->query_starts;
        p->masks.key_starts = packed->key_starts;
    }
    args_of(p)->mask = test_mask_tree(&p->masks, (int)below(p, 4));
}

/* ---- shapes ---- */

struct shape {
    int64_t batch, heads, kv_heads, queries, keys, width, value_width;
    bool packed, decoding;
    bool plain; /* with nothing but what the kernels for short sequences and for decoding know */
};

/* Lengths around the ends of vectors and tiles; what is large is seldom. */
static int64_t length(struct problem *p) {
    static const int64_t few[] = {0, 1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 33};
    static const int64_t some[] = {47, 48, 49, 63, 64, 65, 97}, many[] = {128, 130, 200, 300};
    const double u = test_uniform(&p->call.random);
    if (u < 0.65 || test_small()) return pick(p, few, 15);
    return u < 0.92 ? pick(p, some, 7) : pick(p, many, 4);
}

static int64_t short_length(struct problem *p) {
    static const int64_t lengths[] = {0, 1, 2, 3, 5, 8, 8, 16, 31};
    return pick(p, lengths, 9);
}

static int64_t width(struct problem *p) {
    static const int64_t few[] = {1, 2, 3, 4, 4, 5, 8, 8, 16, 16, 17},
                         many[] = {32, 33, 40, 64, 80, 96, 128, 256};
    return chance(p, 0.75) ? pick(p, few, 11) : pick(p, many, 8);
}

static struct shape make_shape(struct problem *p) {
    struct shape s = {.batch = 1 + below(p, 3), .kv_heads = 1 + below(p, 3)};
    const bool many = chance(p, 0.3); /* short sequences */
    const int64_t group = chance(p, 0.7) ? 1 : 1 + below(p, 3);
    s.plain = chance(p, 0.5);
    s.decoding = !many && chance(p, 0.2); /* a sequence is written on */
    s.packed = !s.decoding && !(many && s.plain) && chance(p, 0.3);
    s.plain = s.plain && (many || s.decoding);
    s.queries = many ? short_length(p) : length(p);
    s.keys = chance(p, 0.5) ? s.queries : many ? short_length(p) : length(p);
    s.width = width(p);
    s.value_width = chance(p, 0.6) ? s.width : width(p);
    if (many) {
        s.batch = 1 + below(p, 7);
        s.kv_heads = 1 + below(p, 20);
    }
    if (s.decoding) {
        s.queries = 1 + below(p, 4);
        s.keys = 40 + below(p, chance(p, 0.2) ? test_size(500, 100) : 100);
    }
    /* As much work as 2,000 of them leave time for. */
    const int64_t most = (chance(p, 0.1) ? 8000000 : 800000) /
                         ((s.queries * s.keys * (s.width + s.value_width) + s.keys) * group + 1);
    while (s.batch * s.kv_heads > most && s.batch * s.kv_heads > 1)
        *(s.batch > 1 ? &s.batch : &s.kv_heads) /= 2;
    s.heads = s.kv_heads * group;
    return s;
}

/* Sequences of some lengths, as the batch; queries and keys become those of all. */
static void make_packed(struct problem *p, struct shape *s) {
    struct heed_packed *packed = &args_of(p)->packed;
    const bool self = chance(p, 0.5), long_ones = s->queries > 48 || s->keys > 48;
    s->batch = 1 + below(p, long_ones ? 3 : PROBLEM_SEQUENCES);
    *packed = (struct heed_packed){
        .sequences = s->batch, .query_starts = p->starts[0], .key_starts = p->starts[self ? 0 : 1]};
    for (int64_t i = 0; i < s->batch; i++) {
        for (int j = 0; j < 2; j++)
            p->starts[j][i + 1] = p->starts[j][i] + (int32_t)(long_ones ? length(p) : short_length(p));
        const struct heed_sequence sequence = heed_sequence_at(packed, i);
        if (sequence.queries > packed->most_queries) packed->most_queries = sequence.queries;
        if (sequence.keys > packed->most_keys) packed->most_keys = sequence.keys;
    }
    s->queries = packed->query_starts[s->batch];
    s->keys = packed->key_starts[s->batch];
    p->shared = 1;
}

/* ---- outputs ---- */

static void make_weights(struct problem *p, const int64_t cells[4]) {
    struct heed_attention_args *a = args_of(p);
    a->weights = make_output(p, "weights", true, 4, cells);
    if (chance(p, 0.7)) a->dweights = make_input(p, "dweights", cells);
}

static struct heed_view make_list(struct problem *p, const char *name, int64_t count, int64_t of) {
    p->name[p->call.blocks] = name;
    const struct heed_view list = kernel_view(&p->call, HEED_I32, KERNEL_DENSE, 0, 1, &count);
    for (int64_t i = 0; i < count; i++) ((int32_t *)list.data)[i] = (int32_t)below(p, of);
    return list;
}

static void make_chosen(struct problem *p, const int64_t cells[4]) {
    struct heed_attention_args *a = args_of(p);
    int64_t size[4] = {cells[0], cells[1], cells[2], cells[3]};
    if (chance(p, 0.6)) {
        size[1] = 1 + below(p, 4);
        a->head_list = make_list(p, "heads", size[1], cells[1]);
    }
    if (cells[2] > 0 && chance(p, 0.6)) {
        size[2] = 1 + below(p, 9);
        a->query_list = make_list(p, "queries", size[2], cells[2]);
    }
    const bool sums = chance(p, 0.6);
    if (!sums || chance(p, 0.5)) a->chosen = make_output(p, "chosen", true, 4, size);
    size[2] = size[3];
    if (sums) a->column_sums = make_output(p, "column sums", true, 3, size);
}

/* lse and its gradient are contiguous, and of packed sequences one slice. */
static void make_lse(struct problem *p, const int64_t cells[4]) {
    struct heed_attention_args *a = args_of(p);
    a->lse = make_output(p, "lse", true, 3, cells);
    if (!chance(p, 0.7)) return;
    a->dlse = make_view(p, "dlse", true, p->shared, 3, cells);
    fill(p, &a->dlse, false);
}

static void make_results(struct problem *p, const int64_t cells[4], const struct shape *s) {
    struct heed_attention_args *a = args_of(p);
    const int64_t size[4] = {cells[0], cells[1], cells[2], a->v.size[3]};
    a->y = make_output(p, "y", chance(p, 0.5), 4, size);
    if (s->plain ? !s->decoding && chance(p, 0.3) : !s->packed && chance(p, 0.5))
        (s->plain || chance(p, 0.7) ? make_weights : make_chosen)(p, cells);
    if (!s->plain && a->normalizer == HEED_NORMALIZER_SOFTMAX && chance(p, 0.3)) make_lse(p, cells);
    const bool others = heed_has(&a->dweights) || heed_has(&a->dlse);
    if (!others || chance(p, 0.7)) a->dy = make_input(p, "dy", size);
    a->dq = make_gradient(p, "dq", &a->q);
    a->dk = make_gradient(p, "dk", &a->k);
    a->dv = make_gradient(p, "dv", &a->v);
}

/* ---- a problem ---- */

static bool is_seen(const struct heed_attention_args *a, int64_t batch, int64_t kv_head,
                    const struct heed_sequence *s, int64_t key) {
    const int64_t group = a->q.size[1] / a->k.size[1];
    for (int64_t q = 0; q < s->queries * group; q++) {
        const struct heed_box box = {
            .batch = batch, .head = kv_head * group + q % group, .queries = s->queries, .keys = s->keys};
        if (heed_mask_test(a->mask, &box, q / group, key)) return true;
    }
    return false;
}

/* NaN or Inf in a row, if it is nobody else's too. */
static void poison_row(struct problem *p, const struct heed_view *v, int64_t batch, int64_t head,
                       int64_t row) {
    static const double bad[3] = {NAN, INFINITY, -INFINITY};
    for (int d = 0; d < 3; d++)
        if (v->stride[d] == 0 && v->size[d] > 1 && !(p->shared >> d & 1)) return;
    heed_ref_put(v, (int64_t[]){batch, head, row, below(p, v->size[3])}, bad[below(p, 3)]);
}

/* In keys and values that no query of their heads can see. */
static void poison(struct problem *p) {
    struct heed_attention_args *a = args_of(p);
    const struct heed_sequence whole = {0, a->q.size[2], 0, a->k.size[2]};
    for (int64_t b = 0; b < a->k.size[0]; b++) {
        for (int64_t h = 0; h < a->k.size[1]; h++) {
            const struct heed_sequence s =
                heed_is_packed(&a->packed) ? heed_sequence_at(&a->packed, b) : whole;
            for (int64_t key = 0; key < s.keys; key++) {
                if (is_seen(a, b, h, &s, key)) continue;
                poison_row(p, &a->k, b, h, s.key + key);
                poison_row(p, &a->v, b, h, s.key + key);
            }
        }
    }
}

static void describe(struct problem *p, uint64_t seed) {
    const struct heed_attention_args *a = args_of(p);
    const bool has[] = {heed_is_packed(&a->packed), heed_has(&a->sink),    heed_has(&a->lse),
                        heed_has(&a->dlse),         heed_has(&a->weights), heed_has(&a->dweights),
                        heed_attention_chooses(a),  heed_has(&a->dy)};
    static const char *const words[] = {" packed",  " sink",     " lse",    " dlse",
                                        " weights", " dweights", " chosen", " dy"};
    int n = snprintf(p->text, sizeof p->text,
                     "seed %llu: %lld x %lld (%lld) heads, %lld x %lld, width %lld %lld, mask %s, %d stages, "
                     "dropout %u, normaliser %d, memory guarded %s,",
                     (unsigned long long)seed, (long long)a->q.size[0], (long long)a->q.size[1],
                     (long long)a->k.size[1], (long long)a->q.size[2], (long long)a->k.size[2],
                     (long long)a->q.size[3], (long long)a->v.size[3], a->mask ? a->mask->kind->name : "none",
                     a->stages, a->threshold, (int)a->normalizer,
                     p->call.edge == TEST_EDGE_BEHIND ? "behind" : "before");
    for (int i = 0; i < 8; i++)
        if (has[i]) n += snprintf(p->text + n, sizeof p->text - (size_t)n, "%s", words[i]);
}

void problem_make(struct problem *p, uint64_t seed) {
    memset(p, 0, sizeof *p);
    p->call.random.state = seed * 7919 + 1;
    p->call.primitive = HEED_PRIMITIVE_ATTENTION;
    p->call.edge = chance(p, 0.7) ? TEST_EDGE_BEHIND : TEST_EDGE_BEFORE;
    struct shape s = make_shape(p);
    if (s.packed) make_packed(p, &s);
    const int64_t cells[4] = {s.batch, s.heads, s.queries, s.keys};
    struct heed_attention_args *a = args_of(p);
    a->q = make_input(p, "q", (int64_t[]){s.batch, s.heads, s.queries, s.width});
    a->k = make_input(p, "k", (int64_t[]){s.batch, s.kv_heads, s.keys, s.width});
    a->v = make_input(p, "v", (int64_t[]){s.batch, s.kv_heads, s.keys, s.value_width});
    a->scale = chance(p, 0.8) ? 1 / sqrt((double)s.width) : test_noise(&p->call.random);
    if (chance(p, 0.7)) make_mask(p, cells);
    if (s.plain) {
        a->stages = s.decoding ? (int)below(p, 3) : 0;
        for (int i = 0; i < a->stages; i++) make_bias(p, i, cells, true);
    } else {
        make_stages(p, cells);
        make_normalizer(p, cells);
    }
    a->threshold = (s.plain && s.decoding) || chance(p, 0.6) ? 65536 : (uint32_t)below(p, 65536);
    a->random = (struct heed_random){.seed = seed, .stream = 1, .step = 3, .ordinal = 5};
    make_results(p, cells, &s);
    if (chance(p, 0.3)) poison(p);
    describe(p, seed);
    for (int i = 0; i < p->masks.blocks; i++, p->call.more++) {
        p->call.others[i].data = p->masks.block[i].data;
        p->call.others[i].bytes = p->masks.block[i].bytes;
    }
    p->call.pointing = p->masks.node;
    p->call.pointing_bytes = sizeof p->masks.node;
}

void problem_free(struct problem *p) {
    kernel_call_end(&p->call);
    test_masks_free(&p->masks);
}

void problem_run(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel) {
    const struct kernel_away away = kernel_send(exec, &p->call);
    struct heed_attention_args forward = *args_of(p), backward = forward;
    memset(&forward.dy, 0, sizeof forward.dy);
    memset(&forward.dweights, 0, sizeof forward.dweights);
    memset(&forward.dlse, 0, sizeof forward.dlse);
    backward.weights.data = backward.lse.data = NULL;
    backward.chosen.data = backward.column_sums.data = backward.head_list.data = backward.query_list.data =
        NULL;
    const struct kernel_saved saved = kernel_run_forward(exec, kernel, &forward, p->call.edge);
    kernel_run_backward(exec, kernel, &backward, &saved);
    kernel_saved_free(&saved);
    kernel_fetch(exec, &p->call, &away);
}
