/* Gradients of the weights and biases of multi-head attention over many short sequences: tiles of rows, each
 * a sum over all rows of the slab, made aside and then brought out of lane order. */
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/mha_short_vectors.h"

/* Rows of dw = aᵀ · b. */
struct tile {
    const float *a, *b;           /* panels of the slab */
    int64_t a_columns, b_columns; /* in whole panels */
    int64_t row, rows, columns;
    float *sums;  /* of biases */
    float *aside; /* the rows, b_columns each */
};

static int64_t whole(int64_t columns, int width) {
    return heed_cpu_tiles(columns, width) * width;
}

/* Where a tile of the worker is made. */
static void tile_place(const struct heed_mha_short_plan *p, struct tile *t, int64_t lines, int worker) {
    t->a_columns = whole(lines, p->gemm->rows);
    t->b_columns = whole(t->columns, p->gemm->columns);
    t->rows = heed_cpu_part(lines, p->slab.tile, t->row / p->slab.tile);
    t->aside = p->workers + worker * p->worker_floats;
    t->sums = t->aside + p->slab.tile * t->b_columns;
}

static int64_t slice_depth(const struct heed_mha_short_plan *p, int64_t row) {
    return heed_cpu_part(p->slab.rows, p->slab.slice, row / p->slab.slice);
}

static void multiply(const struct heed_mha_short_plan *p, const struct tile *t) {
    for (int64_t row = 0; row < p->slab.rows; row += p->slab.slice) {
        const int64_t depth = slice_depth(p, row);
        p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                                 .columns = t->columns,
                                                 .depth = depth,
                                                 .a = t->a + row * t->a_columns + t->row * depth,
                                                 .a_row = 1,
                                                 .a_inner = p->gemm->rows,
                                                 .a_panel = p->gemm->rows * depth,
                                                 .padded = true,
                                                 .b = t->b + row * t->b_columns,
                                                 .c = t->aside,
                                                 .c_row = t->b_columns,
                                                 .add = row > 0});
    }
}

/* Sums of a's columns, panel by panel. */
static void sum_up(const struct heed_mha_short_plan *p, const struct tile *t) {
    const int64_t width = p->gemm->rows;
    for (int64_t row = 0; row < p->slab.rows; row += p->slab.slice) {
        const int64_t depth = slice_depth(p, row);
        const float *a = t->a + row * t->a_columns + t->row * depth;
        for (int64_t i = 0; i < t->rows; i += width) {
            p->sums(a + i * depth, width, depth, t->rows - i < width ? t->rows - i : width, t->sums + i,
                    row > 0);
        }
    }
}

/* ---- out of lane order ---- */

static bool adds(const struct heed_mha_short_plan *p, const struct heed_grad_view *g) {
    return g->add || p->slab.row > 0;
}

static void put_bias(const struct heed_mha_short_plan *p, const struct heed_grad_view *db, int64_t i,
                     float sum) {
    float *to = (float *)db->view.data + i;
    if (heed_has(&db->view)) *to = adds(p, db) ? *to + sum : sum;
}

static void put_row(const float *from, int64_t columns, bool add, float *to) {
    for (int64_t j = 0; j < columns; j += HEED_LANES) {
        const int64_t n = columns - j < HEED_LANES ? columns - j : HEED_LANES;
        const vf x = vf_load(from + j);
        vf_store_part(to + j, add ? x + vf_load_part(to + j, n) : x, n);
    }
}

/* Rows are columns of projected rows. */
static void tile_in(const struct heed_mha_short_plan *p, struct tile *t) {
    const int first = place_of(p, t->row).input, last = place_of(p, t->row + t->rows - 1).input;
    bool weights = false, biases = false;
    for (int i = first; i <= last; i++) {
        weights = weights || heed_has(&heed_mha_short_dw(p->args, i)->view);
        biases = biases || heed_has(&heed_mha_short_db(p->args, i)->view);
    }
    if (weights) multiply(p, t);
    if (biases) sum_up(p, t);
    for (int64_t i = 0; i < t->rows; i++) {
        const struct place at = place_of(p, t->row + i);
        const struct heed_grad_view *dw = heed_mha_short_dw(p->args, at.input);
        if (heed_has(&dw->view))
            put_row(t->aside + i * t->b_columns, p->in, adds(p, dw),
                    (float *)dw->view.data + at.feature * p->in);
        if (biases) put_bias(p, heed_mha_short_db(p->args, at.input), at.feature, t->sums[i]);
    }
}

/* Rows are those of the output projection, columns in lane order. */
static void tile_out(const struct heed_mha_short_plan *p, struct tile *t) {
    const struct heed_grad_view *dw = &p->args->dwo, *db = &p->args->dbo;
    const int64_t width = p->head_width[HEED_MHA_VALUE];
    int64_t offset[HEED_LANES];
    for (int l = 0; l < HEED_LANES; l++) offset[l] = l * width;
    if (heed_has(&dw->view)) multiply(p, t);
    if (heed_has(&db->view)) sum_up(p, t);
    for (int64_t i = 0; i < t->rows; i++) {
        const int64_t row = (t->row + i) * p->joined;
        for (int64_t c = 0; heed_has(&dw->view) && c < p->joined; c += width * HEED_LANES)
            vf_lanes_to_rows(t->aside + i * t->b_columns + c, HEED_LANES, (float *)dw->view.data + row + c,
                             offset, HEED_LANES, width, adds(p, dw));
        if (heed_has(&db->view)) put_bias(p, db, t->row + i, t->sums[i]);
    }
}

void HEED_VECTOR_NAME(heed_mha_short_weights)(const struct heed_mha_short_plan *p, int64_t index,
                                              int worker) {
    const int64_t lines = p->first[HEED_MHA_INPUTS],
                  of_in = p->slab.dprojected ? heed_cpu_tiles(lines, p->slab.tile) : 0;
    if (index < of_in) {
        struct tile t = {
            .a = p->slab.dprojected, .b = p->slab.inputs, .row = index * p->slab.tile, .columns = p->in};
        tile_place(p, &t, lines, worker);
        tile_in(p, &t);
    } else {
        struct tile t = {.a = p->slab.dy,
                         .b = p->slab.outputs,
                         .row = (index - of_in) * p->slab.tile,
                         .columns = p->joined};
        tile_place(p, &t, p->out, worker);
        tile_out(p, &t);
    }
}
