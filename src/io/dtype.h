/* The dtypes of the safetensors format, and which of them are heed's. */
#ifndef HEED_SRC_IO_DTYPE_H
#define HEED_SRC_IO_DTYPE_H

#include <heed/base.h>

struct heed_io_dtype {
    const char *name;
    int bits;
    bool readable; /* heed makes tensors of it */
    heed_dtype dtype;
};

/* NULL if the format has no such name. */
const struct heed_io_dtype *heed_io_dtype_named(const char *name);

/* NULL if tensors of the dtype cannot be written. */
const struct heed_io_dtype *heed_io_dtype_of(heed_dtype dtype);

#endif
