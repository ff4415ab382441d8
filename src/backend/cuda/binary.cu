/* y = a op b, and the gradients of sums, products, quotients, powers, maxima and minima. Memory traffic in
 * f32: 12 bytes an element forward, 9 for comparisons, less what repeats; backward for each gradient 8 bytes
 * (sums), 12 or 16. In bf16 half of that, but for comparisons. */
#include "backend/cuda/fold.cuh"

/* ---- terms ---- */

template <typename T, typename M> struct binary_value {
    typedef T result;
    enum { VIEWS = 2 };
    enum heed_binary op;
    const M *a, *b;

    __device__ T value(T x, T y) const {
        switch (op) {
        case HEED_BINARY_ADD:
            return x + y;
        case HEED_BINARY_SUB:
            return x - y;
        case HEED_BINARY_MUL:
            return x * y;
        case HEED_BINARY_DIV:
            return x / y;
        case HEED_BINARY_MAXIMUM:
            return x < y || y != y ? y : x;
        case HEED_BINARY_MINIMUM:
            return y < x || y != y ? y : x;
        default:
            return pow(x, y);
        }
    }

    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        T other[N];
        cuda_load(a, spot, 0, y);
        cuda_load(b, spot, 1, other);
#pragma unroll
        for (int j = 0; j < N; j++) y[j] = value(y[j], other[j]);
    }
};

template <typename T> struct compared {
    typedef uint8_t result;
    enum { VIEWS = 2 };
    enum heed_binary op;
    const T *a, *b;

    template <int N> __device__ void operator()(const cuda_spot<N> &spot, uint8_t (&y)[N]) const {
        T x[N], other[N];
        cuda_load(a, spot, 0, x);
        cuda_load(b, spot, 1, other);
#pragma unroll
        for (int j = 0; j < N; j++)
            y[j] = op == HEED_BINARY_EQUAL  ? x[j] == other[j]
                   : op == HEED_BINARY_LESS ? x[j] < other[j]
                                            : x[j] > other[j];
    }
};

/* The views of both gradients; a and b are there only where the operation's gradient reads them. */
enum { DY, A, B, GRADIENT_VIEWS };

/* What of g belongs to x, the gradient of the larger of x and y. */
template <typename T> __device__ T share_of_larger(T g, T x, T y) {
    return x < y ? (T)0 : x == y ? g / 2 : g;
}

template <typename T, typename M> struct gradient_a {
    typedef T result;
    enum { VIEWS = GRADIENT_VIEWS };
    enum heed_binary op;
    const M *dy, *a, *b;

    __device__ T value(T g, T x, T y) const {
        switch (op) {
        case HEED_BINARY_MUL:
            return g * y;
        case HEED_BINARY_DIV:
            return g / y;
        case HEED_BINARY_POW:
            return y == 0 ? (T)0 : g * y * pow(x, y - 1);
        case HEED_BINARY_MAXIMUM:
            return share_of_larger(g, x, y);
        case HEED_BINARY_MINIMUM:
            return share_of_larger(g, y, x);
        default:
            return g;
        }
    }

    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&da)[N]) const {
        T x[N] = {}, y[N] = {};
        cuda_load(dy, spot, DY, da);
        if (op >= HEED_BINARY_POW) cuda_load(a, spot, A, x);
        if (op >= HEED_BINARY_MUL) cuda_load(b, spot, B, y);
#pragma unroll
        for (int j = 0; j < N; j++) da[j] = value(da[j], x[j], y[j]);
    }
};

