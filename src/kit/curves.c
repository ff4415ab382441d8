#include "kit/canvas.h"

#include <math.h>
#include <string.h>

enum { CURVES = 6, TICKS = 8, MARKED = 40 };

static const heed_colour ink = 0x202020, grid = 0xe4e4e4, paper = 0xffffff;
static const heed_colour colours[CURVES] = {0x2864b4, 0xd8641e, 0x2f8f4e, 0x8a4fb0, 0xb0273a, 0x707070};

/* An axis: values low … high lie on pixels from … to. Ticks are at the multiples of `step`. */
struct axis {
    double low, high, step;
    int from, to;
};

struct frame {
    struct heed_canvas canvas;
    struct axis x, y;
    int scale; /* of the font */
};

/* ---- ranges and ticks ---- */

/* Beyond this size differences and pixels could overflow. */
static bool can_be_shown(double value) {
    return fabs(value) < 1e300;
}

/* 1, 2 or 5 times a power of ten, such that a range has at most TICKS steps (Heckbert, "Nice numbers for
 * graph labels", Graphics Gems, 1990). */
static double nice_step(double range) {
    double rough = range / TICKS, power = pow(10.0, floor(log10(rough))), lead = rough / power;
    return power * (lead <= 1.0 ? 1.0 : lead <= 2.0 ? 2.0 : lead <= 5.0 ? 5.0 : 10.0);
}

/* The range of an axis from what was found; low > high: nothing was. */
static struct axis axis_over(double low, double high, double margin) {
    if (low > high) low = 0.0, high = 1.0;
    double least = 1e-9 * fmax(fabs(low), fabs(high));
    if (high - low <= least) {
        double spread = least > 0.0 ? 0.5 * fabs(high) : 0.5;
        low -= spread, high += spread;
    }
    double room = (high - low) * margin;
    return (struct axis){.low = low - room, .high = high + room, .step = nice_step(high - low)};
}

static void find_ranges(struct frame *f, int count, const heed_curve *curves) {
    double low_x = INFINITY, high_x = -INFINITY, low_y = INFINITY, high_y = -INFINITY;
    for (int c = 0; c < count; c++)
        for (int64_t i = 0; i < curves[c].count; i++) {
            double x = curves[c].x[i], y = curves[c].y[i];
            if (!can_be_shown(x) || !can_be_shown(y)) continue;
            low_x = fmin(low_x, x), high_x = fmax(high_x, x);
            low_y = fmin(low_y, y), high_y = fmax(high_y, y);
        }
    f->x = axis_over(low_x, high_x, 0.0);
    f->y = axis_over(low_y, high_y, 0.04);
}

static double pixel(const struct axis *axis, double value) {
    return axis->from + (axis->to - axis->from) * ((value - axis->low) / (axis->high - axis->low));
}

/* Tick number i: a multiple of the step, without the rounding of a running sum. */
static double tick(const struct axis *axis, int64_t i) {
    return (ceil(axis->low / axis->step - 1e-9) + (double)i) * axis->step;
}

static bool tick_shown(const struct axis *axis, int64_t i) {
    return tick(axis, i) <= axis->high + 1e-9 * axis->step;
}

static void tick_text(const struct axis *axis, int64_t i, char *text, size_t size) {
    double value = tick(axis, i);
    snprintf(text, size, "%.6g", fabs(value) < 1e-9 * axis->step ? 0.0 : value);
}

/* ---- drawing ---- */

static int widest_tick(const struct frame *f) {
    int widest = 0;
    char text[32];
    for (int64_t i = 0; tick_shown(&f->y, i); i++) {
        tick_text(&f->y, i, text, sizeof text);
        int width = heed_text_width(text, f->scale);
        widest = width > widest ? width : widest;
    }
    return widest;
}

static void place_axes(struct frame *f, const heed_plot_options *o) {
    int line = (HEED_GLYPH_ROWS + 3) * f->scale;
    f->x.from = (o->y_label ? line : 0) + widest_tick(f) + 10 * f->scale;
    f->x.to = f->canvas.width - 12 * f->scale;
    f->y.to = (o->title ? line : 0) + 6 * f->scale;
    f->y.from = f->canvas.height - (o->x_label ? line : 0) - line - 6 * f->scale;
}

static void draw_axes(struct frame *f) {
    char text[32];
    struct heed_canvas *canvas = &f->canvas;
    for (int64_t i = 0; tick_shown(&f->x, i); i++) {
        int x = (int)lround(pixel(&f->x, tick(&f->x, i)));
        heed_canvas_fill(canvas, x, f->y.to, 1, f->y.from - f->y.to, grid);
        heed_canvas_fill(canvas, x, f->y.from, 1, 3 * f->scale, ink);
        tick_text(&f->x, i, text, sizeof text);
        int left = x - heed_text_width(text, f->scale) / 2,
            most = canvas->width - heed_text_width(text, f->scale);
        heed_canvas_text(canvas, left < most ? left : most, f->y.from + 5 * f->scale, f->scale, ink, text);
    }
    for (int64_t i = 0; tick_shown(&f->y, i); i++) {
        int y = (int)lround(pixel(&f->y, tick(&f->y, i)));
        heed_canvas_fill(canvas, f->x.from, y, f->x.to - f->x.from, 1, grid);
        heed_canvas_fill(canvas, f->x.from - 3 * f->scale, y, 3 * f->scale, 1, ink);
        tick_text(&f->y, i, text, sizeof text);
        heed_canvas_text(canvas, f->x.from - 5 * f->scale - heed_text_width(text, f->scale), y - 3 * f->scale,
                         f->scale, ink, text);
    }
    heed_canvas_fill(canvas, f->x.from, f->y.from, f->x.to - f->x.from, 1, ink);
    heed_canvas_fill(canvas, f->x.from, f->y.to, 1, f->y.from - f->y.to + 1, ink);
}

