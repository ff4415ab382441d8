/* Embedding: rows of a table that learns. */
#include "layers/layer.h"

struct embedding {
    heed_tensor weight;
};

static heed_tensor embedding_forward(heed_module *module, heed_tensor x);

static const heed_module_class embedding_class = {
    .name = "Embedding", .self_bytes = sizeof(struct embedding), .forward = embedding_forward};

static heed_tensor embedding_forward(heed_module *module, heed_tensor x) {
    const struct embedding *embedding = heed_module_self(module, &embedding_class);
    return heed_embedding(embedding->weight, x);
}

heed_module *heed_embedding_new(heed_ctx *ctx, const heed_embedding_options *options) {
    if (!HEED_LAYER_BEGIN(ctx, "embedding", options) ||
        !heed_layer_positive(ctx, "embedding", "rows", options->rows) ||
        !heed_layer_positive(ctx, "embedding", "width", options->width))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &embedding_class);
    struct embedding *embedding = heed_module_self(module, &embedding_class);
    if (!embedding) return module;
    embedding->weight =
        heed_module_param(module, "weight", HEED_SHAPE(options->rows, options->width),
                          heed_init_or(options->weight_init, (heed_init){HEED_INIT_NORMAL, 0, 1}));
    return module;
}
