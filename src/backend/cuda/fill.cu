/* y = value, or 0, 1, 2, …: writes each element of y once. */
#include "backend/cuda/bf16.cuh"
#include "backend/cuda/walk.cuh"

template <typename T> static __global__ void fill(T *y, cuda_walk<1> walk, T value) {
    for (int64_t i = CUDA_FIRST; i < walk.count; i += CUDA_STEP) {
        int64_t at[1];
        cuda_walk_to(walk, i, at);
        y[at[0]] = value;
    }
}

template <typename T> static __global__ void count_up(T *y, int64_t stride, int64_t count) {
    for (int64_t i = CUDA_FIRST; i < count; i += CUDA_STEP) y[i * stride] = (T)i;
}

/* Towards zero and within range; NaN is 0. */
static int32_t whole(double value) {
    if (value != value) return 0;
    if (value <= INT32_MIN) return INT32_MIN;
    return value >= INT32_MAX ? INT32_MAX : (int32_t)value;
}

template <typename T> static void start(struct heed_exec *exec, const struct heed_fill_args *a, T value) {
    const struct heed_view *views[1] = {&a->y};
    const cuda_walk<1> walk = cuda_walk_of<1>(&a->y, views);
    T *y = static_cast<T *>(a->y.data);
    if (walk.count == 0) return;
    if (a->arange) {
        CUDA_RUN(exec, count_up<T>, cuda_blocks(exec, walk.count), CUDA_BLOCK, 0, y, a->y.stride[0],
                 walk.count);
    } else {
        CUDA_RUN(exec, fill<T>, cuda_blocks(exec, walk.count), CUDA_BLOCK, 0, y, walk, value);
    }
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_fill_args *a = static_cast<const struct heed_fill_args *>(arguments);
    switch (a->y.dtype) {
    case HEED_F32:
        start<float>(exec, a, (float)a->value);
        break;
    case HEED_F64:
        start<double>(exec, a, a->value);
        break;
    case HEED_I32:
        start<int32_t>(exec, a, whole(a->value));
        break;
    case HEED_BOOL:
        start<bool>(exec, a, a->value != 0);
        break;
    case HEED_BF16:
        start<cuda_bf16>(exec, a, cuda_bf16(a->value));
        break;
    }
    return cuda_started(exec, HEED_PRIMITIVE_FILL);
}

const struct heed_kernel heed_cuda_fill = {"cuda", NULL, NULL, forward, NULL};
