/* Masks of the distance k − q: causal. */
#include <heed/mask.h>

#include "backend/masks/words.h"

/* What is added to a query's index to make its position among the keys. */
static int64_t shift(const struct heed_bound_mask *self, const struct heed_box *box) {
    return self->number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT ? box->keys - box->queries : 0;
}

static bool distance_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                          int64_t k) {
    const int64_t distance = k - (q + shift(self, box));
    return distance >= self->number[HEED_DISTANCE_LOW] && distance <= self->number[HEED_DISTANCE_HIGH];
}

static enum heed_cover distance_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t low = self->number[HEED_DISTANCE_LOW], high = self->number[HEED_DISTANCE_HIGH];
    /* The distances of the corners: top right the largest, bottom left the smallest. */
    const int64_t most = box->k0 + box->nk - 1 - (box->q0 + shift(self, box)),
                  least = most - (box->nk - 1) - (box->nq - 1);
    if (least >= low && most <= high) return HEED_COVER_ALL;
    return most < low || least > high ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void distance_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const int64_t low = self->number[HEED_DISTANCE_LOW], high = self->number[HEED_DISTANCE_HIGH];
    const int64_t first = box->q0 + shift(self, box);
    for (int r = 0; r < box->nq; r++) row[r] = heed_bits_between(box, first + r + low, first + r + high + 1);
}

const struct heed_mask_kind heed_mask_kind_causal = {"causal", distance_test, distance_cover, distance_bits};
