/* What the layers share: checking options, and running with little memory. */
#ifndef HEED_SRC_LAYERS_LAYER_H
#define HEED_SRC_LAYERS_LAYER_H

#include <heed/transformer.h>

#include "layers/module.h"

#define HEED_NONE ((heed_tensor){0})

/* ---- options: each keeps an error and returns false where something is wrong ---- */

/* Whether a constructor may go on: no error so far, options given, their reserved words zero. */
bool heed_layer_begin(heed_ctx *ctx, const char *where, const void *options, const uint64_t *reserved,
                      size_t words);
#define HEED_LAYER_BEGIN(ctx, where, options)                                                                \
    heed_layer_begin(ctx, where, options, (options) ? (options)->reserved : NULL,                            \
                     sizeof(options)->reserved / sizeof(uint64_t))

bool heed_layer_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool heed_layer_positive(heed_ctx *ctx, const char *where, const char *name, int64_t value);
bool heed_layer_not_negative(heed_ctx *ctx, const char *where, const char *name, double value);
bool heed_layer_probability(heed_ctx *ctx, const char *where, const char *name, double value);
bool heed_layer_divides(heed_ctx *ctx, const char *where, const char *name, int64_t value, const char *of,
                        int64_t whole);
bool heed_layer_activation(heed_ctx *ctx, const char *where, heed_activation activation);

static inline heed_init heed_init_or(heed_init init, heed_init otherwise) {
    return init.kind == HEED_INIT_DEFAULT ? otherwise : init;
}

static inline int64_t heed_size_or(int64_t size, int64_t otherwise) {
    return size == 0 ? otherwise : size;
}

/* ---- memory ---- */

/* heed_scope_end() that hands a second tensor to the outer scope too; `also` may be NULL. */
heed_tensor heed_scope_end_two(heed_ctx *ctx, heed_tensor result, const heed_tensor *also);

/* The same with some more, up to 4. */
heed_tensor heed_scope_end_with(heed_ctx *ctx, heed_tensor result, int others,
                                const heed_tensor *const *other);

/* Ends a tensor that nobody but the layers knows, of whatever scope. */
void heed_layer_retire(heed_ctx *ctx, heed_tensor t);

/* Ends `old`, which `next` took the place of, if the innermost scope made it and `next` is another tensor. */
void heed_layer_replace(heed_ctx *ctx, heed_tensor old, heed_tensor next);

/* ---- layers with more to choose than the public constructors ---- */

heed_module *heed_dense_make(heed_ctx *ctx, const heed_dense_options *options, struct heed_place weight,
                             struct heed_place bias);

/* A module that only holds others, "0", "1", …. */
heed_module *heed_list_new(heed_ctx *ctx);

/* Adds a module to a list under its number. */
heed_module *heed_list_add(heed_module *list, int64_t number, heed_module *module);

/* The norm of x + dropout(branch), and in *sum (NULL: of no use) what it is of; `norm` is a LayerNorm or an
 * RMSNorm. */
heed_tensor heed_norm_residual(heed_module *norm, heed_tensor x, heed_tensor branch, double dropout,
                               heed_tensor *sum);

/* x with the positions of a heed_positions_new() added, its first row at position `offset`. */
heed_tensor heed_positions_add(heed_module *module, heed_tensor x, int64_t offset);

/* heed_mha_forward(), or heed_mha_forward_cached() where a cache is given. */
heed_tensor heed_mha_run(heed_module *module, heed_tensor query, heed_tensor key, heed_tensor value,
                         heed_cache *cache, const heed_score *score, heed_tensor *weights);

/* out_init: of the output projection. */
heed_module *heed_mha_make(heed_ctx *ctx, const heed_mha_options *options, heed_init out_init);

/* Weights of both products; biases are zero unless `init` is the default. */
struct heed_feed_forward_inits {
    heed_init in, out;
};
heed_module *heed_feed_forward_make(heed_ctx *ctx, const heed_feed_forward_options *options,
                                    struct heed_feed_forward_inits inits);

#endif
