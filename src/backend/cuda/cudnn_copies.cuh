/* The kernels around cuDNN's: copies of bf16 that know of lengths and of packed sequences, lengths as it gets
 * them, seeds, and rows that see nothing. Each reads and writes once what it is given. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_COPIES_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_COPIES_CUH

#include "backend/cuda/bf16.cuh"
#include "backend/cuda/cudnn_attention.cuh"

/* bf16 [batch, heads, rows, width] in two places, of which the second may be f32. */
struct dnn_copy {
    const cuda_bf16 *from;
    void *to;
    bool to_f32;
    int64_t size[4], from_stride[4], to_stride[4];
    const int32_t *lengths; /* by batch entry; NULL: none */
    int64_t batch_stride;   /* of the lengths */
    bool by_row;            /* rows from the length on are 0; otherwise all rows of an entry of length 0 */
    const int32_t *starts;  /* of packed sequences: their first rows, on one side; NULL: not packed */
    bool packs;             /* that side is `to`, and gets no other rows; otherwise they are 0 in `to` */
    bool add;
};

/* To bf16. */
struct dnn_copy dnn_copy_of(const struct heed_view *shape, const void *from, const int64_t from_stride[3],
                            void *to, const int64_t to_stride[3]);

heed_status dnn_run_copy(struct heed_exec *exec, const struct dnn_copy *copy);

/* Lengths of keys as cuDNN gets them, at least 1, and of queries, all. */
heed_status dnn_run_lengths(struct heed_exec *exec, const struct dnn_attention *p, const int32_t *length,
                            int64_t stride, int32_t *query_lengths, int32_t *key_lengths);

/* The seeds of a call's dropout, 64 bits each of its place's random numbers, and where theirs begin: at 0. */
heed_status dnn_run_seeds(struct heed_exec *exec, const struct dnn_attention *p,
                          const struct heed_random *random, int64_t *seeds, int64_t *offset);

/* Statistics of rows behind a sequence become 0: e^(−∞ − 0) is 0 in backward. */
heed_status dnn_run_clear_statistics(struct heed_exec *exec, const struct dnn_attention *p,
                                     const int32_t *starts, float *statistics);

/* Rows that see nothing: their biases are −∞ wherever a key is. */
struct dnn_rows {
    float *statistics;
    uint16_t *y;
    const uint16_t *bias;
    const int32_t *key_lengths; /* NULL: none */
    int64_t heads, queries, keys, value_width, rows;
    int64_t y_stride[3], bias_stride[4];
    bool causal;
};

/* Such rows get outputs of 0. */
heed_status dnn_run_settle(struct heed_exec *exec, const struct dnn_rows *rows);

#endif
