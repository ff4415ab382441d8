#include "io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The most that one call is asked for: what Linux transfers at a time is less than 2 GiB. */
#define TRANSFER_BYTES (1u << 30)

void heed_io_note(struct heed_io_error *error, heed_status status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(error->text, sizeof error->text, format, list);
    va_end(list);
    error->status = status;
}

void heed_io_note_errno(struct heed_io_error *error, const char *what) {
    char words[128];
    const char *text = strerror_r(errno, words, sizeof words);
    heed_io_note(error, HEED_ERROR_IO, "%s: %s", what, text);
}

/* Copies `text` without control characters. What is longer than `most` bytes loses its beginning (`tail`) or
 * its end, at the border of a UTF-8 character. `out` has room for most + 4 bytes. */
static void show(const char *text, size_t most, bool tail, char *out) {
    const size_t length = strlen(text);
    const bool cut = length > most;
    const char *begin = text, *end = text + length;
    if (cut && tail) {
        begin = end - most;
        while (begin < end && ((unsigned char)*begin & 0xC0) == 0x80) begin++;
    } else if (cut) {
        end = begin + most;
        while (end > begin && ((unsigned char)*end & 0xC0) == 0x80) end--;
    }
    char *to = out;
    if (cut && tail) to = stpcpy(to, "…");
    for (const char *from = begin; from < end; from++) {
        const unsigned char c = (unsigned char)*from;
        *to++ = c < 0x20 || c == 0x7F ? '?' : *from;
    }
    *to = '\0';
    if (cut && !tail) stpcpy(to, "…");
}

bool heed_io_is_utf8(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    while (*c) {
        const int more = *c < 0x80                 ? 0
                         : *c >= 0xC2 && *c < 0xE0 ? 1
                         : *c >= 0xE0 && *c < 0xF0 ? 2
                         : *c >= 0xF0 && *c < 0xF5 ? 3
                                                   : -1;
        if (more < 0) return false;
        uint32_t point = more == 0 ? *c : *c & (0x3Fu >> more);
        for (int i = 1; i <= more; i++) {
            if ((c[i] & 0xC0) != 0x80) return false;
            point = point << 6 | (c[i] & 0x3F);
        }
        const bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
        if (overlong || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
        c += more + 1;
    }
    return true;
}

const char *heed_io_quote(const char *name, char *text) {
    show(name, 100, false, text);
    return text;
}

heed_status heed_io_report(heed_ctx *ctx, const char *path, const struct heed_io_error *error) {
    char where[160], words[sizeof error->text + 4];
    show(path ? path : "(no path)", 150, true, where);
    show(error->text, sizeof error->text, false, words);
    return heed_error_set(ctx, error->status, where, words);
}

const char *heed_io_sizes(int rank, const int64_t *size, char *text) {
    char *to = text;
    *to++ = '[';
    for (int i = 0; i < rank; i++) to += sprintf(to, "%s%" PRId64, i ? "," : "", size[i]);
    *to++ = ']';
    *to = '\0';
    return text;
}

bool heed_io_bytes(int rank, const int64_t *size, int bits, int64_t *bytes) {
    int64_t total = bits;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        /* A size of 0 doesn't excuse the others: strides are products of them. */
        if (size[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(total, size[i], &total))
            return false;
    }
    if (empty) total = 0;
    *bytes = total / 8;
    return total % 8 == 0;
}

void *heed_io_alloc(uint64_t count, size_t element) {
    size_t bytes;
    if (__builtin_mul_overflow(count, element, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    return malloc(bytes ? bytes : 1);
}

heed_status heed_io_read(int fd, void *data, uint64_t bytes, uint64_t offset, struct heed_io_error *error) {
    char *to = data;
    while (bytes > 0) {
        const size_t want = bytes < TRANSFER_BYTES ? (size_t)bytes : TRANSFER_BYTES;
        const ssize_t got = pread(fd, to, want, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return heed_io_fail_errno(error, "reading failed");
        if (got == 0) {
            return heed_io_fail(error, HEED_ERROR_FORMAT, "ended at byte %" PRIu64 " while it was read",
                                offset);
        }
        to += got;
        bytes -= (uint64_t)got;
        offset += (uint64_t)got;
    }
    return HEED_OK;
}

heed_status heed_io_write(int fd, const void *data, uint64_t bytes, struct heed_io_error *error) {
    const char *from = data;
    while (bytes > 0) {
        const size_t want = bytes < TRANSFER_BYTES ? (size_t)bytes : TRANSFER_BYTES;
        const ssize_t done = write(fd, from, want);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return heed_io_fail_errno(error, "writing failed");
        if (done == 0) return heed_io_fail(error, HEED_ERROR_IO, "writing failed: nothing was taken");
        from += done;
        bytes -= (uint64_t)done;
    }
    return HEED_OK;
}
