#include "kit/internal.h"

#include <math.h>

/* Logits are ordered by size, equal ones by their index. A place in that order: */
struct place {
    float logit;
    int64_t index;
};

static bool before(struct place a, struct place b) {
    return a.logit > b.logit || (a.logit == b.logit && a.index < b.index);
}

/* The place of the k-th logit in order, 1 ≤ k ≤ count: k passes, for there are few candidates as a rule. */
static struct place kth(const float *logits, int64_t count, int64_t k) {
    struct place last = {INFINITY, -1};
    for (int64_t pass = 0; pass < k; pass++) {
        struct place next = {-INFINITY, count};
        for (int64_t i = 0; i < count; i++) {
            struct place here = {logits[i], i};
            if (before(last, here) && before(here, next)) next = here;
        }
        last = next;
    }
    return last;
}

static bool options_fit(const heed_sample_options *o) {
    return !o || (o->temperature >= 0.0 && isfinite(o->temperature) && o->top_k >= 0 &&
                  !(o->reserved[0] | o->reserved[1] | o->reserved[2] | o->reserved[3]));
}

int64_t heed_sample(const float *logits, int64_t count, double unit, const heed_sample_options *options) {
    if (!logits || count < 1 || !(unit >= 0.0 && unit < 1.0) || !options_fit(options)) return -1;
    double temperature = options && options->temperature > 0.0 ? options->temperature : 1.0;
    int64_t top_k = options && options->top_k > 0 && options->top_k < count ? options->top_k : count;
    float largest = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return -1;
        if (logits[i] > largest) largest = logits[i];
    }
    if (largest == -INFINITY) return -1;
    struct place last = top_k < count ? kth(logits, count, top_k) : (struct place){-INFINITY, count};
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        if (!before(last, (struct place){logits[i], i})) sum += exp((logits[i] - largest) / temperature);
    /* Where rounding leaves a rest, the last candidate that is possible takes it. */
    double rest = unit * sum;
    int64_t chosen = -1;
    for (int64_t i = 0; i < count && (chosen < 0 || rest >= 0.0); i++) {
        double weight =
            before(last, (struct place){logits[i], i}) ? 0.0 : exp((logits[i] - largest) / temperature);
        if (weight > 0.0) chosen = i;
        rest -= weight;
    }
    return chosen;
}
