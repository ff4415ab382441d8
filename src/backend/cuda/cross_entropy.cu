/* y = Σ or mean, over rows that count, of −Σ_c q_c·log softmax(x)_c, with q = (1 − smoothing)·onehot(target)
 * + smoothing / classes. With the row's maximum m and L = log Σ e^(x − m) that is L − (1 −
 * smoothing)·(x_target − m) − smoothing·(mean(x) − m). Backward: dx = dy·factor·(e^(x − m − L) − q).
 *
 * A group of threads makes a row, in one pass; the rows' losses are summed by one block. Rows of an odd
 * number of classes begin anywhere: up to 10 elements of each (of bf16 22) go one by one, the others in
 * packs. Backward has no sums, so that long rows are cut into pieces, each for a block. Nothing of the size
 * of x is kept: saved are m and L of each row, and the factor.
 *
 * Bytes for each element of x, in f32: forward 4, backward 8; where x is bf16, half of that, and y is f32. */
#include "backend/cuda/softmax.cuh"

/* m and L of a row; m is −∞ for a row of nothing but −∞. */
template <typename T> struct row_look { T maximum, log_sum; };

/* x and its gradient are of M. */
template <typename T, typename M> struct loss_job {
    int64_t rows, classes;
    const M *x;
    const int32_t *target;
    int64_t ignored;
    T smoothing;
    row_look<T> *look; /* of each row; NULL: nobody wants it */
};

/* ---- forward ---- */

template <typename T> struct row_sum {
    cuda_normaliser<T> exponentials;
    T plain;
};
template <typename T> struct joined {
    static __device__ inline row_sum<T> none() {
        return {cuda_normalise<T>::none(), 0};
    }
    static __device__ inline row_sum<T> join(row_sum<T> a, row_sum<T> b) {
        return {cuda_normalise<T>::join(a.exponentials, b.exponentials), a.plain + b.plain};
    }
};

template <typename T> static __device__ inline row_look<T> look_of(const cuda_normaliser<T> &row) {
    if (row.sum == 0) return {-(T)INFINITY, 0};
    return {row.sum == row.sum ? row.maximum : row.sum, std::log(row.sum)}; /* NaN in x makes all NaN */
}

/* Parts of q that are 0 take no part, so that 0·∞ is 0. */
template <typename T, typename M>
static __device__ inline T row_loss(const loss_job<T, M> &j, const row_look<T> &look, T wanted, T plain) {
    if (look.maximum == -(T)INFINITY) return INFINITY;
    T loss = look.log_sum;
    if (j.smoothing != 1) loss -= (1 - j.smoothing) * (wanted - look.maximum);
    if (j.smoothing != 0) loss -= j.smoothing * (plain / (T)j.classes - look.maximum);
    return loss;
}

/* The loss of each row, 0 where it does not count. */
template <typename T, int N, typename M>
static __global__ void row_losses(loss_job<T, M> j, T *loss, struct cuda_fault_word *fault, int group) {
    for (cuda_rows at(j.rows, group); at.more(); at.next()) {
        const int64_t target = at.inside() ? j.target[at.row] : j.ignored;
        const bool counts = target != j.ignored, exists = target >= 0 && target < j.classes;
        const M *x = j.x + at.row * j.classes;
        const cuda_body body = cuda_body_of<N>(x, counts ? j.classes : 0);
        row_sum<T> all = joined<T>::none();
        const auto look_at = [&](int64_t, const auto &loaded) {
            const auto pack = cuda_as<T>(loaded);
            all.exponentials = cuda_with(all.exponentials, pack);
            for (T number : pack.at) all.plain += number;
        };
        for (int64_t i = at.lane; i < body.edge; i += group) look_at(i, cuda_load<1>(x + body.edge_at(i)));
        cuda_each(
            body.begin + at.lane * N, body.end, group * N, [=](int64_t c) { return cuda_load<N>(x + c); },
            look_at);
        all = cuda_join<joined<T>>(all, group);
        if (!at.inside() || at.lane != 0) continue;
        const row_look<T> look = look_of(all.exponentials);
        if (j.look) j.look[at.row] = look;
        if (counts && !exists)
            cuda_raise(fault, CUDA_FAULT_TARGET, HEED_PRIMITIVE_CROSS_ENTROPY, target, j.classes);
        loss[at.row] = counts && exists ? row_loss(j, look, (T)x[target], all.plain) : 0;
    }
}

