/* Masks of the distance between query and key. */
#include "autograd/mask.h"

static void describe_causal(struct heed_mask_text *text, const heed_mask *mask) {
    const bool end = mask->bound.number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT;
    heed_mask_say(text, "causal%s", end ? " (bottom-right)" : "");
}

static const struct heed_mask_form form_causal = {.kind = &heed_mask_kind_causal,
                                                  .describe = describe_causal};

static heed_mask *distance_mask(heed_ctx *ctx, const char *where, const struct heed_mask_form *form,
                                int64_t low, int64_t high, heed_align align) {
    if (align != HEED_TOP_LEFT && align != HEED_BOTTOM_RIGHT) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is no alignment", (int)align);
        return NULL;
    }
    heed_mask *mask = heed_mask_new(ctx, form);
    if (!mask) return NULL;
    mask->bound.number[HEED_DISTANCE_LOW] = low;
    mask->bound.number[HEED_DISTANCE_HIGH] = high;
    mask->bound.number[HEED_DISTANCE_ALIGN] = align;
    return mask;
}

heed_mask *heed_mask_causal(heed_ctx *ctx, heed_align align) {
    if (!heed_mask_enter(ctx)) return NULL;
    heed_mask *mask = distance_mask(ctx, "mask_causal", &form_causal, -HEED_MASK_FAR, 0, align);
    heed_leave(ctx);
    return mask;
}
