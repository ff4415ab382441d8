/* MultiHeadAttention with something between its projections and attention: norms and rotary positions of
 * queries and keys, a cache. Without any of these the layer is one operation. */
#include "layers/mha.h"

#include <string.h>

enum { Q, K, V, PARTS };

/* t with its last dimensions, `from` of them, replaced by others. */
static heed_tensor refold(heed_tensor t, int from, int to, const int64_t *size) {
    const int leading = heed_rank(t) - from;
    int64_t all[HEED_MAX_RANK] = {0};
    if (leading < 0 || leading + to > HEED_MAX_RANK) return t; /* inert: ranks were checked */
    for (int d = 0; d < leading; d++) all[d] = heed_size(t, d);
    memcpy(all + leading, size, (size_t)to * sizeof *size);
    return heed_reshape(t, leading + to, all);
}

/* x [.., length, in] to [.., length, heads, width]. */
static heed_tensor project(heed_tensor x, heed_tensor w, heed_tensor bias, int64_t heads) {
    return refold(heed_linear(x, w, bias, NULL), 1, 2, (int64_t[]){heads, heed_size(w, 0) / heads});
}

/* To [.., heads, length, width], normalised and turned on the way. */
static heed_tensor by_head(const struct heed_mha *mha, heed_tensor x, heed_module *norm, int64_t position) {
    if (norm) x = heed_forward(norm, x);
    x = heed_transpose(x, -3, -2);
    heed_rotary_options rotation = mha->rotation;
    rotation.offset = position;
    return mha->rotary ? heed_rotary(x, &rotation) : x;
}

static heed_tensor attend(const struct heed_mha *mha, const heed_tensor input[PARTS], heed_cache *cache,
                          const heed_score *score, heed_tensor *weights) {
    const heed_mha_weights *w = &mha->weights;
    const int64_t heads = mha->options.heads, kv_heads = mha->options.kv_heads;
    const int64_t position = heed_cache_position(cache), joined = heed_size(w->out, 1);
    heed_tensor q = by_head(mha, project(input[Q], w->q, w->q_bias, heads), mha->q_norm, position);
    heed_tensor k = by_head(mha, project(input[K], w->k, w->k_bias, kv_heads), mha->k_norm, position);
    heed_tensor v = heed_transpose(project(input[V], w->v, w->v_bias, kv_heads), -3, -2);
    if (cache) heed_cache_append(cache, k, v, &k, &v);
    heed_tensor y =
        heed_attention(q, k, v, score, &(heed_attention_options){.dropout = mha->options.dropout}, weights);
    return heed_linear(refold(heed_transpose(y, -3, -2), 2, 1, &joined), w->out, w->out_bias, NULL);
}

static bool ranks_are_sound(heed_ctx *ctx, const heed_tensor input[PARTS]) {
    for (int i = 0; i < PARTS; i++) {
        const int rank = heed_rank(input[i]);
        if (heed_is_valid(input[i]) && (rank < 2 || rank > HEED_MAX_RANK - 1))
            return heed_layer_fail(ctx, HEED_ERROR_SHAPE, "mha",
                                   "an input has rank %d, not [batch.., "
                                   "length, width]",
                                   rank);
    }
    return true;
}

/* A cache knows one batch dimension: others are folded into it, and weights and result unfolded. What is no
 * tensor any more is left to the first operation, which says so. */
static heed_tensor attend_cached(const struct heed_mha *mha, heed_tensor x, heed_cache *cache,
                                 const heed_score *score, heed_tensor *weights) {
    const int rank = heed_rank(x);
    int64_t size[HEED_MAX_RANK] = {0}, batch = 1;
    if (rank == 3 || !heed_is_valid(x)) return attend(mha, (heed_tensor[]){x, x, x}, cache, score, weights);
    for (int d = 0; d < rank; d++) size[d] = heed_size(x, d);
    for (int d = 0; d < rank - 2; d++) batch *= size[d];
    x = heed_reshape(x, 3, (int64_t[]){batch, size[rank - 2], size[rank - 1]});
    heed_tensor y = attend(mha, (heed_tensor[]){x, x, x}, cache, score, weights);
    size[rank - 1] = heed_size(y, 2);
    y = heed_reshape(y, rank, size);
    for (int d = 0; weights && d < 3; d++) size[rank - 2 + d] = heed_size(*weights, 1 + d);
    if (weights) *weights = heed_reshape(*weights, rank + 1, size);
    return y;
}

heed_tensor heed_mha_in_parts(heed_ctx *ctx, const struct heed_mha *mha, const heed_tensor input[PARTS],
                              heed_cache *cache, const heed_score *score, heed_tensor *weights) {
    heed_tensor all[PARTS] = {input[Q], input[K], input[V]};
    if (heed_is_none(all[K])) all[K] = all[Q];
    if (heed_is_none(all[V])) all[V] = all[K];
    if (!ranks_are_sound(ctx, all)) return heed_handle(ctx, NULL);
    heed_scope_begin(ctx);
    heed_tensor y =
        cache ? attend_cached(mha, all[Q], cache, score, weights) : attend(mha, all, NULL, score, weights);
    return heed_scope_end_two(ctx, y, weights);
}
