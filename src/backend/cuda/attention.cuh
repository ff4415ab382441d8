/* Fused attention on the device, forward and backward, memory linear in the lengths: what its files share.
 *
 * Tile by tile scores are made, used and forgotten. Of each query only the maximum of its scores and the
 * reciprocal of Σ e^(score − maximum) are saved. Sums are made by one owner each, in order: no atomics, the
 * same bits from run to run.
 *
 * attention.cu           when it applies, memory, and the order of launches
 * attention_tile.cuh     a tile of scores, and of their gradients, by the threads of a block
 * attention_forward.cu   outputs and row statistics; weights
 * attention_backward.cu  delta; dq by tiles of queries; dk and dv by tiles of keys
 * attention_scores.cu    gradients of biases and of sinks
 * attention_mask.cuh/.cu masks as a program
 *
 * Backward makes every score twice (seven products instead of five): once for the owner of the queries, once
 * for that of the keys, which keeps sums in order without slabs. */
#ifndef HEED_SRC_BACKEND_CUDA_ATTENTION_CUH
#define HEED_SRC_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/attention_mask.cuh"
#if CUSTOM_STAGES
#include "backend/cuda/stage.cuh"
#endif

/* Elements of the width that are in shared memory at a time, and columns of an output that a block makes. */
enum { CUDA_SLICE = 32, CUDA_VALUE_COLUMNS = CHOSEN(HEED_CHOSEN_VALUE_COLUMNS, 64) };

/* Queries, and keys, of a tile; and the threads of its block. */
template <typename T> constexpr int cuda_edge = sizeof(T) == 4 ? 64 : 32;
template <typename T> constexpr int cuda_tile_threads = 4 * cuda_edge<T>;

/* A view [batch, heads, rows, width] in a kernel. data NULL: absent. */
template <typename T> struct cuda_heads {
    T *data;
    int64_t stride[4];
};

template <typename T> struct cuda_stage {
    enum heed_stage_kind kind;
    cuda_heads<const T> tensor;
    T cap;
    int param; /* the first of a user's stage */
};

/* A parameter of a user's stage: what query q and key k see begins at data + q·stride[2] + k·stride[3] of
 * their head. */
template <typename T> struct cuda_stage_param {
    const T *data;
    int64_t stride[4];
};

/* One problem, or one of packed sequences. Rows (statistics, lse, delta) are [batch, heads, queries] with
 * strides. */
template <typename T> struct cuda_attention {
    int64_t batch, heads, kv_heads, queries, keys, width, value_width;
    int64_t first_batch; /* as masks and dropout count it */
    int64_t row_batch, row_head;
    T scale, keep_scale;
    cuda_heads<const T> q, k, v, sink, dy, dweights;
    cuda_heads<T> y, weights, dq, dk, dv;
    bool add_dq, add_dk, add_dv;
    T *maximum, *reciprocal, *delta, *lse;
    int processors; /* of the device */
    int splits;     /* blocks that share the keys of a tile of queries; more than one: parts is what each has
                   found */
    T *parts; /* [batch, heads, queries, splits, 2 + value_width]: maximum, sum, and unnormalised outputs */
    const T *dlse;
    int stages;
    cuda_stage<T> stage[HEED_MAX_STAGES];
    cuda_stage_param<T> param[HEED_MAX_STAGE_PARAMS];
    heed_normalizer normalizer;
    struct cuda_mask mask;
    uint32_t threshold; /* of dropout; 65536: none */
    struct heed_attention_random random;
};

/* ---- places ---- */

template <typename T>
static __device__ inline T *at_row(const cuda_heads<T> &v, int64_t batch, int64_t head, int64_t row) {
    return v.data + batch * v.stride[0] + head * v.stride[1] + row * v.stride[2];
}

template <typename T>
static __device__ inline int64_t row_place(const cuda_attention<T> &p, int64_t batch, int64_t head,
                                           int64_t query) {
    return batch * p.row_batch + head * p.row_head + query;
}

template <typename T> static __device__ inline int64_t kv_head_of(const cuda_attention<T> &p, int64_t head) {
    return head / (p.heads / p.kv_heads);
}

/* ---- what may be known (choice.cuh) ---- */

