/* A call of attention by cuDNN: its problem, its plan, and where everything lies. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_CALL_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_CALL_CUH

#include "backend/cuda/cudnn_plans.cuh"

/* Where things are in scratch, by the ids of what they are bound to; 0 bytes: they are elsewhere. */
struct dnn_areas {
    size_t at[DNN_IDS], query_starts, key_starts, workspace, all;
};

/* A problem that is asked about, its plan, and scratch. */
struct dnn_planned_call {
    struct dnn_attention problem;
    struct dnn_planned plan;
    struct dnn_areas areas;
};

/* A call with its pointers: those of the arguments, or places in scratch. */
struct dnn_call {
    struct heed_exec *exec;
    const struct heed_attention_args *a;
    struct dnn_planned_call c;
    char *scratch;
    const struct heed_bound_mask *lengths;
    float scale, hidden, kept_share, kept_scale;
    void *pointer[DNN_IDS];
};

static inline void *dnn_area(const struct dnn_call *k, enum dnn_attention_id id) {
    return k->scratch + k->c.areas.at[id];
}

static inline int64_t dnn_row_count(const struct dnn_attention *p) {
    return p->batch * p->heads * p->queries;
}

/* Runs the plan. */
heed_status dnn_call_run(const struct dnn_call *k);

/* Packed sequences, which are unpacked into the batch that the problem is, and packed again. */
heed_status dnn_call_forward_packed(const struct dnn_call *k);
heed_status dnn_call_backward_packed(const struct dnn_call *k);

#endif
