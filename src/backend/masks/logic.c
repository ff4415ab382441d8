/* Masks made of masks, by three-valued logic: a proof of the whole needs only proofs of the parts. */
#include "backend/masks/words.h"

/* ---- and ---- */

static bool and_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return heed_mask_test(self->a, box, q, k) && heed_mask_test(self->b, box, q, k);
}

static enum heed_cover and_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    enum heed_cover a = heed_mask_cover(self->a, box);
    if (a == HEED_COVER_NONE) return HEED_COVER_NONE;
    enum heed_cover b = heed_mask_cover(self->b, box);
    if (b == HEED_COVER_NONE) return HEED_COVER_NONE;
    return a == HEED_COVER_ALL && b == HEED_COVER_ALL ? HEED_COVER_ALL : HEED_COVER_SOME;
}

static void and_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    enum { ROWS = 64 };
    uint64_t other[ROWS];
    heed_mask_bits(self->a, box, row);
    for (int first = 0; first < box->nq; first += ROWS) {
        struct heed_box part = *box;
        part.q0 += first;
        part.nq = box->nq - first < ROWS ? box->nq - first : ROWS;
        heed_mask_bits(self->b, &part, other);
        for (int r = 0; r < part.nq; r++) row[first + r] &= other[r];
    }
}

const struct heed_mask_kind heed_mask_kind_and = {"and", and_test, and_cover, and_bits};
