/* Attention of few queries to many keys, as when a sequence is written on with a cache: what its files share.
 *
 * Time goes into reading keys and values, so that each is read once, from where it lies, for all queries and
 * all query heads that share it (the rows). Keys are cut into chunks by shape alone; a chunk gives for each
 * row its largest score, its sum and its output, unnormalised, and chunks are merged in order
 * (Dao et al. 2023, "Flash-Decoding"). */
#ifndef HEED_SRC_BACKEND_CPU_ATTENTION_DECODE_H
#define HEED_SRC_BACKEND_CPU_ATTENTION_DECODE_H

#include "backend/cpu/attention.h"

enum { HEED_DECODE_ROWS = 16, HEED_DECODE_CHUNK = 512, HEED_DECODE_TILE = 64 };

struct heed_decode_plan {
    const struct heed_attention_args *args;
    int64_t pairs, heads, kv_heads, group, queries,
        rows; /* pairs of batch and key/value head; group · queries */
    int64_t keys, width, value_width, width_row, value_row;
    int64_t chunk, chunks;
    float scale;
    float *maximum, *reciprocal; /* saved as the tiled kernel does, [batch, heads, queries]; NULL if not */
    float *partial;              /* [pairs, chunks]: outputs [rows, value_row], maxima, sums [16] each */
    int64_t partial_floats;
    float *workers; /* queries [rows, width_row] and scores [rows, chunk] of each */
    int64_t worker_floats;
    atomic_llong tiles, skipped; /* for the note */
};

static inline float *heed_decode_partial(const struct heed_decode_plan *p, int64_t pair, int64_t chunk) {
    return p->partial + (pair * p->chunks + chunk) * p->partial_floats;
}

struct heed_decode_vectors {
    void (*chunk)(struct heed_decode_plan *plan, int64_t task, int worker); /* pair · chunks + chunk */
    void (*merge)(const struct heed_decode_plan *plan, int64_t pair);
};

HEED_CPU_TABLE(decode)

#endif
