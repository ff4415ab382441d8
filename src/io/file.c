#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---- */

/* The length of the header, which the file must be able to hold. */
static heed_status read_length(int fd, int64_t file_bytes, uint64_t *header_bytes,
                               struct heed_io_error *error) {
    if (file_bytes < 8) {
        return heed_io_fail(error, HEED_ERROR_FORMAT,
                            "is %" PRId64 " bytes long, too short for a safetensors file", file_bytes);
    }
    const heed_status status = heed_io_read(fd, header_bytes, 8, 0, error);
    if (status != HEED_OK) return status;
    if (*header_bytes > HEED_HEADER_LIMIT) {
        return heed_io_fail(error, HEED_ERROR_FORMAT, "header of %" PRIu64 " bytes, the most is %d",
                            *header_bytes, HEED_HEADER_LIMIT);
    }
    if (*header_bytes > (uint64_t)file_bytes - 8) {
        return heed_io_fail(error, HEED_ERROR_FORMAT,
                            "header of %" PRIu64 " bytes, the file has %" PRId64 " left", *header_bytes,
                            file_bytes - 8);
    }
    return HEED_OK;
}

static heed_status read_header(heed_file *file, int64_t file_bytes, struct heed_io_error *error) {
    uint64_t bytes = 0;
    heed_status status = read_length(file->fd, file_bytes, &bytes, error);
    if (status != HEED_OK) return status;
    char *text = heed_io_alloc(bytes, 1);
    if (!text) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory for the header");
    file->data = 8 + bytes;
    status = heed_io_read(file->fd, text, bytes, 8, error);
    if (status == HEED_OK) {
        status = heed_header_parse(text, bytes, file_bytes - (int64_t)file->data, &file->header, error);
    }
    free(text);
    return status;
}

