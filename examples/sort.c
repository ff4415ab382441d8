/* An encoder learns to sort: it sees a row of random letters and says, at place i, which letter is the i-th
 * of them in order. Attention between all places is what makes that possible. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <heed/heed.h>
#include <heed/kit.h>

enum { LETTERS = 26, LENGTH = 10, BATCH = 128, WIDTH = 64 };

static int64_t steps = 800, tests = 2000, seed = 1;
static const char *device = "cpu";
static bool help;

static const heed_arg args[] = {
    {"steps", HEED_ARG_COUNT, &steps, "training steps (800)"},
    {"tests", HEED_ARG_COUNT, &tests, "held-out rows to sort at the end (2000)"},
    {"seed", HEED_ARG_COUNT, &seed, "of all random numbers (1)"},
    {"device", HEED_ARG_TEXT, &device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"help", HEED_ARG_FLAG, &help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

static void die(int status, const char *why) {
    fprintf(stderr, "sort: %s\n", why);
    exit(status);
}

/* Rows of random letters and the same rows in order. Of 26^10 possible ones hardly any comes twice, so rows
 * of another seed are as good as held out. */
static void make_rows(uint64_t from, int64_t first, int64_t rows, int32_t (*row)[LENGTH],
                      int32_t (*sorted)[LENGTH]) {
    for (int64_t r = 0; r < rows; r++) {
        int count[LETTERS] = {0}, place = 0;
        for (int64_t i = 0; i < LENGTH; i++) {
            row[r][i] = (int32_t)heed_random_below(from, (uint64_t)((first + r) * LENGTH + i), LETTERS);
            count[row[r][i]]++;
        }
        for (int32_t letter = 0; letter < LETTERS; letter++)
            while (count[letter]-- > 0) sorted[r][place++] = letter;
    }
}

/* Letters, places, an encoder, and a vote for a letter at every place. */
static heed_module *sorter_new(heed_ctx *ctx) {
    heed_module *parts[] = {
        heed_embedding_new(ctx, &(heed_embedding_options){.rows = LETTERS, .width = WIDTH}),
        heed_positions_new(ctx, &(heed_positions_options){.length = LENGTH,
                                                          .width = WIDTH,
                                                          .init = {HEED_INIT_NORMAL, 0.0, 1.0}}),
        heed_encoder_new(ctx, &(heed_transformer_options){.layers = 2, .width = WIDTH, .heads = 4}),
        heed_dense_new(ctx, &(heed_dense_options){.in = WIDTH, .out = LETTERS}),
    };
    return heed_sequential_new(ctx, 4, parts);
}

/* How many of the test rows come out completely right. */
static int64_t count_exact(heed_ctx *ctx, heed_module *sorter, int64_t rows) {
    int32_t row[BATCH][LENGTH], sorted[BATCH][LENGTH], answer[BATCH][LENGTH];
    int64_t exact = 0;
    for (int64_t first = 0; first < rows; first += BATCH) {
        int64_t here = rows - first < BATCH ? rows - first : BATCH;
        make_rows((uint64_t)seed ^ 0x7e57, first, here, row, sorted);
        heed_step_begin(ctx, HEED_EVAL);
        heed_tensor x = heed_from(ctx, HEED_I32, HEED_SHAPE(here, LENGTH), row);
        heed_tensor best = heed_argmax(heed_forward(sorter, x), -1);
        heed_read(best, answer, (size_t)here * sizeof *answer);
        if (heed_step_end(ctx) != HEED_OK) return 0;
        for (int64_t r = 0; r < here; r++) exact += !memcmp(answer[r], sorted[r], sizeof answer[r]);
    }
    return exact;
}

static void show_one(heed_ctx *ctx, heed_module *sorter) {
    int32_t row[1][LENGTH], sorted[1][LENGTH], answer[LENGTH] = {0};
    make_rows((uint64_t)seed ^ 0x7e57, 0, 1, row, sorted);
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor x = heed_from(ctx, HEED_I32, HEED_SHAPE(1, LENGTH), row);
    heed_read(heed_argmax(heed_forward(sorter, x), -1), answer, sizeof answer);
    heed_step_end(ctx);
    for (int i = 0; i < LENGTH; i++) putchar('a' + row[0][i]);
    fputs(" becomes ", stdout);
    for (int i = 0; i < LENGTH; i++) putchar('a' + answer[i]);
    putchar('\n');
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong);
    if (help)
        return heed_args_help(stdout, "sort", "An encoder learns to sort letters.", ARGS, args) != HEED_OK;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = (uint64_t)seed});
    if (heed_failed(ctx)) die(2, heed_error(ctx));
    heed_module *sorter = sorter_new(ctx);
    heed_optim *optim = heed_adamw_new(sorter, &(heed_adamw_options){.weight_decay = 0.01, .clip_norm = 1.0});
    heed_progress *progress = heed_progress_new(&(heed_progress_options){.file = stdout, .total = steps});
    for (int64_t step = 0; step < steps; step++) {
        int32_t row[BATCH][LENGTH], sorted[BATCH][LENGTH];
        make_rows((uint64_t)seed, step * BATCH, BATCH, row, sorted);
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor x = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, LENGTH), row);
        heed_tensor y = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, LENGTH), sorted);
        heed_tensor loss = heed_cross_entropy(heed_forward(sorter, x), y, NULL);
        heed_backward(loss);
        heed_optim_step(optim, heed_schedule_warmup_cosine(step, 100, steps, 3e-3));
        double value = heed_item(loss);
        if (heed_step_end(ctx) != HEED_OK) break;
        heed_progress_step(progress, &(heed_progress_values){.step = step,
                                                             .tokens = BATCH * LENGTH,
                                                             .loss = value,
                                                             .grad_norm = heed_optim_grad_norm(optim)});
    }
    heed_progress_end(progress);
    int64_t exact = count_exact(ctx, sorter, tests);
    show_one(ctx, sorter);
    if (heed_failed(ctx)) die(1, heed_error(ctx));
    printf("%lld of %lld held-out rows are sorted without a mistake\n", (long long)exact, (long long)tests);
    heed_optim_free(optim);
    heed_module_free(sorter);
    heed_ctx_free(ctx);
    return 0;
}
