/* The fake cuBLASLt (fakes/cublaslt.cpp): products that are right and, with one thing wrong, are found. */
#include "emulated/runtime.h"

#include <cublasLt.h>
#include <functional>
#include <vector>

#include "apart.h"

/* ---- a product, step by step; a case changes one of them ---- */

/* D [5, 7] = A [5, 20] · Bᵀ [20, 7], twice, in column-major order, with a leading dimension of 8 for all but
 * B. Long enough for the fake to want workspace. */
struct problem {
    int64_t m = 5, n = 7, k = 20;
    cudaDataType_t type = CUDA_R_32F, scale = CUDA_R_32F, b_type = CUDA_R_32F, d_type = CUDA_R_32F;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    int64_t a_ld = 8, b_ld = 8, c_ld = 8, d_ld = 8;
    int32_t batch = 2, b_batch = 2;
    int64_t a_stride = 160, b_stride = 160, d_stride = 56, b_columns = 20;
    int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_T;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT, schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t alignment = 16;
    uint64_t workspace = 1 << 16;
    int64_t aux_ld = 8;
    size_t aux_ld_bytes = sizeof aux_ld;
};

/* What is handed to cublasLtMatmul. */
struct handed {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a_layout, b_layout, c_layout, d_layout;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found;
    char *a, *b, *c, *d, *vector, *aux, *workspace;
    size_t workspace_bytes;
    cudaStream_t stream;
    bool leave; /* what was made is not destroyed */
};

enum { MATRIX = 320, VECTOR = 8 }; /* elements; of A, B, D and aux, and of the bias */

static cudaStream_t stream;

/* Small whole numbers, of which bf16 has half the bits of f32, and the first ones. */
static char *numbers(size_t count, cudaDataType_t type) {
    const size_t bytes = type == CUDA_R_16BF ? sizeof(uint16_t) : sizeof(float);
    void *memory = NULL;
    std::vector<char> host(count * bytes);
    for (size_t i = 0; i < count; i++) {
        const float number = (float)(i % 5) - 2;
        memcpy(&host[i * bytes], reinterpret_cast<const char *>(&number) + sizeof number - bytes, bytes);
    }
    cudaMalloc(&memory, host.size());
    cudaMemcpyAsync(memory, host.data(), host.size(), cudaMemcpyHostToDevice, stream);
    return static_cast<char *>(memory);
}

