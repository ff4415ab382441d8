/* The cases of heed-bench (bench/cases/). A case makes what it needs once (setup) and then runs many times.
 * Its name, and exactly what it computes, are shared with bench/peers. */
#ifndef HEED_BENCH_BENCH_H
#define HEED_BENCH_BENCH_H

#include <heed/heed.h>

#define BENCH_TENSORS 6

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
    int what_else; /* flags of a family of cases */
    int64_t batch, vocabulary;
    double bytes; /* that a run in f32 reads and writes at least, where memory may limit it; 0: not said */
    double (*operations)(const struct bench_case *row); /* additions and multiplications of a run's products;
                                                           NULL: not said */
};

/* The case of that number, from 0 on, or of that name; NULL beyond. */
const struct bench_case *bench_case_at(int index);
const struct bench_case *bench_case_named(const char *name);

/* Bytes in memory now (VmRSS), the most since the last reset (VmHWM), and the reset. 0 where the system does
 * not tell. */
size_t bench_memory_now(void);
size_t bench_memory_peak(void);
void bench_memory_reset_peak(void);

/* What a device gives at most, in a second; 0: not known. */
struct bench_peaks {
    double bytes, operations; /* of its memory; of f32, outside of tensor cores */
    const char *source;       /* "driver", "data sheet", or "" */
};

/* Of a CUDA device that is open, by heed's name for it and its maker's; of others nothing is known. */
struct bench_peaks bench_peaks_of(const char *device, const char *name);

#endif
