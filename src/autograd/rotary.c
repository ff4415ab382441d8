/* Rotary positions as an operation. */
#include "autograd/heads.h"
#include "autograd/tape.h"

#include <math.h>

static heed_status rotary_backward(struct heed_backward *b) {
    struct heed_rotary_args *args = b->args;
    args->x.data = args->y.data = NULL;
    args->dy = heed_dy_dense(b, 0);
    args->dx = heed_dx_strided(b, 0);
    return heed_backward_run(b);
}

static const struct heed_op op_rotary = {"rotary", HEED_ROUNDED, rotary_backward, NULL};

static bool check_numbers(struct heed_call *c, const heed_rotary_options *o, int64_t width) {
    const int64_t rotated = o->rotated == 0 ? width : o->rotated;
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if (!(o->base >= 0) || !isfinite(o->base))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "the base %g is not a number above 0", o->base);
    if (rotated < 0 || rotated > width)
        return heed_call_fail(c, HEED_ERROR_SHAPE, "rotated %lld is not in 0 to the width %lld",
                              (long long)rotated, (long long)width);
    if (rotated % 2 != 0)
        return heed_call_fail(c, HEED_ERROR_SHAPE, "the rotated width %lld is odd", (long long)rotated);
    if (o->offset > INT32_MAX || o->offset < INT32_MIN)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "the offset %lld has more than 32 bits",
                              (long long)o->offset);
    return true;
}

/* positions [batch.., length] in x's shape without the width: its leading dimensions are x's, those of x that
 * it lacks repeat. */
static bool spread_positions(struct heed_call *c, const struct heed_view *x, struct heed_view *positions) {
    char one[128], two[128];
    const int length = x->rank - 2, own = positions->rank - 1;
    struct heed_view v = {.data = positions->data, .dtype = HEED_I32, .rank = x->rank - 1};
    bool fits = own >= 0 && own <= length && positions->size[own] == x->size[length];
    for (int d = 0; d < v.rank; d++) v.size[d] = x->size[d];
    for (int d = 0; fits && d < own; d++) {
        fits = positions->size[d] == x->size[d] || positions->size[d] == 1;
        v.stride[d] = positions->size[d] == 1 ? 0 : positions->stride[d];
    }
    if (!fits)
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s does not match %s",
                              heed_named_shape("positions", positions, one, sizeof one),
                              heed_named_shape("x", x, two, sizeof two));
    v.stride[length] = 1;
    *positions = v;
    return true;
}

/* `over`: the result takes the memory of x. */
static heed_tensor rotary(heed_tensor x, const heed_rotary_options *options, bool over) {
    static const heed_rotary_options defaults = {0};
    const heed_rotary_options *o = options ? options : &defaults;
    struct heed_call c;
    char text[128];
    if (!heed_call_begin(&c, &op_rotary, NULL, 2, (heed_tensor[]){x, o->positions}) ||
        !heed_call_float(&c, 0, "x") || (c.input[1] && !heed_call_dtype(&c, 1, "positions", HEED_I32)))
        return heed_call_end(&c);
    struct heed_view v = heed_call_view(&c, 0);
    if (v.rank < 2)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s is not [.., length, width]",
                       heed_named_shape("x", &v, text, sizeof text));
    if (!c.ok || !check_numbers(&c, o, v.size[v.rank - 1])) return heed_call_end(&c);
    struct heed_rotary_args args = {.half = o->half_split,
                                    .base = o->base == 0 ? 10000 : o->base,
                                    .rotated = o->rotated == 0 ? v.size[v.rank - 1] : o->rotated,
                                    .offset = o->offset,
                                    .x = heed_call_dense_rows(&c, 0),
                                    .positions = heed_call_dense(&c, 1)};
    if (heed_has(&args.positions)) {
        heed_call_save(&c, &args.positions);
        if (!spread_positions(&c, &args.x, &args.positions)) return heed_call_end(&c);
    }
    const heed_dtype dtype = heed_call_result_dtype(&c);
    if (over && args.x.data == v.data && dtype == v.dtype) {
        heed_call_output_view(&c, 0, &args.x);
        heed_node_wrote(c.input[0]);
        args.y = args.x;
    } else {
        args.y = heed_call_output(&c, dtype, args.x.rank, args.x.size);
    }
    return heed_call_run(&c, HEED_PRIMITIVE_ROTARY, &args, sizeof args);
}

heed_tensor heed_rotary(heed_tensor x, const heed_rotary_options *options) {
    return rotary(x, options, false);
}

heed_tensor heed_rotary_over(heed_tensor x, const heed_rotary_options *options) {
    return rotary(x, options, true);
}
