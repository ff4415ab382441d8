/* Backends in shared objects of their own, opened when a context asks for their device.
 *
 * The device "NAME" or "NAME:N" is number N (0) of the backend in libheed_NAME.so. It is looked for in the
 * folder that HEED_BACKEND_PATH names, beside libheed, and where the system looks. It is never closed: its
 * kernels may be pinned anywhere. A plugin is built with heed's own headers and exports one function,
 * HEED_PLUGIN_ENTRY. It has no undefined symbols of heed: what it needs is in the table of services. */
#ifndef HEED_SRC_BACKEND_PLUGIN_H
#define HEED_SRC_BACKEND_PLUGIN_H

#include "backend/backend.h"

/* Changes with every struct or function that plugins see: those of backend.h, primitives.h, masks.h,
 * device.h. */
#define HEED_PLUGIN_VERSION 6

struct heed_services {
    uint32_t version;
    heed_status (*fail)(struct heed_exec *exec, heed_status status, enum heed_primitive primitive,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
    /* Host memory of the context, and memory for elements. */
    void *(*block_new)(struct heed_memory *memory, size_t bytes);
    void (*block_free)(struct heed_memory *memory, void *block);
    const struct heed_kernel *(*select)(struct heed_exec *exec, enum heed_primitive primitive,
                                        const void *args);
    heed_status (*forward)(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                           void *saved);
    heed_status (*backward)(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                            void *saved);
    const struct heed_kernel *const *ref; /* the specification, over host memory */
    const struct heed_kernel *const
        *composite; /* kernels made of other primitives; NULL where there is none */
};

/* What a plugin exports; NULL if it cannot work with these services. */
#define HEED_PLUGIN_ENTRY "heed_plugin"
typedef const struct heed_backend *heed_plugin_entry(const struct heed_services *services);
__attribute__((visibility("default"))) const struct heed_backend *
heed_plugin(const struct heed_services *services);

/* The backend and the number of a device. Reports why there is none. */
heed_status heed_plugin_find(struct heed_exec *exec, const char *device, const struct heed_backend **backend,
                             int *ordinal);

#endif
