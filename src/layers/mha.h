/* MultiHeadAttention: what its files share. */
#ifndef HEED_SRC_LAYERS_MHA_H
#define HEED_SRC_LAYERS_MHA_H

#include "layers/layer.h"

struct heed_mha {
    heed_mha_weights weights;
    heed_mha_call_options options;
    heed_module *q_norm, *k_norm; /* NULL: none */
    bool rotary;
    heed_rotary_options rotation;
};

/* The layer made of operations: projections, norms, rotary positions, the cache (NULL: none), attention. Key
 * and value none as in heed_mha_forward(). */
heed_tensor heed_mha_in_parts(heed_ctx *ctx, const struct heed_mha *mha, const heed_tensor input[3],
                              heed_cache *cache, const heed_score *score, heed_tensor *weights);

#endif
