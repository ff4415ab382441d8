/* Scores and masks as the attention operations use them. */
#ifndef HEED_SRC_AUTOGRAD_SCORE_H
#define HEED_SRC_AUTOGRAD_SCORE_H

#include "autograd/tape.h"

/* The parts of a mask that are tensors, and of a score: each is one input of the operation. */
#define HEED_MAX_MASKS 16

struct heed_mask_parts;

struct heed_mask {
    struct heed_object base;
    const struct heed_mask_kind *kind;
    heed_align align;   /* causal */
    heed_tensor tensor; /* key lengths, dense */
    heed_mask *a, *b;   /* and; counted references */
};

struct heed_score_stage {
    enum heed_stage_kind kind;
    heed_tensor tensor;
};

struct heed_score {
    struct heed_object base;
    bool has_scale;
    double scale;
    int stages;
    struct heed_score_stage stage[HEED_MAX_STAGES];
    heed_mask *mask; /* counted reference, may be NULL */
};

/* The sizes of one attention problem, batch dimensions still apart. */
struct heed_problem {
    int batch_rank;
    int64_t batch_size[HEED_MAX_RANK];
    int64_t batch, heads, queries, keys;
};

/* A score made ready for one call: its tensors brought to rank 4 ([batch or 1, heads or 1, queries or 1, keys
 * or 1]; lengths to [batch]) by recorded operations, so that gradients find their way back. */
struct heed_prepared_score {
    const heed_score *score;
    int tensors;
    heed_tensor tensor[HEED_MAX_STAGES + HEED_MAX_MASKS]; /* stages first, then masks in preorder */
    int masks;                                            /* nodes of the mask tree */
};

/* Checks a score against a problem. False (and an error for `where`) if it does not fit. `score` may be NULL.
 */
bool heed_score_prepare(heed_ctx *ctx, const char *where, const heed_score *score,
                        const struct heed_problem *problem, struct heed_prepared_score *prepared);

/* Fills scale, stages and mask of args; the prepared tensors are the call's inputs from `first` on. Saves
 * what backward needs. False after an error. */
bool heed_score_bind(struct heed_call *c, int first, const struct heed_prepared_score *prepared,
                     const struct heed_problem *problem, int64_t width, struct heed_attention_args *args);

/* In backward: where the gradients of the stages go. */
void heed_score_gradients(struct heed_backward *b, int first, struct heed_attention_args *args);

/* The dropout of one call: none outside of HEED_RANDOM. False for a bad probability. */
bool heed_attention_dropout(struct heed_call *c, double p, struct heed_attention_args *args);

#endif
