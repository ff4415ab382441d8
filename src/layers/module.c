/* The tree of modules: making, growing and freeing it. module.h has the invariants. */
#include "layers/module.h"

#include <string.h>

static const heed_module_class inert_class = {.name = "Inert"};

/* Never written to: every function below leaves a module without context alone. */
static heed_module inert_module = {.type = &inert_class, .inert = true};

heed_module *heed_inert_module(void) {
    return &inert_module;
}

/* ---- asking ---- */

heed_ctx *heed_module_ctx(const heed_module *module) {
    return module && module->ctx ? module->ctx : heed_inert_ctx();
}

const char *heed_module_class_name(const heed_module *module) {
    return module ? module->type->name : "";
}

void *heed_module_self(const heed_module *module, const heed_module_class *module_class) {
    return module && module->type == module_class ? module->self : NULL;
}

static heed_module *child_named(const heed_module *module, const char *name, size_t length) {
    for (heed_module *child = module->first; child; child = child->sibling)
        if (strlen(child->name) == length && !memcmp(child->name, name, length)) return child;
    return NULL;
}

heed_module *heed_module_below(const heed_module *module, const char *path, size_t length) {
    const char *const end = path + length;
    heed_module *found = NULL;
    for (; module; module = found) {
        const char *dot = memchr(path, '.', (size_t)(end - path));
        found = child_named(module, path, (size_t)((dot ? dot : end) - path));
        if (!dot) break;
        path = dot + 1;
    }
    return found;
}

heed_module *heed_module_find(const heed_module *module, const char *path) {
    return module && path ? heed_module_below(module, path, strlen(path)) : NULL;
}

/* ---- making ---- */

static bool class_is_sound(heed_ctx *ctx, const heed_module_class *type) {
    if (!type || !type->name) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "module_new", "a class with a name must be given");
    } else if (!heed_reserved_zero(type->reserved, sizeof type->reserved / sizeof *type->reserved)) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "module_new", "reserved words of class %s are not zero",
                  type->name);
    } else if (type->self_bytes > SIZE_MAX / 4) {
        heed_fail(ctx, HEED_ERROR_MEMORY, "module_new", "%s wants more memory than there can be", type->name);
    } else {
        return true;
    }
    return false;
}

static heed_module *make_module(heed_ctx *ctx, const heed_module_class *type) {
    if (!class_is_sound(ctx, type)) return &inert_module;
    const size_t head = (sizeof(heed_module) + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
    heed_module *module = heed_block_zeroed(ctx->exec.memory, head + type->self_bytes);
    if (!module) {
        heed_fail(ctx, HEED_ERROR_MEMORY, "module_new", "out of memory for a %s", type->name);
        return &inert_module;
    }
    module->ctx = ctx;
    module->serial = ++ctx->serial;
    module->type = type;
    module->self = type->self_bytes ? (char *)module + head : NULL;
    ctx->modules++;
    return module;
}

heed_module *heed_module_new(heed_ctx *ctx, const heed_module_class *module_class) {
    if (heed_failed(ctx) || !heed_enter(ctx)) return &inert_module;
    heed_module *module = make_module(ctx, module_class);
    heed_leave(ctx);
    return module;
}

/* ---- freeing ---- */

static void free_params(heed_module *module) {
    while (module->params) {
        struct heed_param *param = module->params;
        module->params = param->next;
        struct heed_node *node = param->tensor.node;
        if (!param->shared && node->serial == param->tensor.serial) heed_node_retire(node);
        heed_block_free(module->ctx->exec.memory, param);
    }
}

static void free_tree(heed_module *module) {
    heed_ctx *ctx = module->ctx;
    if (module->type->destroy) module->type->destroy(module);
    while (module->first) {
        heed_module *child = module->first;
        module->first = child->sibling;
        free_tree(child);
    }
    free_params(module);
    ctx->modules--;
    heed_block_free(ctx->exec.memory, module);
}

void heed_module_free(heed_module *module) {
    if (!module || !module->ctx) return;
    heed_ctx *ctx = module->ctx;
    if (!heed_enter(ctx)) return;
    if (module->parent)
        heed_fail(ctx, HEED_ERROR_STATE, "module_free", "%s \"%s\" belongs to a %s, which frees it",
                  module->type->name, module->name, module->parent->type->name);
    else
        free_tree(module);
    heed_leave(ctx);
}

/* ---- growing ---- */

/* After a failure in it a module is not what its maker meant. */
static void spoil(heed_module *module) {
    for (; module && module->ctx; module = module->parent) module->inert = true;
}

static bool is_step(const char *name) {
    size_t length = 0;
    for (; name && name[length]; length++) {
        char c = name[length];
        bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!fine || length == HEED_STEP_BYTES - 1) return false;
    }
    return length > 0;
}

