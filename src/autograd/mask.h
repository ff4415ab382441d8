/* Masks as objects: what a kind needs besides what kernels see of it.
 *
 * mask.c           making masks, and, or, not
 * mask_bind.c      a mask made ready for one call
 * mask_describe.c  in words
 * mask_*.c         one family of kinds each: the public functions, and the form of each kind */
#ifndef HEED_SRC_AUTOGRAD_MASK_H
#define HEED_SRC_AUTOGRAD_MASK_H

#include "autograd/score.h"
#include "backend/masks.h"

struct heed_mask_text;

/* Which rows and columns a tensor has, where sequences are packed. */
enum heed_mask_rows {
    HEED_MASK_BY_BATCH,   /* those of each */
    HEED_MASK_OF_QUERIES, /* a column for each query of all */
    HEED_MASK_OF_KEYS,    /* a column for each key of all */
    HEED_MASK_OF_CELLS    /* a row for each query, a column for each key */
};

/* What the objects of one kind have in common. */
struct heed_mask_form {
    const struct heed_mask_kind *kind;
    int tensors;
    heed_dtype dtype; /* of the tensors */
    enum heed_mask_rows rows[2];
    /* Brings the tensors to rank 4; with no function there are none. */
    bool (*prepare)(struct heed_prepare *p, const heed_mask *mask);
    /* Checks values, and fills in numbers that depend on the problem. The tensors of `bound` have rank 4 with
     * their own sizes. May be NULL. Of packed sequences it is asked about each, with what belongs to it. */
    bool (*check)(struct heed_call *c, struct heed_bound_mask *bound, const struct heed_problem *problem);
    /* Writes the mask in words; with no function it is the kind's name. */
    void (*describe)(struct heed_mask_text *text, const heed_mask *mask);
};

/* What a check found in tensors of those versions, for a problem of those sizes. */
struct heed_mask_seen {
    bool sound;
    uint64_t version[2];
    int64_t batch, heads, queries, keys, number[HEED_MASK_NUMBERS];
};

struct heed_mask {
    struct heed_object base;
    const struct heed_mask_form *form;
    struct heed_bound_mask bound; /* what does not depend on the call */
    heed_tensor tensor[2];
    heed_mask *a, *b;   /* operands; counted references */
    int parts, tensors; /* with those of the operands */
    char name[48];      /* of a predicate */
    struct heed_mask_seen seen;
};

/* ---- making one (mask.c) ---- */

/* Enters the context for a function that makes a mask. False if it can't be made; then nothing is to leave.
 */
bool heed_mask_enter(heed_ctx *ctx);

/* The answer where no mask could be made, since NULL means "all allowed": one that no score takes. */
heed_mask *heed_mask_refused(void);

/* Leaves the context; returns the mask, or for NULL that answer. */
heed_mask *heed_mask_made(heed_ctx *ctx, heed_mask *mask);

/* Reports a mask that can't be used: ended, or heed_mask_refused(). */
void heed_mask_fail_dead(heed_ctx *ctx, const char *where, const heed_mask *mask);

/* A mask of this form; NULL after an error. */
heed_mask *heed_mask_new(heed_ctx *ctx, const struct heed_mask_form *form);

/* A mask of this form with its tensors, whose dtype is checked; its context is that of the first tensor.
 * number NULL: all 0. Never NULL. */
heed_mask *heed_mask_of_tensors(const char *where, const struct heed_mask_form *form,
                                const heed_tensor *tensor, const int64_t *number);

/* Whether this is an alignment; an error if not. */
bool heed_mask_aligned(heed_ctx *ctx, const char *where, heed_align align);

/* Whether positions of this mask, of distances, are counted from the bottom right. */
static inline bool heed_mask_is_at_end(const heed_mask *mask) {
    return mask->bound.number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT;
}

/* ---- binding it (mask_bind.c) ---- */

/* Tensors that are broadcast to [batch..], [batch.., n] and [batch.., heads, n], as [batch or 1, heads or 1,
 * 1, 1 or n]. */
bool heed_mask_prepare_batch(struct heed_prepare *p, const char *name, heed_tensor t);
bool heed_mask_prepare_row(struct heed_prepare *p, const char *name, heed_tensor t, int64_t n);
bool heed_mask_prepare_head_row(struct heed_prepare *p, const char *name, heed_tensor t, int64_t n);

/* Checks that all values of tensor i (i32) are in low … high. */
bool heed_mask_values(struct heed_call *c, const char *name, const struct heed_bound_mask *bound, int i,
                      int64_t low, int64_t high);

/* ---- in words (mask_describe.c) ---- */

/* What has been written, which may be more than there is room for. */
struct heed_mask_text {
    char *text;
    size_t size, used;
};

void heed_mask_say(struct heed_mask_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ∞ if it is farther than any length. */
void heed_mask_say_number(struct heed_mask_text *t, int64_t number);

/* A mask that stands beside an operator: in parentheses if it has one of its own that `inside` is not. */
void heed_mask_say_operand(struct heed_mask_text *t, const heed_mask *mask,
                           const struct heed_mask_form *inside);

#endif
