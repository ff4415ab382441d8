/* Sum, mean and maximum over any dimensions, as maps whose output repeats. */
#include "backend/cpu/elementwise.h"

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_REDUCE, args, why);
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
static struct heed_map count_map(const struct heed_exec *exec, const struct heed_reduce_args *a,
                                 void *count) {
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

/* The gradient of a sum, or of a maximum with its counts. */
static struct heed_map gradient_map(const struct heed_exec *exec, const struct heed_reduce_args *a,
                                    const struct heed_view *count) {
    struct heed_map map = {.inputs = 1, .in = {a->dy}, .out = a->dx, .scale = 1.0f};
    if (a->op == HEED_REDUCE_OP_MEAN) map.scale = 1.0f / (float)a->reduced;
    if (a->op != HEED_REDUCE_OP_MAX) return map;
    map.fn = heed_binary_vectors(exec->isa)->share;
    map.inputs = 4;
    map.in[0] = a->x;
    map.in[1] = a->y;
    map.in[2] = a->dy;
    map.in[3] = *count;
    return map;
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_reduce_args *a = args;
    const struct heed_map forward = forward_map(a);
    sizes->forward_scratch = heed_map_scratch(&forward);
    if (!heed_has(&a->dx.view)) return;
    const struct heed_map count = count_map(exec, a, a->y.data);
    const struct heed_map gradient = gradient_map(exec, a, &count.out.view);
    sizes->backward_scratch = heed_map_scratch(&gradient);
    if (a->op != HEED_REDUCE_OP_MAX) return;
    const size_t of_count = heed_map_scratch(&count);
    if (of_count > sizes->backward_scratch) sizes->backward_scratch = of_count;
    sizes->backward_scratch += count_bytes(a);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_map map = forward_map(args);
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_reduce_args *a = args;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    const struct heed_map count = count_map(exec, a, scratch);
    if (a->op == HEED_REDUCE_OP_MAX) {
        scratch = (char *)scratch + count_bytes(a);
        heed_map_run(exec, &count, scratch);
    }
    const struct heed_map gradient = gradient_map(exec, a, &count.out.view);
    heed_map_run(exec, &gradient, scratch);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_reduce = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
