/* Attention of few queries to many keys: a chunk of keys, and merging chunks. */
#include "backend/cpu/attention_decode.h"
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/masks.h"
#include "backend/cpu/vector/product.h"

enum {
    ROWS = HEED_DECODE_ROWS,
    TILE = HEED_DECODE_TILE,
    TILE_VECTORS = TILE / HEED_LANES,
    MOST_TILES = HEED_DECODE_CHUNK / TILE,
    BLOCK = 4 /* keys, and rows, whose products are summed side by side */
};

#define LANE_BITS ((UINT64_C(1) << HEED_LANES) - 1)

/* One chunk. Rows are query heads, and of each its queries. */
struct task {
    const struct heed_decode_plan *plan;
    int64_t batch, kv_head, k0, keys, tiles;
    float *q, *s;                    /* [rows, width_row], scores and then probabilities [rows, chunk] */
    float *output, *maximum, *sum;   /* the chunk's partial result */
    bool used[MOST_TILES];           /* some row sees something of the tile */
    uint64_t seen[MOST_TILES][ROWS]; /* bit c: the row sees key c of the tile */
};

static inline int64_t offset(const struct heed_view *v, int64_t batch, int64_t head, int64_t row) {
    return batch * v->stride[0] + head * v->stride[1] + row * v->stride[2];
}

static void task_open(struct task *t, const struct heed_decode_plan *p, int64_t index, int worker) {
    const int64_t pair = index / p->chunks, chunk = index % p->chunks;
    t->plan = p;
    t->batch = pair / p->kv_heads;
    t->kv_head = pair % p->kv_heads;
    t->k0 = chunk * p->chunk;
    t->keys = heed_cpu_part(p->keys, p->chunk, chunk);
    t->tiles = heed_cpu_tiles(t->keys, TILE);
    t->q = p->workers + worker * p->worker_floats;
    t->s = t->q + p->rows * p->width_row;
    t->output = heed_decode_partial(p, pair, chunk);
    t->maximum = t->output + p->rows * p->value_row;
    t->sum = t->maximum + ROWS;
}

/* Queries side by side, padded with zeros. */
static void load_queries(const struct task *t) {
    const struct heed_decode_plan *p = t->plan;
    const struct heed_view *q = &p->args->q;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *from = (const float *)q->data +
                            offset(q, t->batch, t->kv_head * p->group + r / p->queries, r % p->queries);
        float *to = t->q + r * p->width_row;
        memcpy(to, from, (size_t)p->width * sizeof *to);
        memset(to + p->width, 0, (size_t)(p->width_row - p->width) * sizeof *to);
    }
}

/* ---- scores ---- */

