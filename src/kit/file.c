#include "kit/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "io/replace.h"

/* Room for `size` bytes more and a 0. Doubles, so that a file of unknown length costs few copies. */
static bool make_room(char **bytes, size_t used, size_t *room) {
    if (*bytes && used + 1 < *room) return true;
    if (*room > SIZE_MAX / 2) return false;
    size_t larger = *room ? 2 * *room : 1 << 16;
    char *moved = realloc(*bytes, larger);
    if (!moved) return false;
    *bytes = moved;
    *room = larger;
    return true;
}

static heed_status read_all(FILE *file, char **bytes, size_t *size, struct heed_io_error *error) {
    size_t room = 0;
    do {
        if (!make_room(bytes, *size, &room))
            return heed_io_fail(error, HEED_ERROR_MEMORY, "no memory for its content");
        *size += fread(*bytes + *size, 1, room - *size - 1, file);
    } while (!ferror(file) && !feof(file));
    (*bytes)[*size] = 0;
    return ferror(file) ? heed_io_fail_errno(error, "cannot be read") : HEED_OK;
}

heed_status heed_bytes_read(heed_ctx *ctx, const char *path, char **bytes, size_t *size) {
    *bytes = NULL;
    *size = 0;
    if (heed_failed(ctx)) return heed_error_status(ctx);
    struct heed_io_error error;
    if (!path || !*path) {
        heed_io_fail(&error, HEED_ERROR_ARGUMENT, "no path given");
        return heed_io_report(ctx, path, &error);
    }
    FILE *file = fopen(path, "rbe");
    heed_status status =
        file ? read_all(file, bytes, size, &error) : heed_io_fail_errno(&error, "cannot be opened");
    if (file) fclose(file);
    if (status == HEED_OK) return HEED_OK;
    free(*bytes);
    *bytes = NULL;
    *size = 0;
    return heed_io_report(ctx, path, &error);
}

heed_status heed_kit_write(heed_ctx *ctx, const char *path, const void *bytes, size_t size) {
    struct heed_io_error error;
    struct heed_replace file;
    heed_status status = heed_replace_begin(&file, path, &error);
    if (status == HEED_OK) {
        status = heed_io_write(file.fd, bytes, size, &error);
        if (status == HEED_OK)
            status = heed_replace_commit(&file, &error);
        else
            heed_replace_abort(&file);
    }
    return status == HEED_OK ? HEED_OK : heed_io_report(ctx, path, &error);
}
