/**
 * @file optim.h
 * @brief Optimisers, parameter groups, clipping, schedules.
 */
#ifndef HEED_OPTIM_H
#define HEED_OPTIM_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Options of heed_sgd_new(). */
typedef struct heed_sgd_options {
    double momentum;      /**< 0: none */
    bool nesterov;        /**< with momentum (Sutskever et al. 2013) */
    double weight_decay;  /**< added to the gradient, as PyTorch's SGD */
    double clip_norm;     /**< > 0: scale all gradients so that their joint norm is at most this */
    double clip_value;    /**< > 0: clamp each gradient element to ± this, before the norm */
    uint64_t reserved[4]; /**< must be zero */
} heed_sgd_options;

/** Stochastic gradient descent over all parameters of a module. @param options NULL for the defaults
 *  @return never NULL: after an error, and of a NULL module, which has no context to tell, an inert
 * optimiser, of which heed_optim_step() fails */
HEED_API heed_optim *heed_sgd_new(heed_module *module, const heed_sgd_options *options);

/** Options of heed_adam_new() and heed_adamw_new(). */
typedef struct heed_adamw_options {
    double beta1;         /**< 0: 0.9 (has_betas: as given) */
    double beta2;         /**< 0: 0.999 (has_betas: as given) */
    bool has_betas;       /**< a beta of 0 is meant */
    double eps;           /**< 0: 1e-8 */
    double weight_decay;  /**< default 0 */
    double clip_norm;     /**< > 0: scale all gradients so that their joint norm is at most this */
    double clip_value;    /**< > 0: clamp each gradient element to ± this, before the norm */
    uint64_t reserved[4]; /**< must be zero */
} heed_adamw_options;

/** Adam (Kingma & Ba 2015, algorithm 1); weight decay is added to the gradient. Options and result as of
 *  heed_sgd_new(). */
HEED_API heed_optim *heed_adam_new(heed_module *module, const heed_adamw_options *options);

/** AdamW (Loshchilov & Hutter 2019, algorithm 2): decay apart from the gradient, for tensors of rank ≥ 2 only
 *  (matrices and tables, not biases and norms). Options and result as of heed_sgd_new(). */
HEED_API heed_optim *heed_adamw_new(heed_module *module, const heed_adamw_options *options);

/** Frees the optimiser and its state, not the module. NULL is fine. */
HEED_API void heed_optim_free(heed_optim *optim);

/** Parameters whose name contains `pattern` get rate × rate_scale and decay × decay_scale; later rules win.
 *  A rule also overrides AdamW's rank rule: what it matches decays by decay_scale whatever its rank. An empty
 *  pattern matches all; matching none is an error, and so are scales that are negative or not finite. */
HEED_API heed_status heed_optim_group(heed_optim *optim, const char *pattern, double rate_scale,
                                      double decay_scale);

/**
 * One update with learning rate `rate` from the gradients that backward left, which it consumes.
 * Does nothing after an error. A gradient norm that is not finite is HEED_ERROR_NUMERIC, with the step (the
 * number of updates before it, so counting from 0) and the first bad parameter named; no weight is touched
 * then, and the gradients are forgotten. Parameters without gradient and frozen ones are left alone;
 * if no parameter has one it is HEED_ERROR_GRADIENT.
 * On a device that runs behind the host, that error comes when the host next waits for it (heed_sync(), or
 * reading an element); no weight has changed since that step, and the number of steps is its again. So it is
 * with a loss that is not finite, and with bad indices.
 */
HEED_API heed_status heed_optim_step(heed_optim *optim, double rate);

/** The joint norm of the gradients before clipping, of the last step. Waits for the device. */
HEED_API double heed_optim_grad_norm(const heed_optim *optim);

/** Updates done so far. */
HEED_API int64_t heed_optim_steps(const heed_optim *optim);

/** The norm of all gradients below a module, clipping them in place to `max_norm` if that is > 0. A norm that
 * is not finite changes nothing. NaN after an error. */
HEED_API double heed_clip_grad_norm(heed_module *module, double max_norm);

/** Clamps every gradient element below a module to ± max_value. */
HEED_API heed_status heed_clip_grad_value(heed_module *module, double max_value);

/* ---- schedules: pure functions of the step, which counts from 0 ---- */

/** `peak` always. */
HEED_API double heed_schedule_constant(int64_t step, double peak);
/** Linear from 0 to peak over `warmup` steps (the first step already gets peak/warmup), then a half cosine
 *  down to 0 at `total` (Loshchilov & Hutter 2017), and 0 from there on. */
HEED_API double heed_schedule_warmup_cosine(int64_t step, int64_t warmup, int64_t total, double peak);
/** The same warm-up, then linear down to 0 at `total`, and 0 from there on. */
HEED_API double heed_schedule_warmup_linear(int64_t step, int64_t warmup, int64_t total, double peak);
/** peak · factor^n with n = step / every, rounded down. */
HEED_API double heed_schedule_step(int64_t step, int64_t every, double factor, double peak);

#ifdef __cplusplus
}
#endif
#endif
