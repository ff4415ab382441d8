/* Segments: queries and keys with the same id see each other; a negative id belongs to nobody. */
#include "backend/masks/words.h"

enum { QUERY, KEY };

struct ids {
    const int32_t *id;
    int64_t stride;
};

static struct ids ids_of(const struct heed_bound_mask *self, int which, int64_t batch, int64_t head) {
    const struct heed_view *t = &self->tensor[which];
    return (struct ids){(const int32_t *)t->data + heed_mask_offset(self, which, batch, head), t->stride[3]};
}

static int32_t id_at(struct ids ids, int64_t i) {
    return ids.id[i * ids.stride];
}

static bool segments_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                          int64_t k) {
    const int32_t id = id_at(ids_of(self, QUERY, box->batch, box->head), q);
    return id >= 0 && id == id_at(ids_of(self, KEY, box->batch, box->head), k);
}

/* The ids of a stretch that are not negative. */
struct extent {
    int32_t least, most; /* most < 0: there is none */
    bool negative;       /* there is a negative one */
};

static struct extent extent_of(struct ids ids, int64_t first, int64_t end) {
    struct extent e = {INT32_MAX, -1, false};
    for (int64_t i = first; i < end; i++) {
        const int32_t id = id_at(ids, i);
        e.negative = e.negative || id < 0;
        if (id > e.most) e.most = id;
        if (id >= 0 && id < e.least) e.least = id;
    }
    return e;
}

static heed_cover segments_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    const struct extent q = extent_of(ids_of(self, QUERY, box->batch, box->head), box->q0, box->q0 + box->nq);
    const struct extent k = extent_of(ids_of(self, KEY, box->batch, box->head), box->k0, box->k0 + box->nk);
    if (q.most < k.least || k.most < q.least) return HEED_COVER_NONE;
    const bool one = q.least == q.most && k.least == k.most && !q.negative && !k.negative;
    return one ? HEED_COVER_ALL : HEED_COVER_SOME;
}

static void segments_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const struct ids query = ids_of(self, QUERY, box->batch, box->head),
                     key = ids_of(self, KEY, box->batch, box->head);
    for (int r = 0; r < box->nq; r++) {
        const int32_t id = id_at(query, box->q0 + r);
        if (r > 0 && id == id_at(query, box->q0 + r - 1)) {
            row[r] = row[r - 1];
            continue;
        }
        row[r] = 0;
        for (int c = 0; c < box->nk && id >= 0; c++) row[r] |= (uint64_t)(id_at(key, box->k0 + c) == id) << c;
    }
}

static bool is_in(const struct extent *e, int32_t id) {
    return id >= e->least && id <= e->most;
}

static void segments_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const struct ids query = ids_of(self, QUERY, r->batch, r->head),
                     key = ids_of(self, KEY, r->batch, r->head);
    const struct extent q = extent_of(query, r->q0, r->q1);
    while (r->k0 < r->k1 && !is_in(&q, id_at(key, r->k0))) r->k0++;
    while (r->k1 > r->k0 && !is_in(&q, id_at(key, r->k1 - 1))) r->k1--;
    const struct extent k = extent_of(key, r->k0, r->k1);
    while (r->q0 < r->q1 && !is_in(&k, id_at(query, r->q0))) r->q0++;
    while (r->q1 > r->q0 && !is_in(&k, id_at(query, r->q1 - 1))) r->q1--;
}

const struct heed_mask_kind heed_mask_kind_segments = {"segments", segments_test, segments_cover,
                                                       segments_bits, segments_bounds};
