/* Attention and multi-head attention as operations. Batch dimensions are folded into one by recorded views,
 * so that the operations themselves know only [batch, heads, length, width]. */
#include "autograd/attention.h"
#include "backend/masks.h"

#include <string.h>

/* ---- attention on rank 4 ---- */

enum { Q, K, V, SCORE }; /* inputs; the score's tensors follow, and the starts of packed sequences */

/* A slice [1, ..] that holds the rows of all of packed sequences, as that of each. */
static void share_slice(const struct heed_packed *packed, struct heed_view *v) {
    if (!heed_is_packed(packed) || v->rank == 0) return;
    v->size[0] = packed->sequences;
    v->stride[0] = 0;
}

static heed_status attention_backward(struct heed_backward *b) {
    struct heed_attention_args *args = b->args;
    int output = 0;
    args->dy = heed_dy_dense(b, output++);
    /* Their ranks say still whether they were asked for. */
    if (args->weights.rank > 0) args->dweights = heed_dy_dense(b, output++);
    if (args->lse.rank > 0) args->dlse = heed_dy_dense(b, output++);
    args->weights.data = args->lse.data = NULL;
    while (output < b->entry->outputs) {
        const struct heed_view dy = heed_dy(b, output++);
        if (heed_has(&dy))
            return heed_fail(
                b->ctx, HEED_ERROR_GRADIENT, "attention_weights",
                "no gradient flows through chosen weights and their sums (that of the output, or "
                "of heed_attention()'s whole matrix, does)");
    }
    args->chosen.data = args->column_sums.data = args->head_list.data = args->query_list.data = NULL;
    args->dq = heed_dx_strided(b, Q);
    args->dk = heed_dx_strided(b, K);
    args->dv = heed_dx_strided(b, V);
    struct heed_view *const slices[] = {&args->dy, &args->dlse, &args->dq.view, &args->dk.view,
                                        &args->dv.view};
    for (int i = 0; i < 5; i++) share_slice(&args->packed, slices[i]);
    heed_score_gradients(b, SCORE, args);
    return heed_backward_run(b);
}

static const struct heed_op op_attention = {"attention", HEED_PRODUCT, attention_backward, NULL, SCORE};

/* A list of places below `below`, for the duration of the call; absent for NULL. */
static struct heed_view choose(struct heed_call *c, const char *name, const int64_t *from, int64_t count,
                               int64_t below) {
    struct heed_view list = {0};
    if (!from || !c->ok) return list;
    if (count < 0) {
        heed_call_fail(c, HEED_ERROR_ARGUMENT, "%lld is not a number of chosen %s", (long long)count, name);
        return list;
    }
    struct heed_view host;
    list = heed_call_temp(c, HEED_I32, 1, &count);
    if (!c->ok || heed_elements_map(&c->ctx->exec, &list, HEED_MAP_WRITE, &host) != HEED_OK) return list;
    for (int64_t i = 0; c->ok && i < count; i++) {
        if (from[i] < 0 || from[i] >= below)
            heed_call_fail(c, HEED_ERROR_ARGUMENT, "%lld of the chosen %s is not in 0 to %lld",
                           (long long)from[i], name, (long long)below - 1);
        else
            ((int32_t *)host.data)[i] = (int32_t)from[i];
    }
    heed_elements_unmap(&c->ctx->exec, &list, HEED_MAP_WRITE, &host);
    return list;
}

static void choose_weights(struct heed_call *c, const struct heed_attention_extra *extra,
                           const struct heed_problem *problem, struct heed_attention_args *args) {
    static const heed_weights_request everything;
    const heed_weights_request *r = extra->request ? extra->request : &everything;
    if (!heed_reserved_zero(r->reserved, 4))
        heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the request are not zero");
    args->head_list = choose(c, "heads", r->head, r->heads, problem->heads);
    args->query_list = choose(c, "queries", r->query, r->queries, problem->queries);
    int64_t size[4] = {problem->batch, heed_attention_chosen_count(&args->head_list, problem->heads),
                       heed_attention_chosen_count(&args->query_list, problem->queries), problem->keys};
    if (extra->chosen) args->chosen = heed_call_output(c, problem->dtype, 4, size);
    size[2] = problem->keys;
    if (extra->column_sums) args->column_sums = heed_call_output(c, problem->dtype, 3, size);
}

