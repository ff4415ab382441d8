/* Masks given cell by cell: by a tensor, by chance, by the user. */
#include "autograd/mask.h"

#include <string.h>

#include "tensor/philox.h"

/* ---- dense ---- */

static bool prepare_dense(struct heed_prepare *p, const heed_mask *mask) {
    return heed_prepare_broadcast(p, "mask", mask->tensor[0], p->problem->queries, p->problem->keys);
}

static const struct heed_mask_form form_dense = {.kind = &heed_mask_kind_dense,
                                                 .tensors = 1,
                                                 .dtype = HEED_BOOL,
                                                 .rows = {HEED_MASK_OF_CELLS},
                                                 .prepare = prepare_dense};

heed_mask *heed_mask_dense(heed_tensor allowed) {
    return heed_mask_of_tensors("mask_dense", &form_dense, &allowed, NULL);
}

static bool prepare_patch(struct heed_prepare *p, const heed_mask *mask) {
    const heed_tensor t = mask->tensor[0];
    const int rank = heed_rank(t);
    return heed_prepare_by_batch(p, "mask", t, rank > 1 ? heed_size(t, -2) : 1,
                                 rank > 0 ? heed_size(t, -1) : 1);
}

static void describe_patch(struct heed_mask_text *text, const heed_mask *mask) {
    const int64_t *number = mask->bound.number;
    heed_mask_say(text, "patch(%lld, %lld%s)", (long long)number[HEED_PATCH_QUERY],
                  (long long)number[HEED_PATCH_KEY], number[HEED_PATCH_OUTSIDE] ? ", visible outside" : "");
}

static const struct heed_mask_form form_patch = {.kind = &heed_mask_kind_patch,
                                                 .tensors = 1,
                                                 .dtype = HEED_BOOL,
                                                 .prepare = prepare_patch,
                                                 .describe = describe_patch};

static bool check_reserved(heed_ctx *ctx, const char *where, const uint64_t *reserved) {
    if (heed_reserved_zero(reserved, 4)) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    return false;
}

static bool check_offset(heed_ctx *ctx, const char *where, int64_t offset) {
    if (offset >= -HEED_MASK_FAR && offset <= HEED_MASK_FAR) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "an offset of %lld", (long long)offset);
    return false;
}

heed_mask *heed_mask_patch(heed_tensor allowed, const heed_mask_patch_options *options) {
    static const char where[] = "mask_patch";
    static const heed_mask_patch_options none;
    const heed_mask_patch_options *o = options ? options : &none;
    heed_ctx *ctx = heed_ctx_of(allowed);
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (check_reserved(ctx, where, o->reserved) && check_offset(ctx, where, o->query) &&
        check_offset(ctx, where, o->key))
        mask = heed_mask_of_tensors(
            where, &form_patch, &allowed,
            (const int64_t[HEED_MASK_NUMBERS]){[HEED_PATCH_QUERY] = o->query,
                                               [HEED_PATCH_KEY] = o->key,
                                               [HEED_PATCH_OUTSIDE] = o->visible_outside});
    return heed_mask_made(ctx, mask);
}

/* ---- random ---- */

/* The lines of one batch entry are as many as the heads that differ. */
static bool bind_random(struct heed_call *c, struct heed_bound_mask *bound,
                        const struct heed_problem *problem) {
    (void)c;
    if (bound->number[HEED_RANDOM_BATCH_LINES])
        bound->number[HEED_RANDOM_BATCH_LINES] = bound->number[HEED_RANDOM_HEAD_LINES] ? problem->heads : 1;
    return true;
}

static void describe_random(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "random(%g, seed %llu)", (double)mask->bound.number[HEED_RANDOM_THRESHOLD] / 65536,
                  (unsigned long long)mask->bound.number[HEED_RANDOM_KEY]);
}

static const struct heed_mask_form form_random = {
    .kind = &heed_mask_kind_random, .check = bind_random, .describe = describe_random};

