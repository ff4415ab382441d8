/* y = normaliser(scores)·v, tile by tile, with a running maximum and sum (Milakov and Gimelshein 2018,
 * "Online normalizer calculation for softmax"); and the weights, once the statistics are known.
 *
 * A block makes cuda_edge queries × CUDA_VALUE_COLUMNS columns of y: (2·width + 2·columns) operations per
 * cell, and 4·(2·width + columns)/cuda_edge bytes from the second-level cache. Wider values make the scores
 * once per CUDA_VALUE_COLUMNS columns. Where queries are too few to keep a device busy, blocks share the keys
 * of a tile and their sums are joined afterwards (Dao et al. 2023, "Flash-Decoding for long-context
 * inference"). */
#include "backend/cuda/attention_tile.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/attention_choice.cuh"
#endif

/* What is known of a thread's rows: the largest score so far, and Σ e^(score − it). The threads of a row have
 * the same. */
template <typename T> struct row_state { T most[CUDA_OWN_ROWS], sum[CUDA_OWN_ROWS]; };

/* The largest number of a row, from what its threads have of it. */
template <typename T> static __device__ inline T row_most(T most) {
#pragma unroll
    for (int step = 2; step < 2 * CUDA_ROW_THREADS; step *= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, most, step);
        if (other > most) most = other;
    }
    return most;
}

/* Scores to unnormalised weights (after dropout); sums so far are brought to the new maximum. */
template <typename T>
static __device__ inline void online_softmax(const cuda_attention<T> &p, unsigned kept, cuda_cells<T> *cells,
                                             row_state<T> *rows, cuda_sums<T> *sums) {
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        const T before = rows->most[i];
        T most = before, sum = T(0);
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++)
            if (cells->at[i][j] > most)
                most = cells->at[i][j]; /* NaN does not move it; it comes back in the sum */
        most = row_most(most);
        const T base = most == minus_infinity<T>() ? T(0) : most;
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++) {
            const T e = exp(cells->at[i][j] - base); /* 0 of −∞ */
            sum += e;
            cells->at[i][j] = e * keep_factor(p, kept, i, j);
        }
        const T factor = before == minus_infinity<T>() ? T(0) : exp(before - most);
        rows->most[i] = most;
        rows->sum[i] = rows->sum[i] * factor + row_sum(sum);
#pragma unroll
        for (int n = 0; n < CUDA_VALUE_COLUMNS / CUDA_ROW_THREADS; n++) sums->at[i][n] *= factor;
    }
}

template <typename T>
static __device__ inline void weigh(const cuda_attention<T> &p, unsigned kept, cuda_cells<T> *cells) {
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++)
            cells->at[i][j] =
                weight_of(normalizer_of(p), cells->at[i][j], T(0), T(1)) * keep_factor(p, kept, i, j);
    }
}

/* Joins the sink with the largest score and the sum of a row, and keeps its statistics (`writes`). Returns
 * what the unnormalised output is multiplied with. */
template <typename T>
static __device__ inline T finish_row(const cuda_attention<T> &p, int batch, int head, int64_t query,
                                      bool writes, T most, T sum) {
    T base = most, rescale = T(1), reciprocal = T(0), lse = minus_infinity<T>();
    if (normalizer_of(p) != HEED_NORMALIZER_SOFTMAX) {
        base = T(0);
        reciprocal = T(1);
    } else if (sum != T(0)) {
        if (base == minus_infinity<T>()) base = T(0);
        if (p.sink.data) {
            const T sink = *at_row(p.sink, batch, head, 0), found = base;
            if (!(sink <= base)) base = sink; /* NaN too, which makes the row NaN */
            rescale = exp(found - base);
            sum = sum * rescale + (sink == minus_infinity<T>() ? T(0) : exp(sink - base));
        }
        reciprocal = T(1) / sum;
        lse = base + log(sum);
    } else {
        base = T(0);
    }
    if (writes) {
        const int64_t row = row_place(p, batch, head, query);
        p.maximum[row] = base;
        p.reciprocal[row] = reciprocal;
        if (p.lse) p.lse[row] = lse;
    }
    return reciprocal * rescale;
}

