/* The memory of a context: blocks against a model of their contents, reuse, failing and counting allocators.
 */
#include "harness.h"
#include "tensor/free_index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HEED_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { MIB = 1 << 20, KIB = 1 << 10 };

/* ---- an allocator that keeps books, and gives no better alignment than it must ---- */

struct ledger {
    int64_t calls, living, fail_at;
    size_t limit; /* larger requests fail; 0: none */
    size_t bytes, most;
    bool wrong_size;
};

static void *ledger_alloc(void *user, size_t bytes) {
    struct ledger *ledger = user;
    if (++ledger->calls == ledger->fail_at || (ledger->limit && bytes > ledger->limit)) return NULL;
    char *base = malloc(bytes + 16);
    if (!base) return NULL;
    memcpy(base, &bytes, sizeof bytes);
    ledger->living++;
    ledger->bytes += bytes;
    if (ledger->bytes > ledger->most) ledger->most = ledger->bytes;
    return base + 16;
}

static void ledger_free(void *user, void *memory, size_t bytes) {
    struct ledger *ledger = user;
    char *base = (char *)memory - 16;
    size_t asked;
    memcpy(&asked, base, sizeof asked);
    if (asked != bytes) ledger->wrong_size = true;
    ledger->living--;
    ledger->bytes -= bytes;
    free(base);
}

static struct heed_memory *memory_on(struct ledger *ledger, size_t chunk_bytes, bool poison) {
    const heed_allocator allocator = {ledger_alloc, ledger_free, ledger};
    struct heed_memory *memory = heed_memory_new(&allocator, chunk_bytes, poison);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

/* Ends a memory and asserts that everything went back as it came. */
static void memory_end(struct heed_memory *memory, const struct ledger *ledger) {
    ck_assert_uint_eq(heed_memory_overruns(memory), 0);
    ck_assert_uint_eq(heed_memory_look(memory).reserved, ledger->bytes);
    ck_assert_int_eq((int64_t)heed_memory_look(memory).calls, ledger->calls);
    heed_memory_free(memory);
    ck_assert_int_eq(ledger->living, 0);
    ck_assert(!ledger->wrong_size);
}

/* Check writes a record for each assertion, so that loops over bytes ask once. */
static void *block(struct heed_memory *memory, size_t bytes) {
    void *got = heed_block_new(memory, bytes);
    if (!got || (uintptr_t)got % HEED_ALIGN != 0) ck_abort_msg("block of %zu bytes at %p", bytes, got);
    return got;
}

static bool filled(const unsigned char *at, size_t bytes, size_t step, unsigned char value) {
    for (size_t i = 0; i < bytes; i += step)
        if (at[i] != value) return false;
    return true;
}

/* ---- a random life against a model ---- */

enum { SLOTS = 400 };

struct life {
    struct heed_memory *memory;
    struct test_random random;
    unsigned char *block[SLOTS];
    size_t bytes[SLOTS];
    unsigned char mark[SLOTS];
};

static size_t random_size(struct life *life) {
    uint64_t kind = test_bits(&life->random) % 16, bits = test_bits(&life->random);
    if (kind < 10) return bits % 2500;
    if (kind < 14) return bits % (40 * KIB);
    return bits % (600 * KIB);
}

static void live(struct life *life, int slot) {
    if (!life->block[slot]) {
        size_t bytes = life->bytes[slot] = random_size(life);
        life->mark[slot] = (unsigned char)test_bits(&life->random);
        life->block[slot] = block(life->memory, bytes);
        memset(life->block[slot], life->mark[slot], bytes);
        return;
    }
    size_t step = life->bytes[slot] > 4096 ? 61 : 1;
    if (!filled(life->block[slot], life->bytes[slot], step, life->mark[slot]))
        ck_abort_msg("a block of %zu bytes changed", life->bytes[slot]);
    heed_block_free(life->memory, life->block[slot]);
    life->block[slot] = NULL;
}

static const struct {
    size_t chunk_bytes;
    bool poison;
} styles[] = {{0, false},    {0, true},    {1, false},  {1, true},
              {5000, false}, {MIB, false}, {MIB, true}, {3 * MIB + 7, false}};

START_TEST(random_life) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, styles[_i].chunk_bytes, styles[_i].poison);
    struct life *life = calloc(1, sizeof *life);
    ck_assert_ptr_nonnull(life);
    life->memory = memory;
    life->random.state = (uint64_t)_i;
    int64_t rounds = test_size(40000, 4000);
    for (int64_t i = 0; i < rounds; i++) live(life, (int)(test_bits(&life->random) % SLOTS));

    size_t asked = 0, living = 0;
    for (int slot = 0; slot < SLOTS; slot++)
        if (life->block[slot]) {
            asked += life->bytes[slot];
            living++;
        }
    size_t in_use = heed_memory_look(memory).in_use;
    ck_assert_uint_ge(in_use, asked);
    ck_assert_uint_le(in_use, asked + living * 4300);
    ck_assert_uint_ge(heed_memory_look(memory).peak, in_use);
    for (int slot = 0; slot < SLOTS; slot++)
        if (life->block[slot]) live(life, slot);
    ck_assert_uint_eq(heed_memory_look(memory).in_use, 0);
    free(life);
    memory_end(memory, &ledger);
}
END_TEST

