#include "backend/cpu/vector/elementwise.h"

static float power_slope(float a, float b) {
    return b == 0.0f ? 0.0f : b * powf(a, b - 1.0f);
}

/* d (a^b) / db; 0 where the base is 0 and stays so. */
static float power_growth(float a, float b) {
    return a == 0.0f && b >= 0.0f ? 0.0f : powf(a, b) * logf(a);
}

LANES_BY_LIBM(vf_power, powf)
LANES_BY_LIBM(vf_power_slope, power_slope)
LANES_BY_LIBM(vf_power_growth, power_growth)

MAP_2(sum, a + b)
MAP_2(difference, a - b)
MAP_2(product, a *b)
MAP_2(quotient, a / b)
MAP_2(power, vf_power(a, b))
MAP_2(maximum, vf_select(vm_or(vm_less(a, b), vm_not(vm_equal(b, b))), b, a))
MAP_2(minimum, vf_select(vm_or(vm_less(b, a), vm_not(vm_equal(b, b))), b, a))

/* Of dy = a, and a = b, b = c. */
MAP_1(negative, -a)
MAP_3(product_da, a *c)
MAP_3(product_db, a *b)
MAP_3(quotient_da, a / c)
MAP_3(quotient_db, -a *(b / c) / c)
MAP_3(power_da, a *vf_power_slope(b, c))
MAP_3(larger_a, vf_where(vm_not(vm_less(b, c)), vf_select(vm_equal(b, c), a *vf_set(0.5f), a)))
MAP_3(larger_b, vf_where(vm_not(vm_less(c, b)), vf_select(vm_equal(b, c), a *vf_set(0.5f), a)))
MAP_3(power_db, a *vf_power_growth(b, c))

/* ---- comparisons ---- */

#define COMPARE(name, type, operator)                                                                        \
    static void name(const void *self, int64_t n, const void *const *in, const int *step, void *out) {       \
        (void)self;                                                                                          \
        const type *a = in[0], *b = in[1];                                                                   \
        uint8_t *y = out;                                                                                    \
        if (step[0] && step[1])                                                                              \
            for (int64_t i = 0; i < n; i++) y[i] = a[i] operator b[i];                                       \
        else                                                                                                 \
            for (int64_t i = 0; i < n; i++) y[i] = a[step[0] * i] operator b[step[1] * i];                   \
    }

COMPARE(equal, float, ==)
COMPARE(less, float, <)
COMPARE(greater, float, >)
COMPARE(equal_i32, int32_t, ==)
COMPARE(less_i32, int32_t, <)
COMPARE(greater_i32, int32_t, >)

/* ---- conditions ---- */

/* The truth of HEED_LANES conditions, of n if there are fewer. */
static inline vm condition(const uint8_t *c, int step, int64_t n) {
    if (!step) return vm_first(*c != 0 ? HEED_LANES : 0);
    int32_t word[HEED_LANES] = {0};
    for (int64_t i = 0; i < n && i < HEED_LANES; i++) word[i] = c[i] != 0;
    return vm_int_less(vi_set(0), vi_load(word));
}

#define CONDITION(name, inputs, expression)                                                                  \
    static inline vf name##_lanes(vm m, vf a, vf b) {                                                        \
        (void)b;                                                                                             \
        return expression;                                                                                   \
    }                                                                                                        \
    static void name(const void *self, int64_t n, const void *const *in, const int *step, void *out) {       \
        (void)self;                                                                                          \
        const uint8_t *c = in[0];                                                                            \
        float *y = out;                                                                                      \
        const int other = (inputs)-1;                                                                        \
        int64_t i = 0;                                                                                       \
        for (; i + HEED_LANES <= n; i += HEED_LANES)                                                         \
            vf_store(y + i, name##_lanes(condition(c + step[0] * i, step[0], HEED_LANES),                    \
                                         vf_input(in, step, 1, i), vf_input(in, step, other, i)));           \
        if (i < n)                                                                                           \
            vf_store_part(y + i,                                                                             \
                          name##_lanes(condition(c + step[0] * i, step[0], n - i),                           \
                                       vf_input_part(in, step, 1, i, n - i),                                 \
                                       vf_input_part(in, step, other, i, n - i)),                            \
                          n - i);                                                                            \
    }

CONDITION(choose, 3, vf_select(m, a, b))
CONDITION(keep, 2, vf_where(m, a))
CONDITION(drop, 2, vf_where(vm_not(m), a))

/* ---- the gradient of a maximum ---- */

/* Equal, or both NaN. */
static inline vm are_same(vf x, vf y) {
    return vm_or(vm_equal(x, y), vm_not(vm_or(vm_equal(x, x), vm_equal(y, y))));
}

MAP_2(same, vf_where(are_same(a, b), vf_set(1.0f)))

static inline vf share_lanes(vf x, vf y, vf dy, vf count) {
    return vf_where(are_same(x, y), dy / count);
}

static void share(const void *self, int64_t n, const void *const *in, const int *step, void *out) {
    (void)self;
    float *d = out;
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES)
        vf_store(d + i, share_lanes(vf_input(in, step, 0, i), vf_input(in, step, 1, i),
                                    vf_input(in, step, 2, i), vf_input(in, step, 3, i)));
    if (i < n)
        vf_store_part(d + i,
                      share_lanes(vf_input_part(in, step, 0, i, n - i), vf_input_part(in, step, 1, i, n - i),
                                  vf_input_part(in, step, 2, i, n - i), vf_input_part(in, step, 3, i, n - i)),
                      n - i);
}

const struct heed_binary_vectors HEED_VECTOR_NAME(heed_binary_vectors) = {
    .forward =
        {
            [HEED_BINARY_ADD] = sum,
            [HEED_BINARY_SUB] = difference,
            [HEED_BINARY_MUL] = product,
            [HEED_BINARY_DIV] = quotient,
            [HEED_BINARY_POW] = power,
            [HEED_BINARY_MAXIMUM] = maximum,
            [HEED_BINARY_MINIMUM] = minimum,
            [HEED_BINARY_EQUAL] = equal,
            [HEED_BINARY_LESS] = less,
            [HEED_BINARY_GREATER] = greater,
        },
    .forward_i32 =
        {
            [HEED_BINARY_EQUAL] = equal_i32,
            [HEED_BINARY_LESS] = less_i32,
            [HEED_BINARY_GREATER] = greater_i32,
        },
    .backward_a =
        {
            [HEED_BINARY_MUL] = product_da,
            [HEED_BINARY_DIV] = quotient_da,
            [HEED_BINARY_POW] = power_da,
            [HEED_BINARY_MAXIMUM] = larger_a,
            [HEED_BINARY_MINIMUM] = larger_b,
        },
    .backward_b =
        {
            [HEED_BINARY_SUB] = negative,
            [HEED_BINARY_MUL] = product_db,
            [HEED_BINARY_DIV] = quotient_db,
            [HEED_BINARY_POW] = power_db,
            [HEED_BINARY_MAXIMUM] = larger_b,
            [HEED_BINARY_MINIMUM] = larger_a,
        },
    .choose = choose,
    .keep = keep,
    .drop = drop,
    .same = same,
    .share = share,
};