/* The sum of losses, and how many they are. */
struct total {
    double loss, count;
};
struct totalled {
    static __device__ inline total join(total a, total b) {
        return {a.loss + b.loss, a.count + b.count};
    }
};

/* By one block. */
template <typename T, typename M>
static __global__ void total_loss(loss_job<T, M> j, const T *loss, bool mean, T *y, T *factor) {
    total all = {0, 0};
    for (int64_t row = threadIdx.x; row < j.rows; row += CUDA_BLOCK) {
        all.loss += loss[row];
        all.count += j.target[row] != j.ignored;
    }
    all = cuda_join<totalled>(all, CUDA_BLOCK);
    if (threadIdx.x != 0) return;
    const double scale = mean && all.count > 0 ? 1 / all.count : 1;
    *y = (T)(all.loss * scale);
    if (factor) *factor = (T)scale;
}

/* ---- backward ---- */

enum { PIECE_STEPS = 8 }; /* of a block in a piece of a row */

/* Where a row's gradients come from and go to. Rows that do not count, or are −∞ throughout, get 0. */
template <typename T, typename M> struct gradient_row {
    const M *x;
    M *dx;
    int64_t target;
    T scale, maximum, log_sum, elsewhere, here; /* q of other classes, and of the target */
    bool counts, add;

    template <int N> __device__ inline void give(int64_t c, const cuda_pack<M, N> &loaded) const {
        cuda_pack<T, N> pack = cuda_as<T>(loaded);
        for (int k = 0; k < N; k++) {
            const T p = std::exp(pack.at[k] - maximum - log_sum);
            pack.at[k] = counts ? scale * (p - (c + k == target ? here : elsewhere)) : 0;
        }
        cuda_give(dx + c, add, pack);
    }
};

/* A group makes a row, or a block one of `pieces` of it. */
template <typename T, int N, typename M>
static __global__ void row_gradients(loss_job<T, M> j, const T *factor, const T *dy, M *dx, bool add,
                                     int group, int64_t pieces) {
    const T scale = *dy * *factor, elsewhere = j.smoothing / (T)j.classes;
    for (cuda_rows at(j.rows * pieces, group); at.more(); at.next()) {
        if (!at.inside()) continue;
        const int64_t row = at.row / pieces, piece = at.row - row * pieces, start = row * j.classes;
        const row_look<T> look = j.look[row];
        const gradient_row<T, M> r = {j.x + start,
                                      dx + start,
                                      j.target[row],
                                      scale,
                                      look.maximum,
                                      look.log_sum,
                                      elsewhere,
                                      elsewhere + 1 - j.smoothing,
                                      j.target[row] != j.ignored && look.maximum != -(T)INFINITY,
                                      add};
        const cuda_body body = cuda_body_of<N>(r.x, j.classes);
        const int64_t step = group * N, begin = body.begin + piece * PIECE_STEPS * step;
        const int64_t end =
            pieces > 1 && begin + PIECE_STEPS * step < body.end ? begin + PIECE_STEPS * step : body.end;
        if (piece == 0)
            for (int64_t i = at.lane; i < body.edge; i += group)
                r.give(body.edge_at(i), cuda_load<1>(r.x + body.edge_at(i)));
        cuda_each(
            begin + at.lane * N, end, step, [=](int64_t c) { return cuda_load<N>(r.x + c); },
            [=](int64_t c, const cuda_pack<M, N> &pack) { r.give(c, pack); });
    }
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_cross_entropy_args *a = static_cast<const struct heed_cross_entropy_args *>(arguments);
    if (a->x.dtype == HEED_BF16 && a->y.dtype == HEED_F32) return true;
    return cuda_takes(HEED_PRIMITIVE_CROSS_ENTROPY, a, a->x.dtype, why);
}

