/* One tile of scores: which cells are visible, the scores themselves, and products that leave out what is not
 * visible.
 *
 * A tile has HEED_TILE_KEYS columns, always. A score of −∞ is masked, whether by the mask, by a bias or
 * because there is no such key; it makes a probability of exactly 0. Products skip what a block of rows
 * cannot see: of each block of PRODUCT_ROWS queries the first and last visible key are known, and so is, of
 * each block of keys, the range of queries. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_TILE_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_TILE_H

#include "backend/cpu/vector/attention_pack.h"
#include "backend/cpu/vector/masks.h"
#include "backend/cpu/vector/philox.h"

enum {
    TILE_ROW = HEED_TILE_KEYS,
    TILE_VECTORS = HEED_TILE_KEYS / HEED_LANES,
    QUERY_BLOCKS = (HEED_TILE_QUERIES + PRODUCT_ROWS - 1) / PRODUCT_ROWS,
    KEY_BLOCKS = (HEED_TILE_KEYS + PRODUCT_ROWS - 1) / PRODUCT_ROWS
};

#define LANE_BITS ((UINT64_C(1) << HEED_LANES) - 1)

struct range {
    int first, end;
};

struct tile {
    struct heed_box box;
    bool masked;                      /* bits and the ranges hold; otherwise all 64 keys are visible */
    uint64_t bits[HEED_TILE_QUERIES]; /* bit c: key k0 + c is visible */
    struct range keys[QUERY_BLOCKS];  /* of a block of queries */
};

/* ---- visibility ---- */

static inline void tile_ranges(struct tile *t) {
    for (int i = 0; i * PRODUCT_ROWS < t->box.nq; i++) {
        uint64_t any = 0;
        for (int r = i * PRODUCT_ROWS; r < (i + 1) * PRODUCT_ROWS && r < t->box.nq; r++) any |= t->bits[r];
        t->keys[i] =
            any ? (struct range){__builtin_ctzll(any), 64 - __builtin_clzll(any)} : (struct range){0, 0};
    }
}

/* Fills in a tile whose box is set. False if no cell is visible. */
static inline bool tile_look(struct tile *t, const struct heed_attention_args *args) {
    const heed_cover cover = heed_mask_cover(args->mask, &t->box);
    if (cover == HEED_COVER_NONE) return false;
    t->masked = cover == HEED_COVER_SOME || t->box.nk < HEED_TILE_KEYS;
    if (!t->masked) {
        for (int i = 0; i * PRODUCT_ROWS < t->box.nq; i++) t->keys[i] = (struct range){0, HEED_TILE_KEYS};
        return true;
    }
    vector_mask_bits(cover == HEED_COVER_ALL ? NULL : args->mask, &t->box, t->bits);
    tile_ranges(t);
    for (int r = 0; r < t->box.nq; r++) {
        if (t->bits[r]) return true;
    }
    return false;
}

/* Of the keys k0 … k0 + keys − 1, in tiles from k0 on: the tiles outside of which none of the queries sees
 * anything. It saves asking each. */
static inline struct range tiles_in_sight(const struct heed_attention_plan *p, int64_t batch, int64_t head,
                                          int64_t q0, int64_t queries, int64_t k0, int64_t keys) {
    struct heed_region r = {.batch = batch,
                            .head = head,
                            .queries = p->queries,
                            .keys = p->keys,
                            .q0 = q0,
                            .q1 = q0 + queries,
                            .k0 = k0,
                            .k1 = k0 + keys};
    heed_mask_bounds(p->args->mask, &r);
    if (heed_region_is_empty(&r)) return (struct range){0, 0};
    return (struct range){(int)((r.k0 - k0) / HEED_TILE_KEYS),
                          (int)((r.k1 - k0 + HEED_TILE_KEYS - 1) / HEED_TILE_KEYS)};
}

/* Of PRODUCT_ROWS keys from `key` on: the range of queries that see one of them. */
static inline struct range tile_queries(const struct tile *t, int key) {
    if (!t->masked) return (struct range){0, t->box.nq};
    const uint64_t wanted = ((UINT64_C(1) << PRODUCT_ROWS) - 1) << key;
    struct range range = {0, t->box.nq};
    while (range.first < range.end && !(t->bits[range.first] & wanted)) range.first++;
    while (range.end > range.first && !(t->bits[range.end - 1] & wanted)) range.end--;
    return range;
}

/* ---- scores ---- */

