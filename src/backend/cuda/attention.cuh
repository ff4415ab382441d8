/* Fused attention on the device, forward and backward, memory linear in the lengths: what its files share.
 *
 * A block of CUDA_TILE_THREADS threads makes a tile of CUDA_TILE queries × CUDA_TILE keys of scores in shared
 * memory, uses it and forgets it. Of each query only the maximum of its scores and the reciprocal of Σ
 * e^(score − maximum) are saved. Sums are made by one owner each, in order: no atomics, the same bits from
 * run to run.
 *
 * attention.cu           when it applies, memory, and the order of launches
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

enum {
    CUDA_TILE = 32,          /* queries, and keys, of a tile: a row of cells is a warp */
    CUDA_TILE_THREADS = 128, /* 8 groups of 4 rows × 16 columns in products */
    CUDA_SLICE = 32,         /* elements of the width that are in shared memory at a time */
    CUDA_VALUE_COLUMNS = 64  /* columns of an output that a block makes */
};

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
template <typename T> static __device__ inline int64_t width_slices(const cuda_attention<T> &p) {
    return CHOSEN(HEED_CHOSEN_SLICES, (p.width + CUDA_SLICE - 1) / CUDA_SLICE);
}

template <typename T> static __device__ inline int64_t value_slices(const cuda_attention<T> &p) {
    return CHOSEN(HEED_CHOSEN_VALUE_SLICES, (p.value_width + CUDA_SLICE - 1) / CUDA_SLICE);
}

/* ---- a tile ---- */

/* Where a tile lies. */
struct cuda_box {
    int64_t batch, head, q0, k0;
    int nq, nk;
};

/* The shared memory of a block: 21 KiB in f32. Rows are padded by one element against bank conflicts. */
template <typename T> struct cuda_tile {
    T left[CUDA_TILE][CUDA_SLICE + 1],
        right[CUDA_TILE][CUDA_SLICE + 1]; /* slices of the operands of a product */
    T s[CUDA_TILE][CUDA_TILE + 1];        /* scores, weights */
    T g[CUDA_TILE][CUDA_TILE + 1];        /* their gradients */
    /* of the score in scale·q·k (or later); where there is a user's stage, scale·q·k itself */
    T slope[CUDA_TILE][CUDA_TILE + 1];
    unsigned seen[CUDA_TILE]; /* bit c: key c of the row is visible */
    T row[3][CUDA_TILE];      /* what each row needs */
    int cover;
};

static __device__ inline int tile_part(int64_t all, int64_t first) {
    return all - first < CUDA_TILE ? (int)(all - first) : (int)CUDA_TILE;
}

/* That of a block's pair of batch entry and head, without queries and keys. */
template <typename T> static __device__ inline cuda_box box_of_pair(const cuda_attention<T> &p) {
    cuda_box box = {};
    box.batch = blockIdx.z / p.heads;
    box.head = blockIdx.z % p.heads;
    return box;
}

template <typename T>
static __device__ inline void set_queries(const cuda_attention<T> &p, int64_t first, cuda_box *box) {
    box->q0 = first;
    box->nq = tile_part(p.queries, first);
}

template <typename T>
static __device__ inline void set_keys(const cuda_attention<T> &p, int64_t first, cuda_box *box) {
    box->k0 = first;
    box->nk = tile_part(p.keys, first);
}

/* `count` rows of `columns` elements from `first` on, the rest zeros. */
template <typename T>
static __device__ inline void load_rows(const T *x, int64_t row_stride, int count, int64_t first,
                                        int64_t width, T (*to)[CUDA_SLICE + 1]) {
    for (int e = threadIdx.x; e < CUDA_TILE * CUDA_SLICE; e += CUDA_TILE_THREADS) {
        const int r = e / CUDA_SLICE, c = e % CUDA_SLICE;
        to[r][c] = r < count && first + c < width ? x[r * row_stride + first + c] : T(0);
    }
}

/* The cells of a thread in a product [CUDA_TILE, CUDA_TILE]: rows row + 8i, columns column + 16j. */
static __device__ inline int thread_row() {
    return (int)threadIdx.x / 16;
}

static __device__ inline int thread_column() {
    return (int)threadIdx.x % 16;
}

/* to = rows of a · rows of b, over a width of so many slices: scores, or the gradient of weights. */
template <typename T>
static __device__ inline void tile_products(cuda_tile<T> *t, const T *a, int64_t a_row, int nq, const T *b,
                                            int64_t b_row, int nk, int64_t width, int64_t slices, T factor,
                                            T (*to)[CUDA_TILE + 1]) {
    T sum[4][2] = {};
#pragma unroll 1
    for (int64_t slice = 0; slice < slices; slice++) {
        const int64_t first = slice * CUDA_SLICE;
        __syncthreads(); /* the slices before have been read */
        load_rows(a, a_row, nq, first, width, t->left);
        load_rows(b, b_row, nk, first, width, t->right);
        __syncthreads();
#pragma unroll 4
        for (int p = 0; p < CUDA_SLICE; p++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++)
                    sum[i][j] += t->left[thread_row() + 8 * i][p] * t->right[thread_column() + 16 * j][p];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) to[thread_row() + 8 * i][thread_column() + 16 * j] = sum[i][j] * factor;
    }
    __syncthreads();
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

