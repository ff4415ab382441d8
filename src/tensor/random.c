/* Which random numbers an operation gets. */
#include "tensor/internal.h"

#include <math.h>

struct heed_random heed_random_next(heed_ctx *ctx) {
    if (!ctx->in_step)
        return (struct heed_random){.seed = ctx->random.seed,
                                    .stream = HEED_STREAM_INIT,
                                    .step = (uint32_t)(ctx->random.ordinal >> 32),
                                    .ordinal = (uint32_t)ctx->random.ordinal++};
    if (ctx->flags)
        return (struct heed_random){.seed = ctx->random.seed,
                                    .stream = HEED_STREAM_TRAIN,
                                    .step = (uint32_t)ctx->random.step,
                                    .ordinal = ctx->ordinal++};
    return (struct heed_random){.seed = ctx->random.seed,
                                .stream = HEED_STREAM_EVAL,
                                .step = (uint32_t)ctx->random.step,
                                .ordinal = (uint32_t)ctx->eval_ordinal++};
}

bool heed_random_range(heed_ctx *ctx, const char *where, bool normal, double a, double b) {
    if (isfinite(a) && isfinite(b) && isfinite(b - a) && b >= (normal ? 0 : a)) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, where,
              normal ? "mean %g and deviation %g make no distribution" : "there are no numbers from %g to %g",
              a, b);
    return false;
}

heed_random_state heed_random_get(const heed_ctx *ctx) {
    return ctx ? ctx->random : (heed_random_state){0};
}

heed_status heed_random_set(heed_ctx *ctx, const heed_random_state *state) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    if (!state) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "random_set", "no state given");
    } else if (!heed_reserved_zero(state->reserved, 5)) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "random_set", "reserved words of the state are not zero");
    } else if (ctx->in_step) {
        heed_fail(ctx, HEED_ERROR_STATE, "random_set", "a step is running");
    } else if (ctx->status == HEED_OK) {
        ctx->random = *state;
        ctx->eval_ordinal = 0;
    }
    heed_leave(ctx);
    return heed_error_status(ctx);
}
