/* The parameters of a model as a file. */
#include <string.h>

#include "io/checkpoint.h"
#include "io/items.h"

heed_status heed_params_save(const heed_module *module, const char *path) {
    heed_ctx *ctx = heed_module_ctx(module);
    if (heed_failed(ctx)) return heed_error_status(ctx);
    const heed_metadata pair[] = {{HEED_KEY_FORMAT, HEED_FORMAT_PARAMETERS},
                                  {HEED_KEY_VERSION, HEED_FORMAT_VERSION}};
    struct heed_items items = {.ctx = ctx};
    struct heed_io_error error;
    heed_status status = heed_items_add_params(&items, "", module, &error);
    if (status == HEED_OK) status = heed_items_write(&items, path, 2, pair, &error);
    if (status != HEED_OK) heed_io_report(ctx, path, &error);
    heed_items_clear(&items);
    return status;
}

static heed_status load(struct heed_items *items, const heed_file *file, heed_module *module,
                        struct heed_io_error *error) {
    const char *format = heed_file_metadata(file, HEED_KEY_FORMAT);
    if (format && strcmp(format, HEED_FORMAT_CHECKPOINT) == 0) {
        return heed_io_fail(error, HEED_ERROR_ARGUMENT, "is a checkpoint: heed_checkpoint_load() reads it");
    }
    heed_status status = heed_items_add_params(items, "", module, error);
    if (status == HEED_OK) status = heed_items_match(items, file, NULL, error);
    if (status == HEED_OK) status = heed_items_read(items, file, error);
    return status == HEED_OK ? heed_items_apply(items, error) : status;
}

heed_status heed_params_load(heed_module *module, const char *path) {
    heed_ctx *ctx = heed_module_ctx(module);
    struct heed_items items = {.ctx = ctx};
    struct heed_io_error error;
    if (heed_failed(ctx) || !heed_between_steps(ctx, path)) return heed_error_status(ctx);
    heed_file *file = heed_file_open(ctx, path);
    if (!file) return heed_error_status(ctx);
    const heed_status status = load(&items, file, module, &error);
    if (status != HEED_OK) heed_io_report(ctx, path, &error);
    heed_items_clear(&items);
    heed_file_free(file);
    return status;
}
