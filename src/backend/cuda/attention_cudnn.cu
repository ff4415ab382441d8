/* Attention by cuDNN: the problems whose rules it keeps, and what it needs around it.
 *
 * It reads q, k, v and writes y and the statistics once, keeping nothing of the size [queries, keys]; its
 * gradient may keep that in bf16 (cudnn_plans.cu says how much). What it does not do by itself:
 * - A masked key may hold NaN, and 0·NaN is NaN. So behind key lengths it gets copies of k and v with zeros
 *   there (2·(k + v) bytes read and written, each way), and gradients there are set to 0.
 * - A query that sees nothing gets NaN. An entry of length 0 is given one key, whose copy is 0, so y is 0;
 *   rows whose biases are all −∞ are found by their statistics and set to 0.
 * - It overwrites, and wants rows of 16 bytes: gradients that add up or lie otherwise go through scratch.
 * - Packed sequences are unpacked into a batch of equal lengths, with zeros behind each, and their results
 * packed again: that costs all tensors read and written once more. cuDNN has packed tensors of its own, but
 * no deterministic gradient for them but on H100 and B200, and its tiles reach over ends of sequences.
 *
 * saved: log Σ e^s of each row, f32. scratch: those copies and gradients, the workspace. */
#include <stdio.h>
#include <string.h>
#include <utility>

#include "backend/cuda/cudnn_plans.cuh"
#include "backend/cuda/pack.cuh"

/* Fewer queries are those of decoding, where every step is a new problem: planning takes half a second. */
enum { LEAST_QUERIES = 8, MOST_WIDTH = 256, VECTOR = 8 /* elements of 16 bytes */ };

/* Packed sequences: their number and lengths are rounded up to multiples of these, so that not every batch is
 * a new problem to plan; they are not unpacked to more than so many times their rows, or so many rows. */
enum { PACKED_SEQUENCES = 8, PACKED_LENGTH = 128, PACKED_TIMES = 4, PACKED_ROWS = 8192 };

static bool refuse(struct heed_why *why, const char *reason) {
    why->reason = reason;
    return false;
}

/* ---- when it applies ---- */

/* A mask is none, causal, key lengths, or both. */
struct masks {
    bool causal;
    const struct heed_bound_mask *lengths;
};

static bool add_mask(const struct heed_attention_args *a, const struct heed_bound_mask *mask,
                     struct masks *found) {
    if (!mask) return true;
    if (strcmp(mask->kind->name, "and") == 0)
        return add_mask(a, mask->a, found) && add_mask(a, mask->b, found);
    if (strcmp(mask->kind->name, "causal") == 0) {
        found->causal = true;
        return mask->number[HEED_DISTANCE_ALIGN] == HEED_TOP_LEFT || a->q.size[2] == a->k.size[2];
    }
    if (strcmp(mask->kind->name, "key_lengths") != 0 || found->lengths) return false;
    found->lengths = mask;
    return a->q.size[1] == 1 || mask->tensor[0].stride[1] == 0; /* the same for all heads */
}

/* Rows that vectors of 16 bytes can be read from. */
static bool is_laid_out(const struct heed_view *v) {
    bool fits = (uintptr_t)v->data % 16 == 0 && (v->stride[3] == 1 || v->size[3] == 1);
    for (int d = 0; d < 3; d++)
        fits = fits && (v->size[d] == 1 || (v->stride[d] > 0 && v->stride[d] % VECTOR == 0));
    return fits;
}

static bool keeps_rules(const struct heed_attention_args *a, struct heed_why *why) {
    if (a->q.dtype != HEED_BF16) return refuse(why, "cuDNN's is for bf16");
    if (a->normalizer != HEED_NORMALIZER_SOFTMAX) return refuse(why, "the normaliser is not the softmax");
    if (a->threshold < 65536) return refuse(why, "cuDNN's dropout has random numbers of its own");
    if (heed_has(&a->sink)) return refuse(why, "there is a sink");
    if (a->weights.rank > 0 || heed_attention_chooses(a)) return refuse(why, "weights are asked for");
    if (a->lse.rank > 0) return refuse(why, "the logarithm of the sum is asked for");
    if (a->stages > 1 || (a->stages == 1 && a->stage[0].kind != HEED_STAGE_BIAS))
        return refuse(why, "there are stages other than one bias");
    return true;
}

static int64_t rounded_up(int64_t number, int64_t unit) {
    return (number + unit - 1) / unit * unit;
}

