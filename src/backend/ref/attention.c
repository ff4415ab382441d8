/* Reference kernel: attention by the plain formula, one query at a time. */
#include "backend/ref/ref.h"

#include <math.h>

#include "backend/masks.h"

/* One query of one head. Its scores are −∞ where a key is masked: such cells are skipped, never multiplied by
 * 0, so that NaN and Inf in masked keys and values reach nothing. */
struct row {
    const struct heed_attention_args *args;
    struct heed_attention_random random;
    int64_t batch, head, kv_head, query;
    double *score;       /* s, after the stages; −∞: masked */
    double *probability; /* softmax(s) */
    double *gradient;    /* backward: of the probabilities, then of s */
};

/* Where keys and values of a row begin, and its queries and outputs. */
static int64_t key_offset(const struct row *r, const struct heed_view *v, int64_t key) {
    return r->batch * v->stride[0] + r->kv_head * v->stride[1] + key * v->stride[2];
}
static int64_t query_offset(const struct row *r, const struct heed_view *v) {
    return r->batch * v->stride[0] + r->head * v->stride[1] + r->query * v->stride[2];
}
static int64_t cell_offset(const struct row *r, const struct heed_view *v, int64_t key) {
    return query_offset(r, v) + key * v->stride[3];
}

static double dot(const struct heed_view *a, int64_t a_start, const struct heed_view *b, int64_t b_start) {
    double sum = 0;
    for (int64_t i = 0; i < a->size[3]; i++)
        sum += heed_ref_load(a, a_start + i) * heed_ref_load(b, b_start + i);
    return sum;
}

static bool visible(const struct row *r, int64_t key) {
    return r->score[key] != -INFINITY;
}

static double score_of(const struct row *r, int64_t key) {
    const struct heed_attention_args *args = r->args;
    const struct heed_box box = {
        .batch = r->batch, .head = r->head, .queries = args->q.size[2], .keys = args->k.size[2]};
    if (!heed_mask_test(args->mask, &box, r->query, key)) return -INFINITY;
    double s = dot(&args->q, query_offset(r, &args->q), &args->k, key_offset(r, &args->k, key)) * args->scale;
    for (int i = 0; i < args->stages; i++) {
        const struct heed_view *bias = &args->stage[i].tensor;
        s += heed_ref_load(bias, cell_offset(r, bias, key));
    }
    return s;
}

/* What dropout multiplies a probability with: 0 or the scale. */
static double dropout_factor(const struct row *r, int64_t key) {
    const struct heed_attention_args *args = r->args;
    if (args->threshold >= 65536) return 1;
    uint32_t line = (uint32_t)(r->batch * args->q.size[1] + r->head);
    bool keep = heed_attention_keep(&r->random, (uint32_t)r->query, (uint32_t)key, line, args->threshold);
    return keep ? heed_keep_scale(args->threshold) : 0;
}

/* The softmax, 0 where masked; of a row that is masked throughout 0. */
static void row_probabilities(struct row *r) {
    int64_t keys = r->args->k.size[2];
    double maximum = -INFINITY, sum = 0;
    for (int64_t key = 0; key < keys; key++) {
        double s = r->score[key] = score_of(r, key);
        if (isnan(s) || s > maximum) maximum = isnan(maximum) ? maximum : s;
    }
    for (int64_t key = 0; key < keys; key++) {
        r->probability[key] = visible(r, key) ? exp(r->score[key] - maximum) : 0;
        sum += r->probability[key];
    }
    for (int64_t key = 0; key < keys; key++) {
        if (visible(r, key)) r->probability[key] /= sum;
    }
}

static void row_forward(struct row *r) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2];
    row_probabilities(r);
    double *weight = r->probability;
    for (int64_t key = 0; key < keys; key++) {
        if (visible(r, key)) weight[key] *= dropout_factor(r, key);
        if (heed_has(&args->weights)) {
            heed_ref_store(&args->weights, cell_offset(r, &args->weights, key), weight[key]);
        }
    }
    for (int64_t i = 0; i < args->v.size[3]; i++) {
        double y = 0;
        for (int64_t key = 0; key < keys; key++) {
            if (visible(r, key)) y += weight[key] * heed_ref_load(&args->v, key_offset(r, &args->v, key) + i);
        }
        heed_ref_store(&args->y, query_offset(r, &args->y) + i, y);
    }
}

/* Sums to which many rows contribute. */
struct sums {
    struct heed_view dk, dv, dstage[HEED_MAX_STAGES];
};

