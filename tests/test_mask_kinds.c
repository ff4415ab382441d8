/* Masks as programs make them: each kind shows the cells it should, its words, and what is wrong use. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 2
#define HEADS 3
#define QUERIES 5
#define KEYS 7

/* ---- the kinds, and what they mean ---- */

static const int32_t lengths[BATCH] = {3, 5};
static const int32_t query_ids[BATCH][QUERIES] = {{0, 0, 4, 4, -1}, {2, 1, 2, 1, 0}};
static const int32_t key_ids[KEYS] = {0, 4, 4, 2, 1, -1, 2};
static const int32_t self_ids[QUERIES] = {0, 1, 1, 2, 0};
static const int32_t firsts[HEADS][KEYS] = {{0, 1, 2, 3, 4, 5, 0}, {0}, {4, 4, 4, 4, 4, 4, 4}};
static const int32_t ends[HEADS][KEYS] = {
    {5, 3, 2, 1, 5, 5, 1}, {1, 2, 3, 4, 5, 0, 0}, {5, 5, 5, 5, 5, 5, 5}};
static const int32_t subtrees[QUERIES] = {5, 3, 3, 5, 5}; /* 0 → 1 → 2, 0 → 3 → 4 */
static const uint8_t grid[HEADS][3][3] = {
    {{1, 0, 1}, {0, 1, 0}, {0, 0, 1}}, {{0, 0, 0}, {1, 1, 1}, {0, 1, 0}}, {{1, 1, 1}, {1, 1, 1}, {1, 0, 1}}};
static const int32_t lists[BATCH][1][3][2] = {{{{0, 2}, {-1, 1}, {-1, -1}}}, {{{1, 1}, {2, 0}, {0, 2}}}};
static const uint8_t cells[QUERIES][KEYS] = {
    {1, 0, 1, 0, 1, 0, 1}, {0, 0, 0, 0, 0, 0, 0}, {0, 1, 0, 1, 0, 1, 0}, {1, 1, 1, 1, 1, 1, 1}, {1, 0, 0, 0}};
static const uint8_t patch[2][3] = {{1, 0, 1}, {0, 1, 1}};

static bool in_patch(int q, int k, bool outside) {
    const int i = q - 2, j = k - 5;
    return i < 0 || i > 1 || j < 0 || j > 2 ? outside : patch[i][j];
}

static bool is_listed(int b, int q, int k) {
    return lists[b][0][q / 2][0] == k / 3 || lists[b][0][q / 2][1] == k / 3;
}

static bool user_test(void *user, int64_t batch, int64_t head, int64_t query, int64_t key) {
    return (batch + 2 * head + query * key) % *(const int *)user == 0;
}

static heed_cover user_cover(void *user, const heed_mask_tile *tile) {
    (void)user;
    return tile->queries == 0 ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static int three = 3;
static const heed_mask_predicate_options user = {
    .name = "every third", .test = user_test, .cover = user_cover, .user = &three};

struct kind {
    const char *words;
    heed_mask *(*make)(heed_ctx *ctx);
    bool (*visible)(int b, int h, int q, int k);
    int keys; /* 0: KEYS */
};

#define KIND(name, see, ...)                                                                                 \
    static heed_mask *make_##name(heed_ctx *ctx) {                                                           \
        (void)ctx;                                                                                           \
        return __VA_ARGS__;                                                                                  \
    }                                                                                                        \
    static bool see_##name(int b, int h, int q, int k) {                                                     \
        (void)b, (void)h, (void)q, (void)k;                                                                  \
        return see;                                                                                          \
    }
#define I32(array, ...) heed_from(ctx, HEED_I32, TEST_SHAPE(__VA_ARGS__), array)
#define BOOL(array, ...) heed_from(ctx, HEED_BOOL, TEST_SHAPE(__VA_ARGS__), array)
#define NOTHING                                                                                              \
    (heed_tensor) {                                                                                          \
        0                                                                                                    \
    }

