/* heed_attention_packed(): gradients and the cpu backend by the drivers of harness_ops.h; the same results
 * and gradients as heed_attention() of each sequence alone, or of a batch where all are of one length; wrong
 * use. */
#include "harness_attention.h"
#include "harness_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Inputs; those that a row does not give are left out. */
enum { Q, K, V, BIAS, BIAS2, T5, RELATIVE, SLOPES, SINK, CALL, HEAD, QUERY, KEY };

enum { MOST = 6 };

/* Some of the sequences of a row. */
struct part {
    heed_ctx *ctx;
    const struct wish *wish;
    int first, count;
};

struct wish {
    int sequences;
    int q[MOST], k[MOST];
    bool self; /* keys are of the same lengths, and their starts are not given */
    heed_mask *(*mask)(const struct part *part);
    bool softcap, alibi, end, lse;
    double dropout;
    heed_normalizer normalizer;
    bool batch; /* compared with a batch, for what depends on the number of the sequence */
    /* wrong use */
    int from, key_sequences;
    bool float_starts, matrix_starts, no_starts;
};

static int keys_of(const struct wish *w, int i) {
    return w->self ? w->q[i] : w->k[i];
}

static int before(const struct wish *w, int i, bool keys) {
    int rows = 0;
    for (int j = 0; j < i; j++) rows += keys ? keys_of(w, j) : w->q[j];
    return rows;
}

/* ---- masks ---- */

/* Small numbers that look random. */
static int number(int place, int salt, int below) {
    return (int)(((unsigned)place * 2654435761u + (unsigned)salt * 40503u + 12345u) >> 7) % below;
}

static heed_tensor integers(const struct part *p, heed_dtype dtype, int rank, const int64_t *size,
                            int (*value)(const struct part *p, int64_t i)) {
    int64_t count = 1;
    for (int d = 0; d < rank; d++) count *= size[d];
    int32_t *data = malloc((size_t)(count + 1) * sizeof *data);
    for (int64_t i = 0; i < count; i++) {
        if (dtype == HEED_BOOL)
            ((uint8_t *)data)[i] = value(p, i) != 0;
        else
            data[i] = value(p, i);
    }
    heed_tensor t = heed_from(p->ctx, dtype, rank, size, data);
    free(data);
    return t;
}

static int64_t rows_of(const struct part *p, bool keys) {
    return before(p->wish, p->first + p->count, keys) - before(p->wish, p->first, keys);
}

/* The sequence that row i of the part belongs to, and its place among all rows. */
static int sequence_of(const struct part *p, int64_t i, bool keys, int *place) {
    *place = (int)i + before(p->wish, p->first, keys);
    int s = p->first;
    while (*place >= before(p->wish, s + 1, keys)) s++;
    return s;
}

/* [n] of queries or keys. */
static heed_tensor by_row(const struct part *p, bool keys, int (*value)(const struct part *p, int64_t i)) {
    return integers(p, HEED_I32, 1, (int64_t[]){rows_of(p, keys)}, value);
}

static heed_tensor by_sequence(const struct part *p, int (*value)(const struct part *p, int64_t i)) {
    return integers(p, HEED_I32, 1, (int64_t[]){p->count}, value);
}

static int key_length(const struct part *p, int64_t i) {
    return keys_of(p->wish, p->first + (int)i) * 2 / 3;
}

static int key_length_too_long(const struct part *p, int64_t i) {
    return keys_of(p->wish, p->first + (int)i) + (i == 1);
}

static int query_length(const struct part *p, int64_t i) {
    return (p->wish->q[p->first + (int)i] + 1) / 2;
}

static int query_id(const struct part *p, int64_t i) {
    int place;
    sequence_of(p, i, false, &place);
    return number(place / 2, 1, 3) - (place % 11 == 5);
}

static int key_id(const struct part *p, int64_t i) {
    int place;
    sequence_of(p, i, true, &place);
    return number(place / 2, 2, 3);
}

static int interval_first(const struct part *p, int64_t i) {
    int place;
    const int s = sequence_of(p, i, true, &place);
    return number(place, 3, p->wish->q[s] / 2 + 1);
}

static int interval_end(const struct part *p, int64_t i) {
    int place;
    const int s = sequence_of(p, i, true, &place);
    return number(place, 4, p->wish->q[s] + 1);
}

