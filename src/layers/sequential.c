/* Sequential, and the list that stacks keep their blocks in. */
#include "layers/layer.h"

static heed_tensor sequential_forward(heed_module *module, heed_tensor x);

static const heed_module_class sequential_class = {.name = "Sequential", .forward = sequential_forward};
static const heed_module_class list_class = {.name = "List", .use = "its modules one by one"};

/* What a child made on its way ends with its own scope, and each result when the next one is there. */
static heed_tensor sequential_forward(heed_module *module, heed_tensor x) {
    heed_ctx *ctx = module->ctx;
    heed_scope_begin(ctx);
    for (heed_module *child = module->first; child; child = child->sibling) {
        heed_scope_begin(ctx);
        heed_tensor y = heed_scope_end(ctx, heed_forward(child, x));
        heed_layer_replace(ctx, x, y);
        x = y;
    }
    return heed_scope_end(ctx, x);
}

heed_module *heed_list_add(heed_module *list, int64_t number, heed_module *module) {
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)number);
    return heed_module_child(list, name, module);
}

heed_module *heed_list_new(heed_ctx *ctx) {
    return heed_module_new(ctx, &list_class);
}

heed_module *heed_sequential_new(heed_ctx *ctx, int count, heed_module *const *modules) {
    if (!heed_failed(ctx) && (count < 0 || (count > 0 && !modules))) {
        heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, "sequential", "%d modules are not given", count);
        return heed_inert_module();
    }
    heed_module *sequential = heed_module_new(ctx, &sequential_class);
    for (int i = 0; i < count && modules; i++) heed_list_add(sequential, i, modules[i]);
    return sequential;
}
