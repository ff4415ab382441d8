/* Reference kernel of attention: the stages, on one row of scores. */
#include "backend/ref/attention.h"

#include <math.h>
#include <string.h>

enum { TILE = 64 }; /* keys that a user's stage sees at a time */

static int aux_of(const struct heed_stage *stage) {
    if (stage->kind == HEED_STAGE_CUSTOM) return stage->rule->n_aux;
    return stage->kind == HEED_STAGE_SOFTCAP ? 1 : 0;
}

int64_t heed_ref_aux_lines(const struct heed_attention_args *args) {
    int64_t lines = 0;
    for (int i = 0; i < args->stages; i++) lines += aux_of(&args->stage[i]);
    return lines;
}

static bool is_vector(const struct heed_stage_param *param) {
    return param->scope == HEED_PER_CALL || param->scope == HEED_PER_HEAD;
}

int64_t heed_ref_param_line(const struct heed_attention_args *args) {
    int64_t line = TILE;
    for (int i = 0; i < args->params; i++) {
        const struct heed_stage_param *param = &args->param[i];
        if (is_vector(param) && param->tensor.size[3] > line) line = param->tensor.size[3];
    }
    return line;
}

/* Where a bias of either kind has the number of a cell. */
static int64_t bias_offset(const struct heed_ref_row *r, const struct heed_stage *stage,
                           const struct heed_view *v, int64_t key) {
    if (stage->kind == HEED_STAGE_BIAS) return heed_ref_cell_offset(r, v, key);
    return heed_ref_head_offset(r, v) + (key - r->query + r->args->q.size[2] - 1) * v->stride[3];
}

/* ---- a user's stage ---- */

/* One call of the rule: a tile of one row. Numbers are converted, so that a rule in f32 runs beside sums in
 * double. */
struct custom {
    struct heed_ref_row *row;
    const struct heed_stage *stage;
    const struct heed_view *sums; /* of the parameters; NULL in forward */
    double *aux;
    int64_t key;
    int keys;
    uint64_t visible;
    double *param[HEED_STAGE_MAX_PARAMS], *dparam[HEED_STAGE_MAX_PARAMS]; /* each of a line */
};

static int64_t param_count(const struct custom *c, const struct heed_stage_param *param) {
    if (is_vector(param)) return param->tensor.size[3];
    return param->scope == HEED_PER_QUERY ? 1 : c->keys;
}

/* Element i of what the tile sees of a parameter. */
static int64_t param_offset(const struct custom *c, const struct heed_stage_param *param,
                            const struct heed_view *v, int64_t i) {
    const int64_t at = heed_ref_head_offset(c->row, v);
    if (is_vector(param)) return at + i * v->stride[3];
    return param->scope == HEED_PER_QUERY ? at + c->row->query * v->stride[2]
                                          : at + (c->key + i) * v->stride[3];
}

static void load_params(struct custom *c, bool f64) {
    for (int p = 0; p < c->stage->rule->n_params; p++) {
        const struct heed_stage_param *param = &c->row->args->param[c->stage->param + p];
        for (int64_t i = 0; i < param_count(c, param); i++) {
            const double x = heed_ref_load(&param->tensor, param_offset(c, param, &param->tensor, i));
            if (f64) {
                c->param[p][i] = x;
                c->dparam[p][i] = 0;
            } else {
                ((float *)c->param[p])[i] = (float)x;
                ((float *)c->dparam[p])[i] = 0;
            }
        }
    }
}

static void add_dparams(struct custom *c, bool f64) {
    for (int p = 0; p < c->stage->rule->n_params; p++) {
        const struct heed_stage_param *param = &c->row->args->param[c->stage->param + p];
        const struct heed_view *sum = &c->sums[c->stage->param + p];
        for (int64_t i = 0; i < param_count(c, param) && heed_has(sum); i++) {
            heed_ref_sum_add(sum, param_offset(c, param, sum, i),
                             f64 ? c->dparam[p][i] : (double)((float *)c->dparam[p])[i]);
        }
    }
}

/* Whether the gradient of parameter p is wanted. */
static bool wants(const struct custom *c, int p) {
    return c->sums && heed_has(&c->sums[c->stage->param + p]);
}

