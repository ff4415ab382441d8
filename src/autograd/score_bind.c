/* Scores: how their tensors are brought to one form, and how they reach a kernel. */
#include "autograd/mask.h"

#include <math.h>
#include <string.h>

/* ---- preparing it for a problem ---- */

bool heed_prepare_tensor(struct heed_prepare *p, heed_tensor t) {
    if (!heed_is_valid(t)) return false; /* the operation that made it has reported */
    p->out->tensor[p->out->tensors++] = t;
    return true;
}

/* Broadcast over the first `batches` batch dimensions. */
static bool broadcast(struct heed_prepare *p, const char *name, heed_tensor t, int batches, int64_t rows,
                      int64_t columns) {
    const struct heed_problem *problem = p->problem;
    struct heed_node *node = heed_node_of(t, p->where);
    int rank = batches + 3;
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
        if (d < batches && size[d] != 1) batched = true;
    }
    memcpy(last, size + batches, sizeof last);
    if (batched && batches > 1) {
        memcpy(size, problem->batch_size, (size_t)batches * sizeof *size);
        t = heed_broadcast(t, rank, size);
    }
    const int64_t four[4] = {batched ? problem->batch : 1, last[0], last[1], last[2]};
    /* What has the shape already goes as it is: the gradient of a view would be a second buffer, and this is
     * the one tensor that may be quadratic in the length. */
    if (view.rank == 4 && memcmp(view.size, four, sizeof four) == 0) return heed_prepare_tensor(p, t);
    return heed_prepare_tensor(p, heed_reshape(t, 4, four));
}

bool heed_prepare_broadcast(struct heed_prepare *p, const char *name, heed_tensor t, int64_t rows,
                            int64_t columns) {
    return broadcast(p, name, t, heed_row_batches(p->problem), rows, columns);
}

bool heed_prepare_by_batch(struct heed_prepare *p, const char *name, heed_tensor t, int64_t rows,
                           int64_t columns) {
    return broadcast(p, name, t, p->problem->batch_rank, rows, columns);
}

/* ---- stages ---- */

static bool prepare_distance(struct heed_prepare *p, const struct heed_score_stage *stage) {
    const heed_tensor vector = stage->by_distance(p, stage);
    if (!heed_is_valid(vector)) return false;
    return heed_prepare_broadcast(p, "table", heed_unsqueeze(vector, 1), 1, heed_size(vector, 1));
}

/* What a scope asks of the sizes of its parameter, in words. */
static const char *scope_words(heed_param_scope scope, int64_t heads, char *text, size_t bytes) {
    switch (scope) {
    case HEED_PER_CALL:
        return "HEED_PER_CALL needs [n]";
    case HEED_PER_HEAD:
        snprintf(text, bytes, "HEED_PER_HEAD needs [%lld or 1, n]", (long long)heads);
        return text;
    case HEED_PER_QUERY:
        return "HEED_PER_QUERY needs 1 or more sizes, broadcast to [batch.., heads, queries]";
    case HEED_PER_KEY:
        return "HEED_PER_KEY needs 1 or more sizes, broadcast to [batch.., heads, keys]";
    }
    return "there is no such scope";
}

static bool prepare_param(struct heed_prepare *p, const struct heed_score_stage *stage, int i) {
    static const char name[] = "parameter";
    const heed_tensor t = p->out->score->param[stage->param + i];
    const heed_param_scope scope = stage->rule->scope[i];
    struct heed_node *node = heed_node_of(t, p->where);
    if (!node) return false;
    const int rank = node->view.rank, least = scope == HEED_PER_HEAD ? 2 : 1;
    const bool vector = scope == HEED_PER_CALL || scope == HEED_PER_HEAD;
    char text[128];
    const bool of_heads = scope != HEED_PER_HEAD || rank != 2 || node->view.size[0] == 1 ||
                          node->view.size[0] == p->problem->heads;
    if (!of_heads || (vector ? rank != least : rank < least || rank > heed_row_batches(p->problem) + 2)) {
        char words[64];
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "parameter %d %s of the stage %s: %s", i,
                  heed_shape_text(rank, node->view.size, text, sizeof text), heed_stage_name(stage->rule),
                  scope_words(scope, p->problem->heads, words, sizeof words));
        return false;
    }
    switch (scope) {
    case HEED_PER_CALL:
        return heed_prepare_broadcast(p, name, t, 1, node->view.size[0]);
    case HEED_PER_HEAD:
        return heed_prepare_broadcast(p, name, heed_unsqueeze(t, 1), 1, node->view.size[1]);
    case HEED_PER_QUERY:
        return heed_prepare_broadcast(p, name, heed_unsqueeze(t, rank), p->problem->queries, 1);
    case HEED_PER_KEY:
        return heed_prepare_broadcast(p, name, heed_unsqueeze(t, rank - 1), 1, p->problem->keys);
    }
    heed_fail(p->ctx, HEED_ERROR_ARGUMENT, p->where, "%d is not a scope of a parameter", (int)scope);
    return false;
}

