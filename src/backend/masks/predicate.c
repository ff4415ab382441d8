/* The user's masks. */
#include "backend/masks/words.h"

static bool predicate_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                           int64_t k) {
    return self->predicate.test(self->predicate.user, box->batch, box->head, q, k);
}

static heed_cover predicate_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    if (!self->predicate.cover) return HEED_COVER_SOME;
    const heed_mask_tile tile = {box->batch, box->head, box->q0, box->k0, box->nq, box->nk};
    const heed_cover cover = self->predicate.cover(self->predicate.user, &tile);
    return cover == HEED_COVER_NONE || cover == HEED_COVER_ALL ? cover : HEED_COVER_SOME;
}

static void predicate_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) {
        row[r] = 0;
        for (int c = 0; c < box->nk; c++)
            row[r] |= (uint64_t)predicate_test(self, box, box->q0 + r, box->k0 + c) << c;
    }
}

const struct heed_mask_kind heed_mask_kind_predicate = {"predicate", predicate_test, predicate_cover,
                                                        predicate_bits, NULL};
