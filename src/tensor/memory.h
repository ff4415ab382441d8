/* The memory of a context: blocks are cut from chunks taken from the allocator, kept and reused with best fit
 * and coalescing, so that a steady step calls the allocator zero times. Not thread-safe. */
#ifndef HEED_SRC_TENSOR_MEMORY_H
#define HEED_SRC_TENSOR_MEMORY_H

#include <heed/context.h>

struct heed_memory;

/* All blocks are aligned to this. */
#define HEED_ALIGN 64

/* NULL when there is no memory. chunk_bytes 0: 64 MiB, and then as much again as there is; 1: a chunk for
 * each block, given back with it; larger blocks get a chunk of their own. Chunks without blocks are kept
 * until one is missing that is larger. With poison, blocks are filled with bytes 0xFF (NaN in f32 and f64)
 * when they are given out and given back. */
struct heed_memory *heed_memory_new(const heed_allocator *allocator, size_t chunk_bytes, bool poison);

/* Memory that the host cannot touch: chunks of a device, cut into blocks by books that are kept in host
 * address space as large as each chunk, of which only the pages of block headers are ever used. */
struct heed_far_memory {
    void *(*alloc)(void *user, size_t bytes); /* aligned to HEED_ALIGN */
    void (*free)(void *user, void *memory, size_t bytes);
    heed_status (*fill)(void *user, void *to, int byte, size_t bytes);
    void *user;
};

/* The same over far memory. `allocator` is for this record alone. With poison new blocks are filled, but what
 * lies behind a block's bytes is not watched. */
struct heed_memory *heed_memory_new_far(const heed_allocator *allocator, const struct heed_far_memory *far,
                                        size_t chunk_bytes, bool poison);

/* Returns all chunks to the allocator, whatever is still in use. NULL is fine. */
void heed_memory_free(struct heed_memory *memory);

/* A block of at least `bytes` (0 gives a valid block too), not zeroed; NULL when there is none. */
void *heed_block_new(struct heed_memory *memory, size_t bytes);

/* The same, zeroed. */
void *heed_block_zeroed(struct heed_memory *memory, size_t bytes);

/* NULL is fine. */
void heed_block_free(struct heed_memory *memory, void *payload);

heed_memory_info heed_memory_look(const struct heed_memory *memory);

/* For tests: how many blocks were written to beyond their bytes (seen only with poison, in blocks that live
 * or were given back) or given back twice. */
uint64_t heed_memory_overruns(const struct heed_memory *memory);

#endif
