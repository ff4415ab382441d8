/* An operation being called: from handles to views, and from a kernel's run to an entry of the tape. */
#include "autograd/tape.h"

#include <string.h>

/* ---- beginning ---- */

heed_ctx *heed_find_ctx(int count, const heed_tensor *tensor) {
    for (int i = 0; i < count; i++)
        if (tensor[i].node && !tensor[i].node->ctx->is_static_inert) return tensor[i].node->ctx;
    return heed_inert_ctx();
}

struct heed_node *heed_argument(heed_ctx *ctx, const char *where, heed_tensor t, int number) {
    if (!t.node) return NULL;
    if (t.node->ctx->is_static_inert) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "argument %d was made of no tensor", number);
        return NULL;
    }
    if (t.node->ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, where, "argument %d belongs to another context", number);
        return NULL;
    }
    struct heed_node *node = heed_node_of(t, where);
    if (!node)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "argument %d is the result of an operation that failed",
                  number);
    return node;
}

bool heed_node_requires_grad(const struct heed_node *node) {
    return heed_is_float(node->view.dtype) && (node->producer || node->flags & HEED_NODE_WANTS_GRAD);
}

static void take_input(struct heed_call *c, int i, heed_tensor t) {
    struct heed_node *node = heed_argument(c->ctx, c->op->name, t, i + 1);
    if (!node && t.node) c->ok = false;
    c->input[i] = node;
    if (node && heed_node_requires_grad(node)) c->record = true;
}

bool heed_call_begin(struct heed_call *c, const struct heed_op *op, heed_ctx *ctx, int inputs,
                     const heed_tensor *input) {
    c->op = op;
    c->ctx = ctx ? ctx : heed_find_ctx(inputs, input);
    c->ok = c->record = c->entered = c->side_by_side = false;
    c->inputs = inputs;
    c->outputs = c->saves = c->moves = c->temps = c->lowered = 0;
    c->blob = NULL;
    c->remade = NULL;
    c->kernel = NULL;
    c->kernel_saved = NULL;
    if (c->ctx->broken) return false;
    c->entered = heed_enter(c->ctx);
    if (!c->entered) return false;
    c->around = c->ctx->exec.operation;
    c->ctx->exec.operation = op->name;
    if (c->ctx->status != HEED_OK) return false;
    c->ok = true;
    for (int i = 0; i < inputs; i++) take_input(c, i, input[i]);
    if (!(c->ctx->flags & HEED_RECORD)) c->record = false;
    heed_call_lower(c);
    return c->ok;
}

bool heed_call_fail(struct heed_call *c, heed_status status, const char *format, ...) {
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    heed_fail(c->ctx, status, c->op->name, "%s", message);
    c->ok = false;
    return false;
}

bool heed_call_float(struct heed_call *c, int i, const char *name) {
    if (!c->ok) return false;
    const struct heed_node *node = c->input[i];
    if (!node) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%s is missing", name);
    const heed_dtype dtype = node->view.dtype;
    if (!heed_is_float(dtype))
        return heed_call_fail(c, HEED_ERROR_DTYPE, "%s is %s, not f32, f64 or bf16", name,
                              heed_dtype_name(dtype));
    if (i > 0 && c->input[0] && !heed_dtypes_meet(c->ctx, c->input[0]->view.dtype, dtype))
        return heed_call_fail(c, HEED_ERROR_DTYPE, "%s is %s, but the first argument is %s", name,
                              heed_dtype_name(dtype), heed_dtype_name(c->input[0]->view.dtype));
    return true;
}

bool heed_call_dtype(struct heed_call *c, int i, const char *name, heed_dtype dtype) {
    if (!c->ok) return false;
    if (!c->input[i]) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%s is missing", name);
    if (c->input[i]->view.dtype == dtype) return true;
    return heed_call_fail(c, HEED_ERROR_DTYPE, "%s is %s, not %s", name,
                          heed_dtype_name(c->input[i]->view.dtype), heed_dtype_name(dtype));
}

int heed_call_dim(struct heed_call *c, int dim, int rank) {
    int d = dim < 0 ? dim + rank : dim;
    if (c->ok && d >= 0 && d < rank) return d;
    if (c->ok)
        heed_call_fail(c, HEED_ERROR_ARGUMENT, "there is no dimension %d in a tensor of rank %d", dim, rank);
    return -1;
}

/* ---- views ---- */

