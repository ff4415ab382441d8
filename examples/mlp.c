/* A multi-layer perceptron learns handwritten digits: 1,797 pictures of 8 by 8 pixels that Debian's package
 * python3-sklearn brings. Without that file, or --data FILE, it learns pictures that it makes itself. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include <heed/heed.h>
#include <heed/kit.h>

enum { PIXELS = 64, CLASSES = 10, BATCH = 64, MOST = 100000 };

static const char *const packaged = "/usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz";

static const char *data_path, *device = "cpu";
static int64_t steps = 1000, seed = 1;
static bool help;

static const heed_arg args[] = {
    {"data", HEED_ARG_TEXT, &data_path,
     "lines of 64 numbers 0 to 16 and a class, comma-separated, perhaps gzipped"},
    {"steps", HEED_ARG_COUNT, &steps, "training steps (1000)"},
    {"seed", HEED_ARG_COUNT, &seed, "of all random numbers (1)"},
    {"device", HEED_ARG_TEXT, &device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"help", HEED_ARG_FLAG, &help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

struct digits {
    int64_t count;
    float (*pixels)[PIXELS]; /* in 0 … 1 */
    int32_t *label;
};

static void die(int status, const char *what, const char *why) {
    fprintf(stderr, "mlp: %s%s\n", what, why);
    exit(status);
}

static void make_room(struct digits *d) {
    d->pixels = malloc(MOST * sizeof *d->pixels);
    d->label = malloc(MOST * sizeof *d->label);
    if (!d->pixels || !d->label) die(1, "no memory for the pictures", "");
}

/* One line of the file. */
static bool parse(struct digits *d, char *line) {
    for (int i = 0; i <= PIXELS; i++) {
        char *end;
        double value = strtod(line, &end);
        bool last = i == PIXELS;
        if (end == line || !(value >= 0.0 && value <= (last ? CLASSES - 1 : 16))) return false;
        if (!last && *end++ != ',') return false;
        if (last)
            d->label[d->count] = (int32_t)value;
        else
            d->pixels[d->count][i] = (float)(value / 16.0);
        line = end;
    }
    d->count++;
    return true;
}

/* gzopen() reads plain files too. */
static void load(struct digits *d, const char *path) {
    char line[1024];
    gzFile file = gzopen(path, "rb");
    if (!file) die(2, path, " cannot be opened");
    while (d->count < MOST && gzgets(file, line, sizeof line))
        if (!parse(d, line)) die(2, path, ": a line is not 64 numbers from 0 to 16 and a class from 0 to 9");
    int error;
    gzerror(file, &error);
    if (gzclose(file) != Z_OK || error < 0) die(2, path, " is damaged");
    if (d->count < 10) die(2, path, " has fewer than 10 pictures");
}

/* For every class a random black and white picture, and copies of it in which a fifth of the pixels is
 * changed. */
static void invent(struct digits *d) {
    for (d->count = 0; d->count < 2000; d->count++) {
        d->label[d->count] = (int32_t)(d->count % CLASSES);
        for (int64_t i = 0; i < PIXELS; i++) {
            bool on = heed_random_unit(7, (uint64_t)(d->label[d->count] * PIXELS + i)) < 0.5;
            bool flip = heed_random_unit(8, (uint64_t)(d->count * PIXELS + i)) < 0.2;
            d->pixels[d->count][i] = on != flip ? 1.0f : 0.0f;
        }
    }
}

/* In random order, so that the last fifth is like the rest. */
static void shuffle(struct digits *d) {
    for (int64_t i = d->count - 1; i > 0; i--) {
        int64_t other = heed_random_below(9, (uint64_t)i, i + 1);
        for (int k = 0; k < PIXELS; k++) {
            float pixel = d->pixels[i][k];
            d->pixels[i][k] = d->pixels[other][k];
            d->pixels[other][k] = pixel;
        }
        int32_t label = d->label[i];
        d->label[i] = d->label[other];
        d->label[other] = label;
    }
}

