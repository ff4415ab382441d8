/* Caches of keys and values.
 *
 * Keys lie in one buffer [batch, heads, rows, width], values in another; row r is position base + r. Without
 * a window base stays 0. With one the buffer has twice as many rows as the window: when it is full, the keys
 * that are still needed are moved to its beginning, which happens once in window + 1 positions at most, so
 * that a position costs the same however many came before, and rows stay in order. */
#include "layers/layer.h"

#include <string.h>

enum { KEYS, VALUES, PARTS };

struct heed_cache {
    heed_ctx *ctx; /* NULL for the inert one */
    int64_t capacity, window;
    int64_t base, position;
    struct heed_node *buffer[PARTS];
};

static heed_cache inert_cache;

static int64_t rows_of(const heed_cache *cache) {
    return cache->buffer[KEYS]->view.size[2];
}

/* Keys before `position` that it attends to. */
static int64_t kept_before(const heed_cache *cache, int64_t position) {
    const int64_t most = cache->window - 1;
    return cache->window > 0 && position > most ? most : position;
}

/* ---- making ---- */

static bool options_are_sound(heed_ctx *ctx, const heed_cache_options *o) {
    static const char where[] = "cache";
    if (!HEED_LAYER_BEGIN(ctx, where, o) || !heed_layer_positive(ctx, where, "batch", o->batch) ||
        !heed_layer_positive(ctx, where, "kv_heads", o->kv_heads) ||
        !heed_layer_positive(ctx, where, "width", o->width) ||
        !heed_layer_not_negative(ctx, where, "value_width", (double)o->value_width) ||
        !heed_layer_not_negative(ctx, where, "window", (double)o->window) ||
        !(o->window > 0 ? heed_layer_not_negative(ctx, where, "capacity", (double)o->capacity)
                        : heed_layer_positive(ctx, where, "capacity", o->capacity)))
        return false;
    if (!heed_is_float(o->dtype))
        return heed_layer_fail(ctx, HEED_ERROR_DTYPE, where, "a cache is f32, f64 or bf16, not %s",
                               heed_dtype_name(o->dtype));
    return o->window < INT64_MAX / 2 ||
           heed_layer_fail(ctx, HEED_ERROR_MEMORY, where, "the window is larger than memory can be");
}

static heed_cache *make(heed_ctx *ctx, const heed_cache_options *o) {
    heed_cache *cache = heed_block_zeroed(ctx->exec.memory, sizeof *cache);
    if (!cache) {
        heed_fail(ctx, HEED_ERROR_MEMORY, "cache", "out of memory");
        return &inert_cache;
    }
    cache->ctx = ctx;
    cache->capacity = o->capacity > 0 ? o->capacity : INT64_MAX;
    cache->window = o->window;
    ctx->modules++;
    const int64_t rows = o->window > 0 ? 2 * o->window : o->capacity;
    const bool mixed = heed_is_mixed(ctx) && o->dtype == HEED_F32;
    const int64_t width[PARTS] = {o->width, heed_size_or(o->value_width, o->width)};
    for (int i = 0; i < PARTS; i++) {
        const int64_t size[4] = {o->batch, o->kv_heads, rows, width[i]};
        cache->buffer[i] = heed_node_new(ctx, "cache", mixed ? HEED_BF16 : o->dtype, 4, size);
    }
    if (cache->buffer[KEYS] && cache->buffer[VALUES]) return cache;
    heed_cache_free(cache);
    return &inert_cache;
}

heed_cache *heed_cache_new(heed_ctx *ctx, const heed_cache_options *options) {
    if (!options_are_sound(ctx, options) || !heed_enter(ctx)) return &inert_cache;
    heed_cache *cache = make(ctx, options);
    heed_leave(ctx);
    return cache;
}

void heed_cache_free(heed_cache *cache) {
    if (!cache || !cache->ctx || !heed_enter(cache->ctx)) return;
    heed_ctx *ctx = cache->ctx;
    for (int i = 0; i < PARTS; i++)
        if (cache->buffer[i]) heed_node_retire(cache->buffer[i]);
    heed_block_free(ctx->exec.memory, cache);
    ctx->modules--;
    heed_leave(ctx);
}

/* ---- rows ---- */

