#include "kit/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct heed_progress {
    FILE *file;
    bool terminal;
    int64_t first, total;
    double every;
    double started, shown; /* seconds; shown: of the last line */
    int64_t tokens;        /* trained on since the start */
    double validation;     /* the last one known; NaN: none yet */
    bool broken;           /* something could not be written */
    bool line_open;        /* the terminal's cursor stands behind a line */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

heed_progress *heed_progress_new(const heed_progress_options *options) {
    if (!options || !options->file || options->first < 0 || options->total < options->first ||
        !(options->every >= 0.0))
        return NULL;
    for (int i = 0; i < 4; i++)
        if (options->reserved[i]) return NULL;
    heed_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (heed_progress){.file = options->file,
                         .terminal = isatty(fileno(options->file)) == 1,
                         .first = options->first,
                         .total = options->total,
                         .validation = NAN};
    p->every = options->every > 0.0 ? options->every : p->terminal ? 0.1 : 2.0;
    p->started = now();
    p->shown = p->started - p->every;
    return p;
}

/* Seconds as 1:02:03 or 2:03. */
static void clock_text(char *text, size_t size, double seconds) {
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, size, "%lld:%02lld", s / 60, s % 60);
}

static void line_text(const heed_progress *p, const heed_progress_values *v, double time, char *text,
                      size_t size) {
    double elapsed = time - p->started;
    int64_t done = v->step + 1 - p->first, left = p->total - v->step - 1;
    char remaining[32] = "?", validation[32] = "", rate[32] = "-";
    if (done > 0 && left >= 0) clock_text(remaining, sizeof remaining, elapsed / (double)done * (double)left);
    if (!isnan(p->validation)) snprintf(validation, sizeof validation, "  validation %.4f", p->validation);
    if (elapsed > 0.0) snprintf(rate, sizeof rate, "%.0f", (double)p->tokens / elapsed);
    snprintf(text, size, "step %lld/%lld  loss %.4f%s  %s tokens/s  gradient norm %.3g  left %s",
             (long long)v->step + 1, (long long)p->total, v->loss, validation, rate, v->grad_norm, remaining);
}

/* A line longer than the terminal is wide would not be overwritten by the next one. */
static void fit_terminal(FILE *file, char *text) {
    struct winsize window;
    if (ioctl(fileno(file), TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && strlen(text) >= window.ws_col)
        text[window.ws_col - 1] = 0;
}

heed_status heed_progress_step(heed_progress *p, const heed_progress_values *v) {
    if (!p || !v) return HEED_ERROR_ARGUMENT;
    p->tokens += v->tokens;
    if (v->has_validation) p->validation = v->validation;
    double time = now();
    bool due =
        time - p->shown >= p->every || v->step == p->first || v->step == p->total - 1 || v->has_validation;
    if (!due) return p->broken ? HEED_ERROR_IO : HEED_OK;
    p->shown = time;
    char text[256];
    line_text(p, v, time, text, sizeof text);
    if (p->terminal) fit_terminal(p->file, text);
    /* ESC [ K clears what a longer line left. */
    int written = p->terminal ? fprintf(p->file, "\r%s\033[K", text) : fprintf(p->file, "%s\n", text);
    if (written < 0 || fflush(p->file)) p->broken = true;
    p->line_open = p->terminal;
    return p->broken ? HEED_ERROR_IO : HEED_OK;
}

heed_status heed_progress_end(heed_progress *p) {
    if (!p) return HEED_OK;
    if (p->line_open && (fputc('\n', p->file) == EOF || fflush(p->file))) p->broken = true;
    heed_status status = p->broken ? HEED_ERROR_IO : HEED_OK;
    free(p);
    return status;
}