/* With w = dropout·p: dw = dy·v + dweights, dp = dropout·dw, ds = p·(dp − Σ p·dp). */
static void row_score_gradients(struct row *r, const struct sums *sums) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2], width = args->v.size[3];
    double delta = 0;
    for (int64_t key = 0; key < keys; key++) {
        if (!visible(r, key)) continue;
        double factor = dropout_factor(r, key), dw = 0;
        if (heed_has(&args->dy)) {
            dw = dot(&args->dy, query_offset(r, &args->dy), &args->v, key_offset(r, &args->v, key));
            for (int64_t i = 0; i < width && heed_has(&sums->dv); i++) {
                heed_ref_sum_add(&sums->dv, key_offset(r, &sums->dv, key) + i,
                                 factor * r->probability[key] *
                                     heed_ref_load(&args->dy, query_offset(r, &args->dy) + i));
            }
        }
        if (heed_has(&args->dweights))
            dw += heed_ref_load(&args->dweights, cell_offset(r, &args->dweights, key));
        r->gradient[key] = factor * dw;
        delta += r->probability[key] * r->gradient[key];
    }
    for (int64_t key = 0; key < keys; key++) {
        r->gradient[key] = visible(r, key) ? r->probability[key] * (r->gradient[key] - delta) : 0;
    }
}

/* s = q·k·scale + biases. */
static void row_input_gradients(struct row *r, const struct sums *sums) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2], width = args->q.size[3];
    for (int64_t i = 0; i < width && heed_has(&args->dq.view); i++) {
        double dq = 0;
        for (int64_t key = 0; key < keys; key++) {
            if (!visible(r, key)) continue;
            dq += r->gradient[key] * args->scale * heed_ref_load(&args->k, key_offset(r, &args->k, key) + i);
        }
        heed_ref_contribute(&args->dq, query_offset(r, &args->dq.view) + i, dq);
    }
    for (int64_t key = 0; key < keys; key++) {
        if (!visible(r, key)) continue;
        for (int64_t i = 0; i < width && heed_has(&sums->dk); i++) {
            heed_ref_sum_add(&sums->dk, key_offset(r, &sums->dk, key) + i,
                             r->gradient[key] * args->scale *
                                 heed_ref_load(&args->q, query_offset(r, &args->q) + i));
        }
        for (int i = 0; i < args->stages; i++) {
            const struct heed_view *sum = &sums->dstage[i];
            if (heed_has(sum)) heed_ref_sum_add(sum, cell_offset(r, sum, key), r->gradient[key]);
        }
    }
}

static void row_backward(struct row *r, const struct sums *sums) {
    row_probabilities(r);
    row_score_gradients(r, sums);
    row_input_gradients(r, sums);
}

/* ---- all rows ---- */

/* Elements of a line of scratch: one per key, but never none, so that there is scratch to point into. */
static int64_t line_elements(const struct heed_attention_args *args) {
    return args->k.size[2] > 0 ? args->k.size[2] : 1;
}

static void attention_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_attention_args *args = p;
    size_t line = (size_t)line_elements(args) * sizeof(double);
    sizes->forward_scratch = 2 * line;
    sizes->backward_scratch = 3 * line + heed_ref_sum_bytes(&args->dk) + heed_ref_sum_bytes(&args->dv);
    for (int i = 0; i < args->stages; i++) {
        sizes->backward_scratch += heed_ref_sum_bytes(&args->stage[i].dtensor);
    }
}

/* sums NULL: forward. */
static void each_row(const struct heed_attention_args *args, double *scratch, const struct sums *sums) {
    int64_t line = line_elements(args), group = args->q.size[1] > 0 ? args->q.size[1] / args->k.size[1] : 1;
    struct row r = {
        .args = args, .score = scratch, .probability = scratch + line, .gradient = scratch + 2 * line};
    r.random = heed_attention_random(&args->random);
    struct heed_walk w;
    for (heed_walk_start(&w, 3, args->q.size); w.more; heed_walk_next(&w)) {
        r.batch = w.at[0];
        r.head = w.at[1];
        r.kv_head = r.head / group;
        r.query = w.at[2];
        if (sums) {
            row_backward(&r, sums);
        } else {
            row_forward(&r);
        }
    }
}

static heed_status attention_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved;
    each_row(p, scratch, NULL);
    return HEED_OK;
}

static heed_status attention_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved;
    const struct heed_attention_args *args = p;
    double *free_scratch = (double *)scratch + 3 * line_elements(args);
    struct sums sums;
    sums.dk = heed_ref_sum_open(&args->dk, &free_scratch);
    sums.dv = heed_ref_sum_open(&args->dv, &free_scratch);
    for (int i = 0; i < args->stages; i++) {
        sums.dstage[i] = heed_ref_sum_open(&args->stage[i].dtensor, &free_scratch);
    }
    each_row(args, scratch, &sums);
    heed_ref_sum_close(&args->dk, &sums.dk);
    heed_ref_sum_close(&args->dv, &sums.dv);
    for (int i = 0; i < args->stages; i++) heed_ref_sum_close(&args->stage[i].dtensor, &sums.dstage[i]);
    return HEED_OK;
}

const struct heed_kernel heed_ref_attention = {"ref", NULL, attention_sizes, attention_forward,
                                               attention_backward};
