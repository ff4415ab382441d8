/* Gradients of the weights and biases of multi-head attention over many short sequences.
 *
 * A tile is some rows of aᵀ · b and one panel of its columns, where a is the input (or the gradient of the
 * output) as it lies in memory and b the gradient of projected rows (or attention's output) in panels. It is
 * made aside, slice by slice, and then brought out of lane order. */
#include "backend/cpu/vector/groups.h"
#include "backend/cpu/vector/mha_short_vectors.h"

struct tile {
    const float *a;
    int64_t a_row; /* from one row of a to the next */
    const struct heed_mha_panels *b;
    int64_t b_first;         /* where the slab begins in b's rows */
    int64_t first, rows;     /* columns of a */
    int64_t column, columns; /* of b */
    float *aside, *sums;     /* [rows, a panel]; of biases */
};

/* Numbers a matrix's tiles: parts of a's columns within panels. */
static void tile_place(const struct heed_mha_short_plan *p, struct tile *t, int64_t index, int64_t size,
                       int64_t part, int64_t columns, int worker) {
    const int64_t parts = heed_cpu_tiles(size, part), panel = p->gemm->columns;
    t->first = index % parts * part;
    t->rows = heed_cpu_part(size, part, index % parts);
    t->column = index / parts * panel;
    t->columns = heed_cpu_part(columns, panel, index / parts);
    t->aside = p->workers + worker * p->worker_floats;
    t->sums = t->aside + part * panel;
}

static void multiply(const struct heed_mha_short_plan *p, const struct tile *t) {
    for (int64_t row = 0, depth; row < p->slab.rows; row += depth) {
        const int64_t slice = heed_mha_slice(t->b, t->b_first + row, &depth);
        p->gemm->block(&(struct heed_gemm_block){.rows = t->rows,
                                                 .columns = t->columns,
                                                 .depth = depth,
                                                 .a = t->a + (p->slab.row + row) * t->a_row + t->first,
                                                 .a_row = 1,
                                                 .a_inner = t->a_row,
                                                 .a_panel = p->gemm->rows,
                                                 .b = heed_mha_panel(t->b, slice, depth, t->column),
                                                 .c = t->aside,
                                                 .c_row = p->gemm->columns,
                                                 .add = row > 0});
    }
}

static bool adds(const struct heed_mha_short_plan *p, const struct heed_grad_view *g) {
    return g->add || p->slab.row > 0;
}

static void put(float value, bool add, float *to) {
    *to = add ? *to + value : value;
}

/* ---- queries, keys and values ---- */

/* A vector of columns: rows of the weights of HEED_LANES heads. */
static void put_in(const struct heed_mha_short_plan *p, const struct tile *t, int64_t column) {
    const struct place at = place_of(p, t->column + column);
    const struct heed_grad_view *dw = heed_mha_short_dw(p->args, at.input);
    int64_t offset[HEED_LANES];
    for (int l = 0; l < HEED_LANES; l++)
        offset[l] = (at.feature + l * p->head_width[at.input]) * p->in + t->first;
    if (heed_has(&dw->view)) {
        vf_lanes_to_rows(t->aside + column, p->gemm->columns, dw->view.data, offset, HEED_LANES, t->rows,
                         adds(p, dw));
    }
}

/* The panel's columns are summed up by the first of its tiles. */
static void biases_in(const struct heed_mha_short_plan *p, const struct tile *t) {
    for (int64_t row = 0, depth; row < p->slab.rows; row += depth) {
        const int64_t slice = heed_mha_slice(t->b, row, &depth);
        p->sums(heed_mha_panel(t->b, slice, depth, t->column), p->gemm->columns, depth, t->columns, t->sums,
                row > 0);
    }
    for (int64_t c = 0; c < t->columns; c++) {
        const struct place at = place_of(p, t->column + c);
        const struct heed_grad_view *db = heed_mha_short_db(p->args, at.input);
        if (heed_has(&db->view)) put(t->sums[c], adds(p, db), (float *)db->view.data + at.feature);
    }
}

static void tile_in(const struct heed_mha_short_plan *p, int64_t index, int worker) {
    struct tile t = {.a = p->args->query.data, .a_row = p->in, .b = &p->slab.dprojected};
    tile_place(p, &t, index, p->in, p->in_tile, p->first[HEED_MHA_INPUTS], worker);
    const int last = place_of(p, t.column + t.columns - 1).input;
    bool weights = false, biases = false;
    for (int i = place_of(p, t.column).input; i <= last; i++) {
        weights = weights || heed_has(&heed_mha_short_dw(p->args, i)->view);
        biases = biases || heed_has(&heed_mha_short_db(p->args, i)->view);
    }
    if (biases && t.first == 0) biases_in(p, &t);
    if (!weights) return;
    multiply(p, &t);
    for (int64_t c = 0; c < t.columns; c += HEED_LANES) put_in(p, &t, c);
}

/* ---- the output projection ---- */

static void put_out(const struct heed_mha_short_plan *p, const struct tile *t) {
    const struct heed_grad_view *dw = &p->args->dwo;
    const int64_t width = p->head_width[HEED_MHA_VALUE];
    for (int64_t c = 0; c < t->columns; c += HEED_LANES) {
        const int64_t vector = (t->column + c) / HEED_LANES;
        float *to = (float *)dw->view.data + t->first * p->joined + vector / width * HEED_LANES * width +
                    vector % width;
        for (int64_t i = 0; i < t->rows; i++, to += p->joined) {
            const float *from = t->aside + i * p->gemm->columns + c;
            for (int l = 0; l < HEED_LANES; l++) put(from[l], adds(p, dw), to + l * width);
        }
    }
}

static void biases_out(const struct heed_mha_short_plan *p, const struct tile *t) {
    const struct heed_grad_view *db = &p->args->dbo;
    p->sums(t->a + p->slab.row * t->a_row + t->first, t->a_row, p->slab.rows, t->rows, t->sums, false);
    for (int64_t i = 0; i < t->rows; i++) put(t->sums[i], adds(p, db), (float *)db->view.data + t->first + i);
}

static void tile_out(const struct heed_mha_short_plan *p, int64_t index, int worker) {
    struct tile t = {.a = p->args->dy.data, .a_row = p->out, .b = &p->kept, .b_first = p->slab.row};
    tile_place(p, &t, index, p->out, p->out_tile, p->joined, worker);
    if (heed_has(&p->args->dbo.view) && t.column == 0) biases_out(p, &t);
    if (!heed_has(&p->args->dwo.view)) return;
    multiply(p, &t);
    put_out(p, &t);
}

void HEED_VECTOR_NAME(heed_mha_short_weights)(const struct heed_mha_short_plan *p, int64_t index,
                                              int worker) {
    if (index < p->in_tiles) {
        tile_in(p, index, worker);
    } else {
        tile_out(p, index - p->in_tiles, worker);
    }
}