heed_tensor heed_attention_folded(const heed_tensor qkv[3], const struct heed_prepared_score *prepared,
                                  const struct heed_problem *problem, double dropout,
                                  const struct heed_attention_extra *extra) {
    struct heed_call c;
    heed_tensor input[HEED_MAX_INPUTS];
    const int starts = SCORE + prepared->tensors, start_tensors = extra->starts ? 2 : 0;
    memcpy(input, qkv, 3 * sizeof *qkv);
    memcpy(input + SCORE, prepared->tensor, (size_t)prepared->tensors * sizeof *input);
    for (int i = 0; i < start_tensors; i++) input[starts + i] = extra->starts[i];
    if (!heed_call_begin(&c, &op_attention, NULL, starts + start_tensors, input) ||
        !heed_call_float(&c, K, "k") || !heed_call_float(&c, V, "v"))
        return heed_call_end(&c);
    struct heed_attention_args args = {0};
    args.q = heed_call_dense_rows(&c, Q);
    args.k = heed_call_dense_rows(&c, K);
    args.v = heed_call_dense_rows(&c, V);
    const int64_t slices = start_tensors ? 1 : problem->batch;
    int64_t size[4] = {slices, problem->heads, problem->queries, args.v.size[3]};
    args.y = heed_call_output(&c, args.q.dtype, 4, size);
    size[3] = problem->keys;
    if (extra->weights) args.weights = heed_call_output(&c, problem->dtype, 4, size);
    if (extra->lse) args.lse = heed_call_output(&c, problem->dtype, 3, size);
    if (extra->chosen || extra->column_sums) choose_weights(&c, extra, problem, &args);
    if (!heed_score_bind(&c, SCORE, prepared, problem, args.q.size[3], &args) ||
        !heed_attention_dropout(&c, dropout, &args))
        return heed_call_end(&c);
    struct heed_view *const shared[] = {&args.q, &args.k, &args.v, &args.y, &args.lse};
    for (int i = 0; i < 5; i++) share_slice(&args.packed, shared[i]);
    heed_call_save_view(&c, &args.q);
    heed_call_save_view(&c, &args.k);
    heed_call_save_view(&c, &args.v);
    heed_call_save_output(&c, 0);
    for (int i = 0; i < start_tensors; i++) heed_call_save_input(&c, starts + i);
    heed_tensor y = heed_call_run(&c, HEED_PRIMITIVE_ATTENTION, &args, sizeof args);
    heed_tensor *const others[] = {extra->weights, extra->lse, extra->chosen, extra->column_sums};
    for (int i = 0, output = 1; i < 4; i++)
        if (others[i]) *others[i] = heed_call_result(&c, output++);
    return y;
}

/* ---- checking ---- */

static bool no_match(heed_ctx *ctx, const char *where, const char *name_a, const struct heed_view *a,
                     const char *name_b, const struct heed_view *b) {
    char one[128], two[128];
    heed_fail(ctx, HEED_ERROR_SHAPE, where, "%s does not match %s",
              heed_named_shape(name_a, a, one, sizeof one), heed_named_shape(name_b, b, two, sizeof two));
    return false;
}

/* Joins the batch sizes of a view, its first `rank` dimensions, into problem->batch_size. */
static bool join_batch(struct heed_problem *problem, const struct heed_view *v, int rank) {
    int joined;
    int64_t size[HEED_MAX_RANK];
    memcpy(size, problem->batch_size, sizeof size);
    return rank == problem->batch_rank &&
           heed_shape_broadcast(rank, size, rank, v->size, &joined, problem->batch_size);
}

/* Multiplies the batch out. False, and an error, where that or the number of rows cannot be counted, which
 * views that repeat make possible: nothing behind this has to look for overflow in sums of lengths. */
static bool count_rows(heed_ctx *ctx, const char *where, struct heed_problem *problem) {
    const int64_t longest = problem->queries > problem->keys ? problem->queries : problem->keys;
    int64_t batch = 1, rows;
    bool fits = longest < HEED_MASK_FAR;
    for (int d = 0; d < problem->batch_rank; d++)
        fits = fits && !__builtin_mul_overflow(batch, problem->batch_size[d], &batch);
    fits = fits && !__builtin_mul_overflow(batch, problem->heads, &rows) &&
           !__builtin_mul_overflow(rows, longest, &rows) && rows < HEED_MASK_FAR;
    problem->batch = batch;
    if (!fits)
        heed_fail(ctx, HEED_ERROR_MEMORY, where,
                  "rows of all batches and heads, each of %lld queries and %lld keys, cannot be counted",
                  (long long)problem->queries, (long long)problem->keys);
    return fits;
}

