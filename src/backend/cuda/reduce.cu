/* y = Σ, mean or maximum of x over any dimensions; dx = dy, dy / elements, or dy divided evenly among the
 * elements that equal the maximum.
 *
 * Forward reads x once. Where the reduced dimensions are those that lie closest in memory, a group of threads
 * goes along the elements of one y; otherwise neighbouring threads make neighbouring y's, and lanes of a
 * block share the reduced elements. Where there are few y's, several blocks share the elements of one, and
 * what they found, which is small, is reduced once more. How the work is cut depends on shapes only.
 *
 * Bytes for each element of x, in f32: forward 4; backward of sums 4, of maxima 4 for counting and 8. */
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/walk.cuh"

/* ---- what is reduced ---- */

/* Elements as they are, or whether they equal the maximum `most` of their y. */
template <typename T> struct plain {
    static __device__ inline T value(T x, T) {
        return x;
    }
};
template <typename T> struct equal {
    static __device__ inline T value(T x, T most) {
        return x == most || (x != x && most != most) ? 1 : 0;
    }
};

/* The elements of a y are those of x where `kept` has the y plus where `over` has each. */
template <typename T> struct job {
    const T *x, *most; /* most lies as y does; NULL where there is none */
    T *y;
    cuda_walk<2> kept; /* x, y */
    cuda_walk<1> over; /* x */
    int64_t splits;    /* parts of the reduced elements */
    int64_t part;      /* elements of a part */
    T *found;          /* of every y and part, where there are several parts */
    T factor;
    bool add;
};

/* What a thread finds from `first` on in steps of `step`, at x, which is where the y begins. Packs are of
 * contiguous elements. */
template <typename T, typename Reduction, typename Read, int N>
static __device__ inline T look(const cuda_walk<1> &over, const T *x, T most, int64_t first, int64_t end,
                                int64_t step) {
    T value = Reduction::none();
    if (N > 1 || over.rank <= 1) {
        const int64_t stride = N > 1 ? 1 : over.stride[0][0];
        cuda_each(
            first, end, step, [=](int64_t i) { return cuda_load<N>(x + i * stride); },
            [&](int64_t, const cuda_pack<T, N> &pack) {
                for (T element : pack.at) value = Reduction::join(value, Read::value(element, most));
            });
    } else {
        for (int64_t i = first; i < end; i += step) {
            int64_t at[1];
            cuda_walk_to(over, i, at);
            value = Reduction::join(value, Read::value(x[at[0]], most));
        }
    }
    return value;
}

/* Where the elements of part `part` of y number `y` are. */
template <typename T> struct place {
    int64_t x, y, begin, end;

    __device__ inline place(const job<T> &j, int64_t number, int64_t part) {
        int64_t at[2];
        cuda_walk_to(j.kept, number, at);
        x = at[0];
        y = at[1];
        begin = part * j.part;
        end = begin + j.part < j.over.count ? begin + j.part : j.over.count;
    }
};

template <typename T>
static __device__ inline void leave(const job<T> &j, int64_t found, int64_t y, T value) {
    if (j.splits > 1) {
        j.found[found] = value;
    } else {
        value *= j.factor;
        j.y[y] = j.add ? j.y[y] + value : value;
    }
}

/* ---- along the elements of each y ---- */

template <typename T, typename Reduction, typename Read, int N>
static __global__ void reduce_along(job<T> j, int group) {
    for (cuda_rows at(j.kept.count * j.splits, group); at.more(); at.next()) {
        const int64_t row = at.inside() ? at.row : 0; /* who has none does another's, for nothing */
        const place<T> p(j, row / j.splits, row % j.splits);
        T value = look<T, Reduction, Read, N>(j.over, j.x + p.x, j.most ? j.most[p.y] : 0,
                                              p.begin + at.lane * N, p.end, group * N);
        value = cuda_join<Reduction>(value, group);
        if (at.inside() && at.lane == 0) leave(j, row, p.y, value);
    }
}

/* ---- many y's side by side ---- */