KIND(causal, k <= q, heed_mask_causal(ctx, HEED_TOP_LEFT))
KIND(causal_end, k <= q + 2, heed_mask_causal(ctx, HEED_BOTTOM_RIGHT))
KIND(window, k >= q - 2 && k <= q + 1, heed_mask_window(ctx, 2, 1, HEED_TOP_LEFT))
KIND(window_end, k >= q + 1 && k <= q + 2, heed_mask_window(ctx, 1, 0, HEED_BOTTOM_RIGHT))
KIND(window_left, k <= q + 1, heed_mask_window(ctx, -1, 1, HEED_TOP_LEFT))
KIND(window_right, k >= q - INT64_C(0), heed_mask_window(ctx, 0, -1, HEED_TOP_LEFT))
KIND(window_wide, true, heed_mask_window(ctx, INT64_MAX, INT64_MAX, HEED_TOP_LEFT))
KIND(band, k - q >= 1 && k - q <= 3, heed_mask_band(ctx, 1, 3, HEED_TOP_LEFT))
KIND(band_end, k - q - 2 >= -3 && k - q - 2 <= -1, heed_mask_band(ctx, -3, -1, HEED_BOTTOM_RIGHT))
KIND(band_far, k - q <= 3, heed_mask_band(ctx, INT64_MIN, 3, HEED_TOP_LEFT))
KIND(key_lengths, k < lengths[b], heed_mask_key_lengths(I32(lengths, BATCH)))
KIND(one_length, k < lengths[0], heed_mask_key_lengths(I32(lengths, 1)))
KIND(query_lengths, q < lengths[b], heed_mask_query_lengths(I32(lengths, BATCH)))
KIND(prefix, k < lengths[b] || k <= q, heed_mask_prefix(I32(lengths, BATCH), HEED_TOP_LEFT))
KIND(prefix_end, k < lengths[b] || k <= q + 2, heed_mask_prefix(I32(lengths, BATCH), HEED_BOTTOM_RIGHT))
KIND(segments, query_ids[b][q] == key_ids[k] && key_ids[k] >= 0,
     heed_mask_segments(I32(query_ids, BATCH, QUERIES), I32(key_ids, KEYS)))
KIND(self_segments, self_ids[q] == self_ids[k], heed_mask_segments(I32(self_ids, QUERIES), NOTHING))
KIND(intervals, firsts[h][k] <= q && q < ends[h][k],
     heed_mask_key_intervals(I32(firsts, HEADS, KEYS), I32(ends, 1, HEADS, KEYS)))
KIND(tree, k <= q && q < subtrees[k], heed_mask_tree(I32(subtrees, QUERIES), 0))
KIND(tree_prefix, k < 2 || (k - 2 <= q && q < subtrees[k - 2]), heed_mask_tree(I32(subtrees, 1, QUERIES), 2))
KIND(blocks, grid[h][q / 2][k / 3], heed_mask_blocks(BOOL(grid, HEADS, 3, 3), 2, 3))
KIND(one_block, true, heed_mask_blocks(BOOL(grid, 1, 1), INT64_MAX, INT64_MAX))
KIND(block_row, grid[0][0][k / 3], heed_mask_blocks(BOOL(grid, 1, 3), 2, 3))
KIND(lists, is_listed(b, q, k), heed_mask_block_lists(I32(lists, BATCH, 1, 3, 2), 2, 3))
KIND(no_lists, false, heed_mask_block_lists(I32(lists, 3, 0), 2, 3))
KIND(dense, cells[q][k], heed_mask_dense(BOOL(cells, QUERIES, KEYS)))
KIND(patch, in_patch(q, k, false),
     heed_mask_patch(BOOL(patch, 2, 3), &(heed_mask_patch_options){.query = 2, .key = 5}))
KIND(patch_outside, in_patch(q, k, true),
     heed_mask_patch(BOOL(patch, 2, 3),
                     &(heed_mask_patch_options){.query = 2, .key = 5, .visible_outside = true}))
KIND(patch_before, q == 0 && k < 2 && patch[1][k + 1],
     heed_mask_patch(BOOL(patch, 2, 3), &(heed_mask_patch_options){.query = -1, .key = -1}))
KIND(patch_start, q < 2 && k < 3 && patch[q][k], heed_mask_patch(BOOL(patch, 2, 3), NULL))
KIND(random_all, true, heed_mask_random(ctx, 1, 5, NULL))
KIND(random_none, false, heed_mask_random(ctx, 0, 5, NULL))
KIND(predicate, user_test(&three, b, h, q, k), heed_mask_predicate(ctx, &user))
KIND(unnamed, user_test(&three, b, h, q, k),
     heed_mask_predicate(ctx, &(heed_mask_predicate_options){.test = user_test, .user = &three}))
