/* The emulation itself (emulated/): kernels that are right and, with one thing wrong, are not. What is right
 * must pass under every order of threads, and each bug must be found by the build that can: plainly, by
 * AddressSanitizer or by ThreadSanitizer (this file is compiled three times). */
#include "emulated/runtime.h"

#include <cstdint>
#include <sys/mman.h>
#include <vector>

#include "apart.h"
#include "emulated/sanitize.h"

/* ---- what cases use ---- */

static cudaStream_t stream;

/* Numbers on the device. */
struct numbers {
    float *memory;
    size_t count;

    explicit numbers(size_t count) : memory(NULL), count(count) {
        cudaMalloc(reinterpret_cast<void **>(&memory), count * sizeof *memory);
    }
    numbers(const numbers &) = delete;
    ~numbers() {
        cudaFree(memory);
    }
    /* 1, 2, 3, … */
    numbers &count_up() {
        std::vector<float> host(count);
        for (size_t i = 0; i < count; i++) host[i] = (float)(i + 1);
        cudaMemcpyAsync(memory, host.data(), count * sizeof *memory, cudaMemcpyHostToDevice, stream);
        return *this;
    }
    /* Whether all are as said. */
    template <typename Expected> bool are(Expected expected) const {
        std::vector<float> host(count);
        cudaMemcpyAsync(host.data(), memory, count * sizeof *memory, cudaMemcpyDeviceToHost, stream);
        for (size_t i = 0; i < count; i++)
            if (host[i] != (float)expected(i)) return false;
        return true;
    }
};

enum { THREADS = 64, BLOCKS = 3 };

static float one(size_t) {
    return 1;
}

#define RUN(kernel, blocks, threads, shared, ...)                                                            \
    HEED_START(kernel, blocks, threads, shared, stream, __VA_ARGS__)

/* ---- barriers ---- */

/* Each block reverses its part of x. */
template <bool WRONG> static __global__ void reverse(float *x) {
    HEED_SHARED(float, part, THREADS);
    float *mine = x + blockIdx.x * THREADS;
    part[threadIdx.x] = mine[threadIdx.x];
    if (!WRONG) __syncthreads();
    mine[threadIdx.x] = part[THREADS - 1 - threadIdx.x];
}

template <bool WRONG> static bool missing_barrier() {
    numbers x(BLOCKS * THREADS);
    RUN(reverse<WRONG>, BLOCKS, THREADS, 0, x.count_up().memory);
    return x.are([](size_t i) { return i / THREADS * THREADS + THREADS - i % THREADS; });
}

/* Many steps in one array: one barrier before it is read, and one before it is written again. */
template <bool WRONG> static __global__ void rotate(float *x) {
    HEED_SHARED(float, ring, THREADS);
    float value = x[threadIdx.x];
    for (int step = 0; step < 5; step++) {
        ring[threadIdx.x] = value;
        __syncthreads();
        value = ring[(threadIdx.x + 1) % THREADS];
        if (!WRONG) __syncthreads();
    }
    x[threadIdx.x] = value;
}

template <bool WRONG> static bool missing_second_barrier() {
    numbers x(THREADS);
    RUN(rotate<WRONG>, 1, THREADS, 0, x.count_up().memory);
    return x.are([](size_t i) { return (i + 5) % THREADS + 1; });
}

template <bool WRONG> static __global__ void skip(float *x) {
    if (!WRONG || threadIdx.x < 40) __syncthreads();
    x[threadIdx.x] = 1;
}