struct heed_view heed_call_view(struct heed_call *c, int i) {
    for (int j = 0; c->ok && j < c->lowered; j++)
        if (c->low[j].input == i) return c->low[j].view;
    return c->ok && c->input[i] ? c->input[i]->view : (struct heed_view){0};
}

struct heed_view heed_call_dense(struct heed_call *c, int i) {
    struct heed_view v = heed_call_view(c, i);
    return heed_has(&v) ? heed_call_dense_view(c, &v) : v;
}

struct heed_view heed_call_dense_view(struct heed_call *c, const struct heed_view *v) {
    if (!c->ok || heed_view_is_contiguous(v)) return *v;
    struct heed_copy_args copy = {.x = *v, .y.view = heed_call_temp(c, v->dtype, v->rank, v->size)};
    if (c->ok && heed_exec_run(&c->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c->ok = false;
    return copy.y.view;
}

struct heed_view heed_call_dense_rows(struct heed_call *c, int i) {
    struct heed_view v = heed_call_view(c, i);
    const int last = v.rank - 1;
    if (!heed_has(&v) || last < 0) return v;
    if (v.size[last] <= 1) v.stride[last] = 1;
    return v.stride[last] == 1 ? v : heed_call_dense(c, i);
}

struct heed_view heed_call_temp(struct heed_call *c, heed_dtype dtype, int rank, const int64_t *size) {
    struct heed_view v = {.dtype = dtype, .rank = rank};
    if (!c->ok) return v;
    if (rank > 0) memcpy(v.size, size, (size_t)rank * sizeof *size);
    size_t bytes;
    char text[96];
    if (!heed_view_set_contiguous(&v) ||
        __builtin_mul_overflow((size_t)heed_view_count(&v), heed_dtype_bytes(dtype), &bytes)) {
        heed_call_fail(c, HEED_ERROR_MEMORY, "%s is larger than memory can be",
                       heed_shape_text(rank, size, text, sizeof text));
        return v;
    }
    if (c->temps == HEED_MAX_SAVED) {
        heed_call_fail(c, HEED_ERROR_INTERNAL, "too many temporary tensors");
        return v;
    }
    struct heed_storage *storage = heed_storage_new(c->ctx, bytes);
    if (!storage) {
        c->ok = false;
        return v;
    }
    c->temp[c->temps++] = storage;
    v.data = storage->data;
    return v;
}

static void add_output(struct heed_call *c, struct heed_node *node) {
    if (!node) {
        c->ok = false;
    } else if (c->outputs == HEED_MAX_OUTPUTS) {
        heed_node_drop(node);
        heed_call_fail(c, HEED_ERROR_INTERNAL, "more than %d outputs", HEED_MAX_OUTPUTS);
    } else {
        c->output[c->outputs++] = node;
    }
}

struct heed_view heed_call_output(struct heed_call *c, heed_dtype dtype, int rank, const int64_t *size) {
    if (!c->ok) return (struct heed_view){0};
    add_output(c, heed_node_new(c->ctx, c->op->name, dtype, rank, size));
    return c->ok ? c->output[c->outputs - 1]->view : (struct heed_view){0};
}

void heed_call_output_view(struct heed_call *c, int i, const struct heed_view *v) {
    if (c->ok) add_output(c, heed_node_view(c->ctx, c->input[i]->storage, v));
}

void heed_call_output_part(struct heed_call *c, const struct heed_view *v) {
    if (!c->ok) return;
    add_output(c, heed_node_view(c->ctx, c->temp[c->temps - 1], v));
    c->side_by_side = true;
}

/* ---- what backward will need ---- */

static bool holds(const struct heed_storage *storage, const void *data) {
    const char *start = storage->data;
    const char *at = data;
    return at == start || (at > start && at < start + storage->bytes);
}

static struct heed_storage *storage_of(const struct heed_call *c, const void *data) {
    for (int i = 0; i < c->outputs; i++)
        if (holds(c->output[i]->storage, data)) return c->output[i]->storage;
    for (int i = 0; i < c->inputs; i++)
        if (c->input[i] && holds(c->input[i]->storage, data)) return c->input[i]->storage;
    for (int i = 0; i < c->temps; i++)
        if (holds(c->temp[i], data)) return c->temp[i];
    return NULL;
}

static void save(struct heed_call *c, struct heed_storage *storage, bool pinned) {
    int i = 0;
    while (i < c->saves && c->saved[i] != storage) i++;
    if (!storage || i == HEED_MAX_SAVED) {
        heed_call_fail(c, HEED_ERROR_INTERNAL, "cannot save a tensor for backward");
        return;
    }
    c->pinned[i] = pinned || (i < c->saves && c->pinned[i]);
    c->saved[i] = storage;
    if (i == c->saves) c->saves++;
}

void heed_call_save(struct heed_call *c, const struct heed_view *v) {
    if (c->ok && c->record && heed_has(v)) save(c, storage_of(c, v->data), true);
}

void heed_call_save_view(struct heed_call *c, const struct heed_view *v) {
    if (!c->ok || !c->record || !heed_has(v)) return;
    struct heed_storage *storage = storage_of(c, v->data);
    const bool waits = storage && storage->recipe && c->moves < HEED_MAX_MOVED;
    save(c, storage, !waits);
    if (waits) c->moved[c->moves++] = v;
}

void heed_call_can_remake(struct heed_call *c, const struct heed_view *y) {
    c->remade = y;
}

bool heed_call_is_remade(const struct heed_call *c, int i) {
    return c->ok && c->input[i] && c->input[i]->storage->recipe;
}

void heed_call_save_input(struct heed_call *c, int i) {
    struct heed_view v = heed_call_view(c, i);
    heed_call_save(c, &v);
}

void heed_call_save_output(struct heed_call *c, int i) {
    if (c->ok) heed_call_save(c, &c->output[i]->view);
}

void *heed_call_blob(struct heed_call *c, size_t bytes) {
    if (!c->ok) return NULL;
    c->blob = heed_block_zeroed(c->ctx->exec.memory, bytes);
    if (!c->blob) heed_call_fail(c, HEED_ERROR_MEMORY, "out of memory (%zu bytes)", bytes);
    return c->blob;
}

/* ---- ending ---- */

static size_t round_up(size_t bytes) {
    return (bytes + 15) / 16 * 16;
}

/* Where each output begins in the storage they share. */
static void place_outputs(const struct heed_call *c, struct heed_entry *entry, size_t *place) {
    const struct heed_storage *storage = c->output[0]->storage;
    for (int i = 0; i < c->outputs; i++)
        place[i] = (size_t)((const char *)c->output[i]->view.data - (const char *)storage->data);
    entry->place = place;
    entry->side_by_side_bytes = storage->bytes;
}

/* One block holds the entry and its arrays. */
static struct heed_entry *entry_new(struct heed_call *c, const void *args, size_t bytes) {
    size_t inputs = round_up((size_t)c->inputs * sizeof(struct heed_node *));
    size_t outputs = round_up((size_t)c->outputs * sizeof(struct heed_node *));
    size_t saves = round_up((size_t)c->saves * sizeof(struct heed_saved));
    size_t moves = round_up((size_t)c->moves * sizeof(struct heed_moved));
    size_t places = c->side_by_side ? round_up((size_t)c->outputs * sizeof(size_t)) : 0;
    char *block = heed_block_zeroed(c->ctx->exec.memory, round_up(sizeof(struct heed_entry)) + inputs +
                                                             outputs + saves + moves + places + bytes);
    if (!block) {
        heed_call_fail(c, HEED_ERROR_MEMORY, "out of memory");
        return NULL;
    }
    struct heed_entry *entry = (struct heed_entry *)block;
    block += round_up(sizeof *entry);
    entry->input = (struct heed_node **)block;
    entry->output = (struct heed_node **)(block += inputs);
    entry->saved = (struct heed_saved *)(block += outputs);
    entry->moved = (struct heed_moved *)(block += saves);
    if (places) place_outputs(c, entry, (size_t *)(block + moves));
    entry->args = block + moves + places;
    if (bytes) memcpy(entry->args, args, bytes);
    return entry;
}

/* What an entry saves, and which of it may go until backward comes. */
static void record_saved(const struct heed_call *c, struct heed_entry *entry, const void *args) {
    entry->saves = c->saves;
    for (int i = 0; i < c->saves; i++) {
        struct heed_storage *storage = c->saved[i];
        heed_storage_ref(storage);
        entry->saved[i] = (struct heed_saved){storage, storage->version, !c->pinned[i] && storage->recipe};
        if (entry->saved[i].waits) storage->recipe->waiting++;
    }
    entry->moves = c->moves;
    for (int i = 0; i < c->moves; i++) {
        struct heed_storage *storage = storage_of(c, c->moved[i]->data);
        entry->moved[i] = (struct heed_moved){
            .storage = storage,
            .view = (size_t)((const char *)c->moved[i] - (const char *)args),
            .offset = (size_t)((const char *)c->moved[i]->data - (const char *)storage->data)};
    }
}

/* How deep the recipe of the output is; keeps inputs that would make it too deep. */
static int recipe_depth(struct heed_call *c) {
    int depth = 0;
    for (int i = 0; c->remade && !c->kernel->remake && i < c->saves; i++) {
        const struct heed_recipe *of_input = c->pinned[i] ? NULL : c->saved[i]->recipe;
        if (!of_input) continue;
        if (of_input->depth == HEED_MOST_REMADE)
            c->pinned[i] = true;
        else if (of_input->depth >= depth)
            depth = of_input->depth + 1;
    }
    return depth;
}

static void record_recipe(const struct heed_call *c, struct heed_entry *entry, const void *args, int depth) {
    if (!c->remade) return;
    struct heed_storage *storage = c->output[0]->storage;
    entry->recipe = (struct heed_recipe){.entry = entry, .storage = storage, .depth = depth};
    entry->remade = (size_t)((const char *)c->remade - (const char *)args);
    storage->recipe = &entry->recipe;
}

static void record(struct heed_call *c, const void *args, size_t bytes) {
    struct heed_entry *entry = entry_new(c, args, bytes);
    if (!entry) return;
    entry->op = c->op;
    entry->inputs = c->inputs;
    for (int i = 0; i < c->inputs; i++) {
        struct heed_node *node = c->input[i];
        if (!node || !heed_node_requires_grad(node)) continue;
        heed_node_ref(node);
        entry->input[i] = node;
    }
    entry->outputs = c->outputs;
    for (int i = 0; i < c->outputs; i++) {
        heed_node_ref(c->output[i]);
        entry->output[i] = c->output[i];
        c->output[i]->producer = entry;
    }
    const int depth = recipe_depth(c);
    record_saved(c, entry, args);
    record_recipe(c, entry, args, depth);
    entry->blob = c->blob;
    c->blob = NULL;
    entry->kernel = c->kernel;
    entry->kernel_saved = c->kernel_saved;
    c->kernel_saved = NULL;
    heed_tape_append(c->ctx, entry);
}

void heed_call_choose(struct heed_call *c, enum heed_primitive primitive, const void *args) {
    struct heed_exec *exec = &c->ctx->exec;
    struct heed_sizes sizes = {0};
    exec->recording = c->record;
    if (!c->ok || c->kernel) return;
    c->kernel = heed_exec_select(exec, primitive, args);
    if (c->kernel && c->record && c->kernel->sizes) c->kernel->sizes(exec, args, &sizes);
    if (sizes.saved) c->kernel_saved = heed_storage_new(c->ctx, sizes.saved);
    c->ok = c->kernel && (c->kernel_saved || !sizes.saved);
}

void heed_call_forward(struct heed_call *c, enum heed_primitive primitive, const void *args) {
    heed_call_choose(c, primitive, args);
    if (!c->ok) return;
    void *saved = c->kernel_saved ? c->kernel_saved->data : NULL;
    c->ok = heed_exec_forward(&c->ctx->exec, c->kernel, args, saved) == HEED_OK;
}

heed_tensor heed_call_run(struct heed_call *c, enum heed_primitive primitive, const void *args,
                          size_t bytes) {
    heed_call_forward(c, primitive, args);
    return heed_call_finish(c, args, bytes);
}

heed_tensor heed_call_finish(struct heed_call *c, const void *args, size_t bytes) {
    if (c->ok && c->record) record(c, args, bytes);
    return heed_call_end(c);
}

heed_tensor heed_call_end(struct heed_call *c) {
    if (!c->entered) return heed_handle(c->ctx, NULL);
    for (int i = 0; i < c->temps; i++) heed_storage_drop(c->temp[i]);
    heed_storage_drop(c->kernel_saved);
    heed_block_free(c->ctx->exec.memory, c->blob);
    for (int i = 0; i < c->outputs; i++) {
        if (c->ok)
            heed_node_give_to_scope(c->output[i]);
        else
            heed_node_drop(c->output[i]);
    }
    c->ctx->exec.operation = c->around;
    heed_leave(c->ctx);
    return heed_call_result(c, 0);
}

heed_tensor heed_call_result(struct heed_call *c, int i) {
    return heed_handle(c->ctx, c->ok && i < c->outputs ? c->output[i] : NULL);
}