/* A block of CUDA_BLOCK / lanes y's; blockIdx.y is the part. */
template <typename T, typename Reduction, typename Read>
static __global__ void reduce_across(job<T> j, int lanes) {
    HEED_SHARED(T, lane_value, CUDA_BLOCK);
    const int width = CUDA_BLOCK / lanes, lane = (int)threadIdx.x / width;
    const int64_t number = (int64_t)blockIdx.x * width + (int)threadIdx.x % width;
    const bool inside = number < j.kept.count;
    const place<T> p(j, inside ? number : 0, blockIdx.y);
    T value = look<T, Reduction, Read, 1>(j.over, j.x + p.x, j.most ? j.most[p.y] : 0, p.begin + lane, p.end,
                                          lanes);
    lane_value[threadIdx.x] = value;
    for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane >= half) continue;
        value = Reduction::join(value, lane_value[threadIdx.x + half * width]);
        lane_value[threadIdx.x] = value;
    }
    if (inside && lane == 0) leave(j, blockIdx.y * j.kept.count + number, p.y, value);
}

/* ---- cutting the work ---- */

enum {
    ENOUGH_BLOCKS = 512, /* for any GPU */
    FEWEST_STEPS = 32    /* of a thread in its part: otherwise a second pass is not worth it */
};

struct cut {
    bool along;
    int threads;    /* along: of a group; across: lanes */
    int64_t blocks; /* of one part */
    int64_t splits, part;
};

static int64_t up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static cuda_walk<2> kept_of(const struct heed_view *x, const struct heed_view *y) {
    struct heed_view shape = *y;
    for (int d = 0; d < y->rank; d++)
        if (y->stride[d] == 0) shape.size[d] = 1;
    const struct heed_view *views[2] = {x, y};
    return cuda_walk_of<2>(&shape, views);
}

static cuda_walk<1> over_of(const struct heed_view *x, const struct heed_view *y) {
    struct heed_view shape = *y;
    for (int d = 0; d < y->rank; d++)
        if (y->stride[d] != 0) shape.size[d] = 1;
    const struct heed_view *views[1] = {x};
    return cuda_walk_of<1>(&shape, views);
}

/* The smallest distance between two elements of the first view. */
template <int VIEWS> static int64_t nearest(const cuda_walk<VIEWS> &walk) {
    int64_t stride = INT64_MAX;
    for (int d = 0; d < walk.rank; d++)
        if (walk.stride[0][d] > 0 && walk.stride[0][d] < stride) stride = walk.stride[0][d];
    return stride;
}

static struct cut cut_of(const cuda_walk<2> &kept, const cuda_walk<1> &over) {
    struct cut cut = {over.count >= HEED_WARP && (kept.count == 1 || nearest(over) < nearest(kept)), 1, 0, 1,
                      over.count};
    if (cut.along) {
        cut.threads = over.count > 1024 ? (int)CUDA_BLOCK : (int)HEED_WARP;
        cut.blocks = up(kept.count * cut.threads, CUDA_BLOCK);
    } else {
        cut.threads = over.count < 64 ? 1 : 8;
        cut.blocks = up(kept.count * cut.threads, CUDA_BLOCK);
    }
    const int64_t wanted = cut.blocks > 0 ? ENOUGH_BLOCKS / cut.blocks : 1;
    const int64_t most = over.count / (cut.threads * FEWEST_STEPS);
    const int64_t splits = wanted < most ? wanted : most;
    if (splits < 2) return cut;
    enum { MULTIPLE = 8 }; /* so that packs lie in one part */
    cut.part = up(up(over.count, splits), MULTIPLE) * MULTIPLE;
    cut.splits = up(over.count, cut.part);
    return cut;
}

/* ---- starting ---- */

template <typename T> static bool packed(const job<T> &j) {
    if (j.over.rank != 1 || j.over.stride[0][0] != 1 || !cuda_packs<T>(j.over.count, j.x)) return false;
    for (int d = 0; d < j.kept.rank; d++)
        if (j.kept.stride[0][d] % cuda_wide<T> != 0) return false;
    return true;
}

template <typename T, typename Reduction, typename Read>
static void start(struct heed_exec *exec, const job<T> &j, const struct cut &cut) {
    if (!cut.along) {
        const dim3 grid((unsigned)cut.blocks, (unsigned)j.splits);
        CUDA_RUN(exec, (reduce_across<T, Reduction, Read>), grid, CUDA_BLOCK, 0, j, cut.threads);
        return;
    }
    const unsigned grid = cuda_row_blocks(exec, j.kept.count * j.splits, cut.threads);
    if (packed(j)) {
        CUDA_RUN(exec, (reduce_along<T, Reduction, Read, cuda_wide<T>>), grid, CUDA_BLOCK, 0, j, cut.threads);
    } else {
        CUDA_RUN(exec, (reduce_along<T, Reduction, Read, 1>), grid, CUDA_BLOCK, 0, j, cut.threads);
    }
}

