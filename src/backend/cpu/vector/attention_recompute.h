/* Probabilities once more, from the saved maximum and reciprocal sum of each query. Scores are made by the
 * same instructions as in forward. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_RECOMPUTE_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_RECOMPUTE_H

#include "backend/cpu/vector/attention_stages.h"

struct row_state {
    vf maximum, reciprocal, delta;
};

static inline struct row_state row_state_of(const struct heed_attention_plan *p, const struct heed_box *box,
                                            int r) {
    const int64_t at = heed_attention_at(p, box->batch, box->head, box->q0 + r);
    return (struct row_state){vf_set(p->maximum[at]), vf_set(p->reciprocal[at]), vf_set(p->delta[at])};
}

/* Scores to weights that need no other score: sigmoid and ReLU. A score of −∞ gives 0 in both. */
static inline vf weight_alone(heed_normalizer normalizer, vf s) {
    return normalizer == HEED_NORMALIZER_SIGMOID ? vf_sigmoid(s) : vf_relu(s);
}

/* The scores of a tile; they are still to be multiplied with the factor that is returned. */
static inline float recompute_scores(const struct tile *t, const struct heed_attention_plan *p,
                                     const float *keys, float *s, float *aux) {
    const struct heed_view *q = &p->args->q;
    const float *queries =
        (const float *)q->data + heed_attention_offset(q, t->box.batch, t->box.head, t->box.q0);
    tile_products(t, queries, q->stride[2], keys, p->width, s);
    return tile_stages(t, p, s, aux);
}

/* 0 where the score is masked, also in rows where something visible is not finite. */
static inline vf recompute_probability(const struct row_state *row, vf score, vm *seen) {
    *seen = vm_not(vm_equal(score, vf_set(-INFINITY)));
    return vf_where(*seen, vf_exp(score - row->maximum) * row->reciprocal);
}

#endif
