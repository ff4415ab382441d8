/* Trains a byte-level GPT on a text and lets it write: what script/demo runs. A checkpoint, losses and plots
 * come into the output folder. Ctrl-C saves and ends; --resume goes on as if nothing had happened. */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <heed/heed.h>
#include <heed/io.h>
#include <heed/kit.h>

enum { LENGTH = 64, BATCH = 12, LAYERS = 4, HEADS = 4, WIDTH = 128, SAMPLE = 1000, SENTENCE = 48 };

static struct {
    const char *text, *out, *device;
    int64_t steps, seed;
    int threads;
    double goal_loss, goal_words;
    bool bf16, resume, quick, help;
} o = {.out = "heed-demo", .device = "cpu", .steps = 2000, .seed = 1, .goal_loss = INFINITY};

static const heed_arg args[] = {
    {"text", HEED_ARG_TEXT, &o.text, "file to learn from (must be given)"},
    {"out", HEED_ARG_TEXT, &o.out, "folder for checkpoint and plots (heed-demo)"},
    {"steps", HEED_ARG_COUNT, &o.steps, "training steps in all (2000)"},
    {"resume", HEED_ARG_FLAG, &o.resume, "go on from the checkpoint in that folder"},
    {"seed", HEED_ARG_COUNT, &o.seed, "of all random numbers (1)"},
    {"threads", HEED_ARG_INT, &o.threads, "0 is as many as there are processors (0)"},
    {"device", HEED_ARG_TEXT, &o.device, "cpu, ref, the plain specification, or cuda (cpu)"},
    {"bf16", HEED_ARG_FLAG, &o.bf16, "mixed precision: activations are bf16, parameters f32"},
    {"quick", HEED_ARG_FLAG, &o.quick, "validate on less and write less, as on ref"},
    {"goal-loss", HEED_ARG_NUMBER, &o.goal_loss, "fail if the validation loss ends above"},
    {"goal-words", HEED_ARG_NUMBER, &o.goal_words, "fail if a smaller share of the sample's words is known"},
    {"help", HEED_ARG_FLAG, &o.help, "this text"},
};
enum { ARGS = sizeof args / sizeof *args };

static volatile sig_atomic_t stopped;

static void stop(int number) {
    stopped = number;
}

static void die(int status, const char *why) {
    fprintf(stderr, "gpt: %s\n", why);
    exit(status);
}

/* What a run consists of. All files are written into the working directory, which is the output folder. */
struct run {
    heed_ctx *ctx;
    heed_module *gpt;
    heed_optim *optim;
    heed_text *text;
    heed_history *history;
    bool quick;     /* as asked for, and on ref, which takes a hundred times as long */
    char what[160]; /* the text and the model in words: a checkpoint of others is refused */
};

static void save(const struct run *r, int64_t step) {
    heed_history_save(r->history, "loss.csv");
    heed_checkpoint_save(r->gpt, r->optim, "checkpoint.safetensors",
                         &(heed_checkpoint_info){.position = step, .text = r->what});
}

/* Reads the checkpoint; returns the step to go on with. */
static int64_t resume(const struct run *r) {
    heed_checkpoint_info info;
    heed_status status = heed_checkpoint_load(r->gpt, r->optim, "checkpoint.safetensors", &info);
    if (status == HEED_OK && strcmp(info.text, r->what) != 0) die(2, "checkpoint of another text or model");
    if (status == HEED_OK && access("loss.csv", F_OK) == 0)
        status = heed_history_load(r->history, "loss.csv", info.position + 1);
    if (status != HEED_OK) die(2, heed_error(r->ctx));
    int64_t step = info.position;
    heed_checkpoint_info_clear(&info);
    return step;
}

/* Trains from step `first` on; returns the step it came to. */
static int64_t train(const struct run *r, int64_t first) {
    int64_t step = first, saved = first, every = o.steps / 20 > 50 ? o.steps / 20 : 50;
    heed_progress *progress = heed_progress_new(&(heed_progress_options){stdout, first, o.steps, 0.0, {0}});
    for (; step < o.steps && !stopped; step++) {
        heed_tensor x, y;
        heed_step_begin(r->ctx, HEED_TRAIN);
        heed_text_batch(r->text, step, &x, &y);
        heed_tensor loss = heed_cross_entropy(heed_forward(r->gpt, x), y, NULL);
        heed_backward(loss);
        heed_optim_step(r->optim, heed_schedule_warmup_cosine(step, 100, o.steps, 3e-3));
        double values[2] = {heed_item(loss), NAN};
        if (heed_step_end(r->ctx) != HEED_OK) break;
        bool validate = (step + 1) % every == 0 || step + 1 == o.steps;
        if (validate) values[1] = heed_text_held_out_loss(r->text, r->gpt, r->quick ? 1 : 16);
        heed_history_add(r->history, step + 1, values);
        double norm = heed_optim_grad_norm(r->optim);
        heed_progress_values shown = {step, BATCH * LENGTH, values[0], norm, values[1], validate, {0}};
        heed_progress_step(progress, &shown);
        if (validate) save(r, saved = step + 1);
    }
    heed_progress_end(progress);
    if (step > saved) save(r, step);
    return step;
}

