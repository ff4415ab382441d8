/* With p the probabilities, w = dropout · p the weights, dw = dy·vᵀ + dweights, and ds = p · (dropout · dw −
 * delta) times the slope of the stages: dv = wᵀ·dy, dk = scale · dsᵀ·q, dq = scale · ds·k; delta = Σ over
 * keys of p · dropout · dw, which is Σ dy·y for a gradient of the output alone (Dao et al. 2022,
 * "FlashAttention", section B.2), less the gradient of the logarithm of the sum.
 *
 * A block owns a tile of queries (dq) or of keys (dk, dv), and CUDA_VALUE_COLUMNS columns of the result;
 * wider ones make the scores once per CUDA_VALUE_COLUMNS columns. With w the sum of both widths: dq takes
 * 2·w + 2·columns operations per cell and 4·(2·w + columns)/cuda_edge bytes from the second-level cache, dk
 * and dv 2·w + 4·columns and 4·(2·w + 2·columns)/cuda_edge. delta reads y and dy once. */
#include "backend/cuda/attention_tile.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/attention_choice.cuh"
#endif

/* ---- delta ---- */

/* A warp for each row: Σ dy·y − dlse. */
template <typename T>
static __global__ void delta_of_output(const __grid_constant__ cuda_attention<T> p,
                                       const cuda_heads<const T> y) {
    const int64_t rows = p.batch * p.heads * p.queries, step = CUDA_STEP / HEED_WARP;
    const int lane = threadIdx.x % HEED_WARP;
    for (int64_t i = CUDA_FIRST / HEED_WARP; i < rows; i += step) {
        const int64_t q = i % p.queries, head = i / p.queries % p.heads, batch = i / p.queries / p.heads;
        T sum = T(0);
        if (p.dy.data) {
            const T *a = at_row(p.dy, batch, head, q), *b = at_row(y, batch, head, q);
            for (int64_t j = lane; j < p.value_width; j += HEED_WARP) sum += a[j] * b[j];
        }
        for (int distance = HEED_WARP / 2; distance > 0; distance /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        const int64_t row = row_place(p, batch, head, q);
        if (lane == 0) p.delta[row] = sum - (p.dlse ? p.dlse[row] : T(0));
    }
}

/* Adds Σ over keys of weight · dweights. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    delta_of_weights(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const cuda_turn turn = turn_of(p.batch * p.heads, p.processors);
    cuda_box box = box_of_pair(p, turn.pair);
    set_queries(p, turn.piece * cuda_edge<T>, &box);
    T sum[CUDA_OWN_ROWS] = {};
    each_tile<false>(p, &box, [&](unsigned allowed) {
        cuda_scores<T> s;
        const unsigned kept = kept_cells<false>(p, box);
        tile_scores<false>(p, box, allowed, 0, t, &s);
#pragma unroll
        for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < cuda_own_columns<T>; j++) {
                const T score = s.score.at[i][j];
                if (score == minus_infinity<T>()) continue;
                const int64_t q = box.q0 + own_row(i), row = row_place(p, box.batch, box.head, q);
                sum[i] += weight_of(normalizer_of(p), score, p.maximum[row], p.reciprocal[row]) *
                          keep_factor(p, kept, i, j) *
                          at_row(p.dweights, box.batch, box.head, q)[box.k0 + own_column(j)];
            }
        }
    });
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        const T all = row_sum(sum[i]);
        if (row_lane() == 0 && own_row(i) < box.nq)
            p.delta[row_place(p, box.batch, box.head, box.q0 + own_row(i))] += all;
    }
}

/* ---- queries ---- */

ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    backward_queries(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const cuda_turn turn = turn_of(p.batch * p.heads, p.processors);
    cuda_box box = box_of_pair(p, turn.pair);
    set_queries(p, (((int)p.queries - 1) / cuda_edge<T> - turn.piece) * cuda_edge<T>, &box);
    const int column = (int)blockIdx.y * CUDA_VALUE_COLUMNS;
    cuda_sums<T> sums = {};
    each_tile<false>(p, &box, [&](unsigned allowed) {
        cuda_scores<T> s;
        cuda_cells<T> g;
        tile_scores<false>(p, box, allowed, 0, t, &s);
        const unsigned seen = seen_cells(s.score);
        tile_gradients<false>(p, box, 0, t, &s, &g);
        share_cells(g, t);
        add_products(t, seen, at_row(p.k, box.batch, kv_head_of(p, box.head), box.k0), p.k.stride[2], box.nq,
                     box.nk, column, p.width, &sums);
    });
    store_sums(at_row(p.dq, box.batch, box.head, box.q0), p.dq.stride[2], box.nq, column, p.width, p.scale,
               p.add_dq, sums);
}

/* ---- keys ---- */

/* All query heads of a group, in order. */
ATTENTION_KERNEL __launch_bounds__(cuda_tile_threads<T>, 1)
    backward_keys(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    const cuda_turn turn = turn_of(p.batch * p.kv_heads, p.processors);
    const int kv_heads = (int)p.kv_heads, kv_head = turn.pair % kv_heads, group = (int)p.heads / kv_heads;
    cuda_box box = {};
    box.batch = turn.pair / kv_heads;
    set_keys(p, turn.piece * cuda_edge<T>, &box);
    const int column = (int)blockIdx.y * CUDA_VALUE_COLUMNS;
    const bool dk = p.dk.data && column < p.width, dv = p.dv.data && p.dy.data && column < p.value_width;
    cuda_sums<T> sums_k = {}, sums_v = {};
#pragma unroll 1
    for (box.head = kv_head * group; box.head < (kv_head + 1) * group; box.head++) {
        each_tile<true>(p, &box, [&](unsigned allowed) {
            cuda_scores<T> s;
            cuda_cells<T> g;
            tile_scores<true>(p, box, allowed, 0, t, &s);
            const unsigned seen = seen_cells(s.score);
            tile_gradients<true>(p, box, 0, t, &s, &g);
            if (dv) {
                share_cells(s.score, t);
                add_products(t, seen, at_row(p.dy, box.batch, box.head, box.q0), p.dy.stride[2], box.nk,
                             box.nq, column, p.value_width, &sums_v);
            }
            if (dk) {
                share_cells(g, t);
                add_products(t, seen, at_row(p.q, box.batch, box.head, box.q0), p.q.stride[2], box.nk, box.nq,
                             column, p.width, &sums_k);
            }
        });
    }
    if (p.dk.data)
        store_sums(at_row(p.dk, box.batch, kv_head, box.k0), p.dk.stride[2], box.nk, column, p.width, p.scale,
                   p.add_dk, sums_k);
    if (p.dv.data)
        store_sums(at_row(p.dv, box.batch, kv_head, box.k0), p.dv.stride[2], box.nk, column, p.value_width,
                   T(1), p.add_dv, sums_v);
}

/* ---- starting them ---- */

#ifdef HEED_CHOSEN
CHOSEN_KERNEL(delta_of_weights)
CHOSEN_KERNEL(backward_queries)
CHOSEN_KERNEL(backward_keys)
#else

template <typename T>
heed_status cuda_attention_delta(struct heed_exec *exec, const struct cuda_choice *choice,
                                 const cuda_attention<T> &p) {
    const int64_t rows = p.batch * p.heads * p.queries;
    if (rows == 0) return HEED_OK;
    const cuda_heads<const T> y = {p.y.data, {p.y.stride[0], p.y.stride[1], p.y.stride[2], p.y.stride[3]}};
    CUDA_RUN(exec, delta_of_output<T>, cuda_blocks(exec, rows * HEED_WARP), CUDA_BLOCK, 0, p, y);
    if (p.dweights.data) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_BACKWARD, delta_of_weights,
                      cuda_attention_grid(cuda_tiles<T>(p.queries), 1, p.batch * p.heads),
                      cuda_tile_threads<T>, p);
    }
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_backward(struct heed_exec *exec, const struct cuda_choice *choice,
                                    const cuda_attention<T> &p) {
    const int64_t widest = p.width > p.value_width ? p.width : p.value_width;
    if (p.dq.data && p.batch * p.heads * p.queries > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_BACKWARD, backward_queries,
                      cuda_attention_grid(cuda_tiles<T>(p.queries), p.width, p.batch * p.heads),
                      cuda_tile_threads<T>, p);
    }
    if ((p.dk.data || p.dv.data) && p.batch * p.kv_heads * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_BACKWARD, backward_keys,
                      cuda_attention_grid(cuda_tiles<T>(p.keys), widest, p.batch * p.kv_heads),
                      cuda_tile_threads<T>, p);
    }
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template heed_status cuda_attention_delta(struct heed_exec *, const struct cuda_choice *,
                                          const cuda_attention<float> &);
template heed_status cuda_attention_delta(struct heed_exec *, const struct cuda_choice *,
                                          const cuda_attention<double> &);
template heed_status cuda_attention_backward(struct heed_exec *, const struct cuda_choice *,
                                             const cuda_attention<float> &);
template heed_status cuda_attention_backward(struct heed_exec *, const struct cuda_choice *,
                                             const cuda_attention<double> &);
#endif
