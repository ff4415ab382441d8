/* Positions of several strided views of one shape: a number from 0 to count − 1 to an offset in each view. */
#ifndef HEED_SRC_BACKEND_CUDA_WALK_CUH
#define HEED_SRC_BACKEND_CUDA_WALK_CUH

#include "backend/cuda/device.cuh"

/* Dimensions of size 1 are left out, and neighbours that all views walk evenly are joined, so contiguous
 * views have one.
 */
template <int VIEWS> struct cuda_walk {
    int rank;
    int64_t count;
    int64_t size[HEED_MAX_RANK];
    int64_t stride[VIEWS][HEED_MAX_RANK];
};

/* A view that is absent is walked by strides of 0. */
template <int VIEWS>
cuda_walk<VIEWS> cuda_walk_of(const struct heed_view *shape, const struct heed_view *const *view) {
    cuda_walk<VIEWS> w = {};
    w.count = 1;
    for (int d = 0; d < shape->rank; d++) {
        const int64_t size = shape->size[d];
        int64_t stride[VIEWS];
        w.count *= size;
        if (size == 1) continue;
        bool joins = w.rank > 0;
        for (int v = 0; v < VIEWS; v++) {
            stride[v] = heed_has(view[v]) ? view[v]->stride[d] : 0;
            joins = joins && w.stride[v][w.rank - 1] == stride[v] * size;
        }
        const int at = joins ? w.rank - 1 : w.rank++;
        w.size[at] = joins ? w.size[at] * size : size;
        for (int v = 0; v < VIEWS; v++) w.stride[v][at] = stride[v];
    }
    return w;
}

/* The offsets of position i, with divisions of I's width. */
template <typename I, int VIEWS>
__device__ inline void cuda_walk_by(const cuda_walk<VIEWS> &w, I i, int64_t *offset) {
#pragma unroll
    for (int v = 0; v < VIEWS; v++) offset[v] = 0;
    for (int d = w.rank - 1; d > 0; d--) {
        const I size = (I)w.size[d], at = i % size;
        i /= size;
#pragma unroll
        for (int v = 0; v < VIEWS; v++) offset[v] += (int64_t)at * w.stride[v][d];
    }
#pragma unroll
    for (int v = 0; v < VIEWS; v++) offset[v] += w.rank > 0 ? (int64_t)i * w.stride[v][0] : 0;
}

/* The offsets of position i. Divisions of 64 bits take several times as long as those of 32. */
template <int VIEWS>
__device__ inline void cuda_walk_to(const cuda_walk<VIEWS> &w, int64_t i, int64_t *offset) {
    if (w.count <= UINT32_MAX)
        cuda_walk_by<uint32_t>(w, (uint32_t)i, offset);
    else
        cuda_walk_by<int64_t>(w, i, offset);
}

#endif
