/* Scores: every pair of features that change what attention computes, and wrong use, by the drivers of
 * harness_ops.h. */
#include "harness_attention.h"
#include "harness_mask_objects.h"
#include "harness_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Inputs; those that a row does not give are left out. */
enum { Q, K, V, BIAS, BIAS2, T5, RELATIVE, SLOPES, SINK, CALL, HEAD, QUERY, KEY, LENGTHS };

/* Sizes of the rows: small ones are differentiated, large ones leave parts of tiles and vectors. */
struct sizes {
    int64_t batch, heads, queries, keys, width, value_width;
};
static const struct sizes small = {2, 2, 3, 5, 2, 3}, large = {1, 2, 97, 131, 40, 33};

/* What a size of a bias is; 1 is 1. */
enum { B = -4, H, N, M };

static int64_t size_of(int64_t what, const struct sizes *s) {
    switch (what) {
    case B:
        return s->batch;
    case H:
        return s->heads;
    case N:
        return s->queries;
    case M:
        return s->keys;
    default:
        return what;
    }
}

#define SHAPE(...)                                                                                           \
    .bias_rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .bias = {__VA_ARGS__}

struct wish {
    const char *name;
    bool softcap, alibi, causal, groups, weights, lse, ramp;
    bool other_end; /* positions and causal aligned at the bottom right */
    bool t5_causal;
    double dropout, cap;
    heed_normalizer normalizer;
    int bias_rank;
    int64_t bias[4];
    bool t5, relative, slopes, sink, custom, lengths;
    unsigned masks; /* a bit for each kind of mask, of random tensors */
    bool last;      /* a soft cap after the other stages, too */
    bool f32_only;  /* the stage without functions for f64 */
};

/* With the log-sum-exp no row may be empty: a loss of −∞ cannot be differentiated. */
static void mask_score(const struct wish *w, heed_score *score, const heed_tensor *in) {
    static const int32_t one = 1;
    for (int kind = 0; kind < MASK_OBJECTS; kind++) {
        if (!(w->masks >> kind & 1)) continue;
        struct mask_maker m = mask_maker_for(in[Q], in[K], (uint64_t)kind + 3);
        heed_mask *mask = mask_object(&m, (enum mask_object)kind);
        heed_tensor first = heed_from(m.ctx, HEED_I32, TEST_SHAPE(1), &one);
        heed_score_mask(score, w->lse ? heed_mask_or(mask, heed_mask_key_lengths(first)) : mask);
    }
}

static heed_score *score_of(const struct wish *w, const heed_tensor *in) {
    heed_ctx *ctx = heed_context(in[Q]);
    const heed_align align = w->other_end ? HEED_BOTTOM_RIGHT : HEED_TOP_LEFT;
    heed_score *score = heed_score_new(ctx);
    if (w->softcap) heed_score_softcap(score, w->cap != 0 ? w->cap : 0.8);
    if (in[BIAS].node) heed_score_bias(score, in[BIAS]);
    if (in[T5].node)
        heed_score_t5(score, in[T5],
                      &(heed_t5_options){.causal = w->t5_causal, .max_distance = 6, .align = align});
    if (in[CALL].node)
        heed_score_custom(score, w->f32_only ? &test_wave_f32 : &test_wave, &in[CALL], WAVE_PARAMS, NULL);
    if (in[RELATIVE].node) heed_score_relative(score, in[RELATIVE], align);
    if (w->alibi || in[SLOPES].node) heed_score_alibi(score, in[SLOPES], align);
    if (w->ramp) heed_score_custom(score, &test_ramp, NULL, 0, NULL);
    if (in[BIAS2].node) heed_score_bias(score, in[BIAS2]);
    if (w->last) heed_score_softcap(score, 1.5);
    if (in[SINK].node) heed_score_sink(score, in[SINK]);
    if (w->normalizer) heed_score_normalizer(score, w->normalizer);
    if (w->causal) heed_score_mask(score, heed_mask_causal(ctx, align));
    if (in[LENGTHS].node) heed_score_mask(score, heed_mask_key_lengths(in[LENGTHS]));
    mask_score(w, score, in);
    return score;
}

static void call(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *w = row->options;
    const heed_attention_options options = {.dropout = w->dropout};
    int n = 1;
    heed_tensor *weights = w->weights ? &out[n++] : NULL, *lse = w->lse ? &out[n++] : NULL;
    out[0] = heed_attention_lse(in[Q], in[K], in[V], score_of(w, in), &options, weights, lse);
}

