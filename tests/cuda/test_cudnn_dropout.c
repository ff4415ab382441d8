/* Attention's dropout by cuDNN, which the context allows: its random numbers are its own, so that no other
 * backend drops the same weights. Values are rows of the identity: the output is then the weights after
 * dropout, which shows the mask, and what mask and weights make of the gradients is computed here in f64. On
 * the emulated device, with the fake cuDNN, or on a GPU, with the machine's; ends with 77 where there is
 * none.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cudnn_in_use.h"
#include "emulation.h"
#include "harness.h"

/* ---- problems ---- */

enum { SEQUENCES = 2 };
static const int32_t lengths[SEQUENCES] = {13, 24}, starts[2][SEQUENCES + 1] = {{0, 9, 20}, {0, 5, 24}};

struct row {
    const char *name;
    int64_t batch, heads, kv_heads, queries, keys, width;
    double dropout;
    bool causal, lengths, packed, bias;
    bool large; /* several tiles of a GPU's kernels: not at small shapes */
};

static const struct row rows[] = {
    {"plain", 2, 4, 4, 16, 24, 8, 0.3},
    {"most is dropped", 2, 4, 4, 16, 24, 16, 0.9},
    {"causal", 2, 4, 4, 24, 24, 8, 0.1, true},
    {"grouped", 2, 6, 2, 17, 16, 8, 0.5},
    {"lengths", SEQUENCES, 4, 4, 16, 24, 8, 0.3, .lengths = true},
    {"causal lengths, grouped", SEQUENCES, 4, 2, 24, 24, 8, 0.3, true, true},
    {"bias", 2, 4, 4, 16, 24, 8, 0.3, .bias = true},
    {"packed", 1, 4, 2, 20, 24, 8, 0.3, true, .packed = true},
    {"large", 2, 4, 2, 500, 128, 64, 0.2, .large = true},
    {"large, causal, bias", 2, 4, 4, 300, 120, 64, 0.4, true, .bias = true, .large = true},
};
enum { ROWS = sizeof rows / sizeof *rows, SEED = 9 };

/* Whether a query may see a key. */
static bool is_visible(const struct row *r, int64_t batch, int64_t query, int64_t key) {
    int64_t first = 0;
    if (r->packed) {
        const int sequence = query >= starts[0][1];
        if (key < starts[1][sequence] || key >= starts[1][sequence + 1]) return false;
        first = starts[1][sequence] - starts[0][sequence];
    }
    return !(r->causal && key - first > query) && !(r->lengths && key >= lengths[batch]);
}

/* ---- running them ---- */

enum block { Q, K, V, BIAS, DY, Y, BLOCKS };

struct call {
    const struct row *row;
    heed_ctx *ctx;
    bool forward_only; /* where cuDNN has no gradient */
    heed_tensor leaf[DY + 1];
    double *numbers[BLOCKS], *gradient[BIAS + 1]; /* of leaves and of the first output */
};

static heed_ctx *context(uint64_t seed) {
    return heed_ctx_new(&(heed_ctx_options){.device = emulation_device(),
                                            .precision = HEED_BF16,
                                            .any_dropout = true,
                                            .seed = seed,
                                            .poison = true});
}

/* Rows of the identity, one matrix of them after another. */
static heed_tensor identity(heed_ctx *ctx, int64_t matrices, int rank, const int64_t *size) {
    const int64_t n = size[rank - 1];
    float *numbers = calloc((size_t)(matrices * n * n), sizeof *numbers);
    for (int64_t i = 0; i < matrices * n; i++) numbers[i * n + i % n] = 1;
    const heed_tensor t = heed_from(ctx, HEED_F32, rank, size, numbers);
    free(numbers);
    return t;
}

