/* Softmax of rows, y = e^(x − m) / Σ with m the row's maximum.
 *
 * NaN is passed over when m is looked for: its own exponential brings it into the sum, and so into the whole
 * row. A row of −∞ is shifted by 0; its sum is then 0, which no other row has. */
#include "backend/cpu/rows.h"
#include "backend/cpu/vector/vector.h"

/* What to subtract from a row with this maximum. */
static inline vf shift_of(vf maximum) {
    return vf_where(vm_not(vm_equal(maximum, vf_set(-INFINITY))), maximum);
}

/* 1/sum for a sum of a row, which is at least 1; 0 for 0. */
static inline vf inverse_of(vf sum) {
    return vf_where(vm_not(vm_equal(sum, vf_set(0.0f))), vf_reciprocal(sum));
}

static inline vf log_of(vf sum) {
    return vf_where(vm_not(vm_equal(sum, vf_set(0.0f))), vf_log(sum));
}

/* ---- rows that divide a vector: 1, 2, 4, … HEED_LANES elements, several rows at once ---- */

#if HEED_LANES == 16
#define SWAP(x, d)                                                                                           \
    __builtin_shufflevector(x, x, 0 ^ (d), 1 ^ (d), 2 ^ (d), 3 ^ (d), 4 ^ (d), 5 ^ (d), 6 ^ (d), 7 ^ (d),    \
                            8 ^ (d), 9 ^ (d), 10 ^ (d), 11 ^ (d), 12 ^ (d), 13 ^ (d), 14 ^ (d), 15 ^ (d))
#elif HEED_LANES == 8
#define SWAP(x, d)                                                                                           \
    __builtin_shufflevector(x, x, 0 ^ (d), 1 ^ (d), 2 ^ (d), 3 ^ (d), 4 ^ (d), 5 ^ (d), 6 ^ (d), 7 ^ (d))
#else
#define SWAP(x, d) __builtin_shufflevector(x, x, 0 ^ (d), 1 ^ (d), 2 ^ (d), 3 ^ (d))
#endif

/* In every lane the sum over its row; in the same order for all of them. */
HEED_INLINE vf group_sum(vf x, int width) {
    if (width > 1) x += SWAP(x, 1);
    if (width > 2) x += SWAP(x, 2);
#if HEED_LANES > 4
    if (width > 4) x += SWAP(x, 4);
#endif
#if HEED_LANES > 8
    if (width > 8) x += SWAP(x, 8);
#endif
    return x;
}

HEED_INLINE vf group_max(vf x, int width) {
    x = vf_max(x, vf_set(-INFINITY)); /* without NaN */
    if (width > 1) x = vf_max(x, SWAP(x, 1));
    if (width > 2) x = vf_max(x, SWAP(x, 2));
#if HEED_LANES > 4
    if (width > 4) x = vf_max(x, SWAP(x, 4));
#endif
#if HEED_LANES > 8
    if (width > 8) x = vf_max(x, SWAP(x, 8));
#endif
    return x;
}

HEED_INLINE vf group_forward(bool log, int width, vf x) {
    const vf shifted = x - shift_of(group_max(x, width));
    const vf e = vf_exp(shifted);
    const vf sum = group_sum(e, width);
    return log ? shifted - log_of(sum) : e * inverse_of(sum);
}

HEED_INLINE vf group_backward(bool log, int width, vf y, vf dy) {
    if (!log) {
        const vf dx = y * (dy - group_sum(y * dy, width));
        return vf_where(vm_not(vm_equal(group_sum(y, width), vf_set(0.0f))), dx);
    }
    const vf dx = dy - vf_exp(y) * group_sum(dy, width);
    const vm empty = vm_equal(group_max(y, width), vf_set(-INFINITY));
    return vf_where(vm_not(vm_and(empty, vm_equal(y, y))), dx);
}

HEED_INLINE void groups_forward(bool log, int width, int64_t count, const float *x, float *y) {
    int64_t i = 0;
    for (; i + HEED_LANES <= count; i += HEED_LANES)
        vf_store(y + i, group_forward(log, width, vf_load(x + i)));
    if (i < count) vf_store_part(y + i, group_forward(log, width, vf_load_part(x + i, count - i)), count - i);
}

