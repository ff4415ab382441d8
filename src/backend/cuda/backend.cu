/* The table of kernels, and the plugin's entry. */
#include "backend/cuda/device.cuh"

const struct heed_services *heed_host;

static const struct heed_kernel *const attention_slot[] = {&heed_cuda_attention, NULL};
static const struct heed_kernel *const cross_entropy_slot[] = {&heed_cuda_cross_entropy, NULL};
static const struct heed_kernel *const fill_slot[] = {&heed_cuda_fill, NULL};
static const struct heed_kernel *const linear_slot[] = {&heed_cuda_linear, NULL};
static const struct heed_kernel *const matmul_slot[] = {&heed_cuda_matmul, NULL};
static const struct heed_kernel *const norm_slot[] = {&heed_cuda_norm, NULL};
static const struct heed_kernel *const pair_loss_slot[] = {&heed_cuda_pair_loss, NULL};
static const struct heed_kernel *const reduce_slot[] = {&heed_cuda_reduce, NULL};
static const struct heed_kernel *const softmax_slot[] = {&heed_cuda_softmax, NULL};
static const struct heed_kernel *mha_slot[] = {NULL, NULL}; /* heed's own, out of the others */

static struct heed_backend backend;

extern "C" const struct heed_backend *heed_plugin(const struct heed_services *services) {
    if (services->version != HEED_PLUGIN_VERSION) return NULL;
    heed_host = services;
    mha_slot[0] = services->composite[HEED_PRIMITIVE_MHA];
    backend.name = "cuda";
    backend.device = &heed_cuda_device;
    backend.slot[HEED_PRIMITIVE_ATTENTION] = attention_slot;
    backend.slot[HEED_PRIMITIVE_CROSS_ENTROPY] = cross_entropy_slot;
    backend.slot[HEED_PRIMITIVE_FILL] = fill_slot;
    backend.slot[HEED_PRIMITIVE_LINEAR] = linear_slot;
    backend.slot[HEED_PRIMITIVE_MATMUL] = matmul_slot;
    backend.slot[HEED_PRIMITIVE_MHA] = mha_slot;
    backend.slot[HEED_PRIMITIVE_NORM] = norm_slot;
    backend.slot[HEED_PRIMITIVE_PAIR_LOSS] = pair_loss_slot;
    backend.slot[HEED_PRIMITIVE_REDUCE] = reduce_slot;
    backend.slot[HEED_PRIMITIVE_SOFTMAX] = softmax_slot;
    return &backend;
}
