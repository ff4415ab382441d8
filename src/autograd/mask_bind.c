/* A mask made ready for one call: its tensors in the form that kernels read, its values checked. */
#include "autograd/mask.h"

#include <string.h>

/* ---- preparing ---- */

/* [others.., kept] as [others.., 1.., kept], with `ones` sizes of 1 in between; others are some of the first
 * `batches` batch dimensions and the heads. */
static bool prepare_apart(struct heed_prepare *p, const char *name, heed_tensor t, int batches, int ones,
                          int kept, int64_t n) {
    const struct heed_node *node = heed_node_of(t, p->where);
    if (!node) return false;
    const struct heed_view *v = &node->view;
    const int others = v->rank - kept, most = batches + 3 - kept - ones;
    int64_t size[HEED_MAX_RANK];
    char text[128];
    if (others < 0 || others > most) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s does not have rank %d to %d",
                  heed_named_shape(name, v, text, sizeof text), kept, kept + most);
        return false;
    }
    for (int d = 0; d < others; d++) size[d] = v->size[d];
    for (int d = 0; d < ones; d++) size[others + d] = 1;
    for (int d = 0; d < kept; d++) size[others + ones + d] = v->size[others + d];
    t = heed_reshape(t, v->rank + ones, size);
    return kept == 0 ? heed_prepare_by_batch(p, name, t, 1, n) : heed_prepare_broadcast(p, name, t, 1, n);
}

bool heed_mask_prepare_batch(struct heed_prepare *p, const char *name, heed_tensor t) {
    return prepare_apart(p, name, t, p->problem->batch_rank, 3, 0, 1);
}

bool heed_mask_prepare_row(struct heed_prepare *p, const char *name, heed_tensor t, int64_t n) {
    return prepare_apart(p, name, t, heed_row_batches(p->problem), 2, 1, n);
}

bool heed_mask_prepare_head_row(struct heed_prepare *p, const char *name, heed_tensor t, int64_t n) {
    return prepare_apart(p, name, t, heed_row_batches(p->problem), 1, 1, n);
}

bool heed_mask_prepare(struct heed_prepare *p, const heed_mask *mask) {
    if (!mask) return true;
    if (!heed_object_is(mask, HEED_OBJECT_MASK) || mask->base.ctx != p->ctx) {
        heed_mask_fail_dead(p->ctx, p->where, mask);
        return false;
    }
    p->out->masks++;
    if (mask->form->prepare && !mask->form->prepare(p, mask)) return false;
    return heed_mask_prepare(p, mask->a) && heed_mask_prepare(p, mask->b);
}

/* ---- binding ---- */

struct bind {
    struct heed_call *c;
    const struct heed_problem *problem;
    struct heed_bound_mask *node; /* the next free one */
    int input;                    /* the next tensor */
};

/* What belongs to one of packed sequences; sizes of 1 that repeat stay. */
static void cut_tensor(struct heed_view *v, enum heed_mask_rows rows, const struct heed_problem *problem,
                       int64_t i) {
    const struct heed_sequence s = heed_sequence_at(&problem->packed, i);
    if (rows == HEED_MASK_BY_BATCH) {
        if (v->size[0] == problem->batch) heed_view_cut(v, 0, i, 1);
    } else {
        const bool of_keys = rows != HEED_MASK_OF_QUERIES;
        const int64_t all = of_keys ? problem->keys : problem->queries;
        if (rows == HEED_MASK_OF_CELLS && v->size[2] == problem->queries)
            heed_view_cut(v, 2, s.query, s.queries);
        if (v->size[3] == all) heed_view_cut(v, 3, of_keys ? s.key : s.query, of_keys ? s.keys : s.queries);
    }
}

static bool check_mapped(struct bind *b, const struct heed_mask_form *form, struct heed_bound_mask *bound) {
    if (!heed_is_packed(&b->problem->packed)) return form->check(b->c, bound, b->problem);
    const struct heed_bound_mask all = *bound;
    for (int64_t i = 0; i < b->problem->batch; i++) {
        const struct heed_problem own = heed_problem_of_sequence(b->problem, i);
        struct heed_bound_mask one = all;
        for (int j = 0; j < form->tensors; j++) cut_tensor(&one.tensor[j], form->rows[j], b->problem, i);
        if (!form->check(b->c, &one, &own)) return false;
        memcpy(bound->number, one.number, sizeof one.number);
    }
    return true;
}

/* What the answer of a check depends on, if it may be kept: where elements are far, each look at them waits
 * for the device, and a mask is bound by every layer and in every step. */
static bool may_keep(const struct bind *b, const heed_mask *mask, struct heed_mask_seen *now) {
    const struct heed_problem *p = b->problem;
    if (!b->c->ctx->exec.remote.device || heed_is_packed(&p->packed) || mask->form->tensors == 0)
        return false;
    *now = (struct heed_mask_seen){
        .sound = true, .batch = p->batch, .heads = p->heads, .queries = p->queries, .keys = p->keys};
    for (int i = 0; i < mask->form->tensors; i++) now->version[i] = mask->tensor[i].node->storage->version;
    return true;
}