bool heed_attention_check(heed_ctx *ctx, const heed_tensor qkv[3], const heed_attention_options *options,
                          struct heed_problem *problem) {
    static const char where[] = "attention";
    static const char *const names[3] = {"q", "k", "v"};
    const struct heed_view *v[3];
    for (int i = 0; i < 3; i++) {
        struct heed_node *node = heed_node_of(qkv[i], where);
        if (!node) {
            heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s is missing", names[i]);
            return false;
        }
        v[i] = &node->view;
        if (v[i]->rank >= 3 && v[i]->rank == v[0]->rank) continue;
        if (i > 0) return no_match(ctx, where, "q", v[0], names[i], v[i]);
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "q has rank %d, not [batch.., heads, length, width]",
                  v[0]->rank);
        return false;
    }
    const int rank = v[0]->rank;
    const int64_t *q = v[0]->size + rank - 3, *k = v[1]->size + rank - 3, *value = v[2]->size + rank - 3;
    *problem = (struct heed_problem){.batch_rank = rank - 3,
                                     .heads = q[0],
                                     .queries = q[1],
                                     .keys = k[1],
                                     .dtype = heed_precise_dtype(v[0]->dtype)};
    for (int d = 0; d < HEED_MAX_RANK; d++) problem->batch_size[d] = 1;
    for (int i = 0; i < 3; i++)
        if (!join_batch(problem, v[i], rank - 3)) return no_match(ctx, where, "q", v[0], names[i], v[i]);
    if (q[2] != k[2]) return no_match(ctx, where, "q", v[0], "k", v[1]);
    if (k[0] == 0 ? q[0] != 0 : q[0] % k[0] != 0) {
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "q has %lld heads, which is not a multiple of k's %lld",
                  (long long)q[0], (long long)k[0]);
        return false;
    }
    if (value[0] != k[0] || value[1] != k[1]) return no_match(ctx, where, "k", v[1], "v", v[2]);
    if (!count_rows(ctx, where, problem)) return false;
    if (!options || heed_reserved_zero(options->reserved, 6)) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "reserved words of the options are not zero");
    return false;
}

/* [batch.., rest] to [batch, rest] with the problem's batch, `rest` the last `kept` dimensions. */
static heed_tensor fold_batch(heed_tensor t, const struct heed_problem *problem, int kept) {
    int64_t size[HEED_MAX_RANK], folded[HEED_MAX_RANK] = {problem->batch};
    memcpy(size, problem->batch_size, sizeof size);
    for (int d = 0; d < kept; d++) size[problem->batch_rank + d] = folded[1 + d] = heed_size(t, d - kept);
    t = heed_broadcast(t, problem->batch_rank + kept, size);
    return heed_reshape(t, 1 + kept, folded);
}

static heed_tensor unfold_batch(heed_tensor t, const struct heed_problem *problem, int kept) {
    int64_t size[HEED_MAX_RANK];
    if (problem->batch_rank == 1 || !heed_is_valid(t)) return t;
    memcpy(size, problem->batch_size, sizeof size);
    for (int d = 0; d < kept; d++) size[problem->batch_rank + d] = heed_size(t, 1 + d);
    return heed_reshape(t, problem->batch_rank + kept, size);
}

/* Whether a tensor has the folded shape already. */
static bool is_folded(heed_tensor t, const struct heed_problem *problem) {
    return problem->batch_rank == 1 && heed_size(t, 0) == problem->batch;
}

static heed_tensor failed(heed_ctx *ctx, heed_tensor *weights) {
    heed_tensor inert = heed_handle(ctx, NULL);
    if (weights) *weights = inert;
    return inert;
}

heed_ctx *heed_attention_begin(const char *where, int count, const heed_tensor *tensors) {
    heed_ctx *ctx = heed_find_ctx(count, tensors);
    if (ctx->broken || !heed_enter(ctx)) return NULL;
    for (int i = 0; i < count; i++) heed_argument(ctx, where, tensors[i], i + 1);
    if (ctx->status == HEED_OK) return ctx;
    heed_leave(ctx);
    return NULL;
}

bool heed_attention_check_lse(heed_ctx *ctx, const heed_score *score, const heed_tensor *lse) {
    if (!lse || !score || score->normalizer == HEED_NORMALIZER_SOFTMAX) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, "attention",
              "only the softmax has a sum whose logarithm is asked for");
    return false;
}

