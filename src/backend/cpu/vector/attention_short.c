/* Forward of attention over many short sequences. */
#include "backend/cpu/vector/attention_lanes.h"
#include "backend/cpu/vector/attention_short_vectors.h"

struct area {
    float *q, *k, *v, *y, *s, *weights;
};

static struct area area_of(const struct heed_short_plan *p, int worker) {
    struct area a = {.q = p->workers + worker * p->worker_floats};
    a.k = a.q + p->queries * p->width * HEED_LANES;
    a.v = a.k + p->keys * p->width * HEED_LANES;
    a.y = a.v + p->keys * p->value_width * HEED_LANES;
    a.s = a.y + p->queries * p->value_width * HEED_LANES;
    a.weights = a.s + p->keys * HEED_LANES;
    return a;
}

struct statistics {
    vf maximum, reciprocal;
};

/* s: scores to unnormalised probabilities. */
static struct statistics softmax(float *s, int64_t keys) {
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

static void weights_of(const struct heed_short_plan *p, const float *s, vi seen, vf reciprocal,
                       const float *keep, float *to) {
    for (int64_t k = 0; k < p->keys; k++) {
        vf w = vf_load(s + k * HEED_LANES) * reciprocal;
        if (keep) w *= vf_load(keep + k * HEED_LANES) * vf_set(p->keep_scale);
        vf_store(to + k * HEED_LANES, vf_where(lanes_with_bit(seen, k), w));
    }
}

static void forward_query(const struct group *g, const struct area *a, int64_t q) {
    const struct heed_short_plan *p = g->plan;
    const bool has_weights = heed_has(&p->args->weights);
    float keep[HEED_SHORT_KEYS * HEED_LANES] __attribute__((aligned(64)));
    vi seen = {0};
    dots(a->q + q * p->width * HEED_LANES, a->k, p->keys, p->width, a->s);
    finish_scores(g, q, a->s);
    if (!g->finite || has_weights) seen = seen_of(a->s, p->keys);
    const struct statistics row = softmax(a->s, p->keys);
    if (p->drops) keep_factors(g, q, 1.0f, keep);
    if (has_weights) {
        weights_of(p, a->s, seen, row.reciprocal, p->drops ? keep : NULL,
                   a->weights + q * p->keys * HEED_LANES);
    }
    for (int64_t k = 0; p->drops && k < p->keys; k++) {
        vf_store(a->s + k * HEED_LANES, vf_load(a->s + k * HEED_LANES) * vf_load(keep + k * HEED_LANES));
    }
    const struct mix mix = {.count = p->keys,
                            .width = p->value_width,
                            .factor = a->s,
                            .factor_step = HEED_LANES,
                            .rows = a->v,
                            .seen = &seen,
                            .bit_step = 1,
                            .scale = p->keep_scale};
    float *y = a->y + q * p->value_width * HEED_LANES;
    mix_run(!g->finite, &mix, y);
    for (int64_t c = 0; c < p->value_width; c++)
        vf_store(y + c * HEED_LANES, vf_load(y + c * HEED_LANES) * row.reciprocal);
    if (p->maximum) {
        const int64_t at = (g->first * p->queries) + q * HEED_LANES;
        vf_store(p->maximum + at, row.maximum);
        vf_store(p->reciprocal + at, row.reciprocal);
    }
}

void HEED_VECTOR_NAME(heed_short_forward_task)(const struct heed_short_plan *p, int64_t task, int worker) {
    const struct area a = area_of(p, worker);
    for (int64_t i = task * p->groups_per_task; i < (task + 1) * p->groups_per_task; i++) {
        struct group g;
        if (i * HEED_LANES >= p->pairs) return;
        group_open(&g, p, i);
        group_look(&g);
        group_load(&g, &p->args->q, a.q);
        group_load(&g, &p->args->k, a.k);
        group_load(&g, &p->args->v, a.v);
        for (int64_t q = 0; q < p->queries; q++) forward_query(&g, &a, q);
        group_store(&g, &p->args->y, false, a.y);
        if (heed_has(&p->args->weights)) group_store(&g, &p->args->weights, false, a.weights);
    }
}

const struct heed_short_vectors HEED_VECTOR_NAME(heed_short_vectors) = {
    HEED_LANES, HEED_VECTOR_NAME(heed_short_forward_task), HEED_VECTOR_NAME(heed_short_backward_task)};
