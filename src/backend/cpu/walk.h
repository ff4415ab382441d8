/* Walking several strided views of one shape together. */
#ifndef HEED_SRC_BACKEND_CPU_WALK_H
#define HEED_SRC_BACKEND_CPU_WALK_H

#include "backend/cpu/cpu.h"

#define HEED_WALK_VIEWS 5
/* A walk over a shape whose innermost dimensions were cut into segments has that many more dimensions. */
#define HEED_WALK_DIMS (HEED_MAX_RANK + 2)

struct heed_dim {
    int64_t size;
    int64_t stride[HEED_WALK_VIEWS];
};

/* All positions of some dimensions, the last fastest, with the offset of each view. Zeroed: one position. */
struct heed_cpu_walk {
    int rank;
    struct heed_dim dim[HEED_WALK_DIMS];
    int64_t at[HEED_WALK_DIMS];
    int64_t offset[HEED_WALK_VIEWS];
};

/* The dimensions of views of one shape (NULL: absent), without those of size 1. Returns how many. */
int heed_cpu_dims(const struct heed_view *const view[HEED_WALK_VIEWS], struct heed_dim *dims);

/* Merges neighbours that every view walks evenly; those that view `keep_apart` repeats only with one another.
 * Returns how many are left. */
int heed_cpu_dims_merge(struct heed_dim *dims, int rank, int keep_apart);

/* Appends a dimension that is walked in segments of `length`; returns its place, −1 (and nothing appended) if
 * that is one segment only. */
int heed_cpu_walk_segments(struct heed_cpu_walk *walk, const struct heed_dim *dim, int64_t length);

/* The length of the segment at hand. */
int64_t heed_cpu_walk_extent(const struct heed_cpu_walk *walk, int place, const struct heed_dim *dim,
                             int64_t length);

int64_t heed_cpu_walk_positions(const struct heed_cpu_walk *walk);
void heed_cpu_walk_to(struct heed_cpu_walk *walk, int64_t position);
void heed_cpu_walk_next(struct heed_cpu_walk *walk);

#endif
