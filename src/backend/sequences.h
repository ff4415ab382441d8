/* Packed sequences (struct heed_packed): one of them as a problem of its own. */
#ifndef HEED_SRC_BACKEND_SEQUENCES_H
#define HEED_SRC_BACKEND_SEQUENCES_H

#include "backend/primitives.h"

struct heed_sequence {
    int64_t query, queries; /* its first row among all, and how many */
    int64_t key, keys;
};

static inline struct heed_sequence heed_sequence_at(const struct heed_packed *p, int64_t i) {
    return (struct heed_sequence){.query = p->query_starts[i],
                                  .queries = p->query_starts[i + 1] - p->query_starts[i],
                                  .key = p->key_starts[i],
                                  .keys = p->key_starts[i + 1] - p->key_starts[i]};
}

/* Cuts a dimension of a view, which may be absent, down to `count` elements from `first` on. */
void heed_view_cut(struct heed_view *v, int dim, int64_t first, int64_t count);

/* Cuts what belongs to a stage or to a parameter (its tensor, gradient or sum) down to a sequence. */
void heed_sequence_stage(const struct heed_sequence *s, const struct heed_packed *packed,
                         const struct heed_stage *stage, struct heed_view *v);
void heed_sequence_param(const struct heed_sequence *s, heed_param_scope scope, struct heed_view *v);

/* The arguments with all views cut down to sequence i. Its batch is still counted as i. */
void heed_sequence_args(const struct heed_attention_args *args, int64_t i, struct heed_attention_args *own);

#endif
