/* MultiHeadAttention.
 *
 * The weights of q, k and v that read inputs of one width lie in one storage, in this order and without gaps,
 * and so do their biases: where query, key and value are the same tensor a backend can make one product of
 * them. Their gradients lie likewise, here or in the optimiser's buffer. */
#include "layers/mha.h"

enum { Q, K, V, PARTS };

static heed_tensor mha_forward(heed_module *module, heed_tensor x);

static const heed_module_class mha_class = {
    .name = "MultiHeadAttention", .self_bytes = sizeof(struct heed_mha), .forward = mha_forward};

/* ---- options ---- */

struct widths {
    int64_t in[PARTS], out[PARTS]; /* of the projections */
    int64_t joined, result;        /* of the output projection */
    int64_t kv_heads;
};

static bool widths_are_positive(heed_ctx *ctx, const int64_t *widths) {
    static const char *const names[] = {"query_width", "key_width", "value_width",
                                        "qk_width",    "v_width",   "out_width"};
    for (int i = 0; i < 6; i++) {
        if (widths[i] == 0) return heed_layer_positive(ctx, "mha", "width", 0);
        if (!heed_layer_positive(ctx, "mha", names[i], widths[i])) return false;
    }
    return true;
}

static bool resolve_widths(heed_ctx *ctx, const heed_mha_options *o, struct widths *w) {
    w->in[Q] = heed_size_or(o->query_width, o->width);
    w->in[K] = heed_size_or(o->key_width, o->width);
    w->in[V] = heed_size_or(o->value_width, w->in[K]);
    int64_t qk = heed_size_or(o->qk_width, o->width);
    w->joined = heed_size_or(o->v_width, qk);
    w->result = heed_size_or(o->out_width, o->width);
    w->kv_heads = heed_size_or(o->kv_heads, o->heads);
    if (!widths_are_positive(ctx, (int64_t[]){w->in[Q], w->in[K], w->in[V], qk, w->joined, w->result}) ||
        !heed_layer_positive(ctx, "mha", "heads", o->heads) ||
        !heed_layer_positive(ctx, "mha", "kv_heads", w->kv_heads) ||
        !heed_layer_divides(ctx, "mha", "heads", o->heads, "qk_width", qk) ||
        !heed_layer_divides(ctx, "mha", "heads", o->heads, "v_width", w->joined) ||
        !heed_layer_divides(ctx, "mha", "kv_heads", w->kv_heads, "heads", o->heads) ||
        !heed_layer_probability(ctx, "mha", "dropout", o->dropout) ||
        !heed_layer_not_negative(ctx, "mha", "eps", o->eps) ||
        !heed_layer_not_negative(ctx, "mha", "rotary_base", o->rotary_base))
        return false;
    if (o->rotary && qk / o->heads % 2 != 0)
        return heed_layer_fail(ctx, HEED_ERROR_ARGUMENT, "mha",
                               "rotary positions need heads of even width, not %lld",
                               (long long)(qk / o->heads));
    w->out[Q] = qk;
    w->out[K] = qk / o->heads * w->kv_heads;
    w->out[V] = w->joined / o->heads * w->kv_heads;
    return true;
}

/* ---- places side by side ---- */

/* One storage of f32 for the parts that are members of a group; `count` elements each. */
static bool place_group(heed_ctx *ctx, const bool *member, const int64_t *count, struct heed_place *place) {
    size_t bytes = 0;
    for (int p = 0; p < PARTS; p++) {
        size_t own;
        if (!member[p]) continue;
        place[p].offset = bytes;
        if (__builtin_mul_overflow((size_t)count[p], sizeof(float), &own) ||
            __builtin_add_overflow(bytes, own, &bytes))
            return heed_layer_fail(ctx, HEED_ERROR_MEMORY, "mha",
                                   "the projections are larger than memory can be");
    }
    struct heed_storage *storage = heed_storage_new(ctx, bytes);
    if (!storage) return false;
    for (int p = 0; p < PARTS; p++) {
        if (!member[p]) continue;
        place[p].storage = storage;
        heed_storage_ref(storage);
    }
    heed_storage_drop(storage);
    return true;
}

