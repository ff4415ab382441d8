/* The table of kernels, and the plugin's entry. */
#include "backend/cuda/device.cuh"

const struct heed_services *heed_host;

#define SLOT(primitive, name)                                                                                \
    static const struct heed_kernel *const name##_slot[] = {&heed_cuda_##name, NULL};
HEED_CUDA_KERNELS(SLOT)
static const struct heed_kernel *mha_slot[] = {NULL, NULL};

static struct heed_backend backend;

extern "C" const struct heed_backend *heed_plugin(const struct heed_services *services) {
    if (services->version != HEED_PLUGIN_VERSION) return NULL;
    heed_host = services;
    mha_slot[0] = services->composite[HEED_PRIMITIVE_MHA];
    backend.name = "cuda";
    backend.device = &heed_cuda_device;
#define FILL_IN(primitive, name) backend.slot[HEED_PRIMITIVE_##primitive] = name##_slot;
    HEED_CUDA_KERNELS(FILL_IN)
    backend.slot[HEED_PRIMITIVE_MHA] = mha_slot;
    return &backend;
}
