/* Writing a safetensors file: the header, padded with spaces to a multiple of 8, then the elements.
 *
 * The order is fixed by dtypes and names alone: wide elements first, so that every tensor starts at a
 * multiple of its element size; equal ones by name. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/header.h"
#include "io/items.h"
#include "io/replace.h"

/* ---- the header ---- */

static int compare_items(const void *a, const void *b) {
    const struct heed_item *x = a, *y = b;
    if (x->type->bits != y->type->bits) return x->type->bits > y->type->bits ? -1 : 1;
    return strcmp(x->name, y->name);
}

static heed_status out_of_memory(struct heed_io_error *error) {
    return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory for the header");
}

static int compare_pairs(const void *a, const void *b) {
    const heed_metadata *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static heed_status check_pair(const heed_metadata *pair, struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    if (!pair->key || !pair->value)
        return heed_io_fail(error, HEED_ERROR_ARGUMENT, "metadata without key or value");
    if (heed_io_is_utf8(pair->key) && heed_io_is_utf8(pair->value)) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_ARGUMENT, "metadata \"%s\" is not UTF-8",
                        heed_io_quote(pair->key, quoted));
}

/* Puts the pairs, ordered by key, into an object. */
static heed_status fill_metadata(json_t *map, int64_t pairs, const heed_metadata **sorted,
                                 struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    qsort(sorted, (size_t)pairs, sizeof(const heed_metadata *), compare_pairs);
    for (int64_t i = 0; i < pairs; i++) {
        if (json_object_get(map, sorted[i]->key)) {
            return heed_io_fail(error, HEED_ERROR_ARGUMENT, "metadata \"%s\" is given twice",
                                heed_io_quote(sorted[i]->key, quoted));
        }
        if (json_object_set_new(map, sorted[i]->key, json_string(sorted[i]->value)) != 0)
            return out_of_memory(error);
    }
    return HEED_OK;
}

static heed_status add_metadata(json_t *root, int64_t pairs, const heed_metadata *pair,
                                struct heed_io_error *error) {
    for (int64_t i = 0; i < pairs; i++) {
        const heed_status status = check_pair(&pair[i], error);
        if (status != HEED_OK) return status;
    }
    if (pairs == 0) return HEED_OK;
    const heed_metadata **sorted = heed_io_alloc((uint64_t)pairs, sizeof(const heed_metadata *));
    json_t *map = json_object();
    heed_status status = HEED_OK;
    if (!sorted || json_object_set(root, HEED_METADATA_KEY, map) != 0) status = out_of_memory(error);
    for (int64_t i = 0; status == HEED_OK && i < pairs; i++) sorted[i] = &pair[i];
    if (status == HEED_OK) status = fill_metadata(map, pairs, sorted, error);
    json_decref(map);
    free(sorted);
    return status;
}

/* {"dtype":…,"shape":[…],"data_offsets":[begin,end]}; NULL without memory. */
static json_t *describe(const struct heed_item *item, int64_t begin) {
    json_t *shape = json_array();
    bool ok = shape != NULL;
    for (int i = 0; i < item->rank; i++)
        ok = ok && json_array_append_new(shape, json_integer(item->size[i])) == 0;
    const json_int_t offset[2] = {begin, begin + item->bytes};
    json_t *object = json_pack("{s:s, s:O?, s:[I, I]}", "dtype", item->type->name, "shape", shape,
                               "data_offsets", offset[0], offset[1]);
    json_decref(shape);
    if (ok) return object;
    json_decref(object);
    return NULL;
}

static heed_status add_items(json_t *root, const struct heed_items *items, struct heed_io_error *error) {
    int64_t begin = 0, end;
    for (int64_t i = 0; i < items->count; i++) {
        const struct heed_item *item = &items->item[i];
        char quoted[HEED_QUOTE_BYTES];
        heed_io_quote(item->name, quoted);
        if (json_object_get(root, item->name)) {
            return heed_io_fail(error, HEED_ERROR_ARGUMENT, "tensor \"%s\" is given twice", quoted);
        }
        if (__builtin_add_overflow(begin, item->bytes, &end)) {
            return heed_io_fail(error, HEED_ERROR_SHAPE, "tensor \"%s\": too much data for a file", quoted);
        }
        if (json_object_set_new(root, item->name, describe(item, begin)) != 0) return out_of_memory(error);
        begin = end;
    }
    return HEED_OK;
}

