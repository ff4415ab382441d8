/* Backward of attention over many short sequences. */
#include "backend/cpu/vector/attention_lanes_backward.h"
#include "backend/cpu/vector/attention_short_vectors.h"

static struct lanes_backward area_of(const struct heed_short_plan *p, int worker) {
    const struct heed_attention_args *args = p->args;
    float *at = p->workers + worker * p->worker_floats;
    struct lanes_backward a = {.dweights = NULL};
    a.q = lane_rows_take(&at, p->queries, p->width);
    a.k = lane_rows_take(&at, p->keys, p->width);
    a.v = lane_rows_take(&at, p->keys, p->value_width);
    if (heed_has(&args->dy)) a.dy = lane_rows_take(&at, p->queries, p->value_width);
    if (heed_has(&args->dq.view)) a.dq = lane_rows_take(&at, p->queries, p->width);
    if (heed_has(&args->dk.view)) a.dk = lane_rows_take(&at, p->keys, p->width);
    if (heed_has(&args->dv.view)) a.dv = lane_rows_take(&at, p->keys, p->value_width);
    a.weights = lane_rows_take(&at, p->queries, p->keys).at;
    a.ds = lane_rows_take(&at, p->queries, p->keys).at;
    if (heed_has(&args->dweights)) a.dweights = at;
    return a;
}

static void backward_group(struct group *g, const struct lanes_backward *a) {
    const struct heed_attention_args *args = g->plan->args;
    group_look(g);
    group_load(g, &args->q, a->q.at);
    group_load(g, &args->k, a->k.at);
    group_load(g, &args->v, a->v.at);
    if (a->dy.at) group_load(g, &args->dy, a->dy.at);
    if (a->dweights) group_load(g, &args->dweights, a->dweights);
    lanes_backward(g, a);
    if (a->dq.at) group_store(g, &args->dq.view, args->dq.add, a->dq.at);
    if (a->dk.at) group_store(g, &args->dk.view, args->dk.add, a->dk.at);
    if (a->dv.at) group_store(g, &args->dv.view, args->dv.add, a->dv.at);
}

void HEED_VECTOR_NAME(heed_short_backward_task)(const struct heed_short_plan *p, int64_t task, int worker) {
    const struct lanes_backward a = area_of(p, worker);
    for (int64_t i = task * p->groups_per_task; i < (task + 1) * p->groups_per_task; i++) {
        struct group g;
        if (i * HEED_LANES >= p->pairs) return;
        group_open(&g, p, i);
        backward_group(&g, &a);
    }
}