KIND(and, k <= q && k >= q - 1, heed_mask_and(make_causal(ctx), heed_mask_window(ctx, 1, -1, HEED_TOP_LEFT)))
KIND(or, k <= q || k - q == 3, heed_mask_or(make_causal(ctx), heed_mask_band(ctx, 3, 3, HEED_TOP_LEFT)))
KIND(not, k > q, heed_mask_not(make_causal(ctx)))
KIND(not_or, !(k <= q || k < lengths[b]),
     heed_mask_not(heed_mask_or(make_causal(ctx), make_key_lengths(ctx))))
KIND(three_and, k <= q && k < lengths[b] && cells[q][k],
     heed_mask_and(heed_mask_and(make_causal(ctx), make_key_lengths(ctx)), make_dense(ctx)))
KIND(or_in_and, (k <= q || cells[q][k]) && k != q,
     heed_mask_and(heed_mask_or(make_causal(ctx), make_dense(ctx)),
                   heed_mask_not(heed_mask_band(ctx, 0, 0, HEED_TOP_LEFT))))
KIND(and_in_or, (k <= q && cells[q][k]) || k < lengths[b],
     heed_mask_or(heed_mask_and(make_causal(ctx), make_dense(ctx)), make_key_lengths(ctx)))
KIND(not_not, k <= q, heed_mask_not(heed_mask_not(make_causal(ctx))))
KIND(and_all, k <= q, heed_mask_and(NULL, make_causal(ctx)))
KIND(or_all, true, heed_mask_or(make_causal(ctx), NULL))
/* FlashMask's causal form: what lies from firsts to ends is masked. */
KIND(flashmask, k <= q && !(firsts[h][k] <= q && q < ends[h][k]),
     heed_mask_and(make_causal(ctx), heed_mask_not(make_intervals(ctx))))

#define ROW(name, words) words, make_##name, see_##name
static const struct kind kinds[] = {
    {ROW(causal, "causal")},
    {ROW(causal_end, "causal (bottom-right)")},
    {ROW(window, "window(2, 1)")},
    {ROW(window_end, "window(1, 0, bottom-right)")},
    {ROW(window_left, "window(∞, 1)")},
    {ROW(window_right, "window(0, ∞)")},
    {ROW(window_wide, "window(∞, ∞)")},
    {ROW(band, "band(1, 3)")},
    {ROW(band_end, "band(-3, -1, bottom-right)")},
    {ROW(band_far, "band(-∞, 3)")},
    {ROW(key_lengths, "key_lengths")},
    {ROW(one_length, "key_lengths")},
    {ROW(query_lengths, "query_lengths")},
    {ROW(prefix, "prefix")},
    {ROW(prefix_end, "prefix (bottom-right)")},
    {ROW(segments, "segments")},
    {ROW(self_segments, "segments"), QUERIES},
    {ROW(intervals, "key_intervals")},
    {ROW(tree, "tree"), QUERIES},
    {ROW(tree_prefix, "tree(2)")},
    {ROW(blocks, "blocks(2, 3)")},
    {ROW(one_block, "blocks(∞, ∞)")},
    {ROW(block_row, "blocks(2, 3)")},
    {ROW(lists, "block_lists(2, 3)")},
    {ROW(no_lists, "block_lists(2, 3)")},
    {ROW(dense, "dense")},
    {ROW(patch, "patch(2, 5)")},
    {ROW(patch_outside, "patch(2, 5, visible outside)")},
    {ROW(patch_before, "patch(-1, -1)")},
    {ROW(patch_start, "patch(0, 0)")},
    {ROW(random_all, "random(1, seed 5)")},
    {ROW(random_none, "random(0, seed 5)")},
    {ROW(predicate, "every third")},
    {ROW(unnamed, "predicate")},
    {ROW(and, "causal ∧ window(1, ∞)")},
    {ROW(or, "causal ∨ band(3, 3)")},
    {ROW(not, "¬causal")},
    {ROW(not_or, "¬(causal ∨ key_lengths)")},
    {ROW(three_and, "causal ∧ key_lengths ∧ dense")},
    {ROW(or_in_and, "(causal ∨ dense) ∧ ¬band(0, 0)")},
    {ROW(and_in_or, "(causal ∧ dense) ∨ key_lengths")},
    {ROW(not_not, "¬¬causal")},
    {ROW(and_all, "causal")},
    {ROW(or_all, "all")},
    {ROW(flashmask, "causal ∧ ¬key_intervals")},
};
#define KINDS (int)(sizeof kinds / sizeof kinds[0])

