/* Attention over many short sequences: what its files share.
 *
 * A pair of batch and head is a lane of a vector, so nothing is ever summed across lanes and a head of width
 * 4 wastes nothing. A group of HEED_LANES pairs is copied into [row, column, lane], computed, and copied
 * back; a task is a few groups. For sequences so short that all of a pair's scores fit the first-level cache.
 */
#ifndef HEED_SRC_BACKEND_CPU_ATTENTION_SHORT_H
#define HEED_SRC_BACKEND_CPU_ATTENTION_SHORT_H

#include "backend/cpu/cpu.h"

enum { HEED_SHORT_KEYS = 32, HEED_SHORT_QUERIES = 32, HEED_SHORT_WIDTH = 64 };

struct heed_short_plan {
    const struct heed_attention_args *args;
    int64_t pairs, heads, queries, keys, width, value_width;
    float scale;
    bool drops;
    uint32_t threshold;
    float keep_scale;
    struct heed_attention_random random;
    int64_t groups_per_task;
    float *maximum, *reciprocal; /* saved, [group, query, lane] */
    float *workers;              /* private areas */
    int64_t worker_floats;
};

/* Scale and dropout of a plan. */
void heed_short_plan_scores(struct heed_short_plan *p, const struct heed_attention_args *a);

struct heed_short_vectors {
    int lanes;
    void (*forward)(const struct heed_short_plan *plan, int64_t task, int worker);
    void (*backward)(const struct heed_short_plan *plan, int64_t task, int worker);
};

HEED_CPU_TABLE(short)

#endif
