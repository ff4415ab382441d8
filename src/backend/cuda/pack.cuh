/* Elements that are loaded and stored together: 16 bytes at once where addresses allow it. */
#ifndef HEED_SRC_BACKEND_CUDA_PACK_CUH
#define HEED_SRC_BACKEND_CUDA_PACK_CUH

#include "backend/cuda/kernel.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/bf16.cuh"
#endif

template <typename T, int N> struct alignas(N * sizeof(T)) cuda_pack { T at[N]; };

/* How many make up 16 bytes. */
template <typename T> constexpr int cuda_wide = 16 / (int)sizeof(T);

#ifndef HEED_CHOSEN
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
#endif

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
template <int TOGETHER = 4, typename Load, typename Use>
__device__ inline void cuda_each(int64_t first, int64_t end, int64_t step, Load load, Use use) {
    int64_t i = first;
    for (; i + (TOGETHER - 1) * step < end; i += TOGETHER * step) {
        decltype(load(i)) loaded[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) loaded[k] = load(i + k * step);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) use(i + k * step, loaded[k]);
    }
#pragma unroll 1
    for (; i < end; i += step) {
        auto one = load(i);
        use(i, one);
    }
}

/* The packs of a row that may begin anywhere; what is before and behind them goes one by one. They begin at a
 * sector, so that no two warps write into the same one. */
struct cuda_body {
    int64_t begin, end, edge; /* edge: how many elements are no pack's */

    __device__ inline int64_t edge_at(int64_t i) const {
        return i < begin ? i : end + (i - begin);
    }
};

template <int N, typename T> __device__ inline cuda_body cuda_body_of(const T *row, int64_t n) {
    enum { SECTOR = 32 };
    if (N == 1) return {0, n, 0};
    const int64_t before = (int64_t)(-reinterpret_cast<uintptr_t>(row) % SECTOR / sizeof(T));
    const int64_t begin = before < n ? before : n, end = begin + (n - begin) / N * N;
    return {begin, end, n - (end - begin)};
}

/* What a thread reads of a row, by packs: load(i) for i = first, first + step, … below end, twice. HELD of
 * them at most stay in registers from the first time to the second; with HELD = 0 the row may be of any
 * length, and is read again. */
template <int HELD, typename Load> struct cuda_reader {
    typedef decltype((*static_cast<Load *>(nullptr))((int64_t)0)) loaded;
    Load load;
    int64_t first, end, step;
    loaded held[HELD > 0 ? HELD : 1];

    __device__ inline cuda_reader(int64_t first, int64_t end, int64_t step, Load load)
        : load(load), first(first), end(end), step(step) {
#pragma unroll
        for (int k = 0; k < HELD; k++)
            if (first + k * step < end) held[k] = load(first + k * step);
    }
    /* use(i, load(i)), in order; what is held may be changed. */
    template <typename Use> __device__ inline void each(Use use) {
        if constexpr (HELD == 0) {
            cuda_each(first, end, step, load, use);
        } else {
#pragma unroll
            for (int k = 0; k < HELD; k++)
                if (first + k * step < end) use(first + k * step, held[k]);
        }
    }
};

template <int HELD, typename Load>
__device__ inline cuda_reader<HELD, Load> cuda_read(int64_t first, int64_t end, int64_t step, Load load) {
    return cuda_reader<HELD, Load>(first, end, step, load);
}

/* Stores a gradient, or adds it to what is there. */
template <int N, typename T, typename M>
__device__ inline void cuda_give(M *to, bool add, const cuda_pack<T, N> &gradient) {
    cuda_pack<T, N> pack = gradient;
    if (add) {
        const cuda_pack<T, N> before = cuda_as<T>(cuda_load<N>(to));
        for (int i = 0; i < N; i++) pack.at[i] += before.at[i];
    }
    cuda_store(to, cuda_as<M>(pack));
}

#endif