/* Multi-head attention with such a score. Query and key are inputs Q and K; the projections take the places
 * of tensors that the score does not have. */
static void call_block(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *w = row->options;
    heed_tensor of_score[OP_INPUTS];
    for (int i = 0; i < OP_INPUTS; i++) of_score[i] = in[i];
    of_score[RELATIVE] = of_score[SLOPES] = of_score[BIAS2] = (heed_tensor){0};
    const heed_mha_weights projections = {.q = in[V], .k = in[RELATIVE], .v = in[SLOPES], .out = in[BIAS2]};
    out[0] = heed_multi_head_attention(in[Q], in[K], (heed_tensor){0}, &projections, score_of(w, of_score),
                                       &(heed_mha_call_options){.heads = small.heads, .dropout = w->dropout},
                                       w->weights ? &out[1] : NULL);
}

/* ---- pairs ---- */

static const struct wish parts[] = {
    {"nothing"},
    {"softcap", .softcap = true},
    {"bias", SHAPE(B, H, N, M)},
    {"bias of cells", SHAPE(N, M)},
    {"bias by key", SHAPE(B, 1, 1, M)},
    {"bias by query", SHAPE(H, N, 1)},
    {"bias by head", SHAPE(H, 1, 1)},
    {"bias of all", SHAPE(1)},
    {"t5", .t5 = true},
    {"relative", .relative = true},
    {"slopes", .slopes = true},
    {"sink", .sink = true},
    {"custom", .custom = true},
    {"ramp", .ramp = true},
    {"dropout", .dropout = 0.3},
    {"causal", .causal = true},
    {"key lengths", .lengths = true},
    {"groups", .groups = true},
    {"weights", .weights = true},
    {"lse", .lse = true},
    {"sigmoid", .normalizer = HEED_NORMALIZER_SIGMOID},
    {"relu", .normalizer = HEED_NORMALIZER_RELU},
    {"the other end", .other_end = true, .alibi = true, .causal = true, .last = true},
};
/* These, and each kind of mask. */
enum {
    PARTS = sizeof parts / sizeof parts[0],
    FEATURES = PARTS + MASK_OBJECTS,
    MOST_PAIRS = FEATURES * FEATURES / 2
};

static struct wish feature(int i) {
    if (i < PARTS) return parts[i];
    return (struct wish){.name = mask_object_names[i - PARTS], .masks = 1u << (i - PARTS)};
}

static struct op_case pairs[2 * MOST_PAIRS];
static struct wish wishes[2 * MOST_PAIRS];
static char pair_names[2 * MOST_PAIRS][64];

static bool fits(const struct wish *a, const struct wish *b) {
    const bool other = a->normalizer || b->normalizer;
    return !(a->normalizer && b->normalizer) && !(other && (a->sink || b->sink || a->lse || b->lse));
}

static void join(struct wish *w, const struct wish *a) {
    w->softcap |= a->softcap;
    w->alibi |= a->alibi;
    w->causal |= a->causal;
    w->groups |= a->groups;
    w->weights |= a->weights;
    w->lse |= a->lse;
    w->ramp |= a->ramp;
    w->other_end |= a->other_end;
    w->last |= a->last;
    w->t5 |= a->t5;
    w->relative |= a->relative;
    w->slopes |= a->slopes;
    w->sink |= a->sink;
    w->custom |= a->custom;
    w->lengths |= a->lengths;
    w->masks |= a->masks;
    if (a->dropout != 0) w->dropout = a->dropout;
    if (a->normalizer) w->normalizer = a->normalizer;
}

static struct op_input input(bool there, int rank, const int64_t *size) {
    struct op_input in = {.fill = there ? OP_NORMAL : OP_NONE, .rank = rank};
    for (int i = 0; i < rank; i++) in.size[i] = size[i];
    return in;
}

static struct op_input bias_input(const struct wish *w, const struct sizes *s) {
    struct op_input in = input(w->bias_rank > 0, w->bias_rank, w->bias);
    for (int i = 0; i < in.rank; i++) in.size[i] = size_of(in.size[i], s);
    return in;
}

