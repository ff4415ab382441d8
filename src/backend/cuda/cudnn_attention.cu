/* The two graphs of attention. */
#include "backend/cuda/cudnn_attention.cuh"

#include "backend/cuda/cudnn_graph.cuh"

#include <initializer_list>

#define ELEMENT CUDNN_DATA_BFLOAT16
#define STATISTIC CUDNN_DATA_FLOAT

/* What both graphs are made of. */
struct parts {
    struct dnn_graph *g;
    const struct dnn_attention *a;
    struct dnn_tensor query_lengths, key_lengths; /* without descriptors where there are none */
    struct dnn_tensor hidden;                     /* −∞ */
    struct dnn_tensor kept, kept_scale;           /* of dropout: 0 or 1 for each cell, and 1 / share */
};

/* ---- tensors ---- */

/* [batch, heads, rows, width] */
static struct dnn_tensor rows_of(const struct parts *p, int64_t id, int64_t heads, int64_t rows,
                                 int64_t width, const int64_t stride[3]) {
    const int64_t size[4] = {p->a->batch, heads, rows, width};
    const int64_t strides[4] = {stride[0], stride[1], stride[2], 1};
    return dnn_bound(p->g, id, ELEMENT, size, strides);
}

/* The same memory as [batch, heads, width, rows] */
static struct dnn_tensor columns_of(const struct parts *p, int64_t id, int64_t heads, int64_t rows,
                                    int64_t width, const int64_t stride[3]) {
    const int64_t size[4] = {p->a->batch, heads, width, rows};
    const int64_t strides[4] = {stride[0], stride[1], 1, stride[2]};
    return dnn_bound(p->g, id, ELEMENT, size, strides);
}

static struct dnn_tensor statistics(const struct parts *p, int64_t id) {
    const struct dnn_attention *a = p->a;
    const int64_t size[4] = {a->batch, a->heads, a->queries, 1};
    const int64_t stride[4] = {a->heads * a->queries, a->queries, 1, 1};
    return dnn_bound(p->g, id, STATISTIC, size, stride);
}

static struct dnn_tensor lengths(const struct parts *p, int64_t id) {
    const int64_t size[4] = {p->a->batch, 1, 1, 1}, stride[4] = {1, 1, 1, 1};
    return dnn_bound(p->g, id, CUDNN_DATA_INT32, size, stride);
}

/* [batch, heads, queries, keys] */
static struct dnn_tensor cells(const struct parts *p, cudnnDataType_t type) {
    const struct dnn_attention *a = p->a;
    return dnn_virtual(p->g, type, a->batch, a->heads, a->queries, a->keys);
}

/* [batch, heads, queries, 1] */
static struct dnn_tensor row_numbers(const struct parts *p) {
    const struct dnn_attention *a = p->a;
    return dnn_virtual(p->g, STATISTIC, a->batch, a->heads, a->queries, 1);
}

/* What dropout draws. */
static void draw(struct parts *p) {
    const int64_t one[4] = {1, 1, 1, 1};
    const struct dnn_tensor seed = dnn_bound(p->g, DNN_SEEDS, CUDNN_DATA_INT64, one, one),
                            offset = dnn_bound(p->g, DNN_OFFSET, CUDNN_DATA_INT64, one, one);
    p->kept = cells(p, STATISTIC);
    dnn_bernoulli(p->g, (double)p->a->kept / 65536, &seed, &offset, &p->kept);
    p->kept_scale = dnn_number(p->g, DNN_KEPT_SCALE);
}

static struct parts begin(struct dnn_graph *g, const struct dnn_attention *a) {
    struct parts p = {g, a, {}, {}, {}, {}, {}};
    if (a->lengths) {
        p.query_lengths = lengths(&p, DNN_QUERY_LENGTHS);
        p.key_lengths = lengths(&p, DNN_KEY_LENGTHS);
    }
    if (a->lengths || a->causal) p.hidden = dnn_number(g, DNN_HIDDEN);
    if (a->kept) draw(&p);
    return p;
}

