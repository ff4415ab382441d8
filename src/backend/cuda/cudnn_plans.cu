/* The session of a context, and its table of plans. */
#include "backend/cuda/cudnn_plans.cuh"

#include "backend/cuda/cudnn_graph.cuh"

#include <stdio.h>
#include <string.h>

enum { MOST_PLANS = 64 };

struct entry {
    struct dnn_attention problem;
    struct dnn_graph *graph; /* of a slice; NULL: there is no plan */
    struct dnn_slice slice;
    uint64_t used; /* when last; 0: the entry is free */
};

struct dnn_session {
    const struct dnn_library *library;
    cudnnHandle_t handle; /* NULL: it could not be made */
    int version;          /* of the device's architecture */
    uint64_t clock;
    struct entry entry[MOST_PLANS];
};

/* ---- opening and closing ---- */

static struct dnn_session *open_session(struct cuda_device *device, const struct dnn_library *library) {
    struct dnn_session *s =
        static_cast<struct dnn_session *>(heed_host->block_new(device->exec->memory, sizeof *s));
    if (!s) return NULL;
    memset(s, 0, sizeof *s);
    s->library = library;
    const cudaStream_t stream = cuda_stream(device); /* the handle is of the thread's device */
    s->version = device->architecture;
    if (library->cudnnCreate(&s->handle) != CUDNN_STATUS_SUCCESS) s->handle = NULL;
    if (s->handle && library->cudnnSetStream(s->handle, stream) != CUDNN_STATUS_SUCCESS) {
        library->cudnnDestroy(s->handle);
        s->handle = NULL;
    }
    return s;
}

bool dnn_is_there(const struct heed_exec *exec, struct heed_why *why) {
    struct cuda_device *device = cuda_of(exec);
    const struct dnn_library *library = dnn_library_open();
    why->reason = library->missing;
    if (library->missing) return false;
    if (!device->dnn) device->dnn = open_session(device, library);
    why->reason = device->dnn ? "cuDNN cannot be started on this device" : "no memory for cuDNN's plans";
    return device->dnn && device->dnn->handle;
}

static void end_graph(struct cuda_device *device, void *graph) {
    dnn_graph_end(static_cast<struct dnn_graph *>(graph));
    heed_host->block_free(device->exec->memory, graph);
}

void dnn_session_close(struct cuda_device *device) {
    struct dnn_session *s = device->dnn;
    if (!s) return;
    for (struct entry &e : s->entry)
        if (e.graph) end_graph(device, e.graph);
    if (s->handle) s->library->cudnnDestroy(s->handle);
    heed_host->block_free(device->exec->memory, s);
    device->dnn = NULL;
}

void dnn_describe(const struct cuda_device *device, char *text, size_t bytes) {
    const struct dnn_library *library = dnn_library_open();
    const size_t version = library->version;
    if (library->missing)
        snprintf(text, bytes, ", no cuDNN (%s)", library->missing);
    else
        snprintf(text, bytes, ", cuDNN %zu.%zu.%zu%s", version / 10000, version / 100 % 100, version % 100,
                 device->dnn && !device->dnn->handle ? " (which does not start)" : "");
}

/* ---- the table ---- */

static struct entry *find(struct dnn_session *s, const struct dnn_attention *a) {
    for (struct entry &e : s->entry)
        if (e.used && memcmp(&e.problem, a, sizeof *a) == 0) return &e;
    return NULL;
}

static struct entry *oldest(struct dnn_session *s) {
    struct entry *found = &s->entry[0];
    for (struct entry &e : s->entry)
        if (e.used < found->used) found = &e;
    return found;
}

/* Finds the plan of a new problem. An answer that comes of too little memory is not kept. */
static struct entry *plan_new(struct cuda_device *device, const struct dnn_attention *a,
                              struct heed_why *why) {
    struct dnn_session *s = device->dnn;
    const struct dnn_target target = {s->library, s->handle, NULL, s->version};
    struct dnn_slice slice;
    struct dnn_graph *graph =
        static_cast<struct dnn_graph *>(heed_host->block_new(device->exec->memory, sizeof *graph));
    why->reason = "no memory for a plan of cuDNN's";
    if (!graph) return NULL;
    const bool planned = dnn_attention_plan(graph, &target, a, &slice);
    const bool lacks_memory = !planned && dnn_lacks_memory(graph->status);
    if (!planned) end_graph(device, graph);
    if (lacks_memory) return NULL;
    struct entry *e = oldest(s);
    if (e->graph) cuda_retire(device, e->graph, end_graph); /* whose kernels may still run */
    memset(e, 0, sizeof *e);
    e->problem = *a;
    e->graph = planned ? graph : NULL;
    e->slice = slice;
    return e;
}

struct dnn_planned dnn_plan_of(const struct heed_exec *exec, const struct dnn_attention *a,
                               struct heed_why *why) {
    const struct dnn_planned none = {NULL, 0, {0, 0}};
    struct cuda_device *device = cuda_of(exec);
    if (!dnn_is_there(exec, why)) return none;
    struct entry *e = find(device->dnn, a);
    if (!e) e = plan_new(device, a, why);
    if (!e) return none;
    e->used = ++device->dnn->clock;
    why->reason =
        a->backward ? "cuDNN has no plan for its gradient that is the same every time and takes little memory"
                    : "cuDNN has no plan for it";
    if (!e->graph) return none;
    return {e->graph, e->graph->workspace, e->slice};
}

/* ---- running ---- */

static heed_status check(struct heed_exec *exec, cudnnStatus_t status) {
    if (status == CUDNN_STATUS_SUCCESS) return HEED_OK;
    const heed_status kind = dnn_lacks_memory(status) ? HEED_ERROR_MEMORY : HEED_ERROR_DEVICE;
    return heed_host->fail(exec, kind, HEED_PRIMITIVE_ATTENTION, "cuDNN: %s",
                           cuda_of(exec)->dnn->library->cudnnGetErrorString(status));
}

heed_status dnn_run_plan(struct heed_exec *exec, const struct dnn_attention *a,
                         const struct dnn_planned *planned, void *const pointer[DNN_IDS], void *workspace) {
    const struct dnn_graph *graph = planned->graph;
    heed_status status = HEED_OK;
    cuda_stream(cuda_of(exec)); /* the thread's device is the handle's */
    for (int64_t batch = 0; batch < a->batch; batch += planned->slice.batch) {
        for (int64_t head = 0; head < a->kv_heads && status == HEED_OK; head += planned->slice.kv_heads) {
            void *bound[DNN_MOST_BOUND];
            for (int i = 0; i < graph->bound; i++)
                bound[i] = static_cast<char *>(pointer[graph->bound_id[i]]) +
                           dnn_attention_offset(a, graph->bound_id[i], batch, head);
            status = check(exec, dnn_run(graph, bound, workspace));
        }
    }
    return status == HEED_OK ? cuda_started(exec, HEED_PRIMITIVE_ATTENTION) : status;
}
