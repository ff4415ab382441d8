/* An open safetensors file, below the context. */
#ifndef HEED_SRC_IO_FILE_H
#define HEED_SRC_IO_FILE_H

#include "io/header.h"

struct heed_file {
    heed_ctx *ctx;
    char *path; /* as given, for messages */
    int fd;
    uint64_t data; /* where the data begin */
    struct heed_header header;
};

/* Reads the elements of a tensor, which must be readable, into a new block of memory for free(). */
heed_status heed_file_elements(const heed_file *file, const struct heed_header_tensor *tensor,
                               void **elements, struct heed_io_error *error);

#endif
