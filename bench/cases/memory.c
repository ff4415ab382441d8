/* What memory limits: size = rows, columns; bytes, what a run reads and writes at least. */
#include "cases/cases.h"

#define ROWS 4096
#define COLUMNS 4096
#define CLASSES 50257
#define WIDTH 768
#define STREAM ((double)ROWS * COLUMNS * 4) /* bytes of one tensor */

static void two_setup(struct bench *b) {
    b->tensor[0] = bench_normal(b, 2, b->row->size);
    b->tensor[1] = bench_normal(b, 2, b->row->size);
    b->tensor[2] = bench_normal(b, 1, b->row->size + 1);
    b->tensor[3] = bench_normal(b, 1, b->row->size + 1);
}

static void grad_setup(struct bench *b) {
    two_setup(b);
    heed_require_grad(b->tensor[0], true);
}

#define FORWARD(name, expression)                                                                            \
    static void name(struct bench *b) {                                                                      \
        heed_step_begin(b->ctx, HEED_EVAL);                                                                  \
        expression;                                                                                          \
        heed_step_end(b->ctx);                                                                               \
    }
FORWARD(add_run, heed_add(b->tensor[0], b->tensor[1]))
FORWARD(gelu_run, heed_gelu(b->tensor[0]))
FORWARD(softmax_run, heed_softmax(b->tensor[0], -1))
FORWARD(norm_run, heed_layer_norm(b->tensor[0], b->tensor[2], b->tensor[3], 1e-5))
FORWARD(transpose_run, heed_contiguous(heed_transpose(b->tensor[0], 0, 1)))

/* Forward, and the gradient of x: y and dx written, x read twice and dy once. */
static void norm_back_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor y = heed_layer_norm(b->tensor[0], b->tensor[2], b->tensor[3], 1e-5);
    heed_backward_with(y, &(heed_backward_options){.gradient = b->tensor[1]});
    heed_step_end(b->ctx);
}

static void residual_setup(struct bench *b) {
    two_setup(b);
    b->tensor[4] = bench_normal(b, 2, b->row->size);
    for (int i = 0; i < 2; i++) heed_require_grad(b->tensor[i], true);
}

/* x and the branch are not leaves, as in a block: gradients may be shared. */
static heed_tensor same(struct bench *b, int i) {
    return heed_reshape(b->tensor[i], 2, b->row->size);
}

/* In one operation: forward four tensors, backward four; the gradients of weight and bias are not asked for.
 */
static void residual_run(struct bench *b) {
    const heed_residual_norm_options options = {.dropout = 0.1};
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor y = heed_residual_norm(same(b, 0), same(b, 1), b->tensor[2], b->tensor[3], &options, NULL);
    heed_backward_with(y, &(heed_backward_options){.gradient = b->tensor[4]});
    heed_step_end(b->ctx);
}

static void residual_three_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_tensor sum = heed_add(same(b, 0), heed_dropout(same(b, 1), 0.1));
    heed_tensor y = heed_layer_norm(sum, b->tensor[2], b->tensor[3], 1e-5);
    heed_backward_with(y, &(heed_backward_options){.gradient = b->tensor[4]});
    heed_step_end(b->ctx);
}

static void loss_setup(struct bench *b) {
    b->tensor[0] = bench_normal(b, 2, b->row->size);
    b->tensor[1] = heed_full(b->ctx, HEED_I32, 1, b->row->size, 7);
    heed_require_grad(b->tensor[0], true);
}

static void loss_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_backward(heed_cross_entropy(b->tensor[0], b->tensor[1], NULL));
    heed_step_end(b->ctx);
}

static void adamw_setup(struct bench *b) {
    b->module = heed_dense_new(b->ctx, &(heed_dense_options){.in = COLUMNS, .out = ROWS, .no_bias = true});
    b->optim = heed_adamw_new(b->module, NULL);
    b->tensor[0] = bench_normal(b, 2, b->row->size);
}

/* The weights' gradient is the tensor itself. */
static void adamw_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_TRAIN);
    heed_backward_with(heed_mul_scalar(heed_param_find(b->module, "weight"), 1),
                       &(heed_backward_options){.gradient = b->tensor[0]});
    heed_optim_step(b->optim, 1e-4);
    heed_step_end(b->ctx);
}

const struct bench_case bench_memory_cases[] = {
    {"memory_add", "x + y of [4096, 4096]", two_setup, add_run, {ROWS, COLUMNS}, .bytes = 3 * STREAM},
    {"memory_transpose",
     "a copy of it, transposed",
     two_setup,
     transpose_run,
     {ROWS, COLUMNS},
     .bytes = 2 * STREAM},
    {"memory_gelu", "GELU of it", two_setup, gelu_run, {ROWS, COLUMNS}, .bytes = 2 * STREAM},
    {"memory_softmax", "softmax of its rows", two_setup, softmax_run, {ROWS, COLUMNS}, .bytes = 2 * STREAM},
    {"memory_norm_fwd", "layer norm of its rows", two_setup, norm_run, {ROWS, COLUMNS}, .bytes = 2 * STREAM},
    {"memory_norm_fwdbwd",
     "and the gradient of x",
     grad_setup,
     norm_back_run,
     {ROWS, COLUMNS},
     .bytes = 5 * STREAM},
    {"memory_residual_fwdbwd",
     "layer norm of x + dropout(branch), [4096, 768], and both gradients",
     residual_setup,
     residual_run,
     {ROWS, WIDTH},
     .bytes = 8.0 * ROWS * WIDTH * 4},
    {"memory_residual_three_fwdbwd",
     "the same by three operations",
     residual_setup,
     residual_three_run,
     {ROWS, WIDTH},
     .bytes = 8.0 * ROWS * WIDTH * 4},
    {"memory_loss_fwdbwd",
     "cross-entropy of [1024, 50257]",
     loss_setup,
     loss_run,
     {1024, CLASSES},
     .bytes = 3.0 * 1024 * CLASSES * 4},
    {"memory_adamw",
     "a gradient, its norm and AdamW of 16 million parameters",
     adamw_setup,
     adamw_run,
     {ROWS, COLUMNS},
     .bytes = 12 * STREAM},
    {0},
};
