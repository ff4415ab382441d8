/* Vectorised functions of one argument. Included at the end of vector.h.
 *
 * Polynomials are minimax fits of the function named beside them; |error| is theirs alone, without rounding.
 */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_VECTOR_MATH_H
#define HEED_SRC_BACKEND_CPU_VECTOR_VECTOR_MATH_H

#define HEED_EXP_LOWEST (-87.33654f) /* log 2⁻¹²⁶, rounded up: below, exp is 0 */
#define HEED_EXP_HIGHEST 88.72283f   /* the largest f32 whose exponential is finite */

/* e^x. x = n·log 2 + r with log 2 in two terms, the first of 9 bits so that n times it is exact; e^r by a
 * polynomial of degree 6; times 2^n. Inlined into the loops that matter. */
static inline vf vf_exp(vf x) {
    const vf magic = vf_set(12582912.0f); /* 1.5·2²³: adding it rounds to an integer in the low bits */
#if HEED_VECTOR_BYTES == 64
    const vf most = vf_min(vf_set(89.0f), x); /* NaN stays; larger ones give +inf as this one does */
#else
    const vf most = x;
#endif
    const vf t = vf_fma(most, vf_set(1.44269504f), magic);
    const vf n = t - magic;
    vf r = vf_fnma(n, vf_set(0.693359375f), most);
    r = vf_fnma(n, vf_set(-2.12194440e-4f), r);
    vf p = vf_fma(r, vf_set(1.381446475e-3f), vf_set(8.368780622e-3f)); /* (e^r − 1 − r)/r², 3e-9 */
    p = vf_fma(p, r, vf_set(4.166839426e-2f));
    p = vf_fma(p, r, vf_set(1.666652011e-1f));
    p = vf_fma(p, r, vf_set(4.999999341e-1f));
    p = vf_fma(p * r, r, r) + vf_set(1.0f);
    const vm normal = vm_not(vm_less(x, vf_set(HEED_EXP_LOWEST)));
#if HEED_VECTOR_BYTES == 64
    return (vf)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)n);
#else
    const vf y = vf_of_bits(vf_bits(p) + (vf_bits(t) << 23)); /* n is in the low bits of t */
    const vf in_range =
        vf_select(vm_less_equal(x, vf_set(HEED_EXP_HIGHEST)), y, x + vf_set(INFINITY)); /* NaN too */
    return vf_where(normal, in_range);
#endif
}

/* log x. x = 2^e·(1 + f) with 1 + f in [√½, √2); log(1 + f) = f − f²/2 + f³·P(f). */
static inline vf vf_log(vf x) {
    const vm tiny = vm_less(x, vf_set(1.17549435e-38f)); /* subnormal, 0 or negative */
    const vf scaled = vf_select(tiny, x * vf_set(8388608.0f), x);
    /* The exponent changes at √½ instead of at 1. */
    const vi shifted = vf_bits(scaled) - 0x3f3504f3;
    const vf e = vf_of_int(shifted >> 23) - vf_where(tiny, vf_set(23.0f));
    const vf f = vf_of_bits((shifted & 0x007fffff) + 0x3f3504f3) - vf_set(1.0f);
    vf p = vf_fma(f, vf_set(-7.634429908e-2f), vf_set(1.276155036e-1f)); /* 6e-9 relative to log(1 + f) */
    p = vf_fma(p, f, vf_set(-1.316019505e-1f));
    p = vf_fma(p, f, vf_set(1.420176247e-1f));
    p = vf_fma(p, f, vf_set(-1.662335648e-1f));
    p = vf_fma(p, f, vf_set(2.000122667e-1f));
    p = vf_fma(p, f, vf_set(-2.500082106e-1f));
    p = vf_fma(p, f, vf_set(3.333333171e-1f));
    const vf ff = f * f;
    vf y = vf_fma(p * f, ff, e * vf_set(-2.12194440e-4f));
    y = vf_fnma(vf_set(0.5f), ff, y) + f;
    y = vf_fma(e, vf_set(0.693359375f), y);
    y = vf_select(vm_less(x, vf_set(INFINITY)), y, x); /* +inf and NaN are themselves */
    y = vf_select(vm_equal(x, vf_set(0.0f)), vf_set(-INFINITY), y);
    return vf_select(vm_less(x, vf_set(0.0f)), vf_set(NAN), y);
}

/* sigmoid(x) = 1 / (1 + e^−x), and 1 − sigmoid(x) without the cancellation. */
static inline vf vf_sigmoid_pair(vf x, vf *rest) {
    const vf e = vf_exp(-vf_abs(x));
    const vf large = vf_reciprocal(vf_set(1.0f) + e), small = e * large;
    const vm negative = vm_less(x, vf_set(0.0f));
    *rest = vf_select(negative, large, small);
    return vf_select(negative, small, large);
}

static inline vf vf_sigmoid(vf x) {
    vf rest;
    return vf_sigmoid_pair(x, &rest);
}

