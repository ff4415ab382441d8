/* A picture in memory that plots are drawn on, in 8-bit RGB. Whatever lies outside of it is cut off. */
#ifndef HEED_SRC_KIT_CANVAS_H
#define HEED_SRC_KIT_CANVAS_H

#include "kit/internal.h"

enum { HEED_GLYPH_WIDTH = 5, HEED_GLYPH_ROWS = 9, HEED_GLYPH_ADVANCE = 6 };

/* 0xRRGGBB */
typedef uint32_t heed_colour;

struct heed_canvas {
    int width, height;
    unsigned char *pixels; /* rows of width · 3 bytes */
};

/* A white canvas; false (and an error of the context) without memory. To be freed. */
bool heed_canvas_new(heed_ctx *ctx, struct heed_canvas *canvas, int width, int height);
void heed_canvas_free(struct heed_canvas *canvas);

void heed_canvas_fill(struct heed_canvas *canvas, int x, int y, int width, int height, heed_colour colour);

/* A line from the centre of one pixel to that of another, with soft edges. Where it lies outside of the
 * rectangle (left, top, right, bottom), the last two excluded, nothing is drawn. */
struct heed_clip {
    int left, top, right, bottom;
};
void heed_canvas_line(struct heed_canvas *canvas, const struct heed_clip *clip, double x0, double y0,
                      double x1, double y1, double thickness, heed_colour colour);

/* Text whose first glyph's upper left corner is (x, y); upward: turned to the left, with that corner at the
 * lower left. Every glyph is `scale` times as large as the font's. */
void heed_canvas_text(struct heed_canvas *canvas, int x, int y, int scale, heed_colour colour,
                      const char *text);
void heed_canvas_text_upward(struct heed_canvas *canvas, int x, int y, int scale, heed_colour colour,
                             const char *text);

/* One byte, with blanks made visible. */
void heed_canvas_byte(struct heed_canvas *canvas, int x, int y, heed_colour colour, unsigned char byte);

/* Pixels that a text takes from its first to its last column. */
int heed_text_width(const char *text, int scale);

/* The nine rows of a byte's glyph. @param seen whether space and newline get a visible sign */
const unsigned char *heed_glyph(unsigned char c, bool seen);

/* Writes the canvas as a PNG file. */
heed_status heed_canvas_save(heed_ctx *ctx, const struct heed_canvas *canvas, const char *path);

#endif
