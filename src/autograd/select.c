/* Joining, cutting and choosing. */
#include "autograd/tape.h"

#include <string.h>

/* ---- cat, stack ---- */

struct cat_args {
    int dim;
};

static heed_status cat_backward(struct heed_backward *b) {
    const struct cat_args *args = b->args;
    struct heed_view dy = heed_dy(b, 0);
    const int64_t *lengths = b->entry->blob;
    int64_t start = 0;
    for (int i = 0; i < b->entry->inputs; i++) {
        struct heed_view part = dy;
        part.size[args->dim] = lengths[i];
        if (lengths[i] > 0) part.data = heed_view_at(&dy, start * dy.stride[args->dim]);
        heed_dx_share(b, i, 0, &part);
        start += lengths[i];
    }
    return HEED_OK;
}

static const struct heed_op op_cat = {"cat", HEED_FOLLOWS, cat_backward, NULL};
static const struct heed_op op_stack = {"stack", HEED_FOLLOWS, cat_backward, NULL};
static const char whole_numbers[] = "gradients flow through f32, f64 and bf16 only";
static const struct heed_op op_cat_whole = {"cat", HEED_FOLLOWS, NULL, whole_numbers};
static const struct heed_op op_stack_whole = {"stack", HEED_FOLLOWS, NULL, whole_numbers};

/* Checks that input i fits input 0 and adds its length along dim. */
static bool add_length(struct heed_call *c, int i, int dim, int64_t *lengths, int64_t *total) {
    char one[128], two[128];
    if (!c->input[i]) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "tensor %d is none", i);
    const struct heed_view *first = &c->input[0]->view, *v = &c->input[i]->view;
    bool fits = v->rank == first->rank && heed_dtypes_meet(c->ctx, v->dtype, first->dtype);
    for (int d = 0; fits && d < v->rank; d++) fits = d == dim || v->size[d] == first->size[d];
    if (!fits)
        return heed_call_fail(c, HEED_ERROR_SHAPE, "%s %s does not match %s %s along dimension %d",
                              heed_dtype_name(v->dtype), heed_named_shape("tensor", v, one, sizeof one),
                              heed_dtype_name(first->dtype),
                              heed_named_shape("tensor", first, two, sizeof two), dim);
    lengths[i] = v->size[dim];
    *total += lengths[i];
    return true;
}

