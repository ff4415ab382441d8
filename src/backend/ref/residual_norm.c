/* Reference kernel: a residual branch with dropout added to its stream, and the norm of the sum ("Add &
 * Norm", Vaswani et al. 2017, sections 3.1 and 5.4). Dropout, addition and norm are those of their own
 * kernels. */
#include "backend/ref/ref.h"

/* The norm alone; its dx goes to scratch, in f64. */
static struct heed_norm_args norm_of(const struct heed_residual_norm_args *args, double *scratch) {
    struct heed_norm_args norm = {.rms = args->rms,
                                  .eps = args->eps,
                                  .x = args->sum,
                                  .weight = args->weight,
                                  .bias = args->bias,
                                  .y = args->y,
                                  .dy = args->dy,
                                  .dx.view = args->sum,
                                  .dweight = args->dweight,
                                  .dbias = args->dbias};
    norm.dx.view.dtype = HEED_F64;
    norm.dx.view.data = scratch;
    return norm;
}

static void sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    const struct heed_residual_norm_args *args = p;
    const struct heed_norm_args norm = norm_of(args, NULL);
    heed_ref_norm.sizes(exec, &norm, sizes);
    sizes->backward_scratch = (size_t)heed_view_count(&args->sum) * sizeof(double);
}

static heed_status forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    const struct heed_residual_norm_args *args = p;
    const struct heed_norm_args norm = norm_of(args, NULL);
    const int64_t count = heed_has(&args->x) ? heed_view_count(&args->sum) : 0;
    for (int64_t e = 0; e < count; e++) {
        const double branch = heed_ref_dropped(&args->random, args->threshold, &args->branch, e);
        heed_ref_store(&args->sum, e, heed_ref_load(&args->x, e) + branch);
    }
    return heed_ref_norm.forward(exec, &norm, saved, scratch);
}

static heed_status backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    const struct heed_residual_norm_args *args = p;
    const struct heed_norm_args norm = norm_of(args, scratch);
    double *gradient = scratch;
    const struct heed_view all = {gradient, HEED_F64, 1, {heed_view_count(&args->sum)}, {1}};
    if (heed_has(&args->dy)) {
        const heed_status status = heed_ref_norm.backward(exec, &norm, saved, NULL);
        if (status != HEED_OK) return status;
    }
    for (int64_t e = 0; e < all.size[0]; e++) {
        if (!heed_has(&args->dy)) gradient[e] = 0;
        if (heed_has(&args->dsum)) gradient[e] += heed_ref_load(&args->dsum, e);
        if (heed_has(&args->dx.view)) heed_ref_contribute(&args->dx, e, gradient[e]);
        if (heed_has(&args->dbranch.view))
            heed_ref_contribute(&args->dbranch, e, heed_ref_dropped(&args->random, args->threshold, &all, e));
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_residual_norm = {"ref", NULL, sizes, forward, backward};