static int subtree_end(const struct part *p, int64_t i) {
    int place;
    const int s = sequence_of(p, i, false, &place), node = place - before(p->wish, s, false);
    return node + 1 + number(place, 5, p->wish->q[s] - node);
}

/* Blocks of 2 queries and 3 keys, as many as the longest of the part needs. */
static int64_t blocks(const struct part *p, bool keys) {
    int most = 0;
    for (int i = p->first; i < p->first + p->count; i++) {
        const int length = keys ? keys_of(p->wish, i) : p->wish->q[i];
        if (length > most) most = length;
    }
    return keys ? (most + 2) / 3 : (most + 1) / 2;
}

static int block(const struct part *p, int64_t i) {
    const int64_t columns = blocks(p, true), rows = blocks(p, false);
    const int s = p->first + (int)(i / (rows * columns)), at = (int)(i / columns % rows * 50 + i % columns);
    return number(at, 6 + s, 4) > 0;
}

/* Two of each row. */
static int listed_block(const struct part *p, int64_t i) {
    const int64_t rows = blocks(p, false);
    const int s = p->first + (int)(i / (2 * rows)), at = (int)(i % (2 * rows));
    return number(at, 7 + s, (keys_of(p->wish, s) + 2) / 3 + 1) - 1;
}

static int patch_cell(const struct part *p, int64_t i) {
    return number((int)i % 9, 8 + p->first + (int)i / 9, 2);
}

/* [queries, keys] of the part; what lies between sequences is of no matter. */
static int dense_cell(const struct part *p, int64_t i) {
    int q, k;
    const int64_t keys = rows_of(p, true);
    sequence_of(p, i / keys, false, &q);
    sequence_of(p, i % keys, true, &k);
    return number(q * 500 + k, 9, 3) > 0;
}

static int key_cell(const struct part *p, int64_t i) {
    int k;
    sequence_of(p, i, true, &k);
    return number(k, 10, 4) > 0;
}

#define MASK(name, ...)                                                                                      \
    static heed_mask *name(const struct part *p) {                                                           \
        return __VA_ARGS__;                                                                                  \
    }

static bool user_test(void *user, int64_t batch, int64_t head, int64_t query, int64_t key) {
    (void)user;
    return (3 * query + 5 * key + batch + head) % 4 != 0;
}

static const heed_mask_predicate_options user = {.test = user_test};

MASK(causal, heed_mask_causal(p->ctx, HEED_TOP_LEFT))
MASK(causal_end, heed_mask_causal(p->ctx, HEED_BOTTOM_RIGHT))
MASK(window, heed_mask_window(p->ctx, 2, 1, HEED_BOTTOM_RIGHT))
MASK(band, heed_mask_band(p->ctx, -3, -1, HEED_TOP_LEFT))
MASK(wide_band, heed_mask_band(p->ctx, -40, 60, HEED_BOTTOM_RIGHT))
MASK(key_lengths, heed_mask_key_lengths(by_sequence(p, key_length)))
MASK(too_long, heed_mask_key_lengths(by_sequence(p, key_length_too_long)))
MASK(query_lengths, heed_mask_query_lengths(by_sequence(p, query_length)))
MASK(prefix, heed_mask_prefix(by_sequence(p, key_length), HEED_BOTTOM_RIGHT))
MASK(segments, heed_mask_segments(by_row(p, false, query_id), by_row(p, true, key_id)))
MASK(one_segment, heed_mask_segments(heed_zeros(p->ctx, HEED_I32, TEST_SHAPE(1)), (heed_tensor){0}))
MASK(intervals, heed_mask_key_intervals(by_row(p, true, interval_first), by_row(p, true, interval_end)))
MASK(flashmask, heed_mask_and(causal(p), heed_mask_not(intervals(p))))
MASK(tree, heed_mask_tree(by_row(p, false, subtree_end), 2))
MASK(grid, heed_mask_blocks(integers(p, HEED_BOOL, 4,
                                     (int64_t[]){p->count, 1, blocks(p, false), blocks(p, true)}, block),
                            2, 3))
MASK(lists, heed_mask_block_lists(integers(p, HEED_I32, 4, (int64_t[]){p->count, 1, blocks(p, false), 2},
                                           listed_block),
                                  2, 3))