static heed_tensor attend(const heed_tensor *inputs, const heed_score *score,
                          const heed_attention_options *options, const struct heed_attention_extra *extra) {
    heed_tensor qkv[3] = {inputs[0], inputs[1], inputs[2]};
    heed_tensor *const others[] = {extra->weights, extra->lse, extra->chosen, extra->column_sums};
    const int kept[] = {3, 2, 3, 2}; /* dimensions behind the batch */
    struct heed_problem problem;
    struct heed_prepared_score prepared;
    heed_ctx *ctx = heed_attention_begin("attention", 3, qkv);
    heed_tensor y = heed_handle(ctx ? ctx : heed_find_ctx(3, qkv), NULL);
    for (int i = 0; i < 4; i++)
        if (others[i]) *others[i] = y;
    if (!ctx) return y;
    if (heed_attention_check(ctx, qkv, options, &problem) &&
        heed_score_prepare(ctx, "attention", score, &problem, &prepared) &&
        heed_attention_check_lse(ctx, score, extra->lse)) {
        for (int i = 0; i < 3; i++)
            if (!is_folded(qkv[i], &problem)) qkv[i] = fold_batch(qkv[i], &problem, 3);
        y = heed_attention_folded(qkv, &prepared, &problem, options ? options->dropout : 0.0, extra);
        y = unfold_batch(y, &problem, 3);
        for (int i = 0; i < 4; i++)
            if (others[i]) *others[i] = unfold_batch(*others[i], &problem, kept[i]);
    }
    heed_leave(ctx);
    return y;
}

heed_tensor heed_attention(heed_tensor q, heed_tensor k, heed_tensor v, const heed_score *score,
                           const heed_attention_options *options, heed_tensor *weights) {
    return heed_attention_lse(q, k, v, score, options, weights, NULL);
}

heed_tensor heed_attention_lse(heed_tensor q, heed_tensor k, heed_tensor v, const heed_score *score,
                               const heed_attention_options *options, heed_tensor *weights,
                               heed_tensor *lse) {
    const struct heed_attention_extra extra = {.weights = weights, .lse = lse};
    return attend((heed_tensor[]){q, k, v}, score, options, &extra);
}

heed_tensor heed_attention_weights(heed_tensor q, heed_tensor k, heed_tensor v, const heed_score *score,
                                   const heed_attention_options *options, const heed_weights_request *request,
                                   heed_tensor *weights, heed_tensor *column_sums) {
    const struct heed_attention_extra extra = {
        .chosen = weights, .column_sums = column_sums, .request = request};
    return attend((heed_tensor[]){q, k, v}, score, options, &extra);
}

/* ---- multi-head attention on rank 3 ---- */

enum { QUERY, KEY, VALUE, WQ, WK, WV, WO, BQ, BK, BV, BO, MHA_SCORE };

static heed_status mha_backward(struct heed_backward *b) {
    struct heed_mha_args *args = b->args;
    args->y.data = NULL;
    args->attention.weights.data = NULL;
    args->dy = heed_dy_dense(b, 0);
    if (b->entry->outputs > 1) args->attention.dweights = heed_dy_dense(b, 1);
    args->dquery = heed_dx(b, QUERY);
    args->dkey = args->key.data == args->query.data ? args->dquery : heed_dx(b, KEY);
    args->dvalue = args->value.data == args->key.data ? args->dkey : heed_dx(b, VALUE);
    args->dwq = heed_dx(b, WQ);
    args->dwk = heed_dx(b, WK);
    args->dwv = heed_dx(b, WV);
    args->dwo = heed_dx(b, WO);
    args->dbq = heed_dx(b, BQ);
    args->dbk = heed_dx(b, BK);
    args->dbv = heed_dx(b, BV);
    args->dbo = heed_dx(b, BO);
    heed_score_gradients(b, MHA_SCORE, &args->attention);
    return heed_backward_run(b);
}

static const struct heed_op op_mha = {"multi_head_attention", HEED_PRODUCT, mha_backward, NULL, MHA_SCORE};

/* An input that is not the one before it must not share its memory either: kernels tell self-attention by
 * that. */
