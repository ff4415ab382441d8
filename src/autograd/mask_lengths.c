/* Masks of lengths: one number per sequence. */
#include "autograd/mask.h"

static bool prepare_keys(struct heed_prepare *p, const heed_mask *mask) {
    return heed_mask_prepare_batch(p, "key lengths", mask->tensor[0]);
}

static bool check_keys(struct heed_call *c, const struct heed_bound_mask *bound,
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
