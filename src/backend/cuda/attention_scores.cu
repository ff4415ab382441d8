/* Gradients of what is added to scores: the gradient ds of the score behind a stage, summed over the cells
 * that share an element of its tensor.
 *
 * A block owns what it writes and goes over all that is summed in order: a tile of keys over all queries, a
 * tile of queries over all keys, a stretch of distances over all queries, or a tile of cells over the batch
 * entries and heads that share it. Sums of one batch entry and head go to sums [batch, heads, count], from
 * where the sum over those is a copy to a repeated view (COPY). */
#include "backend/cuda/attention.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/attention_choice.cuh"
#endif

/* ---- by cell ---- */

/* gradient has strides of 0 where it is shared. */
ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    sum_cells(const __grid_constant__ cuda_attention<T> p, int stage, const cuda_heads<T> gradient,
              bool add) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const bool batches = gradient.stride[0] == 0, heads = gradient.stride[1] == 0;
    const int64_t own_heads = heads ? 1 : p.heads;
    const int64_t first_batch = batches ? 0 : blockIdx.z / own_heads,
                  first_head = heads ? 0 : blockIdx.z % own_heads;
    const int64_t end_batch = batches ? p.batch : first_batch + 1,
                  end_head = heads ? p.heads : first_head + 1;
    const int c = threadIdx.x % CUDA_TILE, first_row = threadIdx.x / CUDA_TILE;
    enum { ROWS = CUDA_TILE * CUDA_TILE / CUDA_TILE_THREADS, STEP = CUDA_TILE_THREADS / CUDA_TILE };
    cuda_box box = {};
    T sum[ROWS] = {};
    set_queries(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    set_keys(p, (int64_t)blockIdx.y * CUDA_TILE, &box);
#pragma unroll 1
    for (box.batch = first_batch; box.batch < end_batch; box.batch++) {
#pragma unroll 1
        for (box.head = first_head; box.head < end_head; box.head++) {
            if (!tile_scores(p, box, stage + 1, t)) continue;
            tile_gradients(p, box, stage + 1, t);
#pragma unroll
            for (int i = 0; i < ROWS; i++) sum[i] += t->g[first_row + i * STEP][c];
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int r = first_row + i * STEP;
        if (r >= box.nq || c >= box.nk) continue;
        T *at = at_row(gradient, first_batch, first_head, box.q0 + r) + (box.k0 + c) * gradient.stride[3];
        *at = add ? *at + sum[i] : sum[i];
    }
}

/* ---- by key, by query ---- */

/* A thread of the first warp sums a column, or a row. */
template <typename T, bool KEYS>
static __device__ inline void sum_lines(const cuda_attention<T> &p, int stage, cuda_tile<T> *t, T *sums) {
    cuda_box box = box_of_pair(p);
    const int64_t own = (int64_t)blockIdx.x * CUDA_TILE, count = KEYS ? p.keys : p.queries,
                  others = KEYS ? p.queries : p.keys;
    T sum = T(0);
#pragma unroll 1
    for (int64_t other = 0; other < others; other += CUDA_TILE) {
        set_queries(p, KEYS ? other : own, &box);
        set_keys(p, KEYS ? own : other, &box);
        if (!tile_scores(p, box, stage + 1, t)) continue;
        tile_gradients(p, box, stage + 1, t);
        if (threadIdx.x < CUDA_TILE)
            for (int i = 0; i < CUDA_TILE; i++) sum += KEYS ? t->g[i][threadIdx.x] : t->g[threadIdx.x][i];
        __syncthreads();
    }
    if (threadIdx.x < CUDA_TILE && own + threadIdx.x < count)
        sums[(box.batch * p.heads + box.head) * count + own + threadIdx.x] = sum;
}

ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    sum_keys(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, shared, 1);
    sum_lines<T, true>(p, stage, shared, sums);
}

ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    sum_queries(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, shared, 1);
    sum_lines<T, false>(p, stage, shared, sums);
}

/* ---- by distance ---- */

