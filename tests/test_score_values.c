/* Scores outside of tables: biases by distance against what is written down; rows that see nothing; extreme
 * values; chosen weights; memory; rules that are none. */
#include "harness_attention.h"
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- distances against what is written down ---- */

/* Scores of zeros under a score whose results are all ≥ 0: as weights, ReLU gives them back. */
static float *numbers_of(heed_ctx *ctx, heed_score *score, int64_t heads, int64_t queries, int64_t keys) {
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, heads, queries, 1)),
                k = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, heads, keys, 1)), weights;
    const size_t bytes = (size_t)(heads * queries * keys) * sizeof(float);
    float *numbers = malloc(bytes);
    heed_score_normalizer(score, HEED_NORMALIZER_RELU);
    heed_attention(q, k, k, score, NULL, &weights);
    test_ok(ctx);
    ck_assert_int_eq(heed_read(weights, numbers, bytes), HEED_OK);
    return numbers;
}

/* A table [1, n] of 1, 2, …, n. */
static heed_tensor counting(heed_ctx *ctx, int64_t n) {
    return heed_unsqueeze(heed_add_scalar(heed_arange(ctx, HEED_F32, n), 1), 0);
}

/* Raffel et al.'s buckets (32 of them, up to a distance of 128), worked out by hand from the formula. */
START_TEST(t5_buckets) {
    static const struct {
        int away, both, past;
    } known[] = {{0, 0, 0},    {1, 1, 1},    {7, 7, 7},    {8, 8, 8},    {11, 8, 11},   {12, 9, 12},
                 {15, 9, 15},  {16, 10, 16}, {22, 10, 18}, {23, 11, 18}, {32, 12, 21},  {45, 12, 23},
                 {46, 13, 24}, {64, 14, 26}, {90, 14, 29}, {91, 15, 29}, {127, 15, 31}, {300, 15, 31}};
    enum { KEYS = 301, BEFORE = 0, PAST, AFTER, CALLS };
    float *numbers[CALLS];
    heed_ctx *ctx = test_cpu();
    heed_step_begin(ctx, HEED_EVAL);
    for (int i = 0; i < CALLS; i++) {
        /* One query, at the last key or at the first. */
        const heed_t5_options options = {.causal = i == PAST,
                                         .align = i == AFTER ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT};
        numbers[i] =
            numbers_of(ctx, heed_score_t5(heed_score_new(ctx), counting(ctx, 32), &options), 1, 1, KEYS);
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const int away = known[i].away;
        ck_assert_int_eq((int)numbers[BEFORE][KEYS - 1 - away], known[i].both + 1);
        ck_assert_int_eq((int)numbers[PAST][KEYS - 1 - away], known[i].past + 1);
        if (away > 0) ck_assert_int_eq((int)numbers[AFTER][away], known[i].both + 17);
    }
    for (int i = 0; i < CALLS; i++) free(numbers[i]);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(clipped_positions) {
    static const float expected[3][5] = {{3, 4, 5, 5, 5}, {2, 3, 4, 5, 5}, {1, 2, 3, 4, 5}},
                       at_the_end[3][5] = {{1, 2, 3, 4, 5}, {1, 1, 2, 3, 4}, {1, 1, 1, 2, 3}};
    heed_ctx *ctx = test_cpu();
    heed_step_begin(ctx, HEED_EVAL);
    for (int end = 0; end < 2; end++) {
        const heed_align align = end ? HEED_BOTTOM_RIGHT : HEED_TOP_LEFT;
        float *numbers =
            numbers_of(ctx, heed_score_relative(heed_score_new(ctx), counting(ctx, 5), align), 1, 3, 5);
        for (int i = 0; i < 15; i++)
            ck_assert_float_eq(numbers[i], end ? at_the_end[i / 5][i % 5] : expected[i / 5][i % 5]);
        free(numbers);
    }
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* Press et al. 2022: 1/2, 1/4, … for 8 heads; 12 heads have those and every other one of 16. */
START_TEST(standard_slopes) {
    static const double slopes[12] = {0.5,       0.25,       0.125,       0.0625,     0.03125,    0.015625,
                                      0.0078125, 0.00390625, 0.707106781, 0.35355339, 0.17677670, 0.08838835};
    heed_ctx *ctx = test_cpu();
    heed_step_begin(ctx, HEED_EVAL);
    for (int heads = 8; heads <= 12; heads += 4) {
        heed_score *score = heed_score_alibi(heed_score_new(ctx), (heed_tensor){0}, HEED_TOP_LEFT);
        heed_score_bias(score, heed_full(ctx, HEED_F32, HEED_SCALAR, 10));
        float *numbers = numbers_of(ctx, score, heads, 2, 4);
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < 8; i++)
                ck_assert_double_eq_tol((double)numbers[h * 8 + i], 10 - slopes[h] * abs(i / 4 - i % 4),
                                        1e-6);
        free(numbers);
    }
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- edges ---- */

static const char *const device_names[] = {"ref", "cpu"};

/* A query that sees nothing: output, weights and every gradient are 0 and lse is −∞, whatever the sink and
 * the gradient that arrives. */
START_TEST(nothing_seen_beside_a_sink) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device_names[_i]});
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 1, 2, 4), NAN),
                k = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 1, 3, 4), NAN),
                sink = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1)),
                cap = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 8)), weights, lse;
    heed_tensor *leaf[] = {&q, &k, &sink, &cap};
    for (int i = 0; i < 4; i++) heed_require_grad(*leaf[i], true);
    heed_score *score = heed_score_t5(heed_score_softcap(heed_score_new(ctx), 2), cap, NULL);
    heed_score_mask(heed_score_sink(score, sink), heed_mask_dense(heed_zeros(ctx, HEED_BOOL, TEST_SHAPE(1))));
    heed_tensor y = heed_attention_lse(q, k, k, score, NULL, &weights, &lse);
    test_equals(y, 8, (float[8]){0}, "output");
    test_equals(weights, 6, (float[6]){0}, "weights");
    test_equals(lse, 2, (float[2]){-INFINITY, -INFINITY}, "lse");
    heed_backward_with(
        y, &(heed_backward_options){.gradient = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 1, 2, 4), NAN)});
    for (int i = 0; i < 4; i++)
        test_equals(heed_grad(*leaf[i]), (int64_t[]){8, 12, 1, 8}[i], (float[12]){0}, "gradient");
    heed_step_end(ctx);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* Scores as large as f32 goes, and infinite ones, through a soft cap; and eight equal huge ones, whose
 * weights are 1/8 with a sink that is as huge. */
