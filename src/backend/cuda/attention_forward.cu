/* y = normaliser(scores)·v, tile by tile, with a running maximum and sum (Milakov and Gimelshein 2018,
 * "Online normalizer calculation for softmax"); and the weights, once the statistics are known.
 *
 * A block makes CUDA_TILE queries × CUDA_VALUE_COLUMNS columns of y: it reads q once per slice and all
 * visible keys and values, (2·width + 2·columns) operations per cell and 4·(width + columns)/32 bytes from
 * the second-level cache. Wider values make the scores once per CUDA_VALUE_COLUMNS columns. */
#include "backend/cuda/attention.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/attention_choice.cuh"
#endif

/* Scores to unnormalised weights (after dropout), row by row: four threads to a row. t->row: maximum, sum,
 * and what the output so far is multiplied with. */
template <typename T>
static __device__ inline void online_softmax(const cuda_attention<T> &p, const cuda_box &box,
                                             cuda_tile<T> *t) {
    const int r = threadIdx.x / 4, part = threadIdx.x % 4;
    const T before = t->row[0][r];
    T most = before;
    for (int c = part; c < CUDA_TILE; c += 4) {
        const T s = t->s[r][c];
        if (s > most) most = s; /* NaN does not move the maximum; it comes back in the sum */
    }
    for (int step = 1; step < 4; step *= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, most, step);
        if (other > most) most = other;
    }
    const T base = most == minus_infinity<T>() ? T(0) : most;
    T sum = T(0);
    for (int c = part; c < CUDA_TILE; c += 4) {
        const T s = t->s[r][c], e = s == minus_infinity<T>() ? T(0) : exp(s - base);
        sum += e;
        t->s[r][c] = e * keep_factor(p, box, r, c);
    }
    for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    __syncwarp();
    if (part == 0) {
        const T factor = before == minus_infinity<T>() ? T(0) : exp(before - most);
        t->row[2][r] = factor;
        t->row[1][r] = t->row[1][r] * factor + sum;
        t->row[0][r] = most;
    }
    __syncthreads();
}

template <typename T>
static __device__ inline void weigh(const cuda_attention<T> &p, const cuda_box &box, cuda_tile<T> *t) {
    const int c = threadIdx.x % CUDA_TILE;
    for (int r = threadIdx.x / CUDA_TILE; r < CUDA_TILE; r += CUDA_TILE_THREADS / CUDA_TILE)
        t->s[r][c] = weight_of(normalizer_of(p), t->s[r][c], T(0), T(1)) * keep_factor(p, box, r, c);
    if (threadIdx.x < CUDA_TILE) t->row[2][threadIdx.x] = T(1);
    __syncthreads();
}

/* Joins the sink and leaves in t->row: the reciprocal of the sum, and what the output is still multiplied
 * with. */
template <typename T>
static __device__ inline void finish_rows(const cuda_attention<T> &p, const cuda_box &box, bool writes,
                                          cuda_tile<T> *t) {
    const int r = threadIdx.x;
    if (r < box.nq) {
        const int64_t row = row_place(p, box.batch, box.head, box.q0 + r);
        T base = t->row[0][r], sum = t->row[1][r], rescale = T(1), reciprocal = T(0),
          lse = minus_infinity<T>();
        if (normalizer_of(p) != HEED_NORMALIZER_SOFTMAX) {
            base = T(0);
            reciprocal = T(1);
        } else if (sum != T(0)) {
            if (base == minus_infinity<T>()) base = T(0);
            if (p.sink.data) {
                const T sink = *at_row(p.sink, box.batch, box.head, 0), found = base;
                if (!(sink <= base)) base = sink; /* NaN too, which makes the row NaN */
                rescale = exp(found - base);
                sum = sum * rescale + (sink == minus_infinity<T>() ? T(0) : exp(sink - base));
            }
            reciprocal = T(1) / sum;
            lse = base + log(sum);
        } else {
            base = T(0);
        }
        t->row[2][r] = reciprocal * rescale;
        if (writes) {
            p.maximum[row] = base;
            p.reciprocal[row] = reciprocal;
            if (p.lse) p.lse[row] = lse;
        }
    }
    __syncthreads();
}

ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    forward(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    set_queries(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    const int64_t column = (int64_t)blockIdx.y * CUDA_VALUE_COLUMNS;
    T sum[4][4] = {};
    if (threadIdx.x < CUDA_TILE) {
        t->row[0][threadIdx.x] = minus_infinity<T>();
        t->row[1][threadIdx.x] = T(0);
    }
    __syncthreads();
#pragma unroll 1
    for (int64_t k0 = 0; k0 < p.keys; k0 += CUDA_TILE) {
        set_keys(p, k0, &box);
        if (!tile_scores(p, box, 0, t)) continue;
        if (normalizer_of(p) == HEED_NORMALIZER_SOFTMAX) {
            online_softmax(p, box, t);
        } else {
            weigh(p, box, t);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const T factor = t->row[2][thread_row() + 8 * i];
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] *= factor;
        }
        add_products<T, false>(t, t->s, at_row(p.v, box.batch, kv_head_of(p, box.head), box.k0),
                               p.v.stride[2], box.nk, column, p.value_width, sum);
        __syncthreads();
    }
    finish_rows(p, box, blockIdx.y == 0, t);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const T factor = t->row[2][thread_row() + 8 * i];
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] *= factor;
    }
    store_block(at_row(p.y, box.batch, box.head, box.q0), p.y.stride[2], box.nq, column, p.value_width, T(1),
                false, sum);
}

