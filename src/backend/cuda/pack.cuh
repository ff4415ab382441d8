/* Elements that are loaded and stored together: 16 bytes at once where addresses allow it. */
#ifndef HEED_SRC_BACKEND_CUDA_PACK_CUH
#define HEED_SRC_BACKEND_CUDA_PACK_CUH

#include "backend/cuda/bf16.cuh"

template <typename T, int N> struct alignas(N * sizeof(T)) cuda_pack { T at[N]; };

/* How many make up 16 bytes. */
template <typename T> constexpr int cuda_wide = 16 / (int)sizeof(T);

/* Whether a row of n elements, or rows of n one behind the other, can be read in packs wherever these
 * pointers (NULL: nothing there) point. */
template <typename T, typename... Pointers> bool cuda_packs(int64_t n, const Pointers *...pointer) {
    const uintptr_t all = (reinterpret_cast<uintptr_t>(pointer) | ... | 0);
    return n % cuda_wide<T> == 0 && all % 16 == 0;
}

/* Whether that holds for packs of N of each. */
template <int N, typename... Elements> bool cuda_packs_of(int64_t n, const Elements *...pointer) {
    return n % N == 0 &&
           ((reinterpret_cast<uintptr_t>(pointer) % (N * sizeof(Elements)) == 0) && ... && true);
}

template <int N, typename T> __device__ inline cuda_pack<T, N> cuda_load(const T *from) {
    return *reinterpret_cast<const cuda_pack<T, N> *>(from);
}

template <int N, typename T> __device__ inline void cuda_store(T *to, const cuda_pack<T, N> &pack) {
    *reinterpret_cast<cuda_pack<T, N> *>(to) = pack;
}

/* The same numbers in another type: of memory, or to compute with. */
template <typename T, typename M, int N>
__device__ inline cuda_pack<T, N> cuda_as(const cuda_pack<M, N> &pack) {
    cuda_pack<T, N> other;
#pragma unroll
    for (int j = 0; j < N; j++) other.at[j] = (T)pack.at[j];
    return other;
}

/* use(i, load(i)) for i = first, first + step, … below end, in order, with some loads on their way together.
 */
template <typename Load, typename Use>
__device__ inline void cuda_each(int64_t first, int64_t end, int64_t step, Load load, Use use) {
    enum { TOGETHER = 4 };
    int64_t i = first;
    for (; i + (TOGETHER - 1) * step < end; i += TOGETHER * step) {
        decltype(load(i)) loaded[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) loaded[k] = load(i + k * step);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) use(i + k * step, loaded[k]);
    }
#pragma unroll 1
    for (; i < end; i += step) use(i, load(i));
}

/* Stores a gradient, or adds it to what is there. */
template <int N, typename T, typename M>
__device__ inline void cuda_give(M *to, bool add, cuda_pack<T, N> pack) {
    if (add) {
        const cuda_pack<T, N> before = cuda_as<T>(cuda_load<N>(to));
        for (int i = 0; i < N; i++) pack.at[i] += before.at[i];
    }
    cuda_store(to, cuda_as<M>(pack));
}

#endif
