/* Stochastic gradient descent. */
#include "optim/optim.h"

heed_optim *heed_sgd_new(heed_module *module, const heed_sgd_options *options) {
    static const heed_sgd_options defaults = {0};
    static const char where[] = "sgd";
    const heed_sgd_options *o = options ? options : &defaults;
    heed_ctx *ctx = heed_module_ctx(module);
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved))
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    if (o->nesterov && o->momentum == 0)
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, where, "nesterov needs a momentum");
    bool sound = heed_optim_in(ctx, where, "momentum", o->momentum, 0, 1) &&
                 heed_optim_in(ctx, where, "weight_decay", o->weight_decay, 0, HEED_ANY) &&
                 heed_optim_in(ctx, where, "clip_norm", o->clip_norm, 0, HEED_ANY) &&
                 heed_optim_in(ctx, where, "clip_value", o->clip_value, 0, HEED_ANY);
    struct heed_optim_plan plan = {
        .kind = HEED_UPDATE_SGD,
        .momentum = o->momentum,
        .nesterov = o->nesterov,
        .weight_decay = o->weight_decay,
        .clip_norm = o->clip_norm,
        .clip_value = o->clip_value,
    };
    return heed_optim_new(sound ? module : NULL, &plan);
}
