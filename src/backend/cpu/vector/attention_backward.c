/* The backward task of tiled attention: blocks of keys of one batch and key/value head, against all queries
 * that see them, of every query head of the group.
 *
 * With p the probabilities, w = dropout · p the weights, dw = dy·vᵀ + dweights and ds = p · (dropout · dw −
 * delta), or p'(s) · dropout · dw of another normaliser: dv = wᵀ·dy; ds goes through the stages in reverse,
 * each taking the gradients of its tensors from it; then dk = scale · dsᵀ·q, dq = scale · ds·k. dk and dv of
 * a block stay in the worker's area until all queries have passed; dq of a tile of queries is added to its
 * strip once per block. */
#include "backend/cpu/vector/attention_dropout.h"
#include "backend/cpu/vector/attention_gradients.h"
#include "backend/cpu/vector/attention_recompute.h"
#include "backend/cpu/vector/attention_vectors.h"

enum { MOST_TILES = 512 / HEED_TILE_KEYS };

struct task {
    const struct heed_attention_plan *plan;
    bool wants_dq, wants_dk, wants_dv, wants_ds;
    int64_t batch, kv_head, head, strip;
    /* the worker's area: of the block of keys */
    float *keys_t, *keys, *values_t, *dk, *dv;
    /* of the tile of queries */
    float *q, *dy, *dq;
    /* of the tile of scores: weights, then their gradient and that of scores; what stages keep */
    float *s, *g, *aux;
    int64_t k0, block_keys;
    bool used[MOST_TILES], keys_finite[MOST_TILES], q_finite, dy_finite;
    struct keep keep;
    int64_t tiles, skipped;
};

static void task_open(struct task *t, const struct heed_attention_plan *p, int worker) {
    const struct heed_attention_args *a = p->args;
    *t = (struct task){.plan = p, .keep = {.pair = -1}};
    t->wants_dq = heed_has(&a->dq.view);
    t->wants_dk = heed_has(&a->dk.view);
    t->wants_dv = heed_has(&a->dv.view);
    t->wants_ds = t->wants_dq || t->wants_dk;
    for (int i = 0; i < HEED_SUM_OF_SINK; i++) t->wants_ds = t->wants_ds || p->sum[i].scope != HEED_SUM_NONE;
    t->keys_t = heed_attention_area(p, worker);
    t->keys = t->keys_t + p->key_block * p->width;
    t->values_t = t->keys + p->key_block * p->width_row;
    t->dk = t->values_t + p->key_block * p->value_width;
    t->dv = t->dk + p->key_block * p->width_row;
    t->q = t->dv + p->key_block * p->value_row;
    t->dy = t->q + HEED_TILE_QUERIES * p->width_row;
    t->dq = t->dy + HEED_TILE_QUERIES * p->value_row;
    t->s = t->dq + HEED_TILE_QUERIES * p->width_row;
    t->g = t->s + HEED_TILE_QUERIES * HEED_TILE_KEYS;
    t->aux = heed_attention_aux(p, worker);
}

/* ---- packing ---- */

static void pack_block(struct task *t, int64_t block) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *k = &p->args->k, *v = &p->args->v;
    t->k0 = block * p->key_block;
    t->block_keys = heed_cpu_part(p->keys, p->key_block, block);
    for (int64_t i = 0; i * HEED_TILE_KEYS < t->block_keys; i++) {
        const int64_t key = t->k0 + i * HEED_TILE_KEYS,
                      count = heed_cpu_part(t->block_keys, HEED_TILE_KEYS, i);
        const float *keys = (const float *)k->data + heed_attention_offset(k, t->batch, t->kv_head, key);
        const float *values = (const float *)v->data + heed_attention_offset(v, t->batch, t->kv_head, key);
        pack_transposed(keys, k->stride[2], count, p->width, t->keys_t + i * HEED_TILE_KEYS * p->width);
        if (t->wants_dq) {
            t->keys_finite[i] = pack_rows(keys, k->stride[2], count, p->width,
                                          t->keys + i * HEED_TILE_KEYS * p->width_row, p->width_row);
        }
        if (t->wants_ds && heed_has(&p->args->dy)) {
            pack_transposed(values, v->stride[2], count, p->value_width,
                            t->values_t + i * HEED_TILE_KEYS * p->value_width);
        }
    }
    memset(t->dk, 0, (size_t)(t->block_keys * p->width_row) * sizeof(float));
    memset(t->dv, 0, (size_t)(t->block_keys * p->value_row) * sizeof(float));
}

