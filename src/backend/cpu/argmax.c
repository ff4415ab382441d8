#include "backend/cpu/rows.h"

struct job {
    const struct heed_argmax_args *args;
    const struct heed_loss_vectors *vectors;
    int64_t n, tile_rows;
};

static void tile_argmax(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const struct heed_argmax_args *a = job->args;
    const int64_t first = tile * job->tile_rows, rows = heed_cpu_part(a->x.size[0], job->tile_rows, tile);
    int32_t *y = a->y.data;
    for (int64_t row = first; row < first + rows; row++)
        y[row] = (int32_t)job->vectors->argmax(job->n, (const float *)a->x.data + row * job->n);
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_argmax_args *a = args;
    if (a->x.dtype == HEED_F32) return true;
    why->reason = "dtype is not f32";
    return false;
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_argmax_args *a = args;
    struct job job = {a, heed_loss_vectors(exec->isa), a->x.size[1], 0};
    job.tile_rows = heed_cpu_rows_per_tile(job.n, HEED_CPU_GRAIN);
    heed_threads_run(exec->threads, heed_cpu_tiles(a->x.size[0], job.tile_rows), tile_argmax, &job);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_argmax = {.name = "cpu", .applies = applies, .forward = forward};
