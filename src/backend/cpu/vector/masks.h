/* Asking a mask from vector code. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_MASKS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_MASKS_H

#include "backend/cpu/masks.h"
#include "backend/cpu/vector/vector.h"

/* heed_mask_bits() with what this instruction set makes sooner. */
static inline void vector_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box,
                                    uint64_t *row) {
    struct heed_box own = *box;
    own.vectors = &HEED_VECTOR_NAME(heed_mask_vectors);
    heed_mask_bits(mask, &own, row);
}

#endif