/* ---- scores ---- */

static struct dnn_tensor apply(const struct parts *p, cudnnPointwiseMode_t mode, const struct dnn_tensor *x,
                               const struct dnn_tensor *b) {
    const struct dnn_tensor y = cells(p, STATISTIC);
    dnn_pointwise(p->g, mode, x, b, &y);
    return y;
}

static struct dnn_tensor compare(const struct parts *p, cudnnPointwiseMode_t mode, const struct dnn_tensor *x,
                                 const struct dnn_tensor *b) {
    const struct dnn_tensor y = cells(p, CUDNN_DATA_BOOLEAN);
    dnn_pointwise(p->g, mode, x, b, &y);
    return y;
}

/* The row or the column of each cell. */
static struct dnn_tensor place(const struct parts *p, const struct dnn_tensor *s, int64_t dimension) {
    const struct dnn_tensor y = cells(p, CUDNN_DATA_INT32);
    dnn_index(p->g, s, dimension, &y);
    return y;
}

static struct dnn_tensor hide(const struct parts *p, const struct dnn_tensor *s,
                              const struct dnn_tensor *visible) {
    const struct dnn_tensor y = cells(p, STATISTIC);
    dnn_select(p->g, visible, s, &p->hidden, &y);
    return y;
}

static struct dnn_tensor hide_behind_lengths(const struct parts *p, const struct dnn_tensor *s) {
    const struct dnn_tensor row = place(p, s, 2), column = place(p, s, 3);
    const struct dnn_tensor row_is_there = compare(p, CUDNN_POINTWISE_CMP_LT, &row, &p->query_lengths);
    const struct dnn_tensor column_is_there = compare(p, CUDNN_POINTWISE_CMP_LT, &column, &p->key_lengths);
    const struct dnn_tensor both = compare(p, CUDNN_POINTWISE_LOGICAL_AND, &row_is_there, &column_is_there);
    return hide(p, s, &both);
}

static struct dnn_tensor hide_future(const struct parts *p, const struct dnn_tensor *s) {
    const struct dnn_tensor row = place(p, s, 2), column = place(p, s, 3);
    const struct dnn_tensor past = compare(p, CUDNN_POINTWISE_CMP_GE, &row, &column);
    return hide(p, s, &past);
}

/* q·kᵀ·scale + bias, behind lengths −∞. */
static struct dnn_tensor scores(const struct parts *p, const struct dnn_tensor *q,
                                const struct dnn_tensor *kt, const struct dnn_tensor *scale) {
    const struct dnn_attention *a = p->a;
    const struct dnn_lengths lengths = {&p->query_lengths, &p->key_lengths, NULL};
    const struct dnn_tensor dot = cells(p, STATISTIC);
    dnn_matmul(p->g, q, kt, &dot, &lengths);
    struct dnn_tensor s = apply(p, CUDNN_POINTWISE_MUL, &dot, scale);
    if (a->bias_size[0]) {
        const struct dnn_tensor bias = dnn_bound(p->g, DNN_BIAS, ELEMENT, a->bias_size, a->bias_stride);
        s = apply(p, CUDNN_POINTWISE_ADD, &s, &bias);
    }
    return a->lengths ? hide_behind_lengths(p, &s) : s;
}

/* ---- forward ---- */

/* Weights after dropout, as the second product takes them. */
static void drop(const struct parts *p, const struct dnn_tensor *weights, const struct dnn_tensor *dropped) {
    const struct dnn_tensor left = apply(p, CUDNN_POINTWISE_MUL, weights, &p->kept);
    dnn_pointwise(p->g, CUDNN_POINTWISE_MUL, &left, &p->kept_scale, dropped);
}

