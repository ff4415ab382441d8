/* Asking about tensors, and C memory in and out. */
#include "autograd/tape.h"

#include <math.h>
#include <string.h>

/* ---- asking ---- */

bool heed_is_valid(heed_tensor t) {
    return t.node && t.node->serial == t.serial && !(t.node->flags & HEED_NODE_INERT);
}

heed_ctx *heed_context(heed_tensor t) {
    return t.node && t.node->serial == t.serial ? t.node->ctx : heed_inert_ctx();
}

int heed_rank(heed_tensor t) {
    return heed_is_valid(t) ? t.node->view.rank : -1;
}

int64_t heed_size(heed_tensor t, int dim) {
    int rank = heed_rank(t);
    int d = dim < 0 ? dim + rank : dim;
    return d >= 0 && d < rank ? t.node->view.size[d] : -1;
}

int64_t heed_count(heed_tensor t) {
    return heed_is_valid(t) ? heed_view_count(&t.node->view) : -1;
}

heed_dtype heed_dtype_of(heed_tensor t) {
    return heed_is_valid(t) ? t.node->view.dtype : HEED_F32;
}

bool heed_is_contiguous(heed_tensor t) {
    return heed_is_valid(t) && heed_view_is_contiguous(&t.node->view);
}

/* ---- reading ---- */

static const struct heed_op op_read = {"read", HEED_FOLLOWS, NULL, "it copies to C memory"};
static const struct heed_op op_item = {"item", HEED_FOLLOWS, NULL, "it copies to C memory"};
static const struct heed_op op_at = {"at", HEED_FOLLOWS, NULL, "it copies to C memory"};
static const struct heed_op op_write = {"write", HEED_FOLLOWS, NULL, "it writes a leaf"};

static bool check_bytes(struct heed_call *c, const struct heed_view *v, const void *data, size_t bytes) {
    size_t needed = (size_t)heed_view_count(v) * heed_dtype_bytes(v->dtype);
    char text[96];
    if (bytes != needed)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%zu bytes given; tensor %s has %zu", bytes,
                              heed_named_shape(heed_dtype_name(v->dtype), v, text, sizeof text), needed);
    if (!data && needed) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "no memory given");
    return true;
}

/* A program of mixed precision may not know what is bf16: the bytes say what it expects. */
static bool reads_as_f32(const struct heed_call *c, const struct heed_view *x, size_t bytes) {
    return heed_is_mixed(c->ctx) && x->dtype == HEED_BF16 &&
           bytes == (size_t)heed_view_count(x) * sizeof(float);
}

static struct heed_view as_f32(struct heed_call *c, const struct heed_view *x) {
    struct heed_copy_args copy = {.x = *x, .y.view = heed_call_temp(c, HEED_F32, x->rank, x->size)};
    if (c->ok && heed_exec_run(&c->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c->ok = false;
    return copy.y.view;
}

heed_status heed_read(heed_tensor t, void *data, size_t bytes) {
    struct heed_call c;
    if (heed_call_begin(&c, &op_read, NULL, 1, &t)) {
        if (!c.input[0]) {
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "no tensor given");
        } else {
            struct heed_view x = heed_call_dense(&c, 0);
            if (c.ok && reads_as_f32(&c, &x, bytes)) x = as_f32(&c, &x);
            if (c.ok && check_bytes(&c, &x, data, bytes))
                heed_elements_read(&c.ctx->exec, data, x.data, bytes);
        }
    }
    heed_call_end(&c);
    return heed_error_status(c.ctx);
}

double heed_item(heed_tensor t) {
    struct heed_call c;
    double value = (double)NAN;
    char text[128];
    if (heed_call_begin(&c, &op_item, NULL, 1, &t)) {
        struct heed_view v = heed_call_view(&c, 0);
        if (!heed_has(&v))
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "no tensor given");
        else if (heed_view_count(&v) != 1)
            heed_call_fail(&c, HEED_ERROR_SHAPE, "%s must have exactly one element",
                           heed_named_shape("tensor", &v, text, sizeof text));
        else
            value = heed_elements_load(&c.ctx->exec, &v, 0);
    }
    heed_call_end(&c);
    return value;
}

double heed_at(heed_tensor t, int rank, const int64_t *index) {
    struct heed_call c;
    double value = (double)NAN;
    char text[128];
    if (heed_call_begin(&c, &op_at, NULL, 1, &t)) {
        struct heed_view v = heed_call_view(&c, 0);
        int64_t offset = 0;
        bool inside = heed_has(&v) && rank == v.rank && (index || rank == 0);
        for (int d = 0; inside && d < rank; d++) {
            inside = index[d] >= 0 && index[d] < v.size[d];
            offset += index[d] * v.stride[d];
        }
        if (inside)
            value = heed_elements_load(&c.ctx->exec, &v, offset);
        else
            heed_call_fail(&c, HEED_ERROR_ARGUMENT, "the index of %d numbers is not inside %s", rank,
                           heed_named_shape("tensor", &v, text, sizeof text));
    }
    heed_call_end(&c);
    return value;
}

/* ---- writing ---- */

/* C memory to the elements of a view; through a contiguous copy where it cannot go straight. */
static bool write_elements(struct heed_call *c, const struct heed_view *v, const void *data, size_t bytes) {
    struct heed_exec *exec = &c->ctx->exec;
    if (heed_view_is_contiguous(v)) return heed_elements_write(exec, v->data, data, bytes) == HEED_OK;
    struct heed_copy_args copy = {.x = heed_call_temp(c, v->dtype, v->rank, v->size), .y.view = *v};
    return c->ok && heed_elements_write(exec, copy.x.data, data, bytes) == HEED_OK &&
           heed_exec_run(exec, HEED_PRIMITIVE_COPY, &copy) == HEED_OK;
}

heed_status heed_write(heed_tensor t, const void *data, size_t bytes) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_write, NULL, 1, &t)) {
        heed_call_end(&c);
        return heed_error_status(c.ctx);
    }
    struct heed_node *node = c.input[0];
    struct heed_view v = heed_call_view(&c, 0);
    if (!node) {
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "no tensor given");
    } else if (node->producer) {
        heed_call_fail(&c, HEED_ERROR_STATE, "the tensor is not a leaf: %s made it",
                       node->producer->op->name);
    } else if (heed_view_repeats(&v)) {
        heed_call_fail(&c, HEED_ERROR_ARGUMENT, "the tensor repeats elements: write to what it looks at");
    } else if (check_bytes(&c, &v, data, bytes) && bytes) {
        const bool written = write_elements(&c, &v, data, bytes);
        heed_node_wrote(node); /* a part of it may be there, too, when it failed */
        if (written && bytes == node->storage->bytes && heed_view_is_contiguous(&v))
            heed_storage_keep_written(node->storage, v.dtype, data);
    }
    heed_call_end(&c);
    return heed_error_status(c.ctx);
}