/* What the splits of a row have found. */
template <typename T>
static __device__ inline T *parts_of(const cuda_attention<T> &p, int batch, int head, int64_t query,
                                     int split) {
    return p.parts +
           (((batch * p.heads + head) * p.queries + query) * p.splits + split) * (2 + p.value_width);
}

template <typename T>
static __device__ inline void store_part(const cuda_attention<T> &p, const cuda_box &box, int split,
                                         int column, const row_state<T> &rows, const cuda_sums<T> &sums) {
    T *parts = parts_of(p, box.batch, box.head, box.q0, split);
    const int64_t row = p.splits * (2 + p.value_width);
    store_sums(parts + 2, row, box.nq, column, p.value_width, T(1), false, sums);
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        if (own_row(i) >= box.nq || row_lane() != 0 || column != 0) continue;
        parts[own_row(i) * row] = rows.most[i];
        parts[own_row(i) * row + 1] = rows.sum[i];
    }
}

/* The last tiles of queries come first: of a causal mask they are the longest. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, CUDA_FORWARD_BLOCKS)
    forward(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const cuda_turn turn = turn_of(p.batch * p.heads, p.processors);
    const int column = (int)blockIdx.y * CUDA_VALUE_COLUMNS, split = turn.piece % p.splits;
    const int tiles = ((int)p.keys + cuda_edge<T> - 1) / cuda_edge<T>,
              last = ((int)p.queries - 1) / cuda_edge<T>;
    const int first = (int)((int64_t)tiles * split / p.splits),
              end = (int)((int64_t)tiles * (split + 1) / p.splits);
    cuda_box box = box_of_pair(p, turn.pair);
    row_state<T> rows;
    cuda_sums<T> sums = {};
    set_queries(p, (last - turn.piece / p.splits) * cuda_edge<T>, &box);
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        rows.most[i] = minus_infinity<T>();
        rows.sum[i] = T(0);
    }
    tiles_between<false>(p, first, end, &box, [&](unsigned allowed) {
        cuda_scores<T> s;
        const unsigned kept = kept_cells<false>(p, box);
        tile_scores<false>(p, box, allowed, 0, t, &s);
        const unsigned seen = seen_cells(s.score);
        if (normalizer_of(p) == HEED_NORMALIZER_SOFTMAX)
            online_softmax(p, kept, &s.score, &rows, &sums);
        else
            weigh(p, kept, &s.score);
        share_cells(s.score, t);
        add_products(t, seen, at_row(p.v, box.batch, kv_head_of(p, box.head), box.k0), p.v.stride[2], box.nq,
                     box.nk, column, p.value_width, &sums);
    });
    if (p.splits > 1) {
        store_part(p, box, split, column, rows, sums);
        return;
    }
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        if (own_row(i) >= box.nq) continue;
        const T factor = finish_row(p, box.batch, box.head, box.q0 + own_row(i),
                                    row_lane() == 0 && column == 0, rows.most[i], rows.sum[i]);
#pragma unroll
        for (int n = 0; n < CUDA_VALUE_COLUMNS / CUDA_ROW_THREADS; n++) sums.at[i][n] *= factor;
    }
    store_sums(at_row(p.y, box.batch, box.head, box.q0), p.y.stride[2], box.nq, column, p.value_width, T(1),
               false, sums);
}

#ifndef HEED_CHOSEN
/* What multiplies the sums of a split when they join those of a row. */
template <typename T> static __device__ inline T split_factor(const cuda_attention<T> &p, T own, T most) {
    if (p.normalizer != HEED_NORMALIZER_SOFTMAX) return T(1);
    return own == minus_infinity<T>() ? T(0) : exp(own - most);
}