static void draw_labels(struct frame *f, const heed_plot_options *o) {
    int middle_x = (f->x.from + f->x.to) / 2, middle_y = (f->y.from + f->y.to) / 2;
    if (o->title)
        heed_canvas_text(&f->canvas, middle_x - heed_text_width(o->title, f->scale) / 2, 4 * f->scale,
                         f->scale, ink, o->title);
    if (o->x_label)
        heed_canvas_text(&f->canvas, middle_x - heed_text_width(o->x_label, f->scale) / 2,
                         f->canvas.height - (HEED_GLYPH_ROWS + 3) * f->scale, f->scale, ink, o->x_label);
    if (o->y_label)
        heed_canvas_text_upward(&f->canvas, 3 * f->scale,
                                middle_y + heed_text_width(o->y_label, f->scale) / 2, f->scale, ink,
                                o->y_label);
}

static void draw_curve(struct frame *f, const heed_curve *curve, heed_colour colour) {
    const struct heed_clip clip = {f->x.from, f->y.to, f->x.to + 1, f->y.from + 1};
    double last_x = 0.0, last_y = 0.0;
    int64_t shown = 0, possible = 0;
    for (int64_t i = 0; i < curve->count; i++)
        possible += can_be_shown(curve->x[i]) && can_be_shown(curve->y[i]);
    for (int64_t i = 0; i < curve->count; i++) {
        if (!can_be_shown(curve->x[i]) || !can_be_shown(curve->y[i])) continue;
        double x = pixel(&f->x, curve->x[i]), y = pixel(&f->y, curve->y[i]);
        if (shown++) heed_canvas_line(&f->canvas, &clip, last_x, last_y, x, y, 0.9 * f->scale, colour);
        if (possible <= MARKED) heed_canvas_line(&f->canvas, &clip, x, y, x, y, 3.0 * f->scale, colour);
        last_x = x, last_y = y;
    }
}

static void draw_legend(struct frame *f, int count, const heed_curve *curves) {
    int widest = 0, line = (HEED_GLYPH_ROWS + 3) * f->scale, sign = 16 * f->scale, gap = 4 * f->scale;
    for (int c = 0; c < count; c++) {
        int width = heed_text_width(curves[c].name, f->scale);
        widest = width > widest ? width : widest;
    }
    if (!widest) return;
    int width = widest + sign + 3 * gap, left = f->x.to - width - gap, top = f->y.to + gap;
    heed_canvas_fill(&f->canvas, left, top, width, count * line + gap, grid);
    heed_canvas_fill(&f->canvas, left + 1, top + 1, width - 2, count * line + gap - 2, paper);
    for (int c = 0; c < count; c++) {
        int y = top + gap + c * line;
        heed_canvas_fill(&f->canvas, left + gap, y + 3 * f->scale, sign, f->scale + 1, colours[c]);
        heed_canvas_text(&f->canvas, left + 2 * gap + sign, y, f->scale, ink, curves[c].name);
    }
}

static heed_status check(heed_ctx *ctx, int count, const heed_curve *curves, const heed_plot_options *o) {
    if (count < 0 || count > CURVES)
        return heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "plot_curves",
                             "%d curves, but at most %d are possible", count, CURVES);
    for (int c = 0; c < count; c++)
        if (curves[c].count < 0 || !curves[c].name || (curves[c].count && (!curves[c].x || !curves[c].y)))
            return heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "plot_curves", "curve %d has no name or no points",
                                 c);
    int width = o->width ? o->width : 900, height = o->height ? o->height : 560;
    if (width < 160 || width > 8192 || height < 160 || height > 8192)
        return heed_kit_fail(ctx, HEED_ERROR_ARGUMENT, "plot_curves",
                             "%d x %d pixels, but 160 to 8192 are possible", width, height);
    return heed_kit_reserved_zero(ctx, "plot_curves", o->reserved, 4) ? HEED_OK : HEED_ERROR_ARGUMENT;
}

heed_status heed_plot_curves(heed_ctx *ctx, const char *path, int count, const heed_curve *curves,
                             const heed_plot_options *options) {
    const heed_plot_options o = options ? *options : (heed_plot_options){0};
    if (heed_failed(ctx)) return heed_error_status(ctx);
    heed_status status = check(ctx, count, curves, &o);
    struct frame f = {.scale = (o.width ? o.width : 900) >= 600 ? 2 : 1};
    if (status != HEED_OK ||
        !heed_canvas_new(ctx, &f.canvas, o.width ? o.width : 900, o.height ? o.height : 560))
        return heed_error_status(ctx);
    find_ranges(&f, count, curves);
    place_axes(&f, &o);
    draw_axes(&f);
    draw_labels(&f, &o);
    for (int c = 0; c < count; c++) draw_curve(&f, &curves[c], colours[c]);
    draw_legend(&f, count, curves);
    status = heed_canvas_save(ctx, &f.canvas, path);
    heed_canvas_free(&f.canvas);
    return status;
}
