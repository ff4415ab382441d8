/* A stable sort of keys with their places, by radix: for every 8 bits, from the lowest up, tiles count their
 * digits, the counts become first positions, and tiles move their keys there in order. Nothing depends on
 * the order in which blocks run.
 *
 * Memory traffic: 24 bytes a key and pass. */
#ifndef HEED_SRC_BACKEND_CUDA_SORT_CUH
#define HEED_SRC_BACKEND_CUDA_SORT_CUH

#include "backend/cuda/device.cuh"

enum {
    CUDA_SORT_BITS = 8,
    CUDA_SORT_DIGITS = 1 << CUDA_SORT_BITS, /* one for each thread of a block */
    CUDA_SORT_ROUNDS = 8,                   /* keys of a thread */
    CUDA_SORT_WARPS = CUDA_BLOCK / HEED_WARP,
    CUDA_SORT_TILE = CUDA_BLOCK * CUDA_SORT_ROUNDS,
    CUDA_SORT_SCAN = 1024 /* threads of the one block that adds up counts */
};
static_assert((int)CUDA_SORT_DIGITS == (int)CUDA_BLOCK, "a thread for every digit");

/* Keys, and the place each had at first. */
struct cuda_keys {
    uint32_t *key, *place;
};

static inline int64_t cuda_sort_tiles(int64_t count) {
    return (count + CUDA_SORT_TILE - 1) / CUDA_SORT_TILE;
}

/* Bytes of scratch: two lists of keys, and counts. */
static inline size_t cuda_sort_scratch(int64_t count) {
    return (size_t)(4 * count + CUDA_SORT_DIGITS * cuda_sort_tiles(count)) * sizeof(uint32_t);
}

/* counts[digit, tile] */
static __global__ void cuda_sort_count(const uint32_t *key, int64_t count, int shift, int64_t tiles,
                                       uint32_t *counts) {
    HEED_SHARED(uint32_t, found, CUDA_SORT_DIGITS);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64_t first = tile * CUDA_SORT_TILE, end = first + CUDA_SORT_TILE;
        found[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = first + threadIdx.x; i < end && i < count; i += CUDA_BLOCK)
            atomicAdd(&found[key[i] >> shift & (CUDA_SORT_DIGITS - 1)], 1u);
        __syncthreads();
        counts[threadIdx.x * tiles + tile] = found[threadIdx.x];
        __syncthreads();
    }
}

/* The sum of the threads' numbers before this thread, in a block of CUDA_SORT_SCAN. */
__device__ inline uint32_t cuda_sort_before(uint32_t own) {
    HEED_SHARED(uint32_t, warp_sum, HEED_WARP);
    const unsigned lane = threadIdx.x % HEED_WARP, warp = threadIdx.x / HEED_WARP;
    uint32_t upto = own;
    for (unsigned apart = 1; apart < HEED_WARP; apart *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, upto, apart);
        if (lane >= apart) upto += other;
    }
    if (lane == HEED_WARP - 1) warp_sum[warp] = upto;
    __syncthreads();
    uint32_t before = upto - own;
    for (unsigned w = 0; w < warp; w++) before += warp_sum[w];
    return before;
}

/* Counts become the sums of those before them. One block. */
static __global__ void cuda_sort_scan(uint32_t *counts, int64_t n) {
    const int64_t share = (n + CUDA_SORT_SCAN - 1) / CUDA_SORT_SCAN, first = threadIdx.x * share;
    const int64_t end = first + share < n ? first + share : n;
    uint32_t sum = 0;
    for (int64_t i = first; i < end; i++) sum += counts[i];
    sum = cuda_sort_before(sum);
    for (int64_t i = first; i < end; i++) {
        const uint32_t own = counts[i];
        counts[i] = sum;
        sum += own;
    }
}

/* The lanes of the warp that are in range and have this digit. */
__device__ inline unsigned cuda_sort_peers(bool in_range, unsigned digit) {
    unsigned peers = __ballot_sync(0xffffffffu, in_range);
    for (int bit = 0; bit < CUDA_SORT_BITS; bit++) {
        const unsigned set = __ballot_sync(0xffffffffu, digit >> bit & 1);
        peers &= digit >> bit & 1 ? set : ~set;
    }
    return peers;
}

