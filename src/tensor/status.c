/* Names: of the version, of statuses, of dtypes. */
#include <heed/base.h>

#define HEED_TEXT_OF(x) #x
#define HEED_VERSION_TEXT(major, minor, patch)                                                               \
    HEED_TEXT_OF(major) "." HEED_TEXT_OF(minor) "." HEED_TEXT_OF(patch)

const char *heed_version(void) {
    return HEED_VERSION_TEXT(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH);
}

const char *heed_status_text(heed_status status) {
    switch (status) {
#define HEED_STATUS_CASE(name, text)                                                                         \
    case name:                                                                                               \
        return text;
        HEED_STATUS_LIST(HEED_STATUS_CASE)
#undef HEED_STATUS_CASE
    }
    return "unknown status";
}

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [HEED_F32] = {"f32", 4}, [HEED_F64] = {"f64", 8},   [HEED_BF16] = {"bf16", 2},
    [HEED_I32] = {"i32", 4}, [HEED_BOOL] = {"bool", 1},
};

static bool is_dtype(heed_dtype dtype) {
    return (unsigned)dtype < sizeof dtypes / sizeof *dtypes;
}

const char *heed_dtype_name(heed_dtype dtype) {
    return is_dtype(dtype) ? dtypes[dtype].name : "?";
}

size_t heed_dtype_bytes(heed_dtype dtype) {
    return is_dtype(dtype) ? dtypes[dtype].bytes : 0;
}