/* ---- what attention sees ---- */

/* The weights of an attention: those that are not 0 are visible. NULL: the device refused. */
static double *weights_of(heed_ctx *ctx, heed_mask *mask, int64_t queries, int64_t keys) {
    heed_tensor weights, q = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(BATCH, HEADS, queries, 4));
    heed_tensor k = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(BATCH, HEADS, keys, 4));
    heed_attention(q, k, k, heed_score_mask(heed_score_new(ctx), mask), NULL, &weights);
    if (test_refused(ctx)) return NULL;
    test_ok(ctx);
    int64_t count;
    return test_values(weights, &count);
}

static void check_kind(heed_ctx *ctx, const struct kind *kind) {
    const int keys = kind->keys ? kind->keys : KEYS;
    heed_step_begin(ctx, HEED_EVAL);
    heed_mask *mask = kind->make(ctx);
    test_ok(ctx);
    double *weights = weights_of(ctx, mask, QUERIES, keys);
    for (int i = 0; weights && i < BATCH * HEADS * QUERIES * keys; i++) {
        const int k = i % keys, q = i / keys % QUERIES, h = i / keys / QUERIES % HEADS,
                  b = i / keys / QUERIES / HEADS;
        ck_assert_msg((weights[i] > 0) == kind->visible(b, h, q, k), "%s: [%d, %d, %d, %d] is %g",
                      kind->words, b, h, q, k, weights[i]);
    }
    free(weights);
    char words[100];
    ck_assert_uint_eq(heed_mask_describe(mask, words, sizeof words), strlen(kind->words));
    ck_assert_str_eq(words, kind->words);
    heed_step_end(ctx);
}

START_TEST(what_is_visible) {
    heed_ctx *ref = test_ref(), *cpu = test_cpu();
    check_kind(ref, &kinds[_i]);
    check_kind(cpu, &kinds[_i]);
    heed_ctx_free(ref);
    heed_ctx_free(cpu);
}
END_TEST

/* As snprintf: the length is that of all words, and what fits is there. */
START_TEST(words_that_do_not_fit) {
    heed_ctx *ctx = test_cpu();
    heed_mask *mask = make_or_in_and(ctx);
    char words[8] = "xxxxxxx";
    const size_t length = heed_mask_describe(mask, NULL, 0);
    ck_assert_uint_eq(length, strlen("(causal ∨ dense) ∧ ¬band(0, 0)"));
    ck_assert_uint_eq(heed_mask_describe(mask, words, sizeof words), length);
    ck_assert_str_eq(words, "(causal");
    heed_ctx_free(ctx);
}
END_TEST

/* ---- random ---- */

START_TEST(random_is_reproducible) {
    enum { N = 60, CELLS = BATCH * HEADS * N * N };
    heed_ctx *ctx = test_cpu();
    double *one = weights_of(ctx, heed_mask_random(ctx, 0.25, 7, NULL), N, N);
    double *again = weights_of(ctx, heed_mask_random(ctx, 0.25, 7, NULL), N, N);
    double *other = weights_of(ctx, heed_mask_random(ctx, 0.25, 8, NULL), N, N);
    const heed_mask_random_options heads = {.same_for_heads = true}, batch = {.same_for_batch = true};
    double *by_batch = weights_of(ctx, heed_mask_random(ctx, 0.25, 7, &heads), N, N);
    double *by_head = weights_of(ctx, heed_mask_random(ctx, 0.25, 7, &batch), N, N);
    int visible = 0, same = 0, heads_differ = 0, by_batch_differ = 0, by_head_differ = 0, first_differs = 0;
    for (int i = 0; i < CELLS; i++) {
        visible += one[i] > 0;
        ck_assert((one[i] > 0) == (again[i] > 0));
        same += (one[i] > 0) == (other[i] > 0);
        if (i < N * N) {
            heads_differ += (one[i] > 0) != (one[N * N + i] > 0);
            ck_assert((by_batch[i] > 0) == (by_batch[2 * N * N + i] > 0));
            by_batch_differ += (by_batch[i] > 0) != (by_batch[HEADS * N * N + i] > 0);
            ck_assert((by_head[i] > 0) == (by_head[HEADS * N * N + i] > 0));
            by_head_differ += (by_head[i] > 0) != (by_head[N * N + i] > 0);
            first_differs += (one[i] > 0) != (by_head[i] > 0);
        }
    }
    /* Four deviations of a binomial count. */
    ck_assert_double_le(fabs(visible - 0.25 * CELLS), 4 * sqrt(CELLS * 0.25 * 0.75));
    ck_assert_double_le(fabs(same - 0.625 * CELLS), 4 * sqrt(CELLS * 0.625 * 0.375));
    ck_assert_int_gt(heads_differ, N * N / 4);
    ck_assert_int_gt(by_batch_differ, N * N / 4);
    ck_assert_int_gt(by_head_differ, N * N / 4);
    ck_assert_int_eq(first_differs, 0);
    free(one), free(again), free(other), free(by_batch), free(by_head);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- wrong use ---- */

#define WRONG(name, ...)                                                                                     \
    static heed_mask *wrong_##name(heed_ctx *ctx) {                                                          \
        return __VA_ARGS__;                                                                                  \
    }