/* Parts of one input width form a group. */
static bool place_parts(heed_ctx *ctx, const struct widths *w, bool bias, struct heed_place *place) {
    for (int first = 0; first < PARTS; first++) {
        bool member[PARTS] = {false};
        int64_t count[PARTS] = {0};
        if (place[first].storage) continue;
        for (int p = first; p < PARTS; p++) {
            member[p] = w->in[p] == w->in[first];
            if (__builtin_mul_overflow(w->out[p], bias ? 1 : w->in[p], &count[p]))
                return heed_layer_fail(ctx, HEED_ERROR_MEMORY, "mha",
                                       "the projections are larger than memory can be");
        }
        if (!place_group(ctx, member, count, place)) return false;
    }
    return true;
}

/* ---- construction ---- */

static void drop_places(struct heed_place *place) {
    for (int p = 0; p < PARTS; p++) heed_storage_drop(place[p].storage);
}

static heed_module *add_projection(heed_module *mha, const char *name, const heed_dense_options *options,
                                   struct heed_place weight, struct heed_place bias) {
    return heed_module_child(mha, name, heed_dense_make(mha->ctx, options, weight, bias));
}

static void add_projections(heed_module *module, const heed_mha_options *options, const struct widths *w,
                            heed_init out_init) {
    static const char *const names[PARTS] = {"q", "k", "v"};
    const heed_init glorot = {HEED_INIT_GLOROT_UNIFORM, 0, 0}, zeros = {HEED_INIT_ZEROS, 0, 0};
    struct heed_place weight[PARTS] = {{0}}, bias[PARTS] = {{0}};
    bool placed = place_parts(module->ctx, w, false, weight) &&
                  (options->no_bias || place_parts(module->ctx, w, true, bias));
    heed_dense_options dense = {
        .no_bias = options->no_bias, .weight_init = heed_init_or(options->init, glorot), .bias_init = zeros};
    for (int p = 0; placed && p < PARTS; p++) {
        dense.in = w->in[p];
        dense.out = w->out[p];
        add_projection(module, names[p], &dense, weight[p], bias[p]);
    }
    drop_places(weight);
    drop_places(bias);
    dense.in = w->joined;
    dense.out = w->result;
    dense.weight_init = heed_init_or(out_init, dense.weight_init);
    add_projection(module, "out", &dense, (struct heed_place){0}, (struct heed_place){0});
}

static void add_norms(heed_module *module, struct heed_mha *mha, const heed_mha_options *options,
                      int64_t head_width) {
    const heed_norm_options norm = {.width = head_width, .eps = options->eps};
    mha->q_norm = heed_module_child(module, "q_norm", heed_rms_norm_new(module->ctx, &norm));
    mha->k_norm = heed_module_child(module, "k_norm", heed_rms_norm_new(module->ctx, &norm));
}

heed_module *heed_mha_make(heed_ctx *ctx, const heed_mha_options *options, heed_init out_init) {
    struct widths w = {0};
    if (!HEED_LAYER_BEGIN(ctx, "mha", options) || !resolve_widths(ctx, options, &w))
        return heed_inert_module();
    heed_module *module = heed_module_new(ctx, &mha_class);
    struct heed_mha *mha = heed_module_self(module, &mha_class);
    if (!mha || !heed_enter(ctx)) return module;
    add_projections(module, options, &w, out_init);
    if (options->qk_norm) add_norms(module, mha, options, w.out[Q] / options->heads);
    mha->rotary = options->rotary;
    mha->rotation =
        (heed_rotary_options){.half_split = options->rotary_half_split, .base = options->rotary_base};
    mha->options =
        (heed_mha_call_options){.heads = options->heads, .kv_heads = w.kv_heads, .dropout = options->dropout};
    mha->weights = (heed_mha_weights){
        .q = heed_param_find(module, "q.weight"),
        .k = heed_param_find(module, "k.weight"),
        .v = heed_param_find(module, "v.weight"),
        .out = heed_param_find(module, "out.weight"),
        .q_bias = heed_param_find(module, "q.bias"),
        .k_bias = heed_param_find(module, "k.bias"),
        .v_bias = heed_param_find(module, "v.bias"),
        .out_bias = heed_param_find(module, "out.bias"),
    };
    heed_leave(ctx);
    return module;
}

