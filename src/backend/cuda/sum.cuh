/* Gradients: maps whose result may repeat (strides of 0), which means that terms are summed over those
 * dimensions.
 *
 * A sum is made in double, in an order that follows from shapes and strides alone: the repeated dimensions
 * are cut into chunks, a warp or a column of threads sums one, and a second kernel sums what chunks gave. So
 * the bits are the same on every device and in every run.
 *
 * Memory traffic: every operand once, and 16 bytes per chunk of CUDA_SUM_LINE
 * or CUDA_SUM_COLUMN terms or more. */
#ifndef HEED_SRC_BACKEND_CUDA_SUM_CUH
#define HEED_SRC_BACKEND_CUDA_SUM_CUH

#include "backend/cuda/map.cuh"

/* ---- planning ---- */

enum {
    CUDA_SUM_ROWS = CUDA_BLOCK / HEED_WARP, /* rows of threads in a block */
    CUDA_SUM_LINE = 32 * HEED_WARP,         /* terms that are worth a warp */
    CUDA_SUM_COLUMN = 8 * CUDA_SUM_ROWS,    /* terms of one element that are worth a block's column */
    CUDA_SUM_LINES = 2048,                  /* warps and blocks that are enough for any device */
    CUDA_SUM_BLOCKS = 1024
};

/* Positions of different elements, and those over which each of them is summed; a place is the sum of one of
 * each. */
template <int VIEWS> struct cuda_sum {
    cuda_walk<VIEWS + 1> own; /* the result last */
    cuda_walk<VIEWS> repeated;
    int64_t chunks, chunk; /* their number, and the terms of one */
    bool lines;            /* neighbours in memory are summed, and not neighbouring results */
};

/* Whether the dimension along which v lies most closely is one that is summed over. */
static inline bool cuda_sum_has_lines(const struct heed_view *v, const struct heed_view *result) {
    int closest = -1;
    for (int d = 0; d < result->rank; d++) {
        if (result->size[d] <= 1) continue;
        const bool known = closest >= 0 && v->stride[closest] > 0;
        if (closest < 0 || (v->stride[d] > 0 && (!known || v->stride[d] <= v->stride[closest]))) closest = d;
    }
    return closest >= 0 && result->stride[closest] == 0;
}

static inline int64_t cuda_sum_parts(int64_t terms, int64_t worth, int64_t most) {
    const int64_t parts = (terms + worth - 1) / worth;
    return parts > most ? (most > 1 ? most : 1) : (parts > 1 ? parts : 1);
}

template <int VIEWS>
static cuda_sum<VIEWS> cuda_sum_of(const struct heed_view *const *view, const struct heed_view *result) {
    struct heed_view own = *result, repeated = *result;
    const struct heed_view *all[VIEWS + 1];
    for (int d = 0; d < result->rank; d++) {
        if (result->stride[d] == 0)
            own.size[d] = 1;
        else
            repeated.size[d] = 1;
    }
    for (int v = 0; v < VIEWS; v++) all[v] = view[v];
    all[VIEWS] = result;
    cuda_sum<VIEWS> s = {};
    s.own = cuda_walk_of<VIEWS + 1>(&own, all);
    s.repeated = cuda_walk_of<VIEWS>(&repeated, view);
    if (s.own.count == 0) return s;
    s.lines = s.own.count == 1 || cuda_sum_has_lines(view[0], result);
    const int64_t columns = (s.own.count + HEED_WARP - 1) / HEED_WARP;
    s.chunks = s.lines ? cuda_sum_parts(s.repeated.count, CUDA_SUM_LINE, CUDA_SUM_LINES / s.own.count)
                       : cuda_sum_parts(s.repeated.count, CUDA_SUM_COLUMN, CUDA_SUM_BLOCKS / columns);
    s.chunk = (s.repeated.count + s.chunks - 1) / s.chunks;
    return s;
}

/* ---- kernels ---- */

