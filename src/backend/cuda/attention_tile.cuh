/* A tile of scores, cuda_edge rows × cuda_edge columns, by the cuda_tile_threads threads of a block.
 *
 * The rows are what the block owns and writes results for, queries or (KEYS) keys; the columns are the
 * others. A warp has 8 rows of its own, and a thread of it two of these, a row and the fourth behind it, and
 * every eighth column: its cells, in registers. So whatever is found for a row is found within a warp, and
 * the products that make cells read 2 + 8 packs of 16 bytes from shared memory for 16·4 multiplications;
 * those of cells with values do the same for the cells of two rows and eight columns of values. Weights and
 * gradients go through shared memory to get there, within a warp.
 *
 * Shared memory gives a warp a register in each cycle, so four cycles for a pack; two, where lanes n and n ^
 * 1 read the same, or all lanes n and n ^ 2 (NVIDIA, of compute capability 7.0 and later). Therefore bit 0 of
 * a lane chooses among rows and bit 1 among columns.
 *
 * Of an f64 problem a tile has half as many rows and columns, for registers and shared memory. */
#ifndef HEED_SRC_BACKEND_CUDA_ATTENTION_TILE_CUH
#define HEED_SRC_BACKEND_CUDA_ATTENTION_TILE_CUH

#include "backend/cuda/attention.cuh"
#include "backend/cuda/pack.cuh"
#include "backend/cuda/philox.cuh"

enum {
    CUDA_ROW_THREADS = 8, /* threads that share a row: bits 1, 2 and 3 of their lanes differ */
    CUDA_OWN_ROWS = 2     /* rows of a thread, four apart */
};

/* Columns of a thread, CUDA_ROW_THREADS apart. */
template <typename T> constexpr int cuda_own_columns = cuda_edge<T> / CUDA_ROW_THREADS;

/* A number for each of a thread's cells. */
template <typename T> struct cuda_cells { T at[CUDA_OWN_ROWS][cuda_own_columns<T>]; };

/* A thread's part of the results of its rows: packs of columns, CUDA_ROW_THREADS packs apart. */
template <typename T> struct cuda_sums { T at[CUDA_OWN_ROWS][CUDA_VALUE_COLUMNS / CUDA_ROW_THREADS]; };

/* Blocks that share a multiprocessor, which leaves each thread 128 registers: forward on sm_90, where nothing
 * is added to scores and values are not wide, is known to have enough. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
enum { CUDA_FORWARD_BLOCKS = CHOSEN(HEED_CHOSEN_STAGES == 0 && HEED_CHOSEN_VALUE_COLUMNS == 64 ? 2 : 1, 1) };
#else
enum { CUDA_FORWARD_BLOCKS = 1 };
#endif

/* The shared memory of a block. Rows are padded by a pack: threads that read one each meet no bank twice. */
template <typename T> struct cuda_tile {
    enum {
        EDGE = cuda_edge<T>,
        PAD = cuda_wide<T>,
        SLICE_LINE = CUDA_SLICE + PAD,
        CELL_LINE = EDGE + 2 * PAD,
        VALUE_LINE = CUDA_VALUE_COLUMNS + PAD,
        VALUE_ROWS = 32, /* of values that are there at a time */
        SLICES = EDGE * SLICE_LINE,
        VALUES = VALUE_ROWS * VALUE_LINE
    };
    alignas(16) T left[SLICES];                             /* slices of rows */
    alignas(16) T right[SLICES > VALUES ? SLICES : VALUES]; /* slices of columns; or values */
    alignas(16) T cells[EDGE][CELL_LINE];
    unsigned short seen[EDGE]
                       [EDGE / CUDA_ROW_THREADS]; /* bit 2·(c % 8) of number c / 8: the row sees column c */
};

/* ---- places ---- */

/* Where a tile lies. */
struct cuda_box {
    int batch, head, q0, k0, nq, nk;
};