/* A warp takes keys side by side, in rounds, so that positions follow the order of keys. `from.place` NULL:
 * places count up. */
static __global__ void cuda_sort_move(struct cuda_keys from, struct cuda_keys to, int64_t count, int shift,
                                      int64_t tiles, const uint32_t *counts) {
    HEED_SHARED(uint32_t, next, CUDA_SORT_WARPS * CUDA_SORT_DIGITS);
    const unsigned lane = threadIdx.x % HEED_WARP, warp = threadIdx.x / HEED_WARP;
    uint32_t *own_next = next + warp * CUDA_SORT_DIGITS;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64_t first = tile * CUDA_SORT_TILE + warp * (HEED_WARP * CUDA_SORT_ROUNDS) + lane;
        uint32_t key[CUDA_SORT_ROUNDS], rank[CUDA_SORT_ROUNDS] = {};
        for (int w = 0; w < CUDA_SORT_WARPS; w++) next[w * CUDA_SORT_DIGITS + threadIdx.x] = 0;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < CUDA_SORT_ROUNDS; r++) {
            const int64_t i = first + r * HEED_WARP;
            key[r] = i < count ? from.key[i] : 0;
        }
#pragma unroll
        for (int r = 0; r < CUDA_SORT_ROUNDS; r++) {
            const int64_t i = first + r * HEED_WARP;
            if (i - lane >= count) continue; /* all lanes */
            const unsigned digit = key[r] >> shift & (CUDA_SORT_DIGITS - 1);
            const unsigned peers = cuda_sort_peers(i < count, digit);
            const unsigned before = (unsigned)__popc(peers & ((1u << lane) - 1));
            rank[r] = own_next[digit] + before;
            __syncwarp();
            if (i < count && before == 0) own_next[digit] += (uint32_t)__popc(peers);
            __syncwarp();
        }
        __syncthreads();
        uint32_t position = counts[threadIdx.x * tiles + tile];
        for (int w = 0; w < CUDA_SORT_WARPS; w++) {
            uint32_t *of_warp = next + w * CUDA_SORT_DIGITS + threadIdx.x;
            const uint32_t found = *of_warp;
            *of_warp = position;
            position += found;
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < CUDA_SORT_ROUNDS; r++) {
            const int64_t i = first + r * HEED_WARP;
            if (i >= count) continue;
            const uint32_t at = own_next[key[r] >> shift & (CUDA_SORT_DIGITS - 1)] + rank[r];
            to.key[at] = key[r];
            to.place[at] = from.place ? from.place[i] : (uint32_t)i;
        }
        __syncthreads();
    }
}

/* The keys, `count` numbers of `bits` bits at the beginning of scratch, in order. */
static inline struct cuda_keys cuda_sort(struct heed_exec *exec, int64_t count, int bits, void *scratch) {
    uint32_t *memory = static_cast<uint32_t *>(scratch);
    struct cuda_keys from = {memory, NULL}, to = {memory + count, memory + 2 * count};
    struct cuda_keys other = {memory, memory + 3 * count};
    uint32_t *counts = memory + 4 * count;
    const int64_t tiles = cuda_sort_tiles(count);
    for (int shift = 0; shift < bits; shift += CUDA_SORT_BITS) {
        const unsigned blocks = cuda_blocks(exec, tiles * CUDA_BLOCK);
        CUDA_RUN(exec, cuda_sort_count, blocks, CUDA_BLOCK, 0, (const uint32_t *)from.key, count, shift,
                 tiles, counts);
        CUDA_RUN(exec, cuda_sort_scan, 1, CUDA_SORT_SCAN, 0, counts, CUDA_SORT_DIGITS * tiles);
        CUDA_RUN(exec, cuda_sort_move, blocks, CUDA_BLOCK, 0, from, to, count, shift, tiles,
                 (const uint32_t *)counts);
        from = to;
        to = other;
        other = from;
    }
    return from;
}

#endif
