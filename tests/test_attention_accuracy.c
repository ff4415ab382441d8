/* How exact attention is: on every instruction set its error, forward and backward, is at most twice that of
 * the plain formula in f32, and one rounding. Truth is the plain formula in double, written here once more.
 */
#include "harness.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, V, DY, Y, DQ, DK, DV, ARRAYS };
static const char *const names[ARRAYS] = {"q", "k", "v", "dy", "y", "dq", "dk", "dv"};

struct problem {
    int64_t queries, keys, width;
    bool causal; /* the last query sees all keys */
};

/* All arrays of a problem, and for each result the size of its terms: what a rounding is relative to. */
struct values {
    double *array[ARRAYS];
    double magnitude[ARRAYS];
};

static int64_t count_of(const struct problem *p, int array) {
    const bool of_queries = array == Q || array == DY || array == Y || array == DQ;
    return (of_queries ? p->queries : p->keys) * p->width;
}

static void values_open(struct values *v, const struct problem *p, struct test_random *random) {
    *v = (struct values){{NULL}};
    for (int i = 0; i < ARRAYS; i++) {
        v->array[i] = calloc((size_t)count_of(p, i), sizeof(double));
        for (int64_t j = 0; i <= DY && j < count_of(p, i); j++) v->array[i][j] = (float)test_normal(random);
    }
}

static void values_close(struct values *v) {
    for (int i = 0; i < ARRAYS; i++) free(v->array[i]);
}

/* ---- the plain formula ---- */

/* Rounded as f32 arithmetic does, if `single`. */
static double rounded(double x, bool single) {
    return single ? (double)(float)x : x;
}

static double dot(const double *a, const double *b, int64_t n, bool single) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum = rounded(sum + a[i] * b[i], single);
    return sum;
}

/* What roundings within dot() are relative to. */
static double size_of_dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fabs(a[i] * b[i]);
    return sum;
}

/* y += a · x. */
static void add_scaled(double a, const double *x, double *y, int64_t n, bool single) {
    for (int64_t i = 0; i < n; i++) y[i] = rounded(y[i] + a * x[i], single);
}

static int64_t visible(const struct problem *p, int64_t query) {
    const int64_t end = query + 1 + p->keys - p->queries;
    if (!p->causal) return p->keys;
    return end < 0 ? 0 : end;
}

/* One query: its weights to `weight`, its output and its part of the gradients. */
static void plain_row(const struct problem *p, struct values *v, int64_t query, double *weight, bool single) {
    const int64_t n = p->width, keys = visible(p, query);
    const double scale = rounded(1 / sqrt((double)n), single);
    const double *q = v->array[Q] + query * n, *dy = v->array[DY] + query * n;
    double *y = v->array[Y] + query * n, maximum = -INFINITY, sum = 0, size_q = 0, size_k = 0;
    for (int64_t k = 0; k < keys; k++) {
        weight[k] = rounded(scale * dot(q, v->array[K] + k * n, n, single), single);
        maximum = fmax(maximum, weight[k]);
    }
    for (int64_t k = 0; k < keys; k++) {
        weight[k] = rounded(exp(rounded(weight[k] - maximum, single)), single);
        sum = rounded(sum + weight[k], single);
    }
    for (int64_t k = 0; k < keys; k++) {
        weight[k] = rounded(weight[k] / sum, single);
        add_scaled(weight[k], v->array[V] + k * n, y, n, single);
    }
    /* Where a weight is near 1, dw and delta cancel, whose sums may be made in different orders. */
    const double delta = dot(dy, y, n, single), size_delta = size_of_dot(dy, y, n);
    for (int64_t k = 0; k < keys; k++) {
        const double dw = dot(dy, v->array[V] + k * n, n, single);
        const double ds = rounded(scale * rounded(weight[k] * rounded(dw - delta, single), single), single);
        const double terms = scale * weight[k] * (size_of_dot(dy, v->array[V] + k * n, n) + size_delta);
        add_scaled(ds, v->array[K] + k * n, v->array[DQ] + query * n, n, single);
        add_scaled(ds, q, v->array[DK] + k * n, n, single);
        add_scaled(weight[k], dy, v->array[DV] + k * n, n, single);
        size_q += terms;
        size_k = fmax(size_k, terms);
    }
    v->magnitude[DQ] = fmax(v->magnitude[DQ], size_q);
    v->magnitude[DK] += size_k;
}

static void plain(const struct problem *p, struct values *v, bool single) {
    double *weight = malloc((size_t)p->keys * sizeof *weight);
    for (int64_t query = 0; query < p->queries; query++) plain_row(p, v, query, weight, single);
    v->magnitude[DQ] *= test_largest(count_of(p, K), v->array[K]);
    v->magnitude[DK] *= test_largest(count_of(p, Q), v->array[Q]);
    free(weight);
}

