/* Masks of lengths, one number per sequence: key lengths, query lengths, prefix. */
#include "backend/masks/words.h"

static int64_t length_of(const struct heed_bound_mask *self, int64_t batch, int64_t head) {
    const struct heed_view *t = &self->tensor[0];
    return ((const int32_t *)t->data)[batch * t->stride[0] + head * t->stride[1]];
}

static void same_in_all_rows(const struct heed_box *box, uint64_t word, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) row[r] = word;
}

/* ---- key lengths ---- */

static bool keys_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    (void)q;
    return k < length_of(self, box->batch, box->head);
}

static heed_cover keys_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t length = length_of(self, box->batch, box->head);
    if (box->k0 + box->nk <= length) return HEED_COVER_ALL;
    return box->k0 >= length ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void keys_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    same_in_all_rows(box, heed_bits_before(box, length_of(self, box->batch, box->head)), row);
}

static void keys_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    heed_region_keys(r, 0, length_of(self, r->batch, r->head));
}

const struct heed_mask_kind heed_mask_kind_key_lengths = {"key_lengths", keys_test, keys_cover, keys_bits,
                                                          keys_bounds};

/* ---- query lengths ---- */

static bool queries_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                         int64_t k) {
    (void)k;
    return q < length_of(self, box->batch, box->head);
}

static heed_cover queries_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const int64_t length = length_of(self, box->batch, box->head);
    if (box->q0 + box->nq <= length) return HEED_COVER_ALL;
    return box->q0 >= length ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void queries_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const int64_t length = length_of(self, box->batch, box->head);
    for (int r = 0; r < box->nq; r++) row[r] = box->q0 + r < length ? heed_first_bits(box->nk) : 0;
}

static void queries_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    heed_region_queries(r, 0, length_of(self, r->batch, r->head));
}

const struct heed_mask_kind heed_mask_kind_query_lengths = {"query_lengths", queries_test, queries_cover,
                                                            queries_bits, queries_bounds};

/* ---- prefix: causal, but the first keys are seen by all ---- */

static int64_t shift(const struct heed_bound_mask *self, int64_t queries, int64_t keys) {
    return self->number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT ? keys - queries : 0;
}

/* The end of the keys that query q sees. */
static int64_t prefix_end(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q) {
    const int64_t length = length_of(self, box->batch, box->head),
                  own = q + shift(self, box->queries, box->keys) + 1;
    return own > length ? own : length;
}

static bool prefix_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                        int64_t k) {
    return k < prefix_end(self, box, q);
}

static heed_cover prefix_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    if (box->k0 + box->nk <= prefix_end(self, box, box->q0)) return HEED_COVER_ALL;
    return box->k0 >= prefix_end(self, box, box->q0 + box->nq - 1) ? HEED_COVER_NONE : HEED_COVER_SOME;
}

static void prefix_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    for (int r = 0; r < box->nq; r++) row[r] = heed_bits_before(box, prefix_end(self, box, box->q0 + r));
}

static void prefix_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const int64_t length = length_of(self, r->batch, r->head), offset = shift(self, r->queries, r->keys);
    heed_region_keys(r, 0, r->q1 + offset > length ? r->q1 + offset : length);
    if (r->k0 >= length) heed_region_queries(r, r->k0 - offset, r->q1);
}

const struct heed_mask_kind heed_mask_kind_prefix = {"prefix", prefix_test, prefix_cover, prefix_bits,
                                                     prefix_bounds};