static heed_status open_file(heed_file *file, const char *path, struct heed_io_error *error) {
    if (!path || !*path) return heed_io_fail(error, HEED_ERROR_ARGUMENT, "no path given");
    file->path = strdup(path);
    if (!file->path) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
    /* O_NONBLOCK: opening a pipe must not wait for a writer. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0) return heed_io_fail_errno(error, "cannot open");
    struct stat about;
    if (fstat(file->fd, &about) != 0) return heed_io_fail_errno(error, "cannot look at it");
    if (S_ISDIR(about.st_mode)) return heed_io_fail(error, HEED_ERROR_IO, "is a directory");
    if (!S_ISREG(about.st_mode)) return heed_io_fail(error, HEED_ERROR_IO, "is not a regular file");
    return read_header(file, about.st_size, error);
}

heed_file *heed_file_open(heed_ctx *ctx, const char *path) {
    if (heed_failed(ctx)) return NULL;
    struct heed_io_error error;
    heed_file *file = calloc(1, sizeof *file);
    if (!file) {
        heed_io_fail(&error, HEED_ERROR_MEMORY, "out of memory");
        heed_io_report(ctx, path, &error);
        return NULL;
    }
    file->ctx = ctx;
    file->fd = -1;
    if (open_file(file, path, &error) == HEED_OK) return file;
    heed_io_report(ctx, path, &error);
    heed_file_free(file);
    return NULL;
}

void heed_file_free(heed_file *file) {
    if (!file) return;
    if (file->fd >= 0) close(file->fd);
    heed_header_clear(&file->header);
    free(file->path);
    free(file);
}

/* ---- asking ---- */

int64_t heed_file_count(const heed_file *file) {
    return file ? file->header.count : 0;
}

bool heed_file_info(const heed_file *file, int64_t i, heed_file_entry *entry) {
    *entry = (heed_file_entry){0};
    if (i < 0 || i >= heed_file_count(file)) return false;
    const struct heed_header_tensor *t = &file->header.tensor[i];
    *entry = (heed_file_entry){.name = t->name,
                               .dtype_name = t->type->name,
                               .readable = t->type->readable,
                               .dtype = t->type->dtype,
                               .rank = t->rank,
                               .bytes = t->end - t->begin};
    memcpy(entry->size, t->size, sizeof entry->size);
    return true;
}

int64_t heed_file_find(const heed_file *file, const char *name) {
    const struct heed_header_tensor *t = file && name ? heed_header_find(&file->header, name) : NULL;
    return t ? t - file->header.tensor : -1;
}

const char *heed_file_metadata(const heed_file *file, const char *key) {
    return file && key ? heed_header_value(&file->header, key) : NULL;
}

bool heed_file_metadata_at(const heed_file *file, int64_t i, heed_metadata *pair) {
    *pair = (heed_metadata){0};
    if (!file || i < 0 || i >= file->header.pairs) return false;
    *pair = file->header.pair[i];
    return true;
}

/* ---- reading ---- */

static bool are_bools(const unsigned char *element, int64_t count) {
    unsigned char seen = 0;
    for (int64_t i = 0; i < count; i++) seen |= element[i];
    return seen <= 1;
}

/* Says which tensor an error is of. */
static heed_status name_tensor(const struct heed_header_tensor *tensor, struct heed_io_error *error) {
    const struct heed_io_error inner = *error;
    char name[HEED_QUOTE_BYTES];
    return heed_io_fail(error, inner.status, "tensor \"%s\": %s", heed_io_quote(tensor->name, name),
                        inner.text);
}

heed_status heed_file_elements(const heed_file *file, const struct heed_header_tensor *tensor,
                               void **elements, struct heed_io_error *error) {
    *elements = NULL;
    const uint64_t bytes = (uint64_t)(tensor->end - tensor->begin);
    heed_status status = HEED_OK;
    void *data = heed_io_alloc(bytes, 1);
    if (!data) status = heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory for %" PRIu64 " bytes", bytes);
    if (status == HEED_OK)
        status = heed_io_read(file->fd, data, bytes, file->data + (uint64_t)tensor->begin, error);
    if (status == HEED_OK && tensor->type->dtype == HEED_BOOL && !are_bools(data, (int64_t)bytes)) {
        status = heed_io_fail(error, HEED_ERROR_FORMAT, "has an element that is neither 0 nor 1");
    }
    if (status == HEED_OK) {
        *elements = data;
        return HEED_OK;
    }
    free(data);
    return name_tensor(tensor, error);
}

/* The tensor of a name, if it is there and readable. */
static heed_status find_readable(const heed_file *file, const char *name,
                                 const struct heed_header_tensor **tensor, struct heed_io_error *error) {
    char quoted[HEED_QUOTE_BYTES];
    if (!name) return heed_io_fail(error, HEED_ERROR_ARGUMENT, "no name given");
    *tensor = heed_header_find(&file->header, name);
    if (!*tensor)
        return heed_io_fail(error, HEED_ERROR_ARGUMENT, "has no tensor \"%s\"", heed_io_quote(name, quoted));
    if ((*tensor)->type->readable) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_UNSUPPORTED, "tensor \"%s\": reading %s is not supported",
                        heed_io_quote(name, quoted), (*tensor)->type->name);
}

heed_tensor heed_file_tensor(heed_file *file, const char *name) {
    if (!file) return (heed_tensor){0};
    heed_ctx *ctx = file->ctx;
    const struct heed_header_tensor *t = NULL;
    struct heed_io_error error;
    void *elements = NULL;
    heed_status status = heed_error_status(ctx);
    if (status == HEED_OK) status = find_readable(file, name, &t, &error);
    if (status == HEED_OK) status = heed_file_elements(file, t, &elements, &error);
    if (status != HEED_OK) {
        if (!heed_failed(ctx)) heed_io_report(ctx, file->path, &error);
        return heed_zeros(ctx, HEED_F32, 0, NULL); /* after an error: the inert tensor */
    }
    const heed_tensor result = heed_from(ctx, t->type->dtype, t->rank, t->size, elements);
    free(elements);
    return result;
}