/* ---- single properties ---- */

START_TEST(sizes_from_nothing) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, false);
    void *first = block(memory, 0), *second = block(memory, 0);
    ck_assert_ptr_ne(first, second);
    for (size_t bytes = 1; bytes < 9000; bytes = bytes * 9 / 8 + 1) memset(block(memory, bytes), 1, bytes);
    unsigned char *zeroed = heed_block_zeroed(memory, 3000);
    ck_assert_ptr_nonnull(zeroed);
    ck_assert(filled(zeroed, 3000, 1, 0));
    heed_block_free(memory, NULL);
    heed_memory_free(NULL);
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(sizes_that_overflow) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, _i == 0 ? 0 : 1, _i == 1);
    const size_t sizes[] = {SIZE_MAX,       SIZE_MAX - 15, SIZE_MAX - 63,
                            SIZE_MAX - 127, SIZE_MAX / 2,  PTRDIFF_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ck_assert_ptr_null(heed_block_new(memory, sizes[i]));
        ck_assert_ptr_null(heed_block_zeroed(memory, sizes[i]));
    }
    ck_assert_int_eq(ledger.calls, 1);
    ck_assert_uint_eq(heed_memory_look(memory).in_use, 0);
    memory_end(memory, &ledger);
}
END_TEST

/* Eight blocks that fill a chunk, given back in every order of three bits, join to one. */
START_TEST(neighbours_join) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, MIB, false);
    void *eighth[8];
    for (int i = 0; i < 8; i++) eighth[i] = block(memory, 120 * KIB);
    int64_t calls = ledger.calls;
    for (int i = 0; i < 8; i++) heed_block_free(memory, eighth[i ^ _i]);
    memset(block(memory, 1000 * KIB), 1, 1000 * KIB);
    ck_assert_int_eq(ledger.calls, calls);
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(best_fit) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 16 * MIB, false);
    void *hole[4], *wall[4];
    const size_t sizes[4] = {3 * MIB, 2 * MIB, 1 * MIB, 2 * MIB};
    for (int i = 0; i < 4; i++) {
        hole[i] = block(memory, sizes[i]);
        wall[i] = block(memory, MIB);
    }
    for (int i = 0; i < 4; i++) heed_block_free(memory, hole[i]);
    ck_assert_ptr_eq(block(memory, 2 * MIB - 100), hole[1]);
    ck_assert_ptr_eq(block(memory, MIB), hole[2]);
    ck_assert_ptr_eq(block(memory, 2 * MIB), hole[3]);
    ck_assert_ptr_eq(block(memory, 2 * MIB), hole[0]);
    for (int i = 0; i < 4; i++) heed_block_free(memory, wall[i]);
    memory_end(memory, &ledger);
}
END_TEST

