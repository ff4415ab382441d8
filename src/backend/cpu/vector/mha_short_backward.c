/* Backward of multi-head attention over many short sequences, from the output to the input for a few
 * sequences at a time. */
#include "backend/cpu/vector/attention_lanes_backward.h"
#include "backend/cpu/vector/mha_short_task.h"
#include "backend/cpu/vector/mha_short_vectors.h"

/* The task's part of the worker's area. */
struct gradients {
    float *outputs; /* NULL: no gradient arrives at the output */
    float *projected;
    struct lanes_backward lanes;
};

static struct gradients gradients_of(const struct heed_mha_short_plan *p, int worker) {
    const struct heed_short_plan *attention = &p->attention;
    float *at = p->workers + worker * p->worker_floats;
    struct gradients d = {.projected = at};
    at += p->room * p->step;
    if (heed_has(&p->args->dy)) d.outputs = at;
    if (heed_has(&p->args->dy)) at += p->room * p->joined;
    d.lanes.weights = lane_rows_take(&at, attention->queries, attention->keys).at;
    d.lanes.ds = lane_rows_take(&at, attention->queries, attention->keys).at;
    if (heed_has(&p->args->attention.dweights)) d.lanes.dweights = at;
    return d;
}

static void backward_out(const struct heed_mha_short_plan *p, const struct task *t, float *doutputs) {
    p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                             .columns = p->joined,
                                             .depth = p->out,
                                             .a = (const float *)p->args->dy.data + t->row * p->out,
                                             .a_row = p->out,
                                             .a_inner = 1,
                                             .a_panel = p->gemm->rows * p->out,
                                             .b = p->out_panels,
                                             .c = doutputs,
                                             .c_row = p->joined});
}

static void backward_in(const struct heed_mha_short_plan *p, const struct task *t, const float *dprojected) {
    p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                             .columns = p->in,
                                             .depth = p->first[HEED_MHA_INPUTS],
                                             .a = dprojected,
                                             .a_row = p->step,
                                             .a_inner = 1,
                                             .a_panel = p->gemm->rows * p->step,
                                             .padded = true,
                                             .b = p->in_panels,
                                             .c = (float *)p->args->dquery.view.data + t->row * p->in,
                                             .c_row = p->in,
                                             .add = p->args->dquery.add});
}

/* A group of heads of one sequence. */
static void backward_heads(const struct heed_mha_short_plan *p, const struct task *t, struct gradients *d,
                           int64_t sequence, int64_t head) {
    const struct heed_short_plan *attention = &p->attention;
    struct lanes_backward *a = &d->lanes;
    struct lane_rows *const x[] = {&a->q, &a->k, &a->v}, *const dx[] = {&a->dq, &a->dk, &a->dv};
    struct group g;
    group_open_heads(&g, attention, t->sequence + sequence, head);
    group_look(&g);
    for (int i = 0; i < HEED_MHA_INPUTS; i++) {
        *x[i] = heads_of(p, t->projected, i, sequence, head);
        if (p->wants[i]) *dx[i] = heads_of(p, d->projected, i, sequence, head);
        group_check(&g, x[i], attention->keys, p->head_width[i]);
    }
    if (d->outputs) {
        a->dy = joined_heads_of(p, d->outputs, sequence, head);
        group_check(&g, &a->dy, attention->queries, attention->value_width);
    }
    if (a->dweights) group_load(&g, &p->args->attention.dweights, a->dweights);
    lanes_backward(&g, a);
}

void HEED_VECTOR_NAME(heed_mha_short_backward)(const struct heed_mha_short_plan *p, int64_t index,
                                               int worker) {
    const struct task t = task_of(p, index, worker);
    struct gradients d = gradients_of(p, worker);
    if (d.outputs) backward_out(p, &t, d.outputs);
    for (int64_t s = 0; s < t.sequences; s++) {
        for (int64_t head = 0; head < p->attention.heads; head += HEED_LANES)
            backward_heads(p, &t, &d, s, head);
    }
    if (heed_has(&p->args->dquery.view)) backward_in(p, &t, d.projected);
    if (p->slab.dprojected.at)
        rows_to_panels(p, d.projected, p->step, t.rows, &p->slab.dprojected, t.row - p->slab.row);
}