template <typename T> static __device__ inline int tile_part(int64_t all, int first) {
    return (int)all - first < cuda_edge<T> ? (int)all - first : (int)cuda_edge<T>;
}

/* Which piece of the work of which pair of batch entry and head a block has. Long pieces come first, of all
 * pairs: pieces are to be numbered so. Where all blocks run at once, each processor has one of the first half
 * and one of the second, which goes backward. */
struct cuda_turn {
    int pair, piece;
};

static __device__ inline cuda_turn turn_of(int64_t pairs, int processors) {
    const int blocks = (int)gridDim.x, own = (int)blockIdx.x, all = (int)pairs;
    const int rank = own >= processors && blocks <= 2 * processors ? processors + blocks - 1 - own : own;
    return {rank % all, rank / all};
}

/* That of a block's pair of batch entry and head, without queries and keys. */
template <typename T> static __device__ inline cuda_box box_of_pair(const cuda_attention<T> &p, int pair) {
    cuda_box box = {};
    box.batch = pair / (int)p.heads;
    box.head = pair % (int)p.heads;
    return box;
}

template <typename T>
static __device__ inline void set_queries(const cuda_attention<T> &p, int first, cuda_box *box) {
    box->q0 = first;
    box->nq = tile_part<T>(p.queries, first);
}

template <typename T>
static __device__ inline void set_keys(const cuda_attention<T> &p, int first, cuda_box *box) {
    box->k0 = first;
    box->nk = tile_part<T>(p.keys, first);
}

/* Of a grid over all tiles of some matrices of scores (cuda_matrix_grid): sets the block's tile, and returns
 * the number of its matrix. */
template <typename T> static __device__ inline int set_tile(const cuda_attention<T> &p, cuda_box *box) {
    const int rows = ((int)p.queries + cuda_edge<T> - 1) / cuda_edge<T>,
              columns = ((int)p.keys + cuda_edge<T> - 1) / cuda_edge<T>, block = (int)blockIdx.x;
    set_queries(p, block % rows * cuda_edge<T>, box);
    set_keys(p, block / rows % columns * cuda_edge<T>, box);
    return block / rows / columns;
}

/* Which of the threads of its row a thread is. */
static __device__ inline int row_lane() {
    return (int)threadIdx.x >> 1 & (CUDA_ROW_THREADS - 1);
}

/* A thread's i-th row and j-th column. */
static __device__ inline int own_row(int i) {
    const int lane = threadIdx.x % HEED_WARP;
    return (int)threadIdx.x / HEED_WARP * 8 + (lane >> 4) * 2 + (lane & 1) + 4 * i;
}

static __device__ inline int own_column(int j) {
    return row_lane() + CUDA_ROW_THREADS * j;
}

template <bool KEYS> static __device__ inline int box_rows(const cuda_box &box) {
    return KEYS ? box.nk : box.nq;
}

template <bool KEYS> static __device__ inline int box_columns(const cuda_box &box) {
    return KEYS ? box.nq : box.nk;
}

/* Of a cell of a thread's. */
template <bool KEYS> static __device__ inline cuda_place place_of(const cuda_box &box, int i, int j) {
    const int r = own_row(i), c = own_column(j);
    return {box.batch, box.head, box.q0 + (KEYS ? c : r), box.k0 + (KEYS ? r : c)};
}