MASK(patch, heed_mask_patch(integers(p, HEED_BOOL, 4, (int64_t[]){p->count, 1, 3, 3}, patch_cell),
                            &(heed_mask_patch_options){.query = 1, .key = -1, .visible_outside = true}))
MASK(dense,
     heed_mask_dense(integers(p, HEED_BOOL, 2, (int64_t[]){rows_of(p, false), rows_of(p, true)}, dense_cell)))
MASK(dense_keys, heed_mask_dense(integers(p, HEED_BOOL, 2, (int64_t[]){1, rows_of(p, true)}, key_cell)))
MASK(random_cells, heed_mask_random(p->ctx, 0.6, 3, NULL))
MASK(predicate, heed_mask_predicate(p->ctx, &user))
MASK(all_of_them, heed_mask_and(heed_mask_or(intervals(p), heed_mask_or(window(p), segments(p))),
                                heed_mask_or(heed_mask_not(dense(p)), key_lengths(p))))

/* ---- calls ---- */

static heed_score *score_of(const struct part *p, const heed_tensor *in) {
    const struct wish *w = p->wish;
    const heed_align align = w->end ? HEED_BOTTOM_RIGHT : HEED_TOP_LEFT;
    heed_score *score = heed_score_new(p->ctx);
    if (in[BIAS].node) heed_score_bias(score, in[BIAS]);
    if (w->softcap) heed_score_softcap(score, 0.8);
    if (in[T5].node) heed_score_t5(score, in[T5], &(heed_t5_options){.max_distance = 6, .align = align});
    if (in[CALL].node) heed_score_custom(score, &test_wave, &in[CALL], WAVE_PARAMS, NULL);
    if (in[RELATIVE].node) heed_score_relative(score, in[RELATIVE], align);
    if (w->alibi || in[SLOPES].node) heed_score_alibi(score, in[SLOPES], align);
    if (in[BIAS2].node) heed_score_bias(score, in[BIAS2]);
    if (in[SINK].node) heed_score_sink(score, in[SINK]);
    if (w->normalizer) heed_score_normalizer(score, w->normalizer);
    if (w->mask) heed_score_mask(score, w->mask(p));
    return score;
}

static heed_tensor starts(heed_ctx *ctx, const struct wish *w, int sequences, bool keys) {
    int32_t at[MOST + 1];
    for (int i = 0; i <= sequences; i++) at[i] = w->from + before(w, i, keys);
    heed_tensor t = heed_from(ctx, HEED_I32, TEST_SHAPE(sequences + 1), at);
    if (w->matrix_starts) t = heed_unsqueeze(t, 0);
    return w->float_starts ? heed_cast(t, HEED_F32) : t;
}

static void call_packed(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    static const heed_tensor none;
    const struct wish *w = row->options;
    const struct part all = {heed_context(in[Q]), w, 0, w->sequences};
    const heed_attention_options options = {.dropout = w->dropout};
    const int key_sequences = w->key_sequences ? w->key_sequences : w->sequences;
    out[0] = heed_attention_packed(in[Q], in[K], in[V],
                                   w->no_starts ? none : starts(all.ctx, w, w->sequences, false),
                                   w->self ? none : starts(all.ctx, w, key_sequences, true),
                                   score_of(&all, in), &options, w->lse ? &out[1] : NULL);
}

/* The rows of a sequence along a dimension, where it has the rows of all. */
static heed_tensor cut(const struct wish *w, heed_tensor t, int dim, int i, bool keys) {
    const int all = before(w, w->sequences, keys), first = before(w, i, keys);
    if (heed_size(t, dim) != all || all == 1) return t;
    return heed_slice(t, dim, first, before(w, i + 1, keys), 1);
}

/* What belongs to one sequence. */
static void take_sequence(const struct wish *w, const heed_tensor *in, int i, heed_tensor *own) {
    for (int j = 0; j < OP_INPUTS; j++) own[j] = in[j];
    own[Q] = cut(w, in[Q], 1, i, false);
    own[K] = cut(w, in[K], 1, i, true);
    own[V] = cut(w, in[V], 1, i, true);
    for (int j = BIAS; j <= BIAS2; j++)
        if (in[j].node) own[j] = cut(w, cut(w, in[j], -2, i, false), -1, i, true);
    if (!in[CALL].node) return;
    own[QUERY] = cut(w, in[QUERY], -1, i, false);
    own[KEY] = cut(w, in[KEY], -1, i, true);
}

