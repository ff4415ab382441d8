/* y = Σ or mean of (x − t)², or of max(x, 0) − x·t + log(1 + e^−|x|) (bce). Backward: of squares dx = 2·(x −
 * t)·dy·factor and dt = −dx; of bce dx = (sigmoid(x) − t)·dy·factor and dt = −x·dy·factor.
 *
 * Blocks sum as many elements as shapes say, then one sums what they found.
 *
 * Bytes for each element, in f32: forward 8, backward 8 and 4 for each gradient. */
#include "backend/cuda/fold.cuh"

template <typename T> struct pair_job {
    int64_t count;
    const T *x, *t;
    T factor;
    unsigned bce;
};

template <typename T, int N> struct both { cuda_pack<T, N> x, t; };

template <typename T, int N> static __device__ inline both<T, N> load_both(const pair_job<T> &j, int64_t i) {
    return {cuda_load<N>(j.x + i), cuda_load<N>(j.t + i)};
}

/* ---- forward ---- */

template <typename T> static __device__ inline T pair_loss(unsigned bce, T x, T t) {
    if (bce) return std::fmax(x, (T)0) - x * t + std::log1p(std::exp(-std::fabs(x)));
    return (x - t) * (x - t);
}

/* Block b sums `part` elements from b·part on. */
template <typename T, int N> static __global__ void part_losses(pair_job<T> j, int64_t part, T *found) {
    const int64_t begin = blockIdx.x * part, end = begin + part < j.count ? begin + part : j.count;
    T loss = 0;
    cuda_each(
        begin + threadIdx.x * N, end, CUDA_BLOCK * N, [=](int64_t i) { return load_both<T, N>(j, i); },
        [&](int64_t, const both<T, N> &b) {
            for (int k = 0; k < N; k++) loss += pair_loss(j.bce, b.x.at[k], b.t.at[k]);
        });
    loss = cuda_join<cuda_plus<T>>(loss, CUDA_BLOCK);
    if (threadIdx.x == 0) found[blockIdx.x] = loss;
}

/* ---- backward ---- */

template <typename T> static __device__ inline T sigmoid(T x) {
    const T e = std::exp(-std::fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

template <typename T, int N>
static __global__ void pair_gradients(pair_job<T> j, const T *dy, T *dx, bool dx_add, T *dt, bool dt_add) {
    const T scale = *dy * j.factor;
    cuda_each(
        CUDA_FIRST * N, j.count, CUDA_STEP * N, [=](int64_t i) { return load_both<T, N>(j, i); },
        [=](int64_t i, const both<T, N> &b) {
            cuda_pack<T, N> of_x, of_t;
            for (int k = 0; k < N; k++) {
                const T x = b.x.at[k], t = b.t.at[k];
                of_x.at[k] = scale * (j.bce ? sigmoid(x) - t : 2 * (x - t));
                of_t.at[k] = j.bce ? scale * -x : -of_x.at[k];
            }
            if (dx) cuda_give(dx + i, dx_add, of_x);
            if (dt) cuda_give(dt + i, dt_add, of_t);
        });
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_pair_loss_args *a = static_cast<const struct heed_pair_loss_args *>(arguments);
    return cuda_takes(HEED_PRIMITIVE_PAIR_LOSS, a, a->x.dtype, why);
}

/* At most 1024 parts, each of at least 4096 elements, and a multiple of that so that packs lie in one. */
static int64_t part_of(int64_t count) {
    enum { SMALLEST = 4096, MOST = 1024 };
    return (count / MOST / SMALLEST + 1) * SMALLEST;
}
static int64_t parts_of(int64_t count) {
    return (count + part_of(count) - 1) / part_of(count);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_pair_loss_args *a = static_cast<const struct heed_pair_loss_args *>(arguments);
    sizes->forward_scratch = (size_t)parts_of(heed_view_count(&a->x)) * heed_dtype_bytes(a->x.dtype);
}

template <typename T> static pair_job<T> job_of(const struct heed_pair_loss_args *a) {
    const int64_t count = heed_view_count(&a->x);
    const T factor = (T)(a->reduction == HEED_REDUCE_MEAN && count > 0 ? 1 / (double)count : 1);
    return {count, static_cast<const T *>(a->x.data), static_cast<const T *>(a->t.data), factor, a->bce};
}

template <typename T>
static void run_forward(struct heed_exec *exec, const struct heed_pair_loss_args *a, void *scratch) {
    const pair_job<T> j = job_of<T>(a);
    const int64_t part = part_of(j.count), parts = parts_of(j.count);
    T *found = static_cast<T *>(scratch);
    if (parts > 0 && cuda_packs<T>(j.count, a->x.data, a->t.data)) {
        CUDA_RUN(exec, (part_losses<T, cuda_wide<T>>), (unsigned)parts, CUDA_BLOCK, 0, j, part, found);
    } else if (parts > 0) {
        CUDA_RUN(exec, (part_losses<T, 1>), (unsigned)parts, CUDA_BLOCK, 0, j, part, found);
    }
    const struct heed_view of_parts = {found, a->y.dtype, 1, {parts}, {1}}, *view[] = {&of_parts};
    const struct heed_grad_view y = {{a->y.data, a->y.dtype, 1, {parts}, {0}}, false};
    cuda_fold<cuda_plus<T>>(exec, cuda_itself<T>{found}, view, &y, j.factor, NULL);
}

template <typename T, int N>
static void start_gradients(struct heed_exec *exec, const pair_job<T> &j,
                            const struct heed_pair_loss_args *a) {
    CUDA_RUN(exec, (pair_gradients<T, N>), cuda_blocks(exec, j.count / N), CUDA_BLOCK, 0, j,
             static_cast<const T *>(a->dy.data), static_cast<T *>(a->dx.view.data), a->dx.add,
             static_cast<T *>(a->dt.view.data), a->dt.add);
}

template <typename T> static void run_backward(struct heed_exec *exec, const struct heed_pair_loss_args *a) {
    const pair_job<T> j = job_of<T>(a);
    if (j.count == 0) return;
    if (cuda_packs<T>(j.count, a->x.data, a->t.data, a->dx.view.data, a->dt.view.data)) {
        start_gradients<T, cuda_wide<T>>(exec, j, a);
    } else {
        start_gradients<T, 1>(exec, j, a);
    }
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_pair_loss_args *a = static_cast<const struct heed_pair_loss_args *>(arguments);
    (a->x.dtype == HEED_F64 ? run_forward<double> : run_forward<float>)(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_PAIR_LOSS);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_pair_loss_args *a = static_cast<const struct heed_pair_loss_args *>(arguments);
    (a->x.dtype == HEED_F64 ? run_backward<double> : run_backward<float>)(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_PAIR_LOSS);
}

const struct heed_kernel heed_cuda_pair_loss = {"cuda", applies, sizes, forward, backward};
