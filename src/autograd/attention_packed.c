/* Attention within packed sequences. */
#include "autograd/attention.h"

static const char where[] = "attention";

/* Starts must begin at 0, not decrease, and end at the number of rows. Returns the rows of the longest
 * sequence; −1 after an error. */
static int64_t check_starts(heed_ctx *ctx, const char *name, const struct heed_node *node, int64_t rows) {
    const struct heed_view *v = &node->view;
    const int32_t *at = v->data;
    char text[128];
    if (v->dtype != HEED_I32) {
        heed_fail(ctx, HEED_ERROR_DTYPE, where, "%s are %s, not i32", name, heed_dtype_name(v->dtype));
        return -1;
    }
    if (v->rank != 1 || v->size[0] < 1) {
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "%s is not [sequences + 1]",
                  heed_named_shape(name, v, text, sizeof text));
        return -1;
    }
    const int64_t last = v->size[0] - 1;
    int64_t most = 0;
    if (at[0] != 0 || at[last * v->stride[0]] != rows) {
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s go from %d to %d, not from 0 to %lld", name, at[0],
                  at[last * v->stride[0]], (long long)rows);
        return -1;
    }
    for (int64_t i = 0; i < last; i++) {
        const int64_t length = (int64_t)at[(i + 1) * v->stride[0]] - at[i * v->stride[0]];
        if (length > most) most = length;
        if (length >= 0) continue;
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "%s decrease from %d to %d at sequence %lld", name,
                  at[i * v->stride[0]], at[(i + 1) * v->stride[0]], (long long)i);
        return -1;
    }
    return most;
}

/* Starts are read by those who cut the work, so they are host memory on every device. */
static heed_tensor on_host(heed_ctx *ctx, heed_tensor starts) {
    struct heed_node *node = heed_node_of(starts, where);
    if (!node || !ctx->exec.remote.device) return starts;
    node = heed_node_host_copy(node);
    if (node) heed_node_give_to_scope(node);
    return heed_handle(ctx, node);
}

/* Checks the starts and makes the problem that of a batch of sequences. starts: of queries and of keys, which
 * become contiguous. */
static bool pack(heed_ctx *ctx, heed_tensor starts[2], struct heed_problem *problem) {
    const struct heed_node *node[2];
    for (int i = 0; i < 2; i++) {
        starts[i] = on_host(ctx, starts[i]);
        node[i] = heed_node_of(starts[i], where);
        if (node[i]) continue;
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "query starts are missing");
        return false;
    }
    struct heed_packed *packed = &problem->packed;
    packed->most_queries = check_starts(ctx, "query starts", node[0], problem->queries);
    if (packed->most_queries < 0) return false;
    packed->most_keys = check_starts(ctx, "key starts", node[1], problem->keys);
    if (packed->most_keys < 0) return false;
    const int64_t sequences = node[0]->view.size[0] - 1, others = node[1]->view.size[0] - 1;
    if (others != sequences) {
        heed_fail(ctx, HEED_ERROR_SHAPE, where, "queries of %lld sequences do not match keys of %lld",
                  (long long)sequences, (long long)others);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        starts[i] = heed_contiguous(starts[i]);
        if (!heed_is_valid(starts[i])) return false;
    }
    packed->sequences = problem->batch = problem->batch_size[0] = sequences;
    packed->query_starts = starts[0].node->view.data;
    packed->key_starts = starts[1].node->view.data;
    problem->batch_rank = 1;
    return true;
}

static bool check_rank(heed_ctx *ctx, heed_tensor q) {
    if (heed_rank(q) == 3) return true;
    heed_fail(ctx, HEED_ERROR_SHAPE, where, "packed q has rank %d, not [heads, queries, width]",
              heed_rank(q));
    return false;
}

heed_tensor heed_attention_packed(heed_tensor q, heed_tensor k, heed_tensor v, heed_tensor query_starts,
                                  heed_tensor key_starts, const heed_score *score,
                                  const heed_attention_options *options, heed_tensor *lse) {
    heed_tensor input[5] = {q, k, v, query_starts, heed_is_none(key_starts) ? query_starts : key_starts};
    struct heed_problem problem;
    struct heed_prepared_score prepared;
    heed_ctx *ctx = heed_attention_begin(where, 5, input);
    heed_tensor y = heed_handle(ctx ? ctx : heed_find_ctx(5, input), NULL), sums = y;
    if (lse) *lse = y;
    if (!ctx) return y;
    if (heed_attention_check(ctx, input, options, &problem) && check_rank(ctx, q) &&
        pack(ctx, input + 3, &problem) && heed_score_prepare(ctx, where, score, &problem, &prepared) &&
        heed_attention_check_lse(ctx, score, lse)) {
        const struct heed_attention_extra extra = {.lse = lse ? &sums : NULL, .starts = input + 3};
        for (int i = 0; i < 3; i++) input[i] = heed_unsqueeze(input[i], 0);
        y = heed_attention_folded(input, &prepared, &problem, options ? options->dropout : 0.0, &extra);
        if (lse && heed_is_valid(y)) *lse = heed_squeeze(sums, 0);
        if (heed_is_valid(y)) y = heed_squeeze(y, 0);
    }
    heed_leave(ctx);
    return y;
}
