/* Steps: a scope with a tape of its own. */
#include "autograd/tape.h"

heed_status heed_step_begin(heed_ctx *ctx, unsigned flags) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    if (flags & ~(unsigned)HEED_TRAIN) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "step_begin", "unknown flags 0x%x",
                  flags & ~(unsigned)HEED_TRAIN);
    } else if (ctx->in_step) {
        heed_fail(ctx, HEED_ERROR_STATE, "step_begin", "a step is already running");
    } else if (ctx->scope != &ctx->root || ctx->missing_scopes) {
        heed_fail(ctx, HEED_ERROR_STATE, "step_begin", "a scope is still open");
    } else {
        heed_scope_push(ctx, true);
        ctx->in_step = true;
        ctx->flags = flags;
        ctx->ordinal = 0;
        if (flags && ctx->status == HEED_OK) {
            ctx->random.step++;
            ctx->eval_ordinal = 0;
        }
    }
    heed_leave(ctx);
    return heed_error_status(ctx);
}

heed_status heed_step_end(heed_ctx *ctx) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    if (!ctx->in_step) {
        heed_fail(ctx, HEED_ERROR_STATE, "step_end", "no step is running");
    } else {
        heed_tape_clear(ctx);
        heed_tape_settle_gradients(ctx, ctx->status != HEED_OK);
        while (ctx->scope != &ctx->root) heed_scope_pop(ctx);
        ctx->missing_scopes = 0;
        ctx->in_step = false;
        ctx->flags = 0;
    }
    heed_leave(ctx);
    return heed_error_status(ctx);
}

bool heed_in_step(const heed_ctx *ctx) {
    return ctx && ctx->in_step;
}

void heed_error_clear(heed_ctx *ctx) {
    if (!ctx || ctx->broken || !heed_enter(ctx)) return;
    if (ctx->status != HEED_OK) {
        heed_tape_clear(ctx);
        heed_tape_settle_gradients(ctx, true);
        ctx->error[0] = '\0';
        ctx->error_placed = false;
        ctx->status = HEED_OK;
    }
    heed_leave(ctx);
}
