/* Masks as programs make them, of random constants and tensors. */
#ifndef HEED_TESTS_HARNESS_MASK_OBJECTS_H
#define HEED_TESTS_HARNESS_MASK_OBJECTS_H

#include "harness.h"

/* The kinds that are not made of others, and what they are called. */
enum mask_object {
    MASK_OBJECT_CAUSAL,
    MASK_OBJECT_WINDOW,
    MASK_OBJECT_BAND,
    MASK_OBJECT_KEY_LENGTHS,
    MASK_OBJECT_QUERY_LENGTHS,
    MASK_OBJECT_PREFIX,
    MASK_OBJECT_SEGMENTS,
    MASK_OBJECT_INTERVALS,
    MASK_OBJECT_BLOCKS,
    MASK_OBJECT_LISTS,
    MASK_OBJECT_DENSE,
    MASK_OBJECT_PATCH,
    MASK_OBJECT_RANDOM,
    MASK_OBJECT_TREE,
    MASK_OBJECT_PREDICATE,
    MASK_OBJECTS
};
extern const char *const mask_object_names[MASK_OBJECTS];

/* Three of four cells, differently in each batch and head. */
extern const heed_mask_predicate_options mask_object_user;

/* What they are made from. There are at least as many keys as queries. */
struct mask_maker {
    struct test_random random;
    heed_ctx *ctx;
    int64_t batch, heads, queries, keys;
};

/* For an attention of these q and k, [batch, heads, length, width]. */
struct mask_maker mask_maker_for(heed_tensor q, heed_tensor k, uint64_t seed);

heed_mask *mask_object(struct mask_maker *m, enum mask_object kind);

/* A random tree of and, or, not, at most this deep. */
heed_mask *mask_object_tree(struct mask_maker *m, int depth);

/* A tree of this many nodes, whose keys are the last ones. */
heed_mask *mask_object_of_tree(heed_ctx *ctx, int64_t nodes, int64_t keys);

#endif
