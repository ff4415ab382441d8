/* Gradients of what is added to scores: the gradient ds of the score behind a stage, summed over the cells
 * that share an element of its tensor.
 *
 * A block owns what it writes and goes over all that is summed in order: a tile of keys over all queries, a
 * tile of queries over all keys, a stretch of distances over all queries, or a tile of cells over the batch
 * entries and heads that share it. Sums of one batch entry and head go to sums [batch, heads, count], from
 * where the sum over those is a copy to a repeated view (COPY). With w the sum of both widths: 2·w operations
 * per cell, 8·w/cuda_edge bytes from the second-level cache, and what is written once, by CELL 4 bytes a
 * cell. */
#include "backend/cuda/attention_tile.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/attention_choice.cuh"
#endif

/* The gradient of the scores of a tile behind a stage; `allowed`: its visible cells. What is not seen has 0.
 */
template <bool KEYS, typename T>
static __device__ inline void gradients_behind(const cuda_attention<T> &p, const cuda_box &box,
                                               unsigned allowed, int stage, cuda_tile<T> *t,
                                               cuda_cells<T> *g) {
    cuda_scores<T> s;
    tile_scores<KEYS>(p, box, allowed, stage + 1, t, &s);
    tile_gradients<KEYS>(p, box, stage + 1, t, &s, g);
}

/* The visible cells of a tile that lies anywhere; false if no thread has one. All threads call it. */
template <bool KEYS, typename T>
static __device__ inline bool look_at_tile(const cuda_attention<T> &p, const cuda_box &box,
                                           unsigned *allowed) {
    heed_cover cover = HEED_COVER_ALL;
    if (mask_count(p.mask) > 0) cover = cover_of_box(p, box, CUDA_MASK_GLANCE);
    if (cover == HEED_COVER_NONE) return false;
    *allowed = allowed_cells<KEYS>(p, box, cover == HEED_COVER_ALL);
    return __syncthreads_or(*allowed != 0) != 0;
}

/* ---- by cell ---- */

/* gradient has strides of 0 where it is shared. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    sum_cells(const __grid_constant__ cuda_attention<T> p, int stage, const cuda_heads<T> gradient,
              bool add) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const bool batches = gradient.stride[0] == 0, heads = gradient.stride[1] == 0;
    const int own_heads = heads ? 1 : (int)p.heads;
    cuda_box box = {};
    const int owner = set_tile(p, &box);
    const int first_batch = batches ? 0 : owner / own_heads, first_head = heads ? 0 : owner % own_heads;
    const int end_batch = batches ? (int)p.batch : first_batch + 1,
              end_head = heads ? (int)p.heads : first_head + 1;
    cuda_cells<T> sum = {};
#pragma unroll 1
    for (box.batch = first_batch; box.batch < end_batch; box.batch++) {
#pragma unroll 1
        for (box.head = first_head; box.head < end_head; box.head++) {
            unsigned allowed;
            cuda_cells<T> g;
            if (!look_at_tile<false>(p, box, &allowed)) continue;
            gradients_behind<false>(p, box, allowed, stage, t, &g);
#pragma unroll
            for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
                for (int j = 0; j < cuda_own_columns<T>; j++) sum.at[i][j] += g.at[i][j];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        T *row = at_row(gradient, first_batch, first_head, box.q0 + own_row(i));
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++) {
            if (own_row(i) >= box.nq || own_column(j) >= box.nk) continue;
            T *at = row + (box.k0 + own_column(j)) * gradient.stride[3];
            *at = add ? *at + sum.at[i][j] : sum.at[i][j];
        }
    }
}

/* ---- by key, by query ---- */

/* Sums of rows. */
template <bool KEYS, typename T>
static __device__ inline void sum_lines(const cuda_attention<T> &p, int stage, cuda_tile<T> *t, T *sums) {
    const cuda_turn turn = turn_of(p.batch * p.heads, p.processors);
    const int own = turn.piece * cuda_edge<T>;
    cuda_box box = box_of_pair(p, turn.pair);
    const int64_t count = KEYS ? p.keys : p.queries;
    T sum[CUDA_OWN_ROWS] = {};
    if (KEYS)
        set_keys(p, own, &box);
    else
        set_queries(p, own, &box);
    each_tile<KEYS>(p, &box, [&](unsigned allowed) {
        cuda_cells<T> g;
        gradients_behind<KEYS>(p, box, allowed, stage, t, &g);
#pragma unroll
        for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < cuda_own_columns<T>; j++) sum[i] += g.at[i][j];
        }
    });
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        const T all = row_sum(sum[i]);
        if (row_lane() == 0 && own_row(i) < box_rows<KEYS>(box))
            sums[(box.batch * p.heads + box.head) * count + own + own_row(i)] = all;
    }
}

ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    sum_keys(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, shared, 1);
    sum_lines<true>(p, stage, shared, sums);
}

ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    sum_queries(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, shared, 1);
    sum_lines<false>(p, stage, shared, sums);
}

/* ---- by distance ---- */

/* The cuda_edge distances from `own` on, counted from that of the last query to the first key; four threads
 * have one, each a quarter of the rows. For a tile of queries these distances lie in two tiles of keys side
 * by side. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    sum_distances(const __grid_constant__ cuda_attention<T> p, int stage, T *sums) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const cuda_turn turn = turn_of(p.batch * p.heads, p.processors);
    cuda_box box = box_of_pair(p, turn.pair);
    const int own = turn.piece * cuda_edge<T>, queries = (int)p.queries, keys = (int)p.keys;
    const int distance = threadIdx.x / 4, quarter = threadIdx.x % 4;
    T sum = T(0);
#pragma unroll 1
    for (int q0 = 0; q0 < queries; q0 += cuda_edge<T>) {
        set_queries(p, q0, &box);
        /* Key of query q0 at distance own; of later queries it is further on. */
        const int first = own - (queries - 1) + q0;
