/* Views: the same elements in another shape. Each records how to look back: the gradient of the input is the
 * gradient of the output seen through the inverse view. */
#include "autograd/tape.h"

#include <string.h>

static bool the_tensor(struct heed_call *c) {
    return c->ok && (c->input[0] || heed_call_fail(c, HEED_ERROR_ARGUMENT, "no tensor given"));
}

static void shape_texts(const struct heed_view *v, int rank, const int64_t *sizes, char *from, char *to) {
    heed_shape_text(v->rank, v->size, from, 96);
    heed_shape_text(rank < HEED_MAX_RANK ? rank : HEED_MAX_RANK, sizes, to, 96);
}

/* ---- reshape, squeeze, unsqueeze, contiguous ---- */

static heed_status reshape_backward(struct heed_backward *b) {
    const struct heed_view x = b->entry->input[0]->view;
    struct heed_view dy = heed_dy(b, 0), v;
    if (heed_view_reshape(&dy, x.rank, x.size, &v)) {
        heed_dx_share(b, 0, 0, &v);
        return HEED_OK;
    }
    struct heed_grad_view dx = heed_dx(b, 0);
    if (!b->ok) return b->ctx->status;
    struct heed_copy_args copy = {.x = dy, .y.add = dx.add};
    heed_view_reshape(&dx.view, dy.rank, dy.size, &copy.y.view); /* dx is contiguous: always possible */
    return heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy);
}

static const struct heed_op op_reshape = {"reshape", HEED_FOLLOWS, reshape_backward, NULL};
static const struct heed_op op_squeeze = {"squeeze", HEED_FOLLOWS, reshape_backward, NULL};
static const struct heed_op op_unsqueeze = {"unsqueeze", HEED_FOLLOWS, reshape_backward, NULL};
static const struct heed_op op_contiguous = {"contiguous", HEED_FOLLOWS, reshape_backward, NULL};

/* Ends a call whose result has the elements of input 0 under other sizes. */
static heed_tensor finish_reshaped(struct heed_call *c, int rank, const int64_t *size) {
    struct heed_view x = heed_call_view(c, 0), v;
    if (heed_view_reshape(&x, rank, size, &v)) {
        heed_call_output_view(c, 0, &v);
        return heed_call_finish(c, NULL, 0);
    }
    struct heed_copy_args copy = {.x = x, .y.view = heed_call_output(c, x.dtype, rank, size)};
    if (!c->ok) return heed_call_end(c);
    struct heed_view y = copy.y.view;
    heed_view_reshape(&y, x.rank, x.size, &copy.y.view);
    if (heed_exec_run(&c->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c->ok = false;
    return heed_call_finish(c, NULL, 0);
}

/* Replaces a size of −1 by what the count demands; false if the counts cannot agree. */
static bool infer_size(const struct heed_view *x, int rank, const int64_t *sizes, int64_t *out) {
    int64_t known = 1, count = heed_view_count(x);
    int unknown = -1;
    for (int d = 0; d < rank; d++) {
        out[d] = sizes[d];
        if (sizes[d] == -1) {
            if (unknown >= 0) return false;
            unknown = d;
        } else if (sizes[d] < 0 || __builtin_mul_overflow(known, sizes[d], &known)) {
            return false;
        }
    }
    if (unknown < 0) return known == count;
    if (known == 0 || count % known) return false;
    out[unknown] = count / known;
    return true;
}

heed_tensor heed_reshape(heed_tensor t, int rank, const int64_t *sizes) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_reshape, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view x = heed_call_view(&c, 0);
    int64_t size[HEED_MAX_RANK];
    char from[96], to[96];
    if (rank < 0 || rank > HEED_MAX_RANK || (rank > 0 && !sizes)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "rank %d is not in 0 to %d, or no sizes are given", rank,
                       HEED_MAX_RANK);
        return heed_call_end(&c);
    }
    if (!infer_size(&x, rank, sizes, size)) {
        shape_texts(&x, rank, sizes, from, to);
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s cannot become %s", from, to);
        return heed_call_end(&c);
    }
    return finish_reshaped(&c, rank, size);
}

heed_tensor heed_squeeze(heed_tensor t, int dim) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_squeeze, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view x = heed_call_view(&c, 0);
    int d = heed_call_dim(&c, dim, x.rank);
    if (d >= 0 && x.size[d] != 1)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "dimension %d has size %lld, not 1", d, (long long)x.size[d]);
    if (!c.ok) return heed_call_end(&c);
    int64_t size[HEED_MAX_RANK];
    for (int i = 0, j = 0; i < x.rank; i++)
        if (i != d) size[j++] = x.size[i];
    return finish_reshaped(&c, x.rank - 1, size);
}

