/* Checkpoints: a safetensors file whose tensors are parameters and optimiser state, and whose metadata hold
 * the rest as decimal numbers and text. */
#include "io/checkpoint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/items.h"
#include "optim/optim.h"

/* What stands in the metadata. */
struct notes {
    const char *kind; /* of the optimiser */
    int64_t optim_steps, position;
    heed_random_state random;
    const char *text;
};

/* ---- what both directions share ---- */

bool heed_between_steps(heed_ctx *ctx, const char *path) {
    if (!heed_in_step(ctx)) return true;
    struct heed_io_error error;
    heed_io_fail(&error, HEED_ERROR_STATE,
                 "models are saved and loaded between steps, and a step is running");
    heed_io_report(ctx, path, &error);
    return false;
}

/* All that a checkpoint of these two consists of. */
static heed_status add_all(struct heed_items *items, const heed_module *module, const heed_optim *optim,
                           struct heed_io_error *error) {
    if (optim && heed_optim_ctx(optim) != items->ctx) {
        return heed_io_fail(error, HEED_ERROR_CONTEXT, "model and optimiser are of different contexts");
    }
    heed_status status = heed_items_add_params(items, HEED_PREFIX_MODEL, module, error);
    if (status != HEED_OK || !optim) return status;
    status = heed_items_add_optim(items, HEED_PREFIX_OPTIMISER, optim, error);
    if (status == HEED_OK && !heed_optim_is_of(optim, module))
        status = heed_io_fail(error, HEED_ERROR_ARGUMENT, "the optimiser is of another model");
    return status;
}

/* ---- saving ---- */

static heed_status take_notes(struct notes *notes, heed_ctx *ctx, const heed_optim *optim,
                              const heed_checkpoint_info *info, struct heed_io_error *error) {
    static const heed_checkpoint_info nothing;
    if (!info) info = &nothing;
    for (size_t i = 0; i < sizeof info->reserved / sizeof *info->reserved; i++) {
        if (info->reserved[i])
            return heed_io_fail(error, HEED_ERROR_ARGUMENT, "reserved words of the info are not zero");
    }
    if (info->position < 0) {
        return heed_io_fail(error, HEED_ERROR_ARGUMENT, "a position of %" PRId64 " is negative",
                            info->position);
    }
    *notes = (struct notes){.kind = optim ? heed_optim_kind(optim) : HEED_NO_OPTIMISER,
                            .optim_steps = optim ? heed_optim_steps(optim) : 0,
                            .position = info->position,
                            .random = heed_random_get(ctx),
                            .text = info->text ? info->text : ""};
    return HEED_OK;
}

static heed_status write_all(struct heed_items *items, const char *path, const struct notes *notes,
                             struct heed_io_error *error) {
    char steps[24], position[24], seed[24], step[24], ordinal[24];
    snprintf(steps, sizeof steps, "%" PRId64, notes->optim_steps);
    snprintf(position, sizeof position, "%" PRId64, notes->position);
    snprintf(seed, sizeof seed, "%" PRIu64, notes->random.seed);
    snprintf(step, sizeof step, "%" PRIu64, notes->random.step);
    snprintf(ordinal, sizeof ordinal, "%" PRIu64, notes->random.ordinal);
    const heed_metadata pair[] = {
        {HEED_KEY_FORMAT, HEED_FORMAT_CHECKPOINT},
        {HEED_KEY_VERSION, HEED_FORMAT_VERSION},
        {HEED_KEY_OPTIMISER, notes->kind},
        {HEED_KEY_OPTIMISER_STEPS, steps},
        {HEED_KEY_POSITION, position},
        {HEED_KEY_SEED, seed},
        {HEED_KEY_STEP, step},
        {HEED_KEY_ORDINAL, ordinal},
        {HEED_KEY_TEXT, notes->text},
    };
    return heed_items_write(items, path, sizeof pair / sizeof *pair, pair, error);
}

