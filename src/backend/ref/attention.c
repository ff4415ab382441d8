/* Reference kernel: attention by the plain formula, one query at a time. */
#include "backend/ref/attention.h"

#include <math.h>

#include "backend/masks.h"
#include "backend/sequences.h"

static double dot(const struct heed_view *a, int64_t a_start, const struct heed_view *b, int64_t b_start) {
    double sum = 0;
    for (int64_t i = 0; i < a->size[3]; i++)
        sum += heed_ref_load(a, a_start + i) * heed_ref_load(b, b_start + i);
    return sum;
}

/* The scores of a row: dot products, stages, mask. */
static void row_scores(struct heed_ref_row *r) {
    const struct heed_attention_args *args = r->args;
    const int64_t keys = args->k.size[2];
    const struct heed_box box = {
        .batch = r->batch, .head = r->head, .queries = args->q.size[2], .keys = keys};
    for (int64_t key = 0; key < keys; key++) {
        r->allowed[key] = heed_mask_test(args->mask, &box, r->query, key);
        r->score[key] = !r->allowed[key] ? 0
                                         : args->scale * dot(&args->q, heed_ref_query_offset(r, &args->q),
                                                             &args->k, heed_ref_key_offset(r, &args->k, key));
    }
    heed_ref_stages_forward(r);
    for (int64_t key = 0; key < keys; key++) {
        if (!r->allowed[key]) r->score[key] = -INFINITY;
    }
}

/* What dropout multiplies a probability with: 0 or the scale. */
static double dropout_factor(const struct heed_ref_row *r, int64_t key) {
    const struct heed_attention_args *args = r->args;
    if (args->threshold >= 65536) return 1;
    uint32_t line = (uint32_t)(r->batch * args->q.size[1] + r->head);
    bool keep = heed_attention_keep(&r->random, (uint32_t)r->query, (uint32_t)key, line, args->threshold);
    return keep ? heed_keep_scale(args->threshold) : 0;
}

/* The softmax, 0 where masked; of a row that is masked throughout 0, whatever the sink. */
static void row_softmax(struct heed_ref_row *r) {
    const struct heed_view *sink = &r->args->sink;
    const double own = heed_has(sink) ? heed_ref_load(sink, heed_ref_head_offset(r, sink)) : -INFINITY;
    int64_t keys = r->args->k.size[2];
    double maximum = own;
    r->sees = false;
    for (int64_t key = 0; key < keys; key++) {
        double s = r->score[key];
        r->sees = r->sees || heed_ref_visible(r, key);
        if (isnan(s) || s > maximum) maximum = isnan(maximum) ? maximum : s;
    }
    r->maximum = maximum;
    r->sum = r->sink = r->sees && own != -INFINITY ? exp(own - maximum) : 0;
    for (int64_t key = 0; key < keys; key++) {
        r->probability[key] = heed_ref_visible(r, key) ? exp(r->score[key] - maximum) : 0;
        r->sum += r->probability[key];
    }
    for (int64_t key = 0; key < keys; key++) {
        if (heed_ref_visible(r, key)) r->probability[key] /= r->sum;
    }
    if (r->sees) r->sink /= r->sum;
}

static double weight_of(heed_normalizer normalizer, double s) {
    if (normalizer == HEED_NORMALIZER_SIGMOID) return 1 / (1 + exp(-s));
    return s < 0 ? 0 : s;
}

static void row_probabilities(struct heed_ref_row *r) {
    row_scores(r);
    if (r->args->normalizer == HEED_NORMALIZER_SOFTMAX) {
        row_softmax(r);
        return;
    }
    for (int64_t key = 0; key < r->args->k.size[2]; key++) {
        r->probability[key] = heed_ref_visible(r, key) ? weight_of(r->args->normalizer, r->score[key]) : 0;
    }
}