/* The sum of a row, from what its threads have of it. */
template <typename T> static __device__ inline T row_sum(T sum) {
#pragma unroll
    for (int step = 2; step < 2 * CUDA_ROW_THREADS; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

/* ---- which tiles, and which cells ---- */

/* What is proven of the 32 tiles from one on: whether any cell may be visible, and whether all are. */
struct cuda_covers {
    unsigned some, all;
};

template <typename T>
static __device__ inline heed_cover cover_of_box(const cuda_attention<T> &p, const cuda_box &box, int most) {
    return cuda_mask_covers(
        p.mask, {p.first_batch + box.batch, box.head, box.q0, box.q0 + box.nq, box.k0, box.k0 + box.nk},
        most);
}

/* Tiles along the keys, or (KEYS) along the queries, from number `first` to `end` − 1; each thread of a warp
 * looks at one. Where the tiles have few rows their cells are sooner asked one by one. */
template <bool KEYS, typename T>
static __device__ inline cuda_covers covers_from(const cuda_attention<T> &p, cuda_box box, int first,
                                                 int end) {
    if (mask_count(p.mask) == 0) return {~0u, ~0u};
    heed_cover cover = HEED_COVER_NONE;
    const int tile = first + (int)threadIdx.x % HEED_WARP, at = tile * cuda_edge<T>;
    const bool tall = box_rows<KEYS>(box) == cuda_edge<T>;
    if (tile < end) {
        if (KEYS)
            set_queries(p, at, &box);
        else
            set_keys(p, at, &box);
        cover = cover_of_box(p, box, tall ? CUDA_MASK_LOOK : CUDA_MASK_GLANCE);
    }
    return {__ballot_sync(0xffffffffu, cover != HEED_COVER_NONE),
            __ballot_sync(0xffffffffu, cover == HEED_COVER_ALL)};
}

/* Bit i · cuda_own_columns + j of such words: the cell of a thread's i-th row and j-th column. */
template <typename T> static __device__ inline bool has_cell(unsigned cells, int i, int j) {
    return cells >> (i * cuda_own_columns<T> + j) & 1;
}

/* The thread's cells that are in the box and that the mask allows; `all`: it allows all of them. */
template <bool KEYS, typename T>
static __device__ inline unsigned allowed_cells(const cuda_attention<T> &p, const cuda_box &box, bool all) {
    enum { COLUMNS = cuda_own_columns<T>, CELLS = CUDA_OWN_ROWS * COLUMNS };
    if (all && box.nq == cuda_edge<T> && box.nk == cuda_edge<T>) return (1u << CELLS) - 1;
    unsigned cells = 0;
#pragma unroll 1
    for (int n = 0; n < CELLS; n++) {
        const int i = n / COLUMNS, j = n % COLUMNS;
        if (own_row(i) >= box_rows<KEYS>(box) || own_column(j) >= box_columns<KEYS>(box)) continue;
        const cuda_place at = place_of<KEYS>(box, i, j);
        if (all || cuda_mask_allows(p.mask, p.first_batch + at.batch, at.head, at.q, at.k)) cells |= 1u << n;
    }
    return cells;
}

/* The thread's cells that dropout keeps. Keys 32 apart of a query share their random words, if they lie in
 * the same 128. */
template <bool KEYS, typename T>
static __device__ inline unsigned kept_cells(const cuda_attention<T> &p, const cuda_box &box) {
    enum { COLUMNS = cuda_own_columns<T>, CELLS = CUDA_OWN_ROWS * COLUMNS };
    if (!CHOSEN(HEED_CHOSEN_DROPS, p.threshold < 65536)) return (1u << CELLS) - 1;
    const uint32_t line = (uint32_t)((p.first_batch + box.batch) * p.heads + box.head);
    const bool shares = !KEYS && CELLS == 16 && box.k0 % cuda_edge<T> == 0;
    unsigned cells = 0;
#pragma unroll 1
    for (int n = 0; n < CELLS; n++) {
        const int i = n / COLUMNS, j = n % COLUMNS;
        if (shares && j >= 4) continue;
        const cuda_place at = place_of<KEYS>(box, i, j);
        const int half = cuda_attention_half((uint32_t)at.k);
        uint32_t word[4];
        cuda_attention_block(p.random, (uint32_t)at.q, (uint32_t)at.k, line, word);
        if (cuda_keep(word, half, p.threshold)) cells |= 1u << n;
        if (shares && cuda_keep(word, half + 2, p.threshold)) cells |= 1u << (n + 4);
    }
    return cells;
}

/* What dropout multiplies a weight with: 0 or the scale. */
template <typename T>
static __device__ inline T keep_factor(const cuda_attention<T> &p, unsigned kept, int i, int j) {
    if (!CHOSEN(HEED_CHOSEN_DROPS, p.threshold < 65536)) return T(1);
    return has_cell<T>(kept, i, j) ? p.keep_scale : T(0);
}

/* ---- products that make cells ---- */

/* Copies `count` rows of x, elements first … first + COLUMNS − 1 of each, to rows of LINE elements; what is
 * not there becomes 0, up to row ROWS. Returns whether all of it is finite. */
template <int ROWS, int COLUMNS, int LINE, typename T>
static __device__ inline bool load_rows(const T *x, int64_t row_stride, int count, int first, int64_t width,
                                        T *to) {
    enum { N = cuda_wide<T>, PACKS = COLUMNS / N, STEP = cuda_tile_threads<T> / PACKS };
    const int own = threadIdx.x / PACKS, c = threadIdx.x % PACKS * N;
    const T *from = x + own * row_stride + first + c;
    const bool whole =
        first + c + N <= width &&
        (reinterpret_cast<uintptr_t>(from) | (uintptr_t)(row_stride * (int64_t)sizeof(T))) % 16 == 0;
    bool finite = true;
#pragma unroll
    for (int r = own; r < ROWS; r += STEP, from += STEP * row_stride) {
        cuda_pack<T, N> pack = {};
        if (r < count && whole) {
            pack = cuda_load<N>(from);
        } else if (r < count) {
#pragma unroll
            for (int k = 0; k < N; k++)
                if (first + c + k < width) pack.at[k] = from[k];
        }
#pragma unroll
        for (int k = 0; k < N; k++) finite = finite && pack.at[k] - pack.at[k] == T(0);
        cuda_store(to + r * LINE + c, pack);
    }
    return finite;
}

/* A thread's cells of rows of a · rows of b, over a width of so many slices. Warps without rows do not
 * compute.
 */
template <typename T>
static __device__ inline void cell_products(cuda_tile<T> *t, const T *a, int64_t a_row, int rows, const T *b,
                                            int64_t b_row, int columns, int64_t width, int slices,
                                            cuda_cells<T> *cells) {
    enum {
        EDGE = cuda_edge<T>,
        LINE = cuda_tile<T>::SLICE_LINE,
        N = cuda_wide<T>,
        COLUMNS = cuda_own_columns<T>
    };
    *cells = {};
#pragma unroll 1
    for (int slice = 0; slice < slices; slice++) {
        const int first = slice * CUDA_SLICE, rest = (int)width - first,
                  some = rest < CUDA_SLICE ? rest : (int)CUDA_SLICE;
        __syncthreads(); /* the slices before have been read */
        load_rows<EDGE, CUDA_SLICE, LINE>(a, a_row, rows, first, width, t->left);
        load_rows<EDGE, CUDA_SLICE, LINE>(b, b_row, columns, first, width, t->right);
        __syncthreads();
        if ((int)threadIdx.x / HEED_WARP * 8 >= rows) continue;
#pragma unroll 1
        for (int at = 0; at < some; at += N) {
            cuda_pack<T, N> left[CUDA_OWN_ROWS];
#pragma unroll
            for (int i = 0; i < CUDA_OWN_ROWS; i++) left[i] = cuda_load<N>(t->left + own_row(i) * LINE + at);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const cuda_pack<T, N> right = cuda_load<N>(t->right + own_column(j) * LINE + at);
#pragma unroll
                for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
                    for (int k = 0; k < N; k++) cells->at[i][j] += left[i].at[k] * right.at[k];
                }
            }
        }
    }
}

