/* Random problems of attention, for tests of its kernels: shapes, packed sequences, strides, repeats, trees
 * of masks, up to four stages of every kind and broadcast pattern, sinks, normalisers, dropout, grouped
 * heads, weights, chosen weights, log-sum-exp, wanted and unwanted gradients, NaN in masked places. A problem
 * is made from a seed alone. */
#ifndef HEED_TESTS_HARNESS_PROBLEMS_H
#define HEED_TESTS_HARNESS_PROBLEMS_H

#include "harness_calls.h"
#include "harness_masks.h"

enum { PROBLEM_STAGES = 4, PROBLEM_SEQUENCES = 6 };

struct problem {
    struct kernel_call call; /* what backward is called with is args.attention, and so is what forward is,
                                less the gradients that arrive */
    struct test_masks masks;
    int32_t starts[2][PROBLEM_SEQUENCES + 1]; /* of queries and keys, where they are packed */
    unsigned shared;                          /* repeats of what has rows of queries or keys: 1 if packed */
    const char *name[KERNEL_BLOCKS];          /* of each block of the call */
    bool sums[KERNEL_BLOCKS];                 /* and whether it is a sum over batch and heads */
    char text[500];                           /* all in words */
};

/* The problem stays where it is: it points into itself. */
void problem_make(struct problem *p, uint64_t seed);
void problem_free(struct problem *p);

/* A kernel both ways, in guarded memory or a device's. */
void problem_run(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel);

#endif