/* Length, text and padding in a block of its own, *bytes long; NULL (and the error) if that fails. */
static char *dump(const json_t *root, size_t *bytes, struct heed_io_error *error) {
    const size_t flags = JSON_COMPACT | JSON_PRESERVE_ORDER;
    const size_t length = json_dumpb(root, NULL, 0, flags);
    const uint64_t padded = ((uint64_t)length + 7) / 8 * 8;
    if (padded > HEED_HEADER_LIMIT) {
        heed_io_fail(error, HEED_ERROR_ARGUMENT, "header of %" PRIu64 " bytes, the most is %d", padded,
                     HEED_HEADER_LIMIT);
        return NULL;
    }
    char *block = length ? malloc(8 + padded) : NULL;
    if (!block || json_dumpb(root, block + 8, length, flags) != length) {
        free(block);
        out_of_memory(error);
        return NULL;
    }
    memcpy(block, &padded, 8);
    memset(block + 8 + length, ' ', padded - length);
    *bytes = 8 + padded;
    return block;
}

static char *make_header(const struct heed_items *items, int64_t pairs, const heed_metadata *pair,
                         size_t *bytes, struct heed_io_error *error) {
    json_t *root = json_object();
    heed_status status = root ? add_metadata(root, pairs, pair, error) : out_of_memory(error);
    if (status == HEED_OK) status = add_items(root, items, error);
    char *block = status == HEED_OK ? dump(root, bytes, error) : NULL;
    json_decref(root);
    return block;
}

/* ---- the elements ---- */

static heed_status write_items(int fd, const struct heed_items *items, void *scratch,
                               struct heed_io_error *error) {
    for (int64_t i = 0; i < items->count; i++) {
        const struct heed_item *item = &items->item[i];
        heed_status status = heed_item_read(item, scratch);
        if (status != HEED_OK) return heed_io_fail(error, status, "%s", heed_error(items->ctx));
        status = heed_io_write(fd, scratch, (uint64_t)item->bytes, error);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

/* Room for the elements of the largest tensor. */
static void *new_scratch(const struct heed_items *items) {
    int64_t most = 0;
    for (int64_t i = 0; i < items->count; i++) {
        if (items->item[i].bytes > most) most = items->item[i].bytes;
    }
    return heed_io_alloc((uint64_t)most, 1);
}

static heed_status replace(const struct heed_items *items, const char *path, const char *header,
                           size_t header_bytes, void *scratch, struct heed_io_error *error) {
    struct heed_replace r;
    heed_status status = heed_replace_begin(&r, path, error);
    if (status != HEED_OK) return status;
    status = heed_io_write(r.fd, header, header_bytes, error);
    if (status == HEED_OK) status = write_items(r.fd, items, scratch, error);
    if (status == HEED_OK) return heed_replace_commit(&r, error);
    heed_replace_abort(&r);
    return status;
}

heed_status heed_items_write(struct heed_items *items, const char *path, int64_t pairs,
                             const heed_metadata *pair, struct heed_io_error *error) {
    if (items->count) qsort(items->item, (size_t)items->count, sizeof *items->item, compare_items);
    size_t header_bytes;
    char *header = make_header(items, pairs, pair, &header_bytes, error);
    if (!header) return error->status;
    void *scratch = new_scratch(items);
    const heed_status status = scratch
                                   ? replace(items, path, header, header_bytes, scratch, error)
                                   : heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory for the elements");
    free(scratch);
    free(header);
    return status;
}

heed_status heed_tensors_save(heed_ctx *ctx, const char *path, int64_t count, const char *const *names,
                              const heed_tensor *tensors, int64_t metadata_count,
                              const heed_metadata *metadata) {
    if (heed_failed(ctx)) return heed_error_status(ctx);
    struct heed_items items = {.ctx = ctx};
    struct heed_io_error error;
    heed_status status = HEED_OK;
    if (count < 0 || metadata_count < 0 || (count > 0 && (!names || !tensors)) ||
        (metadata_count > 0 && !metadata)) {
        status = heed_io_fail(&error, HEED_ERROR_ARGUMENT, "a count is negative or a list is missing");
    }
    for (int64_t i = 0; status == HEED_OK && i < count; i++) {
        status = heed_items_add(&items, "", names[i], tensors[i], &error);
    }
    if (status == HEED_OK) status = heed_items_write(&items, path, metadata_count, metadata, &error);
    if (status != HEED_OK) heed_io_report(ctx, path, &error);
    heed_items_clear(&items);
    return status;
}
