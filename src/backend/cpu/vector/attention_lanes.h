/* Attention with pairs of batch and head as lanes: copying a group of pairs in and out, what each lane sees,
 * sums of products.
 *
 * A matrix of a group is [row, column, lane]. Lanes beyond the last pair repeat the first and are never
 * copied out. Where an input is not finite, products skip masked cells one by one ("exact"), because 0 · NaN
 * is not 0. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_LANES_H

#include "backend/cpu/attention_short.h"
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/philox.h"
#include "backend/cpu/vector/product.h"
#include "backend/masks.h"

struct group {
    const struct heed_short_plan *plan;
    int64_t first;
    int count; /* pairs */
    int64_t batch[HEED_LANES], head[HEED_LANES];
    bool masked;                    /* visible holds; otherwise all is visible */
    vi visible[HEED_SHORT_QUERIES]; /* bit k of a lane: key k */
    bool finite;
};

/* Rows of a group, each [column, lane]; the next one is `step` floats further. */
struct lane_rows {
    float *at;
    int64_t step;
};

static inline float *lane_row(const struct lane_rows *r, int64_t i) {
    return r->at + i * r->step;
}

/* Rows of `width` columns one behind the other, at *at, which moves on. */
static inline struct lane_rows lane_rows_take(float **at, int64_t rows, int64_t width) {
    const struct lane_rows r = {*at, width * HEED_LANES};
    *at += rows * r.step;
    return r;
}

static inline void group_open(struct group *g, const struct heed_short_plan *p, int64_t index) {
    g->plan = p;
    g->first = index * HEED_LANES;
    g->count = p->pairs - g->first < HEED_LANES ? (int)(p->pairs - g->first) : HEED_LANES;
    g->finite = true;
    for (int l = 0; l < HEED_LANES; l++) {
        const int64_t pair = g->first + (l < g->count ? l : 0);
        g->batch[l] = pair / p->heads;
        g->head[l] = pair % p->heads;
    }
}

/* HEED_LANES heads of one batch entry, `head` on. */
static inline void group_open_heads(struct group *g, const struct heed_short_plan *p, int64_t batch,
                                    int64_t head) {
    g->plan = p;
    g->first = batch * p->heads + head;
    g->count = HEED_LANES;
    g->finite = true;
    for (int l = 0; l < HEED_LANES; l++) {
        g->batch[l] = batch;
        g->head[l] = head + l;
    }
}

/* ---- what is visible ---- */

static inline void group_look(struct group *g) {
    const struct heed_short_plan *p = g->plan;
    uint64_t bits[HEED_SHORT_QUERIES];
    g->masked = false;
    for (int l = 0; p->args->mask && l < g->count && !g->masked; l++) {
        const struct heed_box box = {g->batch[l], g->head[l],      0,           0, p->queries,
                                     p->keys,     (int)p->queries, (int)p->keys};
        g->masked = heed_mask_cover(p->args->mask, &box) != HEED_COVER_ALL;
    }
    if (!g->masked) return;
    for (int l = 0; l < HEED_LANES; l++) {
        const struct heed_box box = {g->batch[l], g->head[l],      0,           0, p->queries,
                                     p->keys,     (int)p->queries, (int)p->keys};
        heed_mask_bits(p->args->mask, &box, bits);
        for (int64_t q = 0; q < p->queries; q++) g->visible[q][l] = (int32_t)(uint32_t)bits[q];
    }
}

/* Lanes whose bit k is set. */
static inline vm lanes_with_bit(vi words, int64_t k) {
    return vm_int_less((vi)((vu)words << (uint32_t)(31 - k)), (vi){0});
}

/* ---- copying ---- */

static inline void lane_offsets(const struct group *g, const struct heed_view *v, int64_t *offset) {
    for (int l = 0; l < HEED_LANES; l++) offset[l] = g->batch[l] * v->stride[0] + g->head[l] * v->stride[1];
}

