/* The header of a safetensors file: JSON text in, checked places of all tensors out.
 *
 * Invariants of a parsed header
 * 1. Every tensor has a known dtype, at most HEED_MAX_RANK sizes ≥ 0, and end − begin bytes are what they
 * need.
 * 2. The tensors are ordered by their data, which begins at 0, has neither overlap nor gap, and ends at the
 * end of the file.
 * 3. Names and keys are valid UTF-8 without NUL, each there once. */
#ifndef HEED_SRC_IO_HEADER_H
#define HEED_SRC_IO_HEADER_H

#include <jansson.h>

#include "io/dtype.h"
#include "io/io.h"

/* The key beside the tensors' names that holds pairs of strings. */
#define HEED_METADATA_KEY "__metadata__"

struct heed_header_tensor {
    const char *name; /* within root */
    const struct heed_io_dtype *type;
    int rank;
    int64_t size[HEED_MAX_RANK];
    int64_t begin, end; /* bytes from the end of the header */
};

struct heed_header {
    json_t *root; /* owns the strings */
    int64_t count;
    struct heed_header_tensor *tensor; /* by place */
    const struct heed_header_tensor **by_name;
    int64_t pairs;
    heed_metadata *pair; /* by key */
};

/* Parses `bytes` of text before `data_bytes` of data. Only after HEED_OK there is something to clear. */
heed_status heed_header_parse(const char *text, size_t bytes, int64_t data_bytes, struct heed_header *header,
                              struct heed_io_error *error);

void heed_header_clear(struct heed_header *header);

/* NULL if there is none. */
const struct heed_header_tensor *heed_header_find(const struct heed_header *header, const char *name);
const char *heed_header_value(const struct heed_header *header, const char *key);

#endif
