/* All cases, in the order in which they run. */
#include "cases/cases.h"

#include <string.h>

static const struct bench_case *const tables[] = {bench_product_cases, bench_mha_cases, bench_attention_cases,
                                                  bench_gpt_cases, bench_memory_cases};

const struct bench_case *bench_case_at(int index) {
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        for (const struct bench_case *row = tables[t]; row->name; row++) {
            if (index-- == 0) return row;
        }
    }
    return NULL;
}

const struct bench_case *bench_case_named(const char *name) {
    const struct bench_case *row;
    for (int i = 0; (row = bench_case_at(i)); i++) {
        if (strcmp(row->name, name) == 0) return row;
    }
    return NULL;
}

double bench_attention_operations(double cells, double width, bool backward) {
    enum { FORWARD = 2, BACKWARD = 5 }; /* products */
    return 2 * cells * width * (FORWARD + (backward ? BACKWARD : 0));
}

heed_tensor bench_normal(struct bench *b, int rank, const int64_t *size) {
    return heed_normal(b->ctx, HEED_F32, rank, size, 0, 1);
}
