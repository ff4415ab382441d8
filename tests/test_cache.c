/* Caches: what they give back, windows, a layer and a GPT that go on, errors, memory. */
#include "harness_modules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/internal.h"

static heed_ctx *ctx;
static const heed_tensor none;

static void setup(void) {
    ctx = test_cpu();
}

static void teardown(void) {
    ck_assert_uint_eq(ctx->modules, 0);
    heed_ctx_free(ctx);
}

static heed_tensor part(heed_tensor x, int64_t first, int64_t end) {
    return heed_slice(x, 2, first, end, 1);
}

/* ---- the cache itself ---- */

static void same_bits(heed_tensor a, heed_tensor b, const char *what) {
    int64_t count, other;
    double *x = test_values(a, &count), *y = test_values(b, &other);
    ck_assert_msg(count == other && memcmp(x, y, (size_t)count * sizeof *x) == 0, "%s", what);
    free(x);
    free(y);
}

/* The same but for rounding: sums over keys are made in another order. */
static void near(heed_tensor actual, heed_tensor expected, const char *what) {
    int64_t count, other;
    char text[200];
    double *a = test_values(actual, &count), *b = test_values(expected, &other);
    ck_assert_int_eq(count, other);
    const struct test_tolerance tolerance = {1e-5, 4e-6};
    const bool close = test_close(count, a, b, tolerance, test_largest(count, b), text, sizeof text);
    ck_assert_msg(close, "%s: %s", what, text);
    free(a);
    free(b);
}

/* Chunks of every size: all that was appended comes back, with a window its newest part. */
static void check_chunks(int64_t window, int64_t chunk, bool strided) {
    const int64_t length = 61, size[4] = {2, 3, length, 5}, value_size[4] = {2, 3, length, 4};
    heed_cache *cache = heed_cache_new(ctx, &(heed_cache_options){.batch = 2,
                                                                  .kv_heads = 3,
                                                                  .width = 5,
                                                                  .value_width = 4,
                                                                  .window = window,
                                                                  .capacity = window ? 0 : length});
    heed_tensor k = test_tensor(ctx, HEED_F32, 1, 4, size), v = test_tensor(ctx, HEED_F32, 2, 4, value_size);
    if (strided) k = heed_transpose(heed_contiguous(heed_transpose(k, 0, 2)), 0, 2);
    for (int64_t at = 0; at < length; at += chunk) {
        const int64_t end = at + chunk < length ? at + chunk : length;
        const int64_t first = window && at > window - 1 ? at - (window - 1) : 0;
        heed_tensor k_all, v_all;
        heed_step_begin(ctx, HEED_EVAL);
        ck_assert_int_eq(heed_cache_append(cache, part(k, at, end), part(v, at, end), &k_all, &v_all),
                         HEED_OK);
        same_bits(k_all, part(k, first, end), "keys");
        same_bits(v_all, part(v, first, end), "values");
        heed_step_end(ctx);
        ck_assert_int_eq(heed_cache_position(cache), end);
        ck_assert_int_eq(heed_cache_length(cache), window && end > window ? window : end);
    }
    test_ok(ctx);
    heed_cache_free(cache);
}

START_TEST(appending) {
    static const int64_t chunks[] = {1, 2, 3, 7, 15, 16, 17, 40, 61};
    for (int i = 0; i < 9; i++) {
        check_chunks(0, chunks[i], i & 1);
        check_chunks(8, chunks[i], i & 1);
        check_chunks(1, chunks[i], false);
        check_chunks(100, chunks[i], false);
    }
}
END_TEST

static heed_tensor numbers(int64_t first, int64_t count) {
    float x[64];
    for (int64_t i = 0; i < count; i++) x[i] = (float)(first + i);
    return heed_from(ctx, HEED_F32, TEST_SHAPE(1, 1, count, 1), x);
}

