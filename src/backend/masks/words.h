/* Words of bits, one per query of a tile: what all kinds of masks are made with. */
#ifndef HEED_SRC_BACKEND_MASKS_WORDS_H
#define HEED_SRC_BACKEND_MASKS_WORDS_H

#include "backend/masks.h"

/* The first n bits; n outside of 0 … 64 counts as the nearer end. */
static inline uint64_t heed_first_bits(int64_t n) {
    if (n <= 0) return 0;
    return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

/* Bits of the tile's keys that are below `end`. */
static inline uint64_t heed_bits_before(const struct heed_box *box, int64_t end) {
    const int64_t n = end - box->k0;
    return heed_first_bits(n < box->nk ? n : box->nk);
}

/* Bits of the tile's keys from `first` to `end` − 1. */
static inline uint64_t heed_bits_between(const struct heed_box *box, int64_t first, int64_t end) {
    return heed_bits_before(box, end) & ~heed_bits_before(box, first);
}

/* Where element [batch, head, 0, 0] of tensor i lies. */
static inline int64_t heed_mask_offset(const struct heed_bound_mask *self, int i, int64_t batch,
                                       int64_t head) {
    const struct heed_view *t = &self->tensor[i];
    int64_t at = batch * t->stride[0] + head * t->stride[1];
    if (self->row_starts[i]) at += self->row_starts[i][batch] * t->stride[2];
    if (self->column_starts[i]) at += self->column_starts[i][batch] * t->stride[3];
    return at;
}

/* Whether the bits of all rows are none, all or some. */
static inline heed_cover heed_cover_join(heed_cover before, heed_cover row, bool first) {
    return first || before == row ? row : HEED_COVER_SOME;
}

static inline heed_cover heed_cover_of_word(const struct heed_box *box, uint64_t word) {
    return word == 0 ? HEED_COVER_NONE : word == heed_first_bits(box->nk) ? HEED_COVER_ALL : HEED_COVER_SOME;
}

/* Cut a region down to an interval of queries or keys. */
static inline void heed_region_queries(struct heed_region *r, int64_t first, int64_t end) {
    if (r->q0 < first) r->q0 = first;
    if (r->q1 > end) r->q1 = end;
}
static inline void heed_region_keys(struct heed_region *r, int64_t first, int64_t end) {
    if (r->k0 < first) r->k0 = first;
    if (r->k1 > end) r->k1 = end;
}
static inline void heed_region_clear(struct heed_region *r) {
    r->q1 = r->q0;
    r->k1 = r->k0;
}

#endif