/* The share that is right among the pictures from `first` on. */
static double accuracy(heed_ctx *ctx, heed_module *mlp, const struct digits *d, int64_t first) {
    int64_t count = d->count - first, right = 0;
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor x = heed_from(ctx, HEED_F32, HEED_SHAPE(count, PIXELS), d->pixels[first]);
    heed_tensor y = heed_from(ctx, HEED_I32, HEED_SHAPE(count), d->label + first);
    heed_tensor same = heed_cast(heed_equal(heed_argmax(heed_forward(mlp, x), -1), y), HEED_F32);
    right = (int64_t)heed_item(heed_sum(same, HEED_ALL, false));
    heed_step_end(ctx);
    return (double)right / (double)count;
}

/* A batch of random pictures among the first `count`. */
static void batch(heed_ctx *ctx, const struct digits *d, int64_t count, int64_t step, heed_tensor *x,
                  heed_tensor *y) {
    float pixels[BATCH][PIXELS];
    int32_t label[BATCH];
    for (int64_t i = 0; i < BATCH; i++) {
        int64_t chosen = heed_random_below((uint64_t)seed, (uint64_t)(step * BATCH + i), count);
        for (int k = 0; k < PIXELS; k++) pixels[i][k] = d->pixels[chosen][k];
        label[i] = d->label[chosen];
    }
    *x = heed_from(ctx, HEED_F32, HEED_SHAPE(BATCH, PIXELS), pixels);
    *y = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH), label);
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong, "");
    if (help) return heed_args_help(stdout, "mlp", "Learns handwritten digits.", ARGS, args) != HEED_OK;
    if (!data_path && access(packaged, R_OK) == 0) data_path = packaged;
    struct digits d = {0};
    make_room(&d);
    if (data_path)
        load(&d, data_path);
    else
        invent(&d);
    shuffle(&d);
    printf("data: %lld pictures %s%s\n", (long long)d.count, data_path ? "from " : "",
           data_path ? data_path : "made up here, for python3-sklearn is not installed");
    int64_t train = d.count * 4 / 5;

    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = (uint64_t)seed});
    if (heed_failed(ctx)) die(2, heed_error(ctx), "");
    heed_dense_options in = {.in = PIXELS, .out = 128, .activation = HEED_ACTIVATION_GELU};
    heed_dense_options out = {.in = 128, .out = CLASSES};
    heed_module *layers[] = {heed_dense_new(ctx, &in), heed_dropout_new(ctx, 0.2), heed_dense_new(ctx, &out)};
    heed_module *mlp = heed_sequential_new(ctx, 3, layers);
    heed_optim *optim = heed_adamw_new(mlp, &(heed_adamw_options){.weight_decay = 0.01});
    heed_progress *progress = heed_progress_new(&(heed_progress_options){.file = stdout, .total = steps});
    for (int64_t step = 0; step < steps; step++) {
        heed_tensor x, y;
        heed_step_begin(ctx, HEED_TRAIN);
        batch(ctx, &d, train, step, &x, &y);
        heed_tensor loss = heed_cross_entropy(heed_forward(mlp, x), y, NULL);
        heed_backward(loss);
        heed_optim_step(optim, heed_schedule_warmup_cosine(step, 50, steps, 3e-3));
        double value = heed_item(loss);
        if (heed_step_end(ctx) != HEED_OK) break;
        heed_progress_step(progress, &(heed_progress_values){.step = step,
                                                             .tokens = BATCH,
                                                             .loss = value,
                                                             .grad_norm = heed_optim_grad_norm(optim)});
    }
    heed_progress_end(progress);
    double share = accuracy(ctx, mlp, &d, train);
    if (heed_failed(ctx)) die(1, heed_error(ctx), "");
    printf("right on %.1f %% of %lld held-out pictures\n", 100.0 * share, (long long)(d.count - train));
    heed_optim_free(optim);
    heed_module_free(mlp);
    heed_ctx_free(ctx);
    free(d.pixels);
    free(d.label);
    return 0;
}