static heed_tensor cat_some(const struct heed_op *floats, const struct heed_op *whole, int count,
                            const heed_tensor *tensors, int dim) {
    struct heed_call c;
    heed_dtype dtype = heed_dtype_of(tensors[0]);
    const struct heed_op *op = heed_is_float(dtype) ? floats : whole;
    if (!heed_call_begin(&c, op, NULL, count, tensors)) return heed_call_end(&c);
    if (!c.input[0]) heed_call_fail(&c, HEED_ERROR_ARGUMENT, "tensor 0 is none");
    struct heed_view first = heed_call_view(&c, 0);
    struct cat_args args = {.dim = heed_call_dim(&c, dim, first.rank)};
    int64_t *lengths = heed_call_blob(&c, (size_t)count * sizeof *lengths), total = 0;
    for (int i = 0; c.ok && i < count; i++) add_length(&c, i, args.dim, lengths, &total);
    if (!c.ok) return heed_call_end(&c);
    first.size[args.dim] = total;
    if (heed_is_float(dtype)) dtype = heed_call_result_dtype(&c);
    struct heed_view y = heed_call_output(&c, dtype, first.rank, first.size);
    int64_t start = 0;
    for (int i = 0; c.ok && i < count; i++) {
        struct heed_copy_args copy = {.x = c.input[i]->view, .y.view = y};
        copy.y.view.size[args.dim] = lengths[i];
        if (lengths[i] > 0) copy.y.view.data = heed_view_at(&y, start * y.stride[args.dim]);
        if (heed_exec_run(&c.ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c.ok = false;
        start += lengths[i];
    }
    return heed_call_finish(&c, &args, sizeof args);
}

/* Long lists are joined in groups first. */
heed_tensor heed_cat(int count, const heed_tensor *tensors, int dim) {
    heed_tensor group[HEED_MAX_INPUTS];
    if (count < 1 || !tensors) return heed_handle(heed_inert_ctx(), NULL);
    while (count > HEED_MAX_INPUTS) {
        int per_group = (count + HEED_MAX_INPUTS - 1) / HEED_MAX_INPUTS, groups = 0;
        for (int i = 0; i < count; i += per_group)
            group[groups++] = heed_cat(count - i < per_group ? count - i : per_group, tensors + i, dim);
        tensors = group;
        count = groups;
    }
    return cat_some(&op_cat, &op_cat_whole, count, tensors, dim);
}

heed_tensor heed_stack(int count, const heed_tensor *tensors, int dim) {
    heed_tensor group[HEED_MAX_INPUTS];
    if (count < 1 || !tensors) return heed_handle(heed_inert_ctx(), NULL);
    if (count > HEED_MAX_INPUTS) {
        int per_group = (count + HEED_MAX_INPUTS - 1) / HEED_MAX_INPUTS, groups = 0;
        for (int i = 0; i < count; i += per_group)
            group[groups++] = heed_stack(count - i < per_group ? count - i : per_group, tensors + i, dim);
        return heed_cat(groups, group, dim);
    }
    for (int i = 0; i < count; i++) group[i] = heed_unsqueeze(tensors[i], dim);
    return cat_some(&op_stack, &op_stack_whole, count, group, dim);
}

/* ---- split ---- */

static const struct heed_op op_split = {"split", HEED_FOLLOWS, NULL, "its slices carry the gradient"};

heed_status heed_split(heed_tensor x, int dim, int count, const int64_t *sizes, heed_tensor *parts) {
    struct heed_call c;
    heed_ctx *ctx = heed_ctx_of(x);
    if (!parts || count < 0)
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, "split", "no place for the parts given");
    int64_t sum = 0;
    if (heed_call_begin(&c, &op_split, NULL, 1, &x)) {
        struct heed_view v = heed_call_view(&c, 0);
        dim = heed_call_dim(&c, dim, v.rank);
        for (int i = 0; c.ok && i < count; i++)
            if (!sizes || sizes[i] < 0 || __builtin_add_overflow(sum, sizes[i], &sum))
                heed_call_fail(&c, HEED_ERROR_SHAPE, "the size of part %d is missing or negative", i);
        if (c.ok && sum != v.size[dim])
            heed_call_fail(&c, HEED_ERROR_SHAPE, "the parts have %lld slices together, dimension %d has %lld",
                           (long long)sum, dim, (long long)v.size[dim]);
    }
    heed_tensor failed = heed_call_end(&c);
    int64_t start = 0;
    for (int i = 0; i < count; i++) {
        parts[i] = c.ok ? heed_slice(x, dim, start, start + sizes[i], 1) : failed;
        if (c.ok) start += sizes[i];
    }
    return heed_error_status(c.ctx);
}

/* ---- gather, index_select, embedding ---- */

static heed_status gather_backward(struct heed_backward *b) {
    struct heed_gather_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy_dense(b, 0);
    struct heed_grad_view dx = heed_dx(b, 0);
    if (!b->ok) return b->ctx->status;
    /* dx and dy are contiguous but may have been seen under other sizes (embedding). */
    args->dx.add = dx.add;
    heed_view_reshape(&dx.view, args->x.rank, args->x.size, &args->dx.view);
    heed_view_reshape(&args->dy, args->y.rank, args->y.size, &args->dy);
    args->x.data = NULL;
    return heed_backward_run(b);
}

static const struct heed_op op_gather = {"gather", HEED_FOLLOWS, gather_backward, NULL};
static const struct heed_op op_index_select = {"index_select", HEED_FOLLOWS, gather_backward, NULL};
static const struct heed_op op_embedding = {"embedding", HEED_ROUNDED, gather_backward, NULL};

static bool begin_gather(struct heed_call *c, const struct heed_op *op, heed_tensor x, heed_tensor index) {
    return heed_call_begin(c, op, NULL, 2, (heed_tensor[]){x, index}) && heed_call_float(c, 0, "x") &&
           heed_call_dtype(c, 1, "index", HEED_I32);
}

heed_tensor heed_gather(heed_tensor x, int dim, heed_tensor index) {
    struct heed_call c;
    char one[128], two[128];
    if (!begin_gather(&c, &op_gather, x, index)) return heed_call_end(&c);
    struct heed_gather_args args = {.x = heed_call_view(&c, 0), .index = heed_call_view(&c, 1)};
    args.dim = heed_call_dim(&c, dim, args.x.rank);
    bool fits = args.index.rank == args.x.rank;
    for (int d = 0; c.ok && fits && d < args.x.rank; d++)
        fits = d == args.dim || args.index.size[d] <= args.x.size[d];
    if (c.ok && !fits)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("index", &args.index, one, sizeof one),
                       heed_named_shape("x", &args.x, two, sizeof two));
    if (!c.ok) return heed_call_end(&c);
    args.y = heed_call_output(&c, args.x.dtype, args.x.rank, args.index.size);
    heed_call_save_input(&c, 1);
    return heed_call_run(&c, HEED_PRIMITIVE_GATHER, &args, sizeof args);
}

