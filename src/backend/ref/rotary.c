/* Reference kernel: rotary positions (Su et al. 2021, "RoFormer", eq. 34). */
#include "backend/ref/ref.h"

#include <math.h>

/* The position of the row that `at` lies in. */
static double position_of(const struct heed_rotary_args *args, const int64_t *at) {
    const struct heed_view *p = &args->positions;
    if (!heed_has(p)) return (double)(args->offset + at[args->y.rank - 2]);
    return (double)args->offset + heed_ref_get(p, at);
}

/* One row: to = from, its pairs turned by ± their angles. */
static void turn_row(const struct heed_rotary_args *args, const int64_t *at, double direction,
                     const struct heed_view *from, const struct heed_grad_view *to) {
    const int64_t width = from->size[from->rank - 1], pairs = args->rotated / 2;
    const int64_t step = args->half ? 1 : 2, apart = args->half ? pairs : 1;
    const int64_t in = heed_ref_offset(from, at), out = heed_ref_offset(&to->view, at);
    for (int64_t i = 0; i < pairs; i++) {
        const double angle =
            position_of(args, at) * pow(args->base, -2.0 * (double)i / (double)args->rotated);
        const double c = cos(angle), s = direction * sin(angle);
        const double a = heed_ref_load(from, in + i * step), b = heed_ref_load(from, in + i * step + apart);
        heed_ref_contribute(to, out + i * step, a * c - b * s);
        heed_ref_contribute(to, out + i * step + apart, a * s + b * c);
    }
    for (int64_t i = args->rotated; i < width; i++)
        heed_ref_contribute(to, out + i, heed_ref_load(from, in + i));
}

static heed_status turn(const struct heed_rotary_args *args, double direction, const struct heed_view *from,
                        const struct heed_grad_view *to) {
    struct heed_walk rows;
    int64_t size[HEED_MAX_RANK];
    for (int d = 0; d < from->rank; d++) size[d] = d == from->rank - 1 ? 1 : from->size[d];
    for (heed_walk_start(&rows, from->rank, size); rows.more; heed_walk_next(&rows))
        turn_row(args, rows.at, direction, from, to);
    return HEED_OK;
}

static heed_status rotary_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_rotary_args *args = p;
    return turn(args, 1, &args->x, &(struct heed_grad_view){.view = args->y});
}

static heed_status rotary_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_rotary_args *args = p;
    return heed_has(&args->dx.view) ? turn(args, -1, &args->dy, &args->dx) : HEED_OK;
}

const struct heed_kernel heed_ref_rotary = {"ref", NULL, NULL, rotary_forward, rotary_backward};
