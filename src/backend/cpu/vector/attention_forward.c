/* The forward task of tiled attention: one batch, one head, one chunk of queries.
 *
 * Keys and values are packed a block at a time; the chunk's queries pass over each block in tiles. A query's
 * state is its base, its running sum (one partial sum per lane) and its running output; when a score lies far
 * above the base, that moves, and sum and output are rescaled (Milakov and Gimelshein 2018, "Online
 * normalizer calculation for softmax"). */
#include "backend/cpu/vector/attention_dropout.h"
#include "backend/cpu/vector/attention_recompute.h"
#include "backend/cpu/vector/attention_vectors.h"

enum { MOST_TILES = 512 / HEED_TILE_KEYS };

struct task {
    const struct heed_attention_plan *plan;
    int64_t batch, head, kv_head, q0, queries;
    /* the worker's area */
    float *keys, *values, *output, *sum, *base, *s, *aux;
    /* the block that is packed */
    int64_t k0, block_keys;
    bool used[MOST_TILES], finite[MOST_TILES];
    struct keep keep;
    int64_t tiles, skipped;
};

static void task_open(struct task *t, const struct heed_attention_plan *p,
                      const struct heed_attention_task *task, int worker) {
    *t =
        (struct task){.plan = p, .batch = task->batch, .head = task->head, .q0 = task->part * p->query_chunk};
    t->kv_head = t->head / p->group;
    t->queries = heed_cpu_part(p->queries, p->query_chunk, task->part);
    t->keep.pair = -1;
    t->keys = heed_attention_area(p, worker);
    t->values = t->keys + p->key_block * p->width;
    t->output = t->values + p->key_block * p->value_row;
    t->sum = t->output + p->query_chunk * p->value_row;
    t->base = t->sum + p->query_chunk * 16;
    t->s = t->base + p->query_chunk;
    t->aux = heed_attention_aux(p, worker);
    memset(t->output, 0, (size_t)(t->queries * p->value_row) * sizeof(float));
    memset(t->sum, 0, (size_t)(t->queries * 16) * sizeof(float));
    for (int64_t r = 0; r < t->queries; r++) t->base[r] = -INFINITY;
}

/* ---- packing ---- */

static void pack_block(struct task *t, int64_t k0) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_attention_args *a = p->args;
    t->k0 = k0;
    t->block_keys = heed_cpu_part(p->keys, p->key_block, k0 / p->key_block);
    for (int64_t i = 0; i * HEED_TILE_KEYS < t->block_keys; i++) {
        const int64_t key = k0 + i * HEED_TILE_KEYS, keys = heed_cpu_part(t->block_keys, HEED_TILE_KEYS, i);
        const struct heed_box box = {t->batch,   t->head, t->q0,           key,
                                     p->queries, p->keys, (int)t->queries, (int)keys};
        t->used[i] = heed_mask_cover(a->mask, &box) != HEED_COVER_NONE;
        if (!t->used[i]) continue;
        pack_transposed((const float *)a->k.data + heed_attention_offset(&a->k, t->batch, t->kv_head, key),
                        a->k.stride[2], keys, p->width, t->keys + i * HEED_TILE_KEYS * p->width);
        t->finite[i] =
            pack_rows((const float *)a->v.data + heed_attention_offset(&a->v, t->batch, t->kv_head, key),
                      a->v.stride[2], keys, p->value_width, t->values + i * HEED_TILE_KEYS * p->value_row,
                      p->value_row);
    }
}

/* ---- softmax ---- */

static void rescale_row(float *sum, float *output, int64_t width, float factor) {
    const vf f = vf_set(factor);
    vf_store(sum, vf_load(sum) * f);
    for (int64_t j = 0; j < width; j += HEED_LANES) vf_store(output + j, vf_load(output + j) * f);
}

/* How far a score may lie above a row's base before the row is rescaled. e^score is then at most e² times
 * what it would be with the maximum as base, and its argument is rounded no worse than numbers near 2 are;
 * but after a row's first tile almost none moves, so the branch is foreseen. */
#define BASE_SLACK 2.0f

static void move_base(float *base, float *sum, float *output, int64_t width, vf found) {
    const float larger = vf_largest(found);
    const vf factor = vf_exp(vf_set(*base) - vf_set(larger)); /* 0 where nothing was seen before */
    rescale_row(sum, output, width, factor[0]);
    *base = larger;
}

/* Scores to unnormalised probabilities, row by row. r counts from the tile's first query. */
static inline void softmax_row(const struct task *t, int64_t query, vf factor, float *s, const uint64_t *kept,
                               uint64_t *seen) {
    const struct heed_attention_plan *p = t->plan;
    float *row_base = t->base + query, *sum = t->sum + query * 16;
    vf x[TILE_VECTORS], most = vf_set(*row_base);
    for (int j = 0; j < TILE_VECTORS; j++) {
        x[j] = vf_load(s + j * HEED_LANES) * factor;
        most = vf_max(x[j], most); /* NaN does not move the base; it comes back in the sum */
    }
    if (seen) *seen = row_seen(x);
    if (vm_any(vm_less(vf_set(*row_base + BASE_SLACK), most))) {
        move_base(row_base, sum, t->output + query * p->value_row, p->value_width, most);
    }
    const vf base = vf_set(*row_base == -INFINITY ? 0.0f : *row_base);
    vf total = vf_load(sum);
    for (int j = 0; j < TILE_VECTORS; j++) {
        vf e = vf_exp(x[j] - base);
        total += e;
        if (kept) e *= keep_factor(*kept, j, vf_set(1.0f));
        vf_store(s + j * HEED_LANES, e);
    }
    vf_store(sum, total);
}

