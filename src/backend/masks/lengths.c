/* Masks of lengths: one number per sequence. */
#include "backend/masks/words.h"

static int64_t length_of(const struct heed_bound_mask *self, const struct heed_box *box) {
    return heed_mask_value(&self->tensor[0], box, 0, 0);
}

/* ---- key lengths ---- */

static bool keys_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    (void)q;
    return k < length_of(self, box);
}

static enum heed_cover keys_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t length = length_of(self, box);
    if (box->k0 + box->nk <= length) return HEED_COVER_ALL;
    return box->k0 >= length ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void keys_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const uint64_t word = heed_bits_before(box, length_of(self, box));
    for (int r = 0; r < box->nq; r++) row[r] = word;
}

const struct heed_mask_kind heed_mask_kind_key_lengths = {"key_lengths", keys_test, keys_cover, keys_bits};
