/* Layer norm and RMS norm. The gradients of weight and bias are summed per tile of rows, and then over tiles
 * in order. */
#include "backend/cpu/map.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/walk.h"

struct job {
    const struct heed_norm_args *args;
    const struct heed_norm_vectors *vectors;
    int64_t rows, n, tile_rows, tiles;
    struct heed_cpu_walk walk; /* stretches of rows that lie evenly in x and in dx */
    struct heed_dim stretch;
    struct heed_norm_statistics *statistics; /* of each row; NULL if nobody wants them */
    float *partial;                          /* [tiles, 2, n]: dweight and dbias of each tile */
};

enum { X, DX };

/* A tile has at least this many rows, so that the partial sums are small beside x. */
enum { FEWEST_ROWS = 16 };

static void plan_rows(struct job *job) {
    struct heed_view x = job->args->x, dx = job->args->dx.view;
    const struct heed_view *const views[HEED_WALK_VIEWS] = {[X] = &x, [DX] = heed_has(&dx) ? &dx : NULL};
    x.rank--;
    dx.rank--;
    job->rows = heed_view_count(&x);
    job->walk.rank = heed_cpu_dims_merge(job->walk.dim, heed_cpu_dims(views, job->walk.dim), X);
    job->stretch = (struct heed_dim){.size = 1};
    if (job->walk.rank > 0) job->stretch = job->walk.dim[--job->walk.rank];
}

static struct job job_of(const struct heed_exec *exec, const struct heed_norm_args *a, void *saved,
                         void *scratch) {
    struct job job = {.args = a, .n = a->x.size[a->x.rank - 1], .statistics = saved, .partial = scratch};
    job.vectors = heed_norm_vectors(exec->isa);
    plan_rows(&job);
    job.tile_rows = heed_cpu_rows_per_tile(job.n, HEED_CPU_GRAIN);
    if (job.tile_rows < FEWEST_ROWS) job.tile_rows = FEWEST_ROWS;
    job.tiles = heed_cpu_tiles(job.rows, job.tile_rows);
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
                     .row = tile * job->tile_rows,
                     .left = heed_cpu_part(job->rows, job->tile_rows, tile),
                     .rows = {.rms = a->rms,
                              .eps = (float)a->eps,
                              .n = job->n,
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
        job->vectors->forward(&t.rows, (float *)job->args->y.data + t.row * job->n);
}

static void backward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const struct heed_norm_args *a = job->args;
    float *partial = job->partial + tile * 2 * job->n;
    struct heed_norm_gradients g = {.add = a->dx.add,
                                    .dx_row = job->stretch.stride[DX],
                                    .dweight = heed_has(&a->dweight.view) ? partial : NULL,
                                    .dbias = heed_has(&a->dbias.view) ? partial + job->n : NULL};
    for (struct tile t = tile_of(job, tile); stretch_begin(job, &t); stretch_end(&t)) {
        g.dy = (const float *)a->dy.data + t.row * job->n;
        g.dx = t.dx;
        job->vectors->backward(&t.rows, &g);
        g.sum = true;
    }
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_NORM, args, why);
}

/* The sum over tiles of dweight (0) or dbias (1). */
static struct heed_map fold(const struct job *job, int which) {
    const struct heed_grad_view *g = which == 0 ? &job->args->dweight : &job->args->dbias;
    struct heed_map map = {.inputs = 1, .out = *g, .scale = 1.0f};
    struct heed_view *in = &map.in[0], *out = &map.out.view;
    *in = (struct heed_view){
        .data = job->partial, .rank = 2, .size = {job->tiles, job->n}, .stride = {2 * job->n, 1}};
    if (job->partial != NULL) in->data = job->partial + which * job->n;
    *out =
        (struct heed_view){.data = g->view.data, .rank = 2, .size = {job->tiles, job->n}, .stride = {0, 1}};
    return map;
}

static size_t partial_bytes(const struct job *job) {
    const bool wanted = heed_has(&job->args->dweight.view) || heed_has(&job->args->dbias.view);
    return wanted ? ((size_t)(job->tiles * 2 * job->n) * sizeof(float) + 63) / 64 * 64 : 0;
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_norm_args *a = args;
    const struct job job = job_of(exec, a, NULL, NULL);
    const struct heed_map weight = fold(&job, 0), bias = fold(&job, 1);
    const size_t of_weight = heed_map_scratch(&weight), of_bias = heed_map_scratch(&bias);
    sizes->saved = (size_t)job.rows * sizeof(struct heed_norm_statistics);
    sizes->backward_scratch = partial_bytes(&job) + (of_weight > of_bias ? of_weight : of_bias);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)scratch;
    const struct heed_norm_args *a = args;
    if (heed_view_count(&a->x) == 0) return HEED_OK;
    struct job job = job_of(exec, a, saved, NULL);
    heed_threads_run(exec->threads, job.tiles, forward_tile, &job);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_norm_args *a = args;
    struct job job = job_of(exec, a, saved, scratch);
    if (job.n == 0) return HEED_OK;
    heed_threads_run(exec->threads, job.tiles, backward_tile, &job);
    for (int which = 0; which < 2; which++) {
        const struct heed_map map = fold(&job, which);
        heed_map_run(exec, &map, (char *)scratch + partial_bytes(&job));
    }
    return HEED_OK;
}

const struct heed_kernel heed_cpu_norm = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
