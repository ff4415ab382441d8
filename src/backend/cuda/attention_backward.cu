/* With p the probabilities, w = dropout · p the weights, dw = dy·vᵀ + dweights, and ds = p · (dropout · dw −
 * delta) times the slope of the stages: dv = wᵀ·dy, dk = scale · dsᵀ·q, dq = scale · ds·k; delta = Σ over
 * keys of p · dropout · dw, which is Σ dy·y for a gradient of the output alone (Dao et al. 2022,
 * "FlashAttention", section B.2), less the gradient of the logarithm of the sum.
 *
 * A block owns a tile of queries (dq) or of keys (dk, dv), and CUDA_VALUE_COLUMNS columns of the result;
 * wider ones make the scores once per CUDA_VALUE_COLUMNS columns. */
#include "backend/cuda/attention.cuh"
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
ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    delta_of_weights(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    set_queries(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    const int r = threadIdx.x / 4, part = threadIdx.x % 4;
    T sum = T(0);
#pragma unroll 1
    for (int64_t k0 = 0; k0 < p.keys; k0 += CUDA_TILE) {
        set_keys(p, k0, &box);
        if (!tile_scores(p, box, 0, t)) continue;
        for (int c = part; c < CUDA_TILE; c += 4) {
            if (!(t->seen[r] >> c & 1)) continue;
            const int64_t row = row_place(p, box.batch, box.head, box.q0 + r);
            sum += weight_of(normalizer_of(p), t->s[r][c], p.maximum[row], p.reciprocal[row]) *
                   keep_factor(p, box, r, c) *
                   at_row(p.dweights, box.batch, box.head, box.q0 + r)[box.k0 + c];
        }
        __syncthreads();
    }
    for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (part == 0 && r < box.nq) p.delta[row_place(p, box.batch, box.head, box.q0 + r)] += sum;
}

/* ---- queries ---- */

ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    backward_queries(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = box_of_pair(p);
    set_queries(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    const int64_t column = (int64_t)blockIdx.y * CUDA_VALUE_COLUMNS;
    T sum[4][4] = {};
#pragma unroll 1
    for (int64_t k0 = 0; k0 < p.keys; k0 += CUDA_TILE) {
        set_keys(p, k0, &box);
        if (!tile_scores(p, box, 0, t)) continue;
        tile_gradients(p, box, 0, t);
        add_products<T, false>(t, t->g, at_row(p.k, box.batch, kv_head_of(p, box.head), box.k0),
                               p.k.stride[2], box.nk, column, p.width, sum);
        __syncthreads();
    }
    store_block(at_row(p.dq, box.batch, box.head, box.q0), p.dq.stride[2], box.nq, column, p.width, p.scale,
                p.add_dq, sum);
}

/* ---- keys ---- */

/* All query heads of a group, in order. */
ATTENTION_KERNEL __launch_bounds__(CUDA_TILE_THREADS, 1)
    backward_keys(const __grid_constant__ cuda_attention<T> p) {
    HEED_SHARED(cuda_tile<T>, t, 1);
    cuda_box box = {};
    const int64_t kv_head = blockIdx.z % p.kv_heads, group = p.heads / p.kv_heads;
    box.batch = blockIdx.z / p.kv_heads;
    set_keys(p, (int64_t)blockIdx.x * CUDA_TILE, &box);
    const int64_t column = (int64_t)blockIdx.y * CUDA_VALUE_COLUMNS;
    const bool dk = p.dk.data && column < p.width, dv = p.dv.data && p.dy.data && column < p.value_width;
    T sum_k[4][4] = {}, sum_v[4][4] = {};
#pragma unroll 1
    for (box.head = kv_head * group; box.head < (kv_head + 1) * group; box.head++) {
#pragma unroll 1
        for (int64_t q0 = 0; q0 < p.queries; q0 += CUDA_TILE) {
            set_queries(p, q0, &box);
            if (!tile_scores(p, box, 0, t)) continue;
            tile_gradients(p, box, 0, t);
            if (dk)
                add_products<T, true>(t, t->g, at_row(p.q, box.batch, box.head, box.q0), p.q.stride[2],
                                      box.nq, column, p.width, sum_k);
            if (dv)
                add_products<T, true>(t, t->s, at_row(p.dy, box.batch, box.head, box.q0), p.dy.stride[2],
                                      box.nq, column, p.value_width, sum_v);
            __syncthreads();
        }
    }
    if (p.dk.data)
        store_block(at_row(p.dk, box.batch, kv_head, box.k0), p.dk.stride[2], box.nk, column, p.width,
                    p.scale, p.add_dk, sum_k);
    if (p.dv.data)
        store_block(at_row(p.dv, box.batch, kv_head, box.k0), p.dv.stride[2], box.nk, column, p.value_width,
                    T(1), p.add_dv, sum_v);
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
                      cuda_attention_grid(cuda_tiles(p.queries), 1, p.batch * p.heads), CUDA_TILE_THREADS, p);
    }
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

template <typename T>
heed_status cuda_attention_backward(struct heed_exec *exec, const struct cuda_choice *choice,
                                    const cuda_attention<T> &p) {
    const int64_t widest = p.width > p.value_width ? p.width : p.value_width;
    if (p.dq.data && p.batch * p.heads * p.queries > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_BACKWARD, backward_queries,
                      cuda_attention_grid(cuda_tiles(p.queries), p.width, p.batch * p.heads),
                      CUDA_TILE_THREADS, p);
    }
    if ((p.dk.data || p.dv.data) && p.batch * p.kv_heads * p.keys > 0) {
        ATTENTION_RUN(exec, choice, CUDA_ATTENTION_BACKWARD, backward_keys,
                      cuda_attention_grid(cuda_tiles(p.keys), widest, p.batch * p.kv_heads),
                      CUDA_TILE_THREADS, p);
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
