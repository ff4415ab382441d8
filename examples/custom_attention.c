/* A score stage of one's own, inside heed's fused attention kernel: a Gaussian window around a place that
 * every head learns, s - (width · (key - query + back))². Each head is shown numbers and asked for those of
 * some positions before; attention with this stage finds out how many. heed_score_custom() brings the stage,
 * and heed gathers the gradients of `back` and `width` while it never holds a matrix of scores. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <heed/heed.h>
#include <heed/kit.h>

enum { BATCH = 4, HEADS = 3, LENGTH = 64, WIDTH = 2, FIRST = 12 };

/* How far back the number lies that a head is asked for. */
static const int delays[HEADS] = {2, 5, 8};

static int64_t steps = 400, seed = 1;
static const char *device = "cpu";
static bool help;

static const heed_arg args[] = {
    {"steps", HEED_ARG_COUNT, &steps, "training steps (400)"},
    {"seed", HEED_ARG_COUNT, &seed, "of all random numbers (1)"},
    {"device", HEED_ARG_TEXT, &device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"help", HEED_ARG_FLAG, &help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

static void die(int status, const char *why) {
    fprintf(stderr, "custom_attention: %s\n", why);
    exit(status);
}

/* ---- the stage ---- */

/* What a head knows: param[0] is a tile's view of a tensor [heads, 2]. */
enum { BACK, NARROW };

static void window_forward(const heed_tile *t) {
    const float back = t->param[0][BACK], narrow = t->param[0][NARROW];
    for (int r = 0; r < t->rows; r++) {
        for (int c = 0; c < t->columns; c++) {
            float u = narrow * ((float)(t->key + c - t->query - r) + back);
            t->s[r * t->row_stride + c] -= u * u;
        }
    }
}

/* The stage adds to the score, so the gradient of the score passes as it is. A hidden cell has gradient 0. */
static void window_backward(const heed_tile *t) {
    const float back = t->param[0][BACK], narrow = t->param[0][NARROW];
    float d_back = 0.0f, d_narrow = 0.0f;
    if (!t->dparam[0]) return;
    for (int r = 0; r < t->rows; r++) {
        for (int c = 0; c < t->columns; c++) {
            float g = t->g[r * t->row_stride + c];
            float away = (float)(t->key + c - t->query - r) + back, u = narrow * away;
            d_back -= 2.0f * u * narrow * g;
            d_narrow -= 2.0f * u * away * g;
        }
    }
    t->dparam[0][BACK] += d_back;
    t->dparam[0][NARROW] += d_narrow;
}

/* The same for one score on the device "cuda": heed compiles it there. */
static const char window_cuda[] =
    "enum { BACK, NARROW };\n"
    "__device__ real away(const heed_cell &at) { return (real)(at.key - at.query) + at.param[0][BACK]; }\n"
    "__device__ real forward(real s, const heed_cell &at) {\n"
    "    real u = at.param[0][NARROW] * away(at);\n"
    "    return s - u * u;\n"
    "}\n"
    "__device__ real backward(real s, real g, const heed_cell &at, const heed_sums &sums) {\n"
    "    real u = at.param[0][NARROW] * away(at);\n"
    "    sums.add(0, BACK, -2 * u * at.param[0][NARROW] * g);\n"
    "    sums.add(0, NARROW, -2 * u * away(at) * g);\n"
    "    return g;\n"
    "}\n";

static const heed_stage_rule window_rule = {.name = "window",
                                            .n_params = 1,
                                            .scope = {HEED_PER_HEAD},
                                            .forward = window_forward,
                                            .backward = window_backward,
                                            .cuda = window_cuda};

/* Numbers [batch, heads, length, 1] as every head sees them: by position alone, and only what came before. */
static heed_tensor look_back(heed_tensor numbers, heed_tensor window) {
    heed_ctx *ctx = heed_context(numbers);
    heed_tensor nothing = heed_zeros(ctx, HEED_F32, HEED_SHAPE(BATCH, HEADS, LENGTH, 1));
    heed_score *score = heed_score_custom(heed_score_new(ctx), &window_rule, &window, 1, NULL);
    heed_score_mask(score, heed_mask_causal(ctx, HEED_TOP_LEFT));
    return heed_attention(nothing, nothing, numbers, score, NULL, NULL);
}

/* ---- a layer with the window as its parameter ---- */

struct window_layer {
    heed_tensor window;
};

static const heed_module_class window_class = {.name = "Window", .self_bytes = sizeof(struct window_layer)};

static heed_module *window_new(heed_ctx *ctx) {
    heed_module *module = heed_module_new(ctx, &window_class);
    struct window_layer *layer = heed_module_self(module, &window_class);
    heed_init wide = {HEED_INIT_CONSTANT, 0.2, 0.0};
    if (layer) layer->window = heed_module_param(module, "window", HEED_SHAPE(HEADS, WIDTH), wide);
    return module;
}

/* ---- the task ---- */

/* Mean squared error over the queries that have so much before them. */
static heed_tensor loss_of(heed_ctx *ctx, heed_tensor window, int64_t step) {
    static float x[BATCH][HEADS][LENGTH], y[BATCH][HEADS][LENGTH];
    for (int64_t i = 0; i < BATCH * HEADS * LENGTH; i++) {
        int64_t at = i % LENGTH, head = i / LENGTH % HEADS, batch = i / LENGTH / HEADS;
        double unit = heed_random_unit((uint64_t)seed, (uint64_t)(step * BATCH * HEADS * LENGTH + i));
        x[batch][head][at] = (float)(2.0 * unit - 1.0);
        y[batch][head][at] = at >= delays[head] ? x[batch][head][at - delays[head]] : 0.0f;
    }
    heed_tensor numbers = heed_from(ctx, HEED_F32, HEED_SHAPE(BATCH, HEADS, LENGTH, 1), x);
    heed_tensor wanted = heed_from(ctx, HEED_F32, HEED_SHAPE(BATCH, HEADS, LENGTH, 1), y);
    return heed_mse(heed_slice(look_back(numbers, window), 2, FIRST, LENGTH, 1),
                    heed_slice(wanted, 2, FIRST, LENGTH, 1), HEED_REDUCE_MEAN);
}

/* Compares a gradient that backward gives with a difference quotient; returns the relative difference. */
static double gradient_error(heed_ctx *ctx) {
    const double h = 1e-2;
    float start[HEADS][WIDTH] = {{1.0f, 0.3f}, {3.0f, 0.4f}, {6.0f, 0.2f}};
    double value[2], found;
    heed_step_begin(ctx, HEED_RECORD);
    heed_tensor window = heed_from(ctx, HEED_F32, HEED_SHAPE(HEADS, WIDTH), start);
    heed_require_grad(window, true);
    heed_backward(loss_of(ctx, window, 0));
    found = heed_at(heed_grad(window), 2, (int64_t[]){1, BACK});
    heed_step_end(ctx);
    for (int i = 0; i < 2; i++) {
        start[1][BACK] = (float)(3.0 + (i ? h : -h));
        heed_step_begin(ctx, HEED_EVAL);
        value[i] = heed_item(loss_of(ctx, heed_from(ctx, HEED_F32, HEED_SHAPE(HEADS, WIDTH), start), 0));
        heed_step_end(ctx);
    }
    double expected = (value[1] - value[0]) / (2.0 * h);
    return fabs(found - expected) / fmax(1e-3, fabs(expected));
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong);
    if (help)
        return heed_args_help(stdout, "custom_attention", "Trains a score stage of one's own.", ARGS, args) !=
               HEED_OK;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = (uint64_t)seed});
    if (heed_failed(ctx)) die(2, heed_error(ctx));
    double error = gradient_error(ctx);
    printf("the gradient differs from a difference quotient by %.1e\n", error);
    heed_module *layer = window_new(ctx);
    const struct window_layer *self = heed_module_self(layer, &window_class);
    heed_tensor window = self ? self->window : (heed_tensor){0};
    heed_optim *optim = heed_adamw_new(layer, &(heed_adamw_options){.weight_decay = 0.0});
    double loss = 0.0;
    for (int64_t step = 0; step < steps && !heed_failed(ctx); step++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor value = loss_of(ctx, window, step);
        heed_backward(value);
        heed_optim_step(optim, heed_schedule_warmup_cosine(step, 20, steps, 0.1));
        loss = heed_item(value);
        heed_step_end(ctx);
    }
    for (int h = 0; h < HEADS && !heed_failed(ctx); h++)
        printf("head %d looks %5.2f back (it should: %d)\n", h, heed_at(window, 2, (int64_t[]){h, BACK}),
               delays[h]);
    printf("mean squared error %.5f\n", loss);
    if (heed_failed(ctx)) die(1, heed_error(ctx));
    if (!(error < 1e-2)) die(1, "the gradient is wrong");
    heed_optim_free(optim);
    heed_module_free(layer);
    heed_ctx_free(ctx);
    return 0;
}
