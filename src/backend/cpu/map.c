/* How a map is cut.
 *
 * Dimensions of size 1 are dropped and neighbours that every view walks evenly are merged. A dimension is
 * *reduced* if the output repeats over it, otherwise *kept*. The last dimension, and the one before it where
 * the last is short, make a box of at most HEED_MAP_BLOCK elements, computed by one call of the function. All
 * boxes of one place in the kept dimensions are summed, in order, into a small accumulator; a place has as
 * many elements as the box has kept ones.
 *
 * Tiles are ranges of places. Where a place sums many elements, the reduced dimensions are cut into chunks
 * too; their partial sums go to scratch and are folded in the order of chunks. Nothing depends on threads. */
#include "backend/cpu/map.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/walk.h"

enum { OUT = HEED_MAP_INPUTS };

struct plan {
    const struct heed_map *map;
    const struct heed_map_vectors *vectors;
    int64_t count;             /* elements of the whole shape */
    struct heed_dim row, line; /* the box: `row` times `line` elements of the two innermost dimensions */
    bool row_kept, line_kept;
    int64_t box_rows, box_lines; /* of a full box */
    int row_dim, line_dim;       /* places of the segments in their walk's dims, −1: one segment */
    int64_t place_size;          /* kept elements of a full box */
    int64_t places, boxes;       /* kept positions; boxes of one place */
    int64_t chunks, chunk_boxes; /* the boxes of a place in chunks */
    int64_t tile_places, tiles;  /* tiles of one chunk */
    int64_t fold_places;         /* of a tile that folds chunks */
    struct heed_cpu_walk kept, reduced;
    float *partial; /* [chunks, places, place_size] */
};

/* ---- planning ---- */

/* Takes the box from the innermost dimensions and hands the others to the walks. */
static void plan_box(struct plan *p, const struct heed_dim *dims, int rank) {
    const struct heed_dim one = {.size = 1};
    p->line = one;
    p->line.stride[OUT] = 1;
    if (rank > 0) p->line = dims[--rank];
    p->box_lines = p->line.size < HEED_MAP_BLOCK ? p->line.size : HEED_MAP_BLOCK;
    p->row = one;
    p->row.stride[OUT] = 1;
    if (rank > 0 && p->box_lines <= HEED_MAP_BLOCK / 2) p->row = dims[--rank];
    const int64_t most = HEED_MAP_BLOCK / p->box_lines;
    p->box_rows = p->row.size < most ? p->row.size : most;
    p->line_kept = p->line.stride[OUT] != 0;
    p->row_kept = p->row.stride[OUT] != 0;
    for (int d = 0; d < rank; d++) {
        struct heed_cpu_walk *walk = dims[d].stride[OUT] != 0 ? &p->kept : &p->reduced;
        walk->dim[walk->rank++] = dims[d];
    }
    p->row_dim = heed_cpu_walk_segments(p->row_kept ? &p->kept : &p->reduced, &p->row, p->box_rows);
    p->line_dim = heed_cpu_walk_segments(p->line_kept ? &p->kept : &p->reduced, &p->line, p->box_lines);
}

/* Below this many places, chunks of the reduced dimensions give the threads work. */
enum { MANY_PLACES = 64, LONG_SUM = 4096, SHORTEST_CHUNK = 64 };

static void plan_tiles(struct plan *p) {
    const int64_t box = p->box_rows * p->box_lines;
    p->place_size = (p->row_kept ? p->box_rows : 1) * (p->line_kept ? p->box_lines : 1);
    const int64_t box_reduced = box / p->place_size;
    p->places = heed_cpu_walk_positions(&p->kept);
    p->boxes = heed_cpu_walk_positions(&p->reduced);
    int64_t chunk = LONG_SUM;
    if (p->places < MANY_PLACES) {
        chunk = HEED_CPU_GRAIN / p->place_size;
        if (chunk < SHORTEST_CHUNK) chunk = SHORTEST_CHUNK;
    }
    p->chunk_boxes = heed_cpu_tiles(chunk, box_reduced);
    if (p->chunk_boxes > p->boxes) p->chunk_boxes = p->boxes;
    p->chunks = heed_cpu_tiles(p->boxes, p->chunk_boxes);
    p->tile_places = heed_cpu_rows_per_tile(box * p->chunk_boxes, HEED_CPU_GRAIN);
    p->tiles = heed_cpu_tiles(p->places, p->tile_places);
    p->fold_places = heed_cpu_rows_per_tile(p->place_size * p->chunks, HEED_CPU_GRAIN);
}

