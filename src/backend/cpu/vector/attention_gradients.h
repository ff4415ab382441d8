/* The stages in reverse, on a tile of gradients.
 *
 * Each stage takes the gradients of its tensors from what arrives at it and hands on the gradient of the
 * scores before it. Cells that are not seen are 0 throughout. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_GRADIENTS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_GRADIENTS_H

#include "backend/cpu/vector/attention_stages.h"

/* ---- gradients of biases ---- */

/* to += g, n ≤ HEED_TILE_KEYS of them. */
static inline void add_cells(const float *g, int n, float *to) {
    int j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) vf_store(to + j, vf_load(to + j) + vf_load(g + j));
    if (j < n) vf_store_part(to + j, vf_load_part(to + j, n - j) + vf_load(g + j), n - j);
}

static inline void bias_cells(const struct heed_stage *stage, const struct heed_box *box, const float *g) {
    const struct heed_view *v = &stage->dtensor.view;
    for (int r = 0; r < box->nq; r++, g += TILE_ROW) {
        float *to = (float *)v->data + bias_offset(stage, v, box, r);
        if (v->stride[3] == 1) {
            add_cells(g, box->nk, to);
        } else {
            for (int j = 0; j < box->nk; j++) to[j * v->stride[3]] += g[j];
        }
    }
}

static inline void bias_keys(const struct heed_box *box, const float *g, float *to) {
    for (int j = 0; j < box->nk; j += HEED_LANES) {
        vf sum = {0};
        for (int r = 0; r < box->nq; r++) sum += vf_load(g + r * TILE_ROW + j);
        const int n = box->nk - j < HEED_LANES ? box->nk - j : HEED_LANES;
        vf_store_part(to + j, vf_load_part(to + j, n) + sum, n);
    }
}

static inline float row_sum(const float *g) {
    vf sum = {0};
    for (int j = 0; j < TILE_ROW; j += HEED_LANES) sum += vf_load(g + j);
    return vf_sum(sum);
}

/* Row r of the tile adds to the distances from its first key's on, one less than the row before. */
static inline void bias_distances(const struct heed_box *box, const float *g, float *to) {
    to += box->k0 - box->q0 + box->queries - 1;
    for (int r = 0; r < box->nq; r++) add_cells(g + r * TILE_ROW, box->nk, to - r);
}

static inline void bias_gradient(const struct heed_attention_plan *p, int index, const struct heed_box *box,
                                 int64_t strip, const float *g) {
    const struct heed_attention_sum *sum = &p->sum[index];
    if (sum->scope == HEED_SUM_NONE) return;
    if (sum->scope == HEED_SUM_CELL) {
        bias_cells(&p->args->stage[index], box, g);
        return;
    }
    float *to = heed_attention_sum_at(sum, sum->scope == HEED_SUM_KEY ? 0 : strip, box->batch, box->head);
    if (sum->scope == HEED_SUM_KEY) bias_keys(box, g, to + box->k0);
    if (sum->scope == HEED_SUM_VECTOR) bias_distances(box, g, to);
    if (sum->scope != HEED_SUM_QUERY && sum->scope != HEED_SUM_HEAD) return;
    for (int r = 0; r < box->nq; r++)
        to[sum->scope == HEED_SUM_QUERY ? box->q0 + r : 0] += row_sum(g + r * TILE_ROW);
}

/* ---- all stages ---- */

/* a = tanh(s / cap) was kept: the derivative of cap · a is 1 − a². */
static inline void softcap_gradient(int rows, const float *aux, float *g) {
    for (int j = 0; j < rows * TILE_ROW; j += HEED_LANES) {
        const vf a = vf_load(aux + j);
        vf_store(g + j, vf_load(g + j) * vf_fnma(a, a, vf_set(1.0f)));
    }
}

/* g: from the gradient of the last stage's result to that of scale · q·kᵀ. */
static inline void stages_backward(const struct heed_attention_plan *p, const struct tile *t,
                                   const uint64_t *seen, int64_t strip, float *g, float *aux) {
    const struct heed_attention_args *args = p->args;
    aux += p->aux_tiles * TILE_FLOATS;
    for (int i = args->stages - 1; i >= 0; i--) {
        const struct heed_stage *stage = &args->stage[i];
        aux -= heed_stage_aux(stage) * TILE_FLOATS;
        switch (stage->kind) {
        case HEED_STAGE_BIAS:
        case HEED_STAGE_DISTANCE:
            bias_gradient(p, i, &t->box, strip, g);
            break;
        case HEED_STAGE_SOFTCAP:
            softcap_gradient(t->box.nq, aux, g);
            clear_unseen(seen, t->box.nq, g);
            break;
        case HEED_STAGE_CUSTOM:
            stage_custom(p, stage, t, NULL, g, aux, strip);
            clear_unseen(seen, t->box.nq, g);
            break;
        }
    }
}

#endif
