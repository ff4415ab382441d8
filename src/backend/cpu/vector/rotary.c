/* Rows with their pairs turned. */
#include "backend/cpu/rotary.h"
#include "backend/cpu/vector/vector.h"

static inline vf load(const float *x, int64_t n) {
    return n >= HEED_LANES ? vf_load(x) : vf_load_part(x, n);
}

static inline void store(bool add, vf value, int64_t n, float *y) {
    if (n >= HEED_LANES)
        vf_store(y, add ? vf_load(y) + value : value);
    else
        vf_store_part(y, add ? vf_load_part(y, n) + value : value, n);
}

/* Lanes 2i and 2i + 1 exchanged. */
static inline vf swap_pairs(vf x) {
#if HEED_VECTOR_BYTES == 64
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif HEED_VECTOR_BYTES == 32
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

/* What is not turned. */
static inline void pass(int64_t n, const float *x, bool add, float *y) {
    for (int64_t i = 0; i < n; i += HEED_LANES) store(add, load(x + i, n - i), n - i, y + i);
}

static void side_by_side(int64_t pairs, int64_t n, const float *table, const float *x, bool add, float *y) {
    const int64_t rotated = 2 * pairs;
    const float *sines = table + rotated;
    for (int64_t i = 0; i < rotated; i += HEED_LANES) {
        const int64_t rest = rotated - i;
        const vf v = load(x + i, rest);
        store(add, vf_fma(swap_pairs(v), load(sines + i, rest), v * load(table + i, rest)), rest, y + i);
    }
    pass(n - rotated, x + rotated, add, y + rotated);
}

static void half_apart(int64_t pairs, int64_t n, const float *table, const float *x, bool add, float *y) {
    const float *sines = table + pairs;
    for (int64_t i = 0; i < pairs; i += HEED_LANES) {
        const int64_t rest = pairs - i;
        const vf a = load(x + i, rest), b = load(x + pairs + i, rest);
        const vf c = load(table + i, rest), s = load(sines + i, rest);
        store(add, vf_fnma(b, s, a * c), rest, y + i);
        store(add, vf_fma(a, s, b * c), rest, y + pairs + i);
    }
    pass(n - 2 * pairs, x + 2 * pairs, add, y + 2 * pairs);
}

const struct heed_rotary_vectors HEED_VECTOR_NAME(heed_rotary_vectors) = {side_by_side, half_apart};
