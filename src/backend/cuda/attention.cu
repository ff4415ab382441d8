/* Heed's own attention on the device: when it applies, its memory, and the order of launches.
 *
 * saved: maximum and reciprocal sum of each row. forward scratch: the same where nothing is saved, the mask's
 * program, and what the splits of the keys have found. backward scratch: delta of each row, the mask's
 * program, and sums of gradients of scores. Of packed sequences each is a problem of its own, one after the
 * other. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/attention_choice.cuh"

extern "C" {
#include "backend/sequences.h"
}

static bool refuse(struct heed_why *why, const char *reason) {
    why->reason = reason;
    return false;
}

/* Of queries, of keys, and of their distances, in f64. */
static int64_t tiles_at_most(const struct heed_attention_args *a) {
    return (a->q.size[2] + a->k.size[2]) / cuda_edge<double> + 1;
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    if (!cuda_takes(HEED_PRIMITIVE_ATTENTION, a, a->q.dtype, why)) return false;
    if (a->q.size[2] + a->k.size[2] > INT32_MAX - 64)
        return refuse(why, "there are more than 2147483583 queries and keys");
    if (a->q.size[0] * a->q.size[1] * tiles_at_most(a) > INT32_MAX)
        return refuse(why, "there are more than 2147483647 tiles of queries and keys");
    for (int i = 0; i < a->stages; i++)
        if (a->stage[i].kind == HEED_STAGE_CUSTOM && !a->stage[i].rule->cuda)
            return refuse(why, "a stage of the user's has no CUDA source (heed_stage_rule.cuda)");
    return cuda_mask_count(a->mask, why) >= 0;
}

/* ---- memory ---- */

/* Areas begin at multiples of this. */
static size_t aligned(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* Rows of all heads, of all batch entries or sequences. */
static int64_t rows_of(const struct heed_attention_args *a) {
    const int64_t slices = heed_is_packed(&a->packed) ? 1 : a->q.size[0];
    return slices * a->q.size[1] * a->q.size[2];
}

static size_t row_bytes(const struct heed_attention_args *a) {
    return aligned((size_t)rows_of(a) * heed_dtype_bytes(a->q.dtype));
}

static size_t mask_bytes(const struct heed_attention_args *a) {
    struct heed_why why = {NULL};
    const int count = cuda_mask_count(a->mask, &why);
    return count > 0 ? aligned((size_t)count * sizeof(struct cuda_mask_node)) : 0;
}

/* Numbers that one row or column gathers of the gradient of a user's parameter. */
static int64_t param_numbers(const struct heed_stage_param *param) {
    return param->scope == HEED_PER_QUERY || param->scope == HEED_PER_KEY ? 1 : param->tensor.size[3];
}

/* How many blocks of a pair of batch and head sum the gradient of a user's parameter: those with a tile of
 * their own where each row has a number, otherwise as few as keep a device busy. */
template <typename T>
static int64_t strips_of(const struct heed_stage_param *param, int64_t pairs, int64_t queries, int64_t keys) {
    enum { BUSY = 256 };
    if (param->scope == HEED_PER_KEY) return cuda_tiles<T>(keys);
    const int64_t tiles = cuda_tiles<T>(queries), enough = (BUSY + pairs - 1) / (pairs > 0 ? pairs : 1);
    return param->scope == HEED_PER_QUERY || tiles < enough ? tiles : enough;
}

/* Of one stage or parameter at a time: [batch, heads, the longest line]. */
template <typename T> static size_t sum_bytes_of(const struct heed_attention_args *a) {
    const bool packed = heed_is_packed(&a->packed);
    const int64_t queries = packed ? a->packed.most_queries : a->q.size[2],
                  keys = packed ? a->packed.most_keys : a->k.size[2];
    const int64_t pairs = (packed ? 1 : a->q.size[0]) * a->q.size[1];
    int64_t line = queries + keys + 1;
    for (int i = 0; i < a->params; i++) {
        const int64_t own =
            param_numbers(&a->param[i]) * cuda_edge<T> * strips_of<T>(&a->param[i], pairs, queries, keys);
        if (heed_has(&a->param[i].dtensor.view) && own > line) line = own;
    }
    return aligned((size_t)(pairs * line) * sizeof(T));
}

static size_t sum_bytes(const struct heed_attention_args *a) {
    return a->q.dtype == HEED_F64 ? sum_bytes_of<double>(a) : sum_bytes_of<float>(a);
}

/* Blocks that share the keys of a tile of queries: enough to keep the device busy. */
template <typename T>
static int splits_of(const struct heed_exec *exec, const struct heed_attention_args *a) {
    enum { MOST = 64 };
    const int64_t blocks = a->q.size[0] * a->q.size[1] * cuda_tiles<T>(a->q.size[2]),
                  keys = cuda_tiles<T>(a->k.size[2]);
    const int64_t idle = 2 * cuda_of(exec)->processors / (blocks > 0 ? blocks : 1),
                  most = keys < MOST ? keys : (int64_t)MOST;
    if (heed_is_packed(&a->packed) || idle < 2 || most < 2) return 1;
    return (int)(idle < most ? idle : most);
}

static int splits(const struct heed_exec *exec, const struct heed_attention_args *a) {
    return a->q.dtype == HEED_F64 ? splits_of<double>(exec, a) : splits_of<float>(exec, a);
}

static size_t part_bytes(const struct heed_exec *exec, const struct heed_attention_args *a) {
    const int64_t count = splits(exec, a), number = (int64_t)heed_dtype_bytes(a->q.dtype);
    return count > 1 ? aligned((size_t)(rows_of(a) * count * (2 + a->v.size[3]) * number)) : 0;
}

static void sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    sizes->saved = 2 * row_bytes(a);
    sizes->forward_scratch = 2 * row_bytes(a) + mask_bytes(a) + part_bytes(exec, a);
    sizes->backward_scratch = row_bytes(a) + mask_bytes(a) + sum_bytes(a);
}

