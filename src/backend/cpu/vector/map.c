#include "backend/cpu/map.h"
#include "backend/cpu/vector/vector.h"

/* The larger; NaN if either is. */
static inline vf larger(vf a, vf b) {
    return vf_select(vm_equal(a, a), vf_max(a, b), a);
}

static void add_rows(int64_t m, int64_t n, const float *t, float *acc) {
    int64_t j = 0;
    for (; j + 2 * HEED_LANES <= n; j += 2 * HEED_LANES) {
        vf s = vf_load(acc + j), u = vf_load(acc + j + HEED_LANES);
        for (int64_t i = 0; i < m; i++) {
            s += vf_load(t + i * n + j);
            u += vf_load(t + i * n + j + HEED_LANES);
        }
        vf_store(acc + j, s);
        vf_store(acc + j + HEED_LANES, u);
    }
    for (; j < n; j += HEED_LANES) {
        const int64_t part = n - j < HEED_LANES ? n - j : HEED_LANES;
        vf s = vf_load_part(acc + j, part);
        for (int64_t i = 0; i < m; i++) s += vf_load_part(t + i * n + j, part);
        vf_store_part(acc + j, s, part);
    }
}

static void max_rows(int64_t m, int64_t n, const float *t, float *acc) {
    for (int64_t j = 0; j < n; j += HEED_LANES) {
        const int64_t part = n - j < HEED_LANES ? n - j : HEED_LANES;
        vf s = vf_load_part(acc + j, part);
        for (int64_t i = 0; i < m; i++) s = larger(s, vf_load_part(t + i * n + j, part));
        vf_store_part(acc + j, s, part);
    }
}

static float row_sum(int64_t n, const float *x) {
    vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t j = 0;
    for (; j + 4 * HEED_LANES <= n; j += 4 * HEED_LANES) {
        s0 += vf_load(x + j);
        s1 += vf_load(x + j + HEED_LANES);
        s2 += vf_load(x + j + 2 * HEED_LANES);
        s3 += vf_load(x + j + 3 * HEED_LANES);
    }
    for (; j + HEED_LANES <= n; j += HEED_LANES) s0 += vf_load(x + j);
    if (j < n) s1 += vf_load_part(x + j, n - j);
    return vf_sum((s0 + s1) + (s2 + s3));
}

static void add_columns(int64_t m, int64_t n, const float *t, float *acc) {
    for (int64_t i = 0; i < m; i++) acc[i] += row_sum(n, t + i * n);
}

static float row_max(int64_t n, const float *x) {
    vf s = vf_set(-INFINITY);
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) s = larger(s, vf_load(x + j));
    if (j < n) s = larger(s, vf_select(vm_first(n - j), vf_load_part(x + j, n - j), vf_set(-INFINITY)));
    return vf_largest(s);
}

static void max_columns(int64_t m, int64_t n, const float *t, float *acc) {
    for (int64_t i = 0; i < m; i++) {
        const float largest = row_max(n, t + i * n);
        if (largest > acc[i] || largest != largest) acc[i] = largest;
    }
}

static void write(int64_t n, float scale, const float *x, float *y) {
    const vf s = vf_set(scale);
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) vf_store(y + j, s * vf_load(x + j));
    if (j < n) vf_store_part(y + j, s * vf_load_part(x + j, n - j), n - j);
}

static void add(int64_t n, float scale, const float *x, float *y) {
    const vf s = vf_set(scale);
    int64_t j = 0;
    for (; j + HEED_LANES <= n; j += HEED_LANES) vf_store(y + j, vf_fma(s, vf_load(x + j), vf_load(y + j)));
    if (j < n) vf_store_part(y + j, vf_fma(s, vf_load_part(x + j, n - j), vf_load_part(y + j, n - j)), n - j);
}

const struct heed_map_vectors HEED_VECTOR_NAME(heed_map_vectors) = {
    .add_rows = add_rows,
    .max_rows = max_rows,
    .add_columns = add_columns,
    .max_columns = max_columns,
    .write = write,
    .add = add,
};
