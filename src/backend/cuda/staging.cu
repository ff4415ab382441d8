/* Writes take a slot of the ring after the other: the host fills its pinned part and goes on. Where there is
 * much, the stream of copies takes it to the slot's part on the device while kernels run, and their stream
 * only has to copy it from there to its place, which kernels before may still be using. A slot is filled
 * again when it was left, which is waited for only if the host is a whole ring ahead. Reads take slots too,
 * as many at once as there are. */
#include "backend/cuda/staging.cuh"

#include <string.h>

static cudaError_t open_slot(struct cuda_staging *s, int i) {
    struct cuda_slot *slot = &s->slot[i];
    slot->host = s->host + (size_t)i * CUDA_SLOT_BYTES;
    slot->device = s->device + (size_t)i * CUDA_SLOT_BYTES;
    const cudaError_t status = cudaEventCreateWithFlags(&slot->host_left, cudaEventDisableTiming);
    return status == cudaSuccess ? cudaEventCreateWithFlags(&slot->left, cudaEventDisableTiming) : status;
}

cudaError_t cuda_staging_open(struct cuda_staging *s, cudaStream_t kernels) {
    const size_t bytes = (size_t)CUDA_SLOTS * CUDA_SLOT_BYTES;
    s->kernels = kernels;
    cudaError_t status = cudaStreamCreateWithFlags(&s->copies, cudaStreamNonBlocking);
    if (status == cudaSuccess)
        status = cudaHostAlloc(reinterpret_cast<void **>(&s->host), bytes, cudaHostAllocDefault);
    if (status == cudaSuccess) status = cudaMalloc(reinterpret_cast<void **>(&s->device), bytes);
    for (int i = 0; i < CUDA_SLOTS && status == cudaSuccess; i++) status = open_slot(s, i);
    return status;
}

void cuda_staging_close(struct cuda_staging *s) {
    if (s->copies) cudaStreamSynchronize(s->copies);
    for (struct cuda_slot &slot : s->slot) {
        if (slot.host_left) cudaEventDestroy(slot.host_left);
        if (slot.left) cudaEventDestroy(slot.left);
    }
    if (s->device) cudaFree(s->device);
    if (s->host) cudaFreeHost(s->host);
    if (s->copies) cudaStreamDestroy(s->copies);
}

/* The next slot, when nobody needs what its pinned part holds. */
static cudaError_t take(struct cuda_staging *s, struct cuda_slot **slot) {
    *slot = &s->slot[s->next];
    s->next = (s->next + 1) % CUDA_SLOTS;
    return cudaEventSynchronize((*slot)->host_left);
}

static size_t piece_at(size_t done, size_t bytes) {
    return bytes - done < CUDA_SLOT_BYTES ? bytes - done : (size_t)CUDA_SLOT_BYTES;
}

/* ---- to the device ---- */

static cudaError_t write_directly(struct cuda_staging *s, struct cuda_slot *slot, void *to, size_t bytes) {
    const cudaError_t status = cudaMemcpyAsync(to, slot->host, bytes, cudaMemcpyHostToDevice, s->kernels);
    return status == cudaSuccess ? cudaEventRecord(slot->host_left, s->kernels) : status;
}

static cudaError_t write_aside(struct cuda_staging *s, struct cuda_slot *slot, void *to, size_t bytes) {
    cudaError_t status = cudaStreamWaitEvent(s->copies, slot->left, 0);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(slot->device, slot->host, bytes, cudaMemcpyHostToDevice, s->copies);
    if (status == cudaSuccess) status = cudaEventRecord(slot->host_left, s->copies);
    if (status == cudaSuccess) status = cudaStreamWaitEvent(s->kernels, slot->host_left, 0);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(to, slot->device, bytes, cudaMemcpyDeviceToDevice, s->kernels);
    return status == cudaSuccess ? cudaEventRecord(slot->left, s->kernels) : status;
}

cudaError_t cuda_staging_write(struct cuda_staging *s, void *to, const void *from, size_t bytes) {
    for (size_t done = 0; done < bytes; done += CUDA_SLOT_BYTES) {
        const size_t piece = piece_at(done, bytes);
        struct cuda_slot *slot;
        cudaError_t status = take(s, &slot);
        if (status != cudaSuccess) return status;
        memcpy(slot->host, static_cast<const char *>(from) + done, piece);
        status = (bytes <= CUDA_DIRECT_BYTES ? write_directly
                                             : write_aside)(s, slot, static_cast<char *>(to) + done, piece);
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}

/* ---- from the device ---- */

static cudaError_t ask_for(struct cuda_staging *s, const char *from, size_t bytes) {
    struct cuda_slot *slot;
    cudaError_t status = take(s, &slot);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(slot->host, from, bytes, cudaMemcpyDeviceToHost, s->kernels);
    return status == cudaSuccess ? cudaEventRecord(slot->host_left, s->kernels) : status;
}

cudaError_t cuda_staging_read(struct cuda_staging *s, void *to, const void *from, size_t bytes) {
    const size_t pieces = (bytes + CUDA_SLOT_BYTES - 1) / CUDA_SLOT_BYTES, first = (size_t)s->next;
    size_t asked = 0;
    for (size_t i = 0; i < pieces; i++) {
        for (; asked < pieces && asked < i + CUDA_SLOTS; asked++) {
            const size_t at = asked * CUDA_SLOT_BYTES;
            const cudaError_t status = ask_for(s, static_cast<const char *>(from) + at, piece_at(at, bytes));
            if (status != cudaSuccess) return status;
        }
        const struct cuda_slot *slot = &s->slot[(first + i) % CUDA_SLOTS];
        const cudaError_t status = cudaEventSynchronize(slot->host_left);
        if (status != cudaSuccess) return status;
        const size_t at = i * CUDA_SLOT_BYTES;
        memcpy(static_cast<char *>(to) + at, slot->host, piece_at(at, bytes));
    }
    return cudaSuccess;
}
