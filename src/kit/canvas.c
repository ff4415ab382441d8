#include "kit/canvas.h"

#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

bool heed_canvas_new(heed_ctx *ctx, struct heed_canvas *canvas, int width, int height) {
    *canvas = (struct heed_canvas){.width = width, .height = height};
    size_t bytes = (size_t)width * (size_t)height * 3;
    canvas->pixels = heed_kit_alloc(ctx, "plot", bytes, 1);
    if (canvas->pixels) memset(canvas->pixels, 0xff, bytes);
    return canvas->pixels != NULL;
}

void heed_canvas_free(struct heed_canvas *canvas) {
    free(canvas->pixels);
    canvas->pixels = NULL;
}

/* Lays a colour over a pixel: 0 leaves it, 1 replaces it. */
static void blend(struct heed_canvas *canvas, int x, int y, double cover, heed_colour colour) {
    if (x < 0 || y < 0 || x >= canvas->width || y >= canvas->height) return;
    unsigned char *pixel = canvas->pixels + ((size_t)y * (size_t)canvas->width + (size_t)x) * 3;
    for (int i = 0; i < 3; i++) {
        double to = (colour >> (16 - 8 * i)) & 0xff;
        pixel[i] = (unsigned char)(pixel[i] + (to - pixel[i]) * cover + 0.5);
    }
}

void heed_canvas_fill(struct heed_canvas *canvas, int x, int y, int width, int height, heed_colour colour) {
    for (int row = y; row < y + height; row++)
        for (int column = x; column < x + width; column++) blend(canvas, column, row, 1.0, colour);
}

static double clamp(double value, double low, double high) {
    return value < low ? low : value > high ? high : value;
}

static double distance_to_line(double x, double y, double x0, double y0, double x1, double y1) {
    double dx = x1 - x0, dy = y1 - y0, square = dx * dx + dy * dy;
    double along = square > 0.0 ? clamp(((x - x0) * dx + (y - y0) * dy) / square, 0.0, 1.0) : 0.0;
    return hypot(x - x0 - along * dx, y - y0 - along * dy);
}

void heed_canvas_line(struct heed_canvas *canvas, const struct heed_clip *clip, double x0, double y0,
                      double x1, double y1, double thickness, heed_colour colour) {
    double reach = thickness / 2.0 + 1.0;
    int left = (int)clamp(floor(fmin(x0, x1) - reach), clip->left, clip->right);
    int right = (int)clamp(ceil(fmax(x0, x1) + reach) + 1.0, clip->left, clip->right);
    for (int x = left; x < right; x++) {
        /* Of this column only the rows near the line: it runs from the line's height at x - reach to x +
         * reach. */
        double slope = x1 != x0 ? (y1 - y0) / (x1 - x0) : 0.0;
        double from = x1 != x0 ? y0 + slope * (clamp(x - reach, fmin(x0, x1), fmax(x0, x1)) - x0) : y0;
        double to = x1 != x0 ? y0 + slope * (clamp(x + reach, fmin(x0, x1), fmax(x0, x1)) - x0) : y1;
        int top = (int)clamp(floor(fmin(from, to) - reach), clip->top, clip->bottom);
        int bottom = (int)clamp(ceil(fmax(from, to) + reach) + 1.0, clip->top, clip->bottom);
        for (int y = top; y < bottom; y++) {
            double cover = clamp(thickness / 2.0 + 0.5 - distance_to_line(x, y, x0, y0, x1, y1), 0.0, 1.0);
            if (cover > 0.0) blend(canvas, x, y, cover, colour);
        }
    }
}

/* Which way the pixels of a glyph go on the canvas: right (column, row) or upward (row, -column). */
static void glyph(struct heed_canvas *canvas, int x, int y, int scale, bool upward, heed_colour colour,
                  const unsigned char *rows) {
    for (int row = 0; row < HEED_GLYPH_ROWS; row++)
        for (int column = 0; column < HEED_GLYPH_WIDTH; column++) {
            if (!(rows[row] >> (HEED_GLYPH_WIDTH - 1 - column) & 1)) continue;
            int across = upward ? x + row * scale : x + column * scale;
            int down = upward ? y - (column + 1) * scale + 1 : y + row * scale;
            heed_canvas_fill(canvas, across, down, scale, scale, colour);
        }
}

void heed_canvas_text(struct heed_canvas *canvas, int x, int y, int scale, heed_colour colour,
                      const char *text) {
    for (; *text; text++, x += HEED_GLYPH_ADVANCE * scale)
        glyph(canvas, x, y, scale, false, colour, heed_glyph((unsigned char)*text, false));
}

void heed_canvas_text_upward(struct heed_canvas *canvas, int x, int y, int scale, heed_colour colour,
                             const char *text) {
    for (; *text; text++, y -= HEED_GLYPH_ADVANCE * scale)
        glyph(canvas, x, y, scale, true, colour, heed_glyph((unsigned char)*text, false));
}

void heed_canvas_byte(struct heed_canvas *canvas, int x, int y, heed_colour colour, unsigned char byte) {
    glyph(canvas, x, y, 1, false, colour, heed_glyph(byte, true));
}

int heed_text_width(const char *text, int scale) {
    int glyphs = (int)strnlen(text, 4096);
    return glyphs ? (glyphs * HEED_GLYPH_ADVANCE - 1) * scale : 0;
}

heed_status heed_canvas_save(heed_ctx *ctx, const struct heed_canvas *canvas, const char *path) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)canvas->width,
                       .height = (png_uint_32)canvas->height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    void *bytes = heed_kit_alloc(ctx, "plot", size, 1);
    if (!bytes) return heed_error_status(ctx);
    heed_status status;
    if (png_image_write_to_memory(&image, bytes, &size, 0, canvas->pixels, 0, NULL))
        status = heed_kit_write(ctx, path, bytes, size);
    else
        status = heed_kit_fail(ctx, HEED_ERROR_MEMORY, "plot", "libpng: %s", image.message);
    png_image_free(&image);
    free(bytes);
    return status;
}