heed_mask *heed_mask_random(heed_ctx *ctx, double keep, uint64_t seed,
                            const heed_mask_random_options *options) {
    static const char where[] = "mask_random";
    static const heed_mask_random_options none;
    const heed_mask_random_options *o = options ? options : &none;
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (!(keep >= 0.0 && keep <= 1.0))
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "probability %g is not in [0, 1]", keep);
    else if (check_reserved(ctx, where, o->reserved))
        mask = heed_mask_new(ctx, &form_random);
    if (mask) {
        mask->bound.number[HEED_RANDOM_KEY] = (int64_t)seed;
        mask->bound.number[HEED_RANDOM_THRESHOLD] = heed_keep_threshold(1.0 - keep);
        mask->bound.number[HEED_RANDOM_BATCH_LINES] = !o->same_for_batch;
        mask->bound.number[HEED_RANDOM_HEAD_LINES] = !o->same_for_heads;
    }
    return heed_mask_made(ctx, mask);
}

/* ---- the user's ---- */

static void describe_predicate(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "%s", mask->name);
}

static const struct heed_mask_form form_predicate = {.kind = &heed_mask_kind_predicate,
                                                     .describe = describe_predicate};

/* What the function says of the cells of one batch entry, or of one of packed sequences. */
static void ask(const heed_mask_predicate_options *of, const struct heed_view *cells, int64_t slice,
                int64_t batch, int64_t heads, const struct heed_sequence *s) {
    for (int64_t h = 0; h < heads; h++)
        for (int64_t q = 0; q < s->queries; q++) {
            uint8_t *row = heed_view_at(cells, slice * cells->stride[0] + h * cells->stride[1] +
                                                   (s->query + q) * cells->stride[2] + s->key);
            for (int64_t k = 0; k < s->keys; k++) row[k] = of->test(of->user, batch, h, q, k);
        }
}

/* Kernels of a device cannot call it: the host does, for every cell, and they read what it said. */
static bool prepare_called(struct heed_prepare *p, const heed_mask *mask) {
    const struct heed_problem *problem = p->problem;
    const bool packed = heed_is_packed(&problem->packed);
    const int64_t size[] = {packed ? 1 : problem->batch, problem->heads, problem->queries, problem->keys};
    const heed_tensor t = heed_zeros(p->ctx, HEED_BOOL, 4, size);
    const struct heed_node *node = heed_node_of(t, p->where);
    struct heed_exec *exec = &p->ctx->exec;
    struct heed_view cells;
    if (!node || heed_elements_map(exec, &node->view, HEED_MAP_WRITE, &cells) != HEED_OK) return false;
    if (packed && heed_has(&cells)) memset(cells.data, 0, (size_t)heed_view_count(&cells));
    for (int64_t b = 0; b < problem->batch; b++) {
        const struct heed_sequence all = {.queries = problem->queries, .keys = problem->keys};
        const struct heed_sequence own = packed ? heed_sequence_at(&problem->packed, b) : all;
        ask(&mask->bound.predicate, &cells, packed ? 0 : b, b, problem->heads, &own);
    }
    return heed_elements_unmap(exec, &node->view, HEED_MAP_WRITE, &cells) == HEED_OK &&
           heed_prepare_tensor(p, t);
}

static const struct heed_mask_form form_called = {.kind = &heed_mask_kind_dense,
                                                  .tensors = 1,
                                                  .dtype = HEED_BOOL,
                                                  .rows = {HEED_MASK_OF_CELLS},
                                                  .prepare = prepare_called,
                                                  .describe = describe_predicate};

heed_mask *heed_mask_predicate(heed_ctx *ctx, const heed_mask_predicate_options *options) {
    static const char where[] = "mask_predicate";
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (!options || !options->test)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "no test function given");
    else if (check_reserved(ctx, where, options->reserved))
        mask = heed_mask_new(ctx, ctx->exec.remote.device ? &form_called : &form_predicate);
    if (mask) {
        mask->bound.predicate = *options;
        mask->bound.predicate.name = NULL; /* the caller's string may end before the mask */
        snprintf(mask->name, sizeof mask->name, "%s", options->name ? options->name : "predicate");
    }
    return heed_mask_made(ctx, mask);
}