static inline void store(bool add, vf value, int64_t n, float *y) {
    if (n >= HEED_LANES)
        vf_store(y, add ? vf_load(y) + value : value);
    else
        vf_store_part(y, add ? vf_load_part(y, n) + value : value, n);
}

HEED_INLINE void groups_backward(bool log, int width, int64_t count, const float *y, const float *dy,
                                 bool add, float *dx) {
    int64_t i = 0;
    for (; i + HEED_LANES <= count; i += HEED_LANES)
        store(add, group_backward(log, width, vf_load(y + i), vf_load(dy + i)), HEED_LANES, dx + i);
    if (i < count) {
        const int64_t n = count - i;
        store(add, group_backward(log, width, vf_load_part(y + i, n), vf_load_part(dy + i, n)), n, dx + i);
    }
}

/* ---- blocks: `width` vectors hold HEED_LANES rows of `width`, and are folded into one vector with a row in
 * each lane ---- */

#if HEED_LANES > 4

/* Of each 16 bytes of a and b the even elements, and the odd ones; and the same of 16-byte quarters or
 * halves. */
#if HEED_LANES == 16
#define LOW(a, b) (vf) _mm512_shuffle_ps((__m512)(a), (__m512)(b), 0x88)
#define HIGH(a, b) (vf) _mm512_shuffle_ps((__m512)(a), (__m512)(b), 0xdd)
#define LOW_16(a, b) (vf) _mm512_shuffle_f32x4((__m512)(a), (__m512)(b), 0x88)
#define HIGH_16(a, b) (vf) _mm512_shuffle_f32x4((__m512)(a), (__m512)(b), 0xdd)
#define PERMUTE(x, index) (vf) _mm512_permutexvar_ps((__m512i)(index), (__m512)(x))
#else
#define LOW(a, b) (vf) _mm256_shuffle_ps((__m256)(a), (__m256)(b), 0x88)
#define HIGH(a, b) (vf) _mm256_shuffle_ps((__m256)(a), (__m256)(b), 0xdd)
#define LOW_16(a, b) (vf) _mm256_permute2f128_ps((__m256)(a), (__m256)(b), 0x20)
#define HIGH_16(a, b) (vf) _mm256_permute2f128_ps((__m256)(a), (__m256)(b), 0x31)
#define PERMUTE(x, index) (vf) _mm256_permutevar8x32_ps((__m256)(x), (__m256i)(index))
#endif

HEED_INLINE vf either(bool max, vf a, vf b) {
    return max ? vf_max(a, b) : a + b;
}

/* One vector from `width`: lane place(width, j, e) has the sum (or maximum) of the row of element e of vector
 * j. */
HEED_INLINE vf fold(bool max, int width, const vf *v) {
    vf t[HEED_LANES];
    HEED_UNROLL
    for (int i = 0; i < width / 2; i++)
        t[i] = either(max, LOW(v[2 * i], v[2 * i + 1]), HIGH(v[2 * i], v[2 * i + 1]));
    HEED_UNROLL
    for (int i = 0; i < width / 4; i++)
        t[i] = either(max, LOW(t[2 * i], t[2 * i + 1]), HIGH(t[2 * i], t[2 * i + 1]));
    HEED_UNROLL
    for (int i = 0; i < width / 8; i++)
        t[i] = either(max, LOW_16(t[2 * i], t[2 * i + 1]), HIGH_16(t[2 * i], t[2 * i + 1]));
    if (width > 8) t[0] = either(max, LOW_16(t[0], t[1]), HIGH_16(t[0], t[1]));
    return t[0];
}

static inline int place(int width, int j, int e) {
    if (width == 2) return 4 * (e / 4) + 2 * j + e % 4 / 2;
    if (width == 4) return 4 * (e / 4) + j;
    if (width == 8 && HEED_LANES == 16) return 8 * (j / 4) + 4 * (e / 8) + j % 4;
    return j;
}

