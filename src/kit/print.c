#include "kit/internal.h"

#include <stdlib.h>
#include <string.h>

/* A tensor of more elements than this is written in part: of every dimension longer than twice the edge,
 * only the first and the last EDGE. */
enum { WHOLE = 1000, EDGE = 3 };

struct printer {
    FILE *file; /* NULL while the widest element is being looked for */
    const char *data;
    heed_dtype dtype;
    int rank;
    int64_t size[HEED_MAX_RANK];
    bool in_part;
    int width; /* of an element in characters */
};

static int element_text(char *text, size_t size, heed_dtype dtype, const char *data) {
    switch (dtype) {
    case HEED_F32: {
        float value;
        memcpy(&value, data, sizeof value);
        return snprintf(text, size, "%.5g", (double)value);
    }
    case HEED_F64: {
        double value;
        memcpy(&value, data, sizeof value);
        return snprintf(text, size, "%.9g", value);
    }
    case HEED_I32: {
        int32_t value;
        memcpy(&value, data, sizeof value);
        return snprintf(text, size, "%d", (int)value);
    }
    case HEED_BF16: { /* the upper half of an f32 */
        uint16_t half;
        memcpy(&half, data, sizeof half);
        const uint32_t bits = (uint32_t)half << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return snprintf(text, size, "%.3g", (double)value);
    }
    default:
        return snprintf(text, size, "%s", *data ? "true" : "false");
    }
}

static void element(struct printer *p, int64_t index) {
    char text[48];
    int length =
        element_text(text, sizeof text, p->dtype, p->data + (size_t)index * heed_dtype_bytes(p->dtype));
    if (p->file)
        fprintf(p->file, "%*s", p->width, text);
    else if (length > p->width)
        p->width = length;
}

static void text(struct printer *p, const char *words) {
    if (p->file) fputs(words, p->file);
}

/* The elements below dimension `dim`, the first of which is number `index`. */
static void rows(struct printer *p, int dim, int64_t index) {
    if (dim == p->rank) {
        element(p, index);
        return;
    }
    int64_t inner = 1;
    for (int i = dim + 1; i < p->rank; i++) inner *= p->size[i];
    bool last = dim == p->rank - 1, cut = p->in_part && p->size[dim] > 2 * EDGE;
    text(p, "[");
    for (int64_t i = 0; i < p->size[dim]; i++) {
        if (i) {
            text(p, last ? ", " : ",\n");
            for (int k = 0; !last && k <= dim; k++) text(p, " ");
        }
        if (cut && i == EDGE) {
            text(p, "...");
            i = p->size[dim] - EDGE - 1;
            continue;
        }
        rows(p, dim + 1, index + i * inner);
    }
    text(p, "]");
}

static void heading(struct printer *p) {
    fprintf(p->file, "%s[", heed_dtype_name(p->dtype));
    for (int i = 0; i < p->rank; i++) fprintf(p->file, "%s%lld", i ? ", " : "", (long long)p->size[i]);
    fputs("]\n", p->file);
}

heed_status heed_print(heed_tensor t, FILE *file) {
    if (!file) return HEED_ERROR_ARGUMENT;
    if (!heed_is_valid(t)) return fputs("none\n", file) < 0 ? HEED_ERROR_IO : HEED_OK;
    struct printer p = {.dtype = heed_dtype_of(t), .rank = heed_rank(t)};
    for (int i = 0; i < p.rank; i++) p.size[i] = heed_size(t, i);
    int64_t count = heed_count(t);
    size_t bytes = (size_t)count * heed_dtype_bytes(p.dtype);
    char *data = malloc(bytes ? bytes : 1);
    if (!data) return HEED_ERROR_MEMORY;
    heed_status status = heed_read(t, data, bytes);
    if (status == HEED_OK) {
        p.data = data;
        p.in_part = count > WHOLE;
        if (count) rows(&p, 0, 0);
        p.file = file;
        heading(&p);
        if (count)
            rows(&p, 0, 0);
        else
            text(&p, "[]");
        text(&p, "\n");
        if (ferror(file)) status = HEED_ERROR_IO;
    }
    free(data);
    return status;
}
