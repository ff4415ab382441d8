/* Two arenas. The large one cuts blocks from chunks of the allocator. The small one cuts blocks from spans,
 * which are blocks of the large one: records that live long and lie next to short-lived tensors would
 * otherwise break up the holes that those leave. */
#include "tensor/arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
    SMALL_SIZE = 4096,    /* blocks up to this size are of the small arena */
    SPAN_SIZE = 64 << 10, /* the size of the large block that is a span */
    BIG_SIZE =
        1 << 20, /* blocks from this size on are cut from the low end of a free one, others from the high */
    GUARD_BYTES = 16, /* at least, behind what was asked for: a pattern, then the encoded size */
    GUARD_PATTERN = 0xFD,
    POISON = 0xFF
};
#define GUARD_KEY ((size_t)0x5A5AC3C396966969u)

struct heed_memory {
    heed_allocator allocator;
    struct heed_far_memory far; /* alloc NULL: blocks are where the books are */
    size_t chunk_bytes;
    bool poison;
    bool one_by_one;           /* a chunk for each block, which ends with it */
    bool doubles;              /* chunks grow with what is reserved */
    bool keeps_apart;          /* small blocks have their own arena */
    struct heed_region *spare; /* a span without blocks, kept */
    heed_memory_info info;
    uint64_t overruns;
    struct heed_arena large, small;
};

/* ---- far memory ---- */

static bool is_far(const struct heed_memory *memory) {
    return memory->far.alloc != NULL;
}

/* Address space for the books of a chunk; NULL when there is none. */
static char *books_new(size_t bytes) {
    void *books =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return books == MAP_FAILED ? NULL : books;
}

/* From the books to the block's memory, and back. */
HEED_BOOKKEEPING static void *far_of(const struct heed_memory *memory, void *payload) {
    for (const struct heed_region *region = memory->large.regions; region; region = region->next) {
        const uintptr_t offset = (uintptr_t)payload - (uintptr_t)region->base;
        if (offset < region->bytes) return (char *)payload + region->away;
    }
    return payload;
}

HEED_BOOKKEEPING static void *books_of(const struct heed_memory *memory, void *payload) {
    for (const struct heed_region *region = memory->large.regions; region; region = region->next) {
        const uintptr_t offset = (uintptr_t)payload - ((uintptr_t)region->base + (uintptr_t)region->away);
        if (offset < region->bytes) return (char *)payload - region->away;
    }
    return NULL;
}

/* ---- chunks ---- */

/* Memory of a chunk, and where its books are: in it, except for far memory. */
static void *ask(struct heed_memory *memory, size_t bytes, char **books) {
    memory->info.calls++;
    if (!is_far(memory)) return *books = memory->allocator.alloc(memory->allocator.user, bytes);
    void *base = memory->far.alloc(memory->far.user, bytes);
    *books = base ? books_new(bytes) : NULL;
    if (*books) return base;
    if (base) memory->far.free(memory->far.user, base, bytes);
    return NULL;
}

HEED_BOOKKEEPING static void chunk_return(struct heed_memory *memory, struct heed_region *region) {
    void *base = region->base;
    size_t bytes = region->bytes;
    memory->info.reserved -= bytes;
    if (is_far(memory)) {
        memory->far.free(memory->far.user, (char *)base + region->away, bytes);
        munmap(base, bytes);
        return;
    }
    show(base, bytes);
    memory->allocator.free(memory->allocator.user, base, bytes);
}

static void return_if_empty(struct heed_memory *memory, struct heed_region *region) {
    if (!heed_region_is_empty(region)) return;
    heed_region_remove(&memory->large, region);
    chunk_return(memory, region);
}

/* Before memory is asked for, chunks without blocks are given back: they are too small. A request that
 * repeats finds the new and larger one, so this ends. */
HEED_BOOKKEEPING static void return_empty_chunks(struct heed_memory *memory) {
    struct heed_region *next;
    for (struct heed_region *region = memory->large.regions; region; region = next) {
        next = region->next;
        return_if_empty(memory, region);
    }
}

/* A chunk with room for a block. Unless the caller chose a size, each is as large as all before together:
 * fewer ends to waste, and what is not touched costs nothing. */
