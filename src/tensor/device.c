/* Host code and the elements of tensors. */
#include "tensor/device.h"

#include <math.h>
#include <string.h>

#include "tensor/bf16.h"
#include "tensor/internal.h"

static const char where[] = "elements";

/* ---- in the order of what was started ---- */

heed_status heed_elements_zero(struct heed_exec *exec, void *to, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    if (bytes == 0) return HEED_OK;
    if (remote->device) return remote->device->fill(remote->self, to, 0, bytes);
    memset(to, 0, bytes);
    return HEED_OK;
}

heed_status heed_elements_copy(struct heed_exec *exec, void *to, const void *from, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    if (bytes == 0) return HEED_OK;
    if (remote->device) return remote->device->copy(remote->self, to, from, bytes);
    memmove(to, from, bytes);
    return HEED_OK;
}

heed_status heed_elements_write(struct heed_exec *exec, void *to, const void *host, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    if (bytes == 0) return HEED_OK;
    if (remote->device) return remote->device->write(remote->self, to, host, bytes);
    memcpy(to, host, bytes);
    return HEED_OK;
}

/* ---- waiting ---- */

/* After a call of the device that waits. What it tells of is something that was started before, anywhere: the
 * module in which the host came to wait is not to be named for it, and gradients that were left since are not
 * to be used. `before` is the status before the call. */
static heed_status waited(struct heed_exec *exec, heed_status before, heed_status status) {
    heed_ctx *ctx = exec->ctx;
    if (before == HEED_OK && ctx->status != HEED_OK) {
        ctx->error_placed = true;
        ctx->grad_epoch++;
    }
    return status;
}

heed_status heed_elements_read(struct heed_exec *exec, void *host, const void *from, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    if (bytes == 0) return HEED_OK;
    if (remote->device) {
        const heed_status before = exec->ctx->status;
        return waited(exec, before, remote->device->read(remote->self, host, from, bytes));
    }
    memcpy(host, from, bytes);
    return HEED_OK;
}

heed_status heed_elements_wait(struct heed_exec *exec) {
    const struct heed_remote *remote = &exec->remote;
    if (!remote->device) return HEED_OK;
    const heed_status before = exec->ctx->status;
    return waited(exec, before, remote->device->sync(remote->self));
}

/* ---- one element ---- */

double heed_elements_load(struct heed_exec *exec, const struct heed_view *v, int64_t offset) {
    union {
        float f32;
        double f64;
        int32_t i32;
        uint8_t boolean;
        uint16_t bf16;
    } value = {.f64 = 0};
    if (heed_elements_read(exec, &value, heed_view_at(v, offset), heed_dtype_bytes(v->dtype)) != HEED_OK)
        return (double)NAN;
    switch (v->dtype) {
    case HEED_F32:
        return (double)value.f32;
    case HEED_F64:
        return value.f64;
    case HEED_I32:
        return value.i32;
    case HEED_BOOL:
        return value.boolean;
    case HEED_BF16:
        return (double)heed_bf16_value(value.bf16);
    }
    return (double)NAN;
}

/* ---- mapping ---- */

/* From the first element to the last; strides are not negative. */
static size_t span_bytes(const struct heed_view *v) {
    int64_t elements = 1;
    for (int d = 0; d < v->rank; d++) {
        if (v->size[d] == 0) return 0;
        elements += (v->size[d] - 1) * v->stride[d];
    }
    return (size_t)elements * heed_dtype_bytes(v->dtype);
}

/* Elements between those of a strided view are written back too, so they must have been read. */
static bool must_read(const struct heed_view *v, unsigned how) {
    return how & HEED_MAP_READ || !heed_view_is_contiguous(v);
}

heed_status heed_elements_map(struct heed_exec *exec, const struct heed_view *v, unsigned how,
                              struct heed_view *mapped) {
    const size_t bytes = heed_has(v) ? span_bytes(v) : 0;
    *mapped = *v;
    if (!exec->remote.device || bytes == 0) return HEED_OK;
    void *host = heed_block_new(exec->memory, bytes);
    if (!host)
        return heed_fail(exec->ctx, HEED_ERROR_MEMORY, where, "no memory for a copy of %zu bytes", bytes);
    const heed_status status = must_read(v, how) ? heed_elements_read(exec, host, v->data, bytes) : HEED_OK;
    if (status == HEED_OK)
        mapped->data = host;
    else
        heed_block_free(exec->memory, host);
    return status;
}

heed_status heed_elements_unmap(struct heed_exec *exec, const struct heed_view *v, unsigned how,
                                struct heed_view *mapped) {
    heed_status status = HEED_OK;
    if (mapped->data == v->data) return HEED_OK;
    if (how & HEED_MAP_WRITE) status = heed_elements_write(exec, v->data, mapped->data, span_bytes(v));
    heed_block_free(exec->memory, mapped->data);
    mapped->data = v->data;
    return status;
}