/* Hands a row's weights to those who asked for some. */
static void row_chosen(const struct heed_ref_row *r) {
    const struct heed_attention_args *args = r->args;
    const int64_t keys = args->k.size[2],
                  heads = heed_attention_chosen_count(&args->head_list, args->q.size[1]),
                  queries = heed_attention_chosen_count(&args->query_list, args->q.size[2]);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t q = 0; q < queries && heed_attention_chosen_at(&args->head_list, h) == r->head; q++) {
            if (heed_attention_chosen_at(&args->query_list, q) != r->query) continue;
            const int64_t row = r->batch * heads + h;
            for (int64_t key = 0; key < keys; key++) {
                r->columns[row * keys + key] += r->probability[key];
                if (heed_has(&args->chosen))
                    heed_ref_store(&args->chosen, (row * queries + q) * keys + key, r->probability[key]);
            }
        }
    }
}

static void row_forward(struct heed_ref_row *r) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2];
    row_probabilities(r);
    if (heed_has(&args->lse)) {
        const int64_t at = heed_ref_query_offset(r, &args->lse);
        heed_ref_store(&args->lse, at, r->sees ? r->maximum + log(r->sum) : -INFINITY);
    }
    double *weight = r->probability;
    for (int64_t key = 0; key < keys; key++) {
        if (heed_ref_visible(r, key)) weight[key] *= dropout_factor(r, key);
        if (heed_has(&args->weights)) {
            heed_ref_store(&args->weights, heed_ref_cell_offset(r, &args->weights, key), weight[key]);
        }
    }
    if (heed_attention_chooses(args)) row_chosen(r);
    for (int64_t i = 0; i < args->v.size[3]; i++) {
        double y = 0;
        for (int64_t key = 0; key < keys; key++) {
            if (heed_ref_visible(r, key))
                y += weight[key] * heed_ref_load(&args->v, heed_ref_key_offset(r, &args->v, key) + i);
        }
        heed_ref_store(&args->y, heed_ref_query_offset(r, &args->y) + i, y);
    }
}

/* From the gradient of the probabilities to that of the scores. For the softmax ds = p·(dp − Σ p·dp + dlse),
 * and the sink's is −p_sink·(Σ p·dp − dlse). */
static void row_normalizer_gradients(struct heed_ref_row *r, const struct heed_ref_sums *sums, double delta) {
    const struct heed_attention_args *args = r->args;
    if (heed_has(&args->dlse)) {
        delta -= heed_ref_load(&args->dlse, heed_ref_query_offset(r, &args->dlse));
    }
    for (int64_t key = 0; key < args->k.size[2]; key++) {
        const double p = r->probability[key];
        double *g = &r->gradient[key];
        if (!heed_ref_visible(r, key)) {
            *g = 0;
        } else if (args->normalizer == HEED_NORMALIZER_SOFTMAX) {
            *g = p * (*g - delta);
        } else if (args->normalizer == HEED_NORMALIZER_SIGMOID) {
            *g *= p * (1 - p);
        } else if (!(r->score[key] > 0)) {
            *g = 0;
        }
    }
    if (heed_has(&sums->dsink) && r->sees)
        heed_ref_sum_add(&sums->dsink, heed_ref_head_offset(r, &sums->dsink), -r->sink * delta);
}

/* With w = dropout·p: dw = dy·v + dweights, dp = dropout·dw. */
static void row_score_gradients(struct heed_ref_row *r, const struct heed_ref_sums *sums) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2], width = args->v.size[3];
    double delta = 0;
    for (int64_t key = 0; key < keys; key++) {
        if (!heed_ref_visible(r, key)) continue;
        double factor = dropout_factor(r, key), dw = 0;
        if (heed_has(&args->dy)) {
            dw = dot(&args->dy, heed_ref_query_offset(r, &args->dy), &args->v,
                     heed_ref_key_offset(r, &args->v, key));
            for (int64_t i = 0; i < width && heed_has(&sums->dv); i++) {
                heed_ref_sum_add(&sums->dv, heed_ref_key_offset(r, &sums->dv, key) + i,
                                 factor * r->probability[key] *
                                     heed_ref_load(&args->dy, heed_ref_query_offset(r, &args->dy) + i));
            }
        }
        if (heed_has(&args->dweights))
            dw += heed_ref_load(&args->dweights, heed_ref_cell_offset(r, &args->dweights, key));
        r->gradient[key] = factor * dw;
        delta += r->probability[key] * r->gradient[key];
    }
    row_normalizer_gradients(r, sums, delta);
}

