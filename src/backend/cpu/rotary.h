/* The inner loops of rotary positions. A row of the table of angles is [2, rotated] for pairs side by side
 * (cosines, each twice; sines, the first of each pair negative), and [2, rotated / 2] for pairs half a row
 * apart. */
#ifndef HEED_SRC_BACKEND_CPU_ROTARY_H
#define HEED_SRC_BACKEND_CPU_ROTARY_H

#include "backend/cpu/cpu.h"

struct heed_rotary_vectors {
    /* y = x (or y += x) with its first 2 · pairs of n elements turned. */
    void (*side_by_side)(int64_t pairs, int64_t n, const float *table, const float *x, bool add, float *y);
    void (*half_apart)(int64_t pairs, int64_t n, const float *table, const float *x, bool add, float *y);
};
HEED_CPU_TABLE(rotary)

#endif
