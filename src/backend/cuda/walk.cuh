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

/* The offsets of position i. (The compiler divides by 32 bits where that is enough.) */
template <int VIEWS>
__device__ inline void cuda_walk_to(const cuda_walk<VIEWS> &w, int64_t i, int64_t *offset) {
#pragma unroll
    for (int v = 0; v < VIEWS; v++) offset[v] = 0;
#pragma unroll 1
    for (int d = w.rank - 1; d > 0; d--) {
        const int64_t rest = i / w.size[d], at = i - rest * w.size[d];
        i = rest;
#pragma unroll
        for (int v = 0; v < VIEWS; v++) offset[v] += at * w.stride[v][d];
    }
#pragma unroll
    for (int v = 0; v < VIEWS; v++) offset[v] += w.rank > 0 ? i * w.stride[v][0] : 0;
}

#endif