HEED_INLINE void block_forward(bool log, int width, const vi *index, vf *v) {
    vf e[HEED_LANES];
    const vf shift = shift_of(vf_max(fold(true, width, v), vf_set(-INFINITY)));
    HEED_UNROLL
    for (int j = 0; j < width; j++) {
        v[j] -= PERMUTE(shift, index[j]);
        e[j] = vf_exp(v[j]);
    }
    const vf sum = fold(false, width, e);
    const vf factor = log ? log_of(sum) : inverse_of(sum);
    HEED_UNROLL
    for (int j = 0; j < width; j++)
        v[j] = log ? v[j] - PERMUTE(factor, index[j]) : e[j] * PERMUTE(factor, index[j]);
}

/* Rows of n ≤ width elements, padded to width where n is less; all whole blocks. Returns the rows done. */
HEED_INLINE int64_t blocks_forward(bool log, int width, int64_t rows, int64_t n, const float *x, float *y) {
    const bool padded = n < width; /* then width is HEED_LANES: a row is a vector */
    const vm mask = vm_first(n);
    vi index[HEED_LANES];
    for (int j = 0; j < width; j++)
        for (int e = 0; e < HEED_LANES; e++) index[j][e] = place(width, j, e);
    int64_t row = 0;
    for (; row + HEED_LANES <= rows; row += HEED_LANES) {
        const float *from = x + row * n;
        float *to = y + row * n;
        vf v[HEED_LANES];
        HEED_UNROLL
        for (int j = 0; j < width; j++)
            v[j] = padded ? vf_select(mask, vf_load_part(from + j * n, n), vf_set(-INFINITY))
                          : vf_load(from + j * HEED_LANES);
        block_forward(log, width, index, v);
        HEED_UNROLL
        for (int j = 0; j < width; j++) {
            if (padded)
                vf_store_part(to + j * n, v[j], n);
            else
                vf_store(to + j * HEED_LANES, v[j]);
        }
    }
    return row;
}

/* Rows that are shorter than a vector and do not divide it. */
static int64_t padded_forward(bool log, int64_t rows, int64_t n, const float *x, float *y) {
    if (n >= HEED_LANES) return 0;
    return log ? blocks_forward(true, HEED_LANES, rows, n, x, y)
               : blocks_forward(false, HEED_LANES, rows, n, x, y);
}

#else

HEED_INLINE int64_t blocks_forward(bool log, int width, int64_t rows, int64_t n, const float *x, float *y) {
    (void)log, (void)width, (void)rows, (void)n, (void)x, (void)y;
    return 0;
}

static int64_t padded_forward(bool log, int64_t rows, int64_t n, const float *x, float *y) {
    return blocks_forward(log, HEED_LANES, rows, n, x, y);
}

#endif

/* Blocks, and the rows that are left. */
HEED_INLINE void short_forward(bool log, int width, int64_t rows, const float *x, float *y) {
    const int64_t done = width > 1 ? blocks_forward(log, width, rows, width, x, y) : 0;
    groups_forward(log, width, (rows - done) * width, x + done * width, y + done * width);
}

/* ---- longer rows ---- */

static inline vf load_or(const float *x, int64_t n, float otherwise) {
    if (n >= HEED_LANES) return vf_load(x);
    return vf_select(vm_first(n), vf_load_part(x, n), vf_set(otherwise));
}

static float row_max(int64_t n, const float *x) {
    const vf lowest = vf_set(-INFINITY);
    vf m0 = lowest, m1 = lowest;
    int64_t i = 0;
    for (; i + 2 * HEED_LANES <= n; i += 2 * HEED_LANES) {
        m0 = vf_max(vf_load(x + i), m0);
        m1 = vf_max(vf_load(x + i + HEED_LANES), m1);
    }
    for (; i < n; i += HEED_LANES) m0 = vf_max(load_or(x + i, n - i, -INFINITY), m0);
    return vf_largest(vf_max(m0, m1));
}