START_TEST(going_back) {
    heed_cache *cache =
        heed_cache_new(ctx, &(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .capacity = 6});
    heed_tensor k, v;
    heed_cache_append(cache, numbers(0, 4), numbers(0, 4), &k, &v);
    ck_assert_int_eq(heed_cache_truncate(cache, 2), HEED_OK);
    heed_cache_append(cache, numbers(10, 1), numbers(10, 1), &k, &v);
    test_equals(k, 3, (float[]){0, 1, 10}, "after going back");
    heed_cache_truncate(cache, 4);
    test_error(ctx, HEED_ERROR_ARGUMENT, "cache_truncate: position 4 is not in 0 to 3", "forward");
    heed_cache_truncate(cache, -1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "cache_truncate: position -1", "negative");
    heed_cache_reset(cache);
    heed_cache_append(cache, numbers(7, 2), numbers(7, 2), &k, &v);
    test_equals(v, 2, (float[]){7, 8}, "after a reset");
    heed_cache_append(cache, numbers(0, 0), numbers(0, 0), &k, &v);
    test_equals(k, 2, (float[]){7, 8}, "nothing appended");
    heed_cache_free(cache);
    /* With a window of 3 (six rows) older keys are there until the next move. */
    cache = heed_cache_new(ctx, &(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .window = 3});
    for (int64_t i = 0; i < 8; i++) heed_cache_append(cache, numbers(i, 1), numbers(i, 1), &k, &v);
    ck_assert_int_eq(heed_cache_truncate(cache, 6), HEED_OK);
    heed_cache_append(cache, numbers(20, 1), numbers(20, 1), &k, &v);
    test_equals(k, 3, (float[]){4, 5, 20}, "in the window");
    heed_cache_truncate(cache, 3);
    test_error(ctx, HEED_ERROR_STATE, "cache_truncate: the window before position 3 has left", "too far");
    ck_assert_int_eq(heed_cache_truncate(cache, 0), HEED_OK);
    heed_cache_append(cache, numbers(1, 1), numbers(1, 1), &k, &v);
    test_equals(k, 1, (float[]){1}, "from the start");
    heed_cache_free(cache);
}
END_TEST

START_TEST(cache_errors) {
    static const heed_cache_options good = {.batch = 2, .kv_heads = 1, .width = 3, .capacity = 4};
    heed_cache *cache = heed_cache_new(ctx, &good);
    heed_tensor k = heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 1, 3, 3)), k_all, v_all;
    const struct {
        heed_tensor k, v;
        heed_status status;
        const char *message;
    } wrong[] = {
        {heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 1, 3, 4)), k, HEED_ERROR_SHAPE,
         "cache_append: k[2,1,3,4] is not [2,1,length,3]"},
        {k, heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 3, 3)), HEED_ERROR_SHAPE,
         "cache_append: v[2,3,3] is not"},
        {k, heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 1, 2, 3)), HEED_ERROR_SHAPE,
         "cache_append: k[2,1,3,3] does not match v[2,1,2,3]"},
        {k, heed_zeros(ctx, HEED_F64, TEST_SHAPE(2, 1, 3, 3)), HEED_ERROR_DTYPE, "cache_append: v is f64"},
        {k, none, HEED_ERROR_ARGUMENT, "cache_append: v is missing"},
        {heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 1, 5, 3)), heed_zeros(ctx, HEED_F32, TEST_SHAPE(2, 1, 5, 3)),
         HEED_ERROR_STATE, "cache_append: 5 positions after 0 exceed the capacity 4"},
    };
    for (int i = 0; i < (int)(sizeof wrong / sizeof *wrong); i++) {
        heed_status status = heed_cache_append(cache, wrong[i].k, wrong[i].v, &k_all, &v_all);
        ck_assert_int_eq(status, wrong[i].status);
        ck_assert(!heed_is_valid(k_all) && !heed_is_valid(v_all));
        test_error(ctx, wrong[i].status, wrong[i].message, wrong[i].message);
        ck_assert_int_eq(heed_cache_position(cache), 0);
    }
    heed_step_begin(ctx, HEED_RECORD);
    heed_require_grad(k, true);
    heed_cache_append(cache, heed_mul_scalar(k, 2), heed_detach(k), &k_all, &v_all);
    test_error(ctx, HEED_ERROR_STATE, "cache_append: gradients do not flow through a cache", "recorded");
    ck_assert_int_eq(heed_cache_append(cache, heed_detach(k), heed_detach(k), &k_all, &v_all), HEED_OK);
    heed_step_end(ctx);
    heed_cache_free(cache);
    heed_cache_free(NULL);
    ck_assert_int_eq(heed_cache_position(NULL) + heed_cache_length(NULL), 0);
    heed_cache_append(NULL, k, k, &k_all, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "cache_append: there is no cache", "no cache");
}
END_TEST

