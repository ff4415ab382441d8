/* An encoder and a decoder with cross-attention translate number words into digits: "three hundred forty two"
 * becomes "342". The words are read letter by letter; a tenth of the numbers is kept from training. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <heed/heed.h>
#include <heed/kit.h>

enum { NUMBERS = 10000, SOURCE = 44, TARGET = 5, BATCH = 64, WIDTH = 64 };
enum { LETTERS = 32, BEGIN = 10, END = 11, DIGITS = 12, NOTHING = -100 };

static int64_t steps = 600, tests = NUMBERS, seed = 1;
static const char *device = "cpu";
static bool help;

static const heed_arg args[] = {
    {"steps", HEED_ARG_COUNT, &steps, "training steps (600)"},
    {"tests", HEED_ARG_COUNT, &tests, "held-out numbers to translate at the end (all)"},
    {"seed", HEED_ARG_COUNT, &seed, "of all random numbers (1)"},
    {"device", HEED_ARG_TEXT, &device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"help", HEED_ARG_FLAG, &help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

static void die(int status, const char *why) {
    fprintf(stderr, "translate: %s\n", why);
    exit(status);
}

static const char *const small[] = {"zero",    "one",     "two",       "three",    "four",
                                    "five",    "six",     "seven",     "eight",    "nine",
                                    "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                                    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
static const char *const tens[] = {"",      "",      "twenty",  "thirty", "forty",
                                   "fifty", "sixty", "seventy", "eighty", "ninety"};

/* Appends the words of a number to a text that has room for them. */
static void say(int n, char *text) {
    const int unit = n >= 1000 ? 1000 : n >= 100 ? 100 : n >= 20 ? 10 : 1;
    strcat(text, unit == 10 ? tens[n / 10] : small[n / unit]);
    strcat(text, unit == 1000 ? " thousand" : unit == 100 ? " hundred" : "");
    if (unit == 1 || n % unit == 0) return;
    strcat(text, " ");
    say(n % unit, text);
}

static bool is_held_out(int n) {
    return heed_random_below(99, (uint64_t)n, 10) == 0;
}

/* Numbers as the model sees them. */
struct batch {
    int32_t words[BATCH][SOURCE], lengths[BATCH]; /* letters as 1 … 26, a space as 0; how many */
    int32_t input[BATCH][TARGET];                 /* BEGIN and the digits */
    int32_t output[BATCH][TARGET];                /* the digits, END, then NOTHING */
};

static void put(struct batch *b, int row, int n) {
    char text[SOURCE + 1] = "", digits[TARGET + 1];
    say(n, text);
    b->lengths[row] = (int32_t)strlen(text);
    for (int i = 0; i < SOURCE; i++) b->words[row][i] = i < b->lengths[row] ? text[i] & 31 : 0;
    int count = snprintf(digits, sizeof digits, "%d", n);
    for (int i = 0; i < TARGET; i++) {
        b->input[row][i] = i == 0 ? BEGIN : i <= count ? digits[i - 1] - '0' : END;
        b->output[row][i] = i < count ? digits[i] - '0' : i == count ? END : NOTHING;
    }
}

struct translator {
    heed_module *source, *encoder, *target, *decoder, *head;
};

static const heed_module_class translator_class = {
    .name = "Translator", .self_bytes = sizeof(struct translator), .use = "encode() and decode()"};

/* Symbols become vectors that know their place. */
static heed_module *symbols_new(heed_ctx *ctx, int64_t count, int64_t length) {
    const heed_embedding_options symbol = {.rows = count, .width = WIDTH};
    const heed_positions_options place = {.length = length, .width = WIDTH, .sinusoidal = true};
    heed_module *parts[] = {heed_embedding_new(ctx, &symbol), heed_positions_new(ctx, &place)};
    return heed_sequential_new(ctx, 2, parts);
}

static heed_module *translator_new(heed_ctx *ctx) {
    const heed_transformer_options stack = {.layers = 2, .width = WIDTH, .heads = 4};
    heed_module *m = heed_module_new(ctx, &translator_class);
    struct translator *t = heed_module_self(m, &translator_class);
    if (!t) return m;
    t->source = heed_module_child(m, "source", symbols_new(ctx, LETTERS, SOURCE));
    t->encoder = heed_module_child(m, "encoder", heed_encoder_new(ctx, &stack));
    t->target = heed_module_child(m, "target", symbols_new(ctx, DIGITS, TARGET));
    t->decoder = heed_module_child(m, "decoder", heed_decoder_new(ctx, &stack));
    heed_dense_options head = {.in = WIDTH, .out = DIGITS};
    t->head = heed_module_child(m, "head", heed_dense_new(ctx, &head));
    return m;
}

/* Attention to the letters there are, not to what fills up the row. */
static heed_score *letters_only(heed_tensor lengths) {
    return heed_score_mask(heed_score_new(heed_context(lengths)), heed_mask_key_lengths(lengths));
}

