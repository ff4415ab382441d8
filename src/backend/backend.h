/* Backends and kernels: what computes a primitive, when, and with how much memory.
 *
 * A primitive's slot is an ordered list of kernels that ends in `ref`, the executable specification. A kernel
 * states when it applies in one pure function; the first that applies runs, and the tape pins it, so that
 * backward is always by the kernel that ran forward. */
#ifndef HEED_SRC_BACKEND_BACKEND_H
#define HEED_SRC_BACKEND_BACKEND_H

#include "backend/primitives.h"
#include "tensor/device.h"
#include "tensor/threads.h"

struct heed_memory;
struct heed_exec;

/* Why a kernel does not apply: a static string, e.g. "dtype is not f32". */
struct heed_why {
    const char *reason;
};

/* Memory a kernel wants. `saved` lives from forward to backward. All areas are aligned to HEED_ALIGN. */
struct heed_sizes {
    size_t saved;
    size_t forward_scratch;
    size_t backward_scratch;
};

struct heed_kernel {
    const char *name; /* "ref", "cpu-avx512", … unique within its slot */
    /* Pure. NULL: always. */
    bool (*applies)(const struct heed_exec *exec, const void *args, struct heed_why *why);
    /* NULL: none. Depends on args (shapes, options and which gradients are wanted) and the thread count only.
     * Asked before forward, and again before backward with the gradients filled in; `saved` must not differ.
     */
    void (*sizes)(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes);
    /* saved is NULL in forward if nothing is recorded. */
    heed_status (*forward)(struct heed_exec *exec, const void *args, void *saved, void *scratch);
    /* NULL for primitives without backward. */
    heed_status (*backward)(struct heed_exec *exec, const void *args, void *saved, void *scratch);
    /* Writes the output again, with the bits that forward gave it, from `saved` and shapes alone. NULL: that
     * takes the inputs and forward. Needs no scratch. */
    heed_status (*remake)(struct heed_exec *exec, const void *args, const void *saved);
    /* Whether it may be asked that of these arguments; where not, the output is kept. NULL: always. */
    bool (*remakes)(const struct heed_exec *exec, const void *args);
    /* Of LINEAR alone. Whether the first thing it saves is what its activation is of, contiguous, of y's
     * dtype and shape. */
    bool saves_argument;
    /* And whether its backward takes these arguments with their `inner`. Pure. NULL: never. */
    bool (*takes_inner)(const struct heed_exec *exec, const void *args);
};

/* What a device fills in: for each primitive its kernels in order of preference, NULL-terminated, `ref` not
 * included (dispatch appends it). */
struct heed_backend {
    const char *name;
    const struct heed_kernel *const *slot[HEED_PRIMITIVES];
    const struct heed_device *device; /* NULL: elements are in host memory */
    bool mixed; /* its kernels take arguments of which some are bf16, or refuse them: mixed precision may be
                   asked for */
};

/* Instruction sets in ascending order. */
enum heed_isa { HEED_ISA_BASELINE, HEED_ISA_AVX2, HEED_ISA_AVX512, HEED_ISAS };

#define HEED_MAX_KERNELS 8

/* What heed_explain tells of a primitive. */
struct heed_last_run {
    const struct heed_kernel *kernel;
    uint64_t runs;
    const char *why_not[HEED_MAX_KERNELS]; /* reasons of the kernels before it */
    char note[120];                        /* what the kernel says of its last run, may be empty */
};

/* What kernels run on. One per context. */
struct heed_exec {
    heed_ctx *ctx; /* only to report errors and for scratch */
    struct heed_threads *threads;
    struct heed_memory *memory; /* of the host */
    /* Of tensors, `saved` and scratch; the same where elements are host memory. */
    struct heed_memory *elements;
    struct heed_remote remote; /* where they are not */
    const char *device;        /* "cpu", "ref", or of a plugin */
    const char *operation;     /* running now, for error messages; NULL: kernels name the primitive */
    enum heed_isa isa;         /* in use; baseline on "ref" */
    bool strict;
    bool any_dropout; /* attention's may have random numbers of a library's own */
    bool recording;   /* the operation that runs now goes on the tape, so that its kernel will run backward */
    const struct heed_kernel *kernel[HEED_PRIMITIVES][HEED_MAX_KERNELS]; /* NULL-terminated */
    struct heed_last_run last[HEED_PRIMITIVES];
    uint64_t
        fallbacks; /* runs of `ref` on a device that is not "ref", where ref was not the only kernel wanted */
};

/* Fills exec->kernel for a device, reads HEED_ISA, and opens the memory of its elements. Reports through
 * exec->ctx. `close` is fine after a failure too, and for an exec that was never opened. */
heed_status heed_exec_open(struct heed_exec *exec, const char *device);
void heed_exec_close(struct heed_exec *exec);

/* The first kernel that applies; NULL (and an error) only under strict. */
const struct heed_kernel *heed_exec_select(struct heed_exec *exec, enum heed_primitive primitive,
                                           const void *args);

/* Selects, allocates scratch and runs forward, without saving. For primitives without gradient and for use
 * inside other kernels. */
heed_status heed_exec_run(struct heed_exec *exec, enum heed_primitive primitive, const void *args);

/* Runs one direction of a kernel that is already chosen, with scratch from exec->memory. */
heed_status heed_exec_forward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                              void *saved);
heed_status heed_exec_backward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                               void *saved);

/* Reports an error from a kernel: "<operation or primitive word>: <message>". Returns status. */
heed_status heed_exec_fail(struct heed_exec *exec, heed_status status, enum heed_primitive primitive,
                           const char *format, ...) __attribute__((format(printf, 4, 5)));

const char *heed_primitive_word(enum heed_primitive primitive);

/* Appends to heed_explain's text: device, isa, blas, threads. Returns bytes needed as snprintf. */
size_t heed_exec_describe(const struct heed_exec *exec, char *text, size_t size);

/* The reference kernels, one per primitive, complete. */
extern const struct heed_kernel *const heed_ref_kernels[HEED_PRIMITIVES];

/* The CPU backend for the instruction set in use. */
const struct heed_backend *heed_cpu_backend(enum heed_isa isa);

#endif
