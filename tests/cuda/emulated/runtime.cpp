#include "emulated/runtime.h"

#include "emulated/control.h"
#include "emulated/library.h"
#include "emulated/memory.h"
#include "emulated/stream.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <sys/mman.h>
#include <vector>

using namespace emulated;

/* CUDA's headers declare it. */
struct CUmemPoolHandle_st {
    int device;
};

enum { DEVICES = 2, VERSION = CUDART_VERSION };

static emulated_control control;
static thread_local int current_device;
static thread_local cudaError_t last_error;           /* of any call */
static std::map<const void *, size_t> allowed_shared; /* by kernel, where it is not the ordinary */

/* ---- failures ---- */

namespace emulated {

bool fails() {
    return ++control.calls == control.fail_at;
}

cudaError_t failed(cudaError_t status) {
    return last_error = status;
}

} // namespace emulated

/* ---- for tests and fakes ---- */

static int fails_for_fake() {
    locked lock;
    return fails();
}

static cudaStream_t stream_of_fake(const void *stream) {
    return static_cast<cudaStream_t>(const_cast<void *>(stream));
}

static void check_stream_for_fake(const char *who, const void *stream) {
    locked lock;
    stream_check(who, stream_of_fake(stream), current_device);
}

static void queue_for_fake(const void *stream, void (*work)(void *), void *data) {
    locked lock;
    stream_do(stream_of_fake(stream), [work, data] { work(data); });
}

static void end(const char *line) {
    fail("%s", line);
}

struct emulated_control *heed_emulated(void) {
    control.streams = streams_living();
    control.events = events_living();
    control.allocations = (int64_t)memory_living().allocations;
    control.fails = fails_for_fake;
    control.check_stream = check_stream_for_fake;
    control.check_memory = memory_check;
    control.end = end;
    control.queue = queue_for_fake;
    control.enter = enter;
    control.leave = leave;
    return &control;
}

/* ---- launches ---- */

namespace emulated {

size_t shared_allowed(const void *kernel) {
    locked lock;
    const auto found = allowed_shared.find(kernel);
    return found == allowed_shared.end() ? (size_t)STATIC_SHARED : found->second;
}

bool may_launch(const char *kernel, cudaStream_t stream) {
    locked lock;
    stream_check(kernel, stream, current_device);
    control.launches++;
    if (!fails()) return true;
    failed(cudaErrorLaunchOutOfResources);
    return false;
}

/* A word that looks like an address of the host is one if there is memory. The upper half of a word may be
 * the padding behind a small number, with whatever lay there before. Sanitizers have their own memory below
 * 2⁴⁵, and programs theirs above. */
void check_parameter(const char *kernel, int number, const void *parameter, size_t bytes) {
    const uintptr_t page = 4096, least = (uintptr_t)1 << (EMULATED_ADDRESS || EMULATED_THREAD ? 45 : 32),
                    most = (uintptr_t)1 << 47, small = (uintptr_t)1 << 20;
    for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        unsigned char present;
        memcpy(&word, static_cast<const char *>(parameter) + at, sizeof word);
        void *address = reinterpret_cast<void *>(word);
        if (word < least || word >= most || word % least < small || memory_is(address)) continue;
        if (mincore(reinterpret_cast<void *>(word / page * page), page, &present) != 0) continue;
        fail("%s: parameter %d has at byte %zu a pointer to memory of the host, %p (or is it unset?)", kernel,
             number, at, address);
    }
}

} // namespace emulated

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value) {
    locked lock;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        fail("cudaFuncSetAttribute(%d)", (int)attribute);
    if (value < 0 || value > MOST_SHARED)
        fail("cudaFuncSetAttribute: %d bytes of shared memory; there are %d", value, MOST_SHARED);
    if (fails()) return failed(cudaErrorInvalidValue);
    allowed_shared[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    locked lock;
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t status) {
    switch (status) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorInvalidKernelImage:
        return "device kernel image is invalid";
    default:
        return "a failure that a test asked for";
    }
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    locked lock;
    if (fails()) return failed(cudaErrorInitializationError); /* and *count stays as it was */
    *count = DEVICES;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    locked lock;
    if (device < 0 || device >= DEVICES) return failed(cudaErrorInvalidDevice);
    if (fails()) return failed(cudaErrorDevicesUnavailable);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}