/* ---- heed ---- */

static heed_tensor tensor_of(heed_ctx *ctx, const struct problem *p, const struct values *v, int array) {
    const int64_t count = count_of(p, array);
    float *floats = malloc((size_t)count * sizeof *floats);
    for (int64_t i = 0; i < count; i++) floats[i] = (float)v->array[array][i];
    const heed_tensor t = heed_from(ctx, HEED_F32, 4, (int64_t[]){1, 1, count / p->width, p->width}, floats);
    free(floats);
    if (array < DY) heed_require_grad(t, true);
    return t;
}

static void run_heed(heed_ctx *ctx, const struct problem *p, const struct values *inputs,
                     double *result[ARRAYS]) {
    heed_step_begin(ctx, HEED_RECORD);
    heed_tensor t[DY + 1];
    for (int i = Q; i <= DY; i++) t[i] = tensor_of(ctx, p, inputs, i);
    heed_mask *mask = p->causal ? heed_mask_causal(ctx, HEED_BOTTOM_RIGHT) : NULL;
    const heed_tensor y =
        heed_attention(t[Q], t[K], t[V], heed_score_mask(heed_score_new(ctx), mask), NULL, NULL);
    heed_backward_with(y, &(heed_backward_options){.gradient = t[DY]});
    int64_t count;
    result[Y] = test_values(y, &count);
    for (int i = 0; i < 3; i++) result[DQ + i] = test_values(heed_grad(t[Q + i]), &count);
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
}

/* ---- comparing ---- */

/* Of the exponential, of its sum, of dw and of delta. */
enum { ROUNDINGS = 4 };

static double error_of(int64_t count, const double *actual, const double *truth) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const double error = fabs(actual[i] - truth[i]);
        if (!(error <= largest)) largest = error; /* NaN counts */
    }
    return largest;
}

static void check(const struct problem *p, heed_ctx *const *ctx, const char *const *isas, int contexts) {
    struct test_random random = {(uint64_t)(p->queries * 1000003 + p->keys * 1009 + p->width)},
                       again = random;
    struct values truth, single;
    values_open(&truth, p, &random);
    values_open(&single, p, &again);
    plain(p, &truth, false);
    plain(p, &single, true);
    for (int c = 0; c < contexts; c++) {
        double *result[ARRAYS] = {NULL};
        run_heed(ctx[c], p, &truth, result);
        for (int i = Y; i < ARRAYS; i++) {
            const int64_t count = count_of(p, i);
            const double size = fmax(truth.magnitude[i], test_largest(count, truth.array[i]));
            const double most = 2 * error_of(count, single.array[i], truth.array[i]) +
                                ROUNDINGS * (double)FLT_EPSILON / 2 * size;
            const double error = error_of(count, result[i], truth.array[i]);
            ck_assert_msg(error <= most,
                          "%lld queries, %lld keys, width %lld%s, %s: %s is off by %g, allowed %g",
                          (long long)p->queries, (long long)p->keys, (long long)p->width,
                          p->causal ? ", causal" : "", isas[c], names[i], error, most);
            free(result[i]);
        }
    }
    values_close(&truth);
    values_close(&single);
}

static const int64_t lengths[] = {1, 2, 7, 8, 31, 64, 97, 128, 200, 257, 1025};
static const int64_t widths[] = {1, 4, 16, 33, 40, 64, 80, 96, 128, 256};
enum { LENGTHS = sizeof lengths / sizeof *lengths, WIDTHS = sizeof widths / sizeof *widths };

/* Equal lengths, more keys, more queries. */
START_TEST(close_to_the_truth) {
    const char *const *isas;
    const int count = test_isas(&isas);
    heed_ctx *ctx[8];
    for (int c = 0; c < count; c++)
        ctx[c] = test_ctx(&(struct test_device){.device = "cpu", .isa = isas[c], .threads = 1});
    const int most = (int)test_size(LENGTHS, 6), form = _i;
    for (int l = 0; l < most; l++) {
        for (int w = 0; w < WIDTHS; w++) {
            const int64_t length = lengths[l], other = lengths[(l + 1) % most];
            if (form > 0 && (l + w) % 3 != 0) continue; /* a third of the pairs of different lengths */
            const struct problem p = {.queries = form == 2 ? other : length,
                                      .keys = form == 1 ? other : length,
                                      .width = widths[w],
                                      .causal = (l + w) % 2 == 1};
            check(&p, ctx, isas, count);
        }
    }
    for (int c = 0; c < count; c++) heed_ctx_free(ctx[c]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("attention_accuracy");
    TCase *tests = test_case(suite, "against_double");
    tcase_add_loop_test(tests, close_to_the_truth, 0, 3);
    return test_main(suite);
}