#define FULL(value, ...) heed_full(ctx, HEED_I32, TEST_SHAPE(__VA_ARGS__), value)

WRONG(align, heed_mask_causal(ctx, (heed_align)7))
WRONG(window, heed_mask_window(ctx, -2, 0, HEED_TOP_LEFT))
WRONG(window_align, heed_mask_window(ctx, 2, 0, (heed_align)7))
WRONG(band, heed_mask_band(ctx, 3, 1, HEED_TOP_LEFT))
WRONG(key_floats, heed_mask_key_lengths(heed_full(ctx, HEED_F32, TEST_SHAPE(BATCH), 1)))
WRONG(key_value, heed_mask_key_lengths(FULL(KEYS + 1, BATCH)))
WRONG(key_negative, heed_mask_key_lengths(FULL(-1, BATCH)))
WRONG(key_shape, heed_mask_key_lengths(FULL(1, BATCH + 1)))
WRONG(key_rank, heed_mask_key_lengths(FULL(1, 1, BATCH)))
WRONG(query_value, heed_mask_query_lengths(FULL(QUERIES + 1, BATCH)))
WRONG(query_none, heed_mask_query_lengths(heed_slice(FULL(1, 2), 5, 0, 1, 1)))
WRONG(prefix_value, heed_mask_prefix(FULL(KEYS + 1, BATCH), HEED_TOP_LEFT))
WRONG(prefix_align, heed_mask_prefix(FULL(1, BATCH), (heed_align)7))
WRONG(segments_queries, heed_mask_segments(FULL(1, KEYS), FULL(1, KEYS)))
WRONG(segments_self, heed_mask_segments(FULL(1, QUERIES), NOTHING))
WRONG(segments_scalar, heed_mask_segments(heed_full(ctx, HEED_I32, HEED_SCALAR, 1), FULL(1, KEYS)))
WRONG(segments_dtype, heed_mask_segments(FULL(1, QUERIES), heed_zeros(ctx, HEED_BOOL, TEST_SHAPE(KEYS))))
WRONG(intervals_value, heed_mask_key_intervals(FULL(0, KEYS), FULL(QUERIES + 1, KEYS)))
WRONG(intervals_negative, heed_mask_key_intervals(FULL(-1, KEYS), FULL(1, KEYS)))
WRONG(intervals_shape, heed_mask_key_intervals(FULL(0, QUERIES), FULL(1, KEYS)))
WRONG(intervals_heads, heed_mask_key_intervals(FULL(0, HEADS + 1, KEYS), FULL(1, KEYS)))
WRONG(intervals_one, heed_mask_key_intervals(FULL(0, KEYS), NOTHING))
WRONG(tree_length, heed_mask_tree(FULL(5, QUERIES), 0))
WRONG(tree_prefix, heed_mask_tree(FULL(5, QUERIES), -1))
WRONG(tree_value, heed_mask_tree(FULL(QUERIES + 1, QUERIES), 2))
WRONG(tree_order, heed_mask_tree(FULL(2, QUERIES), 2))
WRONG(blocks_size, heed_mask_blocks(heed_full(ctx, HEED_BOOL, TEST_SHAPE(3, 3), 1), 0, 3))
WRONG(blocks_count, heed_mask_blocks(heed_full(ctx, HEED_BOOL, TEST_SHAPE(3, 4), 1), 2, 3))
WRONG(lists_value, heed_mask_block_lists(FULL(3, 3, 2), 2, 3))
WRONG(lists_negative, heed_mask_block_lists(FULL(-2, 3, 2), 2, 3))
WRONG(lists_rows, heed_mask_block_lists(FULL(1, 4, 2), 2, 3))
WRONG(dense_shape, heed_mask_dense(heed_full(ctx, HEED_BOOL, TEST_SHAPE(KEYS, QUERIES), 1)))
WRONG(patch_offset, heed_mask_patch(heed_full(ctx, HEED_BOOL, TEST_SHAPE(2, 2), 1),
                                    &(heed_mask_patch_options){.key = INT64_MAX}))
