/* Making tensors, keeping and freeing them. */
#include "autograd/tape.h"

#include <string.h>

static const struct heed_op op_from = {"from", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_full = {"full", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_zeros = {"zeros", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_arange = {"arange", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_normal = {"normal", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_uniform = {"uniform", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_keep = {"keep", HEED_FOLLOWS, NULL, "it makes a leaf"};
static const struct heed_op op_detach = {"detach", HEED_FOLLOWS, NULL, "it makes a leaf"};

static heed_ctx *or_inert(heed_ctx *ctx) {
    return ctx ? ctx : heed_inert_ctx();
}

static size_t bytes_of(const struct heed_view *v) {
    return (size_t)heed_view_count(v) * heed_dtype_bytes(v->dtype);
}

static bool check_shape(struct heed_call *c, int rank, const int64_t *sizes) {
    if (rank > 0 && !sizes) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "no sizes given for rank %d", rank);
    return true;
}

/* Every byte but 0 becomes 1. */
static bool write_bools(struct heed_call *c, const struct heed_view *y, const uint8_t *data) {
    struct heed_view host;
    if (heed_elements_map(&c->ctx->exec, y, HEED_MAP_WRITE, &host) != HEED_OK) return false;
    for (size_t i = 0; i < bytes_of(y); i++) ((uint8_t *)host.data)[i] = data[i] != 0;
    const bool kept = heed_storage_keep_written(c->output[0]->storage, HEED_BOOL, host.data);
    return heed_elements_unmap(&c->ctx->exec, y, HEED_MAP_WRITE, &host) == HEED_OK && kept;
}

static bool write_numbers(struct heed_call *c, const struct heed_view *y, const void *data) {
    return heed_elements_write(&c->ctx->exec, y->data, data, bytes_of(y)) == HEED_OK &&
           heed_storage_keep_written(c->output[0]->storage, y->dtype, data);
}

heed_tensor heed_from(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, const void *data) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_from, or_inert(ctx), 0, NULL) || !check_shape(&c, rank, sizes))
        return heed_call_end(&c);
    struct heed_view y = heed_call_output(&c, dtype, rank, sizes);
    if (c.ok && bytes_of(&y) > 0) {
        if (!data)
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "no data given");
        else
            c.ok = dtype == HEED_BOOL ? write_bools(&c, &y, data) : write_numbers(&c, &y, data);
    }
    return heed_call_end(&c);
}

static heed_tensor fill(heed_ctx *ctx, const struct heed_op *op, heed_dtype dtype, int rank,
                        const int64_t *sizes, double value, bool arange) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, or_inert(ctx), 0, NULL) || !check_shape(&c, rank, sizes))
        return heed_call_end(&c);
    struct heed_fill_args args = {
        .y = heed_call_output(&c, dtype, rank, sizes), .value = value, .arange = arange};
    return heed_call_run(&c, HEED_PRIMITIVE_FILL, &args, sizeof args);
}

heed_tensor heed_zeros(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes) {
    return fill(ctx, &op_zeros, dtype, rank, sizes, 0.0, false);
}

heed_tensor heed_full(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double value) {
    return fill(ctx, &op_full, dtype, rank, sizes, value, false);
}

heed_tensor heed_arange(heed_ctx *ctx, heed_dtype dtype, int64_t count) {
    struct heed_call c;
    if (dtype != HEED_BOOL) return fill(ctx, &op_arange, dtype, 1, &count, 0.0, true);
    if (heed_call_begin(&c, &op_arange, or_inert(ctx), 0, NULL))
        heed_call_fail(&c, HEED_ERROR_DTYPE, "bool cannot count");
    return heed_call_end(&c);
}

static heed_tensor draw(heed_ctx *ctx, const struct heed_op *op, heed_dtype dtype, int rank,
                        const int64_t *sizes, double a, double b) {
    struct heed_call c;
    if (!heed_call_begin(&c, op, or_inert(ctx), 0, NULL) || !check_shape(&c, rank, sizes))
        return heed_call_end(&c);
    if (dtype != HEED_F32 && dtype != HEED_F64) {
        heed_call_fail(&c, HEED_ERROR_DTYPE, "random numbers are f32 or f64, not %s", heed_dtype_name(dtype));
        return heed_call_end(&c);
    }
    const bool normal = op == &op_normal;
    if (!heed_random_range(c.ctx, op->name, normal, a, b)) {
        c.ok = false;
        return heed_call_end(&c);
    }
    struct heed_random_args args = {.y = heed_call_output(&c, dtype, rank, sizes),
                                    .normal = normal,
                                    .a = a,
                                    .b = b,
                                    .random = heed_random_next(c.ctx)};
    return heed_call_run(&c, HEED_PRIMITIVE_RANDOM, &args, sizeof args);
}

heed_tensor heed_normal(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double mean,
                        double deviation) {
    return draw(ctx, &op_normal, dtype, rank, sizes, mean, deviation);
}

heed_tensor heed_uniform(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *sizes, double low,
                         double high) {
    return draw(ctx, &op_uniform, dtype, rank, sizes, low, high);
}

/* What the host wrote of the input is what it would have written to the output. */
static void keep_written(struct heed_call *c) {
    const struct heed_node *from = c->input[0];
    const char *written = heed_storage_written(from->storage);
    if (!written || !heed_view_is_contiguous(&from->view)) return;
    const size_t at = (size_t)((char *)from->view.data - (char *)from->storage->data);
    if (!heed_storage_keep_written(c->output[0]->storage, from->view.dtype, written + at)) c->ok = false;
}

heed_tensor heed_keep(heed_tensor t) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_keep, NULL, 1, &t)) return heed_call_end(&c);
    c.record = false;
    struct heed_copy_args copy = {.x = heed_call_view(&c, 0)};
    copy.y.view = heed_call_output(&c, copy.x.dtype, copy.x.rank, copy.x.size);
    heed_call_forward(&c, HEED_PRIMITIVE_COPY, &copy);
    if (c.ok) keep_written(&c);
    heed_tensor kept = heed_call_end(&c);
    if (c.ok) heed_node_take_from_scope(kept.node);
    return kept;
}

void heed_free(heed_tensor t) {
    if (!heed_is_valid(t) || t.node->flags & HEED_NODE_PARAM) return;
    heed_ctx *ctx = t.node->ctx;
    if (!heed_enter(ctx)) return;
    heed_node_retire(t.node);
    heed_leave(ctx);
}

heed_tensor heed_detach(heed_tensor t) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_detach, NULL, 1, &t)) return heed_call_end(&c);
    c.record = false;
    struct heed_view v = heed_call_view(&c, 0);
    heed_call_output_view(&c, 0, &v);
    return heed_call_end(&c);
}
