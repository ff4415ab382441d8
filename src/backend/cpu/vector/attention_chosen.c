/* The task of chosen weights: one batch, one chosen head, the keys of one tile, all chosen queries.
 *
 * Runs after forward, whose maxima and sums it uses. The task owns its keys, so the sums over queries need no
 * folding. */
#include "backend/cpu/vector/attention_dropout.h"
#include "backend/cpu/vector/attention_recompute.h"
#include "backend/cpu/vector/attention_vectors.h"

struct task {
    const struct heed_attention_plan *plan;
    float *keys, *s, *aux;
    struct keep keep;
    int64_t row, queries; /* row: of batch and chosen head */
    float sum[HEED_TILE_KEYS];
};

/* How many chosen queries from the i-th on are neighbours, at most a tile of them. */
static int neighbours(const struct task *t, int64_t i) {
    const struct heed_view *list = &t->plan->args->query_list;
    const int64_t first = heed_attention_chosen_at(list, i);
    int n = 1;
    while (n < HEED_TILE_QUERIES && i + n < t->queries && heed_attention_chosen_at(list, i + n) == first + n)
        n++;
    return n;
}

/* The weights of a tile's row, into s. */
static void weigh(const struct task *t, const struct tile *tile, int r, float factor, const uint64_t *kept) {
    const struct heed_attention_plan *p = t->plan;
    const int64_t at = heed_attention_at(p, tile->box.batch, tile->box.head, tile->box.q0 + r);
    const struct row_state row = {vf_set(p->maximum[at]), vf_set(p->reciprocal[at]), {0}};
    float *s = t->s + r * TILE_ROW;
    for (int j = 0; j < TILE_VECTORS; j++) {
        const vf score = vf_load(s + j * HEED_LANES) * vf_set(factor);
        vm seen;
        vf w = recompute_probability(&row, score, &seen);
        if (p->args->normalizer != HEED_NORMALIZER_SOFTMAX) w = weight_alone(p->args->normalizer, score);
        if (kept) w *= keep_factor(kept[r], j, vf_set(p->keep_scale));
        vf_store(s + j * HEED_LANES, vf_where(seen, w));
    }
}

/* Hands row r of s to who asked; NULL: zeros. */
static void deliver(struct task *t, const struct heed_box *box, int64_t query, const float *s) {
    const struct heed_attention_args *a = t->plan->args;
    if (heed_has(&a->chosen)) {
        float *to = (float *)a->chosen.data + (t->row * t->queries + query) * box->keys + box->k0;
        for (int j = 0; j < box->nk; j++) to[j] = s ? s[j] : 0.0f;
    }
    for (int j = 0; s && j < box->nk; j++) t->sum[j] += s[j];
}

static void do_tile(struct task *t, struct tile *tile, int64_t query) {
    const struct heed_attention_plan *p = t->plan;
    const bool seen = tile_look(tile, p->args);
    const uint64_t *kept = seen && p->drops ? keep_bits(&t->keep, p, &tile->box) : NULL;
    const float factor = seen ? recompute_scores(tile, p, t->keys, t->s, t->aux) : 0.0f;
    for (int r = 0; r < tile->box.nq; r++) {
        if (seen) weigh(t, tile, r, factor, kept);
        deliver(t, &tile->box, query + r, seen ? t->s + r * TILE_ROW : NULL);
    }
}

void HEED_VECTOR_NAME(heed_attention_chosen_task)(const struct heed_attention_plan *p,
                                                  const struct heed_attention_task *task, int worker) {
    const struct heed_attention_args *a = p->args;
    const int64_t heads = heed_attention_chosen_count(&a->head_list, p->heads);
    struct task t = {.plan = p,
                     .keys = heed_attention_area(p, worker),
                     .aux = heed_attention_aux(p, worker),
                     .keep = {.pair = -1},
                     .row = task->batch * heads + task->head,
                     .queries = heed_attention_chosen_count(&a->query_list, p->queries)};
    t.s = t.keys + p->key_block * p->width;
    struct tile tile = {.box = {.batch = task->batch,
                                .head = heed_attention_chosen_at(&a->head_list, task->head),
                                .k0 = task->part * HEED_TILE_KEYS,
                                .queries = p->queries,
                                .keys = p->keys,
                                .nk = (int)heed_cpu_part(p->keys, HEED_TILE_KEYS, task->part)}};
    pack_transposed((const float *)a->k.data +
                        heed_attention_offset(&a->k, tile.box.batch, tile.box.head / p->group, tile.box.k0),
                    a->k.stride[2], tile.box.nk, p->width, t.keys);
    for (int64_t i = 0; i < t.queries; i += tile.box.nq) {
        tile.box.q0 = heed_attention_chosen_at(&a->query_list, i);
        tile.box.nq = neighbours(&t, i);
        t.keep.pair = -1; /* what was asked for last may have had fewer rows */
        do_tile(&t, &tile, i);
    }
    if (!heed_has(&a->column_sums)) return;
    memcpy((float *)a->column_sums.data + t.row * p->keys + tile.box.k0, t.sum,
           (size_t)tile.box.nk * sizeof(float));
}
