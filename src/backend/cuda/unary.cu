/* y = op(x, c) and dx = dy · d op(x, c) / dx. Memory traffic in f32: 8 bytes an element forward; 12 backward,
 * 8 where dy is all it reads, and 4 more to add; in bf16 half of that. */
#include "backend/cuda/fold.cuh"
#include "backend/cuda/unary.cuh"

/* ---- terms ---- */

template <typename T, typename M> struct unary_value {
    typedef T result;
    enum { VIEWS = 1 };
    enum heed_unary op;
    T c;
    const M *x;
    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        cuda_load(x, spot, 0, y);
        cuda_unary_values(op, c, y);
    }
};

/* `known` is the x or the y that the gradient is made of, or NULL. */
template <typename T, typename M> struct unary_gradient {
    typedef T result;
    enum { VIEWS = 2 };
    enum heed_unary op;
    T c;
    const M *dy, *known;
    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&dx)[N]) const {
        T value[N] = {};
        cuda_load(dy, spot, 0, dx);
        if (known) cuda_load(known, spot, 1, value);
        cuda_unary_gradients(op, c, value, dx);
    }
};

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_unary_args *a = static_cast<const struct heed_unary_args *>(arguments);
    return cuda_takes_either(HEED_PRIMITIVE_UNARY, a, a->x.dtype, why);
}

template <typename M> static void start_forward(struct heed_exec *exec, const struct heed_unary_args *a) {
    typedef typename cuda_computed<M>::type T;
    const struct heed_view *const views[] = {&a->x};
    const struct heed_grad_view y = {a->y, false};
    const unary_value<T, M> term = {a->op, (T)a->c, static_cast<const M *>(a->x.data)};
    cuda_map<M>(exec, term, views, &y);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_unary_args *a = static_cast<const struct heed_unary_args *>(arguments);
    if (a->x.dtype == HEED_F64)
        start_forward<double>(exec, a);
    else if (a->x.dtype == HEED_BF16)
        start_forward<cuda_bf16>(exec, a);
    else
        start_forward<float>(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_UNARY);
}

/* The view that the gradient reads beside dy; one without data if there is none. */
static struct heed_view known_view(const struct heed_unary_args *a) {
    const unsigned needs = heed_unary_needs(a->op);
    struct heed_view none = a->dy;
    none.data = NULL;
    return needs & HEED_NEEDS_X ? a->x : needs & HEED_NEEDS_Y ? a->y : none;
}

template <typename M>
static void start_backward(struct heed_exec *exec, const struct heed_unary_args *a, void *scratch) {
    typedef typename cuda_computed<M>::type T;
    const struct heed_view known = known_view(a);
    const struct heed_view *const views[] = {&a->dy, &known};
    const unary_gradient<T, M> term = {a->op, (T)a->c, static_cast<const M *>(a->dy.data),
                                       static_cast<const M *>(known.data)};
    cuda_gradient<M>(exec, term, views, &a->dx, scratch);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_unary_args *a = static_cast<const struct heed_unary_args *>(arguments);
    if (a->dy.dtype == HEED_F64)
        start_backward<double>(exec, a, scratch);
    else if (a->dy.dtype == HEED_BF16)
        start_backward<cuda_bf16>(exec, a, scratch);
    else
        start_backward<float>(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_UNARY);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_unary_args *a = static_cast<const struct heed_unary_args *>(arguments);
    const struct heed_view known = known_view(a);
    const struct heed_view *const views[] = {&a->dy, &known};
    sizes->backward_scratch = cuda_gradient_scratch<2>(views, &a->dx);
}

const struct heed_kernel heed_cuda_unary = {"cuda", applies, sizes, forward, backward};
