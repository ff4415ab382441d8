/* Adam and AdamW. */
#include "optim/optim.h"

static bool options_are_sound(heed_ctx *ctx, const char *where, const heed_adamw_options *o) {
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved)) {
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
        return false;
    }
    const double below_one = 1 - 1e-16; /* the largest double below 1 */
    return heed_optim_in(ctx, where, "beta1", o->beta1, 0, below_one) &&
           heed_optim_in(ctx, where, "beta2", o->beta2, 0, below_one) &&
           heed_optim_in(ctx, where, "eps", o->eps, 0, HEED_ANY) &&
           heed_optim_in(ctx, where, "weight_decay", o->weight_decay, 0, HEED_ANY) &&
           heed_optim_in(ctx, where, "clip_norm", o->clip_norm, 0, HEED_ANY) &&
           heed_optim_in(ctx, where, "clip_value", o->clip_value, 0, HEED_ANY);
}

static heed_optim *adam_new(heed_module *module, const heed_adamw_options *options, enum heed_update kind,
                            const char *where) {
    static const heed_adamw_options defaults = {0};
    const heed_adamw_options *o = options ? options : &defaults;
    bool sound = options_are_sound(heed_module_ctx(module), where, o);
    struct heed_optim_plan plan = {
        .kind = kind,
        .beta1 = o->beta1 == 0 && !o->has_betas ? 0.9 : o->beta1,
        .beta2 = o->beta2 == 0 && !o->has_betas ? 0.999 : o->beta2,
        .eps = o->eps == 0 ? 1e-8 : o->eps,
        .weight_decay = o->weight_decay,
        .clip_norm = o->clip_norm,
        .clip_value = o->clip_value,
    };
    return heed_optim_new(sound ? module : NULL, &plan);
}

heed_optim *heed_adam_new(heed_module *module, const heed_adamw_options *options) {
    return adam_new(module, options, HEED_UPDATE_ADAM, "adam");
}

heed_optim *heed_adamw_new(heed_module *module, const heed_adamw_options *options) {
    return adam_new(module, options, HEED_UPDATE_ADAMW, "adamw");
}