static bool prepare_stage(struct heed_prepare *p, const struct heed_score_stage *stage) {
    switch (stage->kind) {
    case HEED_STAGE_BIAS:
        return heed_prepare_broadcast(p, "bias", stage->tensor, p->problem->queries, p->problem->keys);
    case HEED_STAGE_DISTANCE:
        return prepare_distance(p, stage);
    case HEED_STAGE_SOFTCAP:
        break;
    case HEED_STAGE_CUSTOM:
        for (int i = 0; i < stage->rule->n_params; i++)
            if (!prepare_param(p, stage, i)) return false;
        break;
    }
    return true;
}

static bool prepare_sink(struct heed_prepare *p, heed_tensor sink) {
    struct heed_node *node = heed_node_of(sink, p->where);
    char text[128];
    if (!node) return false;
    if (p->out->score->normalizer != HEED_NORMALIZER_SOFTMAX) {
        heed_fail(p->ctx, HEED_ERROR_ARGUMENT, p->where, "a sink is for the softmax only");
        return false;
    }
    const int64_t heads = p->problem->heads;
    if (node->view.rank != 1 || (node->view.size[0] != heads && node->view.size[0] != 1)) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s is not [%lld], one per head",
                  heed_named_shape("sink", &node->view, text, sizeof text), (long long)heads);
        return false;
    }
    return heed_prepare_broadcast(p, "sink", heed_reshape(sink, 3, (int64_t[]){node->view.size[0], 1, 1}), 1,
                                  1);
}

bool heed_score_prepare(heed_ctx *ctx, const char *where, const heed_score *score,
                        const struct heed_problem *problem, struct heed_prepared_score *prepared) {
    struct heed_prepare p = {.ctx = ctx, .where = where, .problem = problem, .out = prepared};
    prepared->score = score;
    prepared->tensors = prepared->masks = 0;
    if (!score) return true;
    if (score->base.ctx && score->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the score belongs to another context");
        return false;
    }
    if (!heed_score_sound(ctx, where, score)) return false;
    for (int i = 0; i < score->stages; i++)
        if (!prepare_stage(&p, &score->stage[i])) return false;
    if (!heed_is_none(score->sink) && !prepare_sink(&p, score->sink)) return false;
    return heed_mask_prepare(&p, score->mask);
}

/* ---- binding it to a kernel's arguments ---- */

struct bind {
    struct heed_call *c;
    const struct heed_problem *problem;
    struct heed_attention_args *args;
    int input; /* the next tensor */
};

/* The dtype of q, or that of the scores (f32 where q is bf16). */
static bool takes_dtype(const struct bind *b, const char *name) {
    struct heed_call *c = b->c;
    const struct heed_node *node = c->ok ? c->input[b->input] : NULL;
    return (node && node->view.dtype == b->problem->dtype) || heed_call_float(c, b->input, name);
}

/* The next tensor, expanded over batch and heads to [batch, heads, rows, columns]. */
static struct heed_view take(struct bind *b, const char *name, int64_t rows, int64_t columns, bool dense) {
    struct heed_view out = {0};
    if (!takes_dtype(b, name)) return out;
    const struct heed_view v = dense ? heed_call_dense(b->c, b->input) : heed_call_view(b->c, b->input);
    heed_call_save(b->c, &v);
    b->input++;
    heed_view_expand(&v, 4, (int64_t[]){b->problem->batch, b->problem->heads, rows, columns}, &out);
    return out;
}

static bool wants_gradient(const struct heed_call *c, int input) {
    const struct heed_node *node = c->input[input];
    return c->record && (node->producer || node->flags & HEED_NODE_WANTS_GRAD);
}