/* tanh x: an odd polynomial near 0, else 1 − 2/(e^2|x| + 1). */
static inline vf vf_tanh(vf x) {
    const vf a = vf_abs(x);
    const vf u = x * x;
    vf p = vf_fma(u, vf_set(-5.717036562e-3f),
                  vf_set(2.065057900e-2f)); /* (tanh x/x − 1)/x², 4e-9, |x| < 0.625 */
    p = vf_fma(p, u, vf_set(-5.374349526e-2f));
    p = vf_fma(p, u, vf_set(1.333149125e-1f));
    p = vf_fma(p, u, vf_set(-3.333328392e-1f));
    const vf near = vf_fma(p * u, x, x);
    const vf e = vf_exp(vf_set(2.0f) * vf_min(vf_set(20.0f), a)); /* from 9.1 on it is 1 */
    const vf far = vf_fnma(vf_set(2.0f), vf_reciprocal(e + vf_set(1.0f)), vf_set(1.0f));
    return vf_select(vm_less(a, vf_set(0.625f)), near, vf_copysign(far, x));
}

/* What rounding took from square = a·a. */
static inline vf vf_square_rest(vf a, vf square) {
#if HEED_VECTOR_BYTES >= 32
    return vf_fma(a, a, -square);
#else
    /* Dekker 1971: halves of 12 bits multiply exactly. */
    const vf high = vf_of_bits(vf_bits(a) & ~0xfff), low = a - high;
    return ((high * high - square) + vf_set(2.0f) * high * low) + low * low;
#endif
}

/* Φ(x), the standard normal's distribution function; *bell = e^(−x²/2). With t = 1/(1 + 0.35·|x|) the tail is
 * Φ(−|x|) = e^(−x²/2)·t·P(t), relative error 3e-8 down to where it leaves the range; so the small side is as
 * exact as the large one. */
static inline vf vf_normal_cdf(vf x, vf *bell) {
    const vf a = vf_min(vf_set(20.0f), vf_abs(x)); /* e^−200 is 0 already */
    const vf square = a * a;
    vf e = vf_exp(vf_set(-0.5f) * square);
    e = vf_fnma(e * vf_set(0.5f), vf_square_rest(a, square), e);
    const vf t = vf_reciprocal(vf_fma(a, vf_set(0.35f), vf_set(1.0f)));
    vf p = vf_fma(t, vf_set(-2.914614145e-2f), vf_set(1.439727173e-1f));
    p = vf_fma(p, t, vf_set(-2.557163407e-1f));
    p = vf_fma(p, t, vf_set(1.591765164e-1f));
    p = vf_fma(p, t, vf_set(-2.311143520e-2f));
    p = vf_fma(p, t, vf_set(1.055086707e-1f));
    p = vf_fma(p, t, vf_set(1.198327018e-1f));
    p = vf_fma(p, t, vf_set(1.398618921e-1f));
    p = vf_fma(p, t, vf_set(1.396214030e-1f));
    const vf tail = e * (p * t);
    *bell = e;
    return vf_select(vm_less(x, vf_set(0.0f)), tail, vf_set(1.0f) - tail);
}

/* Derivatives of the activations are by x; `near 0` and ±inf are as the formulas give. */

static inline vf vf_gelu(vf x) {
    vf bell;
    return x * vf_normal_cdf(x, &bell);
}

/* Φ(x) + x·φ(x) */
static inline vf vf_gelu_slope(vf x) {
    vf bell;
    const vf cdf = vf_normal_cdf(x, &bell);
    return vf_fma(x * bell, vf_set(0.398942280f), cdf);
}

/* ½·x·(1 + tanh u) = x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³) */
static inline vf vf_gelu_tanh(vf x) {
    const vf u2 = x * vf_fma(x * x, vf_set(0.0713548163f), vf_set(1.59576912f));
    return x * vf_sigmoid(u2);
}

static inline vf vf_gelu_tanh_slope(vf x) {
    /* Beyond ±20 the slope is exactly 0 or 1; x³ must not overflow there. */
    x = vf_max(vf_set(-20.0f), vf_min(vf_set(20.0f), x));
    const vf u2 = x * vf_fma(x * x, vf_set(0.0713548163f), vf_set(1.59576912f));
    const vf du2 = vf_fma(x * x, vf_set(0.214064449f), vf_set(1.59576912f));
    vf rest;
    const vf s = vf_sigmoid_pair(u2, &rest);
    return vf_fma(x * du2, s * rest, s);
}

static inline vf vf_silu(vf x) {
    return x * vf_sigmoid(x);
}

static inline vf vf_silu_slope(vf x) {
    vf rest;
    const vf s = vf_sigmoid_pair(x, &rest);
    return s * vf_fma(x, rest, vf_set(1.0f));
}

static inline vf vf_relu(vf x) {
    return vf_max(vf_set(0.0f), x);
}

#endif