static struct heed_view dense_apart(struct heed_call *c, int i, const struct heed_view *before) {
    struct heed_view v = heed_call_dense(c, i);
    if (!heed_has(&v)) return *before;
    if (!c->ok || v.data != before->data) return v;
    struct heed_copy_args copy = {.x = v, .y.view = heed_call_temp(c, v.dtype, v.rank, v.size)};
    if (c->ok && heed_exec_run(&c->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) c->ok = false;
    return copy.y.view;
}

static bool check_floats(struct heed_call *c) {
    static const char *const names[MHA_SCORE] = {"query",    "key",      "value",         "q weight",
                                                 "k weight", "v weight", "output weight", "q bias",
                                                 "k bias",   "v bias",   "output bias"};
    for (int i = 0; i < MHA_SCORE; i++)
        if (c->input[i] && !heed_call_float(c, i, names[i])) return false;
    return true;
}

static heed_tensor mha3(const heed_tensor *input, const struct heed_prepared_score *prepared,
                        const struct heed_problem *problem, const heed_mha_call_options *options,
                        heed_tensor *weights) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_mha, NULL, MHA_SCORE + prepared->tensors, input) || !check_floats(&c))
        return heed_call_end(&c);
    struct heed_mha_args args = {.heads = options->heads,
                                 .kv_heads = options->kv_heads ? options->kv_heads : options->heads};
    args.query = heed_call_dense(&c, QUERY);
    args.key = dense_apart(&c, KEY, &args.query);
    args.value = dense_apart(&c, VALUE, &args.key);
    struct heed_view *const projection[] = {&args.wq, &args.wk, &args.wv, &args.wo,
                                            &args.bq, &args.bk, &args.bv, &args.bo};
    for (int i = 0; i < 8; i++) *projection[i] = heed_call_dense(&c, WQ + i);
    if (!c.ok) return heed_call_end(&c);
    args.y = heed_call_output(&c, args.query.dtype, 3,
                              (int64_t[]){problem->batch, problem->queries, args.wo.size[0]});
    if (weights)
        args.attention.weights =
            heed_call_output(&c, problem->dtype, 4,
                             (int64_t[]){problem->batch, problem->heads, problem->queries, problem->keys});
    if (!heed_score_bind(&c, MHA_SCORE, prepared, problem, args.wq.size[0] / args.heads, &args.attention) ||
        !heed_attention_dropout(&c, options->dropout, &args.attention))
        return heed_call_end(&c);
    heed_call_save_view(&c, &args.query);
    heed_call_save_view(&c, &args.key);
    heed_call_save_view(&c, &args.value);
    for (int i = 0; i < 8; i++) heed_call_save(&c, projection[i]);
    heed_tensor y = heed_call_run(&c, HEED_PRIMITIVE_MHA, &args, sizeof args);
    if (weights) *weights = heed_call_result(&c, 1);
    return y;
}

/* ---- checking ---- */

static const char mha_where[] = "multi_head_attention";

static bool mha_fail(heed_ctx *ctx, const char *name, const struct heed_view *v, const char *needed) {
    char text[128];
    heed_fail(ctx, HEED_ERROR_SHAPE, mha_where, "%s is not %s", heed_named_shape(name, v, text, sizeof text),
              needed);
    return false;
}

static const struct heed_view *view_of(heed_tensor t) {
    return heed_is_valid(t) ? &t.node->view : NULL;
}

/* A projection takes rows of `in` numbers; `from` is what they come from. */
static bool check_projection(heed_ctx *ctx, const char *name, const struct heed_view *w,
                             const struct heed_view *bias, const char *from_name,
                             const struct heed_view *from, int64_t in, int64_t heads) {
    char full[32], text[64];
    if (!w) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, mha_where, "the %s weight is missing", name);
        return false;
    }
    snprintf(text, sizeof text, "[a multiple of %lld, %lld]", (long long)heads, (long long)in);
    snprintf(full, sizeof full, "%s weight", name);
    if (w->rank != 2 || w->size[0] % heads != 0) return mha_fail(ctx, full, w, text);
    if (w->size[1] != in) return no_match(ctx, mha_where, from_name, from, full, w);
    snprintf(full, sizeof full, "%s bias", name);
    snprintf(text, sizeof text, "[%lld]", (long long)w->size[0]);
    if (bias && (bias->rank != 1 || bias->size[0] != w->size[0])) return mha_fail(ctx, full, bias, text);
    return true;
}

static bool check_heads(heed_ctx *ctx, const heed_mha_call_options *o) {
    int64_t kv_heads = o && o->kv_heads ? o->kv_heads : o ? o->heads : 0;
    if (o && !heed_reserved_zero(o->reserved, 6)) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, mha_where, "reserved words of the options are not zero");
        return false;
    }
    if (o && o->heads >= 1 && kv_heads >= 1 && o->heads % kv_heads == 0) return true;
    heed_fail(ctx, HEED_ERROR_ARGUMENT, mha_where, "%lld heads with %lld key/value heads",
              o ? (long long)o->heads : 0LL, (long long)kv_heads);
    return false;
}

