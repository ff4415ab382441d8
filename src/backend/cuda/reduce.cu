/* y = Σ, mean or maximum of x over any dimensions, by folds; dx = dy, dy / elements, or dy divided evenly
 * among the elements that equal the maximum, by maps.
 *
 * Bytes for each element of x, in f32: forward 4; backward of sums 4, of maxima 4 to count them and 8. */
#include "backend/cuda/fold.cuh"

/* ---- terms ---- */

template <typename T> struct scaled {
    typedef T result;
    enum { VIEWS = 1 };
    const T *x;
    T factor;
    template <int N> __device__ inline void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        cuda_load(x, spot, 0, y);
#pragma unroll
        for (T &one : y) one *= factor;
    }
};

template <typename T> static __device__ inline bool is_maximum(T x, T y) {
    return x == y || (x != x && y != y);
}

/* 1 where an element equals the maximum. */
template <typename T> struct equal {
    typedef T result;
    enum { VIEWS = 2 };
    const T *x, *y;
    template <int N> __device__ inline void operator()(const cuda_spot<N> &spot, T (&is)[N]) const {
        T most[N];
        cuda_load(x, spot, 0, is);
        cuda_load(y, spot, 1, most);
#pragma unroll
        for (int k = 0; k < N; k++) is[k] = is_maximum(is[k], most[k]) ? 1 : 0;
    }
};

/* The gradient of each element; `count` equal the maximum. */
template <typename T> struct share {
    typedef T result;
    enum { VIEWS = 4 };
    const T *x, *y, *dy, *count;
    template <int N> __device__ inline void operator()(const cuda_spot<N> &spot, T (&dx)[N]) const {
        T one[N], most[N], number[N];
        cuda_load(x, spot, 0, one);
        cuda_load(y, spot, 1, most);
        cuda_load(dy, spot, 2, dx);
        cuda_load(count, spot, 3, number);
#pragma unroll
        for (int k = 0; k < N; k++) dx[k] = is_maximum(one[k], most[k]) ? dx[k] / number[k] : 0;
    }
};

/* ---- the kernel ---- */

template <typename T> static const T *data(const struct heed_view &v) {
    return static_cast<const T *>(v.data);
}

static double factor_of(const struct heed_reduce_args *a) {
    return a->op == HEED_REDUCE_OP_MEAN ? 1 / (double)a->reduced : 1;
}

template <typename T>
static void run_forward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_view *view[] = {&a->x};
    const struct heed_grad_view y = {a->y, false};
    const cuda_itself<T> x = {data<T>(a->x)};
    if (a->op == HEED_REDUCE_OP_MAX)
        cuda_fold<cuda_larger<T>, cuda_wide<T>>(exec, x, view, &y, 1, scratch);
    else
        cuda_fold<cuda_plus<T>, cuda_wide<T>>(exec, x, view, &y, factor_of(a), scratch);
}

/* How many elements equal each maximum lies in scratch as y does, and what finding that needs behind it. */
static size_t count_bytes(const struct heed_reduce_args *a) {
    int64_t count = 1;
    for (int d = 0; d < a->y.rank; d++) count *= a->y.stride[d] == 0 ? 1 : a->y.size[d];
    return ((size_t)count * heed_dtype_bytes(a->y.dtype) + 15) / 16 * 16;
}

template <typename T>
static void run_max_backward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    struct heed_grad_view count = {a->y, false};
    count.view.data = scratch;
    const struct heed_view *view[] = {&a->x, &a->y, &a->dy, &count.view};
    cuda_fold<cuda_plus<T>>(exec, equal<T>{data<T>(a->x), data<T>(a->y)}, view, &count, 1,
                            static_cast<char *>(scratch) + count_bytes(a));
    cuda_map<T>(exec, share<T>{data<T>(a->x), data<T>(a->y), data<T>(a->dy), data<T>(count.view)}, view,
                &a->dx);
}

template <typename T>
static void run_backward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_view *view[] = {&a->dy};
    if (a->op == HEED_REDUCE_OP_MAX)
        run_max_backward<T>(exec, a, scratch);
    else
        cuda_gradient<T>(exec, scaled<T>{data<T>(a->dy), (T)factor_of(a)}, view, &a->dx, scratch);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_reduce_args *a = static_cast<const struct heed_reduce_args *>(arguments);
    return cuda_takes(HEED_PRIMITIVE_REDUCE, a, a->x.dtype, why);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_reduce_args *a = static_cast<const struct heed_reduce_args *>(arguments);
    const struct heed_view *of_x[] = {&a->x, &a->y}, *of_dy[] = {&a->dy};
    if (heed_has(&a->x)) sizes->forward_scratch = cuda_fold_scratch<1>(of_x, &a->y);
    if (!heed_has(&a->dx.view)) return;
    if (a->op == HEED_REDUCE_OP_MAX)
        sizes->backward_scratch = count_bytes(a) + cuda_fold_scratch<2>(of_x, &a->y);
    else
        sizes->backward_scratch = cuda_gradient_scratch<1>(of_dy, &a->dx);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_reduce_args *a = static_cast<const struct heed_reduce_args *>(arguments);
    (a->x.dtype == HEED_F64 ? run_forward<double> : run_forward<float>)(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_REDUCE);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_reduce_args *a = static_cast<const struct heed_reduce_args *>(arguments);
    if (!heed_has(&a->dx.view)) return HEED_OK;
    (a->dx.view.dtype == HEED_F64 ? run_backward<double> : run_backward<float>)(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_REDUCE);
}

const struct heed_kernel heed_cuda_reduce = {"cuda", applies, sizes, forward, backward};
