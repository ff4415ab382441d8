/* The kinds of masks, and how kernels ask one.
 *
 * A mask says *may attend*. `test` is its definition; `bits` is the same for a tile; `cover` may say NONE or
 * ALL only where that is proven, so that answering SOME everywhere changes no result. */
#ifndef HEED_SRC_BACKEND_MASKS_H
#define HEED_SRC_BACKEND_MASKS_H

#include <heed/mask.h>

#include "tensor/view.h"

struct heed_box;

/* What an instruction set makes sooner than plain C does, with the same bits. A kernel that has some gives
 * them with the box it asks about. */
struct heed_mask_vectors {
    /* `bits` of a random mask with this key, line and threshold (at most 65535); box->k0 is a multiple of
     * HEED_RANDOM_CELLS. */
    void (*random)(uint64_t key, uint32_t line, uint32_t threshold, const struct heed_box *box,
                   uint64_t *row);
};

/* Where a tile of the score matrix lies. */
struct heed_box {
    int64_t batch, head;                     /* head of the query */
    int64_t q0, k0;                          /* first query, first key */
    int64_t queries, keys;                   /* of the whole problem */
    int nq, nk;                              /* of the tile; nk ≤ 64 */
    const struct heed_mask_vectors *vectors; /* NULL: none */
};

/* A rectangle of any size: queries q0 … q1 − 1, keys k0 … k1 − 1. */
struct heed_region {
    int64_t batch, head;
    int64_t queries, keys; /* of the whole problem */
    int64_t q0, q1, k0, k1;
};

static inline bool heed_region_is_empty(const struct heed_region *r) {
    return r->q0 >= r->q1 || r->k0 >= r->k1;
}

struct heed_bound_mask;

/* A kind of mask. A new kind is a new constant of this type. */
struct heed_mask_kind {
    const char *name;
    /* The definition: may query q attend to key k? `ref` uses only this. Of the box it reads batch, head and
     * the sizes of the problem. */
    bool (*test)(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k);
    /* The box may have any number of queries. */
    heed_cover (*cover)(const struct heed_bound_mask *self, const struct heed_box *box);
    /* One word per query of the tile; bit c says key k0 + c. Bits from nk on are 0. */
    void (*bits)(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row);
    /* Shrinks a region; nothing that it cuts off is visible. Saves asking tile by tile. NULL: cuts nothing.
     */
    void (*bounds)(const struct heed_bound_mask *self, struct heed_region *r);
};

#define HEED_MASK_NUMBERS 4

/* A mask as a kernel sees it. What depends on the lengths is derived from the box, so that one bound mask can
 * serve sequences of different lengths. Immutable while the call and its backward live. */
struct heed_bound_mask {
    const struct heed_mask_kind *kind;
    int64_t number[HEED_MASK_NUMBERS]; /* constants; each kind says which */
    struct heed_view tensor[2];        /* rank 4, [batch, heads, ·, ·], strided; each kind says which */
    /* Of packed sequences, by batch: the first row (dimension 2) and column (dimension 3) of a tensor that
     * has those of all sequences. NULL: rows and columns are those of each. */
    const int32_t *row_starts[2], *column_starts[2];
    const struct heed_bound_mask *a, *b; /* operands */
    heed_mask_predicate_options predicate;
};

/* Distances: low ≤ k − position of q ≤ high; the position is q, or q + keys − queries at the bottom right. */
enum { HEED_DISTANCE_LOW, HEED_DISTANCE_HIGH, HEED_DISTANCE_ALIGN };
extern const struct heed_mask_kind heed_mask_kind_causal;
extern const struct heed_mask_kind heed_mask_kind_window;
extern const struct heed_mask_kind heed_mask_kind_band;

/* Lengths: tensor[batch, head, 0, 0], i32. */
extern const struct heed_mask_kind heed_mask_kind_key_lengths;   /* k < length */
extern const struct heed_mask_kind heed_mask_kind_query_lengths; /* q < length */
/* k < length or k ≤ position of q; numbers as of distances, of which only the alignment is used. */
extern const struct heed_mask_kind heed_mask_kind_prefix;

/* 0 ≤ tensor 0 [batch, head, 0, q] = tensor 1 [batch, head, 0, k], i32. */
extern const struct heed_mask_kind heed_mask_kind_segments;

/* tensor 0 [batch, head, 0, k] ≤ q < tensor 1 [batch, head, 0, k], i32. */
extern const struct heed_mask_kind heed_mask_kind_key_intervals;
/* With `prefix` keys that all see, and node = k − prefix: node ≤ q < tensor[batch, head, 0, node], i32. */
enum { HEED_TREE_PREFIX };
extern const struct heed_mask_kind heed_mask_kind_tree;

/* Blocks: sizes of one, in queries and keys. A grid is bool, tensor[batch, head, block of q, block of k];
 * lists are i32: tensor[batch, head, block of q, any] is the block of k. */
enum { HEED_BLOCK_QUERIES, HEED_BLOCK_KEYS };
extern const struct heed_mask_kind heed_mask_kind_blocks;
extern const struct heed_mask_kind heed_mask_kind_block_lists;

/* tensor[batch, head, q, k], bool. */
extern const struct heed_mask_kind heed_mask_kind_dense;
/* tensor[batch, head, q − first query, k − first key]; `outside` says what is visible outside of it. */
enum { HEED_PATCH_QUERY, HEED_PATCH_KEY, HEED_PATCH_OUTSIDE };
extern const struct heed_mask_kind heed_mask_kind_patch;

/* Philox4x32-10 with this key and counter (q, k >> 3, line, "mask"): 16 bits, half k & 1 of word (k >> 1) &
 * 3, are below the threshold. line = batch·batch lines + head·head lines. */
enum { HEED_RANDOM_KEY, HEED_RANDOM_THRESHOLD, HEED_RANDOM_BATCH_LINES, HEED_RANDOM_HEAD_LINES };
enum {
    HEED_RANDOM_CELLS = 8,          /* of one block of Philox, along the keys */
    HEED_RANDOM_STREAM = 0x6d61736b /* "mask": a stream that no operation uses */
};
extern const struct heed_mask_kind heed_mask_kind_random;

/* The user's. */
extern const struct heed_mask_kind heed_mask_kind_predicate;

extern const struct heed_mask_kind heed_mask_kind_and; /* a and b */
extern const struct heed_mask_kind heed_mask_kind_or;  /* a or b */
extern const struct heed_mask_kind heed_mask_kind_not; /* not a */

/* Stands for "as far as you like": no length comes near it, and sums of a few do not overflow. */
#define HEED_MASK_FAR (INT64_C(1) << 60)

/* The same questions of a mask that may be NULL, which is "all visible". */
bool heed_mask_test(const struct heed_bound_mask *mask, const struct heed_box *box, int64_t q, int64_t k);
heed_cover heed_mask_cover(const struct heed_bound_mask *mask, const struct heed_box *box);
void heed_mask_bits(const struct heed_bound_mask *mask, const struct heed_box *box, uint64_t *row);
void heed_mask_bounds(const struct heed_bound_mask *mask, struct heed_region *r);

#endif
