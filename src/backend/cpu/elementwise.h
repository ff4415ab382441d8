/* The functions that elementwise kernels map over views, one table per instruction set. */
#ifndef HEED_SRC_BACKEND_CPU_ELEMENTWISE_H
#define HEED_SRC_BACKEND_CPU_ELEMENTWISE_H

#include "backend/cpu/map.h"

struct heed_unary_vectors {
    /* Input x; self: const float * c. */
    heed_map_fn *forward[HEED_UNARIES];
    /* Inputs dy and, if the op needs one, x or y; self: const float * c. */
    heed_map_fn *backward[HEED_UNARIES];
};
HEED_CPU_TABLE(unary)

struct heed_binary_vectors {
    heed_map_fn *forward[HEED_BINARIES];     /* inputs a, b */
    heed_map_fn *forward_i32[HEED_BINARIES]; /* comparisons of i32 */
    heed_map_fn *backward_a[HEED_BINARIES];  /* inputs dy and, from MUL on, a, b; NULL: dy itself */
    heed_map_fn *backward_b[HEED_BINARIES];
    heed_map_fn *choose; /* inputs condition, a, b */
    heed_map_fn *keep;   /* inputs condition, dy: dy where true, else 0 */
    heed_map_fn *drop;   /* inputs condition, dy: dy where false, else 0 */
    heed_map_fn *same;   /* inputs x, y: 1.0 where x = y (or both are NaN), else 0.0 */
    heed_map_fn *share;  /* inputs x, y, dy, count: dy / count where they are the same, else 0 */
};
HEED_CPU_TABLE(binary)

#endif