/* ---- scores ---- */

/* The weight of a score before dropout, from the statistics of its row; of a score of −∞ 0. */
template <typename T>
static __device__ inline T weight_of(heed_normalizer normalizer, T score, T maximum, T reciprocal) {
    if (normalizer == HEED_NORMALIZER_SOFTMAX) {
        const T weight = exp(score - maximum) * reciprocal; /* which may be NaN */
        return score == minus_infinity<T>() ? T(0) : weight;
    }
    if (normalizer == HEED_NORMALIZER_SIGMOID) return T(1) / (T(1) + exp(-score));
    return score < T(0) ? T(0) : score;
}

/* A thread's scores, −∞ where nothing is seen, and what back_through_stages is to be given of them. */
template <typename T> struct cuda_scores { cuda_cells<T> score, kept; };

/* Of the cells `allowed`; `from`: the stage before which the gradient is wanted. */
template <bool KEYS, typename T>
static __device__ inline void tile_scores(const cuda_attention<T> &p, const cuda_box &box, unsigned allowed,
                                          int from, cuda_tile<T> *t, cuda_scores<T> *s) {
    enum { COLUMNS = cuda_own_columns<T> };
    const T *q = at_row(p.q, box.batch, box.head, box.q0),
            *k = at_row(p.k, box.batch, kv_head_of(p, box.head), box.k0);
    const int64_t q_row = p.q.stride[2], k_row = p.k.stride[2];
    cell_products(t, KEYS ? k : q, KEYS ? k_row : q_row, box_rows<KEYS>(box), KEYS ? q : k,
                  KEYS ? q_row : k_row, box_columns<KEYS>(box), p.width, width_slices(p), &s->score);
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            s->score.at[i][j] *= p.scale;
            s->kept.at[i][j] = CUSTOM_STAGES ? s->score.at[i][j] : T(1);
        }
    }
    UNROLL_CHOSEN
    for (int stage = 0; stage < stage_count(p); stage++) {
#pragma unroll
        for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                if (!has_cell<T>(allowed, i, j)) continue;
                T slope;
                s->score.at[i][j] =
                    through_stage(p, place_of<KEYS>(box, i, j), stage, s->score.at[i][j], &slope);
                if (!CUSTOM_STAGES && stage >= from) s->kept.at[i][j] *= slope;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            if (!has_cell<T>(allowed, i, j)) s->score.at[i][j] = minus_infinity<T>();
    }
}

