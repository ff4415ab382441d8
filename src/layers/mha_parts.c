/* MultiHeadAttention with something between its projections and attention: norms and rotary positions of
 * queries and keys, a cache. Without any of these the layer is one operation. */
#include "layers/mha.h"

#include "autograd/heads.h"

enum { Q, K, V, PARTS };

/* [.., heads, length, width] to [.., length, heads · width]. */
static heed_tensor join_heads(heed_tensor y) {
    const int rank = heed_rank(y) - 1;
    int64_t size[HEED_MAX_RANK] = {0};
    if (rank < 2) return y; /* inert: ranks were checked */
    for (int d = 0; d < rank - 2; d++) size[d] = heed_size(y, d);
    size[rank - 2] = heed_size(y, -2);
    size[rank - 1] = heed_size(y, -3) * heed_size(y, -1);
    return heed_reshape(heed_transpose(y, -3, -2), rank, size);
}

/* Heads [.., heads, length, width], normalised and turned. */
static heed_tensor prepare(const struct heed_mha *mha, heed_tensor heads, heed_module *norm,
                           int64_t position) {
    heed_rotary_options rotation = mha->rotation;
    rotation.offset = position;
    if (norm) heads = heed_forward(norm, heads);
    return mha->rotary ? heed_rotary_over(heads, &rotation) : heads;
}

static heed_tensor attend(const struct heed_mha *mha, const heed_tensor input[PARTS], heed_cache *cache,
                          const heed_score *score, heed_tensor *weights) {
    const heed_mha_weights *w = &mha->weights;
    const int64_t heads = mha->options.heads, kv_heads = mha->options.kv_heads;
    const int64_t position = heed_cache_position(cache);
    heed_tensor part[PARTS];
    heed_project_heads(PARTS, input, (heed_tensor[]){w->q, w->k, w->v},
                       (heed_tensor[]){w->q_bias, w->k_bias, w->v_bias},
                       (int64_t[]){heads, kv_heads, kv_heads}, part);
    part[Q] = prepare(mha, part[Q], mha->q_norm, position);
    part[K] = prepare(mha, part[K], mha->k_norm, position);
    if (cache) heed_cache_append(cache, part[K], part[V], &part[K], &part[V]);
    heed_tensor y = heed_attention(part[Q], part[K], part[V], score,
                                   &(heed_attention_options){.dropout = mha->options.dropout}, weights);
    return heed_linear(join_heads(y), w->out, w->out_bias, NULL);
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