heed_tensor heed_unsqueeze(heed_tensor t, int dim) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_unsqueeze, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view x = heed_call_view(&c, 0);
    int d = heed_call_dim(&c, dim, x.rank + 1);
    if (d >= 0 && x.rank == HEED_MAX_RANK)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "the tensor has %d dimensions already", HEED_MAX_RANK);
    if (!c.ok) return heed_call_end(&c);
    int64_t size[HEED_MAX_RANK];
    for (int i = 0, j = 0; i <= x.rank; i++) size[i] = i == d ? 1 : x.size[j++];
    return finish_reshaped(&c, x.rank + 1, size);
}

heed_tensor heed_contiguous(heed_tensor t) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_contiguous, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_copy_args copy = {.x = heed_call_view(&c, 0)};
    if (heed_view_is_contiguous(&copy.x)) {
        heed_call_end(&c);
        return t;
    }
    copy.y.view = heed_call_output(&c, copy.x.dtype, copy.x.rank, copy.x.size);
    if (c.ok && heed_exec_run(&c.ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c.ok = false;
    return heed_call_finish(&c, NULL, 0);
}

/* ---- permute, transpose ---- */

struct permute_args {
    int dims[HEED_MAX_RANK];
};

static heed_status permute_backward(struct heed_backward *b) {
    const struct permute_args *args = b->args;
    struct heed_view dy = heed_dy(b, 0), v = dy;
    for (int d = 0; d < dy.rank; d++) {
        v.size[args->dims[d]] = dy.size[d];
        v.stride[args->dims[d]] = dy.stride[d];
    }
    heed_dx_share(b, 0, 0, &v);
    return HEED_OK;
}

static const struct heed_op op_permute = {"permute", HEED_FOLLOWS, permute_backward, NULL};
static const struct heed_op op_transpose = {"transpose", HEED_FOLLOWS, permute_backward, NULL};

static heed_tensor finish_permuted(struct heed_call *c, const struct permute_args *args) {
    struct heed_view x = heed_call_view(c, 0), v = x;
    for (int d = 0; d < x.rank; d++) {
        v.size[d] = x.size[args->dims[d]];
        v.stride[d] = x.stride[args->dims[d]];
    }
    heed_call_output_view(c, 0, &v);
    return heed_call_finish(c, args, sizeof *args);
}

heed_tensor heed_permute(heed_tensor t, int rank, const int *dims) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_permute, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view x = heed_call_view(&c, 0);
    struct permute_args args = {{0}};
    unsigned seen = 0;
    if (rank != x.rank || (rank > 0 && !dims))
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "%d dimensions given for a tensor of rank %d", rank, x.rank);
    for (int d = 0; c.ok && d < rank; d++) {
        args.dims[d] = heed_call_dim(&c, dims[d], rank);
        if (!c.ok) break;
        if (seen & 1u << args.dims[d])
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "dimension %d is named twice", args.dims[d]);
        seen |= 1u << args.dims[d];
    }
    return c.ok ? finish_permuted(&c, &args) : heed_call_end(&c);
}

heed_tensor heed_transpose(heed_tensor t, int dim0, int dim1) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_transpose, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    int rank = c.input[0]->view.rank;
    int d0 = heed_call_dim(&c, dim0, rank), d1 = heed_call_dim(&c, dim1, rank);
    if (!c.ok) return heed_call_end(&c);
    struct permute_args args;
    for (int d = 0; d < HEED_MAX_RANK; d++) args.dims[d] = d;
    args.dims[d0] = d1;
    args.dims[d1] = d0;
    return finish_permuted(&c, &args);
}

/* ---- slice, broadcast ---- */

struct slice_args {
    int dim;
    int64_t start, step;
};

/* Gradient memory that is only partly written starts at zero. */
static heed_status zero_unless_added(struct heed_backward *b, struct heed_grad_view *dx) {
    if (!b->ok) return b->ctx->status;
    if (dx->add) return HEED_OK;
    struct heed_fill_args fill = {.y = dx->view};
    dx->add = true;
    return heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_FILL, &fill);
}

static heed_status slice_backward(struct heed_backward *b) {
    const struct slice_args *args = b->args;
    struct heed_grad_view dx = heed_dx(b, 0);
    heed_status status = zero_unless_added(b, &dx);
    if (status != HEED_OK) return status;
    struct heed_copy_args copy = {.x = heed_dy(b, 0), .y = dx};
    copy.y.view.data = heed_view_at(&dx.view, args->start * dx.view.stride[args->dim]);
    copy.y.view.size[args->dim] = copy.x.size[args->dim];
    copy.y.view.stride[args->dim] *= args->step;
    return heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy);
}

