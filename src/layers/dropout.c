/* Dropout as a module. */
#include "layers/layer.h"

struct dropout {
    double p;
};

static heed_tensor dropout_forward(heed_module *module, heed_tensor x);

static const heed_module_class dropout_class = {
    .name = "Dropout", .self_bytes = sizeof(struct dropout), .forward = dropout_forward};

static heed_tensor dropout_forward(heed_module *module, heed_tensor x) {
    const struct dropout *dropout = heed_module_self(module, &dropout_class);
    return heed_dropout(x, dropout->p);
}

heed_module *heed_dropout_new(heed_ctx *ctx, double p) {
    if (heed_failed(ctx) || !heed_layer_probability(ctx, "dropout", "p", p)) return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &dropout_class);
    struct dropout *dropout = heed_module_self(module, &dropout_class);
    if (dropout) dropout->p = p;
    return module;
}
