/* Two arenas. The large one cuts blocks from chunks of the allocator. The small one cuts blocks from spans, which are
 * blocks of the large one: records that live long and lie next to short-lived tensors would otherwise break up the holes
 * that those leave. free_index.h has the invariants of blocks.
 *
 * Memory that was never given out is never touched, except for the headers at its ends, so it costs no pages. */
#include "tensor/free_index.h"

#include <stdlib.h>
#include <string.h>

#ifdef HEED_ASAN
#include <sanitizer/asan_interface.h>
#define hide(address, bytes) __asan_poison_memory_region(address, bytes)
#define show(address, bytes) __asan_unpoison_memory_region(address, bytes)
#else
#define hide(address, bytes) ((void)(address), (void)(bytes))
#define show(address, bytes) ((void)(address), (void)(bytes))
#endif

enum {
    DEFAULT_CHUNK = 64 << 20,
    SMALL_SIZE = 4096,     /* blocks up to this size are of the small arena */
    SPAN_SIZE = 64 << 10,  /* the size of the large block that is a span */
    BIG_SIZE = 1 << 20,    /* blocks from this size on are cut from the low end of a free one, others from the high */
    GUARD_BYTES = 16,      /* at least, behind what was asked for: a pattern, then the encoded size */
    GUARD_PATTERN = 0xFD,
    POISON = 0xFF
};
#define GUARD_KEY ((size_t)0x5A5AC3C396966969u)

/* A chunk or a span: memory whose blocks lie end to end. Its first block's payload is aligned, so this record and that
 * block's header fill one unit. */
struct region {
    struct region *next, *previous;
    void *base;   /* as the allocator gave it; NULL for spans */
    size_t bytes; /* as they were asked of the allocator */
};
enum { REGION_HEADER = HEED_ALIGN - HEED_BLOCK_HEADER };
_Static_assert(sizeof(struct region) <= REGION_HEADER, "a region's record and a block header share one unit");
_Static_assert(sizeof(struct heed_block) <= HEED_ALIGN, "the smallest block can be free");

struct arena {
    struct heed_free_index index;
    struct region *regions;
    size_t flag;     /* HEED_BLOCK_SMALL or 0: what its blocks are marked with */
    size_t smallest; /* a rest below this is not cut off */
};

struct heed_memory {
    heed_allocator allocator;
    size_t chunk_bytes;
    bool poison;
    bool one_by_one;    /* a chunk for each block, which ends with it */
    bool keeps_apart;   /* small blocks have their own arena */
    struct region *spare; /* a span without blocks, kept */
    heed_memory_info info;
    uint64_t overruns;
    struct arena large, small;
};

/* ---- blocks ---- */

static void *payload_of(struct heed_block *block) {
    return (char *)block + HEED_BLOCK_HEADER;
}

static struct heed_block *block_of(void *payload) {
    return (struct heed_block *)((char *)payload - HEED_BLOCK_HEADER);
}

static struct heed_block *block_at(struct heed_block *block, size_t offset) {
    return (struct heed_block *)((char *)block + offset);
}

static struct heed_block *first_block(struct region *region) {
    return (struct heed_block *)((char *)region + REGION_HEADER);
}

static size_t room_of(const struct heed_block *block) {
    return heed_block_size(block) - HEED_BLOCK_HEADER;
}

/* The region whose first block this is. */
static struct region *region_of(struct heed_block *block) {
    return (struct region *)((char *)block - REGION_HEADER);
}

HEED_BOOKKEEPING static bool has(const struct heed_block *block, size_t flag) {
    return (block->size_flags & flag) != 0;
}

HEED_BOOKKEEPING static struct heed_block *block_after(struct heed_block *block) {
    return has(block, HEED_BLOCK_LAST) ? NULL : block_at(block, heed_block_size(block));
}

HEED_BOOKKEEPING static struct heed_block *block_before(struct heed_block *block) {
    return block->before ? (struct heed_block *)((char *)block - block->before) : NULL;
}

/* Whether a free block is all of its region. */
HEED_BOOKKEEPING static bool fills_region(const struct heed_block *block) {
    return !has(block, HEED_BLOCK_USED) && has(block, HEED_BLOCK_LAST) && block->before == 0;
}

