/* norm = sqrt(Σ g²) over all gradients, which are first multiplied by `scale` and clamped to ± clamp, in
 * place; and the first item with an element that is not finite. A norm that is not finite raises the error
 * word.
 *
 * A block sums a chunk of an item, in f64, whatever item that is: one launch for all of them. One block then
 * sums over chunks, in order.
 *
 * Bytes for each element, in f32: 4, and 4 where elements change. */
#include "backend/cuda/items.cuh"

/* The first bad item: NOBODY where there is none. */
struct found {
    double squares;
    int64_t bad;
};
#define NOBODY INT64_MAX

struct joined {
    static __device__ inline found join(found a, found b) {
        return {a.squares + b.squares, a.bad < b.bad ? a.bad : b.bad};
    }
};

/* What elements become before they are squared. */
template <typename T> struct limits {
    T scale, clamp;
    unsigned change;
};

template <typename T> static __device__ inline T limited(const limits<T> &l, T g) {
    g *= l.scale;
    if (g > l.clamp) return l.clamp;
    return g < -l.clamp ? -l.clamp : g;
}

template <typename T, int N>
static __device__ inline found look(const limits<T> &l, T *g, int64_t item, int64_t begin, int64_t end) {
    found all = {0, NOBODY};
    cuda_each(
        begin + threadIdx.x * N, end, CUDA_BLOCK * N, [=](int64_t i) { return cuda_load<N>(g + i); },
        [&](int64_t i, cuda_pack<T, N> pack) {
            for (T &number : pack.at) {
                if (l.change) number = limited(l, number);
                all.squares += (double)number * number;
                if (!std::isfinite(number)) all.bad = item;
            }
            if (l.change) cuda_store(g + i, pack);
        });
    return all;
}

template <typename T>
static __global__ void chunk_squares(const cuda_item *item, int64_t items, int64_t chunks, limits<T> l,
                                     found *of_chunk) {
    for (int64_t number = blockIdx.x; number < chunks; number += gridDim.x) {
        const cuda_chunk chunk = cuda_chunk_at(item, items, number);
        T *g = static_cast<T *>(chunk.item->grad);
        const int64_t packs = cuda_chunk_packs<T>(chunk, g), index = chunk.item - item;
        found all = look<T, cuda_wide<T>>(l, g, index, chunk.begin, packs);
        all = joined::join(all, look<T, 1>(l, g, index, packs, chunk.end));
        all = cuda_join<joined>(all, CUDA_BLOCK);
        if (threadIdx.x == 0) of_chunk[number] = all;
    }
}

/* By one block. A ticket below 0 is none. */
static __global__ void norm_of(const cuda_item *item, int64_t chunks, const found *of_chunk,
                               struct heed_grad_norm *result, struct cuda_fault_word *fault, int ticket) {
    found all = {0, NOBODY};
    cuda_each((int64_t)threadIdx.x, chunks, (int64_t)CUDA_BLOCK,
              [=](int64_t chunk) { return of_chunk[chunk]; },
              [&](int64_t, const found &one) { all = joined::join(all, one); });
    all = cuda_join<joined>(all, CUDA_BLOCK);
    if (threadIdx.x != 0) return;
    const bool bad = all.bad != NOBODY;
    *result = {std::sqrt(all.squares), bad ? all.bad : -1};
    if (ticket < 0) return;
    if (!std::isfinite(all.squares))
        cuda_raise(fault, CUDA_FAULT_GRADIENT, HEED_PRIMITIVE_GRAD_NORM, bad ? item[all.bad].number : -1,
                   ticket);
    if (fault->fault != CUDA_FAULT_NONE && fault->norm == 0) fault->norm = ticket + 1;
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    return cuda_computes(static_cast<const struct heed_grad_norm_args *>(arguments)->dtype, why);
}

/* scratch: the list, then what each chunk has. */
static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_grad_norm_args *a = static_cast<const struct heed_grad_norm_args *>(arguments);
    sizes->forward_scratch = (size_t)a->items * sizeof(struct cuda_item) +
                             (size_t)cuda_chunks(a->item, a->items) * sizeof(struct found);
}

template <typename T>
static void start_chunks(struct heed_exec *exec, const struct heed_grad_norm_args *a,
                         const struct cuda_item *item, int64_t chunks, struct found *of_chunk) {
    limits<T> l = {(T)a->scale, a->clamp > 0 ? (T)a->clamp : (T)INFINITY, 0};
    l.change = a->scale != 1 || a->clamp > 0;
    if (chunks > 0)
        CUDA_RUN(exec, chunk_squares<T>, cuda_row_blocks(exec, chunks, CUDA_BLOCK), CUDA_BLOCK, 0, item,
                 a->items, chunks, l, of_chunk);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_grad_norm_args *a = static_cast<const struct heed_grad_norm_args *>(arguments);
    const int64_t chunks = cuda_chunks(a->item, a->items);
    struct cuda_item *item = static_cast<struct cuda_item *>(scratch);
    struct found *of_chunk = reinterpret_cast<struct found *>(item + a->items);
    int ticket = -1;
    heed_status status = a->witness ? cuda_watch_norm(exec, a->witness, a->step, &ticket) : HEED_OK;
    if (status == HEED_OK) status = cuda_items_send(exec, HEED_PRIMITIVE_GRAD_NORM, a->item, a->items, item);
    if (status != HEED_OK) return status;
    (a->dtype == HEED_F64 ? start_chunks<double> : start_chunks<float>)(exec, a, item, chunks, of_chunk);
    CUDA_RUN(exec, norm_of, 1, CUDA_BLOCK, 0, item, chunks, of_chunk, a->result, cuda_of(exec)->fault,
             ticket);
    return cuda_started(exec, HEED_PRIMITIVE_GRAD_NORM);
}

const struct heed_kernel heed_cuda_grad_norm = {"cuda", applies, sizes, forward, NULL};
