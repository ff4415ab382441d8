#include "kit/internal.h"

#include <math.h>

/* SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014, figure 15): the
 * state advances by a constant, so its n-th value is known without the ones before. */
uint64_t heed_random_bits(uint64_t seed, uint64_t index) {
    const uint64_t golden_gamma = 0x9e3779b97f4a7c15u;
    uint64_t z = seed + (index + 1) * golden_gamma;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double heed_random_unit(uint64_t seed, uint64_t index) {
    return (double)(heed_random_bits(seed, index) >> 11) * 0x1p-53;
}

int64_t heed_random_below(uint64_t seed, uint64_t index, int64_t count) {
    if (count < 1) return 0;
    return (int64_t)(((unsigned __int128)heed_random_bits(seed, index) * (uint64_t)count) >> 64);
}