/* Sequence after sequence. */
static void call_apart(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *w = row->options;
    heed_tensor own[OP_INPUTS], y[MOST], lse[MOST];
    for (int i = 0; i < w->sequences; i++) {
        const struct part part = {heed_context(in[Q]), w, i, 1};
        take_sequence(w, in, i, own);
        for (int j = Q; j <= V; j++) own[j] = heed_unsqueeze(own[j], 0);
        y[i] = heed_squeeze(heed_attention_lse(own[Q], own[K], own[V], score_of(&part, own), NULL, NULL,
                                               w->lse ? &lse[i] : NULL),
                            0);
        if (w->lse) lse[i] = heed_squeeze(lse[i], 0);
    }
    out[0] = heed_cat(w->sequences, y, 1);
    if (w->lse) out[1] = heed_cat(w->sequences, lse, 1);
}

/* As a batch: [heads, sequences · length, width] as [sequences, heads, length, width], and back. */
static heed_tensor to_batch(heed_tensor t, int sequences) {
    const int64_t size[4] = {heed_size(t, 0), sequences, heed_size(t, 1) / sequences, heed_size(t, 2)};
    return heed_permute(heed_reshape(t, 4, size), 4, (int[]){1, 0, 2, 3});
}

static heed_tensor from_batch(heed_tensor t) {
    const int64_t size[3] = {heed_size(t, 1), heed_size(t, 0) * heed_size(t, 2), heed_size(t, 3)};
    return heed_reshape(heed_permute(t, 4, (int[]){1, 0, 2, 3}), 3, size);
}

static void call_batch(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *w = row->options;
    const struct part all = {heed_context(in[Q]), w, 0, w->sequences};
    const heed_attention_options options = {.dropout = w->dropout};
    heed_tensor qkv[3];
    for (int i = 0; i < 3; i++) qkv[i] = to_batch(in[i], w->sequences);
    out[0] = from_batch(heed_attention(qkv[Q], qkv[K], qkv[V], score_of(&all, in), &options, NULL));
}

/* ---- the table ---- */

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define FEW .sequences = 4, .q = {3, 0, 5, 2}, .k = {4, 3, 0, 6}
#define FULL .sequences = 3, .q = {3, 5, 2}, .k = {5, 4, 7}
#define TREES .sequences = 3, .q = {3, 0, 5}, .k = {5, 2, 7}
#define EVEN .sequences = 3, .q = {5, 5, 5}, .k = {7, 7, 7}
#define MANY .sequences = 6, .q = {70, 0, 200, 5, 49, 1}, .k = {130, 3, 201, 0, 64, 300}
#define LONG .sequences = 3, .q = {3, 700, 40}, .k = {20, 900, 33}
#define TWO_LONG .sequences = 3, .q = {100, 9, 120}, .k = {530, 1, 650}
#define QKV(h, q, k, d) {N, SIZES(h, q, d)}, {N, SIZES(h, k, d)}, {N, SIZES(h, k, d)}
#define OF_FEW QKV(2, 10, 13, 3)
#define OF_FULL QKV(2, 10, 16, 3)
#define OF_TREES QKV(2, 8, 14, 3)
#define OF_EVEN QKV(2, 15, 21, 3)
#define OF_MANY QKV(2, 325, 698, 20)
#define OF_LONG QKV(1, 743, 953, 16)
#define CALL(name, ...) name, call_packed, {__VA_ARGS__}, OP_ATTENTION
#define BY(...) .options = &(const struct wish){__VA_ARGS__}
#define WAVE(h, q, k) [CALL] = {N, SIZES(2)}, [HEAD] = {N, SIZES(h, 1)}, [QUERY] = {N, SIZES(h, q)}, [KEY] = {N, SIZES(k)}