/* m = max s, P = e^(s − m) / Σ, statistics = m + log Σ. */
static struct dnn_tensor softmax(const struct parts *p, const struct dnn_tensor *s,
                                 const struct dnn_tensor *log_sum) {
    const struct dnn_tensor maximum = row_numbers(p), sum = row_numbers(p), log = row_numbers(p);
    dnn_reduce(p->g, CUDNN_REDUCE_TENSOR_MAX, s, &maximum);
    const struct dnn_tensor below = apply(p, CUDNN_POINTWISE_SUB, s, &maximum);
    const struct dnn_tensor e = apply(p, CUDNN_POINTWISE_EXP, &below, NULL);
    dnn_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &e, &sum);
    dnn_pointwise(p->g, CUDNN_POINTWISE_LOG, &sum, NULL, &log);
    dnn_pointwise(p->g, CUDNN_POINTWISE_ADD, &maximum, &log, log_sum);
    const struct dnn_tensor weights = cells(p, p->a->kept ? STATISTIC : ELEMENT);
    dnn_pointwise(p->g, CUDNN_POINTWISE_DIV, &e, &sum, &weights);
    if (p->a->kept == 0) return weights;
    const struct dnn_tensor dropped = cells(p, ELEMENT);
    drop(p, &weights, &dropped);
    return dropped;
}

static void build_forward(const struct parts *p) {
    const struct dnn_attention *a = p->a;
    struct dnn_graph *g = p->g;
    const struct dnn_tensor q = rows_of(p, DNN_Q, a->heads, a->queries, a->width, a->q);
    const struct dnn_tensor kt = columns_of(p, DNN_K, a->kv_heads, a->keys, a->width, a->k);
    const struct dnn_tensor v = rows_of(p, DNN_V, a->kv_heads, a->keys, a->value_width, a->v);
    const struct dnn_tensor y = rows_of(p, DNN_Y, a->heads, a->queries, a->value_width, a->y);
    const struct dnn_tensor scale = dnn_number(g, DNN_SCALE), log_sum = statistics(p, DNN_STATISTICS);
    struct dnn_tensor s = scores(p, &q, &kt, &scale);
    if (a->causal) s = hide_future(p, &s);
    const struct dnn_tensor weights = softmax(p, &s, &log_sum);
    const struct dnn_lengths lengths = {&p->query_lengths, NULL, &p->key_lengths};
    dnn_matmul(g, &weights, &v, &y, &lengths);
}

/* ---- backward ---- */

/* Δ = rowsum(dy ∘ y) · share */
static struct dnn_tensor delta(const struct parts *p, const struct dnn_tensor *dy) {
    const struct dnn_attention *a = p->a;
    const struct dnn_tensor y = rows_of(p, DNN_Y, a->heads, a->queries, a->value_width, a->y);
    const struct dnn_tensor products =
        dnn_virtual(p->g, STATISTIC, a->batch, a->heads, a->queries, a->value_width);
    const struct dnn_tensor sum = row_numbers(p), share = dnn_number(p->g, DNN_KEPT_SHARE),
                            kept = statistics(p, DNN_DELTA);
    dnn_pointwise(p->g, CUDNN_POINTWISE_MUL, dy, &y, &products);
    dnn_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &products, &sum);
    dnn_pointwise(p->g, CUDNN_POINTWISE_MUL, &sum, &share, &kept);
    return kept;
}

/* The gradient of keys or values: x transposed times rows, summed over the query heads that share them. */
static void key_gradient(const struct parts *p, const struct dnn_tensor *x, const struct dnn_tensor *rows,
                         int64_t id, int64_t width, const int64_t stride[3]) {
    const struct dnn_attention *a = p->a;
    const struct dnn_lengths lengths = {&p->key_lengths, NULL, &p->query_lengths};
    const struct dnn_tensor transposed = dnn_transposed(p->g, x, ELEMENT);
    dnn_reshape(p->g, x, &transposed);
    const struct dnn_tensor gradient = rows_of(p, id, a->kv_heads, a->keys, width, stride);
    if (a->heads == a->kv_heads) {
        dnn_matmul(p->g, &transposed, rows, &gradient, &lengths);
        return;
    }
    const struct dnn_tensor each = dnn_virtual(p->g, ELEMENT, a->batch, a->heads, a->keys, width);
    dnn_matmul(p->g, &transposed, rows, &each, &lengths);
    dnn_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &each, &gradient);
}

