/* Copying into panels, and the register block of large matrix products. */
#include "backend/cpu/gemm.h"

#include "backend/cpu/vector/groups.h"

/* As many sums as registers hold beside a row of B and an element of A. */
#if HEED_VECTOR_BYTES == 64
#define ROWS 8
#define COLUMNS 3
#elif HEED_VECTOR_BYTES == 32
#define ROWS 6
#define COLUMNS 2
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

/* One register block of C, and what is to be fetched meanwhile. */
struct tile {
    int64_t depth;
    const float *a; /* ROWS rows, a_row apart, or 1 apart with inner elements a_inner apart */
    int64_t a_row, a_inner;
    const float *b; /* a panel */
    float *c;
    int64_t c_row;
    bool add;
    /* A part of the next panel of B, which comes from far away: `lines` cache lines for every STEPS inner
     * elements, from `next` on. Measured (Xeon with AVX-512, B beyond the second-level cache): 115 GFLOP/s
     * without, 135 with. */
    const float *next;
    int64_t next_step;
    int lines;
};

enum { STEPS = 8, LINE = 16 };

HEED_INLINE void step(int columns, const float *a, int64_t a_row, const float *b, vf sum[ROWS][COLUMNS]) {
    vf right[COLUMNS];
    HEED_UNROLL
    for (int j = 0; j < columns; j++) right[j] = vf_hold(vf_load(b + j * HEED_LANES));
    HEED_UNROLL
    for (int i = 0; i < ROWS; i++) {
        const vf left = vf_set(a[i * a_row]);
        HEED_UNROLL
        for (int j = 0; j < columns; j++) sum[i][j] = vf_fma(left, right[j], sum[i][j]);
    }
}

/* c [ROWS, columns vectors] (+)= rows of a · panel of b. One of a's two strides is 1, which the compiler is
 * told. */
HEED_INLINE void multiply(int columns, int64_t a_row, int64_t a_inner, const struct tile *t) {
    const float *a = t->a, *b = t->b, *next = t->next;
    float *c = t->c;
    vf sum[ROWS][COLUMNS];
    HEED_UNROLL
    for (int i = 0; i < ROWS; i++) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++) {
            __builtin_prefetch(c + i * t->c_row + j * HEED_LANES, 1);
            sum[i][j] = (vf){0};
        }
    }
    int64_t p = 0;
    for (; p + STEPS <= t->depth; p += STEPS) {
        for (int l = 0; l < t->lines; l++) __builtin_prefetch(next + l * LINE, 0, 2);
        next += t->next_step;
        HEED_UNROLL
        for (int q = 0; q < STEPS; q++, a += a_inner, b += PANEL) step(columns, a, a_row, b, sum);
    }
    for (; p < t->depth; p++, a += a_inner, b += PANEL) step(columns, a, a_row, b, sum);
    HEED_UNROLL
    for (int i = 0; i < ROWS; i++, c += t->c_row) {
        HEED_UNROLL
        for (int j = 0; j < columns; j++) {
            vf_store(c + j * HEED_LANES, t->add ? vf_load(c + j * HEED_LANES) + sum[i][j] : sum[i][j]);
        }
    }
}

#define MULTIPLY(columns)                                                                                    \
    static void multiply_##columns(const struct tile *t) {                                                   \
        if (t->a_row == 1) {                                                                                 \
            multiply(columns, 1, t->a_inner, t);                                                             \
        } else {                                                                                             \
            multiply(columns, t->a_row, 1, t);                                                               \
        }                                                                                                    \
    }
MULTIPLY(1)
MULTIPLY(2)
#if COLUMNS == 3
MULTIPLY(3)
static void (*const multiply_columns[])(const struct tile *t) = {NULL, multiply_1, multiply_2, multiply_3};
#else
static void (*const multiply_columns[])(const struct tile *t) = {NULL, multiply_1, multiply_2};
#endif

/* At C's edges: the whole block is made aside, and what belongs to C is taken over: its last rows, `first`
 * on. */
static void multiply_edge(const struct tile *t, int64_t first, int64_t rows, int64_t columns) {
    float aside[ROWS * PANEL] __attribute__((aligned(64)));
    struct tile whole = *t;
    whole.c = aside;
    whole.c_row = PANEL;
    whole.add = false;
    multiply_columns[(columns + HEED_LANES - 1) / HEED_LANES](&whole);
    for (int64_t i = 0; i < rows; i++) {
        const float *from = aside + (first + i) * PANEL;
        float *to = t->c + i * t->c_row;
        for (int64_t j = 0; j < columns; j += HEED_LANES) {
            const int64_t n = columns - j < HEED_LANES ? columns - j : HEED_LANES;
            const vf sum = vf_load(from + j);
            vf_store_part(to + j, t->add ? vf_load_part(to + j, n) + sum : sum, n);
        }
    }
}

static void block(const struct heed_gemm_block *x) {
    const int64_t panels = (x->rows + ROWS - 1) / ROWS;
    struct tile t = {.depth = x->depth,
                     .a_row = x->a_row,
                     .a_inner = x->a_inner,
                     .c_row = x->c_row,
                     .add = x->add,
                     .next_step = STEPS * PANEL / panels};
    for (int64_t j = 0; j < x->columns; j += PANEL) {
        const int64_t columns = x->columns - j < PANEL ? x->columns - j : PANEL;
        const bool last = j + PANEL >= x->columns;
        t.b = x->b + j * x->depth;
        t.lines = last ? 0 : (int)((t.next_step + LINE - 1) / LINE);
        for (int64_t i = 0; i < panels; i++) {
            const int64_t rows = x->rows - i * ROWS < ROWS ? x->rows - i * ROWS : ROWS;
            /* Where A is not padded the last rows are made once more, together with those before them. */
            const int64_t before = x->padded ? 0 : ROWS - rows;
            t.a = x->a + i * x->a_panel - before * x->a_row;
            t.c = x->c + i * ROWS * x->c_row + j;
            t.next = last ? t.b : t.b + PANEL * x->depth + i * (PANEL * x->depth / panels);
            if (rows == ROWS && columns % HEED_LANES == 0) {
                multiply_columns[columns / HEED_LANES](&t);
            } else {
                multiply_edge(&t, before, rows, columns);
            }
        }
    }
}

const struct heed_gemm_vectors HEED_VECTOR_NAME(heed_gemm_vectors) = {ROWS, PANEL, pack_a, pack_b, block};