static const struct op_case cases[] = {
    {CALL("plain", OF_FEW), BY(FEW)},
    {CALL("keys of the same lengths", QKV(2, 11, 11, 4)), BY(.sequences = 4, .q = {4, 1, 0, 6}, .self = true)},
    {CALL("one sequence", QKV(2, 5, 7, 4)), BY(.sequences = 1, .q = {5}, .k = {7})},
    {CALL("no sequence", QKV(2, 0, 0, 4)), BY(.sequences = 0)},
    {CALL("nothing but empty ones", QKV(2, 0, 0, 4)), BY(.sequences = 3, .self = true)},
    {CALL("no keys", QKV(2, 3, 0, 4)), BY(.sequences = 2, .q = {1, 2})},
    {CALL("no queries", QKV(2, 0, 3, 4)), BY(.sequences = 2, .k = {1, 2})},
    {CALL("empty ends", QKV(2, 3, 4, 2)), BY(.sequences = 4, .q = {0, 2, 1, 0}, .k = {0, 3, 1, 0})},
    {CALL("groups", {N, SIZES(4, 10, 3)}, {N, SIZES(2, 13, 3)}, {N, SIZES(2, 13, 5)}), BY(FEW)},
    {CALL("strides", {N, SIZES(2, 10, 3), OP_TRANSPOSED}, {N, SIZES(2, 13, 3), OP_SLICED}, {N, SIZES(2, 13, 3),
     OP_OUTER}), BY(FEW)},
    {CALL("sum", OF_FULL), .outputs = 2, BY(FULL, .lse = true)},
    {CALL("dropout", OF_EVEN), .random = true, BY(EVEN, .dropout = 0.3, .batch = true)},
    {CALL("dropout, other lengths", OF_FEW), .random = true, BY(FEW, .dropout = 0.3)},
    {CALL("causal", OF_FEW), BY(FEW, .mask = causal)},
    {CALL("causal at the end", OF_FEW), BY(FEW, .mask = causal_end)},
    {CALL("window", OF_FEW), BY(FEW, .mask = window)},
    {CALL("band", OF_FEW), BY(FEW, .mask = band)},
    {CALL("key lengths", OF_FEW), BY(FEW, .mask = key_lengths)},
    {CALL("query lengths", OF_FEW), BY(FEW, .mask = query_lengths)},
    {CALL("prefix", OF_FEW), BY(FEW, .mask = prefix)},
    {CALL("segments", OF_FEW), BY(FEW, .mask = segments)},
    {CALL("one segment for all", OF_FEW), BY(FEW, .mask = one_segment)},
    {CALL("intervals", OF_FEW), BY(FEW, .mask = intervals)},
    {CALL("flashmask", OF_FEW), BY(FEW, .mask = flashmask)},
    {CALL("trees", OF_TREES), BY(TREES, .mask = tree)},
    {CALL("blocks", OF_FEW), BY(FEW, .mask = grid)},
    {CALL("block lists", OF_FEW), BY(FEW, .mask = lists)},
    {CALL("patch", OF_FEW), BY(FEW, .mask = patch)},
    {CALL("dense", OF_FEW), BY(FEW, .mask = dense)},
    {CALL("dense by key", OF_FEW), BY(FEW, .mask = dense_keys)},
    {CALL("random", OF_EVEN), BY(EVEN, .mask = random_cells, .batch = true)},
    {CALL("predicate", OF_EVEN), BY(EVEN, .mask = predicate, .batch = true)},
    {CALL("tree of masks", OF_FEW), BY(FEW, .mask = all_of_them)},
    {CALL("bias of cells", OF_FEW, {N, SIZES(10, 13)}), BY(FEW)},
    {CALL("bias of heads and cells, cap", OF_FEW, {N, SIZES(2, 10, 13)}), BY(FEW, .softcap = true)},
    {CALL("bias by key", OF_FEW, {N, SIZES(2, 1, 13)}), BY(FEW, .mask = causal_end)},
    {CALL("bias by query", OF_FEW, {N, SIZES(10, 1)}), BY(FEW, .normalizer = HEED_NORMALIZER_SIGMOID)},
    {CALL("bias by head", OF_FEW, {N, SIZES(2, 1, 1)}), BY(FEW, .normalizer = HEED_NORMALIZER_SIGMOID)},
    {CALL("bias of all", OF_FEW, {N, SIZES(1)}), BY(FEW, .normalizer = HEED_NORMALIZER_RELU), .no_difference =
     true},
    {CALL("t5", OF_FEW, [T5] = {N, SIZES(2, 8)}), BY(FEW)},
    {CALL("t5 at the end", OF_FEW, [T5] = {N, SIZES(2, 8)}), BY(FEW, .end = true)},
    {CALL("relative", OF_FEW, [RELATIVE] = {N, SIZES(1, 5)}), BY(FEW)},
    {CALL("relative at the end", OF_FEW, [RELATIVE] = {N, SIZES(2, 5)}), BY(FEW, .end = true)},
    {CALL("alibi", OF_FEW, [SLOPES] = {N, SIZES(2)}), BY(FEW)},
    {CALL("alibi at the end", OF_FEW), BY(FEW, .alibi = true, .end = true, .mask = causal_end)},
    {CALL("sink", OF_FEW, [SINK] = {N, SIZES(2)}), BY(FEW)},
    {CALL("own stage", OF_FEW, WAVE(2, 10, 13)), BY(FEW)},
    {CALL("all stages", OF_FULL, {N, SIZES(2, 1, 16)}, {N, SIZES(10, 16)}, {N, SIZES(2, 8)}, {N, SIZES(1, 5)},
     {N, SIZES(2)}, {N, SIZES(2)}, WAVE(2, 10, 16)), .outputs = 2, BY(FULL, .softcap = true, .end = true, .lse =
     true)},
    {CALL("many", OF_MANY), .big = true, BY(MANY)},
    {CALL("many, causal at the end, t5", OF_MANY, [T5] = {N, SIZES(2, 16)}), .big = true, BY(MANY, .end = true,
     .mask = causal_end)},
    {CALL("many, dropout", OF_MANY), .big = true, .random = true, BY(MANY, .dropout = 0.2)},
    {CALL("many, band, bias of cells", OF_MANY, {N, SIZES(325, 698)}), .big = true, BY(MANY, .mask = wide_band)},
    {CALL("many, biases, sink", OF_MANY, {N, SIZES(2, 1, 698)}, {N, SIZES(325, 1)}, [SINK] = {N, SIZES(2)}), .big =
     true, BY(MANY, .mask = flashmask)},
    {CALL("many, own stage", OF_MANY, WAVE(2, 325, 698)), .big = true, BY(MANY, .mask = all_of_them)},
    {CALL("many, groups", {N, SIZES(4, 325, 20)}, {N, SIZES(2, 698, 20)}, {N, SIZES(2, 698, 9)}, [SLOPES] = {N,
     SIZES(4)}), .big = true, BY(MANY, .mask = segments)},
    {CALL("a long one: strips", OF_LONG, {N, SIZES(1, 743, 1)}, [T5] = {N, SIZES(1, 8)}), .big = true, BY(LONG, .mask
     = causal_end)},
    {CALL("two long ones: strips of both", QKV(1, 229, 1181, 16)), .big = true, BY(TWO_LONG)},
    {CALL("a long one: bias of shared heads", {N, SIZES(2, 743, 16)}, {N, SIZES(2, 953, 16)}, {N, SIZES(2, 953, 16)},
     {N, SIZES(743, 953)}), .big = true, BY(LONG)},
};

