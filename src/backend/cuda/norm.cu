/* Layer norm of rows, y = (x − mean) / sqrt(variance + eps) · weight + bias, and RMS norm, y = x / sqrt(mean
 * square + eps) · weight. Backward with x̂ = (x − mean)·r, r the reciprocal deviation, and g = dy·weight: dx =
 * r·(g − mean(g) − x̂·mean(g·x̂)), without mean(g) for RMS; dweight = Σ over rows of dy·x̂, dbias = Σ of dy.
 *
 * A group of threads makes a row, which it holds in registers if it is no longer than 8 packs for each of
 * them: the mean, then the squares of what is left, which also say how far off the mean was rounded. Of
 * longer rows forward finds mean and variance in one pass, by packs (Welford 1962; Chan, Golub & LeVeque
 * 1979), and what is read once more to write is in a cache. Backward has sums over the row first as well.
 * Columns are summed in two stages: chunks of rows side by side, then over chunks in order.
 *
 * saved: mean and r of each row. Bytes for each element, in f32: forward 8, backward 12 for dx and 8 for
 * dweight and dbias. */
#include "backend/cuda/fold.cuh"
#include "backend/cuda/walk.cuh"

template <typename T> struct row_look { T mean, r; };

/* Where rows begin: in x, whose other dimensions may lie anywhere, and in dx. */
enum { OF_X, OF_DX, ROW_VIEWS };

template <typename T> struct norm_job {
    int64_t rows, n;
    cuda_walk<ROW_VIEWS> starts;
    const T *x, *weight, *bias; /* weight and bias NULL: absent */
    row_look<T> *look;          /* of each row; NULL: nobody wants it */
    T eps;
    unsigned rms;
};

/* ---- forward ---- */

/* The mean of some numbers, and the sum of the squares of their distances from it. For RMS the mean stays 0.
 */
template <typename T> struct moments { T count, mean, squares; };

template <typename T> struct joined {
    static __device__ inline moments<T> none() {
        return {0, 0, 0};
    }
    static __device__ inline moments<T> join(moments<T> a, moments<T> b) {
        const T count = a.count + b.count, part = count > 0 ? b.count / count : 0, delta = b.mean - a.mean;
        return {count, a.mean + delta * part, a.squares + b.squares + delta * delta * a.count * part};
    }
};

template <typename T, int N>
static __device__ inline moments<T> moments_of(unsigned rms, const cuda_pack<T, N> &x) {
    moments<T> m = {N, 0, 0};
    if (!rms) {
        for (T number : x.at) m.mean += number;
        m.mean /= N;
    }
    for (T number : x.at) m.squares += (number - m.mean) * (number - m.mean);
    return m;
}

/* What lies at element i of a vector that may be absent. */
template <int N, typename T>
static __device__ inline cuda_pack<T, N> load_or(const T *from, int64_t i, T otherwise) {
    if (from) return cuda_load<N>(from + i);
    cuda_pack<T, N> pack;
    for (T &number : pack.at) number = otherwise;
    return pack;
}

/* Sums of two kinds of numbers over a row. */
template <typename T> struct sums { T plain, product; };
template <typename T> struct summed {
    static __device__ inline sums<T> join(sums<T> a, sums<T> b) {
        return {a.plain + b.plain, a.product + b.product};
    }
};

/* Mean and Σ (x − mean)² of a row; all threads of the block come here. */
template <typename T, int N, int HELD, typename Load>
static __device__ inline moments<T> moments_of_row(const norm_job<T> &j, cuda_reader<HELD, Load> &row,
                                                   int group) {
    if constexpr (HELD == 0) {
        moments<T> all = joined<T>::none();
        row.each(
            [&](int64_t, const cuda_pack<T, N> &x) { all = joined<T>::join(all, moments_of(j.rms, x)); });
        return cuda_join<joined<T>>(all, group);
    } else {
        const T n = (T)j.n;
        T mean = 0;
        if (!j.rms) {
            row.each([&](int64_t, const cuda_pack<T, N> &x) {
                for (T number : x.at) mean += number;
            });
            mean = cuda_join<cuda_plus<T>>(mean, group) / n;
        }
        sums<T> off = {0, 0};
        row.each([&](int64_t, const cuda_pack<T, N> &x) {
            for (T number : x.at) {
                off.plain += number - mean;
                off.product += (number - mean) * (number - mean);
            }
        });
        off = cuda_join<summed<T>>(off, group);
        if (j.rms) return {n, 0, off.product};
        const T correction = off.plain / n, squares = off.product - off.plain * correction;
        return {n, mean + correction, squares > 0 ? squares : squares == squares ? 0 : squares};
    }
}

