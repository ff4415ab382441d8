/* cuDNN in a context: its handle, and plans of attention by problem, found once and kept. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_PLANS_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_PLANS_CUH

#include "backend/cuda/cudnn_attention.cuh"
#include "backend/cuda/device.cuh"

struct dnn_session;

/* A plan that was found, or that there is none. */
struct dnn_planned {
    const struct dnn_graph *graph; /* of a slice; NULL: none */
    int64_t workspace;             /* bytes */
    struct dnn_slice slice;
};

/* Whether cuDNN can be used at all; opens the context's session when it is first asked. */
bool dnn_is_there(const struct heed_exec *exec, struct heed_why *why);

/* The plan of a problem. It is there until the next is asked for. That none was found is remembered too. */
struct dnn_planned dnn_plan_of(const struct heed_exec *exec, const struct dnn_attention *a,
                               struct heed_why *why);

/* Runs it on the context's stream, slice by slice. pointer: by enum dnn_attention_id. */
heed_status dnn_run_plan(struct heed_exec *exec, const struct dnn_attention *a,
                         const struct dnn_planned *planned, void *const pointer[DNN_IDS], void *workspace);

/* With the device: ends the session, if there is one. */
void dnn_session_close(struct cuda_device *device);

/* ", cuDNN 9.19.0" for heed_explain, or why it is not there. */
void dnn_describe(const struct cuda_device *device, char *text, size_t bytes);

#endif
