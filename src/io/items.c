#include "io/items.h"

#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

static heed_status check_name(const char *name, struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    if (!name || !*name) return heed_io_fail(error, HEED_ERROR_ARGUMENT, "a tensor has no name");
    if (strcmp(name, HEED_METADATA_KEY) == 0) {
        return heed_io_fail(error, HEED_ERROR_ARGUMENT,
                            "no tensor can have the name \"" HEED_METADATA_KEY "\"");
    }
    if (heed_io_is_utf8(name)) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_ARGUMENT, "tensor \"%s\": the name is not UTF-8",
                        heed_io_quote(name, quoted));
}

/* prefix + name in a block of its own; NULL without memory. */
static char *join(const char *prefix, const char *name) {
    char *joined = malloc(strlen(prefix) + strlen(name) + 1);
    if (joined) stpcpy(stpcpy(joined, prefix), name);
    return joined;
}

/* A new item with its name, shape and dtype; NULL after an error. */
static struct heed_item *push(struct heed_items *items, const char *prefix, const char *name,
                              heed_dtype dtype, int rank, const int64_t *size, struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    if (check_name(name, error) != HEED_OK) return NULL;
    struct heed_item item = {.type = heed_io_dtype_of(dtype), .rank = rank};
    if (!item.type) {
        heed_io_fail(error, HEED_ERROR_UNSUPPORTED, "tensor \"%s\": writing %s is not supported",
                     heed_io_quote(name, quoted), heed_dtype_name(dtype));
        return NULL;
    }
    for (int i = 0; i < rank; i++) item.size[i] = size[i];
    if (!heed_io_bytes(rank, size, item.type->bits, &item.bytes)) {
        heed_io_fail(error, HEED_ERROR_SHAPE, "tensor \"%s\" is too large", heed_io_quote(name, quoted));
        return NULL;
    }
    if (items->count == items->capacity) {
        const int64_t capacity = items->capacity ? 2 * items->capacity : 64;
        struct heed_item *grown = realloc(items->item, (size_t)capacity * sizeof *grown);
        if (grown) {
            items->item = grown;
            items->capacity = capacity;
        }
    }
    if (items->count < items->capacity) item.name = join(prefix, name);
    if (!item.name) {
        heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
        return NULL;
    }
    items->item[items->count] = item;
    return &items->item[items->count++];
}

heed_status heed_items_add(struct heed_items *items, const char *prefix, const char *name, heed_tensor tensor,
                           struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    if (!heed_is_valid(tensor)) {
        return heed_io_fail(error, heed_is_none(tensor) ? HEED_ERROR_ARGUMENT : HEED_ERROR_STALE,
                            "tensor \"%s\": none, or its scope has ended",
                            heed_io_quote(name ? name : "", quoted));
    }
    if (heed_context(tensor) != items->ctx) {
        return heed_io_fail(error, HEED_ERROR_CONTEXT, "tensor \"%s\": is of another context",
                            heed_io_quote(name ? name : "", quoted));
    }
    int64_t size[HEED_MAX_RANK];
    const int rank = heed_rank(tensor);
    for (int i = 0; i < rank; i++) size[i] = heed_size(tensor, i);
    struct heed_item *item = push(items, prefix, name, heed_dtype_of(tensor), rank, size, error);
    if (!item) return error->status;
    item->tensor = tensor;
    return HEED_OK;
}

static heed_status add_state(struct heed_items *items, const char *prefix, const heed_optim *optim, int64_t i,
                             struct heed_io_error *error) {
    struct heed_optim_state state;
    if (!heed_optim_state_at(optim, i, &state))
        return heed_io_fail(error, HEED_ERROR_STALE, "a parameter of the optimiser was freed");
    struct heed_item *item = push(items, prefix, state.name, state.dtype, state.rank, state.size, error);
    if (!item) return error->status;
    item->optim = optim;
    item->state = i;
    return HEED_OK;
}

heed_status heed_items_add_optim(struct heed_items *items, const char *prefix, const heed_optim *optim,
                                 struct heed_io_error *error) {
    const int64_t count = heed_optim_state_count(optim);
    heed_status status = HEED_OK;
    for (int64_t i = 0; i < count && status == HEED_OK; i++)
        status = add_state(items, prefix, optim, i, error);
    return status;
}

heed_status heed_item_read(const struct heed_item *item, void *data) {
    if (item->optim) return heed_optim_state_read(item->optim, item->state, data);
    return heed_read(item->tensor, data, (size_t)item->bytes);
}

heed_status heed_items_add_params(struct heed_items *items, const char *prefix, const heed_module *module,
                                  struct heed_io_error *error) {
    char name[HEED_NAME_BYTES];
    const int64_t count = heed_param_tensors(module);
    for (int64_t i = 0; i < count; i++) {
        const heed_tensor param = heed_param_at(module, i, name, sizeof name);
        const heed_status status = heed_items_add(items, prefix, name, param, error);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

void heed_items_clear(struct heed_items *items) {
    for (int64_t i = 0; i < items->count; i++) {
        free(items->item[i].name);
        free(items->item[i].loaded);
    }
    free(items->item);
    *items = (struct heed_items){.ctx = items->ctx};
}