/* Distances own … own + 31, counted from that of the last query to the first key. For a tile of queries these
 * lie in two tiles of keys side by side. */
ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    sum_distances(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    const int64_t own = (int64_t)blockIdx.x * CUDA_TILE, count = p.queries + p.keys - 1;
    T sum = T(0);
#pragma unroll 1
    for (int64_t q0 = 0; q0 < p.queries; q0 += CUDA_TILE) {
        set_queries(p, q0, &box);
        /* Key of query q0 at distance own; of later queries it is further on. */
        const int64_t first = own - (p.queries - 1) + q0;
#pragma unroll 1
        for (int side = 0; side < 2; side++) {
            int64_t k0 = first + side * CUDA_TILE, end = k0 + CUDA_TILE;
            if (k0 < 0) k0 = 0;
            if (end > p.keys) end = p.keys;
            if (k0 >= end) continue;
            box.k0 = k0;
            box.nk = (int)(end - k0);
            if (!tile_scores(p, box, stage + 1, t)) continue;
            tile_gradients(p, box, stage + 1, t);
            if (threadIdx.x < CUDA_TILE) {
                for (int r = 0; r < box.nq; r++) {
                    const int64_t c = first + threadIdx.x + r - box.k0;
                    if (c >= 0 && c < box.nk) sum += t->g[r][c];
                }
            }
            __syncthreads();
        }
    }
    if (threadIdx.x < CUDA_TILE && own + threadIdx.x < count)
        sums[(box.batch * p.heads + box.head) * count + own + threadIdx.x] = sum;
}

/* ---- parameters of a user's stage ---- */

#if CUSTOM_STAGES

/* Gathers what a tile gives to the lines that the threads of the first warp own. */
template <typename T>
static __device__ inline void gather_params(const cuda_attention<T> &p, const cuda_param_sums<T> &w,
                                            const cuda_box &box, const cuda_tile<T> *t, T *own,
                                            int64_t lines) {
    const heed_sums sums = {w.param, own, w.numbers, lines};
#pragma unroll 1
    for (int i = 0; i < CUDA_TILE; i++) {
        const int r = w.keys ? i : (int)threadIdx.x, c = w.keys ? (int)threadIdx.x : i;
        if (!(t->seen[r] >> c & 1)) continue;
        const cuda_place at = {box.batch, box.head, box.q0 + r, box.k0 + c};
        user_backward(w.stage, before_stage(p, at, w.stage, t->slope[r][c]), t->g[r][c],
                      cell_of(p, at, w.stage), sums);
    }
}

ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    sum_params(const __grid_constant__ cuda_attention<T> p, const __grid_constant__ cuda_param_sums<T> w) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    const int64_t owned = w.keys ? p.keys : p.queries, others = w.keys ? p.queries : p.keys;
    const int64_t lines = w.strips * CUDA_TILE;
    T *own = w.sums + blockIdx.z * w.numbers * lines + blockIdx.x * CUDA_TILE + threadIdx.x % CUDA_TILE;
    if (threadIdx.x < CUDA_TILE)
        for (int64_t e = 0; e < w.numbers; e++) own[e * lines] = T(0);
#pragma unroll 1
    for (int64_t mine = (int64_t)blockIdx.x * CUDA_TILE; mine < owned; mine += lines) {
#pragma unroll 1
        for (int64_t other = 0; other < others; other += CUDA_TILE) {
            set_queries(p, w.keys ? other : mine, &box);
            set_keys(p, w.keys ? mine : other, &box);
            if (!tile_scores(p, box, w.stage + 1, t)) continue;
            tile_gradients(p, box, w.stage + 1, t);
            if (threadIdx.x < CUDA_TILE) gather_params(p, w, box, t, own, lines);
            __syncthreads();
        }
    }
}

#endif /* CUSTOM_STAGES */

/* ---- the sink ---- */

/* Queries that see nothing have a reciprocal of 0 and leave the sink alone. */
template <typename T> static __global__ void sink_sums(const __grid_constant__ cuda_attention<T> p, T *sums) {
    const int64_t rows = p.batch * p.heads * p.queries;
    for (int64_t i = CUDA_FIRST; i < rows; i += CUDA_STEP) {
        const int64_t q = i % p.queries, head = i / p.queries % p.heads, batch = i / p.queries / p.heads;
        const int64_t row = row_place(p, batch, head, q);
        const T sink = *at_row(p.sink, batch, head, 0);
        const bool none = p.reciprocal[row] == T(0) || sink == minus_infinity<T>();
        sums[i] = none ? T(0) : -exp(sink - p.maximum[row]) * p.reciprocal[row] * p.delta[row];
    }
}

