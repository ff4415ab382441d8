#include "io/dtype.h"

#include <string.h>

static const struct heed_io_dtype table[] = {
    {"F32", 32, true, HEED_F32},         {"F64", 64, true, HEED_F64},     {"I32", 32, true, HEED_I32},
    {"BOOL", 8, true, HEED_BOOL},        {"BF16", 16, true, HEED_BF16},   {"F16", 16, false, HEED_F32},
    {"I8", 8, false, HEED_F32},          {"U8", 8, false, HEED_F32},      {"I16", 16, false, HEED_F32},
    {"U16", 16, false, HEED_F32},        {"U32", 32, false, HEED_F32},    {"I64", 64, false, HEED_F32},
    {"U64", 64, false, HEED_F32},        {"C64", 64, false, HEED_F32},    {"F8_E4M3", 8, false, HEED_F32},
    {"F8_E5M2", 8, false, HEED_F32},     {"F8_E8M0", 8, false, HEED_F32}, {"F8_E4M3FNUZ", 8, false, HEED_F32},
    {"F8_E5M2FNUZ", 8, false, HEED_F32}, {"F6_E2M3", 6, false, HEED_F32}, {"F6_E3M2", 6, false, HEED_F32},
    {"F4", 4, false, HEED_F32},
};

enum { TABLE_COUNT = sizeof table / sizeof *table };

const struct heed_io_dtype *heed_io_dtype_named(const char *name) {
    for (int i = 0; i < TABLE_COUNT; i++) {
        if (strcmp(table[i].name, name) == 0) return &table[i];
    }
    return NULL;
}

const struct heed_io_dtype *heed_io_dtype_of(heed_dtype dtype) {
    for (int i = 0; i < TABLE_COUNT; i++) {
        if (table[i].readable && table[i].dtype == dtype) return &table[i];
    }
    return NULL;
}
