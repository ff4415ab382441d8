/* Which cells dropout keeps: heed_attention_keep() for whole rows of tiles.
 *
 * 16 blocks of Philox give the bits of 128 keys: the vector of their words w holds, half by half, keys 32·w …
 * 32·w + 31 in order (philox.h), so a comparison yields bits in key order. Two neighbouring tiles share these
 * blocks. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_DROPOUT_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_DROPOUT_H

#include "backend/cpu/vector/attention_tile.h"

/* Bits of the pair of tiles that was asked for last. */
struct keep {
    int64_t row, q0, pair; /* pair −1: none */
    uint64_t bits[2][HEED_TILE_QUERIES];
};

static inline void keep_line(const struct heed_attention_plan *p, int64_t row, int64_t query, int64_t pair,
                             uint64_t *even, uint64_t *odd) {
    uint32_t words[4] = {0, 0, 0, 0};
    for (int j = 0; j < 16; j += HEED_LANES) {
        vu word[4];
        vu_philox(p->random.key, vu_set((uint32_t)query), (vu)vi_lanes() + vu_set((uint32_t)(16 * pair + j)),
                  vu_set((uint32_t)row), vu_set(p->random.call), word);
        for (int w = 0; w < 4; w++) words[w] |= vu_halves_below(word[w], p->threshold) << (2 * j % 32);
    }
    *even = (uint64_t)words[1] << 32 | words[0];
    *odd = (uint64_t)words[3] << 32 | words[2];
}

/* One word per query of the tile. */
static inline const uint64_t *keep_bits(struct keep *keep, const struct heed_attention_plan *p,
                                        const struct heed_box *box) {
    const int64_t row = heed_attention_row(p, box->batch, box->head), pair = box->k0 / (2 * HEED_TILE_KEYS);
    if (keep->pair != pair || keep->q0 != box->q0 || keep->row != row) {
        keep->pair = pair;
        keep->q0 = box->q0;
        keep->row = row;
        for (int r = 0; r < box->nq; r++) {
            keep_line(p, row, box->q0 + r, pair, &keep->bits[0][r], &keep->bits[1][r]);
        }
    }
    return keep->bits[box->k0 / HEED_TILE_KEYS % 2];
}

/* The factor of a vector of cells: 0 or scale. */
static inline vf keep_factor(uint64_t bits, int vector, vf scale) {
    return vf_where(vm_of_bits((uint32_t)(bits >> (vector * HEED_LANES % 64) & LANE_BITS)), scale);
}

#endif
