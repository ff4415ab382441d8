/**
 * @file module.h
 * @brief The tree of modules: parameters with names, children, and how to write a custom one.
 */
#ifndef HEED_MODULE_H
#define HEED_MODULE_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- using modules ---- */

/** The output of a module with one input and one output; a clear error for classes with more.
 *  A NULL module is an error of x's context, as it is for the typed functions (heed_mha_forward() …). */
HEED_API heed_tensor heed_forward(heed_module *module, heed_tensor x);

/** Frees a module, its parameters and its children. Only for a module that no other owns (HEED_ERROR_STATE).
 * NULL is fine. The pointer is gone then; handles of its parameters are recognised as stale, by an optimiser
 * too. */
HEED_API void heed_module_free(heed_module *module);

/** The context; the inert context for NULL. */
HEED_API heed_ctx *heed_module_ctx(const heed_module *module);

/** The class name, e.g. "Dense"; "" for NULL. */
HEED_API const char *heed_module_class_name(const heed_module *module);

/** The number of parameter tensors below and including the module; shared ones count once. */
HEED_API int64_t heed_param_tensors(const heed_module *module);

/** The number of elements in them. */
HEED_API int64_t heed_param_count(const heed_module *module);

/** The i-th parameter in a fixed order, none if out of range. @param[out] name e.g.
 *  "layers.0.attention.q.weight", always terminated; NULL if not wanted */
HEED_API heed_tensor heed_param_at(const heed_module *module, int64_t i, char *name, size_t name_size);

/** A parameter by its name; none if there is none (no error). */
HEED_API heed_tensor heed_param_find(const heed_module *module, const char *name);

/** Stops (or resumes) training of all parameters below: frozen ones get no gradient and no update. */
HEED_API void heed_module_freeze(heed_module *module, bool frozen);

/** Forgets all gradients below. */
HEED_API void heed_module_zero_grad(heed_module *module);

/** A table of the tree (name, class, parameters), as snprintf does. */
HEED_API size_t heed_module_summary(const heed_module *module, char *text, size_t size);

/* ---- initialisers ---- */

/** How a parameter starts. Fan-in and fan-out are taken from its shape [out, in, ..]. */
typedef enum heed_init_kind {
    HEED_INIT_DEFAULT = 0,     /**< what the layer documents */
    HEED_INIT_ZEROS,           /**< 0 */
    HEED_INIT_ONES,            /**< 1 */
    HEED_INIT_CONSTANT,        /**< a */
    HEED_INIT_NORMAL,          /**< mean a, deviation b */
    HEED_INIT_UNIFORM,         /**< from a to b */
    HEED_INIT_GLOROT_UNIFORM,  /**< ±sqrt(6 / (in + out)) (Glorot & Bengio 2010, eq. 16) */
    HEED_INIT_GLOROT_NORMAL,   /**< deviation sqrt(2 / (in + out)), same paper */
    HEED_INIT_KAIMING_UNIFORM, /**< ±sqrt(6 / in) (He et al. 2015, eq. 10) */
    HEED_INIT_KAIMING_NORMAL,  /**< deviation sqrt(2 / in), same paper */
    HEED_INIT_ORTHOGONAL       /**< orthonormal rows or columns (Saxe et al. 2014), scaled by a (0: 1) */
} heed_init_kind;

/** An initialiser with its numbers. */
typedef struct heed_init {
    heed_init_kind kind; /**< which */
    double a;            /**< as the kind says */
    double b;            /**< likewise */
} heed_init;

/** Writes new values into a leaf of rank ≥ 1, f32 or f64. */
HEED_API heed_status heed_init_tensor(heed_tensor t, heed_init init);

/* ---- writing a module ---- */

/** A class of modules. Must outlive its modules; usually a static constant. */
typedef struct heed_module_class {
    const char *name;  /**< "MyLayer" */
    size_t self_bytes; /**< of the module's own zeroed memory, heed_module_self() */
    heed_tensor (*forward)(heed_module *module, heed_tensor x); /**< NULL: has no single-input form */
    const char *use;                      /**< with forward NULL: the typed function to call instead */
    void (*destroy)(heed_module *module); /**< frees what self owns besides children; may be NULL */
    uint64_t reserved[4];                 /**< must be zero */
} heed_module_class;

/** A module without parameters and children. Never NULL: after an error an inert one, to be freed as any. */
HEED_API heed_module *heed_module_new(heed_ctx *ctx, const heed_module_class *module_class);

/** The module's own memory, zeroed at first; NULL if the class asked for none or differs from `module_class`,
 * and of the inert module that heed_module_new() returns after an error. */
HEED_API void *heed_module_self(const heed_module *module, const heed_module_class *module_class);

/** Adds a parameter, f32, with gradient. @param name one step of a path: 1 to 63 letters, digits, '_'
 *  @return its handle, valid as long as the module */
HEED_API heed_tensor heed_module_param(heed_module *module, const char *name, int rank, const int64_t *sizes,
                                       heed_init init);

/** Adds an existing parameter of another module (tied weights): counted and iterated once. The other module
 *  must be in the same tree. */
HEED_API heed_status heed_module_share(heed_module *module, const char *name, heed_tensor param);

/** Gives a child to a module, which frees it from now on (also when this call fails). Trees are at most 32
 * modules deep.
 *  @return the child; an inert module if it could not be given */
HEED_API heed_module *heed_module_child(heed_module *module, const char *name, heed_module *child);

/** A module below by its path ("layers.0"); NULL if there is none. */
HEED_API heed_module *heed_module_find(const heed_module *module, const char *path);

#ifdef __cplusplus
}
#endif
#endif
