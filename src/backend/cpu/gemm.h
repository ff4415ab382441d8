/* Large matrix products by heed's own kernel.
 *
 * B is copied into panels, a slice of the inner dimension at a time (Goto and van de Geijn 2008, "Anatomy of
 * high-performance matrix multiplication"): a register block of C then reads memory in order, whatever the
 * strides of B were, and threads share what has been copied once. A is copied too where its rows are so far
 * apart that they would push each other out of the cache.
 *
 * gemm.c         how a product is cut
 * vector/gemm.c  copying, and the register block */
#ifndef HEED_SRC_BACKEND_CPU_GEMM_H
#define HEED_SRC_BACKEND_CPU_GEMM_H

#include "backend/cpu/product.h"

/* Inner elements of a slice: a panel of A stays in the first-level cache. */
enum { HEED_GEMM_DEPTH = 512 };

/* A block of C [rows, columns] (+)= A · panels of B, each panel [depth, its width]. A is packed into panels
 * likewise, or is where it was: its first element, its strides (one of them 1), and what lies between the
 * first elements of two panels. There are at least as many rows of A before the block's end as a panel has.
 */
struct heed_gemm_block {
    int64_t rows, columns, depth;
    const float *a, *b;
    int64_t a_row, a_inner, a_panel;
    bool padded; /* the last panel of A has rows of zeros beyond the last */
    float *c;
    int64_t c_row;
    bool add;
};

/* Copies `count` lines into one panel: to[p·width + i] = x[i·line + p·inner], 0 for count ≤ i < width. One of
 * the two strides is 1. */
typedef void heed_gemm_pack(const float *x, int64_t line, int64_t inner, int64_t count, int64_t depth,
                            float *to);

struct heed_gemm_vectors {
    int rows, columns; /* width of a panel of A, of B */
    heed_gemm_pack *pack_a, *pack_b;
    void (*block)(const struct heed_gemm_block *block);
};

HEED_CPU_TABLE(gemm)

/* Whether a single product of this shape is better made here than by OpenBLAS. */
bool heed_cpu_gemm_fits(const struct heed_exec *exec, int64_t m, int64_t n, int64_t k);

/* One product: `batch` and `sum` of it are looked at by the caller. Only memory can fail. */
heed_status heed_cpu_gemm_run(struct heed_exec *exec, const struct heed_cpu_product *x);

#endif
