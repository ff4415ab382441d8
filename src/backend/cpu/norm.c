/* Layer norm and RMS norm. */
#include "backend/cpu/norm.h"

#include "backend/cpu/map.h"
#include "backend/cpu/walk.h"

/* ---- tiles, and what they sum: [tiles, 2, n], dweight and dbias of each ---- */

/* A tile has at least this many rows, so that the partial sums are small beside x. */
enum { FEWEST_ROWS = 16 };

struct heed_norm_tiles heed_norm_tiles_of(int64_t rows, int64_t n, int64_t multiple,
                                          const struct heed_grad_view *dweight,
                                          const struct heed_grad_view *dbias) {
    struct heed_norm_tiles t = {.rows = rows, .n = n, .dweight = dweight, .dbias = dbias};
    const int64_t wanted = heed_cpu_rows_per_tile(n, HEED_CPU_GRAIN);
    t.tile_rows = wanted < FEWEST_ROWS ? FEWEST_ROWS : wanted;
    t.tile_rows = (t.tile_rows + multiple - 1) / multiple * multiple;
    t.tiles = heed_cpu_tiles(rows, t.tile_rows);
    return t;
}

static size_t aligned(size_t bytes) {
    return (bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
}

static size_t partial_bytes(const struct heed_norm_tiles *t) {
    const bool wanted = heed_has(&t->dweight->view) || heed_has(&t->dbias->view);
    return wanted ? aligned((size_t)(t->tiles * 2 * t->n) * sizeof(float)) : 0;
}

struct heed_norm_gradients heed_norm_sums_of(const struct heed_norm_tiles *t, int64_t tile, float *scratch) {
    const int64_t at = tile * 2 * t->n;
    return (struct heed_norm_gradients){.dweight = heed_has(&t->dweight->view) ? scratch + at : NULL,
                                        .dbias = heed_has(&t->dbias->view) ? scratch + at + t->n : NULL};
}

/* The sum over tiles of dweight (0) or dbias (1). */
static struct heed_map fold(const struct heed_norm_tiles *t, float *partial, int which) {
    const struct heed_grad_view *g = which == 0 ? t->dweight : t->dbias;
    struct heed_map map = {.inputs = 1, .out = *g, .scale = 1.0f};
    struct heed_view *in = &map.in[0], *out = &map.out.view;
    *in = (struct heed_view){.data = partial, .rank = 2, .size = {t->tiles, t->n}, .stride = {2 * t->n, 1}};
    if (partial != NULL) in->data = partial + which * t->n;
    *out = (struct heed_view){.data = g->view.data, .rank = 2, .size = {t->tiles, t->n}, .stride = {0, 1}};
    return map;
}

size_t heed_norm_sums_bytes(const struct heed_norm_tiles *t) {
    const struct heed_map weight = fold(t, NULL, 0), bias = fold(t, NULL, 1);
    const size_t of_weight = heed_map_scratch(&weight), of_bias = heed_map_scratch(&bias);
    return partial_bytes(t) + aligned(of_weight > of_bias ? of_weight : of_bias);
}

void heed_norm_sums_fold(const struct heed_exec *exec, const struct heed_norm_tiles *t, float *scratch) {
    for (int which = 0; which < 2; which++) {
        const struct heed_map map = fold(t, scratch, which);
        heed_map_run(exec, &map, (char *)scratch + partial_bytes(t));
    }
}

/* ---- the kernel ---- */

struct job {
    const struct heed_norm_args *args;
    const struct heed_norm_vectors *vectors;
    struct heed_norm_tiles tiles;
    struct heed_cpu_walk walk; /* stretches of rows that lie evenly in x and in dx */
    struct heed_dim stretch;
    struct heed_norm_statistics *statistics; /* of each row; NULL if nobody wants them */
    float *scratch;
};

enum { X, DX };

/* Returns how many there are. */
static int64_t plan_rows(struct job *job) {
    struct heed_view x = job->args->x, dx = job->args->dx.view;
    const struct heed_view *const views[HEED_WALK_VIEWS] = {[X] = &x, [DX] = heed_has(&dx) ? &dx : NULL};
    x.rank--;
    dx.rank--;
    job->walk.rank = heed_cpu_dims_merge(job->walk.dim, heed_cpu_dims(views, job->walk.dim), X);
    job->stretch = (struct heed_dim){.size = 1};
    if (job->walk.rank > 0) job->stretch = job->walk.dim[--job->walk.rank];
    return heed_view_count(&x);
}

static struct job job_of(const struct heed_exec *exec, const struct heed_norm_args *a, void *saved,
                         void *scratch) {
    struct job job = {.args = a, .statistics = saved, .scratch = scratch};
    job.vectors = heed_norm_vectors(exec->isa);
    job.tiles = heed_norm_tiles_of(plan_rows(&job), a->x.size[a->x.rank - 1], 1, &a->dweight, &a->dbias);
    return job;
}

/* The rows of a tile, a stretch after the other. */
struct tile {
    struct heed_cpu_walk walk;
    int64_t row, left, skipped; /* of the stretch at hand */
    struct heed_norm_rows rows;
    float *dx;
};

static struct tile tile_of(const struct job *job, int64_t tile) {
    const struct heed_norm_args *a = job->args;
    struct tile t = {.walk = job->walk,
                     .row = tile * job->tiles.tile_rows,
                     .left = heed_cpu_part(job->tiles.rows, job->tiles.tile_rows, tile),
                     .rows = {.rms = a->rms,
                              .eps = (float)a->eps,
                              .n = job->tiles.n,
                              .row = job->stretch.stride[X],
                              .weight = a->weight.data,
                              .bias = a->bias.data}};
    heed_cpu_walk_to(&t.walk, t.row / job->stretch.size);
    t.skipped = t.row % job->stretch.size;
    return t;
}

/* Makes t->rows and t->dx those of the stretch at hand, if there is one. */
static bool stretch_begin(const struct job *job, struct tile *t) {
    const struct heed_dim *stretch = &job->stretch;
    const int64_t room = stretch->size - t->skipped;
    float *dx = job->args->dx.view.data;
    t->rows.count = t->left < room ? t->left : room;
    t->rows.x = (const float *)job->args->x.data + t->walk.offset[X] + t->skipped * stretch->stride[X];
    t->rows.statistics = job->statistics != NULL ? job->statistics + t->row : NULL;
    t->dx = dx != NULL ? dx + t->walk.offset[DX] + t->skipped * stretch->stride[DX] : NULL;
    return t->left > 0;
}

static void stretch_end(struct tile *t) {
    t->row += t->rows.count;
    t->left -= t->rows.count;
    t->skipped = 0;
    heed_cpu_walk_next(&t->walk);
}

static void forward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    for (struct tile t = tile_of(job, tile); stretch_begin(job, &t); stretch_end(&t))
        job->vectors->forward(&t.rows, (float *)job->args->y.data + t.row * job->tiles.n);
}

