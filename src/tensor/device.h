/* Where elements live: in host memory, or in the memory of a device that the host cannot touch.
 *
 * A device is opened by its backend (backend/plugin.h). Everything that is not elements — nodes, the tape,
 * the arguments of kernels, lists of parameters — is host memory always. Host code that must look at elements
 * goes through the functions below, which cost nothing where there is no device. */
#ifndef HEED_SRC_TENSOR_DEVICE_H
#define HEED_SRC_TENSOR_DEVICE_H

#include "tensor/memory.h"
#include "tensor/view.h"

struct heed_exec;

/* What a device can do. All is in order with the kernels that were started before; `self` is what open gave.
 * Functions that return a status report their own errors. */
struct heed_device {
    /* Opens the device number `ordinal`; NULL, with the reason in `why`, if that cannot be. */
    void *(*open)(struct heed_exec *exec, int ordinal, char *why, size_t bytes);
    void (*close)(void *self);
    void *(*alloc)(void *self, size_t bytes); /* aligned to HEED_ALIGN; NULL when there is none */
    void (*free)(void *self, void *memory, size_t bytes);
    heed_status (*fill)(void *self, void *to, int byte, size_t bytes);
    heed_status (*copy)(void *self, void *to, const void *from, size_t bytes); /* within the device */
    /* The host's memory may change as soon as write returns; read returns when all has arrived. */
    heed_status (*write)(void *self, void *to, const void *from, size_t bytes);
    heed_status (*read)(void *self, void *to, const void *from, size_t bytes);
    /* Waits for all that was started, and reports what went wrong in it. */
    heed_status (*sync)(void *self);
    /* A line for heed_explain; as snprintf. */
    size_t (*describe)(void *self, char *text, size_t size);
};

/* The device of an exec; NULL functions: elements are in host memory. */
struct heed_remote {
    const struct heed_device *device;
    void *self;
};

heed_status heed_elements_zero(struct heed_exec *exec, void *to, size_t bytes);
heed_status heed_elements_copy(struct heed_exec *exec, void *to, const void *from, size_t bytes);
heed_status heed_elements_write(struct heed_exec *exec, void *to, const void *host, size_t bytes);
heed_status heed_elements_read(struct heed_exec *exec, void *host, const void *from, size_t bytes);

/* Waits for all that the device was asked to do, which may have to tell of an error. */
heed_status heed_elements_wait(struct heed_exec *exec);

/* One element of a view as a double; NaN after an error. */
double heed_elements_load(struct heed_exec *exec, const struct heed_view *v, int64_t offset);

/* Elements for the host to look at and to fill. `mapped` is the same view over host memory: the elements
 * themselves, or a copy of all between the first and the last one, which unmap writes back where that was
 * asked for. A view without elements stays as it is. */
enum { HEED_MAP_READ = 1, HEED_MAP_WRITE = 2 };
heed_status heed_elements_map(struct heed_exec *exec, const struct heed_view *v, unsigned how,
                              struct heed_view *mapped);
heed_status heed_elements_unmap(struct heed_exec *exec, const struct heed_view *v, unsigned how,
                                struct heed_view *mapped);

#endif