WRONG(patch_reserved, heed_mask_patch(heed_full(ctx, HEED_BOOL, TEST_SHAPE(2, 2), 1),
                                      &(heed_mask_patch_options){.reserved = {1}}))
WRONG(random_keep, heed_mask_random(ctx, 1.5, 0, NULL))
WRONG(random_nan, heed_mask_random(ctx, NAN, 0, NULL))
WRONG(random_reserved, heed_mask_random(ctx, 0.5, 0, &(heed_mask_random_options){.reserved = {0, 0, 0, 1}}))
WRONG(predicate_none, heed_mask_predicate(ctx, NULL))
WRONG(predicate_test, heed_mask_predicate(ctx, &(heed_mask_predicate_options){.cover = user_cover}))
WRONG(predicate_reserved,
      heed_mask_predicate(ctx, &(heed_mask_predicate_options){.test = user_test, .reserved = {1}}))

/* Parts and tensors are limited. */
static heed_mask *wrong_parts(heed_ctx *ctx) {
    heed_mask *mask = heed_mask_causal(ctx, HEED_TOP_LEFT);
    for (int i = 0; i < 16; i++) mask = heed_mask_not(mask);
    return mask;
}

static heed_mask *wrong_tensors(heed_ctx *ctx) {
    heed_mask *mask = make_intervals(ctx);
    mask = heed_mask_and(mask, mask);
    mask = heed_mask_and(mask, mask);
    return heed_mask_and(heed_mask_and(mask, mask), make_intervals(ctx));
}

/* A mask of a scope that has ended. */
static heed_mask *ended_mask(heed_ctx *ctx) {
    heed_scope_begin(ctx);
    heed_mask *mask = heed_mask_causal(ctx, HEED_TOP_LEFT);
    heed_scope_end(ctx, NOTHING);
    return mask;
}

/* No tensor has no context: what is made of it must not mean "all visible". */
#define NONE_OF(name, ...)                                                                                   \
    static heed_mask *wrong_##name(heed_ctx *ctx) {                                                          \
        (void)ctx;                                                                                           \
        return __VA_ARGS__;                                                                                  \
    }
NONE_OF(no_lengths, heed_mask_key_lengths(NOTHING))
NONE_OF(no_prefix, heed_mask_prefix(NOTHING, HEED_TOP_LEFT))
NONE_OF(no_ids, heed_mask_segments(NOTHING, NOTHING))
NONE_OF(no_ends, heed_mask_tree(NOTHING, 0))
NONE_OF(no_blocks, heed_mask_blocks(NOTHING, 1, 1))
NONE_OF(no_patch, heed_mask_patch(NOTHING, NULL))
NONE_OF(not_nothing, heed_mask_not(heed_mask_dense(NOTHING)))
NONE_OF(nothing_and, heed_mask_and(heed_mask_dense(NOTHING), heed_mask_causal(ctx, HEED_TOP_LEFT)))
NONE_OF(and_nothing, heed_mask_and(heed_mask_causal(ctx, HEED_TOP_LEFT), heed_mask_dense(NOTHING)))
NONE_OF(nothing_or_all, heed_mask_or(NULL, heed_mask_dense(NOTHING)))
NONE_OF(not_all, heed_mask_not(NULL))
NONE_OF(no_context, heed_mask_causal(NULL, HEED_TOP_LEFT))
NONE_OF(no_context_window, heed_mask_window(NULL, 1, 1, HEED_TOP_LEFT))
NONE_OF(no_context_band, heed_mask_band(NULL, 0, 1, HEED_TOP_LEFT))
NONE_OF(no_context_random, heed_mask_random(NULL, 0.5, 1, NULL))
NONE_OF(no_context_predicate, heed_mask_predicate(NULL, NULL))
NONE_OF(nothing_or, heed_mask_or(heed_mask_dense(heed_cast(NOTHING, HEED_BOOL)), heed_mask_dense(NOTHING)))