/* Few processors, so that small shapes already have more blocks than run at once; the rest is the least of
 * all our targets. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    locked lock;
    if (device < 0 || device >= DEVICES) return failed(cudaErrorInvalidDevice);
    if (fails()) return failed(cudaErrorUnknown);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated %d", device);
    properties->totalGlobalMem = (size_t)1 << 30;
    properties->sharedMemPerBlock = STATIC_SHARED;
    properties->sharedMemPerBlockOptin = MOST_SHARED;
    properties->sharedMemPerMultiprocessor = MOST_SHARED + 1024;
    properties->regsPerBlock = 65536;
    properties->warpSize = LANES;
    properties->maxThreadsPerBlock = MOST_THREADS;
    properties->multiProcessorCount = 2;
    properties->major = 8;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = VERSION + 10; /* 13.1 of 13.0 */
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    locked lock;
    *memory = NULL;
    if (fails()) return failed(cudaErrorMemoryAllocation);
    if (bytes == 0) return cudaSuccess;
    *memory = memory_new(bytes);
    control.allocated++;
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory) {
    control.waits++;
    stream_wait_all();
    if (memory) memory_free("cudaFree", memory);
    return cudaSuccess;
}

/* ---- memory in the order of streams ---- */

static std::vector<cudaMemPool_t> pools;

static void pool_check(const char *who, cudaMemPool_t pool) {
    if (std::find(pools.begin(), pools.end(), pool) == pools.end())
        fail("%s: %p is no pool", who, static_cast<void *>(pool));
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    locked lock;
    if (attribute != cudaDevAttrMemoryPoolsSupported) fail("cudaDeviceGetAttribute(%d)", (int)attribute);
    if (device < 0 || device >= DEVICES) return cudaErrorInvalidDevice;
    if (fails()) return cudaErrorUnknown;
    *value = device == 0;
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *kind) {
    locked lock;
    if (kind->allocType != cudaMemAllocationTypePinned || kind->location.type != cudaMemLocationTypeDevice)
        fail("cudaMemPoolCreate: of no device's memory");
    if (kind->location.id != 0) return cudaErrorNotSupported;
    if (fails()) return cudaErrorMemoryAllocation;
    pools.push_back(new CUmemPoolHandle_st{kind->location.id});
    *pool = pools.back();
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *) {
    locked lock;
    pool_check("cudaMemPoolSetAttribute", pool);
    if (attribute != cudaMemPoolAttrReleaseThreshold) fail("cudaMemPoolSetAttribute(%d)", (int)attribute);
    return fails() ? cudaErrorUnknown : cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    locked lock;
    pool_check("cudaMemPoolDestroy", pool);
    pools.erase(std::find(pools.begin(), pools.end(), pool));
    delete pool;
    return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void **memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
    locked lock;
    *memory = NULL;
    pool_check("cudaMallocFromPoolAsync", pool);
    stream_check("cudaMallocFromPoolAsync", stream, pool->device);
    if (fails()) return cudaErrorMemoryAllocation;
    if (bytes == 0) return cudaSuccess;
    void *later = memory_new_later(bytes);
    if (!later) return cudaErrorMemoryAllocation;
    control.allocated++;
    stream_do(stream, [=] { memory_arrive(later); });
    *memory = later;
    return cudaSuccess;
}

cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream) {
    locked lock;
    stream_check("cudaFreeAsync", stream, current_device);
    if (!memory) return cudaSuccess;
    memory_leave("cudaFreeAsync", memory);
    stream_do(stream, [=] { memory_free("cudaFreeAsync", memory); });
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes) {
    *free_bytes = (size_t)3 << 28;
    *all_bytes = (size_t)1 << 30;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream) {
    locked lock;
    stream_check("cudaMemsetAsync", stream, current_device);
    if (fails()) return failed(cudaErrorUnknown);
    if (bytes == 0) return cudaSuccess;
    memory_check("cudaMemsetAsync", to, bytes);
    stream_do(stream, [=] { memset(to, byte, bytes); });
    return cudaSuccess;
}

static void check_side(const char *which, const void *memory, size_t bytes, bool device) {
    if (device)
        memory_check(which, memory, bytes);
    else if (memory_is(memory))
        fail("%s: memory of the device where the kind says that it is the host's", which);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    locked lock;
    stream_check("cudaMemcpyAsync", stream, current_device);
    if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice)
        fail("cudaMemcpyAsync: kind %d", (int)kind);
    if (fails()) return failed(cudaErrorUnknown);
    if (bytes == 0) return cudaSuccess;
    check_side("cudaMemcpyAsync to", to, bytes, kind != cudaMemcpyDeviceToHost);
    check_side("cudaMemcpyAsync from", from, bytes, kind != cudaMemcpyHostToDevice);
    const char *first = static_cast<char *>(to), *second = static_cast<const char *>(from);
    if (first < second + bytes && second < first + bytes) fail("cudaMemcpyAsync: the two overlap");
    if (kind == cudaMemcpyHostToDevice && !memory_is_pinned(from)) {
        const std::vector<char> taken(static_cast<const char *>(from),
                                      static_cast<const char *>(from) + bytes);
        stream_do(stream, [=] { memcpy(to, taken.data(), bytes); });
        return cudaSuccess;
    }
    stream_do(stream, [=] { memcpy(to, from, bytes); });
    if (kind == cudaMemcpyDeviceToHost && !memory_is_pinned(to)) {
        control.waits++;
        stream_wait(stream);
    }
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    locked lock;
    *memory = NULL;
    if (fails()) return failed(cudaErrorMemoryAllocation);
    *memory = memory_pinned_new(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory) {
    control.waits++;
    stream_wait_all();
    if (memory) memory_pinned_free("cudaFreeHost", memory);
    return cudaSuccess;
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    locked lock;
    if (fails()) return failed(cudaErrorUnknown);
    *stream = stream_new(current_device);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    locked lock;
    stream_check("cudaStreamSynchronize", stream);
    control.waits++;
    stream_wait(stream);
    return fails() ? failed(cudaErrorUnknown) : cudaSuccess;
}

/* With the last stream the last context ends, and all that contexts had is to be given back. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    locked lock;
    stream_check("cudaStreamDestroy", stream);
    stream_free(stream);
    const memory_sum left = memory_living();
    if (streams_living() == 0 &&
        (left.allocations || left.pinned || events_living() || libraries_living() || !pools.empty()))
        fail("%zu allocations of %zu bytes, %zu of pinned memory, %d events, %d libraries and %zu pools are "
             "left when the last stream is destroyed",
             left.allocations, left.bytes, left.pinned, (int)events_living(), libraries_living(),
             pools.size());
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    locked lock;
    if (fails()) return failed(cudaErrorUnknown);
    *event = event_new();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    locked lock;
    event_check("cudaEventDestroy", event);
    event_free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    locked lock;
    event_check("cudaEventRecord", event);
    stream_check("cudaEventRecord", stream);
    if (fails()) return failed(cudaErrorUnknown);
    event_record(event, stream);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    locked lock;
    event_check("cudaStreamWaitEvent", event);
    stream_check("cudaStreamWaitEvent", stream);
    if (fails()) return failed(cudaErrorUnknown);
    event_hold(event, stream);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    locked lock;
    event_check("cudaEventSynchronize", event);
    control.waits += !event_done(event);
    event_wait(event);
    return fails() ? failed(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    locked lock;
    event_check("cudaEventQuery", event);
    return event_done(event) ? cudaSuccess : cudaErrorNotReady;
}
}
