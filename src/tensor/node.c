/* Storages and nodes: elements, and the tensors that look at them. See internal.h for the invariants. */
#include "tensor/internal.h"

#include <string.h>

static void no_memory(heed_ctx *ctx, size_t bytes) {
    heed_fail(ctx, HEED_ERROR_MEMORY, ctx->exec.operation, "out of memory (%zu bytes)", bytes);
}

/* Equal records are cut from slabs that live as long as the context, so that a stale handle always points
 * at a record of its own kind. */
static void *pool_take(heed_ctx *ctx, struct heed_pool *pool, size_t bytes) {
    enum { PER_SLAB = 16 };
    if (!pool->free) {
        char *slab = heed_block_zeroed(ctx->exec.memory, bytes * PER_SLAB);
        if (!slab) {
            no_memory(ctx, bytes * PER_SLAB);
            return NULL;
        }
        for (int i = PER_SLAB - 1; i >= 0; i--) {
            void **record = (void **)(slab + (size_t)i * bytes);
            *record = pool->free;
            pool->free = record;
        }
    }
    void **record = pool->free;
    pool->free = *record;
    *record = NULL;
    return record;
}

static void pool_give(struct heed_pool *pool, void *record) {
    *(void **)record = pool->free;
    pool->free = record;
}

/* ---- storage ---- */

static struct heed_storage *storage_in(heed_ctx *ctx, struct heed_memory *memory, size_t bytes) {
    struct heed_storage *storage = pool_take(ctx, &ctx->storages, sizeof *storage);
    if (!storage) return NULL;
    void *data = heed_block_new(memory, bytes);
    if (!data) {
        pool_give(&ctx->storages, storage);
        no_memory(ctx, bytes);
        return NULL;
    }
    *storage = (struct heed_storage){.ctx = ctx, .refs = 1, .bytes = bytes, .data = data, .memory = memory};
    return storage;
}

struct heed_storage *heed_storage_new(heed_ctx *ctx, size_t bytes) {
    return storage_in(ctx, ctx->exec.elements, bytes);
}

void heed_storage_ref(struct heed_storage *storage) {
    storage->refs++;
}

void heed_storage_drop(struct heed_storage *storage) {
    if (!storage || --storage->refs > 0) return;
    heed_ctx *ctx = storage->ctx;
    if (storage->recipe) heed_recipe_end(storage->recipe);
    heed_storage_drop(storage->low);
    heed_block_free(storage->memory, storage->data);
    heed_block_free(ctx->exec.memory, storage->written);
    pool_give(&ctx->storages, storage);
}

bool heed_storage_keep_written(struct heed_storage *storage, heed_dtype dtype, const void *data) {
    heed_ctx *ctx = storage->ctx;
    const size_t bytes = storage->bytes;
    if (!ctx->exec.remote.device || heed_is_float(dtype) || bytes == 0 || bytes > HEED_MOST_KEPT_BYTES)
        return true;
    if (!storage->written) storage->written = heed_block_new(ctx->exec.memory, bytes);
    if (!storage->written) {
        no_memory(ctx, bytes);
        return false;
    }
    memcpy(storage->written, data, bytes);
    storage->written_version = storage->version;
    return true;
}

const void *heed_storage_written(const struct heed_storage *storage) {
    return storage->written && storage->written_version == storage->version ? storage->written : NULL;
}

heed_status heed_storage_map(const struct heed_storage *storage, const struct heed_view *v,
                             struct heed_view *mapped) {
    if (!heed_has(v) || !heed_storage_written(storage))
        return heed_elements_map(&storage->ctx->exec, v, HEED_MAP_READ, mapped);
    *mapped = *v;
    mapped->data = (char *)storage->written + ((char *)v->data - (char *)storage->data);
    return HEED_OK;
}

void heed_storage_unmap(const struct heed_storage *storage, const struct heed_view *v,
                        struct heed_view *mapped) {
    if (heed_has(v) && heed_storage_written(storage))
        mapped->data = v->data;
    else
        heed_elements_unmap(&storage->ctx->exec, v, HEED_MAP_READ, mapped);
}

void heed_storage_rest(struct heed_storage *storage) {
    if (!storage->recipe || storage->refs != storage->recipe->waiting) return;
    heed_block_free(storage->memory, storage->data);
    storage->data = NULL;
}

void heed_recipe_end(struct heed_recipe *recipe) {
    if (recipe->storage) recipe->storage->recipe = NULL;
    recipe->storage = NULL;
}

/* ---- nodes ---- */

/* Nodes are not given back through pool_give(): its link would overwrite the serial that stale handles are
 * compared with. They link through `next`. */
static struct heed_node *take_node(heed_ctx *ctx) {
    enum { PER_SLAB = 16 };
    if (!ctx->nodes.free) {
        struct heed_node *slab = heed_block_zeroed(ctx->exec.memory, sizeof *slab * PER_SLAB);
        if (!slab) {
            no_memory(ctx, sizeof *slab * PER_SLAB);
            return NULL;
        }
        for (int i = PER_SLAB - 1; i >= 0; i--) {
            slab[i].ctx = ctx;
            slab[i].next = ctx->nodes.free;
            ctx->nodes.free = &slab[i];
        }
    }
    struct heed_node *node = ctx->nodes.free;
    ctx->nodes.free = node->next;
    *node = (struct heed_node){.serial = ++ctx->serial, .ctx = ctx, .refs = 1};
    return node;
}