heed_module *heed_mha_new(heed_ctx *ctx, const heed_mha_options *options) {
    return heed_mha_make(ctx, options, (heed_init){0});
}

/* ---- gradients side by side ---- */

/* Where a tensor that asks for a gradient, and has none yet, lies; NULL for others. */
static struct heed_storage *awaiting(heed_tensor t) {
    const struct heed_node *node = t.node;
    const bool awaits =
        node && node->serial == t.serial && !node->grad_storage && node->flags & HEED_NODE_WANTS_GRAD;
    return awaits ? node->storage : NULL;
}

static void rehome(struct heed_node *node, struct heed_storage *buffer) {
    heed_node_rehome_grad(node, buffer, (size_t)((char *)node->view.data - (char *)node->storage->data));
}

/* Gives the gradients of tensors that share a storage one buffer, laid out as they are. */
static void adjoin_gradients(heed_ctx *ctx, const heed_tensor *part) {
    for (int first = Q; first < V; first++) {
        struct heed_storage *shared = awaiting(part[first]), *buffer = NULL;
        for (int p = first + 1; shared && p < PARTS; p++) {
            if (awaiting(part[p]) != shared) continue;
            if (!buffer && !(buffer = heed_storage_new(ctx, shared->bytes))) return;
            rehome(part[p].node, buffer);
        }
        if (buffer) rehome(part[first].node, buffer);
        heed_storage_drop(buffer);
    }
}

heed_tensor heed_mha_run(heed_module *module, heed_tensor query, heed_tensor key, heed_tensor value,
                         heed_cache *cache, const heed_score *score, heed_tensor *weights) {
    if (weights) *weights = heed_module_refused(module, query);
    if (!heed_module_ready(module, &mha_class, "mha", query)) return heed_module_refused(module, query);
    const struct heed_mha *mha = heed_module_self(module, &mha_class);
    const heed_mha_weights *w = &mha->weights;
    if (module->ctx->flags & HEED_RECORD && heed_enter(module->ctx)) {
        adjoin_gradients(module->ctx, (heed_tensor[]){w->q, w->k, w->v});
        adjoin_gradients(module->ctx, (heed_tensor[]){w->q_bias, w->k_bias, w->v_bias});
        heed_leave(module->ctx);
    }
    const heed_tensor y =
        cache || mha->rotary || mha->q_norm
            ? heed_mha_in_parts(module->ctx, mha, (heed_tensor[]){query, key, value}, cache, score, weights)
            : heed_multi_head_attention(query, key, value, w, score, &mha->options, weights);
    heed_module_ran(module);
    return y;
}

heed_tensor heed_mha_forward(heed_module *module, heed_tensor query, heed_tensor key, heed_tensor value,
                             const heed_score *score, heed_tensor *weights) {
    return heed_mha_run(module, query, key, value, NULL, score, weights);
}

heed_tensor heed_mha_forward_cached(heed_module *module, heed_tensor x, heed_cache *cache,
                                    const heed_score *score, heed_tensor *weights) {
    if (cache) return heed_mha_run(module, x, HEED_NONE, HEED_NONE, cache, score, weights);
    if (weights) *weights = heed_module_refused(module, x);
    if (heed_module_ready(module, &mha_class, "mha", x))
        heed_layer_fail(module->ctx, HEED_ERROR_ARGUMENT, "mha", "the cache is missing");
    return heed_module_refused(module, x);
}

static heed_tensor mha_forward(heed_module *module, heed_tensor x) {
    return heed_mha_forward(module, x, HEED_NONE, HEED_NONE, NULL, NULL);
}
