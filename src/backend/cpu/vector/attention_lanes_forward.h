/* Attention of a group of pairs as lanes, forward: from rows of queries, keys and values in lanes to rows of
 * the output. Who calls says where they lie (attention_short.c copies them, mha_short.c computes them so). */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_FORWARD_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_FORWARD_H

#include "backend/cpu/vector/attention_lanes.h"

struct lanes_forward {
    struct lane_rows q, k, v, y;
    float *s;       /* of one query: [key, lane] */
    float *weights; /* [query, key, lane]; NULL: nobody asked */
};

struct statistics {
    vf maximum, reciprocal;
};

/* s: scores to unnormalised probabilities. */
static inline struct statistics lanes_softmax(float *s, int64_t keys) {
    vf most = vf_set(-INFINITY), sum = {0};
    for (int64_t k = 0; k < keys; k++) most = vf_max(vf_load(s + k * HEED_LANES), most);
    most = vf_select(vm_equal(most, vf_set(-INFINITY)), (vf){0}, most);
    for (int64_t k = 0; k < keys; k++) {
        const vf e = vf_exp(vf_load(s + k * HEED_LANES) - most);
        sum += e;
        vf_store(s + k * HEED_LANES, e);
    }
    return (struct statistics){most, vf_select(vm_equal(sum, (vf){0}), (vf){0}, vf_set(1.0f) / sum)};
}

static inline void lanes_weights(const struct heed_short_plan *p, const float *s, vi seen, vf reciprocal,
                                 const float *keep, float *to) {
    for (int64_t k = 0; k < p->keys; k++) {
        vf w = vf_load(s + k * HEED_LANES) * reciprocal;
        if (keep) w *= vf_load(keep + k * HEED_LANES) * vf_set(p->keep_scale);
        vf_store(to + k * HEED_LANES, vf_where(lanes_with_bit(seen, k), w));
    }
}

static inline void lanes_forward_query(const struct group *g, const struct lanes_forward *a, int64_t q) {
    const struct heed_short_plan *p = g->plan;
    float keep[HEED_SHORT_KEYS * HEED_LANES] __attribute__((aligned(64)));
    vi seen = {0};
    dots(lane_row(&a->q, q), a->k.at, a->k.step, p->keys, p->width, a->s);
    finish_scores(g, q, a->s);
    if (!g->finite || a->weights) seen = seen_of(a->s, p->keys);
    const struct statistics row = lanes_softmax(a->s, p->keys);
    if (p->drops) keep_factors(g, q, 1.0f, keep);
    if (a->weights) {
        lanes_weights(p, a->s, seen, row.reciprocal, p->drops ? keep : NULL,
                      a->weights + q * p->keys * HEED_LANES);
    }
    for (int64_t k = 0; p->drops && k < p->keys; k++) {
        vf_store(a->s + k * HEED_LANES, vf_load(a->s + k * HEED_LANES) * vf_load(keep + k * HEED_LANES));
    }
    const struct mix mix = {.count = p->keys,
                            .width = p->value_width,
                            .factor = a->s,
                            .factor_step = HEED_LANES,
                            .rows = a->v.at,
                            .row_step = a->v.step,
                            .seen = &seen,
                            .bit_step = 1,
                            .scale = p->keep_scale};
    float *y = lane_row(&a->y, q);
    mix_run(!g->finite, &mix, y);
    for (int64_t c = 0; c < p->value_width; c++)
        vf_store(y + c * HEED_LANES, vf_load(y + c * HEED_LANES) * row.reciprocal);
    if (p->maximum) {
        const int64_t at = (g->first * p->queries) + q * HEED_LANES;
        vf_store(p->maximum + at, row.maximum);
        vf_store(p->reciprocal + at, row.reciprocal);
    }
}

#endif
