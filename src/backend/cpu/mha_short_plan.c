/* Multi-head self-attention over many short sequences: how it is cut, and its memory.
 *
 * saved: by task, projected queries, keys and values, and attention's output; attention's row statistics. */
#include "backend/cpu/mha_short.h"
#include "backend/cpu/vector/products.h"
#include "tensor/memory.h"

/* Rows of a task: enough to read packed weights once for, few enough to stay in the second-level cache. */
enum { LEAST_TASK_ROWS = 32, MOST_TASK_ROWS = 64 };

/* Rows of a slice: its panel of B stays in the first-level cache. Slices of a slab. */
enum { SLICE_ROWS = 128, SLICES = 16 };

/* Work of a tile of gradients. */
#define TILE_WORK 2e6 /* floating-point operations */

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

static int64_t round_up(int64_t size, int64_t multiple) {
    return ceil_div(size, multiple) * multiple;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* ---- how it is cut ---- */

static void plan_columns(struct heed_mha_short_plan *p) {
    const struct heed_mha_args *a = p->args;
    const struct heed_view *const w[HEED_MHA_INPUTS] = {&a->wq, &a->wk, &a->wv};
    for (int i = 0; i < HEED_MHA_INPUTS; i++) {
        p->first[i + 1] = p->first[i] + w[i]->size[0];
        p->head_width[i] = w[i]->size[0] / a->heads;
    }
    /* An odd number of cache lines: rows do not push each other out. */
    p->step = round_up(p->first[HEED_MHA_INPUTS], 16);
    if (p->step / 16 % 2 == 0) p->step += 16;
}

static void plan_attention(struct heed_mha_short_plan *p) {
    const struct heed_attention_args *a = &p->args->attention;
    p->attention = (struct heed_short_plan){.args = a,
                                            .pairs = p->args->query.size[0] * p->args->heads,
                                            .heads = p->args->heads,
                                            .queries = p->args->query.size[1],
                                            .keys = p->args->query.size[1],
                                            .width = p->head_width[HEED_MHA_QUERY],
                                            .value_width = p->head_width[HEED_MHA_VALUE]};
    heed_short_plan_scores(&p->attention, a);
}

/* Among tasks of good sizes the one that wastes least of its last register block. */
static int64_t sequences_of(int64_t length, int64_t batch, int64_t block) {
    int64_t best = ceil_div(LEAST_TASK_ROWS, length);
    for (int64_t n = best; n * length <= MOST_TASK_ROWS; n++) {
        if (round_up(n * length, block) * best < round_up(best * length, block) * n) best = n;
    }
    return best < batch ? best : batch;
}

/* Rows in whole tasks. */
static int64_t slice_of(const struct heed_mha_short_plan *p) {
    const int64_t task = p->sequences * p->attention.queries;
    return larger(1, SLICE_ROWS / task) * task;
}

/* What backward has to find; all of it is absent in forward. */
static void plan_wishes(struct heed_mha_short_plan *p) {
    const struct heed_mha_args *a = p->args;
    for (int i = 0; i < HEED_MHA_INPUTS; i++) {
        p->wants[i] = heed_has(&a->dquery.view) || heed_mha_short_wants(a, i);
        p->inner = p->inner || p->wants[i];
    }
}

struct heed_mha_short_plan heed_mha_short_plan(const struct heed_exec *exec, const struct heed_mha_args *a) {
    const int lanes = heed_mha_vectors(exec->isa)->lanes;
    struct heed_mha_short_plan p = {.args = a,
                                    .gemm = heed_gemm_vectors(exec->isa),
                                    .sums = heed_product_vectors(exec->isa)->column_sums,
                                    .rows = a->query.size[0] * a->query.size[1],
                                    .in = a->query.size[2],
                                    .out = a->wo.size[0],
                                    .joined = a->wo.size[1]};
    plan_columns(&p);
    plan_attention(&p);
    plan_wishes(&p);
    p.sequences = sequences_of(a->query.size[1], a->query.size[0], p.gemm->rows);
    p.tasks = ceil_div(a->query.size[0], p.sequences);
    p.room = round_up(p.sequences * a->query.size[1], p.gemm->rows);
    p.kept.rows = p.rows;
    p.kept.columns = round_up(p.joined, p.gemm->columns);
    p.kept.slice = slice_of(&p);
    p.units = p.first[HEED_MHA_INPUTS] / lanes + ceil_div(p.out, lanes);
    const int64_t unit = lanes * larger(p.in, p.joined);
    p.units_per_task = unit < HEED_CPU_GRAIN ? HEED_CPU_GRAIN / unit : 1;
    return p;
}

/* ---- memory ---- */

/* Areas of floats one behind the other, on cache lines. A start of NULL: only their sizes. */
struct areas {
    float *start;
    int64_t floats;
};

static float *area_new(struct areas *areas, int64_t floats) {
    float *at = areas->start ? areas->start + areas->floats : NULL;
    areas->floats += round_up(floats, HEED_ALIGN / (int64_t)sizeof(float));
    return at;
}

static size_t bytes_of(const struct areas *areas) {
    return (size_t)areas->floats * sizeof(float);
}

/* `lines` columns in whole panels of B. */
static float *panels_new(const struct heed_mha_short_plan *p, struct areas *areas, int64_t lines,
                         int64_t depth) {
    return area_new(areas, round_up(lines, p->gemm->columns) * depth);
}

size_t heed_mha_short_place_saved(struct heed_mha_short_plan *p, void *memory) {
    struct areas areas = {memory, 0};
    p->projected = area_new(&areas, p->tasks * p->room * p->step);
    p->kept.at = area_new(&areas, p->kept.columns * p->kept.rows);
    p->attention.maximum = area_new(&areas, p->rows * p->attention.heads);
    p->attention.reciprocal = area_new(&areas, p->rows * p->attention.heads);
    p->saves = true;
    return bytes_of(&areas);
}

static void place_workers(const struct heed_exec *exec, struct heed_mha_short_plan *p, struct areas *areas,
                          int64_t floats) {
    p->worker_floats = round_up(floats, HEED_ALIGN / (int64_t)sizeof(float));
    p->workers = area_new(areas, heed_threads_count(exec->threads) * p->worker_floats);
}

size_t heed_mha_short_place_forward(const struct heed_exec *exec, struct heed_mha_short_plan *p,
                                    void *memory) {
    const struct heed_mha_args *a = p->args;
    const int64_t line = heed_mha_vectors(exec->isa)->lanes * p->attention.keys,
                  workers = heed_threads_count(exec->threads);
    struct areas areas = {memory, 0};
    p->in_panels = panels_new(p, &areas, p->first[HEED_MHA_INPUTS], p->in);
    p->out_panels = panels_new(p, &areas, p->out, p->joined);
    if (heed_has(&a->bq) || heed_has(&a->bk) || heed_has(&a->bv))
        p->biases = area_new(&areas, p->first[HEED_MHA_INPUTS]);
    if (!p->saves) p->projected = area_new(&areas, workers * p->room * p->step);
    p->outputs = area_new(&areas, workers * p->room * p->joined);
    /* Scores of two queries; weights. */
    place_workers(exec, p, &areas,
                  2 * line + (heed_has(&a->attention.weights) ? line * p->attention.queries : 0));
    return bytes_of(&areas);
}

/* Equal parts of `size` in whole register blocks, such that a tile of one panel has enough to do. */
static int64_t part_of(const struct heed_mha_short_plan *p, int64_t size) {
    const double each = 2.0 * (double)(p->gemm->columns * p->slab.rows);
    const double parts = (double)size * each / TILE_WORK;
    return round_up(ceil_div(size, parts > 1 ? (int64_t)parts : 1), p->gemm->rows);
}

static void plan_slab(struct heed_mha_short_plan *p) {
    struct heed_mha_slab *s = &p->slab;
    s->dprojected.slice = p->kept.slice;
    s->rows = SLICES * p->kept.slice < p->rows ? SLICES * p->kept.slice : p->rows;
    s->tasks = ceil_div(s->rows, p->sequences * p->attention.queries);
    s->dprojected.rows = s->rows;
    s->dprojected.columns = round_up(p->first[HEED_MHA_INPUTS], p->gemm->columns);
}

static void plan_tiles(struct heed_mha_short_plan *p) {
    const struct heed_mha_args *a = p->args;
    const int64_t panel = p->gemm->columns;
    p->in_tile = part_of(p, p->in);
    p->out_tile = part_of(p, p->out);
    for (int i = 0; i < HEED_MHA_INPUTS; i++) {
        if (heed_mha_short_wants(a, i))
            p->in_tiles = ceil_div(p->in, p->in_tile) * ceil_div(p->first[HEED_MHA_INPUTS], panel);
    }
    if (heed_has(&a->dy) && (heed_has(&a->dwo.view) || heed_has(&a->dbo.view)))
        p->out_tiles = ceil_div(p->out, p->out_tile) * ceil_div(p->joined, panel);
}

/* A task's gradients of projected rows and of attention's output, weights and gradients of scores. */
static int64_t backward_area(const struct heed_mha_short_plan *p, int lanes) {
    const struct heed_short_plan *a = &p->attention;
    const int64_t cells = lanes * a->queries * a->keys;
    return p->room * (p->step + p->joined) + cells * (heed_has(&a->args->dweights) ? 3 : 2);
}

/* A tile of the weights' gradients; sums for the biases'. */
static int64_t tile_area(const struct heed_mha_short_plan *p) {
    const int64_t rows = larger(p->in_tile, p->out_tile);
    return rows * p->gemm->columns + larger(rows, p->gemm->columns);
}

size_t heed_mha_short_place_backward(const struct heed_exec *exec, struct heed_mha_short_plan *p,
                                     void *memory) {
    const struct heed_mha_args *a = p->args;
    struct areas areas = {memory, 0};
    plan_slab(p);
    plan_tiles(p);
    if (heed_has(&a->dquery.view)) p->in_panels = panels_new(p, &areas, p->in, p->first[HEED_MHA_INPUTS]);
    if (p->inner && heed_has(&a->dy)) p->out_panels = panels_new(p, &areas, p->joined, p->out);
    if (p->in_tiles > 0) p->slab.dprojected.at = area_new(&areas, p->slab.dprojected.columns * p->slab.rows);
    place_workers(exec, p, &areas,
                  larger(backward_area(p, heed_mha_vectors(exec->isa)->lanes), tile_area(p)));
    return bytes_of(&areas);
}
