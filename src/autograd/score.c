/* Scores: the stages between q·kᵀ and softmax, and how they and the mask reach a kernel. */
#include "autograd/mask.h"

#include <math.h>
#include <string.h>

/* ---- building a score ---- */

static void score_destroy(struct heed_object *object) {
    heed_object_drop(((heed_score *)object)->mask);
}

heed_score *heed_score_new(heed_ctx *ctx) {
    if (!ctx || ctx->broken || !heed_enter(ctx)) return NULL;
    heed_score *score = NULL;
    if (ctx->status == HEED_OK) score = heed_object_new(ctx, HEED_OBJECT_SCORE, sizeof *score, score_destroy);
    heed_leave(ctx);
    return score;
}

/* The context of a living score; a score that could not be made is NULL and has had its error. */
static heed_ctx *enter_score(const heed_score *score, const char *where) {
    if (!score) return NULL;
    heed_ctx *ctx = score->base.ctx;
    if (!heed_enter(ctx)) return NULL;
    if (ctx->status == HEED_OK) {
        if (heed_object_is(score, HEED_OBJECT_SCORE)) return ctx;
        heed_fail(ctx, HEED_ERROR_STALE, where, "a score is used after its scope ended");
    }
    heed_leave(ctx);
    return NULL;
}

heed_score *heed_score_scale(heed_score *score, double scale) {
    heed_ctx *ctx = enter_score(score, "score_scale");
    if (!ctx) return score;
    if (isfinite(scale)) {
        score->has_scale = true;
        score->scale = scale;
    } else {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "score_scale", "scale %g is not finite", scale);
    }
    heed_leave(ctx);
    return score;
}

heed_score *heed_score_bias(heed_score *score, heed_tensor bias) {
    static const char where[] = "score_bias";
    heed_ctx *ctx = enter_score(score, where);
    if (!ctx) return score;
    struct heed_node *node = heed_node_of(bias, where);
    if (!node)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "no bias given");
    else if (node->ctx != ctx)
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the bias belongs to another context");
    else if (score->stages == HEED_MAX_STAGES)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a score has at most %d stages", HEED_MAX_STAGES);
    else
        score->stage[score->stages++] = (struct heed_score_stage){.kind = HEED_STAGE_BIAS, .tensor = bias};
    heed_leave(ctx);
    return score;
}

heed_score *heed_score_mask(heed_score *score, heed_mask *mask) {
    heed_ctx *ctx = enter_score(score, "score_mask");
    if (!ctx) return score;
    heed_mask *joined = score->mask ? heed_mask_and(score->mask, mask) : mask;
    if (joined && !heed_object_is(joined, HEED_OBJECT_MASK)) {
        heed_fail(ctx, HEED_ERROR_STALE, "score_mask", "a mask is used after its scope ended");
    } else if (joined && joined->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, "score_mask", "the mask belongs to another context");
    } else if (joined && joined != score->mask) {
        heed_object_ref(joined);
        heed_object_drop(score->mask);
        score->mask = joined;
    }
    heed_leave(ctx);
    return score;
}

/* ---- preparing it for a problem ---- */

bool heed_prepare_tensor(struct heed_prepare *p, heed_tensor t) {
    if (!heed_is_valid(t)) return false; /* the operation that made it has reported */
    p->out->tensor[p->out->tensors++] = t;
    return true;
}

