/* The CUDA device of a context: memory, copies, waiting, and what went wrong. */
#include "backend/cuda/cudnn_plans.cuh"
#include "backend/cuda/lt.cuh"
#include "backend/cuda/specialise.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---- */

heed_status cuda_check(struct heed_exec *exec, enum heed_primitive primitive, cudaError_t status) {
    if (status == cudaSuccess) return HEED_OK;
    cudaGetLastError(); /* it is told here, and is no error of what comes next */
    const heed_status kind = status == cudaErrorMemoryAllocation ? HEED_ERROR_MEMORY : HEED_ERROR_DEVICE;
    return heed_host->fail(exec, kind, primitive, "CUDA: %s", cudaGetErrorString(status));
}

/* A failure shows in the call that the stream is for. */
cudaStream_t cuda_stream(const struct cuda_device *device) {
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current != device->ordinal) cudaSetDevice(device->ordinal);
    return device->stream;
}

/* Steps that were queued behind a fault were for nothing, whoever's they are. */
static void take_steps_back(struct cuda_device *device, const struct cuda_fault_word *word) {
    for (int i = device->norms - 1; word->norm > 0 && i >= word->norm - 1; i--) {
        struct heed_grad_witness *witness = device->norm[i].witness;
        witness->changed_nothing(witness, device->norm[i].step);
    }
}

/* What a kernel raised, in words. */
static heed_status report(struct cuda_device *device, const struct cuda_fault_word *word) {
    struct heed_exec *exec = device->exec;
    const enum heed_primitive primitive = (enum heed_primitive)word->primitive;
    switch ((enum cuda_fault)word->fault) {
    case CUDA_FAULT_NONE:
    case CUDA_FAULTS:
        break;
    case CUDA_FAULT_INDEX:
        return heed_host->fail(exec, HEED_ERROR_ARGUMENT, primitive, "index %lld is not in 0 to %lld",
                               word->detail[0], word->detail[1] - 1);
    case CUDA_FAULT_TARGET:
        return heed_host->fail(exec, HEED_ERROR_ARGUMENT, primitive, "target %lld is not in 0 to %lld",
                               word->detail[0], word->detail[1] - 1);
    case CUDA_FAULT_GRADIENT: {
        const struct cuda_watched_norm *norm = &device->norm[word->detail[1]];
        return norm->witness->not_finite(norm->witness, word->detail[0], norm->step);
    }
    case CUDA_FAULT_LOSS: {
        double loss;
        memcpy(&loss, &word->detail[0], sizeof loss);
        return heed_host->fail(exec, HEED_ERROR_NUMERIC, primitive, HEED_LOSS_NOT_FINITE,
                               loss != loss ? (double)NAN : loss, (unsigned long long)word->detail[1]);
    }
    }
    return HEED_OK;
}

/* The operation that waits is not the one that it is about, unless the host waits after each kernel. */
static heed_status tell(struct cuda_device *device) {
    struct heed_exec *exec = device->exec;
    const char *operation = exec->operation;
    if (!device->blocking) exec->operation = NULL;
    take_steps_back(device, device->seen);
    const heed_status status = report(device, device->seen);
    exec->operation = operation;
    return status;
}

/* Once the stream has come here, `seen` is the error word of all that was started before. */
static cudaError_t look_at_fault(struct cuda_device *device) {
    return cudaMemcpyAsync(device->seen, device->fault, sizeof *device->seen, cudaMemcpyDeviceToHost,
                           cuda_stream(device));
}

/* When the host has waited. */
static heed_status settle(struct cuda_device *device, cudaError_t status) {
    if (status != cudaSuccess) return cuda_check(device->exec, HEED_PRIMITIVE_COPY, status);
    heed_status reported = HEED_OK;
    if (device->seen->fault != CUDA_FAULT_NONE) {
        status = cudaMemsetAsync(device->fault, 0, sizeof *device->fault, cuda_stream(device));
        reported = tell(device);
    }
    device->norms = 0;
    return status == cudaSuccess ? reported : cuda_check(device->exec, HEED_PRIMITIVE_COPY, status);
}

static heed_status device_sync(void *self) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    cudaError_t status = look_at_fault(device);
    if (status == cudaSuccess) status = cudaStreamSynchronize(cuda_stream(device));
    return settle(device, status);
}

heed_status cuda_started(struct heed_exec *exec, enum heed_primitive primitive) {
    const heed_status status = cuda_check(exec, primitive, cudaGetLastError());
    if (status != HEED_OK || !cuda_of(exec)->blocking) return status;
    return device_sync(cuda_of(exec));
}

