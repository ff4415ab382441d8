/* Folds: maps (map.cuh) whose result repeats, with strides of 0, which means that all terms of one element
 * are joined (reduce.cuh). Gradients are sums of that kind.
 *
 * Where the terms of an element lie closest in memory, a group of threads goes along them, by packs if it is
 * told to; otherwise neighbouring threads make neighbouring elements, and lanes of a block share the terms of
 * one. Where there are few elements, several blocks share the terms of one, and what they found, which is
 * small, is folded once more. How the work is cut follows from shapes and strides alone, so that the bits are
 * the same on every device and in every run.
 *
 * Memory traffic: every operand once. */
#ifndef HEED_SRC_BACKEND_CUDA_FOLD_CUH
#define HEED_SRC_BACKEND_CUDA_FOLD_CUH

#include "backend/cuda/map.cuh"
#include "backend/cuda/reduce.cuh"

/* Elements of M as they are: of one view. */
template <typename T, typename M = T> struct cuda_itself {
    typedef T result;
    enum { VIEWS = 1 };
    const M *x;
    template <int N> __device__ inline void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        cuda_load(x, spot, 0, y);
    }
};

/* ---- the work ---- */

/* Places of different elements, and places of terms beside those. */
template <int VIEWS> struct cuda_fold_places {
    cuda_walk<VIEWS + 1> own; /* the result last */
    cuda_walk<VIEWS> over;
    int64_t splits, part; /* parts of the terms of an element, and the terms of one */
    unsigned repeats;     /* of packs: bit v, view v repeats one element */
};

template <typename T> struct cuda_fold_result {
    void *y;
    T *found; /* of each element and part, where there are several parts */
    T factor;
    bool add, low; /* low: y is bf16 */
};

template <typename T>
__device__ inline void cuda_fold_leave(const cuda_fold_result<T> &r, int64_t splits, int64_t number,
                                       int64_t offset, T value) {
    if (splits > 1) {
        r.found[number] = value;
        return;
    }
    cuda_pack<T, 1> one = {{value * r.factor}};
    if (sizeof(T) == sizeof(float) && r.low)
        cuda_give(static_cast<cuda_bf16 *>(r.y) + offset, r.add, one);
    else
        cuda_give(static_cast<T *>(r.y) + offset, r.add, one);
}

/* The terms `first`, `first` + step, … below `end` of the element at `own`, joined. Packs are of terms side
 * by side. */
template <typename REDUCTION, int N, typename TERM>
__device__ inline typename TERM::result
cuda_fold_terms(const TERM &term, const cuda_fold_places<TERM::VIEWS> &p, const int64_t *own, int64_t first,
                int64_t end, int64_t step) {
    typedef typename TERM::result T;
    T value = REDUCTION::none();
    const auto load = [&](int64_t *at) {
        cuda_pack<T, N> pack;
#pragma unroll
        for (int v = 0; v < TERM::VIEWS; v++) at[v] += own[v];
        term(cuda_spot<N>{at, p.repeats}, pack.at);
        return pack;
    };
    const auto use = [&](int64_t, const cuda_pack<T, N> &pack) {
        for (T one : pack.at) value = REDUCTION::join(value, one);
    };
    if (N > 1 || p.over.rank <= 1) {
        const auto load_line = [&](int64_t i) {
            int64_t at[TERM::VIEWS];
#pragma unroll
            for (int v = 0; v < TERM::VIEWS; v++) at[v] = i * p.over.stride[v][0];
            return load(at);
        };
        cuda_each(first, end, step, load_line, use);
    } else {
        for (int64_t i = first; i < end; i += step) {
            int64_t at[TERM::VIEWS];
            cuda_walk_to(p.over, i, at);
            use(i, load(at));
        }
    }
    return value;
}

/* ---- kernels ---- */

template <typename REDUCTION, int N, typename TERM>
static __global__ void cuda_fold_along(TERM term, cuda_fold_places<TERM::VIEWS> p,
                                       cuda_fold_result<typename TERM::result> r, int group) {
    for (cuda_rows at(p.own.count * p.splits, group); at.more(); at.next()) {
        const int64_t row = at.inside() ? at.row : 0; /* who has none does another's, for nothing */
        const int64_t begin = row % p.splits * p.part, left = p.over.count - begin;
        int64_t own[TERM::VIEWS + 1];
        cuda_walk_to(p.own, row / p.splits, own);
        const typename TERM::result value = cuda_join<REDUCTION>(
            cuda_fold_terms<REDUCTION, N>(term, p, own, begin + at.lane * N,
                                          begin + (left < p.part ? left : p.part), group * N),
            group);
        if (at.inside() && at.lane == 0) cuda_fold_leave(r, p.splits, row, own[TERM::VIEWS], value);
    }
}

