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

static void point_to_saved(struct heed_entry *entry) {
    for (int i = 0; i < entry->moves; i++) {
        const struct heed_moved *moved = &entry->moved[i];
        view_in_args(entry, moved->view)->data = (char *)moved->storage->data + moved->offset;
    }
}

static heed_status run_again(heed_ctx *ctx, struct heed_entry *entry, void *data) {
    struct heed_exec *exec = &ctx->exec;
    const char *around = exec->operation;
    view_in_args(entry, entry->remade)->data = data;
    exec->operation = entry->op->name;
    const void *saved = entry->kernel_saved ? entry->kernel_saved->data : NULL;
    const heed_status status = needs_no_inputs(entry)
                                   ? entry->kernel->remake(exec, entry->args, saved)
                                   : heed_exec_forward(exec, entry->kernel, entry->args, NULL);
    exec->operation = around;
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
    void *data = heed_block_new(storage->memory, storage->bytes);
    if (!data)
        return heed_fail(ctx, HEED_ERROR_MEMORY, entry->op->name, "out of memory (%zu bytes)",
                         storage->bytes);
    status = run_again(ctx, entry, data);
    if (status == HEED_OK)
        storage->data = data;
    else
        heed_block_free(storage->memory, data);
    return status;
}

/* Makes an entry's output again, and before it what that is made of (HEED_MOST_REMADE says how deep that
 * goes), which then ends. */
static heed_status remake(heed_ctx *ctx, struct heed_entry *entry) {
    struct heed_storage *made[HEED_MAX_MOVED];
    int count = 0;
    heed_status status = HEED_OK;
    for (int i = 0; i < entry->saves && !needs_no_inputs(entry) && status == HEED_OK; i++) {
        struct heed_storage *storage = entry->saved[i].storage;
        if (storage->data) continue;
        status = remake(ctx, storage->recipe->entry);
        made[count++] = storage;
    }
    if (status == HEED_OK) status = remake_output(ctx, entry);
    for (int i = 0; i < count; i++) heed_storage_rest(made[i]);
    return status;
}

heed_status heed_entry_prepare(heed_ctx *ctx, struct heed_entry *entry) {
    for (int i = 0; i < entry->saves; i++) {
        const struct heed_storage *storage = entry->saved[i].storage;
        if (!storage->data && remake(ctx, storage->recipe->entry) != HEED_OK) return ctx->status;
    }
    point_to_saved(entry);
    return HEED_OK;
}

heed_status heed_entry_bequeath(heed_ctx *ctx, struct heed_entry *entry) {
    const struct heed_storage *storage = entry->recipe.storage;
    const bool wanted = storage && !storage->data && entry->recipe.waiting > 0;
    return wanted ? remake(ctx, entry) : HEED_OK;
}

void heed_tape_rest(heed_ctx *ctx) {
    for (const struct heed_entry *entry = ctx->tape->last; entry; entry = entry->previous)
        for (int i = 0; i < entry->saves; i++)
            if (entry->saved[i].storage->data) heed_storage_rest(entry->saved[i].storage);
}