template <typename T, int N, int HELD> static __global__ void norm(norm_job<T> j, T *y, int group) {
    for (cuda_rows at(j.rows, group); at.more(); at.next()) {
        int64_t start[ROW_VIEWS];
        cuda_walk_to(j.starts, at.row, start);
        const T *from = j.x + start[OF_X];
        T *to = y + at.row * j.n;
        auto row = cuda_read<HELD>(at.lane * N, at.end(j.n), group * N,
                                   [=](int64_t i) { return cuda_load<N>(from + i); });
        const moments<T> all = moments_of_row<T, N>(j, row, group);
        const row_look<T> look = {all.mean, 1 / std::sqrt(all.squares / (T)j.n + j.eps)};
        if (j.look && at.inside() && at.lane == 0) j.look[at.row] = look;
        row.each([=](int64_t i, cuda_pack<T, N> x) {
            const cuda_pack<T, N> weight = load_or<N>(j.weight, i, (T)1), bias = load_or<N>(j.bias, i, (T)0);
            for (int k = 0; k < N; k++) x.at[k] = (x.at[k] - look.mean) * look.r * weight.at[k] + bias.at[k];
            cuda_store(to + i, x);
        });
    }
}

/* ---- the gradient of x ---- */

/* x̂ and g of some elements, or x and dy; and the dx that is added to. */
template <typename T, int N> struct both { cuda_pack<T, N> x, g; };
template <typename T, int N> struct all_three : both<T, N> { cuda_pack<T, N> before; };

template <typename T, int N, int HELD>
static __global__ void norm_dx(norm_job<T> j, const T *dy, T *dx, bool add, int group) {
    typedef all_three<T, N> part;
    for (cuda_rows at(j.rows, group); at.more(); at.next()) {
        const int64_t first = at.lane * N, end = at.end(j.n), step = group * N;
        int64_t start[ROW_VIEWS];
        cuda_walk_to(j.starts, at.row, start);
        const row_look<T> look = at.inside() ? j.look[at.row] : row_look<T>{0, 0};
        const T *x = j.x + start[OF_X], *g = dy + at.row * j.n;
        T *to = dx + start[OF_DX];
        const auto load = [=](int64_t i, bool with_before) {
            part p;
            p.x = cuda_load<N>(x + i);
            p.g = cuda_load<N>(g + i);
            if (with_before) p.before = cuda_load<N>(to + i);
            return p;
        };
        const auto finish = [=](int64_t i, part &p) {
            const cuda_pack<T, N> weight = load_or<N>(j.weight, i, (T)1);
            for (int k = 0; k < N; k++) {
                p.x.at[k] = (p.x.at[k] - look.mean) * look.r;
                p.g.at[k] *= weight.at[k];
            }
        };
        auto row = cuda_read<HELD>(first, end, step, [=](int64_t i) { return load(i, HELD > 0 && add); });
        sums<T> all = {0, 0};
        /* What is held stays finished. */
        row.each([&](int64_t i, part &p) {
            finish(i, p);
            for (int k = 0; k < N; k++) {
                all.plain += p.g.at[k];
                all.product += p.g.at[k] * p.x.at[k];
            }
        });
        all = cuda_join<summed<T>>(all, group);
        const T mean = j.rms ? 0 : all.plain / (T)j.n, slope = all.product / (T)j.n;
        const auto give = [=](int64_t i, part &p) {
            for (int k = 0; k < N; k++) {
                p.g.at[k] = look.r * (p.g.at[k] - mean - p.x.at[k] * slope);
                if (add) p.g.at[k] += p.before.at[k];
            }
            cuda_store(to + i, p.g);
        };
        if constexpr (HELD > 0) {
            row.each(give);
        } else {
            cuda_each<2>(
                first, end, step, [=](int64_t i) { return load(i, add); },
                [=](int64_t i, part &p) {
                    finish(i, p);
                    give(i, p);
                });
        }
    }
}

/* ---- the gradients of weight and bias ---- */

