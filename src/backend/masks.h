/* The kinds of masks, and how kernels ask one.
 *
 * A mask says *may attend*. `test` is its definition; `bits` is the same for a tile; `cover` may say NONE or
 * ALL only where that is proven, so that answering SOME everywhere changes no result. */
#ifndef HEED_SRC_BACKEND_MASKS_H
#define HEED_SRC_BACKEND_MASKS_H

#include "backend/primitives.h"

extern const struct heed_mask_kind heed_mask_kind_causal;      /* k ≤ q + number */
extern const struct heed_mask_kind heed_mask_kind_key_lengths; /* k < tensor[batch] */
extern const struct heed_mask_kind heed_mask_kind_dense;       /* tensor[batch, head, q, k] */
extern const struct heed_mask_kind heed_mask_kind_and;         /* a and b */

/* The same questions of a mask that may be NULL, which is "all visible". */
bool heed_mask_test(const struct heed_bound_mask *mask, int64_t batch, int64_t head, int64_t q, int64_t k);
enum heed_cover heed_mask_cover(const struct heed_bound_mask *mask, const struct heed_box *box);
void heed_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box, uint64_t *row);

#endif