static bool name_is_free(heed_module *module, const char *where, const char *name) {
    if (!is_step(name)) {
        heed_fail(module->ctx, HEED_ERROR_ARGUMENT, where,
                  "name \"%.80s\" is not 1 to %d letters, digits or '_'", name ? name : "",
                  HEED_STEP_BYTES - 1);
        return false;
    }
    bool taken = heed_module_find(module, name) != NULL;
    for (const struct heed_param *p = module->params; p; p = p->next) taken |= !strcmp(p->name, name);
    if (taken)
        heed_fail(module->ctx, HEED_ERROR_ARGUMENT, where, "the %s already has a \"%s\"", module->type->name,
                  name);
    return !taken;
}

static struct heed_param *append_param(heed_module *module, const char *name) {
    struct heed_param *param = heed_block_zeroed(module->ctx->exec.memory, sizeof *param);
    if (!param) {
        heed_fail(module->ctx, HEED_ERROR_MEMORY, module->type->name, "out of memory for parameter \"%s\"",
                  name);
        return NULL;
    }
    strcpy(param->name, name); /* is_step() bounds its length */
    if (module->last_param)
        module->last_param->next = param;
    else
        module->params = param;
    module->last_param = param;
    return param;
}

static struct heed_node *node_at(heed_ctx *ctx, struct heed_place place, int rank, const int64_t *sizes) {
    if (!place.storage) return heed_node_new(ctx, "module_param", HEED_F32, rank, sizes);
    struct heed_view view = {
        .data = (char *)place.storage->data + place.offset, .dtype = HEED_F32, .rank = rank};
    memcpy(view.size, sizes, (size_t)rank * sizeof *sizes);
    heed_view_set_contiguous(&view);
    return heed_node_view(ctx, place.storage, &view);
}

static heed_tensor make_param(heed_module *module, const char *name, struct heed_place place, int rank,
                              const int64_t *sizes, heed_init init) {
    const heed_tensor none = heed_handle(module->ctx, NULL);
    if (!name_is_free(module, "module_param", name)) return none;
    struct heed_node *node = node_at(module->ctx, place, rank, sizes);
    if (!node) return none;
    heed_tensor tensor = heed_handle(module->ctx, node);
    struct heed_param *param = NULL;
    if (heed_init_tensor(tensor, init) == HEED_OK) param = append_param(module, name);
    if (!param) {
        heed_node_retire(node);
        return none;
    }
    node->flags |= HEED_NODE_PARAM | HEED_NODE_WANTS_GRAD;
    node->storage->of_model = true;
    param->tensor = tensor;
    return tensor;
}

heed_tensor heed_module_param_at(heed_module *module, const char *name, struct heed_place place, int rank,
                                 const int64_t *sizes, heed_init init) {
    if (!module) return (heed_tensor){0};
    heed_ctx *ctx = heed_module_ctx(module);
    heed_tensor tensor = heed_handle(ctx, NULL);
    if (!heed_failed(ctx) && heed_enter(ctx)) {
        tensor = make_param(module, name, place, rank, sizes, init);
        heed_leave(ctx);
    }
    if (heed_failed(ctx)) spoil(module);
    return tensor;
}

