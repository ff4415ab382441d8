/* Dispatch: which kernel runs a primitive, with scratch memory, and how it reports errors.
 *
 * exec->kernel[p] is the device's kernels in its order of preference, then the reference kernel, which always
 * applies, then NULL. Where elements are in the memory of a device, ref cannot reach them and is not there.
 */
#include "backend/backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/plugin.h"
#include "tensor/internal.h"

const char *heed_primitive_word(enum heed_primitive primitive) {
    switch (primitive) {
#define WORD(name, word, args)                                                                               \
    case HEED_PRIMITIVE_##name:                                                                              \
        return word;
        HEED_PRIMITIVE_LIST(WORD)
#undef WORD
    case HEED_PRIMITIVES:
        break;
    }
    return "?";
}

heed_status heed_exec_fail(struct heed_exec *exec, heed_status status, enum heed_primitive primitive,
                           const char *format, ...) {
    char message[400];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    const char *where = exec->operation ? exec->operation : heed_primitive_word(primitive);
    return heed_fail(exec->ctx, status, where, "%s", message);
}

/* ---- opening a device ---- */

#define OPENED_BY "ctx_new"

static const char *const isa_names[HEED_ISAS] = {"baseline", "avx2", "avx512"};

/* The instruction set to use: what the machine allows, or less by HEED_ISA. */
static heed_status choose_isa(struct heed_exec *exec) {
    enum heed_isa allowed = heed_cpu_isa_detect();
    const char *wish = getenv("HEED_ISA");
    exec->isa = allowed;
    if (!wish || !*wish) return HEED_OK;
    for (int isa = 0; isa < HEED_ISAS; isa++) {
        if (strcmp(wish, isa_names[isa]) != 0) continue;
        if (isa > (int)allowed) {
            return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                             "HEED_ISA=%s, but this machine allows at most %s", wish, isa_names[allowed]);
        }
        exec->isa = (enum heed_isa)isa;
        return HEED_OK;
    }
    return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                     "HEED_ISA=%.40s is not one of baseline, avx2, avx512", wish);
}

/* The slot of one primitive: the backend's kernels, then ref, except where it could not reach the elements.
 */
static heed_status fill_slot(struct heed_exec *exec, const struct heed_backend *backend, int primitive) {
    const struct heed_kernel *const *from = backend ? backend->slot[primitive] : NULL;
    int count = 0;
    for (; from && from[count]; count++) {
        if (count + 2 >= HEED_MAX_KERNELS) {
            return heed_exec_fail(exec, HEED_ERROR_INTERNAL, (enum heed_primitive)primitive,
                                  "the %s backend has more kernels than fit", backend->name);
        }
        exec->kernel[primitive][count] = from[count];
    }
    const bool reachable = !backend || !backend->device;
    if (reachable) exec->kernel[primitive][count++] = heed_ref_kernels[primitive];
    exec->kernel[primitive][count] = NULL;
    return HEED_OK;
}

/* Elements in the memory of a device. */
static heed_status open_remote(struct heed_exec *exec, const struct heed_device *device, int ordinal) {
    char why[200] = "";
    void *self = device->open(exec, ordinal, why, sizeof why);
    if (!self)
        return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY, "device \"%.40s\": %s", exec->device, why);
    exec->remote = (struct heed_remote){device, self};
    const struct heed_far_memory far = {device->alloc, device->free, device->fill, self};
    const heed_ctx_options *options = &exec->ctx->options;
    struct heed_memory *elements =
        heed_memory_new_far(&options->allocator, &far, options->chunk_bytes, options->poison);
    if (!elements) return heed_fail(exec->ctx, HEED_ERROR_MEMORY, OPENED_BY, "out of memory");
    exec->elements = elements;
    return HEED_OK;
}

heed_status heed_exec_open(struct heed_exec *exec, const char *device) {
    const struct heed_backend *backend = NULL;
    int ordinal = 0;
    if (!device || strcmp(device, "cpu") == 0) {
        heed_status status = choose_isa(exec);
        if (status != HEED_OK) return status;
        exec->device = "cpu";
        heed_cpu_blas_prepare();
        backend = heed_cpu_backend(exec->isa);
    } else if (strcmp(device, "ref") == 0) {
        exec->device = "ref";
        exec->isa = HEED_ISA_BASELINE;
    } else {
        heed_status status = heed_plugin_find(exec, device, &backend, &ordinal);
        if (status != HEED_OK) return status;
        exec->device = backend->name;
        exec->isa = HEED_ISA_BASELINE;
    }
    if (backend && !backend->mixed && heed_is_mixed(exec->ctx))
        return heed_fail(exec->ctx, HEED_ERROR_UNSUPPORTED, OPENED_BY,
                         "device \"%.40s\" has no mixed precision yet", exec->device);
    memset(exec->last, 0, sizeof exec->last);
    exec->fallbacks = 0;
    for (int primitive = 0; primitive < HEED_PRIMITIVES; primitive++) {
        heed_status status = fill_slot(exec, backend, primitive);
        if (status != HEED_OK) return status;
    }
    return backend && backend->device ? open_remote(exec, backend->device, ordinal) : HEED_OK;
}

