/* Random numbers by counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy
 * as 1, 2, 3", 2011). Every number is a function of (seed, stream, step, ordinal, element), so that it is the
 * same on every backend and for any number of threads, and can be computed again in backward. */
#ifndef HEED_SRC_TENSOR_PHILOX_H
#define HEED_SRC_TENSOR_PHILOX_H

#include <heed/base.h>

enum heed_stream { HEED_STREAM_INIT = 0, HEED_STREAM_TRAIN = 1, HEED_STREAM_EVAL = 2 };

/* The place of one operation's numbers. */
struct heed_random {
    uint64_t seed;
    uint32_t stream;  /* enum heed_stream */
    uint32_t step;    /* training step */
    uint32_t ordinal; /* of the operation within the step */
};

/* One block of four words: key = seed, counter = given. */
void heed_philox(uint64_t seed, const uint32_t counter[4], uint32_t out[4]);

/* Block `block` of an operation: counter (block, ordinal, step, stream). */
static inline void heed_random_block(const struct heed_random *r, uint32_t block, uint32_t out[4]) {
    const uint32_t counter[4] = {block, r->ordinal, r->step, r->stream};
    heed_philox(r->seed, counter, out);
}

/* From here on, what turns elements into numbers is frozen: other backends compute the same. Blocks count
 * modulo 2^32.
 *
 * Uniform in [0, 1) for element e. f32: the upper 24 bits of word e & 3 of block e >> 2, times 2^-24. f64:
 * the upper 53 bits of the 64-bit number with word 2(e & 1) of block e >> 1 as its low and the next word as
 * its high half, times 2^-53. */
float heed_uniform_f32(const struct heed_random *r, uint64_t element);
double heed_uniform_f64(const struct heed_random *r, uint64_t element);

/* Standard normal for element e (Box–Muller): elements 2i and 2i + 1 are sqrt(−2 ln u) times the cosine and
 * sine of 2πv. f32: of the words that uniforms 2i and 2i + 1 would use, u = (first + 1)·2^-32 and v =
 * second·2^-32, computed in double and then rounded. f64: u = 1 − uniform 2i, v = uniform 2i + 1 (both of
 * block i). */
float heed_normal_f32(const struct heed_random *r, uint64_t element);
double heed_normal_f64(const struct heed_random *r, uint64_t element);

/* heed_normal_f32 of `count` elements from `first` on, in half the time that calls for each take. */
void heed_normals_f32(const struct heed_random *r, uint64_t first, int64_t count, float *out);

/* Dropout: 16 bits per element. Element e uses half e & 1 (0: the lower 16 bits) of word (e >> 1) & 3 of
 * block e >> 3 and is kept if the half is below the threshold. */
static inline uint32_t heed_keep_threshold(double p) {
    return (uint32_t)((1.0 - p) * 65536.0 + 0.5);
}
static inline double heed_keep_scale(uint32_t threshold) {
    return threshold ? 65536.0 / threshold : 0.0;
}
bool heed_keep_element(const struct heed_random *r, uint64_t element, uint32_t threshold);

/* Attention dropout has its own map, independent of tiling: for query q, key k, row = batch·heads + head, the
 * block has counter (q, 16·(k >> 7) + ((k & 31) >> 1), row, call), and the bits are half k & 1 of word (k >>
 * 5) & 3. The key folds in step and stream: it is words 0 (low) and 1 of the block (0, 0, step, stream |
 * 2^31) of the seed. */
struct heed_attention_random {
    uint64_t key;
    uint32_t call;
};
struct heed_attention_random heed_attention_random(const struct heed_random *r);
bool heed_attention_keep(const struct heed_attention_random *r, uint32_t q, uint32_t k, uint32_t row,
                         uint32_t threshold);

#endif
