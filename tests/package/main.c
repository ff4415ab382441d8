/* Trains one dense layer for a few steps, as a program outside of heed's tree would. */
#include <heed/heed.h>

int main(void) {
    heed_ctx *ctx = heed_ctx_new(NULL);
    heed_module *layer = heed_dense_new(ctx, &(heed_dense_options){.in = 3, .out = 2});
    heed_optim *optim = heed_sgd_new(layer, NULL);
    const float input[6] = {1, 2, 3, -1, 0, 1};
    double first = 0, last = 0;
    for (int step = 0; step < 20; step++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor x = heed_from(ctx, HEED_F32, 2, (const int64_t[]){2, 3}, input);
        heed_tensor target = heed_zeros(ctx, HEED_F32, 2, (const int64_t[]){2, 2});
        heed_tensor loss = heed_mse(heed_forward(layer, x), target, HEED_REDUCE_MEAN);
        heed_backward(loss);
        heed_optim_step(optim, 0.05);
        last = heed_item(loss);
        if (step == 0) first = last;
        if (heed_step_end(ctx) != HEED_OK) break;
    }
    bool ok = !heed_failed(ctx) && last < first;
    printf("%s: loss %g -> %g %s\n", heed_version(), first, last, heed_error(ctx));
    heed_optim_free(optim);
    heed_module_free(layer);
    heed_ctx_free(ctx);
    return ok ? 0 : 1;
}
