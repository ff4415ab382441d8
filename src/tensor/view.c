#include "tensor/view.h"

#include <inttypes.h>
#include <string.h>

int64_t heed_view_count(const struct heed_view *v) {
    int64_t count = 1;
    bool overflow = false;
    for (int d = 0; d < v->rank; d++) {
        if (v->size[d] == 0) return 0;
        if (!overflow) overflow = __builtin_mul_overflow(count, v->size[d], &count);
    }
    return overflow ? INT64_MAX : count;
}

bool heed_view_set_contiguous(struct heed_view *v) {
    int64_t stride = 1;
    for (int d = v->rank - 1; d >= 0; d--) {
        if (v->size[d] < 0) return false;
        v->stride[d] = stride;
        /* A size of 0 counts as 1 here, so that sizes are refused alike wherever the 0 stands. */
        int64_t factor = v->size[d] > 0 ? v->size[d] : 1;
        if (__builtin_mul_overflow(stride, factor, &stride)) return false;
    }
    return true;
}

bool heed_view_is_contiguous(const struct heed_view *v) {
    int64_t stride = 1;
    bool row_major = true;
    for (int d = v->rank - 1; d >= 0; d--) {
        if (v->size[d] == 0) return true;
        if (v->size[d] == 1) continue;
        if (v->stride[d] != stride) row_major = false;
        if (row_major && __builtin_mul_overflow(stride, v->size[d], &stride)) row_major = false;
    }
    return row_major;
}

bool heed_view_repeats(const struct heed_view *v) {
    bool repeats = false;
    for (int d = 0; d < v->rank; d++) {
        if (v->size[d] == 0) return false;
        if (v->size[d] > 1 && v->stride[d] == 0) repeats = true;
    }
    return repeats;
}

bool heed_view_same_shape(const struct heed_view *a, const struct heed_view *b) {
    if (a->rank != b->rank) return false;
    for (int d = 0; d < a->rank; d++)
        if (a->size[d] != b->size[d]) return false;
    return true;
}

bool heed_view_expand(const struct heed_view *v, int rank, const int64_t *size, struct heed_view *out) {
    if (rank < v->rank || rank > HEED_MAX_RANK) return false;
    struct heed_view wide = {.data = v->data, .dtype = v->dtype, .rank = rank};
    int added = rank - v->rank;
    for (int d = 0; d < rank; d++) {
        wide.size[d] = size[d];
        if (size[d] < 0) return false;
        if (d < added) continue;
        int64_t own = v->size[d - added];
        if (own == size[d])
            wide.stride[d] = v->stride[d - added];
        else if (own != 1)
            return false;
    }
    *out = wide;
    return true;
}

bool heed_shape_broadcast(int rank_a, const int64_t *a, int rank_b, const int64_t *b, int *rank,
                          int64_t *size) {
    int wide = rank_a > rank_b ? rank_a : rank_b;
    if (wide > HEED_MAX_RANK) return false;
    int64_t joined[HEED_MAX_RANK];
    for (int d = 0; d < wide; d++) {
        int64_t from_a = d < wide - rank_a ? 1 : a[d - (wide - rank_a)];
        int64_t from_b = d < wide - rank_b ? 1 : b[d - (wide - rank_b)];
        if (from_a != from_b && from_a != 1 && from_b != 1) return false;
        joined[d] = from_a == 1 ? from_b : from_a;
    }
    if (wide > 0) memcpy(size, joined, (size_t)wide * sizeof *size);
    *rank = wide;
    return true;
}

/* Gives the new dimensions [first, last) strides such that they walk the old dimensions [first, last) of
 * `old`, which have as many elements. False if the old ones are not evenly spaced. */
static bool regroup(const struct heed_view *old, int old_first, int old_last, struct heed_view *now,
                    int first, int last) {
    for (int d = old_first + 1; d < old_last; d++)
        if (old->stride[d - 1] != old->size[d] * old->stride[d]) return false;
    int64_t stride = old->stride[old_last - 1];
    for (int d = last - 1; d >= first; d--) {
        now->stride[d] = stride;
        stride *= now->size[d];
    }
    return true;
}

bool heed_view_reshape(const struct heed_view *v, int rank, const int64_t *size, struct heed_view *out) {
    if (rank < 0 || rank > HEED_MAX_RANK) return false;
    struct heed_view now = {.data = v->data, .dtype = v->dtype, .rank = rank};
    if (rank > 0) memcpy(now.size, size, (size_t)rank * sizeof *size);
    if (!heed_view_set_contiguous(&now)) return false;
    int64_t count = heed_view_count(v);
    if (heed_view_count(&now) != count) return false;

    /* Dimensions of size 1 hold no elements apart, so their strides mean nothing. */
    struct heed_view old = {.data = v->data, .dtype = v->dtype};
    for (int d = 0; d < v->rank; d++) {
        if (v->size[d] == 1) continue;
        old.size[old.rank] = v->size[d];
        old.stride[old.rank++] = v->stride[d];
    }
    if (count <= 1) old.rank = 0;

    /* Walks both shapes, always over the fewest dimensions on either side that hold equally many elements. */
    int from = 0, to = 0;
    while (from < old.rank) {
        int old_last = from + 1, last = to + 1;
        int64_t have = old.size[from], want = now.size[to];
        while (have != want) {
            if (have < want)
                have *= old.size[old_last++];
            else
                want *= now.size[last++];
        }
        if (!regroup(&old, from, old_last, &now, to, last)) return false;
        from = old_last;
        to = last;
    }
    *out = now;
    return true;
}

struct heed_view heed_view_rows(const struct heed_view *v) {
    struct heed_view rows = {.data = v->data, .dtype = v->dtype, .rank = 2, .size = {1, 1}};
    struct heed_view leading = *v;
    if (v->rank > 0) {
        leading.rank--;
        rows.size[0] = heed_view_count(&leading);
        rows.size[1] = v->size[v->rank - 1];
    }
    heed_view_set_contiguous(&rows);
    return rows;
}

void heed_view_copy_elements(const struct heed_view *v, void *to) {
    const size_t element = heed_dtype_bytes(v->dtype);
    int64_t index[HEED_MAX_RANK] = {0}, offset = 0;
    char *at = to;
    for (int64_t left = heed_view_count(v); left > 0; left--, at += element) {
        memcpy(at, heed_view_at(v, offset), element);
        for (int d = v->rank - 1; d >= 0; d--) { /* like an odometer */
            offset += v->stride[d];
            if (++index[d] < v->size[d]) break;
            offset -= index[d] * v->stride[d];
            index[d] = 0;
        }
    }
}

const char *heed_shape_text(int rank, const int64_t *size, char *text, size_t bytes) {
    size_t used = 0;
    for (int d = 0; d < rank && used < bytes; d++) {
        int n = snprintf(text + used, bytes - used, "%c%" PRId64, d ? ',' : '[', size[d]);
        if (n < 0) break;
        used += (size_t)n;
    }
    if (used < bytes) snprintf(text + used, bytes - used, rank > 0 ? "]" : "[]");
    return text;
}
