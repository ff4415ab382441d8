/* Softmax of rows, y = e^(x − m) / Σ e^(x − m) with the row's maximum m, or its logarithm. Backward: dx =
 * y·(dy − Σ y·dy); of the logarithm dx = dy − e^y·Σ dy.
 *
 * A group of threads makes a row: 8, a warp, or a block, by its length. The first pass finds the maximum and
 * the sum together (softmax.cuh), the second one writes; what it reads once more is in a cache.
 *
 * Bytes for each element, in f32: forward 8, backward 12. Of mixed precision, x of bf16 and y of f32: 6 and
 * 10; all of bf16: half of f32's. */
#include "backend/cuda/softmax.cuh"

/* ---- forward ---- */

template <typename T, int N, typename X, typename Y>
static __global__ void softmax(bool log, int64_t rows, int64_t n, const X *x, Y *y, int group) {
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const int64_t end = at.end(n), first = at.lane * N, step = group * N;
        const X *from = x + at.row * n;
        Y *to = y + at.row * n;
        const auto load = [=](int64_t i) { return cuda_load<N>(from + i); };
        cuda_normaliser<T> row = cuda_normalise<T>::none();
        cuda_each(first, end, step, load,
                  [&](int64_t, const cuda_pack<X, N> &pack) { row = cuda_with(row, cuda_as<T>(pack)); });
        row = cuda_join<cuda_normalise<T>>(row, group);
        /* A row of nothing but −∞ becomes 0, its logarithm −∞. */
        const T m = cuda_base(row.maximum), scale = row.sum == 0 ? 0 : 1 / row.sum;
        const T log_sum = row.sum == 0 ? 0 : std::log(row.sum);
        cuda_each(first, end, step, load, [=](int64_t i, const cuda_pack<X, N> &loaded) {
            cuda_pack<T, N> pack = cuda_as<T>(loaded);
            for (T &number : pack.at) number = log ? number - m - log_sum : std::exp(number - m) * scale;
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

template <typename T, int N> struct both { cuda_pack<T, N> y, dy; };

template <typename T, int N, typename X, typename Y>
static __global__ void softmax_backward(bool log, int64_t rows, int64_t n, const Y *y, const Y *dy, X *dx,
                                        bool add, int group) {
    const T nothing = log ? -(T)INFINITY : 0;
    for (cuda_rows at(rows, group); at.more(); at.next()) {
        const int64_t end = at.end(n), first = at.lane * N, step = group * N, row = at.row * n;
        const auto load = [=](int64_t i) {
            return both<Y, N>{cuda_load<N>(y + row + i), cuda_load<N>(dy + row + i)};
        };
        seen<T> all = see<T>::none();
        cuda_each(first, end, step, load, [&](int64_t, const both<Y, N> &loaded) {
            const both<T, N> b = {cuda_as<T>(loaded.y), cuda_as<T>(loaded.dy)};
            for (int k = 0; k < N; k++) {
                all.sum += log ? b.dy.at[k] : b.dy.at[k] * b.y.at[k];
                all.any += b.y.at[k] == nothing ? 0 : 1;
            }
        });
        all = cuda_join<see<T>>(all, group);
        cuda_each(first, end, step, load, [=](int64_t i, const both<Y, N> &loaded) {
            both<T, N> b = {cuda_as<T>(loaded.y), cuda_as<T>(loaded.dy)};
            for (int k = 0; k < N; k++) {
                const T value =
                    log ? b.dy.at[k] - std::exp(b.y.at[k]) * all.sum : b.y.at[k] * (b.dy.at[k] - all.sum);
                b.dy.at[k] = all.any == 0 ? 0 : value;
            }
            cuda_give(dx + row + i, add, b.dy);
        });
    }
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_softmax_args *a = static_cast<const struct heed_softmax_args *>(arguments);
    if (a->x.dtype == HEED_BF16 && a->y.dtype == HEED_F32) return true;
    return cuda_takes_either(HEED_PRIMITIVE_SOFTMAX, a, a->y.dtype, why);
}

template <int N, typename X, typename Y>
static void start_packs(struct heed_exec *exec, const struct heed_softmax_args *a, bool back) {
    typedef typename cuda_computed<X>::type T;
    const int64_t rows = a->y.size[0], n = a->y.size[1];
    const int group = cuda_group(n / N);
    const unsigned blocks = cuda_row_blocks(exec, rows, group);
    Y *y = static_cast<Y *>(a->y.data);
    if (back) {
        CUDA_RUN(exec, (softmax_backward<T, N, X, Y>), blocks, CUDA_BLOCK, 0, a->log, rows, n, y,
                 static_cast<const Y *>(a->dy.data), static_cast<X *>(a->dx.view.data), a->dx.add, group);
    } else {
        CUDA_RUN(exec, (softmax<T, N, X, Y>), blocks, CUDA_BLOCK, 0, a->log, rows, n,
                 static_cast<const X *>(a->x.data), y, group);
    }
}

template <typename X, typename Y>
static void start(struct heed_exec *exec, const struct heed_softmax_args *a, bool back) {
    enum { N = cuda_wide<Y> }; /* which is as wide as x or wider */
    const int64_t n = a->y.size[1];
    const X *x = static_cast<const X *>(back ? a->dx.view.data : a->x.data);
    const Y *y = static_cast<const Y *>(a->y.data), *dy = static_cast<const Y *>(back ? a->dy.data : NULL);
    if (n == 0 || a->y.size[0] == 0) return;
    if (cuda_packs_of<N>(n, x, y, dy)) {
        start_packs<N, X, Y>(exec, a, back);
    } else {
        start_packs<1, X, Y>(exec, a, back);
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
