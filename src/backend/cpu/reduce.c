/* Sum, mean and maximum over any dimensions, as maps whose output repeats. */
#include "backend/cpu/elementwise.h"

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_reduce_args *a = args;
    if (a->x.dtype == HEED_F32) return true;
    why->reason = "dtype is not f32";
    return false;
}

static struct heed_map forward_map(const struct heed_reduce_args *a) {
    return (struct heed_map){
        .inputs = 1,
        .in = {a->x},
        .out = {.view = a->y},
        .max = a->op == HEED_REDUCE_OP_MAX,
        .scale = a->op == HEED_REDUCE_OP_MEAN ? 1.0f / (float)a->reduced : 1.0f,
    };
}

/* How many elements equal each maximum: in y's layout, in scratch. */
static struct heed_map count_map(const struct heed_exec *exec, const struct heed_reduce_args *a, void *count) {
    struct heed_map map = {
        .fn = heed_binary_vectors(exec->isa)->same,
        .inputs = 2,
        .in = {a->x, a->y},
        .out = {.view = a->y},
        .scale = 1.0f,
    };
    map.out.view.data = count;
    return map;
}

/* Bytes of the counts, rounded so that what follows stays aligned. */
static size_t count_bytes(const struct heed_reduce_args *a) {
    int64_t elements = 1;
    for (int d = 0; d < a->y.rank; d++)
        if (a->y.stride[d] != 0) elements *= a->y.size[d];
    return ((size_t)elements * sizeof(float) + 63) / 64 * 64;
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_reduce_args *a = args;
    const struct heed_map forward = forward_map(a);
    sizes->forward_scratch = heed_map_scratch(&forward);
    if (a->op == HEED_REDUCE_OP_MAX && heed_has(&a->dx.view)) {
        const struct heed_map count = count_map(exec, a, a->y.data);
        sizes->backward_scratch = count_bytes(a) + heed_map_scratch(&count);
    }
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_map map = forward_map(args);
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

static void backward_max(struct heed_exec *exec, const struct heed_reduce_args *a, void *scratch) {
    const struct heed_map count = count_map(exec, a, scratch);
    heed_map_run(exec, &count, (char *)scratch + count_bytes(a));
    const struct heed_map share = {
        .fn = heed_binary_vectors(exec->isa)->share,
        .inputs = 4,
        .in = {a->x, a->y, a->dy, count.out.view},
        .out = a->dx,
        .scale = 1.0f,
    };
    heed_map_run(exec, &share, NULL);
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_reduce_args *a = args;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    if (a->op == HEED_REDUCE_OP_MAX) {
        backward_max(exec, a, scratch);
        return HEED_OK;
    }
    const struct heed_map map = {
        .inputs = 1,
        .in = {a->dy},
        .out = a->dx,
        .scale = a->op == HEED_REDUCE_OP_MEAN ? 1.0f / (float)a->reduced : 1.0f,
    };
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_reduce = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
