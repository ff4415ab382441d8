/* Scopes, and the objects other than tensors that scopes own (scores and masks). */
#include "tensor/internal.h"

#include <string.h>

/* ---- objects ---- */

/* Objects are recycled but never given back to the memory, so that a dead one can be recognised. */
void *heed_object_new(heed_ctx *ctx, uint32_t kind, size_t bytes, void (*destroy)(struct heed_object *)) {
    struct heed_object *object = ctx->objects.free;
    if (object) {
        ctx->objects.free = object->next;
    } else {
        object = heed_block_new(ctx->exec.memory, HEED_OBJECT_BYTES);
    }
    if (!object || bytes > HEED_OBJECT_BYTES) {
        heed_fail(ctx, HEED_ERROR_MEMORY, "", "out of memory (%zu bytes)", bytes);
        return NULL;
    }
    memset(object, 0, HEED_OBJECT_BYTES);
    *object = (struct heed_object){.kind = kind,
                                   .refs = 1,
                                   .ctx = ctx,
                                   .scope = ctx->scope,
                                   .next = ctx->scope->objects,
                                   .destroy = destroy};
    if (object->next) object->next->previous = object;
    ctx->scope->objects = object;
    return object;
}

bool heed_object_is(const void *object, uint32_t kind) {
    return object && ((const struct heed_object *)object)->kind == kind;
}

void heed_object_ref(void *object) {
    ((struct heed_object *)object)->refs++;
}

void heed_object_drop(void *memory) {
    struct heed_object *object = memory;
    if (!object || --object->refs > 0) return;
    object->destroy(object);
    object->kind = HEED_OBJECT_DEAD;
    object->next = object->ctx->objects.free;
    object->ctx->objects.free = object;
}

void heed_object_release_from_scope(void *memory) {
    struct heed_object *object = memory;
    if (!object->scope) return;
    if (object->previous)
        object->previous->next = object->next;
    else
        object->scope->objects = object->next;
    if (object->next) object->next->previous = object->previous;
    object->scope = NULL;
    object->previous = object->next = NULL;
    heed_object_drop(object);
}

/* ---- scopes ---- */

struct heed_scope *heed_scope_push(heed_ctx *ctx, bool is_step) {
    struct heed_scope *scope = ctx->scopes.free;
    if (scope) {
        ctx->scopes.free = scope->outer;
    } else {
        scope = heed_block_new(ctx->exec.memory, sizeof *scope);
        if (!scope) {
            heed_fail(ctx, HEED_ERROR_MEMORY, "", "out of memory (%zu bytes)", sizeof *scope);
            return NULL;
        }
    }
    *scope = (struct heed_scope){.outer = ctx->scope, .is_step = is_step};
    ctx->scope = scope;
    return scope;
}

void heed_scope_clear(heed_ctx *ctx, struct heed_scope *scope) {
    (void)ctx;
    while (scope->nodes) heed_node_retire(scope->nodes);
    while (scope->objects) heed_object_release_from_scope(scope->objects);
}

void heed_scope_pop(heed_ctx *ctx) {
    struct heed_scope *scope = ctx->scope;
    heed_scope_clear(ctx, scope);
    ctx->scope = scope->outer;
    scope->outer = ctx->scopes.free;
    ctx->scopes.free = scope;
}

heed_status heed_scope_begin(heed_ctx *ctx) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    /* A scope that could not be pushed is counted, so that its end finds nothing to pop. */
    if (!heed_scope_push(ctx, false)) ctx->missing_scopes++;
    heed_leave(ctx);
    return heed_error_status(ctx);
}

heed_tensor heed_scope_end(heed_ctx *ctx, heed_tensor result) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return heed_handle(ctx, NULL);
    if (!heed_enter(ctx)) return heed_handle(ctx, NULL);
    struct heed_node *node = heed_node_of(result, "scope_end");
    if (node && node->ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, "scope_end", "the result belongs to another context");
        node = NULL;
    }
    if (ctx->missing_scopes > 0) {
        ctx->missing_scopes--;
    } else if (ctx->scope == &ctx->root || ctx->scope->is_step) {
        heed_fail(ctx, HEED_ERROR_STATE, "scope_end", "no scope was begun");
    } else {
        bool ours = node && node->scope == ctx->scope;
        if (ours) heed_node_take_from_scope(node);
        heed_scope_pop(ctx);
        if (ours) heed_node_give_to_scope(node);
    }
    heed_leave(ctx);
    if (heed_is_none(result)) return result;
    return node && !heed_failed(ctx) ? result : heed_handle(ctx, NULL);
}