/* Small blocks that live on do not break up the hole of a large one. */
START_TEST(small_blocks_stay_apart) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 16 * MIB, false);
    void *large = block(memory, 2 * MIB);
    block(memory, 2 * MIB);
    heed_block_free(memory, large);
    for (int i = 0; i < 1000; i++) block(memory, (size_t)(i * 7 % 2000));
    ck_assert_ptr_eq(block(memory, 2 * MIB), large);
    memory_end(memory, &ledger);
}
END_TEST

/* When many small blocks are gone, large ones can have their memory. */
START_TEST(small_blocks_leave_their_spans) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 4 * MIB, false);
    enum { COUNT = 2000 };
    void *small[COUNT];
    for (int i = 0; i < COUNT; i++) small[i] = block(memory, 1500);
    int64_t calls = ledger.calls;
    for (int i = 0; i < COUNT; i++) heed_block_free(memory, small[(i * 7 + 3) % COUNT]);
    block(memory, 4 * MIB - 4 * KIB);
    ck_assert_int_eq(ledger.calls, calls);
    memory_end(memory, &ledger);
}
END_TEST

/* ---- the allocator's view ---- */

static void pretended_step(struct heed_memory *memory, int64_t step) {
    enum { COUNT = 200 };
    void *made[COUNT];
    struct test_random random = {77};
    for (int i = 0; i < COUNT; i++) {
        uint64_t bits = test_bits(&random);
        made[i] = block(memory, bits % 4 ? bits % 2000 : bits % MIB);
        if (bits % 3 == 0) {
            heed_block_free(memory, made[i]);
            made[i] = NULL;
        }
    }
    for (int i = 0; i < COUNT; i++) heed_block_free(memory, made[(i * 3 + 1) % COUNT]);
    (void)step;
}

START_TEST(steady_step_calls_nobody) {
    struct ledger ledger = {0};
    const size_t chunks[] = {0, MIB, 200 * KIB, 5000};
    struct heed_memory *memory = memory_on(&ledger, chunks[_i], false);
    /* With chunks for single blocks it takes some steps until each has one of its size. */
    for (int64_t step = 0; step < (chunks[_i] == 5000 ? 50 : 2); step++) pretended_step(memory, step);
    int64_t calls = ledger.calls;
    size_t peak = heed_memory_look(memory).peak;
    for (int64_t step = 0; step < 10; step++) pretended_step(memory, step);
    ck_assert_int_eq(ledger.calls, calls);
    ck_assert_uint_eq(heed_memory_look(memory).peak, peak);
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(one_call_per_block) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 1, false);
    void *made[100];
    for (int round = 0; round < 2; round++) {
        int64_t calls = ledger.calls;
        for (size_t i = 0; i < 100; i++) made[i] = block(memory, i * i);
        ck_assert_int_eq(ledger.calls, calls + 100);
        for (int i = 0; i < 100; i++) heed_block_free(memory, made[i]);
        ck_assert_int_eq(ledger.living, 1);
    }
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(failures_change_nothing) {
    struct ledger ledger = {.fail_at = 1};
    const heed_allocator allocator = {ledger_alloc, ledger_free, &ledger};
    ck_assert_ptr_null(heed_memory_new(&allocator, 0, false));

    struct heed_memory *memory = memory_on(&ledger, MIB, false);
    ledger.fail_at = ledger.calls + 1;
    ck_assert_ptr_null(heed_block_new(memory, 100)); /* no chunk for the span */
    void *small = block(memory, 100), *large = block(memory, 800 * KIB);
    memset(small, 1, 100);
    ledger.fail_at = ledger.calls + 1;
    heed_memory_info before = heed_memory_look(memory);
    ck_assert_ptr_null(heed_block_zeroed(memory, 800 * KIB));
    heed_memory_info after = heed_memory_look(memory);
    ck_assert_uint_eq(after.in_use, before.in_use);
    ck_assert_uint_eq(after.reserved, before.reserved);
    ck_assert_uint_eq(after.calls, before.calls + 1);
    heed_block_free(memory, large);
    heed_block_free(memory, small);
    ck_assert_uint_eq(heed_memory_look(memory).in_use, 0);
    ck_assert_int_eq(ledger.living, 2);
    heed_memory_free(memory);
    ck_assert_int_eq(ledger.living, 0);
}
END_TEST

