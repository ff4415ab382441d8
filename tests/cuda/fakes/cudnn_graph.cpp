/* Checking and interpreting operation graphs of cuDNN, by plain loops. Every tensor holds what its type can:
 * bf16 is rounded to, where a tensor between operations has that type too. */
#include "fakes/cudnn_graph.h"

#include <cmath>

namespace fakes {

/* ---- what operations are made of ---- */

static const cudnnBackendAttributeName_t lengths[3] = {CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
                                                       CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC,
                                                       CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC};

static std::vector<cudnnBackendAttributeName_t> input_names(const descriptor *o) {
    switch (o->type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC, lengths[0], lengths[1],
                lengths[2]};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return {CUDNN_ATTR_OPERATION_REDUCTION_XDESC};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return {CUDNN_ATTR_OPERATION_RESHAPE_XDESC};
    case CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR:
        return {CUDNN_ATTR_OPERATION_RNG_SEED, CUDNN_ATTR_OPERATION_RNG_OFFSET_DESC};
    default:
        wrong("cuDNN: a descriptor of type %d is no operation that the fake knows", (int)o->type);
    }
}

std::vector<descriptor *> inputs_of(const descriptor *o) {
    std::vector<descriptor *> found;
    for (const cudnnBackendAttributeName_t name : input_names(o))
        if (o->has(name)) found.push_back(o->inner(name));
    return found;
}

