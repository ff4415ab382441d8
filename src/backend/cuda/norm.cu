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
 * dweight and dbias. In mixed precision x, y and their gradients are bf16, which is half of that, weight,
 * bias and theirs f32. */
#include "backend/cuda/norm.cuh"

template <typename T, int N, int HELD, typename M>
static __global__ void norm(cuda_norm_job<T, M> j, M *y, int group) {
    for (cuda_rows at(j.rows, group); at.more(); at.next()) {
        int64_t start[CUDA_NORM_VIEWS];
        cuda_walk_to(j.starts, at.row, start);
        const M *from = j.x + start[CUDA_NORM_X];
        M *to = y + at.row * j.n;
        auto row = cuda_read<HELD>(at.lane * N, at.end(j.n), group * N,
                                   [=](int64_t i) { return cuda_load<N>(from + i); });
        const cuda_norm_look<T> look = cuda_norm_look_at<T, N, HELD>(
            j, at, [&](auto use) { row.each(use); }, group);
        /* By reference to j the compiler would have these loads on their way early, and take more registers.
         */
        row.each(
            [=](int64_t i, const cuda_pack<M, N> &x) { cuda_store(to + i, cuda_norm_y(j, look, i, x)); });
    }
}

template <typename T, int N, int HELD, typename M>
static __global__ void norm_dx(cuda_norm_job<T, M> j, const M *dy, M *dx, bool add, int group) {
    for (cuda_rows at(j.rows, group); at.more(); at.next()) {
        int64_t start[CUDA_NORM_VIEWS];
        cuda_walk_to(j.starts, at.row, start);
        M *to = dx + start[CUDA_NORM_DX];
        cuda_norm_dx<T, N, HELD>(
            j, at, j.x + start[CUDA_NORM_X], dy + at.row * j.n, add ? to : NULL, group,
            [=](int64_t i, const cuda_pack<T, N> &gradient) { cuda_store(to + i, cuda_as<M>(gradient)); });
    }
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    const bool wide = (!heed_has(&a->weight) || a->weight.dtype == HEED_F32) &&
                      (!heed_has(&a->bias) || a->bias.dtype == HEED_F32);
    if (wide && a->x.dtype == HEED_BF16 && a->y.dtype == HEED_BF16) return true;
    return cuda_takes(HEED_PRIMITIVE_NORM, a, a->x.dtype, why);
}

static bool wants_columns(const struct heed_norm_args *a) {
    return heed_has(&a->dweight.view) || heed_has(&a->dbias.view);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    const int64_t n = a->x.size[a->x.rank - 1];
    struct heed_view rows = a->x;
    rows.rank--;
    const bool wide = a->x.dtype == HEED_F64;
    const int64_t count = heed_view_count(&rows);
    sizes->saved = (size_t)count * (wide ? sizeof(cuda_norm_look<double>) : sizeof(cuda_norm_look<float>));
    if (wants_columns(a))
        sizes->backward_scratch =
            (wide ? cuda_norm_columns_bytes<double> : cuda_norm_columns_bytes<float>)(count, n);
}

template <typename T, typename M>
static cuda_norm_job<T, M> job_of(const struct heed_norm_args *a, void *saved) {
    return cuda_norm_job_of<T, M>(&a->x, &a->dx.view, &a->weight, &a->bias, a->rms, a->eps, saved);
}

/* Whether rows of x, and of dx, begin where packs do. */
template <typename T, typename M> static bool starts_in_packs(const cuda_norm_job<T, M> &j) {
    for (int d = 0; d < j.starts.rank; d++)
        for (int v = 0; v < CUDA_NORM_VIEWS; v++)
            if (j.starts.stride[v][d] % cuda_wide<M> != 0) return false;
    return true;
}

template <typename M>
static void run_forward(struct heed_exec *exec, const struct heed_norm_args *a, void *saved) {
    typedef typename cuda_computed<M>::type T;
    const auto j = job_of<T, M>(a, saved);
    if (j.n == 0 || j.rows == 0) return;
    M *y = static_cast<M *>(a->y.data);
    cuda_norm_plan<M>(j.n,
                      starts_in_packs(j) && cuda_packs<M>(j.n, a->x.data, a->weight.data, a->bias.data, y),
                      [&](auto shape, int group) {
                          typedef decltype(shape) S;
                          const cuda_norm_launch l = cuda_norm_launch_of(exec, j.rows, group);
                          CUDA_RUN(exec, (norm<T, S::PACK, S::HELD, M>), l.blocks, l.threads, 0, j, y, group);
                      });
}

template <typename M>
static void run_backward(struct heed_exec *exec, const struct heed_norm_args *a, void *saved, void *scratch) {
    typedef typename cuda_computed<M>::type T;
    const auto j = job_of<T, M>(a, saved);
    if (j.n == 0) return;
    const M *dy = static_cast<const M *>(a->dy.data);
    M *dx = static_cast<M *>(a->dx.view.data);
    if (dx && j.rows > 0)
        cuda_norm_plan<M>(j.n, starts_in_packs(j) && cuda_packs<M>(j.n, a->x.data, a->weight.data, dy, dx),
                          [&](auto shape, int group) {
                              typedef decltype(shape) S;
                              const cuda_norm_launch l = cuda_norm_launch_of(exec, j.rows, group);
                              CUDA_RUN(exec, (norm_dx<T, S::PACK, S::HELD, M>), l.blocks, l.threads, 0, j, dy,
                                       dx, a->dx.add, group);
                          });
    if (wants_columns(a)) cuda_norm_columns(exec, j, dy, &a->dweight, &a->dbias, scratch);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    (a->x.dtype == HEED_F64    ? run_forward<double>
     : a->x.dtype == HEED_BF16 ? run_forward<cuda_bf16>
                               : run_forward<float>)(exec, a, saved);
    return cuda_started(exec, HEED_PRIMITIVE_NORM);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_norm_args *a = static_cast<const struct heed_norm_args *>(arguments);
    (a->x.dtype == HEED_F64    ? run_backward<double>
     : a->x.dtype == HEED_BF16 ? run_backward<cuda_bf16>
                               : run_backward<float>)(exec, a, saved, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_NORM);
}

const struct heed_kernel heed_cuda_norm = {"cuda", applies, sizes, forward, backward};
