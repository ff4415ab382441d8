/* A layer of one's own, through the public interface only: the activation "snake", x + sin²(a·x) / a, with a
 * learned frequency a for every channel (Liu, Hartwig, Ueda: "Neural networks fail to learn periodic
 * functions and how to fix it", 2020). heed_custom_op() brings forward and backward, which run on the host
 * whatever the device is: heed copies there and back. heed_module_new() makes a layer of it. Networks with it
 * and with tanh learn a wave from x in -2 ... 2 and are then asked beyond. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <heed/heed.h>
#include <heed/kit.h>

enum { BATCH = 256, HIDDEN = 64 };

static int64_t steps = 2000, seed = 1;
static const char *device = "cpu";
static bool help;

static const heed_arg args[] = {
    {"steps", HEED_ARG_COUNT, &steps, "training steps of each network (2000)"},
    {"seed", HEED_ARG_COUNT, &seed, "of all random numbers (1)"},
    {"device", HEED_ARG_TEXT, &device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"help", HEED_ARG_FLAG, &help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

static void die(int status, const char *why) {
    fprintf(stderr, "custom_layer: %s\n", why);
    exit(status);
}

/* ---- the operation ---- */

static int64_t count_of(const heed_raw *raw) {
    int64_t count = 1;
    for (int i = 0; i < raw->rank; i++) count *= raw->size[i];
    return count;
}

/* y = x + sin²(a x) / a. Inputs: x [.., channels] and a [channels]; all memory is contiguous. */
static heed_status snake_forward(const heed_custom_call *call) {
    const float *x = call->input[0].data, *a = call->input[1].data;
    float *y = call->output[0].data;
    int64_t count = count_of(&call->input[0]), channels = count_of(&call->input[1]);
    for (int64_t i = 0; i < count; i++) {
        float frequency = a[i % channels], s = sinf(frequency * x[i]);
        y[i] = x[i] + s * s / frequency;
    }
    return HEED_OK;
}

/* dy/dx = 1 + sin(2 a x); dy/da = x sin(2 a x) / a - sin²(a x) / a². What is not wanted has no memory. */
static heed_status snake_backward(const heed_custom_call *call) {
    const float *x = call->input[0].data, *a = call->input[1].data, *dy = call->d_output[0].data;
    float *dx = call->d_input[0].data, *da = call->d_input[1].data;
    int64_t count = count_of(&call->input[0]), channels = count_of(&call->input[1]);
    for (int64_t i = 0; i < count; i++) {
        float f = a[i % channels], s = sinf(f * x[i]), twice = sinf(2.0f * f * x[i]);
        if (dx) dx[i] = dy[i] * (1.0f + twice);
        if (da) da[i % channels] += dy[i] * (x[i] * twice / f - s * s / (f * f));
    }
    return HEED_OK;
}

/* The operation as a function of tensors, with the checks that heed cannot know. */
static heed_tensor snake(heed_tensor x, heed_tensor a) {
    heed_ctx *ctx = heed_context(x);
    heed_tensor y = {0};
    if (heed_failed(ctx)) return y;
    if (heed_rank(x) < 1 || heed_rank(a) != 1 || heed_size(x, -1) != heed_size(a, 0))
        heed_error_set(ctx, HEED_ERROR_SHAPE, "snake",
                       "x must end in as many channels as there are frequencies");
    else if (heed_dtype_of(x) != HEED_F32 || heed_dtype_of(a) != HEED_F32)
        heed_error_set(ctx, HEED_ERROR_DTYPE, "snake", "x and the frequencies must be f32");
    heed_raw shape = {.dtype = HEED_F32, .rank = heed_rank(x)};
    for (int i = 0; i < shape.rank; i++) shape.size[i] = heed_size(x, i);
    heed_custom_op(ctx,
                   &(heed_custom_options){.name = "snake",
                                          .inputs = 2,
                                          .input = (heed_tensor[]){x, a},
                                          .outputs = 1,
                                          .output = &shape,
                                          .forward = snake_forward,
                                          .backward = snake_backward},
                   &y);
    return y;
}

/* ---- the layer ---- */

struct snake_layer {
    heed_tensor frequency;
};

static heed_tensor snake_layer_forward(heed_module *module, heed_tensor x);

static const heed_module_class snake_class = {
    .name = "Snake", .self_bytes = sizeof(struct snake_layer), .forward = snake_layer_forward};

static heed_module *snake_new(heed_ctx *ctx, int64_t channels) {
    heed_module *module = heed_module_new(ctx, &snake_class);
    struct snake_layer *layer = heed_module_self(module, &snake_class);
    heed_init random = {HEED_INIT_UNIFORM, 0.5, 3.0};
    if (layer) layer->frequency = heed_module_param(module, "frequency", HEED_SHAPE(channels), random);
    return module;
}