static void build(struct op_case *row, struct wish *w, const struct wish *a, const struct wish *b,
                  const struct sizes *s) {
    const int64_t kv = w->groups ? 1 : s->heads;
    row->call = call;
    row->kind = OP_ATTENTION;
    row->options = w;
    row->outputs = 1 + w->weights + w->lse;
    row->random = w->dropout != 0;
    row->big = s == &large;
    row->in[Q] = input(true, 4, (int64_t[]){s->batch, s->heads, s->queries, s->width});
    row->in[K] = input(true, 4, (int64_t[]){s->batch, kv, s->keys, s->width});
    row->in[V] = input(true, 4, (int64_t[]){s->batch, kv, s->keys, s->value_width});
    row->in[BIAS] = bias_input(a, s);
    row->in[BIAS2] = bias_input(b, s);
    row->in[T5] = input(w->t5, 2, (int64_t[]){s->heads, 8});
    row->in[RELATIVE] = input(w->relative, 2, (int64_t[]){1, 5});
    row->in[SLOPES] = input(w->slopes, 1, (int64_t[]){s->heads});
    row->in[SINK] = input(w->sink, 1, (int64_t[]){s->heads});
    row->in[CALL] = input(w->custom, 1, (int64_t[]){2});
    row->in[HEAD] = input(w->custom, 2, (int64_t[]){s->heads, 1});
    row->in[QUERY] = input(w->custom, 3, (int64_t[]){s->batch, 1, s->queries});
    row->in[KEY] = input(w->custom, 2, (int64_t[]){s->heads, s->keys});
    if (!w->lengths) return;
    row->in[LENGTHS] =
        (struct op_input){.fill = OP_INDEX, .rank = 1, .size = {s->batch}, .limit = (double)(s->keys + 1)};
    if (!w->lse) return; /* no length of 0: a loss of −∞ cannot be differentiated */
    row->in[LENGTHS] = (struct op_input){.fill = OP_VALUE,
                                         .rank = 1,
                                         .size = {s->batch},
                                         .limit = (double)(s->keys - 1),
                                         .other_dtype = true,
                                         .dtype = HEED_I32};
}

/* Multi-head attention with all kinds of stages at once, with and without its weights. */
static void build_block(struct op_case *row, struct wish *w, bool weights) {
    *w = (struct wish){
        .softcap = true, .t5 = true, .custom = true, .sink = true, .last = true, .lengths = true};
    w->weights = weights;
    w->dropout = weights ? 0 : 0.2;
    build(row, w, &(struct wish){"", SHAPE(N, M)}, &(struct wish){""}, &small);
    const int64_t width = small.heads * small.width;
    row->name = weights ? "block with weights" : "block";
    row->call = call_block;
    row->in[Q] = input(true, 3, (int64_t[]){small.batch, small.queries, 3});
    row->in[K] = input(true, 3, (int64_t[]){small.batch, small.keys, 2});
    row->in[V] = input(true, 2, (int64_t[]){width, 3});
    row->in[RELATIVE] = row->in[SLOPES] = input(true, 2, (int64_t[]){width, 2});
    row->in[BIAS2] = input(true, 2, (int64_t[]){3, width});
}

static void build_pair(int n, const struct wish *a, const struct wish *b, const struct sizes *s) {
    join(&wishes[n], a);
    join(&wishes[n], b);
    snprintf(pair_names[n], sizeof pair_names[n], "%s%s and %s", s == &large ? "large, " : "", a->name,
             b->name);
    pairs[n].name = pair_names[n];
    build(&pairs[n], &wishes[n], a, b, s);
}

static int build_pairs(void) {
    const struct sizes *const sizes[] = {&small, &large};
    int n = 0;
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < FEATURES; i++) {
            for (int j = i + 1; j < FEATURES; j++) {
                const struct wish a = feature(i), b = feature(j);
                /* Of the large pairs all of features; of those with kinds of masks, and for slow tools, some.
                 */
                const bool some = (j < PARTS && !test_small()) || (i + j) % test_size(4, 8) == 0;
                if (fits(&a, &b) && (k == 0 || some)) build_pair(n++, &a, &b, sizes[k]);
            }
        }
    }
    for (int i = 0; i < 2; i++, n++) build_block(&pairs[n], &wishes[n], i == 1);
    return n;
}

/* ---- wrong use ---- */

