/* Asking a mask that may be NULL. */
#include "backend/masks/words.h"

bool heed_mask_test(const struct heed_bound_mask *mask, const struct heed_box *box, int64_t q, int64_t k) {
    return !mask || mask->kind->test(mask, box, q, k);
}

heed_cover heed_mask_cover(const struct heed_bound_mask *mask, const struct heed_box *box) {
    if (!mask || box->nq <= 0 || box->nk <= 0) return HEED_COVER_ALL;
    return mask->kind->cover(mask, box);
}

void heed_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box, uint64_t *row) {
    if (mask) {
        mask->kind->bits(mask, box, row);
        return;
    }
    for (int r = 0; r < box->nq; r++) row[r] = heed_first_bits(box->nk);
}

void heed_mask_bounds(const struct heed_bound_mask *mask, struct heed_region *r) {
    if (mask && mask->kind->bounds && !heed_region_is_empty(r)) mask->kind->bounds(mask, r);
    if (heed_region_is_empty(r)) heed_region_clear(r);
}