/* With P = e^(s − statistics): dv = Pᵀ·dy, ds = P ∘ (dy·vᵀ − Δ), dbias = ds, dk = scale·dsᵀ·q, dq =
 * scale·ds·k. Dropout with mask M: dv = (P ∘ M / share)ᵀ·dy, ds = P ∘ (dy·vᵀ ∘ M − Δ) / share. That dq is the
 * product itself, and not rounded from sums that tiles add to, is what makes it the same every time. */
static void build_backward(const struct parts *p) {
    const struct dnn_attention *a = p->a;
    struct dnn_graph *g = p->g;
    const struct dnn_tensor q = rows_of(p, DNN_Q, a->heads, a->queries, a->width, a->q);
    const struct dnn_tensor kt = columns_of(p, DNN_K, a->kv_heads, a->keys, a->width, a->k);
    const struct dnn_tensor vt = columns_of(p, DNN_V, a->kv_heads, a->keys, a->value_width, a->v);
    const struct dnn_tensor dy = rows_of(p, DNN_DY, a->heads, a->queries, a->value_width, a->dy);
    const struct dnn_tensor dq = rows_of(p, DNN_DQ, a->heads, a->queries, a->width, a->dq);
    const struct dnn_tensor scale = dnn_number(g, DNN_SCALE), log_sum = statistics(p, DNN_STATISTICS);
    const struct dnn_tensor centre = delta(p, &dy);
    const struct dnn_tensor s = scores(p, &q, &kt, &scale);
    struct dnn_tensor below = apply(p, CUDNN_POINTWISE_SUB, &s, &log_sum);
    if (a->causal) below = hide_future(p, &below);
    const struct dnn_tensor weights = apply(p, CUDNN_POINTWISE_EXP, &below, NULL);
    struct dnn_tensor dropped = weights;
    if (a->kept) {
        dropped = cells(p, STATISTIC);
        drop(p, &weights, &dropped);
    }
    key_gradient(p, &dropped, &dy, DNN_DV, a->value_width, a->dv);

    const struct dnn_lengths score_lengths = {&p->query_lengths, &p->key_lengths, NULL};
    struct dnn_tensor dweights = cells(p, STATISTIC);
    dnn_matmul(g, &dy, &vt, &dweights, &score_lengths);
    if (a->kept) dweights = apply(p, CUDNN_POINTWISE_MUL, &dweights, &p->kept);
    const struct dnn_tensor centred = apply(p, CUDNN_POINTWISE_SUB, &dweights, &centre);
    struct dnn_tensor ds = apply(p, CUDNN_POINTWISE_MUL, &centred, &weights);
    if (a->kept) ds = apply(p, CUDNN_POINTWISE_MUL, &ds, &p->kept_scale);
    if (a->bias_gradient) {
        const int64_t *size = a->bias_size;
        const int64_t stride[4] = {size[1] * size[2] * size[3], size[2] * size[3], size[3], 1};
        const struct dnn_tensor dbias = dnn_bound(g, DNN_DBIAS, ELEMENT, size, stride);
        dnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, &ds, &dbias);
    }
    const struct dnn_tensor ddot = apply(p, CUDNN_POINTWISE_MUL, &ds, &scale);
    key_gradient(p, &ddot, &q, DNN_DK, a->width, a->dk);
    const struct dnn_tensor k = dnn_transposed(g, &kt, ELEMENT);
    dnn_reshape(g, &kt, &k);
    const struct dnn_lengths query_lengths = {&p->query_lengths, NULL, &p->key_lengths};
    dnn_matmul(g, &ddot, &k, &dq, &query_lengths);
}

