#include "kit/internal.h"

#include <stdarg.h>
#include <stdlib.h>

heed_status heed_kit_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...) {
    char message[512];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    heed_error_set(ctx, status, where, message);
    return status;
}

void *heed_kit_alloc(heed_ctx *ctx, const char *where, size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        heed_kit_fail(ctx, HEED_ERROR_MEMORY, where, "no memory for %zu elements of %zu bytes", count, size);
    return memory;
}

bool heed_kit_reserved_zero(heed_ctx *ctx, const char *where, const uint64_t *reserved, int count) {
    for (int i = 0; i < count; i++)
        if (reserved[i]) {
            heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved space of the options must be zero");
            return false;
        }
    return true;
}
