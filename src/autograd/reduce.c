/* Reductions. */
#include "autograd/tape.h"

#include <string.h>

static heed_status reduce_backward(struct heed_backward *b) {
    struct heed_reduce_args *args = b->args;
    struct heed_view dy = heed_dy_dense(b, 0);
    /* dy lies in memory as y did: the strides that spread y over x fit it too. */
    args->dy = args->y;
    args->dy.data = dy.data;
    if (args->op != HEED_REDUCE_OP_MAX) args->x.data = args->y.data = NULL;
    args->dx = heed_dx(b, 0);
    if (!b->ok) return b->ctx->status;
    return heed_backward_run(b);
}

/* Which dimensions are reduced, as bits. */
static bool read_dims(struct heed_call *c, int count, const int *dims, int rank, unsigned *reduced) {
    *reduced = 0;
    if (count < 0 || (count > 0 && !dims))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%d dimensions given", count);
    if (count == 0) *reduced = (1u << rank) - 1;
    for (int i = 0; i < count; i++) {
        int d = heed_call_dim(c, dims[i], rank);
        if (d < 0) return false;
        if (*reduced & 1u << d)
            return heed_call_fail(c, HEED_ERROR_ARGUMENT, "dimension %d is named twice", d);
        *reduced |= 1u << d;
    }
    return true;
}

static heed_tensor reduce(const struct heed_op *op, enum heed_reduce kind, heed_tensor x, int count,
                          const int *dims, bool keep) {
    struct heed_call c;
    unsigned reduced;
    if (!heed_call_begin(&c, op, NULL, 1, &x) || !heed_call_float(&c, 0, "x")) return heed_call_end(&c);
    struct heed_reduce_args args = {.op = kind, .x = heed_call_view(&c, 0), .reduced = 1};
    if (!read_dims(&c, count, dims, args.x.rank, &reduced)) return heed_call_end(&c);
    struct heed_view kept = args.x;
    int rank = 0;
    int64_t size[HEED_MAX_RANK];
    for (int d = 0; d < args.x.rank; d++) {
        bool gone = reduced & 1u << d;
        if (gone) args.reduced *= args.x.size[d];
        kept.size[d] = gone ? 1 : args.x.size[d];
        if (!gone || keep) size[rank++] = kept.size[d];
    }
    kept.dtype = heed_call_result_dtype(&c);
    heed_view_set_contiguous(&kept);
    if (kind == HEED_REDUCE_OP_MAX && args.reduced == 0 && heed_view_count(&kept) > 0) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "there is no maximum of nothing");
        return heed_call_end(&c);
    }
    kept.data = heed_call_output(&c, kept.dtype, rank, size).data;
    if (!c.ok) return heed_call_end(&c);
    heed_view_expand(&kept, args.x.rank, args.x.size, &args.y);
    if (kind == HEED_REDUCE_OP_MAX) {
        heed_call_save_input(&c, 0);
        heed_call_save_output(&c, 0);
    }
    return heed_call_run(&c, HEED_PRIMITIVE_REDUCE, &args, sizeof args);
}

#define DEFINE_REDUCE(name, kind, precision)                                                                 \
    heed_tensor heed_##name(heed_tensor x, int count, const int *dims, bool keep) {                          \
        static const struct heed_op op = {#name, precision, reduce_backward, NULL};                          \
        return reduce(&op, HEED_REDUCE_OP_##kind, x, count, dims, keep);                                     \
    }

DEFINE_REDUCE(sum, SUM, HEED_PRECISE)
DEFINE_REDUCE(mean, MEAN, HEED_PRECISE)
DEFINE_REDUCE(max, MAX, HEED_FOLLOWS)

static const struct heed_op op_argmax = {"argmax", HEED_FOLLOWS, NULL,
                                         "an index is constant almost everywhere"};

static heed_tensor argmax_last(heed_tensor x) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_argmax, NULL, 1, &x) || !c.input[0]) return heed_call_end(&c);
    struct heed_argmax_args args = {.x = heed_call_dense(&c, 0)};
    int rank = args.x.rank;
    if (args.x.dtype == HEED_BOOL)
        heed_call_fail(&c, HEED_ERROR_DTYPE, "x is bool");
    else if (args.x.size[rank - 1] == 0)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "there is no maximum of nothing");
    args.y = heed_call_output(&c, HEED_I32, rank - 1, args.x.size);
    if (!c.ok) return heed_call_end(&c);
    args.x = heed_view_rows(&args.x);
    heed_view_reshape(&args.y, 1, args.x.size, &args.y);
    return heed_call_run(&c, HEED_PRIMITIVE_ARGMAX, &args, sizeof args);
}

heed_tensor heed_argmax(heed_tensor x, int dim) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_argmax, NULL, 1, &x)) return heed_call_end(&c);
    if (!c.input[0]) heed_call_fail(&c, HEED_ERROR_ARGUMENT, "no tensor given");
    int rank = c.ok ? c.input[0]->view.rank : 0;
    int d = heed_call_dim(&c, dim, rank);
    heed_tensor failed = heed_call_end(&c);
    if (d < 0) return failed;
    /* The dimension goes to the end; the others keep their order. */
    int dims[HEED_MAX_RANK];
    for (int i = 0; i < rank; i++) dims[i] = i < d ? i : i + 1;
    dims[rank - 1] = d;
    return argmax_last(d == rank - 1 ? x : heed_permute(x, rank, dims));
}
