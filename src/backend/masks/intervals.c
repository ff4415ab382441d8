/* Masks by column: each key is seen by one interval of queries. Given for each key, or by a tree. */
#include "backend/masks/words.h"

struct interval {
    int64_t first, end;
};

/* The columns of one batch and head. */
struct columns {
    const int32_t *first, *end; /* first is NULL for a tree */
    int64_t first_stride, end_stride;
    int64_t prefix, queries; /* tree */
};

static const int32_t *start_of(const struct heed_bound_mask *self, int i, int64_t batch, int64_t head) {
    return (const int32_t *)self->tensor[i].data + heed_mask_offset(self, i, batch, head);
}

static struct columns columns_of(const struct heed_bound_mask *self, int64_t batch, int64_t head,
                                 int64_t queries) {
    const struct heed_view *t = self->tensor;
    if (self->kind == &heed_mask_kind_tree)
        return (struct columns){.end = start_of(self, 0, batch, head),
                                .end_stride = t[0].stride[3],
                                .prefix = self->number[HEED_TREE_PREFIX],
                                .queries = queries};
    return (struct columns){.first = start_of(self, 0, batch, head),
                            .end = start_of(self, 1, batch, head),
                            .first_stride = t[0].stride[3],
                            .end_stride = t[1].stride[3]};
}

static struct interval interval_of(const struct columns *c, int64_t k) {
    if (c->first) return (struct interval){c->first[k * c->first_stride], c->end[k * c->end_stride]};
    if (k < c->prefix) return (struct interval){0, c->queries};
    return (struct interval){k - c->prefix, c->end[(k - c->prefix) * c->end_stride]};
}

static bool intervals_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                           int64_t k) {
    const struct columns columns = columns_of(self, box->batch, box->head, box->queries);
    const struct interval i = interval_of(&columns, k);
    return i.first <= q && q < i.end;
}

static bool meets(struct interval i, int64_t q0, int64_t q1) {
    return i.first < i.end && i.first < q1 && i.end > q0;
}

static heed_cover intervals_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const struct columns columns = columns_of(self, box->batch, box->head, box->queries);
    const int64_t q0 = box->q0, q1 = box->q0 + box->nq;
    bool none = true, all = true;
    for (int c = 0; c < box->nk && (none || all); c++) {
        const struct interval i = interval_of(&columns, box->k0 + c);
        none = none && !meets(i, q0, q1);
        all = all && i.first <= q0 && i.end >= q1;
    }
    return none ? HEED_COVER_NONE : all ? HEED_COVER_ALL : HEED_COVER_SOME;
}

/* Where a key's interval begins or ends its bit changes; the rows are the sums of changes. */
static void intervals_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const struct columns columns = columns_of(self, box->batch, box->head, box->queries);
    for (int r = 0; r < box->nq; r++) row[r] = 0;
    for (int c = 0; c < box->nk; c++) {
        const struct interval i = interval_of(&columns, box->k0 + c);
        const int64_t first = i.first > box->q0 ? i.first - box->q0 : 0, end = i.end - box->q0;
        if (!meets(i, box->q0, box->q0 + box->nq)) continue;
        row[first] ^= UINT64_C(1) << c;
        if (end < box->nq) row[end] ^= UINT64_C(1) << c;
    }
    for (int r = 1; r < box->nq; r++) row[r] ^= row[r - 1];
}

static void intervals_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const struct columns columns = columns_of(self, r->batch, r->head, r->queries);
    while (r->k0 < r->k1 && !meets(interval_of(&columns, r->k0), r->q0, r->q1)) r->k0++;
    while (r->k1 > r->k0 && !meets(interval_of(&columns, r->k1 - 1), r->q0, r->q1)) r->k1--;
    int64_t first = r->q1, end = r->q0;
    for (int64_t k = r->k0; k < r->k1 && (first > r->q0 || end < r->q1); k++) {
        const struct interval i = interval_of(&columns, k);
        if (i.first >= i.end) continue;
        if (i.first < first) first = i.first;
        if (i.end > end) end = i.end;
    }
    heed_region_queries(r, first, end);
}

const struct heed_mask_kind heed_mask_kind_key_intervals = {"key_intervals", intervals_test, intervals_cover,
                                                            intervals_bits, intervals_bounds};
const struct heed_mask_kind heed_mask_kind_tree = {"tree", intervals_test, intervals_cover, intervals_bits,
                                                   intervals_bounds};