/* ---- plans ---- */

/* Which engine gives the same bits every time; false if none is known to. The graph above is enough where
 * cuDNN has kernels that take it as it stands; on Blackwell one engine does, with the knobs that cuDNN's own
 * frontend turns for that, and it has no gradient of a bias and no dropout. */
static bool steady_engine(const struct dnn_target *target, const struct dnn_attention *a,
                          struct dnn_engine *engine) {
    enum { BLACKWELL = 5, DETERMINISTIC = 31 };
    *engine = {-1, 0, {}};
    if (!a->backward || target->version / 10 != 10) return target->version / 10 <= 12;
    *engine = {BLACKWELL, 2, {{CUDNN_KNOB_TYPE_KERNEL_CFG, DETERMINISTIC}, {CUDNN_KNOB_TYPE_STAGES, 2}}};
    return !a->bias_gradient && !a->kept && target->version <= 103 && target->library->version < 92300;
}

static bool plan_whole(struct dnn_graph *g, const struct dnn_target *target, const struct dnn_attention *a) {
    struct dnn_engine engine;
    dnn_graph_begin(g, target);
    if (!steady_engine(target, a, &engine)) return false;
    const struct parts p = begin(g, a);
    if (a->backward)
        build_backward(&p);
    else
        build_forward(&p);
    return dnn_plan(g, &engine, DNN_MOST_WORKSPACE);
}

/* ---- slices ---- */

int64_t dnn_attention_offset(const struct dnn_attention *a, int64_t id, int64_t batch, int64_t kv_head) {
    enum { ELEMENT_BYTES = 2, NUMBER_BYTES = 4, SEED_BYTES = 8 };
    const int64_t head = kv_head * (a->heads / a->kv_heads), *size = a->bias_size;
    const int64_t bias_batch = size[0] > 1 ? batch : 0, bias_head = size[1] > 1 ? head : 0;
    switch ((enum dnn_attention_id)id) {
    case DNN_Q:
        return ELEMENT_BYTES * (batch * a->q[0] + head * a->q[1]);
    case DNN_K:
        return ELEMENT_BYTES * (batch * a->k[0] + kv_head * a->k[1]);
    case DNN_V:
        return ELEMENT_BYTES * (batch * a->v[0] + kv_head * a->v[1]);
    case DNN_Y:
        return ELEMENT_BYTES * (batch * a->y[0] + head * a->y[1]);
    case DNN_DY:
        return ELEMENT_BYTES * (batch * a->dy[0] + head * a->dy[1]);
    case DNN_DQ:
        return ELEMENT_BYTES * (batch * a->dq[0] + head * a->dq[1]);
    case DNN_DK:
        return ELEMENT_BYTES * (batch * a->dk[0] + kv_head * a->dk[1]);
    case DNN_DV:
        return ELEMENT_BYTES * (batch * a->dv[0] + kv_head * a->dv[1]);
    case DNN_BIAS:
        return ELEMENT_BYTES * (bias_batch * a->bias_stride[0] + bias_head * a->bias_stride[1]);
    case DNN_DBIAS:
        return ELEMENT_BYTES * (bias_batch * size[1] + bias_head) * size[2] * size[3];
    case DNN_STATISTICS:
    case DNN_DELTA:
        return NUMBER_BYTES * (batch * a->heads + head) * a->queries;
    case DNN_QUERY_LENGTHS:
    case DNN_KEY_LENGTHS:
        return NUMBER_BYTES * batch;
    case DNN_SEEDS:
        return SEED_BYTES * (batch * a->kv_heads + kv_head);
    case DNN_SCALE:
    case DNN_HIDDEN:
    case DNN_KEPT_SHARE:
    case DNN_KEPT_SCALE:
    case DNN_OFFSET:
    case DNN_IDS:
        break;
    }
    return 0;
}

