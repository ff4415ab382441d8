/* Scores: the list of what happens between q·kᵀ and the weights. */
#include "autograd/mask.h"

#include <math.h>

/* ---- building a score ---- */

static void score_destroy(struct heed_object *object) {
    heed_object_drop(((heed_score *)object)->mask);
}

/* What could not be made: dead, without context, never written to. NULL would be plain attention. */
static heed_score refused;

heed_score *heed_score_new(heed_ctx *ctx) {
    if (!ctx || ctx->broken || !heed_enter(ctx)) return &refused;
    heed_score *score = NULL;
    if (ctx->status == HEED_OK) score = heed_object_new(ctx, HEED_OBJECT_SCORE, sizeof *score, score_destroy);
    heed_leave(ctx);
    return score ? score : &refused;
}

bool heed_score_sound(heed_ctx *ctx, const char *where, const heed_score *score) {
    const bool alive = heed_object_is(score, HEED_OBJECT_SCORE);
    if (score == &refused || (alive && score->failed))
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "the score is the result of a call that failed");
    else if (!alive)
        heed_fail(ctx, HEED_ERROR_STALE, where, "a score is used after its scope ended");
    else
        return true;
    return false;
}

heed_ctx *heed_score_enter(heed_score **score, const char *where) {
    if (!*score) *score = &refused;
    heed_ctx *ctx = (*score)->base.ctx;
    if (!ctx) return NULL;
    if (!heed_enter(ctx)) { /* the thread that is inside may be changing this very score */
        *score = &refused;
        return NULL;
    }
    if (ctx->status == HEED_OK && heed_score_sound(ctx, where, *score)) return ctx;
    heed_score_leave(ctx, *score);
    return NULL;
}

heed_score *heed_score_leave(heed_ctx *ctx, heed_score *score) {
    if (ctx->status != HEED_OK && heed_object_is(score, HEED_OBJECT_SCORE)) score->failed = true;
    heed_leave(ctx);
    return score;
}

heed_score *heed_score_scale(heed_score *score, double scale) {
    heed_ctx *ctx = heed_score_enter(&score, "score_scale");
    if (!ctx) return score;
    if (isfinite(scale)) {
        score->has_scale = true;
        score->scale = scale;
    } else {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "score_scale", "scale %g is not finite", scale);
    }
    return heed_score_leave(ctx, score);
}

/* ---- stages ---- */

bool heed_score_takes(heed_ctx *ctx, const char *where, const char *name, heed_tensor t) {
    struct heed_node *node = heed_node_of(t, where);
    if (!node)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "no %s given", name);
    else if (node->ctx != ctx)
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the %s belongs to another context", name);
    else
        return true;
    return false;
}

void heed_score_append(heed_ctx *ctx, heed_score *score, const char *where,
                       const struct heed_score_stage *stage) {
    if (score->stages == HEED_MAX_STAGES)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a score has at most %d stages", HEED_MAX_STAGES);
    else
        score->stage[score->stages++] = *stage;
}

heed_score *heed_score_bias(heed_score *score, heed_tensor bias) {
    static const char where[] = "score_bias";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    if (heed_score_takes(ctx, where, "bias", bias)) {
        const struct heed_score_stage stage = {.kind = HEED_STAGE_BIAS, .tensor = bias};
        heed_score_append(ctx, score, where, &stage);
    }
    return heed_score_leave(ctx, score);
}

heed_score *heed_score_softcap(heed_score *score, double cap) {
    static const char where[] = "score_softcap";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    /* Both the cap and its reciprocal must be f32 numbers. */
    if (cap >= 1e-30 && cap <= 1e30) {
        const struct heed_score_stage stage = {.kind = HEED_STAGE_SOFTCAP, .cap = cap};
        heed_score_append(ctx, score, where, &stage);
    } else {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "cap %g is not in 1e-30 to 1e30", cap);
    }
    return heed_score_leave(ctx, score);
}

static bool rule_is_sound(heed_ctx *ctx, const char *where, const heed_stage_rule *rule, int n_params) {
    if (!rule || !rule->forward) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "no forward function given");
    } else if (!heed_reserved_zero(rule->reserved, 3)) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the rule are not zero");
    } else if (rule->n_params != n_params || n_params < 0 || n_params > HEED_STAGE_MAX_PARAMS) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d parameters given, the rule has %d (at most %d)",
                  n_params, rule->n_params, HEED_STAGE_MAX_PARAMS);
    } else if (rule->n_aux < 0 || rule->n_aux > HEED_STAGE_MAX_AUX) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d aux tiles are not in 0 to %d", rule->n_aux,
                  HEED_STAGE_MAX_AUX);
    } else if (rule->forward_f64 ? !rule->backward != !rule->backward_f64 : rule->backward_f64 != NULL) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "the functions for f64 are not those for f32");
    } else {
        return true;
    }
    return false;
}

heed_score *heed_score_custom(heed_score *score, const heed_stage_rule *rule, const heed_tensor *params,
                              int n_params, void *user) {
    static const char where[] = "score_custom";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    bool sound = rule_is_sound(ctx, where, rule, n_params);
    if (sound && score->params + n_params > HEED_MAX_STAGE_PARAMS) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a score has at most %d parameters",
                  HEED_MAX_STAGE_PARAMS);
        sound = false;
    }
    for (int i = 0; sound && i < n_params; i++)
        sound = heed_score_takes(ctx, where, "parameter", params ? params[i] : (heed_tensor){0});
    if (sound) {
        const struct heed_score_stage stage = {
            .kind = HEED_STAGE_CUSTOM, .rule = rule, .user = user, .param = score->params};
        for (int i = 0; i < n_params; i++) score->param[score->params++] = params[i];
        heed_score_append(ctx, score, where, &stage);
    }
    return heed_score_leave(ctx, score);
}

/* ---- normaliser, sink, mask ---- */

heed_score *heed_score_normalizer(heed_score *score, heed_normalizer kind) {
    heed_ctx *ctx = heed_score_enter(&score, "score_normalizer");
    if (!ctx) return score;
    if ((int)kind >= HEED_NORMALIZER_SOFTMAX && kind <= HEED_NORMALIZER_RELU)
        score->normalizer = kind;
    else
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "score_normalizer", "%d is not a normaliser", (int)kind);
    return heed_score_leave(ctx, score);
}

heed_score *heed_score_sink(heed_score *score, heed_tensor sink) {
    static const char where[] = "score_sink";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    if (!heed_is_none(score->sink))
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "the score has a sink already");
    else if (heed_score_takes(ctx, where, "sink", sink))
        score->sink = sink;
    return heed_score_leave(ctx, score);
}

heed_score *heed_score_mask(heed_score *score, heed_mask *mask) {
    heed_ctx *ctx = heed_score_enter(&score, "score_mask");
    if (!ctx) return score;
    heed_mask *joined = score->mask ? heed_mask_and(score->mask, mask) : mask;
    if (joined && !heed_object_is(joined, HEED_OBJECT_MASK)) {
        heed_mask_fail_dead(ctx, "score_mask", joined);
    } else if (joined && joined->base.ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, "score_mask", "the mask belongs to another context");
    } else if (joined && joined != score->mask) {
        heed_object_ref(joined);
        heed_object_drop(score->mask);
        score->mask = joined;
    }
    return heed_score_leave(ctx, score);
}
