/* Biases by distance: T5's and clipped relative positions, and ALiBi.
 *
 * All are one stage, a vector of queries + keys − 1 numbers per head, indexed by the key's distance from the
 * query. It is made of the table (or slopes) by recorded operations once the lengths are known, so that the
 * table's gradient needs nothing of its own. */
#include <math.h>

#include "autograd/score.h"

/* ---- tensors for a problem ---- */

/* A new vector of n numbers of a stage, element by element. */
typedef double heed_element(const struct heed_prepare *p, const struct heed_score_stage *stage, int64_t i);

static heed_tensor new_vector(const struct heed_prepare *p, const struct heed_score_stage *stage,
                              heed_dtype dtype, int64_t n, heed_element *element) {
    struct heed_exec *exec = &p->ctx->exec;
    heed_tensor t = heed_zeros(p->ctx, dtype, 1, &n);
    struct heed_view host;
    if (!heed_is_valid(t) || heed_elements_map(exec, &t.node->view, HEED_MAP_WRITE, &host) != HEED_OK)
        return heed_handle(p->ctx, NULL);
    for (int64_t i = 0; i < n; i++) {
        const double value = element(p, stage, i);
        if (dtype == HEED_F64)
            ((double *)host.data)[i] = value;
        else if (dtype == HEED_F32)
            ((float *)host.data)[i] = (float)value;
        else
            ((int32_t *)host.data)[i] = (int32_t)value;
    }
    const bool there = heed_elements_unmap(exec, &t.node->view, HEED_MAP_WRITE, &host) == HEED_OK;
    return there ? t : heed_handle(p->ctx, NULL);
}

static int64_t distances(const struct heed_prepare *p) {
    const int64_t n = heed_most_queries(p->problem) + heed_most_keys(p->problem) - 1;
    return n > 0 ? n : 0;
}

/* The distance key − query that element i stands for. */
static int64_t distance_of(const struct heed_prepare *p, heed_align align, int64_t i) {
    return i + 1 - (align == HEED_BOTTOM_RIGHT ? heed_most_keys(p->problem) : heed_most_queries(p->problem));
}

static heed_tensor no_tensor(const struct heed_prepare *p) {
    return heed_handle(p->ctx, NULL);
}

/* The table's columns that a function of the distance chooses: [heads or 1, distances]. */
static heed_tensor choose(const struct heed_prepare *p, const struct heed_score_stage *stage,
                          heed_element *column) {
    const heed_tensor index = new_vector(p, stage, HEED_I32, distances(p), column);
    return heed_is_valid(index) ? heed_index_select(stage->tensor, 1, index) : index;
}

/* A living table [heads or 1, columns]. The number of heads is looked at when it is broadcast. */
static bool check_table(const struct heed_prepare *p, const struct heed_score_stage *stage) {
    const struct heed_node *node = heed_node_of(stage->tensor, p->where);
    char text[128];
    if (!node) return false;
    const int64_t heads = p->problem->heads;
    if (node->view.rank == 2 && (node->view.size[0] == heads || node->view.size[0] == 1)) return true;
    heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s is not [%lld or 1, columns]",
              heed_named_shape("table", &node->view, text, sizeof text), (long long)heads);
    return false;
}

/* ---- T5 ---- */

/* Raffel et al. 2020; of the reference implementation's relative_position_bucket. */
static int32_t t5_bucket(const struct heed_score_stage *stage, int64_t buckets, int64_t distance) {
    int64_t first = 0, away = distance < 0 ? -distance : 0;
    if (!stage->causal) {
        buckets /= 2;
        first = distance > 0 ? buckets : 0;
        away = distance < 0 ? -distance : distance;
    }
    const int64_t single = buckets / 2;
    if (away < single) return (int32_t)(first + away);
    const double octaves =
        log((double)away / (double)single) / log((double)stage->max_distance / (double)single);
    const double grown = octaves * (double)(buckets - single);
    const int64_t last = buckets - 1;
    return (int32_t)(first + (grown < (double)(last - single) ? single + (int64_t)grown : last));
}

static double t5_column(const struct heed_prepare *p, const struct heed_score_stage *stage, int64_t i) {
    return t5_bucket(stage, heed_size(stage->tensor, 1), distance_of(p, stage->align, i));
}

static heed_tensor t5_vector(const struct heed_prepare *p, const struct heed_score_stage *stage) {
    return check_table(p, stage) ? choose(p, stage, t5_column) : no_tensor(p);
}

static bool check_t5(heed_ctx *ctx, const char *where, heed_tensor table, const heed_t5_options *o,
                     int64_t max_distance) {
    const struct heed_node *node = heed_node_of(table, where);
    const int64_t buckets = node->view.rank == 2 ? node->view.size[1] : 0, least = o->causal ? 2 : 4;
    char text[128];
    if (!heed_reserved_zero(o->reserved, 4))
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    else if (o->align != HEED_TOP_LEFT && o->align != HEED_BOTTOM_RIGHT)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not an alignment", (int)o->align);
    else if (buckets < least || buckets % 2 != 0 || buckets > INT32_MAX)
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "%s is not [heads, an even number of at least %lld buckets]",
                  heed_named_shape("table", &node->view, text, sizeof text), (long long)least);
    else if (max_distance <= (o->causal ? buckets / 2 : buckets / 4))
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where,
                  "a maximum distance of %lld is not beyond the buckets of single distances",
                  (long long)max_distance);
    else
        return true;
    return false;
}

