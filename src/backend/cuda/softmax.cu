/* Softmax of rows, y = e^(x − m) / Σ e^(x − m) with the row's maximum m, or its logarithm. Backward: dx =
 * y·(dy − Σ y·dy); of the logarithm dx = dy − e^y·Σ dy.
 *
 * A group of threads makes a row: 8, a warp, or a block, by its length. It holds the row in registers if it
 * is no longer than 8 packs for each of them. Of longer rows the first pass finds the maximum and the sum
 * together (softmax.cuh), and what is read once more to write is in a cache.
 *
 * Bytes for each element, in f32: forward 8, backward 12. */
#include "backend/cuda/softmax.cuh"

/* ---- forward ---- */

template <typename T> struct highest {
    static __device__ inline T join(T a, T b) {
        return std::fmax(a, b); /* which passes over NaN: it makes the sum NaN */
    }
};

/* The normaliser of a row, whose numbers become e^(x − maximum) where they are held and `log` is not set. All
 * threads of the block come here. */
template <typename T, int N, int HELD, typename Load>
static __device__ inline cuda_normaliser<T> normaliser_of(cuda_reader<HELD, Load> &row, bool log, int group) {
    if constexpr (HELD == 0) {
        cuda_normaliser<T> all = cuda_normalise<T>::none();
        row.each([&](int64_t, const cuda_pack<T, N> &pack) { all = cuda_with(all, pack); });
        return cuda_join<cuda_normalise<T>>(all, group);
    } else {
        T maximum = -(T)INFINITY, sum = 0;
        row.each([&](int64_t, const cuda_pack<T, N> &pack) {
            for (T number : pack.at) maximum = std::fmax(maximum, number);
        });
        maximum = cuda_join<highest<T>>(maximum, group);
        const T m = cuda_base(maximum);
        row.each([&](int64_t, cuda_pack<T, N> &pack) {
            for (T &number : pack.at) {
                const T e = std::exp(number - m);
                sum += e;
                if (!log) number = e;
            }
        });
        return {maximum, cuda_join<cuda_plus<T>>(sum, group)};
    }
}

template <typename T, int N, int HELD>
static __global__ void softmax(bool log, int64_t rows, int64_t n, const T *x, T *y, int group) {
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const T *from = x + at.row * n;
        T *to = y + at.row * n;
        auto row = cuda_read<HELD>(at.lane * N, at.end(n), group * N,
                                   [=](int64_t i) { return cuda_load<N>(from + i); });
        const cuda_normaliser<T> all = normaliser_of<T, N>(row, log, group);
        /* A row of nothing but −∞ becomes 0, its logarithm −∞. */
        const T m = cuda_base(all.maximum), scale = all.sum == 0 ? 0 : 1 / all.sum;
        const T log_sum = all.sum == 0 ? 0 : std::log(all.sum);
        row.each([=](int64_t i, cuda_pack<T, N> pack) {
            for (T &number : pack.at)
                number = log ? number - m - log_sum : (HELD > 0 ? number : std::exp(number - m)) * scale;
            cuda_store(to + i, pack);
        });
    }
}

/* ---- backward ---- */

/* Σ y·dy, or Σ dy; and whether some y says that the row was not −∞ throughout. */
template <typename T> struct seen { T sum, any; };
template <typename T> struct see {
    static __device__ inline seen<T> none() {
        return {0, 0};
    }
    static __device__ inline seen<T> join(seen<T> a, seen<T> b) {
        return {a.sum + b.sum, a.any + b.any};
    }
};

/* And the dx that is added to. */
template <typename T, int N> struct part { cuda_pack<T, N> y, dy, before; };