/* clang-format off */
#define X OP_NORMAL
#define QKV [Q] = {X, SIZES(2, 2, 3, 4)}, [K] = {X, SIZES(2, 2, 5, 4)}, [V] = {X, SIZES(2, 2, 5, 4)}
#define F64 .other_dtype = true, .dtype = HEED_F64
#define QKV64 [Q] = {X, SIZES(2, 2, 3, 4), F64}, [K] = {X, SIZES(2, 2, 5, 4), F64}, [V] = {X, SIZES(2, 2, 5, 4), F64}
#define WAVE64 [CALL] = {X, SIZES(2), F64}, [HEAD] = {X, SIZES(2, 1), F64}, [QUERY] = {X, SIZES(3), F64}, \
    [KEY] = {X, SIZES(5), F64}
#define WISH(...) .options = &(const struct wish){"", __VA_ARGS__}

static const struct op_wrong wrongs[] = {
    {{"cap below 0", call, {QKV}, WISH(.softcap = true, .cap = -1)}, HEED_ERROR_ARGUMENT, "score_softcap: cap"},
    {{"cap is NaN", call, {QKV}, WISH(.softcap = true, .cap = NAN)}, HEED_ERROR_ARGUMENT, "score_softcap: cap"},
    {{"odd number of buckets", call, {QKV, [T5] = {X, SIZES(2, 7)}}, WISH(0)}, HEED_ERROR_SHAPE, "score_t5: table"},
    {{"buckets without heads", call, {QKV, [T5] = {X, SIZES(8)}}, WISH(0)}, HEED_ERROR_SHAPE, "score_t5: table"},
    {{"table for other heads", call, {QKV, [T5] = {X, SIZES(3, 8)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: table"},
    {{"table of another dtype", call, {QKV, [T5] = {X, SIZES(2, 8), F64}}, WISH(0)}, HEED_ERROR_DTYPE, "attention: table"},
    {{"distance within the buckets", call, {QKV, [T5] = {X, SIZES(2, 64)}}, WISH(0)}, HEED_ERROR_ARGUMENT, "score_t5: "},
    {{"even number of positions", call, {QKV, [RELATIVE] = {X, SIZES(2, 4)}}, WISH(0)}, HEED_ERROR_SHAPE, "score_relative: "},
    {{"positions for other heads", call, {QKV, [RELATIVE] = {X, SIZES(4, 5)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: table"},
    {{"slopes for other heads", call, {QKV, [SLOPES] = {X, SIZES(3)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: slopes"},
    {{"sinks for other heads", call, {QKV, [SINK] = {X, SIZES(3)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: sink[3] is not ["},
    {{"sink of two dimensions", call, {QKV, [SINK] = {X, SIZES(2, 1)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: sink"},
    {{"sink without softmax", call, {QKV, [SINK] = {X, SIZES(2)}}, WISH(.normalizer = HEED_NORMALIZER_RELU)},
     HEED_ERROR_ARGUMENT, "softmax only"},
    {{"no such normaliser", call, {QKV}, WISH(.normalizer = (heed_normalizer)3)}, HEED_ERROR_ARGUMENT, "3 is not a normaliser"},
    {{"sum without softmax", call, {QKV}, WISH(.normalizer = HEED_NORMALIZER_SIGMOID, .lse = true), .outputs = 2},
     HEED_ERROR_ARGUMENT, "only the softmax"},
    {{"parameter missing", call, {QKV, [CALL] = {X, SIZES(2)}}, WISH(0)}, HEED_ERROR_ARGUMENT, "no parameter given"},
    {{"parameter of another scope", call, {QKV, [CALL] = {X, SIZES(2)}, [HEAD] = {X, SIZES(2)}, [QUERY] = {X, SIZES(3)}, [KEY] = {X, SIZES(5)}}, WISH(0)}, HEED_ERROR_SHAPE, "attention: parameter 1 [2] of the stage wave: HEED_PER_HEAD needs [2 or 1, n]"},
    {{"parameter for other queries", call, {QKV, [CALL] = {X, SIZES(2)}, [HEAD] = {X, SIZES(2, 1)}, [QUERY] = {X, SIZES(4)}, [KEY] = {X, SIZES(5)}}, WISH(0)}, HEED_ERROR_SHAPE,
     "attention: parameter"},
    {{"stage without f64", call, {QKV64, WAVE64}, WISH(.f32_only = true)}, HEED_ERROR_UNSUPPORTED, "wave"},
};
/* clang-format on */

int main(void) {
    Suite *suite = suite_create("scores");
    op_add_cases(suite, pairs, build_pairs());
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    return test_main(suite);
}
