/* libcudnn for the emulated device: the functions that heed calls. It takes any graph of the operations that
 * it knows, whether the real one has an engine for it or not (another test asks the real one), and computes
 * it by plain loops (cudnn_graph.cpp).
 *
 * Every argument is checked: attributes belong to their descriptors and have their types, are set before
 * these are finalised, and name descriptors that are; all tensors of a plan are bound, each to memory that is
 * large enough and aligned as it was promised, which what is written shares with nothing else; nothing is
 * used after it ended. It fills its workspace with NaN. HEED_FAKE_CUDNN=none: no engine for anything;
 * =wavering: engines whose results may differ from run to run; =large: a workspace of a terabyte; =old: 9.17.
 */
#include "fakes/cudnn.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>

#include "fakes/cudnn_graph.h"

using namespace fakes;

static std::recursive_mutex mutex;
typedef std::lock_guard<std::recursive_mutex> guard;
static struct fake_cudnn control;

struct fake_cudnn *heed_fake_cudnn(void) {
    return &control;
}

static bool is_mode(const char *name) {
    const char *mode = getenv("HEED_FAKE_CUDNN");
    return mode && strcmp(mode, name) == 0;
}

/* ---- handles ---- */

struct handle {
    bool alive = true;
    const void *stream = NULL;
};

static std::map<const void *, std::unique_ptr<handle>> handles; /* ended ones too: none has its address */

static handle *living_handle(const char *who, const void *address) {
    const auto found = handles.find(address);
    if (found == handles.end() || !found->second->alive) wrong("%s: %p is no handle", who, address);
    return found->second.get();
}

/* ---- descriptors ---- */

static std::map<const void *, std::unique_ptr<descriptor>> descriptors; /* ended ones too */

static descriptor *living(const char *who, const void *address) {
    const auto found = descriptors.find(address);
    if (found == descriptors.end()) wrong("%s: %p is no descriptor", who, address);
    if (!found->second->alive)
        wrong("%s: a descriptor of type %d was destroyed", who, (int)found->second->type);
    return found->second.get();
}

/* Which attributes a descriptor has. */
struct rule {
    cudnnBackendDescriptorType_t owner;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t least, most; /* of them; at least 0: it may be missing */
};

enum { MANY = 64 };
static const rule rules[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, 4},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, 4},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 0, 1},
    {CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 0, 1},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
     1},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_BACKEND_RNG_DESCRIPTOR, CUDNN_ATTR_RNG_DISTRIBUTION, CUDNN_TYPE_RNG_DISTRIBUTION, 1, 1},
    {CUDNN_BACKEND_RNG_DESCRIPTOR, CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY, CUDNN_TYPE_DOUBLE, 1, 1},
#define DESCRIPTOR(owner, name, least)                                                                       \
    { CUDNN_BACKEND_##owner##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_BACKEND_DESCRIPTOR, least, 1 }
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_ADESC, 1),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_BDESC, 1),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_CDESC, 1),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_DESC, 1),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, 0),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, 0),
    DESCRIPTOR(OPERATION_MATMUL, OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, 0),
    DESCRIPTOR(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR, 1),
    DESCRIPTOR(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC, 1),
    DESCRIPTOR(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC, 0),
    DESCRIPTOR(OPERATION_POINTWISE, OPERATION_POINTWISE_TDESC, 0),
    DESCRIPTOR(OPERATION_POINTWISE, OPERATION_POINTWISE_YDESC, 1),
    DESCRIPTOR(OPERATION_REDUCTION, OPERATION_REDUCTION_XDESC, 1),
    DESCRIPTOR(OPERATION_REDUCTION, OPERATION_REDUCTION_YDESC, 1),
    DESCRIPTOR(OPERATION_REDUCTION, OPERATION_REDUCTION_DESC, 1),
    DESCRIPTOR(OPERATION_RESHAPE, OPERATION_RESHAPE_XDESC, 1),
    DESCRIPTOR(OPERATION_RESHAPE, OPERATION_RESHAPE_YDESC, 1),
    DESCRIPTOR(OPERATION_RNG, OPERATION_RNG_YDESC, 1),
    DESCRIPTOR(OPERATION_RNG, OPERATION_RNG_SEED, 1),
    DESCRIPTOR(OPERATION_RNG, OPERATION_RNG_OFFSET_DESC, 1),
    DESCRIPTOR(OPERATION_RNG, OPERATION_RNG_DESC, 1),
    DESCRIPTOR(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, 1),
    DESCRIPTOR(ENGINECFG, ENGINECFG_ENGINE, 1),
    DESCRIPTOR(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, 1),
