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

#define LANES_ALWAYS static inline __attribute__((always_inline))

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

LANES_ALWAYS void dots_block(int n, const float *a, const float *rows, int64_t step, int64_t width,
                             float *out) {
    vf sum[8];
    HEED_UNROLL
    for (int i = 0; i < n; i++) sum[i] = (vf){0};
    for (int64_t c = 0; c < width; c++) {
        const vf left = vf_load(a + c * HEED_LANES);
        HEED_UNROLL
        for (int i = 0; i < n; i++) sum[i] = vf_fma(left, vf_load(rows + i * step + c * HEED_LANES), sum[i]);
    }
    HEED_UNROLL
    for (int i = 0; i < n; i++) vf_store(out + i * HEED_LANES, sum[i]);
}

/* out[i] = Σ over columns of a · row i; rows are `step` floats apart. */
static inline void dots(const float *a, const float *rows, int64_t step, int64_t count, int64_t width,
                        float *out) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) dots_block(8, a, rows + i * step, step, width, out + i * HEED_LANES);
    for (; i + 4 <= count; i += 4) dots_block(4, a, rows + i * step, step, width, out + i * HEED_LANES);
    for (; i < count; i++) dots_block(1, a, rows + i * step, step, width, out + i * HEED_LANES);
}

/* Σ factor[i] · row i, i < count. Factors are factor_step apart, rows row_step; term i counts in lanes whose
 * bit first_bit + i·bit_step of seen[i·seen_step] is set, which is looked at where exact. */
struct mix {
    int64_t count, width;
    const float *factor;
    int64_t factor_step;
    const float *rows;
    int64_t row_step;
    const vi *seen;
    int seen_step, first_bit, bit_step;
    float scale;
};

LANES_ALWAYS void mix_block(int n, bool exact, const struct mix *m, int64_t column, float *out) {
    vf sum[8];
    HEED_UNROLL
    for (int j = 0; j < n; j++) sum[j] = (vf){0};
    for (int64_t i = 0; i < m->count; i++) {
        const vf factor = vf_load(m->factor + i * m->factor_step);
        const float *row = m->rows + i * m->row_step + column * HEED_LANES;
        vm seen = vm_first(HEED_LANES);
        if (exact) seen = lanes_with_bit(m->seen[i * m->seen_step], m->first_bit + i * m->bit_step);
        HEED_UNROLL
        for (int j = 0; j < n; j++) {
            const vf next = vf_fma(factor, vf_load(row + j * HEED_LANES), sum[j]);
            sum[j] = exact ? vf_select(seen, next, sum[j]) : next;
        }
    }
    HEED_UNROLL
    for (int j = 0; j < n; j++) vf_store(out + (column + j) * HEED_LANES, sum[j] * vf_set(m->scale));
}

LANES_ALWAYS void mix_columns(bool exact, const struct mix *m, float *out) {
    int64_t c = 0;
    for (; c + 8 <= m->width; c += 8) mix_block(8, exact, m, c, out);
    for (; c + 4 <= m->width; c += 4) mix_block(4, exact, m, c, out);
    for (; c < m->width; c++) mix_block(1, exact, m, c, out);
}

static inline void mix_run(bool exact, const struct mix *m, float *out) {
    if (exact) {
        mix_columns(true, m, out);
    } else {
        mix_columns(false, m, out);
    }
}

/* ---- scores ---- */

/* s[k] from dot products: scaled, −∞ where masked. */
static inline void finish_scores(const struct group *g, int64_t q, float *s) {
    const struct heed_short_plan *p = g->plan;
    const vf scale = vf_set(p->scale);
    for (int64_t k = 0; k < p->keys; k++) {
        vf x = vf_load(s + k * HEED_LANES) * scale;
        if (g->masked) x = vf_select(lanes_with_bit(g->visible[q], k), x, vf_set(-INFINITY));
        vf_store(s + k * HEED_LANES, x);
    }
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
