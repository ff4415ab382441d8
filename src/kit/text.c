/* A text as a data set.
 *
 *   - bytes[0 .. train) trains, bytes[train .. size) is held out; each part has at least length + 1 bytes
 *   - a window is length + 1 neighbouring bytes of one part: x is all but the last, y all but the first
 *   - where training windows begin depends on seed, position and row alone, so there is no state to save */
#include "kit/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sets the numbers of training windows apart from what else a program draws from the same seed. */
static const uint64_t window_salt = 0x77696e646f7773u;

struct heed_text {
    heed_ctx *ctx;
    unsigned char *bytes;
    int64_t size, train;
    int64_t batch, length;
    int32_t *x, *y; /* room for a batch each */
};

static bool options_fit(heed_ctx *ctx, const heed_text_options *o) {
    if (!o || o->batch < 1 || o->length < 1 || o->batch > INT32_MAX || o->length > INT32_MAX) {
        heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "text", "batch and length must be given and at least 1");
        return false;
    }
    if (!(o->held_out >= 0.0 && o->held_out < 1.0)) {
        heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "text", "held_out is %g but must be in (0, 1)", o->held_out);
        return false;
    }
    return heed_kit_reserved_zero(ctx, "text", o->reserved, 4);
}

/* Takes the bytes over, also when it fails. */
static heed_text *text_new(heed_ctx *ctx, const char *name, char *bytes, size_t size,
                           const heed_text_options *o) {
    heed_text *text = heed_kit_alloc(ctx, "text", 1, sizeof *text);
    if (!text) {
        free(bytes);
        return NULL;
    }
    *text = (heed_text){.ctx = ctx,
                        .bytes = (unsigned char *)bytes,
                        .size = (int64_t)size,
                        .batch = o->batch,
                        .length = o->length};
    double share = o->held_out > 0.0 ? o->held_out : 0.1;
    text->train = text->size - (int64_t)floor((double)size * share);
    int64_t smaller = text->train < text->size - text->train ? text->train : text->size - text->train;
    if (smaller <= o->length) {
        heed_kit_fail(
            ctx, HEED_ERROR_ARGUMENT, "text",
            "%s is too short: of its %lld bytes %lld are for training and %lld held out, and a window needs "
            "%lld",
            name, (long long)text->size, (long long)text->train, (long long)(text->size - text->train),
            (long long)o->length + 1);
        heed_text_free(text);
        return NULL;
    }
    size_t elements = (size_t)o->batch * (size_t)o->length; /* both below 2^31 */
    text->x = heed_kit_alloc(ctx, "text", elements, sizeof *text->x);
    text->y = text->x ? heed_kit_alloc(ctx, "text", elements, sizeof *text->y) : NULL;
    if (!text->y) {
        heed_text_free(text);
        return NULL;
    }
    return text;
}

heed_text *heed_text_open(heed_ctx *ctx, const char *path, const heed_text_options *options) {
    if (heed_failed(ctx) || !options_fit(ctx, options)) return NULL;
    char *bytes;
    size_t size;
    if (heed_bytes_read(ctx, path, &bytes, &size) != HEED_OK) return NULL;
    return text_new(ctx, path, bytes, size, options);
}

heed_text *heed_text_from(heed_ctx *ctx, const void *bytes, size_t size, const heed_text_options *options) {
    if (heed_failed(ctx) || !options_fit(ctx, options)) return NULL;
    char *copy = heed_kit_alloc(ctx, "text", size, 1);
    if (!copy) return NULL;
    if (size) memcpy(copy, bytes, size);
    return text_new(ctx, "the text", copy, size, options);
}

void heed_text_free(heed_text *text) {
    if (!text) return;
    free(text->bytes);
    free(text->x);
    free(text->y);
    free(text);
}

heed_ctx *heed_text_ctx(const heed_text *text) {
    return text ? text->ctx : NULL;
}

const unsigned char *heed_text_bytes(const heed_text *text, heed_text_part part, size_t *size) {
    int64_t first = text && part == HEED_TEXT_HELD_OUT ? text->train : 0;
    int64_t last = !text ? 0 : part == HEED_TEXT_TRAIN ? text->train : text->size;
    if (size) *size = (size_t)(last - first);
    return text ? text->bytes + first : NULL;
}

