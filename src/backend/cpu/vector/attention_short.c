/* Forward of attention over many short sequences. */
#include "backend/cpu/vector/attention_lanes_forward.h"
#include "backend/cpu/vector/attention_short_vectors.h"

static struct lanes_forward area_of(const struct heed_short_plan *p, int worker) {
    float *at = p->workers + worker * p->worker_floats;
    struct lanes_forward a = {.weights = NULL};
    a.q = lane_rows_take(&at, p->queries, p->width);
    a.k = lane_rows_take(&at, p->keys, p->width);
    a.v = lane_rows_take(&at, p->keys, p->value_width);
    a.y = lane_rows_take(&at, p->queries, p->value_width);
    a.s = lane_rows_take(&at, p->queries < LANES_PAIR ? p->queries : LANES_PAIR, p->keys).at;
    if (heed_has(&p->args->weights)) a.weights = at;
    return a;
}

void HEED_VECTOR_NAME(heed_short_forward_task)(const struct heed_short_plan *p, int64_t task, int worker) {
    const struct lanes_forward a = area_of(p, worker);
    for (int64_t i = task * p->groups_per_task; i < (task + 1) * p->groups_per_task; i++) {
        struct group g;
        if (i * HEED_LANES >= p->pairs) return;
        group_open(&g, p, i);
        group_look(&g);
        group_load(&g, &p->args->q, a.q.at);
        group_load(&g, &p->args->k, a.k.at);
        group_load(&g, &p->args->v, a.v.at);
        lanes_forward(&g, &a);
        group_store(&g, &p->args->y, false, a.y.at);
        if (a.weights) group_store(&g, &p->args->weights, false, a.weights);
    }
}

const struct heed_short_vectors HEED_VECTOR_NAME(heed_short_vectors) = {
    HEED_LANES, HEED_VECTOR_NAME(heed_short_forward_task), HEED_VECTOR_NAME(heed_short_backward_task)};
