/* Gather. All dimensions but the one that is indexed are independent of each other: they are walked as one
 * space, with its innermost as the line of a box whose rows are the indices. */
#include <string.h>

#include "backend/cpu/map.h"
#include "backend/cpu/walk.h"

enum { X, INDEX, Y };

struct gather {
    struct heed_view x, index, y; /* backward: dx and dy in the places of x and y */
    struct heed_dim row, line;    /* row: the indexed dimension */
    int64_t box_rows, box_lines;
    int row_place, line_place;
    struct heed_cpu_walk outer;
    int64_t positions, tile_positions;
    const struct heed_map_vectors *vectors;
};

/* ---- planning ---- */

/* The view without one dimension. */
static struct heed_view without(const struct heed_view *v, int dim) {
    struct heed_view w = *v;
    w.rank--;
    for (int d = dim; d < w.rank; d++) {
        w.size[d] = v->size[d + 1];
        w.stride[d] = v->stride[d + 1];
    }
    return w;
}

static void plan(struct gather *g, const struct heed_gather_args *a, const struct heed_view *x,
                 const struct heed_view *y, bool whole_rows) {
    memset(g, 0, sizeof *g);
    g->x = *x;
    g->index = a->index;
    g->y = *y;
    const struct heed_view rest[] = {without(x, a->dim), without(&a->index, a->dim), without(y, a->dim)};
    const struct heed_view *const views[HEED_WALK_VIEWS] = {&rest[X], &rest[INDEX], &rest[Y]};
    struct heed_dim dims[HEED_MAX_RANK];
    int rank = heed_cpu_dims_merge(dims, heed_cpu_dims(views, dims), INDEX);
    g->row =
        (struct heed_dim){y->size[a->dim], {x->stride[a->dim], a->index.stride[a->dim], y->stride[a->dim]}};
    g->line = (struct heed_dim){.size = 1};
    if (rank > 0) g->line = dims[--rank];
    /* Backward adds the rows in order, so all are one tile's. */
    const int64_t most = whole_rows ? heed_cpu_rows_per_tile(g->row.size, HEED_CPU_GRAIN) : HEED_CPU_GRAIN;
    g->box_lines = most > 64 ? most : 64;
    if (g->line.size < g->box_lines) g->box_lines = g->line.size;
    g->box_rows = whole_rows ? g->row.size : HEED_CPU_GRAIN / g->box_lines;
    if (g->row.size < g->box_rows) g->box_rows = g->row.size;
    for (int d = 0; d < rank; d++) g->outer.dim[g->outer.rank++] = dims[d];
    g->row_place = heed_cpu_walk_segments(&g->outer, &g->row, g->box_rows);
    if (g->row_place >= 0) g->outer.dim[g->row_place].stride[X] = 0; /* x moves by the index */
    g->line_place = heed_cpu_walk_segments(&g->outer, &g->line, g->box_lines);
    g->positions = heed_cpu_walk_positions(&g->outer);
    g->tile_positions = heed_cpu_rows_per_tile(g->box_rows * g->box_lines, HEED_CPU_GRAIN);
}

/* ---- boxes ---- */

struct box {
    const int32_t *index;
    float *x;
    float *y;
    int64_t rows, lines;
};

static void gather_box(const struct gather *g, const struct box *b) {
    const struct heed_dim *row = &g->row, *line = &g->line;
    for (int64_t i = 0; i < b->rows; i++) {
        const int32_t *index = b->index + i * row->stride[INDEX];
        float *y = b->y + i * row->stride[Y];
        if (line->stride[INDEX] == 0 && line->stride[X] == 1 && line->stride[Y] == 1) {
            memcpy(y, b->x + *index * row->stride[X], (size_t)b->lines * sizeof(float));
            continue;
        }
        for (int64_t j = 0; j < b->lines; j++)
            y[j * line->stride[Y]] =
                b->x[index[j * line->stride[INDEX]] * row->stride[X] + j * line->stride[X]];
    }
}

/* The reverse: what lies in y is added to x. */
static void scatter_box(const struct gather *g, const struct box *b) {
    const struct heed_dim *row = &g->row, *line = &g->line;
    for (int64_t i = 0; i < b->rows; i++) {
        const int32_t *index = b->index + i * row->stride[INDEX];
        const float *y = b->y + i * row->stride[Y];
        if (line->stride[INDEX] == 0 && line->stride[X] == 1 && line->stride[Y] == 1) {
            g->vectors->add(b->lines, 1.0f, y, b->x + *index * row->stride[X]);
            continue;
        }
        for (int64_t j = 0; j < b->lines; j++)
            b->x[index[j * line->stride[INDEX]] * row->stride[X] + j * line->stride[X]] +=
                y[j * line->stride[Y]];
    }
}

