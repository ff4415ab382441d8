/* What kernels of norms of rows share (norm.cu says what is computed, and how): a row's statistics, its
 * gradient, the gradients of weight and bias, and which kernel makes rows of which length. */
#ifndef HEED_SRC_BACKEND_CUDA_NORM_CUH
#define HEED_SRC_BACKEND_CUDA_NORM_CUH

#include "backend/cuda/fold.cuh"
#include "backend/cuda/walk.cuh"

/* What is saved of each row. */
template <typename T> struct cuda_norm_look { T mean, r; };

/* Where rows begin: in x, whose other dimensions may lie anywhere, and in dx. */
enum { CUDA_NORM_X, CUDA_NORM_DX, CUDA_NORM_VIEWS };

/* x, y and their gradients are of M. */
template <typename T, typename M> struct cuda_norm_job {
    int64_t rows, n;
    cuda_walk<CUDA_NORM_VIEWS> starts;
    const M *x;
    const T *weight, *bias;  /* NULL: absent */
    cuda_norm_look<T> *look; /* of each row; NULL: nobody wants it */
    T eps;
    unsigned rms;
};

/* ---- forward ---- */

/* The mean of some numbers, and the sum of the squares of their distances from it. For RMS the mean stays 0.
 */
template <typename T> struct cuda_moments { T count, mean, squares; };

template <typename T> struct cuda_moments_joined {
    static __device__ inline cuda_moments<T> none() {
        return {0, 0, 0};
    }
    static __device__ inline cuda_moments<T> join(cuda_moments<T> a, cuda_moments<T> b) {
        const T count = a.count + b.count, part = count > 0 ? b.count / count : 0, delta = b.mean - a.mean;
        return {count, a.mean + delta * part, a.squares + b.squares + delta * delta * a.count * part};
    }
};

template <typename T, int N>
static __device__ inline cuda_moments<T> cuda_moments_of(unsigned rms, const cuda_pack<T, N> &x) {
    cuda_moments<T> m = {N, 0, 0};
    if (!rms) {
        for (T number : x.at) m.mean += number;
        m.mean /= N;
    }
    for (T number : x.at) m.squares += (number - m.mean) * (number - m.mean);
    return m;
}

/* What lies at element i of a vector that may be absent, 16 bytes at once. */
template <int N, typename T>
static __device__ inline cuda_pack<T, N> cuda_load_or(const T *from, int64_t i, T otherwise) {
    enum { PART = N < cuda_wide<T> ? N : cuda_wide<T> };
    cuda_pack<T, N> pack;
#pragma unroll
    for (int k = 0; k < N; k += PART) {
        cuda_pack<T, PART> part;
        for (T &number : part.at) number = otherwise;
        if (from) part = cuda_load<PART>(from + i + k);
#pragma unroll
        for (int j = 0; j < PART; j++) pack.at[k + j] = part.at[j];
    }
    return pack;
}

/* Sums of two kinds of numbers over a row. */
template <typename T> struct cuda_sums { T plain, product; };
template <typename T> struct cuda_summed {
    static __device__ inline cuda_sums<T> join(cuda_sums<T> a, cuda_sums<T> b) {
        return {a.plain + b.plain, a.product + b.product};
    }
};

/* Mean and Σ (x − mean)² of a row; all threads of the block come here. each(use) is use(i, pack of M) for all
 * that the thread has of it: once, or, if it is held, several times. */