static struct heed_view rows_view(const heed_cache *cache, int part, int64_t row, int64_t count) {
    struct heed_view v = cache->buffer[part]->view;
    v.data = heed_view_at(&v, row * v.stride[2]);
    v.size[2] = count;
    return v;
}

/* Rows as a tensor of the innermost scope. */
static heed_tensor rows_tensor(const heed_cache *cache, int part, int64_t row, int64_t count) {
    const struct heed_view v = rows_view(cache, part, row, count);
    struct heed_node *node = heed_node_view(cache->ctx, cache->buffer[part]->storage, &v);
    if (node) heed_node_give_to_scope(node);
    return heed_handle(cache->ctx, node);
}

static bool copy_in(const heed_cache *cache, int part, const struct heed_view *x, int64_t row) {
    struct heed_copy_args copy = {.x = *x, .y.view = rows_view(cache, part, row, x->size[2])};
    heed_node_wrote(cache->buffer[part]);
    return heed_exec_run(&cache->ctx->exec, HEED_PRIMITIVE_COPY, &copy) == HEED_OK;
}

/* Moves the last `kept` rows to the beginning. There are others before them, or there would be no need. */
static void move_down(heed_cache *cache, int64_t kept) {
    const int64_t from = cache->position - kept - cache->base;
    for (int64_t row = 0; row < kept; row += from) { /* what is copied at a time does not overlap */
        const int64_t rows = kept - row < from ? kept - row : from;
        for (int i = 0; i < PARTS; i++) {
            const struct heed_view x = rows_view(cache, i, row + from, rows);
            if (!copy_in(cache, i, &x, row)) return;
        }
    }
    cache->base = cache->position - kept;
}

/* ---- appending ---- */

static bool part_fits(const heed_cache *cache, int part, const struct heed_node *node) {
    static const char *const names[PARTS] = {"k", "v"};
    char text[128];
    const struct heed_view *have = &cache->buffer[part]->view;
    const int64_t *s = have->size;
    if (!node)
        return heed_layer_fail(cache->ctx, HEED_ERROR_ARGUMENT, "cache_append", "%s is missing", names[part]);
    const struct heed_view *v = &node->view;
    if (!heed_dtypes_meet(cache->ctx, v->dtype, have->dtype))
        return heed_layer_fail(cache->ctx, HEED_ERROR_DTYPE, "cache_append", "%s is %s, the cache %s",
                               names[part], heed_dtype_name(v->dtype), heed_dtype_name(have->dtype));
    return (v->rank == 4 && v->size[0] == s[0] && v->size[1] == s[1] && v->size[3] == s[3]) ||
           heed_layer_fail(cache->ctx, HEED_ERROR_SHAPE, "cache_append", "%s is not [%lld,%lld,length,%lld]",
                           heed_named_shape(names[part], v, text, sizeof text), (long long)s[0],
                           (long long)s[1], (long long)s[3]);
}

static bool may_append(const heed_cache *cache, const heed_tensor *part) {
    static const char where[] = "cache_append";
    heed_ctx *ctx = cache->ctx;
    char one[128], two[128];
    struct heed_node *node[PARTS];
    for (int i = 0; i < PARTS; i++) {
        if (part[i].node && part[i].node->ctx != ctx)
            return heed_layer_fail(ctx, HEED_ERROR_CONTEXT, where, "argument %d belongs to another context",
                                   i + 2);
        node[i] = heed_node_of(part[i], where);
        if (heed_failed(ctx) || !part_fits(cache, i, node[i])) return false;
        if (ctx->flags & HEED_RECORD && heed_requires_grad(part[i]))
            return heed_layer_fail(ctx, HEED_ERROR_STATE, where,
                                   "gradients do not flow through a cache: append in a step without "
                                   "HEED_RECORD, or what heed_detach() gives");
    }
    const int64_t length = node[KEYS]->view.size[2];
    if (node[VALUES]->view.size[2] != length)
        return heed_layer_fail(ctx, HEED_ERROR_SHAPE, where, "%s does not match %s",
                               heed_named_shape("k", &node[KEYS]->view, one, sizeof one),
                               heed_named_shape("v", &node[VALUES]->view, two, sizeof two));
    return length <= cache->capacity - cache->position ||
           heed_layer_fail(ctx, HEED_ERROR_STATE, where, "%lld positions after %lld exceed the capacity %lld",
                           (long long)length, (long long)cache->position, (long long)cache->capacity);
}