/* A warp joins the splits of a row, in order. */
template <typename T> static __global__ void join_splits(const __grid_constant__ cuda_attention<T> p) {
    const int64_t rows = p.batch * p.heads * p.queries, step = CUDA_STEP / HEED_WARP,
                  line = 2 + p.value_width;
    const int lane = threadIdx.x % HEED_WARP;
    for (int64_t i = CUDA_FIRST / HEED_WARP; i < rows; i += step) {
        const int64_t q = i % p.queries;
        const int head = (int)(i / p.queries % p.heads), batch = (int)(i / p.queries / p.heads);
        const T *parts = parts_of(p, batch, head, q, 0);
        T most = minus_infinity<T>(), sum = T(0);
        for (int s = 0; s < p.splits; s++)
            if (parts[s * line] > most) most = parts[s * line];
        for (int s = 0; s < p.splits; s++)
            sum += parts[s * line + 1] * split_factor(p, parts[s * line], most);
        const T factor = finish_row(p, batch, head, q, lane == 0, most, sum);
        T *y = at_row(p.y, batch, head, q);
        for (int64_t c = lane; c < p.value_width; c += HEED_WARP) {
            T all = T(0);
            for (int s = 0; s < p.splits; s++)
                all += parts[s * line + 2 + c] * split_factor(p, parts[s * line], most);
            y[c] = all * factor;
        }
    }
}
#endif

/* ---- weights ---- */

/* One tile of the matrix of weights, after dropout. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, CUDA_FORWARD_BLOCKS)
    weights(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box tile, box = box_of_pair(p, set_tile(p, &tile));
    set_queries(p, tile.q0, &box);
    set_keys(p, tile.k0, &box);
    const unsigned allowed = allowed_cells<false>(p, box, mask_count(p.mask) == 0),
                   kept = kept_cells<false>(p, box);
    cuda_scores<T> s = {};
    tile_scores<false>(p, box, allowed, 0, t, &s);
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        if (own_row(i) >= box.nq) continue;
        const int64_t row = row_place(p, box.batch, box.head, box.q0 + own_row(i));
        T *to = at_row(p.weights, box.batch, box.head, box.q0 + own_row(i)) + box.k0;
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++)
            if (own_column(j) < box.nk)
                to[own_column(j)] =
                    weight_of(normalizer_of(p), s.score.at[i][j], p.maximum[row], p.reciprocal[row]) *
                    keep_factor(p, kept, i, j);
    }
}

/* ---- some weights, and sums of columns ---- */

/* What dropout multiplies the weight of a cell with. */
template <typename T>
static __device__ inline T kept_factor(const cuda_attention<T> &p, int64_t batch, int64_t head, int64_t q,
                                       int64_t k) {
    if (!CHOSEN(HEED_CHOSEN_DROPS, p.threshold < 65536)) return T(1);
    uint32_t word[4];
    cuda_attention_block(p.random, (uint32_t)q, (uint32_t)k,
                         (uint32_t)((p.first_batch + batch) * p.heads + head), word);
    return cuda_keep(word, cuda_attention_half((uint32_t)k), p.threshold) ? p.keep_scale : T(0);
}

template <typename T>
static __device__ inline T weight_of_cell(const cuda_attention<T> &p, int64_t batch, int64_t head, int64_t q,
                                          int64_t k) {
    if (!cuda_mask_allows(p.mask, p.first_batch + batch, head, q, k)) return T(0);
    const T *a = at_row(p.q, batch, head, q), *b = at_row(p.k, batch, kv_head_of(p, head), k);
    T s = T(0);
    for (int64_t i = 0; i < p.width; i++) s += a[i] * b[i];
    s = through_stages(p, {batch, head, q, k}, stage_count(p), s * p.scale);
    const int64_t row = row_place(p, batch, head, q);
    return s == minus_infinity<T>() ? T(0)
                                    : weight_of(normalizer_of(p), s, p.maximum[row], p.reciprocal[row]) *
                                          kept_factor(p, batch, head, q, k);
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
    const int64_t rows = p.batch * p.heads * p.queries;
    if (rows == 0) return HEED_OK;
    ATTENTION_RUN(exec, choice, CUDA_ATTENTION_FORWARD, forward,
                  cuda_attention_grid(cuda_tiles<T>(p.queries) * p.splits, p.value_width, p.batch * p.heads),
                  cuda_tile_threads<T>, p);
    if (p.splits > 1) CUDA_RUN(exec, join_splits<T>, cuda_blocks(exec, rows * HEED_WARP), CUDA_BLOCK, 0, p);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_weights(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const cuda_attention<T> &p) {
    if (p.batch * p.heads * p.queries * p.keys == 0) return HEED_OK;
    ATTENTION_RUN(exec, choice, CUDA_ATTENTION_FORWARD, weights, cuda_matrix_grid(p, p.batch * p.heads),
                  cuda_tile_threads<T>, p);
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
