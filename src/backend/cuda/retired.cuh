/* What kernels that are under way may still need, and nothing else: a plan that made room for another, code
 * that did. It ends when they are done, without the host waiting for that. */
#ifndef HEED_SRC_BACKEND_CUDA_RETIRED_CUH
#define HEED_SRC_BACKEND_CUDA_RETIRED_CUH

#ifdef HEED_EMULATED
#include "emulated/runtime.h"
#else
#include <cuda_runtime.h>
#endif

struct cuda_device;

typedef void cuda_end_fn(struct cuda_device *device, void *what);

enum { CUDA_RETIRED = 16 };

/* In the order in which they will be done. */
struct cuda_retired {
    int count;
    struct {
        void *what;
        cuda_end_fn *end;
        cudaEvent_t done; /* the kernels that may need it */
    } one[CUDA_RETIRED];
};

/* Ends it by `end` when the kernels that were started so far are done: when the next retires, or when the
 * device is closed. The host waits only if the first of so many still is not, or if there is no event. */
void cuda_retire(struct cuda_device *device, void *what, cuda_end_fn *end);

/* When the device has done all. */
void cuda_retired_close(struct cuda_device *device);

#endif