/* Fills the sample, whose first `used` bytes are given, with a cache while all of it fits the model. */
static void write_on(const struct run *r, unsigned char *sample, int64_t used, int64_t size) {
    heed_gpt_cache *cache = heed_gpt_cache_new(r->gpt, 1, LENGTH);
    for (; used < size; used++) {
        bool fits = used <= LENGTH;
        int64_t seen = fits ? used - heed_gpt_cache_position(cache) : LENGTH;
        float logits[256];
        heed_step_begin(r->ctx, HEED_EVAL);
        heed_tensor x = heed_text_tokens(r->ctx, sample + used - seen, seen);
        const heed_gpt_call_options call = {.last_only = true, .cache = fits ? cache : NULL};
        heed_read(heed_gpt_forward(r->gpt, x, &call, NULL), logits, sizeof logits);
        if (heed_step_end(r->ctx) != HEED_OK) break;
        double unit = heed_random_unit((uint64_t)o.seed, (uint64_t)used);
        const heed_sample_options options = {.temperature = 0.8, .top_k = 40};
        sample[used] = (unsigned char)heed_sample(logits, 256, unit, &options);
    }
    heed_gpt_cache_free(cache);
}

/* The attention maps of the middle block over the beginning of the text (SENTENCE ≤ LENGTH). */
static void plot_attention(const struct run *r) {
    const unsigned char *bytes = heed_text_bytes(r->text, HEED_TEXT_ALL, NULL);
    heed_tensor weights;
    heed_step_begin(r->ctx, HEED_EVAL);
    heed_gpt_forward(r->gpt, heed_text_tokens(r->ctx, bytes, SENTENCE),
                     &(heed_gpt_call_options){.weights_layer = LAYERS / 2}, &weights);
    heed_plot_attention(weights, "attention.png",
                        &(heed_attention_plot_options){
                            .title = "attention of the middle block", .queries = bytes, .keys = bytes});
    heed_step_end(r->ctx);
}

/* Shows what was learned. Returns whether the goals were reached. */
static bool report(const struct run *r) {
    unsigned char sample[SAMPLE] = "\n";
    int64_t words, known, size = r->quick ? LENGTH : SAMPLE;
    double loss = heed_text_held_out_loss(r->text, r->gpt, r->quick ? 1 : 0);
    write_on(r, sample, 1, size);
    heed_text_known_words(r->text, sample, (size_t)size, &words, &known);
    plot_attention(r);
    if (heed_failed(r->ctx)) return false;
    double share = words ? (double)known / (double)words : 0.0;
    for (int64_t i = 0; i < size; i++) /* no control characters: they might be commands to a terminal */
        putchar(iscntrl(sample[i]) && !isspace(sample[i]) ? '?' : sample[i]);
    printf("\n\nunigram entropy %.4f, validation loss %.4f nats per byte\n", heed_text_entropy(r->text),
           loss);
    printf("words of the sample that occur in the text: %.0f %% of %d\n", 100.0 * share, (int)words);
    bool reached = loss <= o.goal_loss && share >= o.goal_words;
    if (!reached) fprintf(stderr, "gpt: that is short of the goals\n");
    return reached;
}

int main(int argc, char **argv) {
    char wrong[256];
    if (heed_args_parse(argc, argv, ARGS, args, wrong, sizeof wrong) != HEED_OK) die(2, wrong);
    if (o.help) return heed_args_help(stdout, "gpt", "Trains a small GPT on a text.", ARGS, args) != HEED_OK;
    if (!o.text) die(2, "--text FILE must be given");
    heed_ctx_options options = {.device = o.device, .seed = (uint64_t)o.seed, .threads = o.threads};
    if (o.bf16) options.precision = HEED_BF16;
    struct run r = {.ctx = heed_ctx_new(&options), .quick = o.quick || !strcmp(o.device, "ref")};
    r.text = heed_text_open(r.ctx, o.text,
                            &(heed_text_options){.batch = BATCH, .length = LENGTH, .held_out = 0.05});
    if (!r.text) die(2, heed_error(r.ctx));
    snprintf(wrong, sizeof wrong, "%s is no folder to write into", o.out);
    if ((mkdir(o.out, 0777) && errno != EEXIST) || chdir(o.out) || access(".", W_OK)) die(2, wrong);
    r.gpt = heed_gpt_new(
        r.ctx, &(heed_gpt_options){
                   .vocabulary = 256, .length = LENGTH, .layers = LAYERS, .heads = HEADS, .width = WIDTH});
    r.optim = heed_adamw_new(r.gpt, &(heed_adamw_options){.weight_decay = 0.1, .clip_norm = 1.0});
    r.history = heed_history_new(r.ctx, 2, (const char *[]){"training", "validation"});
    snprintf(r.what, sizeof r.what, "text of %.12g nats per byte, %lld parameters", heed_text_entropy(r.text),
             (long long)heed_param_count(r.gpt));
    int64_t first = o.resume ? resume(&r) : 0;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = stop, .sa_flags = SA_RESETHAND | SA_RESTART}, NULL);
    printf("%s; from step %lld to %lld\n", r.what, (long long)first, (long long)o.steps);
    int64_t step = train(&r, first);
    bool good = step >= o.steps && report(&r);
    heed_history_plot(r.history, "loss.png",
                      &(heed_plot_options){.x_label = "step", .y_label = "nats per byte"});
    if (heed_failed(r.ctx)) die(1, heed_error(r.ctx));
    if (step < o.steps) printf("stopped and saved after step %lld; --resume goes on\n", (long long)step);
    if (fflush(stdout) || ferror(stdout)) die(1, "standard output cannot be written");
    heed_history_free(r.history);
    heed_optim_free(r.optim);
    heed_module_free(r.gpt);
    heed_text_free(r.text);
    heed_ctx_free(r.ctx);
    return step < o.steps ? 130 : good ? 0 : 1;
}
