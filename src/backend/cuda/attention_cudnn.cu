/* Attention by cuDNN: the problems whose rules it keeps, and what it needs around it.
 *
 * It reads q, k, v and writes y and the statistics once, keeping nothing of the size [queries, keys]; its
 * gradient may keep that in bf16 (cudnn_attention.cuh says how much). What it does not do by itself:
 * - A masked key may hold NaN, and 0·NaN is NaN. So behind key lengths it gets copies of k and v with zeros
 *   there (2·(k + v) bytes read and written, each way), and gradients there are set to 0.
 * - A query that sees nothing gets NaN. An entry of length 0 is given one key, whose copy is 0, so y is 0;
 *   rows whose biases are all −∞ are found by their statistics and set to 0.
 * - It overwrites, and wants rows of 16 bytes: gradients that add up, are f32 or lie otherwise go through
 *   scratch.
 * - Packed sequences are unpacked into a batch of equal lengths, with zeros behind each, and their results
 *   packed again: all tensors are read and written once more. cuDNN has packed tensors of its own, but their
 *   gradient plans on H100 and B200 only, and its tiles reach over ends of sequences, to what may be NaN.
 * - Its dropout draws numbers of its own from a seed, which is what heed's would draw at the call's place, so
 *   that it is the same backward and another in each call. Each slice of a problem has a seed.
 *
 * saved: log Σ e^s of each row, f32. scratch: those copies and gradients, the workspace. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cudnn_call.cuh"
#include "backend/cuda/cudnn_copies.cuh"
#include "backend/cuda/cudnn_problem.cuh"

/* The gradient is planned where there is a tape. */
static bool applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct dnn_attention forward, backward;
    if (!dnn_keeps_rules(exec, a, why) || !dnn_is_there(exec, why)) return false;
    dnn_problem_of(a, false, &forward);
    if (!dnn_plan_of(exec, &forward, why).graph) return false;
    if (!exec->recording) return true;
    dnn_expect_backward(a, &backward);
    return dnn_plan_of(exec, &backward, why).graph != NULL;
}

/* ---- memory ---- */

/* What cuDNN's workspace begins at, which is more than blocks of memory do. */
enum { WORKSPACE_ALIGNMENT = 256 };

