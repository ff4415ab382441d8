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

static void pack_in_order(const float *x, int64_t inner, int64_t count, int64_t depth, int width, float *to) {
    for (int64_t p = 0; p < depth; p++, x += inner, to += width) {
        int64_t i = 0;
        for (; i + HEED_LANES <= count; i += HEED_LANES) vf_store(to + i, vf_load(x + i));
        for (; i + 4 <= count; i += 4) *(four *)(to + i) = *(const four *)(x + i);
        for (; i < count; i++) to[i] = x[i];
        for (; i < width; i++) to[i] = 0;
    }
}

/* Four lines, four inner elements. */
static inline void transpose_four(const float *x, int64_t line, float *to, int width) {
    const four a = *(const four *)x, b = *(const four *)(x + line), c = *(const four *)(x + 2 * line),
               d = *(const four *)(x + 3 * line);
    const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7),
               cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(four *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(four *)(to + width) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(four *)(to + 2 * width) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
    *(four *)(to + 3 * width) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

static void pack_transposed(const float *x, int64_t line, int64_t count, int64_t depth, int width,
                            float *to) {
    const int64_t lines = count / 4 * 4, whole = depth / 4 * 4;
    for (int64_t p = 0; p < whole; p += 4) {
        for (int64_t i = 0; i < lines; i += 4)
            transpose_four(x + i * line + p, line, to + p * width + i, width);
    }
    for (int64_t p = 0; p < depth; p++) {
        for (int64_t i = p < whole ? lines : 0; i < count; i++) to[p * width + i] = x[i * line + p];
        for (int64_t i = count; i < width; i++) to[p * width + i] = 0;
    }
}

static void pack(const float *x, int64_t line, int64_t inner, int64_t count, int64_t depth, int width,
                 float *to) {
    if (line == 1 || count == 1) {
        pack_in_order(x, inner, count, depth, width, to);
    } else {
        pack_transposed(x, line, count, depth, width, to);
    }
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

const struct heed_gemm_vectors HEED_VECTOR_NAME(heed_gemm_vectors) = {ROWS, PANEL, pack, block};