enum {
    LANES = 8,        /* rows that a block reads at once */
    FEWEST_ROWS = 64, /* of a chunk, so that what chunks sum is small beside x */
    MOST_CHUNKS = 256
};

static int64_t chunk_rows(int64_t rows) {
    const int64_t wanted = (rows + MOST_CHUNKS - 1) / MOST_CHUNKS;
    return wanted > FEWEST_ROWS ? wanted : (int64_t)FEWEST_ROWS;
}

static int64_t chunks_of(int64_t rows) {
    return (rows + chunk_rows(rows) - 1) / chunk_rows(rows);
}

/* A block sums HEED_WARP columns over the rows of chunk blockIdx.y; found [chunks, 2, n]: of dy·x̂ and of dy.
 */
template <typename T>
static __global__ void norm_columns(norm_job<T> j, const T *dy, T *found, int64_t chunk) {
    HEED_SHARED(sums<T>, lane_sums, HEED_WARP * LANES);
    const int lane = (int)threadIdx.x / HEED_WARP;
    const int64_t column = (int64_t)blockIdx.x * HEED_WARP + (int)threadIdx.x % HEED_WARP;
    const int64_t first = blockIdx.y * chunk, end = first + chunk < j.rows ? first + chunk : j.rows;
    const auto load = [&](int64_t row) { /* a copy of the walk would lie in local memory */
                                         int64_t start[ROW_VIEWS];
                                         cuda_walk_to(j.starts, row, start);
                                         return both<T, 1>{cuda_load<1>(j.x + start[OF_X] + column),
                                                           cuda_load<1>(dy + row * j.n + column)};
    };
    sums<T> all = {0, 0};
    cuda_each(first + lane, column < j.n ? end : 0, LANES, load, [&](int64_t row, const both<T, 1> &b) {
        const row_look<T> look = j.look[row];
        all.product += b.g.at[0] * ((b.x.at[0] - look.mean) * look.r);
        all.plain += b.g.at[0];
    });
    lane_sums[threadIdx.x] = all;
    __syncthreads();
    if (lane != 0 || column >= j.n) return;
    for (int other = 1; other < LANES; other++)
        all = summed<T>::join(all, lane_sums[other * HEED_WARP + threadIdx.x]);
    found[blockIdx.y * 2 * j.n + column] = all.product;
    found[(blockIdx.y * 2 + 1) * j.n + column] = all.plain;
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    return cuda_computes(static_cast<const struct heed_norm_args *>(arguments)->x.dtype, why);
}

static bool wants_columns(const struct heed_norm_args *a) {
    return heed_has(&a->dweight.view) || heed_has(&a->dbias.view);
}

static int64_t length_of(const struct heed_norm_args *a) {
    return a->x.size[a->x.rank - 1];
}

/* x without its last dimension. */
static struct heed_view rows_of(const struct heed_view *x) {
    struct heed_view rows = *x;
    if (rows.rank > 0) rows.rank--;
    return rows;
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    const struct heed_view rows = rows_of(&a->x);
    const size_t pair = 2 * heed_dtype_bytes(a->x.dtype);
    sizes->saved = (size_t)heed_view_count(&rows) * pair;
    if (wants_columns(a))
        sizes->backward_scratch = (size_t)(chunks_of(heed_view_count(&rows)) * length_of(a)) * pair;
}

template <typename T> static norm_job<T> job_of(const struct heed_norm_args *a, void *saved) {
    const struct heed_view x = rows_of(&a->x), dx = rows_of(&a->dx.view), *const view[ROW_VIEWS] = {&x, &dx};
    return {heed_view_count(&x),
            length_of(a),
            cuda_walk_of<ROW_VIEWS>(&x, view),
            static_cast<const T *>(a->x.data),
            static_cast<const T *>(a->weight.data),
            static_cast<const T *>(a->bias.data),
            static_cast<row_look<T> *>(saved),
            (T)a->eps,
            a->rms};
}

/* Whether rows of x, and of dx, begin where packs do. */
template <typename T> static bool starts_in_packs(const norm_job<T> &j) {
    for (int d = 0; d < j.starts.rank; d++)
        for (int v = 0; v < ROW_VIEWS; v++)
            if (j.starts.stride[v][d] % cuda_wide<T> != 0) return false;
    return true;
}

