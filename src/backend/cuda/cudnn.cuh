/* cuDNN 9: the library, which is opened when it is first asked for, and not needed by who never does.
 *
 * cudnn.cu             opens it; the table of its functions
 * cudnn_graph.cu       operation graphs and plans on its backend interface: descriptors with attributes
 * cudnn_attention.cu   attention as two graphs of it, forward and backward
 * cudnn_plans.cu       the plans of a context, by problem, and running them
 * cudnn_problem.cu     which arguments of attention it takes, and as which problem
 * cudnn_copies.cu      kernels of heed's own around it; cudnn_packed.cu: packed sequences
 * attention_cudnn.cu   the kernel of heed's table that does all this
 *
 * The first three know nothing of heed's contexts nor of devices that are there: a test finalises their
 * graphs for devices that it describes. */
#ifndef HEED_SRC_BACKEND_CUDA_CUDNN_CUH
#define HEED_SRC_BACKEND_CUDA_CUDNN_CUH

#include <cudnn.h>

/* Every function of cuDNN that is called. */
#define DNN_FUNCTIONS(X)                                                                                     \
    X(cudnnGetVersion)                                                                                       \
    X(cudnnGetErrorString)                                                                                   \
    X(cudnnCreate)                                                                                           \
    X(cudnnDestroy)                                                                                          \
    X(cudnnSetStream)                                                                                        \
    X(cudnnBackendCreateDescriptor)                                                                          \
    X(cudnnBackendDestroyDescriptor)                                                                         \
    X(cudnnBackendSetAttribute)                                                                              \
    X(cudnnBackendGetAttribute)                                                                              \
    X(cudnnBackendFinalize)                                                                                  \
    X(cudnnBackendExecute)

struct dnn_library {
    const char *missing; /* why it is not there; NULL: it is */
    size_t version;      /* 91900: 9.19.0 */
#define DNN_FUNCTION(name) decltype(&::name) name;
    DNN_FUNCTIONS(DNN_FUNCTION)
#undef DNN_FUNCTION
};

/* The library, opened by the first call of the process and never closed. */
const struct dnn_library *dnn_library_open();

#endif