template <typename T> static __device__ inline heed_normalizer normalizer_of(const cuda_attention<T> &p) {
    return CHOSEN(HEED_CHOSEN_NORMALIZER, p.normalizer);
}

template <typename T> static __device__ inline int stage_count(const cuda_attention<T> &p) {
    return CHOSEN_STAGES(HEED_CHOSEN_STAGES, p.stages);
}

template <typename T>
static __device__ inline enum heed_stage_kind stage_kind(const cuda_attention<T> &p, int i) {
    return CHOSEN_STAGES((enum heed_stage_kind)CHOSEN_AT(HEED_CHOSEN_STAGE_KINDS, i), p.stage[i].kind);
}

/* Slices of the width of queries and keys, and of values. */
template <typename T> static __device__ inline int width_slices(const cuda_attention<T> &p) {
    return CHOSEN(HEED_CHOSEN_SLICES, (int)((p.width + CUDA_SLICE - 1) / CUDA_SLICE));
}

template <typename T> static __device__ inline int value_slices(const cuda_attention<T> &p) {
    return CHOSEN(HEED_CHOSEN_VALUE_SLICES, (int)((p.value_width + CUDA_SLICE - 1) / CUDA_SLICE));
}

/* ---- scores ---- */

template <typename T> static __device__ inline T minus_infinity() {
    return -(T)INFINITY;
}

/* A cell of the score matrix. */
struct cuda_place {
    int64_t batch, head, q, k;
};

#if CUSTOM_STAGES
/* What a user's stage is given. */
template <typename T>
static __device__ inline heed_cell cell_of(const cuda_attention<T> &p, const cuda_place &at, int stage) {
    heed_cell cell = {p.first_batch + at.batch, at.head, at.q, at.k, p.queries, p.keys, {}};
#pragma unroll
    for (int i = 0; i < HEED_STAGE_MAX_PARAMS; i++) {
        if (i >= CHOSEN_AT(HEED_CHOSEN_PARAMS, stage)) break;
        const cuda_stage_param<T> &x = p.param[p.stage[stage].param + i];
        cell.param[i] =
            x.data + at.batch * x.stride[0] + at.head * x.stride[1] + at.q * x.stride[2] + at.k * x.stride[3];
    }
    return cell;
}
#endif

/* A score through one stage. slope: its derivative, of the user's stages 1. */
template <typename T>
static __device__ inline T through_stage(const cuda_attention<T> &p, const cuda_place &at, int i, T s,
                                         T *slope) {
    const cuda_stage<T> &stage = p.stage[i];
    const enum heed_stage_kind kind = stage_kind(p, i);
    const int64_t *stride = stage.tensor.stride;
    *slope = T(1);
    if (kind == HEED_STAGE_SOFTCAP) {
        const T a = tanh(s / stage.cap);
        *slope = T(1) - a * a;
        return stage.cap * a;
    }
#if CUSTOM_STAGES
    if (kind == HEED_STAGE_CUSTOM) return user_forward(i, s, cell_of(p, at, i));
#endif
    const T *x = stage.tensor.data + at.batch * stride[0] + at.head * stride[1];
    return s + (kind == HEED_STAGE_BIAS ? x[at.q * stride[2] + at.k * stride[3]]
                                        : x[(at.k - at.q + p.queries - 1) * stride[3]]);
}

/* A score through the stages before number `end`. */
template <typename T>
static __device__ inline T through_stages(const cuda_attention<T> &p, const cuda_place &at, int end, T s) {
    T slope;
    UNROLL_CHOSEN
    for (int i = 0; i < stage_count(p); i++)
        if (i < end) s = through_stage(p, at, i, s, &slope);
    return s;
}

/* The gradient of a score before stage `from`, of that of the final one. `kept` is what tile_scores kept
 * of it. */
template <typename T>
static __device__ inline T back_through_stages(const cuda_attention<T> &p, const cuda_place &at, int from,
                                               T kept, T gradient) {
    (void)p, (void)at, (void)from;
#if CUSTOM_STAGES
    T before[HEED_CHOSEN_STAGES], slope[HEED_CHOSEN_STAGES], s = kept;
#pragma unroll
    for (int i = 0; i < HEED_CHOSEN_STAGES; i++) {
        before[i] = s;
        s = through_stage(p, at, i, s, &slope[i]);
    }
    const heed_sums none = {-1, nullptr, 0, 0};
#pragma unroll
    for (int i = HEED_CHOSEN_STAGES - 1; i >= 0; i--) {
        if (i < from) continue;
        gradient = stage_kind(p, i) == HEED_STAGE_CUSTOM
                       ? user_backward(i, before[i], gradient, cell_of(p, at, i), none)
                       : gradient * slope[i];
    }
    return gradient;
#else
    return gradient * kept;
#endif
}