void heed_exec_close(struct heed_exec *exec) {
    if (exec->elements != exec->memory) heed_memory_free(exec->elements);
    exec->elements = exec->memory;
    if (exec->remote.device) exec->remote.device->close(exec->remote.self);
    exec->remote = (struct heed_remote){NULL, NULL};
}

/* ---- choosing a kernel ---- */

/* Composites stand at the end of their slots too, but are made of the device's own kernels. */
static bool is_reference(const struct heed_kernel *kernel) {
    return strcmp(kernel->name, "ref") == 0;
}

/* Ref runs although the device has kernels of its own for the primitive. */
static heed_status fall_back(struct heed_exec *exec, enum heed_primitive primitive) {
    if (exec->strict) {
        return heed_exec_fail(exec, HEED_ERROR_UNSUPPORTED, primitive, "strict: no %s kernel for %s: %s",
                              exec->device, heed_primitive_word(primitive), exec->last[primitive].why_not[0]);
    }
    exec->fallbacks++;
    return HEED_OK;
}

/* No kernel of a device whose elements ref cannot reach applies. */
static const struct heed_kernel *refuse(struct heed_exec *exec, enum heed_primitive primitive, int kernels) {
    heed_exec_fail(exec, HEED_ERROR_UNSUPPORTED, primitive, "no kernel of device \"%.40s\" applies%s%s",
                   exec->device, kernels > 0 ? ": " : "",
                   kernels > 0 ? exec->last[primitive].why_not[kernels - 1] : "");
    return NULL;
}

const struct heed_kernel *heed_exec_select(struct heed_exec *exec, enum heed_primitive primitive,
                                           const void *args) {
    const struct heed_kernel *const *slot = exec->kernel[primitive];
    struct heed_last_run *last = &exec->last[primitive];
    int i = 0;
    for (; slot[i]; i++) {
        struct heed_why why = {"it does not apply"};
        if (!slot[i]->applies || slot[i]->applies(exec, args, &why)) break;
        last->why_not[i] = why.reason;
    }
    if (!slot[i]) return refuse(exec, primitive, i);
    if (i > 0 && is_reference(slot[i]) && fall_back(exec, primitive) != HEED_OK) return NULL;
    for (int j = i; j < HEED_MAX_KERNELS; j++) last->why_not[j] = NULL;
    last->kernel = slot[i];
    last->runs++;
    last->note[0] = '\0';
    return slot[i];
}

/* ---- running it ---- */

static enum heed_primitive primitive_of(const struct heed_exec *exec, const struct heed_kernel *kernel) {
    for (int primitive = 0; primitive < HEED_PRIMITIVES; primitive++) {
        for (int i = 0; exec->kernel[primitive][i]; i++) {
            if (exec->kernel[primitive][i] == kernel) return (enum heed_primitive)primitive;
        }
    }
    return HEED_PRIMITIVES;
}

typedef heed_status direction_fn(struct heed_exec *exec, const void *args, void *saved, void *scratch);

static heed_status run_with_scratch(struct heed_exec *exec, const struct heed_kernel *kernel,
                                    direction_fn *direction, size_t bytes, const void *args, void *saved) {
    void *scratch = NULL;
    if (bytes > 0) {
        scratch = heed_block_new(exec->elements, bytes);
        if (!scratch) {
            return heed_exec_fail(exec, HEED_ERROR_MEMORY, primitive_of(exec, kernel),
                                  "no memory for %zu bytes of scratch", bytes);
        }
    }
    heed_status status = direction(exec, args, saved, scratch);
    heed_block_free(exec->elements, scratch);
    return status;
}

heed_status heed_exec_forward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                              void *saved) {
    struct heed_sizes sizes = {0, 0, 0};
    if (kernel->sizes) kernel->sizes(exec, args, &sizes);
    return run_with_scratch(exec, kernel, kernel->forward, sizes.forward_scratch, args, saved);
}

heed_status heed_exec_backward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                               void *saved) {
    struct heed_sizes sizes = {0, 0, 0};
    if (!kernel->backward) {
        return heed_exec_fail(exec, HEED_ERROR_GRADIENT, primitive_of(exec, kernel), "it has no gradient");
    }
    if (kernel->sizes) kernel->sizes(exec, args, &sizes);
    return run_with_scratch(exec, kernel, kernel->backward, sizes.backward_scratch, args, saved);
}

heed_status heed_exec_run(struct heed_exec *exec, enum heed_primitive primitive, const void *args) {
    const struct heed_kernel *kernel = heed_exec_select(exec, primitive, args);
    return kernel ? heed_exec_forward(exec, kernel, args, NULL) : HEED_ERROR_UNSUPPORTED;
}

/* ---- in words ---- */

size_t heed_exec_describe(const struct heed_exec *exec, char *text, size_t size) {
    bool cpu = exec->device && strcmp(exec->device, "cpu") == 0;
    int bytes = snprintf(text, size, "device %s, instruction set %s, blas %s, threads %d\n",
                         exec->device ? exec->device : "none", isa_names[exec->isa],
                         cpu ? heed_cpu_blas_report() : "none", heed_threads_count(exec->threads));
    size_t used = bytes > 0 ? (size_t)bytes : 0;
    if (!exec->remote.device) return used;
    const bool room = used < size;
    return used + exec->remote.device->describe(exec->remote.self, room ? text + used : NULL,
                                                room ? size - used : 0);
}
