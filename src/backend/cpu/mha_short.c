/* Multi-head self-attention over many short sequences: when it applies, forward and backward as passes of the
 * threads. */
#include "backend/cpu/mha_short.h"

#include <stdio.h>

/* Fewer rows than that, or than a row has numbers, are not worth packing the weights. */
enum { LEAST_ROWS = 64 };

/* Where weights are larger, the products of other kernels are better. Median of forward and backward here /
 * of the composite, over widths 64 to 768, lengths 1 to 32 and 64 to 4096 rows, Zen 4: 0.82 where this
 * applies, 1.02 and up to 2.7 beyond this width. */
enum { MOST_WIDTH = 256 };

/* A register block of every instruction set fits into the gradients of weights. */
enum { LEAST_WIDTH = 8 };

/* ---- when ---- */

static bool refuse(struct heed_why *why, const char *reason) {
    why->reason = reason;
    return false;
}

static bool attention_applies(const struct heed_attention_args *a, struct heed_why *why) {
    if (heed_is_packed(&a->packed)) return refuse(why, "sequences are packed");
    if (a->stages > 0) return refuse(why, "the score has stages");
    if (a->normalizer != HEED_NORMALIZER_SOFTMAX) return refuse(why, "the normaliser is not the softmax");
    if (heed_has(&a->sink)) return refuse(why, "there is a sink");
    if (heed_has(&a->lse)) return refuse(why, "the sum of a row is asked for");
    if (heed_attention_chooses(a)) return refuse(why, "some of the weights are asked for");
    return true;
}

static bool mha_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_mha_args *a = arguments;
    const int64_t length = a->query.size[1], widest = HEED_MHA_SHORT_WIDTH * a->heads;
    if (a->query.dtype != HEED_F32) return refuse(why, "dtype is not f32");
    if (a->key.data != a->query.data || a->value.data != a->query.data || a->key.size[1] != length)
        return refuse(why, "keys or values are of another input");
    if (!attention_applies(&a->attention, why)) return false;
    if (a->kv_heads != a->heads) return refuse(why, "heads share keys and values");
    if (a->heads % heed_mha_vectors(exec->isa)->lanes != 0) return refuse(why, "heads do not fill vectors");
    if (length > HEED_SHORT_QUERIES) return refuse(why, "sequences are not short");
    if (a->wq.size[0] > widest || a->wv.size[0] > widest) return refuse(why, "heads are wide");
    if (a->query.size[2] > MOST_WIDTH || a->wo.size[0] > MOST_WIDTH || a->wo.size[1] > MOST_WIDTH)
        return refuse(why, "weights are large");
    if (a->query.size[2] < LEAST_WIDTH || a->wo.size[0] < LEAST_WIDTH) return refuse(why, "rows are narrow");
    if (a->query.size[0] * length < LEAST_ROWS || a->query.size[0] * length < a->query.size[2])
        return refuse(why, "there are few rows");
    return true;
}

static void mha_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    struct heed_mha_short_plan p = heed_mha_short_plan(exec, arguments);
    sizes->forward_scratch = heed_mha_short_place_forward(exec, &p, NULL);
    sizes->backward_scratch = heed_mha_short_place_backward(exec, &p, NULL);
    sizes->saved = heed_mha_short_place_saved(&p, NULL);
}

/* ---- passes ---- */

/* One pass: what a tile of it is. */
struct pass {
    const struct heed_mha_short_plan *plan;
    void (*pack)(const struct heed_mha_short_plan *plan, int64_t unit);
    void (*task)(const struct heed_mha_short_plan *plan, int64_t task, int worker);
    int64_t first; /* task */
};

static void pack_tile(void *arg, int64_t tile, int worker) {
    const struct pass *pass = arg;
    const int64_t each = pass->plan->units_per_task,
                  end = tile * each + heed_cpu_part(pass->plan->units, each, tile);
    (void)worker;
    for (int64_t unit = tile * each; unit < end; unit++) pass->pack(pass->plan, unit);
}

