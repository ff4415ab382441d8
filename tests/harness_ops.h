/* Tables of operations and the drivers that run them.
 *
 * A row is a name, how to make the inputs, and the call. Every row is run
 * - on ref in f64: gradients against central differences;
 * - on cpu in f32, f64 and bf16, for every instruction set: forward and backward against ref, within the
 * tolerance of its kind, and backward again, which adds to the gradients that are there; with other numbers
 * of threads, which must give the same bits; and without falling back to ref in f32 and bf16. A wrong row is
 * a call that must fail with a status and a message. */
#ifndef HEED_TESTS_HARNESS_OPS_H
#define HEED_TESTS_HARNESS_OPS_H

#include "harness.h"

#define OP_INPUTS 16
#define OP_OUTPUTS 4

enum op_fill {
    OP_NONE,     /* an optional tensor that is not given */
    OP_NORMAL,   /* standard normal */
    OP_WEIGHT,   /* normal, divided by the root of the last size: a matrix that keeps the size of what it
                    multiplies */
    OP_POSITIVE, /* uniform in [0.3, 2.3) */
    OP_UNIT,     /* uniform in [0, 1) */
    OP_AWAY,     /* ± [0.2, 2.2): away from kinks at 0 */
    OP_DISTINCT, /* no two closer than 0.01: for maxima */
    OP_TIES,     /* few different values: for maxima that meet */
    OP_EXTREME,  /* zeros, subnormal, huge, infinite and NaN among normal ones */
    OP_LARGE,    /* finite, up to ± 90 */
    OP_INFINITE, /* −infinity at some places, normal ones elsewhere: biases that mask */
    OP_INDEX,    /* i32 in 0 … limit − 1 */
    OP_MASK,     /* bool, 5 of 8 true */
    OP_FALSE,    /* bool, all false */
    OP_VALUE     /* all `limit` */
};

enum op_layout {
    OP_DENSE,
    OP_TRANSPOSED, /* the last two dimensions exchanged in memory */
    OP_SLICED,     /* every other element of a larger tensor, in every dimension */
    OP_REPEATED,   /* the first dimension repeats one slice (stride 0) */
    OP_OUTER       /* the first dimension is the last in memory */
};

struct op_input {
    enum op_fill fill;
    int rank;
    int64_t size[HEED_MAX_RANK];
    enum op_layout layout;
    double limit;
    bool constant;    /* no gradient is asked for */
    bool other_dtype; /* in wrong rows: `dtype` instead of the row's */
    heed_dtype dtype;
};

/* SIZES(2, 3): rank and sizes of an op_input; a scalar has none. */
#define SIZES(...) .rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .size = {__VA_ARGS__}

/* Which tolerance holds. */
enum op_kind {
    OP_EXACT,       /* moves numbers, or computes each by one rounding */
    OP_ELEMENTWISE, /* a few roundings, or a function of one number */
    OP_REDUCE,      /* sums */
    OP_ROWS,        /* softmax, norms, losses */
    OP_PRODUCT,     /* matrix products */
    OP_ATTENTION,
    OP_KINDS
};

struct op_case {
    const char *name;
    /* Fills as many outputs as the row says. */
    void (*call)(const struct op_case *row, const heed_tensor *in, heed_tensor *out);
    struct op_input in[OP_INPUTS];
    enum op_kind kind;
    int outputs;        /* 0 means 1 */
    bool no_gradient;   /* the operation has none */
    bool no_difference; /* finite differences say nothing here (kinks, infinities); cpu against ref still
                           holds */
    bool big;     /* too large for finite differences; runs smaller under HEED_TEST_SCALE=small not at all */
    bool random;  /* under HEED_RANDOM */
    bool extreme; /* huge values: absolute tolerance does not grow with them */
    bool falls_back; /* the cpu backend leaves this to ref */
    /* for the call */
    int dim, count, dims[HEED_MAX_RANK];
    bool keep;
    double number;
    int64_t size[HEED_MAX_RANK];
    const void *options;
};

struct op_wrong {
    struct op_case row;
    heed_status status;
    const char *message; /* a part of it */
};

/* Adds the drivers for a table to a suite. The tables must outlive the suite. */
void op_add_cases(Suite *suite, const struct op_case *rows, int count);
void op_add_wrong(Suite *suite, const struct op_wrong *rows, int count);

#define OP_COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

#endif