static const struct op_wrong wrongs[] = {
    {{CALL("more queries than starts", QKV(2, 11, 13, 3)), BY(FEW)}, HEED_ERROR_ARGUMENT, "query starts"},
    {{CALL("fewer keys than starts", QKV(2, 10, 12, 3)), BY(FEW)}, HEED_ERROR_ARGUMENT, "key starts"},
    {{CALL("decreasing", QKV(2, 4, 4, 3)), BY(.sequences = 3, .q = {2, -1, 3}, .self = true)}, HEED_ERROR_ARGUMENT,
     "decrease"},
    {{CALL("not from 0", QKV(2, 5, 5, 3)), BY(.sequences = 1, .q = {4}, .from = 1, .self = true)},
     HEED_ERROR_ARGUMENT, "from 0"},
    {{CALL("other number of sequences", QKV(2, 10, 7, 3)), BY(FEW, .key_sequences = 3)}, HEED_ERROR_SHAPE,
     "sequences"},
    {{CALL("starts of floats", OF_FEW), BY(FEW, .float_starts = true)}, HEED_ERROR_DTYPE, "i32"},
    {{CALL("a matrix of starts", OF_FEW), BY(FEW, .matrix_starts = true)}, HEED_ERROR_SHAPE, "sequences + 1"},
    {{CALL("no starts", OF_FEW), BY(FEW, .no_starts = true)}, HEED_ERROR_ARGUMENT, "missing"},
    {{CALL("a batch", {N, SIZES(1, 2, 10, 3)}, {N, SIZES(1, 2, 13, 3)}, {N, SIZES(1, 2, 13, 3)}), BY(FEW)},
     HEED_ERROR_SHAPE, "rank 4"},
    {{CALL("heads do not fit", {N, SIZES(3, 10, 3)}, {N, SIZES(2, 13, 3)}, {N, SIZES(2, 13, 3)}), BY(FEW)},
     HEED_ERROR_SHAPE, "attention: "},
    {{CALL("a bias per sequence", OF_FEW, {N, SIZES(4, 1, 1, 1)}), BY(FEW)}, HEED_ERROR_SHAPE, "bias"},
    {{CALL("a bias of one sequence's cells", OF_FEW, {N, SIZES(5, 6)}), BY(FEW)}, HEED_ERROR_SHAPE, "bias"},
    {{CALL("a length beyond its sequence", OF_FULL), BY(FULL, .mask = too_long)}, HEED_ERROR_ARGUMENT,
     "key length"},
    {{CALL("a tree that does not fit", OF_FEW), BY(FEW, .mask = tree)}, HEED_ERROR_SHAPE, "tree"},
    {{CALL("the sum of a sigmoid", OF_FEW), BY(FEW, .lse = true, .normalizer = HEED_NORMALIZER_SIGMOID)},
     HEED_ERROR_ARGUMENT, "softmax"},
    {{CALL("dropout of 1", OF_FEW), BY(FEW, .dropout = 1)}, HEED_ERROR_ARGUMENT, "dropout"},
};
/* clang-format on */