/* saved: the rows' looks, then the factor. scratch: the rows' losses. */
static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_cross_entropy_args *a = static_cast<const struct heed_cross_entropy_args *>(arguments);
    const size_t rows = (size_t)a->x.size[0],
                 number = a->x.dtype == HEED_F64 ? sizeof(double) : sizeof(float);
    sizes->saved = (2 * rows + 1) * number;
    sizes->forward_scratch = rows * number;
}

template <typename T, typename M>
static loss_job<T, M> job_of(const struct heed_cross_entropy_args *a, void *saved) {
    return {a->x.size[0],
            a->x.size[1],
            static_cast<const M *>(a->x.data),
            static_cast<const int32_t *>(a->target.data),
            a->ignore_index,
            (T)a->smoothing,
            static_cast<row_look<T> *>(saved)};
}

template <typename M>
static void run_forward(struct heed_exec *exec, const struct heed_cross_entropy_args *a, void *saved,
                        void *scratch) {
    typedef typename cuda_computed<M>::type T;
    const auto j = job_of<T, M>(a, saved);
    T *loss = static_cast<T *>(scratch), *factor = saved ? reinterpret_cast<T *>(j.look + j.rows) : NULL;
    const int group = cuda_group(j.classes / cuda_wide<M>);
    if (j.rows > 0)
        CUDA_RUN(exec, (row_losses<T, cuda_wide<M>, M>), cuda_row_blocks(exec, j.rows, group), CUDA_BLOCK, 0,
                 j, loss, cuda_of(exec)->fault, group);
    CUDA_RUN(exec, (total_loss<T, M>), 1, CUDA_BLOCK, 0, j, static_cast<const T *>(loss),
             a->reduction == HEED_REDUCE_MEAN, static_cast<T *>(a->y.data), factor);
}

template <int N, typename T, typename M>
static void start_gradients(struct heed_exec *exec, const loss_job<T, M> &j,
                            const struct heed_cross_entropy_args *a) {
    const int group = cuda_group(j.classes / N);
    const int64_t piece = (int64_t)PIECE_STEPS * CUDA_BLOCK * N;
    const int64_t pieces = group == CUDA_BLOCK ? (j.classes + piece - 1) / piece : 1;
    CUDA_RUN(exec, (row_gradients<T, N, M>), cuda_row_blocks(exec, j.rows * pieces, group), CUDA_BLOCK, 0, j,
             reinterpret_cast<const T *>(j.look + j.rows), static_cast<const T *>(a->dy.data),
             static_cast<M *>(a->dx.view.data), a->dx.add, group, pieces);
}

template <typename M>
static void run_backward(struct heed_exec *exec, const struct heed_cross_entropy_args *a, void *saved) {
    const auto j = job_of<typename cuda_computed<M>::type, M>(a, saved);
    const uintptr_t apart =
        reinterpret_cast<uintptr_t>(a->x.data) - reinterpret_cast<uintptr_t>(a->dx.view.data);
    if (j.rows == 0 || j.classes == 0) return;
    if (apart % (sizeof(M) * cuda_wide<M>) == 0) { /* packs of both begin at the same class */
        start_gradients<cuda_wide<M>>(exec, j, a);
    } else {
        start_gradients<1>(exec, j, a);
    }
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_cross_entropy_args *a = static_cast<const struct heed_cross_entropy_args *>(arguments);
    (a->x.dtype == HEED_F64    ? run_forward<double>
     : a->x.dtype == HEED_BF16 ? run_forward<cuda_bf16>
                               : run_forward<float>)(exec, a, saved, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_CROSS_ENTROPY);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *saved, void *) {
    const struct heed_cross_entropy_args *a = static_cast<const struct heed_cross_entropy_args *>(arguments);
    if (!heed_has(&a->dx.view)) return HEED_OK;
    (a->x.dtype == HEED_F64    ? run_backward<double>
     : a->x.dtype == HEED_BF16 ? run_backward<cuda_bf16>
                               : run_backward<float>)(exec, a, saved);
    return cuda_started(exec, HEED_PRIMITIVE_CROSS_ENTROPY);
}

const struct heed_kernel heed_cuda_cross_entropy = {"cuda", applies, sizes, forward, backward};
