/* Scores and masks as the attention operations use them. */
#ifndef HEED_SRC_AUTOGRAD_SCORE_H
#define HEED_SRC_AUTOGRAD_SCORE_H

#include "autograd/tape.h"
#include "backend/sequences.h"

/* Of one score: nodes of the mask tree, and tensors of those. Each tensor is one input of the operation. */
#define HEED_MAX_MASKS 16
#define HEED_MAX_MASK_TENSORS 16

struct heed_prepare;

struct heed_score_stage {
    enum heed_stage_kind kind;
    heed_align align;   /* by distance: what follows up to max_distance */
    heed_tensor tensor; /* bias, table, slopes */
    /* Makes [heads or 1, queries + keys − 1] for a problem; the inert tensor after an error. */
    heed_tensor (*by_distance)(const struct heed_prepare *p, const struct heed_score_stage *stage);
    int64_t max_distance;
    double cap;                  /* softcap */
    const heed_stage_rule *rule; /* custom; its parameters are those of the score from `param` on */
    void *user;
    int param;
    bool causal;
};

struct heed_score {
    struct heed_object base;
    bool failed; /* lacks what a call that failed was to set: never to be used */
    bool has_scale;
    double scale;
    heed_normalizer normalizer;
    int stages, params;
    struct heed_score_stage stage[HEED_MAX_STAGES];
    heed_tensor param[HEED_MAX_STAGE_PARAMS], sink;
    heed_mask *mask; /* counted reference, may be NULL */
};

/* The score's context, entered, if the score can be added to; NULL otherwise, also after an error. Then the
 * score is, or becomes, one that no attention takes: what was to be added to it must not be lost. */
heed_ctx *heed_score_enter(heed_score **score, const char *where);

/* How every function that entered ends: leaves, and after an error marks the score as failed. Returns it. */
heed_score *heed_score_leave(heed_ctx *ctx, heed_score *score);

/* Whether a score can be used; reports one that ended, could not be made, or lacks what failed. */
bool heed_score_sound(heed_ctx *ctx, const char *where, const heed_score *score);

/* Whether a tensor may become part of a score of this context; reports why not. `name` is for the message. */
bool heed_score_takes(heed_ctx *ctx, const char *where, const char *name, heed_tensor t);

/* A rule's name for messages. */
static inline const char *heed_stage_name(const heed_stage_rule *rule) {
    return rule->name ? rule->name : "without a name";
}

/* Appends a stage, or reports that there is no room for it. */
void heed_score_append(heed_ctx *ctx, heed_score *score, const char *where,
                       const struct heed_score_stage *stage);

/* The sizes of one attention problem, batch dimensions still apart. Of packed sequences, which are the batch,
 * queries and keys are those of all together. */
struct heed_problem {
    int batch_rank;
    int64_t batch_size[HEED_MAX_RANK];
    int64_t batch, heads, queries, keys;
    heed_dtype dtype;
    struct heed_packed packed;
};

/* The sizes of one of packed sequences. */
static inline struct heed_problem heed_problem_of_sequence(const struct heed_problem *problem, int64_t i) {
    const struct heed_sequence s = heed_sequence_at(&problem->packed, i);
    struct heed_problem own = *problem;
    own.queries = s.queries;
    own.keys = s.keys;
    return own;
}

/* The most that one batch entry has. */
static inline int64_t heed_most_queries(const struct heed_problem *problem) {
    return heed_is_packed(&problem->packed) ? problem->packed.most_queries : problem->queries;
}
static inline int64_t heed_most_keys(const struct heed_problem *problem) {
    return heed_is_packed(&problem->packed) ? problem->packed.most_keys : problem->keys;
}

/* Batch dimensions of tensors that have rows of queries or keys: packed ones have the rows of all sequences.
 */
static inline int heed_row_batches(const struct heed_problem *problem) {
    return heed_is_packed(&problem->packed) ? 0 : problem->batch_rank;
}

/* A score made ready for one call: its tensors brought to rank 4, [batch or 1, heads or 1, rows, columns], by
 * recorded operations, so that gradients find their way back. */
struct heed_prepared_score {
    const heed_score *score;
    int tensors;
    /* of the stages, of the sink, of the masks in preorder */
    heed_tensor tensor[HEED_MAX_STAGES + HEED_MAX_STAGE_PARAMS + 1 + HEED_MAX_MASK_TENSORS];
    int masks; /* nodes of the mask tree */
};

/* What brings one score's tensors into that form. */
struct heed_prepare {
    heed_ctx *ctx;
    const char *where;
    const struct heed_problem *problem;
    struct heed_prepared_score *out;
};

/* Takes a tensor that has the form. False if the operation that made it failed. */
bool heed_prepare_tensor(struct heed_prepare *p, heed_tensor t);

/* Takes a tensor that is broadcast to [batch.., heads, rows, columns]: brings it to rank 4, sizes of 1 kept
 * (but batch dimensions that vary are multiplied out). False, and an error that names it, if it does not fit.
 */
bool heed_prepare_broadcast(struct heed_prepare *p, const char *name, heed_tensor t, int64_t rows,
                            int64_t columns);

/* The same of a tensor whose rows and columns are those of each batch entry also where sequences are packed.
 */
bool heed_prepare_by_batch(struct heed_prepare *p, const char *name, heed_tensor t, int64_t rows,
                           int64_t columns);

/* The mask's part of preparing and of binding (mask_bind.c). The mask may be NULL. */
bool heed_mask_prepare(struct heed_prepare *p, const heed_mask *mask);
const struct heed_bound_mask *heed_mask_bind(struct heed_call *c, int first, heed_mask *mask, int masks,
                                             const struct heed_problem *problem);

/* Checks a score against a problem. False (and an error for `where`) if it does not fit. `score` may be NULL.
 */
bool heed_score_prepare(heed_ctx *ctx, const char *where, const heed_score *score,
                        const struct heed_problem *problem, struct heed_prepared_score *prepared);

/* Fills scale, stages, sink, normaliser and mask of args, which are zero before; the prepared tensors are the
 * call's inputs from `first` on. Saves what backward needs. False after an error. */
bool heed_score_bind(struct heed_call *c, int first, const struct heed_prepared_score *prepared,
                     const struct heed_problem *problem, int64_t width, struct heed_attention_args *args);

/* In backward: where the gradients of the stages go. */
void heed_score_gradients(struct heed_backward *b, int first, struct heed_attention_args *args);

/* The dropout of one call: none outside of HEED_RANDOM. False for a bad probability. */
bool heed_attention_dropout(struct heed_call *c, double p, struct heed_attention_args *args);

#endif
