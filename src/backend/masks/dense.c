/* Masks given cell by cell. */
#include "backend/masks/words.h"

static const uint8_t *dense_at(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                               int64_t k) {
    const struct heed_view *t = &self->tensor[0];
    return (const uint8_t *)t->data + heed_mask_offset(self, 0, box->batch, box->head) + q * t->stride[2] +
           k * t->stride[3];
}

static bool dense_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return *dense_at(self, box, q, k) != 0;
}

/* One bit for each of eight neighbouring bytes that isn't 0. */
static uint64_t eight_bits(const uint8_t *p) {
    uint64_t x = (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
                 (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t ones = ((((x & low) + low) | x) >> 7) & UINT64_C(0x0101010101010101);
    /* The product moves the bit of byte i to bit 56 + i; no two terms meet, so nothing is carried. */
    return (ones * UINT64_C(0x0102040810204080)) >> 56;
}

static uint64_t dense_word(const uint8_t *p, int64_t stride, int nk) {
    if (stride == 0) return nk > 0 && *p ? heed_first_bits(nk) : 0;
    uint64_t word = 0;
    int c = 0;
    if (stride == 1) {
        for (; c + 8 <= nk; c += 8) word |= eight_bits(p + c) << c;
    }
    for (; c < nk; c++) word |= (uint64_t)(p[c * stride] != 0) << c;
    return word;
}

static void dense_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) {
        if (r > 0 && self->tensor[0].stride[2] == 0) {
            row[r] = row[0];
        } else {
            const uint8_t *p = dense_at(self, box, box->q0 + r, box->k0);
            row[r] = dense_word(p, self->tensor[0].stride[3], box->nk);
        }
    }
}

/* Reads the tile, which costs little beside the products that NONE saves; stops where neither answer is left.
 */
static heed_cover dense_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const uint64_t full = heed_first_bits(box->nk);
    bool none = true, all = true;
    int rows = self->tensor[0].stride[2] == 0 && box->nq > 1 ? 1 : box->nq;
    for (int r = 0; r < rows && (none || all); r++) {
        const uint8_t *p = dense_at(self, box, box->q0 + r, box->k0);
        uint64_t word = dense_word(p, self->tensor[0].stride[3], box->nk);
        none = none && word == 0;
        all = all && word == full;
    }
    return none ? HEED_COVER_NONE : all ? HEED_COVER_ALL : HEED_COVER_SOME;
}

const struct heed_mask_kind heed_mask_kind_dense = {"dense", dense_test, dense_cover, dense_bits, NULL};

/* ---- a rectangle of cells somewhere ---- */

/* The keys of the tile that the rectangle spans. */
static uint64_t patch_span(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t first = self->number[HEED_PATCH_KEY];
    return heed_bits_between(box, first, first + self->tensor[0].size[3]);
}

static uint64_t patch_word(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q) {
    const struct heed_view *t = &self->tensor[0];
    const int64_t i = q - self->number[HEED_PATCH_QUERY];
    const bool outside = self->number[HEED_PATCH_OUTSIDE] != 0;
    const uint64_t full = heed_first_bits(box->nk);
    const uint64_t span = i >= 0 && i < t->size[2] ? patch_span(self, box) : 0;
    if (span == 0) return outside ? full : 0;
    const int first = __builtin_ctzll(span), end = 64 - __builtin_clzll(span);
    const uint8_t *p = dense_at(self, box, i, box->k0 + first - self->number[HEED_PATCH_KEY]);
    return dense_word(p, t->stride[3], end - first) << first | (outside ? full & ~span : 0);
}

static bool patch_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    const struct heed_view *t = &self->tensor[0];
    const int64_t i = q - self->number[HEED_PATCH_QUERY], j = k - self->number[HEED_PATCH_KEY];
    if (i < 0 || i >= t->size[2] || j < 0 || j >= t->size[3]) return self->number[HEED_PATCH_OUTSIDE] != 0;
    return *dense_at(self, box, i, j) != 0;
}

static void patch_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) row[r] = patch_word(self, box, box->q0 + r);
}

static heed_cover patch_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    heed_cover cover = HEED_COVER_SOME;
    for (int r = 0; r < box->nq && (r == 0 || cover != HEED_COVER_SOME); r++)
        cover = heed_cover_join(cover, heed_cover_of_word(box, patch_word(self, box, box->q0 + r)), r == 0);
    return cover;
}

static void patch_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    if (self->number[HEED_PATCH_OUTSIDE]) return;
    const int64_t q = self->number[HEED_PATCH_QUERY], k = self->number[HEED_PATCH_KEY];
    heed_region_queries(r, q, q + self->tensor[0].size[2]);
    heed_region_keys(r, k, k + self->tensor[0].size[3]);
}

const struct heed_mask_kind heed_mask_kind_patch = {"patch", patch_test, patch_cover, patch_bits,
                                                    patch_bounds};
