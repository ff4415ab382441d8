/* Whole training steps of a GPT: forward, backward, AdamW with clipping. size = layers, heads, width, length;
 * batch and vocabulary beside. */
#include "cases/cases.h"

#include <stdlib.h>

static void gpt_setup(struct bench *b) {
    const struct bench_case *row = b->row;
    b->module = heed_gpt_new(b->ctx, &(heed_gpt_options){.vocabulary = row->vocabulary,
                                                         .length = row->size[3],
                                                         .layers = row->size[0],
                                                         .heads = row->size[1],
                                                         .width = row->size[2]});
    b->optim = heed_adamw_new(b->module, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1});
    const int64_t count = row->batch * row->size[3];
    int32_t *tokens = malloc(2 * (size_t)count * sizeof *tokens);
    if (!tokens) return;
    uint32_t state = 1;
    for (int64_t i = 0; i < 2 * count; i++) {
        state = state * 1664525u + 1013904223u; /* any numbers will do */
        tokens[i] = (int32_t)((state >> 8) % (uint32_t)row->vocabulary);
    }
    const int64_t size[2] = {row->batch, row->size[3]};
    b->tensor[0] = heed_from(b->ctx, HEED_I32, 2, size, tokens);
    b->tensor[1] = heed_from(b->ctx, HEED_I32, 2, size, tokens + count);
    free(tokens);
}

static void gpt_step(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor loss = heed_cross_entropy(heed_forward(b->module, b->tensor[0]), b->tensor[1], NULL);
    heed_backward(loss);
    heed_optim_step(b->optim, 1e-4);
    heed_step_end(b->ctx);
}

/* Twelve matrices of width² in a layer and the one that makes logits, three times with backward; attention is
 * causal. */
static double gpt_operations(const struct bench_case *row) {
    const double layers = (double)row->size[0], width = (double)row->size[2], length = (double)row->size[3],
                 batch = (double)row->batch, vocabulary = (double)row->vocabulary;
    return 3 * 2 * batch * length * (layers * 12 * width * width + width * vocabulary) +
           layers * bench_attention_operations(batch * length * (length + 1) / 2, width, true);
}

const struct bench_case bench_gpt_cases[] = {
    {"gpt_nano_step",
     "GPT of 4 layers, 4 heads, width 128, length 64, batch 12: a training step",
     gpt_setup,
     gpt_step,
     {4, 4, 128, 64},
     .operations = gpt_operations,
     .batch = 12,
     .vocabulary = 65},
    {"gpt_mini_step",
     "6 layers, 6 heads, width 384, length 256, batch 8",
     gpt_setup,
     gpt_step,
     {6, 6, 384, 256},
     .operations = gpt_operations,
     .batch = 8,
     .vocabulary = 256},
    {"gpt2_124m_step",
     "12 layers, 12 heads, width 768, length 64, batch 4, vocabulary 50257",
     gpt_setup,
     gpt_step,
     {12, 12, 768, 64},
     .operations = gpt_operations,
     .batch = 4,
     .vocabulary = 50257},
    {0},
};
