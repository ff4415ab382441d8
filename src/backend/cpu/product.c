/* Matrix products: large ones by heed's own kernel (gemm.c); otherwise tiles of C over heed's threads, each
 * by OpenBLAS in the calling thread or, where that would spend its time on overhead, by the vector kernel for
 * small products.
 *
 * How a product is cut and which kernel makes a tile follow from its shape alone. */
#include "backend/cpu/product.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/vector/products.h"

/* A tile below this is not worth handing to a thread. */
#define LEAST_TILE 2e6 /* floating-point operations */
/* Tiles of a large product have about this many: below it OpenBLAS's own packing shows, above it threads that
 * are not equally fast wait for each other. */
#define GOOD_TILE 48e6
#define MOST_TILES 256
/* A product of a batch that all threads share is at least this. */
#define LARGE_OF_BATCH 64e6

struct grid {
    const struct heed_cpu_product *product;
    const struct heed_product_vectors *vectors;
    int64_t batches, sums;
    int64_t group;         /* batch elements per tile */
    int64_t rows, columns; /* of a tile */
    int64_t down, across;  /* tiles of one C */
    bool small;            /* by the vector kernel */
    bool large;            /* one by one by heed_cpu_gemm_run() */
};

bool heed_cpu_product_fits(int64_t m, int64_t n, int64_t k) {
    return m <= INT32_MAX && n <= INT32_MAX && k <= INT32_MAX;
}

bool heed_cpu_product_takes(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
    const bool by_rows = (column_stride == 1 || columns <= 1) && (row_stride >= columns || rows <= 1);
    const bool by_columns = (row_stride == 1 || rows <= 1) && (column_stride >= rows || columns <= 1);
    return (by_rows || by_columns) && row_stride <= INT32_MAX && column_stride <= INT32_MAX;
}

/* ---- cutting ---- */

static int64_t count_of(const struct heed_cpu_repeat *r) {
    int64_t count = 1;
    for (int d = 0; d < r->rank; d++) count *= r->size[d];
    return count;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* A side of `size` cut into `parts`, in multiples of 16 where there is more than one. */
static int64_t side(int64_t size, int64_t parts) {
    if (parts <= 1) return size;
    const int64_t part = ceil_div(ceil_div(size, parts), 16) * 16;
    return part < size ? part : size;
}

/* Cuts C into about `want` tiles; among the ways to do so, the one whose tiles repeat the least packing,
 * which is proportional to 1/rows + 1/columns. */
static void cut(struct grid *g, int64_t want) {
    const struct heed_cpu_product *x = g->product;
    double best = INFINITY;
    for (int64_t across = 1; across <= want; across++) {
        const int64_t rows = side(x->m, ceil_div(want, across)), columns = side(x->n, across);
        const double cost = 1.0 / (double)rows + 1.0 / (double)columns;
        if (cost >= best) continue;
        best = cost;
        g->rows = rows;
        g->columns = columns;
    }
}

static struct grid grid_of(const struct heed_exec *exec, const struct heed_cpu_product *x) {
    const struct heed_product_vectors *vectors = heed_product_vectors(exec->isa);
    struct grid g = {
        .product = x, .vectors = vectors, .batches = count_of(&x->batch), .sums = count_of(&x->sum)};
    const double work = 2.0 * (double)x->m * (double)x->n * (double)(x->k + 1) * (double)g.sums;
    const double all = work * (double)g.batches;
    g.small = vectors->fits(x->m, x->n, x->k);
    /* One of many products must be worth all threads; a finished tile is one whose last sum is done. A sum of
     * none is zeros, which a tile writes. */
    g.large = !g.small && g.sums > 0 && heed_cpu_gemm_fits(exec, x->m, x->n, x->k) &&
              (g.batches == 1 || work >= LARGE_OF_BATCH) && (g.sums == 1 || !x->finish);
    g.group = 1;
    int64_t want = 1;
    if (work < LEAST_TILE) {
        const double group = LEAST_TILE / (work > 0 ? work : 1);
        g.group = group < (double)g.batches ? (int64_t)group : g.batches;
        if (g.group < 1) g.group = 1;
    } else if (!g.small) {
        /* 16 tiles in all if they are large enough, more if they would be too large. */
        double tiles = all / LEAST_TILE < 16 ? all / LEAST_TILE : 16;
        if (all / GOOD_TILE > tiles) tiles = all / GOOD_TILE < MOST_TILES ? all / GOOD_TILE : MOST_TILES;
        want = (int64_t)(tiles / (double)g.batches + 0.999);
    }
    cut(&g, want);
    g.down = ceil_div(x->m, g.rows);
    g.across = ceil_div(x->n, g.columns);
    return g;
}

/* ---- one tile ---- */

struct operands {
    const float *a, *b;
    float *c;
};

/* Moves operands to index i of the repeated dimensions. */
static struct operands repeat(const struct heed_cpu_repeat *r, int64_t i, struct operands o) {
    for (int d = r->rank - 1; d >= 0; d--) {
        const int64_t at = i % r->size[d];
        i /= r->size[d];
        o.a += at * r->a[d];
        o.b += at * r->b[d];
        o.c += at * r->c[d];
    }
    return o;
}

static int leading(int64_t stride, int64_t least) {
    const int64_t ld = stride > least ? stride : least;
    return ld > 1 ? (int)ld : 1;
}

/* One row or column of C as a matrix times a vector: OpenBLAS's product would copy the whole matrix first. M
 * [n, k] has element (j, p) at m_row·j + m_column·p, one of the two being 1. */
static void blas_vector(int64_t n, int64_t k, const float *m, int64_t m_row, int64_t m_column, const float *x,
                        int64_t x_step, float *y, int64_t y_step, bool add) {
    const int step_x = leading(x_step, 1), step_y = leading(y_step, 1);
    if (!add) {
        for (int64_t j = 0; j < n; j++) y[j * step_y] = 0;
    }
    if (m_column == 1 || k <= 1) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)k, 1, m, leading(m_row, k), x, step_x, 1, y,
                    step_y);
    } else {
        cblas_sgemv(CblasRowMajor, CblasTrans, (int)k, (int)n, 1, m, leading(m_column, n), x, step_x, 1, y,
                    step_y);
    }
}

