/* Kernels that draw random numbers: fill with them, and dropout. */
#include "backend/cpu/random.h"

#include <math.h>

/* Elements of a tile; a multiple of what a block of words serves. */
enum { TILE = HEED_CPU_GRAIN, BATCH_BLOCKS = 256 };

/* ---- random ---- */

static bool random_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_random_args *a = args;
    if (a->y.dtype == HEED_F32) return true;
    why->reason = "dtype is not f32";
    return false;
}

struct random_job {
    const struct heed_random_args *args;
    const struct heed_random_vectors *vectors;
    int64_t count;
};

/* a + (b − a)·u, each operation rounded, as the reference does it. */
static void uniform_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct random_job *job = arg;
    const float a = (float)job->args->a, span = (float)(job->args->b - job->args->a);
    const float top = heed_below_f32((float)job->args->b, a);
    const int64_t n = heed_cpu_part(job->count, TILE, tile);
    float *y = (float *)job->args->y.data + tile * TILE;
    for (int64_t i = 0; i < n; i += 4 * BATCH_BLOCKS) {
        uint32_t word[4 * BATCH_BLOCKS];
        const int64_t part = heed_cpu_part(n - i, 4 * BATCH_BLOCKS, 0);
        job->vectors->words(&job->args->random, (uint32_t)((tile * TILE + i) >> 2), (part + 3) / 4, word);
        for (int64_t j = 0; j < part; j++) {
            const float scaled = span * ((float)(word[j] >> 8) * 0x1p-24f);
            y[i + j] = fminf(a + scaled, top);
        }
    }
}

static void normal_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct random_job *job = arg;
    const float a = (float)job->args->a, b = (float)job->args->b;
    const int64_t n = heed_cpu_part(job->count, TILE, tile);
    float *y = (float *)job->args->y.data + tile * TILE;
    heed_normals_f32(&job->args->random, (uint64_t)(tile * TILE), n, y);
    for (int64_t i = 0; i < n; i++) {
        const float scaled = b * y[i];
        y[i] = a + scaled;
    }
}

static heed_status random_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_random_args *a = args;
    struct random_job job = {a, heed_random_vectors(exec->isa), heed_view_count(&a->y)};
    heed_threads_run(exec->threads, heed_cpu_tiles(job.count, TILE), a->normal ? normal_tile : uniform_tile,
                     &job);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_random = {
    .name = "cpu", .applies = random_applies, .forward = random_forward};

/* ---- dropout ---- */

static bool dropout_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_DROPOUT, args, why);
}

struct dropout_job {
    const struct heed_dropout_args *args;
    const struct heed_random_vectors *vectors;
    int64_t count;
    const float *x;
    float *y;
    bool add;
};

static void dropout_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct dropout_job *job = arg;
    const int64_t first = tile * TILE;
    job->vectors->dropout(&job->args->random, job->args->threshold, (uint64_t)first,
                          heed_cpu_part(job->count, TILE, tile), job->add ? job->y + first : NULL,
                          job->x + first, job->y + first);
}

static heed_status dropout_run(struct heed_exec *exec, const struct heed_dropout_args *a,
                               const struct heed_view *x, const struct heed_view *y, bool add) {
    struct dropout_job job = {a, heed_random_vectors(exec->isa), heed_view_count(y), x->data, y->data, add};
    heed_threads_run(exec->threads, heed_cpu_tiles(job.count, TILE), dropout_tile, &job);
    return HEED_OK;
}

static heed_status dropout_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_dropout_args *a = args;
    return dropout_run(exec, a, &a->x, &a->y, false);
}

static heed_status dropout_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_dropout_args *a = args;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    return dropout_run(exec, a, &a->dy, &a->dx.view, a->dx.add);
}

const struct heed_kernel heed_cpu_dropout = {
    .name = "cpu",
    .applies = dropout_applies,
    .forward = dropout_forward,
    .backward = dropout_backward,
};
