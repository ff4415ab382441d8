/* Attention as graphs of cuDNN: dropout(softmax(q·kᵀ·scale + bias, masked))·v, and its gradient.
 *
 * cuDNN knows attention by the shape of the whole graph, so each is built as it expects it: keys transposed,
 * masks as comparisons of places, the logarithm of the sum as maximum + log. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_ATTENTION_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_ATTENTION_CUH

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dnn_graph;
struct dnn_target;

/* A problem; what differs between two makes them two plans. Compared byte by byte: begin with zeros. Strides
 * are of batch, head and row; rows are contiguous. */
struct dnn_attention {
    int64_t batch, heads, kv_heads, queries, keys, width, value_width;
    int64_t q[3], k[3], v[3], y[3], dy[3], dq[3], dk[3], dv[3];
    int64_t bias_size[4], bias_stride[4]; /* sizes are 0 where there is none */
    int64_t kept;                         /* by dropout, of 65536 weights; 0: there is none */
    bool causal;                          /* top left */
    bool lengths;                         /* of queries and keys in each batch entry */
    bool bias_gradient;                   /* contiguous, of the bias' sizes */
    bool backward;
};

/* What a graph's tensors are bound to. Elements are bf16, but statistics, lengths and numbers. */
enum dnn_attention_id {
    DNN_Q = 1,
    DNN_K,
    DNN_V,
    DNN_Y,
    DNN_STATISTICS, /* f32 [batch, heads, queries]: log Σ e^s */
    DNN_BIAS,
    DNN_QUERY_LENGTHS, /* i32 [batch] */
    DNN_KEY_LENGTHS,
    DNN_SCALE, /* f32, of the host */
    DNN_HIDDEN,
    DNN_KEPT_SHARE, /* 1 without dropout */
    DNN_KEPT_SCALE, /* 1 / share */
    DNN_SEEDS,      /* i64 [batch, kv_heads]: a run takes that where its slice begins */
    DNN_OFFSET,     /* i64: where its random numbers begin */
    DNN_DY,
    DNN_DELTA, /* f32, as the statistics: rowsum(dy ∘ y), for cuDNN's use */
    DNN_DQ,
    DNN_DK,
    DNN_DV,
    DNN_DBIAS,
    DNN_IDS
};

/* A workspace beyond this is refused: where gradients are the same every time, cuDNN may want [batch, heads,
 * queries, keys] of it in bf16, and attention is to take memory that is linear in the lengths. */
#define DNN_MOST_WORKSPACE (INT64_C(256) << 20)

/* The part of a problem that one run computes, some batch entries or some heads of one; all runs are alike.
 * With dropout both directions are cut alike, so that they draw the same numbers. */
struct dnn_slice {
    int64_t batch, kv_heads;
};

/* Begins the graph, builds it and finds a plan: of all, or of slices where that takes too large a workspace.
 * False if there is none that takes so little and gives the same bits every time. */
bool dnn_attention_plan(struct dnn_graph *g, const struct dnn_target *target, const struct dnn_attention *a,
                        struct dnn_slice *slice);

/* Bytes from what is bound to an id to where the batch entry and the head of keys begin. */
int64_t dnn_attention_offset(const struct dnn_attention *a, int64_t id, int64_t batch, int64_t kv_head);

#endif