static void bind_custom(struct bind *b, const heed_stage_rule *rule) {
    const struct heed_problem *problem = b->problem;
    if (problem->dtype == HEED_F64 && !rule->forward_f64) {
        heed_call_fail(b->c, HEED_ERROR_UNSUPPORTED, "the stage %s has no functions for f64",
                       heed_stage_name(rule));
        return;
    }
    for (int i = 0; i < rule->n_params && b->c->ok; i++) {
        struct heed_stage_param *param = &b->args->param[b->args->params++];
        const heed_param_scope scope = rule->scope[i];
        const bool by_query = scope == HEED_PER_QUERY, by_key = scope == HEED_PER_KEY;
        if (!rule->backward && wants_gradient(b->c, b->input)) {
            heed_call_fail(b->c, HEED_ERROR_GRADIENT, "the stage %s has no backward function",
                           heed_stage_name(rule));
            return;
        }
        const struct heed_view own = heed_call_view(b->c, b->input);
        param->scope = scope;
        param->tensor = take(b, "parameter", by_query ? problem->queries : 1,
                             by_query ? 1
                             : by_key ? problem->keys
                                      : own.size[3],
                             !by_query && !by_key);
    }
}

static void bind_stage(struct bind *b, const struct heed_score_stage *from) {
    struct heed_stage *stage = &b->args->stage[b->args->stages++];
    *stage = (struct heed_stage){.kind = from->kind,
                                 .cap = from->cap,
                                 .align = from->align,
                                 .rule = from->rule,
                                 .user = from->user,
                                 .param = b->args->params};
    if (from->kind == HEED_STAGE_BIAS)
        stage->tensor = take(b, "bias", b->problem->queries, b->problem->keys, false);
    if (from->kind == HEED_STAGE_DISTANCE)
        stage->tensor = take(b, "table", 1, heed_call_view(b->c, b->input).size[3], false);
    if (from->kind == HEED_STAGE_CUSTOM) bind_custom(b, from->rule);
}

bool heed_score_bind(struct heed_call *c, int first, const struct heed_prepared_score *prepared,
                     const struct heed_problem *problem, int64_t width, struct heed_attention_args *args) {
    const heed_score *score = prepared->score;
    struct bind b = {.c = c, .problem = problem, .args = args, .input = first};
    args->scale = score && score->has_scale ? score->scale : 1.0 / sqrt((double)(width ? width : 1));
    args->packed = problem->packed;
    args->normalizer = score ? score->normalizer : HEED_NORMALIZER_SOFTMAX;
    for (int i = 0; score && c->ok && i < score->stages; i++) bind_stage(&b, &score->stage[i]);
    if (c->ok && score && !heed_is_none(score->sink)) args->sink = take(&b, "sink", 1, 1, false);
    if (c->ok && prepared->masks > 0)
        args->mask = heed_mask_bind(c, b.input, score->mask, prepared->masks, problem);
    return c->ok;
}

/* ---- gradients ---- */

void heed_score_gradients(struct heed_backward *b, int first, struct heed_attention_args *args) {
    int input = first;
    for (int i = 0; i < args->stages; i++) {
        struct heed_stage *stage = &args->stage[i];
        if (stage->kind == HEED_STAGE_BIAS || stage->kind == HEED_STAGE_DISTANCE)
            stage->dtensor = heed_dx_expanded(b, input++, &stage->tensor);
        for (int j = 0; stage->kind == HEED_STAGE_CUSTOM && j < stage->rule->n_params; j++) {
            struct heed_stage_param *param = &args->param[stage->param + j];
            param->dtensor = heed_dx_expanded(b, input++, &param->tensor);
        }
    }
    if (heed_has(&args->sink)) args->dsink = heed_dx_expanded(b, input, &args->sink);
}

/* ---- dropout ---- */

bool heed_attention_dropout(struct heed_call *c, double p, struct heed_attention_args *args) {
    if (!c->ok) return false;
    if (!(p >= 0.0 && p < 1.0))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "dropout probability %g is not in [0, 1)", p);
    bool drops = p > 0.0 && c->ctx->flags & HEED_RANDOM;
    args->threshold = drops ? heed_keep_threshold(p) : 65536;
    if (drops) args->random = heed_random_next(c->ctx);
    return true;
}