/* A score through all stages. slope: d score / d what it was before stage `from`. */
template <typename T>
static __device__ inline T through_stages(const cuda_attention<T> &p, const cuda_place &at, int from, T s,
                                          T *slope) {
    *slope = T(1);
    UNROLL_CHOSEN
    for (int i = 0; i < stage_count(p); i++) {
        T own;
        s = through_stage(p, at, i, s, &own);
        if (i >= from) *slope *= own;
    }
    return s;
}

#if CUSTOM_STAGES
/* scale·q·k as it comes to a stage. */
template <typename T>
static __device__ inline T before_stage(const cuda_attention<T> &p, const cuda_place &at, int stage, T s) {
    T slope;
#pragma unroll
    for (int i = 0; i < HEED_CHOSEN_STAGES; i++)
        if (i < stage) s = through_stage(p, at, i, s, &slope);
    return s;
}
#endif

/* The gradient of a score before stage `from`, of that of the final one. `kept` is what tile_scores left in
 * t->slope. */
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

/* Whether a tile has anything to do: false where it is proven that no cell is visible. All threads call it.
 */
template <typename T>
static __device__ inline bool tile_is_seen(const cuda_attention<T> &p, const cuda_box &box, cuda_tile<T> *t) {
    if (mask_count(p.mask) == 0) {
        if (threadIdx.x == 0) t->cover = HEED_COVER_ALL;
    } else if (threadIdx.x == 0) {
        t->cover = cuda_mask_covers(p.mask, p.first_batch + box.batch, box.head, box.q0, box.q0 + box.nq,
                                    box.k0, box.k0 + box.nk);
    }
    __syncthreads();
    return t->cover != HEED_COVER_NONE;
}

/* Scores of a tile to t->s, −∞ where masked; t->seen; and t->slope, from stage `from` on. False if nothing is
 * visible. */
template <typename T>
static __device__ inline bool tile_scores(const cuda_attention<T> &p, const cuda_box &box, int from,
                                          cuda_tile<T> *t) {
    if (!tile_is_seen(p, box, t)) {
        __syncthreads();
        return false;
    }
    tile_products(t, at_row(p.q, box.batch, box.head, box.q0), p.q.stride[2], box.nq,
                  at_row(p.k, box.batch, kv_head_of(p, box.head), box.k0), p.k.stride[2], box.nk, p.width,
                  width_slices(p), p.scale, t->s);
    const int c = threadIdx.x % CUDA_TILE;
    for (int r = threadIdx.x / CUDA_TILE; r < CUDA_TILE; r += CUDA_TILE_THREADS / CUDA_TILE) {
        const int64_t q = box.q0 + r, k = box.k0 + c;
        T s = minus_infinity<T>(), slope = T(0);
        const T product = t->s[r][c];
        if (r < box.nq && c < box.nk &&
            (t->cover == HEED_COVER_ALL ||
             cuda_mask_allows(p.mask, p.first_batch + box.batch, box.head, q, k)))
            s = through_stages(p, {box.batch, box.head, q, k}, from, product, &slope);
        t->s[r][c] = s;
        t->slope[r][c] = CUSTOM_STAGES ? product : slope;
        const unsigned word = __ballot_sync(0xffffffffu, s != minus_infinity<T>());
        if (c == 0) t->seen[r] = word;
    }
    __syncthreads();
    unsigned any = 0;
    for (int r = 0; r < CUDA_TILE; r++) any |= t->seen[r];
    return any != 0;
}

/* What dropout multiplies a weight with: 0 or the scale. */
template <typename T>
static __device__ inline T keep_factor(const cuda_attention<T> &p, const cuda_box &box, int r, int c) {
    if (!CHOSEN(HEED_CHOSEN_DROPS, p.threshold < 65536)) return T(1);
    const uint32_t q = (uint32_t)(box.q0 + r), k = (uint32_t)(box.k0 + c);
    const uint32_t line = (uint32_t)((p.first_batch + box.batch) * p.heads + box.head);
    uint32_t word[4];
    cuda_attention_block(p.random, q, k, line, word);
    return cuda_keep(word, cuda_attention_half(k), p.threshold) ? p.keep_scale : T(0);
}

/* The weight of a score before dropout, from the statistics of its row; of a score of −∞ 0. */
template <typename T>
static __device__ inline T weight_of(heed_normalizer normalizer, T score, T maximum, T reciprocal) {
    if (score == minus_infinity<T>()) return T(0);
    if (normalizer == HEED_NORMALIZER_SOFTMAX) return exp(score - maximum) * reciprocal;
    if (normalizer == HEED_NORMALIZER_SIGMOID) return T(1) / (T(1) + exp(-score));
    return score < T(0) ? T(0) : score;
}

/* ---- products that must not touch what is masked ----
 * A thread's block of an output: rows row + 8i, columns column + 16j of CUDA_VALUE_COLUMNS. */

