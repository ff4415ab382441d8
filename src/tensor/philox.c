#include "tensor/philox.h"

#include <math.h>

/* Constants of Philox4x32 (Salmon et al. 2011): two multipliers and the Weyl increments of the key. */
enum { ROUNDS = 10 };
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

void heed_philox(uint64_t seed, const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * x0, p1 = (uint64_t)MULTIPLIER_1 * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

/* ---- words to numbers ---- */

static float uniform_of_word(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

static double uniform_of_words(uint32_t low, uint32_t high) {
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

/* Cosine and sine of a part u in [0, 1) of the whole turn. The nearest quarter is taken off exactly, so that
 * both are right to the last digits also near their zeros. */
static void turn(double u, double *cosine, double *sine) {
    const double two_pi = 6.283185307179586476925286766559;
    int quarter = (int)(4.0 * u + 0.5);
    double angle = two_pi * (u - 0.25 * quarter);
    double c = cos(angle), s = sin(angle);
    switch (quarter & 3) {
    case 0:
        *cosine = c;
        *sine = s;
        break;
    case 1:
        *cosine = -s;
        *sine = c;
        break;
    case 2:
        *cosine = -c;
        *sine = -s;
        break;
    default:
        *cosine = s;
        *sine = -c;
        break;
    }
}

/* Box and Muller: two normals of two uniforms, u in (0, 1] and v in [0, 1). */
static void normal_pair(double u, double v, double pair[2]) {
    double radius = sqrt(-2.0 * log(u)), c, s;
    turn(v, &c, &s);
    pair[0] = radius * c;
    pair[1] = radius * s;
}

static void normal_pair_of_word(const uint32_t word[2], double pair[2]) {
    normal_pair(((double)word[0] + 1.0) * 0x1p-32, (double)word[1] * 0x1p-32, pair);
}

static void normal_pair_of_words(const uint32_t word[4], double pair[2]) {
    normal_pair(1.0 - uniform_of_words(word[0], word[1]), uniform_of_words(word[2], word[3]), pair);
}

/* ---- one element ---- */

float heed_uniform_f32(const struct heed_random *r, uint64_t element) {
    uint32_t word[4];
    heed_random_block(r, (uint32_t)(element >> 2), word);
    return uniform_of_word(word[element & 3]);
}

double heed_uniform_f64(const struct heed_random *r, uint64_t element) {
    uint32_t word[4];
    heed_random_block(r, (uint32_t)(element >> 1), word);
    const uint32_t *own = word + 2 * (element & 1);
    return uniform_of_words(own[0], own[1]);
}

float heed_normal_f32(const struct heed_random *r, uint64_t element) {
    uint32_t word[4];
    double pair[2];
    heed_random_block(r, (uint32_t)(element >> 2), word);
    normal_pair_of_word(word + (element & 2), pair);
    return (float)pair[element & 1];
}

void heed_normals_f32(const struct heed_random *r, uint64_t first, int64_t count, float *out) {
    uint32_t word[4];
    double pair[2];
    for (int64_t i = 0; i < count; i++) {
        uint64_t element = first + (uint64_t)i;
        if (i == 0 || (element & 3) == 0) heed_random_block(r, (uint32_t)(element >> 2), word);
        if (i == 0 || (element & 1) == 0) normal_pair_of_word(word + (element & 2), pair);
        out[i] = (float)pair[element & 1];
    }
}

double heed_normal_f64(const struct heed_random *r, uint64_t element) {
    uint32_t word[4];
    double pair[2];
    heed_random_block(r, (uint32_t)(element >> 1), word);
    normal_pair_of_words(word, pair);
    return pair[element & 1];
}

static uint32_t half_of(const uint32_t word[4], uint64_t index, uint64_t half) {
    return word[index] >> (16 * half) & 0xFFFFu;
}

bool heed_keep_element(const struct heed_random *r, uint64_t element, uint32_t threshold) {
    uint32_t word[4];
    heed_random_block(r, (uint32_t)(element >> 3), word);
    return half_of(word, element >> 1 & 3, element & 1) < threshold;
}

/* ---- attention dropout ---- */

struct heed_attention_random heed_attention_random(const struct heed_random *r) {
    /* A stream with the highest bit set belongs to no operation, so this block is used for nothing else. */
    const uint32_t counter[4] = {0, 0, r->step, r->stream | 0x80000000u};
    uint32_t word[4];
    heed_philox(r->seed, counter, word);
    return (struct heed_attention_random){.key = (uint64_t)word[1] << 32 | word[0], .call = r->ordinal};
}

bool heed_attention_keep(const struct heed_attention_random *r, uint32_t q, uint32_t k, uint32_t row,
                         uint32_t threshold) {
    const uint32_t counter[4] = {q, 16 * (k >> 7) + ((k & 31) >> 1), row, r->call};
    uint32_t word[4];
    heed_philox(r->key, counter, word);
    return half_of(word, k >> 5 & 3, k & 1) < threshold;
}