heed_status heed_checkpoint_save(const heed_module *module, const heed_optim *optim, const char *path,
                                 const heed_checkpoint_info *info) {
    heed_ctx *ctx = heed_module_ctx(module);
    struct heed_items items = {.ctx = ctx};
    struct heed_io_error error;
    struct notes notes = {0};
    if (heed_failed(ctx) || !heed_between_steps(ctx, path)) return heed_error_status(ctx);
    heed_status status = add_all(&items, module, optim, &error);
    if (status == HEED_OK) status = take_notes(&notes, ctx, optim, info, &error);
    if (status == HEED_OK) status = write_all(&items, path, &notes, &error);
    if (status != HEED_OK) heed_io_report(ctx, path, &error);
    heed_items_clear(&items);
    return status;
}

/* ---- loading ---- */

static heed_status get_text(const heed_file *file, const char *key, const char **value,
                            struct heed_io_error *error) {
    *value = heed_file_metadata(file, key);
    if (*value) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_FORMAT, "is not a complete checkpoint: metadata \"%s\" is missing",
                        key);
}

/* A decimal number of digits only, at most `most`. */
static heed_status get_number(const heed_file *file, const char *key, uint64_t most, uint64_t *number,
                              struct heed_io_error *error) {
    const char *text;
    const heed_status status = get_text(file, key, &text, error);
    if (status != HEED_OK) return status;
    bool ok = *text != '\0';
    *number = 0;
    for (const char *c = text; ok && *c; c++) {
        ok = *c >= '0' && *c <= '9' && !__builtin_mul_overflow(*number, 10u, number) &&
             !__builtin_add_overflow(*number, (uint64_t)(*c - '0'), number);
    }
    if (ok && *number <= most) return HEED_OK;
    char quoted[HEED_QUOTE_BYTES];
    return heed_io_fail(error, HEED_ERROR_FORMAT,
                        "metadata \"%s\" is \"%s\", expected a number of at most %" PRIu64, key,
                        heed_io_quote(text, quoted), most);
}

static heed_status check_format(const heed_file *file, struct heed_io_error *error) {
    const char *format = heed_file_metadata(file, HEED_KEY_FORMAT);
    if (!format || strcmp(format, HEED_FORMAT_CHECKPOINT) != 0) {
        return heed_io_fail(error, HEED_ERROR_FORMAT, "is not a checkpoint of heed");
    }
    uint64_t version;
    const heed_status status = get_number(file, HEED_KEY_VERSION, INT64_MAX, &version, error);
    if (status != HEED_OK) return status;
    if (version == HEED_FORMAT_VERSION_NUMBER) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_UNSUPPORTED,
                        "has format version %" PRIu64 ", this library reads %d", version,
                        HEED_FORMAT_VERSION_NUMBER);
}

static heed_status read_notes(const heed_file *file, struct notes *notes, struct heed_io_error *error) {
    *notes = (struct notes){0};
    uint64_t optim_steps = 0, position = 0;
    heed_status status = get_text(file, HEED_KEY_OPTIMISER, &notes->kind, error);
    if (status == HEED_OK)
        status = get_number(file, HEED_KEY_OPTIMISER_STEPS, INT64_MAX, &optim_steps, error);
    if (status == HEED_OK) status = get_number(file, HEED_KEY_POSITION, INT64_MAX, &position, error);
    if (status == HEED_OK) status = get_number(file, HEED_KEY_SEED, UINT64_MAX, &notes->random.seed, error);
    if (status == HEED_OK) status = get_number(file, HEED_KEY_STEP, UINT64_MAX, &notes->random.step, error);
    if (status == HEED_OK)
        status = get_number(file, HEED_KEY_ORDINAL, UINT64_MAX, &notes->random.ordinal, error);
    if (status == HEED_OK) status = get_text(file, HEED_KEY_TEXT, &notes->text, error);
    notes->optim_steps = (int64_t)optim_steps;
    notes->position = (int64_t)position;
    return status;
}

static heed_status check_kind(const struct notes *notes, const heed_optim *optim,
                              struct heed_io_error *error) {
    char kind[HEED_QUOTE_BYTES];
    if (!optim || strcmp(notes->kind, heed_optim_kind(optim)) == 0) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_ARGUMENT, "was saved with the optimiser \"%s\", expected \"%s\"",
                        heed_io_quote(notes->kind, kind), heed_optim_kind(optim));
}