static bool is_as_before(const struct heed_mask_seen *before, const struct heed_mask_seen *now) {
    return before->sound && before->version[0] == now->version[0] && before->version[1] == now->version[1] &&
           before->batch == now->batch && before->heads == now->heads && before->queries == now->queries &&
           before->keys == now->keys;
}

/* The check looks at values, which are fetched for it where they are far and not the host's own. */
static bool look_at_tensors(struct bind *b, const struct heed_mask_form *form,
                            struct heed_bound_mask *bound) {
    struct heed_node *const *node = b->c->input + b->input - form->tensors;
    struct heed_bound_mask mapped = *bound;
    int count = 0;
    bool sound = true;
    for (; sound && count < form->tensors; count++)
        sound =
            heed_storage_map(node[count]->storage, &bound->tensor[count], &mapped.tensor[count]) == HEED_OK;
    sound = sound && check_mapped(b, form, &mapped);
    for (int i = 0; i < count; i++)
        heed_storage_unmap(node[i]->storage, &bound->tensor[i], &mapped.tensor[i]);
    memcpy(bound->number, mapped.number, sizeof bound->number);
    return sound;
}

static bool check_tensors(struct bind *b, heed_mask *mask, struct heed_bound_mask *bound) {
    struct heed_mask_seen now;
    if (!mask->form->check) return true;
    const bool keeps = may_keep(b, mask, &now);
    if (keeps && is_as_before(&mask->seen, &now)) {
        memcpy(bound->number, mask->seen.number, sizeof bound->number);
        return true;
    }
    if (!look_at_tensors(b, mask->form, bound)) return false;
    memcpy(now.number, bound->number, sizeof now.number);
    if (keeps) mask->seen = now;
    return true;
}

static void bind_rows(const struct heed_mask_form *form, const struct heed_packed *packed,
                      struct heed_bound_mask *bound) {
    for (int i = 0; i < form->tensors; i++) {
        const enum heed_mask_rows rows = form->rows[i];
        if (rows == HEED_MASK_OF_CELLS) bound->row_starts[i] = packed->query_starts;
        if (rows == HEED_MASK_OF_QUERIES) bound->column_starts[i] = packed->query_starts;
        if (rows == HEED_MASK_OF_KEYS || rows == HEED_MASK_OF_CELLS)
            bound->column_starts[i] = packed->key_starts;
    }
}

/* Sizes of 1 repeat. */
static void bind_tensors(struct bind *b, heed_mask *mask, struct heed_bound_mask *bound) {
    const struct heed_mask_form *form = mask->form;
    for (int i = 0; i < form->tensors; i++) {
        bound->tensor[i] = heed_call_view(b->c, b->input);
        heed_call_save_input(b->c, b->input++);
    }
    if (!b->c->ok || !check_tensors(b, mask, bound)) return;
    bind_rows(form, &b->problem->packed, bound);
    for (int i = 0; i < form->tensors; i++)
        for (int d = 0; d < 4; d++)
            if (bound->tensor[i].size[d] == 1) bound->tensor[i].stride[d] = 0;
}

static const struct heed_bound_mask *bind_mask(struct bind *b, heed_mask *mask) {
    if (!mask || !b->c->ok) return NULL;
    struct heed_bound_mask *bound = b->node++;
    *bound = mask->bound;
    bind_tensors(b, mask, bound);
    bound->a = bind_mask(b, mask->a);
    bound->b = bind_mask(b, mask->b);
    return bound;
}

const struct heed_bound_mask *heed_mask_bind(struct heed_call *c, int first, heed_mask *mask, int masks,
                                             const struct heed_problem *problem) {
    struct bind b = {.c = c, .problem = problem, .input = first};
    b.node = heed_call_blob(c, (size_t)masks * sizeof *b.node);
    const struct heed_bound_mask *bound = c->ok ? bind_mask(&b, mask) : NULL;
    return c->ok ? bound : NULL;
}

/* ---- checking ---- */

bool heed_mask_values(struct heed_call *c, const char *name, const struct heed_bound_mask *bound, int i,
                      int64_t low, int64_t high) {
    const struct heed_view *t = &bound->tensor[i];
    int64_t at[4];
    for (at[0] = 0; at[0] < t->size[0]; at[0]++)
        for (at[1] = 0; at[1] < t->size[1]; at[1]++)
            for (at[2] = 0; at[2] < t->size[2]; at[2]++)
                for (at[3] = 0; at[3] < t->size[3]; at[3]++) {
                    int64_t offset = 0;
                    for (int d = 0; d < 4; d++) offset += at[d] * t->stride[d];
                    const int32_t value = ((const int32_t *)t->data)[offset];
                    if (value >= low && value <= high) continue;
                    return heed_call_fail(c, HEED_ERROR_ARGUMENT,
                                          "%s %d at [%lld, %lld, %lld, %lld] is not in %lld to %lld", name,
                                          value, (long long)at[0], (long long)at[1], (long long)at[2],
                                          (long long)at[3], (long long)low, (long long)high);
                }
    return true;
}