static inline void group_load(struct group *g, const struct heed_view *v, float *to) {
    const int64_t rows = v->size[2], width = v->size[3];
    int64_t offset[HEED_LANES];
    vf bad = {0};
    lane_offsets(g, v, offset);
    for (int64_t r = 0; r < rows; r++, to += width * HEED_LANES) {
        bad += vf_lanes_from_rows((const float *)v->data + r * v->stride[2], offset, width, to, HEED_LANES);
    }
    if (vm_any(vm_not(vm_equal(bad, bad)))) g->finite = false;
}

/* Looks at rows that group_load() has not read. Subtractions leave the multipliers to others. */
static inline void group_check(struct group *g, const struct lane_rows *rows, int64_t count, int64_t width) {
    vf bad = {0};
    for (int64_t r = 0; r < count; r++) {
        const float *row = lane_row(rows, r);
        for (int64_t c = 0; c < width; c++) {
            const vf x = vf_load(row + c * HEED_LANES), same = x;
            bad += x - same;
        }
    }
    if (vm_any(vm_not(vm_equal(bad, bad)))) g->finite = false;
}

static inline void group_store(const struct group *g, const struct heed_view *v, bool add,
                               const float *from) {
    const int64_t rows = v->size[2], width = v->size[3];
    int64_t offset[HEED_LANES];
    lane_offsets(g, v, offset);
    for (int64_t r = 0; r < rows; r++, from += width * HEED_LANES) {
        vf_lanes_to_rows(from, HEED_LANES, (float *)v->data + r * v->stride[2], offset, g->count, width, add);
    }
}

/* ---- sums of products ---- */

/* So many rows are multiplied together at most: what is loaded for one serves both. */
enum { LANES_PAIR = 2 };

/* As many vectors of each as registers hold. */
enum { LANES_BLOCK = HEED_VECTOR_BYTES == 64 ? 8 : 4 };

/* sum[i][j] = Σ over columns of row i of a · row j of b, m ≤ LANES_PAIR, n ≤ LANES_BLOCK. */
HEED_INLINE void dots_block(int m, int n, const struct lane_rows *a, int64_t i0, const struct lane_rows *b,
                            int64_t j0, int64_t width, vf sum[LANES_PAIR][LANES_BLOCK]) {
    const float *left = lane_row(a, i0), *right = lane_row(b, j0);
    HEED_UNROLL
    for (int i = 0; i < m; i++) {
        HEED_UNROLL
        for (int j = 0; j < n; j++) sum[i][j] = (vf){0};
    }
    for (int64_t c = 0; c < width; c++, left += HEED_LANES, right += HEED_LANES) {
        vf x[LANES_PAIR];
        HEED_UNROLL
        for (int i = 0; i < m; i++) x[i] = vf_load(left + i * a->step);
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const vf y = vf_load(right + j * b->step);
            HEED_UNROLL
            for (int i = 0; i < m; i++) sum[i][j] = vf_fma(x[i], y, sum[i][j]);
        }
    }
}

/* Σ factor[i] · row i, i < count, or two such sums with factors and bits of their own. Factors are
 * factor_step apart; term i counts in lanes whose bit first_bit + i·bit_step of seen[i·seen_step] is set,
 * which is looked at where exact. */
struct mix {
    int64_t count, width;
    const float *factor;
    int64_t factor_step, factor_other;
    const struct lane_rows *rows;
    const vi *seen;
    int seen_step, seen_other, first_bit, bit_step, bit_other;
    vf scale[LANES_PAIR];
    const struct lane_rows *out;
    int64_t first; /* row of `out` */
};

