/* sum = x + dropout(branch) and y = norm(sum), as norm.cu has it. Backward, with d = dsum + the gradient of
 * norm(sum) from dy: dx = d and dbranch = d through the dropout; dweight and dbias as those of norms.
 *
 * A group of threads makes a row as in norm.cu: the sum is stored as it is made, stays in registers where the
 * row is held there, and is read again, out of a cache, where it is too long for that. A thread's pack is of
 * one block of random words (philox.cuh), which backward makes anew.
 *
 * saved: mean and reciprocal deviation of each row. Bytes for each element, in f32: forward 16 (one by one
 * the three operations move 28), backward 20 for dx and dbranch (one by one 28) and 8 for dweight and dbias.
 * In mixed precision all but weight, bias and their gradients are bf16, which is half of that. */
#include "backend/cuda/norm.cuh"
#include "backend/cuda/philox.cuh"

template <typename T, typename M> struct residual_job {
    cuda_norm_job<T, M> norm; /* of the sum */
    const M *x, *branch;      /* NULL: the sum is there already */
    M *sum;
    uint32_t threshold;
    T scale;
    bool rounded; /* the sum is rounded to bf16, whatever M is */
    struct heed_random random;
};

/* ---- forward ---- */

template <typename M, int N> struct addends { cuda_pack<M, N> x, branch; };

template <int N, typename T, typename M>
static __device__ inline addends<M, N> load_addends(const residual_job<T, M> &r, int64_t at) {
    addends<M, N> p;
    p.x = cuda_load<N>((r.x ? r.x : r.sum) + at);
    if (r.x) p.branch = cuda_load<N>(r.branch + at);
    return p;
}

/* Their sum, stored. */
template <int N, typename T, typename M>
static __device__ inline cuda_pack<M, N> make_sum(const residual_job<T, M> &r, int64_t at,
                                                  const addends<M, N> &p) {
    if (!r.x) return p.x;
    const unsigned kept = cuda_kept<N>(r.random, r.threshold, at);
    cuda_pack<M, N> sum;
#pragma unroll
    for (int k = 0; k < N; k++) {
        sum.at[k] = (M)((T)p.x.at[k] + (kept >> k & 1 ? (T)p.branch.at[k] * r.scale : (T)0));
        if (r.rounded) sum.at[k] = (M)(float)cuda_bf16((float)sum.at[k]);
    }
    cuda_store(r.sum + at, sum);
    return sum;
}

template <typename T, int N, int HELD, typename M>
static __global__ void residual_norm(residual_job<T, M> r, M *y, int group) {
    typedef addends<M, N> part;
    for (cuda_rows at(r.norm.rows, group); at.more(); at.next()) {
        const int64_t start = at.row * r.norm.n, first = at.lane * N, end = at.end(r.norm.n),
                      step = group * N;
        const auto load = [&](int64_t i) { return load_addends<N>(r, start + i); };
        auto row = cuda_read<HELD>(first, end, step, load);
        if constexpr (HELD > 0) row.each([&](int64_t i, part &p) { p.x = make_sum(r, start + i, p); });
        const auto each = [&](auto use) {
            if constexpr (HELD > 0)
                row.each([&](int64_t i, const part &p) { use(i, p.x); });
            else
                row.each([&](int64_t i, const part &p) { use(i, make_sum(r, start + i, p)); });
        };
        const cuda_norm_look<T> look = cuda_norm_look_at<T, N, HELD>(r.norm, at, each, group);
        if constexpr (HELD > 0) {
            const cuda_norm_job<T, M> j = r.norm; /* as in norm.cu, a reference to it costs registers here */
            each([=](int64_t i, const cuda_pack<M, N> &sum) {
                cuda_store(y + start + i, cuda_norm_y(j, look, i, sum));
            });
        } else {
            cuda_each(
                first, end, step, [&](int64_t i) { return cuda_load<N>(r.sum + start + i); },
                [&](int64_t i, const cuda_pack<M, N> &sum) {
                    cuda_store(y + start + i, cuda_norm_y(r.norm, look, i, sum));
                });
        }
    }
}