/* Cuts a block in two, `size` bytes and the rest. The second keeps the flag of the last, both the others. */
HEED_BOOKKEEPING static void cut(struct heed_block *block, size_t size) {
    size_t rest = heed_block_size(block) - size, flags = block->size_flags & HEED_BLOCK_FLAGS;
    struct heed_block *after = block_after(block), *second = block_at(block, size);
    block->size_flags = size | (flags & ~(size_t)HEED_BLOCK_LAST);
    second->size_flags = rest | flags;
    second->before = size;
    if (after) after->before = rest;
}

/* Joins two neighbours; the flags are those of the second. */
HEED_BOOKKEEPING static struct heed_block *join(struct heed_block *first, struct heed_block *second) {
    struct heed_block *after = block_after(second);
    first->size_flags = (heed_block_size(first) + heed_block_size(second)) | (second->size_flags & HEED_BLOCK_FLAGS);
    if (after) after->before = heed_block_size(first);
    return first;
}

/* ---- regions ---- */

/* Makes a region of aligned memory, with one free block of `size` bytes behind its record. */
HEED_BOOKKEEPING static void region_add(struct arena *arena, void *place, size_t size, void *base, size_t bytes) {
    struct region *region = place;
    *region = (struct region){.next = arena->regions, .base = base, .bytes = bytes};
    if (region->next) region->next->previous = region;
    arena->regions = region;
    struct heed_block *block = first_block(region);
    block->size_flags = size | arena->flag | HEED_BLOCK_LAST;
    block->before = 0;
    heed_free_index_add(&arena->index, block);
}

HEED_BOOKKEEPING static void region_unlink(struct arena *arena, struct region *region) {
    if (region->next) region->next->previous = region->previous;
    if (region->previous)
        region->previous->next = region->next;
    else
        arena->regions = region->next;
}

HEED_BOOKKEEPING static void chunk_return(struct heed_memory *memory, struct region *region) {
    void *base = region->base;
    size_t bytes = region->bytes;
    show(base, bytes);
    memory->info.reserved -= bytes;
    memory->allocator.free(memory->allocator.user, base, bytes);
}

/* Gives a chunk back if it has no blocks. */
HEED_BOOKKEEPING static void return_if_empty(struct heed_memory *memory, struct region *region) {
    struct heed_block *block = first_block(region);
    if (!fills_region(block)) return;
    heed_free_index_remove(&memory->large.index, block);
    region_unlink(&memory->large, region);
    chunk_return(memory, region);
}

/* Before memory is asked for, chunks without blocks are given back: they are too small. A request that repeats finds
 * the new and larger one, so this ends. */
HEED_BOOKKEEPING static void return_empty_chunks(struct heed_memory *memory) {
    struct region *next;
    for (struct region *region = memory->large.regions; region; region = next) {
        next = region->next;
        return_if_empty(memory, region);
    }
}

static bool chunk_new(struct heed_memory *memory, size_t size) {
    if (!memory->one_by_one) return_empty_chunks(memory);
    size_t bytes = size + REGION_HEADER + HEED_ALIGN - 1;
    if (bytes < memory->chunk_bytes) bytes = memory->chunk_bytes;
    memory->info.calls++;
    char *base = memory->allocator.alloc(memory->allocator.user, bytes);
    if (!base) return false;
    memory->info.reserved += bytes;
    hide(base, bytes);
    size_t skipped = -(uintptr_t)base % HEED_ALIGN;
    size_t room = (bytes - skipped - REGION_HEADER) / HEED_ALIGN * HEED_ALIGN;
    region_add(&memory->large, base + skipped, room, base, bytes);
    return true;
}

/* ---- taking and giving ---- */

/* Marks a free block as used after it was cut to size. From the high end the rest stays where it was. */
HEED_BOOKKEEPING static struct heed_block *carve(struct arena *arena, struct heed_block *block, size_t size,
                                                 bool from_high_end) {
    size_t rest = heed_block_size(block) - size;
    heed_free_index_remove(&arena->index, block);
    if (rest >= arena->smallest) {
        struct heed_block *unused = block;
        if (from_high_end) {
            cut(block, rest);
            block = block_at(block, rest);
        } else {
            cut(block, size);
            unused = block_at(block, size);
        }
        heed_free_index_add(&arena->index, unused);
    }
    block->size_flags |= HEED_BLOCK_USED;
    return block;
}

