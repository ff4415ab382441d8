/* Maps: each element of a view is a term of the elements at its place in other views, of any strides.
 *
 * A term is a struct with
 *   result                          the type of what it computes
 *   VIEWS                           how many views it reads
 *   void operator()<N>(const cuda_spot<N> &, result (&)[N])
 *                                   N neighbours at once; it loads what it needs by cuda_load.
 *
 * Memory traffic: every operand once (repeated ones come out of the caches), the result once, and once more
 * to add. Where views lie side by side, or repeat, along the innermost dimension, a thread makes CUDA_PACK
 * elements with loads and stores of 16 bytes. */
#ifndef HEED_SRC_BACKEND_CUDA_MAP_CUH
#define HEED_SRC_BACKEND_CUDA_MAP_CUH

#include "backend/cuda/pack.cuh"
#include "backend/cuda/walk.cuh"

enum { CUDA_PACK = 4 };

/* ---- terms ---- */

/* Where a term's operands are: the offset in each view, and which views repeat one element N times. */
template <int N> struct cuda_spot {
    const int64_t *at;
    unsigned repeats; /* bit v: view v */
};

template <typename T, int N> __device__ inline void cuda_load_pack(const T *from, T (&to)[N]) {
    const cuda_pack<T, N> pack = cuda_load<N>(from);
#pragma unroll
    for (int j = 0; j < N; j++) to[j] = pack.at[j];
}

template <typename T, int N> __device__ inline void cuda_store_pack(T *to, const T (&from)[N]) {
    cuda_pack<T, N> pack;
#pragma unroll
    for (int j = 0; j < N; j++) pack.at[j] = from[j];
    cuda_store(to, pack);
}

template <typename T, int N>
__device__ inline void cuda_load(const T *data, const cuda_spot<N> &spot, int view, T (&to)[N]) {
    const T *from = data + spot.at[view];
    if (N > 1 && !(spot.repeats >> view & 1)) {
        cuda_load_pack(from, to);
        return;
    }
    const T one = *from;
#pragma unroll
    for (int j = 0; j < N; j++) to[j] = one;
}

/* ---- the kernel ---- */

/* The result's view is the last of the walk. */
template <int N, typename TERM>
__device__ inline void cuda_map_at(const TERM &term, const cuda_walk<TERM::VIEWS + 1> &walk, unsigned repeats,
                                   int64_t i, typename TERM::result *y, bool add) {
    typedef typename TERM::result T;
    int64_t at[TERM::VIEWS + 1];
    T value[N];
    cuda_walk_to(walk, i, at);
    T *to = y + at[TERM::VIEWS];
    term(cuda_spot<N>{at, repeats}, value);
    if (add) {
        T old[N];
        cuda_load_pack(to, old);
#pragma unroll
        for (int j = 0; j < N; j++) value[j] = (T)(old[j] + value[j]);
    }
    cuda_store_pack(to, value);
}

template <typename TERM, int N>
static __global__ void cuda_map_kernel(TERM term, cuda_walk<TERM::VIEWS + 1> walk, unsigned repeats,
                                       typename TERM::result *y, bool add) {
    const int64_t packs = walk.count / N;
    for (int64_t i = CUDA_FIRST; i < packs; i += CUDA_STEP)
        cuda_map_at<N>(term, walk, repeats, i * N, y, add);
    if constexpr (N > 1) {
        for (int64_t i = packs * N + CUDA_FIRST; i < walk.count; i += CUDA_STEP)
            cuda_map_at<1>(term, walk, repeats, i, y, add);
    }
}

/* ---- starting it ---- */

/* Whether elements can be taken N at a time: along the innermost dimension each view has strides of 1, and
 * then every pack is aligned, or of 0 (a bit of *repeats). The last view is written and does not repeat. */
template <int VIEWS>
static bool cuda_walk_packs(const cuda_walk<VIEWS> &w, const struct heed_view *const *view, int n,
                            unsigned *repeats) {
    const int last = w.rank - 1;
    *repeats = 0;
    if (w.rank == 0 || (w.rank > 1 && w.size[last] % n != 0) || w.stride[VIEWS - 1][last] != 1) return false;
    for (int v = 0; v < VIEWS; v++) {
        if (w.stride[v][last] == 0) {
            *repeats |= 1u << v;
            continue;
        }
        const size_t bytes = heed_dtype_bytes(view[v]->dtype) * (size_t)n;
        if (w.stride[v][last] != 1 || reinterpret_cast<uintptr_t>(view[v]->data) % bytes != 0) return false;
        for (int d = 0; d < last; d++)
            if (w.stride[v][d] % n != 0) return false;
    }
    return true;
}

/* Puts the dimensions of all views into the order of the last one's memory, so that writes run forward. */
template <int VIEWS>
static void cuda_order_dims(const struct heed_view *const *view, struct heed_view (&ordered)[VIEWS]) {
    const struct heed_view *by = view[VIEWS - 1];
    int order[HEED_MAX_RANK];
    for (int d = 0; d < by->rank; d++) { /* insertion sort: equal strides stay in order */
        int to = d;
        for (; to > 0 && by->stride[order[to - 1]] < by->stride[d]; to--) order[to] = order[to - 1];
        order[to] = d;
    }
    for (int v = 0; v < VIEWS; v++) {
        ordered[v] = *view[v];
        for (int d = 0; d < by->rank; d++) {
            ordered[v].size[d] = view[v]->size[order[d]];
            ordered[v].stride[d] = view[v]->stride[order[d]];
        }
    }
}

/* y[i] (+)= term(i) for all i. `view` are the term's views, in its order; y does not repeat. PACK says how
 * many elements are worth a pack. */
template <int PACK = CUDA_PACK, typename TERM>
static void cuda_map(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                     const struct heed_grad_view *y) {
    enum { VIEWS = TERM::VIEWS + 1, N = sizeof(typename TERM::result) <= 4 ? PACK : 1 };
    const struct heed_view *all[VIEWS], *in_order[VIEWS];
    struct heed_view ordered[VIEWS];
    for (int v = 0; v < TERM::VIEWS; v++) all[v] = view[v];
    all[TERM::VIEWS] = &y->view;
    cuda_order_dims<VIEWS>(all, ordered);
    for (int v = 0; v < VIEWS; v++) in_order[v] = &ordered[v];
    const cuda_walk<VIEWS> walk = cuda_walk_of<VIEWS>(in_order[TERM::VIEWS], in_order);
    if (walk.count == 0) return;
    unsigned repeats = 0;
    typename TERM::result *to = static_cast<typename TERM::result *>(y->view.data);
    if (N > 1 && cuda_walk_packs<VIEWS>(walk, in_order, N, &repeats))
        CUDA_RUN(exec, (cuda_map_kernel<TERM, N>), cuda_blocks(exec, (walk.count + N - 1) / N), CUDA_BLOCK, 0,
                 term, walk, repeats, to, y->add);
    else
        CUDA_RUN(exec, (cuda_map_kernel<TERM, 1>), cuda_blocks(exec, walk.count), CUDA_BLOCK, 0, term, walk,
                 repeats, to, y->add);
}

#endif