static void pack_queries(struct task *t, int64_t q0, int64_t count) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *q = &p->args->q, *dy = &p->args->dy;
    if (t->wants_dk) {
        t->q_finite = pack_rows((const float *)q->data + heed_attention_offset(q, t->batch, t->head, q0),
                                q->stride[2], count, p->width, t->q, p->width_row);
    }
    if (heed_has(dy)) {
        t->dy_finite = pack_rows((const float *)dy->data + heed_attention_offset(dy, t->batch, t->head, q0),
                                 dy->stride[2], count, p->value_width, t->dy, p->value_row);
    }
    if (t->wants_dq) memset(t->dq, 0, (size_t)(count * p->width_row) * sizeof(float));
}

/* ---- one tile of scores ---- */

/* The weight before dropout and its slope: the gradient of a score is slope · (the weight's − delta). */
__attribute__((always_inline)) static inline vf
normalize(heed_normalizer normalizer, const struct row_state *row, vf score, vm *visible, vf *slope) {
    if (normalizer == HEED_NORMALIZER_SOFTMAX) return *slope = recompute_probability(row, score, visible);
    *visible = vm_not(vm_equal(score, vf_set(-INFINITY)));
    if (normalizer == HEED_NORMALIZER_SIGMOID) {
        vf rest;
        const vf weight = vf_sigmoid_pair(score, &rest);
        *slope = weight * rest;
        return weight;
    }
    *slope = vf_where(vm_less(vf_set(0.0f), score), vf_set(1.0f));
    return vf_relu(score);
}

/* s: scores to weights. g: gradient of the weights to that of the scores, 0 where masked. */
__attribute__((always_inline)) static inline void differentiate_as(heed_normalizer normalizer, struct task *t,
                                                                   const struct tile *tile, float factor,
                                                                   const uint64_t *kept, uint64_t *seen) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *dweights = &p->args->dweights;
    const bool has_dy = heed_has(&p->args->dy), has_dweights = heed_has(dweights);
    const struct heed_box *box = &tile->box;
    const vf keep_scale = vf_set(p->keep_scale);
    for (int r = 0; r < box->nq; r++) {
        struct row_state row = {0};
        if (normalizer == HEED_NORMALIZER_SOFTMAX) row = row_state_of(p, box, r);
        float *s = t->s + r * TILE_ROW, *g = t->g + r * TILE_ROW;
        const float *dw = NULL;
        if (has_dweights) {
            dw = (const float *)dweights->data +
                 heed_attention_offset(dweights, t->batch, t->head, box->q0 + r) + box->k0;
        }
        uint64_t word = 0;
        for (int j = 0; j < TILE_VECTORS; j++) {
            vm visible;
            vf slope, weight = normalize(normalizer, &row, vf_load(s + j * HEED_LANES) * vf_set(factor),
                                         &visible, &slope);
            vf gradient = has_dy ? vf_load(g + j * HEED_LANES) : (vf){0};
            const int rest = box->nk - j * HEED_LANES;
            if (dw && rest > 0)
                gradient += vf_load_part(dw + j * HEED_LANES, rest < HEED_LANES ? rest : HEED_LANES);
            if (kept) {
                const vf keep = keep_factor(kept[r], j, keep_scale);
                weight *= keep;
                gradient *= keep;
            }
            vf_store(s + j * HEED_LANES, vf_where(visible, weight));
            vf_store(g + j * HEED_LANES, vf_where(visible, slope * (gradient - row.delta)));
            word |= (uint64_t)(vm_bits(visible) & LANE_BITS) << (j * HEED_LANES % 64);
        }
        seen[r] = word;
    }
}

