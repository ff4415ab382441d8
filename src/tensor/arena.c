#include "tensor/arena.h"

/* ---- regions ---- */

HEED_BOOKKEEPING bool heed_region_is_empty(struct heed_region *region) {
    struct heed_block *first = heed_region_first(region);
    return !heed_block_has(first, HEED_BLOCK_USED) && heed_block_has(first, HEED_BLOCK_LAST);
}

HEED_BOOKKEEPING void heed_region_add(struct heed_arena *arena, void *place, size_t size, void *base,
                                      size_t bytes, ptrdiff_t away) {
    struct heed_region *region = place;
    region->next = arena->regions;
    region->previous = NULL;
    region->base = base;
    region->bytes = bytes;
    region->away = away;
    if (region->next) region->next->previous = region;
    arena->regions = region;
    struct heed_block *block = heed_region_first(region);
    block->size_flags = size | arena->flag | HEED_BLOCK_LAST;
    block->before = 0;
    heed_free_index_add(&arena->index, block);
}

HEED_BOOKKEEPING void heed_region_remove(struct heed_arena *arena, struct heed_region *region) {
    heed_free_index_remove(&arena->index, heed_region_first(region));
    if (region->next) region->next->previous = region->previous;
    if (region->previous)
        region->previous->next = region->next;
    else
        arena->regions = region->next;
}

/* ---- blocks ---- */

/* Cuts a block in two, `size` bytes and the rest, and returns the second. It keeps the flag of the last. */
HEED_BOOKKEEPING static struct heed_block *cut(struct heed_block *block, size_t size) {
    size_t rest = heed_block_size(block) - size, flags = block->size_flags & HEED_BLOCK_FLAGS;
    struct heed_block *after = heed_block_after(block);
    struct heed_block *second = (struct heed_block *)((char *)block + size);
    block->size_flags = size | (flags & ~(size_t)HEED_BLOCK_LAST);
    second->size_flags = rest | flags;
    second->before = size;
    if (after) after->before = rest;
    return second;
}

/* Joins two neighbours. The flags are those of the second. */
HEED_BOOKKEEPING static struct heed_block *join(struct heed_block *first, struct heed_block *second) {
    struct heed_block *after = heed_block_after(second);
    first->size_flags =
        (heed_block_size(first) + heed_block_size(second)) | (second->size_flags & HEED_BLOCK_FLAGS);
    if (after) after->before = heed_block_size(first);
    return first;
}

HEED_BOOKKEEPING struct heed_block *heed_arena_carve(struct heed_arena *arena, struct heed_block *block,
                                                     size_t size, bool high_end) {
    size_t rest = heed_block_size(block) - size;
    heed_free_index_remove(&arena->index, block);
    if (rest >= arena->smallest) {
        struct heed_block *first = block, *second = cut(block, high_end ? rest : size);
        block = high_end ? second : first;
        heed_free_index_add(&arena->index, high_end ? first : second);
    }
    block->size_flags |= HEED_BLOCK_USED;
    return block;
}

HEED_BOOKKEEPING struct heed_block *heed_arena_give(struct heed_arena *arena, struct heed_block *block) {
    block->size_flags &= ~(size_t)(HEED_BLOCK_USED | HEED_BLOCK_SPAN);
    struct heed_block *after = heed_block_after(block);
    struct heed_block *before = block->before ? (struct heed_block *)((char *)block - block->before) : NULL;
    if (after && !heed_block_has(after, HEED_BLOCK_USED)) {
        heed_free_index_remove(&arena->index, after);
        block = join(block, after);
    }
    if (before && !heed_block_has(before, HEED_BLOCK_USED)) {
        heed_free_index_remove(&arena->index, before);
        block = join(before, block);
    }
    heed_free_index_add(&arena->index, block);
    return block;
}