/* s = q·k·scale, before the stages. */
static void row_input_gradients(struct heed_ref_row *r, const struct heed_ref_sums *sums) {
    const struct heed_attention_args *args = r->args;
    int64_t keys = args->k.size[2], width = args->q.size[3];
    for (int64_t i = 0; i < width && heed_has(&args->dq.view); i++) {
        double dq = 0;
        for (int64_t key = 0; key < keys; key++) {
            if (!heed_ref_visible(r, key)) continue;
            dq += r->gradient[key] * args->scale *
                  heed_ref_load(&args->k, heed_ref_key_offset(r, &args->k, key) + i);
        }
        heed_ref_contribute(&args->dq, heed_ref_query_offset(r, &args->dq.view) + i, dq);
    }
    for (int64_t key = 0; key < keys; key++) {
        if (!heed_ref_visible(r, key)) continue;
        for (int64_t i = 0; i < width && heed_has(&sums->dk); i++) {
            heed_ref_sum_add(&sums->dk, heed_ref_key_offset(r, &sums->dk, key) + i,
                             r->gradient[key] * args->scale *
                                 heed_ref_load(&args->q, heed_ref_query_offset(r, &args->q) + i));
        }
    }
}

static void row_backward(struct heed_ref_row *r, const struct heed_ref_sums *sums) {
    row_probabilities(r);
    row_score_gradients(r, sums);
    heed_ref_stages_backward(r, sums);
    row_input_gradients(r, sums);
}

/* ---- all rows ---- */

/* Elements of a line of scratch: one per key, but never none, so that there is scratch to point into. */
static int64_t line_elements(const struct heed_attention_args *args) {
    return args->k.size[2] > 0 ? args->k.size[2] : 1;
}

/* Gradients that are sums: of k, v, the sink, stages and their parameters. Returns how many. */
enum { MOST_SUMS = 3 + HEED_MAX_STAGES + HEED_MAX_STAGE_PARAMS };

struct sum {
    const struct heed_grad_view *gradient;
    struct heed_view *sum;
};

static int list_sums(const struct heed_attention_args *args, struct heed_ref_sums *sums,
                     struct sum list[MOST_SUMS]) {
    int n = 0;
    *sums = (struct heed_ref_sums){0};
    list[n++] = (struct sum){&args->dk, &sums->dk};
    list[n++] = (struct sum){&args->dv, &sums->dv};
    list[n++] = (struct sum){&args->dsink, &sums->dsink};
    for (int i = 0; i < args->stages; i++)
        list[n++] = (struct sum){&args->stage[i].dtensor, &sums->dstage[i]};
    for (int i = 0; i < args->params; i++)
        list[n++] = (struct sum){&args->param[i].dtensor, &sums->dparam[i]};
    return n;
}

/* Scores, probabilities, gradients; what the mask says; aux lines; one stage's parameters. */
static int64_t row_doubles(const struct heed_attention_args *args) {
    const int64_t line = line_elements(args);
    return (4 + heed_ref_aux_lines(args)) * line +
           (args->params > 0 ? 2 * HEED_STAGE_MAX_PARAMS * heed_ref_param_line(args) : 0);
}

static int64_t column_doubles(const struct heed_attention_args *args) {
    if (!heed_attention_chooses(args)) return 0;
    return args->q.size[0] * heed_attention_chosen_count(&args->head_list, args->q.size[1]) * args->k.size[2];
}