static bool chunk_new(struct heed_memory *memory, size_t size) {
    if (!memory->one_by_one) return_empty_chunks(memory);
    size_t bytes = size + HEED_REGION_HEADER + HEED_ALIGN - 1;
    if (bytes < memory->chunk_bytes) bytes = memory->chunk_bytes;
    char *base = NULL, *books = NULL;
    if (memory->doubles && bytes < memory->info.reserved) {
        base = ask(memory, memory->info.reserved, &books);
        if (base) bytes = memory->info.reserved;
    }
    if (!base) base = ask(memory, bytes, &books);
    if (!base) return false;
    memory->info.reserved += bytes;
    if (!is_far(memory)) hide(base, bytes);
    size_t skipped = -(uintptr_t)books % HEED_ALIGN;
    size_t room = (bytes - skipped - HEED_REGION_HEADER) / HEED_ALIGN * HEED_ALIGN;
    heed_region_add(&memory->large, books + skipped, room, books, bytes, base - books);
    return true;
}

/* ---- the large arena ---- */

static void give_large(struct heed_memory *memory, struct heed_block *block) {
    block = heed_arena_give(&memory->large, block);
    if (memory->one_by_one) return_if_empty(memory, heed_region_of_first(block));
}

/* Gives a span without blocks back. */
static void span_return(struct heed_memory *memory, struct heed_region *span) {
    heed_region_remove(&memory->small, span);
    give_large(memory, heed_block_of(span));
}

static struct heed_block *take_large(struct heed_memory *memory, size_t size) {
    struct heed_block *block = heed_free_index_best(&memory->large.index, size);
    if (!block && memory->spare) {
        span_return(memory, memory->spare);
        memory->spare = NULL;
        block = heed_free_index_best(&memory->large.index, size);
    }
    if (!block && chunk_new(memory, size)) block = heed_free_index_best(&memory->large.index, size);
    return block ? heed_arena_carve(&memory->large, block, size, size < BIG_SIZE) : NULL;
}

/* ---- the small arena ---- */

HEED_BOOKKEEPING static void mark_span(struct heed_block *block) {
    block->size_flags |= HEED_BLOCK_SPAN;
}

/* Spans are cut where there is most room, not where they fit best, so that they spare the holes too. */
static bool span_new(struct heed_memory *memory) {
    struct heed_block *block = heed_free_index_largest(&memory->large.index);
    if (block && heed_block_size(block) >= SPAN_SIZE)
        block = heed_arena_carve(&memory->large, block, SPAN_SIZE, true);
    else
        block = take_large(memory, SPAN_SIZE);
    if (!block) return false;
    mark_span(block);
    heed_region_add(&memory->small, heed_block_payload(block), SPAN_SIZE - HEED_ALIGN, NULL, 0, 0);
    return true;
}

static struct heed_block *take_small(struct heed_memory *memory, size_t size) {
    struct heed_free_index *index = &memory->small.index;
    struct heed_block *block = heed_free_index_best(index, size);
    if (!block && span_new(memory)) block = heed_free_index_best(index, size);
    if (!block) return NULL;
    if (memory->spare && block == heed_region_first(memory->spare)) memory->spare = NULL;
    return heed_arena_carve(&memory->small, block, size, false);
}

/* Of the spans without blocks one is kept. */
HEED_BOOKKEEPING static void give_small(struct heed_memory *memory, struct heed_block *block) {
    block = heed_arena_give(&memory->small, block);
    if (block->before != 0 || !heed_region_is_empty(heed_region_of_first(block))) return;
    if (memory->spare)
        span_return(memory, heed_region_of_first(block));
    else
        memory->spare = heed_region_of_first(block);
}

/* ---- guards ---- */

static size_t *guard_word(struct heed_block *block) {
    return (size_t *)((char *)heed_block_payload(block) + heed_block_room(block)) - 1;
}

/* Fills a block that was not yet handed out: poison, then the guard. */
static void poison_new(struct heed_block *block, size_t bytes) {
    unsigned char *payload = heed_block_payload(block);
    size_t *word = guard_word(block);
    memset(payload, POISON, bytes);
    memset(payload + bytes, GUARD_PATTERN, (size_t)((unsigned char *)word - (payload + bytes)));
    *word = bytes ^ GUARD_KEY;
}

/* Whether what lies behind the block's bytes is as it was. Tells how many were asked for. */
HEED_BOOKKEEPING static bool guard_holds(struct heed_block *block, size_t *bytes) {
    const unsigned char *payload = heed_block_payload(block);
    const size_t *word = guard_word(block);
    size_t most = heed_block_room(block) - sizeof *word;
    *bytes = *word ^ GUARD_KEY;
    if (*bytes > most) {
        *bytes = most;
        return false;
    }
    for (size_t i = *bytes; i < most; i++)
        if (payload[i] != GUARD_PATTERN) return false;
    return true;
}