/* The one index vector [n], repeated for whole slices. */
static struct heed_view spread_index(const struct heed_view *index, const struct heed_view *y, int dim) {
    struct heed_view v = *y;
    v.data = index->data;
    v.dtype = HEED_I32;
    for (int d = 0; d < v.rank; d++) v.stride[d] = d == dim ? index->stride[0] : 0;
    return v;
}

heed_tensor heed_index_select(heed_tensor x, int dim, heed_tensor index) {
    struct heed_call c;
    char text[128];
    if (!begin_gather(&c, &op_index_select, x, index)) return heed_call_end(&c);
    struct heed_gather_args args = {.x = heed_call_view(&c, 0)};
    struct heed_view vi = heed_call_view(&c, 1);
    args.dim = heed_call_dim(&c, dim, args.x.rank);
    if (c.ok && vi.rank != 1)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s is not a vector",
                       heed_named_shape("index", &vi, text, sizeof text));
    if (!c.ok) return heed_call_end(&c);
    struct heed_view shape = args.x;
    shape.size[args.dim] = vi.size[0];
    args.y = heed_call_output(&c, args.x.dtype, shape.rank, shape.size);
    args.index = spread_index(&vi, &args.y, args.dim);
    heed_call_save_input(&c, 1);
    return heed_call_run(&c, HEED_PRIMITIVE_GATHER, &args, sizeof args);
}

heed_tensor heed_embedding(heed_tensor table, heed_tensor index) {
    struct heed_call c;
    char text[128];
    if (!begin_gather(&c, &op_embedding, table, index)) return heed_call_end(&c);
    struct heed_gather_args args = {.x = heed_call_view(&c, 0)};
    struct heed_view vi = heed_call_dense(&c, 1);
    if (c.ok && args.x.rank != 2)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s is not [rows, width]",
                       heed_named_shape("table", &args.x, text, sizeof text));
    if (c.ok && vi.rank == HEED_MAX_RANK)
        heed_call_fail(&c, HEED_ERROR_SHAPE, "the index has %d dimensions already", HEED_MAX_RANK);
    if (!c.ok) return heed_call_end(&c);
    int64_t size[HEED_MAX_RANK], count = heed_view_count(&vi);
    memcpy(size, vi.size, sizeof size);
    size[vi.rank] = args.x.size[1];
    struct heed_view y = heed_call_output(&c, heed_call_result_dtype(&c), vi.rank + 1, size);
    heed_call_save(&c, &vi);
    if (!c.ok) return heed_call_end(&c);
    heed_view_reshape(&y, 2, (int64_t[]){count, size[vi.rank]}, &args.y);
    heed_view_reshape(&vi, 1, &count, &vi);
    args.index = spread_index(&vi, &args.y, 0);
    return heed_call_run(&c, HEED_PRIMITIVE_GATHER, &args, sizeof args);
}