/* ---- cells for the other threads of a row ---- */

/* Which of a thread's scores are not −∞. */
template <typename T> static __device__ inline unsigned seen_cells(const cuda_cells<T> &score) {
    unsigned seen = 0;
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++)
            if (score.at[i][j] != minus_infinity<T>()) seen |= 1u << (i * cuda_own_columns<T> + j);
    }
    return seen;
}

/* Which cells of its warp's rows are seen. Every thread of the warp calls it. */
template <typename T> static __device__ inline void share_seen(unsigned seen, cuda_tile<T> *t) {
    const int shift = threadIdx.x & 17; /* of the first lane of the row */
    __syncwarp();
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++) {
            const unsigned all = __ballot_sync(0xffffffffu, has_cell<T>(seen, i, j));
            if (row_lane() == 0) t->seen[own_row(i)][j] = (unsigned short)(all >> shift & 0x5555);
        }
    }
    __syncwarp();
}

/* Puts a thread's cells where the other threads of its warp find them. */
template <typename T> static __device__ inline void share_cells(const cuda_cells<T> &cells, cuda_tile<T> *t) {
    __syncwarp(); /* those before have been read */
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++) t->cells[own_row(i)][own_column(j)] = cells.at[i][j];
    }
    __syncwarp();
}

/* ---- products of cells ---- */

/* sums += the shared cells of columns `from` and on · the rows of values that are in shared memory. CAREFUL:
 * only of cells that are seen. */