/* What the parts found, as a view of y's shape: one behind the other for each y along, one y beside the other
 * across. */
static struct heed_view found_of(const struct heed_view *y, const struct cut &cut) {
    struct heed_view found = *y;
    int64_t stride = cut.along ? cut.splits : 1;
    for (int d = y->rank - 1; d >= 0; d--) {
        if (y->stride[d] == 0) continue;
        found.stride[d] = stride;
        stride *= y->size[d];
    }
    return found;
}

/* y = factor · the reduction of x, in y's shape with strides of 0 where it is reduced. */
template <typename T, typename Reduction, typename Read>
static void reduce(struct heed_exec *exec, const struct heed_view *x, const void *most,
                   const struct heed_grad_view *y, double factor, void *scratch) {
    job<T> j = {static_cast<const T *>(x->data), static_cast<const T *>(most), static_cast<T *>(y->view.data),
                kept_of(x, &y->view), over_of(x, &y->view)};
    const struct cut cut = cut_of(j.kept, j.over);
    j.splits = cut.splits;
    j.part = cut.part;
    j.found = static_cast<T *>(scratch);
    j.factor = (T)factor;
    j.add = y->add;
    if (j.kept.count == 0) return;
    start<T, Reduction, Read>(exec, j, cut);
    if (cut.splits == 1) return;
    const struct heed_view found = found_of(&y->view, cut);
    job<T> rest = {j.found, NULL, j.y, kept_of(&found, &y->view)};
    rest.over = {1, cut.splits, {cut.splits}, {{cut.along ? 1 : j.kept.count}}};
    rest.splits = 1;
    rest.part = cut.splits;
    rest.factor = j.factor;
    rest.add = j.add;
    struct cut once = cut_of(rest.kept, rest.over);
    once.splits = 1;
    start<T, Reduction, plain<T>>(exec, rest, once);
}

static size_t found_bytes(const struct heed_view *x, const struct heed_view *y) {
    const cuda_walk<2> kept = kept_of(x, y);
    const struct cut cut = cut_of(kept, over_of(x, y));
    return cut.splits > 1 ? (size_t)(kept.count * cut.splits) * heed_dtype_bytes(x->dtype) : 0;
}

/* ---- gradients ---- */

template <typename T>
static __global__ void spread(const T *dy, T *dx, cuda_walk<2> walk, T factor, bool add) {
    for (int64_t i = CUDA_FIRST; i < walk.count; i += CUDA_STEP) {
        int64_t at[2];
        cuda_walk_to(walk, i, at);
        const T value = factor * dy[at[0]];
        dx[at[1]] = add ? dx[at[1]] + value : value;
    }
}

/* dy is divided evenly among the elements that equal the maximum; `count` is how many they are. */
template <typename T>
static __global__ void share(const T *x, const T *y, const T *dy, const T *count, T *dx, cuda_walk<3> walk,
                             bool add) {
    for (int64_t i = CUDA_FIRST; i < walk.count; i += CUDA_STEP) {
        int64_t at[3];
        cuda_walk_to(walk, i, at);
        const bool is_maximum = equal<T>::value(x[at[0]], y[at[1]]) != 0;
        const T value = is_maximum ? dy[at[1]] / count[at[1]] : 0;
        dx[at[2]] = add ? dx[at[2]] + value : value;
    }
}

template <typename T>
static void sum_backward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_view *dx = &a->dx.view, *views[2] = {&a->dy, dx};
    const double factor = a->op == HEED_REDUCE_OP_MEAN ? 1 / (double)a->reduced : 1;
    if (heed_view_repeats(dx)) {
        reduce<T, cuda_sum<T>, plain<T>>(exec, &a->dy, NULL, &a->dx, factor, scratch);
        return;
    }
    const cuda_walk<2> walk = cuda_walk_of<2>(dx, views);
    if (walk.count == 0) return;
    CUDA_RUN(exec, spread<T>, cuda_blocks(exec, walk.count), CUDA_BLOCK, 0,
             static_cast<const T *>(a->dy.data), static_cast<T *>(dx->data), walk, (T)factor, a->dx.add);
}