static void refused(const heed_cache_options *options, heed_status status, const char *message) {
    heed_cache *cache = heed_cache_new(ctx, options);
    ck_assert_ptr_nonnull(cache);
    test_error(ctx, status, message, message);
    heed_cache_free(cache);
}

START_TEST(bad_options) {
    refused(NULL, HEED_ERROR_ARGUMENT, "cache: options must be given");
    refused(&(heed_cache_options){.kv_heads = 1, .width = 1, .capacity = 1}, HEED_ERROR_ARGUMENT,
            "cache: batch 0");
    refused(&(heed_cache_options){.batch = 1, .width = 1, .capacity = 1}, HEED_ERROR_ARGUMENT,
            "cache: kv_heads 0");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .capacity = 1}, HEED_ERROR_ARGUMENT,
            "cache: width 0");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1}, HEED_ERROR_ARGUMENT,
            "cache: capacity 0");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .window = -1}, HEED_ERROR_ARGUMENT,
            "cache: window -1");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .capacity = 1, .dtype = HEED_I32},
            HEED_ERROR_DTYPE, "cache: a cache is f32, f64 or bf16, not i32");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .window = INT64_MAX},
            HEED_ERROR_MEMORY, "cache: ");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = INT64_MAX / 4, .capacity = 9},
            HEED_ERROR_MEMORY, "cache: ");
    refused(&(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .capacity = 1, .reserved = {0, 1}},
            HEED_ERROR_ARGUMENT, "cache: reserved");
}
END_TEST

/* ---- a layer ---- */

/* Query i sees the window − 1 keys before it and itself; keys are the last ones of `all` positions. */
static heed_mask *window_mask(int64_t first_query, int64_t queries, int64_t keys, int64_t window) {
    uint8_t seen[64 * 64];
    const int64_t first_key = first_query + queries - keys;
    for (int64_t q = 0; q < queries; q++)
        for (int64_t k = 0; k < keys; k++) {
            const int64_t before = first_query + q - (first_key + k);
            seen[q * keys + k] = before >= 0 && before < window;
        }
    return heed_mask_dense(heed_from(ctx, HEED_BOOL, TEST_SHAPE(queries, keys), seen));
}

static void check_layer(int64_t window, int64_t chunk) {
    enum { LENGTH = 40 };
    heed_module *m = heed_mha_new(
        ctx, &(heed_mha_options){.width = 16, .heads = 4, .kv_heads = 2, .rotary = true, .qk_norm = true});
    heed_cache *cache = heed_cache_new(
        ctx, &(heed_cache_options){
                 .batch = 3, .kv_heads = 2, .width = 4, .window = window, .capacity = window ? 0 : LENGTH});
    heed_tensor x = test_tensor(ctx, HEED_F32, 5, TEST_SHAPE(3, LENGTH, 16));
    const int64_t all = window ? window : LENGTH;
    heed_score *score = heed_score_mask(heed_score_new(ctx), window_mask(0, LENGTH, LENGTH, all));
    heed_tensor expected = heed_mha_forward(m, x, none, none, score, NULL);
    for (int64_t at = 0; at < LENGTH; at += chunk) {
        const int64_t end = at + chunk < LENGTH ? at + chunk : LENGTH;
        const int64_t keys = end - (at > all - 1 ? at - (all - 1) : 0);
        heed_step_begin(ctx, HEED_EVAL);
        score = heed_score_mask(heed_score_new(ctx), window_mask(at, end - at, keys, all));
        heed_tensor y = heed_mha_forward_cached(m, heed_slice(x, 1, at, end, 1), cache, score, NULL);
        near(y, heed_slice(expected, 1, at, end, 1), "a chunk");
        heed_step_end(ctx);
    }
    heed_cache_free(cache);
    heed_module_free(m);
}

START_TEST(layer) {
    static const int64_t chunks[] = {1, 3, 16, 40};
    for (int i = 0; i < 4; i++) {
        check_layer(0, chunks[i]);
        check_layer(6, chunks[i]);
    }
}
END_TEST