static heed_tensor snake_layer_forward(heed_module *module, heed_tensor x) {
    const struct snake_layer *layer = heed_module_self(module, &snake_class);
    return layer ? snake(x, layer->frequency) : (heed_tensor){0};
}

/* ---- trying it ---- */

/* Compares a gradient that backward gives with a difference quotient; returns the relative difference. */
static double gradient_error(heed_ctx *ctx) {
    heed_tensor x = heed_uniform(ctx, HEED_F32, HEED_SHAPE(32, 4), -2.0, 2.0);
    float f[4] = {0.7f, 1.1f, 1.9f, 2.3f};
    const double h = 1e-2;
    double value[2], found;
    heed_step_begin(ctx, HEED_RECORD);
    heed_tensor a = heed_from(ctx, HEED_F32, HEED_SHAPE(4), f);
    heed_require_grad(a, true);
    heed_backward(heed_sum(snake(x, a), HEED_ALL, false));
    found = heed_at(heed_grad(a), 1, (int64_t[]){2});
    heed_step_end(ctx);
    for (int i = 0; i < 2; i++) {
        float moved[4] = {f[0], f[1], (float)(f[2] + (i ? h : -h)), f[3]};
        heed_step_begin(ctx, HEED_EVAL);
        value[i] =
            heed_item(heed_sum(snake(x, heed_from(ctx, HEED_F32, HEED_SHAPE(4), moved)), HEED_ALL, false));
        heed_step_end(ctx);
    }
    heed_free(x);
    double expected = (value[1] - value[0]) / (2.0 * h);
    return fabs(found - expected) / fmax(1.0, fabs(expected));
}

/* The mean squared error of a network on the wave, for x from `low` to `high`; trains it if there is an
 * optimiser. */
static double step_on_wave(heed_ctx *ctx, heed_module *network, heed_optim *optim, int64_t step, double low,
                           double high) {
    float x[BATCH], y[BATCH];
    for (int i = 0; i < BATCH; i++) {
        double unit = heed_random_unit((uint64_t)seed, (uint64_t)(step * BATCH + i));
        x[i] = (float)(low + (high - low) * unit);
        y[i] = x[i] / 2.0f + sinf(3.0f * x[i]);
    }
    heed_step_begin(ctx, optim ? HEED_TRAIN : HEED_EVAL);
    heed_tensor output = heed_forward(network, heed_from(ctx, HEED_F32, HEED_SHAPE(BATCH, 1), x));
    heed_tensor loss = heed_mse(output, heed_from(ctx, HEED_F32, HEED_SHAPE(BATCH, 1), y), HEED_REDUCE_MEAN);
    if (optim) {
        heed_backward(loss);
        heed_optim_step(optim, heed_schedule_warmup_cosine(step, 100, steps, 1e-2));
    }
    double value = heed_item(loss);
    heed_step_end(ctx);
    return value;
}

/* Trains a network with one hidden layer; `hidden` becomes its own. */
static void try_network(heed_ctx *ctx, const char *name, heed_module *first, heed_module *second) {
    heed_module *last = heed_dense_new(ctx, &(heed_dense_options){.in = HIDDEN, .out = 1});
    heed_module *network = heed_sequential_new(ctx, 3, (heed_module *[]){first, second, last});
    heed_optim *optim = heed_adamw_new(network, NULL);
    for (int64_t step = 0; step < steps && !heed_failed(ctx); step++)
        step_on_wave(ctx, network, optim, step, -2, 2);
    printf("%-6s mean squared error %.5f in -2 ... 2, %.5f in 2 ... 3\n", name,
           step_on_wave(ctx, network, NULL, steps, -2, 2), step_on_wave(ctx, network, NULL, steps, 2, 3));
    heed_optim_free(optim);
    heed_module_free(network);
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong);
    if (help)
        return heed_args_help(stdout, "custom_layer", "Trains a layer of one's own.", ARGS, args) != HEED_OK;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = (uint64_t)seed});
    if (heed_failed(ctx)) die(2, heed_error(ctx));
    double error = gradient_error(ctx);
    printf("the gradient differs from a difference quotient by %.1e\n", error);
    heed_dense_options plain = {.in = 1, .out = HIDDEN},
                       bent = {.in = 1, .out = HIDDEN, .activation = HEED_ACTIVATION_TANH};
    try_network(ctx, "snake", heed_dense_new(ctx, &plain), snake_new(ctx, HIDDEN));
    try_network(ctx, "tanh", heed_dense_new(ctx, &bent), heed_dropout_new(ctx, 0.0));
    if (heed_failed(ctx)) die(1, heed_error(ctx));
    if (!(error < 1e-2)) die(1, "the gradient is wrong");
    heed_ctx_free(ctx);
    return 0;
}
