/* The emulation's streams (emulated/stream.h): programs that wait where they must pass under every schedule,
 * and each that does not is found under one. */
#include "emulated/runtime.h"

#include <check.h>
#include <vector>

#include "apart.h"

enum { COUNT = 50 };

static cudaStream_t first, second;
static cudaEvent_t event;

#define WRONG_RESULT "not the right result"

/* Memory of the device, and pinned memory of the host: what is sent there, and NaN until something comes
 * back. */
struct pair {
    float *device, *host, *back;

    pair() : device(NULL), host(NULL), back(NULL) {
        cudaMalloc(reinterpret_cast<void **>(&device), BYTES);
        cudaHostAlloc(reinterpret_cast<void **>(&host), BYTES, 0);
        cudaHostAlloc(reinterpret_cast<void **>(&back), BYTES, 0);
    }
    pair(const pair &) = delete;
    ~pair() {
        cudaFree(device);
        cudaFreeHost(host);
        cudaFreeHost(back);
    }
    void set(float value) {
        for (int i = 0; i < COUNT; i++) host[i] = value;
    }
    bool is(float value) const {
        for (int i = 0; i < COUNT; i++)
            if (back[i] != value) return false;
        return true;
    }
    void send(cudaStream_t stream) {
        cudaMemcpyAsync(device, host, BYTES, cudaMemcpyHostToDevice, stream);
    }
    void fetch(cudaStream_t stream) {
        cudaMemcpyAsync(back, device, BYTES, cudaMemcpyDeviceToHost, stream);
    }
    static constexpr size_t BYTES = COUNT * sizeof(float);
};

static __global__ void add(float *x, float value) {
    x[threadIdx.x] += value;
}

static void start_add(pair &x, float value, cudaStream_t stream) {
    HEED_START(add, 1, COUNT, 0, stream, x.device, value);
}

/* ---- cases ---- */

template <bool WRONG> static bool reads_too_early() {
    pair x;
    x.set(1);
    x.send(first);
    start_add(x, 2, first);
    x.fetch(first);
    if (!WRONG) cudaStreamSynchronize(first);
    return x.is(3);
}

template <bool WRONG> static bool writes_too_early() {
    pair x;
    x.set(1);
    x.send(first);
    if (!WRONG) cudaStreamSynchronize(first);
    x.set(7);
    x.fetch(first);
    cudaStreamSynchronize(first);
    return x.is(1);
}

template <bool WRONG> static bool waits_for_the_other_stream() {
    pair x;
    x.set(1);
    x.send(first);
    start_add(x, 2, first);
    cudaEventRecord(event, first);
    if (!WRONG) cudaStreamWaitEvent(second, event, 0);
    x.fetch(second);
    cudaStreamSynchronize(second);
    return x.is(3);
}

template <bool WRONG> static bool waits_before_the_record() {
    pair x;
    x.set(1);
    x.send(first);
    if (WRONG) cudaStreamWaitEvent(second, event, 0);
    start_add(x, 2, first);
    cudaEventRecord(event, first);
    if (!WRONG) cudaStreamWaitEvent(second, event, 0);
    x.fetch(second);
    cudaStreamSynchronize(second);
    return x.is(3);
}

template <bool WRONG> static bool waits_for_an_event() {
    pair x;
    x.set(1);
    x.send(first);
    if (WRONG) cudaEventRecord(event, first);
    x.fetch(first);
    if (!WRONG) cudaEventRecord(event, first);
    cudaEventSynchronize(event);
    const bool right = x.is(1);
    cudaStreamSynchronize(first);
    return right;
}

/* What is not pinned has been read, or written, when a copy returns. */
static bool ordinary_memory() {
    pair x;
    std::vector<float> host(COUNT, 5);
    cudaMemcpyAsync(x.device, host.data(), pair::BYTES, cudaMemcpyHostToDevice, first);
    host.assign(COUNT, 0);
    start_add(x, 1, first);
    cudaMemcpyAsync(host.data(), x.device, pair::BYTES, cudaMemcpyDeviceToHost, first);
    return host[0] == 6 && host[COUNT - 1] == 6;
}

/* Freeing waits for what uses the memory. */
static bool frees_early() {
    pair x;
    x.set(1);
    x.send(first);
    start_add(x, 1, first);
    return true;
}

template <bool WRONG> static bool other_device() {
    pair x;
    if (WRONG) cudaSetDevice(1);
    x.send(first);
    cudaStreamSynchronize(first);
    return true;
}

static bool leaves_an_event() {
    cudaEvent_t other;
    cudaEventCreateWithFlags(&other, cudaEventDisableTiming);
    return true;
}

static bool frees_no_pinned_memory() {
    float ordinary[4];
    cudaFreeHost(ordinary);
    return true;
}

/* ---- memory in the order of a stream ---- */

/* Memory of a pool that arrives on the first stream. */
struct pooled {
    cudaMemPool_t pool;
    float *memory;