#undef DESCRIPTOR
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
     MANY},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, MANY},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1,
     MANY},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1},
};

static size_t bytes_of(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return 8;
    default:
        return sizeof(int); /* enumerations */
    }
}

/* ---- what the real one has too ---- */

template <typename T>
static void put(descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, T value) {
    attribute a = {type, 1, std::vector<char>(sizeof value)};
    memcpy(a.bytes.data(), &value, sizeof value);
    d->set[name] = a;
}

static int64_t workspace_of(const descriptor *graph) {
    const descriptor *y = output_of(graph->inner(CUDNN_ATTR_OPERATIONGRAPH_OPS));
    if (is_mode("large")) return INT64_C(1) << 40;
    if (is_mode("sliced")) return size_of(y, 0) * size_of(y, 1) * (INT64_C(60) << 20);
    return 128 + 64 * graph->count(CUDNN_ATTR_OPERATIONGRAPH_OPS); /* more for one that is larger */
}

static void check_attributes(const descriptor *d) {
    for (const rule &r : rules) {
        if (r.owner != d->type) continue;
        const int64_t count = d->count(r.name);
        if (count < r.least) wrong("cudnnBackendFinalize: attribute %d is missing", (int)r.name);
        for (int64_t i = 0; i < count && r.type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++)
            if (!living("cudnnBackendFinalize", d->inner(r.name, i))->finalized)
                wrong("cudnnBackendFinalize: attribute %d is not finalised", (int)r.name);
        for (int64_t i = 0; i < count && r.type == CUDNN_TYPE_HANDLE; i++)
            living_handle("cudnnBackendFinalize", d->get<void *>(r.name));
    }
}

extern "C" {

size_t cudnnGetVersion(void) {
    return is_mode("old") ? 91700 : CUDNN_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t) {
    return "a failure that a test asked for";
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *made) {
    guard lock(mutex);
    if (emulated()->fails()) return CUDNN_STATUS_NOT_INITIALIZED;
    handle *h = new handle;
    handles[h].reset(h);
    control.handles++;
    *made = reinterpret_cast<cudnnHandle_t>(h);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t address) {
    guard lock(mutex);
    living_handle("cudnnDestroy", address)->alive = false;
    for (const auto &d : descriptors)
        if (d.second->alive && d.second->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR &&
            d.second->has(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) &&
            d.second->get<cudnnHandle_t>(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == address)
            wrong("cudnnDestroy: a plan of the handle lives");
    control.handles--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t address, cudaStream_t stream) {
    guard lock(mutex);
    handle *h = living_handle("cudnnSetStream", address);
    emulated()->check_stream("cudnnSetStream", stream);
    if (emulated()->fails()) return CUDNN_STATUS_BAD_PARAM;
    h->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *made) {
    guard lock(mutex);
    if (emulated()->fails()) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    descriptor *d = new descriptor;
    d->type = type;
    descriptors[d].reset(d);
    control.descriptors++;
    *made = d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t address) {
    guard lock(mutex);
    descriptor *d = living("cudnnBackendDestroyDescriptor", address);
    d->alive = false;
    d->set.clear();
    control.descriptors--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t address, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    guard lock(mutex);
    descriptor *d = living("cudnnBackendSetAttribute", address);
    if (d->finalized) wrong("cudnnBackendSetAttribute: %d of a finalised descriptor", (int)name);
    for (const rule &r : rules) {
        if (r.owner != d->type || r.name != name) continue;
        if (r.type != type || count < 1 || count > r.most)
            wrong("cudnnBackendSetAttribute: %d takes type %d, up to %d times", (int)name, (int)r.type,
                  (int)r.most);
        if (emulated()->fails()) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
        const char *first = static_cast<const char *>(values);
        d->set[name] = {type, count, std::vector<char>(first, first + (size_t)count * ::bytes_of(type))};
        return CUDNN_STATUS_SUCCESS;
    }
    wrong("cudnnBackendSetAttribute: descriptors of type %d have no attribute %d", (int)d->type, (int)name);
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t address) {
    guard lock(mutex);
    descriptor *d = living("cudnnBackendFinalize", address);
    if (d->finalized) wrong("cudnnBackendFinalize: a descriptor of type %d twice", (int)d->type);
    check_attributes(d);
    if (d->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) check_tensor(d);
    if (d->has(CUDNN_ATTR_OPERATION_MATMUL_CDESC) || d->has(CUDNN_ATTR_OPERATION_POINTWISE_YDESC) ||
        d->has(CUDNN_ATTR_OPERATION_REDUCTION_YDESC) || d->has(CUDNN_ATTR_OPERATION_RESHAPE_YDESC) ||
        d->has(CUDNN_ATTR_OPERATION_RNG_YDESC))
        check_operation(d);
    if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) check_graph(d);
    if (emulated()->fails()) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    d->finalized = true;
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) control.plans++;
    return CUDNN_STATUS_SUCCESS;
}

