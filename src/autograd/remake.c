/* Computing again what the tape did not keep. */
#include "autograd/tape.h"

static const char *const where = HEED_BACKWARD_WHERE;

heed_status heed_entry_check_saved(heed_ctx *ctx, const struct heed_entry *entry) {
    for (int i = 0; i < entry->saves; i++)
        if (entry->saved[i].storage->version != entry->saved[i].version)
            return heed_fail(ctx, HEED_ERROR_STATE, where, "a tensor that %s needs was overwritten since",
                             entry->op->name);
    return HEED_OK;
}

static struct heed_view *view_in_args(const struct heed_entry *entry, size_t place) {
    return (struct heed_view *)((char *)entry->args + place);
}

/* Whether the kernel makes the output out of nothing but what it saved itself. */
static bool needs_no_inputs(const struct heed_entry *entry) {
    return entry->kernel->remake != NULL;
}

static struct heed_storage *first_missing(const struct heed_entry *entry) {
    for (int i = 0; i < entry->saves; i++)
        if (!entry->saved[i].storage->data) return entry->saved[i].storage;
    return NULL;
}

static void point_to_saved(struct heed_entry *entry) {
    for (int i = 0; i < entry->moves; i++) {
        const struct heed_moved *moved = &entry->moved[i];
        view_in_args(entry, moved->view)->data = (char *)moved->storage->data + moved->offset;
    }
}

static heed_status run_again(heed_ctx *ctx, struct heed_entry *entry, void *data) {
    struct heed_exec *exec = &ctx->exec;
    view_in_args(entry, entry->remade)->data = data;
    exec->operation = entry->op->name;
    const void *saved = entry->kernel_saved ? entry->kernel_saved->data : NULL;
    const heed_status status = needs_no_inputs(entry)
                                   ? entry->kernel->remake(exec, entry->args, saved)
                                   : heed_exec_forward(exec, entry->kernel, entry->args, NULL);
    exec->operation = NULL;
    return status;
}

static heed_status remake_output(heed_ctx *ctx, struct heed_entry *entry) {
    struct heed_storage *storage = entry->recipe.storage;
    heed_status status = HEED_OK;
    if (!needs_no_inputs(entry)) {
        status = heed_entry_check_saved(ctx, entry);
        point_to_saved(entry);
    }
    if (status != HEED_OK) return status;
    void *data = heed_block_new(ctx->exec.memory, storage->bytes);
    if (!data)
        return heed_fail(ctx, HEED_ERROR_MEMORY, entry->op->name, "out of memory (%zu bytes)",
                         storage->bytes);
    status = run_again(ctx, entry, data);
    if (status == HEED_OK)
        storage->data = data;
    else
        heed_block_free(ctx->exec.memory, data);
    return status;
}

/* Ends what was made only so that this entry's output could be. */
static void drop_ingredients(const struct heed_entry *entry) {
    for (int i = 0; i < entry->saves; i++) {
        struct heed_recipe *recipe = entry->saved[i].storage->recipe;
        if (!recipe || recipe->entry->for_whom != entry) continue;
        recipe->entry->for_whom = NULL;
        heed_storage_rest(recipe->storage);
    }
}

/* The entry that makes a storage; an error if it is gone. */
static struct heed_entry *maker_of(heed_ctx *ctx, const struct heed_storage *storage,
                                   const struct heed_entry *needed_by) {
    if (storage->recipe) return storage->recipe->entry;
    heed_fail(ctx, HEED_ERROR_STATE, where, HEED_GRAPH_WAS_FREED, needed_by->op->name);
    return NULL;
}

/* Makes what a maker's output is made of first, however long that chain is. */
static heed_status remake(heed_ctx *ctx, struct heed_entry *maker) {
    heed_status status = HEED_OK;
    struct heed_entry *entry = maker;
    maker->for_whom = NULL;
    while (entry && status == HEED_OK) {
        const struct heed_storage *missing = needs_no_inputs(entry) ? NULL : first_missing(entry);
        if (missing) {
            struct heed_entry *next = maker_of(ctx, missing, entry);
            if (!next) return ctx->status;
            next->for_whom = entry;
            entry = next;
        } else {
            status = remake_output(ctx, entry);
            drop_ingredients(entry);
            entry = entry->for_whom;
        }
    }
    return status;
}

heed_status heed_entry_prepare(heed_ctx *ctx, struct heed_entry *entry) {
    const struct heed_storage *missing;
    while ((missing = first_missing(entry))) {
        struct heed_entry *maker = maker_of(ctx, missing, entry);
        if (!maker || remake(ctx, maker) != HEED_OK) return ctx->status;
    }
    point_to_saved(entry);
    return HEED_OK;
}

void heed_tape_rest(heed_ctx *ctx) {
    for (const struct heed_entry *entry = ctx->tape->last; entry; entry = entry->previous)
        for (int i = 0; i < entry->saves; i++)
            if (entry->saved[i].storage->data) heed_storage_rest(entry->saved[i].storage);
}
