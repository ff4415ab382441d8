/* y = x in y's dtype, or y += x. Memory traffic: each element read and written once, and read once more to
 * add.
 *
 * What lies side by side in both is copied by packs (map.cuh), unless it changes dtype other than between f32
 * and bf16; contiguous views of one dtype by the device's own copy. Where the neighbours of x are not those
 * of y, as in a transpose, tiles of elements go through shared memory, so that reads and writes both run
 * along lines. With `add`, where y repeats, it is a sum (fold.cuh). */
#include "backend/cuda/bf16.cuh"
#include "backend/cuda/fold.cuh"

/* ---- conversion ---- */

template <typename FROM, typename TO> struct converted {
    static __device__ TO of(FROM x) {
        return (TO)x;
    }
};

template <typename FROM> struct converted<FROM, bool> {
    static __device__ bool of(FROM x) {
        return x != 0;
    }
};

/* Towards zero and within range; NaN is 0. */
template <typename FROM> __device__ inline int32_t whole(FROM x) {
    if (x >= (FROM)2147483648.0) return INT32_MAX;
    if (x <= (FROM)-2147483648.0) return INT32_MIN;
    return x == x ? (int32_t)x : 0;
}
template <> struct converted<float, int32_t> {
    static __device__ int32_t of(float x) {
        return whole(x);
    }
};
template <> struct converted<double, int32_t> {
    static __device__ int32_t of(double x) {
        return whole(x);
    }
};
template <> struct converted<cuda_bf16, int32_t> {
    static __device__ int32_t of(cuda_bf16 x) {
        return whole((float)x);
    }
};

template <typename FROM, typename TO> struct copied {
    typedef TO result;
    enum { VIEWS = 1 };
    const FROM *x;
    template <int N> __device__ void operator()(const cuda_spot<N> &spot, TO (&y)[N]) const {
        FROM from[N];
        cuda_load(x, spot, 0, from);
#pragma unroll
        for (int j = 0; j < N; j++) y[j] = converted<FROM, TO>::of(from[j]);
    }
};

/* ---- tiles ---- */

/* Lines of a tile are long enough for whole lines of the caches, and short enough for shared memory. */
template <typename T> constexpr int tile_size = sizeof(T) <= 4 ? 64 : 32;

/* In shared memory they are a word longer, so that what is read across them lies in different banks. */
template <typename T> constexpr int tile_line = tile_size<T> + (sizeof(T) < 4 ? 4 / (int)sizeof(T) : 1);

enum { TILE_WORTH = 16 };

/* x lies closely along `rows`, y along `columns`; the tiles of all other dimensions follow each other. */
struct tiling {
    cuda_walk<2> rest;
    int64_t rows, columns, tiles_down, tiles_across;
    int64_t x_column, y_row; /* strides; the other two are 1 */
};

/* How much of a tile there is from here. */
__device__ inline int tile_part(int64_t size, int64_t first, int most) {
    return size - first < most ? (int)(size - first) : most;
}

/* A thread has PART elements of a tile, a line of threads apart: all are on their way before it waits. */
template <typename T> static __global__ void transpose(const T *x, T *y, struct tiling t, bool add) {
    enum { TILE = tile_size<T>, LINES = CUDA_BLOCK / TILE, PART = TILE / LINES };
    enum { LINE = tile_line<T> };
    HEED_SHARED(T, tile, TILE * LINE);
    const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE;
    for (int64_t job = blockIdx.x; job < t.rest.count * t.tiles_down * t.tiles_across; job += gridDim.x) {
        const int64_t band = job / t.tiles_down, other = band / t.tiles_across;
        const int64_t row = (job - band * t.tiles_down) * TILE;
        const int64_t column = (band - other * t.tiles_across) * TILE;
        const int rows = tile_part(t.rows, row, TILE), columns = tile_part(t.columns, column, TILE);
        int64_t at[2];
        cuda_walk_to(t.rest, other, at);
        const T *from = x + at[0] + (column + line) * t.x_column + row + lane;
        T *to = y + at[1] + (row + line) * t.y_row + column + lane;
        const int64_t down_x = LINES * t.x_column, down_y = LINES * t.y_row;
        T part[PART] = {};
#pragma unroll
        for (int k = 0; k < PART; k++, from += down_x)
            if (lane < rows && line + k * LINES < columns) part[k] = *from;
#pragma unroll
        for (int k = 0; k < PART; k++) tile[(line + k * LINES) * LINE + lane] = part[k];
        __syncthreads();
        if (add) {
            const T *before = to;
#pragma unroll
            for (int k = 0; k < PART; k++, before += down_y)
                if (lane < columns && line + k * LINES < rows) part[k] = *before;
        }
#pragma unroll
        for (int k = 0; k < PART; k++, to += down_y) {
            const T value = tile[lane * LINE + line + k * LINES];
            if (lane < columns && line + k * LINES < rows) *to = add ? (T)(part[k] + value) : value;
        }
        __syncthreads();
    }
}

