/* Masks of the distance from query to key. */
#include "autograd/mask.h"

static void describe_causal(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "causal%s", heed_mask_is_at_end(mask) ? " (bottom-right)" : "");
}

static void describe_limits(struct heed_mask_text *text, const heed_mask *mask) {
    const bool band = mask->form->kind == &heed_mask_kind_band;
    const int64_t low = mask->bound.number[HEED_DISTANCE_LOW];
    heed_mask_say(text, "%s(", mask->form->kind->name);
    heed_mask_say_number(text, band ? low : -low);
    heed_mask_say(text, ", ");
    heed_mask_say_number(text, mask->bound.number[HEED_DISTANCE_HIGH]);
    heed_mask_say(text, "%s)", heed_mask_is_at_end(mask) ? ", bottom-right" : "");
}

static const struct heed_mask_form form_causal = {.kind = &heed_mask_kind_causal,
                                                  .describe = describe_causal};
static const struct heed_mask_form form_window = {.kind = &heed_mask_kind_window,
                                                  .describe = describe_limits};
static const struct heed_mask_form form_band = {.kind = &heed_mask_kind_band, .describe = describe_limits};

/* Limits beyond all lengths say the same as farther ones. */
static int64_t within(int64_t limit) {
    return limit > HEED_MASK_FAR ? HEED_MASK_FAR : limit < -HEED_MASK_FAR ? -HEED_MASK_FAR : limit;
}

static heed_mask *distance_mask(heed_ctx *ctx, const char *where, const struct heed_mask_form *form,
                                int64_t low, int64_t high, heed_align align) {
    if (!heed_mask_aligned(ctx, where, align)) return NULL;
    heed_mask *mask = heed_mask_new(ctx, form);
    if (!mask) return NULL;
    mask->bound.number[HEED_DISTANCE_LOW] = within(low);
    mask->bound.number[HEED_DISTANCE_HIGH] = within(high);
    mask->bound.number[HEED_DISTANCE_ALIGN] = align;
    return mask;
}

heed_mask *heed_mask_causal(heed_ctx *ctx, heed_align align) {
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = distance_mask(ctx, "mask_causal", &form_causal, -HEED_MASK_FAR, 0, align);
    return heed_mask_made(ctx, mask);
}

heed_mask *heed_mask_window(heed_ctx *ctx, int64_t left, int64_t right, heed_align align) {
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (left < -1 || right < -1)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "mask_window",
                  "left %lld, right %lld: each must be ≥ 0, or −1 for unlimited", (long long)left,
                  (long long)right);
    else
        mask = distance_mask(ctx, "mask_window", &form_window, left < 0 ? -HEED_MASK_FAR : -left,
                             right < 0 ? HEED_MASK_FAR : right, align);
    return heed_mask_made(ctx, mask);
}

heed_mask *heed_mask_band(heed_ctx *ctx, int64_t low, int64_t high, heed_align align) {
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (low > high)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, "mask_band", "a band from %lld to %lld is empty", (long long)low,
                  (long long)high);
    else
        mask = distance_mask(ctx, "mask_band", &form_band, low, high, align);
    return heed_mask_made(ctx, mask);
}
