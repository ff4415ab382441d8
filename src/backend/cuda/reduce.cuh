/* What the threads of a group know together: sums and other reductions over a warp, a part of it, or a block.
 *
 * A reduction is a type with `static V none()` and `static V join(V a, V b)`, associative but for rounding.
 * Threads join in an order that depends on the group's size only, and all get the same bits. */
#ifndef HEED_SRC_BACKEND_CUDA_REDUCE_CUH
#define HEED_SRC_BACKEND_CUDA_REDUCE_CUH

#include "backend/cuda/pack.cuh"

/* ---- reductions ---- */

template <typename T> struct cuda_plus {
    static __device__ inline T none() {
        return 0;
    }
    static __device__ inline T join(T a, T b) {
        return a + b;
    }
};

/* The larger of two numbers; NaN wins. */
template <typename T> struct cuda_larger {
    static __device__ inline T none() {
        return -(T)INFINITY;
    }
    static __device__ inline T join(T a, T b) {
        return a > b || a != a ? a : b;
    }
};

/* ---- in a group ---- */

/* What the lane whose number differs in the bit `mask` has. */
template <typename V> __device__ inline V cuda_other(const V &own, int mask) {
    static_assert(sizeof(V) % sizeof(unsigned) == 0, "words are exchanged");
    unsigned word[sizeof(V) / sizeof(unsigned)];
    V other;
    memcpy(word, &own, sizeof own);
    for (unsigned &w : word) w = __shfl_xor_sync(0xffffffffu, w, mask);
    memcpy(&other, word, sizeof other);
    return other;
}

/* Of two lanes the one with the lower number has the left side. */
template <typename Reduction, typename V> __device__ inline V cuda_join_lanes(V v, int lanes) {
    for (int mask = 1; mask < lanes; mask *= 2) {
        const V other = cuda_other(v, mask);
        const bool right = threadIdx.x & mask;
        v = Reduction::join(right ? other : v, right ? v : other);
    }
    return v;
}

/* The reduction over a group of neighbouring threads: a power of two up to a warp, or the block, of
 * CUDA_BLOCK threads. All threads of the block must come here. */
template <typename Reduction, typename V> __device__ inline V cuda_join(V v, int group) {
    v = cuda_join_lanes<Reduction>(v, group < HEED_WARP ? group : HEED_WARP);
    if (group <= HEED_WARP) return v;
    enum { WARPS = CUDA_BLOCK / HEED_WARP };
    HEED_SHARED(V, part, WARPS);
    __syncthreads(); /* nobody still reads what an earlier call left there */
    if (threadIdx.x % HEED_WARP == 0) part[threadIdx.x / HEED_WARP] = v;
    __syncthreads();
    return cuda_join_lanes<Reduction>(part[threadIdx.x % WARPS], WARPS);
}

/* ---- rows ---- */

/* The rows of a matrix, each for one group. All threads of a block go on together, so that they may meet;
 * blocks of fewer than CUDA_BLOCK threads hold groups up to a warp:
 * for (cuda_rows at(rows, group); at.more(); at.next()). */
struct cuda_rows {
    int64_t row, rows, first;
    int lane, groups;

    __device__ inline cuda_rows(int64_t rows, int group)
        : rows(rows), lane((int)threadIdx.x % group), groups((int)blockDim.x / group) {
        first = (int64_t)blockIdx.x * groups;
        row = first + (int)threadIdx.x / group;
    }
    __device__ inline bool more() const {
        return first < rows;
    }
    __device__ inline void next() {
        first += (int64_t)gridDim.x * groups;
        row += (int64_t)gridDim.x * groups;
    }
    /* Behind the last row there are rows of nothing. */
    __device__ inline bool inside() const {
        return row < rows;
    }
    __device__ inline int64_t end(int64_t n) const {
        return inside() ? n : 0;
    }
};

/* The threads for rows of so many steps, and the blocks for so many rows. */
static inline int cuda_group(int64_t steps) {
    return steps <= 32 ? 8 : steps <= 512 ? (int)HEED_WARP : (int)CUDA_BLOCK;
}
static inline unsigned cuda_row_blocks(const struct heed_exec *exec, int64_t rows, int group) {
    return cuda_blocks(exec, rows * group);
}

/* The same for kernels that read a row twice: of so many steps each thread holds `held` at most in between,
 * in registers (cuda_reader), or any number again from memory with 0. Of f64 it can hold few. */
struct cuda_row_plan {
    int group, held;
};
enum { CUDA_HOLD_FEW = 4 };
template <typename T> constexpr int cuda_hold_many = sizeof(T) <= 4 ? 8 : (int)CUDA_HOLD_FEW;

template <typename T> static inline cuda_row_plan cuda_row_plan_of(int64_t steps) {
    const int few = CUDA_HOLD_FEW, many = cuda_hold_many<T>, part = 8, warp = HEED_WARP, block = CUDA_BLOCK;
    if (steps <= part * few) return {part, few};
    if (steps <= warp * few) return {warp, few};
    if (steps <= warp * many) return {warp, many};
    if (steps <= block * few) return {block, few};
    return {block, steps <= block * many ? many : 0};
}

/* The threads of a block. Few rows are spread over all multiprocessors, by smaller blocks; what a group does
 * stays the same. */
static inline int cuda_row_threads(const struct heed_exec *exec, int64_t rows, int group) {
    if (group == CUDA_BLOCK) return group;
    int threads = CUDA_BLOCK / 2; /* fits registers better, where threads hold rows */
    while (threads > HEED_WARP && rows * group < (int64_t)threads * cuda_of(exec)->processors) threads /= 2;
    return threads;
}

#endif