static void task_tile(void *arg, int64_t tile, int worker) {
    const struct pass *pass = arg;
    pass->task(pass->plan, pass->first + tile, worker);
}

static void pack(struct heed_exec *exec, struct pass *pass) {
    heed_threads_run(exec->threads, heed_cpu_tiles(pass->plan->units, pass->plan->units_per_task), pack_tile,
                     pass);
}

/* What heed_explain tells of the last run. */
static void note(struct heed_exec *exec, const struct heed_mha_short_plan *p, const char *direction) {
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_MHA];
    snprintf(last->note, sizeof last->note, "%s: %lld tasks of %lld sequences", direction,
             (long long)p->tasks, (long long)p->sequences);
}

static heed_status mha_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_mha_vectors *vectors = heed_mha_vectors(exec->isa);
    struct heed_mha_short_plan p = heed_mha_short_plan(exec, arguments);
    struct pass pass = {.plan = &p, .pack = vectors->pack, .task = vectors->forward};
    if (saved) heed_mha_short_place_saved(&p, saved);
    heed_mha_short_place_forward(exec, &p, scratch);
    pack(exec, &pass);
    heed_threads_run(exec->threads, p.tasks, task_tile, &pass);
    note(exec, &p, "forward");
    return HEED_OK;
}

/* ---- backward ---- */

/* Nothing arrives at the output: its projection's gradients are zero, unless they are added to. */
static heed_status no_gradient(struct heed_exec *exec, const struct heed_grad_view *gradient) {
    if (!heed_has(&gradient->view) || gradient->add) return HEED_OK;
    const struct heed_fill_args args = {.y = gradient->view};
    return heed_exec_run(exec, HEED_PRIMITIVE_FILL, &args);
}

/* All sequences of a slab, then what its rows add to the gradients of weights. */
static void backward_slab(struct heed_exec *exec, struct heed_mha_short_plan *p) {
    const struct heed_mha_vectors *vectors = heed_mha_vectors(exec->isa);
    struct pass pass = {.plan = p, .task = vectors->backward, .first = p->slab.task};
    if (p->inner) heed_threads_run(exec->threads, p->slab.tasks, task_tile, &pass);
    pass = (struct pass){.plan = p, .task = vectors->weights};
    heed_threads_run(exec->threads, p->in_tiles + p->out_tiles, task_tile, &pass);
}

static heed_status mha_backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_mha_args *a = arguments;
    struct heed_mha_short_plan p = heed_mha_short_plan(exec, a);
    struct pass pass = {.plan = &p, .pack = heed_mha_vectors(exec->isa)->pack_backward};
    if (!heed_has(&a->dy)) {
        heed_status status = no_gradient(exec, &a->dwo);
        if (!status) status = no_gradient(exec, &a->dbo);
        if (status || !p.inner) return status;
    }
    heed_mha_short_place_saved(&p, saved);
    heed_mha_short_place_backward(exec, &p, scratch);
    if (p.inner) pack(exec, &pass);
    const int64_t rows = p.slab.rows, tasks = p.slab.tasks;
    for (; p.slab.row < p.rows; p.slab.row += rows, p.slab.task += tasks) {
        p.slab.rows = rows < p.rows - p.slab.row ? rows : p.rows - p.slab.row;
        p.slab.dprojected.rows = p.slab.rows;
        p.slab.tasks = tasks < p.tasks - p.slab.task ? tasks : p.tasks - p.slab.task;
        backward_slab(exec, &p);
    }
    note(exec, &p, "backward");
    return HEED_OK;
}

const struct heed_kernel heed_cpu_mha_short = {.name = "cpu-short",
                                               .applies = mha_applies,
                                               .sizes = mha_sizes,
                                               .forward = mha_forward,
                                               .backward = mha_backward};