template <bool CAREFUL, typename T>
static __device__ inline void add_values(const cuda_tile<T> *t, int from, int count, cuda_sums<T> *sums) {
    enum { N = cuda_wide<T>, PACKS = CUDA_VALUE_COLUMNS / CUDA_ROW_THREADS / N };
#pragma unroll 1
    for (int n = 0; n < count; n += N) {
        cuda_pack<T, N> cell[CUDA_OWN_ROWS];
#pragma unroll
        for (int i = 0; i < CUDA_OWN_ROWS; i++) cell[i] = cuda_load<N>(&t->cells[own_row(i)][from + n]);
#pragma unroll
        for (int k = 0; k < N; k++) {
#pragma unroll
            for (int g = 0; g < PACKS; g++) {
                const cuda_pack<T, N> value = cuda_load<N>(t->right + (n + k) * cuda_tile<T>::VALUE_LINE +
                                                           (g * CUDA_ROW_THREADS + row_lane()) * N);
#pragma unroll
                for (int i = 0; i < CUDA_OWN_ROWS; i++) {
                    const int c = from + n + k;
                    if (CAREFUL &&
                        !(t->seen[own_row(i)][c / CUDA_ROW_THREADS] >> 2 * (c % CUDA_ROW_THREADS) & 1))
                        continue;
#pragma unroll
                    for (int e = 0; e < N; e++) sums->at[i][g * N + e] += cell[i].at[k] * value.at[e];
                }
            }
        }
    }
}

/* sums += the shared cells of `rows` rows · `count` rows of x (columns `first` and on), over the cells that
 * are seen (`seen`: of the thread's own). A cell that is not is 0, which is as good where x is finite. */
template <typename T>
static __device__ inline void add_products(cuda_tile<T> *t, unsigned seen, const T *x, int64_t x_row,
                                           int rows, int count, int first, int64_t width,
                                           cuda_sums<T> *sums) {
    enum { ROWS = cuda_tile<T>::VALUE_ROWS };
#pragma unroll 1
    for (int from = 0; from < count; from += ROWS) {
        const int some = count - from < ROWS ? count - from : (int)ROWS;
        __syncthreads();
        const bool finite = load_rows<ROWS, CUDA_VALUE_COLUMNS, cuda_tile<T>::VALUE_LINE>(
            x + from * x_row, x_row, some, first, width, t->right);
        const bool careful = __syncthreads_or(!finite) != 0;
        if ((int)threadIdx.x / HEED_WARP * 8 >= rows) continue;
        if (careful) {
            share_seen(seen, t);
            add_values<true>(t, from, some, sums);
        } else {
            add_values<false>(t, from, some, sums);
        }
    }
}

/* Writes a thread's sums: rows below `rows`, columns from `first` on below `width`. */
template <typename T>
static __device__ inline void store_sums(T *y, int64_t y_row, int rows, int first, int64_t width, T factor,
                                         bool add, const cuda_sums<T> &sums) {
    enum { N = cuda_wide<T>, PACKS = CUDA_VALUE_COLUMNS / CUDA_ROW_THREADS / N };
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
        if (own_row(i) >= rows) continue;
#pragma unroll
        for (int n = 0; n < PACKS * N; n++) {
            const int c = first + (n / N * CUDA_ROW_THREADS + row_lane()) * N + n % N;
            if (c >= width) continue;
            T *at = y + own_row(i) * y_row + c;
            *at = add ? *at + factor * sums.at[i][n] : factor * sums.at[i][n];
        }
    }
}

/* ---- gradients of scores ---- */

/* dy·vᵀ of a tile. */
template <bool KEYS, typename T>
static __device__ inline void weight_gradients(const cuda_attention<T> &p, const cuda_box &box,
                                               cuda_tile<T> *t, cuda_cells<T> *cells) {
    *cells = {};
    if (!p.dy.data) return;
    const T *dy = at_row(p.dy, box.batch, box.head, box.q0),
            *v = at_row(p.v, box.batch, kv_head_of(p, box.head), box.k0);
    const int64_t dy_row = p.dy.stride[2], v_row = p.v.stride[2];
    cell_products(t, KEYS ? v : dy, KEYS ? v_row : dy_row, box_rows<KEYS>(box), KEYS ? dy : v,
                  KEYS ? dy_row : v_row, box_columns<KEYS>(box), p.value_width, value_slices(p), cells);
}