descriptor *output_of(const descriptor *o) {
    switch (o->type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return o->inner(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return o->inner(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return o->inner(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    case CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR:
        return o->inner(CUDNN_ATTR_OPERATION_RNG_YDESC);
    default:
        return o->inner(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    }
}

static cudnnPointwiseMode_t mode_of(const descriptor *o) {
    return o->inner(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)
        ->get<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
}

/* ---- checks ---- */

void check_tensor(const descriptor *t) {
    for (int d = 0; d < 4; d++) {
        if (size_of(t, d) < 1 || stride_of(t, d) < 1)
            wrong("cuDNN: dimension %d of tensor %d has size %d and stride %d", d, (int)id_of(t),
                  (int)size_of(t, d), (int)stride_of(t, d));
    }
    if (is_number(t) && (is_virtual(t) || elements_of(t) != 1))
        wrong("cuDNN: tensor %d is no number", (int)id_of(t));
}

/* Whether a dimension of x is that of y, or repeats. */
static void check_repeats(const descriptor *x, const descriptor *y, const char *what) {
    for (int d = 0; d < 4; d++)
        if (size_of(x, d) != size_of(y, d) && size_of(x, d) != 1)
            wrong("cuDNN: %s: dimension %d of tensor %d is %d, and %d of tensor %d", what, d, (int)id_of(x),
                  (int)size_of(x, d), (int)size_of(y, d), (int)id_of(y));
}

static void check_matmul(const descriptor *o) {
    const descriptor *a = o->inner(CUDNN_ATTR_OPERATION_MATMUL_ADESC),
                     *b = o->inner(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                     *y = o->inner(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    if (size_of(a, 0) != size_of(y, 0) || size_of(b, 0) != size_of(y, 0) || size_of(a, 1) != size_of(y, 1) ||
        size_of(y, 1) % size_of(b, 1) || size_of(a, 2) != size_of(y, 2) || size_of(a, 3) != size_of(b, 2) ||
        size_of(b, 3) != size_of(y, 3))
        wrong("cuDNN: the sizes of a product, tensor %d, do not match", (int)id_of(y));
    for (const cudnnBackendAttributeName_t name : lengths) {
        if (!o->has(name)) continue;
        const descriptor *l = o->inner(name);
        if (type_of(l) != CUDNN_DATA_INT32 || size_of(l, 0) != size_of(y, 0) ||
            elements_of(l) != size_of(y, 0))
            wrong("cuDNN: lengths of a product are no i32 [batch, 1, 1, 1]");
    }
}

static void check_pointwise(const descriptor *o) {
    const descriptor *y = output_of(o);
    const cudnnPointwiseMode_t mode = mode_of(o);
    for (const descriptor *x : inputs_of(o)) check_repeats(x, y, "an operation on elements");
    const bool yields_truth = mode == CUDNN_POINTWISE_CMP_LT || mode == CUDNN_POINTWISE_CMP_GE ||
                              mode == CUDNN_POINTWISE_LOGICAL_AND;
    if (yields_truth != (type_of(y) == CUDNN_DATA_BOOLEAN))
        wrong("cuDNN: tensor %d has type %d", (int)id_of(y), (int)type_of(y));
    if (mode == CUDNN_POINTWISE_BINARY_SELECT &&
        type_of(o->inner(CUDNN_ATTR_OPERATION_POINTWISE_TDESC)) != CUDNN_DATA_BOOLEAN)
        wrong("cuDNN: a selection by what is no truth");
}

/* Heads may be reduced to fewer. */
static void check_reduction(const descriptor *o) {
    const descriptor *x = o->inner(CUDNN_ATTR_OPERATION_REDUCTION_XDESC), *y = output_of(o);
    for (int d = 0; d < 4; d++)
        if (size_of(x, d) % size_of(y, d) || (d != 1 && size_of(y, d) != size_of(x, d) && size_of(y, d) != 1))
            wrong("cuDNN: tensor %d is no reduction of tensor %d", (int)id_of(y), (int)id_of(x));
}

/* Zeros and ones between operations, of a seed and an offset in the device's memory. */
static void check_rng(const descriptor *o) {
    const descriptor *numbers = o->inner(CUDNN_ATTR_OPERATION_RNG_DESC), *y = output_of(o);
    const double probability = numbers->get<double>(CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY);
    if (numbers->get<cudnnRngDistribution_t>(CUDNN_ATTR_RNG_DISTRIBUTION) !=
            CUDNN_RNG_DISTRIBUTION_BERNOULLI ||
        !(probability > 0 && probability < 1))
        wrong("cuDNN: random numbers that are not 1 with a probability between 0 and 1");
    if (!is_virtual(y) || type_of(y) != CUDNN_DATA_FLOAT)
        wrong("cuDNN: random numbers go to tensor %d, which is no f32 between operations", (int)id_of(y));
    for (const descriptor *x : inputs_of(o))
        if (type_of(x) != CUDNN_DATA_INT64 || elements_of(x) != 1 || is_virtual(x) || is_number(x))
            wrong("cuDNN: tensor %d is no i64 of the device", (int)id_of(x));
}

void check_operation(const descriptor *o) {
    if (!output_of(o) || inputs_of(o).empty()) wrong("cuDNN: an operation without tensors");
    switch (o->type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return check_matmul(o);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return check_pointwise(o);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return check_reduction(o);
    case CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR:
        return check_rng(o);
    default:
        if (elements_of(inputs_of(o)[0]) != elements_of(output_of(o)))
            wrong("cuDNN: another shape of tensor %d has other elements", (int)id_of(inputs_of(o)[0]));
    }
}

template <typename Visitor> static void each_operation(const descriptor *graph, Visitor visit) {
    for (int64_t i = 0; i < graph->count(CUDNN_ATTR_OPERATIONGRAPH_OPS); i++)
        visit(graph->inner(CUDNN_ATTR_OPERATIONGRAPH_OPS, i));
}

/* A tensor is written once, before it is read if it is virtual, and what is virtual is read. */
void check_graph(const descriptor *graph) {
    std::map<int64_t, descriptor *> written, seen, read;
    each_operation(graph, [&](const descriptor *o) {
        for (descriptor *x : inputs_of(o)) {
            if (is_virtual(x) && !written.count(id_of(x)))
                wrong("cuDNN: tensor %d is read before it is written", (int)id_of(x));
            if (seen.count(id_of(x)) && seen[id_of(x)] != x)
                wrong("cuDNN: two tensors are called %d", (int)id_of(x));
            seen[id_of(x)] = read[id_of(x)] = x;
        }
        descriptor *y = output_of(o);
        if (seen.count(id_of(y)) || written.count(id_of(y)))
            wrong("cuDNN: tensor %d is written when it has a value", (int)id_of(y));
        seen[id_of(y)] = written[id_of(y)] = y;
    });
    for (const auto &w : written)
        if (is_virtual(w.second) && !read.count(w.first))
            wrong("cuDNN: nobody reads tensor %d", (int)w.first);
}

std::map<int64_t, descriptor *> bound_tensors(const descriptor *graph) {
    std::map<int64_t, descriptor *> found;
    each_operation(graph, [&](const descriptor *o) {
        std::vector<descriptor *> all = inputs_of(o);
        all.push_back(output_of(o));
        for (descriptor *t : all)
            if (!is_virtual(t)) found[id_of(t)] = t;
    });
    return found;
}

/* ---- values ---- */

static float bf16_number(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &word, sizeof number);
    return number;
}

static uint16_t bf16_bits(float number) {
    uint32_t word;
    memcpy(&word, &number, sizeof word);
    if (std::isnan(number)) return 0x7fc0;
    const uint32_t below = word & 0xffff, odd = word >> 16 & 1;
    return (uint16_t)((word >> 16) + (below > 0x8000 || (below == 0x8000 && odd) ? 1 : 0));
}

/* All elements in row-major order. */
struct values {
    const descriptor *tensor;
    int64_t size[4];
    std::vector<float> at;

    explicit values(const descriptor *t = NULL) : tensor(t) {
        for (int d = 0; d < 4 && t; d++) size[d] = size_of(t, d);
    }
    float get(const int64_t place[4]) const {
        int64_t i = 0;
        for (int d = 0; d < 4; d++) i = i * size[d] + (size[d] == 1 ? 0 : place[d]);
        return at[(size_t)i];
    }
};

static void to_place(const descriptor *t, int64_t i, int64_t place[4]) {
    for (int d = 3; d >= 0; d--) {
        place[d] = i % size_of(t, d);
        i /= size_of(t, d);
    }
}

static size_t offset_of(const descriptor *t, int64_t i) {
    int64_t place[4], offset = 0;
    to_place(t, i, place);
    for (int d = 0; d < 4; d++) offset += place[d] * stride_of(t, d);
    return (size_t)offset;
}

static float load(const descriptor *t, const void *memory, int64_t i) {
    const size_t at = is_number(t) ? 0 : offset_of(t, i);
    switch (type_of(t)) {
    case CUDNN_DATA_BFLOAT16:
        return bf16_number(static_cast<const uint16_t *>(memory)[at]);
    case CUDNN_DATA_INT32:
        return (float)static_cast<const int32_t *>(memory)[at];
    default:
        return static_cast<const float *>(memory)[at];
    }
}

static void store(const descriptor *t, void *memory, int64_t i, float number) {
    if (type_of(t) == CUDNN_DATA_BFLOAT16)
        static_cast<uint16_t *>(memory)[offset_of(t, i)] = bf16_bits(number);
    else
        static_cast<float *>(memory)[offset_of(t, i)] = number;
}

/* What is known while a graph runs. */
struct machine {
    const std::map<int64_t, void *> &memory;
    std::map<const descriptor *, values> known;

    const values &read(const descriptor *t) {
        const auto found = known.find(t);
        if (found != known.end()) return found->second;
        values v(t);
        for (int64_t i = 0; i < elements_of(t); i++) v.at.push_back(load(t, memory.at(id_of(t)), i));
        return known.emplace(t, v).first->second;
    }

    template <typename Element> void write(const descriptor *t, Element element) {
        values v(t);
        for (int64_t i = 0; i < elements_of(t); i++) {
            int64_t place[4];
            to_place(t, i, place);
            const float number = element(place);
            v.at.push_back(type_of(t) == CUDNN_DATA_BFLOAT16 ? bf16_number(bf16_bits(number)) : number);
            if (!is_virtual(t)) store(t, memory.at(id_of(t)), i, number);
        }
        known[t] = v;
    }
};

/* ---- operations ---- */

/* How many rows, columns or terms there are in a batch entry. */
static int64_t length_of(machine *m, const descriptor *o, int which, int64_t batch, int64_t all) {
    if (!o->has(lengths[which])) return all;
    const int64_t length = (int64_t)m->read(o->inner(lengths[which])).at[(size_t)batch];
    if (length < 0 || length > all) wrong("cuDNN: a length of %d in %d", (int)length, (int)all);
    return length;
}

/* Kernels work in tiles: terms behind a length take part as far as its tile goes, with what lies there. */
static int64_t terms_of(machine *m, const descriptor *o, int64_t batch, int64_t all) {
    const int64_t tile = 64, terms = (length_of(m, o, 2, batch, all) + tile) / tile * tile;
    return terms < all ? terms : all;
}

/* Tests of numbers must find what is wrong where HEED_FAKE_CUDNN=careless: products lack their last term; and
 * where it is =fickle: random numbers are never the same; where it is =unsteady: every other product is
 * larger by 1/512, which is within tolerances. */
static bool is_mode(const char *name) {
    const char *mode = getenv("HEED_FAKE_CUDNN");
    return mode && strcmp(mode, name) == 0;
}

static void run_matmul(machine *m, const descriptor *o) {
    const descriptor *y = output_of(o);
    const values &a = m->read(o->inner(CUDNN_ATTR_OPERATION_MATMUL_ADESC)),
                 &b = m->read(o->inner(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    const int64_t group = size_of(y, 1) / size_of(b.tensor, 1);
    static int64_t products = 0; /* of one problem there are 7 */
    const int64_t missing = is_mode("careless");
    const double factor = is_mode("unsteady") && products++ % 2 ? 1 + 1.0 / 512 : 1;
    m->write(y, [&](const int64_t *place) {
        const bool there = place[2] < length_of(m, o, 0, place[0], size_of(y, 2)) &&
                           place[3] < length_of(m, o, 1, place[0], size_of(y, 3));
        if (!there && !is_virtual(y)) return NAN; /* it may not be written */
        double sum = 0;
        const int64_t terms = terms_of(m, o, place[0], size_of(a.tensor, 3));
        for (int64_t k = 0; k < terms - missing; k++) {
            const int64_t left[4] = {place[0], place[1], place[2], k},
                          right[4] = {place[0], place[1] / group, k, place[3]};
            sum += (double)a.get(left) * b.get(right);
        }
        return (float)(sum * factor);
    });
}

static float compute(cudnnPointwiseMode_t mode, float x, float b) {
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_DIV:
        return x / b;
    case CUDNN_POINTWISE_EXP:
        return expf(x);
    case CUDNN_POINTWISE_LOG:
        return logf(x);
    case CUDNN_POINTWISE_IDENTITY:
        return x;
    case CUDNN_POINTWISE_CMP_LT:
        return x < b;
    case CUDNN_POINTWISE_CMP_GE:
        return x >= b;
    case CUDNN_POINTWISE_LOGICAL_AND:
        return x != 0 && b != 0;
    default:
        wrong("cuDNN: the fake knows no function %d of elements", (int)mode);
    }
}

static void run_pointwise(machine *m, const descriptor *o) {
    const descriptor *y = output_of(o), *b = o->inner(CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
                     *t = o->inner(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const cudnnPointwiseMode_t mode = mode_of(o);
    const values &x = m->read(o->inner(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    const int64_t dimension =
        mode == CUDNN_POINTWISE_GEN_INDEX
            ? o->inner(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)->get<int64_t>(CUDNN_ATTR_POINTWISE_AXIS)
            : -1;
    const values *second = b ? &m->read(b) : NULL, *where = t ? &m->read(t) : NULL;
    m->write(y, [&](const int64_t *place) {
        if (dimension >= 0) return (float)place[dimension];
        if (where) return where->get(place) != 0 ? x.get(place) : second->get(place);
        return compute(mode, x.get(place), second ? second->get(place) : 0);
    });
}

static void run_reduction(machine *m, const descriptor *o) {
    const descriptor *y = output_of(o);
    const values &x = m->read(o->inner(CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    const bool is_maximum =
        o->inner(CUDNN_ATTR_OPERATION_REDUCTION_DESC)
            ->get<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_MAX;
    std::vector<double> sums((size_t)elements_of(y), is_maximum ? -INFINITY : 0);
    for (int64_t i = 0; i < elements_of(x.tensor); i++) {
        int64_t place[4], at = 0;
        to_place(x.tensor, i, place);
        for (int d = 0; d < 4; d++)
            at = at * size_of(y, d) + place[d] / (size_of(x.tensor, d) / size_of(y, d));
        double &sum = sums[(size_t)at];
        const double own = x.at[(size_t)i];
        sum = !is_maximum ? sum + own : std::isnan(own) || own > sum ? own : sum;
    }
    size_t next = 0;
    m->write(y, [&](const int64_t *) { return (float)sums[next++]; });
}

/* The same elements; where strides swap dimensions, in another order. */
static void run_reshape(machine *m, const descriptor *o) {
    const descriptor *y = output_of(o);
    const values &x = m->read(o->inner(CUDNN_ATTR_OPERATION_RESHAPE_XDESC));
    const bool swaps = size_of(y, 2) == size_of(x.tensor, 3) && size_of(y, 3) == size_of(x.tensor, 2) &&
                       stride_of(y, 2) == stride_of(x.tensor, 3) && stride_of(y, 3) == stride_of(x.tensor, 2);
    if (!swaps) wrong("cuDNN: the fake knows a reshape only where it transposes");
    m->write(y, [&](const int64_t *place) {
        const int64_t from[4] = {place[0], place[1], place[3], place[2]};
        return x.get(from);
    });
}

/* Any function of seed, offset and place that scatters well (the finalizer of MurmurHash3). */
static double uniform(uint64_t seed, uint64_t place) {
    uint64_t x = seed + 0x9e3779b97f4a7c15u * (place + 1);
    for (const uint64_t factor : {0xff51afd7ed558ccdu, 0xc4ceb9fe1a85ec53u}) x = (x ^ x >> 33) * factor;
    return (double)((x ^ x >> 33) >> 11) * 0x1p-53;
}

static void run_rng(machine *m, const descriptor *o) {
    static uint64_t runs = 0;
    const descriptor *seed = o->inner(CUDNN_ATTR_OPERATION_RNG_SEED),
                     *offset = o->inner(CUDNN_ATTR_OPERATION_RNG_OFFSET_DESC);
    const uint64_t key =
        *static_cast<const uint64_t *>(m->memory.at(id_of(seed))) + (is_mode("fickle") ? ++runs : 0);
    uint64_t place = *static_cast<const uint64_t *>(m->memory.at(id_of(offset)));
    const double probability =
        o->inner(CUDNN_ATTR_OPERATION_RNG_DESC)->get<double>(CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY);
    m->write(output_of(o), [&](const int64_t *) { return (float)(uniform(key, place++) < probability); });
}

void interpret(const descriptor *graph, const std::map<int64_t, void *> &memory) {
    machine m = {memory, {}};
    each_operation(graph, [&](const descriptor *o) {
        switch (o->type) {
        case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
            return run_matmul(&m, o);
        case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
            return run_pointwise(&m, o);
        case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
            return run_reduction(&m, o);
        case CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR:
            return run_rng(&m, o);
        default:
            return run_reshape(&m, o);
        }
    });
}

} // namespace fakes
