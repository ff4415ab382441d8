/* What the files of the kit share. The kit uses the library's public interface only. */
#ifndef HEED_SRC_KIT_INTERNAL_H
#define HEED_SRC_KIT_INTERNAL_H

#include <heed/heed.h>
#include <heed/kit.h>

/* Puts an error with a formatted message into the context; returns `status`. */
heed_status heed_kit_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* calloc(count, size) that sets HEED_ERROR_MEMORY in the context. */
void *heed_kit_alloc(heed_ctx *ctx, const char *where, size_t count, size_t size);

/* The context of a text; NULL for NULL. */
heed_ctx *heed_text_ctx(const heed_text *text);

/* Whether all `count` reserved words are zero; an error of the context otherwise. */
bool heed_kit_reserved_zero(heed_ctx *ctx, const char *where, const uint64_t *reserved, int count);

/* Replaces a file by these bytes, completely or not at all. */
heed_status heed_kit_write(heed_ctx *ctx, const char *path, const void *bytes, size_t size);

#endif
