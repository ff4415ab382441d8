#include "kit/canvas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 4096, LARGEST = 16384, MARGIN = 12, TITLE = 28, CAPTION = 14 };

static const heed_colour ink = 0x202020, border = 0xc8c8c8;

/* Heads as a grid of maps; every map is `keys` cells wide and `queries` cells high, with labels at its left
 * and top. */
struct grid {
    int heads, queries, keys;
    int columns, rows; /* of maps */
    int cell;          /* pixels */
    int label;         /* room for labels, 0 if there are none */
    int top;           /* room for the title */
};

/* ---- arguments ---- */

static heed_status check(heed_ctx *ctx, heed_tensor weights, const heed_attention_plot_options *o,
                         struct grid *g) {
    int rank = heed_rank(weights);
    heed_dtype dtype = heed_dtype_of(weights);
    bool fits = rank >= 3 && (dtype == HEED_F32 || dtype == HEED_F64);
    for (int i = 0; fits && i < rank - 3; i++) fits = heed_size(weights, i) == 1;
    int64_t heads = heed_size(weights, -3), queries = heed_size(weights, -2), keys = heed_size(weights, -1);
    if (!fits || heads < 1 || heads > LONGEST || queries < 1 || queries > LONGEST || keys < 1 ||
        keys > LONGEST)
        return heed_kit_fail(ctx, HEED_ERROR_SHAPE, "plot_attention",
                             "weights must be f32 or f64 [heads, queries, keys] with 1 to %d of each",
                             LONGEST);
    *g = (struct grid){.heads = (int)heads, .queries = (int)queries, .keys = (int)keys};
    return heed_kit_reserved_zero(ctx, "plot_attention", o->reserved, 4) ? HEED_OK : HEED_ERROR_ARGUMENT;
}

static int map_width(const struct grid *g) {
    return g->label + g->keys * g->cell + MARGIN;
}

static int map_height(const struct grid *g) {
    return g->label + CAPTION + g->queries * g->cell + MARGIN;
}

static heed_status lay_out(heed_ctx *ctx, const heed_attention_plot_options *o, struct grid *g) {
    int longer = g->queries > g->keys ? g->queries : g->keys;
    g->cell = longer <= 64 ? 10 : longer <= 160 ? 4 : longer <= 320 ? 2 : 1;
    g->label = (o->queries || o->keys) && g->cell >= 10 ? 12 : 0;
    g->top = MARGIN + (o->title ? TITLE : 0);
    g->columns = (int)ceil(sqrt((double)g->heads));
    g->rows = (g->heads + g->columns - 1) / g->columns;
    /* At most 64 · 4108 in each product. */
    if (g->columns * map_width(g) > LARGEST || g->rows * map_height(g) > LARGEST)
        return heed_kit_fail(ctx, HEED_ERROR_SHAPE, "plot_attention",
                             "%d maps of %d by %d do not fit into a picture of %d pixels", g->heads,
                             g->queries, g->keys, LARGEST);
    return HEED_OK;
}

/* ---- drawing ---- */

/* From white over blue to a dark violet, by the square root of a weight. What is no number is red. */
static heed_colour shade(double weight) {
    static const double anchor[4][3] = {{255, 255, 255}, {150, 190, 225}, {50, 100, 175}, {35, 15, 70}};
    if (!isfinite(weight)) return 0xd02020;
    double place = sqrt(weight < 0.0 ? 0.0 : weight > 1.0 ? 1.0 : weight) * 3.0;
    int i = place >= 3.0 ? 2 : (int)place;
    heed_colour colour = 0;
    for (int c = 0; c < 3; c++)
        colour =
            colour << 8 | (heed_colour)lround(anchor[i][c] + (anchor[i + 1][c] - anchor[i][c]) * (place - i));
    return colour;
}

