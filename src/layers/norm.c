/* LayerNorm and RMSNorm. */
#include "layers/layer.h"

struct norm {
    heed_tensor weight, bias;
    double eps;
};

static heed_tensor layer_norm_forward(heed_module *module, heed_tensor x);
static heed_tensor rms_norm_forward(heed_module *module, heed_tensor x);

static const heed_module_class layer_norm_class = {
    .name = "LayerNorm", .self_bytes = sizeof(struct norm), .forward = layer_norm_forward};
static const heed_module_class rms_norm_class = {
    .name = "RMSNorm", .self_bytes = sizeof(struct norm), .forward = rms_norm_forward};

static heed_tensor layer_norm_forward(heed_module *module, heed_tensor x) {
    const struct norm *norm = heed_module_self(module, &layer_norm_class);
    return heed_layer_norm(x, norm->weight, norm->bias, norm->eps);
}

static heed_tensor rms_norm_forward(heed_module *module, heed_tensor x) {
    const struct norm *norm = heed_module_self(module, &rms_norm_class);
    return heed_rms_norm(x, norm->weight, norm->eps);
}

heed_tensor heed_norm_residual(heed_module *norm, heed_tensor x, heed_tensor branch, double dropout,
                               heed_tensor *sum) {
    const struct norm *layer = heed_module_self(norm, &layer_norm_class),
                      *rms = heed_module_self(norm, &rms_norm_class), *self = layer ? layer : rms;
    if (sum) *sum = heed_module_refused(norm, x);
    if (!self) return heed_module_refused(norm, x);
    const heed_residual_norm_options options = {.rms = !layer, .eps = self->eps, .dropout = dropout};
    return heed_residual_norm(x, branch, self->weight, self->bias, &options, sum);
}

static heed_module *norm_new(heed_ctx *ctx, const heed_module_class *type, const char *where,
                             const heed_norm_options *options) {
    if (!HEED_LAYER_BEGIN(ctx, where, options) || !heed_layer_positive(ctx, where, "width", options->width) ||
        !heed_layer_not_negative(ctx, where, "eps", options->eps))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, type);
    struct norm *norm = heed_module_self(module, type);
    if (!norm) return module;
    norm->eps = options->eps;
    if (options->no_weight) return module;
    norm->weight =
        heed_module_param(module, "weight", HEED_SHAPE(options->width), (heed_init){HEED_INIT_ONES, 0, 0});
    if (type == &layer_norm_class && !options->no_bias)
        norm->bias =
            heed_module_param(module, "bias", HEED_SHAPE(options->width), (heed_init){HEED_INIT_ZEROS, 0, 0});
    return module;
}

heed_module *heed_layer_norm_new(heed_ctx *ctx, const heed_norm_options *options) {
    return norm_new(ctx, &layer_norm_class, "layer_norm", options);
}

heed_module *heed_rms_norm_new(heed_ctx *ctx, const heed_norm_options *options) {
    return norm_new(ctx, &rms_norm_class, "rms_norm", options);
}