static inline void row_forward(bool log, int64_t n, const float *x, float *y) {
    const vf shift = shift_of(vf_set(row_max(n, x)));
    vf sum0 = {0}, sum1 = {0};
    int64_t i = 0;
    for (; i + 2 * HEED_LANES <= n; i += 2 * HEED_LANES) {
        const vf e0 = vf_exp(vf_load(x + i) - shift), e1 = vf_exp(vf_load(x + i + HEED_LANES) - shift);
        sum0 += e0;
        sum1 += e1;
        if (!log) {
            vf_store(y + i, e0);
            vf_store(y + i + HEED_LANES, e1);
        }
    }
    for (; i < n; i += HEED_LANES) {
        const vf e = vf_exp(load_or(x + i, n - i, -INFINITY) - shift);
        sum0 += e;
        if (!log) store(false, e, n - i, y + i);
    }
    const vf sum = vf_set(vf_sum(sum0 + sum1));
    const vf factor = log ? log_of(sum) : inverse_of(sum);
    for (i = 0; i + HEED_LANES <= n; i += HEED_LANES)
        vf_store(y + i, log ? vf_load(x + i) - shift - factor : vf_load(y + i) * factor);
    if (i < n) {
        const vf last =
            log ? vf_load_part(x + i, n - i) - shift - factor : vf_load_part(y + i, n - i) * factor;
        vf_store_part(y + i, last, n - i);
    }
}

static inline void row_backward(bool log, int64_t n, const float *y, const float *dy, bool add, float *dx) {
    vf sum = {0}, ys = {0}, largest = vf_set(-INFINITY);
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        const vf yi = load_or(y + i, n - i, log ? -INFINITY : 0.0f), di = load_or(dy + i, n - i, 0.0f);
        sum += log ? di : yi * di;
        ys += yi;
        largest = vf_max(yi, largest);
    }
    const vf total = vf_set(vf_sum(sum));
    /* Only a row that was −∞ throughout has these outputs; NaN is none of them. */
    const float all = vf_sum(ys);
    const bool empty = log ? all == -INFINITY && vf_largest(largest) == -INFINITY : all == 0.0f;
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        const vf yi = load_or(y + i, n - i, 0.0f), di = load_or(dy + i, n - i, 0.0f);
        const vf value = log ? vf_fnma(vf_exp(yi), total, di) : yi * (di - total);
        store(add, empty ? vf_set(0.0f) : value, n - i, dx + i);
    }
}

/* ---- the table ---- */

#define FORWARD(width)                                                                                       \
    case width:                                                                                              \
        if (log)                                                                                             \
            short_forward(true, width, rows, x, y);                                                          \
        else                                                                                                 \
            short_forward(false, width, rows, x, y);                                                         \
        return

static void forward(bool log, int64_t rows, int64_t n, const float *x, float *y) {
    switch (n) {
        FORWARD(1);
        FORWARD(2);
        FORWARD(4);
#if HEED_LANES > 4
        FORWARD(8);
#endif
#if HEED_LANES > 8
        FORWARD(16);
#endif
    default:
        break;
    }
    for (int64_t i = padded_forward(log, rows, n, x, y); i < rows; i++) {
        if (log)
            row_forward(true, n, x + i * n, y + i * n);
        else
            row_forward(false, n, x + i * n, y + i * n);
    }
}

#define BACKWARD(width)                                                                                      \
    case width:                                                                                              \
        if (log)                                                                                             \
            groups_backward(true, width, rows *(width), y, dy, add, dx);                                     \
        else                                                                                                 \
            groups_backward(false, width, rows *(width), y, dy, add, dx);                                    \
        return

static void backward(bool log, int64_t rows, int64_t n, const float *y, const float *dy, bool add,
                     float *dx) {
    switch (n) {
        BACKWARD(1);
        BACKWARD(2);
        BACKWARD(4);
#if HEED_LANES > 4
        BACKWARD(8);
#endif
#if HEED_LANES > 8
        BACKWARD(16);
#endif
    default:
        break;
    }
    for (int64_t i = 0; i < rows; i++) {
        if (log)
            row_backward(true, n, y + i * n, dy + i * n, add, dx + i * n);
        else
            row_backward(false, n, y + i * n, dy + i * n, add, dx + i * n);
    }
}

const struct heed_softmax_vectors HEED_VECTOR_NAME(heed_softmax_vectors) = {
    .forward = forward,
    .backward = backward,
};