/* ---- from arguments to a problem ---- */

/* The arguments of one of packed sequences, in which it is the only batch entry. */
static void sequence_args(const struct heed_attention_args *a, int64_t i, struct heed_attention_args *own) {
    heed_sequence_args(a, i, own);
    struct heed_view *views[2 * (HEED_MAX_STAGES + HEED_MAX_STAGE_PARAMS) + 2] = {&own->sink,
                                                                                  &own->dsink.view};
    int count = 2;
    for (int j = 0; j < own->stages; j++) {
        views[count++] = &own->stage[j].tensor;
        views[count++] = &own->stage[j].dtensor.view;
    }
    for (int j = 0; j < own->params; j++) {
        views[count++] = &own->param[j].tensor;
        views[count++] = &own->param[j].dtensor.view;
    }
    for (int j = 0; j < count; j++)
        if (heed_has(views[j])) views[j]->data = heed_view_at(views[j], i * views[j]->stride[0]);
}

template <typename T> static cuda_heads<T> heads_of(const struct heed_view *v) {
    cuda_heads<T> h = {};
    h.data = static_cast<T *>(v->data);
    for (int d = 0; d < 4 && d < v->rank; d++) h.stride[d] = v->stride[d];
    return h;
}

template <typename T> static cuda_stage_param<T> param_of(const struct heed_stage_param *param) {
    const cuda_heads<const T> all = heads_of<const T>(&param->tensor);
    return {all.data,
            {all.stride[0], all.stride[1], param->scope == HEED_PER_QUERY ? all.stride[2] : 0,
             param->scope == HEED_PER_KEY ? all.stride[3] : 0}};
}

/* `a` is that of the whole call, or of sequence `first_batch` alone. rows: where the statistics of its first
 * row are. */
