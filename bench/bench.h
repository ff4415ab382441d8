/* The cases of heed-bench. A case makes what it needs once (setup) and then runs many times. Its name, and
 * exactly what it computes, are shared with bench/peers. */
#ifndef HEED_BENCH_BENCH_H
#define HEED_BENCH_BENCH_H

#include <heed/heed.h>

#define BENCH_TENSORS 4

struct bench_case;

/* One case being run. */
struct bench {
    const struct bench_case *row;
    heed_ctx *ctx;
    heed_tensor tensor[BENCH_TENSORS]; /* inputs, outside of any step */
    heed_module *module;
    heed_optim *optim;
};

struct bench_case {
    const char *name;
    const char *what; /* in a few words, for --list */
    void (*setup)(struct bench *b);
    void (*run)(struct bench *b); /* one step, begun and ended */
    int64_t size[4];
};

extern const struct bench_case bench_cases[];
extern const int bench_case_count;

/* Bytes in memory now (VmRSS), the most since the last reset (VmHWM), and the reset. 0 where the system does
 * not tell. */
size_t bench_memory_now(void);
size_t bench_memory_peak(void);
void bench_memory_reset_peak(void);

#endif
