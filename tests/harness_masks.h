/* Random masks of every kind, bound to a problem, for tests of kernels. */
#ifndef HEED_TESTS_HARNESS_MASKS_H
#define HEED_TESTS_HARNESS_MASKS_H

#include "harness_guard.h"

#include "backend/masks.h"

enum { TEST_MASK_KINDS = 15, TEST_MASK_NODES = 24 };

/* The kinds that are not made of others. */
extern const struct heed_mask_kind *const test_mask_kinds[TEST_MASK_KINDS];

/* The masks of one problem. Fill in the random state, the sizes and the edge of the tensors' memory; the rest
 * is 0. */
struct test_masks {
    struct test_random random;
    enum test_edge edge;
    int64_t batch, heads, queries, keys;
    const int32_t *query_starts,
        *key_starts; /* of packed sequences; queries and keys are those of the longest */
    int nodes;
    struct heed_bound_mask node[TEST_MASK_NODES];
    struct {
        void *data;
        size_t bytes;
    } block[2 * TEST_MASK_NODES];
    int blocks;
};

/* A mask of this kind with random constants and tensors. */
const struct heed_bound_mask *test_mask(struct test_masks *m, const struct heed_mask_kind *kind);

/* A random tree of and, or, not over random kinds, at most this deep (0: one kind). */
const struct heed_bound_mask *test_mask_tree(struct test_masks *m, int depth);

/* The same mask, but proving nothing: every cover is SOME, nothing is bounded. */
const struct heed_bound_mask *test_mask_without_proofs(struct test_masks *m,
                                                       const struct heed_bound_mask *mask);

void test_masks_free(struct test_masks *m);

#endif