heed_status cuda_watch_norm(struct heed_exec *exec, struct heed_grad_witness *witness, int64_t step,
                            int *ticket) {
    struct cuda_device *device = cuda_of(exec);
    const heed_status status = device->norms == CUDA_WATCHED_NORMS ? device_sync(device) : HEED_OK;
    if (status != HEED_OK) return status;
    *ticket = device->norms++;
    device->norm[*ticket] = {witness, step};
    return HEED_OK;
}

/* ---- opening ---- */

/* "13.0" of 13000. */
struct version_text {
    char text[24];
    explicit version_text(int version) {
        snprintf(text, sizeof text, "%d.%d", version / 1000, version % 1000 / 10);
    }
};

/* The runtime says the same of a driver that is too old and of one that is not there. */
static void say_driver(char *why, size_t bytes) {
    int driver = 0, runtime = 0; /* the driver's stays so where there is none */
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        snprintf(why, bytes, "no CUDA device: there is no NVIDIA driver");
    else
        snprintf(why, bytes, "no CUDA device: the NVIDIA driver is for CUDA %s, and %s is needed",
                 version_text(driver).text, version_text(runtime).text);
}

/* Says why there is no such device. */
static bool find_device(int ordinal, char *why, size_t bytes) {
    int count = 0; /* stays so where there is no driver */
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) cudaGetLastError();
    if (status == cudaErrorInsufficientDriver) {
        say_driver(why, bytes);
        return false;
    }
    if (status != cudaSuccess) {
        snprintf(why, bytes, "no CUDA device: %s", cudaGetErrorString(status));
        return false;
    }
    if (ordinal < count) return true;
    snprintf(why, bytes, "there are %d CUDA devices, and no number %d", count, ordinal);
    return false;
}

/* Memory that was given back stays in the pool up to so many bytes, so that it is had again without asking
 * the system. */
#define POOL_KEEPS ((uint64_t)1 << 30)

/* The context's own: that of the device is for others too. */
static cudaError_t open_pool(struct cuda_device *device) {
    int there_are = 0;
    cudaError_t status = cudaDeviceGetAttribute(&there_are, cudaDevAttrMemoryPoolsSupported, device->ordinal);
    if (status != cudaSuccess || !there_are) return status;
    uint64_t keeps = POOL_KEEPS;
    cudaMemPoolProps kind = {};
    kind.allocType = cudaMemAllocationTypePinned; /* it stays where it is */
    kind.location.type = cudaMemLocationTypeDevice;
    kind.location.id = device->ordinal;
    status = cudaMemPoolCreate(&device->pool, &kind);
    if (status != cudaSuccess) return status;
    return cudaMemPoolSetAttribute(device->pool, cudaMemPoolAttrReleaseThreshold, &keeps);
}

static cudaError_t open_memory(struct cuda_device *device) {
    cudaError_t status = open_pool(device);
    if (status == cudaSuccess) status = cuda_staging_open(&device->staging, device->stream);
    if (status == cudaSuccess)
        status = cudaHostAlloc(reinterpret_cast<void **>(&device->seen), sizeof *device->seen,
                               cudaHostAllocDefault);
    if (status == cudaSuccess)
        status = cudaMalloc(reinterpret_cast<void **>(&device->fault), sizeof *device->fault);
    if (status == cudaSuccess)
        status = cudaMemsetAsync(device->fault, 0, sizeof *device->fault, device->stream);
    return status;
}

static cudaError_t open_stream(struct cuda_device *device) {
    cudaDeviceProp properties;
    cudaError_t status = cudaSetDevice(device->ordinal);
    if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, device->ordinal);
    if (status != cudaSuccess) return status;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->processors = properties.multiProcessorCount;
    device->architecture = 10 * properties.major + properties.minor;
    status = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking);
    return status == cudaSuccess ? open_memory(device) : status;
}

static void device_close(void *self) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    if (device->stream) cudaStreamSynchronize(cuda_stream(device));
    cuda_retired_close(device);
    cuda_special_close(device);
    cuda_lt_close(device);
    dnn_session_close(device);
    cuda_staging_close(&device->staging);
    if (device->fault) cudaFree(device->fault);
    if (device->seen) cudaFreeHost(device->seen);
    if (device->pool) cudaMemPoolDestroy(device->pool);
    if (device->stream) cudaStreamDestroy(device->stream);
    heed_host->block_free(device->exec->memory, device);
}

