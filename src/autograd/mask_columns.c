/* Masks with one or two numbers per query or key: segments, intervals per key, trees. */
#include "autograd/mask.h"

/* ---- segments ---- */

static bool prepare_segments(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_row(p, "query ids", mask->tensor[0], p->problem->queries) &&
           heed_mask_prepare_row(p, "key ids", mask->tensor[1], p->problem->keys);
}

static const struct heed_mask_form form_segments = {.kind = &heed_mask_kind_segments,
                                                    .tensors = 2,
                                                    .dtype = HEED_I32,
                                                    .rows = {HEED_MASK_OF_QUERIES, HEED_MASK_OF_KEYS},
                                                    .prepare = prepare_segments};

heed_mask *heed_mask_segments(heed_tensor query_ids, heed_tensor key_ids) {
    const heed_tensor ids[2] = {query_ids, heed_is_none(key_ids) ? query_ids : key_ids};
    return heed_mask_of_tensors("mask_segments", &form_segments, ids, NULL);
}

/* ---- intervals per key ---- */

static bool prepare_intervals(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_head_row(p, "first queries", mask->tensor[0], p->problem->keys) &&
           heed_mask_prepare_head_row(p, "ends of queries", mask->tensor[1], p->problem->keys);
}

static bool check_intervals(struct heed_call *c, struct heed_bound_mask *bound,
                            const struct heed_problem *problem) {
    return heed_mask_values(c, "first query", bound, 0, 0, problem->queries) &&
           heed_mask_values(c, "end of queries", bound, 1, 0, problem->queries);
}

static const struct heed_mask_form form_intervals = {.kind = &heed_mask_kind_key_intervals,
                                                     .tensors = 2,
                                                     .dtype = HEED_I32,
                                                     .rows = {HEED_MASK_OF_KEYS, HEED_MASK_OF_KEYS},
                                                     .prepare = prepare_intervals,
                                                     .check = check_intervals};

heed_mask *heed_mask_key_intervals(heed_tensor first, heed_tensor end) {
    const heed_tensor tensor[2] = {first, end};
    return heed_mask_of_tensors("mask_key_intervals", &form_intervals, tensor, NULL);
}

/* ---- trees ---- */

static bool check_nodes(const struct heed_prepare *p, const heed_mask *mask,
                        const struct heed_problem *problem) {
    const int64_t prefix = mask->bound.number[HEED_TREE_PREFIX];
    if (problem->keys - prefix == problem->queries) return true;
    heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where,
              "a tree of %lld queries after %lld keys does not match %lld keys", (long long)problem->queries,
              (long long)prefix, (long long)problem->keys);
    return false;
}

static bool prepare_tree(struct heed_prepare *p, const heed_mask *mask) {
    const bool packed = heed_is_packed(&p->problem->packed);
    if (!packed && !check_nodes(p, mask, p->problem)) return false;
    for (int64_t i = 0; packed && i < p->problem->batch; i++) {
        const struct heed_problem own = heed_problem_of_sequence(p->problem, i);
        if (!check_nodes(p, mask, &own)) return false;
    }
    return heed_mask_prepare_row(p, "ends of subtrees", mask->tensor[0], p->problem->queries);
}

static bool check_tree(struct heed_call *c, struct heed_bound_mask *bound,
                       const struct heed_problem *problem) {
    const struct heed_view *t = &bound->tensor[0];
    for (int64_t i = 0; i < t->size[0]; i++)
        for (int64_t node = 0; node < problem->queries; node++) {
            const int64_t j = t->size[3] == 1 ? 0 : node;
            const int32_t end = ((const int32_t *)t->data)[i * t->stride[0] + j * t->stride[3]];
            if (end > node && end <= problem->queries) continue;
            return heed_call_fail(c, HEED_ERROR_ARGUMENT,
                                  "the subtree of node %lld ends at %d, which is not in %lld to %lld",
                                  (long long)node, end, (long long)node + 1, (long long)problem->queries);
        }
    return true;
}

static void describe_tree(struct heed_mask_text *text, const heed_mask *mask) {
    const long long prefix = mask->bound.number[HEED_TREE_PREFIX];
    if (prefix > 0)
        heed_mask_say(text, "tree(%lld)", prefix);
    else
        heed_mask_say(text, "tree");
}

static const struct heed_mask_form form_tree = {.kind = &heed_mask_kind_tree,
                                                .tensors = 1,
                                                .dtype = HEED_I32,
                                                .rows = {HEED_MASK_OF_QUERIES},
                                                .prepare = prepare_tree,
                                                .check = check_tree,
                                                .describe = describe_tree};

heed_mask *heed_mask_tree(heed_tensor ends, int64_t prefix) {
    static const char where[] = "mask_tree";
    heed_ctx *ctx = heed_ctx_of(ends);
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (prefix < 0 || prefix > HEED_MASK_FAR)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%lld keys before the tree", (long long)prefix);
    else
        mask = heed_mask_of_tensors(where, &form_tree, &ends,
                                    (const int64_t[HEED_MASK_NUMBERS]){[HEED_TREE_PREFIX] = prefix});
    return heed_mask_made(ctx, mask);
}