static void begin(struct call *c, const struct row *r, uint64_t seed) {
    const int first = r->packed; /* packed sequences have no batch */
    const int64_t q[] = {r->batch, r->heads, r->queries, r->width},
                  k[] = {r->batch, r->kv_heads, r->keys, r->width},
                  v[] = {r->batch, r->kv_heads, r->keys, r->keys},
                  y[] = {r->batch, r->heads, r->queries, r->keys};
    *c = (struct call){.row = r, .ctx = context(seed), .forward_only = !cudnn_has_gradient(true)};
    test_ok(c->ctx);
    c->leaf[Q] = test_tensor(c->ctx, HEED_BF16, 1, 4 - first, q + first);
    c->leaf[K] = test_tensor(c->ctx, HEED_BF16, 2, 4 - first, k + first);
    c->leaf[V] = identity(c->ctx, r->batch * r->kv_heads, 4 - first, v + first);
    c->leaf[BIAS] = test_tensor(c->ctx, HEED_BF16, 3, 3, y + 1);
    c->leaf[DY] = test_tensor(c->ctx, HEED_BF16, 4, 4 - first, y + first);
    for (int i = Q; i <= BIAS; i++) heed_require_grad(c->leaf[i], true);
}

static void end(struct call *c) {
    for (int i = 0; i < BLOCKS; i++) free(c->numbers[i]);
    for (int i = 0; i <= BIAS; i++) free(c->gradient[i]);
    heed_ctx_free(c->ctx);
}

static heed_tensor attend(const struct call *c) {
    const struct row *r = c->row;
    const heed_attention_options options = {.dropout = r->dropout};
    heed_mask *mask = r->causal ? heed_mask_causal(c->ctx, HEED_TOP_LEFT) : NULL;
    heed_score *score = heed_score_new(c->ctx);
    if (r->lengths) {
        heed_mask *own = heed_mask_key_lengths(heed_from(c->ctx, HEED_I32, TEST_SHAPE(SEQUENCES), lengths));
        mask = mask ? heed_mask_and(mask, own) : own;
    }
    if (r->bias) score = heed_score_bias(score, c->leaf[BIAS]);
    if (mask) score = heed_score_mask(score, mask);
    if (!r->packed) return heed_attention(c->leaf[Q], c->leaf[K], c->leaf[V], score, &options, NULL);
    return heed_attention_packed(
        c->leaf[Q], c->leaf[K], c->leaf[V], heed_from(c->ctx, HEED_I32, TEST_SHAPE(SEQUENCES + 1), starts[0]),
        heed_from(c->ctx, HEED_I32, TEST_SHAPE(SEQUENCES + 1), starts[1]), score, &options, NULL);
}

static void explains(const struct call *c, const char *part) {
    char text[8000];
    heed_explain(c->ctx, text, sizeof text);
    ck_assert_msg(strstr(text, part) != NULL, "%s: \"%s\" is not in\n%s", c->row->name, part, text);
}

/* Forward and backward, with dy as the gradient of the output. */
static void run(struct call *c) {
    int64_t count;
    heed_step_begin(c->ctx, c->forward_only ? HEED_RANDOM : HEED_TRAIN);
    const heed_tensor y = attend(c);
    if (!c->forward_only) heed_backward(heed_sum(heed_mul(y, c->leaf[DY]), HEED_ALL, false));
    test_ok(c->ctx);
    c->numbers[Y] = test_values(y, &count);
    heed_step_end(c->ctx);
    for (int i = Q; i <= DY; i++) c->numbers[i] = test_values(c->leaf[i], &count);
    for (int i = Q; i < (c->row->bias ? DY : BIAS) && !c->forward_only; i++)
        c->gradient[i] = test_values(heed_grad(c->leaf[i]), &count);
    test_ok(c->ctx);
}

/* ---- what it should have been ---- */

/* dropout's probabilities are multiples of 1/65536. */
static double share_of(const struct row *r) {
    return floor((1 - r->dropout) * 65536 + 0.5) / 65536;
}

