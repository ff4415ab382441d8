/* The graphs that the backend builds for attention, planned by the real cuDNN for devices that are described
 * to it: which problems it has kernels for, and that those compile. No device, no driver but one without
 * devices.
 *
 * usage: cuda_cudnn_plans NAME [PROBLEM]: of a device; all problems if none is named. Ends with 77 (skipped)
 * where there is no cuDNN. */
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "backend/cuda/cudnn_attention.cuh"
#include "backend/cuda/cudnn_graph.cuh"

/* ---- devices ---- */

struct device {
    const char *name;
    int version, processors, shared,
        threads; /* shared: bytes that a block may ask for; threads of a processor */
    double cache, memory;
};

/* NVIDIA's data sheets, and the programming guide's table of compute capabilities. */
static const device devices[] = {
    {"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 2048, 40 * 1048576., 80e9},
    {"NVIDIA L4", 890, 58, 101376, 1536, 48 * 1048576., 24e9},
    {"NVIDIA H100 80GB HBM3", 900, 132, 232448, 2048, 50 * 1048576., 80e9},
    {"NVIDIA B200", 1000, 148, 232448, 2048, 126 * 1048576., 180e9},
    {"NVIDIA GeForce RTX 5090", 1200, 170, 101376, 1536, 96 * 1048576., 32e9},
};
enum { DEVICES = sizeof devices / sizeof *devices };

/* cuDNN wants all of it. */
static cudnnBackendDescriptor_t describe(const dnn_library *library, const device &d) {
    char json[1024];
    snprintf(
        json, sizeof json,
        "{\"deviceName\":\"%s\",\"deviceVer\":%d,\"multiProcessorCount\":%d,\"maxSharedMemoryPerBlockOptin\":"
        "%d,"
        "\"l2CacheSize\":%.0f,\"totalGlobalMem\":%.0f,\"maxThreadsPerSM\":%d,\"regsPerBlock\":65536,"
        "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"reservedSharedMemoryPerBlock\":1024,"
        "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
        "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"pciDeviceId\":0,"
        "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":1500000,\"memClockRateKHz\":2000000,"
        "\"cudaDeviceId\":0,\"driverVer\":13000}",
        d.name, d.version, d.processors, d.shared, d.cache, d.memory, d.threads);
    cudnnBackendDescriptor_t made = NULL;
    if (library->cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &made) !=
        CUDNN_STATUS_SUCCESS)
        return NULL;
    library->cudnnBackendSetAttribute(made, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                      (int64_t)strlen(json), json);
    if (library->cudnnBackendFinalize(made) == CUDNN_STATUS_SUCCESS) return made;
    library->cudnnBackendDestroyDescriptor(made);
    return NULL;
}

/* ---- problems ---- */

/* forward, backward: for each device in order, '+' it plans, '-' it does not. test_cudnn.c and
 * test_cudnn_dropout.c run such problems on a GPU, and expect the same. */
struct row {
    const char *name;
    int64_t batch, heads, kv_heads, queries, keys, width, value_width;
    const char *has;  /* c: causal, l: lengths, s: heads side by side, d: dropout */
    const char *bias; /* its dimensions b, h, q, k, or 1 */
    const char *forward, *backward;
};