/* Chunks that have become too small do not pile up. */
START_TEST(growing_requests) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 300 * KIB, false);
    for (size_t bytes = 300 * KIB; bytes < 900 * KIB; bytes += 10 * KIB)
        heed_block_free(memory, block(memory, bytes));
    ck_assert_int_eq(ledger.living, 2);
    ck_assert_uint_le(ledger.most, 950 * KIB);
    memory_end(memory, &ledger);
}
END_TEST

/* Without a size of the caller's, chunks are as large as those before together, or as small as will do. */
START_TEST(chunks_double) {
    struct ledger ledger = {.limit = _i == 0 ? SIZE_MAX : 100 * MIB};
    struct heed_memory *memory = memory_on(&ledger, 0, false);
    for (int i = 0; i < 200; i++) block(memory, MIB);
    const size_t chunks = 256; /* in MiB: 64 + 64 + 128, or four times 64 */
    ck_assert_uint_ge(ledger.bytes, chunks * MIB);
    ck_assert_uint_le(ledger.bytes, chunks * MIB + 64 * KIB);
    ck_assert_int_eq(ledger.living, _i == 0 ? 4 : 5); /* with the record of the memory */
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(peak_is_what_lives) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, false);
    void *a = block(memory, 5 * MIB), *b = block(memory, 3 * MIB);
    heed_block_free(memory, a);
    void *c = block(memory, 4 * MIB);
    heed_memory_info info = heed_memory_look(memory);
    ck_assert_uint_ge(info.in_use, 7 * MIB);
    ck_assert_uint_le(info.in_use, 7 * MIB + 16 * KIB);
    ck_assert_uint_ge(info.peak, 8 * MIB);
    ck_assert_uint_le(info.peak, 8 * MIB + 16 * KIB);
    heed_block_free(memory, b);
    heed_block_free(memory, c);
    ck_assert_uint_eq(heed_memory_look(memory).in_use, 0);
    memory_end(memory, &ledger);
}
END_TEST

/* ---- memory that was never given out costs no pages ---- */

static void *pages_alloc(void *user, size_t bytes) {
    (void)user;
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    madvise(pages, bytes, MADV_NOHUGEPAGE);
    if (bytes > MIB) *(void **)user = pages;
    return pages;
}

static void pages_free(void *user, void *memory, size_t bytes) {
    (void)user;
    munmap(memory, bytes);
}

START_TEST(untouched_pages) {
    enum { BYTES = 64 * MIB };
    void *chunk = NULL;
    const heed_allocator allocator = {pages_alloc, pages_free, &chunk};
    struct heed_memory *memory = heed_memory_new(&allocator, BYTES, false);
    ck_assert_ptr_nonnull(memory);
    void *made[32];
    for (int i = 0; i < 32; i++) made[i] = block(memory, i % 2 ? 100 : MIB);
    for (int i = 0; i < 32; i++) heed_block_free(memory, made[i]);
    ck_assert_ptr_nonnull(chunk);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = BYTES / page, resident = 0;
    unsigned char *map = malloc(pages);
    ck_assert_ptr_nonnull(map);
    ck_assert_int_eq(mincore(chunk, BYTES, map), 0);
    for (size_t i = 0; i < pages; i++) resident += map[i] & 1;
    ck_assert_uint_le(resident, 64);
    free(map);
    heed_memory_free(memory);
}
END_TEST

/* ---- poison and guards ---- */

/* Reads and writes where AddressSanitizer would rightly complain. */
HEED_BOOKKEEPING static unsigned char peek(const unsigned char *at) {
    return *(const volatile unsigned char *)at;
}

HEED_BOOKKEEPING static void poke(unsigned char *at, unsigned char value) {
    *(volatile unsigned char *)at = value;
}

