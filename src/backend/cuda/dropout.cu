/* y = x where kept · scale, else 0; dx is the same of dy. Memory traffic in f32: 8 bytes an element, 12 to
 * add; in bf16 half of that. Which elements are kept is computed anew each time (philox.cuh): a thread makes
 * 4 elements, whose bits are half of a block of words. */
#include "backend/cuda/map.cuh"
#include "backend/cuda/philox.cuh"

enum { N = CUDA_PACK };

template <typename T, typename M> struct dropping {
    const M *x;
    M *y;
    int64_t count;
    uint32_t threshold;
    T scale;
    bool add, packs; /* packs: x and y are aligned for them */
    struct heed_random random;
};

template <typename T, typename M> static __global__ void drop(dropping<T, M> d) {
    for (int64_t i = CUDA_FIRST; i * N < d.count; i += CUDA_STEP) {
        const bool whole = d.packs && (i + 1) * N <= d.count;
        const M *x = d.x + i * N;
        M *y = d.y + i * N;
        T value[N] = {}, old[N] = {};
        if (whole) {
            cuda_load_pack(x, value);
            if (d.add) cuda_load_pack(y, old);
        } else {
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (i * N + j >= d.count) continue;
                value[j] = (T)x[j];
                if (d.add) old[j] = (T)y[j];
            }
        }
        const unsigned kept = cuda_kept<N>(d.random, d.threshold, i * N);
#pragma unroll
        for (int j = 0; j < N; j++) {
            value[j] = kept >> j & 1 ? value[j] * d.scale : (T)0;
            if (d.add) value[j] += old[j];
        }
        if (whole) {
            cuda_store_pack(y, value);
            continue;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            if (i * N + j < d.count) y[j] = (M)value[j];
    }
}

template <typename M>
static void start(struct heed_exec *exec, const struct heed_dropout_args *a, const struct heed_view *x,
                  const struct heed_view *y, bool add) {
    typedef typename cuda_computed<M>::type T;
    const uintptr_t places = reinterpret_cast<uintptr_t>(x->data) | reinterpret_cast<uintptr_t>(y->data);
    const dropping<T, M> d = {static_cast<const M *>(x->data),
                              static_cast<M *>(y->data),
                              heed_view_count(y),
                              a->threshold,
                              (T)heed_keep_scale(a->threshold),
                              add,
                              places % sizeof(cuda_pack<M, N>) == 0,
                              a->random};
    if (d.count == 0) return;
    CUDA_RUN(exec, (drop<T, M>), cuda_blocks(exec, (d.count + N - 1) / N), CUDA_BLOCK, 0, d);
}

static heed_status run(struct heed_exec *exec, const struct heed_dropout_args *a, const struct heed_view *x,
                       const struct heed_view *y, bool add) {
    if (x->dtype == HEED_F64)
        start<double>(exec, a, x, y, add);
    else if (x->dtype == HEED_BF16)
        start<cuda_bf16>(exec, a, x, y, add);
    else
        start<float>(exec, a, x, y, add);
    return cuda_started(exec, HEED_PRIMITIVE_DROPOUT);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_dropout_args *a = static_cast<const struct heed_dropout_args *>(arguments);
    return cuda_takes_either(HEED_PRIMITIVE_DROPOUT, a, a->x.dtype, why);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_dropout_args *a = static_cast<const struct heed_dropout_args *>(arguments);
    return run(exec, a, &a->x, &a->y, false);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_dropout_args *a = static_cast<const struct heed_dropout_args *>(arguments);
    if (!heed_has(&a->dx.view)) return HEED_OK;
    return run(exec, a, &a->dy, &a->dx.view, a->dx.add);
}

const struct heed_kernel heed_cuda_dropout = {"cuda", applies, NULL, forward, backward};