HEED_INLINE void mix_block(int m, int n, bool exact, const struct mix *x, int64_t column) {
    const float *factor = x->factor, *row = x->rows->at + column * HEED_LANES;
    vf sum[LANES_PAIR][LANES_BLOCK];
    HEED_UNROLL
    for (int r = 0; r < m; r++) {
        HEED_UNROLL
        for (int j = 0; j < n; j++) sum[r][j] = (vf){0};
    }
    for (int64_t i = 0; i < x->count; i++, factor += x->factor_step, row += x->rows->step) {
        vf by[LANES_PAIR];
        vm seen[LANES_PAIR];
        HEED_UNROLL
        for (int r = 0; r < m; r++) {
            by[r] = vf_load(factor + r * x->factor_other);
            seen[r] = vm_first(HEED_LANES);
            if (!exact) continue;
            seen[r] = lanes_with_bit(x->seen[i * x->seen_step + r * x->seen_other],
                                     x->first_bit + i * x->bit_step + r * x->bit_other);
        }
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const vf value = vf_load(row + j * HEED_LANES);
            HEED_UNROLL
            for (int r = 0; r < m; r++) {
                const vf next = vf_fma(by[r], value, sum[r][j]);
                sum[r][j] = exact ? vf_select(seen[r], next, sum[r][j]) : next;
            }
        }
    }
    HEED_UNROLL
    for (int r = 0; r < m; r++) {
        float *out = lane_row(x->out, x->first + r) + column * HEED_LANES;
        HEED_UNROLL
        for (int j = 0; j < n; j++) vf_store(out + j * HEED_LANES, sum[r][j] * x->scale[r]);
    }
}

HEED_INLINE void mix_columns(int m, bool exact, const struct mix *x) {
    int64_t c = 0;
    for (; c + LANES_BLOCK <= x->width; c += LANES_BLOCK) mix_block(m, LANES_BLOCK, exact, x, c);
    for (; LANES_BLOCK > 4 && c + 4 <= x->width; c += 4) mix_block(m, 4, exact, x, c);
    for (; c < x->width; c++) mix_block(m, 1, exact, x, c);
}

/* m ≤ LANES_PAIR rows of `out`. */
HEED_INLINE void mix_run(int m, bool exact, const struct mix *x) {
    if (exact) {
        mix_columns(m, true, x);
    } else {
        mix_columns(m, false, x);
    }
}

/* ---- scores ---- */

/* A score from a dot product: scaled, −∞ where masked. */
HEED_INLINE vf finish_score(const struct group *g, int64_t q, int64_t k, vf dot) {
    const vf x = dot * vf_set(g->plan->scale);
    return g->masked ? vf_select(lanes_with_bit(g->visible[q], k), x, vf_set(-INFINITY)) : x;
}

/* Keys whose score is not −∞, as bits. */
static inline vi seen_of(const float *s, int64_t keys) {
    vi seen = {0};
    for (int64_t k = 0; k < keys; k++) {
        const vm masked = vm_equal(vf_load(s + k * HEED_LANES), vf_set(-INFINITY));
        seen |= vi_select(masked, (vi){0}, vi_set((int32_t)(UINT32_C(1) << k)));
    }
    return seen;
}

/* keep[k] = 0 or `scale`: heed_attention_keep() for query q of every pair. Keys 2·j and 2·j + 1 are the
 * halves of word 0 of block j (philox.h), since there are at most 32. */
static inline void keep_factors(const struct group *g, int64_t q, float scale, float *keep) {
    const struct heed_short_plan *p = g->plan;
    const vi threshold = vi_set((int32_t)p->threshold);
    for (int64_t k = 0; k < p->keys; k += 2) {
        vu word[4];
        vu_philox(p->random.key, vu_set((uint32_t)q), vu_set((uint32_t)(k / 2)),
                  (vu)vi_lanes() + vu_set((uint32_t)g->first), vu_set(p->random.call), word);
        const vi low = (vi)(word[0] & 0xffff), high = (vi)(word[0] >> 16);
        vf_store(keep + k * HEED_LANES, vf_where(vm_int_less(low, threshold), vf_set(scale)));
        if (k + 1 < p->keys)
            vf_store(keep + (k + 1) * HEED_LANES, vf_where(vm_int_less(high, threshold), vf_set(scale)));
    }
}

#endif