static void plan(struct plan *p, const struct heed_map *map) {
    memset(p, 0, sizeof *p);
    p->map = map;
    p->count = heed_view_count(&map->out.view);
    if (p->count == 0) return;
    const struct heed_view *views[HEED_WALK_VIEWS] = {[OUT] = &map->out.view};
    for (int i = 0; i < map->inputs; i++) views[i] = &map->in[i];
    struct heed_dim dims[HEED_MAX_RANK];
    const int rank = heed_cpu_dims(views, dims);
    plan_box(p, dims, heed_cpu_dims_merge(dims, rank, OUT));
    plan_tiles(p);
}

static size_t partial_bytes(const struct plan *p) {
    if (p->count == 0 || p->chunks == 1) return 0;
    return (size_t)(p->chunks * p->places * p->place_size) * sizeof(float);
}

size_t heed_map_scratch(const struct heed_map *map) {
    if (!heed_has(&map->out.view)) return 0;
    struct plan p;
    plan(&p, map);
    return partial_bytes(&p);
}

/* ---- one box ---- */

struct work {
    const struct plan *p;
    struct heed_cpu_walk kept, reduced;
    int64_t rows, lines; /* of the box at hand */
    float result[HEED_MAP_BLOCK];
    float sum[HEED_MAP_BLOCK];
    uint32_t gathered[HEED_MAP_INPUTS][HEED_MAP_BLOCK];
};

static void gather4(const uint32_t *x, int64_t rows, int64_t row_stride, int64_t lines, int64_t stride,
                    uint32_t *y) {
    for (int64_t i = 0; i < rows; i++, x += row_stride, y += lines) {
        if (stride == 1)
            for (int64_t j = 0; j < lines; j++) y[j] = x[j];
        else
            for (int64_t j = 0; j < lines; j++) y[j] = x[j * stride];
    }
}

static void gather1(const uint8_t *x, int64_t rows, int64_t row_stride, int64_t lines, int64_t stride,
                    uint8_t *y) {
    for (int64_t i = 0; i < rows; i++, x += row_stride, y += lines)
        for (int64_t j = 0; j < lines; j++) y[j] = x[j * stride];
}

/* The elements of input i in the box, where they are or gathered. */
static const void *box_input(struct work *w, int i, int *step) {
    const struct plan *p = w->p;
    const struct heed_view *in = &p->map->in[i];
    const int64_t row_stride = w->rows > 1 ? p->row.stride[i] : w->lines * p->line.stride[i];
    const int64_t stride = w->lines > 1 ? p->line.stride[i] : w->rows > 1 ? row_stride : 0;
    const void *x = heed_view_at(in, w->kept.offset[i] + w->reduced.offset[i]);
    if ((stride == 0 || stride == 1) && row_stride == stride * w->lines) {
        *step = (int)stride;
        return x;
    }
    *step = 1;
    if (heed_dtype_bytes(in->dtype) == 1)
        gather1(x, w->rows, row_stride, w->lines, p->line.stride[i], (uint8_t *)w->gathered[i]);
    else
        gather4(x, w->rows, row_stride, w->lines, p->line.stride[i], w->gathered[i]);
    return w->gathered[i];
}

