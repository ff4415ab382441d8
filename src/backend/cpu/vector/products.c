/* Small matrix products, activations and column sums. */
#include "backend/cpu/vector/products.h"

#include "backend/cpu/vector/product.h"

/* ---- small products ---- */

/* Floats of B, and of C, that are copied so that their rows are padded: 16 KiB each, on the stack. */
#define SMALL 4096

static int64_t padded(int64_t n) {
    return (n + HEED_LANES - 1) / HEED_LANES * HEED_LANES;
}

/* In terms of the widest vectors, so that every instruction set makes the same choice. */
static bool small_fits(int64_t m, int64_t n, int64_t k) {
    const int64_t columns = (n + 15) / 16 * 16;
    return n <= SMALL && m <= SMALL && k <= SMALL && columns * k <= SMALL && columns * m <= SMALL;
}

static void copy_rows(const float *from, int64_t row, int64_t column, int64_t rows, int64_t columns,
                      float *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++, from += row, to += to_row) {
        if (column == 1) {
            int64_t j = 0;
            for (; j + HEED_LANES <= columns; j += HEED_LANES) vf_store(to + j, vf_load(from + j));
            if (j < columns) vf_store(to + j, vf_load_part(from + j, columns - j));
        } else {
            for (int64_t j = 0; j < columns; j++) to[j] = from[j * column];
            for (int64_t j = columns; j < to_row; j++) to[j] = 0;
        }
    }
}

static void small_product(const struct heed_small_product *x) {
    float b[SMALL] __attribute__((aligned(64))), c[SMALL] __attribute__((aligned(64)));
    const int64_t columns = padded(x->n);
    struct product p = {x->k, x->a, x->a_row, x->a_column, x->b, x->b_row, x->c, x->c_row, x->add};
    if (x->b_column != 1 || columns != x->n) {
        copy_rows(x->b, x->b_row, x->b_column, x->k, x->n, b, columns);
        p.b = b;
        p.b_row = columns;
    }
    if (columns == x->n) {
        product_run(&p, x->m, x->n);
        return;
    }
    p.c = c;
    p.c_row = columns;
    if (x->add) copy_rows(x->c, x->c_row, 1, x->m, x->n, c, columns);
    product_run(&p, x->m, x->n);
    for (int64_t i = 0; i < x->m; i++) {
        const int64_t whole = x->n / HEED_LANES * HEED_LANES;
        float *to = x->c + i * x->c_row;
        const float *from = c + i * columns;
        for (int64_t j = 0; j < whole; j += HEED_LANES) vf_store(to + j, vf_load(from + j));
        vf_store_part(to + whole, vf_load(from + whole), x->n - whole);
    }
}

/* ---- activations ---- */

static inline __attribute__((always_inline)) vf activation_value(heed_activation activation, vf x) {
    switch (activation) {
    case HEED_ACTIVATION_RELU:
        return vf_relu(x);
    case HEED_ACTIVATION_GELU:
        return vf_gelu(x);
    case HEED_ACTIVATION_GELU_TANH:
        return vf_gelu_tanh(x);
    case HEED_ACTIVATION_SILU:
        return vf_silu(x);
    case HEED_ACTIVATION_TANH:
        return vf_tanh(x);
    case HEED_ACTIVATION_SIGMOID:
        return vf_sigmoid(x);
    case HEED_ACTIVATION_NONE:
        break;
    }
    return x;
}

/* dy · slope, by x where the derivative is by x, else by y. What relu stops is 0 even if dy is not finite. */
static inline __attribute__((always_inline)) vf activation_gradient(heed_activation activation, vf kept,
                                                                    vf dy) {
    switch (activation) {
    case HEED_ACTIVATION_RELU:
        return vf_where(vm_not(vm_less_equal(kept, vf_set(0.0f))), dy);
    case HEED_ACTIVATION_GELU:
        return dy * vf_gelu_slope(kept);
    case HEED_ACTIVATION_GELU_TANH:
        return dy * vf_gelu_tanh_slope(kept);
    case HEED_ACTIVATION_SILU:
        return dy * vf_silu_slope(kept);
    case HEED_ACTIVATION_TANH:
        return dy * vf_fnma(kept, kept, vf_set(1.0f));
    case HEED_ACTIVATION_SIGMOID:
        return dy * kept * (vf_set(1.0f) - kept);
    case HEED_ACTIVATION_NONE:
        break;
    }
    return dy;
}