/* Takes dimension d out of a walk. */
static void take_out(cuda_walk<2> *walk, int d) {
    walk->count /= walk->size[d];
    walk->rank--;
    for (; d < walk->rank; d++) {
        walk->size[d] = walk->size[d + 1];
        for (int v = 0; v < 2; v++) walk->stride[v][d] = walk->stride[v][d + 1];
    }
}

/* Whether tiles are worth while: the line of x is not that of y, and both are long. */
static bool find_tiling(const struct heed_copy_args *a, int size, struct tiling *t) {
    const struct heed_view *const views[] = {&a->x, &a->y.view};
    struct heed_view ordered[2];
    cuda_order_dims<2>(views, ordered);
    const struct heed_view *const in_order[] = {&ordered[0], &ordered[1]};
    *t = {};
    t->rest = cuda_walk_of<2>(&ordered[1], in_order);
    const int columns = t->rest.rank - 1;
    int rows = columns - 1;
    while (rows >= 0 && t->rest.stride[0][rows] != 1) rows--;
    if (rows < 0 || t->rest.stride[0][columns] == 1 || t->rest.stride[1][columns] != 1) return false;
    t->rows = t->rest.size[rows];
    t->columns = t->rest.size[columns];
    if (t->rows < TILE_WORTH || t->columns < TILE_WORTH) return false;
    t->tiles_down = (t->rows + size - 1) / size;
    t->tiles_across = (t->columns + size - 1) / size;
    t->x_column = t->rest.stride[0][columns];
    t->y_row = t->rest.stride[1][rows];
    take_out(&t->rest, columns);
    take_out(&t->rest, rows);
    return true;
}

/* ---- the kernel ---- */

template <typename FROM, typename TO, int PACK>
static void start_map(struct heed_exec *exec, const struct heed_copy_args *a) {
    const struct heed_view *const views[] = {&a->x};
    const struct heed_grad_view y = {a->y.view, false};
    cuda_map<TO, PACK>(exec, copied<FROM, TO>{static_cast<const FROM *>(a->x.data)}, views, &y);
}

/* Packs for what mixed precision converts. */
template <typename TO> constexpr int pack_of_f32 = std::is_same<TO, cuda_bf16>::value ? 8 : 1;
template <typename TO> constexpr int pack_of_bf16 = std::is_same<TO, float>::value ? 4 : 1;

template <typename TO> static void start_converting(struct heed_exec *exec, const struct heed_copy_args *a) {
    if (a->x.dtype == HEED_F32) start_map<float, TO, pack_of_f32<TO>>(exec, a);
    if (a->x.dtype == HEED_F64) start_map<double, TO, 1>(exec, a);
    if (a->x.dtype == HEED_I32) start_map<int32_t, TO, 1>(exec, a);
    if (a->x.dtype == HEED_BOOL) start_map<bool, TO, 1>(exec, a);
    if (a->x.dtype == HEED_BF16) start_map<cuda_bf16, TO, pack_of_bf16<TO>>(exec, a);
}