template <typename T, int N, int HELD, typename M, typename Each>
static __device__ inline cuda_moments<T> cuda_moments_of_row(const cuda_norm_job<T, M> &j, Each each,
                                                             int group) {
    if constexpr (HELD == 0) {
        cuda_moments<T> all = cuda_moments_joined<T>::none();
        each([&](int64_t, const cuda_pack<M, N> &x) {
            all = cuda_moments_joined<T>::join(all, cuda_moments_of(j.rms, cuda_as<T>(x)));
        });
        return cuda_join<cuda_moments_joined<T>>(all, group);
    } else {
        const T n = (T)j.n;
        T mean = 0;
        if (!j.rms) {
            each([&](int64_t, const cuda_pack<M, N> &x) {
                for (M number : x.at) mean += (T)number;
            });
            mean = cuda_join<cuda_plus<T>>(mean, group) / n;
        }
        cuda_sums<T> off = {0, 0};
        each([&](int64_t, const cuda_pack<M, N> &x) {
            for (M number : x.at) {
                const T distance = (T)number - mean;
                off.plain += distance;
                off.product += distance * distance;
            }
        });
        off = cuda_join<cuda_summed<T>>(off, group);
        if (j.rms) return {n, 0, off.product};
        const T correction = off.plain / n, squares = off.product - off.plain * correction;
        return {n, mean + correction, squares > 0 ? squares : squares == squares ? 0 : squares};
    }
}

/* The statistics of a row, kept for backward. */
template <typename T, int N, int HELD, typename M, typename Each>
static __device__ inline cuda_norm_look<T> cuda_norm_look_at(const cuda_norm_job<T, M> &j,
                                                             const cuda_rows &at, Each each, int group) {
    const cuda_moments<T> all = cuda_moments_of_row<T, N, HELD>(j, each, group);
    const cuda_norm_look<T> look = {all.mean, 1 / std::sqrt(all.squares / (T)j.n + j.eps)};
    if (j.look && at.inside() && at.lane == 0) j.look[at.row] = look;
    return look;
}

/* y of the elements from i on. */
template <typename T, int N, typename M>
static __device__ inline cuda_pack<M, N> cuda_norm_y(const cuda_norm_job<T, M> &j, cuda_norm_look<T> look,
                                                     int64_t i, const cuda_pack<M, N> &loaded) {
    cuda_pack<T, N> x = cuda_as<T>(loaded);
    const cuda_pack<T, N> weight = cuda_load_or<N>(j.weight, i, (T)1),
                          bias = cuda_load_or<N>(j.bias, i, (T)0);
    for (int k = 0; k < N; k++) x.at[k] = (x.at[k] - look.mean) * look.r * weight.at[k] + bias.at[k];
    return cuda_as<M>(x);
}

/* ---- the gradient of x ---- */

/* x̂ and g of some elements, or x and dy; and what is added to dx. */
template <typename T, int N> struct cuda_norm_both { cuda_pack<T, N> x, g; };
template <typename M, int N> struct cuda_norm_three : cuda_norm_both<M, N> { cuda_pack<M, N> before; };

/* give(i, dx of the elements from i on), with `before` added (NULL: nothing), which dx may be. x, dy and
 * before are the row's. What is held of f32 stays finished from the first time to the second, what is held of
 * bf16 as it was read: it would take twice the registers. */
template <typename T, int N, int HELD, typename M, typename Give>
static __device__ inline void cuda_norm_dx(const cuda_norm_job<T, M> &j, const cuda_rows &at, const M *x,
                                           const M *dy, const M *before, int group, Give give) {
    typedef cuda_norm_three<M, N> part;
    typedef cuda_norm_both<T, N> both;
    enum { STAYS = HELD > 0 && std::is_same<T, M>::value };
    const int64_t first = at.lane * N, end = at.end(j.n), step = group * N;
    const cuda_norm_look<T> look = at.inside() ? j.look[at.row] : cuda_norm_look<T>{0, 0};
    const auto load = [=](int64_t i, bool with_before) {
        part p;
        p.x = cuda_load<N>(x + i);
        p.g = cuda_load<N>(dy + i);
        if (with_before) p.before = cuda_load<N>(before + i);
        return p;
    };
    const auto finish = [&](int64_t i, const part &p) {
        both b = {cuda_as<T>(p.x), cuda_as<T>(p.g)};
        const cuda_pack<T, N> weight = cuda_load_or<N>(j.weight, i, (T)1);
        for (int k = 0; k < N; k++) {
            b.x.at[k] = (b.x.at[k] - look.mean) * look.r;
            b.g.at[k] *= weight.at[k];
        }
        return b;
    };
    auto row = cuda_read<HELD>(first, end, step, [=](int64_t i) { return load(i, HELD > 0 && before); });
    cuda_sums<T> all = {0, 0};
    row.each([&](int64_t i, part &p) {
        const both b = finish(i, p);
        for (int k = 0; k < N; k++) {
            all.plain += b.g.at[k];
            all.product += b.g.at[k] * b.x.at[k];
        }
        if constexpr (STAYS) static_cast<both &>(p) = b;
    });
    all = cuda_join<cuda_summed<T>>(all, group);
    const T mean = j.rms ? 0 : all.plain / (T)j.n, slope = all.product / (T)j.n;
    const auto make = [&](int64_t i, const part &p) {
        both b;
        if constexpr (STAYS)
            b = p;
        else
            b = finish(i, p);
        for (int k = 0; k < N; k++) {
            b.g.at[k] = look.r * (b.g.at[k] - mean - b.x.at[k] * slope);
            if (before) b.g.at[k] += (T)p.before.at[k];
        }
        give(i, b.g);
    };
    if constexpr (HELD > 0)
        row.each(make);
    else
        cuda_each<2>(
            first, end, step, [=](int64_t i) { return load(i, before); }, make);
}

