/* What optimisers run: the norm of all gradients, and one step of all parameters. The elements of all items
 * are seen as one row, cut into tiles of HEED_CPU_GRAIN; a tile may hold parts of several items. */
#include <math.h>

#include "backend/cpu/update.h"

/* ---- tiles over items ---- */

/* Where a tile begins. */
struct start {
    int64_t item, element;
};

static int64_t count_elements(const struct heed_param_item *item, int64_t items) {
    int64_t count = 0;
    for (int64_t i = 0; i < items; i++) count += item[i].count;
    return count;
}

static void find_starts(const struct heed_param_item *item, int64_t items, struct start *start) {
    int64_t tile = 0, before = 0;
    for (int64_t i = 0; i < items; i++) {
        for (; tile * HEED_CPU_GRAIN < before + item[i].count; tile++)
            start[tile] = (struct start){i, tile * HEED_CPU_GRAIN - before};
        before += item[i].count;
    }
}

/* The next part of a tile that lies in one item; false at the tile's end. */
struct part {
    int64_t item, first, count; /* first: the first element */
};

static bool next_part(const struct heed_param_item *item, int64_t items, struct start *at, int64_t *left,
                      struct part *part) {
    while (at->item < items && at->element >= item[at->item].count) *at = (struct start){at->item + 1, 0};
    if (at->item >= items || *left == 0) return false;
    const int64_t rest = item[at->item].count - at->element;
    *part = (struct part){at->item, at->element, rest < *left ? rest : *left};
    at->element += part->count;
    *left -= part->count;
    return true;
}

/* ---- the norm ---- */

struct norm_job {
    const struct heed_grad_norm_args *args;
    const struct heed_update_vectors *vectors;
    const struct start *start;
    double *squares;    /* of each tile */
    int64_t *first_bad; /* of each tile, −1: none */
};

static void norm_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct norm_job *job = arg;
    const struct heed_grad_norm_args *a = job->args;
    struct start at = job->start[tile];
    struct part part;
    int64_t left = HEED_CPU_GRAIN, first_bad = -1;
    double total = 0;
    while (next_part(a->item, a->items, &at, &left, &part)) {
        float *g = (float *)a->item[part.item].grad + part.first;
        if (a->scale != 1 || a->clamp > 0)
            job->vectors->limit(part.count, (float)a->scale, (float)a->clamp, g);
        /* Squares of finite f32 are finite in double, however many. */
        const double squares = job->vectors->squares(part.count, g);
        if (!isfinite(squares) && first_bad < 0) first_bad = part.item;
        total += squares;
    }
    job->squares[tile] = total;
    job->first_bad[tile] = first_bad;
}

static bool norm_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_grad_norm_args *a = args;
    if (a->dtype == HEED_F32) return true;
    why->reason = "dtype is not f32";
    return false;
}

static void norm_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_grad_norm_args *a = args;
    const int64_t tiles = heed_cpu_tiles(count_elements(a->item, a->items), HEED_CPU_GRAIN);
    sizes->forward_scratch = (size_t)tiles * (sizeof(struct start) + sizeof(double) + sizeof(int64_t));
}

static heed_status norm_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_grad_norm_args *a = args;
    const int64_t tiles = heed_cpu_tiles(count_elements(a->item, a->items), HEED_CPU_GRAIN);
    struct start *start = scratch;
    struct norm_job job = {a, heed_update_vectors(exec->isa), start, (double *)(start + tiles), NULL};
    job.first_bad = (int64_t *)(job.squares + tiles);
    find_starts(a->item, a->items, start);
    heed_threads_run(exec->threads, tiles, norm_tile, &job);
    double total = 0;
    int64_t first_bad = -1;
    for (int64_t tile = 0; tile < tiles; tile++) {
        total += job.squares[tile];
        if (first_bad < 0) first_bad = job.first_bad[tile];
    }
    return heed_grad_norm_found(a, sqrt(total), first_bad);
}

const struct heed_kernel heed_cpu_grad_norm = {
    .name = "cpu",
    .applies = norm_applies,
    .sizes = norm_sizes,
    .forward = norm_forward,
};

/* ---- the step ---- */

struct step_job {
    const struct heed_update_args *args;
    const struct heed_update_vectors *vectors;
    const struct start *start;
    double grad_scale, correction1, correction2;
};

static void step_sgd(const struct step_job *job, const struct heed_param_item *item,
                     const struct part *part) {
    const struct heed_update_args *a = job->args;
    const struct heed_sgd o = {
        .grad_scale = (float)job->grad_scale,
        .rate = (float)item->rate,
        .decay = (float)item->decay,
        .momentum = (float)a->momentum,
        .first = a->step == 1,
        .nesterov = a->nesterov,
    };
    float *m = item->moment1;
    job->vectors->sgd(&o, part->count, (float *)item->param + part->first,
                      (const float *)item->grad + part->first, m != NULL ? m + part->first : NULL);
}

static void step_adam(const struct step_job *job, const struct heed_param_item *item,
                      const struct part *part) {
    const struct heed_update_args *a = job->args;
    const bool decoupled = a->kind == HEED_UPDATE_ADAMW;
    const struct heed_adam o = {
        .grad_scale = (float)job->grad_scale,
        .decay = decoupled ? 0.0f : (float)item->decay,
        .shrink = decoupled ? (float)(item->rate * item->decay) : 0.0f,
        .beta1 = (float)a->beta1,
        .rest1 = (float)(1 - a->beta1),
        .beta2 = (float)a->beta2,
        .rest2 = (float)(1 - a->beta2),
        .rate = (float)(item->rate / job->correction1),
        .correction = (float)(1 / job->correction2),
        .eps = (float)a->eps,
    };
    job->vectors->adam(&o, part->count, (float *)item->param + part->first,
                       (const float *)item->grad + part->first, (float *)item->moment1 + part->first,
                       (float *)item->moment2 + part->first);
}

static void step_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct step_job *job = arg;
    const struct heed_update_args *a = job->args;
    struct start at = job->start[tile];
    struct part part;
    int64_t left = HEED_CPU_GRAIN;
    while (next_part(a->item, a->items, &at, &left, &part))
        (a->kind == HEED_UPDATE_SGD ? step_sgd : step_adam)(job, &a->item[part.item], &part);
}

static bool step_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_update_args *a = args;
    if (a->dtype == HEED_F32) return true;
    why->reason = "dtype is not f32";
    return false;
}

static void step_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_update_args *a = args;
    const int64_t tiles = heed_cpu_tiles(count_elements(a->item, a->items), HEED_CPU_GRAIN);
    sizes->forward_scratch = (size_t)tiles * sizeof(struct start);
}

static heed_status step_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_update_args *a = args;
    const int64_t tiles = heed_cpu_tiles(count_elements(a->item, a->items), HEED_CPU_GRAIN);
    if (!isfinite(a->norm->norm)) return HEED_OK;
    struct step_job job = {
        .args = a,
        .vectors = heed_update_vectors(exec->isa),
        .start = scratch,
        .grad_scale = heed_clip_factor(a->norm->norm, a->max_norm),
        .correction1 = 1 - pow(a->beta1, (double)a->step),
        .correction2 = 1 - pow(a->beta2, (double)a->step),
    };
    find_starts(a->item, a->items, scratch);
    heed_threads_run(exec->threads, tiles, step_tile, &job);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_update = {
    .name = "cpu",
    .applies = step_applies,
    .sizes = step_sizes,
    .forward = step_forward,
};
