/* Words of masks by vectors. */
#include "backend/cpu/vector/masks.h"
#include "backend/cpu/vector/philox.h"
#include "backend/masks/words.h"

/* Blocks that are made at a time: whole words of the widest tile. */
enum { STEP = HEED_LANES < 8 ? 8 : HEED_LANES, STEP_WORDS = STEP * HEED_RANDOM_CELLS / 64 };

/* A random mask, and 2^log blocks to a row of the tile. */
struct cells {
    uint64_t key;
    uint32_t line, threshold, query, block;
    int log;
};

/* The bits of the tile's blocks first … first + STEP − 1, counted row by row. */
static inline void step_bits(const struct cells *c, uint32_t first, uint64_t word[STEP_WORDS]) {
    for (int i = 0; i < STEP_WORDS; i++) word[i] = 0;
    for (int j = 0; j < STEP; j += HEED_LANES) {
        const vu place = vu_block_order(first + (uint32_t)j);
        const vu row = place >> (uint32_t)c->log, column = place - (row << (uint32_t)c->log);
        vu random[4], block[4];
        vu_philox(c->key, row + vu_set(c->query), column + vu_set(c->block), vu_set(c->line),
                  vu_set(HEED_RANDOM_STREAM), random);
        vu_block_after_block(random, block);
        for (int i = 0; i < 4; i++) {
            const int at = j * HEED_RANDOM_CELLS + i * 2 * HEED_LANES;
            word[at / 64] |= (uint64_t)vu_halves_below(block[i], c->threshold) << at % 64;
        }
    }
}

static void random_bits(uint64_t key, uint32_t line, uint32_t threshold, const struct heed_box *box,
                        uint64_t *row) {
    struct cells c = {key, line, threshold, (uint32_t)box->q0, (uint32_t)(box->k0 / HEED_RANDOM_CELLS), 0};
    while (HEED_RANDOM_CELLS << c.log < box->nk) c.log++;
    const int rows = STEP >> c.log, bits = HEED_RANDOM_CELLS << c.log;
    for (int r = 0; r < box->nq; r += rows) {
        uint64_t word[STEP_WORDS];
        step_bits(&c, (uint32_t)r << c.log, word);
        for (int i = 0; i < rows && r + i < box->nq; i++)
            row[r + i] = word[i * bits / 64] >> i * bits % 64 & heed_first_bits(box->nk);
    }
}

const struct heed_mask_vectors HEED_VECTOR_NAME(heed_mask_vectors) = {.random = random_bits};
