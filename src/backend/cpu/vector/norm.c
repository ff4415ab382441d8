/* Layer norm and RMS norm of rows. The variance is taken about the mean, in a pass of its own over a row that
 * is near by then. */
#include "backend/cpu/rows.h"
#include "backend/cpu/vector/vector.h"

static inline vf load(const float *x, int64_t n) {
    return n >= HEED_LANES ? vf_load(x) : vf_load_part(x, n);
}

/* `before` (NULL: nothing) is added. */
static inline void store(const float *before, vf value, int64_t n, float *y) {
    if (n >= HEED_LANES)
        vf_store(y, before != NULL ? vf_load(before) + value : value);
    else
        vf_store_part(y, before != NULL ? vf_load_part(before, n) + value : value, n);
}

static float row_mean(int64_t n, const float *x) {
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * HEED_LANES <= n; i += 2 * HEED_LANES) {
        s0 += vf_load(x + i);
        s1 += vf_load(x + i + HEED_LANES);
    }
    for (; i < n; i += HEED_LANES) s0 += load(x + i, n - i);
    return vf_sum(s0 + s1) / (float)n;
}

static float row_variance(int64_t n, const float *x, float mean) {
    const vf m = vf_set(mean);
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * HEED_LANES <= n; i += 2 * HEED_LANES) {
        const vf d0 = vf_load(x + i) - m, d1 = vf_load(x + i + HEED_LANES) - m;
        s0 = vf_fma(d0, d0, s0);
        s1 = vf_fma(d1, d1, s1);
    }
    for (; i + HEED_LANES <= n; i += HEED_LANES) {
        const vf d = vf_load(x + i) - m;
        s0 = vf_fma(d, d, s0);
    }
    if (i < n) {
        const vf d = vf_where(vm_first(n - i), vf_load_part(x + i, n - i) - m);
        s1 = vf_fma(d, d, s1);
    }
    return vf_sum(s0 + s1) / (float)n;
}

static inline void row_forward(int64_t n, const float *x, const float *weight, const float *bias, float *y,
                               struct heed_norm_statistics s) {
    const vf mean = vf_set(s.mean), rstd = vf_set(s.rstd);
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        vf v = (load(x + i, n - i) - mean) * rstd;
        if (weight != NULL) v *= load(weight + i, n - i);
        if (bias != NULL) v += load(bias + i, n - i);
        store(NULL, v, n - i, y + i);
    }
}

static void forward(const struct heed_norm_rows *rows, float *y) {
    const float *x = rows->x;
    const int64_t n = rows->n;
    for (int64_t r = 0; r < rows->count; r++, x += rows->row, y += n) {
        struct heed_norm_statistics s = {.mean = rows->rms ? 0.0f : row_mean(n, x)};
        s.rstd = 1.0f / sqrtf(row_variance(n, x, s.mean) + rows->eps);
        row_forward(n, x, rows->weight, rows->bias, y, s);
        if (rows->statistics != NULL) rows->statistics[r] = s;
    }
}

/* ---- backward ---- */

/* The means of g and of g·x̂ over a row, g = dy·weight. */
struct means {
    float g, gx;
};

/* Where the gradients of weight and bias are summed, either may be NULL; overwritten by the first row. */
struct sums {
    float *weight, *bias;
    bool add;
};

static inline void add_to(bool add, vf value, int64_t n, float *y) {
    store(add ? y : NULL, value, n, y);
}

static inline struct means row_look(int64_t n, const float *x, const float *weight, const float *dy,
                                    struct heed_norm_statistics s, struct sums sums) {
    const vf mean = vf_set(s.mean), rstd = vf_set(s.rstd);
    vf sum = {0}, product = {0};
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        const vf d = load(dy + i, n - i), normal = (load(x + i, n - i) - mean) * rstd;
        const vf g = weight != NULL ? d * load(weight + i, n - i) : d;
        sum += g;
        product = vf_fma(g, normal, product);
        if (sums.weight != NULL) add_to(sums.add, d * normal, n - i, sums.weight + i);
        if (sums.bias != NULL) add_to(sums.add, d, n - i, sums.bias + i);
    }
    return (struct means){vf_sum(sum) / (float)n, vf_sum(product) / (float)n};
}

/* rstd·(g − mean(g) − x̂·mean(g·x̂)); RMS has no mean(g). */
static inline void row_dx(int64_t n, const float *x, const float *weight, const float *dy,
                          struct heed_norm_statistics s, struct means means, const float *before, float *dx) {
    const vf mean = vf_set(s.mean), rstd = vf_set(s.rstd);
    const vf mean_g = vf_set(means.g), mean_gx = vf_set(means.gx);
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        vf g = load(dy + i, n - i);
        if (weight != NULL) g *= load(weight + i, n - i);
        const vf normal = (load(x + i, n - i) - mean) * rstd;
        store(before != NULL ? before + i : NULL, rstd * vf_fnma(normal, mean_gx, g - mean_g), n - i, dx + i);
    }
}

static void backward(const struct heed_norm_rows *rows, const struct heed_norm_gradients *g) {
    const float *x = rows->x, *weight = rows->weight, *dy = g->dy;
    const int64_t n = rows->n;
    for (int64_t r = 0; r < rows->count; r++, x += rows->row, dy += n) {
        const struct heed_norm_statistics s = rows->statistics[r];
        const struct sums sums = {g->dweight, g->dbias, g->sum || r > 0};
        struct means means;
        if (weight != NULL && sums.weight != NULL && sums.bias != NULL &&
            sums.add) /* the usual case, without tests inside */
            means = row_look(n, x, weight, dy, s, (struct sums){sums.weight, sums.bias, true});
        else
            means = row_look(n, x, weight, dy, s, sums);
        if (rows->rms) means.g = 0.0f;
        const int64_t at = r * g->dx_row;
        if (g->dx != NULL)
            row_dx(n, x, weight, dy, s, means, g->before != NULL ? g->before + at : NULL, g->dx + at);
    }
}

const struct heed_norm_vectors HEED_VECTOR_NAME(heed_norm_vectors) = {
    .forward = forward,
    .backward = backward,
};
