/* Packed sequences by cuDNN: as a batch of equal lengths, with zeros behind each. */
#include <string.h>
#include <utility>

#include "backend/cuda/cudnn_call.cuh"
#include "backend/cuda/cudnn_copies.cuh"
#include "backend/cuda/cudnn_problem.cuh"

/* Lengths as cuDNN gets them, never 0 keys; and starts, the last for all that only fill the batch up. */
static void write_starts(const struct heed_packed *packed, int64_t batch, int32_t *to) {
    int32_t *query_lengths = to, *key_lengths = to + batch, *query_starts = to + 2 * batch,
            *key_starts = query_starts + batch + 1;
    for (int64_t i = 0; i <= batch; i++) {
        const int64_t own = i < packed->sequences ? i : packed->sequences;
        query_starts[i] = packed->query_starts[own];
        key_starts[i] = packed->key_starts[own];
    }
    for (int64_t i = 0; i < batch; i++) {
        const int32_t keys = key_starts[i + 1] - key_starts[i];
        query_lengths[i] = query_starts[i + 1] - query_starts[i];
        key_lengths[i] = keys < 1 ? 1 : keys;
    }
}

static heed_status send_starts(const struct dnn_call *k) {
    const int64_t batch = k->c.problem.batch;
    const size_t bytes = (size_t)(4 * batch + 2) * sizeof(int32_t);
    void *host = heed_host->block_new(k->exec->memory, bytes);
    if (!host)
        return heed_host->fail(k->exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_ATTENTION,
                               "no memory for the starts of %lld sequences", (long long)batch);
    write_starts(&k->a->packed, batch, static_cast<int32_t *>(host));
    const heed_status status =
        heed_cuda_device.write(cuda_of(k->exec), dnn_area(k, DNN_QUERY_LENGTHS), host, bytes);
    heed_host->block_free(k->exec->memory, host);
    return status;
}

static const int32_t *starts_of(const struct dnn_call *k, bool keys) {
    return reinterpret_cast<const int32_t *>(k->scratch +
                                             (keys ? k->c.areas.key_starts : k->c.areas.query_starts));
}

/* Rows of sequences, of queries or keys, to or from a batch. */
static struct dnn_copy packed_copy(const struct dnn_call *k, const struct heed_view *v, bool keys) {
    const struct dnn_attention *p = &k->c.problem;
    struct heed_view shape = *v;
    int64_t dense[3];
    shape.size[0] = p->batch;
    shape.size[2] = keys ? p->keys : p->queries;
    dnn_set_dense(&shape, dense);
    struct dnn_copy copy = dnn_copy_of(&shape, v->data, v->stride, NULL, dense);
    copy.starts = starts_of(k, keys);
    return copy;
}

static heed_status unpack(const struct dnn_call *k, const struct heed_view *v, enum dnn_attention_id id,
                          bool keys) {
    struct dnn_copy copy = packed_copy(k, v, keys);
    copy.to = dnn_area(k, id);
    return dnn_run_copy(k->exec, &copy);
}

static heed_status pack(const struct dnn_call *k, enum dnn_attention_id id, const struct heed_view *v,
                        bool add, bool keys) {
    struct dnn_copy copy = packed_copy(k, v, keys);
    if (!heed_has(v)) return HEED_OK;
    for (int d = 0; d < 4; d++) std::swap(copy.from_stride[d], copy.to_stride[d]);
    copy.from = static_cast<const cuda_bf16 *>(dnn_area(k, id));
    copy.to = v->data;
    copy.to_f32 = v->dtype == HEED_F32;
    copy.packs = true;
    copy.add = add;
    return dnn_run_copy(k->exec, &copy);
}

static heed_status unpack_inputs(const struct dnn_call *k) {
    const struct heed_attention_args *a = k->a;
    heed_status status = send_starts(k);
    if (status == HEED_OK) status = unpack(k, &a->q, DNN_Q, false);
    if (status == HEED_OK) status = unpack(k, &a->k, DNN_K, true);
    return status == HEED_OK ? unpack(k, &a->v, DNN_V, true) : status;
}

heed_status dnn_call_forward_packed(const struct dnn_call *k) {
    heed_status status = unpack_inputs(k);
    if (status == HEED_OK) status = dnn_call_run(k);
    if (status == HEED_OK) status = pack(k, DNN_Y, &k->a->y, false, false);
    if (status != HEED_OK) return status;
    return dnn_run_clear_statistics(k->exec, &k->c.problem, starts_of(k, false),
                                    static_cast<float *>(k->pointer[DNN_STATISTICS]));
}

heed_status dnn_call_backward_packed(const struct dnn_call *k) {
    const struct heed_attention_args *a = k->a;
    heed_status status = unpack_inputs(k);
    if (status == HEED_OK) status = unpack(k, &a->y, DNN_Y, false);
    if (status == HEED_OK) status = unpack(k, &a->dy, DNN_DY, false);
    if (status == HEED_OK) status = dnn_call_run(k);
    if (status == HEED_OK) status = pack(k, DNN_DQ, &a->dq.view, a->dq.add, false);
    if (status == HEED_OK) status = pack(k, DNN_DK, &a->dk.view, a->dk.add, true);
    return status == HEED_OK ? pack(k, DNN_DV, &a->dv.view, a->dv.add, true) : status;
}