static const row rows[] = {
    {"plain", 2, 4, 4, 128, 128, 64, 64, "", NULL, "+++++", "+++++"},
    {"causal", 2, 4, 4, 512, 512, 64, 64, "c", NULL, "+++++", "+++++"},
    {"causal of GPT-2", 8, 12, 12, 1024, 1024, 64, 64, "cs", NULL, "+++++", "+++++"},
    {"grouped", 2, 8, 2, 256, 256, 128, 128, "c", NULL, "+++++", "+++++"},
    {"one key head", 2, 8, 1, 256, 192, 64, 64, "s", NULL, "+++++", "+++++"},
    {"ragged", 2, 4, 4, 100, 77, 40, 40, "c", NULL, "+++++", "+++++"},
    {"few queries", 2, 4, 4, 8, 300, 64, 64, "", NULL, "+++++", "+++++"},
    {"wider values", 2, 4, 4, 128, 128, 64, 128, "c", NULL, "+++++", "+++++"},
    {"narrow, few keys", 1, 1, 1, 8, 9, 8, 8, "", NULL, "+++++", "+++++"},
    {"narrow, bias of batch entries", 2, 3, 3, 9, 11, 8, 8, "", "b1qk", "+++++", "+++-+"},
    {"narrow, dropout", 2, 4, 4, 16, 24, 8, 24, "d", NULL, "+++++", "+++-+"},
    {"width 96", 2, 4, 4, 128, 128, 96, 96, "c", NULL, "+++++", "+++++"},
    {"width 192, values 128", 2, 4, 4, 256, 256, 192, 128, "c", NULL, "+++++", "--++-"},
    {"width 192", 2, 4, 4, 256, 256, 192, 192, "c", NULL, "+++++", "--+--"},
    {"width 256", 2, 4, 4, 256, 256, 256, 256, "c", NULL, "+++++", "--+--"},
    {"width 100", 2, 4, 4, 128, 128, 100, 100, "", NULL, "-----", "-----"},
    {"lengths", 2, 4, 4, 192, 192, 64, 64, "l", NULL, "+++++", "+++++"},
    {"causal lengths, grouped", 2, 4, 2, 192, 192, 128, 128, "cl", NULL, "+++++", "+++++"},
    {"bias of all", 2, 4, 4, 128, 128, 64, 64, "", "bhqk", "+++++", "+++-+"},
    {"bias of heads", 2, 4, 4, 100, 77, 64, 64, "c", "1hqk", "+++++", "+++-+"},
    {"bias of cells and lengths", 2, 4, 4, 128, 128, 64, 64, "cl", "11qk", "+++++", "+++-+"},
    {"bias of keys", 2, 4, 4, 128, 128, 64, 64, "", "bh1k", "+++++", "+++-+"},
    {"dropout", 2, 4, 4, 128, 128, 64, 64, "d", NULL, "+++++", "+++-+"},
    {"dropout, causal", 8, 12, 12, 1024, 1024, 64, 64, "csd", NULL, "+++++", "+++-+"},
    {"dropout, causal, grouped", 2, 8, 2, 256, 256, 128, 128, "cd", NULL, "+++++", "+++-+"},
    {"dropout, ragged", 2, 4, 4, 100, 77, 40, 40, "cd", NULL, "+++++", "+++-+"},
    {"dropout, lengths", 2, 4, 4, 192, 192, 64, 64, "ld", NULL, "+++++", "+++-+"},
    {"dropout, causal lengths, grouped", 2, 4, 2, 192, 192, 128, 128, "cld", NULL, "+++++", "+++-+"},
    {"dropout, width 192", 2, 4, 4, 256, 256, 192, 192, "cd", NULL, "+++++", "--+--"},
    {"dropout, width 256", 2, 4, 4, 256, 256, 256, 256, "cd", NULL, "+++++", "--+--"},
    {"dropout, bias of heads", 2, 4, 4, 100, 77, 64, 64, "cd", "1hqk", "+++++", "+++-+"},
    {"dropout, large", 8, 12, 12, 2048, 2048, 64, 64, "csd", NULL, "+++++", "+++-+"},
    {"dropout, large, whole slices", 8, 16, 16, 2048, 2048, 64, 64, "csd", NULL, "+++++", "+++-+"},
    {"dropout, large, heads share a bias", 8, 12, 12, 2048, 2048, 64, 64, "cd", "b1qk", "+++++", "+++-+"},
    {"dropout, large, all share a bias", 8, 12, 12, 2048, 2048, 64, 64, "cd", "11qk", "-----", "-----"},
    {"dropout, long", 1, 8, 2, 8192, 8192, 64, 64, "cd", NULL, "-----", "-----"},
    /* Where a workspace has all cells in bf16, batch entries or heads must be cut, and a head cannot be. */
    {"large", 8, 12, 12, 2048, 2048, 64, 64, "cs", NULL, "+++++", "+++++"},
    {"long", 1, 8, 2, 8192, 8192, 64, 64, "c", NULL, "+++++", "---+-"},
    {"long, every head its own", 1, 8, 8, 8192, 8192, 64, 64, "c", NULL, "+++++", "+++++"},
    {"longer", 1, 1, 1, 12288, 12288, 64, 64, "c", NULL, "+++++", "---+-"},
};

static void set_strides(const row &r, int64_t heads, int64_t length, int64_t width, int64_t stride[3]) {
    const bool side_by_side = strchr(r.has, 's') != NULL;
    stride[0] = heads * length * width;
    stride[1] = side_by_side ? width : length * width;
    stride[2] = side_by_side ? heads * width : width;
}