/* ---- backward ---- */

template <typename M> struct residual_gradients {
    const M *dy, *dsum; /* NULL: none arrived */
    M *dx, *dbranch;    /* NULL: not wanted */
    bool add_dx, add_dbranch;
};

template <int N, typename T, typename M>
static __device__ inline void give_gradient(const residual_job<T, M> &r, const residual_gradients<M> &g,
                                            int64_t at, const cuda_pack<T, N> &d) {
    if (g.dx) cuda_give(g.dx + at, g.add_dx, d);
    if (!g.dbranch) return;
    const unsigned kept = cuda_kept<N>(r.random, r.threshold, at);
    cuda_pack<T, N> dropped;
#pragma unroll
    for (int k = 0; k < N; k++) dropped.at[k] = kept >> k & 1 ? d.at[k] * r.scale : (T)0;
    cuda_give(g.dbranch + at, g.add_dbranch, dropped);
}

template <typename T, int N, int HELD, typename M>
static __global__ void residual_norm_dx(residual_job<T, M> r, residual_gradients<M> g, int group) {
    for (cuda_rows at(r.norm.rows, group); at.more(); at.next()) {
        const int64_t start = at.row * r.norm.n;
        cuda_norm_dx<T, N, HELD>(
            r.norm, at, r.norm.x + start, g.dy + start, g.dsum ? g.dsum + start : NULL, group,
            [&](int64_t i, const cuda_pack<T, N> &d) { give_gradient(r, g, start + i, d); });
    }
}

/* Where no gradient arrived at y. */
template <typename T, int N, typename M>
static __global__ void pass_residual(residual_job<T, M> r, residual_gradients<M> g) {
    const int64_t count = r.norm.rows * r.norm.n;
    for (int64_t i = CUDA_FIRST * N; i < count; i += CUDA_STEP * N)
        give_gradient(r, g, i, cuda_as<T>(cuda_load<N>(g.dsum + i)));
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_residual_norm_args *a = static_cast<const struct heed_residual_norm_args *>(arguments);
    const struct heed_view *const vectors[] = {&a->weight, &a->bias};
    const struct heed_view *const rows[] = {&a->x, &a->branch, &a->sum, &a->y};
    bool low = true;
    for (const struct heed_view *v : vectors) low = low && (!heed_has(v) || v->dtype == HEED_F32);
    for (const struct heed_view *v : rows) low = low && (!heed_has(v) || v->dtype == HEED_BF16);
    return low || cuda_takes(HEED_PRIMITIVE_RESIDUAL_NORM, a, a->sum.dtype, why);
}

static bool wants_columns(const struct heed_residual_norm_args *a) {
    return heed_has(&a->dy) && (heed_has(&a->dweight.view) || heed_has(&a->dbias.view));
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_residual_norm_args *a = static_cast<const struct heed_residual_norm_args *>(arguments);
    const int64_t rows = a->sum.size[0], n = a->sum.size[1];
    const bool wide = a->sum.dtype == HEED_F64;
    sizes->saved = (size_t)rows * (wide ? sizeof(cuda_norm_look<double>) : sizeof(cuda_norm_look<float>));
    if (wants_columns(a))
        sizes->backward_scratch =
            (wide ? cuda_norm_columns_bytes<double> : cuda_norm_columns_bytes<float>)(rows, n);
}

template <typename T, typename M>
static residual_job<T, M> job_of(const struct heed_residual_norm_args *a, void *saved) {
    const struct heed_view none = {};
    return {cuda_norm_job_of<T, M>(&a->sum, &none, &a->weight, &a->bias, a->rms, a->eps, saved),
            static_cast<const M *>(a->x.data),
            static_cast<const M *>(a->branch.data),
            static_cast<M *>(a->sum.data),
            a->threshold,
            (T)heed_keep_scale(a->threshold),
            a->rounded,
            a->random};
}

