/* heed_attention() under every kind of mask and under random trees of kinds: gradients on ref, cpu against
 * ref. */
#include "harness_mask_objects.h"
#include "harness_ops.h"

/* Inputs of every row: q, k, v, and up to two tensors that the mask is made of. */
enum { Q, K, V, M, M2 };

struct wish {
    heed_mask *(*make)(heed_ctx *ctx, const heed_tensor *in);
    double dropout;
};

static heed_tensor attend(const heed_tensor *in, heed_mask *mask, double dropout, heed_tensor *weights) {
    heed_score *score = heed_score_mask(heed_score_new(heed_context(in[Q])), mask);
    const heed_attention_options options = {.dropout = dropout};
    return heed_attention(in[Q], in[K], in[V], score, &options, weights);
}

static void call_masked(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    const struct wish *wish = row->options;
    out[0] =
        attend(in, wish->make(heed_context(in[Q]), in), wish->dropout, row->outputs > 1 ? &out[1] : NULL);
}

/* ---- every kind ---- */

#define MAKE(name, ...)                                                                                      \
    static heed_mask *name(heed_ctx *ctx, const heed_tensor *in) {                                           \
        (void)ctx, (void)in;                                                                                 \
        return __VA_ARGS__;                                                                                  \
    }

MAKE(window, heed_mask_window(ctx, 2, 1, HEED_TOP_LEFT))
MAKE(window_end, heed_mask_window(ctx, 70, 0, HEED_BOTTOM_RIGHT))
MAKE(band, heed_mask_band(ctx, -3, -1, HEED_TOP_LEFT))
MAKE(band_end, heed_mask_band(ctx, 1, 60, HEED_BOTTOM_RIGHT))
MAKE(query_lengths, heed_mask_query_lengths(in[M]))
MAKE(prefix, heed_mask_prefix(in[M], HEED_TOP_LEFT))
MAKE(prefix_end, heed_mask_prefix(in[M], HEED_BOTTOM_RIGHT))
MAKE(segments, heed_mask_segments(in[M], in[M2]))
MAKE(intervals, heed_mask_key_intervals(in[M], in[M2]))
MAKE(flashmask, heed_mask_and(heed_mask_causal(ctx, HEED_TOP_LEFT), heed_mask_not(intervals(ctx, in))))
MAKE(blocks, heed_mask_blocks(in[M], 2, 3))
MAKE(large_blocks, heed_mask_blocks(in[M], 40, 64))
MAKE(lists, heed_mask_block_lists(in[M], 2, 3))
MAKE(large_lists, heed_mask_block_lists(in[M], 32, 50))
MAKE(patch, heed_mask_patch(in[M], &(heed_mask_patch_options){.query = 1, .key = 3}))
MAKE(patch_outside,
     heed_mask_patch(in[M], &(heed_mask_patch_options){.query = -1, .key = 2, .visible_outside = true}))
MAKE(random_cells, heed_mask_random(ctx, 0.6, 3, NULL))
MAKE(random_shared,
     heed_mask_random(ctx, 0.3, 4,
                      &(heed_mask_random_options){.same_for_batch = true, .same_for_heads = true}))
MAKE(predicate, heed_mask_predicate(ctx, &mask_object_user))
MAKE(not_lengths, heed_mask_not(heed_mask_key_lengths(in[M])))
MAKE(either, heed_mask_or(window(ctx, in), heed_mask_key_lengths(in[M])))
MAKE(global_window,
     heed_mask_and(heed_mask_causal(ctx, HEED_TOP_LEFT), heed_mask_or(window_end(ctx, in), prefix(ctx, in))))
MAKE(nothing, heed_mask_and(prefix(ctx, in), heed_mask_not(prefix(ctx, in))))

/* ---- masks that leave tiles out, or whole ---- */

enum { DOCUMENT = 50, MOST = 256 };

