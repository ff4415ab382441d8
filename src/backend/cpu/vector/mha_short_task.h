/* The rows of a task of multi-head attention over many short sequences, and a group of heads in them. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_MHA_SHORT_TASK_H
#define HEED_SRC_BACKEND_CPU_VECTOR_MHA_SHORT_TASK_H

#include "backend/cpu/mha_short.h"
#include "backend/cpu/vector/attention_lanes.h"

struct task {
    int64_t row, rows, sequence, sequences;
    float *projected;
};

static inline struct task task_of(const struct heed_mha_short_plan *p, int64_t index, int worker) {
    const int64_t batch = p->args->query.size[0], place = p->saves ? index : worker;
    struct task t = {.sequence = index * p->sequences,
                     .sequences = p->sequences,
                     .projected = p->projected + place * p->room * p->step};
    if (batch - t.sequence < t.sequences) t.sequences = batch - t.sequence;
    t.row = t.sequence * p->attention.queries;
    t.rows = t.sequences * p->attention.queries;
    return t;
}

/* Queries, keys or values of HEED_LANES heads of one of the task's sequences, in rows like the projected
 * ones. */
static inline struct lane_rows heads_of(const struct heed_mha_short_plan *p, float *projected, int input,
                                        int64_t sequence, int64_t head) {
    float *row = projected + sequence * p->attention.queries * p->step;
    return (struct lane_rows){row + p->first[input] + head * p->head_width[input], p->step};
}

/* The same of attention's output. */
static inline struct lane_rows joined_heads_of(const struct heed_mha_short_plan *p, float *outputs,
                                               int64_t sequence, int64_t head) {
    float *row = outputs + sequence * p->attention.queries * p->joined;
    return (struct lane_rows){row + head * p->attention.value_width, p->joined};
}

/* `rows` rows of x, of which the first is `row` of all, into panels. */
static inline void rows_to_panels(const struct heed_mha_short_plan *p, const float *x, int64_t x_row,
                                  int64_t rows, const struct heed_mha_panels *panels, int64_t row) {
    int64_t depth;
    const int64_t slice = heed_mha_slice(panels, row, &depth), width = p->gemm->columns;
    for (int64_t c = 0; c < panels->columns; c += width) {
        p->gemm->pack_b(x + c, 1, x_row, x_row - c < width ? x_row - c : width, rows,
                        heed_mha_panel(panels, slice, depth, c) + (row - slice) * width);
    }
}

#endif
