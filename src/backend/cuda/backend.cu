/* The table of kernels, and the plugin's entry. */
#include "backend/cuda/device.cuh"

const struct heed_services *heed_host;

/* The slots, made of the list. */
struct table {
    struct heed_backend backend = {};
    const struct heed_kernel *slot[HEED_PRIMITIVES][HEED_MAX_KERNELS] = {};

    explicit table(const struct heed_services *services) {
        backend.name = "cuda";
        backend.device = &heed_cuda_device;
        backend.mixed = true;
#define ADD(primitive, name) add(HEED_PRIMITIVE_##primitive, &heed_cuda_##name);
        HEED_CUDA_KERNELS(ADD)
#undef ADD
        add(HEED_PRIMITIVE_MHA, services->composite[HEED_PRIMITIVE_MHA]);
    }

  private:
    /* The last of a slot stays NULL; dispatch reports one that is as long. */
    void add(enum heed_primitive primitive, const struct heed_kernel *kernel) {
        int i = 0;
        while (slot[primitive][i] && i + 2 < HEED_MAX_KERNELS) i++;
        slot[primitive][i] = kernel;
        backend.slot[primitive] = slot[primitive];
    }
};

extern "C" const struct heed_backend *heed_plugin(const struct heed_services *services) {
    if (services->version != HEED_PLUGIN_VERSION) return NULL;
    heed_host = services;
    static const table all(services); /* the services are the same for all contexts */
    return &all.backend;
}
