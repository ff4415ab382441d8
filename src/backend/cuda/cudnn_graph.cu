/* Building graphs and plans of cuDNN out of descriptors. */
#include "backend/cuda/cudnn_graph.cuh"

#include <string.h>

/* Virtual tensors are numbered from here on. */
enum { FIRST_VIRTUAL = 1000 };

void dnn_graph_begin(struct dnn_graph *g, const struct dnn_target *target) {
    memset(g, 0, sizeof *g);
    g->target = *target;
}

void dnn_graph_end(struct dnn_graph *g) {
    while (g->descriptors > 0)
        g->target.library->cudnnBackendDestroyDescriptor(g->descriptor[--g->descriptors]);
    g->whole = g->plan = NULL;
}

/* ---- descriptors ---- */

static void keep_status(struct dnn_graph *g, cudnnStatus_t status, const char *what) {
    if (status == CUDNN_STATUS_SUCCESS || g->status != CUDNN_STATUS_SUCCESS) return;
    g->status = status;
    g->failed = what;
}

static bool works(const struct dnn_graph *g) {
    return g->status == CUDNN_STATUS_SUCCESS;
}

static cudnnBackendDescriptor_t make(struct dnn_graph *g, cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = NULL;
    if (!works(g)) return NULL;
    if (g->descriptors == DNN_MOST_DESCRIPTORS) {
        keep_status(g, CUDNN_STATUS_INTERNAL_ERROR, "the table of descriptors is full");
        return NULL;
    }
    keep_status(g, g->target.library->cudnnBackendCreateDescriptor(type, &made), "creating a descriptor");
    if (works(g)) g->descriptor[g->descriptors++] = made;
    return works(g) ? made : NULL;
}

/* Ends the newest descriptors, which came to nothing, and forgets why. */
static void drop(struct dnn_graph *g, int down_to) {
    while (g->descriptors > down_to)
        g->target.library->cudnnBackendDestroyDescriptor(g->descriptor[--g->descriptors]);
    g->status = CUDNN_STATUS_SUCCESS;
    g->failed = NULL;
}

static void set(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (works(g))
        keep_status(g, g->target.library->cudnnBackendSetAttribute(d, name, type, count, values),
                    "setting an attribute");
}

