/* Random numbers in bulk: the same bits as tensor/philox.h gives one by one. */
#ifndef HEED_SRC_BACKEND_CPU_RANDOM_H
#define HEED_SRC_BACKEND_CPU_RANDOM_H

#include "backend/cpu/cpu.h"

struct heed_random_vectors {
    /* The four words of each of n blocks from `block` on, block after block. */
    void (*words)(const struct heed_random *random, uint32_t block, int64_t n, uint32_t *word);
    /* y[i] = x[i]·scale where element `element` + i is kept, else 0; and before[i] added to it, if there is a
     * `before`, which may be y. element is a multiple of 8. A threshold of 65536 keeps all. */
    void (*dropout)(const struct heed_random *random, uint32_t threshold, uint64_t element, int64_t n,
                    const float *before, const float *x, float *y);
};
HEED_CPU_TABLE(random)

#endif
