/* An arena cuts blocks from regions, and joins what is given back. free_index.h has the invariants of blocks.
 * Memory that was never given out is not touched, except for the headers at its ends, so it costs no pages.
 */
#ifndef HEED_SRC_TENSOR_ARENA_H
#define HEED_SRC_TENSOR_ARENA_H

#include "tensor/free_index.h"

/* Memory whose blocks lie end to end. Its first block's payload is aligned, so this record and that block's
 * header fill one unit. */
struct heed_region {
    struct heed_region *next, *previous;
    void *base;     /* as the allocator gave it; NULL if it is a block of another arena */
    size_t bytes;   /* as they were asked of the allocator */
    ptrdiff_t away; /* of a chunk of far memory: from here to there, in bytes */
};

enum { HEED_REGION_HEADER = HEED_ALIGN - HEED_BLOCK_HEADER };
_Static_assert(sizeof(struct heed_region) <= HEED_REGION_HEADER,
               "a region's record and a block's header share a unit");
_Static_assert(sizeof(struct heed_block) <= HEED_ALIGN, "the smallest block can be free");

struct heed_arena {
    struct heed_free_index index;
    struct heed_region *regions;
    size_t flag;     /* HEED_BLOCK_SMALL or 0: what its blocks are marked with */
    size_t smallest; /* a rest below this is not cut off */
};

static inline void *heed_block_payload(struct heed_block *block) {
    return (char *)block + HEED_BLOCK_HEADER;
}

static inline struct heed_block *heed_block_of(void *payload) {
    return (struct heed_block *)((char *)payload - HEED_BLOCK_HEADER);
}

/* Bytes of the payload. */
static inline size_t heed_block_room(const struct heed_block *block) {
    return heed_block_size(block) - HEED_BLOCK_HEADER;
}

static inline struct heed_block *heed_region_first(struct heed_region *region) {
    return (struct heed_block *)((char *)region + HEED_REGION_HEADER);
}

/* The region whose first block this is. */
static inline struct heed_region *heed_region_of_first(struct heed_block *block) {
    return (struct heed_region *)((char *)block - HEED_REGION_HEADER);
}

HEED_BOOKKEEPING static inline bool heed_block_has(const struct heed_block *block, size_t flag) {
    return (block->size_flags & flag) != 0;
}

/* The neighbour behind, NULL if there is none. */
HEED_BOOKKEEPING static inline struct heed_block *heed_block_after(struct heed_block *block) {
    if (heed_block_has(block, HEED_BLOCK_LAST)) return NULL;
    return (struct heed_block *)((char *)block + heed_block_size(block));
}

/* Whether nothing of a region is in use. */
bool heed_region_is_empty(struct heed_region *region);

/* Makes a region of aligned memory, with one free block of `size` bytes behind its record. `away` is 0 but
 * for far memory. */
void heed_region_add(struct heed_arena *arena, void *place, size_t size, void *base, size_t bytes,
                     ptrdiff_t away);

/* Takes an empty region out of its arena. */
void heed_region_remove(struct heed_arena *arena, struct heed_region *region);

/* Marks a free block as used, cut to size at its low or high end, and returns that. */
struct heed_block *heed_arena_carve(struct heed_arena *arena, struct heed_block *block, size_t size,
                                    bool high_end);

/* Marks a block as free, joins it with its free neighbours, and returns what it became. */
struct heed_block *heed_arena_give(struct heed_arena *arena, struct heed_block *block);

#endif
