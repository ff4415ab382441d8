/* Errors, and the rule that one thread at a time is inside a context.
 *
 * The inert context stands for every context that could not be found or made. It is never written to, so
 * that any thread may hold it. */
#include "tensor/internal.h"

#include <string.h>

static heed_ctx inert_ctx;

static struct heed_node inert_node = {.serial = 1, .ctx = &inert_ctx, .refs = 1, .flags = HEED_NODE_INERT};

static heed_ctx inert_ctx = {
    .status = HEED_ERROR_ARGUMENT,
    .error = "no context: a tensor was none or stale, or there was no memory for a context",
    .inert = &inert_node,
    .broken = true,
    .is_static_inert = true,
};

heed_ctx *heed_inert_ctx(void) {
    return &inert_ctx;
}

/* The only place that keeps an error: where to set a breakpoint. */
static heed_status keep_error(heed_ctx *ctx, heed_status status, const char *where, const char *format,
                              va_list arguments) {
    if (ctx->is_static_inert) return ctx->status;
    if (ctx->status != HEED_OK) return status;
    int n = where && *where ? snprintf(ctx->error, sizeof ctx->error, "%s: ", where) : 0;
    if (n >= 0 && (size_t)n < sizeof ctx->error)
        vsnprintf(ctx->error + n, sizeof ctx->error - (size_t)n, format, arguments);
    ctx->status = status;
    return status;
}

heed_status heed_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    status = keep_error(ctx, status, where, format, arguments);
    va_end(arguments);
    return status;
}

heed_status heed_error_set(heed_ctx *ctx, heed_status status, const char *where, const char *message) {
    if (!ctx) ctx = heed_inert_ctx();
    if (status == HEED_OK) return HEED_OK;
    if (ctx->is_static_inert) return status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    heed_fail(ctx, status, where, "%s", message && *message ? message : heed_status_text(status));
    heed_leave(ctx);
    return status;
}

bool heed_failed(const heed_ctx *ctx) {
    return heed_error_status(ctx) != HEED_OK;
}

heed_status heed_error_status(const heed_ctx *ctx) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->status != HEED_OK) return ctx->status;
    return atomic_load(&ctx->intruder) ? HEED_ERROR_THREAD : HEED_OK;
}

static const char two_threads[] = "the context was used by a second thread while the first was inside";

const char *heed_error(const heed_ctx *ctx) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->status != HEED_OK) return ctx->error;
    return atomic_load(&ctx->intruder) ? two_threads : "";
}

/* ---- one thread at a time ---- */

static _Thread_local char thread_token; /* its address tells threads apart */

bool heed_enter(heed_ctx *ctx) {
    uintptr_t me = (uintptr_t)&thread_token, nobody = 0;
    if (atomic_load_explicit(&ctx->thread, memory_order_relaxed) == me) {
        ctx->depth++;
        return true;
    }
    if (!atomic_compare_exchange_strong_explicit(&ctx->thread, &nobody, me, memory_order_acquire,
                                                 memory_order_relaxed)) {
        atomic_store(&ctx->intruder, true);
        return false;
    }
    ctx->depth = 1;
    if (atomic_load_explicit(&ctx->intruder, memory_order_relaxed) && atomic_exchange(&ctx->intruder, false))
        heed_fail(ctx, HEED_ERROR_THREAD, "", "%s", two_threads);
    return true;
}

void heed_leave(heed_ctx *ctx) {
    if (--ctx->depth == 0) atomic_store_explicit(&ctx->thread, 0, memory_order_release);
}

/* ---- help for messages ---- */

const char *heed_named_shape(const char *name, const struct heed_view *v, char *text, size_t bytes) {
    int n = snprintf(text, bytes, "%s", name);
    if (n >= 0 && (size_t)n < bytes) heed_shape_text(v->rank, v->size, text + n, bytes - (size_t)n);
    return text;
}

bool heed_reserved_zero(const uint64_t *words, size_t count) {
    uint64_t any = 0;
    for (size_t i = 0; i < count; i++) any |= words[i];
    return any == 0;
}