static struct heed_block *take_large(struct heed_memory *memory, size_t size) {
    struct heed_block *block = heed_free_index_best(&memory->large.index, size);
    if (!block && chunk_new(memory, size)) block = heed_free_index_best(&memory->large.index, size);
    return block ? carve(&memory->large, block, size, size < BIG_SIZE) : NULL;
}

HEED_BOOKKEEPING static void mark_span(struct heed_block *block) {
    block->size_flags |= HEED_BLOCK_SPAN;
}

static bool span_new(struct heed_memory *memory) {
    struct heed_block *block = heed_free_index_largest(&memory->large.index);
    if (block && heed_block_size(block) >= SPAN_SIZE)
        block = carve(&memory->large, block, SPAN_SIZE, true);
    else
        block = take_large(memory, SPAN_SIZE);
    if (!block) return false;
    mark_span(block);
    region_add(&memory->small, payload_of(block), SPAN_SIZE - HEED_ALIGN, NULL, 0);
    return true;
}

static struct heed_block *take_small(struct heed_memory *memory, size_t size) {
    struct heed_free_index *index = &memory->small.index;
    struct heed_block *block = heed_free_index_best(index, size);
    if (!block && span_new(memory)) block = heed_free_index_best(index, size);
    if (block && memory->spare && block == first_block(memory->spare)) memory->spare = NULL;
    return block ? carve(&memory->small, block, size, false) : NULL;
}

/* Marks a block as free and joins it with its neighbours; returns what it became. */
HEED_BOOKKEEPING static struct heed_block *give(struct arena *arena, struct heed_block *block) {
    block->size_flags &= ~(size_t)(HEED_BLOCK_USED | HEED_BLOCK_SPAN);
    struct heed_block *after = block_after(block), *before = block_before(block);
    if (after && !has(after, HEED_BLOCK_USED)) {
        heed_free_index_remove(&arena->index, after);
        block = join(block, after);
    }
    if (before && !has(before, HEED_BLOCK_USED)) {
        heed_free_index_remove(&arena->index, before);
        block = join(before, block);
    }
    heed_free_index_add(&arena->index, block);
    return block;
}

static void give_large(struct heed_memory *memory, struct heed_block *block) {
    block = give(&memory->large, block);
    if (memory->one_by_one) return_if_empty(memory, region_of(block));
}

/* A span without blocks goes back to the large arena, but one is kept. */
static void give_small(struct heed_memory *memory, struct heed_block *block) {
    block = give(&memory->small, block);
    if (!fills_region(block)) return;
    struct region *span = region_of(block);
    if (!memory->spare) {
        memory->spare = span;
        return;
    }
    heed_free_index_remove(&memory->small.index, block);
    region_unlink(&memory->small, span);
    give_large(memory, block_of(span));
}

/* ---- guards ---- */

static size_t *guard_word(struct heed_block *block) {
    return (size_t *)((char *)payload_of(block) + room_of(block)) - 1;
}

HEED_BOOKKEEPING static void guard_set(struct heed_block *block, size_t bytes) {
    unsigned char *payload = payload_of(block);
    size_t *word = guard_word(block);
    *word = bytes ^ GUARD_KEY;
    for (unsigned char *at = payload + bytes; at < (unsigned char *)word; at++) *at = GUARD_PATTERN;
}

/* Whether what lies behind the block's bytes is as it was. Tells how many were asked for. */
HEED_BOOKKEEPING static bool guard_holds(struct heed_block *block, size_t *bytes) {
    const unsigned char *payload = payload_of(block);
    const size_t *word = guard_word(block);
    size_t most = room_of(block) - sizeof *word;
    *bytes = *word ^ GUARD_KEY;
    if (*bytes > most) {
        *bytes = most;
        return false;
    }
    for (size_t i = *bytes; i < most; i++)
        if (payload[i] != GUARD_PATTERN) return false;
    return true;
}