static const struct heed_op op_slice = {"slice", HEED_FOLLOWS, slice_backward, NULL};

static int64_t clip_index(int64_t i, int64_t size) {
    if (i < 0) i += size;
    return i < 0 ? 0 : i > size ? size : i;
}

heed_tensor heed_slice(heed_tensor t, int dim, int64_t start, int64_t stop, int64_t step) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_slice, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view v = heed_call_view(&c, 0);
    struct slice_args args = {.dim = heed_call_dim(&c, dim, v.rank), .step = step};
    if (c.ok && step < 1)
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "step %lld is less than 1", (long long)step);
    if (!c.ok) return heed_call_end(&c);
    int64_t size = v.size[args.dim];
    args.start = clip_index(start, size);
    int64_t length = clip_index(stop, size) - args.start;
    int64_t count = length <= 0 ? 0 : (length - 1) / step + 1;
    /* The first index may lie just behind the end of an empty slice: the pointer must not. */
    if (count == 0) args.start = 0;
    v.data = heed_view_at(&v, args.start * v.stride[args.dim]);
    v.size[args.dim] = count;
    if (count > 1)
        v.stride[args.dim] *= step;
    else
        args.step = 1;
    heed_call_output_view(&c, 0, &v);
    return heed_call_finish(&c, &args, sizeof args);
}

static heed_status broadcast_backward(struct heed_backward *b) {
    struct heed_view dy = heed_dy(b, 0);
    struct heed_grad_view dx = heed_dx(b, 0);
    heed_status status = zero_unless_added(b, &dx);
    if (status != HEED_OK) return status;
    struct heed_copy_args copy = {.x = dy, .y.add = true};
    heed_view_expand(&dx.view, dy.rank, dy.size, &copy.y.view);
    return heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy);
}

static const struct heed_op op_broadcast = {"broadcast", HEED_FOLLOWS, broadcast_backward, NULL};

/* Repeating takes no memory, but the elements of every tensor are counted somewhere. */
static bool can_be_counted(struct heed_view v) {
    return heed_view_set_contiguous(&v);
}

heed_tensor heed_broadcast(heed_tensor t, int rank, const int64_t *sizes) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_broadcast, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_view x = heed_call_view(&c, 0), v;
    char from[96], to[96];
    if (rank < 0 || rank > HEED_MAX_RANK || (rank > 0 && !sizes)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "rank %d is not in 0 to %d, or no sizes are given", rank,
                       HEED_MAX_RANK);
    } else if (!heed_view_expand(&x, rank, sizes, &v)) {
        shape_texts(&x, rank, sizes, from, to);
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s cannot be repeated to %s", from, to);
    } else if (!can_be_counted(v)) {
        shape_texts(&x, rank, sizes, from, to);
        heed_call_fail(&c, HEED_ERROR_MEMORY, "%s is larger than memory can be", to);
    } else {
        heed_call_output_view(&c, 0, &v);
    }
    return heed_call_finish(&c, NULL, 0);
}

/* ---- cast ---- */

static heed_status cast_backward(struct heed_backward *b) {
    struct heed_copy_args copy = {.x = heed_dy(b, 0), .y = heed_dx(b, 0)};
    if (!b->ok) return b->ctx->status;
    if (copy.y.add) { /* an addition is of one dtype: convert first */
        struct heed_view x = b->entry->input[0]->view;
        struct heed_copy_args convert = {.x = copy.x,
                                         .y.view = heed_backward_temp(b, x.dtype, x.rank, x.size)};
        if (!b->ok) return b->ctx->status;
        heed_status status = heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &convert);
        if (status != HEED_OK) return status;
        copy.x = convert.y.view;
    }
    return heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy);
}

static const struct heed_op op_cast = {"cast", HEED_FOLLOWS, cast_backward, NULL};
static const struct heed_op op_cast_whole = {"cast", HEED_FOLLOWS, NULL,
                                             "gradients flow between f32, f64 and bf16 only"};

heed_tensor heed_cast(heed_tensor t, heed_dtype dtype) {
    struct heed_call c;
    const struct heed_op *op =
        heed_is_float(dtype) && heed_is_float(heed_dtype_of(t)) ? &op_cast : &op_cast_whole;
    if (!heed_call_begin(&c, op, NULL, 1, &t) || !the_tensor(&c)) return heed_call_end(&c);
    struct heed_copy_args copy = {.x = heed_call_view(&c, 0)};
    if (copy.x.dtype == dtype) {
        heed_call_end(&c);
        return t;
    }
    copy.y.view = heed_call_output(&c, dtype, copy.x.rank, copy.x.size);
    if (c.ok && heed_exec_run(&c.ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c.ok = false;
    return heed_call_finish(&c, NULL, 0);
}
