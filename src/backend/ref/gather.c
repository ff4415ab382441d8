/* Reference kernel: gather, y[i, j, k] = x[i, index[i, j, k], k] along one dimension. */
#include "backend/ref/ref.h"

/* The chosen index at a place of y. */
static int64_t chosen(const struct heed_gather_args *args, const int64_t *at) {
    return (int64_t)heed_ref_get(&args->index, at);
}

/* The offset in v, of x's shape, of what is chosen there. */
static int64_t chosen_offset(const struct heed_gather_args *args, const struct heed_view *v,
                             const int64_t *at) {
    return heed_ref_offset(v, at) + (chosen(args, at) - at[args->dim]) * v->stride[args->dim];
}

static heed_status out_of_range(struct heed_exec *exec, const struct heed_gather_args *args,
                                const int64_t *at) {
    char place[96];
    int64_t size = args->x.size[args->dim], own[HEED_MAX_RANK];
    int rank = 0;
    for (int d = 0; d < args->index.rank; d++) {
        if (d == args->dim || args->index.stride[d] != 0) own[rank++] = at[d]; /* as the index was given */
    }
    heed_shape_text(rank, own, place, sizeof place);
    if (size == 0) {
        return heed_exec_fail(exec, HEED_ERROR_ARGUMENT, HEED_PRIMITIVE_GATHER,
                              "index %lld at %s, but dimension %d has no elements",
                              (long long)chosen(args, at), place, args->dim);
    }
    return heed_exec_fail(exec, HEED_ERROR_ARGUMENT, HEED_PRIMITIVE_GATHER,
                          "index %lld at %s is not in 0 to %lld", (long long)chosen(args, at), place,
                          (long long)size - 1);
}

static heed_status gather_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)saved, (void)scratch;
    const struct heed_gather_args *args = p;
    struct heed_walk w;
    for (heed_walk_start(&w, args->y.rank, args->y.size); w.more; heed_walk_next(&w)) {
        int64_t i = chosen(args, w.at);
        if (i < 0 || i >= args->x.size[args->dim]) return out_of_range(exec, args, w.at);
        heed_ref_put(&args->y, w.at, heed_ref_load(&args->x, chosen_offset(args, &args->x, w.at)));
    }
    return HEED_OK;
}

static void gather_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_gather_args *args = p;
    sizes->backward_scratch = heed_ref_sum_bytes(&args->dx);
}

static heed_status gather_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved;
    const struct heed_gather_args *args = p;
    if (!heed_has(&args->dx.view)) return HEED_OK;
    double *free_scratch = scratch;
    struct heed_view sum = heed_ref_sum_open(&args->dx, &free_scratch);
    struct heed_walk w;
    for (heed_walk_start(&w, args->dy.rank, args->dy.size); w.more; heed_walk_next(&w)) {
        heed_ref_sum_add(&sum, chosen_offset(args, &sum, w.at), heed_ref_get(&args->dy, w.at));
    }
    heed_ref_sum_close(&args->dx, &sum);
    return HEED_OK;
}

const struct heed_kernel heed_ref_gather = {"ref", NULL, gather_sizes, gather_forward, gather_backward};