/* The weights of chosen rows and the sums of columns; lists in device memory, NULL: all. */
template <typename T> struct cuda_chosen {
    T *chosen, *columns; /* [batch, heads, queries, keys], [batch, heads, keys]; NULL: not asked for */
    const int32_t *head_list, *query_list;
    int64_t heads, queries;
};

/* The gradient of a parameter of a user's stage: which, whether threads own keys and not queries, how many
 * numbers it has, how many blocks go over the tiles that are owned, and where: number e of line l (of
 * strips·cuda_edge) of a pair is at sums[(pair·numbers + e)·lines + l]. */
template <typename T> struct cuda_param_sums {
    int stage, param;
    bool keys;
    int64_t numbers, strips;
    T *sums;
};

#ifndef HEED_CHOSEN
/* ---- launches (each in its file) ---- */

struct cuda_choice; /* attention_choice.cuh */

template <typename T>
heed_status cuda_attention_forward(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const cuda_attention<T> &p);
template <typename T>
heed_status cuda_attention_weights(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const cuda_attention<T> &p);
template <typename T>
heed_status cuda_attention_delta(struct heed_exec *exec, const struct cuda_choice *choice,
                                 const cuda_attention<T> &p);
template <typename T>
heed_status cuda_attention_backward(struct heed_exec *exec, const struct cuda_choice *choice,
                                    const cuda_attention<T> &p);

/* How the gradient of a tensor that is added to scores is summed: one owner for each element of `sums`, which
 * is [batch, heads, count]; or, CELL, for each element of the gradient itself. */
enum cuda_sum { CUDA_SUM_CELL, CUDA_SUM_KEY, CUDA_SUM_QUERY, CUDA_SUM_DISTANCE };

/* Sums of the gradient of scores behind stage `stage`. CELL: to `gradient`, of the tensor's shape. */
template <typename T>
heed_status cuda_attention_score_sums(struct heed_exec *exec, const struct cuda_choice *choice,
                                      const cuda_attention<T> &p, int stage, enum cuda_sum how,
                                      cuda_heads<T> gradient, bool add);

/* Sums of what the user's stage gives to the gradient of its parameter. */
template <typename T>
heed_status cuda_attention_param_sums(struct heed_exec *exec, const struct cuda_choice *choice,
                                      const cuda_attention<T> &p, const cuda_param_sums<T> &to);

/* −p_sink · delta of each row, to sums [batch, heads, queries]. */
template <typename T>
heed_status cuda_attention_sink_sums(struct heed_exec *exec, const cuda_attention<T> &p, T *sums);

template <typename T>
heed_status cuda_attention_chosen(struct heed_exec *exec, const struct cuda_choice *choice,
                                  const cuda_attention<T> &p, const cuda_chosen<T> &chosen);

/* Blocks for pieces of work of pairs of batch entry and head, and for the columns of their results. */
static inline dim3 cuda_attention_grid(int64_t pieces, int64_t columns, int64_t pairs) {
    const int64_t chunks = (columns + CUDA_VALUE_COLUMNS - 1) / CUDA_VALUE_COLUMNS;
    return dim3((unsigned)(pieces * pairs), (unsigned)(chunks > 0 ? chunks : 1));
}

template <typename T> static int64_t cuda_tiles(int64_t rows) {
    return (rows + cuda_edge<T> - 1) / cuda_edge<T>;
}

/* Blocks for all tiles of some matrices of scores (set_tile), which are in memory: so they are fewer than
 * 2³¹. */
template <typename T> static dim3 cuda_matrix_grid(const cuda_attention<T> &p, int64_t matrices) {
    return dim3((unsigned)(cuda_tiles<T>(p.queries) * cuda_tiles<T>(p.keys) * matrices));
}

#endif /* HEED_CHOSEN */

#endif
