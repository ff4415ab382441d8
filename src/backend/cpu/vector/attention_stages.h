/* The stages on a tile of scores: forward, and in reverse on the gradient.
 *
 * A stage may have the factor that the scores still have to be multiplied with handed to it, so that the
 * scale costs nothing of its own. Cells that are not visible hold anything (they may never have been written)
 * until the mask makes them −∞ at the end; a user's stage sees 0 there. What stages keep for their backward
 * lies in the worker's aux tiles, in the order of the stages. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_STAGES_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_STAGES_H

#include "backend/cpu/vector/attention_tile.h"

enum { TILE_FLOATS = HEED_TILE_QUERIES * HEED_TILE_KEYS };

/* ---- additive ---- */

static inline void bias_row(vf factor, const float *bias, int64_t stride, int nk, float *s) {
    if (stride == 1) {
        int j = 0;
        for (; j + HEED_LANES <= nk; j += HEED_LANES)
            vf_store(s + j, vf_fma(vf_load(s + j), factor, vf_load(bias + j)));
        if (j < nk) vf_store(s + j, vf_fma(vf_load(s + j), factor, vf_load_part(bias + j, nk - j)));
    } else if (stride == 0) {
        for (int j = 0; j < TILE_ROW; j += HEED_LANES)
            vf_store(s + j, vf_fma(vf_load(s + j), factor, vf_set(*bias)));
    } else {
        for (int j = 0; j < nk; j++) s[j] = s[j] * factor[0] + bias[j * stride];
    }
}

/* Where the numbers of a tile's row r begin, in the tensor of a bias of either kind or in its gradient. */
static inline int64_t bias_offset(const struct heed_stage *stage, const struct heed_view *v,
                                  const struct heed_box *box, int r) {
    if (stage->kind == HEED_STAGE_BIAS)
        return heed_attention_offset(v, box->batch, box->head, box->q0 + r) + box->k0 * v->stride[3];
    return heed_attention_offset(v, box->batch, box->head, 0) +
           (box->k0 - box->q0 - r + box->queries - 1) * v->stride[3];
}

static inline void stage_bias(const struct heed_stage *stage, const struct heed_box *box, float factor,
                              float *s) {
    const struct heed_view *v = &stage->tensor;
    const int64_t stride = v->size[3] > 1 ? v->stride[3] : 0;
    for (int r = 0; r < box->nq; r++)
        bias_row(vf_set(factor), (const float *)v->data + bias_offset(stage, v, box, r), stride, box->nk,
                 s + r * TILE_ROW);
}

/* ---- softcap ---- */

static inline void stage_softcap(double cap, int rows, float factor, float *s, float *aux) {
    const vf in = vf_set((float)(factor / cap)), out = vf_set((float)cap);
    for (int j = 0; j < rows * TILE_ROW; j += HEED_LANES) {
        const vf a = vf_tanh(vf_load(s + j) * in);
        vf_store(aux + j, a);
        vf_store(s + j, a * out);
    }
}

/* ---- a user's ---- */

/* Marks all cells of a tile without a mask. */
static inline const uint64_t *tile_words(const struct tile *t, uint64_t all[HEED_TILE_QUERIES]) {
    if (t->masked) return t->bits;
    for (int r = 0; r < t->box.nq; r++) all[r] = ~UINT64_C(0);
    return all;
}

static inline void clear_unseen(const uint64_t *seen, int rows, float *cells) {
    for (int r = 0; r < rows; r++) {
        uint64_t bits = seen[r];
        for (int j = 0; j < TILE_ROW; j += HEED_LANES, bits >>= HEED_LANES % 64) {
            float *at = cells + r * TILE_ROW + j;
            vf_store(at, vf_where(vm_of_bits((uint32_t)(bits & LANE_BITS)), vf_load(at)));
        }
    }
}

/* What a tile sees of the parameters of a stage: in place where that is contiguous, else copied. */
struct stage_params {
    const float *value[HEED_STAGE_MAX_PARAMS];
    float *gradient[HEED_STAGE_MAX_PARAMS];
    float copy[HEED_STAGE_MAX_PARAMS][HEED_TILE_KEYS];
};