/* The gradient of the final score, of that of its weight. */
template <typename T>
static __device__ inline T score_gradient(const cuda_attention<T> &p, T score, T weight, T dweight, T delta) {
    if (normalizer_of(p) == HEED_NORMALIZER_SOFTMAX) return weight * (dweight - delta);
    if (normalizer_of(p) == HEED_NORMALIZER_SIGMOID) return dweight * weight * (T(1) - weight);
    return score > T(0) ? dweight : T(0);
}

/* s->score becomes the weights after dropout, and *g the gradient of the scores before stage `from` (that of
 * tile_scores). Needs the statistics and delta of the queries. */
template <bool KEYS, typename T>
static __device__ inline void tile_gradients(const cuda_attention<T> &p, const cuda_box &box, int from,
                                             cuda_tile<T> *t, cuda_scores<T> *s, cuda_cells<T> *g) {
    const unsigned kept = kept_cells<KEYS>(p, box);
    const int64_t row = row_place(p, box.batch, box.head, box.q0);
    const T *maximum = p.maximum + row, *reciprocal = p.reciprocal + row, *delta = p.delta + row;
    const T *dweights = p.dweights.data ? at_row(p.dweights, box.batch, box.head, box.q0) + box.k0 : NULL;
    weight_gradients<KEYS>(p, box, t, g);
#pragma unroll
    for (int i = 0; i < CUDA_OWN_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < cuda_own_columns<T>; j++) {
            const int q = KEYS ? own_column(j) : own_row(i), k = KEYS ? own_row(i) : own_column(j);
            const T score = s->score.at[i][j], keep = keep_factor(p, kept, i, j);
            T weight = T(0), gradient = T(0);
            if (score != minus_infinity<T>()) {
                T dweight = g->at[i][j];
                if (dweights) dweight += dweights[q * p.dweights.stride[2] + k];
                weight = weight_of(normalizer_of(p), score, maximum[q], reciprocal[q]);
                gradient = score_gradient(p, score, weight, dweight * keep, delta[q]);
                gradient =
                    back_through_stages(p, place_of<KEYS>(box, i, j), from, s->kept.at[i][j], gradient);
            }
            s->score.at[i][j] = weight * keep;
            g->at[i][j] = gradient;
        }
    }
}

/* ---- going over tiles ---- */

/* For the tiles first … end − 1 of the keys, or (KEYS) of the queries, of a box in which the rest stands, of
 * which a cell is allowed: use(allowed cells of the thread). All threads of a block take the same way. */
template <bool KEYS, typename T, typename Use>
static __device__ inline void tiles_between(const cuda_attention<T> &p, int first, int end, cuda_box *box,
                                            Use use) {
    cuda_covers covers = {0, 0};
#pragma unroll 1
    for (int tile = first; tile < end; tile++) {
        const int of_covers = (tile - first) % HEED_WARP;
        if (of_covers == 0) covers = covers_from<KEYS>(p, *box, tile, end);
        if (!(covers.some >> of_covers & 1)) continue;
        if (KEYS)
            set_queries(p, tile * cuda_edge<T>, box);
        else
            set_keys(p, tile * cuda_edge<T>, box);
        const bool all = covers.all >> of_covers & 1;
        const unsigned allowed = allowed_cells<KEYS>(p, *box, all);
        if (all || __syncthreads_or(allowed != 0)) use(allowed);
    }
}

/* For all of them. */
template <bool KEYS, typename T, typename Use>
static __device__ inline void each_tile(const cuda_attention<T> &p, cuda_box *box, Use use) {
    tiles_between<KEYS>(p, 0, ((int)(KEYS ? p.queries : p.keys) + cuda_edge<T> - 1) / cuda_edge<T>, box, use);
}

#endif