__device__ inline double cuda_sum_warp(double sum) {
    for (int apart = HEED_WARP / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    return sum;
}

/* Where a result or the sum of a chunk goes. */
template <typename T> struct cuda_sum_to {
    T *y;
    bool add;
    double *parts; /* [elements, chunks], if there is more than one */
};

template <int VIEWS, typename T>
__device__ inline void cuda_sum_put(const cuda_sum<VIEWS> &s, const cuda_sum_to<T> &to, int64_t element,
                                    int64_t chunk, int64_t offset, double sum) {
    if (s.chunks > 1)
        to.parts[element * s.chunks + chunk] = sum;
    else
        to.y[offset] = (T)(to.add ? to.y[offset] + sum : sum);
}

/* The term at one repetition of an element that lies at `own`. */
template <typename TERM>
__device__ inline double cuda_sum_term(const TERM &term, const cuda_sum<TERM::VIEWS> &s, const int64_t *own,
                                       int64_t repetition) {
    int64_t at[TERM::VIEWS];
    typename TERM::result value[1];
    cuda_walk_to(s.repeated, repetition, at);
#pragma unroll
    for (int v = 0; v < TERM::VIEWS; v++) at[v] += own[v];
    term(cuda_spot<1>{at, 0}, value);
    return (double)value[0];
}

/* A warp sums a chunk, its lanes side by side. */
template <typename TERM>
static __global__ void cuda_sum_lines(TERM term, cuda_sum<TERM::VIEWS> s,
                                      cuda_sum_to<typename TERM::result> to) {
    const int lane = threadIdx.x % HEED_WARP;
    for (int64_t job = CUDA_FIRST / HEED_WARP; job < s.own.count * s.chunks; job += CUDA_STEP / HEED_WARP) {
        const int64_t element = job / s.chunks, chunk = job % s.chunks, first = chunk * s.chunk;
        const int64_t left = s.repeated.count - first, end = first + (left < s.chunk ? left : s.chunk);
        int64_t own[TERM::VIEWS + 1];
        double sum = 0;
        cuda_walk_to(s.own, element, own);
        for (int64_t r = first + lane; r < end; r += HEED_WARP) sum += cuda_sum_term(term, s, own, r);
        sum = cuda_sum_warp(sum);
        if (lane == 0) cuda_sum_put(s, to, element, chunk, own[TERM::VIEWS], sum);
    }
}

/* Each of the HEED_WARP columns of a block sums a chunk of its element, CUDA_SUM_ROWS threads in turns. */
template <typename TERM>
static __global__ void cuda_sum_columns(TERM term, cuda_sum<TERM::VIEWS> s,
                                        cuda_sum_to<typename TERM::result> to) {
    HEED_SHARED(double, part, CUDA_SUM_ROWS *HEED_WARP);
    const int column = threadIdx.x % HEED_WARP, row = threadIdx.x / HEED_WARP;
    const int64_t tiles = (s.own.count + HEED_WARP - 1) / HEED_WARP;
    for (int64_t job = blockIdx.x; job < tiles * s.chunks; job += gridDim.x) {
        const int64_t element = job / s.chunks * HEED_WARP + column, chunk = job % s.chunks;
        const int64_t first = chunk * s.chunk, left = s.repeated.count - first;
        const int64_t end = element >= s.own.count ? 0 : first + (left < s.chunk ? left : s.chunk);
        int64_t own[TERM::VIEWS + 1] = {};
        double sum = 0;
        if (element < s.own.count) cuda_walk_to(s.own, element, own);
        for (int64_t r = first + row; r < end; r += CUDA_SUM_ROWS) sum += cuda_sum_term(term, s, own, r);
        part[threadIdx.x] = sum;
        __syncthreads();
        if (row == 0 && element < s.own.count) {
            for (int other = 1; other < CUDA_SUM_ROWS; other++) sum += part[other * HEED_WARP + column];
            cuda_sum_put(s, to, element, chunk, own[TERM::VIEWS], sum);
        }
        __syncthreads();
    }
}

/* What chunks gave, summed: a warp for each element. */
template <int VIEWS, typename T>
static __global__ void cuda_sum_chunks(cuda_walk<VIEWS> own, int64_t chunks, cuda_sum_to<T> to) {
    const int lane = threadIdx.x % HEED_WARP;
    for (int64_t element = CUDA_FIRST / HEED_WARP; element < own.count; element += CUDA_STEP / HEED_WARP) {
        const double *part = to.parts + element * chunks;
        int64_t at[VIEWS];
        double sum = 0;
        for (int64_t c = lane; c < chunks; c += HEED_WARP) sum += part[c];
        sum = cuda_sum_warp(sum);
        if (lane != 0) continue;
        cuda_walk_to(own, element, at);
        to.y[at[VIEWS - 1]] = (T)(to.add ? to.y[at[VIEWS - 1]] + sum : sum);
    }
}

/* ---- starting them ---- */

/* The terms of one element of the result. */
static inline int64_t cuda_sum_terms(const struct heed_view *result) {
    int64_t terms = 1;
    for (int d = 0; d < result->rank; d++) terms *= result->stride[d] == 0 ? result->size[d] : 1;
    return terms;
}

/* Bytes of scratch for cuda_gradient(). */
template <int VIEWS>
static size_t cuda_gradient_scratch(const struct heed_view *const *view, const struct heed_grad_view *g) {
    if (!heed_has(&g->view) || cuda_sum_terms(&g->view) == 1) return 0;
    const cuda_sum<VIEWS> s = cuda_sum_of<VIEWS>(view, &g->view);
    return s.chunks > 1 ? (size_t)(s.own.count * s.chunks) * sizeof(double) : 0;
}

/* g = Σ terms over what repeats in g, added if it says so; nothing if it is not wanted. The first of the
 * views is there always. */
template <typename TERM>
static void cuda_gradient(struct heed_exec *exec, const TERM &term, const struct heed_view *const *view,
                          const struct heed_grad_view *g, void *scratch) {
    typedef typename TERM::result T;
    if (!heed_has(&g->view)) return;
    if (cuda_sum_terms(&g->view) == 1) {
        cuda_map(exec, term, view, g);
        return;
    }
    const cuda_sum<TERM::VIEWS> s = cuda_sum_of<TERM::VIEWS>(view, &g->view);
    const cuda_sum_to<T> to = {static_cast<T *>(g->view.data), g->add, static_cast<double *>(scratch)};
    if (s.own.count == 0) return;
    const int64_t columns = (s.own.count + HEED_WARP - 1) / HEED_WARP;
    const int64_t threads = s.chunks * (s.lines ? s.own.count * HEED_WARP : columns * CUDA_BLOCK);
    auto *kernel = s.lines ? cuda_sum_lines<TERM> : cuda_sum_columns<TERM>;
    CUDA_RUN(exec, kernel, cuda_blocks(exec, threads), CUDA_BLOCK, 0, term, s, to);
    if (s.chunks == 1) return;
    auto *chunks = cuda_sum_chunks<TERM::VIEWS + 1, T>;
    CUDA_RUN(exec, chunks, cuda_blocks(exec, s.own.count * HEED_WARP), CUDA_BLOCK, 0, s.own, s.chunks, to);
}

#endif
