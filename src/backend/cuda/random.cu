/* y = a + b·normal, or uniform in [a, b). Memory traffic: y once. A thread makes what one block of words
 * gives: 4 elements in f32, 2 in f64. Normals are computed in double, as tensor/philox.h says, which is what
 * bounds them on devices with few units for it. */
#include "backend/cuda/map.cuh"
#include "backend/cuda/philox.cuh"

template <typename T> struct range {
    T a, b; /* a + b·x … */
    T top;  /* … but at most this */
};

/* Each operation rounded, so that all backends give the same bits. */
__device__ inline float scaled(const range<float> &r, float x) {
    const float y = __fadd_rn(r.a, __fmul_rn(r.b, x));
    return y > r.top ? r.top : y;
}
__device__ inline double scaled(const range<double> &r, double x) {
    const double y = __dadd_rn(r.a, __dmul_rn(r.b, x));
    return y > r.top ? r.top : y;
}

template <typename T>
static __global__ void draw(T *y, int64_t count, bool normal, struct heed_random random, range<T> r) {
    enum { N = 16 / sizeof(T) };
    const bool aligned = reinterpret_cast<uintptr_t>(y) % sizeof(cuda_pack<T, N>) == 0;
    for (int64_t block = CUDA_FIRST; block * N < count; block += CUDA_STEP) {
        uint32_t word[4];
        T x[N];
        cuda_random_block(random, (uint32_t)block, word);
        if (normal)
            cuda_normals(word, x);
        else
            cuda_uniforms(word, x);
#pragma unroll
        for (int j = 0; j < N; j++) x[j] = scaled(r, x[j]);
        if (aligned && (block + 1) * N <= count) {
            cuda_store_pack(y + block * N, x);
            continue;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            if (block * N + j < count) y[block * N + j] = x[j];
    }
}

template <typename T>
static void start(struct heed_exec *exec, const struct heed_random_args *a, const range<T> &r) {
    const int64_t count = heed_view_count(&a->y), per_block = 16 / sizeof(T);
    if (count == 0) return;
    CUDA_RUN(exec, draw<T>, cuda_blocks(exec, (count + per_block - 1) / per_block), CUDA_BLOCK, 0,
             static_cast<T *>(a->y.data), count, a->normal, a->random, r);
}

static range<float> range_f32(const struct heed_random_args *a) {
    if (a->normal) return {(float)a->a, (float)a->b, INFINITY};
    return {(float)a->a, (float)(a->b - a->a), heed_below_f32((float)a->b, (float)a->a)};
}

static range<double> range_f64(const struct heed_random_args *a) {
    if (a->normal) return {a->a, a->b, INFINITY};
    return {a->a, a->b - a->a, a->b > a->a ? nextafter(a->b, a->a) : INFINITY};
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_random_args *a = static_cast<const struct heed_random_args *>(arguments);
    return cuda_takes(HEED_PRIMITIVE_RANDOM, a, a->y.dtype, why);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_random_args *a = static_cast<const struct heed_random_args *>(arguments);
    if (a->y.dtype == HEED_F64)
        start<double>(exec, a, range_f64(a));
    else
        start<float>(exec, a, range_f32(a));
    return cuda_started(exec, HEED_PRIMITIVE_RANDOM);
}

const struct heed_kernel heed_cuda_random = {"cuda", applies, NULL, forward, NULL};
