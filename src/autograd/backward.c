/* Backward: walks the tape in reverse and lets every operation turn the gradients of its outputs into
 * gradients of its inputs.
 *
 * Invariants
 * - A gradient that is not a leaf's lives from its first contribution to the entry that made its node.
 * - Gradients may share storage (heed_dx_share); whoever adds to a shared one copies it first. */
#include "autograd/tape.h"

#include <string.h>

static const char where[] = HEED_BACKWARD_WHERE;

static bool is_leaf(const struct heed_node *node) {
    return !node->producer;
}

static size_t view_bytes(const struct heed_view *v) {
    return (size_t)heed_view_count(v) * heed_dtype_bytes(v->dtype);
}

/* ---- where gradients go ---- */

static void touch(heed_ctx *ctx, struct heed_node *leaf) {
    leaf->flags |= HEED_NODE_GRAD_FULL;
    leaf->grad_epoch = ctx->grad_epoch;
    if (leaf->flags & HEED_NODE_TOUCHED) return;
    leaf->flags |= HEED_NODE_TOUCHED;
    heed_node_ref(leaf);
    leaf->touched_next = ctx->tape->touched;
    ctx->tape->touched = leaf;
}

/* Whether a node's gradient lies beside those of its entry's other outputs, as the outputs lie. */
static bool is_in_place(const struct heed_node *node) {
    const struct heed_entry *entry = node->producer;
    return entry && entry->side_by_side && node->grad_storage == entry->side_by_side;
}

/* A place for it there. */
static bool place_grad(heed_ctx *ctx, const struct heed_node *node, struct heed_view *view,
                       struct heed_storage **storage) {
    struct heed_entry *entry = node->producer;
    int i = 0;
    if (!entry->side_by_side && !(entry->side_by_side = heed_storage_new(ctx, entry->side_by_side_bytes)))
        return false;
    while (entry->output[i] != node) i++;
    *storage = entry->side_by_side;
    heed_storage_ref(*storage);
    *view = node->view;
    view->data = (char *)(*storage)->data + entry->place[i];
    return true;
}

static bool new_grad(heed_ctx *ctx, const struct heed_node *node, struct heed_view *view,
                     struct heed_storage **storage) {
    if (node->producer && node->producer->place) return place_grad(ctx, node, view, storage);
    *view = node->view;
    heed_view_set_contiguous(view);
    *storage = heed_storage_new(ctx, view_bytes(view));
    if (!*storage) return false;
    view->data = (*storage)->data;
    return true;
}

