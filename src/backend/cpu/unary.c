#include "backend/cpu/elementwise.h"

/* Without a vector form in the tables a function is left to `ref`: to a map, NULL is the identity. */
static bool has_vectors(const struct heed_exec *exec, enum heed_unary op) {
    const struct heed_unary_vectors *vectors = heed_unary_vectors(exec->isa);
    return op < HEED_UNARIES && vectors->forward[op] && vectors->backward[op];
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    const struct heed_unary_args *a = args;
    if (!heed_cpu_takes_f32(HEED_PRIMITIVE_UNARY, args, why)) return false;
    why->reason = "the function has no vector form";
    return has_vectors(exec, a->op);
}

/* c is kept in *constant while the map lives. */
static struct heed_map backward_map(const struct heed_exec *exec, const struct heed_unary_args *a,
                                    float *constant) {
    const unsigned needs = heed_unary_needs(a->op);
    *constant = (float)a->c;
    return (struct heed_map){
        .fn = heed_unary_vectors(exec->isa)->backward[a->op],
        .self = constant,
        .inputs = needs != 0 ? 2 : 1,
        .in = {a->dy, needs & HEED_NEEDS_X ? a->x : a->y},
        .out = a->dx,
        .scale = 1.0f,
    };
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    float constant;
    const struct heed_map map = backward_map(exec, args, &constant);
    sizes->backward_scratch = heed_map_scratch(&map);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_unary_args *a = args;
    const float c = (float)a->c;
    const struct heed_map map = {
        .fn = heed_unary_vectors(exec->isa)->forward[a->op],
        .self = &c,
        .inputs = 1,
        .in = {a->x},
        .out = {.view = a->y},
        .scale = 1.0f,
    };
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    float constant;
    const struct heed_map map = backward_map(exec, args, &constant);
    heed_map_run(exec, &map, scratch);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_unary = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