/* Handles that are no tensor any more. */
START_TEST(layer_of_nothing) {
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2});
    heed_cache *cache =
        heed_cache_new(ctx, &(heed_cache_options){.batch = 1, .kv_heads = 2, .width = 4, .capacity = 5});
    heed_scope_begin(ctx);
    heed_tensor stale = heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 2, 8)), weights;
    heed_scope_end(ctx, none);
    ck_assert(!heed_is_valid(heed_mha_forward_cached(m, stale, cache, NULL, &weights)));
    ck_assert(!heed_is_valid(weights));
    test_error(ctx, HEED_ERROR_STALE, "a tensor is used after its scope ended", "stale");
    heed_tensor inert = heed_reshape(heed_zeros(ctx, HEED_F32, TEST_SHAPE(3)), TEST_SHAPE(2));
    heed_error_clear(ctx);
    ck_assert(!heed_is_valid(heed_mha_forward_cached(m, inert, cache, NULL, &weights)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "is the result of an operation that failed", "inert");
    ck_assert_int_eq(heed_cache_position(cache), 0);
    heed_cache_free(cache);
    heed_module_free(m);
}
END_TEST

START_TEST(layer_without_rotary) {
    heed_module *m = heed_mha_new(ctx, &(heed_mha_options){.width = 8, .heads = 2});
    heed_cache *cache =
        heed_cache_new(ctx, &(heed_cache_options){.batch = 6, .kv_heads = 2, .width = 4, .capacity = 5});
    heed_tensor x = test_tensor(ctx, HEED_F32, 5, TEST_SHAPE(2, 3, 5, 8)), weights;
    const heed_score *score = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_BOTTOM_RIGHT));
    heed_tensor expected = heed_mha_forward(m, x, none, none, score, NULL);
    heed_mha_forward_cached(m, heed_slice(x, 2, 0, 2, 1), cache, score, NULL);
    heed_tensor y = heed_mha_forward_cached(m, heed_slice(x, 2, 2, 5, 1), cache, score, &weights);
    near(y, heed_slice(expected, 2, 2, 5, 1), "two batch dimensions");
    test_shape(weights, "[2,3,2,3,5]");
    heed_mha_forward_cached(m, x, NULL, NULL, &weights);
    test_error(ctx, HEED_ERROR_ARGUMENT, "mha: the cache is missing", "no cache");
    ck_assert(!heed_is_valid(weights));
    heed_cache_free(cache);
    heed_module_free(m);
}
END_TEST

/* ---- a GPT ---- */

enum { LENGTH = 24 };

static const heed_gpt_options models[] = {
    {.vocabulary = 11, .length = LENGTH, .layers = 2, .heads = 2, .width = 8},
    {.vocabulary = 11, .length = LENGTH, .layers = 2, .heads = 2, .width = 8, .sinusoidal = true},
    {.vocabulary = 11,
     .length = LENGTH,
     .layers = 3,
     .heads = 4,
     .kv_heads = 2,
     .width = 16,
     .rotary = true,
     .qk_norm = true,
     .rotary_half_split = true},
};

static heed_tensor tokens_of(heed_ctx *of, int64_t batch, int64_t length) {
    int32_t values[128];
    struct test_random random = {3};
    for (int i = 0; i < 128; i++) values[i] = (int32_t)(test_bits(&random) % 11);
    return heed_from(of, HEED_I32, TEST_SHAPE(batch, length), values);
}

static heed_tensor go_on(heed_module *m, heed_tensor tokens, heed_gpt_cache *cache) {
    return heed_gpt_forward(m, tokens, &(heed_gpt_call_options){.cache = cache}, NULL);
}

