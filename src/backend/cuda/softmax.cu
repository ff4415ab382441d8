/* Softmax of rows, y = e^(x − m) / Σ e^(x − m) with the row's maximum m, or its logarithm. Backward: dx =
 * y·(dy − Σ y·dy); of the logarithm dx = dy − e^y·Σ dy.
 *
 * A group of threads makes a row: 8, a warp, or a block, by its length. It holds the row in registers if it
 * is no longer than 8 packs for each of them. Of longer rows the first pass finds the maximum and the sum
 * together (softmax.cuh), and what is read once more to write is in a cache.
 *
 * Bytes for each element, in f32: forward 8, backward 12. Of mixed precision, x of bf16 and y of f32: 6 and
 * 10; all of bf16: half of f32's. */
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

template <typename T, int N, int HELD, typename X, typename Y>
static __global__ void softmax(bool log, int64_t rows, int64_t n, const X *x, Y *y, int group) {
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const X *from = x + at.row * n;
        Y *to = y + at.row * n;
        auto row = cuda_read<HELD>(at.lane * N, at.end(n), group * N,
                                   [=](int64_t i) { return cuda_as<T>(cuda_load<N>(from + i)); });
        const cuda_normaliser<T> all = normaliser_of<T, N>(row, log, group);
        /* A row of nothing but −∞ becomes 0, its logarithm −∞. */
        const T m = cuda_base(all.maximum), scale = all.sum == 0 ? 0 : 1 / all.sum;
        const T log_sum = all.sum == 0 ? 0 : std::log(all.sum);
        row.each([=](int64_t i, const cuda_pack<T, N> &loaded) {
            cuda_pack<T, N> pack = loaded;
            for (T &number : pack.at)
                number = log ? number - m - log_sum : (HELD > 0 ? number : std::exp(number - m)) * scale;
            cuda_store(to + i, cuda_as<Y>(pack));
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

/* What is read of some elements, with the dx that is added to. */
template <typename Y, typename X, int N> struct part {
    cuda_pack<Y, N> y, dy;
    cuda_pack<X, N> before;
};

template <typename T, int N, int HELD, typename X, typename Y>
static __global__ void softmax_backward(bool log, int64_t rows, int64_t n, const Y *y, const Y *dy, X *dx,
                                        bool add, int group) {
    const T nothing = log ? -(T)INFINITY : 0;
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const int64_t first = at.lane * N, end = at.end(n), step = group * N, start = at.row * n;
        const auto load = [=](int64_t i, bool with_before) {
            part<Y, X, N> p;
            p.y = cuda_load<N>(y + start + i);
            p.dy = cuda_load<N>(dy + start + i);
            if (with_before) p.before = cuda_load<N>(dx + start + i);
            return p;
        };
        auto row = cuda_read<HELD>(first, end, step, [=](int64_t i) { return load(i, HELD > 0 && add); });
        seen<T> all = see<T>::none();
        row.each([&](int64_t, const part<Y, X, N> &p) {
            for (int k = 0; k < N; k++) {
                const T value = (T)p.y.at[k], slope = (T)p.dy.at[k];
                all.sum += log ? slope : slope * value;
                all.any += value == nothing ? 0 : 1;
            }
        });
        all = cuda_join<see<T>>(all, group);
        const auto give = [=](int64_t i, const part<Y, X, N> &p) {
            cuda_pack<T, N> gradient;
            for (int k = 0; k < N; k++) {
                const T value = (T)p.y.at[k], slope = (T)p.dy.at[k];
                const T own = log ? slope - std::exp(value) * all.sum : value * (slope - all.sum);
                gradient.at[k] = all.any == 0 ? 0 : own;
                if (add) gradient.at[k] += (T)p.before.at[k];
            }
            cuda_store(dx + start + i, cuda_as<X>(gradient));
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
    const struct heed_softmax_args *a = static_cast<const struct heed_softmax_args *>(arguments);
    if (a->x.dtype == HEED_BF16 && a->y.dtype == HEED_F32) return true;
    return cuda_takes_either(HEED_PRIMITIVE_SOFTMAX, a, a->y.dtype, why);
}

template <int N, int HELD, typename X, typename Y>
static void start_rows(struct heed_exec *exec, const struct heed_softmax_args *a, bool back, int group) {
    typedef typename cuda_computed<X>::type T;
    const int64_t rows = a->y.size[0], n = a->y.size[1];
    const int threads = cuda_row_threads(exec, rows, group);
    const unsigned blocks = cuda_row_blocks(exec, rows, group * CUDA_BLOCK / threads);
    Y *y = static_cast<Y *>(a->y.data);
    if (back) {
        CUDA_RUN(exec, (softmax_backward<T, N, HELD, X, Y>), blocks, threads, 0, a->log, rows, n, y,
                 static_cast<const Y *>(a->dy.data), static_cast<X *>(a->dx.view.data), a->dx.add, group);
    } else {
        CUDA_RUN(exec, (softmax<T, N, HELD, X, Y>), blocks, threads, 0, a->log, rows, n,
                 static_cast<const X *>(a->x.data), y, group);
    }
}

template <typename X, typename Y>
static void start(struct heed_exec *exec, const struct heed_softmax_args *a, bool back) {
    enum { N = cuda_wide<Y> }; /* which is as wide as x or wider */
    const int64_t n = a->y.size[1];
    const X *x = static_cast<const X *>(back ? a->dx.view.data : a->x.data);
    const Y *y = static_cast<const Y *>(a->y.data), *dy = static_cast<const Y *>(back ? a->dy.data : NULL);
    const cuda_row_plan plan = cuda_row_plan_of<Y>(n / N);
    if (n == 0 || a->y.size[0] == 0) return;
    if (!cuda_packs_of<N>(n, x, y, dy)) {
        start_rows<1, 0, X, Y>(exec, a, back, cuda_group(n));
    } else if (plan.held == CUDA_HOLD_FEW) {
        start_rows<N, CUDA_HOLD_FEW, X, Y>(exec, a, back, plan.group);
    } else if (plan.held == cuda_hold_many<Y>) {
        start_rows<N, cuda_hold_many<Y>, X, Y>(exec, a, back, plan.group);
    } else {
        start_rows<N, 0, X, Y>(exec, a, back, plan.group);
    }
}

/* What is of x's dtype: in backward x is gone. */
static heed_status run(struct heed_exec *exec, const struct heed_softmax_args *a, heed_dtype x, bool back) {
    if (a->y.dtype == HEED_F64)
        start<double, double>(exec, a, back);
    else if (a->y.dtype == HEED_BF16)
        start<cuda_bf16, cuda_bf16>(exec, a, back);
    else if (x == HEED_BF16)
        start<cuda_bf16, float>(exec, a, back);
    else
        start<float, float>(exec, a, back);
    return cuda_started(exec, HEED_PRIMITIVE_SOFTMAX);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_softmax_args *a = static_cast<const struct heed_softmax_args *>(arguments);
    return run(exec, a, a->x.dtype, false);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_softmax_args *a = static_cast<const struct heed_softmax_args *>(arguments);
    return heed_has(&a->dx.view) ? run(exec, a, a->dx.view.dtype, true) : HEED_OK;
}

const struct heed_kernel heed_cuda_softmax = {"cuda", applies, NULL, forward, backward};
