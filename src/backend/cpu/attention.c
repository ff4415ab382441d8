/* The tiled attention kernel: applies to every f32 problem. */
#include "backend/cpu/attention.h"

#include <stdio.h>

static bool attention_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_ATTENTION, arguments, why);
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
             backward ? "backward" : "forward", (long long)atomic_load(&p->counts->tiles), HEED_TILE_QUERIES,
             HEED_TILE_KEYS, (long long)atomic_load(&p->counts->skipped), scratch);
}

/* ---- tasks ---- */

/* How many there are of a kind, and what the i-th is. */
struct kind {
    int64_t (*count)(const struct heed_attention_plan *p);
    struct heed_attention_task (*task)(const struct heed_attention_plan *p, int64_t i);
};

static struct heed_attention_task task_of_item(const struct heed_attention_item *list, int64_t heads,
                                               int64_t i) {
    const struct heed_attention_item *item = &list[i / heads];
    return (struct heed_attention_task){item->sequence, i % heads, item->part};
}

static int64_t chunk_count(const struct heed_attention_plan *p) {
    if (heed_is_packed(&p->args->packed)) return p->chunk_items * p->heads;
    return p->batch * p->heads * p->query_chunks;
}

/* The last queries see the most keys under a causal mask: long tasks first. */
static struct heed_attention_task chunk_task(const struct heed_attention_plan *p, int64_t i) {
    if (heed_is_packed(&p->args->packed)) return task_of_item(p->chunk_item, p->heads, i);
    const int64_t rows = p->batch * p->heads, row = i % rows;
    return (struct heed_attention_task){row / p->heads, row % p->heads, p->query_chunks - 1 - i / rows};
}

/* Heads of keys and values over which a task does not loop itself. */
static int64_t outer_heads(const struct heed_attention_plan *p) {
    return p->heads_inside ? 1 : p->kv_heads;
}

static int64_t strip_count(const struct heed_attention_plan *p) {
    if (heed_is_packed(&p->args->packed)) return p->strip_items * outer_heads(p);
    return (p->batches_inside ? 1 : p->batch) * outer_heads(p) * p->strips;
}

static struct heed_attention_task strip_task(const struct heed_attention_plan *p, int64_t i) {
    if (heed_is_packed(&p->args->packed)) return task_of_item(p->strip_item, outer_heads(p), i);
    const int64_t row = i / p->strips;
    return (struct heed_attention_task){row / outer_heads(p), row % outer_heads(p), i % p->strips};
}

static int64_t row_count(const struct heed_attention_plan *p) {
    return p->batch * p->heads;
}

static struct heed_attention_task row_task(const struct heed_attention_plan *p, int64_t i) {
    return (struct heed_attention_task){i / p->heads, i % p->heads, 0};
}

static int64_t chosen_heads(const struct heed_attention_plan *p) {
    return heed_attention_chosen_count(&p->args->head_list, p->heads);
}

static int64_t chosen_count(const struct heed_attention_plan *p) {
    if (!heed_attention_chooses(p->args)) return 0;
    return p->batch * chosen_heads(p) * heed_ceil_div(p->keys, HEED_TILE_KEYS);
}

static struct heed_attention_task chosen_task(const struct heed_attention_plan *p, int64_t i) {
    const int64_t tiles = heed_ceil_div(p->keys, HEED_TILE_KEYS), row = i / tiles;
    return (struct heed_attention_task){row / chosen_heads(p), row % chosen_heads(p), i % tiles};
}

static const struct kind chunks = {chunk_count, chunk_task}, strips = {strip_count, strip_task},
                         rows = {row_count, row_task}, chosen = {chosen_count, chosen_task};

struct job {
    const struct heed_attention_plan *plan;
    const struct kind *kind;
    heed_attention_work *work;
};

static void run_task(void *arg, int64_t i, int worker) {
    const struct job *job = arg;
    const struct heed_attention_task task = job->kind->task(job->plan, i);
    if (!heed_is_packed(&job->plan->args->packed)) {
        job->work(job->plan, &task, worker);
        return;
    }
    struct heed_attention_plan own;
    struct heed_attention_args args;
    heed_attention_plan_of_sequence(job->plan, task.batch, &own, &args);
    job->work(&own, &task, worker);
}

static void run(struct heed_exec *exec, const struct heed_attention_plan *plan, const struct kind *kind,
                heed_attention_work *work) {
    struct job job = {plan, kind, work};
    heed_threads_run(exec->threads, kind->count(plan), run_task, &job);
}

/* ---- the two directions ---- */

static void open_plan(struct heed_exec *exec, struct heed_attention_plan *plan,
                      struct heed_attention_counts *counts, const struct heed_attention_args *args,
                      void *saved, void *scratch, bool backward) {
    heed_attention_plan_make(plan, args, backward);
    heed_attention_plan_place(plan, saved, scratch, heed_threads_count(exec->threads), backward);
    if (heed_is_packed(&args->packed)) heed_attention_items_list(plan, backward);
    plan->counts = counts;
}

static heed_status attention_forward(struct heed_exec *exec, const void *arguments, void *saved,
                                     void *scratch) {
    struct heed_attention_counts counts = {0};
    struct heed_attention_plan plan;
    open_plan(exec, &plan, &counts, arguments, saved, scratch, false);
    run(exec, &plan, &chunks, heed_attention_vectors(exec->isa)->forward);
    run(exec, &plan, &chosen, heed_attention_vectors(exec->isa)->chosen);
    note(exec, &plan, false);
    return HEED_OK;
}

/* Adds the slabs of strips 1, 2, … to dq, in order. */
static void fold(const struct heed_attention_plan *p, const struct heed_attention_task *task, int worker) {
    const struct heed_view *dq = &p->args->dq.view;
    const int64_t slab = p->rows * p->width;
    (void)worker;
    for (int64_t q = 0; q < p->queries; q++) {
        float *to = (float *)dq->data + heed_attention_offset(dq, task->batch, task->head, q);
        const float *from = p->slabs + heed_attention_at(p, task->batch, task->head, q) * p->width;
        for (int64_t strip = 1; strip < p->strips; strip++, from += slab) {
            for (int64_t i = 0; i < p->width; i++) to[i] += from[i];
        }
    }
}

static heed_status attention_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                      void *scratch) {
    const struct heed_attention_vectors *vectors = heed_attention_vectors(exec->isa);
    struct heed_attention_counts counts = {0};
    struct heed_attention_plan plan;
    open_plan(exec, &plan, &counts, arguments, saved, scratch, true);
    const heed_status status = heed_attention_sums_open(exec, &plan);
    if (status) return status;
    if (plan.args->normalizer == HEED_NORMALIZER_SOFTMAX) run(exec, &plan, &chunks, vectors->delta);
    run(exec, &plan, &strips, vectors->backward);
    if (heed_has(&plan.args->dq.view) && plan.strips > 1) run(exec, &plan, &rows, fold);
    heed_attention_sums_close(&plan);
    note(exec, &plan, true);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_attention = {.name = "cpu",
                                               .applies = attention_applies,
                                               .sizes = attention_sizes,
                                               .forward = attention_forward,
                                               .backward = attention_backward};