heed_tensor heed_module_param(heed_module *module, const char *name, int rank, const int64_t *sizes,
                              heed_init init) {
    return heed_module_param_at(module, name, (struct heed_place){0}, rank, sizes, init);
}

static void share_param(heed_module *module, const char *name, heed_tensor tensor) {
    struct heed_node *node = heed_node_of(tensor, "module_share");
    if (!node || !(node->flags & HEED_NODE_PARAM)) {
        heed_fail(module->ctx, HEED_ERROR_ARGUMENT, "module_share",
                  "\"%.80s\" is not given a parameter of a module", name ? name : "");
    } else if (node->ctx != module->ctx) {
        heed_fail(module->ctx, HEED_ERROR_CONTEXT, "module_share",
                  "\"%.80s\" is a parameter of another context", name ? name : "");
    } else if (name_is_free(module, "module_share", name)) {
        struct heed_param *param = append_param(module, name);
        if (!param) return;
        param->tensor = tensor;
        param->shared = true;
    }
}

heed_status heed_module_share(heed_module *module, const char *name, heed_tensor param) {
    heed_ctx *ctx = heed_module_ctx(module);
    if (!heed_failed(ctx) && heed_enter(ctx)) {
        share_param(module, name, param);
        heed_leave(ctx);
    }
    if (heed_failed(ctx)) spoil(module);
    return heed_error_status(ctx);
}

/* ---- children ---- */

static int depth_of(const heed_module *module) {
    int depth = 0;
    for (; module->parent; module = module->parent) depth++;
    return depth;
}

static bool contains(const heed_module *root, const heed_module *module) {
    for (; module; module = module->parent)
        if (module == root) return true;
    return false;
}

static bool may_adopt(heed_module *module, const char *name, const heed_module *child) {
    heed_ctx *ctx = module->ctx;
    int depth = depth_of(module) + 1 + child->height;
    if (child->ctx != ctx) {
        heed_fail(ctx, HEED_ERROR_CONTEXT, "module_child", "the %s belongs to another context",
                  child->type->name);
    } else if (depth >= HEED_MAX_DEPTH) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "module_child", "the tree would be deeper than %d modules",
                  HEED_MAX_DEPTH);
    } else {
        return name_is_free(module, "module_child", name);
    }
    return false;
}

static void adopt(heed_module *module, const char *name, heed_module *child) {
    strcpy(child->name, name); /* is_step() bounds its length */
    child->parent = module;
    if (module->last)
        module->last->sibling = child;
    else
        module->first = child;
    module->last = child;
    int height = child->height;
    for (heed_module *m = module; m && m->height < ++height; m = m->parent) m->height = height;
    if (child->inert) spoil(module);
}

/* Adds the child or, where it may not, frees it. A child that others own, or that owns the module, stays. */
static heed_module *take_child(heed_module *module, const char *name, heed_module *child) {
    if (child->parent || contains(child, module)) {
        heed_fail(module->ctx, HEED_ERROR_ARGUMENT, "module_child",
                  "the %s given as \"%.80s\" already has a place", child->type->name, name ? name : "");
        return &inert_module;
    }
    if (heed_failed(module->ctx) || !may_adopt(module, name, child)) {
        heed_module_free(child);
        return &inert_module;
    }
    adopt(module, name, child);
    return child;
}

heed_module *heed_module_child(heed_module *module, const char *name, heed_module *child) {
    if (!child) {
        heed_error_set(heed_module_ctx(module), HEED_ERROR_ARGUMENT, "module_child", "no child given");
        child = &inert_module;
    }
    if (!module || !module->ctx || !child->ctx) { /* one of them is inert for good */
        if (!child->parent) heed_module_free(child);
        spoil(module);
        return &inert_module;
    }
    if (!heed_enter(module->ctx)) return &inert_module;
    heed_module *taken = take_child(module, name, child);
    if (taken != child) spoil(module);
    heed_leave(module->ctx);
    return taken;
}