/* The softmax over the keys that a query sees. */
static void weigh(const struct call *c, int64_t batch, int64_t head, int64_t query, double *weights) {
    const struct row *r = c->row;
    const double *q = c->numbers[Q] + ((batch * r->heads + head) * r->queries + query) * r->width,
                 *k = c->numbers[K] +
                      (batch * r->kv_heads + head / (r->heads / r->kv_heads)) * r->keys * r->width;
    double sum = 0;
    for (int64_t i = 0; i < r->keys; i++) {
        double dot = 0;
        for (int64_t w = 0; w < r->width; w++) dot += q[w] * k[i * r->width + w];
        dot /= sqrt((double)r->width);
        if (r->bias) dot += c->numbers[BIAS][(head * r->queries + query) * r->keys + i];
        weights[i] = is_visible(r, batch, query, i) ? exp(dot) : 0;
        sum += weights[i];
    }
    for (int64_t i = 0; i < r->keys; i++) weights[i] /= sum;
}

/* What was not dropped, of what was visible. */
struct tally {
    int64_t kept, visible;
};

/* Every weight after dropout is 0, or the weight by the share that is kept. It gets them where they are. */
static void check_row(const struct call *c, const double *y, const double *weights, struct tally *tally) {
    for (int64_t i = 0; i < c->row->keys; i++) {
        const double expected = weights[i] / share_of(c->row);
        test_check(y[i] == 0 || fabs(y[i] - expected) <= 0x1p-7 * expected + 0x1p-10,
                   "%s: a weight of %g is %g after dropout", c->row->name, weights[i], y[i]);
        tally->visible += weights[i] > 0;
        tally->kept += y[i] != 0;
    }
}

/* With M of the output: d = dy ∘ M / share, ds = P ∘ (d − Σ P∘d), dv = (P ∘ M / share)ᵀ·dy. */
static void add_gradients(const struct call *c, int64_t batch, int64_t head, int64_t query,
                          const double *weights, double *const to[BIAS + 1]) {
    const struct row *r = c->row;
    const int64_t row = (batch * r->heads + head) * r->queries + query,
                  first_key = (batch * r->kv_heads + head / (r->heads / r->kv_heads)) * r->keys;
    const double *y = c->numbers[Y] + row * r->keys, *dy = c->numbers[DY] + row * r->keys,
                 scale = 1 / sqrt((double)r->width);
    double sum = 0;
    for (int64_t i = 0; i < r->keys; i++)
        if (y[i] != 0) sum += weights[i] * dy[i] / share_of(r);
    for (int64_t i = 0; i < r->keys; i++) {
        const double kept = y[i] != 0 ? 1 / share_of(r) : 0, ds = weights[i] * (dy[i] * kept - sum);
        const int64_t key = first_key + i;
        for (int64_t w = 0; w < r->width; w++) {
            to[Q][row * r->width + w] += scale * ds * c->numbers[K][key * r->width + w];
            to[K][key * r->width + w] += scale * ds * c->numbers[Q][row * r->width + w];
        }
        for (int64_t j = 0; j < r->keys; j++) to[V][key * r->keys + j] += weights[i] * kept * dy[j];
        to[BIAS][(head * r->queries + query) * r->keys + i] += ds;
    }
}

static void check_gradients(const struct call *c, double *const expected[BIAS + 1],
                            const int64_t count[BIAS + 1]) {
    static const char *const names[] = {"dq", "dk", "dv", "dbias"};
    char text[200];
    for (int i = Q; i <= BIAS; i++) {
        if (!c->gradient[i]) continue;
        const double scale = test_largest(count[i], expected[i]);
        ck_assert_msg(test_close(count[i], c->gradient[i], expected[i],
                                 (struct test_tolerance){0x1p-6, 0x1p-6}, scale, text, sizeof text),
                      "%s: %s: %s", c->row->name, names[i], text);
    }
}

/* ---- tests ---- */

/* With the same seed all is the same to the bit. */
static void check_repeats(const struct call *c, const int64_t count[BIAS + 1]) {
    const struct row *r = c->row;
    const int64_t outputs = r->batch * r->heads * r->queries * r->keys;
    struct call again;
    begin(&again, r, SEED);
    run(&again);
    ck_assert_msg(memcmp(again.numbers[Y], c->numbers[Y], (size_t)outputs * sizeof(double)) == 0,
                  "%s: the output has other bits in a second run", r->name);
    for (int i = Q; i <= BIAS; i++)
        ck_assert_msg(!c->gradient[i] || memcmp(again.gradient[i], c->gradient[i],
                                                (size_t)count[i] * sizeof **c->gradient) == 0,
                      "%s: gradient %d has other bits in a second run", r->name, i);
    end(&again);
}