/* s = q·kᵀ where a block of queries can see; what lies outside the ranges is left as it was. */
static inline void tile_products(const struct tile *t, const float *q, int64_t q_row, const float *keys,
                                 int64_t width, float *s) {
    for (int i = 0; i * PRODUCT_ROWS < t->box.nq; i++) {
        const int rows =
            t->box.nq - i * PRODUCT_ROWS < PRODUCT_ROWS ? t->box.nq - i * PRODUCT_ROWS : PRODUCT_ROWS;
        const int first = t->keys[i].first / HEED_LANES * HEED_LANES;
        const struct product product = {.k = width,
                                        .a = q + i * PRODUCT_ROWS * q_row,
                                        .a_row = q_row,
                                        .a_column = 1,
                                        .b = keys + first,
                                        .b_row = TILE_ROW,
                                        .c = s + i * PRODUCT_ROWS * TILE_ROW + first,
                                        .c_row = TILE_ROW};
        product_rows(&product, rows, t->keys[i].end - first);
    }
}

/* s · factor, −∞ where masked. */
static inline void mask_row(uint64_t bits, vf factor, float *s) {
    for (int j = 0; j < TILE_VECTORS; j++, bits >>= HEED_LANES % 64) {
        float *at = s + j * HEED_LANES;
        const vm visible = vm_of_bits((uint32_t)(bits & LANE_BITS));
        vf_store(at, vf_select(visible, vf_load(at) * factor, vf_set(-INFINITY)));
    }
}

/* ---- products that must not touch masked cells ---- */

/* What a score tile says of a row's visible keys after stages: all that are not −∞. */
static inline uint64_t row_seen(const vf *x) {
    uint64_t seen = 0;
    for (int j = 0; j < TILE_VECTORS; j++) {
        const vm masked = vm_equal(x[j], vf_set(-INFINITY));
        seen |= (uint64_t)(vm_bits(vm_not(masked)) & LANE_BITS) << (j * HEED_LANES % 64);
    }
    return seen;
}

static inline void add_scaled(float factor, const float *x, int64_t n, float *y) {
    for (int64_t j = 0; j < n; j += HEED_LANES)
        vf_store(y + j, vf_fma(vf_set(factor), vf_load(x + j), vf_load(y + j)));
}

/* queries × width += cells · by_key, only over cells that were seen. */
static inline void exact_by_query(const struct tile *t, const uint64_t *seen, const float *cells,
                                  const float *by_key, int64_t row, int64_t width, float *to) {
    for (int r = 0; r < t->box.nq; r++) {
        for (int c = 0; c < t->box.nk; c++) {
            if (seen[r] >> c & 1) add_scaled(cells[r * TILE_ROW + c], by_key + c * row, width, to + r * row);
        }
    }
}

/* keys × width += cellsᵀ · by_query, only over cells that were seen. */
static inline void exact_by_key(const struct tile *t, const uint64_t *seen, const float *cells,
                                const float *by_query, int64_t row, int64_t width, float *to) {
    for (int r = 0; r < t->box.nq; r++) {
        for (int c = 0; c < t->box.nk; c++) {
            if (seen[r] >> c & 1)
                add_scaled(cells[r * TILE_ROW + c], by_query + r * row, width, to + c * row);
        }
    }
}

/* The same by products. Rows of by_key and `to` are `row` apart. */
static inline void tile_by_query(const struct tile *t, const float *cells, const float *by_key, int64_t row,
                                 int64_t width, float *to) {
    for (int i = 0; i * PRODUCT_ROWS < t->box.nq; i++) {
        const int rows =
            t->box.nq - i * PRODUCT_ROWS < PRODUCT_ROWS ? t->box.nq - i * PRODUCT_ROWS : PRODUCT_ROWS;
        const int first = t->keys[i].first;
        const struct product product = {.k = t->keys[i].end - first,
                                        .a = cells + i * PRODUCT_ROWS * TILE_ROW + first,
                                        .a_row = TILE_ROW,
                                        .a_column = 1,
                                        .b = by_key + first * row,
                                        .b_row = row,
                                        .c = to + i * PRODUCT_ROWS * row,
                                        .c_row = row,
                                        .add = true};
        if (product.k > 0) product_rows(&product, rows, width);
    }
}

static inline void tile_by_key(const struct tile *t, const struct range *queries, const float *cells,
                               const float *by_query, int64_t row, int64_t width, float *to) {
    for (int i = 0; i * PRODUCT_ROWS < t->box.nk; i++) {
        const int key = i * PRODUCT_ROWS;
        const int rows = t->box.nk - key < PRODUCT_ROWS ? t->box.nk - key : PRODUCT_ROWS;
        const struct product product = {.k = queries[i].end - queries[i].first,
                                        .a = cells + queries[i].first * TILE_ROW + key,
                                        .a_row = 1,
                                        .a_column = TILE_ROW,
                                        .b = by_query + queries[i].first * row,
                                        .b_row = row,
                                        .c = to + key * row,
                                        .c_row = row,
                                        .add = true};
        if (product.k > 0) product_rows(&product, rows, width);
    }
}

#endif
