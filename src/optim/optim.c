/* What all optimisers share: their parameters and flat buffers, groups, state. optim.h has the invariants. */
#include "optim/optim.h"

#include <math.h>
#include <string.h>

static heed_optim inert_optim; /* never written to */

static const char *const kinds[] = {
    [HEED_UPDATE_SGD] = "sgd", [HEED_UPDATE_ADAM] = "adam", [HEED_UPDATE_ADAMW] = "adamw"};

const char *heed_optim_kind(const heed_optim *optim) {
    return optim ? kinds[optim->plan.kind] : "";
}

heed_ctx *heed_optim_ctx(const heed_optim *optim) {
    return optim && optim->ctx ? optim->ctx : heed_inert_ctx();
}

bool heed_optim_in(heed_ctx *ctx, const char *where, const char *name, double value, double low,
                   double high) {
    if (value >= low && value <= high) return true;
    char message[120];
    if (high < HEED_ANY)
        snprintf(message, sizeof message, "%s %g is not in [%g, %g]", name, value, low, high);
    else
        snprintf(message, sizeof message, "%s %g is not a number of at least %g", name, value, low);
    heed_error_set(ctx, HEED_ERROR_ARGUMENT, where, message);
    return false;
}

/* ---- making ---- */

static bool count_names(void *bytes, const char *name, heed_tensor param) {
    (void)param;
    *(size_t *)bytes += strlen(name) + 1;
    return true;
}

struct filling {
    heed_optim *optim;
    char *name; /* where the next one goes */
};

static bool add_param(void *arg, const char *name, heed_tensor tensor) {
    struct filling *f = arg;
    heed_optim *optim = f->optim;
    size_t bytes = strlen(name) + 1;
    memcpy(f->name, name, bytes);
    bool decays = optim->plan.kind != HEED_UPDATE_ADAMW || tensor.node->view.rank >= 2;
    optim->param[optim->params++] = (struct heed_optim_param){
        .tensor = tensor, .name = f->name, .rate_scale = 1, .decay_scale = decays ? 1 : 0};
    f->name += bytes;
    return true;
}

static size_t bytes_into_storage(const struct heed_node *node) {
    return (size_t)((char *)node->view.data - (char *)node->storage->data);
}

/* A place in the flat buffers for each parameter, its whole storage at once. Returns the bytes of a buffer.
 */
