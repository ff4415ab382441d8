/* Shared memory: one region, cut anew by every block.
 *
 *   | gap | dynamic | gap | static array | gap | static array | gap | …
 *
 * Everything is filled with NaN before a block begins. Under AddressSanitizer gaps are red zones; without it
 * they must be as they were when the block ends. */
#include "emulated/block.h"
#include "emulated/sanitize.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace emulated {

static const size_t GAP = 64, ALIGNMENT = 16, PAGE = 4096;
static const int MOST_ARRAYS = 256;        /* of one block */
static const unsigned char NOTHING = 0xff; /* all bytes: NaN, whatever the type */

static char *region; /* inaccessible pages lie before and behind it */
static size_t used;
static unsigned long block;
static shared_array dynamic;
static size_t static_bytes;
static shared_array *arrays[MOST_ARRAYS];
static int count;

static size_t rounded(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t region_bytes() {
    return (MOST_SHARED + MOST_ARRAYS * 2 * (GAP + ALIGNMENT) + PAGE - 1) / PAGE * PAGE;
}

/* ThreadSanitizer sees new memory each time, and forgets the block before. */
static void map_region() {
    char *before = region ? region - PAGE : NULL;
    before = static_cast<char *>(mmap(before, region_bytes() + 2 * PAGE, PROT_NONE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | (region ? MAP_FIXED : 0), -1, 0));
    if (before == MAP_FAILED || mprotect(before + PAGE, region_bytes(), PROT_READ | PROT_WRITE) != 0) {
        perror("emulated CUDA: no shared memory");
        abort();
    }
    region = before + PAGE;
    used = region_bytes();
}

/* Room for an array and the gap behind it. */
static void place_array(shared_array *array) {
    array->block = block;
    array->memory = region + used;
    used += rounded(array->bytes) + GAP;
    allow(array->memory, array->bytes);
    if (count == MOST_ARRAYS) fail_at(array->at, "a block with more than %d shared arrays", MOST_ARRAYS);
    arrays[count++] = array;
}

void shared_begin(size_t dynamic_bytes) {
    if (!region || EMULATED_THREAD) map_region();
    allow(region, used);
    memset(region, NOTHING, used);
    forbid(region, region_bytes());
    block++;
    used = GAP;
    static_bytes = 0;
    count = 0;
    dynamic = {"the dynamic shared memory", place::here(), dynamic_bytes, 0, NULL};
    place_array(&dynamic);
}

void *shared_dynamic() {
    return dynamic.memory;
}

void *shared_static(shared_array *array) {
    if (array->block == block) return array->memory;
    static_bytes += rounded(array->bytes);
    if (static_bytes > STATIC_SHARED)
        fail_at(array->at, "%zu bytes of static shared memory with %s; there are %d", static_bytes,
                array->name, STATIC_SHARED);
    if (static_bytes + dynamic.bytes > MOST_SHARED)
        fail_at(array->at, "%zu bytes of shared memory with %s; there are %d", static_bytes + dynamic.bytes,
                array->name, MOST_SHARED);
    place_array(array);
    return array->memory;
}

static void check_untouched(const char *from, size_t bytes, const shared_array *array, const char *where) {
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)from[i] == NOTHING) continue;
        fail_at(array->at, "a thread wrote %s %s", where, array->name);
    }
}

void shared_end() {
    allow(region, used);
    check_untouched(region, GAP, &dynamic, "before");
    for (int i = 0; i < count; i++)
        check_untouched(arrays[i]->memory + arrays[i]->bytes,
                        rounded(arrays[i]->bytes) - arrays[i]->bytes + GAP, arrays[i], "behind");
}

} // namespace emulated
