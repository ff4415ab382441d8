/* Attention of a group of pairs as lanes, forward: from rows of queries, keys and values in lanes to rows of
 * the output. Who calls says where they lie (attention_short.c copies them, mha_short.c computes them so). */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_FORWARD_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_FORWARD_H

#include "backend/cpu/vector/attention_lanes.h"

struct lanes_forward {
    struct lane_rows q, k, v, y;
    float *s;       /* of LANES_PAIR queries: [query, key, lane] */
    float *weights; /* of all; NULL: nobody asked */
};

/* Scores of m queries and n keys; `most` follows their maxima. */
HEED_INLINE void scores_block(int m, int n, const struct group *g, const struct lanes_forward *a, int64_t q,
                              int64_t k, vf most[LANES_PAIR]) {
    const struct heed_short_plan *p = g->plan;
    vf dot[LANES_PAIR][LANES_BLOCK];
    dots_block(m, n, &a->q, q, &a->k, k, p->width, dot);
    HEED_UNROLL
    for (int i = 0; i < m; i++) {
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const vf score = finish_score(g, q + i, k + j, dot[i][j]);
            most[i] = vf_max(score, most[i]);
            vf_store(a->s + (i * p->keys + k + j) * HEED_LANES, score);
        }
    }
}

HEED_INLINE void scores(int m, const struct group *g, const struct lanes_forward *a, int64_t q,
                        vf most[LANES_PAIR]) {
    const int64_t keys = g->plan->keys;
    int64_t k = 0;
    HEED_UNROLL
    for (int i = 0; i < m; i++) most[i] = vf_set(-INFINITY);
    for (; k + LANES_BLOCK <= keys; k += LANES_BLOCK) scores_block(m, LANES_BLOCK, g, a, q, k, most);
    for (; LANES_BLOCK > 4 && k + 4 <= keys; k += 4) scores_block(m, 4, g, a, q, k, most);
    for (; k < keys; k++) scores_block(m, 1, g, a, q, k, most);
    HEED_UNROLL
    for (int i = 0; i < m; i++) most[i] = vf_select(vm_equal(most[i], vf_set(-INFINITY)), (vf){0}, most[i]);
}

/* s: scores to unnormalised probabilities. Gives the reciprocals of their sums. */
HEED_INLINE void exponentials(int m, float *s, int64_t keys, const vf most[LANES_PAIR],
                              vf reciprocal[LANES_PAIR]) {
    vf sum[LANES_PAIR];
    HEED_UNROLL
    for (int i = 0; i < m; i++) sum[i] = (vf){0};
    for (int64_t k = 0; k < keys; k++) {
        HEED_UNROLL
        for (int i = 0; i < m; i++) {
            float *at = s + (i * keys + k) * HEED_LANES;
            const vf e = vf_exp(vf_load(at) - most[i]);
            sum[i] += e;
            vf_store(at, e);
        }
    }
    HEED_UNROLL
    for (int i = 0; i < m; i++)
        reciprocal[i] = vf_select(vm_equal(sum[i], (vf){0}), (vf){0}, vf_set(1.0f) / sum[i]);
}

static inline void lane_weights(const struct heed_short_plan *p, const float *s, vi seen, vf reciprocal,
                                const float *keep, float *to) {
    for (int64_t k = 0; k < p->keys; k++) {
        vf w = vf_load(s + k * HEED_LANES) * reciprocal;
        if (keep) w *= vf_load(keep + k * HEED_LANES) * vf_set(p->keep_scale);
        vf_store(to + k * HEED_LANES, vf_where(lanes_with_bit(seen, k), w));
    }
}

/* Dropout of one query, and its weights if they are asked for. */
static inline void drop_and_tell(const struct group *g, const struct lanes_forward *a, int64_t q, float *s,
                                 vi seen, vf reciprocal) {
    const struct heed_short_plan *p = g->plan;
    float keep[HEED_SHORT_KEYS * HEED_LANES] __attribute__((aligned(64)));
    if (p->drops) keep_factors(g, q, 1.0f, keep);
    if (a->weights)
        lane_weights(p, s, seen, reciprocal, p->drops ? keep : NULL, a->weights + q * p->keys * HEED_LANES);
    for (int64_t k = 0; p->drops && k < p->keys; k++)
        vf_store(s + k * HEED_LANES, vf_load(s + k * HEED_LANES) * vf_load(keep + k * HEED_LANES));
}

HEED_INLINE void forward_queries(int m, const struct group *g, const struct lanes_forward *a, int64_t q) {
    const struct heed_short_plan *p = g->plan;
    const int64_t row = p->keys * HEED_LANES;
    vf most[LANES_PAIR], reciprocal[LANES_PAIR];
    vi seen[LANES_PAIR] = {{0}};
    scores(m, g, a, q, most);
    for (int i = 0; (!g->finite || a->weights) && i < m; i++) seen[i] = seen_of(a->s + i * row, p->keys);
    exponentials(m, a->s, p->keys, most, reciprocal);
    for (int i = 0; (p->drops || a->weights) && i < m; i++)
        drop_and_tell(g, a, q + i, a->s + i * row, seen[i], reciprocal[i]);
    struct mix mix = {.count = p->keys,
                      .width = p->value_width,
                      .factor = a->s,
                      .factor_step = HEED_LANES,
                      .factor_other = row,
                      .rows = &a->v,
                      .seen = seen,
                      .seen_other = 1,
                      .bit_step = 1,
                      .out = &a->y,
                      .first = q};
    for (int i = 0; i < m; i++) mix.scale[i] = reciprocal[i] * vf_set(p->keep_scale);
    mix_run(m, !g->finite, &mix);
    for (int i = 0; p->maximum && i < m; i++) {
        const int64_t at = g->first * p->queries + (q + i) * HEED_LANES;
        vf_store(p->maximum + at, most[i]);
        vf_store(p->reciprocal + at, reciprocal[i]);
    }
}

static inline void lanes_forward(const struct group *g, const struct lanes_forward *a) {
    int64_t q = 0;
    for (; q + LANES_PAIR <= g->plan->queries; q += LANES_PAIR) forward_queries(LANES_PAIR, g, a, q);
    for (; q < g->plan->queries; q++) forward_queries(1, g, a, q);
}

#endif
