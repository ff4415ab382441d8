/* FeedForward: two products with an activation between them. */
#include "layers/layer.h"

struct feed_forward {
    heed_tensor w1, b1, w2, b2;
    heed_activation activation;
    double dropout;
};

static heed_tensor feed_forward_forward(heed_module *module, heed_tensor x);

static const heed_module_class feed_forward_class = {
    .name = "FeedForward", .self_bytes = sizeof(struct feed_forward), .forward = feed_forward_forward};

heed_tensor heed_feed_forward(heed_tensor x, heed_tensor w1, heed_tensor b1, heed_tensor w2, heed_tensor b2,
                              heed_activation activation, double dropout) {
    heed_ctx *ctx = heed_context(x);
    heed_scope_begin(ctx);
    heed_tensor hidden = heed_linear(x, w1, b1, &(heed_linear_options){.activation = activation});
    return heed_scope_end(ctx, heed_linear(heed_dropout(hidden, dropout), w2, b2, NULL));
}

static heed_tensor feed_forward_forward(heed_module *module, heed_tensor x) {
    const struct feed_forward *f = heed_module_self(module, &feed_forward_class);
    return heed_feed_forward(x, f->w1, f->b1, f->w2, f->b2, f->activation, f->dropout);
}

static bool options_are_sound(heed_ctx *ctx, const heed_feed_forward_options *options) {
    static const char where[] = "feed_forward";
    return HEED_LAYER_BEGIN(ctx, where, options) &&
           heed_layer_positive(ctx, where, "width", options->width) &&
           heed_layer_not_negative(ctx, where, "hidden", (double)options->hidden) &&
           (options->width <= INT64_MAX / 4 ||
            heed_layer_fail(ctx, HEED_ERROR_MEMORY, where, "width %lld is larger than memory can be",
                            (long long)options->width)) &&
           heed_layer_activation(ctx, where, options->activation) &&
           heed_layer_probability(ctx, where, "dropout", options->dropout);
}

heed_module *heed_feed_forward_make(heed_ctx *ctx, const heed_feed_forward_options *options,
                                    struct heed_feed_forward_inits inits) {
    if (!options_are_sound(ctx, options)) return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &feed_forward_class);
    struct feed_forward *f = heed_module_self(module, &feed_forward_class);
    if (!f) return module;
    int64_t width = options->width, hidden = heed_size_or(options->hidden, 4 * width);
    const heed_init zeros = {HEED_INIT_ZEROS, 0, 0}, usual = {HEED_INIT_DEFAULT, 0, 0};
    heed_init bias = inits.in.kind == HEED_INIT_DEFAULT ? usual : zeros;
    heed_module_child(module, "in",
                      heed_dense_new(ctx, &(heed_dense_options){.in = width,
                                                                .out = hidden,
                                                                .no_bias = options->no_bias,
                                                                .weight_init = inits.in,
                                                                .bias_init = bias}));
    heed_module_child(module, "out",
                      heed_dense_new(ctx, &(heed_dense_options){.in = hidden,
                                                                .out = width,
                                                                .no_bias = options->no_bias,
                                                                .weight_init = inits.out,
                                                                .bias_init = bias}));
    f->w1 = heed_param_find(module, "in.weight");
    f->b1 = heed_param_find(module, "in.bias");
    f->w2 = heed_param_find(module, "out.weight");
    f->b2 = heed_param_find(module, "out.bias");
    f->activation = options->activation == HEED_ACTIVATION_NONE ? HEED_ACTIVATION_GELU : options->activation;
    f->dropout = options->dropout;
    return module;
}

heed_module *heed_feed_forward_new(heed_ctx *ctx, const heed_feed_forward_options *options) {
    return heed_feed_forward_make(ctx, options, (struct heed_feed_forward_inits){0});
}
