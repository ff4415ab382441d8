/* sum = x + dropout(branch), y = norm(sum), and back: in one pass over memory what dropout, addition and norm
 * do in three. Some rows at a time are made by the vectors of dropout and of norms, one after the other,
 * while they are in the nearest cache, so that all numbers are those of the three; the gradients of weight
 * and bias are summed in another order unless n is a multiple of 8. */
#include "backend/cpu/bf16.h"
#include "backend/cpu/norm.h"
#include "backend/cpu/random.h"

struct job {
    const struct heed_residual_norm_args *args;
    const struct heed_norm_vectors *norm;
    const struct heed_random_vectors *random;
    const struct heed_bf16_vectors *bf16;
    struct heed_norm_tiles tiles;
    int64_t together;                        /* rows that are made at a time */
    struct heed_norm_statistics *statistics; /* of each row; NULL if nobody wants them */
    float *scratch;                          /* of the gradients of weight and bias */
    float *own; /* [together, n] of each worker: the gradient of the sum, where dx is no place for it */
};

enum {
    WORDS_SERVE = 8, /* elements that a block of random words is for: rows that are made begin at one */
    FEWEST = 512     /* elements, so that few random numbers are made for nothing */
};

/* The fewest rows that are so many elements as blocks of words serve. */
static int64_t whole_blocks(int64_t n) {
    int64_t rows = 1;
    while (rows * n % WORDS_SERVE != 0) rows *= 2;
    return rows;
}

static struct job job_of(const struct heed_exec *exec, const struct heed_residual_norm_args *a, void *saved,
                         void *scratch) {
    const int64_t rows = a->sum.size[0], n = a->sum.size[1], whole = whole_blocks(n);
    struct job job = {.args = a, .statistics = saved, .scratch = scratch};
    job.norm = heed_norm_vectors(exec->isa);
    job.random = heed_random_vectors(exec->isa);
    job.bf16 = heed_bf16_vectors(exec->isa);
    job.tiles = heed_norm_tiles_of(rows, n, whole, &a->dweight, &a->dbias);
    job.together = whole * (FEWEST / (whole * n + 1) + 1);
    return job;
}

/* Rows of a tile that are made together: `count` from `row` on. */
struct part {
    int64_t row, count, end;
};

static struct part tile_begin(const struct job *job, int64_t tile) {
    const int64_t first = tile * job->tiles.tile_rows;
    return (struct part){.row = first,
                         .end = first + heed_cpu_part(job->tiles.rows, job->tiles.tile_rows, tile)};
}

static bool part_begin(const struct job *job, struct part *part) {
    part->row += part->count;
    const int64_t left = part->end - part->row;
    part->count = left < job->together ? left : job->together;
    return left > 0;
}

static struct heed_norm_rows rows_of(const struct job *job, const struct part *part) {
    const struct heed_residual_norm_args *a = job->args;
    return (struct heed_norm_rows){.rms = a->rms,
                                   .eps = (float)a->eps,
                                   .count = part->count,
                                   .n = job->tiles.n,
                                   .row = job->tiles.n,
                                   .x = (const float *)a->sum.data + part->row * job->tiles.n,
                                   .weight = a->weight.data,
                                   .bias = a->bias.data,
                                   .statistics = job->statistics ? job->statistics + part->row : NULL};
}

/* Element `at` of a view; NULL of one that is absent. */
static float *place(const struct heed_view *v, int64_t at) {
    return v->data != NULL ? (float *)v->data + at : NULL;
}

static void forward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const struct heed_residual_norm_args *a = job->args;
    for (struct part part = tile_begin(job, tile); part_begin(job, &part);) {
        const int64_t at = part.row * job->tiles.n, count = part.count * job->tiles.n;
        float *sum = place(&a->sum, at);
        if (heed_has(&a->x))
            job->random->dropout(&a->random, a->threshold, (uint64_t)at, count, place(&a->x, at),
                                 place(&a->branch, at), sum);
        if (a->rounded) job->bf16->round_in_place(count, sum);
        const struct heed_norm_rows rows = rows_of(job, &part);
        job->norm->forward(&rows, place(&a->y, at));
    }
}

/* The gradient of the sum, of a part. */
static const float *sum_gradient(const struct job *job, const struct part *part, float *to,
                                 struct heed_norm_gradients *g) {
    const struct heed_residual_norm_args *a = job->args;
    const int64_t at = part->row * job->tiles.n;
    const struct heed_norm_rows rows = rows_of(job, part);
    g->before = place(&a->dsum, at);
    if (!heed_has(&a->dy)) return g->before;
    g->dy = place(&a->dy, at);
    g->dx = to;
    g->dx_row = job->tiles.n;
    job->norm->backward(&rows, g);
    g->sum = true;
    return to;
}

static void backward_tile(void *arg, int64_t tile, int worker) {
    const struct job *job = arg;
    const struct heed_residual_norm_args *a = job->args;
    const struct heed_view *dx = &a->dx.view, *dbranch = &a->dbranch.view;
    const int64_t n = job->tiles.n;
    float *own = heed_has(dx) || heed_has(dbranch) ? job->own + worker * job->together * n : NULL;
    struct heed_norm_gradients g = heed_norm_sums_of(&job->tiles, tile, job->scratch);
    for (struct part part = tile_begin(job, tile); part_begin(job, &part);) {
        const int64_t at = part.row * n, count = part.count * n;
        float *to = heed_has(dx) && !a->dx.add ? place(dx, at) : own;
        const float *d = sum_gradient(job, &part, to, &g);
        if (heed_has(dx) && d != place(dx, at))
            job->random->dropout(&a->random, heed_keep_threshold(0), 0, count,
                                 a->dx.add ? place(dx, at) : NULL, d, place(dx, at));
        if (heed_has(dbranch))
            job->random->dropout(&a->random, a->threshold, (uint64_t)at, count,
                                 a->dbranch.add ? place(dbranch, at) : NULL, d, place(dbranch, at));
    }
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_RESIDUAL_NORM, args, why);
}

/* Scratch of backward: the sums of tiles, and what workers need where dx is no place. */
static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_residual_norm_args *a = args;
    const struct job job = job_of(exec, a, NULL, NULL);
    const bool in_dx = heed_has(&a->dx.view) && !a->dx.add;
    sizes->saved = (size_t)job.tiles.rows * sizeof(struct heed_norm_statistics);
    sizes->backward_scratch = heed_norm_sums_bytes(&job.tiles);
    if (!in_dx && heed_has(&a->dy) && (heed_has(&a->dx.view) || heed_has(&a->dbranch.view)))
        sizes->backward_scratch +=
            (size_t)(heed_threads_count(exec->threads) * job.together * job.tiles.n) * sizeof(float);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)scratch;
    const struct heed_residual_norm_args *a = args;
    struct job job = job_of(exec, a, saved, NULL);
    if (job.tiles.n > 0) heed_threads_run(exec->threads, job.tiles.tiles, forward_tile, &job);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_residual_norm_args *a = args;
    struct job job = job_of(exec, a, saved, scratch);
    if (job.tiles.n == 0) return HEED_OK;
    job.own = (float *)((char *)scratch + heed_norm_sums_bytes(&job.tiles));
    heed_threads_run(exec->threads, job.tiles.tiles, backward_tile, &job);
    if (heed_has(&a->dy)) heed_norm_sums_fold(exec, &job.tiles, scratch);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_residual_norm = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