static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t ld,
                                     int32_t batch, int64_t stride) {
    cublasLtMatrixLayout_t x;
    cublasLtMatrixLayoutCreate(&x, type, (uint64_t)rows, (uint64_t)columns, ld);
    cublasLtMatrixLayoutSetAttribute(x, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    cublasLtMatrixLayoutSetAttribute(x, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    return x;
}

template <typename T> static void set(handed *h, cublasLtMatmulDescAttributes_t name, const T &value) {
    cublasLtMatmulDescSetAttribute(h->what, name, &value, sizeof value);
}

static void describe(const problem &p, handed *h) {
    cublasLtCreate(&h->handle);
    cublasLtMatmulDescCreate(&h->what, p.compute, p.scale);
    set(h, CUBLASLT_MATMUL_DESC_TRANSA, p.op_a);
    set(h, CUBLASLT_MATMUL_DESC_TRANSB, p.op_b);
    set(h, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
    cublasLtMatmulDescSetAttribute(h->what, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &p.aux_ld, p.aux_ld_bytes);
    set(h, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, h->aux);
    set(h, CUBLASLT_MATMUL_DESC_BIAS_POINTER, h->vector);
    h->a_layout = layout(p.type, p.m, p.k, p.a_ld, p.batch, p.a_stride);
    h->b_layout = layout(p.b_type, p.n, p.b_columns, p.b_ld, p.b_batch, p.b_stride);
    h->c_layout = layout(p.d_type, p.m, p.n, p.c_ld, p.batch, p.d_stride);
    h->d_layout = layout(p.d_type, p.m, p.n, p.d_ld, p.batch, p.d_stride);
}

static void choose(const problem &p, handed *h) {
    cublasLtMatmulPreferenceCreate(&h->preference);
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &p.workspace, sizeof p.workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &p.schemes, sizeof p.schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &p.alignment, sizeof p.alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p.alignment, sizeof p.alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p.alignment, sizeof p.alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p.alignment, sizeof p.alignment},
    };
    for (const auto &w : wishes)
        cublasLtMatmulPreferenceSetAttribute(h->preference, w.name, w.value, w.bytes);
    cublasLtMatmulAlgoGetHeuristic(h->handle, h->what, h->a_layout, h->b_layout, h->c_layout, h->d_layout,
                                   h->preference, 1, &h->result, &h->found);
    h->workspace_bytes = h->result.workspaceSize;
}

static void multiply(const problem &p, handed *h) {
    const float one[2] = {1, 0}; /* of f64 too few bits, and it is found before they are read */
    const double one_f64 = 1, none_f64 = 0;
    const bool f64 = p.scale == CUDA_R_64F;
    cublasLtMatmul(h->handle, h->what, f64 ? static_cast<const void *>(&one_f64) : &one[0], h->a, h->a_layout,
                   h->b, h->b_layout, f64 ? static_cast<const void *>(&none_f64) : &one[1], h->c, h->c_layout,
                   h->d, h->d_layout, &h->result.algo, h->workspace, h->workspace_bytes, h->stream);
}

static void tidy(handed *h) {
    cublasLtMatmulPreferenceDestroy(h->preference);
    cublasLtMatmulDescDestroy(h->what);
    for (cublasLtMatrixLayout_t x : {h->a_layout, h->b_layout, h->c_layout}) cublasLtMatrixLayoutDestroy(x);
    if (!h->leave) cublasLtMatrixLayoutDestroy(h->d_layout);
    cublasLtDestroy(h->handle);
}

/* Sums of products of numbers that are −2, −1, 0, 1, 2 in turn. */
static bool is_right(const problem &p, const handed &h) {
    const size_t bytes = p.d_type == CUDA_R_16BF ? sizeof(uint16_t) : sizeof(float);
    std::vector<char> d(MATRIX * bytes);
    const auto at = [](int64_t i) { return (double)(i % 5) - 2; };
    cudaMemcpyAsync(d.data(), h.d, d.size(), cudaMemcpyDeviceToHost, stream);
    for (int64_t batch = 0; batch < p.batch; batch++)
        for (int64_t i = 0; i < p.m; i++)
            for (int64_t j = 0; j < p.n; j++) {
                double sum = p.epilogue & CUBLASLT_EPILOGUE_BIAS ? at(i) : 0;
                for (int64_t q = 0; q < p.k; q++)
                    sum += at(batch * p.a_stride + q * p.a_ld + i) * at(batch * p.b_stride + q * p.b_ld + j);
                float found = 0;
                memcpy(reinterpret_cast<char *>(&found) + sizeof found - bytes,
                       &d[(size_t)(batch * p.d_stride + j * p.d_ld + i) * bytes], bytes);
                if (found != (float)sum) return false;
            }
    return true;
}

/* ---- cases ---- */

struct row {
    const char *name, *found; /* "" passes */
    std::function<void(problem *)> other;
    std::function<void(handed *)> before, asked, after; /* before: of everything; asked: of the product */
};

static void to_f64(problem *p) {
    p->type = p->b_type = p->d_type = p->scale = CUDA_R_64F;
    p->compute = CUBLAS_COMPUTE_64F;
    p->batch = p->b_batch = 1;
}

static void with(problem *p, cublasLtEpilogue_t epilogue) {
    p->epilogue = (uint32_t)epilogue;
    p->batch = p->b_batch = 1;
}

static void to_bf16(problem *p, cudaDataType_t result, cublasLtEpilogue_t epilogue) {
    with(p, epilogue);
    p->type = p->b_type = CUDA_R_16BF;
    p->d_type = result;
}

static char *beyond(char *memory, size_t elements) {
    return memory + elements * sizeof(float);
}

#define PROBLEM [](problem * p)
#define HANDED [](handed * h)

static const row rows[] = {{"right", "", nullptr, nullptr, nullptr, nullptr},
                           {"right, bias", "", PROBLEM{with(p, CUBLASLT_EPILOGUE_BIAS);
}
, nullptr, nullptr, nullptr
}
, {"right, bf16", "", PROBLEM{to_bf16(p, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS);
}
, nullptr, nullptr, nullptr
}
, {"right, bf16 to f32", "", PROBLEM{to_bf16(p, CUDA_R_32F, CUBLASLT_EPILOGUE_BIAS);
}
, nullptr, nullptr, nullptr
}
,
    /* types and shapes */
    {"f32 to bf16", "types 0, 0, 14, 14 of A, B, C, D do not go together", PROBLEM{p->d_type = CUDA_R_16BF;
}
, nullptr, nullptr, nullptr
}
, {"bf16 in TF32", "type 14 is not computed as 77", PROBLEM{to_bf16(p, CUDA_R_32F, CUBLASLT_EPILOGUE_DEFAULT);
p->compute = CUBLAS_COMPUTE_32F_FAST_TF32;
}
, nullptr, nullptr, nullptr
}
, {"beyond a bias of bf16", "the bias: 10 bytes from",
   PROBLEM{to_bf16(p, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS);
}
, HANDED {
    h->vector += 8;
}
, nullptr, nullptr
}
, {"beyond sums of f32", "the sums: 28 bytes from", PROBLEM{to_bf16(p, CUDA_R_32F, CUBLASLT_EPILOGUE_BGRADB);
}
, HANDED {
    h->vector = beyond(h->vector, 4);
}
, nullptr, nullptr
}
, {"types differ", "types 0, 14, 0, 0 of A, B, C, D do not go together", PROBLEM{p->b_type = CUDA_R_16BF;
}
, nullptr, nullptr, nullptr
}
, {"computed in f64", "is not computed as", PROBLEM{p->compute = CUBLAS_COMPUTE_64F;
}
, nullptr, nullptr, nullptr
}
, {"an epilogue in f64", "f64 has no epilogues", PROBLEM{to_f64(p);
p->epilogue = CUBLASLT_EPILOGUE_BIAS;
}
, nullptr, nullptr, nullptr
}
, {"leading dimension", "B has a leading dimension of 6 for 7 rows", PROBLEM{p->b_ld = 6;
}
, nullptr, nullptr, nullptr
}
, {"inner extents", "do not fit each other", PROBLEM{p->b_columns = 19;
}
, nullptr, nullptr, nullptr
}
, {"not transposed", "do not fit each other", PROBLEM{p->op_b = CUBLAS_OP_N;
}
, nullptr, nullptr, nullptr
}
, {"no such operation", "operation 5", PROBLEM{p->op_a = 5;
}
, nullptr, nullptr, nullptr
}
, {"C is not D", "C is not as D", PROBLEM{p->c_ld = 9;
}
, nullptr, nullptr, nullptr
}
, {"batches", "batches of 2, 1, 2 and 2", PROBLEM{p->b_batch = 1;
}
, nullptr, nullptr, nullptr
}
, {"batches overlap", "the batches of D overlap", PROBLEM{p->d_stride = 6;
}
, nullptr, nullptr, nullptr
}
, {"size of an attribute", "attribute 12 has 8 bytes, not 4", PROBLEM{p->aux_ld_bytes = 4;
}
, nullptr, nullptr, nullptr
}
,
    /* choosing */
    {"in place", "not the same every time", PROBLEM{p->schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
}
, nullptr, nullptr, nullptr
}
, {"of another problem", "the algorithm is for another problem", nullptr, nullptr,
   HANDED{const int64_t stride = 320;
cublasLtMatrixLayoutSetAttribute(h->a_layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                 sizeof stride);
}
, nullptr
}
, {"of another epilogue", "the algorithm is for another problem", PROBLEM{with(p, CUBLASLT_EPILOGUE_BIAS);
}
, nullptr, HANDED {
    const uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    set(h, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
}
, nullptr
}
, {"of nobody", "the algorithm is none of the heuristic's", nullptr, nullptr,
   HANDED{h->result.algo.data[0] = 0;
}
, nullptr
}
,
    /* memory */
    {"beyond A", "cublasLtMatmul, A: 1268 bytes from", nullptr, nullptr, HANDED{h->a = beyond(h->a, 16);
}
, nullptr
}
, {"beyond D", "cublasLtMatmul, D: 436 bytes from", nullptr, nullptr, HANDED{h->c = h->d += 216 * 4;
}
, nullptr
}
, {"memory of the host", "cublasLtMatmul, B: ", nullptr, nullptr,
   HANDED{static char host[MATRIX * sizeof(float)];
h->b = host;
}
, nullptr
}
, {"freed memory", "that was freed", nullptr, nullptr, HANDED{cudaFree(h->b);
}
, nullptr
}
, {"alignment", "cublasLtMatmul, B: 0x", nullptr, nullptr, HANDED{h->b += 4;
}
, nullptr
}
, {"D over A", "D overlaps A", nullptr, nullptr, HANDED{h->c = h->d = h->a;
}
, nullptr
}
, {"no workspace", "the workspace: ", nullptr, nullptr, HANDED{h->workspace = NULL;
}
, nullptr
}
, {"little workspace", "16 bytes of workspace, and the algorithm takes 560", nullptr, nullptr,
   HANDED{h->workspace_bytes = 16;
}
, nullptr
}
, {"workspace between", "the workspace: 0x", nullptr, nullptr, HANDED{h->workspace += 64;
}
, nullptr
}
, {"workspace in D", "D overlaps the workspace", nullptr, nullptr, HANDED{h->workspace = h->d;
}
, nullptr
}
, {"C elsewhere", "C is not D", nullptr, nullptr, HANDED{h->c = h->b;
}
, nullptr
}
,
    /* epilogues */
    {"no bias", "the bias has no pointer", PROBLEM{with(p, CUBLASLT_EPILOGUE_BIAS);
}
, HANDED {
    h->vector = NULL;
}
, nullptr, nullptr
}
, {"beyond the bias", "the bias: 20 bytes from", PROBLEM{with(p, CUBLASLT_EPILOGUE_BIAS);
}
, HANDED {
    h->vector = beyond(h->vector, 4);
}
, nullptr, nullptr
}
, {"beyond the sums", "the sums: 28 bytes from", PROBLEM{with(p, CUBLASLT_EPILOGUE_BGRADB);
}
, HANDED {
    h->vector = beyond(h->vector, 4);
}
, nullptr, nullptr
}
, {"bias moved", "the bias: 0x", PROBLEM{with(p, CUBLASLT_EPILOGUE_BIAS);
}
, nullptr, HANDED {
    set(h, CUBLASLT_MATMUL_DESC_BIAS_POINTER, beyond(h->vector, 1));
}
, nullptr
}
, {"GELU's argument in D", "overlaps D|D overlaps", PROBLEM{with(p, CUBLASLT_EPILOGUE_GELU_AUX);
}
, nullptr, HANDED {
    set(h, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, h->d);
}
, nullptr
}
, {"lines of GELU's argument", "GELU's argument has a leading dimension of 12",
   PROBLEM{with(p, CUBLASLT_EPILOGUE_GELU_AUX);
p->aux_ld = 12;
}
, nullptr, nullptr, nullptr
}
, {"epilogue for batches", "no epilogue for batches", PROBLEM{p->epilogue = CUBLASLT_EPILOGUE_BIAS;
}
, nullptr, nullptr, nullptr
}
, {"unknown epilogue", "has no epilogue 2", PROBLEM{with(p, CUBLASLT_EPILOGUE_RELU);
}
, nullptr, nullptr, nullptr
}
,
    /* lives */
    {"no stream", "is no stream", nullptr, nullptr, HANDED{h->stream = NULL;
}
, nullptr
}
, {"no handle", "is no handle", nullptr, nullptr, HANDED{h->handle = NULL;
}
, nullptr
}
, {"dead handle", "descriptors are left", nullptr, nullptr, HANDED{cublasLtDestroy(h->handle);
}
, nullptr
}
, {"dead descriptor", "the descriptor of a product was destroyed", nullptr, nullptr,
   HANDED{cublasLtMatmulDescDestroy(h->what);
}
, nullptr
}
, {"a layout for a descriptor", "is no descriptor of a product", nullptr, nullptr,
   HANDED{h->what = reinterpret_cast<cublasLtMatmulDesc_t>(h->a_layout);
}
, nullptr
}
, {"destroyed twice", "the layout was destroyed", nullptr, nullptr, nullptr,
   HANDED{cublasLtMatrixLayoutDestroy(h->b_layout);
}
}
, {"left", "1 descriptors are left", nullptr, nullptr, nullptr, HANDED{h->leave = true;
}
}
,
}
;

static void run_case(const row &r) {
    problem p;
    handed h = {};
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    h.stream = stream;
    if (r.other) r.other(&p);
    h.a = numbers(MATRIX, p.type);
    h.b = numbers(MATRIX, p.b_type);
    h.c = h.d = numbers(MATRIX, p.d_type);
    h.aux = numbers(MATRIX, p.d_type);
    h.vector = numbers(VECTOR, p.d_type);
    h.workspace = numbers(1024, CUDA_R_32F);
    if (r.before) r.before(&h);
    describe(p, &h);
    choose(p, &h);
    if (r.asked) r.asked(&h);
    multiply(p, &h);
    if (!*r.found && !is_right(p, h)) fputs("not the right result\n", stderr);
    if (r.after) r.after(&h);
    tidy(&h);
    for (char *memory : {h.a, h.b, h.d, h.aux, h.vector, h.workspace}) cudaFree(memory);
    cudaStreamDestroy(stream);
}

START_TEST(cases) {
    static char output[1 << 14];
    const row &r = rows[_i];
    run_apart([&] { run_case(r); }, output, sizeof output);
    if (*r.found)
        ck_assert_msg(has(output, r.found), "%s: \"%s\" was not found, but: %.2000s", r.name, r.found,
                      output);
    else
        ck_assert_msg(!*output, "%s: %.2000s", r.name, output);
}
END_TEST

int main() {
    return run_table("fake cuBLASLt", cases, sizeof rows / sizeof *rows);
}