/* ---- the gradients of weight and bias ---- */

enum {
    CUDA_NORM_LANES = 8,   /* rows that a block reads at once */
    CUDA_NORM_ROWS = 64,   /* of a chunk, at least, so that what chunks sum is small beside x */
    CUDA_NORM_CHUNKS = 256 /* at most */
};

static int64_t cuda_norm_chunk_rows(int64_t rows) {
    const int64_t wanted = (rows + CUDA_NORM_CHUNKS - 1) / CUDA_NORM_CHUNKS;
    return wanted > CUDA_NORM_ROWS ? wanted : (int64_t)CUDA_NORM_ROWS;
}

static int64_t cuda_norm_chunks_of(int64_t rows) {
    return (rows + cuda_norm_chunk_rows(rows) - 1) / cuda_norm_chunk_rows(rows);
}

/* A block sums HEED_WARP columns over the rows of chunk blockIdx.y; found [chunks, 2, n]: of dy·x̂ and of dy.
 */
template <typename T, typename M>
static __global__ void norm_columns(cuda_norm_job<T, M> j, const M *dy, T *found, int64_t chunk) {
    HEED_SHARED(cuda_sums<T>, lane_sums, HEED_WARP * CUDA_NORM_LANES);
    const int lane = (int)threadIdx.x / HEED_WARP;
    const int64_t column = (int64_t)blockIdx.x * HEED_WARP + (int)threadIdx.x % HEED_WARP;
    const int64_t first = blockIdx.y * chunk, end = first + chunk < j.rows ? first + chunk : j.rows;
    const auto load =
        [&](int64_t row) { /* a copy of the walk would lie in local memory */
                           int64_t start[CUDA_NORM_VIEWS];
                           cuda_walk_to(j.starts, row, start);
                           return cuda_norm_both<M, 1>{cuda_load<1>(j.x + start[CUDA_NORM_X] + column),
                                                       cuda_load<1>(dy + row * j.n + column)};
        };
    cuda_sums<T> all = {0, 0};
    cuda_each(first + lane, column < j.n ? end : 0, CUDA_NORM_LANES, load,
              [&](int64_t row, const cuda_norm_both<M, 1> &b) {
                  const cuda_norm_look<T> look = j.look[row];
                  const T g = (T)b.g.at[0];
                  all.product += g * (((T)b.x.at[0] - look.mean) * look.r);
                  all.plain += g;
              });
    lane_sums[threadIdx.x] = all;
    __syncthreads();
    if (lane != 0 || column >= j.n) return;
    for (int other = 1; other < CUDA_NORM_LANES; other++)
        all = cuda_summed<T>::join(all, lane_sums[other * HEED_WARP + threadIdx.x]);
    found[blockIdx.y * 2 * j.n + column] = all.product;
    found[(blockIdx.y * 2 + 1) * j.n + column] = all.plain;
}

