/* Attention of a group of pairs as lanes, backward; the formulas are those of attention_backward.c. All of a
 * pair's weights and score gradients exist at once, so that dk and dv are sums over queries in one go. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_BACKWARD_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_BACKWARD_H

#include "backend/cpu/vector/attention_lanes.h"

struct lanes_backward {
    struct lane_rows q, k, v;
    struct lane_rows dy;         /* at NULL: no gradient arrives there */
    float *dweights;             /* [query, key, lane]; NULL likewise */
    struct lane_rows dq, dk, dv; /* at NULL: not wanted */
    float *weights, *ds;         /* [query, key, lane] */
    float *dw;                   /* of one query */
};

/* weights: scores to weights. dw: gradient of the weights to that of the probabilities. Returns Σ probability
 * · its gradient; ds holds the probabilities. */
static inline vf lanes_weigh(const struct group *g, int64_t q, float *weights, float *dw, float *ds) {
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

static inline void lanes_backward_query(const struct group *g, const struct lanes_backward *a, int64_t q,
                                        vi *seen) {
    const struct heed_short_plan *p = g->plan;
    const int64_t row = q * p->keys * HEED_LANES;
    float *weights = a->weights + row, *ds = a->ds + row;
    dots(lane_row(&a->q, q), a->k.at, a->k.step, p->keys, p->width, weights);
    finish_scores(g, q, weights);
    if (!g->finite) *seen = seen_of(weights, p->keys);
    if (a->dy.at) {
        dots(lane_row(&a->dy, q), a->v.at, a->v.step, p->keys, p->value_width, a->dw);
    } else {
        memset(a->dw, 0, (size_t)(p->keys * HEED_LANES) * sizeof(float));
    }
    for (int64_t k = 0; a->dweights && k < p->keys; k++) {
        vf_store(a->dw + k * HEED_LANES,
                 vf_load(a->dw + k * HEED_LANES) + vf_load(a->dweights + row + k * HEED_LANES));
    }
    const vf delta = lanes_weigh(g, q, weights, a->dw, ds);
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
                            .rows = a->k.at,
                            .row_step = a->k.step,
                            .seen = seen,
                            .bit_step = 1,
                            .scale = p->scale};
    if (a->dq.at) mix_run(!g->finite, &mix, lane_row(&a->dq, q));
}

/* dk and dv of one key: sums over the queries. */
static inline void lanes_backward_key(const struct group *g, const struct lanes_backward *a, int64_t k,
                                      const vi *seen) {
    const struct heed_short_plan *p = g->plan;
    struct mix mix = {.count = p->queries,
                      .width = p->width,
                      .factor = a->ds + k * HEED_LANES,
                      .factor_step = p->keys * HEED_LANES,
                      .rows = a->q.at,
                      .row_step = a->q.step,
                      .seen = seen,
                      .seen_step = 1,
                      .first_bit = (int)k,
                      .scale = p->scale};
    if (a->dk.at) mix_run(!g->finite, &mix, lane_row(&a->dk, k));
    if (!a->dv.at) return;
    mix.width = p->value_width;
    mix.factor = a->weights + k * HEED_LANES;
    mix.rows = a->dy.at;
    mix.row_step = a->dy.step;
    mix.scale = 1.0f;
    if (a->dy.at) {
        mix_run(!g->finite, &mix, lane_row(&a->dv, k));
    } else {
        memset(lane_row(&a->dv, k), 0, (size_t)(p->value_width * HEED_LANES) * sizeof(float));
    }
}

static inline void lanes_backward(const struct group *g, const struct lanes_backward *a) {
    vi seen[HEED_SHORT_QUERIES];
    for (int64_t q = 0; q < g->plan->queries; q++) lanes_backward_query(g, a, q, seen + q);
    for (int64_t k = 0; k < g->plan->keys; k++) lanes_backward_key(g, a, k, seen);
}

#endif
