#include "backend/sequences.h"

void heed_view_cut(struct heed_view *v, int dim, int64_t first, int64_t count) {
    if (!heed_has(v)) return;
    v->data = heed_view_at(v, first * v->stride[dim]);
    v->size[dim] = count;
}

static void cut_queries(const struct heed_sequence *s, struct heed_view *v) {
    heed_view_cut(v, 2, s->query, s->queries);
}

static void cut_keys(const struct heed_sequence *s, struct heed_view *v) {
    heed_view_cut(v, 2, s->key, s->keys);
}

/* Of the vector for the longest, the distances that occur: the position of the first query is the same where
 * they are counted from the top left, that of the last one at the bottom right. */
static void cut_distances(const struct heed_sequence *s, const struct heed_packed *packed, heed_align align,
                          struct heed_view *v) {
    const int64_t first =
        align == HEED_BOTTOM_RIGHT ? packed->most_keys - s->keys : packed->most_queries - s->queries;
    const int64_t count = s->queries + s->keys - 1;
    heed_view_cut(v, 3, first, count > 0 ? count : 0);
}

void heed_sequence_stage(const struct heed_sequence *s, const struct heed_packed *packed,
                         const struct heed_stage *stage, struct heed_view *v) {
    if (stage->kind == HEED_STAGE_DISTANCE) cut_distances(s, packed, stage->align, v);
    if (stage->kind != HEED_STAGE_BIAS) return;
    cut_queries(s, v);
    heed_view_cut(v, 3, s->key, s->keys);
}

void heed_sequence_param(const struct heed_sequence *s, heed_param_scope scope, struct heed_view *v) {
    if (scope == HEED_PER_QUERY) cut_queries(s, v);
    if (scope == HEED_PER_KEY) heed_view_cut(v, 3, s->key, s->keys);
}

void heed_sequence_args(const struct heed_attention_args *args, int64_t i, struct heed_attention_args *own) {
    const struct heed_sequence s = heed_sequence_at(&args->packed, i);
    *own = *args;
    struct heed_view *const by_query[] = {&own->q, &own->y, &own->lse, &own->dy, &own->dlse, &own->dq.view};
    struct heed_view *const by_key[] = {&own->k, &own->v, &own->dk.view, &own->dv.view};
    for (int j = 0; j < 6; j++) cut_queries(&s, by_query[j]);
    for (int j = 0; j < 4; j++) cut_keys(&s, by_key[j]);
    for (int j = 0; j < own->stages; j++) {
        struct heed_stage *stage = &own->stage[j];
        heed_sequence_stage(&s, &args->packed, stage, &stage->tensor);
        heed_sequence_stage(&s, &args->packed, stage, &stage->dtensor.view);
    }
    for (int j = 0; j < own->params; j++) {
        struct heed_stage_param *param = &own->param[j];
        heed_sequence_param(&s, param->scope, &param->tensor);
        heed_sequence_param(&s, param->scope, &param->dtensor.view);
    }
}