START_TEST(extreme_scores) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device_names[_i]});
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor one = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 1, 1, 1), 1), weights;
    const float scores[] = {-3.4e38f, 3.4e38f, -INFINITY, INFINITY};
    heed_tensor k = heed_from(ctx, HEED_F32, TEST_SHAPE(1, 1, 4, 1), scores);
    heed_score *score = heed_score_softcap(heed_score_scale(heed_score_new(ctx), 1), 1);
    heed_attention(one, k, heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 4, 1)), score, NULL, &weights);
    const float e2 = expf(-2) / (2 + 2 * expf(-2)), e0 = 1 / (2 + 2 * expf(-2));
    float found[8];
    heed_read(weights, found, 4 * sizeof(float));
    for (int i = 0; i < 4; i++) ck_assert_float_eq_tol(found[i], i % 2 ? e0 : e2, 1e-6f);
    heed_tensor huge = heed_full(ctx, HEED_F32, TEST_SHAPE(1, 1, 7, 1), -3.4e38);
    score = heed_score_sink(heed_score_scale(heed_score_new(ctx), 1),
                            heed_full(ctx, HEED_F32, TEST_SHAPE(1), -3.4e38));
    heed_attention(one, huge, heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 7, 1)), score, NULL, &weights);
    heed_read(weights, found, 7 * sizeof(float));
    for (int i = 0; i < 7; i++) ck_assert_float_eq_tol(found[i], 0.125f, 1e-6f);
    heed_step_end(ctx);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- chosen weights ---- */

/* Chosen heads and queries, in any order, twice, as runs and alone; and the sums of their columns: against
 * the whole matrix. */
