#include "harness_mask_objects.h"

#include <stdlib.h>

const char *const mask_object_names[MASK_OBJECTS] = {
    [MASK_OBJECT_CAUSAL] = "causal",
    [MASK_OBJECT_WINDOW] = "window",
    [MASK_OBJECT_BAND] = "band",
    [MASK_OBJECT_KEY_LENGTHS] = "key lengths",
    [MASK_OBJECT_QUERY_LENGTHS] = "query lengths",
    [MASK_OBJECT_PREFIX] = "prefix",
    [MASK_OBJECT_SEGMENTS] = "segments",
    [MASK_OBJECT_INTERVALS] = "intervals",
    [MASK_OBJECT_BLOCKS] = "blocks",
    [MASK_OBJECT_LISTS] = "lists",
    [MASK_OBJECT_DENSE] = "dense mask",
    [MASK_OBJECT_PATCH] = "patch",
    [MASK_OBJECT_RANDOM] = "random mask",
    [MASK_OBJECT_TREE] = "tree",
    [MASK_OBJECT_PREDICATE] = "predicate",
};

struct mask_maker mask_maker_for(heed_tensor q, heed_tensor k, uint64_t seed) {
    return (struct mask_maker){.random = {seed},
                               .ctx = heed_context(q),
                               .batch = heed_size(q, 0),
                               .heads = heed_size(q, 1),
                               .queries = heed_size(q, 2),
                               .keys = heed_size(k, 2)};
}

static int64_t below(struct mask_maker *m, int64_t n) {
    return (int64_t)(test_bits(&m->random) % (uint64_t)n);
}

/* [batch or 1, heads or 1, rows, columns] of low … low + n − 1, without the sizes that are 0. */
static heed_tensor numbers(struct mask_maker *m, heed_dtype dtype, bool heads, int64_t rows, int64_t columns,
                           int64_t low, int64_t n) {
    int rank = 0;
    int64_t size[4], count = 1;
    size[rank++] = below(m, 2) ? m->batch : 1;
    if (heads) size[rank++] = below(m, 2) ? m->heads : 1;
    if (rows > 0) size[rank++] = rows;
    if (columns > 0) size[rank++] = columns;
    for (int d = 0; d < rank; d++) count *= size[d];
    int32_t *data = malloc((size_t)count * sizeof *data);
    for (int64_t i = 0; i < count; i++) {
        const int64_t value = low + below(m, n);
        if (dtype == HEED_BOOL)
            ((uint8_t *)data)[i] = value != 0;
        else
            data[i] = (int32_t)value;
    }
    heed_tensor t = heed_from(m->ctx, dtype, rank, size, data);
    free(data);
    return t;
}

static bool user_test(void *user, int64_t batch, int64_t head, int64_t query, int64_t key) {
    (void)user;
    return (3 * query + 5 * key + batch + head) % 4 != 0;
}

const heed_mask_predicate_options mask_object_user = {.test = user_test};

heed_mask *mask_object_of_tree(heed_ctx *ctx, int64_t nodes, int64_t keys) {
    int32_t *end = malloc((size_t)nodes * sizeof *end);
    for (int64_t i = 0; i < nodes; i++) { /* each node has a child next to it and two leaves after that */
        const int64_t last = i % 3 == 0 ? nodes : i + 1 + (i % 3 == 1);
        end[i] = (int32_t)(last < nodes ? last : nodes);
    }
    heed_mask *mask = heed_mask_tree(heed_from(ctx, HEED_I32, TEST_SHAPE(nodes), end), keys - nodes);
    free(end);
    return mask;
}

heed_mask *mask_object(struct mask_maker *m, enum mask_object kind) {
    const heed_align align = below(m, 2) ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT;
    const int64_t q = 1 + below(m, m->queries), k = 1 + below(m, m->keys);
    const int64_t rows = (m->queries + q - 1) / q, columns = (m->keys + k - 1) / k;
    switch (kind) {
    case MASK_OBJECT_CAUSAL:
        return heed_mask_causal(m->ctx, align);
    case MASK_OBJECT_WINDOW:
        return heed_mask_window(m->ctx, below(m, m->keys) - 1, below(m, m->keys) - 1, align);
    case MASK_OBJECT_BAND:
        return heed_mask_band(m->ctx, -k, k, align);
    case MASK_OBJECT_KEY_LENGTHS:
        return heed_mask_key_lengths(numbers(m, HEED_I32, false, 0, 0, 0, m->keys + 1));
    case MASK_OBJECT_QUERY_LENGTHS:
        return heed_mask_query_lengths(numbers(m, HEED_I32, false, 0, 0, 0, m->queries + 1));
    case MASK_OBJECT_PREFIX:
        return heed_mask_prefix(numbers(m, HEED_I32, false, 0, 0, 0, m->keys + 1), align);
    case MASK_OBJECT_SEGMENTS:
        return heed_mask_segments(numbers(m, HEED_I32, false, 0, m->queries, -1, 4),
                                  numbers(m, HEED_I32, false, 0, m->keys, -1, 4));
    case MASK_OBJECT_INTERVALS:
        return heed_mask_key_intervals(numbers(m, HEED_I32, true, 0, m->keys, 0, m->queries + 1),
                                       numbers(m, HEED_I32, true, 0, m->keys, 0, m->queries + 1));
    case MASK_OBJECT_BLOCKS:
        return heed_mask_blocks(numbers(m, HEED_BOOL, true, rows, columns, 0, 2), q, k);
    case MASK_OBJECT_LISTS:
        return heed_mask_block_lists(numbers(m, HEED_I32, true, rows, 2, -1, columns + 1), q, k);
    case MASK_OBJECT_DENSE:
        return heed_mask_dense(numbers(m, HEED_BOOL, true, m->queries, m->keys, 0, 3));
    case MASK_OBJECT_PATCH:
        return heed_mask_patch(numbers(m, HEED_BOOL, true, q, k, 0, 2),
                               &(heed_mask_patch_options){.query = below(m, m->queries),
                                                          .key = below(m, m->keys),
                                                          .visible_outside = below(m, 2)});
    case MASK_OBJECT_RANDOM:
        return heed_mask_random(m->ctx, 0.7, test_bits(&m->random), NULL);
    case MASK_OBJECT_TREE:
        return mask_object_of_tree(m->ctx, m->queries, m->keys);
    case MASK_OBJECT_PREDICATE:
    case MASK_OBJECTS:
        break;
    }
    return heed_mask_predicate(m->ctx, &mask_object_user);
}

heed_mask *mask_object_tree(struct mask_maker *m, int depth) {
    if (depth == 0 || below(m, 5) == 0) return mask_object(m, (enum mask_object)below(m, MASK_OBJECTS));
    heed_mask *a = mask_object_tree(m, depth - 1);
    const int64_t which = below(m, 5);
    if (which == 0) return heed_mask_not(a);
    heed_mask *b = mask_object_tree(m, depth - 1);
    return which <= 2 ? heed_mask_and(a, b) : heed_mask_or(a, b);
}
