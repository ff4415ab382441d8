/* How a large matrix product is cut: by its shape alone.
 *
 * For every slab of columns and slice of the inner dimension B is packed once; then, slab of rows by slab of
 * rows, A is packed, if it must be, and multiplied. Slabs bound the memory of the copies. */
#include "backend/cpu/gemm.h"

#include "tensor/memory.h"

/* Rows of A and columns of B that are packed at a time. */
enum { SLAB = 4096 };

/* A task makes about this many rows and columns of C: its panels of A stay in the second-level cache. */
enum { TASK_ROWS = 192, TASK_COLUMNS = 512 };

/* Tasks that a product should have at least, and the least work of one. */
enum { TASKS = 16 };
#define LEAST_TASK 2e6 /* floating-point operations */

/* Elements that a task copies at least. */
enum { GRAIN = 16384 };

/* Below these sizes copying costs more than it brings. */
enum { LEAST_ROWS = 32, LEAST_COLUMNS = 32, LEAST_DEPTH = 16 };

struct gemm {
    const struct heed_cpu_product *product;
    const struct heed_gemm_vectors *vectors;
    float *a, *b; /* packed */
    /* The slab and the slice. */
    int64_t row, column, inner;
    int64_t rows, columns, depth;
    /* Blocks of C in the slab. */
    int64_t task_rows, task_columns, across;
    bool pack_a, pack_b, last;
};