static bool fits_unpacked(const struct heed_attention_args *a, struct heed_why *why) {
    const struct heed_packed *packed = &a->packed;
    const int64_t rows = a->q.size[2] > a->k.size[2] ? a->q.size[2] : a->k.size[2];
    const int64_t longest =
        packed->most_queries > packed->most_keys ? packed->most_queries : packed->most_keys;
    const int64_t unpacked =
        rounded_up(packed->sequences, PACKED_SEQUENCES) * rounded_up(longest, PACKED_LENGTH);
    if (a->stages) return refuse(why, "packed sequences have a bias");
    if (unpacked <= PACKED_ROWS || unpacked <= PACKED_TIMES * rows) return true;
    return refuse(why, "packed sequences are of too different lengths");
}

static bool has_fitting_shape(const struct heed_attention_args *a, struct heed_why *why) {
    const int64_t width = a->q.size[3], value_width = a->v.size[3];
    if (a->q.size[0] < 1 || a->q.size[1] < 1 || a->k.size[2] < 1)
        return refuse(why, "there is nothing to attend to");
    if (a->q.size[2] < LEAST_QUERIES) return refuse(why, "there are fewer than 8 queries");
    if (width < 1 || width % VECTOR || width > MOST_WIDTH || value_width < 1 || value_width % VECTOR ||
        value_width > MOST_WIDTH)
        return refuse(why, "a head's width is no multiple of 8 up to 256");
    if (heed_is_packed(&a->packed)) return fits_unpacked(a, why);
    if (!is_laid_out(&a->q) || !is_laid_out(&a->k) || !is_laid_out(&a->v) || !is_laid_out(&a->y))
        return refuse(why, "rows repeat or do not begin at multiples of 16 bytes");
    return true;
}

/* Of a bias, dimensions that repeat are none of cuDNN's. */
static bool has_fitting_bias(const struct heed_attention_args *a, struct heed_why *why) {
    if (a->stages == 0) return true;
    const struct heed_view *bias = &a->stage[0].tensor;
    if (bias->dtype != HEED_BF16 || (uintptr_t)bias->data % 16)
        return refuse(why, "the bias is not bf16 at a multiple of 16 bytes");
    if (bias->size[3] > 1 && bias->stride[3] != 1) return refuse(why, "the bias repeats along the keys");
    return true;
}

/* ---- from arguments to cuDNN's problem ---- */

static void set_dense(const struct heed_view *v, int64_t stride[3]) {
    stride[2] = v->size[3];
    stride[1] = stride[2] * v->size[2];
    stride[0] = stride[1] * v->size[1];
}

/* Those of dimensions of size 1 say nothing. */
static void set_strides(const struct heed_view *v, int64_t stride[3]) {
    set_dense(v, stride);
    for (int d = 0; d < 3; d++)
        if (v->size[d] > 1) stride[d] = v->stride[d];
}

/* Whether cuDNN may write a gradient where it belongs. */
static bool is_direct(const struct heed_grad_view *g) {
    return heed_has(&g->view) && !g->add && is_laid_out(&g->view);
}

static void set_gradient(const struct heed_grad_view *g, const struct heed_view *like, int64_t stride[3]) {
    if (is_direct(g))
        set_strides(&g->view, stride);
    else
        set_dense(like, stride);
}

static int64_t bias_elements(const struct dnn_attention *p) {
    return p->bias_size[0] * p->bias_size[1] * p->bias_size[2] * p->bias_size[3];
}

static void set_bias(const struct heed_attention_args *a, struct dnn_attention *p) {
    const struct heed_view *bias = &a->stage[0].tensor;
    for (int d = 3; d >= 0; d--) {
        const bool repeats = bias->stride[d] == 0;
        p->bias_size[d] = repeats ? 1 : bias->size[d];
        p->bias_stride[d] = !repeats ? bias->stride[d]
                            : d == 3 ? 1
                                     : p->bias_size[d + 1] * p->bias_stride[d + 1];
    }
}

/* As a batch that is laid out densely. */
static void set_unpacked(const struct heed_attention_args *a, struct dnn_attention *p) {
    p->batch = rounded_up(a->packed.sequences, PACKED_SEQUENCES);
    p->queries = rounded_up(a->packed.most_queries, PACKED_LENGTH);
    p->keys = rounded_up(a->packed.most_keys, PACKED_LENGTH);
    p->lengths = true;
    struct heed_view q = a->q, k = a->k, v = a->v, y = a->y;
    q.size[2] = y.size[2] = p->queries;
    k.size[2] = v.size[2] = p->keys;
    set_dense(&q, p->q);
    set_dense(&k, p->k);
    set_dense(&v, p->v);
    set_dense(&y, p->y);
    if (!p->backward) return;
    set_dense(&y, p->dy);
    set_dense(&q, p->dq);
    set_dense(&k, p->dk);
    set_dense(&v, p->dv);
}