START_TEST(gpt) {
    static const int64_t chunks[] = {1, 3, LENGTH};
    heed_module *m = heed_gpt_new(ctx, &models[_i]);
    test_shake(m);
    heed_tensor tokens = tokens_of(ctx, 3, LENGTH), expected = heed_forward(m, tokens);
    heed_gpt_cache *cache = heed_gpt_cache_new(m, 3, 0);
    for (int i = 0; i < 3; i++) {
        for (int64_t at = 0; at < LENGTH; at += chunks[i]) {
            heed_step_begin(ctx, HEED_EVAL);
            heed_tensor logits = go_on(m, heed_slice(tokens, 1, at, at + chunks[i], 1), cache);
            near(logits, heed_slice(expected, 1, at, at + chunks[i], 1), "logits");
            ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
            ck_assert_int_eq(heed_gpt_cache_position(cache), at + chunks[i]);
        }
        ck_assert_int_eq(heed_gpt_cache_truncate(cache, 0), HEED_OK);
    }
    /* The last position alone, its weights, and one sequence without a batch dimension. */
    heed_tensor weights;
    go_on(m, heed_slice(tokens, 1, 0, LENGTH - 1, 1), cache);
    heed_tensor last =
        heed_gpt_forward(m, heed_slice(tokens, 1, LENGTH - 1, LENGTH, 1),
                         &(heed_gpt_call_options){.cache = cache, .last_only = true}, &weights);
    near(last, heed_slice(expected, 1, LENGTH - 1, LENGTH, 1), "last");
    ck_assert_int_eq(heed_size(weights, 3), LENGTH);
    heed_gpt_cache_free(cache);
    cache = heed_gpt_cache_new(m, 1, 8);
    heed_tensor one = heed_reshape(heed_slice(heed_slice(tokens, 0, 1, 2, 1), 1, 0, 8, 1), TEST_SHAPE(8));
    near(go_on(m, one, cache),
         heed_reshape(heed_slice(heed_slice(expected, 0, 1, 2, 1), 1, 0, 8, 1), TEST_SHAPE(8, 11)),
         "without a batch dimension");
    heed_gpt_cache_free(cache);
    heed_module_free(m);
}
END_TEST