/* ---- against plain calls ---- */

static heed_tensor leaf(heed_ctx *ctx, heed_dtype dtype, const struct op_input *in, int i) {
    if (in->fill == OP_NONE) return (heed_tensor){0};
    heed_tensor t = test_tensor(ctx, dtype, 100 + (uint64_t)i, in->rank, in->size);
    heed_require_grad(t, true);
    return t;
}

/* Outputs, then gradients. */
enum { RESULTS = 2 + OP_INPUTS };
struct results {
    double *value[RESULTS];
    int64_t count[RESULTS];
};

static void send_back(heed_ctx *ctx, const heed_tensor *out, int outputs) {
    heed_tensor sum = {0};
    for (int o = 0; o < outputs; o++) {
        int64_t size[3] = {1, 1, 1};
        for (int d = 0; d < heed_rank(out[o]); d++) size[d] = heed_size(out[o], d);
        const heed_tensor weight =
            test_tensor(ctx, heed_dtype_of(out[o]), 900 + (uint64_t)o, heed_rank(out[o]), size);
        const heed_tensor part = heed_sum(heed_mul(out[o], weight), HEED_ALL, false);
        sum = o == 0 ? part : heed_add(sum, part);
    }
    heed_backward(sum);
}

static struct results run(heed_ctx *ctx, const struct op_case *row, heed_dtype dtype,
                          void (*call)(const struct op_case *, const heed_tensor *, heed_tensor *)) {
    const heed_random_state start = {.seed = 5};
    const int outputs = row->outputs ? row->outputs : 1;
    heed_tensor in[OP_INPUTS] = {{0}}, out[2] = {{0}};
    struct results results = {.value = {NULL}};
    heed_random_set(ctx, &start);
    heed_step_begin(ctx, HEED_RECORD | (row->random ? HEED_RANDOM : 0));
    for (int i = 0; i < OP_INPUTS; i++) in[i] = leaf(ctx, dtype, &row->in[i], i);
    call(row, in, out);
    if (test_refused(ctx)) {
        heed_step_end(ctx);
        return results;
    }
    test_ok(ctx);
    for (int o = 0; o < outputs; o++) results.value[o] = test_values(out[o], &results.count[o]);
    send_back(ctx, out, outputs);
    test_ok(ctx);
    for (int i = 0; i < OP_INPUTS; i++)
        if (in[i].node) results.value[2 + i] = test_values(heed_grad(in[i]), &results.count[2 + i]);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    return results;
}

