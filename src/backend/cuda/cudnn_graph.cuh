/* Operation graphs of cuDNN and their plans.
 *
 * A graph is built by calls that each add a tensor or an operation. The first that fails leaves its status
 * and word in the graph, and those after it do nothing, so that one asks once, at the end. All descriptors
 * belong to the graph and live until it ends, its plan included. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_GRAPH_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_GRAPH_CUH

#include "backend/cuda/cudnn.cuh"

#include <stdint.h>

enum { DNN_MOST_DESCRIPTORS = 256, DNN_MOST_OPERATIONS = 40, DNN_MOST_BOUND = 24 };

/* What a graph is planned for: a device that is there, by a handle, or one that is described. */
struct dnn_target {
    const struct dnn_library *library;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t device; /* CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR; NULL: the handle's */
    int version;                     /* of its architecture: 90 is sm_90 */
};

struct dnn_graph {
    struct dnn_target target;
    cudnnStatus_t status; /* of the first call that failed */
    const char *failed;   /* which */
    int descriptors, operations;
    cudnnBackendDescriptor_t descriptor[DNN_MOST_DESCRIPTORS], operation[DNN_MOST_OPERATIONS];
    int64_t virtuals; /* so far */
    int bound;        /* tensors that are not virtual, in the order they were made */
    int64_t bound_id[DNN_MOST_BOUND];
    cudnnBackendDescriptor_t whole; /* all operations, when that is finalised */
    cudnnBackendDescriptor_t plan;  /* NULL: there is none */
    int64_t workspace;              /* bytes that it needs */
    int64_t too_large;              /* the smallest workspace that was too large; 0: none was */
};

void dnn_graph_begin(struct dnn_graph *g, const struct dnn_target *target);
void dnn_graph_end(struct dnn_graph *g);

/* ---- tensors: rank 4 ---- */

struct dnn_tensor {
    cudnnBackendDescriptor_t descriptor; /* NULL: none */
    cudnnDataType_t type;
    int64_t size[4], stride[4];
};

/* Where elements of a type begin: bf16 is read in vectors. */
static inline int64_t dnn_alignment(cudnnDataType_t type) {
    return type == CUDNN_DATA_BFLOAT16 ? 16 : type == CUDNN_DATA_INT64 ? 8 : 4;
}

/* One with memory, which is bound to the number `id` (1, 2, …) when the plan runs. */
struct dnn_tensor dnn_bound(struct dnn_graph *g, int64_t id, cudnnDataType_t type, const int64_t size[4],
                            const int64_t stride[4]);
/* One number of the host, which is read when the plan runs. */
struct dnn_tensor dnn_number(struct dnn_graph *g, int64_t id);
/* One between operations; contiguous. */
struct dnn_tensor dnn_virtual(struct dnn_graph *g, cudnnDataType_t type, int64_t a, int64_t b, int64_t c,
                              int64_t d);
/* The same elements with the last two dimensions swapped, as a tensor of its own between operations. */
struct dnn_tensor dnn_transposed(struct dnn_graph *g, const struct dnn_tensor *x, cudnnDataType_t type);

/* ---- operations ---- */

/* How many rows, columns and terms of a product there are in each batch entry: tensors [batch, 1, 1, 1], or
 * without a descriptor. */
struct dnn_lengths {
    const struct dnn_tensor *rows, *columns, *terms;
};

/* y = a·b. */
void dnn_matmul(struct dnn_graph *g, const struct dnn_tensor *a, const struct dnn_tensor *b,
                const struct dnn_tensor *y, const struct dnn_lengths *lengths);
/* y = mode(x, b), b NULL for one operand. */
void dnn_pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, const struct dnn_tensor *x,
                   const struct dnn_tensor *b, const struct dnn_tensor *y);
/* y = where ? x : b. */
void dnn_select(struct dnn_graph *g, const struct dnn_tensor *where, const struct dnn_tensor *x,
                const struct dnn_tensor *b, const struct dnn_tensor *y);
/* y, as large as x: the place of each element along a dimension. */
void dnn_index(struct dnn_graph *g, const struct dnn_tensor *x, int64_t dimension,
               const struct dnn_tensor *y);
/* y = x reduced along the dimensions in which y has size 1, or fewer (heads that share). */
void dnn_reduce(struct dnn_graph *g, cudnnReduceTensorOp_t op, const struct dnn_tensor *x,
                const struct dnn_tensor *y);
void dnn_reshape(struct dnn_graph *g, const struct dnn_tensor *x, const struct dnn_tensor *y);
/* y: 1 with a probability, else 0, by cuDNN's own random numbers of a seed from an offset on. */
void dnn_bernoulli(struct dnn_graph *g, double probability, const struct dnn_tensor *seed,
                   const struct dnn_tensor *offset, const struct dnn_tensor *y);

/* ---- plans ---- */

/* An engine and how its knobs are turned, where that is not left to cuDNN. */
struct dnn_engine {
    int64_t number; /* −1: left to cuDNN */
    int knobs;
    struct {
        cudnnBackendKnobType_t type;
        int64_t value;
    } knob[4];
};

/* The first plan that cuDNN has whose engine does not say that it is not deterministic, and whose workspace
 * is no larger. False if there is none; the status may say why the last one was refused. */
bool dnn_plan(struct dnn_graph *g, const struct dnn_engine *engine, int64_t most_workspace);

/* Whether a failure is one that may pass. */
bool dnn_lacks_memory(cudnnStatus_t status);

/* Runs the plan with pointers for the bound tensors, in order of g->bound_id. */
cudnnStatus_t dnn_run(const struct dnn_graph *g, void *const *pointer, void *workspace);

#endif