template <typename T> static bool start_tiles(struct heed_exec *exec, const struct heed_copy_args *a) {
    struct tiling t;
    if (!find_tiling(a, tile_size<T>, &t)) return false;
    const int64_t tiles = t.rest.count * t.tiles_down * t.tiles_across;
    CUDA_RUN(exec, transpose<T>, cuda_blocks(exec, tiles * CUDA_BLOCK), CUDA_BLOCK, 0,
             static_cast<const T *>(a->x.data), static_cast<T *>(a->y.view.data), t, a->y.add);
    return true;
}

/* One dtype; `add` is not there yet. */
template <typename T> static void start_copying(struct heed_exec *exec, const struct heed_copy_args *a) {
    if (!start_tiles<T>(exec, a)) start_map<T, T, cuda_map_pack<T>>(exec, a);
}

/* Where x is bf16, y is that or f32; sums are f32. */
template <typename FROM, typename TO>
static void start_adding(struct heed_exec *exec, const struct heed_copy_args *a, void *scratch) {
    const struct heed_view *const views[] = {&a->x};
    if constexpr (std::is_same<FROM, TO>::value)
        if (cuda_is_map(&a->y.view) && start_tiles<TO>(exec, a)) return;
    const cuda_itself<typename cuda_computed<TO>::type, FROM> x = {static_cast<const FROM *>(a->x.data)};
    cuda_gradient<TO>(exec, x, views, &a->y, scratch);
}

static heed_status copy_bytes(struct heed_exec *exec, const struct heed_copy_args *a, int64_t count) {
    const size_t bytes = (size_t)count * heed_dtype_bytes(a->x.dtype);
    return cuda_check(exec, HEED_PRIMITIVE_COPY,
                      cudaMemcpyAsync(a->y.view.data, a->x.data, bytes, cudaMemcpyDeviceToDevice,
                                      cuda_stream(cuda_of(exec))));
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_copy_args *a = static_cast<const struct heed_copy_args *>(arguments);
    const heed_dtype to = a->y.view.dtype;
    if (!a->y.add || (a->x.dtype == HEED_BF16 && (to == HEED_BF16 || to == HEED_F32))) return true;
    return cuda_takes(HEED_PRIMITIVE_COPY, a, a->x.dtype, why);
}

static void start(struct heed_exec *exec, const struct heed_copy_args *a, void *scratch) {
    const heed_dtype to = a->y.view.dtype;
    const bool same = a->x.dtype == to;
    if (to == HEED_F32) {
        if (a->y.add)
            same ? start_adding<float, float>(exec, a, scratch)
                 : start_adding<cuda_bf16, float>(exec, a, scratch);
        else
            same ? start_copying<float>(exec, a) : start_converting<float>(exec, a);
    } else if (to == HEED_F64) {
        if (a->y.add)
            start_adding<double, double>(exec, a, scratch);
        else
            same ? start_copying<double>(exec, a) : start_converting<double>(exec, a);
    } else if (to == HEED_I32) {
        same ? start_copying<int32_t>(exec, a) : start_converting<int32_t>(exec, a);
    } else if (to == HEED_BF16) {
        if (a->y.add)
            start_adding<cuda_bf16, cuda_bf16>(exec, a, scratch);
        else
            same ? start_copying<cuda_bf16>(exec, a) : start_converting<cuda_bf16>(exec, a);
    } else {
        same ? start_copying<bool>(exec, a) : start_converting<bool>(exec, a);
    }
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_copy_args *a = static_cast<const struct heed_copy_args *>(arguments);
    const int64_t count = heed_view_count(&a->x);
    if (count == 0) return HEED_OK;
    if (!a->y.add && a->x.dtype == a->y.view.dtype && heed_view_is_contiguous(&a->x) &&
        heed_view_is_contiguous(&a->y.view))
        return copy_bytes(exec, a, count);
    start(exec, a, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_COPY);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_copy_args *a = static_cast<const struct heed_copy_args *>(arguments);
    const struct heed_view *const views[] = {&a->x};
    if (a->y.add) sizes->forward_scratch = cuda_gradient_scratch<1>(views, &a->y);
}

const struct heed_kernel heed_cuda_copy = {"cuda", applies, sizes, forward, NULL};
