#include "io/header.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What the functions that look at one tensor share. */
struct place {
    struct heed_io_error *error;
    const char *name; /* quoted */
    int64_t data_bytes;
};

static void note_tensor(const struct place *at, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void note_tensor(const struct place *at, const char *format, ...) {
    char text[256];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    heed_io_note(at->error, HEED_ERROR_FORMAT, "tensor \"%s\": %s", at->name, text);
}

#define fail_tensor(at, ...) (note_tensor(at, __VA_ARGS__), HEED_ERROR_FORMAT)

static heed_status out_of_memory(struct heed_io_error *error) {
    return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory for the header");
}

/* ---- one tensor ---- */

/* A non-negative integer; *what (with its index) names it in the error. */
static heed_status get_integer(const struct place *at, const json_t *value, const char *what, int i,
                               int64_t *out) {
    if (!json_is_integer(value)) return fail_tensor(at, "%s[%d] is not an integer", what, i);
    *out = json_integer_value(value);
    if (*out < 0) return fail_tensor(at, "%s[%d] is %" PRId64, what, i, *out);
    return HEED_OK;
}

static heed_status get_dtype(const struct place *at, const json_t *value, struct heed_header_tensor *t) {
    if (!value) return fail_tensor(at, "has no dtype");
    if (!json_is_string(value)) return fail_tensor(at, "dtype is not a string");
    char name[HEED_QUOTE_BYTES];
    t->type = heed_io_dtype_named(json_string_value(value));
    if (!t->type)
        return fail_tensor(at, "dtype \"%s\" is not known", heed_io_quote(json_string_value(value), name));
    return HEED_OK;
}

static heed_status get_shape(const struct place *at, const json_t *value, struct heed_header_tensor *t) {
    if (!value) return fail_tensor(at, "has no shape");
    if (!json_is_array(value)) return fail_tensor(at, "shape is not an array");
    const size_t rank = json_array_size(value);
    if (rank > HEED_MAX_RANK)
        return fail_tensor(at, "shape has %zu sizes, the most is %d", rank, HEED_MAX_RANK);
    t->rank = (int)rank;
    for (int i = 0; i < t->rank; i++) {
        const heed_status status = get_integer(at, json_array_get(value, (size_t)i), "shape", i, &t->size[i]);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

static heed_status get_offsets(const struct place *at, const json_t *value, struct heed_header_tensor *t) {
    if (!value) return fail_tensor(at, "has no data_offsets");
    if (!json_is_array(value) || json_array_size(value) != 2) {
        return fail_tensor(at, "data_offsets is not an array of two integers");
    }
    heed_status status = get_integer(at, json_array_get(value, 0), "data_offsets", 0, &t->begin);
    if (status == HEED_OK) status = get_integer(at, json_array_get(value, 1), "data_offsets", 1, &t->end);
    if (status != HEED_OK) return status;
    if (t->begin > t->end) {
        return fail_tensor(at, "data begins at byte %" PRId64 ", after its end at %" PRId64, t->begin,
                           t->end);
    }
    if (t->end > at->data_bytes) {
        return fail_tensor(at, "data ends at byte %" PRId64 ", the file has %" PRId64 " bytes of data",
                           t->end, at->data_bytes);
    }
    return HEED_OK;
}

/* The one test that ties shape, dtype and data together. */
static heed_status check_bytes(const struct place *at, const struct heed_header_tensor *t) {
    char sizes[HEED_SIZES_BYTES];
    int64_t need;
    heed_io_sizes(t->rank, t->size, sizes);
    if (!heed_io_bytes(t->rank, t->size, t->type->bits, &need)) {
        return fail_tensor(at, "shape %s of %s is too large or no whole number of bytes", sizes,
                           t->type->name);
    }
    if (t->end - t->begin != need) {
        return fail_tensor(at, "data is %" PRId64 " bytes, shape %s of %s needs %" PRId64, t->end - t->begin,
                           sizes, t->type->name, need);
    }
    return HEED_OK;
}

static heed_status check_keys(const struct place *at, json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0) {
            char name[HEED_QUOTE_BYTES];
            return fail_tensor(at, "key \"%s\" is not known", heed_io_quote(key, name));
        }
    }
    return HEED_OK;
}

static heed_status get_tensor(const struct place *at, json_t *object, struct heed_header_tensor *t) {
    if (!json_is_object(object)) return fail_tensor(at, "is not described by an object");
    heed_status status = check_keys(at, object);
    if (status == HEED_OK) status = get_dtype(at, json_object_get(object, "dtype"), t);
    if (status == HEED_OK) status = get_shape(at, json_object_get(object, "shape"), t);
    if (status == HEED_OK) status = get_offsets(at, json_object_get(object, "data_offsets"), t);
    return status == HEED_OK ? check_bytes(at, t) : status;
}

/* ---- all tensors ---- */

static int compare_places(const void *a, const void *b) {
    const struct heed_header_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b) {
    const struct heed_header_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The data of the tensors, which are in order, must cover 0 … data_bytes without overlap and gap. */
static heed_status check_places(const struct heed_header *h, int64_t data_bytes,
                                struct heed_io_error *error) {
    int64_t end = 0;
    char name[HEED_QUOTE_BYTES], before[HEED_QUOTE_BYTES];
    for (int64_t i = 0; i < h->count; i++) {
        const struct heed_header_tensor *t = &h->tensor[i];
        const struct place at = {error, heed_io_quote(t->name, name), data_bytes};
        if (t->begin < end) {
            return fail_tensor(&at,
                               "data begins at byte %" PRId64 ", inside tensor \"%s\" that ends at %" PRId64,
                               t->begin, heed_io_quote(t[-1].name, before), end);
        }
        if (t->begin > end) {
            return fail_tensor(&at, "data begins at byte %" PRId64 ", the data before it ends at %" PRId64,
                               t->begin, end);
        }
        end = t->end;
    }
    if (end == data_bytes) return HEED_OK;
    return heed_io_fail(error, HEED_ERROR_FORMAT,
                        "the last tensor ends at byte %" PRId64 " of the data, the file has %" PRId64, end,
                        data_bytes);
}

static heed_status get_tensors(struct heed_header *h, int64_t data_bytes, struct heed_io_error *error) {
    h->tensor = heed_io_alloc(json_object_size(h->root), sizeof *h->tensor);
    h->by_name = heed_io_alloc(json_object_size(h->root), sizeof(struct heed_header_tensor *));
    if (!h->tensor || !h->by_name) return out_of_memory(error);
    const char *key;
    json_t *value;
    json_object_foreach(h->root, key, value) {
        if (strcmp(key, HEED_METADATA_KEY) == 0) continue;
        char name[HEED_QUOTE_BYTES];
        const struct place at = {error, heed_io_quote(key, name), data_bytes};
        struct heed_header_tensor *t = &h->tensor[h->count];
        *t = (struct heed_header_tensor){.name = key};
        const heed_status status = get_tensor(&at, value, t);
        if (status != HEED_OK) return status;
        h->count++;
    }
    qsort(h->tensor, (size_t)h->count, sizeof *h->tensor, compare_places);
    for (int64_t i = 0; i < h->count; i++) h->by_name[i] = &h->tensor[i];
    qsort(h->by_name, (size_t)h->count, sizeof(struct heed_header_tensor *), compare_names);
    return check_places(h, data_bytes, error);
}

/* ---- metadata ---- */

static int compare_keys(const void *a, const void *b) {
    const heed_metadata *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static heed_status get_metadata(struct heed_header *h, struct heed_io_error *error) {
    json_t *map = json_object_get(h->root, HEED_METADATA_KEY);
    if (!map) return HEED_OK;
    if (!json_is_object(map))
        return heed_io_fail(error, HEED_ERROR_FORMAT, HEED_METADATA_KEY " is not an object");
    h->pair = heed_io_alloc(json_object_size(map), sizeof *h->pair);
    if (!h->pair) return out_of_memory(error);
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        char name[HEED_QUOTE_BYTES];
        if (!json_is_string(value)) {
            return heed_io_fail(error, HEED_ERROR_FORMAT,
                                HEED_METADATA_KEY ": the value of \"%s\" is not a string",
                                heed_io_quote(key, name));
        }
        h->pair[h->pairs++] = (heed_metadata){key, json_string_value(value)};
    }
    qsort(h->pair, (size_t)h->pairs, sizeof *h->pair, compare_keys);
    return HEED_OK;
}

/* ---- the whole ---- */

/* At least the memory that jansson needs for a text: generous prices of its nodes, tables and copies of
 * strings. */
static uint64_t parse_cost(const char *text, size_t bytes) {
    enum { OBJECT = 512, ARRAY = 256, MEMBER = 192, STRING_BYTE = 8 };
    uint64_t cost = OBJECT;
    bool inside = false; /* of a string */
    for (size_t i = 0; i < bytes; i++) {
        const char c = text[i];
        if (c == '"')
            inside = !inside;
        else if (inside)
            cost += STRING_BYTE;
        else if (c == '{')
            cost += OBJECT;
        else if (c == '[')
            cost += ARRAY;
        else if (c == ',' || c == ':')
            cost += MEMBER;
        if (inside && c == '\\') i++;
    }
    return cost;
}

/* jansson 2.14 neither tells want of memory from a malformed text nor notices it while a long string grows.
 * So the memory is asked for, and given back, beforehand. */
static bool can_parse(const char *text, size_t bytes) {
    void *probe = heed_io_alloc(parse_cost(text, bytes), 1);
    free(probe);
    return probe != NULL;
}

static heed_status parse_json(const char *text, size_t bytes, json_t **root, struct heed_io_error *error) {
    if (bytes == 0 || text[0] != '{')
        return heed_io_fail(error, HEED_ERROR_FORMAT, "header does not begin with '{'");
    if (!can_parse(text, bytes)) return out_of_memory(error);
    json_error_t json;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &json);
    if (*root) return HEED_OK;
    if (json_error_code(&json) == json_error_out_of_memory) return out_of_memory(error);
    return heed_io_fail(error, HEED_ERROR_FORMAT, "header is not valid JSON at byte %d: %s", json.position,
                        json.text);
}

heed_status heed_header_parse(const char *text, size_t bytes, int64_t data_bytes, struct heed_header *header,
                              struct heed_io_error *error) {
    *header = (struct heed_header){0};
    heed_status status = parse_json(text, bytes, &header->root, error);
    if (status == HEED_OK) status = get_metadata(header, error);
    if (status == HEED_OK) status = get_tensors(header, data_bytes, error);
    if (status != HEED_OK) heed_header_clear(header);
    return status;
}

void heed_header_clear(struct heed_header *header) {
    json_decref(header->root);
    free(header->tensor);
    free(header->by_name);
    free(header->pair);
    *header = (struct heed_header){0};
}

const struct heed_header_tensor *heed_header_find(const struct heed_header *header, const char *name) {
    const struct heed_header_tensor wanted = {.name = name}, *key = &wanted;
    const struct heed_header_tensor **found =
        header->count ? bsearch(&key, header->by_name, (size_t)header->count,
                                sizeof(struct heed_header_tensor *), compare_names)
                      : NULL;
    return found ? *found : NULL;
}

const char *heed_header_value(const struct heed_header *header, const char *key) {
    const heed_metadata wanted = {key, NULL};
    const heed_metadata *found = header->pairs ? bsearch(&wanted, header->pair, (size_t)header->pairs,
                                                         sizeof *header->pair, compare_keys)
                                               : NULL;
    return found ? found->value : NULL;
}
