/* The tables of cases, each ending with a row without a name. */
#ifndef HEED_BENCH_CASES_CASES_H
#define HEED_BENCH_CASES_CASES_H

#include "bench.h"

extern const struct bench_case bench_product_cases[], bench_mha_cases[], bench_attention_cases[],
    bench_gpt_cases[], bench_memory_cases[];

/* A tensor of normal random numbers. */
heed_tensor bench_normal(struct bench *b, int rank, const int64_t *size);

/* Of attention over so many cells of scores that a query may see: q·kᵀ and ·v; with gradients those of the
 * four factors and the scores again, as the papers of FlashAttention count. */
double bench_attention_operations(double cells, double width, bool backward);

#endif
