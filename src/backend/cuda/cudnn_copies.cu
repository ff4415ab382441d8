/* Copies of bf16 that know of lengths and of packed sequences, and what else is around cuDNN.
 *
 * dnn_deliver: to = from, or to + from, and 0 where the row is hidden; 4 bytes an element, 6 to add, 2 more
 * where `to` is f32. dnn_lengths: of keys min(max(length, 1), keys), of queries all; 12 bytes an entry.
 * dnn_seeds: two words of a block of Philox each; 8 bytes a seed. dnn_clear_statistics: 0 behind a sequence;
 * up to 4 bytes a row. dnn_settle: rows that see nothing get 0; 4 bytes a row, and the biases of those whose
 * statistics are no number. */
#include "backend/cuda/cudnn_copies.cuh"

#include <string.h>

#include "backend/cuda/cudnn_problem.cuh"
#include "backend/cuda/pack.cuh"
#include "backend/cuda/philox.cuh"

/* ---- kernels ---- */

static __global__ void dnn_lengths(const int32_t *length, int64_t stride, int64_t batch, int64_t queries,
                                   int64_t keys, int32_t *query_lengths, int32_t *key_lengths) {
    for (int64_t b = CUDA_FIRST; b < batch; b += CUDA_STEP) {
        const int32_t own = length[b * stride];
        query_lengths[b] = (int32_t)queries;
        key_lengths[b] = own < 1 ? 1 : own > keys ? (int32_t)keys : own;
    }
}

static __global__ void dnn_seeds(struct heed_random random, int64_t count, int64_t *seeds, int64_t *offset) {
    for (int64_t i = CUDA_FIRST; i < count; i += CUDA_STEP) {
        uint32_t word[4];
        cuda_random_block(random, (uint32_t)i, word);
        seeds[i] = (int64_t)((uint64_t)word[1] << 32 | word[0]);
        if (i == 0) *offset = 0;
    }
}

/* to = from, or to += from; 0 where lengths hide it. What lies in its place already is only hidden. N
 * elements of a row at once. */
template <int N, typename TO> static __global__ void dnn_deliver(struct dnn_copy c) {
    const int64_t packs = c.size[3] / N, count = c.size[0] * c.size[1] * c.size[2] * packs;
    for (int64_t i = CUDA_FIRST; i < count; i += CUDA_STEP) {
        const int64_t row = i / packs, w = (i - row * packs) * N, line = row / c.size[2],
                      r = row - line * c.size[2], b = line / c.size[1], h = line - b * c.size[1];
        int64_t from_row = r, to_row = r;
        bool hidden = false;
        if (c.lengths)
            hidden = c.by_row ? r >= c.lengths[b * c.batch_stride] : c.lengths[b * c.batch_stride] < 1;
        if (c.starts) {
            hidden = r >= c.starts[b + 1] - c.starts[b];
            if (c.packs && hidden) continue;
            if (c.packs)
                to_row += c.starts[b];
            else
                from_row += c.starts[b];
        }
        const cuda_bf16 *from = c.from + b * c.from_stride[0] + h * c.from_stride[1] +
                                from_row * c.from_stride[2] + w * c.from_stride[3];
        TO *to = static_cast<TO *>(c.to) + b * c.to_stride[0] + h * c.to_stride[1] + to_row * c.to_stride[2] +
                 w * c.to_stride[3];
        if (c.from == c.to && !hidden) continue;
        cuda_pack<TO, N> own = {};
        if (!hidden) {
            const cuda_pack<cuda_bf16, N> given = cuda_load<N>(from);
            for (int k = 0; k < N; k++) own.at[k] = (TO)(float)given.at[k];
        }
        if (c.add) {
            const cuda_pack<TO, N> before = cuda_load<N>(to);
            for (int k = 0; k < N; k++) own.at[k] = (TO)((float)before.at[k] + (float)own.at[k]);
        }
        cuda_store(to, own);
    }
}

static __global__ void dnn_clear_statistics(float *statistics, const int32_t *starts, int64_t heads,
                                            int64_t queries, int64_t rows) {
    for (int64_t row = CUDA_FIRST; row < rows; row += CUDA_STEP) {
        const int64_t line = row / queries, batch = line / heads;
        if (row - line * queries >= starts[batch + 1] - starts[batch]) statistics[row] = 0;
    }
}