static void problem_of(const struct heed_attention_args *a, bool backward, struct dnn_attention *p) {
    struct masks masks = {};
    memset(p, 0, sizeof *p);
    add_mask(a, a->mask, &masks);
    p->batch = a->q.size[0];
    p->heads = a->q.size[1];
    p->queries = a->q.size[2];
    p->width = a->q.size[3];
    p->kv_heads = a->k.size[1];
    p->keys = a->k.size[2];
    p->value_width = a->v.size[3];
    p->causal = masks.causal;
    p->lengths = masks.lengths != NULL;
    p->backward = backward;
    if (heed_is_packed(&a->packed)) {
        set_unpacked(a, p);
        return;
    }
    if (a->stages) set_bias(a, p);
    set_strides(&a->q, p->q);
    set_strides(&a->y, p->y);
    /* Behind lengths k and v are copies. */
    if (p->lengths) {
        set_dense(&a->k, p->k);
        set_dense(&a->v, p->v);
    } else {
        set_strides(&a->k, p->k);
        set_strides(&a->v, p->v);
    }
    if (!backward) return;
    if (heed_has(&a->dy) && is_laid_out(&a->dy))
        set_strides(&a->dy, p->dy);
    else
        set_dense(&a->y, p->dy);
    set_gradient(&a->dq, &a->q, p->dq);
    set_gradient(&a->dk, &a->k, p->dk);
    set_gradient(&a->dv, &a->v, p->dv);
    p->bias_gradient = a->stages && heed_has(&a->stage[0].dtensor.view);
}

/* Forward does not know yet which gradients will be wanted, or where: all, where the tensors themselves are
 * laid out as they are. */
static void expect_backward(const struct heed_attention_args *a, struct dnn_attention *p) {
    struct heed_attention_args all = *a;
    all.dy = a->y;
    all.dq.view = a->q;
    all.dk.view = a->k;
    all.dv.view = a->v;
    if (a->stages) all.stage[0].dtensor.view = a->stage[0].tensor;
    problem_of(&all, true, p);
}

static bool applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct masks masks = {};
    struct dnn_attention forward, backward;
    if (!keeps_rules(a, why) || !has_fitting_shape(a, why) || !has_fitting_bias(a, why)) return false;
    if (!add_mask(a, a->mask, &masks))
        return refuse(why, "the mask is not causal from the top left, nor key lengths of batch entries");
    if (heed_is_packed(&a->packed) && masks.lengths)
        return refuse(why, "packed sequences have lengths beside their own");
    if (!dnn_is_there(exec, why)) return false;
    problem_of(a, false, &forward);
    expect_backward(a, &backward);
    return dnn_plan_of(exec, &forward, why).graph && dnn_plan_of(exec, &backward, why).graph;
}

/* ---- memory ---- */

/* Where things are in scratch, by the ids of what they are bound to; 0 bytes: they are elsewhere. */
struct areas {
    size_t at[DNN_IDS], query_starts, key_starts, workspace, all;
};

/* What cuDNN's workspace begins at, which is more than blocks of memory do. */
enum { WORKSPACE_ALIGNMENT = 256 };