static dnn_attention problem_of(const row &r, bool backward) {
    dnn_attention a;
    memset(&a, 0, sizeof a);
    a.batch = r.batch, a.heads = r.heads, a.kv_heads = r.kv_heads;
    a.queries = r.queries, a.keys = r.keys;
    a.width = r.width, a.value_width = r.value_width;
    for (int64_t *stride : {a.q, a.dq}) set_strides(r, r.heads, r.queries, r.width, stride);
    for (int64_t *stride : {a.y, a.dy}) set_strides(r, r.heads, r.queries, r.value_width, stride);
    for (int64_t *stride : {a.k, a.dk}) set_strides(r, r.kv_heads, r.keys, r.width, stride);
    for (int64_t *stride : {a.v, a.dv}) set_strides(r, r.kv_heads, r.keys, r.value_width, stride);
    a.causal = strchr(r.has, 'c') != NULL;
    a.lengths = strchr(r.has, 'l') != NULL;
    a.kept = strchr(r.has, 'd') ? 58982 : 0;
    a.backward = backward;
    a.bias_gradient = backward && r.bias;
    const int64_t all[4] = {r.batch, r.heads, r.queries, r.keys};
    for (int d = 3; d >= 0 && r.bias; d--) {
        a.bias_size[d] = r.bias[d] == '1' ? 1 : all[d];
        a.bias_stride[d] = d == 3 ? 1 : a.bias_size[d + 1] * a.bias_stride[d + 1];
    }
    return a;
}

/* Whether all is as expected; the slice is that of the plan. */
static bool check(const dnn_target &target, const device &d, const row &r, bool backward, bool expected,
                  dnn_slice *slice) {
    dnn_graph g;
    const dnn_attention a = problem_of(r, backward);
    const bool plans = dnn_attention_plan(&g, &target, &a, slice);
    const bool small = !plans || (g.workspace >= 0 && g.workspace <= DNN_MOST_WORKSPACE);
    if (plans != expected || !small)
        printf("%s, %s of \"%s\": %s, against what is expected (status %d: %s; workspace %lld)\n", d.name,
               backward ? "backward" : "forward", r.name, plans ? "plans" : "does not plan", (int)g.status,
               g.failed ? g.failed : "none", (long long)g.workspace);
    dnn_graph_end(&g);
    return plans == expected && small;
}

/* Whether both directions of dropout are cut alike, and each slice has a seed of its own. */
static bool check_draws(const device &d, const row &r, const dnn_slice &forward, const dnn_slice &backward) {
    const dnn_attention a = problem_of(r, false);
    const bool alike = forward.batch == backward.batch && forward.kv_heads == backward.kv_heads;
    int64_t last = -1;
    bool differ = true;
    for (int64_t batch = 0; batch < r.batch; batch += forward.batch)
        for (int64_t head = 0; head < r.kv_heads; head += forward.kv_heads) {
            const int64_t seed = dnn_attention_offset(&a, DNN_SEEDS, batch, head);
            differ = differ && seed > last && seed < r.batch * r.kv_heads * (int64_t)sizeof(int64_t);
            last = seed;
        }
    if (!alike || !differ)
        printf("%s: \"%s\" %s\n", d.name, r.name,
               alike ? "has slices that draw the same numbers"
                     : "is cut differently backward, and would drop other weights");
    return alike && differ;
}

/* ---- graphs with seeded bugs ---- */

/* Attention of the smallest kind, right or with one thing wrong. */
enum seed { RIGHT, KEYS_NOT_TRANSPOSED, NO_SUM, UNWRITTEN, SUM_OF_F16, SEEDS };
static const char *const seed_words[SEEDS] = {"right", "keys not transposed",
                                              "weights not divided by their sum",
                                              "a tensor that nobody writes", "an element type of its own"};

