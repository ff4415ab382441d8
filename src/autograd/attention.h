/* Attention as an operation: what plain and packed calls share. */
#ifndef HEED_SRC_AUTOGRAD_ATTENTION_H
#define HEED_SRC_AUTOGRAD_ATTENTION_H

#include "autograd/score.h"

/* What a call gives beside the output (NULL where not asked for), and what else it is given. */
struct heed_attention_extra {
    heed_tensor *weights, *lse, *chosen, *column_sums;
    const heed_weights_request *request;
    const heed_tensor *starts; /* of packed sequences: of queries and of keys, contiguous */
};

/* The context of a call of several operations, entered, if it may begin; otherwise NULL. */
heed_ctx *heed_attention_begin(const char *where, int count, const heed_tensor *tensors);

/* Checks q, k, v and options, and fills in the problem. False after an error. */
bool heed_attention_check(heed_ctx *ctx, const heed_tensor qkv[3], const heed_attention_options *options,
                          struct heed_problem *problem);

/* Whether a score has the sum whose logarithm is asked for. */
bool heed_attention_check_lse(heed_ctx *ctx, const heed_score *score, const heed_tensor *lse);

/* The operation, on [batch, heads, length, width]; on [1, heads, all rows, width] where sequences are packed.
 */
heed_tensor heed_attention_folded(const heed_tensor qkv[3], const struct heed_prepared_score *prepared,
                                  const struct heed_problem *problem, double dropout,
                                  const struct heed_attention_extra *extra);

#endif
