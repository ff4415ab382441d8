/* Attention alone. Where nothing else is said size = batch, heads, length, width. */
#include "cases/cases.h"

/* What a case does beside q·kᵀ, softmax and ·v. */
enum { CAUSAL = 1, DROPOUT = 2, BIAS = 4, BACKWARD = 8, WINDOW = 16, T5 = 32, RANDOM = 64 };

enum { WINDOW_KEYS = 256, T5_BUCKETS = 32 };

static void attention_setup(struct bench *b) {
    const int64_t *size = b->row->size;
    for (int i = 0; i < 4; i++) b->tensor[i] = bench_normal(b, 4, size);
    if (b->row->what_else & BIAS)
        b->tensor[4] = bench_normal(b, 4, (int64_t[]){1, size[1], size[2], size[2]});
    if (b->row->what_else & T5) b->tensor[4] = bench_normal(b, 2, (int64_t[]){size[1], T5_BUCKETS});
    for (int i = 0; i < 5 && b->row->what_else & BACKWARD; i++) {
        if (i != 3 && !heed_is_none(b->tensor[i])) heed_require_grad(b->tensor[i], true);
    }
}

static heed_tensor attend(struct bench *b) {
    const int what = b->row->what_else;
    heed_score *score = heed_score_new(b->ctx);
    if (what & CAUSAL) heed_score_mask(score, heed_mask_causal(b->ctx, HEED_TOP_LEFT));
    if (what & WINDOW) heed_score_mask(score, heed_mask_window(b->ctx, WINDOW_KEYS - 1, 0, HEED_TOP_LEFT));
    if (what & RANDOM) heed_score_mask(score, heed_mask_random(b->ctx, 0.9, 1, NULL));
    if (what & BIAS) heed_score_bias(score, b->tensor[4]);
    if (what & T5) heed_score_t5(score, b->tensor[4], NULL);
    return heed_attention(b->tensor[0], b->tensor[1], b->tensor[2], score,
                          &(heed_attention_options){.dropout = what & DROPOUT ? 0.1 : 0}, NULL);
}

static void attention_run(struct bench *b) {
    const bool backward = b->row->what_else & BACKWARD;
    for (int i = 0; i < 5 && backward; i++) {
        if (i != 3 && !heed_is_none(b->tensor[i])) heed_grad_clear(b->tensor[i]);
    }
    heed_step_begin(b->ctx, backward ? HEED_TRAIN : HEED_EVAL);
    heed_tensor y = attend(b);
    if (backward) heed_backward_with(y, &(heed_backward_options){.gradient = b->tensor[3]});
    heed_step_end(b->ctx);
}

/* Of a random mask all cells: kernels must look at each. */
static double attention_operations(const struct bench_case *row) {
    const double n = (double)row->size[2], most = row->what_else & WINDOW ? WINDOW_KEYS : n;
    const double seen =
        row->what_else & (CAUSAL | WINDOW) ? most * (n - most) + most * (most + 1) / 2 : n * n;
    return bench_attention_operations((double)row->size[0] * (double)row->size[1] * seen,
                                      (double)row->size[3], row->what_else & BACKWARD);
}

/* One query of each head to what a cache holds: size = heads, key/value heads, keys, width. */
static void decode_setup(struct bench *b) {
    const int64_t *s = b->row->size;
    b->tensor[0] = bench_normal(b, 4, (int64_t[]){1, s[0], 1, s[3]});
    for (int i = 1; i < 3; i++) b->tensor[i] = bench_normal(b, 4, (int64_t[]){1, s[1], s[2], s[3]});
}

static void decode_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_attention(b->tensor[0], b->tensor[1], b->tensor[2], NULL, NULL, NULL);
    heed_step_end(b->ctx);
}

static double decode_operations(const struct bench_case *row) {
    return bench_attention_operations((double)row->size[0] * (double)row->size[2], (double)row->size[3],
                                      false);
}

#define CASE(name, what, flags, ...)                                                                         \
    { name, what, attention_setup, attention_run, __VA_ARGS__, flags, .operations = attention_operations }

const struct bench_case bench_attention_cases[] = {
    CASE("attn_b8h12s128d64_fwd", "attention, batch 8, 12 heads, length 128, width 64", 0, {8, 12, 128, 64}),
    CASE("attn_b8h12s128d64_fwdbwd", "the same with gradients of q, k and v", BACKWARD, {8, 12, 128, 64}),
    CASE("attn_b4h8s512d64c_fwd", "causal, batch 4, 8 heads, length 512, width 64", CAUSAL, {4, 8, 512, 64}),
    CASE("attn_b4h8s512d64c_fwdbwd", "the same with gradients", CAUSAL | BACKWARD, {4, 8, 512, 64}),
    CASE("attn_b1h8s2048d64c_fwd", "causal, 8 heads, length 2048, width 64", CAUSAL, {1, 8, 2048, 64}),
    CASE("attn_b1h8s2048d64c_fwdbwd", "the same with gradients", CAUSAL | BACKWARD, {1, 8, 2048, 64}),
    CASE("attn_b1h4s8192d64c_fwd", "causal, 4 heads, length 8192, width 64", CAUSAL, {1, 4, 8192, 64}),
    CASE("attn_b1h4s8192d64c_fwdbwd", "the same with gradients", CAUSAL | BACKWARD, {1, 4, 8192, 64}),
    CASE("attn_dropout_4096_fwdbwd", "causal, 4 heads, length 4096, dropout 0.1", CAUSAL | DROPOUT | BACKWARD,
         {1, 4, 4096, 64}),
    CASE("attn_bias_4096_fwdbwd", "4 heads, length 4096, a full bias with gradient", BIAS | BACKWARD,
         {1, 4, 4096, 64}),
    CASE("attn_t5_4096_fwdbwd", "4 heads, length 4096, a table of 32 relative positions with gradient",
         T5 | BACKWARD, {1, 4, 4096, 64}),
    CASE("attn_window_2048_fwd", "4 heads, length 2048, a causal window of 256 keys", WINDOW,
         {1, 4, 2048, 64}),
    CASE("attn_random_512_fwd", "batch 4, 8 heads, length 512, a random mask", RANDOM, {4, 8, 512, 64}),
    CASE("attn_random_512_fwdbwd", "the same with gradients", RANDOM | BACKWARD, {4, 8, 512, 64}),
    {"decode_32h_4096",
     "one query, 32 heads on 8 of keys and values, 4096 keys, width 128",
     decode_setup,
     decode_run,
     {32, 8, 4096, 128},
     .bytes = (2.0 * 8 * 4096 + 2 * 32) * 128 * 4,
     .operations = decode_operations},
    {0},
};
