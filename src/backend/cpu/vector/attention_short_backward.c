/* Backward of attention over many short sequences; the formulas are those of attention_backward.c. All of a
 * pair's weights and score gradients exist at once, so that dk and dv are sums over queries in one go. */
#include "backend/cpu/vector/attention_lanes.h"
#include "backend/cpu/vector/attention_short_vectors.h"

struct area {
    float *q, *k, *v, *dy, *dq, *dk, *dv; /* of the group */
    float *weights, *ds, *dweights;       /* [query, key] */
    float *dw;                            /* of one query */
};

static struct area area_of(const struct heed_short_plan *p, int worker) {
    const int64_t query_floats = p->queries * p->width * HEED_LANES,
                  key_floats = p->keys * p->width * HEED_LANES;
    const int64_t value_floats = p->keys * p->value_width * HEED_LANES,
                  cells = p->queries * p->keys * HEED_LANES;
    struct area a = {.q = p->workers + worker * p->worker_floats};
    a.k = a.q + query_floats;
    a.v = a.k + key_floats;
    a.dy = a.v + value_floats;
    a.dq = a.dy + p->queries * p->value_width * HEED_LANES;
    a.dk = a.dq + query_floats;
    a.dv = a.dk + key_floats;
    a.weights = a.dv + value_floats;
    a.ds = a.weights + cells;
    a.dweights = a.ds + cells;
    a.dw = a.dweights + cells;
    return a;
}

/* weights: scores to weights. dw: gradient of the weights to that of the probabilities. Returns Σ probability
 * · its gradient; ds holds the probabilities. */
static vf weigh(const struct group *g, int64_t q, float *weights, float *dw, float *ds) {
    const struct heed_short_plan *p = g->plan;
    const int64_t at = g->first * p->queries + q * HEED_LANES;
    const vf maximum = vf_load(p->maximum + at), reciprocal = vf_load(p->reciprocal + at);
    float keep[HEED_SHORT_KEYS * HEED_LANES] __attribute__((aligned(64)));
    vf delta = {0};
    if (p->drops) keep_factors(g, q, p->keep_scale, keep);
    for (int64_t k = 0; k < p->keys; k++) {
        const vf score = vf_load(weights + k * HEED_LANES);
        const vm visible = vm_not(vm_equal(score, vf_set(-INFINITY)));
        const vf probability = vf_where(visible, vf_exp(score - maximum) * reciprocal);
        vf weight = probability, gradient = vf_load(dw + k * HEED_LANES);
        if (p->drops) {
            weight *= vf_load(keep + k * HEED_LANES);
            gradient *= vf_load(keep + k * HEED_LANES);
        }
        gradient = vf_where(visible, gradient);
        delta = vf_fma(probability, gradient, delta);
        vf_store(weights + k * HEED_LANES, vf_where(visible, weight));
        vf_store(dw + k * HEED_LANES, gradient);
        vf_store(ds + k * HEED_LANES, probability);
    }
    return delta;
}

static void backward_query(const struct group *g, const struct area *a, int64_t q, vi *seen) {
    const struct heed_short_plan *p = g->plan;
    const int64_t row = q * p->keys * HEED_LANES;
    float *weights = a->weights + row, *ds = a->ds + row;
    dots(a->q + q * p->width * HEED_LANES, a->k, p->keys, p->width, weights);
    finish_scores(g, q, weights);
    if (!g->finite) *seen = seen_of(weights, p->keys);
    if (heed_has(&p->args->dy)) {
        dots(a->dy + q * p->value_width * HEED_LANES, a->v, p->keys, p->value_width, a->dw);
    } else {
        memset(a->dw, 0, (size_t)(p->keys * HEED_LANES) * sizeof(float));
    }
    for (int64_t k = 0; heed_has(&p->args->dweights) && k < p->keys; k++) {
        vf_store(a->dw + k * HEED_LANES,
                 vf_load(a->dw + k * HEED_LANES) + vf_load(a->dweights + row + k * HEED_LANES));
    }
    const vf delta = weigh(g, q, weights, a->dw, ds);
    for (int64_t k = 0; k < p->keys; k++) {
        const vf probability = vf_load(ds + k * HEED_LANES), gradient = vf_load(a->dw + k * HEED_LANES);
        vf out = probability * (gradient - delta);
        if (!g->finite) out = vf_where(lanes_with_bit(*seen, k), out);
        vf_store(ds + k * HEED_LANES, out);
    }
    const struct mix mix = {.count = p->keys,
                            .width = p->width,
                            .factor = ds,
                            .factor_step = HEED_LANES,
                            .rows = a->k,
                            .seen = seen,
                            .bit_step = 1,
                            .scale = p->scale};
    if (heed_has(&p->args->dq.view)) mix_run(!g->finite, &mix, a->dq + q * p->width * HEED_LANES);
}

/* dk and dv of one key: sums over the queries. */
static void backward_key(const struct group *g, const struct area *a, int64_t k, const vi *seen) {
    const struct heed_short_plan *p = g->plan;
    struct mix mix = {.count = p->queries,
                      .width = p->width,
                      .factor = a->ds + k * HEED_LANES,
                      .factor_step = p->keys * HEED_LANES,
                      .rows = a->q,
                      .seen = seen,
                      .seen_step = 1,
                      .first_bit = (int)k,
                      .scale = p->scale};
    if (heed_has(&p->args->dk.view)) mix_run(!g->finite, &mix, a->dk + k * p->width * HEED_LANES);
    mix.width = p->value_width;
    mix.factor = a->weights + k * HEED_LANES;
    mix.rows = a->dy;
    mix.scale = 1.0f;
    if (!heed_has(&p->args->dv.view)) return;
    if (heed_has(&p->args->dy)) {
        mix_run(!g->finite, &mix, a->dv + k * p->value_width * HEED_LANES);
    } else {
        memset(a->dv + k * p->value_width * HEED_LANES, 0,
               (size_t)(p->value_width * HEED_LANES) * sizeof(float));
    }
}

static void backward_group(struct group *g, const struct area *a) {
    const struct heed_short_plan *p = g->plan;
    const struct heed_attention_args *args = p->args;
    vi seen[HEED_SHORT_QUERIES];
    group_look(g);
    group_load(g, &args->q, a->q);
    group_load(g, &args->k, a->k);
    group_load(g, &args->v, a->v);
    if (heed_has(&args->dy)) group_load(g, &args->dy, a->dy);
    if (heed_has(&args->dweights)) group_load(g, &args->dweights, a->dweights);
    for (int64_t q = 0; q < p->queries; q++) backward_query(g, a, q, seen + q);
    for (int64_t k = 0; k < p->keys; k++) backward_key(g, a, k, seen);
    if (heed_has(&args->dq.view)) group_store(g, &args->dq.view, args->dq.add, a->dq);
    if (heed_has(&args->dk.view)) group_store(g, &args->dk.view, args->dk.add, a->dk);
    if (heed_has(&args->dv.view)) group_store(g, &args->dv.view, args->dv.add, a->dv);
}

void HEED_VECTOR_NAME(heed_short_backward_task)(const struct heed_short_plan *p, int64_t task, int worker) {
    const struct area a = area_of(p, worker);
    for (int64_t i = task * p->groups_per_task; i < (task + 1) * p->groups_per_task; i++) {
        struct group g;
        if (i * HEED_LANES >= p->pairs) return;
        group_open(&g, p, i);
        backward_group(&g, &a);
    }
}
