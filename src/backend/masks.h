/* The kinds of masks, and how kernels ask one.
 *
 * A mask says *may attend*. `test` is its definition; `bits` is the same for a tile; `cover` may say NONE or
 * ALL only where that is proven, so that answering SOME everywhere changes no result. */
#ifndef HEED_SRC_BACKEND_MASKS_H
#define HEED_SRC_BACKEND_MASKS_H

#include "tensor/view.h"

/* Where a tile of the score matrix lies. */
struct heed_box {
    int64_t batch, head;   /* head of the query */
    int64_t q0, k0;        /* first query, first key */
    int64_t queries, keys; /* of the whole problem */
    int nq, nk;            /* of the tile; nk ≤ 64 */
};

/* What a mask can prove of a tile. SOME means "not proven". */
enum heed_cover { HEED_COVER_SOME, HEED_COVER_NONE, HEED_COVER_ALL };

struct heed_bound_mask;

/* A kind of mask. A new kind is a new constant of this type. */
struct heed_mask_kind {
    const char *name;
    /* The definition: may query q attend to key k? `ref` uses only this. Of the box it reads batch, head and
     * the sizes of the problem. */
    bool (*test)(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k);
    enum heed_cover (*cover)(const struct heed_bound_mask *self, const struct heed_box *box);
    /* One word per query of the tile; bit c says key k0 + c. Bits from nk on are 0. */
    void (*bits)(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row);
};

#define HEED_MASK_NUMBERS 4

/* A mask as a kernel sees it. What depends on the lengths is derived from the box, so that one bound mask can
 * serve sequences of different lengths. Immutable while the call and its backward live. */
struct heed_bound_mask {
    const struct heed_mask_kind *kind;
    int64_t number[HEED_MASK_NUMBERS];   /* constants; each kind says which */
    struct heed_view tensor[2];          /* rank 4, [batch, heads, ·, ·], strided; each kind says which */
    const struct heed_bound_mask *a, *b; /* operands */
};

enum { HEED_DISTANCE_LOW, HEED_DISTANCE_HIGH, HEED_DISTANCE_ALIGN };

/* low ≤ k − position of q ≤ high; numbers: low, high, enum heed_align. */
extern const struct heed_mask_kind heed_mask_kind_causal;
/* k < tensor[batch, head, 0, 0], i32. */
extern const struct heed_mask_kind heed_mask_kind_key_lengths;
/* tensor[batch, head, q, k], bool. */
extern const struct heed_mask_kind heed_mask_kind_dense;
/* a and b. */
extern const struct heed_mask_kind heed_mask_kind_and;

/* Stands for "as far as you like": no length comes near it, and sums of a few do not overflow. */
#define HEED_MASK_FAR (INT64_C(1) << 60)

/* The same questions of a mask that may be NULL, which is "all visible". */
bool heed_mask_test(const struct heed_bound_mask *mask, const struct heed_box *box, int64_t q, int64_t k);
enum heed_cover heed_mask_cover(const struct heed_bound_mask *mask, const struct heed_box *box);
void heed_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box, uint64_t *row);

#endif
