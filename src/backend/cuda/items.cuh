/* Lists of parameters in the device's memory, and their elements cut into chunks, so that one launch works on
 * all of them. */
#ifndef HEED_SRC_BACKEND_CUDA_ITEMS_CUH
#define HEED_SRC_BACKEND_CUDA_ITEMS_CUH

#include "backend/cuda/reduce.cuh"

struct cuda_item {
    void *param, *grad, *moment1, *moment2;
    int64_t count;
    int64_t first; /* the number of its first chunk */
    int64_t number;
    double rate, decay;
};

enum { CUDA_CHUNK = 8192 };

/* Of all items. */
int64_t cuda_chunks(const struct heed_param_item *item, int64_t items);

/* Copies a list to the device. */
heed_status cuda_items_send(struct heed_exec *exec, enum heed_primitive primitive,
                            const struct heed_param_item *item, int64_t items, struct cuda_item *to);

/* The elements begin … end − 1 of an item. */
struct cuda_chunk {
    const cuda_item *item;
    int64_t begin, end;
};

/* The lanes of each warp look at 32 items at a time: what they read depends on what they read before. */
__device__ inline cuda_chunk cuda_chunk_at(const cuda_item *item, int64_t items, int64_t number) {
    const int lane = (int)threadIdx.x % HEED_WARP;
    int64_t low = 0, high = items; /* the last item that begins at or before the chunk: others are empty */
    while (high - low > 1) {
        const int64_t step = (high - low + HEED_WARP - 1) / HEED_WARP, probe = low + lane * step;
        const bool begins = probe < high && item[probe].first <= number;
        low += (__popc(__ballot_sync(0xffffffffu, begins)) - 1) * step;
        if (low + step < high) high = low + step;
    }
    const int64_t begin = (number - item[low].first) * CUDA_CHUNK, left = item[low].count - begin;
    return {item + low, begin, begin + (left < CUDA_CHUNK ? left : (int64_t)CUDA_CHUNK)};
}

/* Where packs of a chunk end and single elements begin: at its begin, unless all pointers allow packs. */
template <typename T, typename... Pointers>
__device__ inline int64_t cuda_chunk_packs(const cuda_chunk &chunk, const Pointers *...pointer) {
    const bool aligned = ((reinterpret_cast<uintptr_t>(pointer) | ... | 0) % 16) == 0;
    return aligned ? chunk.end - (chunk.end - chunk.begin) % cuda_wide<T> : chunk.begin;
}

#endif
