/* One update of all parameters that have a gradient. */
#include "optim/optim.h"

#include <math.h>

static bool params_live(heed_optim *optim) {
    for (int64_t i = 0; i < optim->params; i++) {
        const struct heed_optim_param *param = &optim->param[i];
        if (param->tensor.node->serial == param->tensor.serial) continue;
        heed_fail(optim->ctx, HEED_ERROR_STALE, heed_optim_kind(optim), "parameter %s was freed",
                  param->name);
        return false;
    }
    return true;
}

static void *moment_at(const struct heed_storage *moment, const struct heed_optim_param *param) {
    return moment ? (char *)moment->data + param->offset : NULL;
}

/* Fills the items of the parameters with gradients; returns how many. */
static int64_t gather(heed_optim *optim, double rate) {
    int64_t items = 0;
    for (int64_t i = 0; i < optim->params; i++) {
        const struct heed_optim_param *param = &optim->param[i];
        struct heed_param_item *item = &optim->item[items];
        if (!heed_grad_item(param->tensor, item)) continue;
        item->moment1 = moment_at(optim->moment1, param);
        item->moment2 = moment_at(optim->moment2, param);
        item->rate = rate * param->rate_scale;
        item->decay = optim->plan.weight_decay * param->decay_scale;
        optim->item_param[items++] = i;
    }
    return items;
}

/* Gradients are used once: whatever comes next starts anew. */
static void consume(heed_optim *optim, int64_t items) {
    for (int64_t i = 0; i < items; i++)
        optim->param[optim->item_param[i]].tensor.node->flags &= ~(unsigned)HEED_NODE_GRAD_FULL;
}

static bool norm_is_finite(heed_optim *optim, int64_t items) {
    int64_t bad;
    double norm = heed_grad_norm_run(optim->ctx, optim->item, items, optim->plan.clip_value, 1, &bad);
    if (heed_failed(optim->ctx)) return false;
    optim->norm = norm;
    if (isfinite(norm)) return true;
    const char *name =
        bad >= 0 && bad < items ? optim->param[optim->item_param[bad]].name : "all parameters together";
    heed_fail(optim->ctx, HEED_ERROR_NUMERIC, heed_optim_kind(optim),
              "gradient of %s is not finite at step %lld", name, (long long)optim->steps);
    return false;
}

/* ---- updating ---- */

static void swap(heed_optim *optim, int64_t a, int64_t b) {
    struct heed_param_item item = optim->item[a];
    int64_t param = optim->item_param[a];
    optim->item[a] = optim->item[b];
    optim->item_param[a] = optim->item_param[b];
    optim->item[b] = item;
    optim->item_param[b] = param;
}

/* Moves the items of as many updates as the first to the front; returns how many they are. */
static int64_t same_updates_first(heed_optim *optim, int64_t first, int64_t items) {
    int32_t updates = optim->updates[optim->item_param[first]];
    int64_t end = first;
    for (int64_t i = first; i < items; i++)
        if (optim->updates[optim->item_param[i]] == updates) swap(optim, i, end++);
    return end - first;
}

static bool update(heed_optim *optim, int64_t first, int64_t items, double grad_scale) {
    const struct heed_optim_plan *plan = &optim->plan;
    const struct heed_update_args args = {
        .kind = plan->kind,
        .dtype = HEED_F32,
        .items = items,
        .item = optim->item + first,
        .grad_scale = grad_scale,
        .momentum = plan->momentum,
        .nesterov = plan->nesterov,
        .beta1 = plan->beta1,
        .beta2 = plan->beta2,
        .eps = plan->eps,
        .step = (int64_t)optim->updates[optim->item_param[first]] + 1,
    };
    if (heed_exec_run(&optim->ctx->exec, HEED_PRIMITIVE_UPDATE, &args) != HEED_OK) return false;
    for (int64_t i = first; i < first + items; i++) {
        int64_t param = optim->item_param[i];
        if (optim->updates[param] < INT32_MAX) optim->updates[param]++;
        heed_node_wrote(optim->param[param].tensor.node);
    }
    return true;
}

static void step(heed_optim *optim, double rate) {
    if (!params_live(optim)) return;
    int64_t items = gather(optim, rate);
    bool going = norm_is_finite(optim, items);
    double grad_scale = heed_clip_factor(optim->norm, optim->plan.clip_norm);
    for (int64_t first = 0, count; going && first < items; first += count) {
        count = same_updates_first(optim, first, items);
        going = update(optim, first, count, grad_scale);
    }
    consume(optim, items);
    if (going) optim->steps++;
}

heed_status heed_optim_step(heed_optim *optim, double rate) {
    heed_ctx *ctx = heed_optim_ctx(optim);
    if (heed_failed(ctx) || !heed_optim_in(ctx, heed_optim_kind(optim), "rate", rate, 0, HEED_ANY))
        return heed_error_status(ctx);
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    step(optim, rate);
    heed_leave(ctx);
    return heed_error_status(ctx);
}
