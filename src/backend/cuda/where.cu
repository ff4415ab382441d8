/* y = condition ? a : b; each gradient gets dy where it was chosen. Memory traffic in f32: 13 bytes an
 * element forward, less what repeats, and 9 for each gradient. */
#include "backend/cuda/fold.cuh"

/* ---- terms: what is not chosen is selected away, so its NaN goes nowhere ---- */

template <typename T> struct chosen {
    typedef T result;
    enum { VIEWS = 3 };
    const bool *condition;
    const T *a, *b;
    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        bool choose_a[N];
        T other[N];
        cuda_load(condition, spot, 0, choose_a);
        cuda_load(a, spot, 1, y);
        cuda_load(b, spot, 2, other);
#pragma unroll
        for (int j = 0; j < N; j++) y[j] = choose_a[j] ? y[j] : other[j];
    }
};

template <typename T> struct chosen_gradient {
    typedef T result;
    enum { VIEWS = 2 };
    bool of_a;
    const T *dy;
    const bool *condition;
    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&dx)[N]) const {
        bool choose_a[N];
        cuda_load(dy, spot, 0, dx);
        cuda_load(condition, spot, 1, choose_a);
#pragma unroll
        for (int j = 0; j < N; j++) dx[j] = choose_a[j] == of_a ? dx[j] : (T)0;
    }
};

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_where_args *a = static_cast<const struct heed_where_args *>(arguments);
    return cuda_takes(HEED_PRIMITIVE_WHERE, a, a->a.dtype, why);
}

template <typename T> static void start(struct heed_exec *exec, const struct heed_where_args *a) {
    const struct heed_view *const views[] = {&a->condition, &a->a, &a->b};
    const struct heed_grad_view y = {a->y, false};
    const chosen<T> term = {static_cast<const bool *>(a->condition.data), static_cast<const T *>(a->a.data),
                            static_cast<const T *>(a->b.data)};
    cuda_map<T>(exec, term, views, &y);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_where_args *a = static_cast<const struct heed_where_args *>(arguments);
    if (a->a.dtype == HEED_F64)
        start<double>(exec, a);
    else
        start<float>(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_WHERE);
}

template <typename T>
static void start_backward(struct heed_exec *exec, const struct heed_where_args *a, void *scratch) {
    const struct heed_view *const views[] = {&a->dy, &a->condition};
    const T *dy = static_cast<const T *>(a->dy.data);
    const bool *condition = static_cast<const bool *>(a->condition.data);
    cuda_gradient<T>(exec, chosen_gradient<T>{true, dy, condition}, views, &a->da, scratch);
    cuda_gradient<T>(exec, chosen_gradient<T>{false, dy, condition}, views, &a->db, scratch);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_where_args *a = static_cast<const struct heed_where_args *>(arguments);
    if (a->dy.dtype == HEED_F64)
        start_backward<double>(exec, a, scratch);
    else
        start_backward<float>(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_WHERE);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_where_args *a = static_cast<const struct heed_where_args *>(arguments);
    const struct heed_view *const views[] = {&a->dy, &a->condition};
    const size_t of_a = cuda_gradient_scratch<2>(views, &a->da);
    const size_t of_b = cuda_gradient_scratch<2>(views, &a->db);
    sizes->backward_scratch = of_a > of_b ? of_a : of_b;
}

const struct heed_kernel heed_cuda_where = {"cuda", applies, sizes, forward, backward};