static int64_t divisor_up_to(int64_t number, int64_t most) {
    int64_t found = most < number ? most : number;
    while (number % found) found--;
    return found;
}

/* Biases may have any strides, and their gradients any sizes. */
static bool begins_aligned(const struct dnn_attention *a, const struct dnn_slice *slice) {
    bool aligned = true;
    for (const int64_t id : {DNN_BIAS, DNN_DBIAS}) {
        if (slice->batch < a->batch)
            aligned = aligned && dnn_attention_offset(a, id, slice->batch, 0) % 16 == 0;
        if (slice->kv_heads < a->kv_heads)
            aligned = aligned && dnn_attention_offset(a, id, 0, slice->kv_heads) % 16 == 0 &&
                      dnn_attention_offset(a, id, 1, 0) % 16 == 0;
    }
    return aligned;
}

/* The largest slice whose share of a workspace is no larger than what is allowed. False if even the smallest
 * is, or if what is to be summed would be cut; with dropout forward asks that for backward. */
static bool find_slice(const struct dnn_attention *a, int64_t workspace, struct dnn_slice *slice) {
    const int64_t slices = (workspace + DNN_MOST_WORKSPACE - 1) / DNN_MOST_WORKSPACE;
    const int64_t pairs = a->batch * a->kv_heads / slices;
    if (pairs < 1) return false;
    slice->batch = pairs >= a->kv_heads ? divisor_up_to(a->batch, pairs / a->kv_heads) : 1;
    slice->kv_heads = pairs >= a->kv_heads ? a->kv_heads : divisor_up_to(a->kv_heads, pairs);
    const bool sums = a->bias_gradient || (a->kept && a->bias_size[0]);
    const bool sums_batch = sums && a->bias_size[0] < a->batch,
               sums_heads = sums && a->bias_size[1] < a->heads;
    return !(sums_batch && slice->batch < a->batch) && !(sums_heads && slice->kv_heads < a->kv_heads) &&
           begins_aligned(a, slice);
}

static struct dnn_attention cut_to(const struct dnn_attention *a, const struct dnn_slice *slice) {
    struct dnn_attention cut = *a;
    cut.batch = slice->batch;
    cut.heads = a->heads / a->kv_heads * slice->kv_heads;
    cut.kv_heads = slice->kv_heads;
    if (a->bias_size[0] > 1) cut.bias_size[0] = cut.batch;
    if (a->bias_size[1] > 1) cut.bias_size[1] = cut.heads;
    return cut;
}

/* With dropout a slice has numbers of its own, so that both directions are cut by what backward's workspace
 * may be: all cells in bf16, in tiles, and a little more. */
static bool find_slice_of_dropout(const struct dnn_attention *a, struct dnn_slice *slice) {
    enum { CELL_BYTES = 2, TILE = 128, MORE = 1 << 20 };
    const int64_t queries = (a->queries + TILE - 1) / TILE * TILE, keys = (a->keys + TILE - 1) / TILE * TILE;
    const int64_t workspace = CELL_BYTES * a->batch * a->heads * queries * keys + MORE;
    return workspace <= DNN_MOST_WORKSPACE || find_slice(a, workspace, slice);
}

bool dnn_attention_plan(struct dnn_graph *g, const struct dnn_target *target, const struct dnn_attention *a,
                        struct dnn_slice *slice) {
    *slice = {a->batch, a->kv_heads};
    if (a->kept) {
        dnn_graph_begin(g, target);
        if (!find_slice_of_dropout(a, slice)) return false;
        const struct dnn_attention cut = cut_to(a, slice);
        return plan_whole(g, target, &cut);
    }
    if (plan_whole(g, target, a)) return true;
    if (dnn_lacks_memory(g->status) || g->too_large == 0 || !find_slice(a, g->too_large, slice)) return false;
    const struct dnn_attention cut = cut_to(a, slice);
    dnn_graph_end(g);
    return plan_whole(g, target, &cut);
}
