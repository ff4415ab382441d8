/* Masks of lengths: one number per sequence. */
#include "autograd/mask.h"

/* ---- key lengths ---- */

static bool prepare_keys(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_batch(p, "key lengths", mask->tensor[0]);
}

static bool check_keys(struct heed_call *c, struct heed_bound_mask *bound,
                       const struct heed_problem *problem) {
    return heed_mask_values(c, "key length", bound, 0, 0, problem->keys);
}

static const struct heed_mask_form form_key_lengths = {.kind = &heed_mask_kind_key_lengths,
                                                       .tensors = 1,
                                                       .dtype = HEED_I32,
                                                       .prepare = prepare_keys,
                                                       .check = check_keys};

heed_mask *heed_mask_key_lengths(heed_tensor lengths) {
    return heed_mask_of_tensors("mask_key_lengths", &form_key_lengths, &lengths, NULL);
}

/* ---- query lengths ---- */

static bool prepare_queries(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_batch(p, "query lengths", mask->tensor[0]);
}

static bool check_queries(struct heed_call *c, struct heed_bound_mask *bound,
                          const struct heed_problem *problem) {
    return heed_mask_values(c, "query length", bound, 0, 0, problem->queries);
}

static const struct heed_mask_form form_query_lengths = {.kind = &heed_mask_kind_query_lengths,
                                                         .tensors = 1,
                                                         .dtype = HEED_I32,
                                                         .prepare = prepare_queries,
                                                         .check = check_queries};

heed_mask *heed_mask_query_lengths(heed_tensor lengths) {
    return heed_mask_of_tensors("mask_query_lengths", &form_query_lengths, &lengths, NULL);
}

/* ---- prefix ---- */

static bool prepare_prefix(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_batch(p, "prefix", mask->tensor[0]);
}

static bool check_prefix(struct heed_call *c, struct heed_bound_mask *bound,
                         const struct heed_problem *problem) {
    return heed_mask_values(c, "prefix", bound, 0, 0, problem->keys);
}

static void describe_prefix(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "prefix%s", heed_mask_is_at_end(mask) ? " (bottom-right)" : "");
}

static const struct heed_mask_form form_prefix = {.kind = &heed_mask_kind_prefix,
                                                  .tensors = 1,
                                                  .dtype = HEED_I32,
                                                  .prepare = prepare_prefix,
                                                  .check = check_prefix,
                                                  .describe = describe_prefix};

heed_mask *heed_mask_prefix(heed_tensor prefix, heed_align align) {
    static const char where[] = "mask_prefix";
    heed_ctx *ctx = heed_ctx_of(prefix);
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    const int64_t number[HEED_MASK_NUMBERS] = {[HEED_DISTANCE_ALIGN] = align};
    heed_mask *mask = NULL;
    if (heed_mask_aligned(ctx, where, align))
        mask = heed_mask_of_tensors(where, &form_prefix, &prefix, number);
    return heed_mask_made(ctx, mask);
}