static void weigh_row(const struct task *t, vf factor, float *s, const uint64_t *kept, uint64_t *seen) {
    const heed_normalizer normalizer = t->plan->args->normalizer;
    vf x[TILE_VECTORS];
    for (int j = 0; j < TILE_VECTORS; j++) x[j] = vf_load(s + j * HEED_LANES) * factor;
    if (seen) *seen = row_seen(x);
    for (int j = 0; j < TILE_VECTORS; j++) {
        vf w = weight_alone(normalizer, x[j]);
        if (kept) w *= keep_factor(*kept, j, vf_set(1.0f));
        vf_store(s + j * HEED_LANES, w);
    }
}

/* Weights are first the scores; they are normalised when the row's maximum and sum are known. */
static void keep_scores(const struct task *t, const struct tile *tile, float factor) {
    const struct heed_view *w = &t->plan->args->weights;
    for (int r = 0; r < tile->box.nq; r++) {
        float *to =
            (float *)w->data + heed_attention_offset(w, t->batch, t->head, tile->box.q0 + r) + tile->box.k0;
        const float *from = t->s + r * TILE_ROW;
        int j = 0;
        for (; j + HEED_LANES <= tile->box.nk; j += HEED_LANES)
            vf_store(to + j, vf_load(from + j) * vf_set(factor));
        if (j < tile->box.nk) vf_store_part(to + j, vf_load(from + j) * vf_set(factor), tile->box.nk - j);
    }
}

/* ---- tiles ---- */

static void do_tile(struct task *t, struct tile *tile, int64_t index) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_attention_args *a = p->args;
    const struct heed_box *box = &tile->box;
    const float *q = (const float *)a->q.data + heed_attention_offset(&a->q, t->batch, t->head, box->q0);
    const float *values = t->values + index * HEED_TILE_KEYS * p->value_row;
    const int64_t first = box->q0 - t->q0;
    uint64_t seen[HEED_TILE_QUERIES];
    tile_products(tile, q, a->q.stride[2], t->keys + index * HEED_TILE_KEYS * p->width, p->width, t->s);
    const float factor = tile_stages(tile, p, t->s, t->aux);
    if (heed_has(&a->weights)) keep_scores(t, tile, factor);
    const uint64_t *kept = p->drops ? keep_bits(&t->keep, p, box) : NULL;
    const bool finite = t->finite[index];
    for (int r = 0; r < box->nq; r++) {
        const uint64_t *kept_row = kept ? kept + r : NULL;
        uint64_t *seen_row = finite ? NULL : seen + r;
        if (a->normalizer == HEED_NORMALIZER_SOFTMAX) {
            softmax_row(t, first + r, vf_set(factor), t->s + r * TILE_ROW, kept_row, seen_row);
        } else {
            weigh_row(t, vf_set(factor), t->s + r * TILE_ROW, kept_row, seen_row);
        }
    }
    if (finite) {
        tile_by_query(tile, t->s, values, p->value_row, p->value_width, t->output + first * p->value_row);
    } else {
        exact_by_query(tile, seen, t->s, values, p->value_row, p->value_width,
                       t->output + first * p->value_row);
    }
}

static int64_t tiles_of(int64_t keys) {
    return (keys + HEED_TILE_KEYS - 1) / HEED_TILE_KEYS;
}

static void skip_block(struct task *t, int64_t k0) {
    const struct heed_attention_plan *p = t->plan;
    const int64_t rows = (t->queries + HEED_TILE_QUERIES - 1) / HEED_TILE_QUERIES;
    t->skipped += rows * tiles_of(heed_cpu_part(p->keys, p->key_block, k0 / p->key_block));
}

static void do_block(struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    struct tile tile;
    for (int64_t q = 0; q < t->queries; q += HEED_TILE_QUERIES) {
        const int64_t queries = heed_cpu_part(t->queries, HEED_TILE_QUERIES, q / HEED_TILE_QUERIES);
        const struct range sight =
            tiles_in_sight(p, t->batch, t->head, t->q0 + q, queries, t->k0, t->block_keys);
        t->skipped += tiles_of(t->block_keys) - (sight.end - sight.first);
        for (int64_t i = sight.first; i < sight.end; i++) {
            const int64_t keys = heed_cpu_part(t->block_keys, HEED_TILE_KEYS, i);
            tile.box = (struct heed_box){.batch = t->batch,
                                         .head = t->head,
                                         .q0 = t->q0 + q,
                                         .k0 = t->k0 + i * HEED_TILE_KEYS,
                                         .queries = p->queries,
                                         .keys = p->keys,
                                         .nq = (int)queries,
                                         .nk = (int)keys};
            if (t->used[i] && tile_look(&tile, p->args)) {
                do_tile(t, &tile, i);
                t->tiles++;
            } else {
                t->skipped++;
            }
        }
    }
}

