/**
 * @file kit.h
 * @brief Help for programs: printing, texts to train on, sampling, progress, histories, plots, options.
 *
 * Belongs to libheed_kit. Nothing here prints or writes anywhere but where it is told to. Functions that take
 * a context report failures as operations do: the context keeps the first error, and after one they do
 * nothing but return its status. Files are written under a temporary name beside the final one and renamed
 * when they are complete, so a failed write leaves what was there before.
 */
#ifndef HEED_KIT_H
#define HEED_KIT_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- looking at a tensor ---- */

/** Writes dtype, shape and values of a tensor, e.g. `f32[2, 2]` and below it the nested rows. Of a dimension
 * longer than 6 only the first and last 3 are written once the tensor has more than 1000 elements. A tensor
 * that is not valid is written as `none`, without an error. @return HEED_ERROR_IO if writing fails */
HEED_API heed_status heed_print(heed_tensor t, FILE *file);

/* ---- chance outside of operations ---- */

/** Number `index` of the sequence that belongs to `seed`: 64 uniformly distributed bits, computed directly
 * from the two (SplitMix64, Steele, Lea, Flood 2014), so that any position of the sequence can be returned
 * to. */
HEED_API uint64_t heed_random_bits(uint64_t seed, uint64_t index);

/** The same as an integer in 0 … count − 1. @param count at least 1; below that the result is 0 */
HEED_API int64_t heed_random_below(uint64_t seed, uint64_t index, int64_t count);

/** The same as a number in [0, 1). */
HEED_API double heed_random_unit(uint64_t seed, uint64_t index);

/** Options of heed_sample(). */
typedef struct heed_sample_options {
    double temperature;   /**< divides the logits; 0: 1 */
    int64_t top_k;        /**< only the k largest logits take part; 0: all. 1 is greedy decoding */
    uint64_t reserved[4]; /**< must be zero */
} heed_sample_options;

/** Draws an index with probability softmax(logits / temperature).
 *  @param logits count finite numbers or −∞  @param unit a uniform number in [0, 1), e.g. of
 * heed_random_unit()
 *  @param options NULL for the defaults
 *  @return the index; −1 if count < 1, an argument is out of range, or a logit is NaN or +∞ */
HEED_API int64_t heed_sample(const float *logits, int64_t count, double unit,
                             const heed_sample_options *options);

/* ---- texts ---- */

/** Reads a whole file. @param[out] bytes ends in a 0 that does not count; to be given to free(); NULL after
 * an error
 *  @param[out] size of the file @return the status; an empty file is no error */
HEED_API heed_status heed_bytes_read(heed_ctx *ctx, const char *path, char **bytes, size_t *size);

/** A text as a data set of bytes: its beginning trains, its tail is held out. */
typedef struct heed_text heed_text;

/** Options of heed_text_open() and heed_text_from(). */
typedef struct heed_text_options {
    int64_t batch;        /**< windows in a batch; must be given */
    int64_t length;       /**< bytes in a window; must be given */
    double held_out;      /**< share of the text that is held out, in (0, 1); 0: 0.1 */
    uint64_t reserved[4]; /**< must be zero */
} heed_text_options;

/** The parts of a text. */
typedef enum heed_text_part {
    HEED_TEXT_ALL = 0, /**< the whole text */
    HEED_TEXT_TRAIN,   /**< its beginning */
    HEED_TEXT_HELD_OUT /**< its tail */
} heed_text_part;

/** Reads a file as a text. Each part must have more than `length` bytes. The context must outlive the text.
 *  @return NULL after an error, which the context keeps */
HEED_API heed_text *heed_text_open(heed_ctx *ctx, const char *path, const heed_text_options *options);

/** The same of bytes in memory, which are copied. */
HEED_API heed_text *heed_text_from(heed_ctx *ctx, const void *bytes, size_t size,
                                   const heed_text_options *options);

/** Frees a text. NULL is fine. */
HEED_API void heed_text_free(heed_text *text);

/** The bytes of a part; they belong to the text. @param[out] size their number; may be NULL */
HEED_API const unsigned char *heed_text_bytes(const heed_text *text, heed_text_part part, size_t *size);