/* i32 [n]: which document a row is in, the first one in none. */
static heed_tensor documents(heed_ctx *ctx, int64_t n) {
    int32_t value[MOST];
    for (int i = 0; i < n; i++) value[i] = i == 0 ? -1 : i / DOCUMENT;
    return heed_from(ctx, HEED_I32, 1, &n, value);
}

/* i32 [n]: the first query of a key's document, or (end 1) the one behind the last. */
static heed_tensor bounds(heed_ctx *ctx, int64_t n, int64_t queries, int end) {
    int32_t value[MOST];
    for (int i = 0; i < n; i++) {
        const int at = (i / DOCUMENT + end) * DOCUMENT;
        value[i] = at < queries ? at : (int32_t)queries;
    }
    return heed_from(ctx, HEED_I32, 1, &n, value);
}

/* bool [n]: the first 70. */
static heed_tensor first_ones(heed_ctx *ctx, int64_t n) {
    uint8_t value[MOST];
    for (int i = 0; i < n; i++) value[i] = i < 70;
    return heed_from(ctx, HEED_BOOL, 1, &n, value);
}

#define QUERIES heed_size(in[Q], -2)
#define KEYS heed_size(in[K], -2)
MAKE(of_documents, heed_mask_segments(documents(ctx, QUERIES), documents(ctx, KEYS)))
MAKE(of_spans, heed_mask_key_intervals(bounds(ctx, KEYS, QUERIES, 0), bounds(ctx, KEYS, QUERIES, 1)))
MAKE(padding, heed_mask_dense(first_ones(ctx, KEYS)))
MAKE(padding_of_queries, heed_mask_dense(heed_unsqueeze(first_ones(ctx, QUERIES), 1)))
MAKE(blocks_of_tiles, heed_mask_blocks(in[M], 64, 64))
MAKE(blocks_across_tiles, heed_mask_blocks(in[M], 32, 48))
MAKE(lists_of_tiles, heed_mask_block_lists(in[M], 32, 32))

MAKE(tree, mask_object_of_tree(ctx, heed_size(in[Q], -2), heed_size(in[K], -2)))

/* ---- random trees of kinds ---- */

/* The row's count is the seed. */
static void call_tree(const struct op_case *row, const heed_tensor *in, heed_tensor *out) {
    struct mask_maker m = mask_maker_for(in[Q], in[K], (uint64_t)row->count);
    out[0] = attend(in, mask_object_tree(&m, 3), 0, NULL);
}

/* ---- the table ---- */

/* A row is a line where it fits, which clang-format would not have. */
/* clang-format off */
#define N OP_NORMAL
#define QKV(b, h, q, k, d) {N, SIZES(b, h, q, d)}, {N, SIZES(b, h, k, d)}, {N, SIZES(b, h, k, d)}
#define LARGE QKV(2, 2, 150, 201, 20)
#define TILES QKV(1, 3, 75, 138, 4)
#define BELOW(n, ...) {OP_INDEX, SIZES(__VA_ARGS__), .limit = n}
#define BOOL(...) {OP_MASK, SIZES(__VA_ARGS__)}
#define BY(...) .options = &(const struct wish){__VA_ARGS__}
#define CALL(name, ...) name, call_masked, {__VA_ARGS__}, OP_ATTENTION