/* A block has CUDA_BLOCK / lanes elements; blockIdx.y is the part. */
template <typename REDUCTION, typename TERM>
static __global__ void cuda_fold_across(TERM term, cuda_fold_places<TERM::VIEWS> p,
                                        cuda_fold_result<typename TERM::result> r, int lanes) {
    HEED_SHARED(typename TERM::result, of_lane, CUDA_BLOCK);
    const int width = CUDA_BLOCK / lanes, lane = (int)threadIdx.x / width;
    const int64_t element = (int64_t)blockIdx.x * width + (int)threadIdx.x % width;
    const int64_t begin = blockIdx.y * p.part, left = p.over.count - begin;
    const bool inside = element < p.own.count;
    int64_t own[TERM::VIEWS + 1];
    cuda_walk_to(p.own, inside ? element : 0, own);
    typename TERM::result value = cuda_fold_terms<REDUCTION, 1>(
        term, p, own, begin + lane, begin + (left < p.part ? left : p.part), lanes);
    of_lane[threadIdx.x] = value;
    for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane >= half) continue;
        value = REDUCTION::join(value, of_lane[threadIdx.x + half * width]);
        of_lane[threadIdx.x] = value;
    }
    if (inside && lane == 0)
        cuda_fold_leave(r, p.splits, blockIdx.y * p.own.count + element, own[TERM::VIEWS], value);
}

/* ---- cutting the work ---- */

enum {
    CUDA_FOLD_BLOCKS = 512, /* are enough for any GPU */
    CUDA_FOLD_STEPS = 32,   /* of a thread in a part: with less a second pass is not worth it */
    CUDA_FOLD_LANES = 8
};

struct cuda_fold_cut {
    bool along;
    int threads;    /* along: of a group; across: lanes */
    int64_t blocks; /* of one part */
};

/* The smallest distance between two elements of the first view. */
template <int VIEWS> static int64_t cuda_fold_nearest(const cuda_walk<VIEWS> &walk) {
    int64_t stride = INT64_MAX;
    for (int d = 0; d < walk.rank; d++)
        if (walk.stride[0][d] > 0 && walk.stride[0][d] < stride) stride = walk.stride[0][d];
    return stride;
}

template <int VIEWS> static struct cuda_fold_cut cuda_fold_cut_of(const cuda_fold_places<VIEWS> &p) {
    struct cuda_fold_cut cut = {};
    const bool closer = p.own.count == 1 || cuda_fold_nearest(p.over) < cuda_fold_nearest(p.own);
    cut.along = p.over.count >= HEED_WARP && closer;
    if (cut.along)
        cut.threads = p.over.count > 1024 ? (int)CUDA_BLOCK : (int)HEED_WARP;
    else
        cut.threads = p.over.count < 64 ? 1 : (int)CUDA_FOLD_LANES;
    cut.blocks = (p.own.count * cut.threads + CUDA_BLOCK - 1) / CUDA_BLOCK;
    return cut;
}

