/* Dense: a matrix product with bias and activation. */
#include "layers/layer.h"

#include <math.h>

struct dense {
    heed_tensor weight, bias;
    heed_linear_options options;
};

static heed_tensor dense_forward(heed_module *module, heed_tensor x);

static const heed_module_class dense_class = {
    .name = "Dense", .self_bytes = sizeof(struct dense), .forward = dense_forward};

static heed_tensor dense_forward(heed_module *module, heed_tensor x) {
    const struct dense *dense = heed_module_self(module, &dense_class);
    return heed_linear(x, dense->weight, dense->bias, &dense->options);
}

static bool dense_options_are_sound(heed_ctx *ctx, const heed_dense_options *options) {
    return HEED_LAYER_BEGIN(ctx, "dense", options) && heed_layer_positive(ctx, "dense", "in", options->in) &&
           heed_layer_positive(ctx, "dense", "out", options->out) &&
           heed_layer_activation(ctx, "dense", options->activation);
}

heed_module *heed_dense_make(heed_ctx *ctx, const heed_dense_options *options, struct heed_place weight,
                             struct heed_place bias) {
    if (!dense_options_are_sound(ctx, options)) return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &dense_class);
    struct dense *dense = heed_module_self(module, &dense_class);
    if (!dense) return module;
    dense->options.activation = options->activation;
    double bound = 1 / sqrt((double)options->in);
    heed_init init = {HEED_INIT_UNIFORM, -bound, bound};
    dense->weight = heed_module_param_at(module, "weight", weight, HEED_SHAPE(options->out, options->in),
                                         heed_init_or(options->weight_init, init));
    if (!options->no_bias)
        dense->bias = heed_module_param_at(module, "bias", bias, HEED_SHAPE(options->out),
                                           heed_init_or(options->bias_init, init));
    return module;
}

heed_module *heed_dense_new(heed_ctx *ctx, const heed_dense_options *options) {
    return heed_dense_make(ctx, options, (struct heed_place){0}, (struct heed_place){0});
}
