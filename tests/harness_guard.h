/* Memory between two pages that nobody may touch, so that a kernel that reads or writes beyond its operands
 * ends the test. What was not written yet is NaN. */
#ifndef HEED_TESTS_HARNESS_GUARD_H
#define HEED_TESTS_HARNESS_GUARD_H

#include "harness.h"

/* Which end of the memory touches its page. At the other one there may be room. */
enum test_edge { TEST_EDGE_BEHIND, TEST_EDGE_BEFORE };

/* Memory aligned to `align`, a power of two that is at most a page: behind it there are up to align − 1 bytes
 * before the page that may not be touched. All bytes are 0xFF. */
void *test_guarded(enum test_edge edge, size_t align, size_t bytes);
void test_guarded_free(void *memory, size_t bytes);

/* Such memory for a context. With chunk_bytes = 1 every block lies before a page that may not be touched,
 * with less than two cache lines between. */
heed_allocator test_guarded_allocator(void);

/* What a fault says on standard error before it ends the test: which problem was tried. The text must stay.
 * NULL: nothing. */
void test_fault_says(const char *text);

#endif