/* The sums of four vectors. */
static inline vf4 sum_each(vf v[4]) {
    vf_transpose_groups(v);
    const vf t = (v[0] + v[1]) + (v[2] + v[3]);
#if HEED_VECTOR_BYTES == 64
    const vf8 half = __builtin_shufflevector(t, t, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(t, t, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif HEED_VECTOR_BYTES == 32
    return __builtin_shufflevector(t, t, 0, 1, 2, 3) + __builtin_shufflevector(t, t, 4, 5, 6, 7);
#else
    return (vf4)t;
#endif
}

/* Products of four keys with `rows` ≤ 4 queries, a constant where this is inlined: s[r, 0 … 3]. */
HEED_INLINE void products(int rows, const float *const key[BLOCK], const float *q, int64_t q_row,
                          int64_t width, float *s, int64_t s_row) {
    vf sum[BLOCK][BLOCK];
    HEED_UNROLL
    for (int r = 0; r < rows; r++) {
        HEED_UNROLL
        for (int i = 0; i < BLOCK; i++) sum[r][i] = (vf){0};
    }
    for (int64_t j = 0; j < width; j += HEED_LANES) {
        vf k[BLOCK];
        HEED_UNROLL
        for (int i = 0; i < BLOCK; i++)
            k[i] = width - j >= HEED_LANES ? vf_load(key[i] + j) : vf_load_part(key[i] + j, width - j);
        HEED_UNROLL
        for (int r = 0; r < rows; r++) {
            const vf x = vf_load(q + r * q_row + j);
            HEED_UNROLL
            for (int i = 0; i < BLOCK; i++) sum[r][i] = vf_fma(x, k[i], sum[r][i]);
        }
    }
    HEED_UNROLL
    for (int r = 0; r < rows; r++) {
        const vf4 four = sum_each(sum[r]);
        memcpy(s + r * s_row, &four, sizeof four);
    }
}

static void key_products(const struct heed_decode_plan *p, const float *const key[BLOCK], const float *q,
                         float *s) {
    for (int64_t r = 0; r < p->rows; r += BLOCK, q += BLOCK * p->width_row, s += BLOCK * p->chunk) {
        const int64_t rows = p->rows - r;
        if (rows >= 4)
            products(4, key, q, p->width_row, p->width, s, p->chunk);
        else if (rows == 3)
            products(3, key, q, p->width_row, p->width, s, p->chunk);
        else if (rows == 2)
            products(2, key, q, p->width_row, p->width, s, p->chunk);
        else
            products(1, key, q, p->width_row, p->width, s, p->chunk);
    }
}

/* Which keys of a tile each row may see; false if none sees any. */
static bool look(const struct task *t, int64_t tile, uint64_t *seen) {
    const struct heed_decode_plan *p = t->plan;
    const struct heed_bound_mask *mask = p->args->mask;
    struct heed_box box = {.batch = t->batch,
                           .k0 = t->k0 + tile * TILE,
                           .queries = p->queries,
                           .keys = p->keys,
                           .nq = (int)p->queries,
                           .nk = (int)heed_cpu_part(t->keys, TILE, tile)};
    bool any = false;
    for (int64_t h = 0; h < p->group; h++, seen += p->queries) {
        box.head = t->kv_head * p->group + h;
        const enum heed_cover cover = heed_mask_cover(mask, &box);
        if (cover == HEED_COVER_NONE)
            memset(seen, 0, (size_t)p->queries * sizeof *seen);
        else
            vector_mask_bits(cover == HEED_COVER_ALL ? NULL : mask, &box, seen);
        for (int64_t q = 0; q < p->queries; q++) any = any || seen[q];
    }
    return any;
}

static void add_bias(const float *bias, int64_t stride, int64_t keys, float *s) {
    for (int64_t c = 0; c < keys; c++) s[c] += bias[c * stride];
}

/* Scale, biases and mask of one row of a tile. What has no key, or a score of −∞, is masked. */
static void finish_scores(const struct task *t, int64_t tile, int64_t row) {
    const struct heed_decode_plan *p = t->plan;
    const struct heed_attention_args *a = p->args;
    const int64_t head = t->kv_head * p->group + row / p->queries, key = t->k0 + tile * TILE;
    float *s = t->s + row * p->chunk + tile * TILE;
    uint64_t bits = t->seen[tile][row];
    for (int j = 0; j < TILE; j += HEED_LANES) vf_store(s + j, vf_load(s + j) * vf_set(p->scale));
    for (int i = 0; i < a->stages; i++) {
        const struct heed_view *bias = &a->stage[i].tensor;
        const float *at = (const float *)bias->data + offset(bias, t->batch, head, row % p->queries) +
                          key * bias->stride[3];
        add_bias(at, bias->stride[3], heed_cpu_part(t->keys, TILE, tile), s);
    }
    for (int j = 0; j < TILE_VECTORS; j++, bits >>= HEED_LANES % 64) {
        const vm visible = vm_of_bits((uint32_t)(bits & LANE_BITS));
        vf_store(s + j * HEED_LANES, vf_select(visible, vf_load(s + j * HEED_LANES), vf_set(-INFINITY)));
    }
}

static void score_tile(struct task *t, int64_t tile) {
    const struct heed_decode_plan *p = t->plan;
    const struct heed_view *k = &p->args->k;
    const int64_t first = t->k0 + tile * TILE, keys = heed_cpu_part(t->keys, TILE, tile);
    const float *from = (const float *)k->data + offset(k, t->batch, t->kv_head, first);
    for (int64_t c = 0; c < keys; c += BLOCK) {
        const float *key[BLOCK];
        /* Beyond the last key stands the last again; the mask takes it out. */
        for (int64_t i = 0; i < BLOCK; i++) key[i] = from + (c + i < keys ? c + i : keys - 1) * k->stride[2];
        key_products(p, key, t->q, t->s + tile * TILE + c);
    }
    for (int64_t r = 0; r < p->rows; r++) finish_scores(t, tile, r);
}

/* ---- probabilities and output ---- */

/* Scores to unnormalised probabilities; what is seen from now on leaves out scores of −∞. */
static void softmax_row(struct task *t, int64_t row) {
    float *s = t->s + row * t->plan->chunk;
    vf most = vf_set(-INFINITY), sum = {0};
    for (int64_t i = 0; i < t->tiles; i++) {
        uint64_t seen = 0;
        for (int j = 0; t->used[i] && j < TILE_VECTORS; j++) {
            const vf x = vf_load(s + i * TILE + j * HEED_LANES);
            most = vf_max(x, most); /* NaN does not move the maximum; it comes back in the sum */
            seen |= (uint64_t)(vm_bits(vm_not(vm_equal(x, vf_set(-INFINITY)))) & LANE_BITS)
                    << (j * HEED_LANES % 64);
        }
        t->seen[i][row] = seen;
    }
    const float largest = vf_largest(most);
    const vf base = vf_set(largest == -INFINITY ? 0.0f : largest);
    for (int64_t i = 0; i < t->tiles; i++) {
        for (int j = 0; t->used[i] && j < TILE; j += HEED_LANES) {
            const vf e = vf_exp(vf_load(s + i * TILE + j) - base);
            sum += e;
            vf_store(s + i * TILE + j, e);
        }
    }
    t->maximum[row] = largest;
    t->sum[row] = vf_sum(sum);
}

static const float *values_of(const struct task *t, int64_t tile) {
    const struct heed_view *v = &t->plan->args->v;
    return (const float *)v->data + offset(v, t->batch, t->kv_head, t->k0 + tile * TILE);
}

/* Columns from `first` on, fewer than a vector. */
static void last_columns(const struct task *t, int64_t tile, int64_t first) {
    const struct heed_decode_plan *p = t->plan;
    const float *values = values_of(t, tile) + first;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *e = t->s + r * p->chunk + tile * TILE;
        float *to = t->output + r * p->value_row + first;
        vf sum = vf_load_part(to, p->value_width - first);
        for (int64_t c = 0; c < heed_cpu_part(t->keys, TILE, tile); c++)
            sum = vf_fma(vf_set(e[c]),
                         vf_load_part(values + c * p->args->v.stride[2], p->value_width - first), sum);
        vf_store_part(to, sum, p->value_width - first);
    }
}

static void output_tile(const struct task *t, int64_t tile) {
    const struct heed_decode_plan *p = t->plan;
    const int64_t whole = p->value_width / HEED_LANES * HEED_LANES;
    for (int64_t r = 0; r < p->rows && whole > 0; r += PRODUCT_ROWS) {
        const struct product product = {.k = heed_cpu_part(t->keys, TILE, tile),
                                        .a = t->s + r * p->chunk + tile * TILE,
                                        .a_row = p->chunk,
                                        .a_column = 1,
                                        .b = values_of(t, tile),
                                        .b_row = p->args->v.stride[2],
                                        .c = t->output + r * p->value_row,
                                        .c_row = p->value_row,
                                        .add = true};
        product_rows(&product, p->rows - r < PRODUCT_ROWS ? (int)(p->rows - r) : PRODUCT_ROWS, whole);
    }
    if (whole < p->value_width) last_columns(t, tile, whole);
}

static bool output_is_finite(const struct task *t) {
    vf bad = {0}; /* NaN where something is not finite: x · 0 is 0 otherwise */
    for (int64_t i = 0; i < t->plan->rows * t->plan->value_row; i += HEED_LANES)
        bad = vf_fma(vf_load(t->output + i), vf_set(0.0f), bad);
    return !vm_any(vm_not(vm_equal(bad, bad)));
}

/* Only what is seen: 0 · NaN would carry masked values into the output. */
static void exact_output(const struct task *t, int64_t tile) {
    const struct heed_decode_plan *p = t->plan;
    for (int64_t c = 0; c < heed_cpu_part(t->keys, TILE, tile); c++) {
        const float *value = values_of(t, tile) + c * p->args->v.stride[2];
        for (int64_t r = 0; r < p->rows; r++) {
            const float e = t->s[r * p->chunk + tile * TILE + c];
            float *to = t->output + r * p->value_row;
            if (!(t->seen[tile][r] >> c & 1)) continue;
            for (int64_t j = 0; j < p->value_width; j++) to[j] += e * value[j];
        }
    }
}

static void do_chunk(struct heed_decode_plan *p, int64_t index, int worker) {
    struct task t;
    int64_t used = 0;
    task_open(&t, p, index, worker);
    const size_t bytes = (size_t)(p->rows * p->value_row) * sizeof(float);
    load_queries(&t);
    for (int64_t i = 0; i < t.tiles; i++) {
        t.used[i] = look(&t, i, t.seen[i]);
        used += t.used[i];
        if (t.used[i]) score_tile(&t, i);
    }
    atomic_fetch_add_explicit(&p->tiles, used, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->skipped, t.tiles - used, memory_order_relaxed);
    for (int64_t r = 0; r < p->rows; r++) softmax_row(&t, r);
    memset(t.output, 0, bytes);
    for (int64_t i = 0; i < t.tiles; i++)
        if (t.used[i]) output_tile(&t, i);
    if (output_is_finite(&t)) return;
    memset(t.output, 0, bytes);
    for (int64_t i = 0; i < t.tiles; i++)
        if (t.used[i]) exact_output(&t, i);
}

/* ---- merging ---- */

/* One row of all chunks, in order. */
static void merge_row(const struct heed_decode_plan *p, int64_t pair, int64_t row) {
    const int64_t batch = pair / p->kv_heads, head = pair % p->kv_heads * p->group + row / p->queries,
                  query = row % p->queries;
    const int64_t maxima = p->rows * p->value_row + row, sums = maxima + ROWS;
    float *to = (float *)p->args->y.data + offset(&p->args->y, batch, head, query);
    float most = -INFINITY, sum = 0;
    for (int64_t c = 0; c < p->chunks; c++) {
        const float m = heed_decode_partial(p, pair, c)[maxima];
        if (m > most) most = m;
    }
    const float base = most == -INFINITY ? 0.0f : most;
    for (int64_t c = 0; c < p->chunks; c++) {
        const float *part = heed_decode_partial(p, pair, c);
        sum += part[sums] * vf_exp(vf_set(part[maxima]) - vf_set(base))[0];
    }
    const float reciprocal = sum == 0 ? 0.0f : 1.0f / sum;
    for (int64_t j = 0; j < p->value_width; j += HEED_LANES) {
        vf y = {0};
        for (int64_t c = 0; c < p->chunks; c++) {
            const float *part = heed_decode_partial(p, pair, c);
            y = vf_fma(vf_load(part + row * p->value_row + j), vf_exp(vf_set(part[maxima]) - vf_set(base)),
                       y);
        }
        y *= vf_set(reciprocal);
        if (p->value_width - j >= HEED_LANES)
            vf_store(to + j, y);
        else
            vf_store_part(to + j, y, p->value_width - j);
    }
    if (!p->maximum) return;
    const int64_t at = (batch * p->heads + head) * p->queries + query;
    p->maximum[at] = base;
    p->reciprocal[at] = reciprocal;
}

static void do_merge(const struct heed_decode_plan *p, int64_t pair) {
    for (int64_t r = 0; r < p->rows; r++) merge_row(p, pair, r);
}

const struct heed_decode_vectors HEED_VECTOR_NAME(heed_decode_vectors) = {do_chunk, do_merge};
