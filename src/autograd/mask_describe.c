/* Masks in words. */
#include "autograd/mask.h"

void heed_mask_say(struct heed_mask_text *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const bool room = t->text && t->used < t->size;
    const int n = vsnprintf(room ? t->text + t->used : NULL, room ? t->size - t->used : 0, format, arguments);
    va_end(arguments);
    if (n > 0) t->used += (size_t)n;
}

void heed_mask_say_number(struct heed_mask_text *t, int64_t number) {
    if (number >= HEED_MASK_FAR)
        heed_mask_say(t, "∞");
    else if (number <= -HEED_MASK_FAR)
        heed_mask_say(t, "-∞");
    else
        heed_mask_say(t, "%lld", (long long)number);
}

static void say(struct heed_mask_text *t, const heed_mask *mask) {
    if (mask->form->describe)
        mask->form->describe(t, mask);
    else
        heed_mask_say(t, "%s", mask->form->kind->name);
}

void heed_mask_say_operand(struct heed_mask_text *t, const heed_mask *mask,
                           const struct heed_mask_form *inside) {
    const bool apart = mask->b && mask->form != inside;
    if (apart) heed_mask_say(t, "(");
    say(t, mask);
    if (apart) heed_mask_say(t, ")");
}

size_t heed_mask_describe(const heed_mask *mask, char *text, size_t size) {
    struct heed_mask_text t = {.text = text, .size = size};
    if (size > 0) text[0] = '\0';
    if (!mask)
        heed_mask_say(&t, "all");
    else if (!heed_object_is(mask, HEED_OBJECT_MASK))
        heed_mask_say(&t, mask == heed_mask_refused() ? "failed mask" : "ended mask");
    else
        say(&t, mask);
    return t.used;
}
