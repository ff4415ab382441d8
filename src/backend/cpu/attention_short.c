/* The attention kernel for many short sequences: when it applies, and its two directions. */
#include "backend/cpu/attention_short.h"

#include <stdio.h>

/* Beyond this many multiplications per pair the tiled kernel's matrix products are faster. */
enum { MOST_WORK = 8192, LEAST_PAIRS = 4 };

/* A task does about this much: enough to outweigh handing it to a thread. */
enum { TASK_WORK = 1 << 16 };

static bool refuse(struct heed_why *why, const char *reason) {
    why->reason = reason;
    return false;
}

static bool short_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = arguments;
    const int64_t queries = a->q.size[2], keys = a->k.size[2], width = a->q.size[3],
                  value_width = a->v.size[3];
    (void)exec;
    if (!heed_cpu_takes_f32(HEED_PRIMITIVE_ATTENTION, a, why)) return false;
    if (heed_is_packed(&a->packed)) return refuse(why, "sequences are packed");
    if (a->stages > 0) return refuse(why, "the score has stages");
    if (a->normalizer != HEED_NORMALIZER_SOFTMAX) return refuse(why, "the normaliser is not the softmax");
    if (heed_has(&a->sink)) return refuse(why, "there is a sink");
    if (heed_has(&a->lse)) return refuse(why, "the sum of a row is asked for");
    if (heed_attention_chooses(a)) return refuse(why, "some of the weights are asked for");
    if (a->q.size[1] != a->k.size[1]) return refuse(why, "heads share keys and values");
    if (queries > HEED_SHORT_QUERIES || keys > HEED_SHORT_KEYS) return refuse(why, "sequences are not short");
    if (width > HEED_SHORT_WIDTH || value_width > HEED_SHORT_WIDTH) return refuse(why, "heads are wide");
    if (queries * keys * (width + value_width) > MOST_WORK)
        return refuse(why, "sequences are not short for their width");
    if (a->q.size[0] * a->q.size[1] < LEAST_PAIRS) return refuse(why, "there are few sequences");
    return true;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* Copies of every tensor, gradients too in backward; probabilities and their gradients; what is visible. */
static int64_t area_floats(const struct heed_short_plan *p, int lanes, bool backward) {
    const int64_t inputs = p->queries * (p->width + p->value_width) + p->keys * (p->width + p->value_width);
    const int64_t cells = p->queries * p->keys;
    return lanes * ((backward ? 2 : 1) * inputs + (backward ? 4 : 2) * cells + 2 * p->queries);
}

void heed_short_plan_scores(struct heed_short_plan *p, const struct heed_attention_args *a) {
    p->scale = (float)a->scale;
    p->threshold = a->threshold;
    p->drops = a->threshold < 65536;
    p->keep_scale = p->drops ? (float)heed_keep_scale(a->threshold) : 1.0f;
    p->random = heed_attention_random(&a->random);
}

static struct heed_short_plan plan_of(const struct heed_exec *exec, const struct heed_attention_args *a,
                                      bool backward) {
    const int lanes = heed_short_vectors(exec->isa)->lanes;
    struct heed_short_plan p = {.args = a,
                                .pairs = a->q.size[0] * a->q.size[1],
                                .heads = a->q.size[1],
                                .queries = a->q.size[2],
                                .keys = a->k.size[2],
                                .width = a->q.size[3],
                                .value_width = a->v.size[3]};
    heed_short_plan_scores(&p, a);
    const int64_t work = lanes * (p.queries * p.keys * (p.width + p.value_width + 16) + 64);
    p.groups_per_task = work < TASK_WORK ? TASK_WORK / work : 1;
    p.worker_floats = area_floats(&p, lanes, backward);
    return p;
}

static int64_t groups_of(const struct heed_exec *exec, const struct heed_short_plan *p) {
    return ceil_div(p->pairs, heed_short_vectors(exec->isa)->lanes);
}

static int64_t statistics_floats(const struct heed_exec *exec, const struct heed_short_plan *p) {
    return groups_of(exec, p) * heed_short_vectors(exec->isa)->lanes * p->queries;
}

static void short_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_attention_args *a = arguments;
    const size_t workers = (size_t)heed_threads_count(exec->threads) * sizeof(float);
    struct heed_short_plan p = plan_of(exec, a, true);
    sizes->saved = 2 * (size_t)statistics_floats(exec, &p) * sizeof(float);
    sizes->backward_scratch = workers * (size_t)p.worker_floats;
    p = plan_of(exec, a, false);
    sizes->forward_scratch = workers * (size_t)p.worker_floats;
}

struct job {
    struct heed_short_plan plan;
    void (*task)(const struct heed_short_plan *plan, int64_t task, int worker);
};

static void run_task(void *arg, int64_t tile, int worker) {
    const struct job *job = arg;
    job->task(&job->plan, tile, worker);
}

/* What heed_explain tells of the last run. */
static void note(struct heed_exec *exec, const struct heed_short_plan *p, bool backward) {
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_ATTENTION];
    const size_t workers = (size_t)heed_threads_count(exec->threads) * sizeof(float);
    snprintf(last->note, sizeof last->note, "%s: %lld tiles of %lld x %lld, 0 skipped, %zu bytes of scratch",
             backward ? "backward" : "forward", (long long)p->pairs, (long long)p->queries,
             (long long)p->keys, workers * (size_t)p->worker_floats);
}

static void run(struct heed_exec *exec, struct job *job, void *saved, void *scratch) {
    struct heed_short_plan *p = &job->plan;
    p->workers = scratch;
    if (saved) {
        p->maximum = saved;
        p->reciprocal = p->maximum + statistics_floats(exec, p);
    }
    heed_threads_run(exec->threads, ceil_div(groups_of(exec, p), p->groups_per_task), run_task, job);
}

static heed_status short_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    struct job job = {plan_of(exec, arguments, false), heed_short_vectors(exec->isa)->forward};
    run(exec, &job, saved, scratch);
    note(exec, &job.plan, false);
    return HEED_OK;
}

static heed_status short_backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    struct job job = {plan_of(exec, arguments, true), heed_short_vectors(exec->isa)->backward};
    run(exec, &job, saved, scratch);
    note(exec, &job.plan, true);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_attention_short = {.name = "cpu-short",
                                                     .applies = short_applies,
                                                     .sizes = short_sizes,
                                                     .forward = short_forward,
                                                     .backward = short_backward};
