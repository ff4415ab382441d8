/* The inside of modules.
 *
 * Invariants
 * - The tree: a module has at most one parent, which frees it. No path is longer than HEED_MAX_DEPTH steps,
 * and no step of a name than HEED_STEP_BYTES − 1 bytes, so that every full name fits HEED_NAME_BYTES.
 * - A module to which adding something failed is inert, and so is what it is given to: forward refuses to run
 * it. After an error constructors return one static inert module that nothing changes.
 * - Parameters are kept as handles. The module that made a parameter retires it; a module that shares one
 * only looks. */
#ifndef HEED_SRC_LAYERS_MODULE_H
#define HEED_SRC_LAYERS_MODULE_H

#include <heed/module.h>

#include "tensor/internal.h"

#define HEED_MAX_DEPTH 32
#define HEED_STEP_BYTES 64
#define HEED_NAME_BYTES (HEED_MAX_DEPTH * HEED_STEP_BYTES)

struct heed_param {
    struct heed_param *next;
    char name[HEED_STEP_BYTES];
    heed_tensor tensor;
    bool shared; /* owned by another module */
};

struct heed_module {
    heed_ctx *ctx; /* NULL for the static inert module */
    const heed_module_class *type;
    bool inert;
    uint64_t serial;            /* of the context's; tells it from a later module in the same memory */
    int height;                 /* steps down to the deepest descendant */
    char name[HEED_STEP_BYTES]; /* in its parent */
    heed_module *parent, *sibling;
    heed_module *first, *last; /* children in the order they were added */
    struct heed_param *params, *last_param;
    void *self; /* NULL if the class has none */
};

/* The answer of constructors after an error. */
heed_module *heed_inert_module(void);

/* heed_module_find() of the first `length` bytes of a path. */
heed_module *heed_module_below(const heed_module *module, const char *path, size_t length);

/* Whether a typed function of class `type` may run `module` on x. Otherwise an error is kept; for NULL in the
 * context of x. */
bool heed_module_ready(heed_module *module, const heed_module_class *type, const char *where, heed_tensor x);

/* After a module ran: an error that arose in it begins with its path and class, the innermost module's. */
void heed_module_ran(const heed_module *module);

/* What such a function returns when it may not: an inert tensor. */
heed_tensor heed_module_refused(const heed_module *module, heed_tensor x);

/* Where the elements of a parameter lie in a storage that several share. storage NULL: in one of its own. */
struct heed_place {
    struct heed_storage *storage;
    size_t offset; /* in bytes */
};

/* heed_module_param() at a place. */
heed_tensor heed_module_param_at(heed_module *module, const char *name, struct heed_place place, int rank,
                                 const int64_t *sizes, heed_init init);

/* Calls visit for every parameter below, each tensor once, in the order of heed_param_at(), until it returns
 * false. `name` is the full one. */
typedef bool heed_param_visit(void *arg, const char *name, heed_tensor param);
void heed_param_walk(const heed_module *root, heed_param_visit *visit, void *arg);

#endif
