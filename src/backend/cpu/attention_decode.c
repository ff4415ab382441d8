/* The attention kernel for few queries and many keys: when it applies, how it is cut. Its backward is the
 * tiled kernel's, which finds the same statistics of rows saved. */
#include "backend/cpu/attention_decode.h"

#include <stdio.h>

/* Tasks that a call should have, where its length allows; and the keys that are worth one. */
enum { TASKS = 32, LEAST_CHUNK = 128 };

static bool refuse(struct heed_why *why, const char *reason) {
    why->reason = reason;
    return false;
}

static bool decode_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = arguments;
    (void)exec;
    const int64_t heads = a->q.size[1], kv_heads = a->k.size[1], queries = a->q.size[2];
    if (!heed_cpu_takes_f32(HEED_PRIMITIVE_ATTENTION, a, why)) return false;
    if (heed_is_packed(&a->packed)) return refuse(why, "sequences are packed");
    for (int i = 0; i < a->stages; i++)
        if (a->stage[i].kind != HEED_STAGE_BIAS) return refuse(why, "the score has stages other than biases");
    if (a->normalizer != HEED_NORMALIZER_SOFTMAX) return refuse(why, "the normaliser is not the softmax");
    if (heed_has(&a->sink)) return refuse(why, "there is a sink");
    if (heed_has(&a->lse)) return refuse(why, "the sum of a row is asked for");
    if (heed_has(&a->weights) || heed_attention_chooses(a)) return refuse(why, "weights are asked for");
    if (a->threshold < 65536) return refuse(why, "weights are dropped");
    if (kv_heads == 0 || queries > HEED_DECODE_ROWS || queries * (heads / kv_heads) > HEED_DECODE_ROWS)
        return refuse(why, "there are many queries");
    if (a->k.size[2] < 4 * queries * (heads / kv_heads)) return refuse(why, "there are few keys");
    return true;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

static struct heed_decode_plan plan_of(const struct heed_attention_args *a) {
    struct heed_decode_plan p = {.args = a,
                                 .pairs = a->q.size[0] * a->k.size[1],
                                 .heads = a->q.size[1],
                                 .kv_heads = a->k.size[1],
                                 .queries = a->q.size[2],
                                 .keys = a->k.size[2],
                                 .width = a->q.size[3],
                                 .value_width = a->v.size[3],
                                 .scale = (float)a->scale};
    p.group = p.heads / p.kv_heads;
    p.rows = p.group * p.queries;
    p.width_row = heed_whole_vectors(p.width);
    p.value_row = heed_whole_vectors(p.value_width);
    const int64_t wanted = p.pairs > 0 ? ceil_div(TASKS, p.pairs) : 1;
    p.chunk = ceil_div(ceil_div(p.keys, wanted), HEED_DECODE_TILE) * HEED_DECODE_TILE;
    if (p.chunk < LEAST_CHUNK) p.chunk = LEAST_CHUNK;
    if (p.chunk > HEED_DECODE_CHUNK) p.chunk = HEED_DECODE_CHUNK;
    p.chunks = ceil_div(p.keys, p.chunk);
    p.partial_floats = p.rows * p.value_row + 2 * HEED_DECODE_ROWS;
    p.worker_floats = p.rows * (p.width_row + p.chunk);
    return p;
}

static size_t scratch_bytes(const struct heed_exec *exec, const struct heed_decode_plan *p) {
    const int64_t workers = heed_threads_count(exec->threads);
    return (size_t)(workers * p->worker_floats + p->pairs * p->chunks * p->partial_floats) * sizeof(float);
}

/* What is saved, and the memory of backward, are the tiled kernel's. */
static void decode_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_decode_plan p = plan_of(arguments);
    heed_cpu_attention.sizes(exec, arguments, sizes);
    sizes->forward_scratch = scratch_bytes(exec, &p);
}

struct job {
    struct heed_decode_plan plan;
    const struct heed_decode_vectors *vectors;
};

static void run_chunk(void *arg, int64_t task, int worker) {
    struct job *job = arg;
    job->vectors->chunk(&job->plan, task, worker);
}

static void run_merge(void *arg, int64_t pair, int worker) {
    const struct job *job = arg;
    (void)worker;
    job->vectors->merge(&job->plan, pair);
}

static heed_status decode_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    struct job job = {plan_of(arguments), heed_decode_vectors(exec->isa)};
    struct heed_decode_plan *p = &job.plan;
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_ATTENTION];
    if (saved) {
        struct heed_attention_plan tiled;
        heed_attention_plan_make(&tiled, arguments, false);
        heed_attention_plan_place(&tiled, saved, scratch, heed_threads_count(exec->threads), false);
        p->maximum = tiled.maximum;
        p->reciprocal = tiled.reciprocal;
    }
    p->workers = scratch;
    p->partial = p->workers + heed_threads_count(exec->threads) * p->worker_floats;
    heed_threads_run(exec->threads, p->pairs * p->chunks, run_chunk, &job);
    heed_threads_run(exec->threads, p->pairs, run_merge, &job);
    snprintf(last->note, sizeof last->note,
             "forward: %lld tiles of %lld x %d, %lld skipped, %zu bytes of scratch",
             (long long)atomic_load(&p->tiles), (long long)p->rows, HEED_DECODE_TILE,
             (long long)atomic_load(&p->skipped), scratch_bytes(exec, p));
    return HEED_OK;
}

static heed_status decode_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                   void *scratch) {
    return heed_cpu_attention.backward(exec, arguments, saved, scratch);
}

const struct heed_kernel heed_cpu_attention_decode = {.name = "cpu-decode",
                                                      .applies = decode_applies,
                                                      .sizes = decode_sizes,
                                                      .forward = decode_forward,
                                                      .backward = decode_backward};