/** Bytes as a model takes them: i32 [1, count]. */
HEED_API heed_tensor heed_text_tokens(heed_ctx *ctx, const void *bytes, int64_t count);

/** Batch number `position` of the endless sequence of training batches: windows at random places of the
 * training part, chosen by the context's seed, the position and the row alone. Whoever saves the position can
 * go on from it.
 *  @param[out] x i32 [batch, length], bytes  @param[out] y the bytes that follow each byte of x, same shape
 */
HEED_API heed_status heed_text_batch(const heed_text *text, int64_t position, heed_tensor *x, heed_tensor *y);

/** How many batches the held-out part makes. */
HEED_API int64_t heed_text_held_out_batches(const heed_text *text);

/** Batch `i` of the held-out part: consecutive windows that do not overlap; the last batch may have fewer
 * rows, and what is shorter than a window at the very end is left out. @param[out] x,y as in
 * heed_text_batch() */
HEED_API heed_status heed_text_held_out(const heed_text *text, int64_t i, heed_tensor *x, heed_tensor *y);

/** Mean cross-entropy of a model over held-out batches, in nats per byte; NaN after an error. Not inside a
 * step.
 *  @param model its single-input form takes i32 [rows, length] to logits [rows, length, 256]
 *  @param batches how many, spread evenly over the part; 0, or more than there are: all */
HEED_API double heed_text_held_out_loss(const heed_text *text, heed_module *model, int64_t batches);

/** Entropy of the distribution of a text's single bytes, in nats per byte: the loss of a model that knows how
 *  frequent each byte is and nothing else (Shannon 1948). */
HEED_API double heed_text_entropy(const heed_text *text);

/** Counts the words of a sample and those of them that occur as words in a text. A word is a longest run of
 *  letters, bytes ≥ 128 included; capitals count. A word that touches the end of the sample may be cut and is
 *  left out. @param[out] words in the sample  @param[out] known of them */
HEED_API heed_status heed_text_known_words(const heed_text *text, const void *sample, size_t size,
                                           int64_t *words, int64_t *known);

/* ---- progress of a training ---- */

/** Shows the progress of a training. */
typedef struct heed_progress heed_progress;

/** Options of heed_progress_new(). */
typedef struct heed_progress_options {
    FILE *file;           /**< where to; must be given, and stay open. On a terminal one line is updated */
    int64_t first;        /**< step of this run */
    int64_t total;        /**< the number of steps at which training ends */
    double every;         /**< seconds between two lines at least; 0: 0.1 on a terminal, otherwise 2 */
    uint64_t reserved[4]; /**< must be zero */
} heed_progress_options;

/** What there is to show of a step. */
typedef struct heed_progress_values {
    int64_t step;         /**< from 0 */
    int64_t tokens;       /**< that this step trained on */
    double loss;          /**< of the training */
    double grad_norm;     /**< before clipping */
    double validation;    /**< loss on held-out data, if it was measured in this step */
    bool has_validation;  /**< whether it was; otherwise the last one known is shown */
    uint64_t reserved[4]; /**< must be zero */
} heed_progress_values;

/** Starts the clock. @return NULL if there is no memory or `options` are wrong; the functions below accept
 * that */
HEED_API heed_progress *heed_progress_new(const heed_progress_options *options);

/** Shows a step, if enough time has passed, it is the first or the last of the run, or it was validated.
 *  Shows step (counted from 1), losses, tokens per second, gradient norm, time left. */
HEED_API heed_status heed_progress_step(heed_progress *progress, const heed_progress_values *values);

/** Ends the line and frees the progress. NULL is fine. @return HEED_ERROR_IO if anything could not be written
 */
HEED_API heed_status heed_progress_end(heed_progress *progress);

/* ---- a history of numbers ---- */

/** Named columns of numbers by step: a small table that a training writes down and plots. */
typedef struct heed_history heed_history;

/** An empty history. @param columns 1 … 6  @param names copied; letters, digits, ' ', '_', '-'
 *  @return NULL after an error, which the context keeps */
HEED_API heed_history *heed_history_new(heed_ctx *ctx, int columns, const char *const *names);

