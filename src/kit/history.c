/* A history: rows of numbers by step. `cells` holds rows × columns values; `steps` the steps, ascending. */
#include "kit/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 6, NAME_BYTES = 40 };

struct heed_history {
    heed_ctx *ctx;
    int columns;
    char name[COLUMNS][NAME_BYTES];
    size_t rows, room;
    double *steps, *cells;
};

static bool name_fits(const char *name) {
    size_t length = name ? strlen(name) : 0;
    if (length < 1 || length >= NAME_BYTES) return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && c != ' ' && c != '_' && c != '-') return false;
    }
    return true;
}

heed_history *heed_history_new(heed_ctx *ctx, int columns, const char *const *names) {
    if (heed_failed(ctx)) return NULL;
    if (columns < 1 || columns > COLUMNS) {
        heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "history", "%d columns, but 1 to %d are possible", columns,
                      COLUMNS);
        return NULL;
    }
    heed_history *history = heed_kit_alloc(ctx, "history", 1, sizeof *history);
    if (!history) return NULL;
    history->ctx = ctx;
    history->columns = columns;
    for (int i = 0; i < columns; i++) {
        if (!name_fits(names[i])) {
            heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "history",
                          "the name of column %d must be 1 to %d letters, digits, ' ', '_' or '-'", i,
                          NAME_BYTES - 1);
            heed_history_free(history);
            return NULL;
        }
        strcpy(history->name[i], names[i]);
    }
    return history;
}

void heed_history_free(heed_history *history) {
    if (!history) return;
    free(history->steps);
    free(history->cells);
    free(history);
}

static bool make_room(heed_history *history) {
    if (history->rows < history->room) return true;
    size_t room = history->room ? 2 * history->room : 256;
    if (room > SIZE_MAX / sizeof(double) / COLUMNS) return false;
    double *steps = realloc(history->steps, room * sizeof *steps);
    if (!steps) return false;
    history->steps = steps;
    double *cells = realloc(history->cells, room * (size_t)history->columns * sizeof *cells);
    if (!cells) return false;
    history->cells = cells;
    history->room = room;
    return true;
}

heed_status heed_history_add(heed_history *history, int64_t step, const double *values) {
    if (!history) return HEED_ERROR_ARGUMENT;
    if (heed_failed(history->ctx)) return heed_error_status(history->ctx);
    if (history->rows && (double)step <= history->steps[history->rows - 1])
        return heed_kit_fail(history->ctx, HEED_ERROR_ARGUMENT, "history", "step %lld comes after step %.0f",
                             (long long)step, history->steps[history->rows - 1]);
    if (!make_room(history))
        return heed_kit_fail(history->ctx, HEED_ERROR_MEMORY, "history", "no memory for a row");
    history->steps[history->rows] = (double)step;
    memcpy(history->cells + history->rows * (size_t)history->columns, values,
           (size_t)history->columns * sizeof *values);
    history->rows++;
    return HEED_OK;
}

/* ---- files ---- */

static void write_rows(const heed_history *history, FILE *file) {
    fputs("step", file);
    for (int i = 0; i < history->columns; i++) fprintf(file, ",%s", history->name[i]);
    for (size_t row = 0; row < history->rows; row++) {
        fprintf(file, "\n%.0f", history->steps[row]);
        for (int i = 0; i < history->columns; i++) {
            double value = history->cells[row * (size_t)history->columns + (size_t)i];
            if (isnan(value))
                fputc(',', file);
            else
                fprintf(file, ",%.9g", value);
        }
    }
    fputc('\n', file);
}

heed_status heed_history_save(const heed_history *history, const char *path) {
    if (!history) return HEED_ERROR_ARGUMENT;
    if (heed_failed(history->ctx)) return heed_error_status(history->ctx);
    char *bytes = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&bytes, &size);
    if (memory) write_rows(history, memory);
    bool whole = memory && !ferror(memory);
    if (memory && fclose(memory)) whole = false;
    heed_status status =
        whole ? heed_kit_write(history->ctx, path, bytes, size)
              : heed_kit_fail(history->ctx, HEED_ERROR_MEMORY, "history", "no memory for its text");
    free(bytes);
    return status;
}

/* The number at *at, and *at moved behind it and the separator, which must be `end`. An empty field is NaN.
 */
static bool field(const char **at, char end, double *value) {
    char *behind = (char *)*at;
    *value = **at == end ? NAN : strtod(*at, &behind);
    if (*behind != end || (behind == *at && !isnan(*value))) return false;
    *at = behind + 1;
    return true;
}

static bool heading_fits(const heed_history *history, const char **at) {
    if (strncmp(*at, "step", 4) != 0) return false;
    *at += 4;
    for (int i = 0; i < history->columns; i++) {
        size_t length = strlen(history->name[i]);
        if (**at != ',' || strncmp(*at + 1, history->name[i], length) != 0) return false;
        *at += 1 + length;
    }
    return *(*at)++ == '\n';
}

static heed_status read_rows(heed_history *history, const char *path, const char *at, int64_t before) {
    if (!heading_fits(history, &at))
        return heed_kit_fail(history->ctx, HEED_ERROR_FORMAT, "history",
                             "%s: line 1 does not name the columns", path);
    for (long line = 2; *at; line++) {
        double step, value[COLUMNS];
        bool good = field(&at, ',', &step) && step >= 0.0 && step <= 0x1p53;
        for (int i = 0; good && i < history->columns; i++)
            good = field(&at, i + 1 < history->columns ? ',' : '\n', &value[i]);
        if (!good)
            return heed_kit_fail(history->ctx, HEED_ERROR_FORMAT, "history", "%s: line %ld is malformed",
                                 path, line);
        if (step >= (double)before) break;
        heed_status status = heed_history_add(history, (int64_t)step, value);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

heed_status heed_history_load(heed_history *history, const char *path, int64_t before) {
    if (!history) return HEED_ERROR_ARGUMENT;
    if (heed_failed(history->ctx)) return heed_error_status(history->ctx);
    if (history->rows)
        return heed_kit_fail(history->ctx, HEED_ERROR_STATE, "history", "has rows already, %s is not read",
                             path);
    char *bytes;
    size_t size;
    heed_status status = heed_bytes_read(history->ctx, path, &bytes, &size);
    if (status == HEED_OK) status = read_rows(history, path, bytes, before);
    if (status != HEED_OK) history->rows = 0;
    free(bytes);
    return status;
}

heed_status heed_history_plot(const heed_history *history, const char *path,
                              const heed_plot_options *options) {
    if (!history) return HEED_ERROR_ARGUMENT;
    if (heed_failed(history->ctx)) return heed_error_status(history->ctx);
    size_t rows = history->rows, columns = (size_t)history->columns;
    double *y = heed_kit_alloc(history->ctx, "history_plot", rows * columns, sizeof *y);
    if (!y) return heed_error_status(history->ctx);
    heed_curve curve[COLUMNS];
    for (size_t c = 0; c < columns; c++) {
        for (size_t row = 0; row < rows; row++) y[c * rows + row] = history->cells[row * columns + c];
        curve[c] = (heed_curve){history->name[c], (int64_t)rows, history->steps, y + c * rows};
    }
    heed_status status = heed_plot_curves(history->ctx, path, (int)columns, curve, options);
    free(y);
    return status;
}