/* Computes the box, into `out` if that is not NULL; returns where it is. */
static const void *box_compute(struct work *w, void *out) {
    const struct heed_map *map = w->p->map;
    const void *in[HEED_MAP_INPUTS];
    int step[HEED_MAP_INPUTS];
    for (int i = 0; i < map->inputs; i++) in[i] = box_input(w, i, &step[i]);
    const int64_t n = w->rows * w->lines;
    if (out == NULL) out = w->result;
    if (map->fn != NULL) {
        map->fn(map->self, n, in, step, out);
    } else if (step[0] == 1) {
        return in[0];
    } else {
        const float x = *(const float *)in[0];
        for (int64_t i = 0; i < n; i++) ((float *)out)[i] = x;
    }
    return out;
}

/* Adds the box to the accumulator of its place. */
static void box_add(struct work *w, const float *t, float *sum) {
    const struct plan *p = w->p;
    const struct heed_map_vectors *vectors = p->vectors;
    const bool max = p->map->max;
    const int64_t rows = w->rows, lines = w->lines;
    if (p->line_kept && p->row_kept)
        (max ? vectors->max_rows : vectors->add_rows)(1, rows * lines, t, sum);
    else if (p->line_kept)
        (max ? vectors->max_rows : vectors->add_rows)(rows, lines, t, sum);
    else if (p->row_kept)
        (max ? vectors->max_columns : vectors->add_columns)(rows, lines, t, sum);
    else
        (max ? vectors->max_columns : vectors->add_columns)(1, rows * lines, t, sum);
}

/* ---- one place ---- */

/* The kept extents of the place at hand. */
static void place_extents(const struct work *w, int64_t *rows, int64_t *lines) {
    const struct plan *p = w->p;
    *rows = p->row_kept ? heed_cpu_walk_extent(&w->kept, p->row_dim, &p->row, p->box_rows) : 1;
    *lines = p->line_kept ? heed_cpu_walk_extent(&w->kept, p->line_dim, &p->line, p->box_lines) : 1;
}

/* Whether the place's elements lie side by side in the output. */
static bool place_is_contiguous(const struct plan *p, int64_t rows, int64_t lines) {
    if (lines > 1 && p->line.stride[OUT] != 1) return false;
    return rows <= 1 || p->row.stride[OUT] == (p->line_kept ? lines : 1);
}

/* Writes or adds the finished place. */
static void place_store(const struct work *w, const float *sum) {
    const struct plan *p = w->p;
    const float scale = p->map->scale;
    int64_t rows, lines;
    place_extents(w, &rows, &lines);
    float *y = heed_view_at(&p->map->out.view, w->kept.offset[OUT]);
    if (place_is_contiguous(p, rows, lines)) {
        (p->map->out.add ? p->vectors->add : p->vectors->write)(rows * lines, scale, sum, y);
        return;
    }
    for (int64_t i = 0; i < rows; i++, sum += lines) {
        float *line = y + (p->row_kept ? i * p->row.stride[OUT] : 0);
        const int64_t stride = p->line.stride[OUT];
        if (stride == 1) {
            (p->map->out.add ? p->vectors->add : p->vectors->write)(lines, scale, sum, line);
        } else {
            for (int64_t j = 0; j < lines; j++)
                line[j * stride] = p->map->out.add ? line[j * stride] + scale * sum[j] : scale * sum[j];
        }
    }
}

/* A place that sums nothing: straight to where it belongs if it can. */
static void place_map(struct work *w) {
    const struct plan *p = w->p;
    place_extents(w, &w->rows, &w->lines);
    const bool direct = p->map->fn != NULL && !p->map->out.add && p->map->scale == 1.0f &&
                        place_is_contiguous(p, w->rows, w->lines);
    if (direct)
        box_compute(w, heed_view_at(&p->map->out.view, w->kept.offset[OUT]));
    else
        place_store(w, box_compute(w, NULL));
}