static size_t aligned(size_t bytes) {
    return (bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* The first such place in scratch; sizes() asks for that much more. */
static char *aligned_scratch(void *scratch) {
    return reinterpret_cast<char *>(aligned((size_t)scratch));
}

static void reserve(struct areas *s, enum dnn_attention_id id, int64_t elements, size_t bytes, bool wanted) {
    s->at[id] = s->all;
    if (wanted) s->all += aligned((size_t)elements * bytes);
}

static int64_t row_count(const struct dnn_attention *p) {
    return p->batch * p->heads * p->queries;
}

/* Lengths of both kinds, then starts of both, one behind the other: they are sent at once. */
static void reserve_starts(struct areas *s, int64_t batch) {
    reserve(s, DNN_QUERY_LENGTHS, 4 * batch + 2, sizeof(int32_t), true);
    s->at[DNN_KEY_LENGTHS] = s->at[DNN_QUERY_LENGTHS] + (size_t)batch * sizeof(int32_t);
    s->query_starts = s->at[DNN_KEY_LENGTHS] + (size_t)batch * sizeof(int32_t);
    s->key_starts = s->query_starts + (size_t)(batch + 1) * sizeof(int32_t);
}

static struct areas areas_of(const struct heed_attention_args *a, const struct dnn_attention *p,
                             int64_t workspace, bool saves) {
    struct areas s = {};
    const int64_t rows = row_count(p), keys = p->batch * p->kv_heads * p->keys;
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
    reserve(&s, DNN_STATISTICS, rows, sizeof(float), !saves);
    if (p->backward) {
        reserve(&s, DNN_DELTA, rows, sizeof(float), true);
        reserve(&s, DNN_DY, rows * p->value_width, 2, packed || !is_laid_out(&a->dy));
        reserve(&s, DNN_DQ, rows * p->width, 2, packed || !is_direct(&a->dq));
        reserve(&s, DNN_DK, keys * p->width, 2, packed || !is_direct(&a->dk));
        reserve(&s, DNN_DV, keys * p->value_width, 2, packed || !is_direct(&a->dv));
        reserve(&s, DNN_DBIAS, bias_elements(p), 2, p->bias_gradient);
    }
    s.workspace = s.all;
    s.all += aligned((size_t)workspace);
    return s;
}

/* A problem that is asked about, its plan, and scratch. */
struct planned {
    struct dnn_attention problem;
    struct dnn_planned plan;
    struct areas areas;
};

static bool plan_call(const struct heed_exec *exec, const struct heed_attention_args *a, bool backward,
                      bool saves, struct planned *c) {
    struct heed_why why = {NULL};
    problem_of(a, backward, &c->problem);
    c->plan = dnn_plan_of(exec, &c->problem, &why);
    c->areas = areas_of(a, &c->problem, c->plan.workspace, saves);
    return c->plan.graph != NULL;
}

/* Scratch is for a forward that saves nothing, too. Where a plan was lost, running it is the error. */
static void sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct planned c;
    if (heed_has(&a->dy)) {
        plan_call(exec, a, true, true, &c);
        sizes->backward_scratch = c.areas.all + WORKSPACE_ALIGNMENT;
    } else {
        plan_call(exec, a, false, false, &c);
        sizes->forward_scratch = c.areas.all + WORKSPACE_ALIGNMENT;
    }
    sizes->saved = aligned((size_t)row_count(&c.problem) * sizeof(float));
}

/* ---- bf16 in kernels ---- */

static __device__ inline float bf16_number(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &word, sizeof number);
    return number;
}

