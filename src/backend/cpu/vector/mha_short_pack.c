/* Weights of multi-head attention into panels, with projected columns in lane order. A unit is HEED_LANES
 * projected columns, or as many columns of the output. */
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/mha_short_vectors.h"

static const float *weights_of(const struct heed_mha_args *a, int input) {
    return (input == HEED_MHA_QUERY ? a->wq : input == HEED_MHA_KEY ? a->wk : a->wv).data;
}

static const float *bias_of(const struct heed_mha_args *a, int input) {
    return (input == HEED_MHA_QUERY ? a->bq : input == HEED_MHA_KEY ? a->bk : a->bv).data;
}

/* ---- forward ---- */

/* Columns of the input projection. */
static void pack_in(const struct heed_mha_short_plan *p, int64_t column) {
    const struct place at = place_of(p, column);
    const int64_t panel = p->gemm->columns, width = p->head_width[at.input];
    const float *bias = bias_of(p->args, at.input);
    int64_t offset[HEED_LANES];
    for (int l = 0; l < HEED_LANES; l++) offset[l] = l * width * p->in;
    vf_lanes_from_rows(weights_of(p->args, at.input) + at.feature * p->in, offset, p->in,
                       p->in_panels + column / panel * panel * p->in + column % panel, panel);
    for (int l = 0; p->biases && l < HEED_LANES; l++)
        p->biases[column + l] = bias ? bias[at.feature + l * width] : 0;
}

/* Columns of the output projection, whose inner dimension is in lane order. */
static void pack_out(const struct heed_mha_short_plan *p, int64_t column) {
    const int64_t panel = p->gemm->columns, width = p->head_width[HEED_MHA_VALUE];
    const float *w = (const float *)p->args->wo.data + column * p->joined;
    float *to = p->out_panels + column / panel * panel * p->joined + column % panel;
    int64_t offset[HEED_LANES];
    for (int l = 0; l < HEED_LANES; l++)
        offset[l] = column + l < p->out ? l * p->joined : 0; /* beyond the last: any numbers */
    for (int64_t head = 0; head < p->attention.heads; head++) {
        const int64_t inner = head / HEED_LANES * HEED_LANES * width + head % HEED_LANES;
        vf_lanes_from_rows(w + head * width, offset, width, to + inner * panel, HEED_LANES * panel);
    }
}

void HEED_VECTOR_NAME(heed_mha_short_pack)(const struct heed_mha_short_plan *p, int64_t unit) {
    const int64_t column = unit * HEED_LANES, projected = p->first[HEED_MHA_INPUTS];
    if (column < projected) {
        pack_in(p, column);
    } else {
        pack_out(p, column - projected);
    }
}

/* ---- backward: the same matrices, the other way round ---- */

/* The inner dimension is that of projected columns. */
static void pack_in_rows(const struct heed_mha_short_plan *p, int64_t inner) {
    const struct place at = place_of(p, inner);
    const int64_t panel = p->gemm->columns, depth = p->first[HEED_MHA_INPUTS];
    const float *w = weights_of(p->args, at.input) + at.feature * p->in;
    for (int64_t c = 0; c < p->in; c += panel) {
        p->gemm->pack_b(w + c, 1, p->head_width[at.input] * p->in, p->in - c < panel ? p->in - c : panel,
                        HEED_LANES, p->in_panels + c * depth + inner * panel);
    }
}

/* The inner dimension is the output; the columns are those of attention's output. */
static void pack_out_rows(const struct heed_mha_short_plan *p, int64_t first) {
    const int64_t panel = p->gemm->columns, width = p->head_width[HEED_MHA_VALUE];
    float lanes[HEED_MHA_SHORT_WIDTH * HEED_LANES] __attribute__((aligned(64)));
    int64_t offset[HEED_LANES];
    for (int l = 0; l < HEED_LANES; l++) offset[l] = l * width;
    for (int64_t inner = first; inner < first + HEED_LANES && inner < p->out; inner++) {
        const float *row = (const float *)p->args->wo.data + inner * p->joined;
        for (int64_t c = 0; c < p->joined; c += HEED_LANES) {
            const int64_t within = c % (width * HEED_LANES);
            if (within == 0) vf_lanes_from_rows(row + c, offset, width, lanes, HEED_LANES);
            vf_store(p->out_panels + c / panel * panel * p->out + inner * panel + c % panel,
                     vf_load(lanes + within));
        }
    }
}

void HEED_VECTOR_NAME(heed_mha_short_pack_backward)(const struct heed_mha_short_plan *p, int64_t unit) {
    const int64_t column = unit * HEED_LANES, projected = p->first[HEED_MHA_INPUTS];
    if (column < projected) {
        if (p->in_panels) pack_in_rows(p, column);
    } else if (p->out_panels) {
        pack_out_rows(p, column - projected);
    }
}