static void differentiate(struct task *t, const struct tile *tile, float factor, const uint64_t *kept,
                          uint64_t *seen) {
    switch (t->plan->args->normalizer) {
    case HEED_NORMALIZER_SOFTMAX:
        differentiate_as(HEED_NORMALIZER_SOFTMAX, t, tile, factor, kept, seen);
        break;
    case HEED_NORMALIZER_SIGMOID:
        differentiate_as(HEED_NORMALIZER_SIGMOID, t, tile, factor, kept, seen);
        break;
    case HEED_NORMALIZER_RELU:
        differentiate_as(HEED_NORMALIZER_RELU, t, tile, factor, kept, seen);
        break;
    }
}

/* ---- products of a tile ---- */

static void do_tile(struct task *t, const struct tile *tile, int64_t index) {
    const struct heed_attention_plan *p = t->plan;
    const int64_t first = index * HEED_TILE_KEYS;
    uint64_t seen[HEED_TILE_QUERIES];
    struct range queries[KEY_BLOCKS];
    const uint64_t *kept = p->drops ? keep_bits(&t->keep, p, &tile->box) : NULL;
    const bool has_dy = heed_has(&p->args->dy);
    const float factor = recompute_scores(tile, p, t->keys_t + first * p->width, t->s, t->aux);
    if (has_dy && t->wants_ds) {
        tile_products(tile, t->dy, p->value_row, t->values_t + first * p->value_width, p->value_width, t->g);
    }
    differentiate(t, tile, factor, kept, seen);
    for (int i = 0; i * PRODUCT_ROWS < tile->box.nk; i++) queries[i] = tile_queries(tile, i * PRODUCT_ROWS);
    if (t->wants_dv && has_dy) {
        float *dv = t->dv + first * p->value_row;
        if (t->dy_finite) {
            tile_by_key(tile, queries, t->s, t->dy, p->value_row, p->value_width, dv);
        } else {
            exact_by_key(tile, seen, t->s, t->dy, p->value_row, p->value_width, dv);
        }
    }
    if (!t->wants_ds) return;
    if (p->args->stages > 0) stages_backward(p, tile, seen, t->strip, t->g, t->aux);
    scale_tile(tile->box.nq, p->scale, t->g);
    if (t->wants_dk) {
        float *dk = t->dk + first * p->width_row;
        if (t->q_finite) {
            tile_by_key(tile, queries, t->g, t->q, p->width_row, p->width, dk);
        } else {
            exact_by_key(tile, seen, t->g, t->q, p->width_row, p->width, dk);
        }
    }
    if (t->wants_dq) {
        const float *keys = t->keys + first * p->width_row;
        if (t->keys_finite[index]) {
            tile_by_query(tile, t->g, keys, p->width_row, p->width, t->dq);
        } else {
            exact_by_query(tile, seen, t->g, keys, p->width_row, p->width, t->dq);
        }
    }
}

/* ---- queries of one head against the block ---- */

static void add_row(float *to, const float *from, int64_t n) {
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) vf_store(to + j, vf_load(to + j) + vf_load(from + j));
    if (j < n) vf_store_part(to + j, vf_load_part(to + j, n - j) + vf_load(from + j), n - j);
}

/* Where dq of a query is gathered by this task's strip. */
static float *strip_row(const struct task *t, int64_t query) {
    const struct heed_attention_plan *p = t->plan;
    const struct heed_view *dq = &p->args->dq.view;
    if (t->strip == 0) return (float *)dq->data + heed_attention_offset(dq, t->batch, t->head, query);
    return p->slabs + ((t->strip - 1) * p->rows + heed_attention_at(p, t->batch, t->head, query)) * p->width;
}