bool heed_prepare_broadcast(struct heed_prepare *p, const char *name, heed_tensor t, int64_t rows,
                            int64_t columns) {
    const struct heed_problem *problem = p->problem;
    struct heed_node *node = heed_node_of(t, p->where);
    int rank = problem->batch_rank + 3;
    int64_t full[HEED_MAX_RANK];
    struct heed_view view, whole;
    char one[128], two[96];
    if (!node) return false;
    memcpy(full, problem->batch_size, sizeof full);
    full[rank - 3] = problem->heads;
    full[rank - 2] = rows;
    full[rank - 1] = columns;
    view = node->view;
    if (view.rank > rank || !heed_view_expand(&view, rank, full, &whole)) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s does not match %s",
                  heed_named_shape(name, &view, one, sizeof one),
                  heed_shape_text(rank, full, two, sizeof two));
        return false;
    }
    bool batched = false;
    int64_t size[HEED_MAX_RANK], last[3];
    for (int d = 0; d < rank; d++) {
        int own = d - (rank - view.rank);
        size[d] = own >= 0 ? view.size[own] : 1;
        if (d < problem->batch_rank && size[d] != 1) batched = true;
    }
    memcpy(last, size + problem->batch_rank, sizeof last);
    if (batched && problem->batch_rank > 1) {
        memcpy(size, problem->batch_size, (size_t)problem->batch_rank * sizeof *size);
        t = heed_broadcast(t, rank, size);
    }
    return heed_prepare_tensor(
        p, heed_reshape(t, 4, (int64_t[]){batched ? problem->batch : 1, last[0], last[1], last[2]}));
}

bool heed_score_prepare(heed_ctx *ctx, const char *where, const heed_score *score,
                        const struct heed_problem *problem, struct heed_prepared_score *prepared) {
    struct heed_prepare p = {.ctx = ctx, .where = where, .problem = problem, .out = prepared};
    prepared->score = score;
    prepared->tensors = prepared->masks = prepared->mask_tensors = 0;
    if (!score) return true;
    if (score->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the score belongs to another context");
        return false;
    }
    if (!heed_object_is(score, HEED_OBJECT_SCORE)) {
        heed_fail(ctx, HEED_ERROR_STALE, where, "a score is used after its scope ended");
        return false;
    }
    for (int i = 0; i < score->stages; i++)
        if (!heed_prepare_broadcast(&p, "bias", score->stage[i].tensor, problem->queries, problem->keys))
            return false;
    return heed_mask_prepare(&p, score->mask);
}

/* ---- binding it to a kernel's arguments ---- */

static struct heed_view spread(const struct heed_problem *problem, const struct heed_view *v) {
    struct heed_view out;
    heed_view_expand(v, 4, (int64_t[]){problem->batch, problem->heads, problem->queries, problem->keys},
                     &out);
    return out;
}

static void bind_stage(struct heed_call *c, int input, const struct heed_problem *problem,
                       enum heed_stage_kind kind, struct heed_attention_args *args) {
    if (!heed_call_float(c, input, "bias")) return;
    struct heed_view v = heed_call_view(c, input);
    heed_call_save_input(c, input);
    args->stage[args->stages++] = (struct heed_stage){.kind = kind, .tensor = spread(problem, &v)};
}

bool heed_score_bind(struct heed_call *c, int first, const struct heed_prepared_score *prepared,
                     const struct heed_problem *problem, int64_t width, struct heed_attention_args *args) {
    const heed_score *score = prepared->score;
    args->scale = score && score->has_scale ? score->scale : 1.0 / sqrt((double)(width ? width : 1));
    args->stages = 0;
    args->mask = NULL;
    for (int i = 0; score && c->ok && i < score->stages; i++)
        bind_stage(c, first + i, problem, score->stage[i].kind, args);
    if (c->ok && prepared->masks > 0)
        args->mask = heed_mask_bind(c, first + score->stages, score->mask, prepared->masks, problem);
    return c->ok;
}

void heed_score_gradients(struct heed_backward *b, int first, struct heed_attention_args *args) {
    for (int i = 0; i < args->stages; i++)
        args->stage[i].dtensor = heed_dx_expanded(b, first + i, &args->stage[i].tensor);
}

bool heed_attention_dropout(struct heed_call *c, double p, struct heed_attention_args *args) {
    if (!c->ok) return false;
    if (!(p >= 0.0 && p < 1.0))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "dropout probability %g is not in [0, 1)", p);
    bool drops = p > 0.0 && c->ctx->flags & HEED_RANDOM;
    args->threshold = drops ? heed_keep_threshold(p) : 65536;
    if (drops) args->random = heed_random_next(c->ctx);
    return true;
}
