/* The delta task of tiled attention's backward: one batch, one head, one chunk of queries.
 *
 * delta = Σ over keys of probability · (gradient of the probability). With a gradient of the output alone it
 * is Σ dy·y (Dao et al. 2022, "FlashAttention", section B.2; dropout included, since y is made after it); a
 * gradient of the weights adds Σ weight · its gradient, for which the weights are made once more. A gradient
 * of the logarithm of the sum is that of every score times its probability, so it is subtracted; and the
 * sink, whose probability multiplies no value, has the gradient −probability · delta. */
#include "backend/cpu/vector/attention_dropout.h"
#include "backend/cpu/vector/attention_recompute.h"
#include "backend/cpu/vector/attention_vectors.h"

struct task {
    const struct heed_attention_plan *plan;
    int64_t batch, head, kv_head, q0, queries;
    float *keys, *s, *aux, *delta;
    struct keep keep;
};

static float dot(const float *a, const float *b, int64_t n) {
    vf sum = {0};
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) sum = vf_fma(vf_load(a + j), vf_load(b + j), sum);
    if (j < n) sum = vf_fma(vf_load_part(a + j, n - j), vf_load_part(b + j, n - j), sum);
    return vf_sum(sum);
}

static void of_output(const struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *y = &p->args->y, *dy = &p->args->dy;
    for (int64_t r = 0; r < t->queries; r++) {
        const float *a = (const float *)y->data + heed_attention_offset(y, t->batch, t->head, t->q0 + r);
        const float *b = (const float *)dy->data + heed_attention_offset(dy, t->batch, t->head, t->q0 + r);
        t->delta[r] = dot(a, b, p->value_width);
    }
}

/* Adds Σ weight · gradient over one tile's keys. */
static void add_tile(struct task *t, const struct tile *tile) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *v = &p->args->dweights;
    const struct heed_box *box = &tile->box;
    const uint64_t *kept = p->drops ? keep_bits(&t->keep, p, box) : NULL;
    const float factor = recompute_scores(tile, p, t->keys, t->s, t->aux);
    for (int r = 0; r < box->nq; r++) {
        const struct row_state state = row_state_of(p, box, r);
        const float *g =
            (const float *)v->data + heed_attention_offset(v, t->batch, t->head, box->q0 + r) + box->k0;
        vf sum = {0};
        for (int j = 0; j < TILE_VECTORS && j * HEED_LANES < box->nk; j++) {
            vm seen;
            vf weight = recompute_probability(
                &state, vf_load(t->s + r * TILE_ROW + j * HEED_LANES) * vf_set(factor), &seen);
            if (kept) weight *= keep_factor(kept[r], j, vf_set(p->keep_scale));
            const int n = box->nk - j * HEED_LANES < HEED_LANES ? box->nk - j * HEED_LANES : HEED_LANES;
            sum += vf_where(seen, weight * vf_load_part(g + j * HEED_LANES, n));
        }
        t->delta[box->q0 - t->q0 + r] += vf_sum(sum);
    }
}

static void of_weights(struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *k = &p->args->k;
    const struct range sight = tiles_in_sight(p, t->batch, t->head, t->q0, t->queries, 0, p->keys);
    struct tile tile;
    for (int64_t i = sight.first; i < sight.end; i++) {
        const int64_t k0 = i * HEED_TILE_KEYS, keys = heed_cpu_part(p->keys, HEED_TILE_KEYS, i);
        pack_transposed((const float *)k->data + heed_attention_offset(k, t->batch, t->kv_head, k0),
                        k->stride[2], keys, p->width, t->keys);
        for (int64_t q = 0; q < t->queries; q += HEED_TILE_QUERIES) {
            const int64_t queries = heed_cpu_part(t->queries, HEED_TILE_QUERIES, q / HEED_TILE_QUERIES);
            tile.box = (struct heed_box){t->batch,   t->head, t->q0 + q,    k0,
                                         p->queries, p->keys, (int)queries, (int)keys};
            if (tile_look(&tile, p->args)) add_tile(t, &tile);
        }
    }
}

static void of_lse(const struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    const float *dlse = (const float *)p->args->dlse.data + heed_attention_at(p, t->batch, t->head, t->q0);
    for (int64_t r = 0; r < t->queries; r++) t->delta[r] -= dlse[r];
}

/* Queries that see nothing have a reciprocal of 0 and leave the sink alone. */
static void of_sink(const struct task *t, int64_t chunk) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *v = &p->args->sink;
    const float sink = *((const float *)v->data + heed_attention_offset(v, t->batch, t->head, 0));
    const int64_t first = heed_attention_at(p, t->batch, t->head, t->q0);
    double sum = 0;
    for (int64_t r = 0; r < t->queries; r++) {
        const float reciprocal = p->reciprocal[first + r];
        if (reciprocal == 0 || sink == -INFINITY) continue;
        sum -= (double)expf(sink - p->maximum[first + r]) * (double)reciprocal * (double)t->delta[r];
    }
    *heed_attention_sum_at(&p->sum[HEED_SUM_OF_SINK], chunk, t->batch, t->head) = (float)sum;
}

void HEED_VECTOR_NAME(heed_attention_delta_task)(const struct heed_attention_plan *p,
                                                 const struct heed_attention_task *task, int worker) {
    struct task t = {.plan = p,
                     .batch = task->batch,
                     .head = task->head,
                     .kv_head = task->head / p->group,
                     .q0 = task->part * p->query_chunk,
                     .queries = heed_cpu_part(p->queries, p->query_chunk, task->part),
                     .keys = heed_attention_area(p, worker),
                     .keep = {.pair = -1}};
    t.s = t.keys + p->key_block * p->width;
    t.aux = heed_attention_aux(p, worker);
    t.delta = p->delta + heed_attention_at(p, t.batch, t.head, t.q0);
    if (heed_has(&p->args->dy)) {
        of_output(&t);
    } else {
        memset(t.delta, 0, (size_t)t.queries * sizeof(float));
    }
    if (heed_has(&p->args->dweights)) of_weights(&t);
    if (heed_has(&p->args->dlse)) of_lse(&t);
    if (heed_has(&p->args->dsink.view)) of_sink(&t, task->part);
}

const struct heed_attention_vectors HEED_VECTOR_NAME(heed_attention_vectors) = {
    HEED_VECTOR_NAME(heed_attention_forward_task), HEED_VECTOR_NAME(heed_attention_chosen_task),
    HEED_VECTOR_NAME(heed_attention_delta_task), HEED_VECTOR_NAME(heed_attention_backward_task)};