START_TEST(chosen_weights) {
    enum { HEADS = 4, QUERIES = 70, KEYS = 131, CHOSEN = 9 };
    static const int64_t head[] = {3, 0, 3}, query[CHOSEN] = {5, 69, 0, 1, 2, 3, 3, 40, 41};
    static float whole[2][HEADS][QUERIES][KEYS], chosen[2][3][CHOSEN][KEYS], sums[2][3][KEYS],
        all_sums[2][HEADS][KEYS];
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device_names[_i % 2], .threads = 3});
    const heed_attention_options options = {.dropout = 0.3};
    heed_tensor q = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(2, HEADS, QUERIES, 7)),
                k = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(2, 2, KEYS, 7)),
                sink = test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(HEADS));
    for (int all = 0; all < 2; all++) {
        /* The same place in the stream of random numbers. */
        for (int call = 0; call < 2; call++) {
            heed_random_set(ctx, &(heed_random_state){.seed = 5});
            heed_step_begin(ctx, call ? HEED_TRAIN : HEED_RANDOM);
            heed_score *score = heed_score_softcap(heed_score_new(ctx), 2);
            heed_score_custom(score, &test_ramp, NULL, 0, NULL);
            if (_i < 2)
                heed_score_sink(score, sink);
            else
                heed_score_normalizer(score, HEED_NORMALIZER_SIGMOID);
            heed_score_mask(score, heed_mask_causal(ctx, HEED_TOP_LEFT));
            heed_tensor weights, columns;
            const heed_weights_request some = {.head = head, .heads = 3, .query = query, .queries = CHOSEN};
            if (!call) {
                heed_attention(q, k, k, score, &options, &weights);
                if (test_refused(ctx)) {
                    heed_step_end(ctx);
                    heed_ctx_free(ctx);
                    return;
                }
                heed_read(weights, whole, sizeof whole);
            } else if (all) {
                heed_attention_weights(q, k, k, score, &options, NULL, NULL, &columns);
                heed_read(columns, all_sums, sizeof all_sums);
            } else {
                heed_attention_weights(q, k, k, score, &options, &some, &weights, &columns);
                heed_read(weights, chosen, sizeof chosen);
                heed_read(columns, sums, sizeof sums);
            }
            test_ok(ctx);
            heed_step_end(ctx);
        }
    }
    for (int i = 0; i < 2 * 3 * KEYS; i++) {
        const int b = i / KEYS / 3, h = i / KEYS % 3, c = i % KEYS;
        double sum = 0;
        for (int r = 0; r < CHOSEN; r++) {
            const float expected = whole[b][head[h]][query[r]][c];
            ck_assert_float_eq_tol(chosen[b][h][r][c], expected, 1e-6f);
            sum += expected;
        }
        ck_assert_double_eq_tol(sums[b][h][c], sum, 1e-5);
    }
    for (int i = 0; i < 2 * HEADS * KEYS; i++) {
        const int b = i / KEYS / HEADS, h = i / KEYS % HEADS, c = i % KEYS;
        double sum = 0;
        for (int r = 0; r < QUERIES; r++) sum += whole[b][h][r][c];
        ck_assert_double_eq_tol(all_sums[b][h][c], sum, 1e-4);
    }
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(chosen_weights_wrongly) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device_names[_i]});
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 2, 3, 4)), weights;
    heed_require_grad(q, true);
    const int64_t bad[] = {0, 3}, below[] = {-1};
    const heed_weights_request requests[] = {{.head = bad, .heads = 2},
                                             {.query = bad, .queries = 2},
                                             {.query = below, .queries = 1},
                                             {.head = bad, .heads = -1},
                                             {.reserved = {1}}};
    for (int i = 0; i < 5; i++) {
        heed_tensor y = heed_attention_weights(q, q, q, NULL, NULL, &requests[i], &weights, NULL);
        ck_assert(!heed_is_valid(y) && !heed_is_valid(weights));
        test_error(ctx, HEED_ERROR_ARGUMENT, "attention: ", "request");
    }
    heed_tensor y = heed_attention_weights(q, q, q, NULL, NULL, NULL, &weights, NULL);
    heed_backward(heed_sum(y, HEED_ALL, false));
    test_ok(ctx);
    heed_attention_weights(q, q, q, NULL, NULL, NULL, &weights, NULL);
    heed_backward(heed_sum(weights, HEED_ALL, false));
    test_error(ctx, HEED_ERROR_GRADIENT, "chosen weights", "gradient");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* What a call did is told: kernel, tiles, scratch. */
START_TEST(explained) {
    if (test_elsewhere()) return;
    heed_ctx *ctx = test_cpu();
    char text[8000];
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 480, 8));
    heed_attention(q, q, q, heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT)), NULL,
                   NULL);
    heed_step_end(ctx);
    heed_explain(ctx, text, sizeof text);
    const char *line = strstr(text, "forward: ");
    int tiles = 0, skipped = 0, bytes = 0;
    ck_assert_msg(line != NULL, "%s", text);
    ck_assert_int_eq(sscanf(line, "forward: %d tiles of 48 x 64, %d skipped, %d bytes of scratch", &tiles,
                            &skipped, &bytes),
                     3);
    ck_assert_int_eq(tiles + skipped, 10 * 8);
    ck_assert(tiles >= 40 && skipped >= 28 && bytes > 0);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- memory ---- */