/* Without AVX2 OpenBLAS's kernels, in assembly, are a third faster. */
bool heed_cpu_gemm_fits(const struct heed_exec *exec, int64_t m, int64_t n, int64_t k) {
    if (exec->isa == HEED_ISA_BASELINE && heed_cpu_blas_fits()) return false;
    return m >= LEAST_ROWS && n >= LEAST_COLUMNS && k >= LEAST_DEPTH;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Whether copying A costs less than reading it where it is: it is read once for every panel of B. Lines that
 * are a multiple of 4096 bytes apart share the few places of one set of the cache. */
enum { MOST_PANELS = 4, ALIAS = 1024 };

static bool should_pack_a(const struct heed_cpu_product *x, const struct heed_gemm_vectors *v) {
    const int64_t apart = x->a_column == 1 ? x->a_row : x->a_column;
    return x->n > MOST_PANELS * v->columns || apart % ALIAS == 0 || x->m < v->rows;
}

/* ---- copying ---- */

static int64_t panels(int64_t lines, int width) {
    return ceil_div(lines, width);
}

/* Panels that one task copies. */
static int64_t panels_of(const struct gemm *g, int width) {
    const int64_t panel = width * g->depth;
    return panel < GRAIN ? GRAIN / panel : 1;
}

static int64_t pack_tasks(const struct gemm *g, int64_t lines, int width) {
    return ceil_div(panels(lines, width), panels_of(g, width));
}

static void pack_lines(const struct gemm *g, heed_gemm_pack *pack, int width, int64_t task, int64_t lines,
                       const float *x, int64_t line, int64_t inner, float *to) {
    const int64_t each = panels_of(g, width) * width, end = least(lines, (task + 1) * each);
    x += g->inner * inner;
    for (int64_t first = task * each; first < end; first += width) {
        pack(x + first * line, line, inner, least(width, lines - first), g->depth, to + first * g->depth);
    }
}

/* Panels of A, then, if they are not there yet, those of B. */
static void pack_task(void *arg, int64_t task, int worker) {
    const struct gemm *g = arg;
    const struct heed_cpu_product *x = g->product;
    const struct heed_gemm_vectors *v = g->vectors;
    const int64_t of_a = g->pack_a ? pack_tasks(g, g->rows, v->rows) : 0;
    (void)worker;
    if (task < of_a) {
        pack_lines(g, v->pack_a, v->rows, task, g->rows, x->a + g->row * x->a_row, x->a_row, x->a_column,
                   g->a);
    } else {
        pack_lines(g, v->pack_b, v->columns, task - of_a, g->columns, x->b + g->column * x->b_column,
                   x->b_column, x->b_row, g->b);
    }
}

/* ---- multiplying ---- */

static void block_task(void *arg, int64_t task, int worker) {
    const struct gemm *g = arg;
    const struct heed_cpu_product *x = g->product;
    const int64_t row = task / g->across * g->task_rows, column = task % g->across * g->task_columns;
    const int64_t c_row = g->row + row, c_column = g->column + column;
    (void)worker;
    struct heed_gemm_block block = {.rows = least(g->task_rows, g->rows - row),
                                    .columns = least(g->task_columns, g->columns - column),
                                    .depth = g->depth,
                                    .b = g->b + column * g->depth,
                                    .c = x->c + c_row * x->c_row + c_column,
                                    .c_row = x->c_row,
                                    .add = x->add || g->inner > 0};
    if (g->pack_a) {
        block.a = g->a + row * g->depth;
        block.a_row = 1;
        block.a_inner = g->vectors->rows;
        block.a_panel = g->vectors->rows * g->depth;
        block.padded = true;
    } else {
        block.a = x->a + c_row * x->a_row + g->inner * x->a_column;
        block.a_row = x->a_row;
        block.a_inner = x->a_column;
        block.a_panel = g->vectors->rows * x->a_row;
    }
    g->vectors->block(&block);
    if (g->last && x->finish) x->finish(x->finish_arg, c_row, c_column, block.rows, block.columns);
}

/* Equal parts of `size`, at most `most` each, in whole panels. */
static int64_t part_of(int64_t size, int64_t most, int width) {
    const int64_t parts = ceil_div(size, most);
    return ceil_div(ceil_div(size, parts), width) * width;
}

/* Blocks are made smaller until there are enough of them. */
static void cut(struct gemm *g) {
    int64_t rows = TASK_ROWS, columns = TASK_COLUMNS;
    for (;;) {
        g->task_rows = part_of(g->rows, rows, g->vectors->rows);
        g->task_columns = part_of(g->columns, columns, g->vectors->columns);
        g->across = ceil_div(g->columns, g->task_columns);
        const int64_t tasks = ceil_div(g->rows, g->task_rows) * g->across;
        const double work = 2.0 * (double)g->task_rows * (double)g->task_columns * (double)g->depth;
        if (tasks >= TASKS || work < 2 * LEAST_TASK) return;
        if (g->task_columns > g->task_rows && g->task_columns > g->vectors->columns) {
            columns = g->task_columns / 2;
        } else if (g->task_rows > g->vectors->rows) {
            rows = g->task_rows / 2;
        } else {
            return;
        }
        if (rows < g->vectors->rows) rows = g->vectors->rows;
        if (columns < g->vectors->columns) columns = g->vectors->columns;
    }
}

/* ---- all of it ---- */

static void run_slab(struct heed_exec *exec, struct gemm *g) {
    const int64_t of_a = g->pack_a ? pack_tasks(g, g->rows, g->vectors->rows) : 0,
                  of_b = g->pack_b ? pack_tasks(g, g->columns, g->vectors->columns) : 0;
    heed_threads_run(exec->threads, of_a + of_b, pack_task, g);
    cut(g);
    heed_threads_run(exec->threads, ceil_div(g->rows, g->task_rows) * g->across, block_task, g);
}

heed_status heed_cpu_gemm_run(struct heed_exec *exec, const struct heed_cpu_product *x) {
    struct gemm g = {.product = x, .vectors = heed_gemm_vectors(exec->isa)};
    const int64_t depth = ceil_div(x->k, ceil_div(x->k, HEED_GEMM_DEPTH)); /* equal slices */
    g.pack_a = should_pack_a(x, g.vectors);
    const int64_t rows = g.pack_a ? panels(least(x->m, SLAB), g.vectors->rows) * g.vectors->rows : 0,
                  columns = panels(least(x->n, SLAB), g.vectors->columns) * g.vectors->columns;
    const int64_t of_a = (rows * depth + 15) / 16 * 16; /* B begins on a cache line */
    g.a = heed_block_new(exec->memory, (size_t)(of_a + columns * depth) * sizeof(float));
    if (!g.a) return HEED_ERROR_MEMORY;
    g.b = g.a + of_a;
    for (g.column = 0; g.column < x->n; g.column += SLAB) {
        g.columns = least(SLAB, x->n - g.column);
        for (g.inner = 0; g.inner < x->k; g.inner += depth) {
            g.depth = least(depth, x->k - g.inner);
            g.last = g.inner + g.depth == x->k;
            for (g.row = 0; g.row < x->m; g.row += SLAB) {
                g.rows = least(SLAB, x->m - g.row);
                g.pack_b = g.row == 0;
                run_slab(exec, &g);
            }
        }
    }
    heed_block_free(exec->memory, g.a);
    return HEED_OK;
}