static void *device_open(struct heed_exec *exec, int ordinal, char *why, size_t bytes) {
    if (!find_device(ordinal, why, bytes)) return NULL;
    struct cuda_device *device =
        static_cast<struct cuda_device *>(heed_host->block_new(exec->memory, sizeof *device));
    if (!device) {
        snprintf(why, bytes, "out of memory");
        return NULL;
    }
    const char *blocking = getenv("HEED_CUDA_BLOCKING"), *specialise = getenv("HEED_CUDA_SPECIALISE");
    memset(device, 0, sizeof *device);
    device->exec = exec;
    device->ordinal = ordinal;
    device->blocking = blocking && strcmp(blocking, "1") == 0;
    device->specialises = !specialise || strcmp(specialise, "0") != 0;
    const cudaError_t status = open_stream(device);
    if (status == cudaSuccess && cuda_lt_open(device, why, bytes)) return device;
    if (status != cudaSuccess) snprintf(why, bytes, "CUDA: %s", cudaGetErrorString(status));
    device_close(device);
    cudaGetLastError();
    return NULL;
}

static size_t device_describe(void *self, char *text, size_t size) {
    const struct cuda_device *device = static_cast<struct cuda_device *>(self);
    size_t free_bytes = 0, all_bytes = 0;
    int runtime = 0, driver = 0;
    cuda_stream(device);
    cudaMemGetInfo(&free_bytes, &all_bytes);
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    char products[160], dnn[120], rtc[CUDA_WHY_BYTES];
    cuda_nvrtc_describe(rtc);
    cuda_lt_describe(device, products, sizeof products);
    dnn_describe(device, dnn, sizeof dnn);
    const int n = snprintf(
        text, size,
        "cuda:%d %s, %d multiprocessors of sm_%d, %zu of %zu MiB free, runtime %s, driver %s, %s, %s%s\n",
        device->ordinal, device->name, device->processors, device->architecture, free_bytes >> 20,
        all_bytes >> 20, version_text(runtime).text, version_text(driver).text, rtc, products, dnn);
    const size_t used = n > 0 ? (size_t)n : 0;
    return used +
           cuda_special_describe(device, used < size ? text + used : NULL, used < size ? size - used : 0);
}

/* ---- memory ---- */

static void *device_alloc(void *self, size_t bytes) {
    const struct cuda_device *device = static_cast<struct cuda_device *>(self);
    const cudaStream_t stream = cuda_stream(device); /* memory is that of the thread's device */
    void *memory = NULL;
    const cudaError_t status = device->pool ? cudaMallocFromPoolAsync(&memory, bytes, device->pool, stream)
                                            : cudaMalloc(&memory, bytes);
    if (status == cudaSuccess) return memory;
    cudaGetLastError(); /* running out is an ordinary answer and no error of what comes next */
    return NULL;
}

/* Kernels that still use the memory were started before, on the stream that gives it back. */
static void device_free(void *self, void *memory, size_t bytes) {
    const struct cuda_device *device = static_cast<struct cuda_device *>(self);
    (void)bytes;
    if (device->pool)
        cudaFreeAsync(memory, cuda_stream(device));
    else
        cudaFree(memory); /* which waits for them */
}

static heed_status device_fill(void *self, void *to, int byte, size_t bytes) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    return cuda_check(device->exec, HEED_PRIMITIVE_FILL,
                      cudaMemsetAsync(to, byte, bytes, cuda_stream(device)));
}

static heed_status device_copy(void *self, void *to, const void *from, size_t bytes) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    return cuda_check(device->exec, HEED_PRIMITIVE_COPY,
                      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(device)));
}

static heed_status device_write(void *self, void *to, const void *from, size_t bytes) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    cuda_stream(device); /* the staging's streams are of this device */
    return cuda_check(device->exec, HEED_PRIMITIVE_COPY,
                      cuda_staging_write(&device->staging, to, from, bytes));
}

static heed_status device_read(void *self, void *to, const void *from, size_t bytes) {
    struct cuda_device *device = static_cast<struct cuda_device *>(self);
    cudaError_t status = look_at_fault(device);
    if (status == cudaSuccess) status = cuda_staging_read(&device->staging, to, from, bytes);
    return settle(device, status);
}

const struct heed_device heed_cuda_device = {device_open, device_close,   device_alloc, device_free,
                                             device_fill, device_copy,    device_write, device_read,
                                             device_sync, device_describe};
