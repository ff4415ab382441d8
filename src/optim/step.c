/* One update of all parameters that have a gradient. */
#include "optim/optim.h"

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
        item->number = i;
        items++;
    }
    return items;
}

/* Gradients are used once: whatever comes next starts anew. */
static void consume(heed_optim *optim, int64_t items) {
    for (int64_t i = 0; i < items; i++)
        optim->param[optim->item[i].number].tensor.node->flags &= ~(unsigned)HEED_NODE_GRAD_FULL;
}

/* ---- the norm ---- */

/* Counts a step, in which the items were updated. */
static void count_step(heed_optim *optim, int64_t items) {
    for (int64_t i = 0; i < optim->params; i++) optim->param[i].recent <<= 1;
    for (int64_t i = 0; i < items; i++) optim->param[optim->item[i].number].recent |= 1;
    optim->steps++;
}

void heed_optim_changed_nothing(struct heed_grad_witness *witness, int64_t step) {
    heed_optim *optim = (heed_optim *)witness;
    for (; optim->steps > step; optim->steps--)
        for (int64_t i = 0; i < optim->params; i++) {
            struct heed_optim_param *param = &optim->param[i];
            if (param->recent & 1 && optim->updates[i] > 0) optim->updates[i]--;
            param->recent >>= 1;
        }
}

heed_status heed_optim_not_finite(struct heed_grad_witness *witness, int64_t number, int64_t step) {
    heed_optim *optim = (heed_optim *)witness;
    const bool known = number >= 0 && number < optim->params;
    const char *name = known ? optim->param[number].name : "all parameters together";
    return heed_fail(optim->ctx, HEED_ERROR_NUMERIC, heed_optim_kind(optim),
                     "gradient of %s is not finite at step %lld", name, (long long)step);
}

static bool find_norm(heed_optim *optim, int64_t items) {
    const struct heed_grad_norm_args args = {.dtype = HEED_F32,
                                             .items = items,
                                             .item = optim->item,
                                             .clamp = optim->plan.clip_value,
                                             .scale = 1,
                                             .result = optim->norm->data,
                                             .witness = &optim->witness,
                                             .step = optim->steps};
    return heed_exec_run(&optim->ctx->exec, HEED_PRIMITIVE_GRAD_NORM, &args) == HEED_OK;
}

/* ---- updating ---- */

static void swap(heed_optim *optim, int64_t a, int64_t b) {
    struct heed_param_item item = optim->item[a];
    optim->item[a] = optim->item[b];
    optim->item[b] = item;
}

/* Moves the items of as many updates as the first to the front; returns how many they are. */
static int64_t same_updates_first(heed_optim *optim, int64_t first, int64_t items) {
    int32_t updates = optim->updates[optim->item[first].number];
    int64_t end = first;
    for (int64_t i = first; i < items; i++)
        if (optim->updates[optim->item[i].number] == updates) swap(optim, i, end++);
    return end - first;
}

static bool update(heed_optim *optim, int64_t first, int64_t items) {
    const struct heed_optim_plan *plan = &optim->plan;
    const struct heed_update_args args = {
        .kind = plan->kind,
        .dtype = HEED_F32,
        .items = items,
        .item = optim->item + first,
        .norm = optim->norm->data,
        .max_norm = plan->clip_norm,
        .momentum = plan->momentum,
        .nesterov = plan->nesterov,
        .beta1 = plan->beta1,
        .beta2 = plan->beta2,
        .eps = plan->eps,
        .step = (int64_t)optim->updates[optim->item[first].number] + 1,
    };
    if (heed_exec_run(&optim->ctx->exec, HEED_PRIMITIVE_UPDATE, &args) != HEED_OK) return false;
    for (int64_t i = first; i < first + items; i++) {
        int64_t number = optim->item[i].number;
        if (optim->updates[number] < INT32_MAX) optim->updates[number]++;
        heed_node_wrote(optim->param[number].tensor.node);
    }
    return true;
}

static void step(heed_optim *optim, double rate) {
    if (!params_live(optim)) return;
    int64_t items = gather(optim, rate);
    if (items == 0) {
        heed_fail(optim->ctx, HEED_ERROR_GRADIENT, heed_optim_kind(optim),
                  "no parameter has a gradient; was heed_backward() called?");
        return;
    }
    bool going = find_norm(optim, items);
    for (int64_t first = 0, count; going && first < items; first += count) {
        count = same_updates_first(optim, first, items);
        going = update(optim, first, count);
    }
    consume(optim, items);
    if (going) count_step(optim, items);
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
