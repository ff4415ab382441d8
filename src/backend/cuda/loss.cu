/* Where backward begins: the gradient of the loss is 1, and a loss that is not finite raises the error word,
 * so that steps which are queued already change nothing and the host need not wait to look at it.
 *
 * By one thread; bytes: those of two elements. */
#include "backend/cuda/bf16.cuh"

template <typename T>
static __global__ void begin_backward(const T *loss, T *dloss, bool add, struct cuda_fault_word *fault,
                                      long long step) {
    typedef typename cuda_computed<T>::type number;
    const double value = (double)(number)*loss;
    long long bits;
    memcpy(&bits, &value, sizeof bits);
    *dloss = (T)(add ? (number)*dloss + 1 : (number)1);
    if (!std::isfinite(value)) cuda_raise(fault, CUDA_FAULT_LOSS, HEED_PRIMITIVE_LOSS, bits, step);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_loss_args *a = static_cast<const struct heed_loss_args *>(arguments);
    why->reason = "the loss and its gradient are of two dtypes";
    return a->loss.dtype == a->dloss.view.dtype;
}

template <typename T> static void start(struct heed_exec *exec, const struct heed_loss_args *a) {
    CUDA_RUN(exec, begin_backward<T>, 1, 1, 0, static_cast<const T *>(a->loss.data),
             static_cast<T *>(a->dloss.view.data), a->dloss.add, cuda_of(exec)->fault, (long long)a->step);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *) {
    const struct heed_loss_args *a = static_cast<const struct heed_loss_args *>(arguments);
    (a->loss.dtype == HEED_F64    ? start<double>
     : a->loss.dtype == HEED_BF16 ? start<cuda_bf16>
                                  : start<float>)(exec, a);
    return cuda_started(exec, HEED_PRIMITIVE_LOSS);
}

const struct heed_kernel heed_cuda_loss = {"cuda", applies, NULL, forward, NULL};