static void backward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const struct heed_norm_args *a = job->args;
    struct heed_norm_gradients g = heed_norm_sums_of(&job->tiles, tile, job->scratch);
    g.dx_row = job->stretch.stride[DX];
    for (struct tile t = tile_of(job, tile); stretch_begin(job, &t); stretch_end(&t)) {
        g.dy = (const float *)a->dy.data + t.row * job->tiles.n;
        g.dx = t.dx;
        g.before = a->dx.add ? t.dx : NULL;
        job->vectors->backward(&t.rows, &g);
        g.sum = true;
    }
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_NORM, args, why);
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_norm_args *a = args;
    const struct job job = job_of(exec, a, NULL, NULL);
    sizes->saved = (size_t)job.tiles.rows * sizeof(struct heed_norm_statistics);
    sizes->backward_scratch = heed_norm_sums_bytes(&job.tiles);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)scratch;
    const struct heed_norm_args *a = args;
    if (heed_view_count(&a->x) == 0) return HEED_OK;
    struct job job = job_of(exec, a, saved, NULL);
    heed_threads_run(exec->threads, job.tiles.tiles, forward_tile, &job);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_norm_args *a = args;
    struct job job = job_of(exec, a, saved, scratch);
    if (job.tiles.n == 0) return HEED_OK;
    heed_threads_run(exec->threads, job.tiles.tiles, backward_tile, &job);
    heed_norm_sums_fold(exec, &job.tiles, scratch);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_norm = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
