#include "backend/cpu/rows.h"
#include "backend/cpu/vector/elementwise.h"

static inline vf load_or(const float *x, int64_t n, float otherwise) {
    if (n >= HEED_LANES) return vf_load(x);
    return vf_select(vm_first(n), vf_load_part(x, n), vf_set(otherwise));
}

/* ---- cross-entropy ---- */

static float row_max(int64_t n, const float *x) {
    vf m0 = vf_set(-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    int64_t i = 0;
    for (; i + 4 * HEED_LANES <= n; i += 4 * HEED_LANES) {
        m0 = vf_max(vf_load(x + i), m0);
        m1 = vf_max(vf_load(x + i + HEED_LANES), m1);
        m2 = vf_max(vf_load(x + i + 2 * HEED_LANES), m2);
        m3 = vf_max(vf_load(x + i + 3 * HEED_LANES), m3);
    }
    for (; i < n; i += HEED_LANES) m0 = vf_max(load_or(x + i, n - i, -INFINITY), m0);
    return vf_largest(vf_max(vf_max(m0, m1), vf_max(m2, m3)));
}

static struct heed_logits look(int64_t n, const float *x) {
    const float maximum = row_max(n, x);
    const vf shift = vf_set(maximum == -INFINITY ? 0.0f : maximum);
    vf sum0 = {0}, sum1 = {0}, shifted0 = {0}, shifted1 = {0};
    int64_t i = 0;
    for (; i + 2 * HEED_LANES <= n; i += 2 * HEED_LANES) {
        const vf d0 = vf_load(x + i) - shift, d1 = vf_load(x + i + HEED_LANES) - shift;
        sum0 += vf_exp(d0);
        sum1 += vf_exp(d1);
        shifted0 += d0;
        shifted1 += d1;
    }
    for (; i < n; i += HEED_LANES) {
        const vf d = load_or(x + i, n - i, -INFINITY) - shift;
        sum0 += vf_exp(d);
        shifted0 += n - i >= HEED_LANES ? d : vf_where(vm_first(n - i), d);
    }
    return (struct heed_logits){maximum, vf_sum(sum0 + sum1), vf_sum(shifted0 + shifted1)};
}

static void cross_entropy_back(int64_t n, const float *x, float maximum, float factor, float base, bool add,
                               float *dx) {
    const vf m = vf_set(maximum), f = vf_set(factor), b = vf_set(base);
    int64_t i = 0;
    for (; i + HEED_LANES <= n; i += HEED_LANES) {
        const vf d = vf_fma(vf_exp(vf_load(x + i) - m), f, -b);
        vf_store(dx + i, add ? vf_load(dx + i) + d : d);
    }
    if (i < n) {
        const vf d = vf_fma(vf_exp(vf_load_part(x + i, n - i) - m), f, -b);
        vf_store_part(dx + i, add ? vf_load_part(dx + i, n - i) + d : d, n - i);
    }
}

/* ---- losses of pairs ---- */

/* Terms that one f32 lane sums before its sum is taken into double. */
enum { RUN = 32 * HEED_LANES };

static double squares(int64_t n, const float *x, const float *t) {
    double total = 0;
    for (int64_t first = 0; first < n; first += RUN) {
        const int64_t end = n - first < RUN ? n : first + RUN;
        vf sum = {0};
        for (int64_t i = first; i < end; i += HEED_LANES) {
            const vf d = load_or(x + i, end - i, 0.0f) - load_or(t + i, end - i, 0.0f);
            sum = vf_fma(d, d, sum);
        }
        total += vf_sum(sum);
    }
    return total;
}

/* log(1 + e) for 0 ≤ e ≤ 1; what rounding 1 + e lost is given back in proportion. */
static inline vf log_1_plus(vf e) {
    const vf u = vf_set(1.0f) + e, taken = u - vf_set(1.0f);
    return vf_select(vm_equal(taken, vf_set(0.0f)), e, vf_log(u) * (e / taken));
}

static double logistic(int64_t n, const float *x, const float *t) {
    double total = 0;
    for (int64_t first = 0; first < n; first += RUN) {
        const int64_t end = n - first < RUN ? n : first + RUN;
        vf sum = {0};
        for (int64_t i = first; i < end; i += HEED_LANES) {
            const vf a = load_or(x + i, end - i, 0.0f), b = load_or(t + i, end - i, 0.0f);
            const vf loss = vf_relu(a) - a * b + log_1_plus(vf_exp(-vf_abs(a)));
            sum += end - i >= HEED_LANES ? loss : vf_where(vm_first(end - i), loss);
        }
        total += vf_sum(sum);
    }
    return total;
}

MAP_2(logistic_back, vf_sigmoid(a) - b)

/* ---- arg max ---- */

static int64_t argmax(int64_t n, const float *x) {
    vf m = vf_set(-INFINITY);
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        const vf v = load_or(x + i, n - i, -INFINITY);
        m = vf_select(vm_equal(m, m), vf_max(m, v), m); /* NaN wins */
    }
    const float maximum = vf_largest(m);
    const vf wanted = vf_set(maximum);
    const bool nan = maximum != maximum;
    for (int64_t i = 0; i < n; i += HEED_LANES) {
        const vf v = load_or(x + i, n - i, 0.0f);
        vm found = nan ? vm_not(vm_equal(v, v)) : vm_equal(v, wanted);
        if (n - i < HEED_LANES) found = vm_and(found, vm_first(n - i));
        if (vm_any(found)) return i + __builtin_ctz(vm_bits(found));
    }
    return 0;
}

const struct heed_loss_vectors HEED_VECTOR_NAME(heed_loss_vectors) = {
    .look = look,
    .cross_entropy_back = cross_entropy_back,
    .squares = squares,
    .logistic = logistic,
    .logistic_back = logistic_back,
    .argmax = argmax,
};