/* The sum over chunks, which are few. */
template <typename T>
static void cuda_norm_sum_chunks(struct heed_exec *exec, int64_t chunks, int64_t n, T *found,
                                 const struct heed_grad_view *g) {
    if (!heed_has(&g->view)) return;
    const heed_dtype dtype = g->view.dtype;
    const struct heed_view from = {found, dtype, 2, {chunks, n}, {2 * n, 1}}, *view[] = {&from};
    const struct heed_grad_view to = {{g->view.data, dtype, 2, {chunks, n}, {0, 1}}, g->add};
    cuda_fold<cuda_plus<T>>(exec, cuda_itself<T>{found}, view, &to, 1, NULL);
}

/* Bytes of scratch for them. */
template <typename T> static size_t cuda_norm_columns_bytes(int64_t rows, int64_t n) {
    return (size_t)(cuda_norm_chunks_of(rows) * 2 * n) * sizeof(T);
}

/* dy as rows of M. */
template <typename T, typename M>
static void cuda_norm_columns(struct heed_exec *exec, const cuda_norm_job<T, M> &j, const void *dy,
                              const struct heed_grad_view *dweight, const struct heed_grad_view *dbias,
                              void *scratch) {
    const int64_t chunks = cuda_norm_chunks_of(j.rows);
    const dim3 grid((unsigned)((j.n + HEED_WARP - 1) / HEED_WARP), (unsigned)chunks);
    T *found = static_cast<T *>(scratch);
    if (chunks > 0)
        CUDA_RUN(exec, (norm_columns<T, M>), grid, HEED_WARP * CUDA_NORM_LANES, 0, j,
                 static_cast<const M *>(dy), found, cuda_norm_chunk_rows(j.rows));
    cuda_norm_sum_chunks(exec, chunks, j.n, found, dweight);
    cuda_norm_sum_chunks(exec, chunks, j.n, found + j.n, dbias);
}

/* ---- which kernel ---- */

/* start(shape, group) with the shape that rows of n elements of M are for: elements of a pack, and packs that
 * a thread holds. */
template <int N, int H> struct cuda_norm_shape {
    enum { PACK = N, HELD = H };
};

template <typename M, typename Start> static void cuda_norm_plan(int64_t n, bool in_packs, Start start) {
    const cuda_row_plan plan = cuda_row_plan_of<M>(n / cuda_wide<M>);
    if (!in_packs)
        start(cuda_norm_shape<1, 0>(), cuda_group(n));
    else if (plan.held == CUDA_HOLD_FEW)
        start(cuda_norm_shape<cuda_wide<M>, CUDA_HOLD_FEW>(), plan.group);
    else if (plan.held == cuda_hold_many<M>)
        start(cuda_norm_shape<cuda_wide<M>, cuda_hold_many<M>>(), plan.group);
    else
        start(cuda_norm_shape<cuda_wide<M>, 0>(), plan.group);
}

/* The launch of such a kernel. */
struct cuda_norm_launch {
    unsigned blocks;
    int threads;
};
static inline cuda_norm_launch cuda_norm_launch_of(const struct heed_exec *exec, int64_t rows, int group) {
    const int threads = cuda_row_threads(exec, rows, group);
    return {cuda_row_blocks(exec, rows, group * CUDA_BLOCK / threads), threads};
}

/* x is not looked into but for its sizes and strides; dx may be absent. */
template <typename T, typename M>
static cuda_norm_job<T, M> cuda_norm_job_of(const struct heed_view *x, const struct heed_view *dx,
                                            const struct heed_view *weight, const struct heed_view *bias,
                                            bool rms, double eps, void *saved) {
    struct heed_view rows = *x;
    const struct heed_view *const view[CUDA_NORM_VIEWS] = {&rows, dx};
    rows.rank--;
    return {heed_view_count(&rows),
            x->size[x->rank - 1],
            cuda_walk_of<CUDA_NORM_VIEWS>(&rows, view),
            static_cast<const M *>(x->data),
            static_cast<const T *>(weight->data),
            static_cast<const T *>(bias->data),
            static_cast<cuda_norm_look<T> *>(saved),
            (T)eps,
            rms};
}

#endif
