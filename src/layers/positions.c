/* Positions: a table, learned or of sines, that is added row by row. */
#include "layers/layer.h"

#include <math.h>

/* ---- sines ---- */

/* table[position][2i] = sin(position / 10000^(2i / width)), [2i + 1] the cosine (Vaswani et al. 2017,
 * section 3.5). */
static void fill_sines(float *table, int64_t length, int64_t width) {
    for (int64_t position = 0; position < length; position++) {
        for (int64_t column = 0; column < width; column++) {
            double rate = pow(10000, -(double)(column - column % 2) / (double)width);
            double angle = (double)position * rate;
            table[position * width + column] = (float)(column % 2 ? cos(angle) : sin(angle));
        }
    }
}

heed_tensor heed_sinusoidal_positions(heed_ctx *ctx, int64_t length, int64_t width) {
    heed_tensor table = heed_zeros(ctx, HEED_F32, HEED_SHAPE(length, width));
    struct heed_node *node = heed_node_of(table, "sinusoidal_positions");
    struct heed_view host;
    if (!node) return table;
    heed_status status = heed_elements_map(&ctx->exec, &node->view, HEED_MAP_WRITE, &host);
    if (status == HEED_OK) {
        fill_sines(host.data, length, width);
        status = heed_elements_unmap(&ctx->exec, &node->view, HEED_MAP_WRITE, &host);
    }
    if (status == HEED_OK) return table;
    heed_free(table);
    return heed_handle(ctx, NULL);
}

/* ---- the module ---- */

struct positions {
    heed_tensor table; /* the parameter, or the module's own constant */
    bool constant;
};

static heed_tensor positions_forward(heed_module *module, heed_tensor x);
static void positions_destroy(heed_module *module);

static const heed_module_class positions_class = {.name = "Positions",
                                                  .self_bytes = sizeof(struct positions),
                                                  .forward = positions_forward,
                                                  .destroy = positions_destroy};

static void positions_destroy(heed_module *module) {
    const struct positions *positions = heed_module_self(module, &positions_class);
    if (positions->constant) heed_free(positions->table);
}

heed_tensor heed_positions_add(heed_module *module, heed_tensor x, int64_t offset) {
    const struct positions *positions = heed_module_self(module, &positions_class);
    int64_t length = offset + heed_size(x, -2), longest = heed_size(positions->table, 0);
    if (heed_is_valid(x) && heed_rank(x) < 2)
        heed_layer_fail(module->ctx, HEED_ERROR_SHAPE, "positions", "rank %d of x is less than 2",
                        heed_rank(x));
    else if (length > longest)
        heed_layer_fail(module->ctx, HEED_ERROR_SHAPE, "positions", "length %lld exceeds the table's %lld",
                        (long long)length, (long long)longest);
    heed_scope_begin(module->ctx);
    return heed_scope_end(module->ctx, heed_add(x, heed_slice(positions->table, 0, offset, length, 1)));
}

static heed_tensor positions_forward(heed_module *module, heed_tensor x) {
    return heed_positions_add(module, x, 0);
}

static heed_tensor constant_table(heed_ctx *ctx, int64_t length, int64_t width) {
    heed_scope_begin(ctx);
    heed_tensor kept = heed_keep(heed_sinusoidal_positions(ctx, length, width));
    heed_scope_end(ctx, HEED_NONE);
    if (heed_is_valid(kept)) kept.node->storage->of_model = true;
    return kept;
}

heed_module *heed_positions_new(heed_ctx *ctx, const heed_positions_options *options) {
    static const char where[] = "positions";
    if (!HEED_LAYER_BEGIN(ctx, where, options) ||
        !heed_layer_positive(ctx, where, "length", options->length) ||
        !heed_layer_positive(ctx, where, "width", options->width))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &positions_class);
    struct positions *positions = heed_module_self(module, &positions_class);
    if (!positions) return module;
    positions->constant = options->sinusoidal;
    if (options->sinusoidal)
        positions->table = constant_table(ctx, options->length, options->width);
    else
        positions->table =
            heed_module_param(module, "weight", HEED_SHAPE(options->length, options->width),
                              heed_init_or(options->init, (heed_init){HEED_INIT_NORMAL, 0, 0.02}));
    if (heed_failed(ctx)) module->inert = true;
    return module;
}
