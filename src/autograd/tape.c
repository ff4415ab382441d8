/* The tape: entries in order of execution, made by calls and consumed by backward. */
#include "autograd/tape.h"

heed_status heed_tape_open(heed_ctx *ctx) {
    ctx->tape = heed_block_zeroed(ctx->exec.memory, sizeof *ctx->tape);
    if (!ctx->tape) return heed_fail(ctx, HEED_ERROR_MEMORY, "ctx_new", "out of memory");
    return HEED_OK;
}

void heed_saved_drop(const struct heed_saved *saved) {
    struct heed_recipe *recipe = saved->storage->recipe;
    if (saved->waits && recipe) recipe->waiting--;
    heed_storage_drop(saved->storage);
}

/* Gives up what an entry saved, but not its place in the graph. */
void heed_entry_release(heed_ctx *ctx, struct heed_entry *entry) {
    heed_recipe_end(&entry->recipe);
    for (int i = 0; i < entry->saves; i++) heed_saved_drop(&entry->saved[i]);
    entry->saves = entry->moves = 0;
    heed_storage_drop(entry->kernel_saved);
    entry->kernel_saved = NULL;
    heed_block_free(ctx->exec.memory, entry->blob);
    entry->blob = NULL;
}

static void entry_free(heed_ctx *ctx, struct heed_entry *entry) {
    heed_entry_release(ctx, entry);
    for (int i = 0; i < entry->outputs; i++) {
        struct heed_node *node = entry->output[i];
        if (!node) continue;
        node->producer = NULL;
        heed_storage_drop(node->grad_storage);
        node->grad_storage = NULL;
        heed_node_drop(node);
    }
    heed_storage_drop(entry->side_by_side);
    for (int i = 0; i < entry->inputs; i++) heed_node_drop(entry->input[i]);
    heed_block_free(ctx->exec.memory, entry);
}

void heed_tape_clear(heed_ctx *ctx) {
    struct heed_tape *tape = ctx->tape;
    while (tape->last) {
        struct heed_entry *entry = tape->last;
        tape->last = entry->previous;
        entry_free(ctx, entry);
    }
    tape->first = NULL;
    tape->entries = 0;
}

void heed_tape_append(heed_ctx *ctx, struct heed_entry *entry) {
    struct heed_tape *tape = ctx->tape;
    entry->number = ++tape->entries;
    entry->previous = tape->last;
    if (tape->last)
        tape->last->next = entry;
    else
        tape->first = entry;
    tape->last = entry;
}

void heed_tape_settle_gradients(heed_ctx *ctx, bool forget) {
    struct heed_tape *tape = ctx->tape;
    while (tape->touched) {
        struct heed_node *leaf = tape->touched;
        tape->touched = leaf->touched_next;
        leaf->touched_next = NULL;
        leaf->flags &= ~(unsigned)HEED_NODE_TOUCHED;
        if (forget) leaf->flags &= ~(unsigned)HEED_NODE_GRAD_FULL;
        heed_node_drop(leaf);
    }
}
