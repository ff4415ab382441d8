/* Scores: the stages between q·kᵀ and softmax, and how they and the mask reach a kernel. */
#include "autograd/score.h"

#include <math.h>
#include <string.h>

#include "backend/masks.h"

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

struct prepare {
    heed_ctx *ctx;
    const char *where;
    const struct heed_problem *problem;
    struct heed_prepared_score *out;
};

static bool add_tensor(struct prepare *p, heed_tensor t) {
    if (!heed_is_valid(t)) return false; /* the operation that made it has reported */
    p->out->tensor[p->out->tensors++] = t;
    return true;
}

/* Brings a tensor that is to be broadcast to [batch.., heads, queries, keys] to rank 4. */
static bool add_broadcast(struct prepare *p, const char *name, heed_tensor t) {
    const struct heed_problem *problem = p->problem;
    struct heed_node *node = heed_node_of(t, p->where);
    int rank = problem->batch_rank + 3;
    int64_t full[HEED_MAX_RANK];
    struct heed_view view, whole;
    char one[128], two[96];
    if (!node) return false;
    memcpy(full, problem->batch_size, sizeof full);
    full[rank - 3] = problem->heads;
    full[rank - 2] = problem->queries;
    full[rank - 1] = problem->keys;
    view = node->view;
    if (view.rank > rank || !heed_view_expand(&view, rank, full, &whole)) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s does not match the scores %s",
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
    return add_tensor(
        p, heed_reshape(t, 4, (int64_t[]){batched ? problem->batch : 1, last[0], last[1], last[2]}));
}

static bool add_lengths(struct prepare *p, heed_tensor t) {
    const struct heed_problem *problem = p->problem;
    struct heed_node *node = heed_node_of(t, p->where);
    struct heed_view whole;
    char one[128], two[96];
    if (!node) return false;
    if (!heed_view_expand(&node->view, problem->batch_rank, problem->batch_size, &whole)) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s does not match the batch %s",
                  heed_named_shape("key_lengths", &node->view, one, sizeof one),
                  heed_shape_text(problem->batch_rank, problem->batch_size, two, sizeof two));
        return false;
    }
    t = heed_broadcast(t, problem->batch_rank, problem->batch_size);
    return add_tensor(p, heed_contiguous(heed_reshape(t, 1, &problem->batch)));
}

static bool add_mask(struct prepare *p, const heed_mask *mask) {
    if (!mask) return true;
    if (!heed_object_is(mask, HEED_OBJECT_MASK) || mask->base.ctx != p->ctx) {
        heed_fail(p->ctx, HEED_ERROR_STALE, p->where, "a mask is used after its scope ended");
        return false;
    }
    if (++p->out->masks > HEED_MAX_MASKS) {
        heed_fail(p->ctx, HEED_ERROR_ARGUMENT, p->where, "a mask has at most %d parts", HEED_MAX_MASKS);
        return false;
    }
    if (mask->kind == &heed_mask_kind_and) return add_mask(p, mask->a) && add_mask(p, mask->b);
    if (mask->kind == &heed_mask_kind_key_lengths) return add_lengths(p, mask->tensor);
    if (mask->kind == &heed_mask_kind_dense) return add_broadcast(p, "mask", mask->tensor);
    return true;
}

bool heed_score_prepare(heed_ctx *ctx, const char *where, const heed_score *score,
                        const struct heed_problem *problem, struct heed_prepared_score *prepared) {
    struct prepare p = {.ctx = ctx, .where = where, .problem = problem, .out = prepared};
    prepared->score = score;
    prepared->tensors = prepared->masks = 0;
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
        if (!add_broadcast(&p, "bias", score->stage[i].tensor)) return false;
    return add_mask(&p, score->mask);
}

/* ---- binding it to a kernel's arguments ---- */

struct bind {
    struct heed_call *c;
    const struct heed_problem *problem;
    struct heed_bound_mask *node; /* the next free one */
    int input;                    /* the next tensor */
};

static struct heed_view spread(const struct heed_problem *problem, const struct heed_view *v) {
    struct heed_view out;
    heed_view_expand(v, 4, (int64_t[]){problem->batch, problem->heads, problem->queries, problem->keys},
                     &out);
    return out;
}

static bool check_lengths(struct heed_call *c, const struct heed_view *lengths, int64_t keys) {
    const int32_t *length = lengths->data;
    for (int64_t i = 0; i < lengths->size[0]; i++)
        if (length[i] < 0 || length[i] > keys)
            return heed_call_fail(c, HEED_ERROR_ARGUMENT,
                                  "key length %d of sequence %lld is not in 0 to %lld", length[i],
                                  (long long)i, (long long)keys);
    return true;
}

static const struct heed_bound_mask *bind_mask(struct bind *b, const heed_mask *mask) {
    if (!mask || !b->c->ok) return NULL;
    struct heed_bound_mask *bound = b->node++;
    bound->kind = mask->kind;
    bound->queries = b->problem->queries;
    bound->keys = b->problem->keys;
    if (mask->kind == &heed_mask_kind_causal) {
        bound->number = mask->align == HEED_BOTTOM_RIGHT ? bound->keys - bound->queries : 0;
    } else if (mask->kind == &heed_mask_kind_and) {
        bound->a = bind_mask(b, mask->a);
        bound->b = bind_mask(b, mask->b);
    } else {
        struct heed_view v = heed_call_view(b->c, b->input);
        heed_call_save_input(b->c, b->input++);
        if (mask->kind == &heed_mask_kind_key_lengths) {
            check_lengths(b->c, &v, bound->keys);
            bound->tensor = v;
        } else {
            bound->tensor = spread(b->problem, &v);
        }
    }
    return bound;
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
    if (c->ok && prepared->masks > 0) {
        struct bind b = {.c = c, .problem = problem, .input = first + score->stages};
        b.node = heed_call_blob(c, (size_t)prepared->masks * sizeof *b.node);
        args->mask = c->ok ? bind_mask(&b, score->mask) : NULL;
    }
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
