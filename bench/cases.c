#include "bench.h"

#include <stdlib.h>

static heed_tensor normal(struct bench *b, int rank, const int64_t *size) {
    return heed_normal(b->ctx, HEED_F32, rank, size, 0, 1);
}

/* ---- matrix products: C = A·B, [m, k]·[k, n] ---- */

static void sgemm_setup(struct bench *b) {
    const int64_t *s = b->row->size;
    b->tensor[0] = normal(b, 2, (int64_t[]){s[0], s[2]});
    b->tensor[1] = normal(b, 2, (int64_t[]){s[2], s[1]});
}

static void sgemm_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_matmul(b->tensor[0], b->tensor[1]);
    heed_step_end(b->ctx);
}

/* ---- the layer that heed started from: many short sequences, many narrow heads ---- */

enum { SEED_BATCH = 128, SEED_LENGTH = 8, SEED_WIDTH = 128, SEED_HEADS = 32 };

static void mha_setup(struct bench *b) {
    b->module =
        heed_mha_new(b->ctx, &(heed_mha_options){.width = SEED_WIDTH, .heads = SEED_HEADS, .no_bias = true});
    b->tensor[0] = normal(b, 3, (int64_t[]){SEED_BATCH, SEED_LENGTH, SEED_WIDTH});
    b->tensor[1] = normal(b, 3, (int64_t[]){SEED_BATCH, SEED_LENGTH, SEED_WIDTH});
}

static void mha_forward(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_forward(b->module, b->tensor[0]);
    heed_step_end(b->ctx);
}

/* Gradients of the input and of all weights. */
static void mha_both(struct bench *b) {
    heed_require_grad(b->tensor[0], true);
    heed_grad_clear(b->tensor[0]);
    heed_module_zero_grad(b->module);
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor y = heed_forward(b->module, b->tensor[0]);
    heed_backward_with(y, &(heed_backward_options){.gradient = b->tensor[1]});
    heed_step_end(b->ctx);
}

static void softmax_setup(struct bench *b) {
    b->tensor[0] = normal(b, 4, (int64_t[]){SEED_BATCH, SEED_HEADS, SEED_LENGTH, SEED_LENGTH});
}

static void softmax_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_softmax(b->tensor[0], -1);
    heed_step_end(b->ctx);
}

/* ---- attention alone, causal: size = batch, heads, length, width ---- */

static void attention_setup(struct bench *b) {
    for (int i = 0; i < 4; i++) b->tensor[i] = normal(b, 4, b->row->size);
}

static heed_tensor causal_attention(struct bench *b) {
    heed_score *score = heed_score_mask(heed_score_new(b->ctx), heed_mask_causal(b->ctx, HEED_TOP_LEFT));
    return heed_attention(b->tensor[0], b->tensor[1], b->tensor[2], score, NULL, NULL);
}

static void attention_forward(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    causal_attention(b);
    heed_step_end(b->ctx);
}

static void attention_both(struct bench *b) {
    for (int i = 0; i < 3; i++) {
        heed_require_grad(b->tensor[i], true);
        heed_grad_clear(b->tensor[i]);
    }
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_backward_with(causal_attention(b), &(heed_backward_options){.gradient = b->tensor[3]});
    heed_step_end(b->ctx);
}

/* ---- a whole training step ---- */

enum {
    GPT_LAYERS = 6,
    GPT_HEADS = 6,
    GPT_WIDTH = 384,
    GPT_LENGTH = 256,
    GPT_BATCH = 8,
    GPT_VOCABULARY = 256
};

static void gpt_setup(struct bench *b) {
    b->module = heed_gpt_new(b->ctx, &(heed_gpt_options){.vocabulary = GPT_VOCABULARY,
                                                         .length = GPT_LENGTH,
                                                         .layers = GPT_LAYERS,
                                                         .heads = GPT_HEADS,
                                                         .width = GPT_WIDTH});
    b->optim = heed_adamw_new(b->module, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    enum { COUNT = GPT_BATCH * GPT_LENGTH };
    int32_t *tokens = malloc(2 * COUNT * sizeof *tokens);
    if (!tokens) return;
    uint32_t state = 1;
    for (int i = 0; i < 2 * COUNT; i++) {
        state = state * 1664525u + 1013904223u; /* any numbers will do */
        tokens[i] = (int32_t)(state >> 24) % GPT_VOCABULARY;
    }
    const int64_t size[2] = {GPT_BATCH, GPT_LENGTH};
    b->tensor[0] = heed_from(b->ctx, HEED_I32, 2, size, tokens);
    b->tensor[1] = heed_from(b->ctx, HEED_I32, 2, size, tokens + COUNT);
    free(tokens);
}

static void gpt_step(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor loss = heed_cross_entropy(heed_forward(b->module, b->tensor[0]), b->tensor[1], NULL);
    heed_backward(loss);
    heed_optim_step(b->optim, 1e-4);
    heed_step_end(b->ctx);
}

const struct bench_case bench_cases[] = {
    {"sgemm_256", "[256, 256] · [256, 256]", sgemm_setup, sgemm_run, {256, 256, 256}},
    {"sgemm_1024", "[1024, 1024] · [1024, 1024]", sgemm_setup, sgemm_run, {1024, 1024, 1024}},
    {"sgemm_mlp", "[2048, 384] · [384, 1536]", sgemm_setup, sgemm_run, {2048, 1536, 384}},
    {"sgemm_narrow", "[1024, 128] · [128, 128]", sgemm_setup, sgemm_run, {1024, 128, 128}},
    {"softmax_seed", "softmax of [128, 32, 8, 8]", softmax_setup, softmax_run, {0}},
    {"mha_seed_fwd",
     "multi-head attention, batch 128, length 8, width 128, 32 heads",
     mha_setup,
     mha_forward,
     {0}},
    {"mha_seed_fwdbwd", "the same with gradients of input and weights", mha_setup, mha_both, {0}},
    {"attn_b1h8s2048d64c_fwd",
     "causal attention, 8 heads, length 2048, width 64",
     attention_setup,
     attention_forward,
     {1, 8, 2048, 64}},
    {"attn_b1h8s2048d64c_fwdbwd",
     "the same with gradients of q, k and v",
     attention_setup,
     attention_both,
     {1, 8, 2048, 64}},
    {"gpt_mini_step",
     "GPT of 6 layers, 6 heads, width 384, length 256, batch 8: forward, backward, AdamW",
     gpt_setup,
     gpt_step,
     {0}},
};
const int bench_case_count = (int)(sizeof bench_cases / sizeof bench_cases[0]);
