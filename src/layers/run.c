/* Running modules: the single-input form, and what every typed forward checks first. */
#include "layers/module.h"

#include <string.h>

/* The context that hears of a refusal: the module's, or the input's for NULL and the static inert module. */
static heed_ctx *ctx_for(const heed_module *module, heed_tensor x) {
    return module && module->ctx ? module->ctx : heed_ctx_of(x);
}

static void refuse(heed_ctx *ctx, heed_status status, const char *where, const char *message) {
    if (!heed_failed(ctx)) heed_error_set(ctx, status, where, message);
}

static bool ready(heed_module *module, const char *where, heed_tensor x) {
    heed_ctx *ctx = ctx_for(module, x);
    if (!module)
        refuse(ctx, HEED_ERROR_ARGUMENT, where, "the module is NULL");
    else if (module->inert)
        refuse(ctx, HEED_ERROR_STATE, where, "the module is inert: making it failed");
    else if (heed_is_none(x))
        refuse(ctx, HEED_ERROR_ARGUMENT, where, "the input is none");
    else if (x.node->ctx != ctx && !x.node->ctx->is_static_inert)
        refuse(ctx, HEED_ERROR_CONTEXT, where, "the input belongs to another context");
    else
        return !heed_failed(ctx);
    return false;
}

bool heed_module_ready(heed_module *module, const heed_module_class *type, const char *where, heed_tensor x) {
    if (module && !module->inert && module->type != type) {
        char message[200];
        snprintf(message, sizeof message, "the module is of class %.60s, not %.60s", module->type->name,
                 type->name);
        refuse(module->ctx, HEED_ERROR_ARGUMENT, where, message);
        return false;
    }
    return ready(module, where, x);
}

heed_tensor heed_module_refused(const heed_module *module, heed_tensor x) {
    return heed_handle(ctx_for(module, x), NULL);
}

/* ---- where an error arose ---- */

/* The path from the root, of which `text` holds the end of what is too long. Returns where it begins. */
static const char *path_of(const heed_module *module, char *text, size_t bytes) {
    char *at = text + bytes - 1;
    *at = '\0';
    for (; module->parent; module = module->parent) {
        const size_t length = strlen(module->name), dot = *at ? 1 : 0;
        if (length + dot > (size_t)(at - text)) break;
        if (dot) *--at = '.';
        at -= length;
        memcpy(at, module->name, length);
    }
    return at;
}

static void place_error(heed_ctx *ctx, const heed_module *module) {
    char path[160], text[sizeof ctx->error];
    const char *name = path_of(module, path, sizeof path);
    int n = snprintf(text, sizeof text, *name ? "%s (%.60s): " : "%s%.60s: ", name, module->type->name);
    if (n < 0) return;
    snprintf(text + n, sizeof text - (size_t)n, "%s", ctx->error);
    memcpy(ctx->error, text, sizeof text);
    ctx->error_placed = true;
}

void heed_module_ran(const heed_module *module) {
    heed_ctx *ctx = module->ctx;
    if (ctx->status == HEED_OK || ctx->error_placed || !heed_enter(ctx)) return;
    place_error(ctx, module);
    heed_leave(ctx);
}

heed_tensor heed_forward(heed_module *module, heed_tensor x) {
    if (module && !module->inert && !module->type->forward) {
        char message[300];
        const char *use = module->type->use;
        snprintf(message, sizeof message, "class %.60s has no form with one input%s%.160s",
                 module->type->name, use ? ": use " : "", use ? use : "");
        refuse(module->ctx, HEED_ERROR_ARGUMENT, "forward", message);
        return heed_module_refused(module, x);
    }
    if (!ready(module, module ? module->type->name : "forward", x)) return heed_module_refused(module, x);
    const heed_tensor y = module->type->forward(module, x);
    heed_module_ran(module);
    return y;
}

/* ---- training switches ---- */

static bool set_wanted(void *wanted, const char *name, heed_tensor param) {
    (void)name;
    struct heed_node *node = param.node;
    if (node->serial != param.serial) return true;
    if (*(bool *)wanted)
        node->flags |= HEED_NODE_WANTS_GRAD;
    else
        node->flags &= ~(unsigned)(HEED_NODE_WANTS_GRAD | HEED_NODE_GRAD_FULL);
    return true;
}

static bool forget_gradient(void *arg, const char *name, heed_tensor param) {
    (void)arg;
    (void)name;
    if (param.node->serial == param.serial) param.node->flags &= ~(unsigned)HEED_NODE_GRAD_FULL;
    return true;
}

static void walk_inside(heed_module *module, heed_param_visit *visit, void *arg) {
    if (!module || !module->ctx || !heed_enter(module->ctx)) return;
    heed_param_walk(module, visit, arg);
    heed_leave(module->ctx);
}

void heed_module_freeze(heed_module *module, bool frozen) {
    bool wanted = !frozen;
    walk_inside(module, set_wanted, &wanted);
}

void heed_module_zero_grad(heed_module *module) {
    walk_inside(module, forget_gradient, NULL);
}
