/* Masks given cell by cell. */
#include "autograd/mask.h"

static bool prepare_dense(struct heed_prepare *p, const heed_mask *mask) {
    return heed_prepare_broadcast(p, "mask", mask->tensor[0], p->problem->queries, p->problem->keys);
}

static const struct heed_mask_form form_dense = {
    .kind = &heed_mask_kind_dense, .tensors = 1, .dtype = HEED_BOOL, .cells = true, .prepare = prepare_dense};

heed_mask *heed_mask_dense(heed_tensor allowed) {
    return heed_mask_of_tensors("mask_dense", &form_dense, &allowed, NULL);
}
