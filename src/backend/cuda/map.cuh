/* Maps: each element of a view is a term of the elements at its place in other views, of any strides.
 *
 * A term is a struct with
 *   result                          the type of what it computes; memory of bf16 is computed with in f32
 *   VIEWS                           how many views it reads
 *   void operator()<N>(const cuda_spot<N> &, result (&)[N])
 *                                   N neighbours at once; it loads what it needs by cuda_load.
 *
 * Memory traffic: every operand once (repeated ones come out of the caches), the result once, and once more
 * to add. Where views lie side by side, or repeat, along the innermost dimension, a thread makes so many
 * elements that it loads and stores 16 bytes. */
#ifndef HEED_SRC_BACKEND_CUDA_MAP_CUH
#define HEED_SRC_BACKEND_CUDA_MAP_CUH

#include <type_traits>

#include "backend/cuda/pack.cuh"
#include "backend/cuda/walk.cuh"

/* Elements of f32 that a thread makes at once; of bf16 twice as many. */
enum { CUDA_PACK = 4 };
template <typename T> constexpr int cuda_map_pack = std::is_same<T, cuda_bf16>::value ? 8 : (int)CUDA_PACK;

/* ---- terms ---- */

/* Where a term's operands are: the offset in each view, and which views repeat one element N times. */
template <int N> struct cuda_spot {
    const int64_t *at;
    unsigned repeats; /* bit v: view v */
};

/* Between memory of M and numbers of T. */
template <typename M, typename T, int N> __device__ inline void cuda_load_pack(const M *from, T (&to)[N]) {
    const cuda_pack<M, N> pack = cuda_load<N>(from);
#pragma unroll
    for (int j = 0; j < N; j++) to[j] = (T)pack.at[j];
}

template <typename M, typename T, int N> __device__ inline void cuda_store_pack(M *to, const T (&from)[N]) {
    cuda_pack<M, N> pack;
#pragma unroll
    for (int j = 0; j < N; j++) pack.at[j] = (M)from[j];
    cuda_store(to, pack);
}

template <typename M, typename T, int N>
__device__ inline void cuda_load(const M *data, const cuda_spot<N> &spot, int view, T (&to)[N]) {
    const M *from = data + spot.at[view];
    if (N > 1 && !(spot.repeats >> view & 1)) {
        cuda_load_pack(from, to);
        return;
    }
    const T one = (T)*from;
#pragma unroll
    for (int j = 0; j < N; j++) to[j] = one;
}

/* ---- the kernel ---- */

/* The result's view is the last of the walk. */
template <int N, typename TERM, typename TO>
__device__ inline void cuda_map_at(const TERM &term, const cuda_walk<TERM::VIEWS + 1> &walk, unsigned repeats,
                                   int64_t i, TO *y, bool add) {
    typedef typename TERM::result T;
    int64_t at[TERM::VIEWS + 1];
    T value[N];
    cuda_walk_to(walk, i, at);
    TO *to = y + at[TERM::VIEWS];
    term(cuda_spot<N>{at, repeats}, value);
    if (add) {
        T old[N];
        cuda_load_pack(to, old);
#pragma unroll
        for (int j = 0; j < N; j++) value[j] = (T)(old[j] + value[j]);
    }
    cuda_store_pack(to, value);
}

template <typename TERM, int N, typename TO>
static __global__ void cuda_map_kernel(TERM term, cuda_walk<TERM::VIEWS + 1> walk, unsigned repeats, TO *y,
                                       bool add) {
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

/* y[i] (+)= term(i) for all i, in elements of TO. `view` are the term's views, in its order; y does not
 * repeat. PACK says how many elements are worth a pack. */
template <typename TO, int PACK = cuda_map_pack<TO>, typename TERM>
static void cuda_map(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                     const struct heed_grad_view *y) {
    enum { VIEWS = TERM::VIEWS + 1, N = sizeof(TO) <= 4 ? PACK : 1 };
    const struct heed_view *all[VIEWS], *in_order[VIEWS];
    struct heed_view ordered[VIEWS];
    for (int v = 0; v < TERM::VIEWS; v++) all[v] = view[v];
    all[TERM::VIEWS] = &y->view;
    cuda_order_dims<VIEWS>(all, ordered);
    for (int v = 0; v < VIEWS; v++) in_order[v] = &ordered[v];
    const cuda_walk<VIEWS> walk = cuda_walk_of<VIEWS>(in_order[TERM::VIEWS], in_order);
    if (walk.count == 0) return;
    unsigned repeats = 0;
    TO *to = static_cast<TO *>(y->view.data);
    if (N > 1 && cuda_walk_packs<VIEWS>(walk, in_order, N, &repeats))
        CUDA_RUN(exec, (cuda_map_kernel<TERM, N, TO>), cuda_blocks(exec, (walk.count + N - 1) / N),
                 CUDA_BLOCK, 0, term, walk, repeats, to, y->add);
    else
        CUDA_RUN(exec, (cuda_map_kernel<TERM, 1, TO>), cuda_blocks(exec, walk.count), CUDA_BLOCK, 0, term,
                 walk, repeats, to, y->add);
}

#endif