template <typename M>
static void run_forward(struct heed_exec *exec, const struct heed_residual_norm_args *a, void *saved) {
    typedef typename cuda_computed<M>::type T;
    const auto r = job_of<T, M>(a, saved);
    const int64_t rows = r.norm.rows, n = r.norm.n;
    if (n == 0 || rows == 0) return;
    M *y = static_cast<M *>(a->y.data);
    cuda_norm_plan<M>(n, cuda_packs<M>(n, r.x, r.branch, r.sum, a->weight.data, a->bias.data, y),
                      [&](auto shape, int group) {
                          typedef decltype(shape) S;
                          const cuda_norm_launch l = cuda_norm_launch_of(exec, rows, group);
                          CUDA_RUN(exec, (residual_norm<T, S::PACK, S::HELD, M>), l.blocks, l.threads, 0, r,
                                   y, group);
                      });
}

template <typename T, typename M>
static void pass(struct heed_exec *exec, const residual_job<T, M> &r, const residual_gradients<M> &g,
                 bool in_packs) {
    const int64_t count = r.norm.rows * r.norm.n;
    if (in_packs)
        CUDA_RUN(exec, (pass_residual<T, cuda_wide<M>, M>), cuda_blocks(exec, count / cuda_wide<M>),
                 CUDA_BLOCK, 0, r, g);
    else
        CUDA_RUN(exec, (pass_residual<T, 1, M>), cuda_blocks(exec, count), CUDA_BLOCK, 0, r, g);
}

template <typename M>
static void run_backward(struct heed_exec *exec, const struct heed_residual_norm_args *a, void *saved,
                         void *scratch) {
    typedef typename cuda_computed<M>::type T;
    const auto r = job_of<T, M>(a, saved);
    const int64_t rows = r.norm.rows, n = r.norm.n;
    const residual_gradients<M> g = {static_cast<const M *>(a->dy.data),
                                     static_cast<const M *>(a->dsum.data),
                                     static_cast<M *>(a->dx.view.data),
                                     static_cast<M *>(a->dbranch.view.data),
                                     a->dx.add,
                                     a->dbranch.add};
    if (n == 0) return;
    const bool in_packs = cuda_packs<M>(n, r.sum, a->weight.data, g.dy, g.dsum, g.dx, g.dbranch);
    const bool wanted = rows > 0 && (g.dx || g.dbranch);
    if (wanted && g.dy)
        cuda_norm_plan<M>(n, in_packs, [&](auto shape, int group) {
            typedef decltype(shape) S;
            const cuda_norm_launch l = cuda_norm_launch_of(exec, rows, group);
            CUDA_RUN(exec, (residual_norm_dx<T, S::PACK, S::HELD, M>), l.blocks, l.threads, 0, r, g, group);
        });
    else if (wanted)
        pass(exec, r, g, in_packs);
    if (wants_columns(a)) cuda_norm_columns(exec, r.norm, g.dy, &a->dweight, &a->dbias, scratch);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    const struct heed_residual_norm_args *a = static_cast<const struct heed_residual_norm_args *>(arguments);
    (a->sum.dtype == HEED_F64    ? run_forward<double>
     : a->sum.dtype == HEED_BF16 ? run_forward<cuda_bf16>
                                 : run_forward<float>)(exec, a, saved);
    return cuda_started(exec, HEED_PRIMITIVE_RESIDUAL_NORM);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_residual_norm_args *a = static_cast<const struct heed_residual_norm_args *>(arguments);
    (a->sum.dtype == HEED_F64    ? run_backward<double>
     : a->sum.dtype == HEED_BF16 ? run_backward<cuda_bf16>
                                 : run_backward<float>)(exec, a, saved, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_RESIDUAL_NORM);
}

const struct heed_kernel heed_cuda_residual_norm = {"cuda", applies, sizes, forward, backward};