static heed_tensor encode(const struct translator *t, heed_tensor words, heed_tensor lengths) {
    return heed_encoder_forward(t->encoder, heed_forward(t->source, words), letters_only(lengths));
}

/* Logits of the digit that follows each place of x. */
static heed_tensor decode(const struct translator *t, heed_tensor x, heed_tensor memory,
                          heed_tensor lengths) {
    heed_ctx *ctx = heed_context(x);
    heed_score *causal = heed_score_mask(heed_score_new(ctx), heed_mask_causal(ctx, HEED_TOP_LEFT));
    x = heed_decoder_forward(t->decoder, heed_forward(t->target, x), memory, causal, letters_only(lengths));
    return heed_forward(t->head, x);
}

static double train_step(heed_ctx *ctx, const struct translator *t, heed_optim *optim, int64_t step) {
    struct batch b;
    for (int row = 0, tries = 0; row < BATCH; tries++) {
        uint64_t index = (uint64_t)step << 32 | (uint64_t)tries;
        int n = (int)heed_random_below((uint64_t)seed, index, NUMBERS);
        if (!is_held_out(n)) put(&b, row++, n);
    }
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor words = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, SOURCE), b.words);
    heed_tensor lengths = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH), b.lengths);
    heed_tensor input = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, TARGET), b.input);
    heed_tensor output = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, TARGET), b.output);
    heed_tensor memory = encode(t, words, lengths);
    heed_tensor loss = heed_cross_entropy(decode(t, input, memory, lengths), output, NULL);
    heed_backward(loss);
    heed_optim_step(optim, heed_schedule_warmup_cosine(step, 100, steps, 2e-3));
    double value = heed_item(loss);
    heed_step_end(ctx);
    return value;
}

/* Greedy decoding: every digit is the likeliest one after those before it. Overwrites b->input. */
static void translate(heed_ctx *ctx, const struct translator *t, struct batch *b) {
    heed_step_begin(ctx, HEED_EVAL);
    heed_tensor lengths = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH), b->lengths);
    heed_tensor memory = encode(t, heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, SOURCE), b->words), lengths);
    for (int place = 1; place < TARGET; place++) {
        int32_t best[BATCH][TARGET] = {{0}};
        heed_tensor input = heed_from(ctx, HEED_I32, HEED_SHAPE(BATCH, TARGET), b->input);
        heed_read(heed_argmax(decode(t, input, memory, lengths), -1), best, sizeof best);
        /* What stands behind a place is not seen from it. */
        for (int row = 0; row < BATCH; row++) b->input[row][place] = best[row][place - 1];
    }
    heed_step_end(ctx);
}

/* Translates held-out numbers and shows some; returns the share without a mistake. */
static double test(heed_ctx *ctx, const struct translator *t) {
    int right = 0, all = 0;
    for (int n = 0; n < NUMBERS && all < tests && !heed_failed(ctx);) {
        struct batch b = {0};
        int number[BATCH], rows = 0;
        for (; n < NUMBERS && rows < BATCH && all + rows < tests; n++)
            if (is_held_out(n)) put(&b, rows, n), number[rows++] = n;
        translate(ctx, t, &b);
        for (int row = 0; row < rows; row++) {
            char digits[TARGET] = "", text[SOURCE + 1] = "";
            const int32_t *said = b.input[row] + 1;
            for (int i = 0; i + 1 < TARGET && said[i] < BEGIN; i++) digits[i] = (char)('0' + said[i]);
            say(number[row], text);
            if (all++ % 250 == 42) printf("%s: %s\n", text, digits);
            right += digits[0] && atoi(digits) == number[row];
        }
    }
    return all ? (double)right / all : 0.0;
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong);
    if (help) return heed_args_help(stdout, "translate", "Translates number words.", ARGS, args) != HEED_OK;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .seed = (uint64_t)seed});
    heed_module *m = translator_new(ctx);
    const struct translator *t = heed_module_self(m, &translator_class);
    if (heed_failed(ctx)) die(2, heed_error(ctx));
    heed_optim *optim = heed_adamw_new(m, &(heed_adamw_options){.weight_decay = 0.01, .clip_norm = 1.0});
    heed_progress *progress = heed_progress_new(&(heed_progress_options){.file = stdout, .total = steps});
    for (int64_t step = 0; step < steps && !heed_failed(ctx); step++) {
        double loss = train_step(ctx, t, optim, step);
        heed_progress_values values = {step, BATCH * SOURCE, loss, heed_optim_grad_norm(optim),
                                       0.0,  false,          {0}};
        heed_progress_step(progress, &values);
    }
    heed_progress_end(progress);
    double share = test(ctx, t);
    if (heed_failed(ctx)) die(1, heed_error(ctx));
    printf("%.2f %% of the held-out numbers are translated without a mistake\n", 100.0 * share);
    heed_optim_free(optim);
    heed_module_free(m);
    heed_ctx_free(ctx);
    return 0;
}