template <typename T, int N, int HELD>
static __global__ void softmax_backward(bool log, int64_t rows, int64_t n, const T *y, const T *dy, T *dx,
                                        bool add, int group) {
    const T nothing = log ? -(T)INFINITY : 0;
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const int64_t first = at.lane * N, end = at.end(n), step = group * N, start = at.row * n;
        const auto load = [=](int64_t i, bool with_before) {
            part<T, N> p;
            p.y = cuda_load<N>(y + start + i);
            p.dy = cuda_load<N>(dy + start + i);
            if (with_before) p.before = cuda_load<N>(dx + start + i);
            return p;
        };
        auto row = cuda_read<HELD>(first, end, step, [=](int64_t i) { return load(i, HELD > 0 && add); });
        seen<T> all = see<T>::none();
        row.each([&](int64_t, const part<T, N> &p) {
            for (int k = 0; k < N; k++) {
                all.sum += log ? p.dy.at[k] : p.dy.at[k] * p.y.at[k];
                all.any += p.y.at[k] == nothing ? 0 : 1;
            }
        });
        all = cuda_join<see<T>>(all, group);
        const auto give = [=](int64_t i, part<T, N> &p) {
            for (int k = 0; k < N; k++) {
                const T value =
                    log ? p.dy.at[k] - std::exp(p.y.at[k]) * all.sum : p.y.at[k] * (p.dy.at[k] - all.sum);
                p.dy.at[k] = all.any == 0 ? 0 : value;
                if (add) p.dy.at[k] += p.before.at[k];
            }
            cuda_store(dx + start + i, p.dy);
        };
        if constexpr (HELD > 0)
            row.each(give);
        else
            cuda_each<2>(
                first, end, step, [=](int64_t i) { return load(i, add); }, give);
    }
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    return cuda_computes(static_cast<const struct heed_softmax_args *>(arguments)->y.dtype, why);
}

template <typename T, int N, int HELD>
static void start(struct heed_exec *exec, const struct heed_softmax_args *a, bool back, int group) {
    const int64_t rows = a->y.size[0], n = a->y.size[1];
    const int threads = cuda_row_threads(exec, rows, group);
    const unsigned blocks = cuda_row_blocks(exec, rows, group * CUDA_BLOCK / threads);
    T *y = static_cast<T *>(a->y.data);
    if (back) {
        CUDA_RUN(exec, (softmax_backward<T, N, HELD>), blocks, threads, 0, a->log, rows, n, y,
                 static_cast<const T *>(a->dy.data), static_cast<T *>(a->dx.view.data), a->dx.add, group);
    } else {
        CUDA_RUN(exec, (softmax<T, N, HELD>), blocks, threads, 0, a->log, rows, n,
                 static_cast<const T *>(a->x.data), y, group);
    }
}

template <typename T>
static void start(struct heed_exec *exec, const struct heed_softmax_args *a, bool back) {
    const int64_t n = a->y.size[1];
    const cuda_row_plan plan = cuda_row_plan_of<T>(n / cuda_wide<T>);
    if (n == 0 || a->y.size[0] == 0) return;
    const bool in_packs = back ? cuda_packs<T>(n, a->y.data, a->dy.data, a->dx.view.data)
                               : cuda_packs<T>(n, a->x.data, a->y.data);
    if (!in_packs) {
        start<T, 1, 0>(exec, a, back, cuda_group(n));
    } else if (plan.held == CUDA_HOLD_FEW) {
        start<T, cuda_wide<T>, CUDA_HOLD_FEW>(exec, a, back, plan.group);
    } else if (plan.held == cuda_hold_many<T>) {
        start<T, cuda_wide<T>, cuda_hold_many<T>>(exec, a, back, plan.group);
    } else {
        start<T, cuda_wide<T>, 0>(exec, a, back, plan.group);
    }
}

static heed_status run(struct heed_exec *exec, const struct heed_softmax_args *a, bool back) {
    (a->y.dtype == HEED_F64 ? start<double> : start<float>)(exec, a, back);
    return cuda_started(exec, HEED_PRIMITIVE_SOFTMAX);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    return run(exec, static_cast<const struct heed_softmax_args *>(arguments), false);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_softmax_args *a = static_cast<const struct heed_softmax_args *>(arguments);
    return heed_has(&a->dx.view) ? run(exec, a, true) : HEED_OK;
}

const struct heed_kernel heed_cuda_softmax = {"cuda", applies, NULL, forward, backward};
