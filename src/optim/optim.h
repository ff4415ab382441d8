/* The inside of optimisers, for checkpoints and for the optimisers themselves.
 *
 * Invariants
 * - An optimiser refers to its parameters by handle, not by module: a parameter that was freed is recognised.
 * - A parameter that shares its storage with others (the q, k, v weights of an attention) has its gradient
 * and its moments at the same distances in the optimiser's flat buffers, so that what lies side by side as
 * parameters also does as gradients.
 * - Each parameter counts its own updates, as it may have been frozen for a while.
 * - Where kernels run behind the host, errors are known late: gradients and losses that are not finite, bad
 * indices. No weight has changed since: updates look at the norm and at the device's errors. What the host
 * counted since is taken back then.
 * - The state is what another run needs to go on with the same bits: the named tensors below and the number
 * of steps. Hyper-parameters are the program's. */
#ifndef HEED_SRC_OPTIM_OPTIM_H
#define HEED_SRC_OPTIM_OPTIM_H

#include <heed/optim.h>

#include "layers/module.h"

/* ---- state, for checkpoints (exported: libheed_kit writes them) ---- */

/* One named tensor of state, contiguous. */
struct heed_optim_state {
    char name[HEED_NAME_BYTES + 16]; /* "adamw.m.layers.0.attention.q.weight", …, "adamw.updates" */
    heed_dtype dtype;                /* f32; i32 for the numbers of updates, one per parameter */
    int rank;
    int64_t size[HEED_MAX_RANK];
    int64_t count;
    void *data;   /* not to be followed: heed_optim_state_read() and _write() know where it is */
    bool on_host; /* whatever the device */
};

/* "sgd", "adam" or "adamw": a checkpoint keeps it, and going on with another kind is an error. */
HEED_API const char *heed_optim_kind(const heed_optim *optim);

HEED_API heed_ctx *heed_optim_ctx(const heed_optim *optim);

/* Whether all its parameters are parameters of the module, which may have more. */
HEED_API bool heed_optim_is_of(const heed_optim *optim, const heed_module *module);

/* How many tensors of state there are; depends on the kind, its options and the parameters only. */
HEED_API int64_t heed_optim_state_count(const heed_optim *optim);

/* The i-th, in a fixed order; false if there is none. */
HEED_API bool heed_optim_state_at(const heed_optim *optim, int64_t i, struct heed_optim_state *state);

/* The elements of the i-th to and from C memory, between steps. An index that there is not is an error. */
HEED_API heed_status heed_optim_state_read(const heed_optim *optim, int64_t i, void *data);
HEED_API heed_status heed_optim_state_write(heed_optim *optim, int64_t i, const void *data);

/* Sets what heed_optim_steps() tells. */
HEED_API void heed_optim_steps_set(heed_optim *optim, int64_t steps);

/* ---- for the optimisers ---- */

struct heed_optim_param {
    heed_tensor tensor;
    const char *name; /* full; the optimiser's copy */
    size_t offset;    /* in bytes, in each flat buffer */
    uint64_t
        recent; /* a bit for each of the last 64 steps, the last one's is bit 0: whether it was updated */
    double rate_scale, decay_scale;
};

/* What makes one kind of optimiser, checked by its constructor. */
struct heed_optim_plan {
    enum heed_update kind;
    double momentum;
    bool nesterov;
    double beta1, beta2, eps;
    double weight_decay, clip_norm, clip_value;
};

struct heed_optim {
    struct heed_grad_witness witness; /* first: it is told of bad gradients, and finds the optimiser */
    heed_ctx *ctx;                    /* NULL for the static inert optimiser */
    struct heed_optim_plan plan;
    int64_t params;
    struct heed_optim_param *param;
    struct heed_param_item *item; /* params of them: room for one step; the number is the parameter's */
    char *names;
    int32_t *updates;                                   /* one per parameter */
    struct heed_storage *gradients, *moment1, *moment2; /* flat; moments NULL where the kind has none */
    struct heed_storage *norm;                          /* struct heed_grad_norm of the last step */
    int64_t steps;
};

/* An optimiser over all parameters of a module; the static inert one after an error. */
heed_optim *heed_optim_new(heed_module *module, const struct heed_optim_plan *plan);

/* Whether a number is finite and in [low, high]; otherwise keeps an error. */
#define HEED_ANY 1.7976931348623157e308
bool heed_optim_in(heed_ctx *ctx, const char *where, const char *name, double value, double low, double high);

/* ---- gradients as work for the primitives ---- */

/* Makes an error of a norm that is not finite, for the optimiser that `witness` is of. */
heed_status heed_optim_not_finite(struct heed_grad_witness *witness, int64_t number, int64_t step);

/* Takes back what was counted in a step, and later, whose updates changed nothing. */
void heed_optim_changed_nothing(struct heed_grad_witness *witness, int64_t step);

/* The item of a parameter that has a gradient and is not frozen; false if it has none. */
bool heed_grad_item(heed_tensor param, struct heed_param_item *item);

#endif