static void compare(const struct op_case *row, const struct test_device *device, heed_dtype dtype) {
    const struct wish *w = row->options;
    const struct test_tolerance tolerance = dtype == HEED_F64
                                                ? (struct test_tolerance){1e-12, 1e-13}
                                                : (struct test_tolerance){1e-5, row->big ? 5e-5 : 1e-5};
    heed_ctx *ctx = test_ctx(device);
    struct results packed = run(ctx, row, dtype, call_packed),
                   plain = run(ctx, row, dtype, w->batch ? call_batch : call_apart);
    double most = 0; /* gradients may be sums that cancel */
    for (int i = 0; i < RESULTS; i++)
        if (plain.value[i]) most = fmax(most, test_largest(plain.count[i], plain.value[i]));
    for (int i = 0; i < RESULTS; i++) {
        char text[200], name[64];
        if (!plain.value[i]) continue; /* also where both were refused */
        ck_assert_int_eq(packed.count[i], plain.count[i]);
        const bool close =
            test_close(plain.count[i], packed.value[i], plain.value[i], tolerance, most, text, sizeof text);
        ck_assert_msg(close, "%s on %s: result %d: %s", row->name,
                      test_device_name(device, name, sizeof name), i, text);
        free(packed.value[i]);
        free(plain.value[i]);
    }
    heed_ctx_free(ctx);
}

START_TEST(like_plain_calls) {
    const struct op_case *row = &cases[_i];
    const struct wish *w = row->options;
    const struct test_device *devices;
    const int count = test_devices(&devices);
    if (w->sequences == 0 || (w->dropout != 0 && !w->batch) || (row->big && test_small())) return;
    if (!row->big) compare(row, &devices[0], HEED_F64);
    for (int i = 1; i < count; i++)
        if (devices[i].threads == 2) compare(row, &devices[i], HEED_F32);
}
END_TEST

/* ---- what it costs ---- */

static const struct op_case costly = {CALL("costly", QKV(2, 325, 698, 4), [T5] = {N, SIZES(2, 8)}),
                                      BY(MANY, .lse = true), .outputs = 2};

/* Tiles are those of the sequences, and no others. */
START_TEST(nothing_is_padded) {
    if (test_elsewhere()) return;
    const struct wish *w = costly.options;
    int expected = 0, tiles = 0, skipped = 1;
    char text[8000];
    heed_ctx *ctx = test_cpu();
    heed_tensor in[OP_INPUTS] = {{0}}, out[2];
    for (int i = 0; i < w->sequences; i++) expected += 2 * ((w->q[i] + 47) / 48) * ((w->k[i] + 63) / 64);
    heed_step_begin(ctx, HEED_EVAL);
    for (int i = 0; i < OP_INPUTS; i++) in[i] = leaf(ctx, HEED_F32, &costly.in[i], i);
    call_packed(&costly, in, out);
    test_ok(ctx);
    heed_step_end(ctx);
    heed_explain(ctx, text, sizeof text);
    const char *line = strstr(text, "forward: ");
    ck_assert_msg(line != NULL, "%s", text);
    ck_assert_int_eq(sscanf(line, "forward: %d tiles of 48 x 64, %d skipped", &tiles, &skipped), 2);
    ck_assert_int_eq(tiles, expected);
    ck_assert_int_eq(skipped, 0);
    heed_ctx_free(ctx);
}
END_TEST

/* Everything once. */
static void attend_once(heed_ctx *ctx) {
    heed_tensor in[OP_INPUTS] = {{0}}, out[2] = {{0}};
    heed_step_begin(ctx, HEED_TRAIN);
    for (int i = 0; i < OP_INPUTS; i++) in[i] = leaf(ctx, HEED_F32, &costly.in[i], i);
    call_packed(&costly, in, out);
    heed_backward(heed_add(heed_sum(out[0], HEED_ALL, false), heed_sum(heed_exp(out[1]), HEED_ALL, false)));
    heed_step_end(ctx);
}

START_TEST(every_allocation_may_fail) {
    ck_assert_int_gt(test_failing_allocations(_i ? "cpu" : "ref", test_size(1, 7), false, attend_once), 20);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("packed attention");
    op_add_cases(suite, cases, OP_COUNT(cases));
    op_add_wrong(suite, wrongs, OP_COUNT(wrongs));
    tcase_add_loop_test(test_case(suite, "like plain calls"), like_plain_calls, 0, OP_COUNT(cases));
    TCase *cost = test_case(suite, "cost");
    tcase_add_test(cost, nothing_is_padded);
    tcase_add_loop_test(cost, every_allocation_may_fail, 0, 2);
    return test_main(suite);
}
