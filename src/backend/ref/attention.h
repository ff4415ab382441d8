/* One row of the reference attention kernel: what attention.c and attention_stages.c share. */
#ifndef HEED_SRC_BACKEND_REF_ATTENTION_H
#define HEED_SRC_BACKEND_REF_ATTENTION_H

#include "backend/ref/ref.h"

/* One query of one head. Keys that the mask hides have a score of −∞ at the end: such cells are skipped,
 * never multiplied by 0, so that NaN and Inf in masked keys and values reach nothing. */
struct heed_ref_row {
    const struct heed_attention_args *args;
    struct heed_attention_random random;
    int64_t batch, head, kv_head, query;
    int64_t line;        /* doubles per line of scratch */
    uint8_t *allowed;    /* what the mask says */
    double *score;       /* s, after the stages; −∞: masked */
    double *probability; /* the weights before dropout */
    double *gradient;    /* backward: of the probabilities, then of s */
    double *aux;         /* lines that stages keep from forward to backward */
    double *custom;      /* parameters of one user's stage and their gradients, a line each */
    double *columns;     /* forward: [batch, chosen heads, keys], sums of weights */
    bool sees;           /* any key */
    double maximum, sum; /* of the softmax: Σ e^(s − maximum), with the sink */
    double sink;         /* its probability */
};

/* Sums to which many rows contribute. */
struct heed_ref_sums {
    struct heed_view dk, dv, dsink, dstage[HEED_MAX_STAGES], dparam[HEED_MAX_STAGE_PARAMS];
};

/* Lines of scratch: of the stages' aux, and the doubles of a line of parameters. */
int64_t heed_ref_aux_lines(const struct heed_attention_args *args);
int64_t heed_ref_param_line(const struct heed_attention_args *args);

/* Scores through the stages in order. Masked ones are 0 before and may be anything after. */
void heed_ref_stages_forward(struct heed_ref_row *r);

/* r->gradient through the stages in reverse, from that of the last result to that of scale·q·k; every stage
 * adds to the sums of its tensors. 0 where masked, before and after. */
void heed_ref_stages_backward(struct heed_ref_row *r, const struct heed_ref_sums *sums);

/* A key that has a weight: neither masked nor of a score of −∞. */
static inline bool heed_ref_visible(const struct heed_ref_row *r, int64_t key) {
    return r->score[key] != -INFINITY;
}

/* Where keys and values of a row begin, its queries and outputs, and a cell. */
static inline int64_t heed_ref_key_offset(const struct heed_ref_row *r, const struct heed_view *v,
                                          int64_t key) {
    return r->batch * v->stride[0] + r->kv_head * v->stride[1] + key * v->stride[2];
}
static inline int64_t heed_ref_head_offset(const struct heed_ref_row *r, const struct heed_view *v) {
    return r->batch * v->stride[0] + r->head * v->stride[1];
}
static inline int64_t heed_ref_query_offset(const struct heed_ref_row *r, const struct heed_view *v) {
    return heed_ref_head_offset(r, v) + r->query * v->stride[2];
}
static inline int64_t heed_ref_cell_offset(const struct heed_ref_row *r, const struct heed_view *v,
                                           int64_t key) {
    return heed_ref_query_offset(r, v) + key * v->stride[3];
}

#endif
