/* How attention is cut into tasks and its memory laid out: from shapes and from what is asked for alone,
 * never from the number of threads. */
#include "backend/cpu/attention.h"

/* A block of packed keys and values stays in the second-level cache. */
enum { BLOCK_FLOATS = 32768, LEAST_BLOCK = 128, MOST_BLOCK = 512 };

/* Queries of a forward task: their outputs stay in the second-level cache too. */
enum { MOST_CHUNK = 10 * HEED_TILE_QUERIES };

static int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

static void plan_key_blocks(struct heed_attention_plan *p) {
    const int64_t widths = p->width + p->value_width;
    const int64_t keys = BLOCK_FLOATS / (widths > 0 ? widths : 1) / LEAST_BLOCK * LEAST_BLOCK;
    p->key_block = clamp(keys, LEAST_BLOCK, MOST_BLOCK);
    const int64_t all = heed_ceil_div(p->keys, LEAST_BLOCK) * LEAST_BLOCK;
    if (all > 0 && p->key_block > all) p->key_block = all;
    p->key_blocks = heed_ceil_div(p->keys, p->key_block);
}

static void plan_query_chunks(struct heed_attention_plan *p) {
    const struct heed_packed *packed = &p->args->packed;
    const int64_t rows = (heed_is_packed(packed) ? 1 : p->batch) * p->heads;
    const int64_t tiles = heed_ceil_div(p->queries, HEED_TILE_QUERIES);
    /* Packed sequences make as many tasks together as a batch entry of all their queries would. */
    const int64_t all = heed_is_packed(packed) ? heed_ceil_div(p->args->q.size[2], HEED_TILE_QUERIES) : tiles;
    const int64_t wanted = rows > 0 ? heed_ceil_div(HEED_ATTENTION_TASKS, rows) : 1;
    const int64_t chunk =
        clamp(heed_ceil_div(all, wanted) * HEED_TILE_QUERIES, HEED_TILE_QUERIES, MOST_CHUNK);
    p->query_chunks = heed_ceil_div(p->queries, chunk);
    /* Equal chunks, in whole tiles. */
    p->query_chunk = p->query_chunks > 0 ? heed_ceil_div(tiles, p->query_chunks) * HEED_TILE_QUERIES : chunk;
    p->query_chunks = heed_ceil_div(p->queries, p->query_chunk);
}

/* ---- backward ---- */

static bool repeats(const struct heed_view *v, int dim) {
    return v->stride[dim] == 0 && v->size[dim] > 1;
}

static enum heed_sum_scope bias_scope(const struct heed_view *v) {
    if (repeats(v, 2)) return repeats(v, 3) ? HEED_SUM_HEAD : HEED_SUM_KEY;
    return repeats(v, 3) ? HEED_SUM_QUERY : HEED_SUM_CELL;
}

static enum heed_sum_scope param_scope(heed_param_scope scope) {
    if (scope == HEED_PER_QUERY) return HEED_SUM_QUERY;
    return scope == HEED_PER_KEY ? HEED_SUM_KEY : HEED_SUM_VECTOR;
}

static void plan_sum(struct heed_attention_plan *p, int index, enum heed_sum_scope scope,
                     const struct heed_grad_view *to) {
    if (heed_has(&to->view)) p->sum[index] = (struct heed_attention_sum){.scope = scope, .to = to};
}

static void plan_scopes(struct heed_attention_plan *p) {
    const struct heed_attention_args *a = p->args;
    for (int i = 0; i < a->stages; i++) {
        const struct heed_grad_view *to = &a->stage[i].dtensor;
        plan_sum(p, i, a->stage[i].kind == HEED_STAGE_DISTANCE ? HEED_SUM_VECTOR : bias_scope(&to->view), to);
    }
    for (int i = 0; i < a->params; i++)
        plan_sum(p, HEED_SUM_OF_PARAMS + i, param_scope(a->param[i].scope), &a->param[i].dtensor);
    plan_sum(p, HEED_SUM_OF_SINK, HEED_SUM_SINK, &a->dsink);
}

static void plan_strips(struct heed_attention_plan *p) {
    for (int i = 0; i < HEED_SUMS; i++) {
        if (p->sum[i].scope != HEED_SUM_CELL) continue;
        /* Packed sequences repeat over the batch, but have no cells in common. */
        p->batches_inside =
            p->batches_inside || (repeats(&p->sum[i].to->view, 0) && !heed_is_packed(&p->args->packed));
        p->heads_inside = p->heads_inside || repeats(&p->sum[i].to->view, 1);
    }
    const int64_t outer = (p->batches_inside ? 1 : p->batch) * (p->heads_inside ? 1 : p->kv_heads);
    if (heed_is_packed(&p->args->packed)) return; /* each sequence has its own */
    p->strips = clamp(outer > 0 ? heed_ceil_div(HEED_ATTENTION_TASKS, outer) : 1, 1,
                      p->key_blocks > 0 ? p->key_blocks : 1);
}

/* [parts, batch, heads, count] of every sum; what has an element per query, key or distance has, of packed
 * sequences, those of one after the other instead of a batch. */
