/* Masks: causal, key lengths, dense, and their conjunction. */
#include "backend/masks.h"

/* The first n bits, 0 ≤ n ≤ 64; what lies outside counts as its nearest end. */
static uint64_t first_bits(int64_t n) {
    if (n <= 0) return 0;
    return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

/* Bits of keys k0 … min(end, k0 + nk) − 1. */
static uint64_t bits_before(const struct heed_box *box, int64_t end) {
    int64_t n = end - box->k0;
    return first_bits(n < box->nk ? n : box->nk);
}

/* ---- causal ---- */

static bool causal_test(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t q,
                        int64_t k) {
    (void)batch, (void)head;
    return k <= q + self->number;
}

static enum heed_cover causal_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    int64_t first_limit = box->q0 + self->number;
    if (box->k0 + box->nk - 1 <= first_limit) return HEED_COVER_ALL;
    if (box->k0 > first_limit + box->nq - 1) return HEED_COVER_NONE;
    return HEED_COVER_SOME;
}

static void causal_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) row[r] = bits_before(box, box->q0 + r + self->number + 1);
}

const struct heed_mask_kind heed_mask_kind_causal = {"causal", causal_test, causal_cover, causal_bits};

/* ---- key lengths ---- */

static int64_t length_of(const struct heed_bound_mask *self, int64_t batch) {
    return ((const int32_t *)self->tensor.data)[batch * self->tensor.stride[0]];
}

static bool lengths_test(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t q,
                         int64_t k) {
    (void)head, (void)q;
    return k < length_of(self, batch);
}

static enum heed_cover lengths_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    int64_t length = length_of(self, box->batch);
    if (box->k0 + box->nk <= length) return HEED_COVER_ALL;
    return box->k0 >= length ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void lengths_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    uint64_t word = bits_before(box, length_of(self, box->batch));
    for (int r = 0; r < box->nq; r++) row[r] = word;
}

const struct heed_mask_kind heed_mask_kind_key_lengths = {"key_lengths", lengths_test, lengths_cover,
                                                          lengths_bits};

/* ---- dense ---- */

static const uint8_t *dense_at(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t q,
                               int64_t k) {
    const struct heed_view *t = &self->tensor;
    return (const uint8_t *)t->data + batch * t->stride[0] + head * t->stride[1] + q * t->stride[2] +
           k * t->stride[3];
}

static bool dense_test(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t q,
                       int64_t k) {
    return *dense_at(self, batch, head, q, k) != 0;
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
    if (stride == 0) return nk > 0 && *p ? first_bits(nk) : 0;
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
        if (r > 0 && self->tensor.stride[2] == 0) {
            row[r] = row[0];
        } else {
            const uint8_t *p = dense_at(self, box->batch, box->head, box->q0 + r, box->k0);
            row[r] = dense_word(p, self->tensor.stride[3], box->nk);
        }
    }
}

/* Reads the tile, which costs little beside the products that NONE saves; stops where neither answer is left.
 */
static enum heed_cover dense_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const uint64_t full = first_bits(box->nk);
    bool none = true, all = true;
    int rows = self->tensor.stride[2] == 0 && box->nq > 1 ? 1 : box->nq;
    for (int r = 0; r < rows && (none || all); r++) {
        const uint8_t *p = dense_at(self, box->batch, box->head, box->q0 + r, box->k0);
        uint64_t word = dense_word(p, self->tensor.stride[3], box->nk);
        none = none && word == 0;
        all = all && word == full;
    }
    return none ? HEED_COVER_NONE : all ? HEED_COVER_ALL : HEED_COVER_SOME;
}

const struct heed_mask_kind heed_mask_kind_dense = {"dense", dense_test, dense_cover, dense_bits};

/* ---- and ---- */

static bool and_test(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t q, int64_t k) {
    return heed_mask_test(self->a, batch, head, q, k) && heed_mask_test(self->b, batch, head, q, k);
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

/* ---- asking ---- */

bool heed_mask_test(const struct heed_bound_mask *mask, int64_t batch, int64_t head, int64_t q, int64_t k) {
    return !mask || mask->kind->test(mask, batch, head, q, k);
}

enum heed_cover heed_mask_cover(const struct heed_bound_mask *mask, const struct heed_box *box) {
    return mask ? mask->kind->cover(mask, box) : HEED_COVER_ALL;
}

void heed_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box, uint64_t *row) {
    if (mask) {
        mask->kind->bits(mask, box, row);
        return;
    }
    for (int r = 0; r < box->nq; r++) row[r] = first_bits(box->nk);
}
