/* Things that end when the kernels which may need them are done. */
#include "backend/cuda/device.cuh"

#include <string.h>

static void end_first(struct cuda_device *device, int count) {
    struct cuda_retired *r = &device->retired;
    for (int i = 0; i < count; i++) {
        cudaEventDestroy(r->one[i].done);
        r->one[i].end(device, r->one[i].what);
    }
    r->count -= count;
    memmove(r->one, r->one + count, (size_t)r->count * sizeof r->one[0]);
}

/* Those whose kernels are done. */
static int count_done(const struct cuda_retired *r) {
    int count = 0;
    while (count < r->count && cudaEventQuery(r->one[count].done) == cudaSuccess) count++;
    cudaGetLastError(); /* "not ready" is no error of what comes next */
    return count;
}

static cudaError_t mark(struct cuda_device *device, cudaEvent_t *done) {
    const cudaStream_t stream = cuda_stream(device);
    cudaError_t status = cudaEventCreateWithFlags(done, cudaEventDisableTiming);
    if (status != cudaSuccess) return status;
    status = cudaEventRecord(*done, stream);
    if (status != cudaSuccess) cudaEventDestroy(*done);
    return status;
}

void cuda_retire(struct cuda_device *device, void *what, cuda_end_fn *end) {
    struct cuda_retired *r = &device->retired;
    cudaEvent_t done;
    end_first(device, count_done(r));
    if (r->count == CUDA_RETIRED) {
        cudaEventSynchronize(r->one[0].done);
        end_first(device, 1);
    }
    if (mark(device, &done) == cudaSuccess) {
        r->one[r->count].what = what;
        r->one[r->count].end = end;
        r->one[r->count++].done = done;
        return;
    }
    cudaGetLastError();
    cudaStreamSynchronize(cuda_stream(device));
    end(device, what);
}

void cuda_retired_close(struct cuda_device *device) {
    end_first(device, device->retired.count);
}
