/* Matrix products and softmax. */
#include "cases/cases.h"

/* C = A·B, [m, k]·[k, n]; size = m, n, k. */
static void sgemm_setup(struct bench *b) {
    const int64_t *s = b->row->size;
    b->tensor[0] = bench_normal(b, 2, (int64_t[]){s[0], s[2]});
    b->tensor[1] = bench_normal(b, 2, (int64_t[]){s[2], s[1]});
}

static void sgemm_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_matmul(b->tensor[0], b->tensor[1]);
    heed_step_end(b->ctx);
}

static double sgemm_operations(const struct bench_case *row) {
    return 2.0 * (double)row->size[0] * (double)row->size[1] * (double)row->size[2];
}

static void softmax_setup(struct bench *b) {
    b->tensor[0] = bench_normal(b, 4, b->row->size);
}

static void softmax_run(struct bench *b) {
    heed_step_begin(b->ctx, HEED_EVAL);
    heed_softmax(b->tensor[0], -1);
    heed_step_end(b->ctx);
}

const struct bench_case bench_product_cases[] = {
    {"sgemm_256",
     "[256, 256] · [256, 256]",
     sgemm_setup,
     sgemm_run,
     {256, 256, 256},
     .operations = sgemm_operations},
    {"sgemm_1024",
     "[1024, 1024] · [1024, 1024]",
     sgemm_setup,
     sgemm_run,
     {1024, 1024, 1024},
     .operations = sgemm_operations},
    {"sgemm_mlp",
     "[2048, 384] · [384, 1536]",
     sgemm_setup,
     sgemm_run,
     {2048, 1536, 384},
     .operations = sgemm_operations},
    {"sgemm_narrow",
     "[1024, 128] · [128, 128]",
     sgemm_setup,
     sgemm_run,
     {1024, 128, 128},
     .operations = sgemm_operations},
    {"softmax_seed",
     "softmax of [128, 32, 8, 8]",
     softmax_setup,
     softmax_run,
     {128, 32, 8, 8},
     .bytes = 2.0 * 128 * 32 * 8 * 8 * 4},
    {0},
};