/* Gives the node's gradient memory of its own, with what it holds so far if it is `full`. */
static bool move_grad(heed_ctx *ctx, struct heed_node *node, bool full) {
    struct heed_view view;
    struct heed_storage *storage;
    if (!new_grad(ctx, node, &view, &storage)) return false;
    if (full) {
        struct heed_copy_args copy = {.x = node->grad, .y.view = view};
        if (heed_exec_run(&ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) {
            heed_storage_drop(storage);
            return false;
        }
    }
    heed_storage_drop(node->grad_storage);
    node->grad_storage = storage;
    node->grad = view;
    return true;
}

/* The node's gradient as a place to write: shared with nobody, and contiguous or in its place beside others.
 */
static bool own_grad(heed_ctx *ctx, struct heed_node *node, bool *add) {
    bool full = is_leaf(node) ? heed_grad_is_full(node) : node->grad_storage != NULL;
    *add = full;
    if (is_leaf(node)) touch(ctx, node);
    bool ours = is_leaf(node) || is_in_place(node) ||
                (node->grad_storage && node->grad_storage->refs == 1 && heed_view_is_contiguous(&node->grad));
    return (node->grad_storage && ours) || move_grad(ctx, node, full);
}

bool heed_wants(const struct heed_backward *b, int i) {
    const struct heed_node *node = b->entry->input[i];
    return node && (node->producer || node->flags & HEED_NODE_WANTS_GRAD);
}

/* Whether an earlier input is the same node and its gradient is being written by the same kernel run. */
static bool given_before(const struct heed_backward *b, int i) {
    for (int j = 0; j < i; j++)
        if (b->given[j] && b->entry->input[j] == b->entry->input[i]) return true;
    return false;
}

/* Memory for a gradient that is then moved to the node's own, or added to it. */
static struct heed_grad_view pending(struct heed_backward *b, struct heed_node *node, bool add) {
    struct heed_view v = heed_backward_temp(b, node->view.dtype, node->view.rank, node->view.size);
    b->pending_node[b->pendings] = node;
    b->pending[b->pendings++] = (struct heed_grad_view){.view = v, .add = add};
    return (struct heed_grad_view){.view = v};
}

struct heed_grad_view heed_dx_strided(struct heed_backward *b, int i) {
    struct heed_grad_view none = {0};
    if (!b->ok || !heed_wants(b, i)) return none;
    struct heed_node *node = b->entry->input[i];
    if (given_before(b, i)) return pending(b, node, true);
    bool add;
    b->given[i] = true;
    if (own_grad(b->ctx, node, &add)) return (struct heed_grad_view){.view = node->grad, .add = add};
    b->ok = false;
    return none;
}

struct heed_grad_view heed_dx(struct heed_backward *b, int i) {
    struct heed_grad_view dx = heed_dx_strided(b, i);
    if (!heed_has(&dx.view) || heed_view_is_contiguous(&dx.view)) return dx;
    return pending(b, b->entry->input[i], dx.add);
}

struct heed_grad_view heed_dx_rows(struct heed_backward *b, int i) {
    struct heed_grad_view dx = heed_dx(b, i);
    if (heed_has(&dx.view)) dx.view = heed_view_rows(&dx.view);
    return dx;
}

struct heed_grad_view heed_dx_expanded(struct heed_backward *b, int i, const struct heed_view *like) {
    struct heed_grad_view dx = heed_dx(b, i);
    struct heed_view v = dx.view;
    if (heed_has(&v)) heed_view_expand(&v, like->rank, like->size, &dx.view);
    return dx;
}

void heed_dx_share(struct heed_backward *b, int i, int o, const struct heed_view *v) {
    if (!b->ok || !heed_wants(b, i)) return;
    struct heed_node *node = b->entry->input[i];
    if (!is_leaf(node) && !node->grad_storage && v->dtype == node->view.dtype) {
        node->grad_storage = b->entry->output[o]->grad_storage;
        heed_storage_ref(node->grad_storage);
        node->grad = *v;
        return;
    }
    bool add;
    if (!own_grad(b->ctx, node, &add)) {
        b->ok = false;
        return;
    }
    struct heed_copy_args copy = {.x = *v, .y = {.view = node->grad, .add = add}};
    if (heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) b->ok = false;
}

struct heed_grad_view heed_dx_over(struct heed_backward *b, int i, int o) {
    const struct heed_view dy = heed_dy(b, o);
    const struct heed_node *node = b->entry->input[i];
    const bool over = heed_has(&dy) && heed_dy_ends(b, o) && heed_view_is_contiguous(&dy) &&
                      heed_wants(b, i) && !is_leaf(node) && !node->grad_storage &&
                      dy.dtype == node->view.dtype;
    if (!over) return heed_dx(b, i);
    heed_dx_share(b, i, o, &dy);
    b->given[i] = true;
    return (struct heed_grad_view){.view = dy};
}

bool heed_dx_is_that_of(struct heed_backward *b, int i, int j, const struct heed_grad_view *dx) {
    struct heed_node *node = b->entry->input[i];
    const struct heed_node *other = b->entry->input[j];
    if (!b->ok || !heed_wants(b, i) || !heed_wants(b, j) || node == other || is_leaf(node) || is_leaf(other))
        return false;
    if (node->grad_storage || node->view.dtype != other->view.dtype || other->producer->place) return false;
    if (dx->add || dx->view.data != other->grad.data) return false; /* there it is more, or not alone */
    node->grad_storage = other->grad_storage;
    heed_storage_ref(node->grad_storage);
    node->grad = other->grad;
    return true;
}

static bool reads(const struct heed_entry *entry, const struct heed_node *node, int but) {
    for (int i = 0; i < entry->inputs; i++)
        if (i != but && entry->input[i] == node) return true;
    return false;
}

struct heed_entry *heed_sole_producer(const struct heed_backward *b, int i) {
    enum { FAR = 8 };
    const struct heed_node *node = b->entry->input[i];
    if (!node || is_leaf(node) || node->grad_storage || reads(b->entry, node, i)) return NULL;
    struct heed_entry *entry = b->entry->previous;
    for (int k = 0; k < FAR && entry; k++, entry = entry->previous) {
        if (entry == node->producer) return entry;
        if (reads(entry, node, -1)) return NULL;
    }
    return NULL;
}

/* ---- where gradients come from ---- */

struct heed_view heed_dy(struct heed_backward *b, int i) {
    const struct heed_node *node = b->entry->output[i];
    return b->ok && node->grad_storage ? node->grad : (struct heed_view){0};
}

bool heed_dy_ends(const struct heed_backward *b, int i) {
    const struct heed_storage *storage = b->entry->output[i]->grad_storage;
    return storage && storage->refs == 1;
}

struct heed_view heed_backward_temp(struct heed_backward *b, heed_dtype dtype, int rank,
                                    const int64_t *size) {
    struct heed_view v = {.dtype = dtype, .rank = rank};
    if (!b->ok) return v;
    if (rank > 0) memcpy(v.size, size, (size_t)rank * sizeof *size);
    heed_view_set_contiguous(&v);
    struct heed_storage *storage =
        b->temps < HEED_MAX_SAVED ? heed_storage_new(b->ctx, view_bytes(&v)) : NULL;
    if (!storage) {
        b->ok = false;
        return v;
    }
    b->temp[b->temps++] = storage;
    v.data = storage->data;
    return v;
}

struct heed_view heed_dy_dense(struct heed_backward *b, int i) {
    struct heed_view dy = heed_dy(b, i);
    if (!heed_has(&dy) || heed_view_is_contiguous(&dy)) return dy;
    struct heed_copy_args copy = {.x = dy, .y.view = heed_backward_temp(b, dy.dtype, dy.rank, dy.size)};
    if (b->ok && heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) b->ok = false;
    return copy.y.view;
}

struct heed_view heed_dy_rows(struct heed_backward *b, int i) {
    struct heed_view dy = heed_dy_dense(b, i);
    return heed_has(&dy) ? heed_view_rows(&dy) : dy;
}

bool heed_dy_side_by_side(struct heed_backward *b, struct heed_view *whole) {
    struct heed_entry *entry = b->entry;
    bool all = b->ok;
    for (int i = 0; b->ok && i < entry->outputs; i++) {
        struct heed_node *node = entry->output[i];
        if (!node->grad_storage)
            all = false;
        else if (!is_in_place(node))
            b->ok = move_grad(b->ctx, node, true);
    }
    if (b->ok) whole->data = entry->side_by_side->data;
    return all && b->ok;
}

heed_status heed_backward_run(struct heed_backward *b) {
    if (!b->ok) return b->ctx->status;
    struct heed_entry *entry = b->entry;
    void *saved = entry->kernel_saved ? entry->kernel_saved->data : NULL;
    return heed_exec_backward(&b->ctx->exec, entry->kernel, b->args, saved);
}

void heed_backward_done_with(struct heed_backward *b, const struct heed_view *v) {
    struct heed_entry *entry = b->entry;
    const size_t view = (size_t)((const char *)v - (const char *)b->args);
    struct heed_storage *storage = NULL;
    for (int i = 0; i < entry->moves; i++)
        if (entry->moved[i].view == view) storage = entry->moved[i].storage;
    for (int i = 0; i < entry->saves && !b->retain; i++) {
        if (entry->saved[i].storage != storage || !entry->saved[i].waits) continue;
        heed_saved_drop(&entry->saved[i]);
        entry->saved[i] = entry->saved[--entry->saves];
    }
}

void heed_backward_done_with_kernel(struct heed_backward *b) {
    if (b->retain) return;
    heed_storage_drop(b->entry->kernel_saved);
    b->entry->kernel_saved = NULL;
}

/* ---- the walk ---- */

static void drop_output_grads(struct heed_entry *entry) {
    entry->inner_done = false;
    for (int i = 0; i < entry->outputs; i++) {
        struct heed_node *node = entry->output[i];
        heed_storage_drop(node->grad_storage);
        node->grad_storage = NULL;
        node->grad.data = NULL;
    }
    heed_storage_drop(entry->side_by_side);
    entry->side_by_side = NULL;
}

static bool gradient_arrived(const struct heed_entry *entry) {
    for (int i = 0; i < entry->outputs; i++)
        if (entry->output[i]->grad_storage) return true;
    return false;
}

static heed_status check_entry(heed_ctx *ctx, const struct heed_entry *entry) {
    const struct heed_op *op = entry->op;
    if (!op->backward)
        return heed_fail(ctx, HEED_ERROR_GRADIENT, where, "%s has no gradient: %s", op->name,
                         op->no_gradient);
    if (entry->used)
        return heed_fail(ctx, HEED_ERROR_STATE, where,
                         "the graph through %s was freed by an earlier backward (ask it to retain)",
                         op->name);
    return heed_entry_check_saved(ctx, entry);
}

static void add_pending(struct heed_backward *b) {
    for (int i = 0; i < b->pendings && b->ok; i++) {
        struct heed_copy_args copy = {.x = b->pending[i].view,
                                      .y = {b->pending_node[i]->grad, b->pending[i].add}};
        if (heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) b->ok = false;
    }
}

static heed_status run_entry(heed_ctx *ctx, struct heed_entry *entry, bool retain) {
    heed_status status = check_entry(ctx, entry);
    if (status == HEED_OK) status = heed_entry_prepare(ctx, entry);
    if (status == HEED_OK && !retain) status = heed_entry_bequeath(ctx, entry);
    if (status != HEED_OK) return status;
    struct heed_backward b = {.ctx = ctx, .entry = entry, .args = entry->args, .retain = retain, .ok = true};
    ctx->exec.operation = entry->op->name;
    status = entry->op->backward(&b);
    if (status != HEED_OK) heed_fail(ctx, status, where, "%s failed", entry->op->name);
    add_pending(&b);
    ctx->exec.operation = NULL;
    for (int i = 0; i < b.temps; i++) heed_storage_drop(b.temp[i]);
    drop_output_grads(entry);
    if (!retain) {
        heed_entry_release(ctx, entry);
        entry->used = true;
    }
    return ctx->status;
}

static heed_status walk(heed_ctx *ctx, struct heed_entry *last, bool retain) {
    heed_status status = HEED_OK;
    for (struct heed_entry *entry = last; entry && status == HEED_OK; entry = entry->previous)
        if (gradient_arrived(entry)) status = run_entry(ctx, entry, retain);
    if (status != HEED_OK)
        for (struct heed_entry *entry = last; entry; entry = entry->previous) drop_output_grads(entry);
    heed_tape_rest(ctx);
    return status;
}

/* Training steps before this one, as a program and its optimiser count them. */
static uint64_t steps_before(const heed_ctx *ctx) {
    return ctx->random.step > 0 ? ctx->random.step - 1 : 0;
}

static heed_status seed(heed_ctx *ctx, struct heed_node *node, const heed_backward_options *options) {
    char one[128], two[128];
    bool add;
    struct heed_node *gradient = NULL;
    if (options && !heed_is_none(options->gradient)) {
        gradient = heed_node_of(options->gradient, where);
        if (!gradient)
            return heed_fail(ctx, HEED_ERROR_ARGUMENT, where,
                             "the gradient is the result of an operation that failed");
        if (gradient->ctx != ctx)
            return heed_fail(ctx, HEED_ERROR_CONTEXT, where, "the gradient belongs to another context");
        if (!heed_view_same_shape(&gradient->view, &node->view))
            return heed_fail(ctx, HEED_ERROR_SHAPE, where, "%s does not match %s",
                             heed_named_shape("gradient", &gradient->view, one, sizeof one),
                             heed_named_shape("output", &node->view, two, sizeof two));
        if (!heed_dtypes_meet(ctx, gradient->view.dtype, node->view.dtype))
            return heed_fail(ctx, HEED_ERROR_DTYPE, where, "the gradient is %s, the output %s",
                             heed_dtype_name(gradient->view.dtype), heed_dtype_name(node->view.dtype));
    } else if (heed_view_count(&node->view) != 1) {
        return heed_fail(ctx, HEED_ERROR_SHAPE, where,
                         "%s must have exactly one element, or be given its gradient",
                         heed_named_shape("output", &node->view, one, sizeof one));
    }
    if (gradient) {
        if (!own_grad(ctx, node, &add)) return ctx->status;
        struct heed_copy_args copy = {.x = gradient->view, .y = {node->grad, add}};
        return heed_exec_run(&ctx->exec, HEED_PRIMITIVE_COPY, &copy);
    }
    if (!own_grad(ctx, node, &add)) return ctx->status;
    const struct heed_loss_args args = {
        .loss = node->view, .dloss = {node->grad, add}, .step = steps_before(ctx)};
    return heed_exec_run(&ctx->exec, HEED_PRIMITIVE_LOSS, &args);
}

static heed_status backward_from(heed_ctx *ctx, struct heed_node *node,
                                 const heed_backward_options *options) {
    if (options && !heed_reserved_zero(options->reserved, 4))
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    if (!node->producer && !(node->flags & HEED_NODE_WANTS_GRAD))
        return heed_fail(ctx, HEED_ERROR_GRADIENT, where,
                         "nothing that asks for a gradient was recorded on the way to this tensor");
    if (node->producer && !node->producer->op->backward) return check_entry(ctx, node->producer);
    heed_status status = seed(ctx, node, options);
    if (status != HEED_OK && node->producer) drop_output_grads(node->producer);
    if (status != HEED_OK) return status;
    return walk(ctx, node->producer, options && options->retain);
}

heed_status heed_backward_with(heed_tensor output, const heed_backward_options *options) {
    heed_ctx *ctx = heed_ctx_of(output);
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    struct heed_node *node = heed_node_of(output, where);
    if (ctx->status == HEED_OK) {
        if (node)
            backward_from(ctx, node, options);
        else
            heed_fail(ctx, HEED_ERROR_ARGUMENT, where,
                      "the output is the result of an operation that failed");
    }
    heed_leave(ctx);
    return heed_error_status(ctx);
}

heed_status heed_backward(heed_tensor loss) {
    return heed_backward_with(loss, NULL);
}