template <bool WRONG> static bool diverging_barrier() {
    numbers x(THREADS);
    RUN(skip<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

template <bool WRONG> static __global__ void two_barriers(float *x) {
    if (WRONG && threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    x[threadIdx.x] = 1;
}

/* Of the right kernel all threads take the second. */
template <bool WRONG> static bool different_barriers() {
    numbers x(THREADS);
    RUN(two_barriers<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

/* Half of a warp waits at the barrier for the other half, which waits for it to vote. */
template <bool WRONG> static __global__ void vote_and_wait(float *x) {
    if (!WRONG || threadIdx.x % 2) __any_sync(0xffffffffu, 1);
    __syncthreads();
    x[threadIdx.x] = 1;
}

template <bool WRONG> static bool deadlock() {
    numbers x(THREADS);
    RUN(vote_and_wait<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

static __global__ void count_even(float *x) {
    const int even = __syncthreads_count(threadIdx.x % 2 == 0), all = __syncthreads_and(1);
    x[threadIdx.x] = (float)(even + 100 * all + 1000 * __syncthreads_or(threadIdx.x == 7));
}

static bool counting_barriers() {
    numbers x(THREADS);
    RUN(count_even, 1, THREADS, 0, x.memory);
    return x.are([](size_t) { return 1000 + 100 + THREADS / 2; });
}

/* ---- warps ---- */

template <bool WRONG> static __global__ void swap_neighbours(float *x) {
    HEED_SHARED(float, pair, THREADS);
    pair[threadIdx.x] = x[threadIdx.x];
    if (!WRONG) __syncwarp();
    x[threadIdx.x] = pair[threadIdx.x ^ 1];
}

template <bool WRONG> static bool missing_warp_barrier() {
    numbers x(THREADS);
    RUN(swap_neighbours<WRONG>, 1, THREADS, 0, x.count_up().memory);
    return x.are([](size_t i) { return (i ^ 1) + 1; });
}

/* The sum of each half warp; the wrong one names only its own half and reads across. */
template <bool WRONG> static __global__ void half_sums(float *x) {
    const unsigned mask = threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    float sum = x[threadIdx.x];
    for (int lanes = WRONG ? 16 : 8; lanes; lanes /= 2) sum += __shfl_xor_sync(mask, sum, lanes);
    x[threadIdx.x] = sum;
}

template <bool WRONG> static bool wrong_mask() {
    numbers x(THREADS);
    RUN(half_sums<WRONG>, 1, THREADS, 0, x.count_up().memory);
    return x.are([](size_t i) { return 16 * (i / 16 * 16) + 136; });
}

template <bool WRONG> static __global__ void unnamed(float *x) {
    x[threadIdx.x] = __shfl_sync(WRONG ? 0x0000ffffu : 0xffffffffu, 1.0f, 0);
}

template <bool WRONG> static bool lane_not_named() {
    numbers x(THREADS);
    RUN(unnamed<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

template <bool WRONG> static __global__ void two_masks(float *x) {
    const unsigned mask = WRONG && threadIdx.x % 32 == 5 ? 0x0000ffffu : 0xffffffffu;
    x[threadIdx.x] = __shfl_sync(mask, 1.0f, 0);
}

template <bool WRONG> static bool different_masks() {
    numbers x(THREADS);
    RUN(two_masks<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

template <bool WRONG> static __global__ void two_shuffles(float *x) {
    float value = 0;
    if (WRONG && threadIdx.x % 2) {
        value = __shfl_sync(0xffffffffu, 1.0f, 1);
    } else {
        value = __shfl_sync(0xffffffffu, 1.0f, 2);
    }
    x[threadIdx.x] = value;
}

template <bool WRONG> static bool different_shuffles() {
    numbers x(THREADS);
    RUN(two_shuffles<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

/* Lanes that have returned need not come, but cannot be read. */
template <bool WRONG> static __global__ void some_return(float *x) {
    x[threadIdx.x] = 1;
    if (threadIdx.x % 32 >= 20) return;
    x[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, WRONG ? 25 : 3);
}

template <bool WRONG> static bool reads_returned_lane() {
    numbers x(THREADS);
    RUN(some_return<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

/* Every kind of shuffle and vote against what PTX says of it. The last warp has 8 lanes. */
static __global__ void exchange_all(float *x) {
    const int lane = threadIdx.x % 32, present = threadIdx.x < 64 ? 32 : 8, width = 8;
    const int base = lane / width * width;
    bool ok = __shfl_sync(0xffffffffu, lane, 13, width) == base + 5;
    ok = ok && __shfl_up_sync(0xffffffffu, lane, 3, width) == (lane - 3 < base ? lane : lane - 3);
    ok = ok && __shfl_down_sync(0xffffffffu, lane, 3, width) == (lane + 3 >= base + width ? lane : lane + 3);
    ok = ok && __shfl_xor_sync(0xffffffffu, (double)lane, 5, width) == (lane ^ 5);
    ok = ok && __ballot_sync(0xffffffffu, lane % 3 == 0) == (present == 32 ? 0x49249249u : 0x49u);
    ok = ok && __any_sync(0xffffffffu, lane == 7) && !__any_sync(0xffffffffu, lane == 40);
    ok = ok && __all_sync(0xffffffffu, lane < present) && !__all_sync(0xffffffffu, lane < 7);
    x[threadIdx.x] = ok;
}

static bool exchanges() {
    numbers x(72);
    RUN(exchange_all, 1, 72, 0, x.memory);
    return x.are(one);
}

/* ---- memory ---- */

template <bool WRONG> static __global__ void shared_write(float *x) {
    HEED_SHARED(float, part, THREADS);
    HEED_SHARED(float, other, THREADS);
    other[threadIdx.x] = 0;
    float *at = part, *mine = x + blockIdx.x * THREADS;
    at[threadIdx.x + (WRONG ? 1 : 0)] = mine[threadIdx.x];
    __syncthreads();
    mine[threadIdx.x] = at[threadIdx.x + (WRONG ? 1 : 0)] + other[threadIdx.x];
}

template <bool WRONG> static bool writes_behind_shared() {
    numbers x(BLOCKS * THREADS);
    RUN(shared_write<WRONG>, BLOCKS, THREADS, 0, x.count_up().memory);
    return true;
}

template <bool WRONG> static __global__ void dynamic_read(float *x) {
    HEED_DYNAMIC_SHARED(float, part);
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = part[(threadIdx.x + 1) % (WRONG ? THREADS + 1 : THREADS)];
}

template <bool WRONG> static bool reads_behind_shared() {
    numbers x(THREADS);
    RUN(dynamic_read<WRONG>, 1, THREADS, THREADS * sizeof(float), x.count_up().memory);
    return x.are([](size_t i) { return (i + 1) % THREADS + 1; });
}

template <bool WRONG> static __global__ void accumulate(float *x) {
    HEED_SHARED(float, sum, THREADS);
    if (!WRONG) sum[threadIdx.x] = 0;
    for (int i = 0; i < 3; i++) sum[threadIdx.x] += 1;
    x[threadIdx.x] = sum[threadIdx.x] - 2;
}

template <bool WRONG> static bool uninitialised_shared() {
    numbers x(THREADS);
    RUN(accumulate<WRONG>, 1, THREADS, 0, x.memory);
    return x.are(one);
}

static __global__ void set(float *x, int64_t first, int64_t count) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * blockDim.x)
        x[first + i] = 1;
}

template <bool WRONG> static bool writes_behind_global() {
    numbers x(100);
    RUN(set, BLOCKS, THREADS, 0, x.memory, 0, WRONG ? 101 : 100);
    return x.are(one);
}

template <bool WRONG> static bool writes_far_behind_global() {
    numbers x(100);
    RUN(set, BLOCKS, THREADS, 0, x.memory, 0, WRONG ? 300 : 100);
    return x.are(one);
}

template <bool WRONG> static bool writes_before_global() {
    numbers x(100);
    RUN(set, BLOCKS, THREADS, 0, x.memory, WRONG ? -1 : 0, 100);
    return WRONG || x.are(one);
}

static __global__ void mirror(float *to, const float *from, int count, int last) {
    if ((int)threadIdx.x < count) to[threadIdx.x] = from[last - (int)threadIdx.x];
}

template <bool WRONG> static bool reads_behind_global() {
    numbers x(60), y(60);
    RUN(mirror, 1, THREADS, 0, y.memory, x.count_up().memory, 60, WRONG ? 60 : 59);
    return y.are([](size_t i) { return 60 - i; });
}

template <bool WRONG> static bool uses_freed_memory() {
    numbers *x = new numbers(THREADS);
    float *memory = x->memory;
    bool ok = true;
    if (WRONG) delete x;
    RUN(set, 1, THREADS, 0, memory, 0, THREADS);
    if (!WRONG) ok = x->are(one);
    if (!WRONG) delete x;
    return ok;
}

template <bool WRONG> static bool host_follows_device_pointer() {
    numbers x(THREADS);
    RUN(set, 1, THREADS, 0, x.memory, 0, THREADS);
    return WRONG ? *static_cast<volatile float *>(x.memory) == 1 : x.are(one);
}

struct list {
    int count;
    float *part[4];
};

static __global__ void set_parts(list parts) {
    for (int i = 0; i < parts.count; i++) parts.part[i][threadIdx.x] = 1;
}

template <bool WRONG> static bool kernel_gets_host_pointer() {
    numbers x(THREADS), y(THREADS);
    static float host[THREADS];
    RUN(set_parts, 1, THREADS, 0, list{2, {x.memory, WRONG ? host : y.memory, NULL, NULL}});
    return x.are(one) && y.are(one);
}

/* ---- blocks ---- */

template <bool WRONG> static __global__ void own_word(float *x) {
    if (threadIdx.x == 0) x[WRONG ? 0 : blockIdx.x] = (float)(blockIdx.x + 1);
}

template <bool WRONG> static bool blocks_write_one_word() {
    numbers x(WRONG ? 1 : BLOCKS);
    RUN(own_word<WRONG>, BLOCKS, THREADS, 0, x.memory);
    return x.are(
        [](size_t i) { return WRONG ? BLOCKS : (int)i + 1; }); /* what the last block of a row would leave */
}

template <bool WRONG> static __global__ void count_threads(unsigned *sum) {
    if (WRONG) {
        *sum = *sum + 1;
    } else {
        atomicAdd(sum, 1);
    }
}

template <bool WRONG> static bool adds_without_atomics() {
    unsigned *sum = NULL, host = 0;
    cudaMalloc(reinterpret_cast<void **>(&sum), sizeof *sum);
    cudaMemsetAsync(sum, 0, sizeof *sum, stream);
    RUN(count_threads<WRONG>, BLOCKS, THREADS, 0, sum);
    cudaMemcpyAsync(&host, sum, sizeof host, cudaMemcpyDeviceToHost, stream);
    cudaFree(sum);
    return host == BLOCKS * THREADS;
}

/* An array on the stack whose address others get: its memory is that of other threads before. */
static __attribute__((noinline)) void fill_local(int *local, int value) {
    for (int i = 0; i < 8; i++) local[i] = value + i;
}

static __global__ void locals(float *x) {
    int local[8];
    fill_local(local, (int)threadIdx.x);
    __syncthreads();
    x[blockIdx.x * blockDim.x + threadIdx.x] = (float)(local[7] - (int)threadIdx.x - 6);
}

static bool arrays_on_stacks() {
    numbers x(BLOCKS * THREADS);
    RUN(locals, BLOCKS, THREADS, 0, x.memory);
    return x.are(one);
}

/* ---- launches and the runtime ---- */

static __global__ void nothing(float *) {
}

template <int X, int Y, int Z, bool GRID> static bool shape() {
    numbers x(1);
    const dim3 extent(X, Y, Z), unit(1);
    RUN(nothing, GRID ? extent : unit, GRID ? unit : extent, 0, x.memory);
    return true;
}

static bool wide_grid() {
    numbers x(1);
    RUN(nothing, ((int64_t)1 << 32) + 1, 1, 0, x.memory);
    return true;
}

static __global__ void large_array(float *x) {
    HEED_SHARED(float, large, 13000);
    large[threadIdx.x] = 1;
    x[threadIdx.x] = large[threadIdx.x];
}

static bool too_much_static() {
    numbers x(THREADS);
    RUN(large_array, 1, THREADS, 0, x.memory);
    return true;
}

static __global__ void large_dynamic(float *x) {
    HEED_DYNAMIC_SHARED(float, large);
    x[threadIdx.x] = large[threadIdx.x] = 1;
}

template <bool ALLOWED> static bool much_dynamic() {
    enum { BYTES = 60000 };
    numbers x(THREADS);
    if (ALLOWED) cudaFuncSetAttribute(large_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    RUN(large_dynamic, 1, THREADS, BYTES, x.memory);
    return x.are(one);
}

static bool wrong_stream() {
    numbers x(1);
    HEED_START(nothing, 1, 1, 0, reinterpret_cast<cudaStream_t>(&stream), x.memory);
    return true;
}

static bool frees_twice() {
    float *memory = NULL;
    cudaMalloc(reinterpret_cast<void **>(&memory), 4);
    cudaFree(memory);
    cudaFree(memory);
    return true;
}

static bool frees_host_memory() {
    float host;
    cudaFree(&host);
    return true;
}

static bool copies_too_much() {
    numbers x(10);
    float host[20] = {0};
    cudaMemcpyAsync(x.memory, host, sizeof host, cudaMemcpyHostToDevice, stream);
    return true;
}

static bool copies_the_wrong_way() {
    numbers x(10);
    float host[10] = {0};
    cudaMemcpyAsync(x.memory, host, sizeof host, cudaMemcpyDeviceToHost, stream);
    return true;
}

static bool copies_within() {
    numbers x(10);
    cudaMemcpyAsync(x.memory + 1, x.memory, 9 * sizeof(float), cudaMemcpyDeviceToDevice, stream);
    return true;
}

static bool fills_freed_memory() {
    float *memory = numbers(10).memory;
    cudaMemsetAsync(memory, 0, 4, stream);
    return true;
}

static bool leaks() {
    float *memory = NULL;
    cudaMalloc(reinterpret_cast<void **>(&memory), 4);
    return true;
}

/* ---- the table ---- */

/* What a case ends with: "" passes; otherwise its output has the text. */
#define PASSES ""
#define WRONG_RESULT "not the right result"
#define POISONED "AddressSanitizer: use-after-poison"
#define RACE "ThreadSanitizer: data race"

struct row {
    const char *name;
    bool (*run)();
    const char *plain, *address, *thread;
};

#define ROW(name, plain, address, thread)                                                                    \
    {#name, name<false>, PASSES, PASSES, PASSES}, {                                                          \
#name " (seeded)", name < true>, plain, address, thread                                              \
    }
#define ONE(name, text)                                                                                      \
    { #name, name, text, text, text }
#define SAME(name, text) ROW(name, text, text, text)

static const row rows[] = {
    ROW(missing_barrier, WRONG_RESULT, WRONG_RESULT, RACE),
    ROW(missing_second_barrier, WRONG_RESULT, WRONG_RESULT, RACE),
    ROW(missing_warp_barrier, WRONG_RESULT, WRONG_RESULT, RACE),
    SAME(diverging_barrier, "threads wait for it at a barrier|returned without coming to this barrier"),
    SAME(different_barriers, "wait at another barrier"),
    SAME(deadlock, "no thread can go on, and 64 of 64 have not returned"),
    ONE(counting_barriers, PASSES),
    SAME(wrong_mask, "which takes no part"),
    SAME(lane_not_named, "the mask 0000ffff does not name lane"),
    SAME(different_masks, "which waits with mask"),
    SAME(different_shuffles, "waits elsewhere"),
    SAME(reads_returned_lane, "reads lane 25, which takes no part"),
    ONE(exchanges, PASSES),
    ROW(writes_behind_shared, "a thread wrote behind part", POISONED, "a thread wrote behind part"),
    ROW(reads_behind_shared, WRONG_RESULT, POISONED, WRONG_RESULT),
    SAME(uninitialised_shared, WRONG_RESULT),
    ROW(writes_behind_global, "a kernel wrote behind an allocation of 400 bytes", POISONED,
        "a kernel wrote behind an allocation of 400 bytes"),
    ROW(writes_far_behind_global, "behind the end of an allocation of 400",
        POISONED "|behind the end of an allocation of 400", "behind the end of an allocation of 400"),
    ROW(writes_before_global, "a kernel wrote before an allocation of 400 bytes", POISONED,
        "a kernel wrote before an allocation of 400 bytes"),
    ROW(reads_behind_global, WRONG_RESULT, POISONED, WRONG_RESULT),
    SAME(uses_freed_memory, "bytes into an allocation of 256 that was freed"),
    SAME(host_follows_device_pointer, "the host's code touches memory of the device"),
    SAME(kernel_gets_host_pointer, "parameter 0 has at byte 16 a pointer to memory of the host"),
    ROW(blocks_write_one_word, WRONG_RESULT, WRONG_RESULT, RACE),
    ROW(adds_without_atomics, PASSES, PASSES, RACE),
    ONE(arrays_on_stacks, PASSES),
    {"1024 threads", shape<16, 1, 64, false>, PASSES, PASSES, PASSES},
    {"1025 threads", shape<41, 25, 1, false>, "cannot be launched", "cannot be launched",
     "cannot be launched"},
    {"no threads", shape<1, 0, 1, false>, "cannot be launched", "cannot be launched", "cannot be launched"},
    {"65 deep", shape<1, 1, 65, false>, "cannot be launched", "cannot be launched", "cannot be launched"},
    {"65536 rows", shape<1, 65536, 1, true>, "cannot be launched", "cannot be launched",
     "cannot be launched"},
    {"no blocks", shape<0, 1, 1, true>, "cannot be launched", "cannot be launched", "cannot be launched"},
    ONE(wide_grid, "a launch with an extent of 4294967297"),
    ONE(too_much_static, "52000 bytes of static shared memory with large"),
    {"much dynamic, allowed", much_dynamic<true>, PASSES, PASSES, PASSES},
    {"much dynamic", much_dynamic<false>, "60000 bytes of dynamic", "60000 bytes of dynamic",
     "60000 bytes of dynamic"},
    ONE(wrong_stream, "is no stream"),
    ONE(frees_twice, "0 bytes into an allocation of 4 that was freed"),
    ONE(frees_host_memory, "which is no memory of the device"),
    ONE(copies_too_much, "80 bytes from"),
    ONE(copies_the_wrong_way, "memory of the device where the kind says"),
    ONE(copies_within, "the two overlap"),
    ONE(fills_freed_memory, "that was freed"),
    ONE(leaks, "1 allocations of 4 bytes, 0 of pinned memory, 0 events, 0 libraries and 0 pools are left"),
};

/* Orders of threads that each case is run in: a bug must show in one of them. ThreadSanitizer needs no luck.
 */
#if EMULATED_THREAD
static const char *const seeds[] = {"0", "2"};
#else
static const char *const seeds[] = {"0", "1", "2", "3", "4"};
#endif

static void run_case(const row *r, const char *seed) {
    setenv("HEED_CUDA_SEED", seed, 1);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (!r->run()) fputs(WRONG_RESULT "\n", stderr);
    cudaStreamDestroy(stream);
}

START_TEST(cases) {
    static char output[1 << 16];
    const row *r = &rows[_i];
    const char *expected = EMULATED_ADDRESS ? r->address : EMULATED_THREAD ? r->thread : r->plain;
    bool found = false;
    for (const char *seed : seeds) {
        run_apart([&] { run_case(r, seed); }, output, sizeof output);
        if (!*expected) ck_assert_msg(!*output, "%s, seed %s: %.2000s", r->name, seed, output);
        found = found || has(output, expected);
        /* Whatever else a bug does, it does not go by as another. */
        if (*expected && *output && !has(output, expected))
            ck_assert_msg(has(output, WRONG_RESULT), "%s, seed %s: %.2000s", r->name, seed, output);
    }
    ck_assert_msg(!*expected || found, "%s: \"%s\" was not found", r->name, expected);
}
END_TEST

int main() {
    return run_table("emulator", cases, sizeof rows / sizeof *rows);
}
