/* y[row] = first index of the row's maximum; the first NaN wins. Memory traffic: x once. A warp takes a row
 * of up to LONG elements, a block a longer one. */
#include "backend/cuda/device.cuh"

enum { LONG = 1024 };

template <typename T> struct candidate {
    T value;
    int64_t index;
};

/* Whether a comes before b: NaN, then the larger, then the earlier. */
template <typename T> __device__ inline bool precedes(const candidate<T> &a, const candidate<T> &b) {
    const bool a_number = a.value == a.value, b_number = b.value == b.value;
    if (a_number != b_number) return b_number;
    if (a_number && a.value != b.value) return a.value > b.value;
    return a.index < b.index;
}

template <typename T> __device__ inline candidate<T> first_of_warp(candidate<T> best) {
    for (int apart = HEED_WARP / 2; apart > 0; apart /= 2) {
        const candidate<T> other = {__shfl_xor_sync(0xffffffffu, best.value, apart),
                                    __shfl_xor_sync(0xffffffffu, best.index, apart)};
        if (precedes(other, best)) best = other;
    }
    return best;
}

/* What a thread of `threads` finds in its share of a row. */
template <typename T>
__device__ inline candidate<T> first_of_thread(const T *row, int64_t n, int thread, int threads) {
    candidate<T> best = {row[0], 0};
    for (int64_t i = thread; i < n; i += threads) {
        const candidate<T> other = {row[i], i};
        if (precedes(other, best)) best = other;
    }
    return best;
}

template <typename T> static __global__ void of_short_rows(const T *x, int64_t rows, int64_t n, int32_t *y) {
    const int lane = threadIdx.x % HEED_WARP;
    for (int64_t row = CUDA_FIRST / HEED_WARP; row < rows; row += CUDA_STEP / HEED_WARP) {
        const candidate<T> best = first_of_warp(first_of_thread(x + row * n, n, lane, HEED_WARP));
        if (lane == 0) y[row] = (int32_t)best.index;
    }
}

template <typename T> static __global__ void of_long_rows(const T *x, int64_t rows, int64_t n, int32_t *y) {
    enum { WARPS = CUDA_BLOCK / HEED_WARP };
    HEED_SHARED(candidate<T>, of_warp, WARPS);
    const int lane = threadIdx.x % HEED_WARP, warp = threadIdx.x / HEED_WARP;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        candidate<T> best = first_of_warp(first_of_thread(x + row * n, n, (int)threadIdx.x, CUDA_BLOCK));
        if (lane == 0) of_warp[warp] = best;
        __syncthreads();
        if (warp == 0) {
            best = first_of_warp(of_warp[lane % WARPS]);
            if (lane == 0) y[row] = (int32_t)best.index;
        }
        __syncthreads();
    }
}

template <typename T> static void start(struct heed_exec *exec, const struct heed_argmax_args *a) {
    const int64_t rows = a->x.size[0], n = a->x.size[1];
    if (rows == 0) return;
    const T *x = static_cast<const T *>(a->x.data);
    int32_t *y = static_cast<int32_t *>(a->y.data);
    if (n > LONG)
        CUDA_RUN(exec, of_long_rows<T>, cuda_blocks(exec, rows * CUDA_BLOCK), CUDA_BLOCK, 0, x, rows, n, y);
    else
        CUDA_RUN(exec, of_short_rows<T>, cuda_blocks(exec, rows * HEED_WARP), CUDA_BLOCK, 0, x, rows, n, y);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_argmax_args *a = static_cast<const struct heed_argmax_args *>(arguments);
    return a->x.dtype == HEED_I32 || cuda_takes(HEED_PRIMITIVE_ARGMAX, a, a->x.dtype, why);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_argmax_args *a = static_cast<const struct heed_argmax_args *>(arguments);
    if (a->x.dtype == HEED_F32)
        start<float>(exec, a);
    else if (a->x.dtype == HEED_F64)
        start<double>(exec, a);
    else
        start<int32_t>(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_ARGMAX);
}

const struct heed_kernel heed_cuda_argmax = {"cuda", applies, NULL, forward, NULL};