HEED_BOOKKEEPING static uint64_t damaged_blocks(const struct arena *arena) {
    uint64_t damaged = 0;
    for (struct region *region = arena->regions; region; region = region->next)
        for (struct heed_block *block = first_block(region); block; block = block_after(block)) {
            size_t bytes;
            /* A span is a block of the large arena that has no guard. */
            if (has(block, HEED_BLOCK_USED) && !has(block, HEED_BLOCK_SPAN) && !guard_holds(block, &bytes)) damaged++;
        }
    return damaged;
}

uint64_t heed_memory_overruns(const struct heed_memory *memory) {
    if (!memory->poison) return memory->overruns;
    return memory->overruns + damaged_blocks(&memory->large) + damaged_blocks(&memory->small);
}

/* ---- the interface ---- */

static void *default_alloc(void *user, size_t bytes) {
    (void)user;
    return malloc(bytes);
}

static void default_free(void *user, void *memory, size_t bytes) {
    (void)user;
    (void)bytes;
    free(memory);
}

struct heed_memory *heed_memory_new(const heed_allocator *allocator, size_t chunk_bytes, bool poison) {
    heed_allocator from = {default_alloc, default_free, NULL};
    if (allocator && allocator->alloc && allocator->free) from = *allocator;
    struct heed_memory *memory = from.alloc(from.user, sizeof *memory);
    if (!memory) return NULL;
    if (chunk_bytes == 0) chunk_bytes = DEFAULT_CHUNK;
    *memory = (struct heed_memory){
        .allocator = from,
        .chunk_bytes = chunk_bytes,
        .poison = poison,
        .one_by_one = chunk_bytes == 1,
        .keeps_apart = chunk_bytes >= 4 * SPAN_SIZE,
        .info = {.reserved = sizeof *memory, .calls = 1},
        .large = {.smallest = HEED_ALIGN},
        .small = {.smallest = HEED_ALIGN, .flag = HEED_BLOCK_SMALL},
    };
    if (memory->keeps_apart) memory->large.smallest = SMALL_SIZE;
    if (memory->one_by_one) memory->large.smallest = SIZE_MAX;
    return memory;
}

HEED_BOOKKEEPING void heed_memory_free(struct heed_memory *memory) {
    if (!memory) return;
    struct region *next;
    for (struct region *region = memory->large.regions; region; region = next) {
        next = region->next;
        chunk_return(memory, region);
    }
    memory->allocator.free(memory->allocator.user, memory, sizeof *memory);
}

void *heed_block_new(struct heed_memory *memory, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return NULL;
    size_t needed = bytes + HEED_BLOCK_HEADER + (memory->poison ? GUARD_BYTES : 0);
    size_t size = (needed + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
    bool small = memory->keeps_apart && size <= SMALL_SIZE;
    struct heed_block *block = small ? take_small(memory, size) : take_large(memory, size);
    if (!block) return NULL;
    memory->info.in_use += heed_block_size(block);
    if (memory->info.in_use > memory->info.peak) memory->info.peak = memory->info.in_use;
    void *payload = payload_of(block);
    show(payload, bytes);
    if (memory->poison) {
        memset(payload, POISON, bytes);
        guard_set(block, bytes);
    }
    return payload;
}

void *heed_block_zeroed(struct heed_memory *memory, size_t bytes) {
    void *payload = heed_block_new(memory, bytes);
    return payload ? memset(payload, 0, bytes) : NULL;
}

void heed_block_free(struct heed_memory *memory, void *payload) {
    if (!payload) return;
    struct heed_block *block = block_of(payload);
    if (!has(block, HEED_BLOCK_USED)) {
        memory->overruns++;
        return;
    }
    if (memory->poison) {
        size_t bytes;
        if (!guard_holds(block, &bytes)) memory->overruns++;
        show(payload, room_of(block));
        memset(payload, POISON, bytes);
    }
    hide(payload, room_of(block));
    memory->info.in_use -= heed_block_size(block);
    if (has(block, HEED_BLOCK_SMALL))
        give_small(memory, block);
    else
        give_large(memory, block);
}

heed_memory_info heed_memory_look(const struct heed_memory *memory) {
    return memory->info;
}