    pooled() : pool(NULL), memory(NULL) {
        cudaMemPoolProps kind = {};
        kind.allocType = cudaMemAllocationTypePinned;
        kind.location.type = cudaMemLocationTypeDevice;
        cudaMemPoolCreate(&pool, &kind);
        cudaMallocFromPoolAsync(reinterpret_cast<void **>(&memory), pair::BYTES, pool, first);
    }
    pooled(const pooled &) = delete;
    ~pooled() {
        cudaMemPoolDestroy(pool);
    }
};

template <bool WRONG> static bool uses_memory_to_come() {
    pair x;
    pooled p;
    x.set(3);
    cudaEventRecord(event, first);
    if (!WRONG) cudaStreamWaitEvent(second, event, 0);
    cudaMemcpyAsync(p.memory, x.host, pair::BYTES, cudaMemcpyHostToDevice, second);
    cudaMemcpyAsync(x.back, p.memory, pair::BYTES, cudaMemcpyDeviceToHost, second);
    cudaStreamSynchronize(second);
    cudaFreeAsync(p.memory, first);
    return x.is(3);
}

template <bool WRONG> static bool frees_what_others_use() {
    pair x;
    pooled p;
    x.set(3);
    cudaStreamSynchronize(first);
    cudaMemcpyAsync(p.memory, x.host, pair::BYTES, cudaMemcpyHostToDevice, second);
    HEED_START(add, 1, COUNT, 0, second, p.memory, 1.0f);
    cudaEventRecord(event, second);
    if (!WRONG) cudaStreamWaitEvent(first, event, 0);
    cudaFreeAsync(p.memory, first);
    cudaStreamSynchronize(first);
    cudaStreamSynchronize(second);
    return true;
}

static bool uses_freed_memory() {
    pair x;
    pooled p;
    cudaFreeAsync(p.memory, first);
    cudaMemcpyAsync(p.memory, x.host, pair::BYTES, cudaMemcpyHostToDevice, first);
    return true;
}

static bool frees_twice() {
    pooled p;
    cudaFreeAsync(p.memory, first);
    cudaFreeAsync(p.memory, first);
    return true;
}

static bool leaves_a_pool() {
    cudaMemPoolProps kind = {};
    cudaMemPool_t pool;
    kind.allocType = cudaMemAllocationTypePinned;
    kind.location.type = cudaMemLocationTypeDevice;
    cudaMemPoolCreate(&pool, &kind);
    return true;
}

static bool leaves_pinned_memory() {
    void *memory;
    cudaHostAlloc(&memory, 4, 0);
    return true;
}

/* ---- the table ---- */

struct row {
    const char *name;
    bool (*run)();
    const char *expected; /* "" passes, otherwise what is said */
};

#define ROW(name)                                                                                            \
    {#name, name<false>, ""}, {                                                                              \
#name " (seeded)", name < true>, WRONG_RESULT                                                        \
    }

static const row rows[] = {
    ROW(reads_too_early),
    ROW(writes_too_early),
    ROW(waits_for_the_other_stream),
    ROW(waits_before_the_record),
    ROW(waits_for_an_event),
    {"other_device", other_device<false>, ""},
    {"other_device (seeded)", other_device<true>, "the stream is of device 0, and the thread's device is 1"},
    {"ordinary_memory", ordinary_memory, ""},
    {"frees_early", frees_early, ""},
    {"leaves_an_event", leaves_an_event, "0 of pinned memory, 1 events, 0 libraries and 0 pools are left"},
    {"uses_memory_to_come", uses_memory_to_come<false>, ""},
    {"uses_memory_to_come (seeded)", uses_memory_to_come<true>, "that is still to come"},
    {"frees_what_others_use", frees_what_others_use<false>, ""},
    {"frees_what_others_use (seeded)", frees_what_others_use<true>, "that was freed"},
    {"uses_freed_memory (seeded)", uses_freed_memory, "that was freed"},
    {"frees_twice (seeded)", frees_twice, "that was freed"},
    {"leaves_a_pool (seeded)", leaves_a_pool, "0 events, 0 libraries and 1 pools are left"},
    {"leaves_pinned_memory (seeded)", leaves_pinned_memory, "1 of pinned memory"},
    {"frees_no_pinned_memory", frees_no_pinned_memory, "is no pinned memory"},
};

static const char *const schedules[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};

static void run_case(const row *r, const char *schedule) {
    setenv("HEED_CUDA_SCHEDULE", schedule, 1);
    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (!r->run()) fputs(WRONG_RESULT "\n", stderr);
    cudaEventDestroy(event);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}

START_TEST(cases) {
    static char output[1 << 12];
    const row *r = &rows[_i];
    bool found = false;
    for (const char *schedule : schedules) {
        run_apart([&] { run_case(r, schedule); }, output, sizeof output);
        if (!*r->expected) ck_assert_msg(!*output, "%s, schedule %s: %.2000s", r->name, schedule, output);
        found = found || has(output, r->expected);
    }
    ck_assert_msg(!*r->expected || found, "%s: \"%s\" was not found", r->name, r->expected);
}
END_TEST

int main() {
    return run_table("streams", cases, sizeof rows / sizeof *rows);
}