/* ---- starting them ---- */

#ifdef HEED_CHOSEN
CHOSEN_KERNEL(sum_cells)
CHOSEN_KERNEL(sum_keys)
CHOSEN_KERNEL(sum_queries)
CHOSEN_KERNEL(sum_distances)
#if CUSTOM_STAGES
CHOSEN_KERNEL(sum_params)
#endif
#else

template <typename T>
heed_status cuda_attention_score_sums(struct heed_exec *exec, const struct cuda_choice *choice,
                                      const cuda_attention<T> &p, int stage, enum cuda_sum how,
                                      cuda_heads<T> gradient, bool add) {
    const int64_t pairs = p.batch * p.heads;
    if (how == CUDA_SUM_CELL) {
        const int64_t owners =
            (gradient.stride[0] == 0 ? 1 : p.batch) * (gradient.stride[1] == 0 ? 1 : p.heads);
        const dim3 grid((unsigned)cuda_tiles(p.queries), (unsigned)cuda_tiles(p.keys), (unsigned)owners);
        if (owners * p.queries * p.keys > 0)
            ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_cells, grid, CUDA_TILE_THREADS, p, stage,
                          gradient, add);
    } else if (how == CUDA_SUM_KEY && pairs * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_keys,
                      cuda_attention_grid(cuda_tiles(p.keys), 1, pairs), CUDA_TILE_THREADS, p, stage,
                      gradient.data);
    } else if (how == CUDA_SUM_QUERY && pairs * p.queries > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_queries,
                      cuda_attention_grid(cuda_tiles(p.queries), 1, pairs), CUDA_TILE_THREADS, p, stage,
                      gradient.data);
    } else if (how == CUDA_SUM_DISTANCE && pairs * p.queries * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_distances,
                      cuda_attention_grid(cuda_tiles(p.queries + p.keys - 1), 1, pairs), CUDA_TILE_THREADS, p,
                      stage, gradient.data);
    }
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_param_sums(struct heed_exec *exec, const struct cuda_choice *choice,
                                      const cuda_attention<T> &p, const cuda_param_sums<T> &to) {
    const dim3 grid((unsigned)to.strips, 1, (unsigned)(p.batch * p.heads));
    void (*const general)(cuda_attention<T>, cuda_param_sums<T>) = NULL; /* there is none */
    cudaKernel_t special;
    if (to.strips * p.batch * p.heads * to.numbers == 0) return HEED_OK;
    heed_status status = cuda_attention_kernel(exec, choice, CUDA_ATTENTION_SCORES, "sum_params", &special);
    if (status == HEED_OK)
        status = cuda_start_special(exec, special, general, grid, CUDA_TILE_THREADS, p, to);
    return status == HEED_OK ? cuda_started(exec, HEED_PRIMITIVE_ATTENTION) : status;
}

template <typename T>
heed_status cuda_attention_sink_sums(struct heed_exec *exec, const cuda_attention<T> &p, T *sums) {
    const int64_t rows = p.batch * p.heads * p.queries;
    if (rows == 0) return HEED_OK;
    CUDA_RUN(exec, sink_sums<T>, cuda_blocks(exec, rows), CUDA_BLOCK, 0, p, sums);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template heed_status cuda_attention_score_sums(struct heed_exec *, const struct cuda_choice *,
                                               const cuda_attention<float> &, int, enum cuda_sum,
                                               cuda_heads<float>, bool);
template heed_status cuda_attention_score_sums(struct heed_exec *, const struct cuda_choice *,
                                               const cuda_attention<double> &, int, enum cuda_sum,
                                               cuda_heads<double>, bool);
template heed_status cuda_attention_param_sums(struct heed_exec *, const struct cuda_choice *,
                                               const cuda_attention<float> &, const cuda_param_sums<float> &);
template heed_status cuda_attention_param_sums(struct heed_exec *, const struct cuda_choice *,
                                               const cuda_attention<double> &,
                                               const cuda_param_sums<double> &);
template heed_status cuda_attention_sink_sums(struct heed_exec *, const cuda_attention<float> &, float *);
template heed_status cuda_attention_sink_sums(struct heed_exec *, const cuda_attention<double> &, double *);
#endif