/* Heuristics advise one engine, the graph itself. */
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t address, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t *count,
                                       void *values) {
    guard lock(mutex);
    descriptor *d = living("cudnnBackendGetAttribute", address);
    if (!d->finalized) wrong("cudnnBackendGetAttribute: %d of what is not finalised", (int)name);
    if (emulated()->fails()) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    *count = 0;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR && room > 0) {
        if (is_mode("none")) return CUDNN_STATUS_SUCCESS;
        descriptor *configuration =
            living("cudnnBackendGetAttribute", *static_cast<cudnnBackendDescriptor_t *>(values));
        put<cudnnBackendDescriptor_t>(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                      d->inner(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH));
        configuration->finalized = true;
        *count = 1;
    } else if (name == CUDNN_ATTR_ENGINECFG_ENGINE && type == CUDNN_TYPE_BACKEND_DESCRIPTOR && room == 1) {
        living("cudnnBackendGetAttribute", *static_cast<cudnnBackendDescriptor_t *>(values))->finalized =
            true;
        *count = 1;
    } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE && room > 0) {
        *static_cast<cudnnBackendNumericalNote_t *>(values) =
            is_mode("wavering") ? CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC : CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
        *count = 1;
    } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && type == CUDNN_TYPE_INT64 && room == 1) {
        *static_cast<int64_t *>(values) = workspace_of(
            d->inner(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->inner(CUDNN_ATTR_ENGINECFG_ENGINE));
        *count = 1;
    } else {
        wrong("cudnnBackendGetAttribute: %d as type %d", (int)name, (int)type);
    }
    return CUDNN_STATUS_SUCCESS;
}
}

/* ---- running ---- */

/* A piece of the device's memory: of a tensor, or all of it. */
struct piece {
    int64_t id;
    const char *from, *to;
    bool written;
    const descriptor *tensor;
};

/* The halves of words that a tensor's elements take. */
static std::set<const char *> places_of(const piece &p) {
    std::set<const char *> places;
    const descriptor *t = p.tensor;
    const int64_t bytes = (int64_t)bytes_of(type_of(t));
    for (int64_t i = 0; i < elements_of(t); i++) {
        int64_t rest = i, offset = 0;
        for (int d = 3; d >= 0; d--) {
            offset += rest % size_of(t, d) * stride_of(t, d);
            rest /= size_of(t, d);
        }
        for (int64_t half = 0; half < bytes; half += 2) places.insert(p.from + offset * bytes + half);
    }
    return places;
}

/* Rows of several tensors may lie side by side. */
static bool meet(const piece &a, const piece &b) {
    if (a.from >= b.to || b.from >= a.to) return false;
    if (!a.tensor || !b.tensor) return true;
    const std::set<const char *> places = places_of(a);
    for (const char *place : places_of(b))
        if (places.count(place)) return true;
    return false;
}

static void check_apart(const std::vector<piece> &pieces) {
    for (const piece &a : pieces)
        for (const piece &b : pieces)
            if (a.written && a.id != b.id && meet(a, b))
                wrong("cudnnBackendExecute: tensor %d is written where tensor %d lies", (int)a.id, (int)b.id);
}

static piece piece_of(const descriptor *t, const void *memory, bool written) {
    const char *from = static_cast<const char *>(memory);
    if ((uintptr_t)memory % (uintptr_t)t->get<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT))
        wrong("cudnnBackendExecute: tensor %d is not aligned as it was promised", (int)id_of(t));
    emulated()->check_memory("cudnnBackendExecute", memory, extent_of(t));
    return {id_of(t), from, from + extent_of(t), written, t};
}

