/* The table of kernels, and the plugin's entry. */
#include "backend/cuda/device.cuh"

const struct heed_services *heed_host;

static const struct heed_kernel *const argmax_slot[] = {&heed_cuda_argmax, NULL};
static const struct heed_kernel *const binary_slot[] = {&heed_cuda_binary, NULL};
static const struct heed_kernel *const copy_slot[] = {&heed_cuda_copy, NULL};
static const struct heed_kernel *const dropout_slot[] = {&heed_cuda_dropout, NULL};
static const struct heed_kernel *const fill_slot[] = {&heed_cuda_fill, NULL};
static const struct heed_kernel *const gather_slot[] = {&heed_cuda_gather, NULL};
static const struct heed_kernel *const random_slot[] = {&heed_cuda_random, NULL};
static const struct heed_kernel *const rotary_slot[] = {&heed_cuda_rotary, NULL};
static const struct heed_kernel *const unary_slot[] = {&heed_cuda_unary, NULL};
static const struct heed_kernel *const where_slot[] = {&heed_cuda_where, NULL};
static const struct heed_kernel *mha_slot[] = {NULL, NULL}; /* heed's own, out of the others */

static struct heed_backend backend;

extern "C" const struct heed_backend *heed_plugin(const struct heed_services *services) {
    if (services->version != HEED_PLUGIN_VERSION) return NULL;
    heed_host = services;
    mha_slot[0] = services->composite[HEED_PRIMITIVE_MHA];
    backend.name = "cuda";
    backend.device = &heed_cuda_device;
    backend.slot[HEED_PRIMITIVE_ARGMAX] = argmax_slot;
    backend.slot[HEED_PRIMITIVE_BINARY] = binary_slot;
    backend.slot[HEED_PRIMITIVE_COPY] = copy_slot;
    backend.slot[HEED_PRIMITIVE_DROPOUT] = dropout_slot;
    backend.slot[HEED_PRIMITIVE_FILL] = fill_slot;
    backend.slot[HEED_PRIMITIVE_GATHER] = gather_slot;
    backend.slot[HEED_PRIMITIVE_MHA] = mha_slot;
    backend.slot[HEED_PRIMITIVE_RANDOM] = random_slot;
    backend.slot[HEED_PRIMITIVE_ROTARY] = rotary_slot;
    backend.slot[HEED_PRIMITIVE_UNARY] = unary_slot;
    backend.slot[HEED_PRIMITIVE_WHERE] = where_slot;
    return &backend;
}
