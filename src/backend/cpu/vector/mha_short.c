/* Forward of multi-head attention over many short sequences: all of a few sequences at a time. */
#include "backend/cpu/vector/attention_lanes_forward.h"
#include "backend/cpu/vector/mha_short_task.h"
#include "backend/cpu/vector/mha_short_vectors.h"

/* C begins with the biases, to which the products are added. */
static void start_with(const float *biases, int64_t columns, float *c, int64_t c_row, int64_t rows) {
    for (int64_t i = 0; biases && i < rows; i++) {
        memcpy(c + i * c_row, biases, (size_t)columns * sizeof(float));
    }
}

static void project(const struct heed_mha_short_plan *p, const struct task *t) {
    const int64_t columns = p->first[HEED_MHA_INPUTS];
    start_with(p->biases, columns, t->projected, p->step, t->rows);
    p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                             .columns = columns,
                                             .depth = p->in,
                                             .a = (const float *)p->args->query.data + t->row * p->in,
                                             .a_row = p->in,
                                             .a_inner = 1,
                                             .a_panel = p->gemm->rows * p->in,
                                             .b = p->in_panels,
                                             .c = t->projected,
                                             .c_row = p->step,
                                             .add = p->biases != NULL});
}

static void project_out(const struct heed_mha_short_plan *p, const struct task *t, const float *outputs) {
    float *y = (float *)p->args->y.data + t->row * p->out;
    start_with(p->args->bo.data, p->out, y, p->out, t->rows);
    p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                             .columns = p->out,
                                             .depth = p->joined,
                                             .a = outputs,
                                             .a_row = p->joined,
                                             .a_inner = 1,
                                             .a_panel = p->gemm->rows * p->joined,
                                             .padded = true,
                                             .b = p->out_panels,
                                             .c = y,
                                             .c_row = p->out,
                                             .add = heed_has(&p->args->bo)});
}

/* What a worker has for attention: areas beside the projected rows. */
struct attention {
    float *outputs; /* rows of `joined` */
    struct lanes_forward lanes;
};

/* A group of heads of one sequence. */
static void attend(const struct heed_mha_short_plan *p, const struct task *t, struct attention *a,
                   int64_t sequence, int64_t head) {
    const struct heed_short_plan *attention = &p->attention;
    struct lanes_forward *area = &a->lanes;
    struct group g;
    area->q = heads_of(p, t->projected, HEED_MHA_QUERY, sequence, head);
    area->k = heads_of(p, t->projected, HEED_MHA_KEY, sequence, head);
    area->v = heads_of(p, t->projected, HEED_MHA_VALUE, sequence, head);
    area->y = joined_heads_of(p, a->outputs, sequence, head);
    group_open_heads(&g, attention, t->sequence + sequence, head);
    group_look(&g);
    group_check(&g, &area->v, attention->keys, attention->value_width);
    lanes_forward(&g, area);
    if (area->weights) group_store(&g, &attention->args->weights, false, area->weights);
}

static void forward(const struct heed_mha_short_plan *p, int64_t index, int worker) {
    const struct task t = task_of(p, index, worker);
    struct attention a = {.outputs = p->outputs + worker * p->room * p->joined,
                          .lanes.s = p->workers + worker * p->worker_floats};
    if (heed_has(&p->args->attention.weights))
        a.lanes.weights = a.lanes.s + LANES_PAIR * p->attention.keys * HEED_LANES;
    project(p, &t);
    for (int64_t s = 0; s < t.sequences; s++) {
        for (int64_t head = 0; head < p->attention.heads; head += HEED_LANES) attend(p, &t, &a, s, head);
    }
    if (p->saves) rows_to_panels(p, a.outputs, p->joined, t.rows, &p->kept, t.row);
    project_out(p, &t, a.outputs);
}

const struct heed_mha_vectors HEED_VECTOR_NAME(heed_mha_vectors) = {
    .lanes = HEED_LANES,
    .pack = HEED_VECTOR_NAME(heed_mha_short_pack),
    .forward = forward,
    .pack_backward = HEED_VECTOR_NAME(heed_mha_short_pack_backward),
    .backward = HEED_VECTOR_NAME(heed_mha_short_backward),
    .weights = HEED_VECTOR_NAME(heed_mha_short_weights)};