static bool check_mha(heed_ctx *ctx, const heed_tensor *input, const heed_mha_call_options *options,
                      struct heed_problem *problem) {
    if (!check_heads(ctx, options)) return false;
    const int64_t heads = options->heads, kv_heads = options->kv_heads ? options->kv_heads : heads;
    const struct heed_view *x[3], *w[4], *bias[4];
    for (int i = 0; i < 3; i++) x[i] = view_of(input[QUERY + i]);
    for (int i = 0; i < 4; i++) {
        w[i] = view_of(input[WQ + i]);
        bias[i] = view_of(input[BQ + i]);
    }
    if (!x[0]) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, mha_where, "the query is missing");
        return false;
    }
    if (!x[1]) x[1] = x[0];
    if (!x[2]) x[2] = x[1];
    const int rank = x[0]->rank;
    if (rank < 2 || rank > HEED_MAX_RANK - 1) return mha_fail(ctx, "query", x[0], "[batch.., length, width]");
    *problem = (struct heed_problem){.batch_rank = rank - 2,
                                     .heads = heads,
                                     .queries = x[0]->size[rank - 2],
                                     .dtype = heed_precise_dtype(x[0]->dtype)};
    for (int d = 0; d < HEED_MAX_RANK; d++) problem->batch_size[d] = 1;
    for (int i = 0; i < 3; i++)
        if (x[i]->rank != rank || !join_batch(problem, x[i], rank - 2))
            return no_match(ctx, mha_where, "query", x[0], i == 1 ? "key" : "value", x[i]);
    problem->keys = x[1]->size[rank - 2];
    if (x[2]->size[rank - 2] != problem->keys) return no_match(ctx, mha_where, "key", x[1], "value", x[2]);
    if (!count_rows(ctx, mha_where, problem)) return false;
    if (!check_projection(ctx, "q", w[0], bias[0], "query", x[0], x[0]->size[rank - 1], heads) ||
        !check_projection(ctx, "k", w[1], bias[1], "key", x[1], x[1]->size[rank - 1], kv_heads) ||
        !check_projection(ctx, "v", w[2], bias[2], "value", x[2], x[2]->size[rank - 1], kv_heads))
        return false;
    if (w[0]->size[0] / heads != w[1]->size[0] / kv_heads)
        return no_match(ctx, mha_where, "q", w[0], "k", w[1]);
    int64_t joined;
    if (__builtin_mul_overflow(w[2]->size[0] / kv_heads, heads, &joined)) joined = INT64_MAX;
    return check_projection(ctx, "out", w[3], bias[3], "v weight", w[2], joined, 1);
}

static bool same_tensor(heed_tensor a, heed_tensor b) {
    return a.node == b.node && a.serial == b.serial;
}

heed_tensor heed_multi_head_attention(heed_tensor query, heed_tensor key, heed_tensor value,
                                      const heed_mha_weights *projections, const heed_score *score,
                                      const heed_mha_call_options *options, heed_tensor *weights) {
    static const heed_mha_weights none;
    const heed_mha_weights *p = projections ? projections : &none;
    const heed_tensor no_tensor = {0};
    struct heed_problem problem;
    struct heed_prepared_score prepared;
    if (same_tensor(value, heed_is_none(key) ? query : key)) value = no_tensor;
    if (same_tensor(key, query)) key = no_tensor;
    heed_tensor input[HEED_MAX_INPUTS + MHA_SCORE] = {
        query, key, value, p->q, p->k, p->v, p->out, p->q_bias, p->k_bias, p->v_bias, p->out_bias};
    heed_ctx *ctx = heed_attention_begin(mha_where, MHA_SCORE, input);
    if (!ctx) return failed(heed_find_ctx(MHA_SCORE, input), weights);
    heed_tensor y = failed(ctx, weights);
    if (check_mha(ctx, input, options, &problem) &&
        heed_score_prepare(ctx, mha_where, score, &problem, &prepared)) {
        for (int i = QUERY; i <= VALUE; i++)
            if (!heed_is_none(input[i]) && !is_folded(input[i], &problem))
                input[i] = fold_batch(input[i], &problem, 2);
        memcpy(input + MHA_SCORE, prepared.tensor, (size_t)prepared.tensors * sizeof *input);
        y = unfold_batch(mha3(input, &prepared, &problem, options, weights), &problem, 2);
        if (weights) *weights = unfold_batch(*weights, &problem, 3);
    }
    heed_leave(ctx);
    return y;
}
