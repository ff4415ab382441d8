/* The inner loops of the optimisers' kernels. */
#ifndef HEED_SRC_BACKEND_CPU_UPDATE_H
#define HEED_SRC_BACKEND_CPU_UPDATE_H

#include "backend/cpu/cpu.h"

struct heed_sgd {
    float grad_scale, rate, decay, momentum;
    bool first, nesterov;
};

struct heed_adam {
    float grad_scale;
    float decay;                      /* Adam: added to the gradient, times the parameter */
    float shrink;                     /* AdamW: the parameter is multiplied by 1 − shrink */
    float beta1, rest1, beta2, rest2; /* rest: 1 − β */
    float rate;                       /* over 1 − β1^step */
    float correction;                 /* 1 / (1 − β2^step) */
    float eps;
};

struct heed_update_vectors {
    /* Σ g² in double. */
    double (*squares)(int64_t n, const float *g);
    /* g = g·scale, then clamped to ± clamp if that is not 0; NaN stays. */
    void (*limit)(int64_t n, float scale, float clamp, float *g);
    void (*sgd)(const struct heed_sgd *o, int64_t n, float *p, const float *g, float *m); /* m may be NULL */
    void (*adam)(const struct heed_adam *o, int64_t n, float *p, const float *g, float *m, float *v);
};
HEED_CPU_TABLE(update)

#endif