static void draw_labels(struct heed_canvas *canvas, const struct grid *g,
                        const heed_attention_plot_options *o, int left, int top) {
    const unsigned char *queries = o->queries, *keys = o->keys;
    int inset = (g->cell - HEED_GLYPH_WIDTH) / 2;
    for (int i = 0; g->label && queries && i < g->queries; i++)
        heed_canvas_byte(canvas, left - 9, top + i * g->cell + 1, ink, queries[i]);
    for (int i = 0; g->label && keys && i < g->keys; i++)
        heed_canvas_byte(canvas, left + i * g->cell + inset, top - 11, ink, keys[i]);
}

static void draw_map(struct heed_canvas *canvas, const struct grid *g, int head, const double *weights,
                     const heed_attention_plot_options *o) {
    int left = MARGIN + g->label + head % g->columns * map_width(g);
    int top = g->top + CAPTION + g->label + head / g->columns * map_height(g);
    int width = g->keys * g->cell, height = g->queries * g->cell;
    char caption[32];
    snprintf(caption, sizeof caption, "head %d", head);
    heed_canvas_text(canvas, left, top - g->label - CAPTION + 2, 1, ink, caption);
    heed_canvas_fill(canvas, left - 1, top - 1, width + 2, height + 2, border);
    for (int q = 0; q < g->queries; q++)
        for (int k = 0; k < g->keys; k++)
            heed_canvas_fill(
                canvas, left + k * g->cell, top + q * g->cell, g->cell, g->cell,
                shade(
                    weights[((size_t)head * (size_t)g->queries + (size_t)q) * (size_t)g->keys + (size_t)k]));
    draw_labels(canvas, g, o, left, top);
}

/* ---- the plot ---- */

/* All weights as double; NULL after an error. */
static double *read_weights(heed_ctx *ctx, heed_tensor weights, const struct grid *g) {
    size_t count = (size_t)g->heads * (size_t)g->queries * (size_t)g->keys;
    double *values = heed_kit_alloc(ctx, "plot_attention", count, sizeof *values);
    if (!values) return NULL;
    heed_status status = heed_read(weights, values, count * heed_dtype_bytes(heed_dtype_of(weights)));
    if (status != HEED_OK) {
        free(values);
        return NULL;
    }
    /* Floats lie in the first half: widened from the back, none is overwritten before it was read. */
    for (size_t i = count; heed_dtype_of(weights) == HEED_F32 && i-- > 0;) {
        float value;
        memcpy(&value, (char *)values + i * sizeof value, sizeof value);
        values[i] = value;
    }
    return values;
}

heed_status heed_plot_attention(heed_tensor weights, const char *path,
                                const heed_attention_plot_options *options) {
    const heed_attention_plot_options o = options ? *options : (heed_attention_plot_options){0};
    heed_ctx *ctx = heed_context(weights);
    if (heed_failed(ctx)) return heed_error_status(ctx);
    struct grid g = {0};
    if (check(ctx, weights, &o, &g) != HEED_OK || lay_out(ctx, &o, &g) != HEED_OK)
        return heed_error_status(ctx);
    int width = MARGIN + g.columns * map_width(&g), height = g.top + g.rows * map_height(&g);
    if (o.title && width < heed_text_width(o.title, 2) + 2 * MARGIN && strlen(o.title) < 1000)
        width = heed_text_width(o.title, 2) + 2 * MARGIN;
    struct heed_canvas canvas;
    double *values = read_weights(ctx, weights, &g);
    if (!values || !heed_canvas_new(ctx, &canvas, width, height)) {
        free(values);
        return heed_error_status(ctx);
    }
    if (o.title) heed_canvas_text(&canvas, MARGIN, MARGIN, 2, ink, o.title);
    for (int head = 0; head < g.heads; head++) draw_map(&canvas, &g, head, values, &o);
    heed_status status = heed_canvas_save(ctx, &canvas, path);
    heed_canvas_free(&canvas);
    free(values);
    return status;
}
