/* Cross-entropy of rows of logits. Of each row the maximum and 1/Σ e^(x − maximum) are saved: the log of the
 * sum instead would lose the difference of large logits. */
#include <math.h>

#include "backend/cpu/rows.h"

struct row_saved {
    float maximum; /* −∞: nothing to learn from this row */
    float inverse;
};

struct job {
    const struct heed_cross_entropy_args *args;
    const struct heed_loss_vectors *vectors;
    int64_t rows, classes, tile_rows, tiles;
    struct row_saved *saved; /* NULL if nobody wants it */
    double *loss;            /* of each tile */
    float dy;
};

static struct job job_of(const struct heed_exec *exec, const struct heed_cross_entropy_args *a, void *saved) {
    struct job job = {.args = a, .rows = a->x.size[0], .classes = a->x.size[1], .saved = saved};
    job.vectors = heed_loss_vectors(exec->isa);
    job.tile_rows = heed_cpu_rows_per_tile(job.classes, HEED_CPU_GRAIN);
    job.tiles = heed_cpu_tiles(job.rows, job.tile_rows);
    return job;
}

/* What the sum over rows is multiplied with. */
static double reduction_factor(const struct heed_cross_entropy_args *a) {
    const int32_t *target = a->target.data;
    int64_t count = 0;
    for (int64_t row = 0; row < a->x.size[0]; row++) count += target[row] != a->ignore_index;
    return a->reduction == HEED_REDUCE_MEAN && count > 0 ? 1.0 / (double)count : 1.0;
}

static bool targets_fit(const struct heed_cross_entropy_args *a) {
    const int32_t *target = a->target.data;
    for (int64_t row = 0; row < a->x.size[0]; row++) {
        const int32_t t = target[row];
        if ((t < 0 || t >= a->x.size[1]) && t != a->ignore_index) return false;
    }
    return true;
}

/* −Σ_c q_c·log softmax(x)_c */
static double row_loss(const struct job *job, const float *x, int32_t target,
                       const struct heed_logits *logits) {
    if (logits->maximum == -INFINITY && logits->sum == 0) return INFINITY;
    const double smoothing = job->args->smoothing, classes = (double)job->classes;
    const double log_sum = log((double)logits->sum);
    double loss = 0;
    if (smoothing != 1) loss -= (1 - smoothing) * ((double)x[target] - logits->maximum - log_sum);
    if (smoothing != 0) loss -= smoothing / classes * (logits->shifted - classes * log_sum);
    return loss;
}

static void forward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const int64_t first = tile * job->tile_rows, rows = heed_cpu_part(job->rows, job->tile_rows, tile);
    const int32_t *target = job->args->target.data;
    double loss = 0;
    for (int64_t row = first; row < first + rows; row++) {
        if (target[row] == job->args->ignore_index) continue;
        const float *x = (const float *)job->args->x.data + row * job->classes;
        const struct heed_logits logits = job->vectors->look(job->classes, x);
        loss += row_loss(job, x, target[row], &logits);
        if (job->saved != NULL) job->saved[row] = (struct row_saved){logits.maximum, 1.0f / logits.sum};
    }
    job->loss[tile] = loss;
}

static void set(float *dx, int64_t n, bool add) {
    for (int64_t c = 0; c < n && !add; c++) dx[c] = 0.0f;
}

/* dy·(softmax(x) − q) */
static void backward_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const struct heed_cross_entropy_args *a = job->args;
    const int64_t first = tile * job->tile_rows, rows = heed_cpu_part(job->rows, job->tile_rows, tile);
    const int32_t *target = a->target.data;
    const float base = (float)(job->dy * a->smoothing / (double)job->classes);
    for (int64_t row = first; row < first + rows; row++) {
        float *dx = (float *)a->dx.view.data + row * job->classes;
        const struct row_saved *s = &job->saved[row];
        if (target[row] == a->ignore_index || (s->maximum == -INFINITY && s->inverse == INFINITY)) {
            set(dx, job->classes, a->dx.add);
            continue;
        }
        job->vectors->cross_entropy_back(job->classes, (const float *)a->x.data + row * job->classes,
                                         s->maximum, job->dy * s->inverse, base, a->dx.add, dx);
        dx[target[row]] -= (float)(job->dy * (1 - a->smoothing));
    }
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_CROSS_ENTROPY, args, why);
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct job job = job_of(exec, args, NULL);
    sizes->saved = (size_t)job.rows * sizeof(struct row_saved);
    sizes->forward_scratch = (size_t)job.tiles * sizeof(double);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_cross_entropy_args *a = args;
    /* The reference finds the first target that is out of range and says so. */
    if (!targets_fit(a))
        return heed_ref_kernels[HEED_PRIMITIVE_CROSS_ENTROPY]->forward(exec, args, saved, scratch);
    struct job job = job_of(exec, a, saved);
    job.loss = scratch;
    heed_threads_run(exec->threads, job.tiles, forward_tile, &job);
    double sum = 0;
    for (int64_t tile = 0; tile < job.tiles; tile++) sum += job.loss[tile];
    *(float *)a->y.data = (float)(sum * reduction_factor(a));
    return HEED_OK;
}

static heed_status backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)scratch;
    const struct heed_cross_entropy_args *a = args;
    if (!heed_has(&a->dx.view)) return HEED_OK;
    struct job job = job_of(exec, a, saved);
    job.dy = (float)(*(const float *)a->dy.data * reduction_factor(a));
    heed_threads_run(exec->threads, job.tiles, backward_tile, &job);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_cross_entropy = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
};