/* The call in the type of the rule: cells are converted to it and back. */
#define DEFINE_CALL(call, real, tile_type, forward_of_rule, backward_of_rule)                                \
    static void call(struct custom *c) {                                                                     \
        const struct heed_ref_row *r = c->row;                                                               \
        const heed_stage_rule *rule = c->stage->rule;                                                        \
        const bool f64 = sizeof(real) == sizeof(double);                                                     \
        double *line = (c->sums ? r->gradient : r->score) + c->key;                                          \
        real cells[TILE], *aux[HEED_STAGE_MAX_AUX], *dparam[HEED_STAGE_MAX_PARAMS];                          \
        const real *param[HEED_STAGE_MAX_PARAMS];                                                            \
        for (int i = 0; i < rule->n_aux; i++) aux[i] = (real *)(c->aux + i * r->line) + c->key;              \
        for (int i = 0; i < rule->n_params; i++) {                                                           \
            param[i] = (real *)c->param[i];                                                                  \
            dparam[i] = wants(c, i) ? (real *)c->dparam[i] : NULL;                                           \
        }                                                                                                    \
        for (int i = 0; i < c->keys; i++) cells[i] = (real)line[i];                                          \
        const tile_type tile = {.batch = r->batch,                                                           \
                                .head = r->head,                                                             \
                                .query = r->query,                                                           \
                                .key = c->key,                                                               \
                                .queries = r->args->q.size[2],                                               \
                                .keys = r->args->k.size[2],                                                  \
                                .rows = 1,                                                                   \
                                .columns = c->keys,                                                          \
                                .row_stride = TILE,                                                          \
                                .visible = &c->visible,                                                      \
                                .s = c->sums ? NULL : cells,                                                 \
                                .g = c->sums ? cells : NULL,                                                 \
                                .aux = aux,                                                                  \
                                .param = param,                                                              \
                                .dparam = dparam,                                                            \
                                .user = c->stage->user};                                                     \
        load_params(c, f64);                                                                                 \
        if (!c->sums) {                                                                                      \
            rule->forward_of_rule(&tile);                                                                    \
        } else if (rule->backward_of_rule) {                                                                 \
            rule->backward_of_rule(&tile);                                                                   \
            add_dparams(c, f64);                                                                             \
        }                                                                                                    \
        for (int i = 0; i < c->keys; i++) line[i] = (double)cells[i];                                        \
    }

DEFINE_CALL(call_f32, float, heed_tile, forward, backward)
DEFINE_CALL(call_f64, double, heed_tile_f64, forward_f64, backward_f64)

/* sums NULL: forward. */
static void custom_row(struct heed_ref_row *r, const struct heed_stage *stage, double *aux,
                       const struct heed_view *sums) {
    const int64_t keys = r->args->k.size[2], line = heed_ref_param_line(r->args);
    struct custom c = {.row = r, .stage = stage, .sums = sums, .aux = aux};
    for (int i = 0; i < HEED_STAGE_MAX_PARAMS; i++) {
        c.param[i] = r->custom + 2 * i * line;
        c.dparam[i] = c.param[i] + line;
    }
    for (c.key = 0; c.key < keys; c.key += TILE) {
        c.keys = keys - c.key < TILE ? (int)(keys - c.key) : TILE;
        c.visible = 0;
        for (int i = 0; i < c.keys; i++) {
            if (r->allowed[c.key + i]) {
                c.visible |= UINT64_C(1) << i;
            } else if (!sums) {
                r->score[c.key + i] = 0;
            }
        }
        if (stage->rule->forward_f64) {
            call_f64(&c);
        } else {
            call_f32(&c);
        }
    }
}

/* ---- all stages ---- */

void heed_ref_stages_forward(struct heed_ref_row *r) {
    const int64_t keys = r->args->k.size[2];
    double *aux = r->aux;
    for (int i = 0; i < r->args->stages; i++) {
        const struct heed_stage *stage = &r->args->stage[i];
        switch (stage->kind) {
        case HEED_STAGE_BIAS:
        case HEED_STAGE_DISTANCE:
            for (int64_t k = 0; k < keys; k++)
                r->score[k] += heed_ref_load(&stage->tensor, bias_offset(r, stage, &stage->tensor, k));
            break;
        case HEED_STAGE_SOFTCAP:
            for (int64_t k = 0; k < keys; k++) {
                aux[k] = tanh(r->score[k] / stage->cap);
                r->score[k] = stage->cap * aux[k];
            }
            break;
        case HEED_STAGE_CUSTOM:
            custom_row(r, stage, aux, NULL);
            break;
        }
        aux += aux_of(stage) * r->line;
    }
}

void heed_ref_stages_backward(struct heed_ref_row *r, const struct heed_ref_sums *sums) {
    const int64_t keys = r->args->k.size[2];
    double *aux = r->aux + heed_ref_aux_lines(r->args) * r->line;
    for (int i = r->args->stages - 1; i >= 0; i--) {
        const struct heed_stage *stage = &r->args->stage[i];
        const struct heed_view *sum = &sums->dstage[i];
        aux -= aux_of(stage) * r->line;
        switch (stage->kind) {
        case HEED_STAGE_BIAS:
        case HEED_STAGE_DISTANCE:
            for (int64_t k = 0; k < keys && heed_has(sum); k++) {
                if (heed_ref_visible(r, k))
                    heed_ref_sum_add(sum, bias_offset(r, stage, sum, k), r->gradient[k]);
            }
            break;
        case HEED_STAGE_SOFTCAP:
            for (int64_t k = 0; k < keys; k++)
                if (heed_ref_visible(r, k)) r->gradient[k] *= 1 - aux[k] * aux[k];
            break;
        case HEED_STAGE_CUSTOM:
            custom_row(r, stage, aux, sums->dparam);
            for (int64_t k = 0; k < keys; k++)
                if (!heed_ref_visible(r, k)) r->gradient[k] = 0;
            break;
        }
    }
}