/* Sums the boxes of a chunk of the place at hand. */
static void place_sum(struct work *w, int64_t chunk, float *sum) {
    const struct plan *p = w->p;
    const float start = p->map->max ? -INFINITY : 0.0f;
    for (int64_t i = 0; i < p->place_size; i++) sum[i] = start;
    const int64_t boxes = heed_cpu_part(p->boxes, p->chunk_boxes, chunk);
    heed_cpu_walk_to(&w->reduced, chunk * p->chunk_boxes);
    for (int64_t b = 0; b < boxes; b++) {
        w->rows =
            heed_cpu_walk_extent(p->row_kept ? &w->kept : &w->reduced, p->row_dim, &p->row, p->box_rows);
        w->lines =
            heed_cpu_walk_extent(p->line_kept ? &w->kept : &w->reduced, p->line_dim, &p->line, p->box_lines);
        box_add(w, box_compute(w, NULL), sum);
        heed_cpu_walk_next(&w->reduced);
    }
}

static float *place_partial(const struct plan *p, int64_t chunk, int64_t place) {
    return p->partial + (chunk * p->places + place) * p->place_size;
}

/* ---- tiles ---- */

static void work_open(struct work *w, const struct plan *p, int64_t place) {
    w->p = p;
    w->kept = p->kept;
    w->reduced = p->reduced;
    heed_cpu_walk_to(&w->kept, place);
    heed_cpu_walk_to(&w->reduced, 0);
}

static void sum_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct plan *p = arg;
    const int64_t chunk = tile / p->tiles, first = tile % p->tiles * p->tile_places;
    const int64_t places = heed_cpu_part(p->places, p->tile_places, tile % p->tiles);
    const bool sums = !p->row_kept || !p->line_kept || p->boxes > 1;
    struct work w;
    work_open(&w, p, first);
    for (int64_t i = 0; i < places; i++) {
        if (!sums) {
            place_map(&w);
        } else if (p->chunks > 1) {
            place_sum(&w, chunk, place_partial(p, chunk, first + i));
        } else {
            place_sum(&w, 0, w.sum);
            place_store(&w, w.sum);
        }
        heed_cpu_walk_next(&w.kept);
    }
}

static void fold_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct plan *p = arg;
    const int64_t first = tile * p->fold_places;
    const int64_t places = heed_cpu_part(p->places, p->fold_places, tile);
    struct work w;
    work_open(&w, p, first);
    for (int64_t i = 0; i < places; i++) {
        float *sum = place_partial(p, 0, first + i);
        for (int64_t c = 1; c < p->chunks; c++) {
            const float *next = place_partial(p, c, first + i);
            (p->map->max ? p->vectors->max_rows : p->vectors->add_rows)(1, p->place_size, next, sum);
        }
        place_store(&w, sum);
        heed_cpu_walk_next(&w.kept);
    }
}

/* Sums over nothing: the same map with the repeated dimensions taken as one element, of zeros. */
static void run_empty(const struct heed_exec *exec, const struct heed_map *map) {
    static const float zero = 0.0f;
    struct heed_map zeros = {.inputs = 1, .out = map->out, .scale = map->scale};
    if (map->out.add) return;
    struct heed_view *out = &zeros.out.view;
    for (int d = 0; d < out->rank; d++)
        if (out->stride[d] == 0) out->size[d] = 1;
    zeros.in[0] = (struct heed_view){.data = (void *)&zero, .rank = out->rank};
    memcpy(zeros.in[0].size, out->size, sizeof out->size);
    if (heed_view_count(out) > 0) heed_map_run(exec, &zeros, NULL);
}

void heed_map_run(const struct heed_exec *exec, const struct heed_map *map, void *scratch) {
    if (!heed_has(&map->out.view)) return;
    struct plan p;
    plan(&p, map);
    if (p.count == 0) {
        run_empty(exec, map);
        return;
    }
    p.vectors = heed_map_vectors(exec->isa);
    p.partial = scratch;
    heed_threads_run(exec->threads, p.tiles * p.chunks, sum_tile, &p);
    if (p.chunks > 1) heed_threads_run(exec->threads, heed_cpu_tiles(p.places, p.fold_places), fold_tile, &p);
}