/* The most memory that forward and backward with dropout, a T5 table that learns and a mask take: a window,
 * or everything before. */
static double peak_of(int64_t length, bool window) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = "cpu", .threads = 2});
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = heed_normal(ctx, HEED_F32, TEST_SHAPE(1, 1, length, 16), 0, 1),
                table = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 32));
    heed_require_grad(q, true);
    heed_require_grad(table, true);
    heed_score *score = heed_score_t5(heed_score_new(ctx), table, NULL);
    heed_score_mask(score, heed_mask_window(ctx, window ? 300 : -1, 0, HEED_TOP_LEFT));
    heed_tensor y = heed_attention(q, q, q, score, &(heed_attention_options){.dropout = 0.1}, NULL);
    heed_backward(heed_mean(y, HEED_ALL, false));
    ck_assert(heed_is_valid(heed_grad(q)) && heed_is_valid(heed_grad(table)));
    test_ok(ctx);
    const double peak = (double)heed_memory(ctx).peak;
    heed_step_end(ctx);
    heed_ctx_free(ctx);
    return peak;
}

/* A matrix of one number per cell would be 4·length² bytes: 1 GiB. Up to 8192 the number of tasks grows, and
 * what each has with it. */
START_TEST(memory_is_linear) {
    const int64_t length = test_size(16384, 2048);
    const double peak = peak_of(length, _i);
    ck_assert_msg(peak < 1600 * (double)length, "%g bytes per query", peak / (double)length);
    if (test_small()) return;
    const double half = peak_of(length / 2, _i);
    ck_assert_msg(peak <= 2.02 * half, "%g bytes for half the length, then %g", half, peak);
}
END_TEST

/* ---- wrong use ---- */

static void backward_less(const heed_tile *tile) {
    (void)tile;
}

/* Rules that are no rules, and gradients that nobody makes. */
START_TEST(unsound_rules) {
    heed_ctx *ctx = test_cpu();
    const heed_stage_rule none = {.name = "none"}, aux = {.forward = backward_less, .n_aux = 9},
                          reserved = {.forward = backward_less, .reserved = {1}},
                          params = {.forward = backward_less, .n_params = 1},
                          half = {.forward = backward_less, .backward_f64 = test_wave.backward_f64};
    const heed_stage_rule *const rules[] = {NULL, &none, &aux, &reserved, &params, &half};
    for (int i = 0; i < 6; i++) {
        heed_score_custom(heed_score_new(ctx), rules[i], NULL, 0, NULL);
        test_error(ctx, HEED_ERROR_ARGUMENT, "score_custom: ", "rule");
    }
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 2, 2)),
                x = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1));
    heed_require_grad(x, true);
    heed_attention(q, q, q, heed_score_custom(heed_score_new(ctx), &params, &x, 1, NULL), NULL, NULL);
    test_error(ctx, HEED_ERROR_GRADIENT, "no backward function", "gradient of a parameter");
    heed_score *score = heed_score_new(ctx);
    for (int i = 0; i < 9; i++) heed_score_softcap(score, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "at most 8 stages", "nine stages");
    heed_score_sink(heed_score_sink(heed_score_new(ctx), x), x);
    test_error(ctx, HEED_ERROR_ARGUMENT, "a sink already", "two sinks");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* What failed, or was never there, is not plain attention. */
START_TEST(scores_that_failed) {
    heed_ctx *ctx = test_cpu(), *broken = heed_ctx_new(&(heed_ctx_options){.device = "none"});
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 2, 2));
    heed_score *const scores[] = {heed_score_new(NULL), heed_score_new(broken), heed_score_scale(NULL, 2),
                                  heed_score_mask(NULL, heed_mask_causal(ctx, HEED_TOP_LEFT)),
                                  heed_score_alibi(NULL, (heed_tensor){0}, HEED_TOP_LEFT)};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        ck_assert(!heed_is_valid(heed_attention(q, q, q, scores[i], NULL, NULL)));
        test_error(ctx, HEED_ERROR_ARGUMENT, "attention: the score is the result of a call that failed",
                   "failed score");
    }
    heed_ctx_free(broken);
    heed_ctx_free(ctx);
}
END_TEST

/* Calls that fail, each on a score that lives; `x` is a tensor [1] of its context. */
static void bad_scale(heed_score *score, heed_tensor x) {
    (void)x;
    heed_score_scale(score, NAN);
}