static const struct op_case kinds[] = {
    {CALL("window", QKV(2, 3, 5, 7, 4)), BY(window)},
    {CALL("window, two batch dimensions", {N, SIZES(2, 2, 1, 3, 4)}, {N, SIZES(2, 2, 1, 5, 4)}, {N, SIZES(2, 2, 1,
     5, 4)}), BY(window)},
    {CALL("band: empty rows", QKV(2, 2, 5, 7, 4)), BY(band)},
    {CALL("query lengths", QKV(2, 3, 5, 7, 4), BELOW(6, 2)), BY(query_lengths)},
    {CALL("prefix", QKV(2, 3, 5, 7, 4), BELOW(8, 2)), BY(prefix)},
    {CALL("prefix at the end, weights", QKV(2, 3, 5, 7, 4), BELOW(8, 2)), .outputs = 2, BY(prefix_end)},
    {CALL("segments", QKV(2, 3, 5, 7, 4), BELOW(3, 2, 5), BELOW(3, 7)), BY(segments)},
    {CALL("segments, two batch dimensions", {N, SIZES(2, 2, 1, 3, 4)}, {N, SIZES(2, 2, 1, 5, 4)}, {N, SIZES(2, 2, 1,
     5, 4)}, BELOW(2, 2, 1, 3), BELOW(2, 2, 5)), BY(segments)},
    {CALL("segments, strided", QKV(2, 3, 5, 7, 4), {OP_INDEX, SIZES(2, 5), OP_TRANSPOSED, .limit = 3}, {OP_INDEX,
     SIZES(2, 7), OP_SLICED, .limit = 3}), BY(segments)},
    {CALL("key intervals", QKV(2, 3, 5, 7, 4), BELOW(5, 3, 7), BELOW(6, 2, 3, 7)), BY(intervals)},
    {CALL("flashmask", QKV(2, 3, 5, 7, 4), BELOW(5, 3, 7), BELOW(6, 2, 1, 7)), BY(flashmask)},
    {CALL("tree", QKV(2, 2, 6, 6, 4)), BY(tree)},
    {CALL("tree after a prefix", QKV(2, 2, 6, 9, 4)), BY(tree)},
    {CALL("blocks", QKV(2, 3, 5, 7, 4), BOOL(2, 3, 3, 3)), BY(blocks)},
    {CALL("blocks of all heads", QKV(2, 3, 5, 7, 4), BOOL(3, 3)), BY(blocks)},
    {CALL("block lists", QKV(2, 3, 5, 7, 4), BELOW(3, 3, 3, 2)), BY(lists)},
    {CALL("patch", QKV(2, 3, 5, 7, 4), BOOL(2, 1, 3, 3)), BY(patch)},
    {CALL("patch, visible outside", QKV(2, 3, 5, 7, 4), BOOL(3, 3)), BY(patch_outside)},
    {CALL("random", QKV(2, 3, 5, 7, 4)), BY(random_cells)},
    {CALL("random, dropout", QKV(2, 3, 5, 7, 4)), .random = true, BY(random_shared, .dropout = 0.3)},
    {CALL("predicate", QKV(2, 3, 5, 7, 4)), BY(predicate)},
    {CALL("not lengths", QKV(2, 3, 5, 7, 4), BELOW(8, 2)), BY(not_lengths)},
    {CALL("window or lengths", QKV(2, 3, 5, 7, 4), BELOW(8, 2)), BY(either)},
    {CALL("nothing visible", QKV(2, 2, 3, 7, 4), BELOW(8, 2)), .outputs = 2, BY(nothing)},
    {CALL("segments, no keys", QKV(2, 2, 3, 0, 4), BELOW(3, 3), BELOW(3, 0)), BY(segments)},
    {CALL("blocks, no queries", QKV(2, 2, 0, 7, 4), BOOL(0, 3)), BY(blocks)},
    {CALL("tiles, documents", TILES), .no_difference = true, BY(of_documents)},
    {CALL("tiles, spans", TILES), .no_difference = true, BY(of_spans)},
    {CALL("tiles, tree", TILES), .no_difference = true, BY(tree)},
    {CALL("tiles, padding", TILES), .no_difference = true, .outputs = 2, BY(padding)},
    {CALL("tiles, padding of queries", TILES), .no_difference = true, BY(padding_of_queries)},
    {CALL("tiles, blocks", TILES, BOOL(3, 2, 3)), .no_difference = true, BY(blocks_of_tiles)},
    {CALL("tiles, blocks across them", TILES, BOOL(3, 3)), .no_difference = true, BY(blocks_across_tiles)},
    {CALL("tiles, block lists", TILES, BELOW(5, 3, 2)), .no_difference = true, BY(lists_of_tiles)},
    {CALL("tiles, patch", TILES, BOOL(20, 20)), .no_difference = true, BY(patch)},
    {CALL("tiles, patch, visible outside", TILES, BOOL(20, 20)), .no_difference = true, BY(patch_outside)},
    {CALL("tiles, window", TILES), .no_difference = true, BY(window)},
    {CALL("large, window", LARGE), .big = true, BY(window_end)},
    {CALL("large, narrow window", LARGE), .big = true, .outputs = 2, BY(window)},
    {CALL("large, band", QKV(1, 2, 201, 150, 20)), .big = true, BY(band_end)},
    {CALL("large, query lengths", LARGE, BELOW(151, 2)), .big = true, BY(query_lengths)},
    {CALL("large, prefix", LARGE, BELOW(202, 2)), .big = true, BY(prefix)},
    {CALL("large, segments", LARGE, BELOW(3, 2, 150), BELOW(3, 201)), .big = true, BY(segments)},
    {CALL("large, key intervals", LARGE, BELOW(151, 2, 201), BELOW(151, 201)), .big = true, BY(intervals)},
    {CALL("large, flashmask", LARGE, BELOW(151, 2, 201), BELOW(151, 201)), .big = true, BY(flashmask)},
    {CALL("large, tree", LARGE), .big = true, BY(tree)},
    {CALL("large, blocks", LARGE, BOOL(2, 2, 4, 4)), .big = true, BY(large_blocks)},
    {CALL("large, block lists", LARGE, BELOW(5, 2, 5, 2)), .big = true, BY(large_lists)},
    {CALL("large, patch", LARGE, BOOL(100, 120)), .big = true, BY(patch)},
    {CALL("large, patch, visible outside", LARGE, BOOL(100, 120)), .big = true, BY(patch_outside)},
    {CALL("large, random", LARGE), .big = true, BY(random_shared)},
    {CALL("large, predicate", LARGE), .big = true, BY(predicate)},
    {CALL("large, global and local", LARGE, BELOW(50, 2)), .big = true, .outputs = 2, BY(global_window)},
    {CALL("large, groups", {N, SIZES(2, 4, 90, 16)}, {N, SIZES(2, 2, 130, 16)}, {N, SIZES(2, 2, 130, 16)}, BELOW(91,
     2, 4, 130), BELOW(91, 130)), .big = true, BY(intervals)},
};
/* clang-format on */

