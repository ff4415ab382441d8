/* What the files of src/io share: errors as values, raw input and output.
 *
 * The inner functions know no context. They return a status and leave the words of the first thing that went
 * wrong in a struct heed_io_error; the public functions hand it to the context with the file's name. */
#ifndef HEED_SRC_IO_IO_H
#define HEED_SRC_IO_IO_H

#include <heed/io.h>

#include <sys/types.h>

_Static_assert(sizeof(off_t) == 8, "files of more than 2 GiB need a 64-bit off_t");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian and are read and written without changing the byte order"
#endif

/* Limit of the format on its header, in bytes (the reference implementation's MAX_HEADER_SIZE). */
#define HEED_HEADER_LIMIT 100000000

struct heed_io_error {
    heed_status status;
    char text[400];
};

/* Fills the error. */
void heed_io_note(struct heed_io_error *error, heed_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Fills the error with words and those of errno. */
void heed_io_note_errno(struct heed_io_error *error, const char *what);

/* The same as values, for `return heed_io_fail(error, HEED_ERROR_FORMAT, "…");`: macros, so that a reader of
 * one file (the static analyser, too) sees that the value is an error. */
#define heed_io_fail(error, status, ...) (heed_io_note(error, status, __VA_ARGS__), heed_io_value(status))
#define heed_io_fail_errno(error, what) (heed_io_note_errno(error, what), heed_io_value(HEED_ERROR_IO))

/* A call, so that a value that is not used is no warning. */
static inline heed_status heed_io_value(heed_status status) {
    return status;
}

/* Hands the error to the context, as "path: words". Returns its status. */
heed_status heed_io_report(heed_ctx *ctx, const char *path, const struct heed_io_error *error);

/* Whether a string is UTF-8 as Unicode 15, table 3-7, has it. */
bool heed_io_is_utf8(const char *text);

/* A name from a file or a user in one line and at most 100 bytes: control characters become '?', and what is
 * left out "…". Returns text, of HEED_QUOTE_BYTES. */
#define HEED_QUOTE_BYTES 128
const char *heed_io_quote(const char *name, char *text);

/* A shape as "[2,3]". Returns text, of HEED_SIZES_BYTES. */
#define HEED_SIZES_BYTES 192
const char *heed_io_sizes(int rank, const int64_t *size, char *text);

/* product(size) · bits / 8. False if it overflows int64 or is not a whole number of bytes; sizes must be ≥ 0.
 */
bool heed_io_bytes(int rank, const int64_t *size, int bits, int64_t *bytes);

/* malloc for `count` elements; NULL if there is no memory or the size overflows. Never NULL for count 0. */
void *heed_io_alloc(uint64_t count, size_t element);

/* Reads exactly `bytes` at an offset. A file that ends earlier is HEED_ERROR_FORMAT. */
heed_status heed_io_read(int fd, void *data, uint64_t bytes, uint64_t offset, struct heed_io_error *error);

/* Writes all bytes at the current position. */
heed_status heed_io_write(int fd, const void *data, uint64_t bytes, struct heed_io_error *error);

#endif