/* A function is made for each activation, so that the choice is outside the loops. */
#define FOR_ACTIVATIONS(X)                                                                                   \
    X(HEED_ACTIVATION_NONE)                                                                                  \
    X(HEED_ACTIVATION_RELU)                                                                                  \
    X(HEED_ACTIVATION_GELU)                                                                                  \
    X(HEED_ACTIVATION_GELU_TANH)                                                                             \
    X(HEED_ACTIVATION_SILU)                                                                                  \
    X(HEED_ACTIVATION_TANH)                                                                                  \
    X(HEED_ACTIVATION_SIGMOID)

static inline __attribute__((always_inline)) void activate_row(heed_activation activation,
                                                               const struct heed_activate *a, int64_t i) {
    const float *x = a->x + i * a->x_row;
    float *pre = a->pre ? a->pre + i * a->pre_row : NULL, *y = a->y + i * a->y_row;
    float *copy = a->copy ? a->copy + i * a->copy_row : NULL;
    for (int64_t j = 0; j < a->columns; j += HEED_LANES) {
        const int64_t n = a->columns - j;
        const bool whole = n >= HEED_LANES;
        vf v = whole ? vf_load(x + j) : vf_load_part(x + j, n);
        if (a->bias) v += whole ? vf_load(a->bias + j) : vf_load_part(a->bias + j, n);
        const vf value = activation_value(activation, v);
        if (whole) {
            if (pre) vf_store(pre + j, v);
            vf_store(y + j, value);
            if (copy) vf_store(copy + j, value);
        } else {
            if (pre) vf_store_part(pre + j, v, n);
            vf_store_part(y + j, value, n);
            if (copy) vf_store_part(copy + j, value, n);
        }
    }
}

static void activate(const struct heed_activate *a) {
#define ACTIVATE(activation)                                                                                 \
    case activation:                                                                                         \
        for (int64_t i = 0; i < a->rows; i++) activate_row(activation, a, i);                                \
        break;
    switch (a->activation) { FOR_ACTIVATIONS(ACTIVATE) }
}

static inline __attribute__((always_inline)) void slope_row(heed_activation activation, const float *kept,
                                                            const float *dy, float *dz, int64_t n) {
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) {
        vf_store(dz + j, activation_gradient(activation, vf_load(kept + j), vf_load(dy + j)));
    }
    if (j < n) {
        const vf dx =
            activation_gradient(activation, vf_load_part(kept + j, n - j), vf_load_part(dy + j, n - j));
        vf_store_part(dz + j, dx, n - j);
    }
}

static void slope(heed_activation activation, const float *kept, const float *dy, float *dz, int64_t n) {
#define SLOPE(activation)                                                                                    \
    case activation:                                                                                         \
        slope_row(activation, kept, dy, dz, n);                                                              \
        break;
    switch (activation) { FOR_ACTIVATIONS(SLOPE) }
}

/* ---- column sums ---- */

/* Rows are added in groups of 64, so that rounding grows with rows/64 + 64 and not with rows. */
enum { GROUP = 64 };

static vf group_sum(const float *x, int64_t x_row, int64_t rows, int64_t n) {
    vf sum = {0};
    if (n >= HEED_LANES) {
        for (int64_t i = 0; i < rows; i++) sum += vf_load(x + i * x_row);
    } else {
        for (int64_t i = 0; i < rows; i++) sum += vf_load_part(x + i * x_row, n);
    }
    return sum;
}

static void column_sums(const float *x, int64_t x_row, int64_t rows, int64_t columns, float *sum, bool add) {
    for (int64_t j = 0; j < columns; j += HEED_LANES) {
        const int64_t n = columns - j < HEED_LANES ? columns - j : HEED_LANES;
        vf total = add ? vf_load_part(sum + j, n) : (vf){0};
        for (int64_t i = 0; i < rows; i += GROUP) {
            total += group_sum(x + i * x_row + j, x_row, rows - i < GROUP ? rows - i : GROUP, n);
        }
        vf_store_part(sum + j, total, n);
    }
}

const struct heed_product_vectors HEED_VECTOR_NAME(heed_product_vectors) = {small_fits, small_product,
                                                                            activate, slope, column_sums};