/* The integers of an optimiser's state are numbers of updates: of a parameter no more than of the optimiser.
 */
static heed_status check_updates(const struct heed_items *items, int64_t optim_steps,
                                 struct heed_io_error *error) {
    char name[HEED_QUOTE_BYTES];
    for (int64_t i = 0; i < items->count; i++) {
        const struct heed_item *item = &items->item[i];
        if (!item->optim || item->type->dtype != HEED_I32) continue;
        const int32_t *updates = item->loaded;
        for (int64_t j = 0; j < item->bytes / (int64_t)sizeof *updates; j++) {
            if (updates[j] >= 0 && updates[j] <= optim_steps) continue;
            return heed_io_fail(error, HEED_ERROR_FORMAT,
                                "tensor \"%s\": %" PRId32 " updates of a parameter, %" PRId64
                                " of the optimiser",
                                heed_io_quote(item->name, name), updates[j], optim_steps);
        }
    }
    return HEED_OK;
}

static heed_status fill_info(const struct notes *notes, bool with_optimiser, heed_checkpoint_info *info,
                             struct heed_io_error *error) {
    char *text = strdup(notes->text);
    if (!text) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
    *info = (heed_checkpoint_info){.position = notes->position,
                                   .text = text,
                                   .optim_steps = with_optimiser ? notes->optim_steps : 0,
                                   .version = HEED_FORMAT_VERSION_NUMBER};
    return HEED_OK;
}

/* The only function here that changes anything, after all that could be checked was. */
static heed_status apply(struct heed_items *items, const struct notes *notes, heed_module *module,
                         heed_optim *optim, struct heed_io_error *error) {
    heed_status status = heed_items_apply(items, error);
    if (status != HEED_OK) return status;
    heed_module_zero_grad(module);
    if (optim) heed_optim_steps_set(optim, notes->optim_steps);
    status = heed_random_set(items->ctx, &notes->random);
    return status == HEED_OK ? HEED_OK : heed_io_fail(error, status, "%s", heed_error(items->ctx));
}

static heed_status load(struct heed_items *items, const heed_file *file, heed_module *module,
                        heed_optim *optim, heed_checkpoint_info *info, struct heed_io_error *error) {
    struct notes notes = {0};
    heed_status status = check_format(file, error);
    if (status == HEED_OK) status = read_notes(file, &notes, error);
    if (status == HEED_OK) status = check_kind(&notes, optim, error);
    if (status == HEED_OK) status = add_all(items, module, optim, error);
    if (status == HEED_OK)
        status = heed_items_match(items, file, optim ? NULL : HEED_PREFIX_OPTIMISER, error);
    if (status == HEED_OK) status = heed_items_read(items, file, error);
    if (status == HEED_OK) status = check_updates(items, notes.optim_steps, error);
    if (status == HEED_OK && info) status = fill_info(&notes, optim != NULL, info, error);
    return status == HEED_OK ? apply(items, &notes, module, optim, error) : status;
}

heed_status heed_checkpoint_load(heed_module *module, heed_optim *optim, const char *path,
                                 heed_checkpoint_info *info) {
    heed_ctx *ctx = heed_module_ctx(module);
    struct heed_items items = {.ctx = ctx};
    struct heed_io_error error;
    if (info) *info = (heed_checkpoint_info){0};
    if (heed_failed(ctx) || !heed_between_steps(ctx, path)) return heed_error_status(ctx);
    /* What a device has to tell is of the steps before, whose counts it takes back. */
    if (heed_sync(ctx) != HEED_OK) return heed_error_status(ctx);
    heed_file *file = heed_file_open(ctx, path);
    if (!file) return heed_error_status(ctx);
    const heed_status status = load(&items, file, module, optim, info, &error);
    if (status != HEED_OK) {
        heed_io_report(ctx, path, &error);
        heed_checkpoint_info_clear(info);
    }
    heed_items_clear(&items);
    heed_file_free(file);
    return status;
}

void heed_checkpoint_info_clear(heed_checkpoint_info *info) {
    if (!info) return;
    free((void *)info->text);
    *info = (heed_checkpoint_info){0};
}