static size_t aligned(size_t bytes) {
    return (bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* The first such place in scratch; sizes() asks for that much more. */
static char *aligned_scratch(void *scratch) {
    return reinterpret_cast<char *>(aligned((size_t)scratch));
}

static void reserve(struct dnn_areas *s, enum dnn_attention_id id, int64_t elements, size_t bytes,
                    bool wanted) {
    s->at[id] = s->all;
    if (wanted) s->all += aligned((size_t)elements * bytes);
}

/* Lengths of both kinds, then starts of both, one behind the other: they are sent at once. */
static void reserve_starts(struct dnn_areas *s, int64_t batch) {
    reserve(s, DNN_QUERY_LENGTHS, 4 * batch + 2, sizeof(int32_t), true);
    s->at[DNN_KEY_LENGTHS] = s->at[DNN_QUERY_LENGTHS] + (size_t)batch * sizeof(int32_t);
    s->query_starts = s->at[DNN_KEY_LENGTHS] + (size_t)batch * sizeof(int32_t);
    s->key_starts = s->query_starts + (size_t)(batch + 1) * sizeof(int32_t);
}

static int64_t bias_elements(const struct dnn_attention *p) {
    return p->bias_size[0] * p->bias_size[1] * p->bias_size[2] * p->bias_size[3];
}

static struct dnn_areas areas_of(const struct heed_attention_args *a, const struct dnn_attention *p,
                                 int64_t workspace, bool saves) {
    struct dnn_areas s = {};
    const int64_t rows = dnn_row_count(p), keys = p->batch * p->kv_heads * p->keys;
    const bool packed = heed_is_packed(&a->packed);
    if (packed) {
        reserve_starts(&s, p->batch);
    } else {
        reserve(&s, DNN_QUERY_LENGTHS, p->batch, sizeof(int32_t), p->lengths);
        reserve(&s, DNN_KEY_LENGTHS, p->batch, sizeof(int32_t), p->lengths);
    }
    reserve(&s, DNN_Q, rows * p->width, 2, packed);
    reserve(&s, DNN_Y, rows * p->value_width, 2, packed);
    reserve(&s, DNN_K, keys * p->width, 2, p->lengths);
    reserve(&s, DNN_V, keys * p->value_width, 2, p->lengths);
    reserve(&s, DNN_SEEDS, p->batch * p->kv_heads, sizeof(int64_t), p->kept > 0);
    reserve(&s, DNN_OFFSET, 1, sizeof(int64_t), p->kept > 0);
    reserve(&s, DNN_STATISTICS, rows, sizeof(float), !saves);
    if (p->backward) {
        reserve(&s, DNN_DELTA, rows, sizeof(float), true);
        reserve(&s, DNN_DY, rows * p->value_width, 2, packed || !dnn_is_laid_out(&a->dy));
        reserve(&s, DNN_DQ, rows * p->width, 2, packed || !dnn_is_direct(&a->dq));
        reserve(&s, DNN_DK, keys * p->width, 2, packed || !dnn_is_direct(&a->dk));
        reserve(&s, DNN_DV, keys * p->value_width, 2, packed || !dnn_is_direct(&a->dv));
        reserve(&s, DNN_DBIAS, bias_elements(p), 2, p->bias_gradient);
    }
    s.workspace = s.all;
    s.all += aligned((size_t)workspace);
    return s;
}

static bool plan_call(const struct heed_exec *exec, const struct heed_attention_args *a, bool backward,
                      bool saves, struct dnn_planned_call *c) {
    struct heed_why why = {NULL};
    dnn_problem_of(a, backward, &c->problem);
    c->plan = dnn_plan_of(exec, &c->problem, &why);
    c->areas = areas_of(a, &c->problem, c->plan.workspace, saves);
    return c->plan.graph != NULL;
}

/* Scratch is for a forward that saves nothing, too. Where a plan was lost, running it is the error. */
static void sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct dnn_planned_call c;
    if (heed_has(&a->dy)) {
        plan_call(exec, a, true, true, &c);
        sizes->backward_scratch = c.areas.all + WORKSPACE_ALIGNMENT;
    } else {
        plan_call(exec, a, false, false, &c);
        sizes->forward_scratch = c.areas.all + WORKSPACE_ALIGNMENT;
    }
    sizes->saved = aligned((size_t)dnn_row_count(&c.problem) * sizeof(float));
}

/* ---- around it ---- */

static heed_status begin(struct dnn_call *k, struct heed_exec *exec, const struct heed_attention_args *a,
                         bool backward, void *saved, void *scratch) {
    memset(k, 0, sizeof *k);
    k->exec = exec;
    k->a = a;
    k->scratch = aligned_scratch(scratch);
    k->scale = (float)a->scale;
    k->hidden = -INFINITY;
    if (!plan_call(exec, a, backward, saved != NULL, &k->c))
        return heed_host->fail(exec, HEED_ERROR_DEVICE, HEED_PRIMITIVE_ATTENTION,
                               "cuDNN has lost the plan of this problem");
    k->lengths = dnn_lengths_of(a);
    k->kept_share = k->c.problem.kept ? (float)k->c.problem.kept / 65536 : 1;
    k->kept_scale = (float)heed_keep_scale(a->threshold);
    for (int i = 0; i < DNN_IDS; i++) k->pointer[i] = dnn_area(k, (enum dnn_attention_id)i);
    const bool packed = heed_is_packed(&a->packed);
    if (!packed) {
        k->pointer[DNN_Q] = a->q.data;
        k->pointer[DNN_Y] = a->y.data;
    }
    if (!packed && !k->lengths) {
        k->pointer[DNN_K] = a->k.data;
        k->pointer[DNN_V] = a->v.data;
    }
    if (a->stages) k->pointer[DNN_BIAS] = a->stage[0].tensor.data;
    if (saved) k->pointer[DNN_STATISTICS] = saved;
    k->pointer[DNN_SCALE] = &k->scale;
    k->pointer[DNN_HIDDEN] = &k->hidden;
    k->pointer[DNN_KEPT_SHARE] = &k->kept_share;
    k->pointer[DNN_KEPT_SCALE] = &k->kept_scale;
    snprintf(exec->last[HEED_PRIMITIVE_ATTENTION].note, sizeof exec->last[HEED_PRIMITIVE_ATTENTION].note,
             "%s: %lld rows, %lld batch entries and %lld heads of keys at once, %lld bytes of workspace",
             backward ? "backward" : "forward", (long long)dnn_row_count(&k->c.problem),
             (long long)k->c.plan.slice.batch, (long long)k->c.plan.slice.kv_heads,
             (long long)k->c.plan.workspace);
    return HEED_OK;
}

static const int32_t *own_lengths(const struct dnn_call *k, int64_t *stride) {
    const struct heed_view *tensor = &k->lengths->tensor[0];
    *stride = tensor->stride[0];
    return static_cast<const int32_t *>(tensor->data);
}

heed_status dnn_call_run(const struct dnn_call *k) {
    if (k->c.problem.kept) {
        const heed_status status = dnn_run_seeds(k->exec, &k->c.problem, &k->a->random,
                                                 static_cast<int64_t *>(dnn_area(k, DNN_SEEDS)),
                                                 static_cast<int64_t *>(dnn_area(k, DNN_OFFSET)));
        if (status != HEED_OK) return status;
    }
    return dnn_run_plan(k->exec, &k->c.problem, &k->c.plan, k->pointer, k->scratch + k->c.areas.workspace);
}

/* A copy of keys or values with zeros where no query looks. */
static heed_status isolate(const struct dnn_call *k, const struct heed_view *v, enum dnn_attention_id id,
                           const int64_t stride[3]) {
    struct dnn_copy copy = dnn_copy_of(v, v->data, v->stride, dnn_area(k, id), stride);
    copy.lengths = own_lengths(k, &copy.batch_stride);
    copy.by_row = true;
    return dnn_run_copy(k->exec, &copy);
}

/* ---- key lengths ---- */

static heed_status apply_lengths(const struct dnn_call *k) {
    const struct dnn_attention *p = &k->c.problem;
    int64_t stride;
    if (!k->lengths) return HEED_OK;
    const int32_t *length = own_lengths(k, &stride);
    heed_status status =
        dnn_run_lengths(k->exec, p, length, stride, static_cast<int32_t *>(dnn_area(k, DNN_QUERY_LENGTHS)),
                        static_cast<int32_t *>(dnn_area(k, DNN_KEY_LENGTHS)));
    if (status == HEED_OK) status = isolate(k, &k->a->k, DNN_K, p->k);
    return status == HEED_OK ? isolate(k, &k->a->v, DNN_V, p->v) : status;
}

static heed_status settle_rows(const struct dnn_call *k) {
    const struct dnn_attention *p = &k->c.problem;
    struct dnn_rows r = {};
    if (!k->a->stages) return HEED_OK;
    r.statistics = static_cast<float *>(k->pointer[DNN_STATISTICS]);
    r.y = static_cast<uint16_t *>(k->a->y.data);
    r.bias = static_cast<const uint16_t *>(k->pointer[DNN_BIAS]);
    r.key_lengths = k->lengths ? static_cast<const int32_t *>(k->pointer[DNN_KEY_LENGTHS]) : NULL;
    r.heads = p->heads;
    r.queries = p->queries;
    r.keys = p->keys;
    r.value_width = p->value_width;
    r.rows = dnn_row_count(p);
    r.causal = p->causal;
    memcpy(r.y_stride, p->y, sizeof r.y_stride);
    memcpy(r.bias_stride, k->a->stage[0].tensor.stride, sizeof r.bias_stride);
    return dnn_run_settle(k->exec, &r);
}

static heed_status attention_forward(struct heed_exec *exec, const void *arguments, void *saved,
                                     void *scratch) {
    struct dnn_call k;
    heed_status status =
        begin(&k, exec, static_cast<const struct heed_attention_args *>(arguments), false, saved, scratch);
    if (status == HEED_OK && heed_is_packed(&k.a->packed)) return dnn_call_forward_packed(&k);
    if (status == HEED_OK) status = apply_lengths(&k);
    if (status == HEED_OK) status = dnn_call_run(&k);
    return status == HEED_OK ? settle_rows(&k) : status;
}

/* ---- backward ---- */

/* Where cuDNN writes a gradient. */
static void bind_gradient(struct dnn_call *k, enum dnn_attention_id id, const struct heed_grad_view *g) {
    if (dnn_is_direct(g)) k->pointer[id] = g->view.data;
}

/* From there to where it belongs, with zeros behind lengths. */
static heed_status deliver_gradient(const struct dnn_call *k, enum dnn_attention_id id,
                                    const struct heed_grad_view *g, const int64_t stride[3], bool by_row) {
    if (!heed_has(&g->view) || (dnn_is_direct(g) && !k->lengths)) return HEED_OK;
    struct dnn_copy copy = dnn_copy_of(&g->view, k->pointer[id], stride, g->view.data, g->view.stride);
    if (k->lengths) copy.lengths = own_lengths(k, &copy.batch_stride);
    copy.by_row = by_row;
    copy.add = g->add;
    copy.to_f32 = g->view.dtype == HEED_F32;
    return dnn_run_copy(k->exec, &copy);
}

static heed_status deliver_bias_gradient(const struct dnn_call *k) {
    const struct dnn_attention *p = &k->c.problem;
    if (!p->bias_gradient) return HEED_OK;
    const struct heed_grad_view *g = &k->a->stage[0].dtensor;
    struct heed_view shape = g->view;
    memcpy(shape.size, p->bias_size, sizeof p->bias_size);
    int64_t stride[3];
    dnn_set_dense(&shape, stride);
    struct dnn_copy copy = dnn_copy_of(&shape, k->pointer[DNN_DBIAS], stride, g->view.data, g->view.stride);
    copy.to_stride[3] = g->view.stride[3];
    copy.add = g->add;
    copy.to_f32 = g->view.dtype == HEED_F32;
    return dnn_run_copy(k->exec, &copy);
}

static heed_status prepare_dy(struct dnn_call *k) {
    const struct heed_view *dy = &k->a->dy;
    if (dnn_is_laid_out(dy)) {
        k->pointer[DNN_DY] = dy->data;
        return HEED_OK;
    }
    const struct dnn_copy copy = dnn_copy_of(dy, dy->data, dy->stride, dnn_area(k, DNN_DY), k->c.problem.dy);
    return dnn_run_copy(k->exec, &copy);
}

static heed_status attention_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                      void *scratch) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct dnn_call k;
    heed_status status = begin(&k, exec, a, true, saved, scratch);
    if (status == HEED_OK && heed_is_packed(&a->packed)) return dnn_call_backward_packed(&k);
    if (status == HEED_OK) status = apply_lengths(&k);
    if (status == HEED_OK) status = prepare_dy(&k);
    if (status != HEED_OK) return status;
    bind_gradient(&k, DNN_DQ, &a->dq);
    bind_gradient(&k, DNN_DK, &a->dk);
    bind_gradient(&k, DNN_DV, &a->dv);
    status = dnn_call_run(&k);
    const struct dnn_attention *p = &k.c.problem;
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DQ, &a->dq, p->dq, false);
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DK, &a->dk, p->dk, true);
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DV, &a->dv, p->dv, true);
    return status == HEED_OK ? deliver_bias_gradient(&k) : status;
}

const struct heed_kernel heed_cuda_attention_cudnn = {"cudnn", applies, sizes, attention_forward,
                                                      attention_backward};