enum {
    SMALL_TREES = 60,
    TREES_OF_TILES = 8,
    LARGE_TREES = 20,
    TREES = SMALL_TREES + TREES_OF_TILES + LARGE_TREES
};
static struct op_case cases[OP_COUNT(kinds) + TREES];
static char names[TREES][32];

static const struct op_case small_tree = {NULL, call_tree, {QKV(2, 3, 6, 7, 3)}, OP_ATTENTION};
static const struct op_case tree_of_tiles = {NULL, call_tree, {TILES}, OP_ATTENTION, .no_difference = true};
static const struct op_case large_tree = {
    NULL, call_tree, {QKV(2, 2, 110, 140, 12)}, OP_ATTENTION, .big = true};

int main(void) {
    Suite *suite = suite_create("masked attention");
    int count = 0;
    for (; count < OP_COUNT(kinds); count++) cases[count] = kinds[count];
    for (int i = 0; i < TREES; i++, count++) {
        snprintf(names[i], sizeof names[i], "tree of seed %d", i);
        cases[count] = i < SMALL_TREES                    ? small_tree
                       : i < SMALL_TREES + TREES_OF_TILES ? tree_of_tiles
                                                          : large_tree;
        cases[count].name = names[i];
        cases[count].count = i;
    }
    op_add_cases(suite, cases, count);
    return test_main(suite);
}
