/* How a function of lanes becomes a function to map: loops over blocks and tails. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ELEMENTWISE_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ELEMENTWISE_H

#include "backend/cpu/elementwise.h"
#include "backend/cpu/vector/vector.h"

/* n elements from element i on of an input, repeated if it has step 0. */
static inline vf vf_input(const void *const *in, const int *step, int k, int64_t i) {
    const float *x = in[k];
    return step[k] ? vf_load(x + i) : vf_set(*x);
}

static inline vf vf_input_part(const void *const *in, const int *step, int k, int64_t i, int64_t n) {
    const float *x = in[k];
    return step[k] ? vf_load_part(x + i, n) : vf_set(*x);
}

/* Defines a heed_map_fn called `name`: of one, two or three inputs, out of an expression in a, b, c and the
 * constant k that `self` points to (0 without). */
#define MAP_1(name, expression)                                                                              \
    static inline vf name##_lanes(vf a, vf k) {                                                              \
        (void)k;                                                                                             \
        return expression;                                                                                   \
    }                                                                                                        \
    static void name(const void *self, int64_t n, const void *const *in, const int *step, void *out) {       \
        const vf k = vf_set(self != NULL ? *(const float *)self : 0.0f);                                     \
        float *y = out;                                                                                      \
        int64_t i = 0;                                                                                       \
        for (; i + HEED_LANES <= n; i += HEED_LANES)                                                         \
            vf_store(y + i, name##_lanes(vf_input(in, step, 0, i), k));                                      \
        if (i < n) vf_store_part(y + i, name##_lanes(vf_input_part(in, step, 0, i, n - i), k), n - i);       \
    }

#define MAP_2(name, expression)                                                                              \
    static inline vf name##_lanes(vf a, vf b, vf k) {                                                        \
        (void)k;                                                                                             \
        return expression;                                                                                   \
    }                                                                                                        \
    static void name(const void *self, int64_t n, const void *const *in, const int *step, void *out) {       \
        const vf k = vf_set(self != NULL ? *(const float *)self : 0.0f);                                     \
        float *y = out;                                                                                      \
        int64_t i = 0;                                                                                       \
        for (; i + HEED_LANES <= n; i += HEED_LANES)                                                         \
            vf_store(y + i, name##_lanes(vf_input(in, step, 0, i), vf_input(in, step, 1, i), k));            \
        if (i < n)                                                                                           \
            vf_store_part(                                                                                   \
                y + i,                                                                                       \
                name##_lanes(vf_input_part(in, step, 0, i, n - i), vf_input_part(in, step, 1, i, n - i), k), \
                n - i);                                                                                      \
    }

#define MAP_3(name, expression)                                                                              \
    static inline vf name##_lanes(vf a, vf b, vf c) {                                                        \
        (void)a;                                                                                             \
        (void)b;                                                                                             \
        (void)c;                                                                                             \
        return expression;                                                                                   \
    }                                                                                                        \
    static void name(const void *self, int64_t n, const void *const *in, const int *step, void *out) {       \
        (void)self;                                                                                          \
        float *y = out;                                                                                      \
        int64_t i = 0;                                                                                       \
        for (; i + HEED_LANES <= n; i += HEED_LANES)                                                         \
            vf_store(y + i, name##_lanes(vf_input(in, step, 0, i), vf_input(in, step, 1, i),                 \
                                         vf_input(in, step, 2, i)));                                         \
        if (i < n)                                                                                           \
            vf_store_part(y + i,                                                                             \
                          name##_lanes(vf_input_part(in, step, 0, i, n - i),                                 \
                                       vf_input_part(in, step, 1, i, n - i),                                 \
                                       vf_input_part(in, step, 2, i, n - i)),                                \
                          n - i);                                                                            \
    }

/* A function of lanes that libm computes one by one. */
#define LANES_BY_LIBM(name, call)                                                                            \
    static inline vf name(vf a, vf b) {                                                                      \
        vf y;                                                                                                \
        for (int i = 0; i < HEED_LANES; i++) y[i] = call(a[i], b[i]);                                        \
        return y;                                                                                            \
    }

#endif