static void blas_matrix(const struct heed_cpu_product *x, struct operands o, int64_t rows, int64_t columns,
                        bool add) {
    const bool a_plain = x->a_column == 1 || x->k <= 1;
    const bool b_plain = x->b_column == 1 || x->n <= 1;
    cblas_sgemm(CblasRowMajor, a_plain ? CblasNoTrans : CblasTrans, b_plain ? CblasNoTrans : CblasTrans,
                (int)rows, (int)columns, (int)x->k, 1, o.a,
                a_plain ? leading(x->a_row, x->k) : leading(x->a_column, x->m), o.b,
                b_plain ? leading(x->b_row, x->n) : leading(x->b_column, x->k), add ? 1 : 0, o.c,
                leading(x->c_row, x->n));
}

static void clear(float *c, int64_t c_row, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) memset(c + i * c_row, 0, (size_t)columns * sizeof(float));
}

/* One tile of one C: the sum over the repeated products. */
static void tile_of(const struct grid *g, struct operands o, int64_t rows, int64_t columns) {
    const struct heed_cpu_product *x = g->product;
    if ((x->k == 0 || g->sums == 0) && !x->add) clear(o.c, x->c_row, rows, columns);
    if (x->k == 0) return;
    for (int64_t s = 0; s < g->sums; s++) {
        const bool add = x->add || s > 0;
        const struct operands at = repeat(&x->sum, s, o);
        if (g->small) {
            g->vectors->small(&(struct heed_small_product){rows, columns, x->k, at.a, x->a_row, x->a_column,
                                                           at.b, x->b_row, x->b_column, at.c, x->c_row, add});
        } else if (x->m == 1) {
            blas_vector(columns, x->k, at.b, x->b_column, x->b_row, at.a, x->a_column, at.c, 1, add);
        } else if (x->n == 1) {
            blas_vector(rows, x->k, at.a, x->a_row, x->a_column, at.b, x->b_row, at.c, x->c_row, add);
        } else {
            blas_matrix(x, at, rows, columns, add);
        }
    }
}

static void run_tile(void *arg, int64_t tile, int worker) {
    const struct grid *g = arg;
    const struct heed_cpu_product *x = g->product;
    (void)worker;
    const int64_t group = tile / (g->down * g->across), within = tile % (g->down * g->across);
    const int64_t row = within / g->across * g->rows, column = within % g->across * g->columns;
    const int64_t rows = heed_cpu_part(x->m, g->rows, within / g->across);
    const int64_t columns = heed_cpu_part(x->n, g->columns, within % g->across);
    const int64_t end = (group + 1) * g->group < g->batches ? (group + 1) * g->group : g->batches;
    for (int64_t batch = group * g->group; batch < end; batch++) {
        struct operands o = repeat(&x->batch, batch, (struct operands){x->a, x->b, x->c});
        o.a += row * x->a_row;
        o.b += column * x->b_column;
        o.c += row * x->c_row + column;
        tile_of(g, o, rows, columns);
    }
    if (x->finish) x->finish(x->finish_arg, row, column, rows, columns);
}

/* The products of a batch one after the other, each over all threads. */
static heed_status run_large(struct heed_exec *exec, enum heed_primitive primitive, const struct grid *g) {
    struct heed_cpu_product one = *g->product;
    for (int64_t batch = 0; batch < g->batches; batch++) {
        const struct operands o =
            repeat(&g->product->batch, batch, (struct operands){g->product->a, g->product->b, g->product->c});
        for (int64_t s = 0; s < g->sums; s++) {
            const struct operands at = repeat(&g->product->sum, s, o);
            one.a = at.a;
            one.b = at.b;
            one.c = at.c;
            one.add = g->product->add || s > 0;
            if (heed_cpu_gemm_run(exec, &one) != HEED_OK)
                return heed_exec_fail(exec, HEED_ERROR_MEMORY, primitive, "no memory for packed operands");
        }
    }
    return HEED_OK;
}

heed_status heed_cpu_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                                 const struct heed_cpu_product *product) {
    if (product->m == 0 || product->n == 0 || count_of(&product->batch) == 0) return HEED_OK;
    struct grid g = grid_of(exec, product);
    if (g.large) return run_large(exec, primitive, &g);
    heed_threads_run(exec->threads, ceil_div(g.batches, g.group) * g.down * g.across, run_tile, &g);
    return HEED_OK;
}