/* sum += cells · rows of x, over cells that are seen; of what is in shared memory `columns` from `first` on.
 * `turned`: cellsᵀ, so the rows of the sum are keys and x has the rows of queries. Reads x by slices of
 * CUDA_SLICE columns. */
template <typename T, bool TURNED>
static __device__ inline void add_products(cuda_tile<T> *t, T (*cells)[CUDA_TILE + 1], const T *x,
                                           int64_t x_row, int count, int64_t first, int64_t width,
                                           T sum[4][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        __syncthreads();
        load_rows(x, x_row, count, first + half * CUDA_SLICE, width, t->right);
        __syncthreads();
#pragma unroll 1
        for (int n = 0; n < count; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = thread_row() + 8 * i, query = TURNED ? n : r, key = TURNED ? r : n;
                if (!(t->seen[query] >> key & 1)) continue;
                const T cell = cells[query][key];
#pragma unroll
                for (int j = 0; j < 2; j++)
                    sum[i][2 * half + j] += cell * t->right[n][thread_column() + 16 * j];
            }
        }
    }
}

/* Writes a thread's block: rows below `rows`, columns from `first` on below `width`. */
template <typename T>
static __device__ inline void store_block(T *y, int64_t y_row, int rows, int64_t first, int64_t width,
                                          T factor, bool add, const T sum[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = thread_row() + 8 * i;
            const int64_t c = first + (j / 2) * CUDA_SLICE + thread_column() + 16 * (j % 2);
            if (r >= rows || c >= width) continue;
            T *at = y + r * y_row + c;
            *at = add ? *at + factor * sum[i][j] : factor * sum[i][j];
        }
    }
}

/* ---- gradients of scores ---- */

/* Of a tile whose scores are there (made with the same `from`): t->s becomes the weights after dropout, t->g
 * the gradient of the scores before stage `from`. Needs the statistics and delta. */
template <typename T>
static __device__ inline void tile_gradients(const cuda_attention<T> &p, const cuda_box &box, int from,
                                             cuda_tile<T> *t) {
    if (p.dy.data) {
        tile_products(t, at_row(p.dy, box.batch, box.head, box.q0), p.dy.stride[2], box.nq,
                      at_row(p.v, box.batch, kv_head_of(p, box.head), box.k0), p.v.stride[2], box.nk,
                      p.value_width, value_slices(p), T(1), t->g);
    }
    const int c = threadIdx.x % CUDA_TILE;
    for (int r = threadIdx.x / CUDA_TILE; r < CUDA_TILE; r += CUDA_TILE_THREADS / CUDA_TILE) {
        T weight = T(0), gradient = T(0);
        if (t->seen[r] >> c & 1) {
            const int64_t row = row_place(p, box.batch, box.head, box.q0 + r);
            const T score = t->s[r][c], keep = keep_factor(p, box, r, c);
            const T w = weight_of(normalizer_of(p), score, p.maximum[row], p.reciprocal[row]);
            T dw = p.dy.data ? t->g[r][c] : T(0);
            if (p.dweights.data) dw += at_row(p.dweights, box.batch, box.head, box.q0 + r)[box.k0 + c];
            dw *= keep;
            if (normalizer_of(p) == HEED_NORMALIZER_SOFTMAX) {
                gradient = w * (dw - p.delta[row]);
            } else if (normalizer_of(p) == HEED_NORMALIZER_SIGMOID) {
                gradient = dw * w * (T(1) - w);
            } else {
                gradient = score > T(0) ? dw : T(0);
            }
            const cuda_place at = {box.batch, box.head, box.q0 + r, box.k0 + c};
            gradient = back_through_stages(p, at, from, t->slope[r][c], gradient);
            weight = w * keep;
        }
        t->s[r][c] = weight;
        t->g[r][c] = gradient;
    }
    __syncthreads();
}

/* The weights of chosen rows and the sums of columns; lists in device memory, NULL: all. */
template <typename T> struct cuda_chosen {
    T *chosen, *columns; /* [batch, heads, queries, keys], [batch, heads, keys]; NULL: not asked for */
    const int32_t *head_list, *query_list;
    int64_t heads, queries;
};

/* The gradient of a parameter of a user's stage: which, whether threads own keys and not queries, how many
 * numbers it has, how many blocks go over the tiles that are owned, and where: number e of line l (of
 * strips·CUDA_TILE) of a pair is at sums[(pair·numbers + e)·lines + l]. */
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

static inline dim3 cuda_attention_grid(int64_t tiles, int64_t columns, int64_t pairs) {
    const int64_t chunks = (columns + CUDA_VALUE_COLUMNS - 1) / CUDA_VALUE_COLUMNS;
    return dim3((unsigned)tiles, (unsigned)(chunks > 0 ? chunks : 1), (unsigned)pairs);
}

static inline int64_t cuda_tiles(int64_t rows) {
    return (rows + CUDA_TILE - 1) / CUDA_TILE;
}

#endif /* HEED_CHOSEN */

#endif
