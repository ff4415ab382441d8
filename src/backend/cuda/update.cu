/* One step of SGD, Adam or AdamW of all parameters; primitives.h has the formulas.
 *
 * A block works on a chunk of an item, whatever item that is: one launch for all of them. Where the norm is
 * not finite, or the error word was raised by anything before, nothing changes.
 *
 * Bytes for each element, in f32: Adam 28, SGD 12, with momentum 20. */
#include "backend/cuda/items.cuh"

/* What all items have in common. */
struct step_job {
    const cuda_item *item;
    int64_t items, chunks;
    const struct cuda_fault_word *fault;
    const struct heed_grad_norm *norm;
    double max_norm;
    double rate_factor; /* what rates are multiplied by */
    double momentum, beta1, beta2, eps;
    double correction;  /* of the second moment */
    unsigned decoupled; /* AdamW */
    unsigned first, nesterov;
};

/* ---- some elements ---- */

template <typename T> struct sgd {
    T grad_scale, rate, decay, momentum;
    unsigned first, nesterov;
};

template <typename T> struct adam {
    T grad_scale, rate;
    T decay;  /* Adam: of the parameter, added to the gradient */
    T shrink; /* AdamW: of the parameter, taken away */
    T beta1, rest1, beta2, rest2, correction, eps;
};

template <typename T>
static __device__ inline void make_options(const step_job &j, const cuda_item &item, T grad_scale,
                                           sgd<T> *o) {
    *o = {grad_scale, (T)item.rate, (T)item.decay, (T)j.momentum, j.first, j.nesterov};
}

template <typename T>
static __device__ inline void make_options(const step_job &j, const cuda_item &item, T grad_scale,
                                           adam<T> *o) {
    *o = {grad_scale,
          (T)(item.rate * j.rate_factor),
          j.decoupled ? 0 : (T)item.decay,
          j.decoupled ? (T)(item.rate * item.decay) : 0,
          (T)j.beta1,
          (T)(1 - j.beta1),
          (T)j.beta2,
          (T)(1 - j.beta2),
          (T)j.correction,
          (T)j.eps};
}

template <typename T, int N> struct element { cuda_pack<T, N> p, g, m, v; };

/* The elements of an item; moments that are not there are NULL. */
template <typename T> struct places {
    T *p;
    const T *g;
    T *m, *v;

    template <int N> __device__ inline element<T, N> load(int64_t i) const {
        element<T, N> e = {cuda_load<N>(p + i), cuda_load<N>(g + i), {}, {}};
        if (m) e.m = cuda_load<N>(m + i);
        if (v) e.v = cuda_load<N>(v + i);
        return e;
    }
    template <int N> __device__ inline void store(int64_t i, const element<T, N> &e) const {
        cuda_store(p + i, e.p);
        if (m) cuda_store(m + i, e.m);
        if (v) cuda_store(v + i, e.v);
    }
};

template <typename T>
static __device__ inline void step(const sgd<T> &o, bool has_momentum, T &p, T g, T &m, T &) {
    g = g * o.grad_scale + o.decay * p;
    if (has_momentum) {
        m = o.first ? g : o.momentum * m + g;
        g = o.nesterov ? g + o.momentum * m : m;
    }
    p -= o.rate * g;
}

template <typename T> static __device__ inline void step(const adam<T> &o, bool, T &p, T g, T &m, T &v) {
    g = g * o.grad_scale + o.decay * p;
    p -= o.shrink * p;
    m = o.beta1 * m + o.rest1 * g;
    v = o.beta2 * v + o.rest2 * g * g;
    p -= o.rate * m / (std::sqrt(v * o.correction) + o.eps);
}