/* Also once the error is forgotten. */
static heed_mask *wrong_failed_before(heed_ctx *ctx) {
    heed_mask *mask = heed_mask_not(heed_mask_causal(ctx, (heed_align)7));
    heed_error_clear(ctx);
    return mask;
}

WRONG(stale, ended_mask(ctx))
WRONG(stale_not, heed_mask_not(ended_mask(ctx)))

static heed_mask *wrong_stale_or(heed_ctx *ctx) {
    heed_mask *live =
        heed_mask_causal(ctx, HEED_TOP_LEFT); /* first: it would take the place of the ended one */
    return heed_mask_or(live, ended_mask(ctx));
}

static const struct {
    heed_mask *(*make)(heed_ctx *ctx);
    heed_status status;
    const char *message;
} wrongs[] = {
    {wrong_align, HEED_ERROR_ARGUMENT, "mask_causal: 7 is not an alignment"},
    {wrong_window, HEED_ERROR_ARGUMENT, "mask_window: left -2, right 0: each must be ≥ 0"},
    {wrong_window_align, HEED_ERROR_ARGUMENT, "mask_window: 7 is not an alignment"},
    {wrong_band, HEED_ERROR_ARGUMENT, "mask_band: a band from 3 to 1 is empty"},
    {wrong_key_floats, HEED_ERROR_DTYPE, "mask_key_lengths: "},
    {wrong_key_value, HEED_ERROR_ARGUMENT, "attention: key length 8 "},
    {wrong_key_negative, HEED_ERROR_ARGUMENT, "attention: key length -1 "},
    {wrong_key_shape, HEED_ERROR_SHAPE, "attention: key lengths[3"},
    {wrong_key_rank, HEED_ERROR_SHAPE, "attention: key lengths[1,2]"},
    {wrong_query_value, HEED_ERROR_ARGUMENT, "attention: query length 6 "},
    {wrong_query_none, HEED_ERROR_ARGUMENT, "slice"},
    {wrong_prefix_value, HEED_ERROR_ARGUMENT, "attention: prefix 8 "},
    {wrong_prefix_align, HEED_ERROR_ARGUMENT, "mask_prefix: "},
    {wrong_segments_queries, HEED_ERROR_SHAPE, "attention: query ids"},
    {wrong_segments_self, HEED_ERROR_SHAPE, "attention: key ids"},
    {wrong_segments_scalar, HEED_ERROR_SHAPE, "attention: query ids"},
    {wrong_segments_dtype, HEED_ERROR_DTYPE, "mask_segments: "},
    {wrong_intervals_value, HEED_ERROR_ARGUMENT, "attention: end of queries 6 "},
    {wrong_intervals_negative, HEED_ERROR_ARGUMENT, "attention: first query -1 "},
    {wrong_intervals_shape, HEED_ERROR_SHAPE, "attention: first queries"},
    {wrong_intervals_heads, HEED_ERROR_SHAPE, "attention: first queries"},
    {wrong_intervals_one, HEED_ERROR_ARGUMENT, "mask_key_intervals: "},
    {wrong_tree_length, HEED_ERROR_SHAPE, "attention: a tree of 5 queries after 0 keys"},
    {wrong_tree_prefix, HEED_ERROR_ARGUMENT, "mask_tree: "},
    {wrong_tree_value, HEED_ERROR_ARGUMENT, "attention: the subtree of node 0 ends at 6"},
    {wrong_tree_order, HEED_ERROR_ARGUMENT, "attention: the subtree of node 2 ends at 2"},
    {wrong_blocks_size, HEED_ERROR_ARGUMENT, "mask_blocks: "},
    {wrong_blocks_count, HEED_ERROR_SHAPE, "attention: blocks[3,4]"},
    {wrong_lists_value, HEED_ERROR_ARGUMENT, "attention: block 3 "},
    {wrong_lists_negative, HEED_ERROR_ARGUMENT, "attention: block -2 "},
    {wrong_lists_rows, HEED_ERROR_SHAPE, "attention: lists of blocks"},
    {wrong_dense_shape, HEED_ERROR_SHAPE, "attention: mask[7,5]"},
    {wrong_patch_offset, HEED_ERROR_ARGUMENT, "mask_patch: an offset"},
    {wrong_patch_reserved, HEED_ERROR_ARGUMENT, "mask_patch: reserved"},
    {wrong_random_keep, HEED_ERROR_ARGUMENT, "mask_random: probability 1.5"},
    {wrong_random_nan, HEED_ERROR_ARGUMENT, "mask_random: probability"},
    {wrong_random_reserved, HEED_ERROR_ARGUMENT, "mask_random: reserved"},
    {wrong_predicate_none, HEED_ERROR_ARGUMENT, "mask_predicate: no test"},
    {wrong_predicate_test, HEED_ERROR_ARGUMENT, "mask_predicate: no test"},
    {wrong_predicate_reserved, HEED_ERROR_ARGUMENT, "mask_predicate: reserved"},
    {wrong_parts, HEED_ERROR_ARGUMENT, "mask_not: a mask has at most 16 parts"},
    {wrong_tensors, HEED_ERROR_ARGUMENT, "mask_and: a mask has at most 16 parts"},
    {wrong_no_lengths, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_prefix, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_ids, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_ends, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_blocks, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_patch, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_not_nothing, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_nothing_and, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_and_nothing, HEED_ERROR_ARGUMENT, "mask_and: a mask is the result of a call that failed"},
    {wrong_nothing_or, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_nothing_or_all, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_not_all, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_context, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_context_window, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_context_band, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_context_random, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_no_context_predicate, HEED_ERROR_ARGUMENT,
     "score_mask: a mask is the result of a call that failed"},
    {wrong_failed_before, HEED_ERROR_ARGUMENT, "score_mask: a mask is the result of a call that failed"},
    {wrong_stale, HEED_ERROR_STALE, "score_mask: "},
    {wrong_stale_not, HEED_ERROR_STALE, "mask_not: "},
    {wrong_stale_or, HEED_ERROR_STALE, "mask_or: "},
};
#define WRONGS (int)(sizeof wrongs / sizeof wrongs[0])

