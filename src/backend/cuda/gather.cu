/* y[i, j, k] = x[i, index[i, j, k], k] along one dimension, and back: dx[i, index[i, j, k], k] += dy[i, j,
 * k].
 *
 * Forward is a map; in f32 8 bytes an element, and the indices. Where an index holds for whole slices, as in
 * an embedding, it is read once for four elements.
 *
 * Backward sums in a fixed order. Dimensions along which the index differs are columns; those where it
 * repeats make up the slice that an index moves. If few indices lie along a column, a thread adds them one
 * after the other. Otherwise the indices are sorted, stably, by where they lead (sort.cuh); spans of SPAN
 * sorted ones are added up by a thread for each element of the slice, in order and in double, and what spans
 * found of a destination that reaches over their borders is joined in order. So a destination that most
 * indices lead to (the word "the") keeps no thread busy alone. Memory traffic of an embedding in f32: dy
 * once, the table's gradient once to clear it if it is not added to, and two numbers per span and element;
 * about 24 bytes an index and pass of the sort. In mixed precision the table and its gradient are f32, y and
 * dy bf16: forward 6 bytes an element. */
#include "backend/cuda/map.cuh"
#include "backend/cuda/sort.cuh"

/* ---- forward ---- */

/* Of x. */
template <typename T> struct picked {
    typedef T result;
    enum { INDEX, X, VIEWS };
    const int32_t *index;
    const T *x; /* its view has no stride along the dimension */
    int64_t size, stride;
    bool even; /* packs of x are aligned whatever the index */
    struct cuda_fault_word *fault;

    __device__ bool in_range(int32_t i) const {
        if (i >= 0 && i < size) return true;
        cuda_raise(fault, CUDA_FAULT_INDEX, HEED_PRIMITIVE_GATHER, i, size);
        return false;
    }

    template <int N> __device__ void operator()(const cuda_spot<N> &spot, T (&y)[N]) const {
        const bool one_index = spot.repeats >> INDEX & 1, one_x = spot.repeats >> X & 1;
        int32_t i[N];
        cuda_load(index, spot, INDEX, i);
        if (N > 1 && one_index && !one_x && even) {
#pragma unroll
            for (int j = 0; j < N; j++) y[j] = 0;
            if (in_range(i[0])) cuda_load_pack(x + spot.at[X] + i[0] * stride, y);
            return;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            y[j] = in_range(i[j]) ? x[spot.at[X] + (one_x ? 0 : j) + i[j] * stride] : (T)0;
    }
};

/* x (or dx) seen in the shape of y, without a stride along the dimension. */
static struct heed_view across(const struct heed_gather_args *a, const struct heed_view *x) {
    struct heed_view v = *x;
    for (int d = 0; d < v.rank; d++) v.size[d] = a->y.size[d];
    v.stride[a->dim] = 0;
    return v;
}

template <typename T, typename TO>
static void start(struct heed_exec *exec, const struct heed_gather_args *a) {
    const struct heed_view x = across(a, &a->x);
    const struct heed_view *const views[] = {&a->index, &x};
    const struct heed_grad_view y = {a->y, false};
    const int64_t stride = a->x.stride[a->dim];
    const picked<T> term = {static_cast<const int32_t *>(a->index.data),
                            static_cast<const T *>(a->x.data),
                            a->x.size[a->dim],
                            stride,
                            stride % CUDA_PACK == 0,
                            cuda_of(exec)->fault};
    cuda_map<TO, CUDA_PACK>(exec, term, views, &y);
}

static bool is_absent_or(const struct heed_view *v, heed_dtype dtype) {
    return !heed_has(v) || v->dtype == dtype;
}

/* A table and its gradient in f32, and what is taken from it in bf16. */
static bool is_mixed(const struct heed_gather_args *a) {
    return a->x.dtype == HEED_F32 && a->y.dtype == HEED_BF16 && is_absent_or(&a->dy, HEED_BF16) &&
           is_absent_or(&a->dx.view, HEED_F32);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_gather_args *a = static_cast<const struct heed_gather_args *>(arguments);
    if (is_mixed(a)) return true;
    return cuda_takes(HEED_PRIMITIVE_GATHER, a, a->x.dtype, why);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_gather_args *a = static_cast<const struct heed_gather_args *>(arguments);
    if (a->x.dtype == HEED_F64)
        start<double, double>(exec, a);
    else if (a->y.dtype == HEED_BF16)
        start<float, cuda_bf16>(exec, a);
    else
        start<float, float>(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_GATHER);
}

/* ---- backward: the places of indices, contributions and destinations ---- */

enum { INDEX, DX, DY, PLACES };

/* Contribution (column, along, element of the slice) goes to (column, index, element). */
struct scattering {
    cuda_walk<PLACES> columns, slice;
    int64_t along, size;    /* indices of a column, and what they are below */
    int64_t stride[PLACES]; /* along the column; of dx, from destination to destination */
};

static struct scattering scattering_of(const struct heed_gather_args *a, const struct heed_view *dx) {
    const struct heed_view target = across(a, dx);
    const struct heed_view *const views[] = {&a->index, &target, &a->dy};
    struct heed_view columns = a->dy, slice = a->dy;
    for (int d = 0; d < a->dy.rank; d++) {
        if (d == a->dim || a->index.stride[d] == 0) columns.size[d] = 1;
        if (d == a->dim || a->index.stride[d] != 0) slice.size[d] = 1;
    }
    struct scattering s = {};
    s.columns = cuda_walk_of<PLACES>(&columns, views);
    s.slice = cuda_walk_of<PLACES>(&slice, views);
    s.along = a->dy.size[a->dim];
    s.size = dx->size[a->dim];
    s.stride[INDEX] = a->index.stride[a->dim];
    s.stride[DX] = dx->stride[a->dim];
    s.stride[DY] = a->dy.stride[a->dim];
    return s;
}

/* ---- backward, few indices along a column: a thread for each column and element of the slice ---- */

template <typename T, typename M>
static __global__ void add_in_turn(struct scattering s, const int32_t *index, const M *dy, T *dx) {
    for (int64_t job = CUDA_FIRST; job < s.columns.count * s.slice.count; job += CUDA_STEP) {
        int64_t column[PLACES], element[PLACES];
        cuda_walk_to(s.columns, job / s.slice.count, column);
        cuda_walk_to(s.slice, job % s.slice.count, element);
        for (int64_t i = 0; i < s.along; i++) {
            const int32_t to = index[column[INDEX] + i * s.stride[INDEX]];
            if (to < 0 || to >= s.size) continue; /* forward has raised it */
            dx[column[DX] + element[DX] + to * s.stride[DX]] +=
                (T)dy[column[DY] + element[DY] + i * s.stride[DY]];
        }
    }
}

/* ---- backward, sorted ---- */

/* Short, so that few indices already keep many threads busy; what a thread adds up is on its way together. */
enum { SPAN = 16 };

/* Index i of a column leads to the destination column · size + index; one that is out of range beyond all of
 * them. */
static __global__ void number_destinations(struct scattering s, const int32_t *index, uint32_t *key) {
    const int64_t count = s.columns.count * s.along;
    for (int64_t place = CUDA_FIRST; place < count; place += CUDA_STEP) {
        const int64_t column = place / s.along;
        int64_t at[PLACES];
        cuda_walk_to(s.columns, column, at);
        const int32_t to = index[at[INDEX] + place % s.along * s.stride[INDEX]];
        const int64_t destination = to < 0 || to >= s.size ? s.columns.count * s.size : column * s.size + to;
        key[place] = (uint32_t)destination;
    }
}

/* `part` [spans, 2, slice]: the sums of destinations that reach over a span's borders, of the one that begins
 * before it and of the one that begins in it. */
template <typename T, typename M> struct summing {
    struct scattering s;
    struct cuda_keys sorted;
    int64_t count, spans;
    uint32_t destinations;
    const M *dy;
    T *dx;
    double *part;
};

/* An element of the slice, in one span. */
struct slot {
    int64_t span, first, end; /* of sorted keys */
    int64_t number, at[PLACES];
};

template <typename T, typename M> __device__ inline struct slot slot_of(const summing<T, M> &g, int64_t job) {
    struct slot l;
    l.span = job / g.s.slice.count;
    l.number = job % g.s.slice.count;
    l.first = l.span * SPAN;
    l.end = l.first + SPAN < g.count ? l.first + SPAN : g.count;
    cuda_walk_to(g.s.slice, l.number, l.at);
    return l;
}

template <typename T, typename M>
__device__ inline T contribution(const summing<T, M> &g, const struct slot &l, int64_t i) {
    const uint32_t along = (uint32_t)g.s.along, place = g.sorted.place[i];
    int64_t column[PLACES];
    cuda_walk_to(g.s.columns, place / along, column);
    return (T)g.dy[column[DY] + l.at[DY] + place % along * g.s.stride[DY]];
}

template <typename T, typename M>
__device__ inline void add_to(const summing<T, M> &g, const struct slot &l, uint32_t destination,
                              double sum) {
    const uint32_t size = (uint32_t)g.s.size;
    int64_t column[PLACES];
    cuda_walk_to(g.s.columns, destination / size, column);
    T *dx = g.dx + column[DX] + l.at[DX] + destination % size * g.s.stride[DX];
    *dx = (T)(*dx + sum);
}

template <typename T, typename M>
__device__ inline double *part_of(const summing<T, M> &g, int64_t span, int begins_here, int64_t number) {
    return g.part + (2 * span + begins_here) * g.s.slice.count + number;
}

/* Whether the destination before sorted key i goes on there. */
template <typename T, typename M> __device__ inline bool goes_on(const summing<T, M> &g, int64_t i) {
    return i > 0 && i < g.count && g.sorted.key[i - 1] == g.sorted.key[i];
}

template <typename T, typename M> static __global__ void sum_spans(summing<T, M> g) {
    for (int64_t job = CUDA_FIRST; job < g.spans * g.s.slice.count; job += CUDA_STEP) {
        const struct slot l = slot_of(g, job);
        bool begins_here = !goes_on(g, l.first);
        double sum = 0;
        T part[SPAN];
#pragma unroll
        for (int k = 0; k < SPAN; k++) {
            const int64_t i = l.first + k;
            part[k] = i < l.end && g.sorted.key[i] < g.destinations ? contribution(g, l, i) : 0;
        }
#pragma unroll
        for (int k = 0; k < SPAN; k++) {
            const int64_t i = l.first + k;
            if (i >= l.end) break;
            const uint32_t destination = g.sorted.key[i];
            if (destination >= g.destinations) break; /* and so are all that follow */
            sum += part[k];
            if (i + 1 < l.end && goes_on(g, i + 1)) continue;
            if (begins_here && !goes_on(g, i + 1))
                add_to(g, l, destination, sum);
            else
                *part_of(g, l.span, begins_here, l.number) = sum;
            begins_here = true;
            sum = 0;
        }
    }
}

/* For the spans in which a destination begins that goes on in the next. */
template <typename T, typename M> static __global__ void join_spans(summing<T, M> g) {
    for (int64_t job = CUDA_FIRST; job < g.spans * g.s.slice.count; job += CUDA_STEP) {
        const struct slot l = slot_of(g, job);
        const uint32_t destination = g.sorted.key[l.end - 1];
        const bool began_before = goes_on(g, l.first) && g.sorted.key[l.first] == destination;
        if (destination >= g.destinations || began_before || !goes_on(g, l.end)) continue;
        double sum = *part_of(g, l.span, true, l.number);
        int64_t span = l.span + 1;
        do sum += *part_of(g, span++, false, l.number);
        while (span < g.spans && g.sorted.key[span * SPAN] == destination);
        add_to(g, l, destination, sum);
    }
}

/* ---- backward: the kernel ---- */

/* How a gradient is made, and its scratch, in this order. */
struct scatter_plan {
    int64_t count, spans; /* of indices; 0: each column in turn */
    size_t parts, sorting, dense;
};

enum { IN_TURN = 32 }; /* indices along a column that a thread adds one after the other */

static struct scatter_plan scatter_plan_of(const struct heed_gather_args *a) {
    struct scatter_plan p = {};
    if (!heed_has(&a->dx.view)) return p;
    const struct scattering s = scattering_of(a, &a->dx.view);
    const int64_t indices = s.columns.count * s.along;
    const bool numbered = indices <= INT32_MAX && s.columns.count * s.size < UINT32_MAX;
    if (s.along > IN_TURN && numbered && s.slice.count > 0) {
        p.count = indices;
        p.spans = (indices + SPAN - 1) / SPAN;
        p.parts = (size_t)(2 * p.spans * s.slice.count) * sizeof(double);
        p.sorting = cuda_sort_scratch(indices);
    }
    if (heed_view_repeats(&a->dx.view))
        p.dense = (size_t)heed_view_count(&a->dx.view) * heed_dtype_bytes(a->dx.view.dtype);
    return p;
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct scatter_plan p = scatter_plan_of(static_cast<const struct heed_gather_args *>(arguments));
    sizes->backward_scratch = (p.parts + p.sorting + 7) / 8 * 8 + p.dense;
}

static int bits_of(uint64_t number) {
    int bits = 0;
    for (; number > 0; number >>= 1) bits++;
    return bits;
}

/* dx += the contributions. */
template <typename T, typename M>
static void start_scatter(struct heed_exec *exec, const struct heed_gather_args *a,
                          const struct heed_view *dx, const struct scatter_plan *p, void *scratch) {
    const struct scattering s = scattering_of(a, dx);
    const int32_t *index = static_cast<const int32_t *>(a->index.data);
    const M *dy = static_cast<const M *>(a->dy.data);
    T *to = static_cast<T *>(dx->data);
    if (p->spans == 0) {
        CUDA_RUN(exec, (add_in_turn<T, M>), cuda_blocks(exec, s.columns.count * s.slice.count), CUDA_BLOCK, 0,
                 s, index, dy, to);
        return;
    }
    const int64_t destinations = s.columns.count * s.size;
    char *keys = static_cast<char *>(scratch) + p->parts;
    CUDA_RUN(exec, number_destinations, cuda_blocks(exec, p->count), CUDA_BLOCK, 0, s, index,
             reinterpret_cast<uint32_t *>(keys));
    const struct cuda_keys sorted = cuda_sort(exec, p->count, bits_of((uint64_t)destinations), keys);
    const summing<T, M> g = {
        s, sorted, p->count, p->spans, (uint32_t)destinations, dy, to, static_cast<double *>(scratch)};
    const unsigned blocks = cuda_blocks(exec, p->spans * s.slice.count);
    CUDA_RUN(exec, (sum_spans<T, M>), blocks, CUDA_BLOCK, 0, g);
    CUDA_RUN(exec, (join_spans<T, M>), blocks, CUDA_BLOCK, 0, g);
}

static heed_status clear(struct heed_exec *exec, const struct heed_view *v) {
    const size_t bytes = (size_t)heed_view_count(v) * heed_dtype_bytes(v->dtype);
    struct heed_fill_args fill = {};
    fill.y = *v;
    if (!heed_view_is_contiguous(v)) return heed_host->forward(exec, &heed_cuda_fill, &fill, NULL);
    return cuda_check(exec, HEED_PRIMITIVE_GATHER,
                      cudaMemsetAsync(v->data, 0, bytes, cuda_stream(cuda_of(exec))));
}

static heed_status scatter(struct heed_exec *exec, const struct heed_gather_args *a,
                           const struct heed_view *dx, const struct scatter_plan *p, void *scratch) {
    if (heed_view_count(&a->dy) == 0) return HEED_OK;
    if (dx->dtype == HEED_F64)
        start_scatter<double, double>(exec, a, dx, p, scratch);
    else if (a->dy.dtype == HEED_BF16)
        start_scatter<float, cuda_bf16>(exec, a, dx, p, scratch);
    else
        start_scatter<float, float>(exec, a, dx, p, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_GATHER);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_gather_args *a = static_cast<const struct heed_gather_args *>(arguments);
    const struct scatter_plan p = scatter_plan_of(a);
    heed_status status = HEED_OK;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    if (!a->dx.add) status = clear(exec, &a->dx.view);
    if (p.dense == 0) return status == HEED_OK ? scatter(exec, a, &a->dx.view, &p, scratch) : status;
    /* Columns may meet where dx repeats: they are told apart in a tensor of their own, then summed. */
    struct heed_copy_args sum = {};
    sum.x = a->dx.view;
    sum.x.data = static_cast<char *>(scratch) + (p.parts + p.sorting + 7) / 8 * 8;
    sum.y = {a->dx.view, true};
    heed_view_set_contiguous(&sum.x);
    if (status == HEED_OK) status = clear(exec, &sum.x);
    if (status == HEED_OK) status = scatter(exec, a, &sum.x, &p, scratch);
    return status == HEED_OK ? heed_host->forward(exec, &heed_cuda_copy, &sum, NULL) : status;
}

const struct heed_kernel heed_cuda_gather = {"cuda", applies, sizes, forward, backward};