template <int N, typename T, typename Options>
static __device__ inline void step_all(const Options &o, const places<T> &at, int64_t begin, int64_t end) {
    cuda_each<2>(
        begin + threadIdx.x * N, end, CUDA_BLOCK * N, [=](int64_t i) { return at.template load<N>(i); },
        [=](int64_t i, element<T, N> &e) {
            for (int k = 0; k < N; k++) step(o, at.m != NULL, e.p.at[k], e.g.at[k], e.m.at[k], e.v.at[k]);
            at.store(i, e);
        });
}

/* ---- all chunks ---- */

template <typename T, typename Options> static __global__ void step_chunks(step_job j) {
    HEED_SHARED(T, grad_scale, 1);
    if (j.fault->fault != CUDA_FAULT_NONE || !std::isfinite(j.norm->norm)) return;
    if (threadIdx.x == 0) grad_scale[0] = (T)heed_clip_factor(j.norm->norm, j.max_norm);
    __syncthreads();
    for (int64_t number = blockIdx.x; number < j.chunks; number += gridDim.x) {
        const cuda_chunk chunk = cuda_chunk_at(j.item, j.items, number);
        const cuda_item &item = *chunk.item;
        const places<T> at = {static_cast<T *>(item.param), static_cast<const T *>(item.grad),
                              static_cast<T *>(item.moment1), static_cast<T *>(item.moment2)};
        const int64_t packs = cuda_chunk_packs<T>(chunk, at.p, at.g, at.m, at.v);
        Options o;
        make_options(j, item, grad_scale[0], &o);
        step_all<cuda_wide<T>>(o, at, chunk.begin, packs);
        step_all<1>(o, at, packs, chunk.end);
    }
}

/* ---- the kernel ---- */

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    return cuda_computes(static_cast<const struct heed_update_args *>(arguments)->dtype, why);
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_update_args *a = static_cast<const struct heed_update_args *>(arguments);
    sizes->forward_scratch = (size_t)a->items * sizeof(struct cuda_item);
}

static step_job job_of(struct heed_exec *exec, const struct heed_update_args *a,
                       const struct cuda_item *item) {
    step_job j = {item, a->items, cuda_chunks(a->item, a->items), cuda_of(exec)->fault, a->norm, a->max_norm};
    const bool is_adam = a->kind != HEED_UPDATE_SGD;
    j.rate_factor = is_adam ? 1 / (1 - pow(a->beta1, (double)a->step)) : 1;
    j.correction = is_adam ? 1 / (1 - pow(a->beta2, (double)a->step)) : 1;
    j.decoupled = a->kind == HEED_UPDATE_ADAMW;
    j.first = a->step == 1;
    j.nesterov = a->nesterov;
    j.momentum = a->momentum;
    j.beta1 = a->beta1;
    j.beta2 = a->beta2;
    j.eps = a->eps;
    return j;
}

template <typename T> static void run(struct heed_exec *exec, const step_job &j, bool is_sgd) {
    const unsigned blocks = cuda_row_blocks(exec, j.chunks, CUDA_BLOCK);
    if (is_sgd) {
        CUDA_RUN(exec, (step_chunks<T, sgd<T>>), blocks, CUDA_BLOCK, 0, j);
    } else {
        CUDA_RUN(exec, (step_chunks<T, adam<T>>), blocks, CUDA_BLOCK, 0, j);
    }
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_update_args *a = static_cast<const struct heed_update_args *>(arguments);
    struct cuda_item *item = static_cast<struct cuda_item *>(scratch);
    const step_job j = job_of(exec, a, item);
    if (j.chunks == 0) return HEED_OK;
    const heed_status status = cuda_items_send(exec, HEED_PRIMITIVE_UPDATE, a->item, a->items, item);
    if (status != HEED_OK) return status;
    (a->dtype == HEED_F64 ? run<double> : run<float>)(exec, j, a->kind == HEED_UPDATE_SGD);
    return cuda_started(exec, HEED_PRIMITIVE_UPDATE);
}

const struct heed_kernel heed_cuda_update = {"cuda", applies, sizes, forward, NULL};