START_TEST(gpt_errors) {
    heed_module *m = heed_gpt_new(ctx, &models[2]), *other = heed_gpt_new(ctx, &models[0]);
    heed_gpt_cache *cache = heed_gpt_cache_new(m, 2, 5);
    go_on(m, tokens_of(ctx, 2, 3), cache);
    ck_assert(!heed_is_valid(go_on(m, tokens_of(ctx, 2, 3), cache)));
    test_error(ctx, HEED_ERROR_STATE, "3 positions after 3 exceed the capacity 5", "full");
    go_on(m, tokens_of(ctx, 1, 1), cache);
    test_error(ctx, HEED_ERROR_SHAPE, "cache_append: k[1,2,1,4] is not [2,2,length,4]", "batch");
    go_on(other, tokens_of(ctx, 2, 1), cache);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt: the cache is that of another model", "model");
    ck_assert_int_eq(heed_gpt_cache_position(cache), 3);
    heed_gpt_cache_truncate(cache, 4);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt_cache_truncate: position 4 is not in 0 to 3", "forward");
    heed_step_begin(ctx, HEED_TRAIN);
    go_on(m, tokens_of(ctx, 2, 1), cache);
    test_error(ctx, HEED_ERROR_STATE, "gradients do not flow through a cache", "training");
    heed_step_end(ctx);
    test_shape(go_on(m, tokens_of(ctx, 2, 2), cache), "[2,2,11]");
    heed_gpt_cache_free(cache);
    cache = heed_gpt_cache_new(m, 1, LENGTH + 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt_cache: capacity 25 exceeds the model's length 24", "capacity");
    go_on(m, tokens_of(ctx, 1, 1), cache);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt: the cache is that of another model", "inert");
    heed_gpt_cache_free(cache);
    heed_gpt_cache_free(heed_gpt_cache_new(m, 0, 0));
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt_cache: batch 0", "batch");
    heed_module *dense = heed_dense_new(ctx, &(heed_dense_options){.in = 1, .out = 1});
    heed_gpt_cache_new(dense, 1, 1);
    test_error(ctx, HEED_ERROR_ARGUMENT, "gpt_cache: the module is not a GPT", "no GPT");
    heed_gpt_cache_free(NULL);
    heed_module_free(dense);
    heed_module_free(m);
    heed_module_free(other);
}
END_TEST

/* An allocator that hands a block out again to the next who asks for as many bytes. */
static struct {
    void *memory;
    size_t bytes;
} spare[256];
static int spares;

static void *spare_alloc(void *user, size_t bytes) {
    (void)user;
    for (int i = spares - 1; i >= 0; i--) {
        void *memory = spare[i].memory;
        if (spare[i].bytes != bytes) continue;
        memmove(spare + i, spare + i + 1, (size_t)(--spares - i) * sizeof *spare);
        return memory;
    }
    return malloc(bytes);
}

static void spare_free(void *user, void *memory, size_t bytes) {
    (void)user;
    if (spares == (int)(sizeof spare / sizeof *spare)) {
        free(memory);
        return;
    }
    spare[spares].memory = memory;
    spare[spares++].bytes = bytes;
}

/* A model that lies where another lay is not that one, though it may have more layers. */
START_TEST(cache_of_a_model_that_is_gone) {
    heed_ctx *own = heed_ctx_new(
        &(heed_ctx_options){.threads = 1, .chunk_bytes = 1, .allocator = {spare_alloc, spare_free, NULL}});
    heed_gpt_options options = models[2];
    options.layers = 1;
    heed_module *m = heed_gpt_new(own, &options), *before = m;
    heed_gpt_cache *cache = heed_gpt_cache_new(m, 1, 0);
    heed_module_free(m);
    options.layers = 4;
    m = heed_gpt_new(own, &options);
    ck_assert_ptr_eq(m, before);
    go_on(m, tokens_of(own, 1, 1), cache);
    test_error(own, HEED_ERROR_ARGUMENT, "gpt: the cache is that of another model", "gone");
    heed_gpt_cache_free(cache);
    heed_module_free(m);
    heed_ctx_free(own);
    while (spares > 0) free(spare[--spares].memory);
}
END_TEST

START_TEST(steady_decoding_allocates_nothing) {
    heed_module *m = heed_gpt_new(ctx, &models[2]);
    heed_gpt_cache *cache = heed_gpt_cache_new(m, 1, 0);
    heed_memory_info before = {0};
    for (int64_t at = 0; at < LENGTH; at++) {
        if (at == 4) before = heed_memory(ctx);
        heed_step_begin(ctx, HEED_EVAL);
        go_on(m, tokens_of(ctx, 1, 1), cache);
        ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    }
    heed_memory_info after = heed_memory(ctx);
    ck_assert_uint_eq(after.calls, before.calls);
    ck_assert_uint_eq(after.in_use, before.in_use);
    heed_gpt_cache_free(cache);
    heed_module_free(m);
}
END_TEST

/* Making a model, two steps with its cache and one of a window. What a step that failed appended is
 * forgotten. */
static void fill_caches(heed_ctx *own) {
    heed_module *m = heed_gpt_new(own, &(heed_gpt_options){.vocabulary = 11,
                                                           .length = 4,
                                                           .layers = 2,
                                                           .heads = 1,
                                                           .width = 2,
                                                           .rotary = true,
                                                           .qk_norm = true});
    heed_gpt_cache *cache = heed_gpt_cache_new(m, 1, 4);
    heed_cache *window =
        heed_cache_new(own, &(heed_cache_options){.batch = 1, .kv_heads = 1, .width = 1, .window = 2});
    for (int i = 0; i < 2; i++) {
        const int64_t position = heed_gpt_cache_position(cache);
        heed_step_begin(own, HEED_EVAL);
        go_on(m, tokens_of(own, 1, 2), cache);
        heed_tensor x = heed_zeros(own, HEED_F32, TEST_SHAPE(1, 1, i ? 9 : 1, 1)), k, v;
        heed_cache_append(window, x, x, &k, &v);
        if (heed_step_end(own) != HEED_OK)
            ck_assert(heed_gpt_cache_position(cache) == position ||
                      heed_gpt_cache_position(cache) == position + 2);
    }
    heed_cache_free(window);
    heed_gpt_cache_free(cache);
    heed_module_free(m);
}

START_TEST(every_allocation_fails) {
    ck_assert_int_gt(test_failing_allocations("ref", 1, false, fill_caches), 100);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cache");
    TCase *tcase = test_case(suite, "cache");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, appending);
    tcase_add_test(tcase, going_back);
    tcase_add_test(tcase, cache_errors);
    tcase_add_test(tcase, bad_options);
    tcase_add_test(tcase, layer);
    tcase_add_test(tcase, layer_without_rotary);
    tcase_add_loop_test(tcase, gpt, 0, sizeof models / sizeof *models);
    tcase_add_test(tcase, gpt_errors);
    tcase_add_test(tcase, cache_of_a_model_that_is_gone);
    tcase_add_test(tcase, layer_of_nothing);
    tcase_add_test(tcase, steady_decoding_allocates_nothing);
    tcase_add_test(tcase, every_allocation_fails);
    return test_main(suite);
}