static void run_tile(const struct gather *g, int64_t tile,
                     void (*box)(const struct gather *, const struct box *)) {
    struct heed_cpu_walk walk = g->outer;
    heed_cpu_walk_to(&walk, tile * g->tile_positions);
    const int64_t positions = heed_cpu_part(g->positions, g->tile_positions, tile);
    for (int64_t i = 0; i < positions; i++) {
        const struct box b = {
            .index = (const int32_t *)g->index.data + walk.offset[INDEX],
            .x = (float *)g->x.data + walk.offset[X],
            .y = (float *)g->y.data + walk.offset[Y],
            .rows = heed_cpu_walk_extent(&walk, g->row_place, &g->row, g->box_rows),
            .lines = heed_cpu_walk_extent(&walk, g->line_place, &g->line, g->box_lines),
        };
        box(g, &b);
        heed_cpu_walk_next(&walk);
    }
}

static void gather_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    run_tile(arg, tile, gather_box);
}

static void scatter_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    run_tile(arg, tile, scatter_box);
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_GATHER, args, why);
}

/* Whether every index is in range; repeated ones are looked at once. */
static bool indices_fit(const struct heed_gather_args *a) {
    const struct heed_view *const views[HEED_WALK_VIEWS] = {&a->index};
    struct heed_dim dims[HEED_MAX_RANK];
    struct heed_dim line = {.size = 1};
    struct heed_cpu_walk walk = {0};
    int rank = heed_cpu_dims_merge(dims, heed_cpu_dims(views, dims), 0);
    for (int d = 0; d < rank; d++)
        if (dims[d].stride[0] != 0) walk.dim[walk.rank++] = dims[d];
    if (walk.rank > 0) line = walk.dim[--walk.rank];
    const int64_t limit = a->x.size[a->dim], positions = heed_cpu_walk_positions(&walk);
    heed_cpu_walk_to(&walk, 0);
    for (int64_t p = 0; p < positions; p++) {
        const int32_t *index = (const int32_t *)a->index.data + walk.offset[0];
        for (int64_t j = 0; j < line.size; j++) {
            const int32_t i = index[j * line.stride[0]];
            if (i < 0 || i >= limit) return false;
        }
        heed_cpu_walk_next(&walk);
    }
    return true;
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_gather_args *a = args;
    if (heed_view_count(&a->y) == 0) return HEED_OK;
    /* The reference finds the first index that is out of range and says so. */
    if (!indices_fit(a)) return heed_ref_kernels[HEED_PRIMITIVE_GATHER]->forward(exec, args, saved, scratch);
    struct gather g;
    plan(&g, a, &a->x, &a->y, false);
    heed_threads_run(exec->threads, heed_cpu_tiles(g.positions, g.tile_positions), gather_tile, &g);
    return HEED_OK;
}

/* Zeros everywhere; once in elements that repeat. */
static void clear(const struct heed_exec *exec, const struct heed_view *dx) {
    static const float zero = 0.0f;
    struct heed_map map = {.inputs = 1, .in = {*dx}, .out = {.view = *dx}, .scale = 1.0f};
    map.in[0].data = (void *)&zero;
    for (int d = 0; d < dx->rank; d++) {
        map.in[0].stride[d] = 0;
        if (dx->stride[d] == 0 && dx->size[d] > 0) map.out.view.size[d] = 1;
        map.in[0].size[d] = map.out.view.size[d];
    }
    heed_map_run(exec, &map, NULL);
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_gather_args *a = args;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    if (!a->dx.add) clear(exec, &a->dx.view);
    if (heed_view_count(&a->dy) == 0) return HEED_OK;
    struct gather g;
    plan(&g, a, &a->dx.view, &a->dy, true);
    g.vectors = heed_map_vectors(exec->isa);
    if (heed_view_repeats(&a->dx.view)) g.tile_positions = g.positions; /* lines meet: one after the other */
    heed_threads_run(exec->threads, heed_cpu_tiles(g.positions, g.tile_positions), scatter_tile, &g);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_gather = {
    .name = "cpu",
    .applies = applies,
    .forward = forward,
    .backward = backward,
};