/* How many elements equal each maximum lies in scratch as y does, and what finding that needs behind it. */
static size_t count_bytes(const struct heed_view *x, const struct heed_view *y) {
    const size_t bytes = (size_t)kept_of(x, y).count * heed_dtype_bytes(x->dtype);
    return (bytes + 15) / 16 * 16;
}

template <typename T>
static void max_backward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_view *dx = &a->dx.view, *views[3] = {&a->x, &a->y, dx};
    const cuda_walk<3> walk = cuda_walk_of<3>(dx, views);
    struct heed_grad_view count = {a->y, false};
    if (walk.count == 0) return;
    count.view.data = scratch;
    scratch = static_cast<char *>(scratch) + count_bytes(&a->x, &a->y);
    reduce<T, cuda_sum<T>, equal<T>>(exec, &a->x, a->y.data, &count, 1, scratch);
    CUDA_RUN(exec, share<T>, cuda_blocks(exec, walk.count), CUDA_BLOCK, 0, static_cast<const T *>(a->x.data),
             static_cast<const T *>(a->y.data), static_cast<const T *>(a->dy.data),
             static_cast<const T *>(count.view.data), static_cast<T *>(dx->data), walk, a->dx.add);
}

/* ---- the kernel ---- */

template <typename T>
static void run_forward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_grad_view y = {a->y, false};
    const double factor = a->op == HEED_REDUCE_OP_MEAN ? 1 / (double)a->reduced : 1;
    if (a->op == HEED_REDUCE_OP_MAX) {
        reduce<T, cuda_max<T>, plain<T>>(exec, &a->x, NULL, &y, 1, scratch);
    } else {
        reduce<T, cuda_sum<T>, plain<T>>(exec, &a->x, NULL, &y, factor, scratch);
    }
}

template <typename T>
static void run_backward(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    if (a->op == HEED_REDUCE_OP_MAX) {
        max_backward<T>(exec, a, scratch);
    } else {
        sum_backward<T>(exec, a, scratch);
    }
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    return cuda_is_float(static_cast<const struct heed_reduce_args *>(arguments)->x.dtype, why);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_reduce_args *a = static_cast<const struct heed_reduce_args *>(arguments);
    if (heed_has(&a->x)) sizes->forward_scratch = found_bytes(&a->x, &a->y);
    if (!heed_has(&a->dx.view)) return;
    if (a->op == HEED_REDUCE_OP_MAX) {
        sizes->backward_scratch = count_bytes(&a->x, &a->y) + found_bytes(&a->x, &a->y);
    } else if (heed_view_repeats(&a->dx.view)) {
        sizes->backward_scratch = found_bytes(&a->dy, &a->dx.view);
    }
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

/* ---- for other primitives ---- */

template <typename T> void cuda_sum_all(struct heed_exec *exec, int64_t count, const T *x, T factor, T *y) {
    job<T> j = {x, NULL, y};
    j.kept.count = j.splits = 1;
    j.over = {1, count, {count}, {{1}}};
    j.part = count;
    j.factor = factor;
    CUDA_RUN(exec, (reduce_along<T, cuda_sum<T>, plain<T>, 1>), 1, CUDA_BLOCK, 0, j, CUDA_BLOCK);
}

template <typename T>
void cuda_sum_columns(struct heed_exec *exec, int64_t rows, int64_t columns, int64_t stride, const T *x,
                      const struct heed_grad_view *y) {
    enum { LANES = 8 };
    job<T> j = {x, NULL, static_cast<T *>(y->view.data)};
    if (columns == 0) return;
    j.kept = {1, columns, {columns}, {{1}, {1}}};
    j.over = {1, rows, {rows}, {{stride}}};
    j.splits = 1;
    j.part = rows;
    j.factor = 1;
    j.add = y->add;
    CUDA_RUN(exec, (reduce_across<T, cuda_sum<T>, plain<T>>), (unsigned)up(columns * LANES, CUDA_BLOCK),
             CUDA_BLOCK, 0, j, (int)LANES);
}

template void cuda_sum_all<float>(struct heed_exec *, int64_t, const float *, float, float *);
template void cuda_sum_all<double>(struct heed_exec *, int64_t, const double *, double, double *);
template void cuda_sum_columns<float>(struct heed_exec *, int64_t, int64_t, int64_t, const float *,
                                      const struct heed_grad_view *);
template void cuda_sum_columns<double>(struct heed_exec *, int64_t, int64_t, int64_t, const double *,
                                       const struct heed_grad_view *);