#pragma unroll 1
        for (int side = 0; side < 2; side++) {
            int k0 = first + side * cuda_edge<T>, end = k0 + cuda_edge<T>;
            unsigned allowed;
            cuda_cells<T> g;
            if (k0 < 0) k0 = 0;
            if (end > keys) end = keys;
            if (k0 >= end) continue;
            box.k0 = k0;
            box.nk = end - k0;
            if (!look_at_tile<false>(p, box, &allowed)) continue;
            gradients_behind<false>(p, box, allowed, stage, t, &g);
            __syncthreads(); /* the cells before have been read */
            share_cells(g, t);
            __syncthreads();
#pragma unroll 1
            for (int r = quarter; r < box.nq; r += 4) {
                const int c = first + distance + r - box.k0;
                if (c >= 0 && c < box.nk) sum += t->cells[r][c];
            }
        }
    }
    for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (quarter == 0 && own + distance < queries + keys - 1)
        sums[(box.batch * p.heads + box.head) * (p.queries + p.keys - 1) + own + distance] = sum;
}

/* ---- parameters of a user's stage ---- */

#if CUSTOM_STAGES

/* Gathers what a tile gives to the lines of its rows, whose threads take turns. */
template <bool KEYS, typename T>
static __device__ inline void gather_params(const cuda_attention<T> &p, const cuda_param_sums<T> &w,
                                            const cuda_box &box, const cuda_scores<T> &s, unsigned seen,
                                            const cuda_cells<T> &g, T *own, int64_t lines) {
#pragma unroll 1
    for (int turn = 0; turn < CUDA_ROW_THREADS; turn++) {
#pragma unroll
        for (int i = 0; i < CUDA_OWN_ROWS; i++) {
            const heed_sums sums = {w.param, own + own_row(i), w.numbers, lines};
#pragma unroll
            for (int j = 0; j < cuda_own_columns<T>; j++) {
                if (turn != row_lane() || !has_cell<T>(seen, i, j)) continue;
                const cuda_place at = place_of<KEYS>(box, i, j);
                user_backward(w.stage, through_stages(p, at, w.stage, s.kept.at[i][j]), g.at[i][j],
                              cell_of(p, at, w.stage), sums);
            }
        }
        __syncwarp();
    }
}

template <bool KEYS, typename T>
static __device__ inline void sum_param(const cuda_attention<T> &p, const cuda_param_sums<T> &w,
                                        cuda_tile<T> *t) {
    const int pair = (int)(blockIdx.x / w.strips), strip = (int)(blockIdx.x % w.strips);
    cuda_box box = box_of_pair(p, pair);
    const int owned = (int)(KEYS ? p.keys : p.queries), lines = (int)w.strips * cuda_edge<T>;
    T *own = w.sums + pair * w.numbers * lines + strip * cuda_edge<T>;
    for (int64_t e = threadIdx.x; e < w.numbers * cuda_edge<T>; e += cuda_tile_threads<T>)
        own[e / cuda_edge<T> * lines + e % cuda_edge<T>] = T(0);
    __syncthreads();
#pragma unroll 1
    for (int mine = strip * cuda_edge<T>; mine < owned; mine += lines) {
        if (KEYS)
            set_keys(p, mine, &box);
        else
            set_queries(p, mine, &box);
        each_tile<KEYS>(p, &box, [&](unsigned allowed) {
            cuda_scores<T> s;
            cuda_cells<T> g;
            tile_scores<KEYS>(p, box, allowed, w.stage + 1, t, &s);
            const unsigned seen = seen_cells(s.score);
            tile_gradients<KEYS>(p, box, w.stage + 1, t, &s, &g);
            gather_params<KEYS>(p, w, box, s, seen, g, own, lines);
        });
    }
}

ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    sum_params(const __grid_constant__ cuda_attention<T> p, const __grid_constant__ cuda_param_sums<T> w) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    if (w.keys)
        sum_param<true>(p, w, t);
    else
        sum_param<false>(p, w, t);
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
        if (owners * p.queries * p.keys > 0)
            ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_cells, cuda_matrix_grid(p, owners),
                          cuda_tile_threads<T>, p, stage, gradient, add);
    } else if (how == CUDA_SUM_KEY && pairs * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_keys,
                      cuda_attention_grid(cuda_tiles<T>(p.keys), 1, pairs), cuda_tile_threads<T>, p, stage,
                      gradient.data);
    } else if (how == CUDA_SUM_QUERY && pairs * p.queries > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_queries,
                      cuda_attention_grid(cuda_tiles<T>(p.queries), 1, pairs), cuda_tile_threads<T>, p, stage,
                      gradient.data);
    } else if (how == CUDA_SUM_DISTANCE && pairs * p.queries * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_SCORES, sum_distances,
                      cuda_attention_grid(cuda_tiles<T>(p.queries + p.keys - 1), 1, pairs),
                      cuda_tile_threads<T>, p, stage, gradient.data);
    }
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_param_sums(struct heed_exec *exec, const struct cuda_choice *choice,
                                      const cuda_attention<T> &p, const cuda_param_sums<T> &to) {
    const dim3 grid((unsigned)(to.strips * p.batch * p.heads));
    void (*const general)(cuda_attention<T>, cuda_param_sums<T>) = NULL; /* there is none */
    cudaKernel_t special;
    if (to.strips * p.batch * p.heads * to.numbers == 0) return HEED_OK;
    heed_status status = cuda_attention_kernel(exec, choice, CUDA_ATTENTION_SCORES, "sum_params", &special);
    if (status == HEED_OK)
        status = cuda_start_special(exec, special, general, grid, cuda_tile_threads<T>, p, to);
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