static void bad_bias(heed_score *score, heed_tensor x) {
    (void)x;
    heed_score_bias(score, (heed_tensor){0});
}

static void bad_cap(heed_score *score, heed_tensor x) {
    (void)x;
    heed_score_softcap(score, 0);
}

static void bad_rule(heed_score *score, heed_tensor x) {
    (void)x;
    heed_score_custom(score, NULL, NULL, 0, NULL);
}

static void bad_normalizer(heed_score *score, heed_tensor x) {
    (void)x;
    heed_score_normalizer(score, (heed_normalizer)3);
}

static void bad_sink(heed_score *score, heed_tensor x) {
    heed_score_sink(heed_score_sink(score, x), x);
}

static void bad_table(heed_score *score, heed_tensor x) {
    heed_score_t5(score, x, NULL);
}

static void bad_positions(heed_score *score, heed_tensor x) {
    heed_score_relative(score, x, HEED_TOP_LEFT);
}

static void bad_slopes(heed_score *score, heed_tensor x) {
    heed_score_alibi(score, x, (heed_align)7);
}

static void nine_stages(heed_score *score, heed_tensor x) {
    (void)x;
    for (int i = 0; i < 9; i++) heed_score_softcap(score, 1);
}

static void bad_mask(heed_score *score, heed_tensor x) {
    heed_score_mask(score, heed_mask_window(heed_context(x), -5, 0, HEED_TOP_LEFT));
}

static void mask_without_room(heed_score *score, heed_tensor x) {
    for (int i = 0; i < 20; i++) heed_score_mask(score, heed_mask_causal(heed_context(x), HEED_TOP_LEFT));
}

static void mask_of_another(heed_score *score, heed_tensor x) {
    heed_ctx *other = test_cpu();
    (void)x;
    heed_score_mask(score, heed_mask_causal(other, HEED_TOP_LEFT));
    heed_ctx_free(other);
}

/* The mask is sound, but the context has an error already. */
static void behind_an_error(heed_score *score, heed_tensor x) {
    heed_mask *causal = heed_mask_causal(heed_context(x), HEED_TOP_LEFT);
    heed_softmax(x, 5);
    heed_score_mask(score, causal);
}

static void (*const failing[])(heed_score *score, heed_tensor x) = {
    bad_scale,     bad_bias,   bad_cap,     bad_rule, bad_normalizer,    bad_sink,        bad_table,
    bad_positions, bad_slopes, nine_stages, bad_mask, mask_without_room, mask_of_another, behind_an_error};
enum { FAILING = sizeof failing / sizeof *failing };

/* A score that lacks what it was asked for is never used, once the error is cleared and whatever is asked of
 * it then. */
START_TEST(scores_that_lack_something) {
    static const char message[] = "the score is the result of a call that failed";
    heed_ctx *ctx = test_cpu();
    heed_tensor q = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 1, 2, 2)),
                x = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1));
    heed_score *score = heed_score_scale(heed_score_new(ctx), 2);
    ck_assert(heed_is_valid(heed_attention(q, q, q, score, NULL, NULL)));
    failing[_i](score, x);
    ck_assert_msg(heed_failed(ctx), "call %d: no error", _i);
    heed_error_clear(ctx);
    for (int again = 0; again < 2; again++) {
        ck_assert(!heed_is_valid(heed_attention(q, q, q, score, NULL, NULL)));
        test_error(ctx, HEED_ERROR_ARGUMENT, message, "attention");
        heed_score_mask(score, heed_mask_causal(ctx, HEED_TOP_LEFT));
        test_error(ctx, HEED_ERROR_ARGUMENT, message, "a mask after that");
    }
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("values of scores");
    TCase *tests = test_case(suite, "values and edges");
    tcase_add_test(tests, t5_buckets);
    tcase_add_test(tests, clipped_positions);
    tcase_add_test(tests, standard_slopes);
    tcase_add_loop_test(tests, nothing_seen_beside_a_sink, 0, 2);
    tcase_add_loop_test(tests, extreme_scores, 0, 2);
    tcase_add_loop_test(tests, chosen_weights, 0, 4);
    tcase_add_loop_test(tests, chosen_weights_wrongly, 0, 2);
    tcase_add_test(tests, explained);
    tcase_add_loop_test(tests, memory_is_linear, 0, 2);
    tcase_add_test(tests, unsound_rules);
    tcase_add_test(tests, scores_that_failed);
    tcase_add_loop_test(tests, scores_that_lack_something, 0, FAILING);
    return test_main(suite);
}