/* ---- weights ---- */

/* One tile of the matrix of weights, after dropout. */
ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    weights(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    set_queries(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    set_keys(p, (int64_t)blockIdx.y * CUDA_TILE, &box);
    const bool seen = tile_scores(p, box, 0, t);
    const int c = threadIdx.x % CUDA_TILE;
    for (int r = threadIdx.x / CUDA_TILE; r < box.nq; r += CUDA_TILE_THREADS / CUDA_TILE) {
        const int64_t row = row_place(p, box.batch, box.head, box.q0 + r);
        if (c >= box.nk) continue;
        at_row(p.weights, box.batch, box.head, box.q0 + r)[box.k0 + c] =
            seen && (t->seen[r] >> c & 1)
                ? weight_of(normalizer_of(p), t->s[r][c], p.maximum[row], p.reciprocal[row]) *
                      keep_factor(p, box, r, c)
                : T(0);
    }
}

/* ---- some weights, and sums of columns ---- */

template <typename T>
static __device__ inline T weight_of_cell(const cuda_attention<T> &p, int64_t batch, int64_t head, int64_t q,
                                          int64_t k) {
    cuda_box box = {batch, head, q, k, 1, 1};
    if (!cuda_mask_allows(p.mask, p.first_batch + batch, head, q, k)) return T(0);
    const T *a = at_row(p.q, batch, head, q), *b = at_row(p.k, batch, kv_head_of(p, head), k);
    T s = T(0), slope;
    for (int64_t i = 0; i < p.width; i++) s += a[i] * b[i];
    s = through_stages(p, {batch, head, q, k}, 0, s * p.scale, &slope);
    const int64_t row = row_place(p, batch, head, q);
    return s == minus_infinity<T>() ? T(0)
                                    : weight_of(normalizer_of(p), s, p.maximum[row], p.reciprocal[row]) *
                                          keep_factor(p, box, 0, 0);
}

/* A thread owns a key of a chosen head: it goes over the chosen queries in order. */
ATTENTION_KERNEL chosen_columns(const __grid_constant__ cuda_attention<T> p, const cuda_chosen<T> w) {
    const int64_t all = p.batch * w.heads * p.keys;
    for (int64_t i = CUDA_FIRST; i < all; i += CUDA_STEP) {
        const int64_t k = i % p.keys, line = i / p.keys, batch = line / w.heads;
        const int64_t head = w.head_list ? w.head_list[line % w.heads] : line % w.heads;
        T sum = T(0);
        for (int64_t j = 0; j < w.queries; j++) {
            const T weight = weight_of_cell(p, batch, head, w.query_list ? w.query_list[j] : j, k);
            if (w.chosen) w.chosen[(line * w.queries + j) * p.keys + k] = weight;
            sum += weight;
        }
        if (w.columns) w.columns[i] = sum;
    }
}

/* ---- starting them ---- */

#ifdef HEED_CHOSEN
CHOSEN_KERNEL(forward)
CHOSEN_KERNEL(weights)
CHOSEN_KERNEL(chosen_columns)
#else

template <typename T>
heed_status cuda_attention_forward(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const cuda_attention<T> &p) {
    if (p.batch * p.heads * p.queries == 0) return HEED_OK;
    ATTENTION_RUN(exec, choice, CUDA_ATTENTION_FORWARD, forward,
                  cuda_attention_grid(cuda_tiles(p.queries), p.value_width, p.batch * p.heads),
                  CUDA_TILE_THREADS, p);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_weights(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const cuda_attention<T> &p) {
    if (p.batch * p.heads * p.queries * p.keys == 0) return HEED_OK;
    const dim3 grid((unsigned)cuda_tiles(p.queries), (unsigned)cuda_tiles(p.keys),
                    (unsigned)(p.batch * p.heads));
    ATTENTION_RUN(exec, choice, CUDA_ATTENTION_FORWARD, weights, grid, CUDA_TILE_THREADS, p);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_chosen(struct heed_exec *exec, const struct cuda_choice *choice,
                                  const cuda_attention<T> &p, const cuda_chosen<T> &chosen) {
    const int64_t all = p.batch * chosen.heads * p.keys;
    if (all == 0) return HEED_OK;
    ATTENTION_RUN(exec, choice, CUDA_ATTENTION_FORWARD, chosen_columns, cuda_blocks(exec, all), CUDA_BLOCK, p,
                  chosen);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template heed_status cuda_attention_forward(struct heed_exec *, const struct cuda_choice *,
                                            const cuda_attention<float> &);
template heed_status cuda_attention_forward(struct heed_exec *, const struct cuda_choice *,
                                            const cuda_attention<double> &);
template heed_status cuda_attention_weights(struct heed_exec *, const struct cuda_choice *,
                                            const cuda_attention<float> &);
template heed_status cuda_attention_weights(struct heed_exec *, const struct cuda_choice *,
                                            const cuda_attention<double> &);
template heed_status cuda_attention_chosen(struct heed_exec *, const struct cuda_choice *,
                                           const cuda_attention<float> &, const cuda_chosen<float> &);
template heed_status cuda_attention_chosen(struct heed_exec *, const struct cuda_choice *,
                                           const cuda_attention<double> &, const cuda_chosen<double> &);
#endif
