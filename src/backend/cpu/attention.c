/* The tiled attention kernel: applies to every f32 problem. */
#include "backend/cpu/attention.h"

#include <stdio.h>

static bool attention_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = arguments;
    (void)exec;
    if (a->q.dtype != HEED_F32) {
        why->reason = "dtype is not f32";
        return false;
    }
    return true;
}

static bool wants_gradients(const struct heed_attention_args *a) {
    return heed_has(&a->dy) || heed_has(&a->dweights) || heed_has(&a->dlse);
}

static void attention_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_attention_args *a = arguments;
    const int workers = heed_threads_count(exec->threads);
    struct heed_attention_plan plan;
    heed_attention_plan_make(&plan, a, false);
    sizes->saved = heed_attention_saved_bytes(&plan);
    sizes->forward_scratch = heed_attention_scratch_bytes(&plan, workers, false);
    if (!wants_gradients(a)) return;
    heed_attention_plan_make(&plan, a, true);
    sizes->backward_scratch = heed_attention_scratch_bytes(&plan, workers, true);
}

/* What heed_explain tells of the last run. */
static void note(struct heed_exec *exec, struct heed_attention_plan *p, bool backward) {
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_ATTENTION];
    const size_t scratch = heed_attention_scratch_bytes(p, heed_threads_count(exec->threads), backward);
    snprintf(last->note, sizeof last->note, "%s: %lld tiles of %d x %d, %lld skipped, %zu bytes of scratch",
             backward ? "backward" : "forward", (long long)atomic_load(&p->tiles), HEED_TILE_QUERIES,
             HEED_TILE_KEYS, (long long)atomic_load(&p->skipped), scratch);
}

struct job {
    struct heed_attention_plan *plan;
    void (*task)(struct heed_attention_plan *plan, int64_t task, int worker);
};

static void run_task(void *arg, int64_t tile, int worker) {
    const struct job *job = arg;
    job->task(job->plan, tile, worker);
}

static void run(struct heed_exec *exec, struct heed_attention_plan *plan, int64_t tasks,
                void (*task)(struct heed_attention_plan *plan, int64_t task, int worker)) {
    struct job job = {plan, task};
    heed_threads_run(exec->threads, tasks, run_task, &job);
}

static heed_status attention_forward(struct heed_exec *exec, const void *arguments, void *saved,
                                     void *scratch) {
    struct heed_attention_plan plan;
    heed_attention_plan_make(&plan, arguments, false);
    heed_attention_plan_place(&plan, saved, scratch, heed_threads_count(exec->threads), false);
    run(exec, &plan, plan.batch * plan.heads * plan.query_chunks, heed_attention_vectors(exec->isa)->forward);
    run(exec, &plan, heed_attention_chosen_tasks(&plan), heed_attention_vectors(exec->isa)->chosen);
    note(exec, &plan, false);
    return HEED_OK;
}

/* ---- backward ---- */

/* Adds the slabs of strips 1, 2, … to dq, in order. A task is a batch and a head. */
static void fold_task(struct heed_attention_plan *p, int64_t task, int worker) {
    const struct heed_view *dq = &p->args->dq.view;
    const int64_t slab = p->batch * p->heads * p->queries * p->width;
    (void)worker;
    for (int64_t q = 0; q < p->queries; q++) {
        float *to = (float *)dq->data + heed_attention_offset(dq, task / p->heads, task % p->heads, q);
        const float *from = p->slabs + (task * p->queries + q) * p->width;
        for (int64_t strip = 1; strip < p->strips; strip++, from += slab) {
            for (int64_t i = 0; i < p->width; i++) to[i] += from[i];
        }
    }
}

static heed_status attention_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                      void *scratch) {
    const struct heed_attention_vectors *vectors = heed_attention_vectors(exec->isa);
    struct heed_attention_plan plan;
    heed_attention_plan_make(&plan, arguments, true);
    heed_attention_plan_place(&plan, saved, scratch, heed_threads_count(exec->threads), true);
    const heed_status status = heed_attention_sums_open(exec, &plan);
    if (status) return status;
    if (plan.args->normalizer == HEED_NORMALIZER_SOFTMAX)
        run(exec, &plan, plan.batch * plan.heads * plan.query_chunks, vectors->delta);
    const int64_t outer = (plan.batches_inside ? 1 : plan.batch) * (plan.heads_inside ? 1 : plan.kv_heads);
    run(exec, &plan, outer * plan.strips, vectors->backward);
    if (heed_has(&plan.args->dq.view) && plan.strips > 1)
        run(exec, &plan, plan.batch * plan.heads, fold_task);
    heed_attention_sums_close(&plan);
    note(exec, &plan, true);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_attention = {.name = "cpu",
                                               .applies = attention_applies,
                                               .sizes = attention_sizes,
                                               .forward = attention_forward,
                                               .backward = attention_backward};