static __device__ inline bool sees_nothing(const dnn_rows &r, int64_t batch, int64_t head, int64_t query) {
    const uint16_t minus_infinity = 0xff80;
    const uint16_t *bias =
        r.bias + batch * r.bias_stride[0] + head * r.bias_stride[1] + query * r.bias_stride[2];
    int64_t keys = r.key_lengths ? r.key_lengths[batch] : r.keys;
    if (r.causal && keys > query + 1) keys = query + 1;
    for (int64_t k = 0; k < keys; k++)
        if (bias[k * r.bias_stride[3]] != minus_infinity) return false;
    return true;
}

/* A thread per row; few rows have statistics that are no number. */
static __global__ void dnn_settle(struct dnn_rows r) {
    for (int64_t row = CUDA_FIRST; row < r.rows; row += CUDA_STEP) {
        const float own = r.statistics[row];
        const int64_t query = row % r.queries, head = row / r.queries % r.heads,
                      batch = row / r.queries / r.heads;
        if (own - own == 0 || !sees_nothing(r, batch, head, query)) continue;
        uint16_t *y = r.y + batch * r.y_stride[0] + head * r.y_stride[1] + query * r.y_stride[2];
        for (int64_t i = 0; i < r.value_width; i++) y[i] = 0;
        r.statistics[row] = 0; /* so that e^(−∞ − it) is 0 in backward */
    }
}

/* ---- launching them ---- */

struct dnn_copy dnn_copy_of(const struct heed_view *shape, const void *from, const int64_t from_stride[3],
                            void *to, const int64_t to_stride[3]) {
    struct dnn_copy c = {};
    c.from = static_cast<const cuda_bf16 *>(from);
    c.to = to;
    memcpy(c.size, shape->size, sizeof c.size);
    memcpy(c.from_stride, from_stride, 3 * sizeof *from_stride);
    memcpy(c.to_stride, to_stride, 3 * sizeof *to_stride);
    c.from_stride[3] = c.to_stride[3] = 1;
    return c;
}

/* Whether both sides can be read in vectors. */
static bool goes_in_vectors(const struct dnn_copy *c) {
    bool fits =
        cuda_packs<cuda_bf16>(c->size[3], c->from, c->to) && c->from_stride[3] == 1 && c->to_stride[3] == 1;
    for (int d = 0; d < 3; d++)
        fits = fits && (c->size[d] == 1 ||
                        (c->from_stride[d] % DNN_VECTOR == 0 && c->to_stride[d] % DNN_VECTOR == 0));
    return fits;
}

template <typename TO>
static void start_copy(struct heed_exec *exec, const struct dnn_copy *copy, int64_t count) {
    if (goes_in_vectors(copy))
        CUDA_RUN(exec, (dnn_deliver<DNN_VECTOR, TO>), cuda_blocks(exec, count / DNN_VECTOR), CUDA_BLOCK, 0,
                 *copy);
    else
        CUDA_RUN(exec, (dnn_deliver<1, TO>), cuda_blocks(exec, count), CUDA_BLOCK, 0, *copy);
}

heed_status dnn_run_copy(struct heed_exec *exec, const struct dnn_copy *copy) {
    const int64_t count = copy->size[0] * copy->size[1] * copy->size[2] * copy->size[3];
    copy->to_f32 ? start_copy<float>(exec, copy, count) : start_copy<cuda_bf16>(exec, copy, count);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

heed_status dnn_run_lengths(struct heed_exec *exec, const struct dnn_attention *p, const int32_t *length,
                            int64_t stride, int32_t *query_lengths, int32_t *key_lengths) {
    CUDA_RUN(exec, dnn_lengths, cuda_blocks(exec, p->batch), CUDA_BLOCK, 0, length, stride, p->batch,
             p->queries, p->keys, query_lengths, key_lengths);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

heed_status dnn_run_seeds(struct heed_exec *exec, const struct dnn_attention *p,
                          const struct heed_random *random, int64_t *seeds, int64_t *offset) {
    const int64_t count = p->batch * p->kv_heads;
    CUDA_RUN(exec, dnn_seeds, cuda_blocks(exec, count), CUDA_BLOCK, 0, *random, count, seeds, offset);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

heed_status dnn_run_clear_statistics(struct heed_exec *exec, const struct dnn_attention *p,
                                     const int32_t *starts, float *statistics) {
    const int64_t rows = p->batch * p->heads * p->queries;
    CUDA_RUN(exec, dnn_clear_statistics, cuda_blocks(exec, rows), CUDA_BLOCK, 0, statistics, starts, p->heads,
             p->queries, rows);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}

heed_status dnn_run_settle(struct heed_exec *exec, const struct dnn_rows *rows) {
    CUDA_RUN(exec, dnn_settle, cuda_blocks(exec, rows->rows), CUDA_BLOCK, 0, *rows);
    return cuda_started(exec, HEED_PRIMITIVE_ATTENTION);
}
