/* Blocks of memory and the index of the free ones: best fit, and the lowest address among equals.
 *
 * Invariants
 * - A block's size is a multiple of HEED_ALIGN. It begins HEED_BLOCK_HEADER bytes before an address that is
 * aligned to HEED_ALIGN, where its payload begins.
 * - Blocks of a region lie end to end: `before` is the size of the block in front, 0 for the first. The last
 * one has the flag HEED_BLOCK_LAST.
 * - Two neighbours are never both free. A free block is in exactly one index: up to HEED_EXACT_BYTES in the
 * list of its size, above that in the tree. */
#ifndef HEED_SRC_TENSOR_FREE_INDEX_H
#define HEED_SRC_TENSOR_FREE_INDEX_H

#include "tensor/memory.h"

/* AddressSanitizer is told what is free. The functions that keep the books look at it all the same. */
#if defined(__SANITIZE_ADDRESS__)
#define HEED_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEED_ASAN 1
#endif
#endif
#ifdef HEED_ASAN
#define HEED_BOOKKEEPING __attribute__((no_sanitize_address))
#else
#define HEED_BOOKKEEPING
#endif

struct heed_block {
    size_t size_flags;
    size_t before;
    struct heed_block *left,
        *right; /* of free blocks: the neighbours in a list, or the children in the tree */
};

enum {
    HEED_BLOCK_USED = 1,
    HEED_BLOCK_LAST = 2,
    HEED_BLOCK_SMALL = 4, /* of the small arena */
    HEED_BLOCK_SPAN = 8,  /* holds blocks of the small arena */
    HEED_BLOCK_FLAGS = 15,
    HEED_BLOCK_HEADER = 16,
    HEED_EXACT_SIZES = 64,
    HEED_EXACT_BYTES = HEED_EXACT_SIZES * HEED_ALIGN
};

struct heed_free_index {
    uint64_t filled;                           /* bit i: list i is not empty */
    struct heed_block *list[HEED_EXACT_SIZES]; /* blocks of (i + 1)·HEED_ALIGN bytes */
    struct heed_block *root;
};

HEED_BOOKKEEPING static inline size_t heed_block_size(const struct heed_block *block) {
    return block->size_flags & ~(size_t)HEED_BLOCK_FLAGS;
}

void heed_free_index_add(struct heed_free_index *index, struct heed_block *block);
void heed_free_index_remove(struct heed_free_index *index, struct heed_block *block);

/* The smallest block of at least `size` bytes, NULL if there is none. */
struct heed_block *heed_free_index_best(const struct heed_free_index *index, size_t size);

/* The largest block of the tree, NULL if it is empty. */
struct heed_block *heed_free_index_largest(const struct heed_free_index *index);

#endif