START_TEST(numbers) {
    const struct row *r = &rows[_i];
    struct call c;
    struct tally tally = {0, 0};
    if (r->large && test_small()) return;
    const int64_t count[] = {r->batch * r->heads * r->queries * r->width,
                             r->batch * r->kv_heads * r->keys * r->width,
                             r->batch * r->kv_heads * r->keys * r->keys, r->heads * r->queries * r->keys};
    double *expected[BIAS + 1], *weights = malloc((size_t)r->keys * sizeof *weights);
    for (int i = Q; i <= BIAS; i++) expected[i] = calloc((size_t)count[i], sizeof **expected);
    begin(&c, r, SEED);
    run(&c);
    explains(&c, "\nattention: cudnn, ");
    for (int64_t line = 0; line < r->batch * r->heads * r->queries; line++) {
        const int64_t query = line % r->queries, head = line / r->queries % r->heads,
                      batch = line / r->queries / r->heads;
        weigh(&c, batch, head, query, weights);
        check_row(&c, c.numbers[Y] + line * r->keys, weights, &tally);
        add_gradients(&c, batch, head, query, weights, expected);
    }
    const double n = (double)tally.visible, p = share_of(r), deviation = sqrt(n * p * (1 - p));
    ck_assert_msg(fabs((double)tally.kept - n * p) < 4 * deviation, "%s: %d of %d weights are kept", r->name,
                  (int)tally.kept, (int)tally.visible);
    check_gradients(&c, expected, count);
    check_repeats(&c, count);
    for (int i = Q; i <= BIAS; i++) free(expected[i]);
    free(weights);
    end(&c);
}
END_TEST

/* The outputs of two calls in each of two steps. */
enum { OUTPUTS = 4 };
static int64_t draw(uint64_t seed, double *output[OUTPUTS]) {
    struct call c;
    int64_t count = 0;
    begin(&c, &rows[0], seed);
    for (int i = 0; i < OUTPUTS; i++) {
        if (i % 2 == 0) heed_step_begin(c.ctx, HEED_RANDOM);
        output[i] = test_values(attend(&c), &count);
        if (i % 2 == 1) heed_step_end(c.ctx);
    }
    explains(&c, "\nattention: cudnn, ");
    test_ok(c.ctx);
    end(&c);
    return count;
}

START_TEST(calls_and_seeds_differ) {
    double *output[3][OUTPUTS];
    const size_t bytes = (size_t)draw(SEED, output[0]) * sizeof **output[0];
    draw(SEED, output[1]);
    draw(SEED + 1, output[2]);
    for (int i = 0; i < OUTPUTS; i++) {
        ck_assert_mem_eq(output[0][i], output[1][i], bytes);
        ck_assert_mem_ne(output[0][i], output[2][i], bytes);
        for (int j = 0; j < i; j++) ck_assert_mem_ne(output[0][i], output[0][j], bytes);
    }
    for (int i = 0; i < 3 * OUTPUTS; i++) free(output[i / OUTPUTS][i % OUTPUTS]);
}
END_TEST

START_TEST(nothing_is_kept) {
    struct call c;
    struct row r = rows[0];
    r.dropout = 0.999999;
    begin(&c, &r, SEED);
    run(&c);
    explains(&c, "not cudnn: dropout keeps nothing");
    end(&c);
}
END_TEST

int main(void) {
    const int status = cudnn_begin();
    if (status) return status;
    Suite *suite = suite_create("cuda_cudnn_dropout");
    TCase *tcase = test_case(suite, "attention");
    tcase_add_loop_test(tcase, numbers, 0, ROWS);
    tcase_add_test(tcase, calls_and_seeds_differ);
    tcase_add_test(tcase, nothing_is_kept);
    return test_main(suite);
}