/* More than the buffer holds: what is needed of the past and the new rows are joined outside of it, and the
 * last of them stay. */
static void append_many(heed_cache *cache, const heed_tensor *part, int64_t length, heed_tensor *all) {
    const int64_t kept = kept_before(cache, cache->position), end = cache->position + length;
    const int64_t stay = kept_before(cache, end);
    for (int i = 0; i < PARTS; i++) {
        const int64_t row = cache->position - kept - cache->base;
        all[i] = part[i];
        if (kept > 0) all[i] = heed_cat(2, (heed_tensor[]){rows_tensor(cache, i, row, kept), part[i]}, 2);
    }
    for (int i = 0; i < PARTS && !heed_failed(cache->ctx); i++) {
        struct heed_view last = all[i].node->view;
        last.data = heed_view_at(&last, (kept + length - stay) * last.stride[2]);
        last.size[2] = stay;
        copy_in(cache, i, &last, 0);
    }
    if (heed_failed(cache->ctx)) return;
    cache->base = end - stay;
    cache->position = end;
}

static void append(heed_cache *cache, const heed_tensor *part, heed_tensor *all) {
    const int64_t length = part[KEYS].node->view.size[2], kept = kept_before(cache, cache->position);
    if (cache->position - cache->base + length > rows_of(cache)) {
        if (kept + length > rows_of(cache)) {
            append_many(cache, part, length, all);
            return;
        }
        move_down(cache, kept);
    }
    const int64_t row = cache->position - cache->base;
    for (int i = 0; i < PARTS; i++) {
        if (length > 0 && !copy_in(cache, i, &part[i].node->view, row)) return;
        all[i] = rows_tensor(cache, i, row - kept, kept + length);
    }
    if (!heed_failed(cache->ctx)) cache->position += length;
}

heed_status heed_cache_append(heed_cache *cache, heed_tensor k, heed_tensor v, heed_tensor *k_all,
                              heed_tensor *v_all) {
    heed_ctx *ctx = cache && cache->ctx ? cache->ctx : heed_ctx_of(k);
    const heed_tensor part[PARTS] = {k, v}, inert = heed_handle(ctx, NULL);
    heed_tensor all[PARTS] = {inert, inert};
    if (!heed_failed(ctx) && (!cache || !cache->ctx))
        heed_error_set(ctx, HEED_ERROR_ARGUMENT, "cache_append", "there is no cache, or making it failed");
    if (!heed_failed(ctx) && heed_enter(ctx)) {
        if (may_append(cache, part)) append(cache, part, all);
        if (heed_failed(ctx)) all[KEYS] = all[VALUES] = inert;
        heed_leave(ctx);
    }
    if (k_all) *k_all = all[KEYS];
    if (v_all) *v_all = all[VALUES];
    return heed_error_status(ctx);
}

/* ---- asking, going back ---- */

int64_t heed_cache_position(const heed_cache *cache) {
    return cache ? cache->position : 0;
}

int64_t heed_cache_length(const heed_cache *cache) {
    if (!cache) return 0;
    return cache->window > 0 && cache->position > cache->window ? cache->window : cache->position;
}

heed_status heed_cache_truncate(heed_cache *cache, int64_t position) {
    static const char where[] = "cache_truncate";
    if (!cache || !cache->ctx) return HEED_ERROR_ARGUMENT;
    if (position < 0 || position > cache->position)
        heed_layer_fail(cache->ctx, HEED_ERROR_ARGUMENT, where, "position %lld is not in 0 to %lld",
                        (long long)position, (long long)cache->position);
    else if (position - kept_before(cache, position) < cache->base && position > 0)
        heed_layer_fail(cache->ctx, HEED_ERROR_STATE, where, "the window before position %lld has left",
                        (long long)position);
    else
        cache->position = position;
    if (cache->position == 0) cache->base = 0;
    return heed_error_status(cache->ctx);
}

void heed_cache_reset(heed_cache *cache) {
    if (cache && cache->ctx) cache->base = cache->position = 0;
}
