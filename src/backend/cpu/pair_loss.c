/* Mean squared error and binary cross-entropy. Gradients are maps of the two inputs. */
#include "backend/cpu/map.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/rows.h"

struct job {
    const struct heed_pair_loss_args *args;
    const struct heed_loss_vectors *vectors;
    int64_t count;
    double *loss; /* of each tile */
};

static void forward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const int64_t first = tile * HEED_CPU_GRAIN, n = heed_cpu_part(job->count, HEED_CPU_GRAIN, tile);
    const float *x = (const float *)job->args->x.data + first, *t = (const float *)job->args->t.data + first;
    job->loss[tile] = (job->args->bce ? job->vectors->logistic : job->vectors->squares)(n, x, t);
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_PAIR_LOSS, args, why);
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_pair_loss_args *a = args;
    sizes->forward_scratch = (size_t)heed_cpu_tiles(heed_view_count(&a->x), HEED_CPU_GRAIN) * sizeof(double);
}

/* What the sum is multiplied with. */
static double reduction_factor(const struct heed_pair_loss_args *a, int64_t count) {
    return a->reduction == HEED_REDUCE_MEAN && count > 0 ? 1.0 / (double)count : 1.0;
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_pair_loss_args *a = args;
    struct job job = {a, heed_loss_vectors(exec->isa), heed_view_count(&a->x), scratch};
    const int64_t tiles = heed_cpu_tiles(job.count, HEED_CPU_GRAIN);
    heed_threads_run(exec->threads, tiles, forward_tile, &job);
    double sum = 0;
    for (int64_t tile = 0; tile < tiles; tile++) sum += job.loss[tile];
    *(float *)a->y.data = (float)(sum * reduction_factor(a, job.count));
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_pair_loss_args *a = args;
    const float dy = (float)(*(const float *)a->dy.data * reduction_factor(a, heed_view_count(&a->x)));
    const struct heed_map dx = {
        .fn = a->bce ? heed_loss_vectors(exec->isa)->logistic_back
                     : heed_binary_vectors(exec->isa)->forward[HEED_BINARY_SUB],
        .inputs = 2,
        .in = {a->x, a->t},
        .out = a->dx,
        .scale = a->bce ? dy : 2.0f * dy,
    };
    heed_map_run(exec, &dx, NULL);
    struct heed_map dt = dx; /* of the square −dx, of the logistic loss −x */
    dt.fn = a->bce ? NULL : dx.fn;
    dt.inputs = a->bce ? 1 : 2;
    dt.out = a->dt;
    dt.scale = -dx.scale;
    heed_map_run(exec, &dt, NULL);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_pair_loss = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
