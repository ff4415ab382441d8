/* The layer that heed started from: many short sequences, many narrow heads. */
#include "cases/cases.h"

enum { BATCH = 128, LENGTH = 8, WIDTH = 128, HEADS = 32 };

static void mha_setup(struct bench *b) {
    b->module = heed_mha_new(b->ctx, &(heed_mha_options){.width = WIDTH, .heads = HEADS, .no_bias = true});
    b->tensor[0] = bench_normal(b, 3, (int64_t[]){BATCH, LENGTH, WIDTH});
    b->tensor[1] = bench_normal(b, 3, (int64_t[]){BATCH, LENGTH, WIDTH});
}

static void mha_forward(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_forward(b->module, b->tensor[0]);
    heed_step_end(b->ctx);
}

static void mha_weights(struct bench *b) {
    heed_tensor weights;
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_mha_forward(b->module, b->tensor[0], (heed_tensor){0}, (heed_tensor){0}, NULL, &weights);
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

/* Four projections, which backward makes twice, and attention. */
static double mha_operations(const struct bench_case *row) {
    const bool backward = row->run == mha_both;
    return (backward ? 3 : 1) * 4 * 2.0 * BATCH * LENGTH * WIDTH * WIDTH +
           bench_attention_operations((double)BATCH * HEADS * LENGTH * LENGTH, (double)WIDTH / HEADS,
                                      backward);
}

const struct bench_case bench_mha_cases[] = {
    {"mha_seed_fwd",
     "multi-head attention, batch 128, length 8, width 128, 32 heads",
     mha_setup,
     mha_forward,
     {0},
     .operations = mha_operations},
    {"mha_seed_weights_fwd",
     "the same, with all weights",
     mha_setup,
     mha_weights,
     {0},
     .operations = mha_operations},
    {"mha_seed_fwdbwd",
     "the same with gradients of input and weights",
     mha_setup,
     mha_both,
     {0},
     .operations = mha_operations},
    {0},
};