/* In how many parts the terms of an element are folded; parts are multiples of packs. */
template <int VIEWS>
static void cuda_fold_split(cuda_fold_places<VIEWS> *p, const struct cuda_fold_cut &cut) {
    const int64_t wanted = cut.blocks > 0 ? CUDA_FOLD_BLOCKS / cut.blocks : 1;
    const int64_t most = p->over.count / (cut.threads * CUDA_FOLD_STEPS);
    const int64_t splits = wanted < most ? wanted : most;
    if (splits < 2) return;
    enum { MULTIPLE = 8 };
    p->part = ((p->over.count + splits - 1) / splits + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
    p->splits = (p->over.count + p->part - 1) / p->part;
}

/* In one part. */
template <int VIEWS>
static cuda_fold_places<VIEWS> cuda_fold_places_of(const struct heed_view *const *view,
                                                   const struct heed_view *result) {
    struct heed_view own = *result, over = *result;
    const struct heed_view *all[VIEWS + 1];
    for (int d = 0; d < result->rank; d++) (result->stride[d] == 0 ? own : over).size[d] = 1;
    for (int v = 0; v < VIEWS; v++) all[v] = view[v];
    all[VIEWS] = result;
    cuda_fold_places<VIEWS> p = {};
    p.own = cuda_walk_of<VIEWS + 1>(&own, all);
    p.over = cuda_walk_of<VIEWS>(&over, view);
    p.splits = 1;
    p.part = p.over.count;
    return p;
}

/* ---- starting it ---- */

/* Whether terms can be taken N at a time: they are side by side in each view, and then every pack is aligned,
 * or repeat (a bit of `repeats`). */
template <int VIEWS>
static bool cuda_fold_packs(cuda_fold_places<VIEWS> *p, const struct heed_view *const *view, int n) {
    unsigned repeats = 0;
    if (p->over.rank != 1 || p->over.count % n != 0) return false;
    for (int v = 0; v < VIEWS; v++) {
        if (p->over.stride[v][0] == 0) {
            repeats |= 1u << v;
            continue;
        }
        const size_t bytes = heed_dtype_bytes(view[v]->dtype) * (size_t)n;
        if (p->over.stride[v][0] != 1 || reinterpret_cast<uintptr_t>(view[v]->data) % bytes != 0)
            return false;
        for (int d = 0; d < p->own.rank; d++)
            if (p->own.stride[v][d] % n != 0) return false;
    }
    p->repeats = repeats;
    return true;
}

template <typename REDUCTION, int PACK, typename TERM>
static void cuda_fold_start(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                            cuda_fold_places<TERM::VIEWS> p, const struct cuda_fold_cut &cut,
                            const cuda_fold_result<typename TERM::result> &r) {
    if (!cut.along) {
        const dim3 grid((unsigned)cut.blocks, (unsigned)p.splits);
        CUDA_RUN(exec, (cuda_fold_across<REDUCTION, TERM>), grid, CUDA_BLOCK, 0, term, p, r, cut.threads);
        return;
    }
    const unsigned blocks = cuda_row_blocks(exec, p.own.count * p.splits, cut.threads);
    if (PACK > 1 && cuda_fold_packs(&p, view, PACK))
        CUDA_RUN(exec, (cuda_fold_along<REDUCTION, PACK, TERM>), blocks, CUDA_BLOCK, 0, term, p, r,
                 cut.threads);
    else
        CUDA_RUN(exec, (cuda_fold_along<REDUCTION, 1, TERM>), blocks, CUDA_BLOCK, 0, term, p, r, cut.threads);
}

/* Folds what the parts found: one behind the other for each element along, one element beside the other
 * across. */
template <typename REDUCTION, typename T>
static void cuda_fold_found(struct heed_exec *exec, const struct heed_view *y, bool along, int64_t elements,
                            int64_t splits, const cuda_fold_result<T> &r) {
    struct heed_view found = *y;
    int64_t stride = along ? splits : 1;
    found.data = r.found;
    for (int d = y->rank - 1; d >= 0; d--) {
        if (y->stride[d] == 0) continue;
        found.stride[d] = stride;
        stride *= y->size[d];
    }
    const struct heed_view *view[1] = {&found};
    cuda_fold_places<1> p = cuda_fold_places_of<1>(view, y);
    p.over = {1, splits, {splits}, {{along ? 1 : elements}}};
    p.part = splits;
    cuda_fold_start<REDUCTION, 1>(exec, cuda_itself<T>{r.found}, view, p, cuda_fold_cut_of(p), r);
}

/* y (+)= factor · the terms of each element, joined. `view` are the term's views, in its order; the first
 * decides which way to go and is there always. Without scratch all is folded in one part. PACK says how many
 * terms are worth a pack. */
template <typename REDUCTION, int PACK = 1, typename TERM>
static void cuda_fold(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                      const struct heed_grad_view *y, double factor, void *scratch) {
    typedef typename TERM::result T;
    cuda_fold_places<TERM::VIEWS> p = cuda_fold_places_of<TERM::VIEWS>(view, &y->view);
    const struct cuda_fold_cut cut = cuda_fold_cut_of(p);
    if (p.own.count == 0) return;
    if (scratch) cuda_fold_split(&p, cut);
    const cuda_fold_result<T> r = {y->view.data, static_cast<T *>(scratch), (T)factor, y->add,
                                   y->view.dtype == HEED_BF16};
    cuda_fold_start<REDUCTION, PACK>(exec, term, view, p, cut, r);
    if (p.splits > 1) cuda_fold_found<REDUCTION, T>(exec, &y->view, cut.along, p.own.count, p.splits, r);
}

/* Bytes of scratch for that. */
template <int VIEWS>
static size_t cuda_fold_scratch(const struct heed_view *const *view, const struct heed_view *y) {
    cuda_fold_places<VIEWS> p = cuda_fold_places_of<VIEWS>(view, y);
    cuda_fold_split(&p, cuda_fold_cut_of(p));
    const size_t number = y->dtype == HEED_F64 ? sizeof(double) : sizeof(float);
    return p.splits > 1 ? (size_t)(p.own.count * p.splits) * number : 0;
}

/* ---- gradients ---- */

/* Whether each element of a result has one term. */
static inline bool cuda_is_map(const struct heed_view *result) {
    int64_t terms = 1;
    for (int d = 0; d < result->rank; d++) terms *= result->stride[d] == 0 ? result->size[d] : 1;
    return terms == 1;
}

template <int VIEWS>
static size_t cuda_gradient_scratch(const struct heed_view *const *view, const struct heed_grad_view *g) {
    return heed_has(&g->view) && !cuda_is_map(&g->view) ? cuda_fold_scratch<VIEWS>(view, &g->view) : 0;
}

/* g, of elements of TO, = Σ terms over what repeats in g, added if it says so; nothing if it is not wanted.
 */
template <typename TO, typename TERM>
static void cuda_gradient(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                          const struct heed_grad_view *g, void *scratch) {
    if (!heed_has(&g->view)) return;
    if (cuda_is_map(&g->view))
        cuda_map<TO>(exec, term, view, g);
    else
        cuda_fold<cuda_plus<typename TERM::result>>(exec, term, view, g, 1, scratch);
}

#endif