static void set_type(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnDataType_t value) {
    set(g, d, name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}

static void set_integer(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                        int64_t value) {
    set(g, d, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_truth(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                      bool value) {
    set(g, d, name, CUDNN_TYPE_BOOLEAN, 1, &value);
}

static void set_descriptor(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value) {
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

/* The target of what is planned: the handle, or the description of a device. */
static void set_target(struct dnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t device,
                       cudnnBackendAttributeName_t handle, bool takes_handle) {
    if (g->target.device)
        set_descriptor(g, d, device, g->target.device);
    else if (takes_handle)
        set(g, d, handle, CUDNN_TYPE_HANDLE, 1, &g->target.handle);
}

static void finalize(struct dnn_graph *g, cudnnBackendDescriptor_t d, const char *what) {
    if (works(g)) keep_status(g, g->target.library->cudnnBackendFinalize(d), what);
}

static int64_t get_integer(struct dnn_graph *g, cudnnBackendDescriptor_t d,
                           cudnnBackendAttributeName_t name) {
    int64_t value = 0, count = 0;
    if (works(g))
        keep_status(g,
                    g->target.library->cudnnBackendGetAttribute(d, name, CUDNN_TYPE_INT64, 1, &count, &value),
                    "reading an attribute");
    return value;
}

/* ---- tensors ---- */

enum tensor_kind { BOUND, NUMBER, VIRTUAL };

static struct dnn_tensor tensor(struct dnn_graph *g, enum tensor_kind kind, int64_t id, cudnnDataType_t type,
                                const int64_t size[4], const int64_t stride[4]) {
    struct dnn_tensor t = {make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR), type, {}, {}};
    memcpy(t.size, size, sizeof t.size);
    memcpy(t.stride, stride, sizeof t.stride);
    set_type(g, t.descriptor, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    set(g, t.descriptor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, size);
    set(g, t.descriptor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set_integer(g, t.descriptor, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    set_integer(g, t.descriptor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, dnn_alignment(type));
    set_truth(g, t.descriptor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, kind == VIRTUAL);
    if (kind == NUMBER) set_truth(g, t.descriptor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
    finalize(g, t.descriptor, "a tensor");
    if (kind == VIRTUAL || !works(g)) return t;
    if (g->bound == DNN_MOST_BOUND)
        keep_status(g, CUDNN_STATUS_INTERNAL_ERROR, "the table of tensors is full");
    else
        g->bound_id[g->bound++] = id;
    return t;
}

struct dnn_tensor dnn_bound(struct dnn_graph *g, int64_t id, cudnnDataType_t type, const int64_t size[4],
                            const int64_t stride[4]) {
    return tensor(g, BOUND, id, type, size, stride);
}

struct dnn_tensor dnn_number(struct dnn_graph *g, int64_t id) {
    const int64_t one[4] = {1, 1, 1, 1};
    return tensor(g, NUMBER, id, CUDNN_DATA_FLOAT, one, one);
}

struct dnn_tensor dnn_virtual(struct dnn_graph *g, cudnnDataType_t type, int64_t a, int64_t b, int64_t c,
                              int64_t d) {
    const int64_t size[4] = {a, b, c, d}, stride[4] = {b * c * d, c * d, d, 1};
    return tensor(g, VIRTUAL, FIRST_VIRTUAL + g->virtuals++, type, size, stride);
}

struct dnn_tensor dnn_transposed(struct dnn_graph *g, const struct dnn_tensor *x, cudnnDataType_t type) {
    const int64_t size[4] = {x->size[0], x->size[1], x->size[3], x->size[2]};
    const int64_t stride[4] = {x->stride[0], x->stride[1], x->stride[3], x->stride[2]};
    return tensor(g, VIRTUAL, FIRST_VIRTUAL + g->virtuals++, type, size, stride);
}

/* ---- operations ---- */

static void add_operation(struct dnn_graph *g, cudnnBackendDescriptor_t d, const char *what) {
    finalize(g, d, what);
    if (!works(g)) return;
    if (g->operations == DNN_MOST_OPERATIONS)
        keep_status(g, CUDNN_STATUS_INTERNAL_ERROR, "the table of operations is full");
    else
        g->operation[g->operations++] = d;
}

/* Gives an operation a tensor, unless there is none. */
static void take(struct dnn_graph *g, cudnnBackendDescriptor_t operation, cudnnBackendAttributeName_t name,
                 const struct dnn_tensor *t) {
    if (t && t->descriptor) set_descriptor(g, operation, name, t->descriptor);
}

void dnn_matmul(struct dnn_graph *g, const struct dnn_tensor *a, const struct dnn_tensor *b,
                const struct dnn_tensor *y, const struct dnn_lengths *lengths) {
    cudnnBackendDescriptor_t product = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_type(g, product, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(g, product, "a product");
    cudnnBackendDescriptor_t o = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    take(g, o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    take(g, o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    take(g, o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    set_descriptor(g, o, CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
    if (lengths) {
        take(g, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, lengths->rows);
        take(g, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, lengths->columns);
        take(g, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, lengths->terms);
    }
    add_operation(g, o, "a product of tensors");
}

static void pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t computes,
                      int64_t dimension, const struct dnn_tensor *x, const struct dnn_tensor *b,
                      const struct dnn_tensor *where, const struct dnn_tensor *y) {
    cudnnBackendDescriptor_t function = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, function, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(g, function, CUDNN_ATTR_POINTWISE_MATH_PREC, computes);
    if (dimension >= 0) set_integer(g, function, CUDNN_ATTR_POINTWISE_AXIS, dimension);
    finalize(g, function, "a function of elements");
    cudnnBackendDescriptor_t o = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(g, o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
    take(g, o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    take(g, o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    take(g, o, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, where);
    take(g, o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_operation(g, o, "an operation on elements");
}

void dnn_pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, const struct dnn_tensor *x,
                   const struct dnn_tensor *b, const struct dnn_tensor *y) {
    const cudnnDataType_t computes = y->type == CUDNN_DATA_BOOLEAN ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT;
    pointwise(g, mode, computes, -1, x, b, NULL, y);
}

void dnn_select(struct dnn_graph *g, const struct dnn_tensor *where, const struct dnn_tensor *x,
                const struct dnn_tensor *b, const struct dnn_tensor *y) {
    pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, -1, x, b, where, y);
}

void dnn_index(struct dnn_graph *g, const struct dnn_tensor *x, int64_t dimension,
               const struct dnn_tensor *y) {
    pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, dimension, x, NULL, NULL, y);
}

void dnn_reduce(struct dnn_graph *g, cudnnReduceTensorOp_t op, const struct dnn_tensor *x,
                const struct dnn_tensor *y) {
    cudnnBackendDescriptor_t reduction = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, reduction, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
    set_type(g, reduction, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(g, reduction, "a reduction");
    cudnnBackendDescriptor_t o = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    take(g, o, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    take(g, o, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_descriptor(g, o, CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
    add_operation(g, o, "a reduction of a tensor");
}

void dnn_reshape(struct dnn_graph *g, const struct dnn_tensor *x, const struct dnn_tensor *y) {
    cudnnBackendDescriptor_t o = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    take(g, o, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    take(g, o, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_operation(g, o, "another shape");
}

void dnn_bernoulli(struct dnn_graph *g, double probability, const struct dnn_tensor *seed,
                   const struct dnn_tensor *offset, const struct dnn_tensor *y) {
    const cudnnRngDistribution_t distribution = CUDNN_RNG_DISTRIBUTION_BERNOULLI;
    cudnnBackendDescriptor_t numbers = make(g, CUDNN_BACKEND_RNG_DESCRIPTOR);
    set(g, numbers, CUDNN_ATTR_RNG_DISTRIBUTION, CUDNN_TYPE_RNG_DISTRIBUTION, 1, &distribution);
    set(g, numbers, CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY, CUDNN_TYPE_DOUBLE, 1, &probability);
    finalize(g, numbers, "random numbers");
    cudnnBackendDescriptor_t o = make(g, CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR);
    take(g, o, CUDNN_ATTR_OPERATION_RNG_YDESC, y);
    take(g, o, CUDNN_ATTR_OPERATION_RNG_SEED, seed);
    take(g, o, CUDNN_ATTR_OPERATION_RNG_OFFSET_DESC, offset);
    set_descriptor(g, o, CUDNN_ATTR_OPERATION_RNG_DESC, numbers);
    add_operation(g, o, "a tensor of random numbers");
}

/* ---- plans ---- */

static void finalize_graph(struct dnn_graph *g) {
    cudnnBackendDescriptor_t whole = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations, g->operation);
    if (!g->target.device)
        set(g, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->target.handle);
    finalize(g, whole, "the graph");
    if (works(g)) g->whole = whole;
}

/* Whether an engine says that its results may differ from run to run. */
static bool wavers(struct dnn_graph *g, cudnnBackendDescriptor_t engine) {
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    keep_status(g,
                g->target.library->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                            CUDNN_TYPE_NUMERICAL_NOTE,
                                                            CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, note),
                "the notes of an engine");
    for (int64_t i = 0; i < count; i++)
        if (note[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) return true;
    return !works(g);
}

/* Whether a configuration of an engine is as it is wanted, and makes a plan. */
static bool plan_with(struct dnn_graph *g, cudnnBackendDescriptor_t configuration,
                      cudnnBackendDescriptor_t engine, int64_t most_workspace) {
    if (wavers(g, engine)) return false;
    cudnnBackendDescriptor_t plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_descriptor(g, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    set_target(g, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, true);
    finalize(g, plan, "a plan");
    g->workspace = get_integer(g, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    if (!works(g)) return false;
    if (g->workspace <= most_workspace) {
        g->plan = plan;
        return true;
    }
    if (g->too_large == 0 || g->workspace < g->too_large) g->too_large = g->workspace;
    return false;
}

bool dnn_lacks_memory(cudnnStatus_t status) {
    return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
           status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

static bool plan_engine(struct dnn_graph *g, const struct dnn_engine *wanted, int64_t most_workspace) {
    cudnnBackendDescriptor_t engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    set_descriptor(g, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, g->whole);
    set_integer(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, wanted->number);
    if (g->target.device) set_descriptor(g, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, g->target.device);
    finalize(g, engine, "an engine");
    cudnnBackendDescriptor_t choice[4] = {};
    for (int i = 0; i < wanted->knobs; i++) {
        choice[i] = make(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        set(g, choice[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &wanted->knob[i].type);
        set_integer(g, choice[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, wanted->knob[i].value);
        finalize(g, choice[i], "a knob");
    }
    cudnnBackendDescriptor_t configuration = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    set_descriptor(g, configuration, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (wanted->knobs > 0)
        set(g, configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, wanted->knobs,
            choice);
    finalize(g, configuration, "a configuration of an engine");
    return works(g) && plan_with(g, configuration, engine, most_workspace);
}

enum { MOST_CONFIGURATIONS = 16 };

/* What cuDNN advises, best first. */
static bool plan_advised(struct dnn_graph *g, cudnnBackendHeurMode_t mode, int64_t most_workspace) {
    cudnnBackendDescriptor_t advice = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(g, advice, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, g->whole);
    set(g, advice, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (g->target.device) set_descriptor(g, advice, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->target.device);
    finalize(g, advice, "advice on engines");
    cudnnBackendDescriptor_t configuration[MOST_CONFIGURATIONS];
    for (int i = 0; i < MOST_CONFIGURATIONS; i++)
        configuration[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = 0;
    if (works(g))
        keep_status(g,
                    g->target.library->cudnnBackendGetAttribute(advice, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                                CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                                                MOST_CONFIGURATIONS, &count, configuration),
                    "the advised engines");
    if (count > MOST_CONFIGURATIONS) count = MOST_CONFIGURATIONS;
    for (int64_t i = 0; i < count; i++) {
        const int made = g->descriptors;
        int64_t found = 0;
        cudnnBackendDescriptor_t engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
        if (works(g))
            keep_status(g,
                        g->target.library->cudnnBackendGetAttribute(
                            configuration[i], CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                            &found, &engine),
                        "an advised engine");
        if (works(g) && plan_with(g, configuration[i], engine, most_workspace)) return true;
        if (dnn_lacks_memory(g->status)) return false;
        if (i + 1 < count) drop(g, made);
    }
    return false;
}

bool dnn_plan(struct dnn_graph *g, const struct dnn_engine *engine, int64_t most_workspace) {
    finalize_graph(g);
    if (!works(g)) return false;
    if (engine->number >= 0) return plan_engine(g, engine, most_workspace);
    const int made = g->descriptors;
    if (plan_advised(g, CUDNN_HEUR_MODE_A, most_workspace)) return true;
    if (dnn_lacks_memory(g->status)) return false;
    drop(g, made);
    return plan_advised(g, CUDNN_HEUR_MODE_FALLBACK, most_workspace);
}

cudnnStatus_t dnn_run(const struct dnn_graph *g, void *const *pointer, void *workspace) {
    const struct dnn_library *library = g->target.library;
    cudnnBackendDescriptor_t pack;
    cudnnStatus_t status =
        library->cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    status = library->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                               g->bound, g->bound_id);
    if (status == CUDNN_STATUS_SUCCESS)
        status = library->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                                   CUDNN_TYPE_VOID_PTR, g->bound, pointer);
    if (status == CUDNN_STATUS_SUCCESS)
        status = library->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                                   CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS) status = library->cudnnBackendFinalize(pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = library->cudnnBackendExecute(g->target.handle, g->plan, pack);
    library->cudnnBackendDestroyDescriptor(pack);
    return status;
}
