/* Parameters by number and by name. */
#include "layers/module.h"

#include <string.h>

static bool same(heed_tensor a, heed_tensor b) {
    return a.node == b.node && a.serial == b.serial;
}

/* Where below `root` a shared parameter is counted: where it was made, else the first place that shares it.
 */
static const struct heed_param *counted_at(const heed_module *root, heed_tensor tensor) {
    const struct heed_param *first = NULL;
    for (const struct heed_param *p = root->params; p; p = p->next) {
        if (!same(p->tensor, tensor)) continue;
        if (!p->shared) return p;
        if (!first) first = p;
    }
    for (const heed_module *child = root->first; child; child = child->sibling) {
        const struct heed_param *p = counted_at(child, tensor);
        if (p && !p->shared) return p;
        if (!first) first = p;
    }
    return first;
}

struct walk {
    const heed_module *root;
    heed_param_visit *visit;
    void *arg;
    char name[HEED_NAME_BYTES];
};

/* `used`: bytes of the name so far, with the dot after them. */
static bool walk_module(struct walk *w, const heed_module *module, size_t used) {
    for (const struct heed_param *p = module->params; p; p = p->next) {
        if (p->shared && counted_at(w->root, p->tensor) != p) continue;
        snprintf(w->name + used, sizeof w->name - used, "%s", p->name);
        if (!w->visit(w->arg, w->name, p->tensor)) return false;
    }
    for (const heed_module *child = module->first; child; child = child->sibling) {
        int n = snprintf(w->name + used, sizeof w->name - used, "%s.", child->name);
        if (!walk_module(w, child, used + (size_t)n)) return false;
    }
    return true;
}

void heed_param_walk(const heed_module *root, heed_param_visit *visit, void *arg) {
    struct walk w = {.root = root, .visit = visit, .arg = arg};
    if (root) walk_module(&w, root, 0);
}

/* ---- the public questions ---- */

struct count {
    int64_t tensors, elements;
};

static bool count_param(void *arg, const char *name, heed_tensor param) {
    struct count *count = arg;
    (void)name;
    count->tensors++;
    if (param.node->serial == param.serial) count->elements += heed_view_count(&param.node->view);
    return true;
}

static struct count count_params(const heed_module *module) {
    struct count count = {0, 0};
    heed_param_walk(module, count_param, &count);
    return count;
}

int64_t heed_param_tensors(const heed_module *module) {
    return count_params(module).tensors;
}

int64_t heed_param_count(const heed_module *module) {
    return count_params(module).elements;
}

struct pick {
    int64_t left;
    char *name;
    size_t name_size;
    heed_tensor found;
};

static bool pick_param(void *arg, const char *name, heed_tensor param) {
    struct pick *pick = arg;
    if (pick->left-- > 0) return true;
    pick->found = param;
    if (pick->name && pick->name_size) snprintf(pick->name, pick->name_size, "%s", name);
    return false;
}

heed_tensor heed_param_at(const heed_module *module, int64_t i, char *name, size_t name_size) {
    struct pick pick = {.left = i, .name = name, .name_size = name_size};
    if (name && name_size) name[0] = '\0';
    if (i >= 0) heed_param_walk(module, pick_param, &pick);
    return pick.found;
}

/* Goes down the path, so that a shared parameter is found under each of its names. */
heed_tensor heed_param_find(const heed_module *module, const char *name) {
    const char *dot = module && name ? strrchr(name, '.') : NULL;
    if (dot) {
        module = heed_module_below(module, name, (size_t)(dot - name));
        name = dot + 1;
    }
    for (const struct heed_param *p = module && name ? module->params : NULL; p; p = p->next)
        if (!strcmp(p->name, name)) return p->tensor;
    return (heed_tensor){0};
}