START_TEST(poison_before_and_after) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, true);
    const size_t sizes[] = {1, 48, 4000, 100000};
    for (size_t s = 0; s < 4; s++) {
        unsigned char *made = block(memory, sizes[s]);
        ck_assert(filled(made, sizes[s], 1, 0xFF));
        memset(made, 0, sizes[s]);
        heed_block_free(memory, made);
        size_t poisoned = 16; /* the first bytes may hold the links of the free block */
        while (poisoned < sizes[s] && peek(made + poisoned) == 0xFF) poisoned++;
        ck_assert_uint_ge(poisoned, sizes[s]);
    }
    memory_end(memory, &ledger);
}
END_TEST

START_TEST(overruns_are_seen) {
    static const size_t sizes[] = {1, 31, 32, 33, 4000, 70000};
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, true);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        unsigned char *made = block(memory, sizes[s]);
        memset(made, 1, sizes[s]);
        ck_assert_uint_eq(heed_memory_overruns(memory), s);
        poke(made + sizes[s] + s, 0);
        ck_assert_uint_eq(heed_memory_overruns(memory), s + 1);
        heed_block_free(memory, made);
        ck_assert_uint_eq(heed_memory_overruns(memory), s + 1);
    }
    heed_memory_free(memory);
    ck_assert_int_eq(ledger.living, 0);
}
END_TEST

START_TEST(given_back_twice) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, _i == 1);
    void *small = block(memory, 100), *large = block(memory, MIB);
    heed_block_free(memory, small);
    heed_block_free(memory, large);
    heed_block_free(memory, small);
    heed_block_free(memory, large);
    ck_assert_uint_eq(heed_memory_overruns(memory), 2);
    ck_assert_uint_eq(heed_memory_look(memory).in_use, 0);
    heed_memory_free(memory);
    ck_assert_int_eq(ledger.living, 0);
}
END_TEST

#ifdef HEED_ASAN
START_TEST(sanitizer_is_told) {
    struct ledger ledger = {0};
    struct heed_memory *memory = memory_on(&ledger, 0, false);
    char *made = block(memory, 100);
    ck_assert_ptr_null(__asan_region_is_poisoned(made, 100));
    ck_assert(__asan_address_is_poisoned(made + 100 + 4)); /* 100 is no multiple of 8 */
    ck_assert(__asan_address_is_poisoned(made - 1));
    heed_block_free(memory, made);
    ck_assert(__asan_address_is_poisoned(made));
    ck_assert(__asan_address_is_poisoned(made + 99));
    memory_end(memory, &ledger);
}
END_TEST
#endif

int main(void) {
    Suite *suite = suite_create("memory");
    TCase *blocks = test_case(suite, "blocks");
    tcase_add_loop_test(blocks, random_life, 0, (int)(sizeof styles / sizeof *styles));
    tcase_add_test(blocks, sizes_from_nothing);
    tcase_add_loop_test(blocks, sizes_that_overflow, 0, 3);
    tcase_add_loop_test(blocks, neighbours_join, 0, 8);
    tcase_add_test(blocks, best_fit);
    tcase_add_test(blocks, small_blocks_stay_apart);
    tcase_add_test(blocks, small_blocks_leave_their_spans);
    TCase *allocator = test_case(suite, "allocator");
    tcase_add_loop_test(allocator, steady_step_calls_nobody, 0, 4);
    tcase_add_test(allocator, one_call_per_block);
    tcase_add_test(allocator, failures_change_nothing);
    tcase_add_test(allocator, growing_requests);
    tcase_add_loop_test(allocator, chunks_double, 0, 2);
    tcase_add_test(allocator, peak_is_what_lives);
    tcase_add_test(allocator, untouched_pages);
    TCase *guards = test_case(suite, "guards");
    tcase_add_test(guards, poison_before_and_after);
    tcase_add_test(guards, overruns_are_seen);
    tcase_add_loop_test(guards, given_back_twice, 0, 2);
#ifdef HEED_ASAN
    tcase_add_test(guards, sanitizer_is_told);
#endif
    return test_main(suite);
}
