/* Filling items from a file: everything is checked and read before anything changes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/items.h"
#include "optim/optim.h"

/* Whether dtype and shape of an item are those of the file. */
static heed_status check_source(const struct heed_item *item, struct heed_io_error *error) {
    const struct heed_header_tensor *source = item->source;
    char name[HEED_QUOTE_BYTES], there[HEED_SIZES_BYTES], here[HEED_SIZES_BYTES];
    const size_t sizes = (size_t)item->rank * sizeof *item->size;
    const bool same_dtype = source->type == item->type;
    if (same_dtype && source->rank == item->rank && memcmp(source->size, item->size, sizes) == 0)
        return HEED_OK;
    return heed_io_fail(error, same_dtype ? HEED_ERROR_SHAPE : HEED_ERROR_DTYPE,
                        "tensor \"%s\" is %s %s, expected %s %s", heed_io_quote(item->name, name),
                        source->type->name, heed_io_sizes(source->rank, source->size, there),
                        item->type->name, heed_io_sizes(item->rank, item->size, here));
}

/* Marks what the items use of the file. */
static heed_status find_sources(struct heed_items *items, const heed_file *file, bool *used,
                                struct heed_io_error *error) {
    char name[HEED_QUOTE_BYTES];
    for (int64_t i = 0; i < items->count; i++) {
        struct heed_item *item = &items->item[i];
        item->source = heed_header_find(&file->header, item->name);
        if (!item->source) {
            return heed_io_fail(error, HEED_ERROR_FORMAT, "tensor \"%s\" is missing",
                                heed_io_quote(item->name, name));
        }
        const heed_status status = check_source(item, error);
        if (status != HEED_OK) return status;
        used[item->source - file->header.tensor] = true;
    }
    return HEED_OK;
}

heed_status heed_items_match(struct heed_items *items, const heed_file *file, const char *ignore,
                             struct heed_io_error *error) {
    char name[HEED_QUOTE_BYTES];
    const int64_t count = file->header.count;
    bool *used = calloc(count ? (size_t)count : 1, sizeof *used);
    if (!used) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
    heed_status status = find_sources(items, file, used, error);
    for (int64_t i = 0; status == HEED_OK && i < count; i++) {
        const char *there = file->header.tensor[i].name;
        if (used[i] || (ignore && strncmp(there, ignore, strlen(ignore)) == 0)) continue;
        status = heed_io_fail(error, HEED_ERROR_FORMAT, "tensor \"%s\" is not expected",
                              heed_io_quote(there, name));
    }
    free(used);
    return status;
}

heed_status heed_items_read(struct heed_items *items, const heed_file *file, struct heed_io_error *error) {
    for (int64_t i = 0; i < items->count; i++) {
        struct heed_item *item = &items->item[i];
        const heed_status status = heed_file_elements(file, item->source, &item->loaded, error);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

heed_status heed_items_apply(struct heed_items *items, struct heed_io_error *error) {
    for (int64_t i = 0; i < items->count; i++) {
        struct heed_item *item = &items->item[i];
        heed_optim *optim = (heed_optim *)(uintptr_t)item->optim; /* whoever loads may change it */
        const heed_status status = optim ? heed_optim_state_write(optim, item->state, item->loaded)
                                         : heed_write(item->tensor, item->loaded, (size_t)item->bytes);
        if (status != HEED_OK) return heed_io_fail(error, status, "%s", heed_error(items->ctx));
    }
    return HEED_OK;
}
