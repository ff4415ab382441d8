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
};

/* What is known of the queries that are made together. */
struct queries {
    int64_t first;
    vf maximum[LANES_PAIR], reciprocal[LANES_PAIR];
    vf delta[LANES_PAIR]; /* Σ probability · its gradient */
    float keep[LANES_PAIR * HEED_SHORT_KEYS * HEED_LANES] __attribute__((aligned(64)));
};

HEED_INLINE void queries_open(int m, const struct group *g, int64_t q, struct queries *x) {
    const struct heed_short_plan *p = g->plan;
    x->first = q;
    for (int i = 0; i < m; i++) {
        const int64_t at = g->first * p->queries + (q + i) * HEED_LANES;
        x->maximum[i] = vf_load(p->maximum + at);
        x->reciprocal[i] = vf_load(p->reciprocal + at);
        x->delta[i] = (vf){0};
        if (p->drops) keep_factors(g, q + i, p->keep_scale, x->keep + i * p->keys * HEED_LANES);
    }
}

/* `weights`: probabilities, by their scores; bits of `seen` say which are visible. */
HEED_INLINE void probabilities_block(int m, int n, const struct group *g, const struct lanes_backward *a,
                                     const struct queries *x, int64_t k, vi *seen) {
    const int64_t keys = g->plan->keys;
    vf dot[LANES_PAIR][LANES_BLOCK];
    dots_block(m, n, &a->q, x->first, &a->k, k, g->plan->width, dot);
    HEED_UNROLL
    for (int i = 0; i < m; i++) {
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const vf score = finish_score(g, x->first + i, k + j, dot[i][j]);
            const vm visible = vm_not(vm_equal(score, vf_set(-INFINITY)));
            const vf probability = vf_where(visible, vf_exp(score - x->maximum[i]) * x->reciprocal[i]);
            vf_store(a->weights + ((x->first + i) * keys + k + j) * HEED_LANES, probability);
            seen[i] |= vi_select(visible, vi_set((int32_t)(UINT32_C(1) << (k + j))), (vi){0});
        }
    }
}

/* `ds`: gradients of the probabilities, where visible; their sums with these. */
HEED_INLINE void gradients_block(int m, int n, const struct group *g, const struct lanes_backward *a,
                                 struct queries *x, int64_t k, const vi *seen) {
    const int64_t keys = g->plan->keys;
    vf dot[LANES_PAIR][LANES_BLOCK] = {{(vf){0}}};
    if (a->dy.at) dots_block(m, n, &a->dy, x->first, &a->v, k, g->plan->value_width, dot);
    HEED_UNROLL
    for (int i = 0; i < m; i++) {
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const int64_t at = ((x->first + i) * keys + k + j) * HEED_LANES;
            vf gradient = dot[i][j];
            if (a->dweights) gradient += vf_load(a->dweights + at);
            if (g->plan->drops) gradient *= vf_load(x->keep + (i * keys + k + j) * HEED_LANES);
            gradient = vf_where(lanes_with_bit(seen[i], k + j), gradient);
            x->delta[i] = vf_fma(vf_load(a->weights + at), gradient, x->delta[i]);
            vf_store(a->ds + at, gradient);
        }
    }
}

HEED_INLINE void backward_block(int m, int n, const struct group *g, const struct lanes_backward *a,
                                struct queries *x, int64_t k, vi *seen) {
    probabilities_block(m, n, g, a, x, k, seen);
    gradients_block(m, n, g, a, x, k, seen);
}

/* `ds`: gradients of the scores. `weights`: as they were after dropout. */
HEED_INLINE void finish_row(const struct group *g, const struct lanes_backward *a, const struct queries *x,
                            int i, vi seen) {
    const int64_t keys = g->plan->keys, row = (x->first + i) * keys;
    for (int64_t k = 0; k < keys; k++) {
        const int64_t at = (row + k) * HEED_LANES;
        const vf probability = vf_load(a->weights + at);
        vf ds = probability * (vf_load(a->ds + at) - x->delta[i]);
        if (!g->finite) ds = vf_where(lanes_with_bit(seen, k), ds);
        vf_store(a->ds + at, ds);
        if (g->plan->drops)
            vf_store(a->weights + at, probability * vf_load(x->keep + (i * keys + k) * HEED_LANES));
    }
}

HEED_INLINE void backward_queries(int m, const struct group *g, const struct lanes_backward *a, int64_t q,
                                  vi *seen) {
    const struct heed_short_plan *p = g->plan;
    struct queries x;
    int64_t k = 0;
    queries_open(m, g, q, &x);
    for (int i = 0; i < m; i++) seen[i] = (vi){0};
    for (; k + LANES_BLOCK <= p->keys; k += LANES_BLOCK) backward_block(m, LANES_BLOCK, g, a, &x, k, seen);
    for (; LANES_BLOCK > 4 && k + 4 <= p->keys; k += 4) backward_block(m, 4, g, a, &x, k, seen);
    for (; k < p->keys; k++) backward_block(m, 1, g, a, &x, k, seen);
    for (int i = 0; i < m; i++) finish_row(g, a, &x, i, seen[i]);
    const struct mix mix = {.count = p->keys,
                            .width = p->width,
                            .factor = a->ds + q * p->keys * HEED_LANES,
                            .factor_step = HEED_LANES,
                            .factor_other = p->keys * HEED_LANES,
                            .rows = &a->k,
                            .seen = seen,
                            .seen_other = 1,
                            .bit_step = 1,
                            .scale = {vf_set(p->scale), vf_set(p->scale)},
                            .out = &a->dq,
                            .first = q};
    if (a->dq.at) mix_run(m, !g->finite, &mix);
}

/* dk and dv of m keys: sums over the queries. */
HEED_INLINE void backward_keys(int m, const struct group *g, const struct lanes_backward *a, int64_t k,
                               const vi *seen) {
    const struct heed_short_plan *p = g->plan;
    struct mix mix = {.count = p->queries,
                      .width = p->width,
                      .factor = a->ds + k * HEED_LANES,
                      .factor_step = p->keys * HEED_LANES,
                      .factor_other = HEED_LANES,
                      .rows = &a->q,
                      .seen = seen,
                      .seen_step = 1,
                      .first_bit = (int)k,
                      .bit_other = 1,
                      .scale = {vf_set(p->scale), vf_set(p->scale)},
                      .out = &a->dk,
                      .first = k};
    if (a->dk.at) mix_run(m, !g->finite, &mix);
    if (!a->dv.at) return;
    mix.width = p->value_width;
    mix.factor = a->weights + k * HEED_LANES;
    mix.rows = &a->dy;
    mix.scale[0] = mix.scale[1] = vf_set(1.0f);
    mix.out = &a->dv;
    if (!a->dy.at) mix.count = 0;
    mix_run(m, !g->finite, &mix);
}

static inline void lanes_backward(const struct group *g, const struct lanes_backward *a) {
    const int64_t queries = g->plan->queries, keys = g->plan->keys;
    vi seen[HEED_SHORT_QUERIES];
    int64_t q = 0, k = 0;
    for (; q + LANES_PAIR <= queries; q += LANES_PAIR) backward_queries(LANES_PAIR, g, a, q, seen + q);
    for (; q < queries; q++) backward_queries(1, g, a, q, seen + q);
    for (; k + LANES_PAIR <= keys; k += LANES_PAIR) backward_keys(LANES_PAIR, g, a, k, seen);
    for (; k < keys; k++) backward_keys(1, g, a, k, seen);
}

#endif