static inline const float *param_values(const struct heed_stage_param *param, const struct heed_box *box,
                                        float *copy) {
    const struct heed_view *v = &param->tensor;
    const float *x = (const float *)v->data + heed_attention_offset(v, box->batch, box->head, 0);
    if (param->scope == HEED_PER_CALL || param->scope == HEED_PER_HEAD) return x;
    const bool by_query = param->scope == HEED_PER_QUERY;
    const int64_t step = by_query ? v->stride[2] : v->stride[3], first = by_query ? box->q0 : box->k0;
    if (step == 1) return x + first;
    for (int i = 0; i < (by_query ? box->nq : box->nk); i++) copy[i] = x[(first + i) * step];
    return copy;
}

static inline float *param_gradient(const struct heed_attention_plan *p, int index,
                                    const struct heed_box *box, int64_t strip) {
    const struct heed_attention_sum *sum = &p->sum[HEED_SUM_OF_PARAMS + index];
    if (sum->scope == HEED_SUM_NONE) return NULL;
    float *at = heed_attention_sum_at(sum, sum->scope == HEED_SUM_KEY ? 0 : strip, box->batch, box->head);
    if (sum->scope == HEED_SUM_VECTOR) return at;
    return at + (sum->scope == HEED_SUM_KEY ? box->k0 : box->q0);
}

/* Forward with s, backward with g (and the strip that gathers gradients). */
static inline void stage_custom(const struct heed_attention_plan *p, const struct heed_stage *stage,
                                const struct tile *t, float *s, float *g, float *aux, int64_t strip) {
    const heed_stage_rule *rule = stage->rule;
    const struct heed_box *box = &t->box;
    struct stage_params params;
    float *tiles[HEED_STAGE_MAX_AUX];
    uint64_t all[HEED_TILE_QUERIES];
    for (int i = 0; i < rule->n_aux; i++) tiles[i] = aux + i * TILE_FLOATS;
    for (int i = 0; i < rule->n_params; i++) {
        params.value[i] = param_values(&p->args->param[stage->param + i], box, params.copy[i]);
        params.gradient[i] = g ? param_gradient(p, stage->param + i, box, strip) : NULL;
    }
    const heed_tile tile = {.batch = box->batch,
                            .head = box->head,
                            .query = box->q0,
                            .key = box->k0,
                            .queries = box->queries,
                            .keys = box->keys,
                            .rows = box->nq,
                            .columns = box->nk,
                            .row_stride = TILE_ROW,
                            .visible = tile_words(t, all),
                            .s = s,
                            .g = g,
                            .aux = tiles,
                            .param = params.value,
                            .dparam = params.gradient,
                            .user = stage->user};
    if (s) {
        if (t->masked) clear_unseen(t->bits, box->nq, s);
        rule->forward(&tile);
    } else if (rule->backward) {
        rule->backward(&tile);
    }
}

/* ---- all of them ---- */

static inline void scale_tile(int rows, float factor, float *s) {
    for (int j = 0; j < rows * TILE_ROW; j += HEED_LANES) vf_store(s + j, vf_load(s + j) * vf_set(factor));
}

/* Scale, stages and mask. Returns the factor that scores still have to be multiplied with: the scale, where
 * it is all there is to do. */
static inline float tile_stages(const struct tile *t, const struct heed_attention_plan *p, float *s,
                                float *aux) {
    const struct heed_attention_args *args = p->args;
    const struct heed_box *box = &t->box;
    float factor = p->scale;
    if (!t->masked && args->stages == 0) return factor;
    for (int i = 0; i < args->stages; i++) {
        const struct heed_stage *stage = &args->stage[i];
        switch (stage->kind) {
        case HEED_STAGE_BIAS:
        case HEED_STAGE_DISTANCE:
            stage_bias(stage, box, factor, s);
            break;
        case HEED_STAGE_SOFTCAP:
            stage_softcap(stage->cap, box->nq, factor, s, aux);
            break;
        case HEED_STAGE_CUSTOM:
            if (factor != 1.0f) scale_tile(box->nq, factor, s);
            stage_custom(p, stage, t, s, NULL, aux, 0);
            break;
        }
        factor = 1.0f;
        aux += heed_stage_aux(stage) * TILE_FLOATS;
    }
    for (int r = 0; t->masked && r < box->nq; r++) mask_row(t->bits[r], vf_set(factor), s + r * TILE_ROW);
    return 1.0f;
}

#endif