HEED_BOOKKEEPING static uint64_t damaged_blocks(const struct heed_arena *arena) {
    uint64_t damaged = 0;
    for (struct heed_region *region = arena->regions; region; region = region->next)
        for (struct heed_block *block = heed_region_first(region); block; block = heed_block_after(block)) {
            size_t bytes;
            bool guarded = heed_block_has(block, HEED_BLOCK_USED) && !heed_block_has(block, HEED_BLOCK_SPAN);
            if (guarded && !guard_holds(block, &bytes)) damaged++;
        }
    return damaged;
}

uint64_t heed_memory_overruns(const struct heed_memory *memory) {
    if (!memory->poison || is_far(memory)) return memory->overruns;
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

struct heed_memory *heed_memory_new_far(const heed_allocator *allocator, const struct heed_far_memory *far,
                                        size_t chunk_bytes, bool poison) {
    struct heed_memory *memory = heed_memory_new(allocator, chunk_bytes, poison);
    if (memory) memory->far = *far;
    return memory;
}

struct heed_memory *heed_memory_new(const heed_allocator *allocator, size_t chunk_bytes, bool poison) {
    heed_allocator from = {default_alloc, default_free, NULL};
    if (allocator && allocator->alloc && allocator->free) from = *allocator;
    struct heed_memory *memory = from.alloc(from.user, sizeof *memory);
    if (!memory) return NULL;
    *memory = (struct heed_memory){
        .allocator = from,
        .chunk_bytes = chunk_bytes ? chunk_bytes : DEFAULT_CHUNK,
        .poison = poison,
        .one_by_one = chunk_bytes == 1,
        .doubles = chunk_bytes == 0,
        .keeps_apart = chunk_bytes == 0 || chunk_bytes >= 4 * SPAN_SIZE,
        .info = {.reserved = sizeof *memory, .calls = 1},
        .small = {.smallest = HEED_ALIGN, .flag = HEED_BLOCK_SMALL},
    };
    memory->large.smallest = memory->one_by_one ? SIZE_MAX : memory->keeps_apart ? SMALL_SIZE : HEED_ALIGN;
    return memory;
}

HEED_BOOKKEEPING void heed_memory_free(struct heed_memory *memory) {
    if (!memory) return;
    struct heed_region *next;
    for (struct heed_region *region = memory->large.regions; region; region = next) {
        next = region->next;
        chunk_return(memory, region);
    }
    memory->allocator.free(memory->allocator.user, memory, sizeof *memory);
}

void *heed_block_new(struct heed_memory *memory, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return NULL;
    const bool guarded = memory->poison && !is_far(memory);
    size_t needed = bytes + HEED_BLOCK_HEADER + (guarded ? GUARD_BYTES : 0);
    size_t size = (needed + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
    bool small = memory->keeps_apart && size <= SMALL_SIZE;
    struct heed_block *block = small ? take_small(memory, size) : take_large(memory, size);
    if (!block) return NULL;
    memory->info.in_use += heed_block_size(block);
    if (memory->info.in_use > memory->info.peak) memory->info.peak = memory->info.in_use;
    char *payload = heed_block_payload(block);
    if (is_far(memory)) {
        void *far = far_of(memory, payload);
        if (memory->poison) memory->far.fill(memory->far.user, far, POISON, bytes);
        return far;
    }
    show(payload, heed_block_room(block));
    if (guarded) poison_new(block, bytes);
    hide(payload + bytes, heed_block_room(block) - bytes);
    return payload;
}

void *heed_block_zeroed(struct heed_memory *memory, size_t bytes) {
    void *payload = heed_block_new(memory, bytes);
    return payload ? memset(payload, 0, bytes) : NULL;
}

/* Before a block is given back. */
static void wipe(struct heed_memory *memory, struct heed_block *block) {
    void *payload = heed_block_payload(block);
    show(payload, heed_block_room(block));
    if (memory->poison) {
        size_t bytes;
        if (!guard_holds(block, &bytes)) memory->overruns++;
        memset(payload, POISON, bytes);
    }
    hide(payload, heed_block_room(block));
}

void heed_block_free(struct heed_memory *memory, void *payload) {
    if (!payload) return;
    if (is_far(memory)) payload = books_of(memory, payload);
    struct heed_block *block = payload ? heed_block_of(payload) : NULL;
    if (!block || !heed_block_has(block, HEED_BLOCK_USED)) {
        memory->overruns++;
        return;
    }
    if (!is_far(memory)) wipe(memory, block);
    memory->info.in_use -= heed_block_size(block);
    if (heed_block_has(block, HEED_BLOCK_SMALL))
        give_small(memory, block);
    else
        give_large(memory, block);
}

heed_memory_info heed_memory_look(const struct heed_memory *memory) {
    return memory->info;
}
