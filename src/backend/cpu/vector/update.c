#include "backend/cpu/update.h"
#include "backend/cpu/vector/vector.h"

/* ---- the norm ---- */

typedef double vd __attribute__((vector_size(HEED_VECTOR_BYTES)));
typedef float vf_half __attribute__((vector_size(HEED_VECTOR_BYTES / 2)));
typedef float vf_half_memory __attribute__((vector_size(HEED_VECTOR_BYTES / 2), aligned(4), may_alias));

enum { HALF = HEED_LANES / 2 };

static inline vd load_double(const float *g) {
    return __builtin_convertvector((vf_half) * (const vf_half_memory *)g, vd);
}

static double squares(int64_t n, const float *g) {
    vd s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t i = 0;
    for (; i + 4 * HALF <= n; i += 4 * HALF) {
        const vd a = load_double(g + i), b = load_double(g + i + HALF);
        const vd c = load_double(g + i + 2 * HALF), d = load_double(g + i + 3 * HALF);
        s0 += a * a;
        s1 += b * b;
        s2 += c * c;
        s3 += d * d;
    }
    const vd sum = (s0 + s1) + (s2 + s3);
    double total = 0;
    for (int j = 0; j < HALF; j++) total += sum[j];
    for (; i < n; i++) total += (double)g[i] * g[i];
    return total;
}

static inline vf limited(vf g, vf scale, vf bound) {
    g *= scale;
    return vf_max(-bound, vf_min(bound, g));
}

static void limit(int64_t n, float scale, float clamp, float *g) {
    const vf s = vf_set(scale), bound = vf_set(clamp > 0 ? clamp : INFINITY);
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) vf_store(g + i, limited(vf_load(g + i), s, bound));
    if (i < n) vf_store_part(g + i, limited(vf_load_part(g + i, n - i), s, bound), n - i);
}

/* ---- steps ---- */

static inline vf sgd_lanes(const struct heed_sgd *o, vf p, vf g, vf *m, bool has_momentum) {
    g = vf_fma(vf_set(o->decay), p, g * vf_set(o->grad_scale));
    if (has_momentum) {
        const vf momentum = vf_set(o->momentum);
        *m = o->first ? g : vf_fma(momentum, *m, g);
        g = o->nesterov ? vf_fma(momentum, *m, g) : *m;
    }
    return vf_fnma(vf_set(o->rate), g, p);
}

static void sgd(const struct heed_sgd *o, int64_t n, float *p, const float *g, float *m) {
    const bool has = m != NULL;
    vf none = {0};
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) {
        vf mi = has ? vf_load(m + i) : none;
        vf_store(p + i, sgd_lanes(o, vf_load(p + i), vf_load(g + i), &mi, has));
        if (has) vf_store(m + i, mi);
    }
    if (i < n) {
        vf mi = has ? vf_load_part(m + i, n - i) : none;
        vf_store_part(p + i, sgd_lanes(o, vf_load_part(p + i, n - i), vf_load_part(g + i, n - i), &mi, has),
                      n - i);
        if (has) vf_store_part(m + i, mi, n - i);
    }
}

static inline vf adam_lanes(const struct heed_adam *o, vf p, vf g, vf *m, vf *v) {
    g = vf_fma(vf_set(o->decay), p, g * vf_set(o->grad_scale));
    p = vf_fnma(vf_set(o->shrink), p, p);
    *m = vf_fma(vf_set(o->beta1), *m, vf_set(o->rest1) * g);
    *v = vf_fma(vf_set(o->beta2), *v, vf_set(o->rest2) * g * g);
    const vf root = vf_sqrt(*v * vf_set(o->correction)) + vf_set(o->eps);
    return vf_fnma(vf_set(o->rate), *m / root, p);
}

static void adam(const struct heed_adam *o, int64_t n, float *p, const float *g, float *m, float *v) {
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) {
        vf mi = vf_load(m + i), second = vf_load(v + i);
        vf_store(p + i, adam_lanes(o, vf_load(p + i), vf_load(g + i), &mi, &second));
        vf_store(m + i, mi);
        vf_store(v + i, second);
    }
    if (i < n) {
        const int64_t left = n - i;
        vf mi = vf_load_part(m + i, left), second = vf_load_part(v + i, left);
        vf_store_part(
            p + i, adam_lanes(o, vf_load_part(p + i, left), vf_load_part(g + i, left), &mi, &second), left);
        vf_store_part(m + i, mi, left);
        vf_store_part(v + i, second, left);
    }
}

const struct heed_update_vectors HEED_VECTOR_NAME(heed_update_vectors) = {
    .squares = squares,
    .limit = limit,
    .sgd = sgd,
    .adam = adam,
};