/* ---- the end ---- */

static void finish_weights(struct task *t, int64_t query, float base, float reciprocal) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *v = &p->args->weights;
    float *w = (float *)v->data + heed_attention_offset(v, t->batch, t->head, query);
    uint64_t bits[2];
    for (int64_t k = 0; k < p->keys; k += HEED_LANES) {
        const int64_t n = p->keys - k < HEED_LANES ? p->keys - k : HEED_LANES;
        const vf s = vf_load_part(w + k, n);
        vf e = p->args->normalizer == HEED_NORMALIZER_SOFTMAX ? vf_exp(s - vf_set(base)) * vf_set(reciprocal)
                                                              : weight_alone(p->args->normalizer, s);
        if (p->drops) {
            if (k % 128 == 0) {
                keep_line(p, heed_attention_row(p, t->batch, t->head), query, k / 128, &bits[0], &bits[1]);
            }
            e *= keep_factor(bits[k / 64 % 2], (int)(k % 64 / HEED_LANES), vf_set(p->keep_scale));
        }
        vf_store_part(w + k, vf_where(vm_not(vm_equal(s, vf_set(-INFINITY))), e), n);
    }
}

/* What is known of a row at its end. With a maximum of −∞ nothing was seen. */
struct statistics {
    float base, reciprocal,
        rescale; /* rescale: what the output so far is multiplied with beside reciprocal */
    float lse;
};

/* Joins the sink, e^sink more in the sum of e^score, to the rows that see something. */
static struct statistics statistics_of(const struct task *t, int64_t r) {
    const struct heed_view *v = &t->plan->args->sink;
    float sum = vf_sum(vf_load(t->sum + r * 16));
    if (t->plan->args->normalizer != HEED_NORMALIZER_SOFTMAX) return (struct statistics){0, 1, 1, 0};
    if (sum == 0) return (struct statistics){0, 0, 1, -INFINITY};
    struct statistics end = {.base = t->base[r] == -INFINITY ? 0.0f : t->base[r], .rescale = 1};
    if (heed_has(v)) {
        const float sink = *((const float *)v->data + heed_attention_offset(v, t->batch, t->head, 0));
        const float found = end.base;
        if (!(sink <= end.base)) end.base = sink; /* NaN too, which makes the row NaN */
        end.rescale = expf(found - end.base);
        sum = sum * end.rescale + (sink == -INFINITY ? 0.0f : expf(sink - end.base));
    }
    end.reciprocal = 1.0f / sum;
    end.lse = end.base + logf(sum);
    return end;
}

static void finish_row(struct task *t, int64_t r) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *y = &p->args->y;
    const int64_t query = t->q0 + r, at = heed_attention_at(p, t->batch, t->head, query);
    const struct statistics end = statistics_of(t, r);
    if (p->maximum) {
        p->maximum[at] = end.base;
        p->reciprocal[at] = end.reciprocal;
    }
    if (heed_has(&p->args->lse)) ((float *)p->args->lse.data)[at] = end.lse;
    const vf factor = vf_set(end.reciprocal * end.rescale * p->keep_scale);
    float *to = (float *)y->data + heed_attention_offset(y, t->batch, t->head, query);
    const float *from = t->output + r * p->value_row;
    int64_t j = 0;
    for (; j + HEED_LANES <= p->value_width; j += HEED_LANES) vf_store(to + j, vf_load(from + j) * factor);
    if (j < p->value_width) vf_store_part(to + j, vf_load(from + j) * factor, p->value_width - j);
    if (heed_has(&p->args->weights)) finish_weights(t, query, end.base, end.reciprocal);
}

static void clear_weights(const struct task *t) {
    const struct heed_view *v = &t->plan->args->weights;
    float *w = (float *)v->data + heed_attention_offset(v, t->batch, t->head, t->q0);
    for (int64_t i = 0; i < t->queries * t->plan->keys; i++) w[i] = -INFINITY;
}

void HEED_VECTOR_NAME(heed_attention_forward_task)(const struct heed_attention_plan *p,
                                                   const struct heed_attention_task *task, int worker) {
    struct task t;
    task_open(&t, p, task, worker);
    if (heed_has(&p->args->weights)) clear_weights(&t);
    const struct range sight = tiles_in_sight(p, t.batch, t.head, t.q0, t.queries, 0, p->keys);
    for (int64_t k = 0; k < p->keys; k += p->key_block) {
        if (k / HEED_TILE_KEYS >= sight.end || (k + p->key_block) / HEED_TILE_KEYS <= sight.first) {
            skip_block(&t, k);
            continue;
        }
        pack_block(&t, k);
        do_block(&t);
    }
    for (int64_t r = 0; r < t.queries; r++) finish_row(&t, r);
    atomic_fetch_add_explicit(&p->counts->tiles, t.tiles, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->counts->skipped, t.skipped, memory_order_relaxed);
}
