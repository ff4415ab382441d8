#include "backend/cpu/walk.h"

enum { VIEWS = HEED_WALK_VIEWS };

int heed_cpu_dims(const struct heed_view *const view[HEED_WALK_VIEWS], struct heed_dim *dims) {
    const struct heed_view *shape = NULL;
    for (int v = 0; v < VIEWS; v++)
        if (view[v] != NULL) shape = view[v];
    int rank = 0;
    for (int d = 0; shape != NULL && d < shape->rank; d++) {
        if (shape->size[d] == 1) continue;
        struct heed_dim *dim = &dims[rank++];
        dim->size = shape->size[d];
        for (int v = 0; v < VIEWS; v++) dim->stride[v] = view[v] != NULL ? view[v]->stride[d] : 0;
    }
    return rank;
}

static bool merges(const struct heed_dim *outer, const struct heed_dim *inner, int keep_apart) {
    if ((outer->stride[keep_apart] == 0) != (inner->stride[keep_apart] == 0)) return false;
    for (int v = 0; v < VIEWS; v++)
        if (outer->stride[v] != inner->stride[v] * inner->size) return false;
    return true;
}

int heed_cpu_dims_merge(struct heed_dim *dims, int rank, int keep_apart) {
    int last = 0;
    for (int d = 1; d < rank; d++) {
        if (merges(&dims[last], &dims[d], keep_apart)) {
            const int64_t size = dims[last].size;
            dims[last] = dims[d];
            dims[last].size *= size;
        } else {
            dims[++last] = dims[d];
        }
    }
    return rank > 0 ? last + 1 : 0;
}

int heed_cpu_walk_segments(struct heed_cpu_walk *walk, const struct heed_dim *dim, int64_t length) {
    if (dim->size <= length) return -1;
    struct heed_dim *segments = &walk->dim[walk->rank];
    segments->size = heed_cpu_tiles(dim->size, length);
    for (int v = 0; v < VIEWS; v++) segments->stride[v] = dim->stride[v] * length;
    return walk->rank++;
}

int64_t heed_cpu_walk_extent(const struct heed_cpu_walk *walk, int place, const struct heed_dim *dim,
                             int64_t length) {
    return place < 0 ? length : heed_cpu_part(dim->size, length, walk->at[place]);
}

int64_t heed_cpu_walk_positions(const struct heed_cpu_walk *walk) {
    int64_t count = 1;
    for (int d = 0; d < walk->rank; d++) count *= walk->dim[d].size;
    return count;
}

void heed_cpu_walk_to(struct heed_cpu_walk *walk, int64_t position) {
    for (int v = 0; v < VIEWS; v++) walk->offset[v] = 0;
    for (int d = walk->rank - 1; d >= 0; d--) {
        const struct heed_dim *dim = &walk->dim[d];
        walk->at[d] = position % dim->size;
        position /= dim->size;
        for (int v = 0; v < VIEWS; v++) walk->offset[v] += walk->at[d] * dim->stride[v];
    }
}

void heed_cpu_walk_next(struct heed_cpu_walk *walk) {
    for (int d = walk->rank - 1; d >= 0; d--) {
        const struct heed_dim *dim = &walk->dim[d];
        const bool wraps = ++walk->at[d] == dim->size;
        const int64_t steps = wraps ? 1 - dim->size : 1;
        for (int v = 0; v < VIEWS; v++) walk->offset[v] += steps * dim->stride[v];
        if (!wraps) return;
        walk->at[d] = 0;
    }
}
