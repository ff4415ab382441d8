/* What a checkpoint's metadata are called. All values are strings; numbers are decimal. */
#ifndef HEED_SRC_IO_CHECKPOINT_H
#define HEED_SRC_IO_CHECKPOINT_H

#include <heed/context.h>

#define HEED_KEY_FORMAT "heed.format"
#define HEED_FORMAT_PARAMETERS "parameters"
#define HEED_FORMAT_CHECKPOINT "checkpoint"

/* Raised when an older library could misread the file. */
#define HEED_KEY_VERSION "heed.version"
#define HEED_FORMAT_VERSION "1"
enum { HEED_FORMAT_VERSION_NUMBER = 1 };

#define HEED_KEY_OPTIMISER "heed.optimiser" /* the kind */
#define HEED_NO_OPTIMISER "none"
#define HEED_KEY_OPTIMISER_STEPS "heed.optimiser_steps"
#define HEED_KEY_SEED "heed.random.seed"
#define HEED_KEY_STEP "heed.random.step"
#define HEED_KEY_ORDINAL "heed.random.ordinal"
#define HEED_KEY_POSITION "heed.position"
#define HEED_KEY_TEXT "heed.text"

/* Prefixes of the tensors' names. */
#define HEED_PREFIX_MODEL "model."
#define HEED_PREFIX_OPTIMISER "optimiser."

/* Whether no step is running; otherwise keeps an error. */
bool heed_between_steps(heed_ctx *ctx, const char *path);

#endif
