/* bf16: the upper half of an f32. Rounding is to nearest, ties to even; NaN stays NaN (and becomes quiet).
 *
 * From a double it is one rounding, not two: a float on the way is rounded to odd, which keeps what the
 * second rounding has to know (Boldo and Melquiond 2008). */
#ifndef HEED_SRC_TENSOR_BF16_H
#define HEED_SRC_TENSOR_BF16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tensor/everywhere.h"

HEED_EVERYWHERE static inline float heed_bf16_value(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

HEED_EVERYWHERE static inline uint16_t heed_bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

HEED_EVERYWHERE static inline uint16_t heed_bf16_of_double(double number) {
    float value = (float)number;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(number) || (double)value == number) return heed_bf16_of(value);
    if (fabs((double)value) > fabs(number)) bits--; /* towards 0 */
    bits |= 1;
    memcpy(&value, &bits, sizeof value);
    return heed_bf16_of(value);
}

/* A number as bf16 has it. */
HEED_EVERYWHERE static inline double heed_bf16_round(double number) {
    return (double)heed_bf16_value(heed_bf16_of_double(number));
}

#endif
