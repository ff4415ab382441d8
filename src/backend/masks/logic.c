/* Masks made of masks, by three-valued logic: a proof of the whole needs only proofs of the parts. */
#include "backend/masks/words.h"

enum { ROWS = 64 };

/* Calls `join` for stretches of rows, with the words of b. */
static void join_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row,
                      void (*join)(uint64_t *row, const uint64_t *other, int rows)) {
    uint64_t other[ROWS];
    heed_mask_bits(self->a, box, row);
    for (int first = 0; first < box->nq; first += ROWS) {
        struct heed_box part = *box;
        part.q0 += first;
        part.nq = box->nq - first < ROWS ? box->nq - first : ROWS;
        heed_mask_bits(self->b, &part, other);
        join(row + first, other, part.nq);
    }
}

/* ---- and ---- */

static bool and_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return heed_mask_test(self->a, box, q, k) && heed_mask_test(self->b, box, q, k);
}

static heed_cover and_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const heed_cover a = heed_mask_cover(self->a, box);
    if (a == HEED_COVER_NONE) return HEED_COVER_NONE;
    const heed_cover b = heed_mask_cover(self->b, box);
    if (b == HEED_COVER_NONE) return HEED_COVER_NONE;
    return a == HEED_COVER_ALL && b == HEED_COVER_ALL ? HEED_COVER_ALL : HEED_COVER_SOME;
}

static void and_rows(uint64_t *row, const uint64_t *other, int rows) {
    for (int r = 0; r < rows; r++) row[r] &= other[r];
}

static void and_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    join_bits(self, box, row, and_rows);
}

static void and_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    heed_mask_bounds(self->a, r);
    heed_mask_bounds(self->b, r);
}

const struct heed_mask_kind heed_mask_kind_and = {"and", and_test, and_cover, and_bits, and_bounds};

/* ---- or ---- */

static bool or_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return heed_mask_test(self->a, box, q, k) || heed_mask_test(self->b, box, q, k);
}

static heed_cover or_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const heed_cover a = heed_mask_cover(self->a, box);
    if (a == HEED_COVER_ALL) return HEED_COVER_ALL;
    const heed_cover b = heed_mask_cover(self->b, box);
    if (b == HEED_COVER_ALL) return HEED_COVER_ALL;
    return a == HEED_COVER_NONE && b == HEED_COVER_NONE ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void or_rows(uint64_t *row, const uint64_t *other, int rows) {
    for (int r = 0; r < rows; r++) row[r] |= other[r];
}

static void or_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    join_bits(self, box, row, or_rows);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* The hull of what both leave. */
static void or_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    struct heed_region a = *r, b = *r;
    heed_mask_bounds(self->a, &a);
    heed_mask_bounds(self->b, &b);
    if (heed_region_is_empty(&a)) {
        *r = b;
    } else if (heed_region_is_empty(&b)) {
        *r = a;
    } else {
        heed_region_queries(r, smaller(a.q0, b.q0), larger(a.q1, b.q1));
        heed_region_keys(r, smaller(a.k0, b.k0), larger(a.k1, b.k1));
    }
}

const struct heed_mask_kind heed_mask_kind_or = {"or", or_test, or_cover, or_bits, or_bounds};

/* ---- not ---- */

static bool not_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return !heed_mask_test(self->a, box, q, k);
}

static heed_cover not_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    switch (heed_mask_cover(self->a, box)) {
    case HEED_COVER_NONE:
        return HEED_COVER_ALL;
    case HEED_COVER_ALL:
        return HEED_COVER_NONE;
    default:
        return HEED_COVER_SOME;
    }
}

/* What lies beyond the tile's keys stays 0: a tile's end is no mask. */
static void not_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    heed_mask_bits(self->a, box, row);
    for (int r = 0; r < box->nq; r++) row[r] = ~row[r] & heed_first_bits(box->nk);
}

const struct heed_mask_kind heed_mask_kind_not = {"not", not_test, not_cover, not_bits, NULL};
