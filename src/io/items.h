/* Named tensors that are to be written to a file, or to be filled from one: what a model consists of is
 * listed by the same functions in both directions. Each is a tensor of the context, or of an optimiser's
 * state. */
#ifndef HEED_SRC_IO_ITEMS_H
#define HEED_SRC_IO_ITEMS_H

#include "io/file.h"

struct heed_item {
    char *name;
    const struct heed_io_dtype *type;
    int rank;
    int64_t size[HEED_MAX_RANK];
    int64_t bytes;
    heed_tensor tensor;
    const heed_optim *optim;                 /* NULL: the elements are the tensor's */
    int64_t state;                           /* which of the optimiser's */
    const struct heed_header_tensor *source; /* loading: where the new elements are */
    void *loaded;                            /* loading: the new elements */
};

struct heed_items {
    heed_ctx *ctx; /* of all tensors */
    int64_t count, capacity;
    struct heed_item *item;
};

/* Adds a tensor under the name prefix + name. */
heed_status heed_items_add(struct heed_items *items, const char *prefix, const char *name, heed_tensor tensor,
                           struct heed_io_error *error);

/* Adds all of an optimiser's state, which must stay until the items are cleared. */
heed_status heed_items_add_optim(struct heed_items *items, const char *prefix, const heed_optim *optim,
                                 struct heed_io_error *error);

/* The elements of an item, `bytes` of them, to C memory; reports errors in the context. */
heed_status heed_item_read(const struct heed_item *item, void *data);

/* Adds all parameters of a module. */
heed_status heed_items_add_params(struct heed_items *items, const char *prefix, const heed_module *module,
                                  struct heed_io_error *error);

/* Brings the items into the order of the file and replaces the file at `path`. */
heed_status heed_items_write(struct heed_items *items, const char *path, int64_t pairs,
                             const heed_metadata *pair, struct heed_io_error *error);

/* Loading, in this order; only the last changes anything.
 * 1. Every item must be in the file with its dtype and shape, and nothing else, apart from names that begin
 * with `ignore` (NULL: none). */
heed_status heed_items_match(struct heed_items *items, const heed_file *file, const char *ignore,
                             struct heed_io_error *error);
/* 2. Reads all new elements into memory. */
heed_status heed_items_read(struct heed_items *items, const heed_file *file, struct heed_io_error *error);
/* 3. Overwrites the old elements. */
heed_status heed_items_apply(struct heed_items *items, struct heed_io_error *error);

void heed_items_clear(struct heed_items *items);

#endif