static void do_queries(struct task *t, int64_t q0, int64_t count) {
    const struct heed_attention_plan *p = t->plan;
    struct tile tile;
    bool packed = false;
    const struct range sight = tiles_in_sight(p, t->batch, t->head, q0, count, t->k0, t->block_keys);
    t->skipped += (t->block_keys + HEED_TILE_KEYS - 1) / HEED_TILE_KEYS - (sight.end - sight.first);
    for (int64_t i = sight.first; i < sight.end; i++) {
        tile.box = (struct heed_box){.batch = t->batch,
                                     .head = t->head,
                                     .q0 = q0,
                                     .k0 = t->k0 + i * HEED_TILE_KEYS,
                                     .queries = p->queries,
                                     .keys = p->keys,
                                     .nq = (int)count,
                                     .nk = (int)heed_cpu_part(t->block_keys, HEED_TILE_KEYS, i)};
        if (!tile_look(&tile, p->args)) {
            t->skipped++;
            continue;
        }
        if (!packed) pack_queries(t, q0, count);
        packed = true;
        do_tile(t, &tile, i);
        t->tiles++;
    }
    for (int64_t r = 0; packed && t->wants_dq && r < count; r++) {
        add_row(strip_row(t, q0 + r), t->dq + r * p->width_row, p->width);
    }
}

static void deliver(const struct task *t, const struct heed_grad_view *gradient, const float *from,
                    int64_t row, int64_t width) {
    const struct heed_view *v = &gradient->view;
    for (int64_t i = 0; i < t->block_keys; i++, from += row) {
        float *to = (float *)v->data + heed_attention_offset(v, t->batch, t->kv_head, t->k0 + i);
        if (gradient->add) {
            add_row(to, from, width);
        } else {
            memcpy(to, from, (size_t)width * sizeof(float));
        }
    }
}

static void clear_strip(const struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    if (!t->wants_dq || (t->strip == 0 && p->args->dq.add)) return;
    for (int64_t q = 0; q < p->queries; q++) memset(strip_row(t, q), 0, (size_t)p->width * sizeof(float));
}

/* All tiles of queries that see something of the block. */
static void do_head(struct task *t) {
    const struct heed_attention_plan *p = t->plan;
    struct heed_region r = {.batch = t->batch,
                            .head = t->head,
                            .queries = p->queries,
                            .keys = p->keys,
                            .q1 = p->queries,
                            .k0 = t->k0,
                            .k1 = t->k0 + t->block_keys};
    heed_mask_bounds(p->args->mask, &r);
    const int64_t tiles = (t->block_keys + HEED_TILE_KEYS - 1) / HEED_TILE_KEYS;
    for (int64_t i = 0; i * HEED_TILE_QUERIES < p->queries; i++) {
        const int64_t q = i * HEED_TILE_QUERIES, count = heed_cpu_part(p->queries, HEED_TILE_QUERIES, i);
        if (q < r.q1 && q + count > r.q0) {
            do_queries(t, q, count);
        } else {
            t->skipped += tiles;
        }
    }
}

static void do_pair(struct task *t, int64_t batch, int64_t kv_head) {
    const struct heed_attention_plan *p = t->plan;
    const int64_t head0 = kv_head * p->group, heads = head0 + p->group;
    t->batch = batch;
    t->kv_head = kv_head;
    for (t->head = head0; t->head < heads; t->head++) clear_strip(t);
    for (int64_t block = t->strip; block < p->key_blocks; block += p->strips) {
        pack_block(t, block);
        for (t->head = head0; t->head < heads; t->head++) do_head(t);
        if (t->wants_dk) deliver(t, &p->args->dk, t->dk, p->width_row, p->width);
        if (t->wants_dv) deliver(t, &p->args->dv, t->dv, p->value_row, p->value_width);
    }
}

void HEED_VECTOR_NAME(heed_attention_backward_task)(const struct heed_attention_plan *p,
                                                    const struct heed_attention_task *task, int worker) {
    struct task t;
    task_open(&t, p, worker);
    t.strip = task->part;
    const int64_t batches = p->batches_inside ? p->batch : 1, heads = p->heads_inside ? p->kv_heads : 1;
    for (int64_t b = task->batch; b < task->batch + batches; b++) {
        for (int64_t h = task->head; h < task->head + heads; h++) do_pair(&t, b, h);
    }
    atomic_fetch_add_explicit(&p->counts->tiles, t.tiles, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->counts->skipped, t.skipped, memory_order_relaxed);
}
