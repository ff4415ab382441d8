/* The way between the host's memory and the device's: a ring of pinned memory, and of device memory beside
 * it, and a stream of copies beside the one of kernels. */
#ifndef HEED_SRC_BACKEND_CUDA_STAGING_CUH
#define HEED_SRC_BACKEND_CUDA_STAGING_CUH

#ifdef HEED_EMULATED
#include "emulated/runtime.h"
#else
#include <cuda_runtime.h>
#endif

#include <stddef.h>

enum {
    CUDA_SLOTS = 64,
    CUDA_SLOT_BYTES = 64 << 10,
    CUDA_DIRECT_BYTES = 32 << 10 /* up to this the stream of kernels copies by itself */
};

struct cuda_slot {
    char *host, *device;
    cudaEvent_t host_left; /* the copy from or to the host's part is done */
    cudaEvent_t left;      /* and the one from the device's part */
};

struct cuda_staging {
    cudaStream_t kernels, copies;
    char *host, *device; /* of all slots */
    struct cuda_slot slot[CUDA_SLOTS];
    int next;
};

/* On the thread's device; what a failure leaves is for close, which waits for all copies. */
cudaError_t cuda_staging_open(struct cuda_staging *s, cudaStream_t kernels);
void cuda_staging_close(struct cuda_staging *s);

/* In order with the stream of kernels. The host's memory may change as soon as write returns, which waits
 * only where the ring is full; read returns when all has arrived. */
cudaError_t cuda_staging_write(struct cuda_staging *s, void *to, const void *from, size_t bytes);
cudaError_t cuda_staging_read(struct cuda_staging *s, void *to, const void *from, size_t bytes);

#endif
