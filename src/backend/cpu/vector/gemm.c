/* Copying into panels, and the register block of large matrix products. */
#include "backend/cpu/gemm.h"

#include "backend/cpu/vector/groups.h"

/* As many sums as registers hold beside a row of B and an element of A. */
#if HEED_VECTOR_BYTES == 64
#define ROWS 12
#define COLUMNS 2
#elif HEED_VECTOR_BYTES == 32
#define ROWS 4
#define COLUMNS 3
#else
#define ROWS 4
#define COLUMNS 2
#endif

enum { PANEL = COLUMNS * HEED_LANES };

/* ---- copying ---- */

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* A whole panel whose lines are neighbours in memory. */
HEED_INLINE void copy_panel(int width, const float *x, int64_t inner, int64_t depth, float *to) {
    for (int64_t p = 0; p < depth; p++, x += inner, to += width) {
        memcpy(to, x, (size_t)width * sizeof(float));
    }
}

static void copy_part(int width, const float *x, int64_t inner, int64_t count, int64_t depth, float *to) {
    for (int64_t p = 0; p < depth; p++, x += inner, to += width) {
        int64_t i = 0;
        for (; i + 4 <= count; i += 4) *(four *)(to + i) = *(const four *)(x + i);
        for (; i < count; i++) to[i] = x[i];
        for (; i < width; i++) to[i] = 0;
    }
}

/* Four lines, HEED_LANES inner elements. */
static inline void transpose_block(const float *x, int64_t line, float *to, int width) {
    const int64_t offset[4] = {0, 4 * width, 8 * width, 12 * width};
    vf v[4];
    HEED_UNROLL
    for (int i = 0; i < 4; i++) v[i] = vf_load(x + i * line);
    vf_transpose_groups(v);
    HEED_UNROLL
    for (int i = 0; i < 4; i++) vf_scatter_groups(to + i * width, offset, 1, v[i]);
}

/* Lines that go through memory along the inner dimension. */
HEED_INLINE void transpose_panel(int width, const float *x, int64_t line, int64_t count, int64_t depth,
                                 float *to) {
    const int64_t lines = count / 4 * 4, whole = depth / HEED_LANES * HEED_LANES;
    for (int64_t p = 0; p < whole; p += HEED_LANES) {
        for (int64_t i = 0; i < lines; i += 4) {
            transpose_block(x + i * line + p, line, to + p * width + i, width);
        }
    }
    for (int64_t p = 0; p < depth; p++) {
        for (int64_t i = p < whole ? lines : 0; i < count; i++) to[p * width + i] = x[i * line + p];
        for (int64_t i = count; i < width; i++) to[p * width + i] = 0;
    }
}

HEED_INLINE void pack_panel(int width, const float *x, int64_t line, int64_t inner, int64_t count,
                            int64_t depth, float *to) {
    if (line != 1 && count > 1) {
        transpose_panel(width, x, line, count, depth, to);
    } else if (count == width) {
        copy_panel(width, x, inner, depth, to);
    } else {
        copy_part(width, x, inner, count, depth, to);
    }
}

static void pack_a(const float *x, int64_t line, int64_t inner, int64_t count, int64_t depth, float *to) {
    pack_panel(ROWS, x, line, inner, count, depth, to);
}

static void pack_b(const float *x, int64_t line, int64_t inner, int64_t count, int64_t depth, float *to) {
    pack_panel(PANEL, x, line, inner, count, depth, to);
}

/* ---- the register block ---- */

/* c [ROWS, columns vectors] (+)= panel of a · panel of b. */
HEED_INLINE void multiply(int columns, int64_t depth, const float *a, const float *b, float *c, int64_t c_row,
                          bool add) {
    vf sum[ROWS][COLUMNS];
    HEED_UNROLL
    for (int i = 0; i < ROWS; i++) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++) sum[i][j] = (vf){0};
    }
    for (int64_t p = 0; p < depth; p++, a += ROWS, b += PANEL) {
        vf right[COLUMNS];
        HEED_UNROLL
        for (int j = 0; j < columns; j++) right[j] = vf_load(b + j * HEED_LANES);
        HEED_UNROLL
        for (int i = 0; i < ROWS; i++) {
            const vf left = vf_set(a[i]);
            HEED_UNROLL
            for (int j = 0; j < columns; j++) sum[i][j] = vf_fma(left, right[j], sum[i][j]);
        }
    }
    HEED_UNROLL
    for (int i = 0; i < ROWS; i++, c += c_row) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++) {
            vf_store(c + j * HEED_LANES, add ? vf_load(c + j * HEED_LANES) + sum[i][j] : sum[i][j]);
        }
    }
}

static void multiply_whole(const struct heed_gemm_block *x, const float *a, const float *b, float *c) {
    multiply(COLUMNS, x->depth, a, b, c, x->c_row, x->add);
}

/* At C's edges: the whole block is made aside, and what belongs to C is taken over. */
static void multiply_edge(const struct heed_gemm_block *x, const float *a, const float *b, float *c,
                          int64_t rows, int64_t columns) {
    float aside[ROWS * PANEL] __attribute__((aligned(64)));
    if (columns <= HEED_LANES) {
        multiply(1, x->depth, a, b, aside, PANEL, false);
    } else {
        multiply(COLUMNS, x->depth, a, b, aside, PANEL, false);
    }
    for (int64_t i = 0; i < rows; i++, c += x->c_row) {
        const float *from = aside + i * PANEL;
        for (int64_t j = 0; j < columns; j += HEED_LANES) {
            const int64_t n = columns - j < HEED_LANES ? columns - j : HEED_LANES;
            const vf sum = vf_load(from + j);
            vf_store_part(c + j, x->add ? vf_load_part(c + j, n) + sum : sum, n);
        }
    }
}

static void block(const struct heed_gemm_block *x) {
    for (int64_t j = 0; j < x->columns; j += PANEL) {
        const int64_t columns = x->columns - j < PANEL ? x->columns - j : PANEL;
        const float *b = x->b + j * x->depth;
        for (int64_t i = 0; i < x->rows; i += ROWS) {
            const int64_t rows = x->rows - i < ROWS ? x->rows - i : ROWS;
            const float *a = x->a + i * x->depth;
            float *c = x->c + i * x->c_row + j;
            if (rows == ROWS && columns == PANEL) {
                multiply_whole(x, a, b, c);
            } else {
                multiply_edge(x, a, b, c, rows, columns);
            }
        }
    }
}

const struct heed_gemm_vectors HEED_VECTOR_NAME(heed_gemm_vectors) = {ROWS, PANEL, pack_a, pack_b, block};
