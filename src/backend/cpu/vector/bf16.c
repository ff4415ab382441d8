/* Lines of bf16 to f32 and back, on the numbers' bits (tensor/bf16.h has the same for one number). */
#include "backend/cpu/bf16.h"
#include "backend/cpu/vector/vector.h"

typedef uint32_t vu __attribute__((vector_size(HEED_VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(HEED_VECTOR_BYTES / 2)));
typedef uint32_t vu_memory __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t vh_memory __attribute__((vector_size(HEED_VECTOR_BYTES / 2), aligned(2), may_alias));

static inline vu widened(vh x) {
    return __builtin_convertvector(x, vu) << 16;
}

static inline vh rounded(vu x) {
    const vu nan = (vu)((x & 0x7fffffff) > 0x7f800000);
    const vu nearest = (x + 0x7fff + (x >> 16 & 1)) >> 16, quiet = x >> 16 | 0x40;
    return __builtin_convertvector((nan & quiet) | (~nan & nearest), vh);
}

static void widen(int64_t n, const uint16_t *x, float *y) {
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) *(vu_memory *)(y + i) = widened(*(const vh_memory *)(x + i));
    if (i == n) return;
    vh rest = {0};
    memcpy(&rest, x + i, (size_t)(n - i) * sizeof *x);
    const vu wide = widened(rest);
    memcpy(y + i, &wide, (size_t)(n - i) * sizeof *y);
}

static void round_line(int64_t n, const float *x, uint16_t *y) {
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) *(vh_memory *)(y + i) = rounded(*(const vu_memory *)(x + i));
    if (i == n) return;
    vu rest = {0};
    memcpy(&rest, x + i, (size_t)(n - i) * sizeof *x);
    const vh half = rounded(rest);
    memcpy(y + i, &half, (size_t)(n - i) * sizeof *y);
}

static void round_in_place(int64_t n, float *x) {
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) {
        vu_memory *at = (vu_memory *)(x + i);
        *at = widened(rounded(*at));
    }
    uint16_t rest[HEED_LANES];
    round_line(n - i, x + i, rest);
    widen(n - i, rest, x + i);
}

const struct heed_bf16_vectors HEED_VECTOR_NAME(heed_bf16_vectors) = {
    .widen = widen, .round = round_line, .round_in_place = round_in_place};
