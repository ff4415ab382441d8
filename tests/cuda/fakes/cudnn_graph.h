/* Operation graphs as the fake cuDNN keeps them: descriptors with attributes, and what is read out of them.
 */
#ifndef HEED_TESTS_CUDA_FAKES_CUDNN_GRAPH_H
#define HEED_TESTS_CUDA_FAKES_CUDNN_GRAPH_H

#include <cudnn.h>

#include <cstdint>
#include <map>
#include <vector>

#include "fakes/library.h"

namespace fakes {

struct attribute {
    cudnnBackendAttributeType_t type;
    int64_t count;
    std::vector<char> bytes;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool alive = true, finalized = false;
    std::map<cudnnBackendAttributeName_t, attribute> set;

    bool has(cudnnBackendAttributeName_t name) const {
        return set.count(name) != 0;
    }
    template <typename T> T get(cudnnBackendAttributeName_t name, int64_t i = 0) const {
        const auto found = set.find(name);
        if (found == set.end() || i >= found->second.count)
            wrong("cuDNN: a descriptor of type %d is used without its attribute %d", (int)type, (int)name);
        T value;
        memcpy(&value, found->second.bytes.data() + (size_t)i * sizeof value, sizeof value);
        return value;
    }
    int64_t count(cudnnBackendAttributeName_t name) const {
        return has(name) ? set.at(name).count : 0;
    }
    /* A descriptor that is an attribute; NULL where it is not set. */
    descriptor *inner(cudnnBackendAttributeName_t name, int64_t i = 0) const {
        return has(name) ? static_cast<descriptor *>(get<cudnnBackendDescriptor_t>(name, i)) : NULL;
    }
};

/* ---- tensors ---- */

static inline int64_t size_of(const descriptor *t, int d) {
    return t->get<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS, d);
}
static inline int64_t stride_of(const descriptor *t, int d) {
    return t->get<int64_t>(CUDNN_ATTR_TENSOR_STRIDES, d);
}
static inline int64_t id_of(const descriptor *t) {
    return t->get<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
}
static inline bool is_virtual(const descriptor *t) {
    return t->get<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
}
static inline bool is_number(const descriptor *t) {
    return t->has(CUDNN_ATTR_TENSOR_IS_BY_VALUE) && t->get<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE);
}
static inline cudnnDataType_t type_of(const descriptor *t) {
    return t->get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
}
static inline int64_t elements_of(const descriptor *t) {
    return size_of(t, 0) * size_of(t, 1) * size_of(t, 2) * size_of(t, 3);
}
static inline size_t bytes_of(cudnnDataType_t type) {
    switch (type) {
    case CUDNN_DATA_BFLOAT16:
        return 2;
    case CUDNN_DATA_FLOAT:
    case CUDNN_DATA_INT32:
        return 4;
    case CUDNN_DATA_INT64:
        return 8;
    default:
        wrong("cuDNN: a tensor with memory has type %d", (int)type);
    }
}
/* From its first to its last element. */
static inline size_t extent_of(const descriptor *t) {
    int64_t last = 0;
    for (int d = 0; d < 4; d++) last += (size_of(t, d) - 1) * stride_of(t, d);
    return ((size_t)last + 1) * bytes_of(type_of(t));
}

/* ---- operations ---- */

/* The tensors that an operation reads, and the one that it writes. */
std::vector<descriptor *> inputs_of(const descriptor *operation);
descriptor *output_of(const descriptor *operation);

/* Ends the process where shapes, types or the order of operations make no sense. */
void check_tensor(const descriptor *t);
void check_operation(const descriptor *operation);
void check_graph(const descriptor *graph);

/* The tensors with memory or a number of the host, by id. */
std::map<int64_t, descriptor *> bound_tensors(const descriptor *graph);

/* Computes all operations in order. Memory of the device may be touched. */
void interpret(const descriptor *graph, const std::map<int64_t, void *> &memory);

} // namespace fakes

#endif