static void fill_row(const heed_text *text, int64_t row, int64_t start) {
    int32_t *x = text->x + row * text->length, *y = text->y + row * text->length;
    const unsigned char *bytes = text->bytes + start;
    for (int64_t i = 0; i < text->length; i++) {
        x[i] = bytes[i];
        y[i] = bytes[i + 1];
    }
}

static heed_status hand_out(const heed_text *text, int64_t rows, heed_tensor *x, heed_tensor *y) {
    *x = heed_from(text->ctx, HEED_I32, HEED_SHAPE(rows, text->length), text->x);
    *y = heed_from(text->ctx, HEED_I32, HEED_SHAPE(rows, text->length), text->y);
    return heed_error_status(text->ctx);
}

heed_status heed_text_batch(const heed_text *text, int64_t position, heed_tensor *x, heed_tensor *y) {
    *x = *y = (heed_tensor){0};
    if (!text) return HEED_ERROR_ARGUMENT;
    if (heed_failed(text->ctx)) return heed_error_status(text->ctx);
    if (position < 0)
        return heed_kit_fail(text->ctx, HEED_ERROR_ARGUMENT, "text_batch", "position %lld is negative",
                             (long long)position);
    uint64_t seed = heed_random_bits(heed_random_get(text->ctx).seed, window_salt);
    for (int64_t row = 0; row < text->batch; row++) {
        uint64_t index = (uint64_t)position * (uint64_t)text->batch + (uint64_t)row;
        fill_row(text, row, heed_random_below(seed, index, text->train - text->length));
    }
    return hand_out(text, text->batch, x, y);
}

static int64_t held_out_windows(const heed_text *text) {
    return (text->size - text->train - 1) / text->length;
}

int64_t heed_text_held_out_batches(const heed_text *text) {
    return text ? (held_out_windows(text) + text->batch - 1) / text->batch : 0;
}

heed_status heed_text_held_out(const heed_text *text, int64_t i, heed_tensor *x, heed_tensor *y) {
    *x = *y = (heed_tensor){0};
    if (!text) return HEED_ERROR_ARGUMENT;
    if (heed_failed(text->ctx)) return heed_error_status(text->ctx);
    if (i < 0 || i >= heed_text_held_out_batches(text))
        return heed_kit_fail(text->ctx, HEED_ERROR_ARGUMENT, "text_held_out",
                             "batch %lld is not among the %lld there are", (long long)i,
                             (long long)heed_text_held_out_batches(text));
    int64_t first = i * text->batch, rows = held_out_windows(text) - first;
    if (rows > text->batch) rows = text->batch;
    for (int64_t row = 0; row < rows; row++) fill_row(text, row, text->train + (first + row) * text->length);
    return hand_out(text, rows, x, y);
}

heed_tensor heed_text_tokens(heed_ctx *ctx, const void *bytes, int64_t count) {
    const unsigned char *from = bytes;
    int32_t *tokens = heed_kit_alloc(ctx, "text_tokens", count > 0 ? (size_t)count : 0, sizeof *tokens);
    for (int64_t i = 0; tokens && i < count; i++) tokens[i] = from[i];
    heed_tensor result = heed_from(ctx, HEED_I32, HEED_SHAPE(1, count), tokens);
    free(tokens);
    return result;
}

double heed_text_held_out_loss(const heed_text *text, heed_module *model, int64_t batches) {
    if (!text) return NAN;
    int64_t all = heed_text_held_out_batches(text), windows = 0;
    if (batches < 1 || batches > all) batches = all;
    double sum = 0.0;
    for (int64_t i = 0; i < batches; i++) {
        heed_tensor x, y;
        if (heed_step_begin(text->ctx, HEED_EVAL) != HEED_OK) return NAN;
        heed_text_held_out(text, all / batches * i + all % batches * i / batches, &x, &y);
        int64_t rows = heed_size(x, 0);
        sum += (double)rows * heed_item(heed_cross_entropy(heed_forward(model, x), y, NULL));
        windows += rows;
        if (heed_step_end(text->ctx) != HEED_OK) return NAN;
    }
    return windows ? sum / (double)windows : NAN;
}