/** Frees a history. NULL is fine. */
HEED_API void heed_history_free(heed_history *history);

/** Adds a row. @param step larger than the last one's  @param values one per column, NaN where there is none
 */
HEED_API heed_status heed_history_add(heed_history *history, int64_t step, const double *values);

/** Writes the history as comma-separated text, one row a line, an empty field for NaN. */
HEED_API heed_status heed_history_save(const heed_history *history, const char *path);

/** Reads rows with a step below `before` from a file that heed_history_save() wrote with the same columns,
 * into an empty history. */
HEED_API heed_status heed_history_load(heed_history *history, const char *path, int64_t before);

/* ---- plots, as PNG files ---- */

/** A curve: points joined by lines. Points with a NaN are left out. */
typedef struct heed_curve {
    const char *name; /**< for the legend */
    int64_t count;    /**< points */
    const double *x;  /**< count numbers */
    const double *y;  /**< count numbers */
} heed_curve;

/** Options of heed_plot_curves() and heed_history_plot(). */
typedef struct heed_plot_options {
    const char *title;    /**< above; NULL: none */
    const char *x_label;  /**< below; NULL: none */
    const char *y_label;  /**< at the left; NULL: none */
    int width;            /**< in pixels, 160 … 8192; 0: 900 */
    int height;           /**< likewise; 0: 560 */
    uint64_t reserved[4]; /**< must be zero */
} heed_plot_options;

/** Plots curves into one frame with axes and a legend. @param count 0 … 6 curves  @param options NULL:
 * defaults */
HEED_API heed_status heed_plot_curves(heed_ctx *ctx, const char *path, int count, const heed_curve *curves,
                                      const heed_plot_options *options);

/** Plots the columns of a history over its steps. */
HEED_API heed_status heed_history_plot(const heed_history *history, const char *path,
                                       const heed_plot_options *options);

/** Options of heed_plot_attention(). */
typedef struct heed_attention_plot_options {
    const char *title;    /**< above; NULL: none */
    const void *queries;  /**< as many bytes as there are queries, to label the rows; NULL: none */
    const void *keys;     /**< as many bytes as there are keys, to label the columns; NULL: none */
    uint64_t reserved[4]; /**< must be zero */
} heed_attention_plot_options;

/** Plots attention weights: one map per head, rows are queries, columns are keys, darker is more.
 *  @param weights f32 or f64 [heads, queries, keys], or with leading dimensions of size 1; 0 … 1 is shown,
 *         by square root, so that small weights are visible. At least 1 and at most 4096 queries and keys
 *  @param options NULL for the defaults; labels must be as long as there are queries and keys */
HEED_API heed_status heed_plot_attention(heed_tensor weights, const char *path,
                                         const heed_attention_plot_options *options);

/* ---- options on a command line ---- */

/** What an option is followed by, and what its target is. */
typedef enum heed_arg_kind {
    HEED_ARG_FLAG = 0, /**< nothing; bool, set to true */
    HEED_ARG_COUNT,    /**< a whole number ≥ 0; int64_t */
    HEED_ARG_INT,      /**< a whole number ≥ 0; int */
    HEED_ARG_NUMBER,   /**< a finite number; double */
    HEED_ARG_TEXT      /**< anything not empty; const char *, which points into argv */
} heed_arg_kind;

/** One option: `--name VALUE` or `--name=VALUE`. */
typedef struct heed_arg {
    const char *name;   /**< without dashes */
    heed_arg_kind kind; /**< which */
    void *target;       /**< as the kind says; keeps its value where the option is not given */
    const char *help;   /**< what it does, for heed_args_help() */
} heed_arg;

/** Reads a command line. Every argument must be one of `args`; the last of repeated ones counts.
 *  @param[out] message what is wrong, in one line; filled when the result is HEED_ERROR_ARGUMENT */
HEED_API heed_status heed_args_parse(int argc, char **argv, int count, const heed_arg *args, char *message,
                                     size_t message_size);

/** Writes `about` and a table of the options. */
HEED_API heed_status heed_args_help(FILE *file, const char *program, const char *about, int count,
                                    const heed_arg *args);

#ifdef __cplusplus
}
#endif
#endif