template <typename T>
static cuda_attention<T> problem_of(const struct heed_exec *exec, const struct heed_attention_args *a,
                                    bool packed, int64_t first_batch, int64_t head_rows, void *maximum,
                                    void *reciprocal) {
    cuda_attention<T> p = {};
    p.batch = packed ? 1 : a->q.size[0];
    p.heads = a->q.size[1];
    p.queries = a->q.size[2];
    p.width = a->q.size[3];
    p.kv_heads = a->k.size[1];
    p.keys = a->k.size[2];
    p.value_width = a->v.size[3];
    p.first_batch = first_batch;
    p.splits = 1;
    p.processors = cuda_of(exec)->processors;
    p.row_head = head_rows;
    p.row_batch = head_rows * p.heads;
    p.scale = (T)a->scale;
    p.q = heads_of<const T>(&a->q);
    p.k = heads_of<const T>(&a->k);
    p.v = heads_of<const T>(&a->v);
    p.y = heads_of<T>(&a->y);
    p.sink = heads_of<const T>(&a->sink);
    p.weights = heads_of<T>(&a->weights);
    p.lse = static_cast<T *>(a->lse.data);
    p.maximum = static_cast<T *>(maximum);
    p.reciprocal = static_cast<T *>(reciprocal);
    p.normalizer = a->normalizer;
    p.threshold = a->threshold;
    p.keep_scale = a->threshold < 65536 ? (T)heed_keep_scale(a->threshold) : T(1);
    p.random = heed_attention_random(&a->random);
    p.stages = a->stages;
    for (int i = 0; i < a->stages; i++) {
        p.stage[i].kind = a->stage[i].kind;
        p.stage[i].tensor = heads_of<const T>(&a->stage[i].tensor);
        p.stage[i].cap = (T)a->stage[i].cap;
        p.stage[i].param = a->stage[i].param;
    }
    for (int i = 0; i < a->params; i++) p.param[i] = param_of<T>(&a->param[i]);
    return p;
}

template <typename T>
static void add_gradients(const struct heed_attention_args *a, void *delta, cuda_attention<T> *p) {
    p->delta = static_cast<T *>(delta);
    p->dlse = static_cast<const T *>(a->dlse.data);
    p->dy = heads_of<const T>(&a->dy);
    p->dweights = heads_of<const T>(&a->dweights);
    p->dq = heads_of<T>(&a->dq.view);
    p->dk = heads_of<T>(&a->dk.view);
    p->dv = heads_of<T>(&a->dv.view);
    p->add_dq = a->dq.add;
    p->add_dk = a->dk.add;
    p->add_dv = a->dv.add;
}

/* Sends the mask's program to the device. */
template <typename T>
static heed_status send_mask(struct heed_exec *exec, const struct heed_attention_args *a, int64_t batch,
                             void *place, cuda_attention<T> *p) {
    struct heed_why why = {NULL};
    const int count = cuda_mask_count(a->mask, &why);
    if (count <= 0) return HEED_OK;
    const size_t bytes = (size_t)count * sizeof(struct cuda_mask_node);
    void *nodes = heed_host->block_new(exec->memory, bytes);
    if (!nodes)
        return heed_host->fail(exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_ATTENTION,
                               "no memory for a mask of %d parts", count);
    cuda_mask_flatten(a->mask, batch, static_cast<struct cuda_mask_node *>(nodes));
    const heed_status status = heed_cuda_device.write(cuda_of(exec), place, nodes, bytes);
    heed_host->block_free(exec->memory, nodes);
    p->mask.node = static_cast<const struct cuda_mask_node *>(place);
    p->mask.count = count;
    p->mask.queries = p->queries;
    p->mask.keys = p->keys;
    return status;
}

static void note(struct heed_exec *exec, const struct heed_attention_args *a, bool backward, size_t scratch) {
    struct heed_last_run *last = &exec->last[HEED_PRIMITIVE_ATTENTION];
    const int edge = a->q.dtype == HEED_F64 ? cuda_edge<double> : cuda_edge<float>;
    snprintf(last->note, sizeof last->note, "%s: %lld rows, tiles of %d x %d, %zu bytes of scratch",
             backward ? "backward" : "forward", (long long)rows_of(a), edge, edge, scratch);
}

/* ---- forward ---- */