static std::set<int64_t> written_ids(const descriptor *graph) {
    std::set<int64_t> ids;
    for (int64_t i = 0; i < graph->count(CUDNN_ATTR_OPERATIONGRAPH_OPS); i++)
        ids.insert(id_of(output_of(graph->inner(CUDNN_ATTR_OPERATIONGRAPH_OPS, i))));
    return ids;
}

/* All tensors, each in memory of its own. */
static std::map<int64_t, void *> bind(const descriptor *graph, const descriptor *pack, int64_t workspace) {
    std::map<int64_t, void *> memory;
    std::vector<piece> pieces;
    const std::set<int64_t> written = written_ids(graph);
    const std::map<int64_t, descriptor *> bound = bound_tensors(graph);
    const int64_t count = pack->count(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    if (count != pack->count(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS) || count != (int64_t)bound.size())
        wrong("cudnnBackendExecute: %d tensors are bound, and the plan has %d", (int)count,
              (int)bound.size());
    for (int64_t i = 0; i < count; i++) {
        const int64_t id = pack->get<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i);
        void *own = pack->get<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, i);
        if (!bound.count(id) || memory.count(id))
            wrong("cudnnBackendExecute: tensor %d is none of the plan's, or bound twice", (int)id);
        memory[id] = own;
        if (!is_number(bound.at(id))) pieces.push_back(piece_of(bound.at(id), own, written.count(id) != 0));
    }
    char *area = static_cast<char *>(pack->get<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE));
    if ((uintptr_t)area % 256) wrong("cudnnBackendExecute: the workspace is not aligned to 256 bytes");
    emulated()->check_memory("cudnnBackendExecute", area, (size_t)workspace);
    pieces.push_back({-1, area, area + workspace, true, NULL});
    check_apart(pieces);
    return memory;
}

/* A graph that waits for its turn on the stream. If its descriptors end before, that shows. */
struct run {
    const descriptor *plan;
    const descriptor *graph;
    void *workspace;
    size_t workspace_bytes;
    std::map<int64_t, void *> memory;
    std::map<int64_t, float> numbers; /* of the host, as they were when it was asked to run */
};

static void keep_numbers(run *r) {
    for (const auto &t : bound_tensors(r->graph)) {
        if (!is_number(t.second)) continue;
        r->numbers[t.first] = *static_cast<const float *>(r->memory.at(t.first));
        r->memory[t.first] = &r->numbers.at(t.first);
    }
}

static void run_queued(void *data) {
    const std::unique_ptr<run> r(static_cast<run *>(data));
    living("cudnnBackendExecute, when it runs", r->plan);
    memset(r->workspace, 0xff, r->workspace_bytes);
    interpret(r->graph, r->memory);
}

extern "C" cudnnStatus_t cudnnBackendExecute(cudnnHandle_t address, cudnnBackendDescriptor_t plan_address,
                                             cudnnBackendDescriptor_t pack_address) {
    guard lock(mutex);
    const handle *h = living_handle("cudnnBackendExecute", address);
    const descriptor *plan = living("cudnnBackendExecute", plan_address),
                     *pack = living("cudnnBackendExecute", pack_address);
    if (plan->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR || !plan->finalized ||
        pack->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR || !pack->finalized)
        wrong("cudnnBackendExecute: no plan, or no pack of variables");
    if (plan->get<cudnnHandle_t>(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) != address)
        wrong("cudnnBackendExecute: a plan of another handle");
    emulated()->check_stream("cudnnBackendExecute", h->stream);
    const descriptor *graph =
        plan->inner(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->inner(CUDNN_ATTR_ENGINECFG_ENGINE);
    living("cudnnBackendExecute", graph);
    const int64_t workspace = workspace_of(graph);
    const std::map<int64_t, void *> memory = bind(graph, pack, workspace);
    if (emulated()->fails()) return CUDNN_STATUS_EXECUTION_FAILED;
    run *queued = new run;
    queued->plan = plan;
    queued->graph = graph;
    queued->workspace = pack->get<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    queued->workspace_bytes = (size_t)workspace;
    queued->memory = memory;
    keep_numbers(queued);
    emulated()->queue(h->stream, run_queued, queued);
    control.runs++;
    return CUDNN_STATUS_SUCCESS;
}
