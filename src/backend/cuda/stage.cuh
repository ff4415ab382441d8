/* A stage of the user's in a specialised kernel: what heed/score.h says of heed_stage_rule.cuda. The user's
 * sources come behind this, each in a namespace of its own, and then user_forward() and user_backward(),
 * which call them. */
#ifndef HEED_SRC_BACKEND_CUDA_STAGE_CUH
#define HEED_SRC_BACKEND_CUDA_STAGE_CUH

#include "backend/cuda/choice.cuh"

typedef HEED_CHOSEN_REAL real;

/* One score: its place, and what it sees of the stage's parameters. */
struct heed_cell {
    int64_t batch, head, query, key;
    int64_t queries, keys; /* of the whole matrix */
    const real *param[HEED_STAGE_MAX_PARAMS];
};

/* Where a thread gathers the gradient of one parameter of one stage, and which; those of the others are
 * gathered by other launches. */
struct heed_sums {
    int param;
    real *to; /* element i at to[i · stride] */
    int64_t count, stride;

    /* Adds to the gradient of what the cell sees of a parameter. Elements that are not there are passed
     * over. */
    __device__ inline void add(int of, int64_t element, real value) const {
        if (of == param && element >= 0 && element < count) to[element * stride] += value;
    }
};

#endif