template <typename T>
static heed_status forward_one(struct heed_exec *exec, const struct cuda_choice *choice,
                               const struct heed_attention_args *a, cuda_attention<T> *p, int64_t batch,
                               void *nodes) {
    heed_status status = send_mask(exec, a, batch, nodes, p);
    if (status == HEED_OK) status = cuda_attention_forward(exec, choice, *p);
    if (status == HEED_OK && heed_has(&a->weights)) status = cuda_attention_weights(exec, choice, *p);
    if (status != HEED_OK || !heed_attention_chooses(a)) return status;
    cuda_chosen<T> chosen = {};
    chosen.chosen = static_cast<T *>(a->chosen.data);
    chosen.columns = static_cast<T *>(a->column_sums.data);
    chosen.head_list = static_cast<const int32_t *>(a->head_list.data);
    chosen.query_list = static_cast<const int32_t *>(a->query_list.data);
    chosen.heads = heed_attention_chosen_count(&a->head_list, p->heads);
    chosen.queries = heed_attention_chosen_count(&a->query_list, p->queries);
    return cuda_attention_chosen(exec, choice, *p, chosen);
}

template <typename T>
static heed_status forward(struct heed_exec *exec, const struct cuda_choice *choice,
                           const struct heed_attention_args *a, char *statistics, char *nodes) {
    char *reciprocal = statistics + row_bytes(a);
    if (!heed_is_packed(&a->packed)) {
        cuda_attention<T> p = problem_of<T>(exec, a, false, 0, a->q.size[2], statistics, reciprocal);
        p.splits = splits(exec, a);
        p.parts = reinterpret_cast<T *>(nodes + mask_bytes(a));
        return forward_one(exec, choice, a, &p, 0, nodes);
    }
    for (int64_t i = 0; i < a->packed.sequences; i++) {
        struct heed_attention_args own;
        const size_t at = (size_t)a->packed.query_starts[i] * sizeof(T);
        sequence_args(a, i, &own);
        cuda_attention<T> p =
            problem_of<T>(exec, &own, true, i, a->q.size[2], statistics + at, reciprocal + at);
        const heed_status status = forward_one(exec, choice, &own, &p, i, nodes);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

static heed_status attention_forward(struct heed_exec *exec, const void *arguments, void *saved,
                                     void *scratch) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    char *statistics = static_cast<char *>(saved ? saved : scratch);
    char *nodes = static_cast<char *>(scratch) + 2 * row_bytes(a);
    struct cuda_choice choice;
    cuda_attention_choose(exec, a, &choice);
    note(exec, a, false, 2 * row_bytes(a) + mask_bytes(a) + part_bytes(exec, a));
    return a->q.dtype == HEED_F64 ? forward<double>(exec, &choice, a, statistics, nodes)
                                  : forward<float>(exec, &choice, a, statistics, nodes);
}

/* ---- gradients of scores ---- */

static heed_status run_kernel(struct heed_exec *exec, enum heed_primitive primitive, const void *args) {
    const struct heed_kernel *kernel = heed_host->select(exec, primitive, args);
    return kernel ? heed_host->forward(exec, kernel, args, NULL) : HEED_ERROR_UNSUPPORTED;
}

/* Sums [batch, heads, rows, columns] to a gradient that repeats where they are to be summed further. */
struct sums_view {
    void *data;
    int64_t rows, columns, row_stride, column_stride, pair_stride;
};

static heed_status deliver(struct heed_exec *exec, const struct heed_grad_view *gradient,
                           const struct sums_view &sums) {
    struct heed_copy_args copy = {};
    const struct heed_view *g = &gradient->view;
    struct heed_view *x = &copy.x, *y = &copy.y.view;
    *x = *y = *g;
    x->data = sums.data;
    x->size[2] = y->size[2] = sums.rows;
    x->size[3] = y->size[3] = sums.columns;
    x->stride[3] = sums.column_stride;
    x->stride[2] = sums.row_stride;
    x->stride[1] = sums.pair_stride;
    x->stride[0] = sums.pair_stride * g->size[1];
    copy.y.add = true;
    return run_kernel(exec, HEED_PRIMITIVE_COPY, &copy);
}

/* Of a row, or a column, of sums for each pair. */
static heed_status deliver_line(struct heed_exec *exec, const struct heed_grad_view *gradient, void *sums,
                                int64_t rows, int64_t columns) {
    return deliver(exec, gradient, {sums, rows, columns, columns, 1, rows * columns});
}

/* 0 to each element of a gradient that is not added to. It has them even where it repeats no times: a vector
 * by key of a problem without queries, for instance. */
static heed_status clear(struct heed_exec *exec, const struct heed_grad_view *gradient) {
    struct heed_fill_args fill = {};
    if (!heed_has(&gradient->view) || gradient->add) return HEED_OK;
    fill.y = gradient->view;
    for (int d = 0; d < fill.y.rank; d++)
        if (fill.y.stride[d] == 0) fill.y.size[d] = 1;
    return run_kernel(exec, HEED_PRIMITIVE_FILL, &fill);
}

static bool repeats(const struct heed_view *v, int d) {
    return v->stride[d] == 0 && v->size[d] > 1;
}

template <typename T>
static heed_status stage_gradient(struct heed_exec *exec, const struct cuda_choice *choice,
                                  const struct heed_attention_args *a, const cuda_attention<T> &p, int stage,
                                  void *sums) {
    struct heed_grad_view gradient = a->stage[stage].dtensor;
    if (!heed_has(&gradient.view) || p.queries * p.keys == 0) return HEED_OK;
    gradient.view.size[0] = p.batch; /* a packed sequence is one entry */
    const bool by_distance = a->stage[stage].kind == HEED_STAGE_DISTANCE;
    const bool queries = repeats(&gradient.view, 2), keys = repeats(&gradient.view, 3);
    cuda_heads<T> to = {};
    to.data = static_cast<T *>(sums);
    if (!by_distance && !queries && !keys)
        return cuda_attention_score_sums(exec, choice, p, stage, CUDA_SUM_CELL, heads_of<T>(&gradient.view),
                                         true);
    const enum cuda_sum how = by_distance ? CUDA_SUM_DISTANCE : keys ? CUDA_SUM_QUERY : CUDA_SUM_KEY;
    const heed_status status = cuda_attention_score_sums(exec, choice, p, stage, how, to, false);
    if (status != HEED_OK) return status;
    if (how == CUDA_SUM_QUERY) return deliver_line(exec, &gradient, sums, p.queries, 1);
    return deliver_line(exec, &gradient, sums, 1, how == CUDA_SUM_KEY ? p.keys : p.queries + p.keys - 1);
}

/* A thread gathers what its row, or its column, gives to each number of the parameter; the rows of a vector
 * are then summed. */
template <typename T>
static heed_status param_gradient(struct heed_exec *exec, const struct cuda_choice *choice,
                                  const struct heed_attention_args *a, const cuda_attention<T> &p, int stage,
                                  int own, void *sums) {
    const struct heed_stage_param *param = &a->param[a->stage[stage].param + own];
    struct heed_grad_view gradient = param->dtensor;
    if (!heed_has(&gradient.view) || p.queries * p.keys == 0) return HEED_OK;
    gradient.view.size[0] = p.batch;
    const int64_t numbers = param_numbers(param),
                  strips = strips_of<T>(param, p.batch * p.heads, p.queries, p.keys),
                  lines = strips * cuda_edge<T>;
    const heed_status status = cuda_attention_param_sums(
        exec, choice, p, {stage, own, param->scope == HEED_PER_KEY, numbers, strips, static_cast<T *>(sums)});
    if (status != HEED_OK) return status;
    if (param->scope == HEED_PER_KEY) return deliver(exec, &gradient, {sums, 1, p.keys, 0, 1, lines});
    const int64_t rows = param->scope == HEED_PER_QUERY ? p.queries : lines;
    if (param->scope != HEED_PER_QUERY) gradient.view.stride[2] = 0;
    return deliver(exec, &gradient, {sums, rows, numbers, 1, lines, lines * numbers});
}

/* Of what a stage adds, or of the parameters of the user's. */
template <typename T>
static heed_status stage_gradients(struct heed_exec *exec, const struct cuda_choice *choice,
                                   const struct heed_attention_args *a, const cuda_attention<T> &p, int stage,
                                   void *sums) {
    heed_status status = HEED_OK;
    if (a->stage[stage].kind != HEED_STAGE_CUSTOM) return stage_gradient(exec, choice, a, p, stage, sums);
    for (int i = 0; i < a->stage[stage].rule->n_params && status == HEED_OK; i++)
        status = param_gradient(exec, choice, a, p, stage, i, sums);
    return status;
}

template <typename T>
static heed_status sink_gradient(struct heed_exec *exec, const struct heed_attention_args *a,
                                 const cuda_attention<T> &p, void *sums) {
    struct heed_grad_view gradient = a->dsink;
    if (!heed_has(&gradient.view)) return HEED_OK;
    gradient.view.size[0] = p.batch;
    gradient.view.stride[2] = gradient.view.stride[3] = 0;
    const heed_status status = cuda_attention_sink_sums(exec, p, static_cast<T *>(sums));
    return status == HEED_OK ? deliver_line(exec, &gradient, sums, p.queries, 1) : status;
}

/* ---- backward ---- */

template <typename T>
static heed_status backward_one(struct heed_exec *exec, const struct cuda_choice *choice,
                                const struct heed_attention_args *a, cuda_attention<T> *p, int64_t batch,
                                void *nodes, void *sums) {
    heed_status status = send_mask(exec, a, batch, nodes, p);
    if (status == HEED_OK) status = cuda_attention_delta(exec, choice, *p);
    if (status == HEED_OK) status = cuda_attention_backward(exec, choice, *p);
    for (int i = 0; i < a->stages && status == HEED_OK; i++)
        status = stage_gradients(exec, choice, a, *p, i, sums);
    return status == HEED_OK ? sink_gradient(exec, a, *p, sums) : status;
}

template <typename T>
static heed_status backward(struct heed_exec *exec, const struct cuda_choice *choice,
                            const struct heed_attention_args *a, char *saved, char *scratch) {
    char *reciprocal = saved + row_bytes(a), *nodes = scratch + row_bytes(a), *sums = nodes + mask_bytes(a);
    heed_status status = clear(exec, &a->dsink);
    for (int i = 0; i < a->stages && status == HEED_OK; i++) status = clear(exec, &a->stage[i].dtensor);
    for (int i = 0; i < a->params && status == HEED_OK; i++) status = clear(exec, &a->param[i].dtensor);
    if (!heed_is_packed(&a->packed)) {
        cuda_attention<T> p = problem_of<T>(exec, a, false, 0, a->q.size[2], saved, reciprocal);
        add_gradients(a, scratch, &p);
        return status == HEED_OK ? backward_one(exec, choice, a, &p, 0, nodes, sums) : status;
    }
    for (int64_t i = 0; i < a->packed.sequences && status == HEED_OK; i++) {
        struct heed_attention_args own;
        const size_t at = (size_t)a->packed.query_starts[i] * sizeof(T);
        sequence_args(a, i, &own);
        cuda_attention<T> p = problem_of<T>(exec, &own, true, i, a->q.size[2], saved + at, reciprocal + at);
        add_gradients(&own, scratch + at, &p);
        status = backward_one(exec, choice, &own, &p, i, nodes, sums);
    }
    return status;
}

static heed_status attention_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                      void *scratch) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct cuda_choice choice;
    cuda_attention_choose(exec, a, &choice);
    note(exec, a, true, row_bytes(a) + mask_bytes(a) + sum_bytes(a));
    char *statistics = static_cast<char *>(saved), *areas = static_cast<char *>(scratch);
    return a->q.dtype == HEED_F64 ? backward<double>(exec, &choice, a, statistics, areas)
                                  : backward<float>(exec, &choice, a, statistics, areas);
}

const struct heed_kernel heed_cuda_attention = {"cuda", applies, sizes, attention_forward,
                                                attention_backward};