static void plan_sums(struct heed_attention_plan *p) {
    const int64_t queries = p->args->q.size[2], keys = p->args->k.size[2];
    for (int i = 0; i < HEED_SUMS; i++) {
        struct heed_attention_sum *sum = &p->sum[i];
        const enum heed_sum_scope scope = sum->scope;
        const bool by_distance = scope == HEED_SUM_VECTOR && i < HEED_SUM_OF_PARAMS;
        const bool rows = scope == HEED_SUM_KEY || scope == HEED_SUM_QUERY || by_distance;
        const bool in_a_row = rows && heed_is_packed(&p->args->packed);
        sum->parts = scope == HEED_SUM_KEY ? 1 : scope == HEED_SUM_SINK ? p->query_chunks : p->strips;
        if (scope == HEED_SUM_NONE || scope == HEED_SUM_CELL) sum->parts = 0;
        sum->count = scope == HEED_SUM_KEY      ? keys
                     : scope == HEED_SUM_QUERY  ? queries
                     : scope == HEED_SUM_VECTOR ? sum->to->view.size[3]
                                                : 1;
        sum->head_step = in_a_row && by_distance ? queries + keys : sum->count;
        sum->batch_step = in_a_row ? 0 : p->heads * sum->head_step;
        sum->part_step = (in_a_row ? 1 : p->batch) * p->heads * sum->head_step;
    }
}

int64_t heed_attention_sum_floats(const struct heed_attention_sum *sum) {
    return heed_whole_vectors(sum->parts * sum->part_step);
}

static int64_t slab_floats(const struct heed_attention_plan *p) {
    if (!heed_has(&p->args->dq.view)) return 0;
    return heed_whole_vectors((p->strips - 1) * p->rows * p->width);
}

static int64_t row_floats(const struct heed_attention_plan *p) {
    return heed_whole_vectors(p->rows);
}

static int64_t item_floats(int64_t items) {
    return heed_whole_vectors(items * (int64_t)(sizeof(struct heed_attention_item) / sizeof(float)));
}

/* ---- all of it ---- */

void heed_attention_plan_make(struct heed_attention_plan *p, const struct heed_attention_args *args,
                              bool backward) {
    *p = (struct heed_attention_plan){.args = args,
                                      .batch = args->q.size[0],
                                      .heads = args->q.size[1],
                                      .kv_heads = args->k.size[1],
                                      .queries = args->q.size[2],
                                      .keys = args->k.size[2],
                                      .width = args->q.size[3],
                                      .value_width = args->v.size[3],
                                      .scale = (float)args->scale,
                                      .threshold = args->threshold,
                                      .drops = args->threshold < 65536};
    const bool packed = heed_is_packed(&args->packed);
    p->head_rows = p->queries;
    p->batch_rows = packed ? 0 : p->heads * p->queries;
    p->rows = (packed ? 1 : p->batch) * p->heads * p->queries;
    p->strips = 1;
    if (packed) heed_attention_plan_packed(p);
    p->group = p->kv_heads > 0 ? p->heads / p->kv_heads : 1;
    p->width_row = heed_whole_vectors(p->width);
    p->value_row = heed_whole_vectors(p->value_width);
    p->keep_scale = p->drops ? (float)heed_keep_scale(args->threshold) : 1.0f;
    p->random = heed_attention_random(&args->random);
    plan_key_blocks(p);
    plan_query_chunks(p);
    for (int i = 0; i < args->stages; i++) p->aux_tiles += heed_stage_aux(&args->stage[i]);
    if (backward) {
        plan_scopes(p);
        plan_strips(p);
    }
    if (packed) heed_attention_items_count(p, backward);
    if (backward) plan_sums(p);
}

int64_t heed_attention_worker_floats(const struct heed_attention_plan *p, bool backward) {
    const int64_t tile = HEED_TILE_QUERIES * HEED_TILE_KEYS;
    if (!backward) {
        return p->key_block * (p->width + p->value_row) + p->query_chunk * (p->value_row + 16 + 1) +
               (1 + p->aux_tiles) * tile;
    }
    return p->key_block * (p->width + p->value_width + 2 * p->width_row + p->value_row) +
           HEED_TILE_QUERIES * (2 * p->width_row + p->value_row) + (2 + p->aux_tiles) * tile;
}

size_t heed_attention_saved_bytes(const struct heed_attention_plan *p) {
    return 2 * (size_t)row_floats(p) * sizeof(float);
}

size_t heed_attention_scratch_bytes(const struct heed_attention_plan *p, int workers, bool backward) {
    int64_t floats = workers * heed_attention_worker_floats(p, backward);
    if (!backward && heed_attention_chooses(p->args)) floats += 2 * row_floats(p);
    if (backward) {
        floats += row_floats(p) + slab_floats(p);
        for (int i = 0; i < HEED_SUMS; i++) floats += heed_attention_sum_floats(&p->sum[i]);
    }
    floats += item_floats(p->chunk_items) + item_floats(p->strip_items);
    return (size_t)floats * sizeof(float);
}

void heed_attention_plan_place(struct heed_attention_plan *p, void *saved, void *scratch, int workers,
                               bool backward) {
    float *at = scratch;
    p->chunk_item = (struct heed_attention_item *)at;
    at += item_floats(p->chunk_items);
    p->strip_item = (struct heed_attention_item *)at;
    at += item_floats(p->strip_items);
    if (saved) {
        p->maximum = saved;
        p->reciprocal = p->maximum + row_floats(p);
    }
    p->workers = at;
    p->worker_floats = heed_attention_worker_floats(p, backward);
    at += workers * p->worker_floats;
    if (!backward && !saved && heed_attention_chooses(p->args)) {
        p->maximum = at;
        p->reciprocal = at + row_floats(p);
    }
    if (!backward) return;
    p->delta = at;
    at += row_floats(p);
    p->slabs = at;
    at += slab_floats(p);
    for (int i = 0; i < HEED_SUMS; i++) {
        p->sum[i].data = at;
        at += heed_attention_sum_floats(&p->sum[i]);
    }
}