static void attention_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_attention_args *args = p;
    struct heed_ref_sums sums;
    struct sum list[MOST_SUMS];
    const size_t row = (size_t)row_doubles(args) * sizeof(double);
    sizes->forward_scratch = row + (size_t)column_doubles(args) * sizeof(double);
    sizes->backward_scratch = row;
    const int count = list_sums(args, &sums, list);
    for (int i = 0; i < count; i++) sizes->backward_scratch += heed_ref_sum_bytes(list[i].gradient);
}

/* Of one batch entry. sums NULL: forward. */
static void rows_of_batch(const struct heed_attention_args *args, int64_t batch, double *scratch,
                          const struct heed_ref_sums *sums) {
    int64_t line = line_elements(args), group = args->q.size[1] > 0 ? args->q.size[1] / args->k.size[1] : 1;
    struct heed_ref_row r = {.args = args,
                             .batch = batch,
                             .line = line,
                             .score = scratch,
                             .probability = scratch + line,
                             .gradient = scratch + 2 * line,
                             .allowed = (uint8_t *)(scratch + 3 * line),
                             .aux = scratch + 4 * line};
    r.custom = r.aux + heed_ref_aux_lines(args) * line;
    r.columns = scratch + row_doubles(args);
    r.random = heed_attention_random(&args->random);
    struct heed_walk w;
    for (heed_walk_start(&w, 2, &args->q.size[1]); w.more; heed_walk_next(&w)) {
        r.head = w.at[0];
        r.kv_head = r.head / group;
        r.query = w.at[1];
        if (sums) {
            row_backward(&r, sums);
        } else {
            row_forward(&r);
        }
    }
}

/* The sums of one of packed sequences. */
static struct heed_ref_sums sums_of_sequence(const struct heed_attention_args *args, int64_t i,
                                             const struct heed_ref_sums *sums) {
    const struct heed_sequence s = heed_sequence_at(&args->packed, i);
    struct heed_ref_sums own = *sums;
    heed_view_cut(&own.dk, 2, s.key, s.keys);
    heed_view_cut(&own.dv, 2, s.key, s.keys);
    for (int j = 0; j < args->stages; j++)
        heed_sequence_stage(&s, &args->packed, &args->stage[j], &own.dstage[j]);
    for (int j = 0; j < args->params; j++) heed_sequence_param(&s, args->param[j].scope, &own.dparam[j]);
    return own;
}

static void each_row(const struct heed_attention_args *args, double *scratch,
                     const struct heed_ref_sums *sums) {
    for (int64_t batch = 0; batch < args->q.size[0]; batch++) {
        if (!heed_is_packed(&args->packed)) {
            rows_of_batch(args, batch, scratch, sums);
            continue;
        }
        struct heed_attention_args own;
        struct heed_ref_sums own_sums;
        heed_sequence_args(args, batch, &own);
        if (sums) own_sums = sums_of_sequence(args, batch, sums);
        rows_of_batch(&own, batch, scratch, sums ? &own_sums : NULL);
    }
}

static heed_status attention_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved;
    const struct heed_attention_args *args = p;
    double *columns = (double *)scratch + row_doubles(args);
    const int64_t count = column_doubles(args);
    for (int64_t i = 0; i < count; i++) columns[i] = 0;
    each_row(args, scratch, NULL);
    for (int64_t i = 0; i < count && heed_has(&args->column_sums); i++)
        heed_ref_store(&args->column_sums, i, columns[i]);
    return HEED_OK;
}

static heed_status attention_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved;
    const struct heed_attention_args *args = p;
    double *free_scratch = (double *)scratch + row_doubles(args);
    struct heed_ref_sums sums;
    struct sum list[MOST_SUMS];
    const int count = list_sums(args, &sums, list);
    for (int i = 0; i < count; i++) *list[i].sum = heed_ref_sum_open(list[i].gradient, &free_scratch);
    each_row(args, scratch, &sums);
    for (int i = 0; i < count; i++) heed_ref_sum_close(list[i].gradient, list[i].sum);
    return HEED_OK;
}

const struct heed_kernel heed_ref_attention = {"ref", NULL, attention_sizes, attention_forward,
                                               attention_backward};