template <typename T, int N, int HELD>
static void start_rows(struct heed_exec *exec, const norm_job<T> &j, const struct heed_norm_args *a,
                       bool back, int group) {
    const int threads = cuda_row_threads(exec, j.rows, group);
    const unsigned blocks = cuda_row_blocks(exec, j.rows, group * CUDA_BLOCK / threads);
    if (back) {
        CUDA_RUN(exec, (norm_dx<T, N, HELD>), blocks, threads, 0, j, static_cast<const T *>(a->dy.data),
                 static_cast<T *>(a->dx.view.data), a->dx.add, group);
    } else {
        CUDA_RUN(exec, (norm<T, N, HELD>), blocks, threads, 0, j, static_cast<T *>(a->y.data), group);
    }
}

template <typename T>
static void start_rows(struct heed_exec *exec, const norm_job<T> &j, const struct heed_norm_args *a,
                       bool back, bool in_packs) {
    const cuda_row_plan plan = cuda_row_plan_of<T>(j.n / cuda_wide<T>);
    if (!in_packs) {
        start_rows<T, 1, 0>(exec, j, a, back, cuda_group(j.n));
    } else if (plan.held == CUDA_HOLD_FEW) {
        start_rows<T, cuda_wide<T>, CUDA_HOLD_FEW>(exec, j, a, back, plan.group);
    } else if (plan.held == cuda_hold_many<T>) {
        start_rows<T, cuda_wide<T>, cuda_hold_many<T>>(exec, j, a, back, plan.group);
    } else {
        start_rows<T, cuda_wide<T>, 0>(exec, j, a, back, plan.group);
    }
}

template <typename T>
static void run_forward(struct heed_exec *exec, const struct heed_norm_args *a, void *saved) {
    const norm_job<T> j = job_of<T>(a, saved);
    if (j.n == 0 || j.rows == 0) return;
    start_rows(exec, j, a, false,
               starts_in_packs(j) && cuda_packs<T>(j.n, a->x.data, a->weight.data, a->bias.data, a->y.data));
}

/* The sum over chunks, which are few. */
template <typename T>
static void sum_chunks(struct heed_exec *exec, int64_t chunks, int64_t n, T *found,
                       const struct heed_grad_view *g) {
    if (!heed_has(&g->view)) return;
    const heed_dtype dtype = g->view.dtype;
    const struct heed_view from = {found, dtype, 2, {chunks, n}, {2 * n, 1}}, *view[] = {&from};
    const struct heed_grad_view to = {{g->view.data, dtype, 2, {chunks, n}, {0, 1}}, g->add};
    cuda_fold<cuda_plus<T>>(exec, cuda_itself<T>{found}, view, &to, 1, NULL);
}

template <typename T>
static void sum_columns(struct heed_exec *exec, const norm_job<T> &j, const struct heed_norm_args *a,
                        void *scratch) {
    const int64_t chunks = chunks_of(j.rows);
    const dim3 grid((unsigned)((j.n + HEED_WARP - 1) / HEED_WARP), (unsigned)chunks);
    T *found = static_cast<T *>(scratch);
    if (chunks > 0)
        CUDA_RUN(exec, norm_columns<T>, grid, HEED_WARP * LANES, 0, j, static_cast<const T *>(a->dy.data),
                 found, chunk_rows(j.rows));
    sum_chunks(exec, chunks, j.n, found, &a->dweight);
    sum_chunks(exec, chunks, j.n, found + j.n, &a->dbias);
}

template <typename T>
static void run_backward(struct heed_exec *exec, const struct heed_norm_args *a, void *saved, void *scratch) {
    const norm_job<T> j = job_of<T>(a, saved);
    if (j.n == 0) return;
    if (heed_has(&a->dx.view) && j.rows > 0)
        start_rows(exec, j, a, true,
                   starts_in_packs(j) &&
                       cuda_packs<T>(j.n, a->x.data, a->weight.data, a->dy.data, a->dx.view.data));
    if (wants_columns(a)) sum_columns<T>(exec, j, a, scratch);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    (a->x.dtype == HEED_F64 ? run_forward<double> : run_forward<float>)(exec, a, saved);
    return cuda_started(exec, HEED_PRIMITIVE_NORM);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    (a->x.dtype == HEED_F64 ? run_backward<double> : run_backward<float>)(exec, a, saved, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_NORM);
}

const struct heed_kernel heed_cuda_norm = {"cuda", applies, sizes, forward, backward};
