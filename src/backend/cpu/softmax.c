#include "backend/cpu/rows.h"

struct job {
    const struct heed_softmax_args *args;
    const struct heed_softmax_vectors *vectors;
    int64_t rows, n, tile_rows;
};

static struct job job_of(const struct heed_exec *exec, const struct heed_softmax_args *a,
                         const struct heed_view *x) {
    struct job job = {a, heed_softmax_vectors(exec->isa), x->size[0], x->size[1], 0};
    job.tile_rows = heed_cpu_rows_per_tile(job.n, HEED_CPU_GRAIN);
    return job;
}

static void forward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const int64_t first = tile * job->tile_rows * job->n;
    job->vectors->forward(job->args->log, heed_cpu_part(job->rows, job->tile_rows, tile), job->n,
                          (const float *)job->args->x.data + first, (float *)job->args->y.data + first);
}

static void backward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const int64_t first = tile * job->tile_rows * job->n;
    job->vectors->backward(job->args->log, heed_cpu_part(job->rows, job->tile_rows, tile), job->n,
                           (const float *)job->args->y.data + first,
                           (const float *)job->args->dy.data + first, job->args->dx.add,
                           (float *)job->args->dx.view.data + first);
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_SOFTMAX, args, why);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_softmax_args *a = args;
    struct job job = job_of(exec, a, &a->y);
    if (job.n == 0) return HEED_OK;
    heed_threads_run(exec->threads, heed_cpu_tiles(job.rows, job.tile_rows), forward_tile, &job);
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_softmax_args *a = args;
    struct job job = job_of(exec, a, &a->y);
    if (job.n == 0 || !heed_has(&a->dx.view)) return HEED_OK;
    heed_threads_run(exec->threads, heed_cpu_tiles(job.rows, job.tile_rows), backward_tile, &job);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_softmax = {
    .name = "cpu",
    .applies = applies,
    .forward = forward,
    .backward = backward,
};