/* To the nearest, ties to even; NaN stays NaN. */
static __device__ inline uint16_t bf16_bits(float number) {
    uint32_t word;
    memcpy(&word, &number, sizeof word);
    if (number != number) return (uint16_t)(word >> 16 | 0x40);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* ---- kernels around it ---- */

/* bf16 [batch, heads, rows, width] in two places. */
struct dnn_copy {
    const uint16_t *from;
    uint16_t *to;
    int64_t size[4], from_stride[4], to_stride[4];
    const int32_t *lengths; /* by batch entry; NULL: none */
    int64_t batch_stride;   /* of the lengths */
    bool by_row;            /* rows from the length on are 0; otherwise all rows of an entry of length 0 */
    const int32_t *starts;  /* of packed sequences: their first rows, on one side; NULL: not packed */
    bool packs;             /* that side is `to`, and gets no other rows; otherwise they are 0 in `to` */
    bool add;
};

/* Lengths as cuDNN gets them: never 0. */
static __global__ void dnn_lengths(const int32_t *length, int64_t stride, int64_t batch, int64_t queries,
                                   int64_t keys, int32_t *query_lengths, int32_t *key_lengths) {
    for (int64_t b = CUDA_FIRST; b < batch; b += CUDA_STEP) {
        const int32_t own = length[b * stride];
        query_lengths[b] = (int32_t)queries;
        key_lengths[b] = own < 1 ? 1 : own > keys ? (int32_t)keys : own;
    }
}

/* to = from, or to += from; 0 where lengths hide it. What lies in its place already is only hidden. N
 * elements of a row at once. */
template <int N> static __global__ void dnn_deliver(struct dnn_copy c) {
    const int64_t packs = c.size[3] / N, count = c.size[0] * c.size[1] * c.size[2] * packs;
    for (int64_t i = CUDA_FIRST; i < count; i += CUDA_STEP) {
        const int64_t row = i / packs, w = (i - row * packs) * N, line = row / c.size[2],
                      r = row - line * c.size[2], b = line / c.size[1], h = line - b * c.size[1];
        int64_t from_row = r, to_row = r;
        bool hidden = false;
        if (c.lengths)
            hidden = c.by_row ? r >= c.lengths[b * c.batch_stride] : c.lengths[b * c.batch_stride] < 1;
        if (c.starts) {
            hidden = r >= c.starts[b + 1] - c.starts[b];
            if (c.packs && hidden) continue;
            if (c.packs)
                to_row += c.starts[b];
            else
                from_row += c.starts[b];
        }
        const uint16_t *from = c.from + b * c.from_stride[0] + h * c.from_stride[1] +
                               from_row * c.from_stride[2] + w * c.from_stride[3];
        uint16_t *to =
            c.to + b * c.to_stride[0] + h * c.to_stride[1] + to_row * c.to_stride[2] + w * c.to_stride[3];
        if (c.from == c.to && !hidden) continue;
        cuda_pack<uint16_t, N> own = {};
        if (!hidden) own = cuda_load<N>(from);
        if (c.add) {
            const cuda_pack<uint16_t, N> before = cuda_load<N>(to);
            for (int k = 0; k < N; k++)
                own.at[k] = bf16_bits(bf16_number(before.at[k]) + bf16_number(own.at[k]));
        }
        cuda_store(to, own);
    }
}

/* Statistics of rows behind a sequence: e^(−∞ − 0) is 0 in backward. */
static __global__ void dnn_clear_statistics(float *statistics, const int32_t *starts, int64_t heads,
                                            int64_t queries, int64_t rows) {
    for (int64_t row = CUDA_FIRST; row < rows; row += CUDA_STEP) {
        const int64_t line = row / queries, batch = line / heads;
        if (row - line * queries >= starts[batch + 1] - starts[batch]) statistics[row] = 0;
    }
}

/* Rows that see nothing: their biases are −∞ wherever a key is. */
struct dnn_rows {
    float *statistics;
    uint16_t *y;
    const uint16_t *bias;
    const int32_t *key_lengths; /* NULL: none */
    int64_t heads, queries, keys, value_width, rows;
    int64_t y_stride[3], bias_stride[4];
    bool causal;
};

static __device__ inline bool sees_nothing(const dnn_rows &r, int64_t batch, int64_t head, int64_t query) {
    const uint16_t minus_infinity = 0xff80;
    const uint16_t *bias =
        r.bias + batch * r.bias_stride[0] + head * r.bias_stride[1] + query * r.bias_stride[2];
    int64_t keys = r.key_lengths ? r.key_lengths[batch] : r.keys;
    if (r.causal && keys > query + 1) keys = query + 1;
    for (int64_t k = 0; k < keys; k++)
        if (bias[k * r.bias_stride[3]] != minus_infinity) return false;
    return true;
}

/* A thread per row; few rows have statistics that are no number. */
static __global__ void dnn_settle(struct dnn_rows r) {
    for (int64_t row = CUDA_FIRST; row < r.rows; row += CUDA_STEP) {
        const float own = r.statistics[row];
        const int64_t query = row % r.queries, head = row / r.queries % r.heads,
                      batch = row / r.queries / r.heads;
        if (own - own == 0 || !sees_nothing(r, batch, head, query)) continue;
        uint16_t *y = r.y + batch * r.y_stride[0] + head * r.y_stride[1] + query * r.y_stride[2];
        for (int64_t i = 0; i < r.value_width; i++) y[i] = 0;
        r.statistics[row] = 0; /* so that e^(−∞ − it) is 0 in backward */
    }
}

/* ---- around it ---- */

/* A call with its pointers: those of the arguments, or places in scratch. */
struct call {
    struct heed_exec *exec;
    const struct heed_attention_args *a;
    struct planned c;
    char *scratch;
    const struct heed_bound_mask *lengths;
    float scale, hidden, one;
    void *pointer[DNN_IDS];
};

static void *area(const struct call *k, enum dnn_attention_id id) {
    return k->scratch + k->c.areas.at[id];
}

static heed_status begin(struct call *k, struct heed_exec *exec, const struct heed_attention_args *a,
                         bool backward, void *saved, void *scratch) {
    memset(k, 0, sizeof *k);
    k->exec = exec;
    k->a = a;
    k->scratch = aligned_scratch(scratch);
    k->scale = (float)a->scale;
    k->hidden = -INFINITY;
    k->one = 1;
    if (!plan_call(exec, a, backward, saved != NULL, &k->c))
        return heed_host->fail(exec, HEED_ERROR_DEVICE, HEED_PRIMITIVE_ATTENTION,
                               "cuDNN has lost the plan of this problem");
    struct masks masks = {};
    add_mask(a, a->mask, &masks);
    k->lengths = masks.lengths;
    for (int i = 0; i < DNN_IDS; i++) k->pointer[i] = area(k, (enum dnn_attention_id)i);
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
    k->pointer[DNN_ONE] = &k->one;
    snprintf(exec->last[HEED_PRIMITIVE_ATTENTION].note, sizeof exec->last[HEED_PRIMITIVE_ATTENTION].note,
             "%s: %lld rows, %lld batch entries and %lld heads of keys at once, %lld bytes of workspace",
             backward ? "backward" : "forward", (long long)row_count(&k->c.problem),
             (long long)k->c.plan.slice.batch, (long long)k->c.plan.slice.kv_heads,
             (long long)k->c.plan.workspace);
    return HEED_OK;
}

static const int32_t *own_lengths(const struct call *k, int64_t *stride) {
    const struct heed_view *tensor = &k->lengths->tensor[0];
    *stride = tensor->stride[0];
    return static_cast<const int32_t *>(tensor->data);
}

/* Whether both sides can be read in vectors. */
static bool goes_in_vectors(const struct dnn_copy *c) {
    bool fits =
        cuda_packs<uint16_t>(c->size[3], c->from, c->to) && c->from_stride[3] == 1 && c->to_stride[3] == 1;
    for (int d = 0; d < 3; d++)
        fits =
            fits && (c->size[d] == 1 || (c->from_stride[d] % VECTOR == 0 && c->to_stride[d] % VECTOR == 0));
    return fits;
}

static heed_status deliver(const struct call *k, const struct dnn_copy *copy) {
    const int64_t count = copy->size[0] * copy->size[1] * copy->size[2] * copy->size[3];
    if (goes_in_vectors(copy))
        CUDA_RUN(k->exec, dnn_deliver<VECTOR>, cuda_blocks(k->exec, count / VECTOR), CUDA_BLOCK, 0, *copy);
    else
        CUDA_RUN(k->exec, dnn_deliver<1>, cuda_blocks(k->exec, count), CUDA_BLOCK, 0, *copy);
    return cuda_started(k->exec, HEED_PRIMITIVE_ATTENTION);
}

static struct dnn_copy copy_of(const struct heed_view *shape, const void *from, const int64_t from_stride[3],
                               void *to, const int64_t to_stride[3]) {
    struct dnn_copy c = {};
    c.from = static_cast<const uint16_t *>(from);
    c.to = static_cast<uint16_t *>(to);
    memcpy(c.size, shape->size, sizeof c.size);
    memcpy(c.from_stride, from_stride, 3 * sizeof *from_stride);
    memcpy(c.to_stride, to_stride, 3 * sizeof *to_stride);
    c.from_stride[3] = c.to_stride[3] = 1;
    return c;
}

static heed_status run(const struct call *k) {
    return dnn_run_plan(k->exec, &k->c.problem, &k->c.plan, k->pointer, k->scratch + k->c.areas.workspace);
}

/* A copy of keys or values with zeros where no query looks. */
static heed_status isolate(const struct call *k, const struct heed_view *v, enum dnn_attention_id id,
                           const int64_t stride[3]) {
    struct dnn_copy copy = copy_of(v, v->data, v->stride, area(k, id), stride);
    copy.lengths = own_lengths(k, &copy.batch_stride);
    copy.by_row = true;
    return deliver(k, &copy);
}

/* ---- packed sequences ---- */

/* Lengths as cuDNN gets them, never 0 keys; and starts, the last for all that only fill the batch up. */
static void write_starts(const struct heed_packed *packed, int64_t batch, int32_t *to) {
    int32_t *query_lengths = to, *key_lengths = to + batch, *query_starts = to + 2 * batch,
            *key_starts = query_starts + batch + 1;
    for (int64_t i = 0; i <= batch; i++) {
        const int64_t own = i < packed->sequences ? i : packed->sequences;
        query_starts[i] = packed->query_starts[own];
        key_starts[i] = packed->key_starts[own];
    }
    for (int64_t i = 0; i < batch; i++) {
        const int32_t keys = key_starts[i + 1] - key_starts[i];
        query_lengths[i] = query_starts[i + 1] - query_starts[i];
        key_lengths[i] = keys < 1 ? 1 : keys;
    }
}

static heed_status send_starts(const struct call *k) {
    const int64_t batch = k->c.problem.batch;
    const size_t bytes = (size_t)(4 * batch + 2) * sizeof(int32_t);
    void *host = heed_host->block_new(k->exec->memory, bytes);
    if (!host)
        return heed_host->fail(k->exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_ATTENTION,
                               "no memory for the starts of %lld sequences", (long long)batch);
    write_starts(&k->a->packed, batch, static_cast<int32_t *>(host));
    const heed_status status =
        heed_cuda_device.write(cuda_of(k->exec), area(k, DNN_QUERY_LENGTHS), host, bytes);
    heed_host->block_free(k->exec->memory, host);
    return status;
}

static const int32_t *starts_of(const struct call *k, bool keys) {
    return reinterpret_cast<const int32_t *>(k->scratch +
                                             (keys ? k->c.areas.key_starts : k->c.areas.query_starts));
}

/* Rows of sequences, of queries or keys, to or from a batch. */
static struct dnn_copy packed_copy(const struct call *k, const struct heed_view *v, bool keys) {
    const struct dnn_attention *p = &k->c.problem;
    struct heed_view shape = *v;
    int64_t dense[3];
    shape.size[0] = p->batch;
    shape.size[2] = keys ? p->keys : p->queries;
    set_dense(&shape, dense);
    struct dnn_copy copy = copy_of(&shape, v->data, v->stride, NULL, dense);
    copy.starts = starts_of(k, keys);
    return copy;
}

static heed_status unpack(const struct call *k, const struct heed_view *v, enum dnn_attention_id id,
                          bool keys) {
    struct dnn_copy copy = packed_copy(k, v, keys);
    copy.to = static_cast<uint16_t *>(area(k, id));
    return deliver(k, &copy);
}

static heed_status pack(const struct call *k, enum dnn_attention_id id, const struct heed_view *v, bool add,
                        bool keys) {
    struct dnn_copy copy = packed_copy(k, v, keys);
    if (!heed_has(v)) return HEED_OK;
    for (int d = 0; d < 4; d++) std::swap(copy.from_stride[d], copy.to_stride[d]);
    copy.from = static_cast<const uint16_t *>(area(k, id));
    copy.to = static_cast<uint16_t *>(v->data);
    copy.packs = true;
    copy.add = add;
    return deliver(k, &copy);
}

static heed_status unpack_inputs(const struct call *k) {
    const struct heed_attention_args *a = k->a;
    heed_status status = send_starts(k);
    if (status == HEED_OK) status = unpack(k, &a->q, DNN_Q, false);
    if (status == HEED_OK) status = unpack(k, &a->k, DNN_K, true);
    return status == HEED_OK ? unpack(k, &a->v, DNN_V, true) : status;
}

static heed_status run_forward_packed(const struct call *k) {
    const struct dnn_attention *p = &k->c.problem;
    heed_status status = unpack_inputs(k);
    if (status == HEED_OK) status = run(k);
    if (status == HEED_OK) status = pack(k, DNN_Y, &k->a->y, false, false);
    if (status != HEED_OK) return status;
    CUDA_RUN(k->exec, dnn_clear_statistics, cuda_blocks(k->exec, row_count(p)), CUDA_BLOCK, 0,
             static_cast<float *>(k->pointer[DNN_STATISTICS]), starts_of(k, false), p->heads, p->queries,
             row_count(p));
    return cuda_started(k->exec, HEED_PRIMITIVE_ATTENTION);
}

static heed_status run_backward_packed(const struct call *k) {
    const struct heed_attention_args *a = k->a;
    heed_status status = unpack_inputs(k);
    if (status == HEED_OK) status = unpack(k, &a->y, DNN_Y, false);
    if (status == HEED_OK) status = unpack(k, &a->dy, DNN_DY, false);
    if (status == HEED_OK) status = run(k);
    if (status == HEED_OK) status = pack(k, DNN_DQ, &a->dq.view, a->dq.add, false);
    if (status == HEED_OK) status = pack(k, DNN_DK, &a->dk.view, a->dk.add, true);
    return status == HEED_OK ? pack(k, DNN_DV, &a->dv.view, a->dv.add, true) : status;
}

/* ---- key lengths ---- */

static heed_status apply_lengths(const struct call *k) {
    const struct dnn_attention *p = &k->c.problem;
    int64_t stride;
    if (!k->lengths) return HEED_OK;
    const int32_t *length = own_lengths(k, &stride);
    CUDA_RUN(k->exec, dnn_lengths, cuda_blocks(k->exec, p->batch), CUDA_BLOCK, 0, length, stride, p->batch,
             p->queries, p->keys, static_cast<int32_t *>(area(k, DNN_QUERY_LENGTHS)),
             static_cast<int32_t *>(area(k, DNN_KEY_LENGTHS)));
    heed_status status = cuda_started(k->exec, HEED_PRIMITIVE_ATTENTION);
    if (status == HEED_OK) status = isolate(k, &k->a->k, DNN_K, p->k);
    return status == HEED_OK ? isolate(k, &k->a->v, DNN_V, p->v) : status;
}

static heed_status settle_rows(const struct call *k) {
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
    r.rows = row_count(p);
    r.causal = p->causal;
    memcpy(r.y_stride, p->y, sizeof r.y_stride);
    memcpy(r.bias_stride, k->a->stage[0].tensor.stride, sizeof r.bias_stride);
    CUDA_RUN(k->exec, dnn_settle, cuda_blocks(k->exec, r.rows), CUDA_BLOCK, 0, r);
    return cuda_started(k->exec, HEED_PRIMITIVE_ATTENTION);
}

static heed_status attention_forward(struct heed_exec *exec, const void *arguments, void *saved,
                                     void *scratch) {
    struct call k;
    heed_status status =
        begin(&k, exec, static_cast<const struct heed_attention_args *>(arguments), false, saved, scratch);
    if (status == HEED_OK && heed_is_packed(&k.a->packed)) return run_forward_packed(&k);
    if (status == HEED_OK) status = apply_lengths(&k);
    if (status == HEED_OK) status = run(&k);
    return status == HEED_OK ? settle_rows(&k) : status;
}

/* ---- backward ---- */

/* Where cuDNN writes a gradient. */
static void bind_gradient(struct call *k, enum dnn_attention_id id, const struct heed_grad_view *g) {
    if (is_direct(g)) k->pointer[id] = g->view.data;
}

/* From there to where it belongs, with zeros behind lengths. */
static heed_status deliver_gradient(const struct call *k, enum dnn_attention_id id,
                                    const struct heed_grad_view *g, const int64_t stride[3], bool by_row) {
    if (!heed_has(&g->view) || (is_direct(g) && !k->lengths)) return HEED_OK;
    struct dnn_copy copy = copy_of(&g->view, k->pointer[id], stride, g->view.data, g->view.stride);
    if (k->lengths) copy.lengths = own_lengths(k, &copy.batch_stride);
    copy.by_row = by_row;
    copy.add = g->add;
    return deliver(k, &copy);
}

static heed_status deliver_bias_gradient(const struct call *k) {
    const struct dnn_attention *p = &k->c.problem;
    if (!p->bias_gradient) return HEED_OK;
    const struct heed_grad_view *g = &k->a->stage[0].dtensor;
    struct heed_view shape = g->view;
    memcpy(shape.size, p->bias_size, sizeof p->bias_size);
    int64_t stride[3];
    set_dense(&shape, stride);
    struct dnn_copy copy = copy_of(&shape, k->pointer[DNN_DBIAS], stride, g->view.data, g->view.stride);
    copy.to_stride[3] = g->view.stride[3];
    copy.add = g->add;
    return deliver(k, &copy);
}

static heed_status prepare_dy(struct call *k) {
    const struct heed_view *dy = &k->a->dy;
    if (is_laid_out(dy)) {
        k->pointer[DNN_DY] = dy->data;
        return HEED_OK;
    }
    const struct dnn_copy copy = copy_of(dy, dy->data, dy->stride, area(k, DNN_DY), k->c.problem.dy);
    return deliver(k, &copy);
}

static heed_status attention_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                      void *scratch) {
    const struct heed_attention_args *a = static_cast<const struct heed_attention_args *>(arguments);
    struct call k;
    heed_status status = begin(&k, exec, a, true, saved, scratch);
    if (status == HEED_OK && heed_is_packed(&a->packed)) return run_backward_packed(&k);
    if (status == HEED_OK) status = apply_lengths(&k);
    if (status == HEED_OK) status = prepare_dy(&k);
    if (status != HEED_OK) return status;
    bind_gradient(&k, DNN_DQ, &a->dq);
    bind_gradient(&k, DNN_DK, &a->dk);
    bind_gradient(&k, DNN_DV, &a->dv);
    status = run(&k);
    const struct dnn_attention *p = &k.c.problem;
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DQ, &a->dq, p->dq, false);
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DK, &a->dk, p->dk, true);
    if (status == HEED_OK) status = deliver_gradient(&k, DNN_DV, &a->dv, p->dv, true);
    return status == HEED_OK ? deliver_bias_gradient(&k) : status;
}

const struct heed_kernel heed_cuda_attention_cudnn = {"cudnn", applies, sizes, attention_forward,
                                                      attention_backward};