heed_score *heed_score_t5(heed_score *score, heed_tensor table, const heed_t5_options *options) {
    static const char where[] = "score_t5";
    static const heed_t5_options defaults;
    const heed_t5_options *o = options ? options : &defaults;
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    const int64_t max_distance = o->max_distance ? o->max_distance : 128;
    if (heed_score_takes(ctx, where, "table", table) && check_t5(ctx, where, table, o, max_distance)) {
        const struct heed_score_stage stage = {.kind = HEED_STAGE_DISTANCE,
                                               .tensor = table,
                                               .by_distance = t5_vector,
                                               .causal = o->causal,
                                               .max_distance = max_distance,
                                               .align = o->align};
        heed_score_append(ctx, score, where, &stage);
    }
    return heed_score_leave(ctx, score);
}

/* ---- clipped relative positions ---- */

static double clipped_column(const struct heed_prepare *p, const struct heed_score_stage *stage, int64_t i) {
    const int64_t most = heed_size(stage->tensor, 1) / 2, distance = distance_of(p, stage->align, i);
    return (double)(most + (distance < -most ? -most : distance > most ? most : distance));
}

static heed_tensor relative_vector(const struct heed_prepare *p, const struct heed_score_stage *stage) {
    return check_table(p, stage) ? choose(p, stage, clipped_column) : no_tensor(p);
}

heed_score *heed_score_relative(heed_score *score, heed_tensor table, heed_align align) {
    static const char where[] = "score_relative";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    char text[128];
    if (heed_score_takes(ctx, where, "table", table)) {
        const struct heed_view *v = &heed_node_of(table, where)->view;
        const struct heed_score_stage stage = {
            .kind = HEED_STAGE_DISTANCE, .tensor = table, .by_distance = relative_vector, .align = align};
        if (v->rank != 2 || v->size[1] % 2 == 0 || v->size[1] > INT32_MAX)
            heed_fail(ctx, HEED_ERROR_SHAPE, where, "%s is not [heads, an odd number]",
                      heed_named_shape("table", v, text, sizeof text));
        else if (align != HEED_TOP_LEFT && align != HEED_BOTTOM_RIGHT)
            heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not an alignment", (int)align);
        else
            heed_score_append(ctx, score, where, &stage);
    }
    return heed_score_leave(ctx, score);
}

/* ---- ALiBi ---- */

/* Slope i of n, a power of two: 2^(−8·(i + 1)/n). */
static double slope_of_power(int64_t n, int64_t i) {
    return exp2(-8.0 * (double)(i + 1) / (double)n);
}

/* Press et al. 2022, section 3 and its footnote on other numbers of heads. */
static double standard_slope(int64_t heads, int64_t i) {
    int64_t power = 1;
    while (power <= heads / 2) power *= 2;
    return i < power ? slope_of_power(power, i) : slope_of_power(2 * power, 2 * (i - power));
}

static double slope_of_head(const struct heed_prepare *p, const struct heed_score_stage *stage, int64_t i) {
    (void)stage;
    return standard_slope(p->problem->heads, i);
}

static double away_from(const struct heed_prepare *p, const struct heed_score_stage *stage, int64_t i) {
    return -fabs((double)distance_of(p, stage->align, i));
}

static heed_tensor alibi_vector(const struct heed_prepare *p, const struct heed_score_stage *stage) {
    const heed_dtype dtype = p->problem->dtype;
    const heed_tensor slopes = heed_is_none(stage->tensor)
                                   ? new_vector(p, stage, dtype, p->problem->heads, slope_of_head)
                                   : heed_cast(stage->tensor, dtype);
    const struct heed_node *node = heed_node_of(slopes, p->where);
    char text[128];
    if (!node) return no_tensor(p);
    if (node->view.rank != 1 || node->view.size[0] != p->problem->heads) {
        heed_fail(p->ctx, HEED_ERROR_SHAPE, p->where, "%s is not [%lld], one per head",
                  heed_named_shape("slopes", &node->view, text, sizeof text), (long long)p->problem->heads);
        return no_tensor(p);
    }
    return heed_mul(heed_unsqueeze(slopes, 1), new_vector(p, stage, dtype, distances(p), away_from));
}

heed_score *heed_score_alibi(heed_score *score, heed_tensor slopes, heed_align align) {
    static const char where[] = "score_alibi";
    heed_ctx *ctx = heed_score_enter(&score, where);
    if (!ctx) return score;
    const struct heed_score_stage stage = {
        .kind = HEED_STAGE_DISTANCE, .tensor = slopes, .by_distance = alibi_vector, .align = align};
    if (align != HEED_TOP_LEFT && align != HEED_BOTTOM_RIGHT)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%d is not an alignment", (int)align);
    else if (heed_is_none(slopes) || heed_score_takes(ctx, where, "slopes", slopes))
        heed_score_append(ctx, score, where, &stage);
    return heed_score_leave(ctx, score);
}
