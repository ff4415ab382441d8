/* What of attention cuDNN takes, and as which problem. */
#include "backend/cuda/cudnn_problem.cuh"

#include <string.h>

/* Fewer queries are those of decoding, where every step is a new problem: planning takes half a second. */
enum { LEAST_QUERIES = 8, MOST_WIDTH = 256, VECTOR = DNN_VECTOR };

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

/* Whether queries and keys are as many, in each sequence. */
static bool is_square(const struct heed_attention_args *a) {
    const struct heed_packed *packed = &a->packed;
    bool same = a->q.size[2] == a->k.size[2];
    for (int64_t i = 0; heed_is_packed(packed) && i < packed->sequences; i++)
        same = same && packed->query_starts[i] == packed->key_starts[i];
    return same;
}

static bool add_mask(const struct heed_attention_args *a, const struct heed_bound_mask *mask,
                     struct masks *found) {
    if (!mask) return true;
    if (strcmp(mask->kind->name, "and") == 0)
        return add_mask(a, mask->a, found) && add_mask(a, mask->b, found);
    if (strcmp(mask->kind->name, "causal") == 0) {
        found->causal = true;
        return mask->number[HEED_DISTANCE_ALIGN] == HEED_TOP_LEFT || is_square(a);
    }
    if (strcmp(mask->kind->name, "key_lengths") != 0 || found->lengths) return false;
    found->lengths = mask;
    return a->q.size[1] == 1 || mask->tensor[0].stride[1] == 0; /* the same for all heads */
}

bool dnn_is_laid_out(const struct heed_view *v) {
    bool fits = (uintptr_t)v->data % 16 == 0 && (v->stride[3] == 1 || v->size[3] == 1);
    for (int d = 0; d < 3; d++)
        fits = fits && (v->size[d] == 1 || (v->stride[d] > 0 && v->stride[d] % VECTOR == 0));
    return fits;
}

static bool may_drop(const struct heed_exec *exec, const struct heed_attention_args *a,
                     struct heed_why *why) {
    if (a->threshold >= 65536) return true;
    if (!exec->any_dropout)
        return refuse(why, "cuDNN's dropout has random numbers of its own, which .any_dropout allows");
    return a->threshold > 0 || refuse(why, "dropout keeps nothing");
}

static bool knows_parts(const struct heed_attention_args *a, struct heed_why *why) {
    if (a->q.dtype != HEED_BF16 || a->k.dtype != HEED_BF16 || a->v.dtype != HEED_BF16 ||
        a->y.dtype != HEED_BF16)
        return refuse(why, "cuDNN's is for bf16");
    if (a->normalizer != HEED_NORMALIZER_SOFTMAX) return refuse(why, "the normaliser is not the softmax");
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
    if (!dnn_is_laid_out(&a->q) || !dnn_is_laid_out(&a->k) || !dnn_is_laid_out(&a->v) ||
        !dnn_is_laid_out(&a->y))
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

void dnn_set_dense(const struct heed_view *v, int64_t stride[3]) {
    stride[2] = v->size[3];
    stride[1] = stride[2] * v->size[2];
    stride[0] = stride[1] * v->size[1];
}

/* Those of dimensions of size 1 say nothing. */
static void set_strides(const struct heed_view *v, int64_t stride[3]) {
    dnn_set_dense(v, stride);
    for (int d = 0; d < 3; d++)
        if (v->size[d] > 1) stride[d] = v->stride[d];
}

bool dnn_is_direct(const struct heed_grad_view *g) {
    return heed_has(&g->view) && !g->add && g->view.dtype == HEED_BF16 && dnn_is_laid_out(&g->view);
}

static void set_gradient(const struct heed_grad_view *g, const struct heed_view *like, int64_t stride[3]) {
    if (dnn_is_direct(g))
        set_strides(&g->view, stride);
    else
        dnn_set_dense(like, stride);
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
    dnn_set_dense(&q, p->q);
    dnn_set_dense(&k, p->k);
    dnn_set_dense(&v, p->v);
    dnn_set_dense(&y, p->y);
    if (!p->backward) return;
    dnn_set_dense(&y, p->dy);
    dnn_set_dense(&q, p->dq);
    dnn_set_dense(&k, p->dk);
    dnn_set_dense(&v, p->dv);
}

void dnn_problem_of(const struct heed_attention_args *a, bool backward, struct dnn_attention *p) {
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
    p->kept = a->threshold < 65536 ? a->threshold : 0;
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
        dnn_set_dense(&a->k, p->k);
        dnn_set_dense(&a->v, p->v);
    } else {
        set_strides(&a->k, p->k);
        set_strides(&a->v, p->v);
    }
    if (!backward) return;
    if (heed_has(&a->dy) && dnn_is_laid_out(&a->dy))
        set_strides(&a->dy, p->dy);
    else
        dnn_set_dense(&a->y, p->dy);
    set_gradient(&a->dq, &a->q, p->dq);
    set_gradient(&a->dk, &a->k, p->dk);
    set_gradient(&a->dv, &a->v, p->dv);
    p->bias_gradient = a->stages && heed_has(&a->stage[0].dtensor.view);
}

void dnn_expect_backward(const struct heed_attention_args *a, struct dnn_attention *p) {
    struct heed_attention_args all = *a;
    all.dy = a->y;
    all.dq.view = a->q;
    all.dk.view = a->k;
    all.dv.view = a->v;
    if (a->stages) all.stage[0].dtensor.view = a->stage[0].tensor;
    dnn_problem_of(&all, true, p);
}

/* ---- the answer ---- */

const struct heed_bound_mask *dnn_lengths_of(const struct heed_attention_args *a) {
    struct masks masks = {};
    add_mask(a, a->mask, &masks);
    return masks.lengths;
}

bool dnn_keeps_rules(const struct heed_exec *exec, const struct heed_attention_args *a,
                     struct heed_why *why) {
    struct masks masks = {};
    if (!knows_parts(a, why) || !may_drop(exec, a, why) || !has_fitting_shape(a, why) ||
        !has_fitting_bias(a, why))
        return false;
    if (!add_mask(a, a->mask, &masks))
        return refuse(why, "the mask is not causal from the top left, nor key lengths of batch entries");
    if (heed_is_packed(&a->packed) && masks.lengths)
        return refuse(why, "packed sequences have lengths beside their own");
    return true;
}