START_TEST(wrong_use) {
    heed_ctx *ctx = test_cpu();
    char text[20];
    snprintf(text, sizeof text, "row %d", _i);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(BATCH, HEADS, QUERIES, 4));
    heed_tensor k = heed_zeros(ctx, HEED_F32, TEST_SHAPE(BATCH, HEADS, KEYS, 4));
    heed_score *score = heed_score_mask(heed_score_new(ctx), wrongs[_i].make(ctx));
    heed_tensor y = heed_attention(q, k, k, score, NULL, NULL);
    ck_assert_msg(!heed_is_valid(y), "%s: %s", text, wrongs[_i].message);
    test_error(ctx, wrongs[_i].status, wrongs[_i].message, text);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(masks_of_two_contexts) {
    heed_ctx *ctx = test_cpu(), *other = test_ref();
    heed_mask *a = heed_mask_causal(ctx, HEED_TOP_LEFT), *b = heed_mask_causal(other, HEED_TOP_LEFT);
    char text[32];
    heed_mask_describe(heed_mask_or(a, b), text, sizeof text);
    ck_assert_str_eq(text, "failed mask");
    test_error(ctx, HEED_ERROR_CONTEXT, "mask_or: ", "or");
    heed_tensor ids = heed_zeros(ctx, HEED_I32, TEST_SHAPE(3)),
                others = heed_zeros(other, HEED_I32, TEST_SHAPE(3));
    heed_mask_describe(heed_mask_segments(ids, others), text, sizeof text);
    ck_assert_str_eq(text, "failed mask");
    test_error(ctx, HEED_ERROR_CONTEXT, "mask_segments: ", "segments");
    heed_ctx_free(ctx);
    heed_ctx_free(other);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mask kinds");
    TCase *tc = test_case(suite, "kinds");
    tcase_add_loop_test(tc, what_is_visible, 0, KINDS);
    tcase_add_test(tc, words_that_do_not_fit);
    tcase_add_test(tc, random_is_reproducible);
    tcase_add_loop_test(tc, wrong_use, 0, WRONGS);
    tcase_add_test(tc, masks_of_two_contexts);
    return test_main(suite);
}
