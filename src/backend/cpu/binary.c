/* Two kernels' worth of maps: binary operations and where. */
#include "backend/cpu/elementwise.h"

static bool is_comparison(enum heed_binary op) {
    return op >= HEED_BINARY_EQUAL;
}

static bool is_sum(enum heed_binary op) {
    return op == HEED_BINARY_ADD || op == HEED_BINARY_SUB;
}

/* Without a vector form in the tables a function is left to `ref`: to a map, NULL is the identity. */
static bool has_vectors(const struct heed_exec *exec, enum heed_binary op) {
    const struct heed_binary_vectors *vectors = heed_binary_vectors(exec->isa);
    if (op >= HEED_BINARIES || !vectors->forward[op]) return false;
    return is_sum(op) || is_comparison(op) || (vectors->backward_a[op] && vectors->backward_b[op]);
}

static bool binary_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    const struct heed_binary_args *a = args;
    if (!has_vectors(exec, a->op)) {
        why->reason = "the function has no vector form";
        return false;
    }
    if (!is_comparison(a->op)) return heed_cpu_takes_f32(HEED_PRIMITIVE_BINARY, args, why);
    if (a->a.dtype == a->b.dtype && (a->a.dtype == HEED_F32 || a->a.dtype == HEED_I32)) return true;
    why->reason = "dtypes are neither both f32 nor both i32";
    return false;
}

static heed_status binary_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_binary_args *a = args;
    const struct heed_binary_vectors *vectors = heed_binary_vectors(exec->isa);
    const struct heed_map map = {
        .fn = (a->a.dtype == HEED_I32 ? vectors->forward_i32 : vectors->forward)[a->op],
        .inputs = 2,
        .in = {a->a, a->b},
        .out = {.view = a->y},
        .scale = 1.0f,
    };
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

static struct heed_map binary_gradient(const struct heed_exec *exec, const struct heed_binary_args *a,
                                       bool of_b) {
    const struct heed_binary_vectors *vectors = heed_binary_vectors(exec->isa);
    const bool values = !is_sum(a->op);
    return (struct heed_map){
        .fn = (of_b ? vectors->backward_b : vectors->backward_a)[a->op],
        .inputs = values ? 3 : 1,
        .in = {a->dy, a->a, a->b},
        .out = of_b ? a->db : a->da,
        .scale = 1.0f,
    };
}

static void larger_scratch(const struct heed_map *map, size_t *bytes) {
    const size_t wanted = heed_map_scratch(map);
    if (wanted > *bytes) *bytes = wanted;
}

static void binary_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_binary_args *a = args;
    for (int of_b = 0; of_b < 2; of_b++) {
        const struct heed_map map = binary_gradient(exec, a, of_b);
        larger_scratch(&map, &sizes->backward_scratch);
    }
}

static heed_status binary_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    for (int of_b = 0; of_b < 2; of_b++) {
        const struct heed_map map = binary_gradient(exec, args, of_b);
        heed_map_run(exec, &map, scratch);
    }
    return HEED_OK;
}

const struct heed_kernel heed_cpu_binary = {
    .name = "cpu",
    .applies = binary_applies,
    .sizes = binary_sizes,
    .forward = binary_forward,
    .backward = binary_backward,
};

/* ---- where ---- */

static bool where_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_WHERE, args, why);
}

static heed_status where_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_where_args *a = args;
    const struct heed_map map = {
        .fn = heed_binary_vectors(exec->isa)->choose,
        .inputs = 3,
        .in = {a->condition, a->a, a->b},
        .out = {.view = a->y},
        .scale = 1.0f,
    };
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

static struct heed_map where_gradient(const struct heed_exec *exec, const struct heed_where_args *a,
                                      bool of_b) {
    const struct heed_binary_vectors *vectors = heed_binary_vectors(exec->isa);
    return (struct heed_map){
        .fn = of_b ? vectors->drop : vectors->keep,
        .inputs = 2,
        .in = {a->condition, a->dy},
        .out = of_b ? a->db : a->da,
        .scale = 1.0f,
    };
}

static void where_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_where_args *a = args;
    for (int of_b = 0; of_b < 2; of_b++) {
        const struct heed_map map = where_gradient(exec, a, of_b);
        larger_scratch(&map, &sizes->backward_scratch);
    }
}

static heed_status where_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    for (int of_b = 0; of_b < 2; of_b++) {
        const struct heed_map map = where_gradient(exec, args, of_b);
        heed_map_run(exec, &map, scratch);
    }
    return HEED_OK;
}

const struct heed_kernel heed_cpu_where = {
    .name = "cpu",
    .applies = where_applies,
    .sizes = where_sizes,
    .forward = where_forward,
    .backward = where_backward,
};