static void build(dnn_graph *g, enum seed seed) {
    enum { B = 2, H = 4, S = 128, W = 64 };
    const int64_t rows_size[4] = {B, H, S, W}, columns_size[4] = {B, H, W, S};
    const int64_t rows_stride[4] = {H * S * W, S * W, W, 1}, columns_stride[4] = {H * S * W, S * W, 1, W};
    const cudnnDataType_t bf16 = CUDNN_DATA_BFLOAT16, f32 = CUDNN_DATA_FLOAT;
    const dnn_tensor q = dnn_bound(g, 1, bf16, rows_size, rows_stride),
                     k = seed == KEYS_NOT_TRANSPOSED ? dnn_bound(g, 2, bf16, rows_size, rows_stride)
                                                     : dnn_bound(g, 2, bf16, columns_size, columns_stride),
                     v = dnn_bound(g, 3, seed == SUM_OF_F16 ? CUDNN_DATA_HALF : bf16, rows_size, rows_stride),
                     y = dnn_bound(g, 4, bf16, rows_size, rows_stride), scale = dnn_number(g, 5);
    const dnn_tensor dot = dnn_virtual(g, f32, B, H, S, S), s = dnn_virtual(g, f32, B, H, S, S),
                     below = dnn_virtual(g, f32, B, H, S, S), e = dnn_virtual(g, f32, B, H, S, S),
                     weights = dnn_virtual(g, bf16, B, H, S, S), maximum = dnn_virtual(g, f32, B, H, S, 1),
                     sum = dnn_virtual(g, f32, B, H, S, 1), log = dnn_virtual(g, f32, B, H, S, 1);
    const int64_t row_size[4] = {B, H, S, 1}, row_stride[4] = {H * S, S, 1, 1};
    const dnn_tensor log_sum = dnn_bound(g, 6, f32, row_size, row_stride);
    dnn_matmul(g, &q, &k, &dot, NULL);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, &dot, &scale, &s);
    if (seed != UNWRITTEN) dnn_reduce(g, CUDNN_REDUCE_TENSOR_MAX, &s, &maximum);
    dnn_pointwise(g, CUDNN_POINTWISE_SUB, &s, &maximum, &below);
    dnn_pointwise(g, CUDNN_POINTWISE_EXP, &below, NULL, &e);
    dnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, &e, &sum);
    dnn_pointwise(g, CUDNN_POINTWISE_LOG, &sum, NULL, &log);
    dnn_pointwise(g, CUDNN_POINTWISE_ADD, &maximum, &log, &log_sum);
    if (seed == NO_SUM)
        dnn_pointwise(g, CUDNN_POINTWISE_IDENTITY, &e, NULL, &weights);
    else
        dnn_pointwise(g, CUDNN_POINTWISE_DIV, &e, &sum, &weights);
    dnn_matmul(g, &weights, &v, &y, NULL);
}

static bool check_seed(const dnn_target &target, const device &d, enum seed seed) {
    const dnn_engine any = {-1, 0, {}};
    dnn_graph g;
    dnn_graph_begin(&g, &target);
    build(&g, seed);
    const bool plans = dnn_plan(&g, &any, DNN_MOST_WORKSPACE);
    if (plans != (seed == RIGHT))
        printf("%s: %s: %s\n", d.name, seed_words[seed], plans ? "plans" : "does not plan");
    dnn_graph_end(&g);
    return plans == (seed == RIGHT);
}

/* ---- all ---- */

/* `only`: the problem, or NULL. */
static int check_device(const dnn_library *library, int i, const char *only) {
    const dnn_target target = {library, NULL, describe(library, devices[i]), devices[i].version / 10};
    int wrong = 0;
    if (!target.device) {
        printf("%s: cuDNN does not take the description\n", devices[i].name);
        return 1;
    }
    for (const row &r : rows) {
        if (only && strcmp(only, r.name) != 0) continue;
        dnn_slice forward, backward;
        wrong += !check(target, devices[i], r, false, r.forward[i] == '+', &forward);
        wrong += !check(target, devices[i], r, true, r.backward[i] == '+', &backward);
        if (strchr(r.has, 'd')) wrong += !check_draws(devices[i], r, forward, backward);
    }
    for (int seed = 0; seed < SEEDS && !only; seed++)
        wrong += !check_seed(target, devices[i], (enum seed)seed);
    library->cudnnBackendDestroyDescriptor(target.device);
    return wrong;
}

static int find_device(const char *name) {
    for (int i = 0; i < DEVICES; i++)
        if (strstr(devices[i].name, name)) return i;
    return -1;
}

int main(int arguments, char **argument) {
    const int device = arguments == 2 || arguments == 3 ? find_device(argument[1]) : -1;
    const dnn_library *library = dnn_library_open();
    if (device < 0) return 2;
    if (library->missing) {
        puts(library->missing);
        return 77;
    }
    const int wrong = check_device(library, device, arguments == 3 ? argument[2] : NULL);
    printf("cuDNN %zu on %s: %d not as expected\n", library->version, devices[device].name, wrong);
    return wrong != 0;
}
