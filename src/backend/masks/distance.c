/* Masks of the distance from query to key: causal, window, band. */
#include "backend/masks/words.h"

static int64_t position(const struct heed_bound_mask *self, int64_t queries, int64_t keys, int64_t q) {
    return self->number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT ? q + keys - queries : q;
}

static bool distance_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                          int64_t k) {
    const int64_t distance = k - position(self, box->queries, box->keys, q);
    return distance >= self->number[HEED_DISTANCE_LOW] && distance <= self->number[HEED_DISTANCE_HIGH];
}

static heed_cover distance_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t low = self->number[HEED_DISTANCE_LOW], high = self->number[HEED_DISTANCE_HIGH];
    /* Distances are largest in the top right corner and smallest in the bottom left one. */
    const int64_t most = box->k0 + box->nk - 1 - position(self, box->queries, box->keys, box->q0),
                  least = most - (box->nk - 1) - (box->nq - 1);
    if (least >= low && most <= high) return HEED_COVER_ALL;
    return most < low || least > high ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void distance_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const int64_t low = self->number[HEED_DISTANCE_LOW], high = self->number[HEED_DISTANCE_HIGH];
    const int64_t first = position(self, box->queries, box->keys, box->q0);
    for (int r = 0; r < box->nq; r++) row[r] = heed_bits_between(box, first + r + low, first + r + high + 1);
}

static void distance_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const int64_t low = self->number[HEED_DISTANCE_LOW], high = self->number[HEED_DISTANCE_HIGH];
    const int64_t shift = position(self, r->queries, r->keys, 0);
    heed_region_keys(r, r->q0 + shift + low, r->q1 + shift + high);
    heed_region_queries(r, r->k0 - shift - high, r->k1 - shift - low);
}

#define DISTANCE_KIND(name)                                                                                  \
    const struct heed_mask_kind heed_mask_kind_##name = {#name, distance_test, distance_cover,               \
                                                         distance_bits, distance_bounds}
DISTANCE_KIND(causal);
DISTANCE_KIND(window);
DISTANCE_KIND(band);