struct heed_node *heed_node_of(heed_tensor t, const char *where) {
    struct heed_node *node = t.node;
    if (!node) return NULL;
    if (node->serial != t.serial) {
        heed_fail(node->ctx, HEED_ERROR_STALE, where, "a tensor is used after its scope ended");
        return NULL;
    }
    return node->flags & HEED_NODE_INERT ? NULL : node;
}

heed_tensor heed_handle(heed_ctx *ctx, struct heed_node *node) {
    if (!node) node = ctx->inert;
    return (heed_tensor){.node = node, .serial = node->serial};
}

static bool shape_bytes(heed_ctx *ctx, const char *where, struct heed_view *view, size_t *bytes) {
    char text[160];
    if (view->rank < 0 || view->rank > HEED_MAX_RANK) {
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "rank %d is not in 0 to %d", view->rank, HEED_MAX_RANK);
        return false;
    }
    size_t element = heed_dtype_bytes(view->dtype);
    if (!element) {
        heed_fail(ctx, HEED_ERROR_DTYPE, where, "%d is not a dtype", (int)view->dtype);
        return false;
    }
    for (int d = 0; d < view->rank; d++) {
        if (view->size[d] >= 0) continue;
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "size %lld of dimension %d is negative",
                  (long long)view->size[d], d);
        return false;
    }
    if (!heed_view_set_contiguous(view) ||
        __builtin_mul_overflow((size_t)heed_view_count(view), element, bytes) || *bytes > SIZE_MAX / 4) {
        heed_fail(ctx, HEED_ERROR_MEMORY, where, "%s is larger than memory can be",
                  heed_shape_text(view->rank, view->size, text, sizeof text));
        return false;
    }
    return true;
}

struct heed_node *heed_node_new(heed_ctx *ctx, const char *where, heed_dtype dtype, int rank,
                                const int64_t *size) {
    struct heed_view view = {.dtype = dtype, .rank = rank};
    for (int d = 0; d < rank && d < HEED_MAX_RANK; d++) view.size[d] = size[d];
    size_t bytes;
    if (!shape_bytes(ctx, where, &view, &bytes)) return NULL;
    struct heed_storage *storage = heed_storage_new(ctx, bytes);
    if (!storage) return NULL;
    view.data = storage->data;
    struct heed_node *node = heed_node_view(ctx, storage, &view);
    heed_storage_drop(storage);
    return node;
}

struct heed_node *heed_node_view(heed_ctx *ctx, struct heed_storage *storage, const struct heed_view *view) {
    struct heed_node *node = take_node(ctx);
    if (!node) return NULL;
    heed_storage_ref(storage);
    node->storage = storage;
    node->view = *view;
    return node;
}

struct heed_node *heed_node_host_copy(struct heed_node *node) {
    heed_ctx *ctx = node->ctx;
    struct heed_view from = node->view, view = node->view;
    heed_view_set_contiguous(&view);
    const size_t element = heed_dtype_bytes(view.dtype);
    struct heed_storage *storage =
        storage_in(ctx, ctx->exec.memory, (size_t)heed_view_count(&view) * element);
    if (!storage) return NULL;
    struct heed_node *copy = NULL;
    view.data = storage->data;
    if (heed_storage_map(node->storage, &node->view, &from) == HEED_OK) {
        heed_view_copy_elements(&from, view.data);
        heed_storage_unmap(node->storage, &node->view, &from);
        copy = heed_node_view(ctx, storage, &view);
    }
    heed_storage_drop(storage);
    return copy;
}

void heed_node_ref(struct heed_node *node) {
    node->refs++;
}

void heed_node_drop(struct heed_node *node) {
    if (!node || --node->refs > 0) return;
    heed_ctx *ctx = node->ctx;
    heed_storage_drop(node->storage);
    heed_storage_drop(node->grad_storage);
    *node = (struct heed_node){.ctx = ctx, .next = ctx->nodes.free};
    ctx->nodes.free = node;
}

void heed_node_give_to_scope(struct heed_node *node) {
    struct heed_scope *scope = node->ctx->scope;
    node->scope = scope;
    node->previous = NULL;
    node->next = scope->nodes;
    if (scope->nodes) scope->nodes->previous = node;
    scope->nodes = node;
}

void heed_node_take_from_scope(struct heed_node *node) {
    if (!node->scope) return;
    if (node->previous)
        node->previous->next = node->next;
    else
        node->scope->nodes = node->next;
    if (node->next) node->next->previous = node->previous;
    node->scope = NULL;
    node->previous = node->next = NULL;
}

static void give_up_elements(struct heed_storage *storage) {
    const bool last = storage && storage->refs == 1;
    heed_storage_drop(storage);
    if (storage && !last) heed_storage_rest(storage);
}

void heed_node_retire(struct heed_node *node) {
    heed_node_take_from_scope(node);
    node->serial = 0;
    give_up_elements(node->storage);
    node->storage = NULL;
    node->view.data = NULL;
    heed_node_drop(node);
}

heed_status heed_node_rehome_grad(struct heed_node *leaf, struct heed_storage *storage, size_t byte_offset) {
    struct heed_view view = leaf->view;
    view.data = (char *)storage->data + byte_offset;
    heed_view_set_contiguous(&view);
    const size_t bytes = (size_t)heed_view_count(&view) * heed_dtype_bytes(view.dtype);
    if (leaf->grad_storage && heed_grad_is_full(leaf)) {
        const heed_status status = heed_elements_copy(&leaf->ctx->exec, view.data, leaf->grad.data, bytes);
        if (status != HEED_OK) return status;
    }
    heed_storage_ref(storage);
    heed_storage_drop(leaf->grad_storage);
    leaf->grad_storage = storage;
    leaf->grad = view;
    return HEED_OK;
}
