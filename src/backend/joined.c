#include "backend/joined.h"

static bool adjacent(const struct heed_view *a, const struct heed_view *b) {
    return (const char *)a->data + (size_t)heed_view_count(a) * heed_dtype_bytes(a->dtype) ==
           (const char *)b->data;
}

/* Both absent, or one directly after the other. */
static bool adjacent_or_absent(const struct heed_view *a, const struct heed_view *b) {
    if (!heed_has(a) || !heed_has(b)) return heed_has(a) == heed_has(b);
    return adjacent(a, b);
}

bool heed_joins(const struct heed_view *w, const struct heed_view *bias, const struct heed_view *next_w,
                const struct heed_view *next_bias) {
    return w->size[1] == next_w->size[1] && adjacent(w, next_w) && adjacent_or_absent(bias, next_bias);
}

void heed_joined_narrow(const struct heed_joined *joined, int i, struct heed_linear_args *args) {
    int64_t column = 0;
    for (int j = 0; j < i; j++) column += joined->width[j];
    args->w.data = heed_view_at(&args->w, column * args->w.stride[0]);
    if (heed_has(&args->bias)) args->bias.data = heed_view_at(&args->bias, column);
    if (heed_has(&args->y)) args->y.data = heed_view_at(&args->y, column);
    if (heed_has(&args->dy)) args->dy.data = heed_view_at(&args->dy, column);
    args->w.size[0] = args->bias.size[0] = args->y.size[1] = args->dy.size[1] = joined->width[i];
}

/* Whether gradients can be written as one, like the weights themselves. */
static bool gradients_adjacent(int count, const struct heed_grad_view *const gradient[]) {
    for (int i = 0; i + 1 < count; i++)
        if (!adjacent_or_absent(&gradient[i]->view, &gradient[i + 1]->view) ||
            gradient[i]->add != gradient[i + 1]->add)
            return false;
    return true;
}

static heed_status backward_if_wanted(struct heed_exec *exec, const struct heed_kernel *kernel,
                                      const struct heed_linear_args *args) {
    if (!heed_has(&args->dx.view) && !heed_has(&args->dw.view) && !heed_has(&args->dbias.view))
        return HEED_OK;
    return heed_exec_backward(exec, kernel, args, NULL);
}

heed_status heed_joined_backward(struct heed_exec *exec, const struct heed_kernel *kernel,
                                 const struct heed_linear_args *whole, const struct heed_joined *joined,
                                 const struct heed_grad_view *const dw[],
                                 const struct heed_grad_view *const dbias[]) {
    struct heed_linear_args args = *whole;
    const bool together = gradients_adjacent(joined->count, dw) && gradients_adjacent(joined->count, dbias);
    if (together) {
        args.dw = *dw[0];
        args.dbias = *dbias[0];
        args.dw.view.size[0] = args.dbias.view.size[0] = whole->w.size[0];
    }
    heed_status status = backward_if_wanted(exec, kernel, &args);
    for (int i = 0; !together && status == HEED_OK && i < joined->count; i++) {
        args = *whole;
        args.dx = (struct heed_grad_view){0};
        args.dw = *dw[i];
        args.dbias = *dbias[i];
        heed_joined_narrow(joined, i, &args);
        status = backward_if_wanted(exec, kernel, &args);
    }
    return status;
}