template <typename T, typename M> struct gradient_b {
    typedef T result;
    enum { VIEWS = GRADIENT_VIEWS };
    enum heed_binary op;
    const M *dy, *a, *b;

    __device__ T value(T g, T x, T y) const {
        switch (op) {
        case HEED_BINARY_SUB:
            return -g;
        case HEED_BINARY_MUL:
            return g * x;
        case HEED_BINARY_DIV:
            return -g * (x / y) / y;
        case HEED_BINARY_POW:
            return x == 0 && y >= 0 ? (T)0 : g * pow(x, y) * log(x);
        case HEED_BINARY_MAXIMUM:
            return share_of_larger(g, y, x);
        case HEED_BINARY_MINIMUM:
            return share_of_larger(g, x, y);
        default:
            return g;
        }
    }

    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&db)[N]) const {
        T x[N] = {}, y[N] = {};
        cuda_load(dy, spot, DY, db);
        if (op >= HEED_BINARY_MUL) cuda_load(a, spot, A, x);
        if (op >= HEED_BINARY_DIV) cuda_load(b, spot, B, y);
#pragma unroll
        for (int j = 0; j < N; j++) db[j] = value(db[j], x[j], y[j]);
    }
};

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_binary_args *a = static_cast<const struct heed_binary_args *>(arguments);
    const bool whole = a->a.dtype == HEED_I32 || a->a.dtype == HEED_BOOL;
    if (a->op >= HEED_BINARY_EQUAL && whole) return true;
    return cuda_takes_either(HEED_PRIMITIVE_BINARY, a, a->a.dtype, why);
}

template <typename TERM, typename M, typename TO>
static void start(struct heed_exec *exec, const struct heed_binary_args *a) {
    const struct heed_view *const views[] = {&a->a, &a->b};
    const struct heed_grad_view y = {a->y, false};
    const TERM term = {a->op, static_cast<const M *>(a->a.data), static_cast<const M *>(a->b.data)};
    cuda_map<TO>(exec, term, views, &y);
}

template <typename M> static void start_value(struct heed_exec *exec, const struct heed_binary_args *a) {
    start<binary_value<typename cuda_computed<M>::type, M>, M, M>(exec, a);
}

template <typename T> static void start_comparing(struct heed_exec *exec, const struct heed_binary_args *a) {
    start<compared<T>, T, uint8_t>(exec, a);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_binary_args *a = static_cast<const struct heed_binary_args *>(arguments);
    if (a->op < HEED_BINARY_EQUAL && a->a.dtype == HEED_F64)
        start_value<double>(exec, a);
    else if (a->op < HEED_BINARY_EQUAL && a->a.dtype == HEED_BF16)
        start_value<cuda_bf16>(exec, a);
    else if (a->op < HEED_BINARY_EQUAL)
        start_value<float>(exec, a);
    else if (a->a.dtype == HEED_F64)
        start_comparing<double>(exec, a);
    else if (a->a.dtype == HEED_F32)
        start_comparing<float>(exec, a);
    else if (a->a.dtype == HEED_I32)
        start_comparing<int32_t>(exec, a);
    else
        start_comparing<bool>(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_BINARY);
}

template <typename M>
static void start_backward(struct heed_exec *exec, const struct heed_binary_args *a, void *scratch) {
    typedef typename cuda_computed<M>::type T;
    const struct heed_view *const views[] = {&a->dy, &a->a, &a->b};
    const M *dy = static_cast<const M *>(a->dy.data), *x = static_cast<const M *>(a->a.data),
            *y = static_cast<const M *>(a->b.data);
    cuda_gradient<M>(exec, gradient_a<T, M>{a->op, dy, x, y}, views, &a->da, scratch);
    cuda_gradient<M>(exec, gradient_b<T, M>{a->op, dy, x, y}, views, &a->db, scratch);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_binary_args *a = static_cast<const struct heed_binary_args *>(arguments);
    if (a->dy.dtype == HEED_F64)
        start_backward<double>(exec, a, scratch);
    else if (a->dy.dtype == HEED_BF16)
        start_backward<cuda_bf16>(exec, a, scratch);
    else
        start_backward<float>(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_BINARY);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_binary_args *a = static_cast<const struct heed_binary_args *>(arguments);
    const struct heed_view *const views[] = {&a->dy, &a->a, &a->b};
    const size_t of_a = cuda_gradient_scratch<GRADIENT_VIEWS>(views, &a->da);
    const size_t of_b = cuda_gradient_scratch<GRADIENT_VIEWS>(views, &a->db);
    sizes->backward_scratch = of_a > of_b ? of_a : of_b;
}

const struct heed_kernel heed_cuda_binary = {"cuda", applies, sizes, forward, backward};