static size_t lay_out(heed_optim *optim) {
    size_t total = 0;
    for (int64_t i = 0; i < optim->params; i++) {
        const struct heed_node *node = optim->param[i].tensor.node;
        int64_t j = 0;
        while (optim->param[j].tensor.node->storage != node->storage) j++;
        size_t base = total;
        if (j < i)
            base = optim->param[j].offset - bytes_into_storage(optim->param[j].tensor.node);
        else
            total += (node->storage->bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
        optim->param[i].offset = base + bytes_into_storage(node);
    }
    return total;
}

static struct heed_storage *zeroed_storage(heed_ctx *ctx, size_t bytes) {
    struct heed_storage *storage = heed_storage_new(ctx, bytes);
    if (storage) heed_elements_zero(&ctx->exec, storage->data, bytes);
    return storage;
}

static bool make_buffers(heed_optim *optim) {
    heed_ctx *ctx = optim->ctx;
    size_t bytes = lay_out(optim);
    bool adam = optim->plan.kind != HEED_UPDATE_SGD;
    optim->gradients = zeroed_storage(ctx, bytes);
    if (adam || optim->plan.momentum != 0) optim->moment1 = zeroed_storage(ctx, bytes);
    if (adam) optim->moment2 = zeroed_storage(ctx, bytes);
    optim->norm = zeroed_storage(ctx, sizeof(struct heed_grad_norm));
    if (heed_failed(ctx)) return false;
    for (int64_t i = 0; i < optim->params; i++)
        heed_node_rehome_grad(optim->param[i].tensor.node, optim->gradients, optim->param[i].offset);
    return !heed_failed(ctx);
}

static bool make_tables(heed_optim *optim, heed_module *module) {
    struct heed_memory *memory = optim->ctx->exec.memory;
    size_t params = (size_t)heed_param_tensors(module), name_bytes = 0;
    heed_param_walk(module, count_names, &name_bytes);
    optim->param = heed_block_zeroed(memory, params * sizeof *optim->param);
    optim->item = heed_block_zeroed(memory, params * sizeof *optim->item);
    optim->updates = heed_block_zeroed(memory, params * sizeof *optim->updates);
    optim->names = heed_block_new(memory, name_bytes);
    if (!optim->param || !optim->item || !optim->updates || !optim->names) {
        heed_fail(optim->ctx, HEED_ERROR_MEMORY, heed_optim_kind(optim), "out of memory");
        return false;
    }
    heed_param_walk(module, add_param, &(struct filling){optim, optim->names});
    return true;
}

static heed_optim *make(heed_module *module, const struct heed_optim_plan *plan) {
    heed_ctx *ctx = module->ctx;
    heed_optim *optim = heed_block_zeroed(ctx->exec.memory, sizeof *optim);
    if (!optim) {
        heed_fail(ctx, HEED_ERROR_MEMORY, kinds[plan->kind], "out of memory");
        return &inert_optim;
    }
    optim->witness = (struct heed_grad_witness){heed_optim_not_finite, heed_optim_changed_nothing};
    optim->ctx = ctx;
    optim->plan = *plan;
    ctx->modules++;
    if (make_tables(optim, module) && make_buffers(optim)) return optim;
    heed_optim_free(optim);
    return &inert_optim;
}

heed_optim *heed_optim_new(heed_module *module, const struct heed_optim_plan *plan) {
    heed_ctx *ctx = heed_module_ctx(module);
    if (heed_failed(ctx) || !heed_enter(ctx)) return &inert_optim;
    heed_optim *optim = make(module, plan);
    heed_leave(ctx);
    return optim;
}

void heed_optim_free(heed_optim *optim) {
    if (!optim || !optim->ctx) return;
    heed_ctx *ctx = optim->ctx;
    if (!heed_enter(ctx)) return;
    struct heed_memory *memory = ctx->exec.memory;
    /* Which may have to tell of a bad gradient, and would do so later if the wait itself fails. */
    if (heed_elements_wait(&ctx->exec) != HEED_OK) heed_elements_wait(&ctx->exec);
    heed_storage_drop(optim->gradients); /* lives on in the parameters */
    heed_storage_drop(optim->moment1);
    heed_storage_drop(optim->moment2);
    heed_storage_drop(optim->norm);
    heed_block_free(memory, optim->param);
    heed_block_free(memory, optim->item);
    heed_block_free(memory, optim->updates);
    heed_block_free(memory, optim->names);
    heed_block_free(memory, optim);
    ctx->modules--;
    heed_leave(ctx);
}

/* ---- groups ---- */

static void set_group(heed_optim *optim, const char *pattern, double rate_scale, double decay_scale) {
    int64_t matched = 0;
    for (int64_t i = 0; i < optim->params; i++) {
        struct heed_optim_param *param = &optim->param[i];
        if (!strstr(param->name, pattern)) continue;
        param->rate_scale = rate_scale;
        param->decay_scale = decay_scale;
        matched++;
    }
    if (!matched)
        heed_fail(optim->ctx, HEED_ERROR_ARGUMENT, heed_optim_kind(optim),
                  "no parameter's name contains \"%.100s\"", pattern);
}

heed_status heed_optim_group(heed_optim *optim, const char *pattern, double rate_scale, double decay_scale) {
    heed_ctx *ctx = heed_optim_ctx(optim);
    const char *where = heed_optim_kind(optim);
    if (heed_failed(ctx) || !heed_optim_in(ctx, where, "rate_scale", rate_scale, 0, HEED_ANY) ||
        !heed_optim_in(ctx, where, "decay_scale", decay_scale, 0, HEED_ANY))
        return heed_error_status(ctx);
    if (!pattern) return heed_error_set(ctx, HEED_ERROR_ARGUMENT, where, "no pattern given");
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    set_group(optim, pattern, rate_scale, decay_scale);
    heed_leave(ctx);
    return heed_error_status(ctx);
}

/* ---- asking ---- */

double heed_optim_grad_norm(const heed_optim *optim) {
    if (!optim || !optim->ctx) return 0;
    struct heed_grad_norm found;
    if (!heed_enter(optim->ctx)) return (double)NAN;
    heed_status status = heed_elements_read(&optim->ctx->exec, &found, optim->norm->data, sizeof found);
    heed_leave(optim->ctx);
    return status == HEED_OK ? found.norm : (double)NAN;
}

int64_t heed_optim_steps(const heed_optim *optim) {
    return optim ? optim->steps : 0;
}

struct finding {
    const heed_optim *optim;
    int64_t found, next; /* where the next one most likely is: the orders are the same */
};

static bool find_param(void *arg, const char *name, heed_tensor tensor) {
    (void)name;
    struct finding *f = arg;
    for (int64_t i = 0; i < f->optim->params; i++) {
        const int64_t at = (f->next + i) % f->optim->params;
        if (f->optim->param[at].tensor.node != tensor.node) continue;
        f->found++;
        f->next = at + 1;
        break;
    }
    return true;
}

bool heed_optim_is_of(const heed_optim *optim, const heed_module *module) {
    if (!optim || !optim->ctx) return false;
    struct finding f = {.optim = optim};
    heed_param_walk(module, find_param, &f);
    return f.found == optim->params;
}

/* ---- state, for checkpoints ---- */

void heed_optim_steps_set(heed_optim *optim, int64_t steps) {
    if (!optim || !optim->ctx) return;
    optim->steps = steps;
    for (int64_t i = 0; i < optim->params; i++) optim->param[i].recent = 0;
}

static int64_t moments(const heed_optim *optim) {
    return (optim->moment1 != NULL) + (optim->moment2 != NULL);
}

/* The moments of each parameter in turn, then the numbers of updates. */
int64_t heed_optim_state_count(const heed_optim *optim) {
    return optim && optim->ctx ? optim->params * moments(optim) + 1 : 0;
}

static void updates_state(const heed_optim *optim, struct heed_optim_state *state) {
    *state = (struct heed_optim_state){.dtype = HEED_I32, .rank = 1, .size = {optim->params}};
    state->count = optim->params;
    state->data = optim->updates;
    state->on_host = true;
    snprintf(state->name, sizeof state->name, "%s.updates", heed_optim_kind(optim));
}

static void moment_state(const heed_optim *optim, const struct heed_optim_param *param, bool second,
                         struct heed_optim_state *state) {
    const struct heed_view *v = &param->tensor.node->view;
    const struct heed_storage *moment = second ? optim->moment2 : optim->moment1;
    const char *word = second ? "v" : optim->plan.kind == HEED_UPDATE_SGD ? "momentum" : "m";
    *state = (struct heed_optim_state){.dtype = v->dtype, .rank = v->rank, .count = heed_view_count(v)};
    memcpy(state->size, v->size, sizeof state->size);
    state->data = (char *)moment->data + param->offset;
    snprintf(state->name, sizeof state->name, "%s.%s.%s", heed_optim_kind(optim), word, param->name);
}

bool heed_optim_state_at(const heed_optim *optim, int64_t i, struct heed_optim_state *state) {
    int64_t count = heed_optim_state_count(optim);
    if (i < 0 || i >= count) return false;
    if (i == count - 1) {
        updates_state(optim, state);
        return true;
    }
    const struct heed_optim_param *param = &optim->param[i / moments(optim)];
    if (param->tensor.node->serial != param->tensor.serial) return false; /* freed */
    moment_state(optim, param, i % moments(optim) == 1, state);
    return true;
}

static bool state_of(const heed_optim *optim, int64_t i, struct heed_optim_state *state, size_t *bytes) {
    if (!heed_optim_state_at(optim, i, state)) {
        heed_fail(heed_optim_ctx(optim), HEED_ERROR_ARGUMENT, heed_optim_kind(optim), "no state %lld",
                  (long long)i);
        return false;
    }
    *bytes = (size_t)state->count * heed_dtype_bytes(state->dtype);
    return true;
}

heed_status heed_optim_state_read(const heed_optim *optim, int64_t i, void *data) {
    heed_ctx *ctx = heed_optim_ctx(optim);
    struct heed_optim_state state;
    size_t bytes;
    if (heed_failed(ctx) || !state_of(optim, i, &state, &bytes)) return heed_error_status(ctx);
    if (!state.on_host) return heed_elements_read(&ctx->exec, data, state.data, bytes);
    memcpy(data, state.data, bytes);
    return HEED_OK;
}

heed_status heed_optim_state_write(heed_optim *optim, int64_t i, const void *data) {
    heed_ctx *ctx = heed_optim_ctx(optim);
    struct heed_optim_state state;
    size_t bytes;
    if (heed_failed(ctx) || !state_of(optim, i, &state, &bytes)) return heed_error_status(ctx);
    if (!state.on_host) return heed_elements_write(&ctx->exec, state.data, data, bytes);
    memcpy(state.data, data, bytes);
    return HEED_OK;
}
