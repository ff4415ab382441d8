/* libcublasLt for the emulated device: the functions that heed calls, by plain loops with sums in f64. TF32
 * is not rounded to: the tests compare with f32. Factors of bf16 may have a result of f32; a bias, its
 * gradient and GELU's argument are of the result's type.
 *
 * Every argument is checked (check_… below). An algorithm is a number that stands for all that it was asked
 * for — types, shapes, strides, alignments, workspace — and runs nothing else. It fills its workspace with
 * NaN. HEED_FAKE_CUBLASLT=plain: there is an algorithm for products without an epilogue only; =none: for
 * nothing. */
#include "fakes/cublaslt.h"

#include <cublasLt.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "fakes/cublaslt_sizes.h"
#include "fakes/library.h"

using namespace fakes;

/* ---- what is alive ---- */

static const char *const kind_words[KINDS] = {"handle", "descriptor of a product", "layout", "preference"};

struct object {
    enum kind kind;
    bool alive;
    virtual ~object() {
    }
};

struct product : object {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *vector = NULL, *aux = NULL;
    int64_t aux_ld = 0;
};

struct layout : object {
    cudaDataType_t type;
    int64_t rows, columns, ld;
    int32_t batch = 1;
    int64_t stride = 0;
};

struct preference : object {
    uint64_t workspace = 0;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t alignment[4] = {256, 256, 256, 256}; /* of A, B, C, D */
};

static std::mutex mutex;
typedef std::lock_guard<std::mutex> guard;
static std::map<const void *, std::unique_ptr<object>> objects; /* destroyed ones too: none has its address */
static struct fake_cublaslt control;

struct fake_cublaslt *heed_fake_cublaslt(void) {
    return &control;
}

static int64_t &living(enum kind kind) {
    return kind == HANDLE ? control.handles : control.objects;
}

template <typename T> static T *keep(T *made, enum kind kind) {
    made->kind = kind;
    made->alive = true;
    living(kind)++;
    objects[made].reset(made);
    return made;
}

template <typename T> static T *find(const char *who, const void *address, enum kind kind) {
    const auto found = objects.find(address);
    if (found == objects.end() || found->second->kind != kind)
        wrong("%s: %p is no %s", who, address, kind_words[kind]);
    if (!found->second->alive) wrong("%s: the %s was destroyed", who, kind_words[kind]);
    return static_cast<T *>(found->second.get());
}

static cublasStatus_t destroy(const char *who, const void *address, enum kind kind) {
    guard lock(mutex);
    find<object>(who, address, kind)->alive = false;
    living(kind)--;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- attributes ---- */

/* Their sizes are those that the real library was asked about (cublaslt_sizes.h). */
static void take(const char *who, enum kind kind, int attribute, const void *from, size_t given,
                 const std::map<int, void *> &places) {
    for (const cublaslt_size &known : cublaslt_sizes) {
        if (known.kind != kind || known.attribute != attribute) continue;
        if (given != known.bytes)
            wrong("%s: attribute %d has %zu bytes, not %zu", who, attribute, known.bytes, given);
        memcpy(places.at(attribute), from, given);
        return;
    }
    wrong("%s: the fake has no attribute %d", who, attribute);
}

/* ---- types ---- */

static size_t bytes_of(cudaDataType_t type) {
    switch (type) {
    case CUDA_R_64F:
        return 8;
    case CUDA_R_32F:
        return 4;
    case CUDA_R_16BF:
        return 2;
    default:
        wrong("cuBLASLt: the fake has no type %d", (int)type);
    }
}

static double load(cudaDataType_t type, const void *data, int64_t at) {
    if (type == CUDA_R_64F) return static_cast<const double *>(data)[at];
    if (type == CUDA_R_32F) return static_cast<const float *>(data)[at];
    const uint32_t bits = (uint32_t) static_cast<const uint16_t *>(data)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, and of two to the even one. */
static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void store(cudaDataType_t type, void *data, int64_t at, double value) {
    if (type == CUDA_R_64F)
        static_cast<double *>(data)[at] = value;
    else if (type == CUDA_R_32F)
        static_cast<float *>(data)[at] = (float)value;
    else
        static_cast<uint16_t *>(data)[at] = to_bf16((float)value);
}

/* ---- a product with all that belongs to it ---- */

struct call {
    const product *what;
    const layout *a, *b, *c, *d;

    int64_t m() const {
        return d->rows;
    }
    int64_t n() const {
        return d->columns;
    }
    int64_t k() const {
        return what->op_a == CUBLAS_OP_N ? a->columns : a->rows;
    }
    bool has(int part) const { /* of an epilogue, whose bits cublasLt.h gives names */
        return what->epilogue & (unsigned)part;
    }
    bool sums() const {
        return what->epilogue == CUBLASLT_EPILOGUE_BGRADB;
    }
    bool keeps() const {
        return what->epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
               what->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    }
    bool slopes() const {
        return what->epilogue == CUBLASLT_EPILOGUE_DGELU;
    }
    bool has_aux() const {
        return keeps() || slopes();
    }
    int64_t vector_length() const {
        return sums() ? n() : has(CUBLASLT_EPILOGUE_BIAS) ? m() : 0;
    }
};

static call find_call(const char *who, cublasLtMatmulDesc_t what, cublasLtMatrixLayout_t a,
                      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
    return {find<product>(who, what, PRODUCT), find<layout>(who, a, LAYOUT), find<layout>(who, b, LAYOUT),
            find<layout>(who, c, LAYOUT), find<layout>(who, d, LAYOUT)};
}

static void check_types(const char *who, const call &x) {
    const cudaDataType_t type = x.a->type, result = x.d->type, scale = x.what->scale;
    const bool f64 = type == CUDA_R_64F, widens = type == CUDA_R_16BF && result == CUDA_R_32F;
    const cublasComputeType_t compute = x.what->compute;
    if (x.b->type != type || x.c->type != result || (result != type && !widens))
        wrong("%s: types %d, %d, %d, %d of A, B, C, D do not go together", who, type, x.b->type, x.c->type,
              result);
    const bool fits = f64 ? compute == CUBLAS_COMPUTE_64F && scale == CUDA_R_64F
                          : (compute == CUBLAS_COMPUTE_32F ||
                             (compute == CUBLAS_COMPUTE_32F_FAST_TF32 && type == CUDA_R_32F)) &&
                                scale == CUDA_R_32F;
    if (!fits) wrong("%s: type %d is not computed as %d and scaled as %d", who, type, compute, scale);
}

static int64_t extent(const layout *x) {
    return (x->batch - 1) * x->stride + (x->columns - 1) * x->ld + x->rows;
}

static void check_layout(const char *who, const char *name, const layout *x) {
    if (x->rows < 1 || x->columns < 1) wrong("%s: %s is empty", who, name);
    if (x->ld < x->rows)
        wrong("%s: %s has a leading dimension of %lld for %lld rows", who, name, (long long)x->ld,
              (long long)x->rows);
    if (x->batch < 1 || x->stride < 0) wrong("%s: %s has a batch of %d", who, name, (int)x->batch);
}

static void check_shapes(const char *who, const call &x) {
    check_layout(who, "A", x.a);
    check_layout(who, "B", x.b);
    check_layout(who, "C", x.c);
    check_layout(who, "D", x.d);
    const bool at = x.what->op_a != CUBLAS_OP_N, bt = x.what->op_b != CUBLAS_OP_N;
    if ((at ? x.a->columns : x.a->rows) != x.m() || (bt ? x.b->rows : x.b->columns) != x.n() ||
        (bt ? x.b->columns : x.b->rows) != x.k())
        wrong("%s: A, B and D do not fit each other", who);
    if (x.c->rows != x.m() || x.c->columns != x.n() || x.c->ld != x.d->ld || x.c->stride != x.d->stride)
        wrong("%s: C is not as D", who);
    if (x.a->batch != x.d->batch || x.b->batch != x.d->batch || x.c->batch != x.d->batch)
        wrong("%s: batches of %d, %d, %d and %d", who, x.a->batch, x.b->batch, x.c->batch, x.d->batch);
    const int64_t one = (x.n() - 1) * x.d->ld + x.m(), across = (x.d->batch - 1) * x.d->stride + x.m();
    if (x.d->batch > 1 && x.d->stride < one && (x.d->stride < x.m() || x.d->ld < across))
        wrong("%s: the batches of D overlap", who);
}

static void check_epilogue(const char *who, const call &x) {
    switch (x.what->epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
        return;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_BGRADB:
    case CUBLASLT_EPILOGUE_DGELU:
        break;
    default:
        wrong("%s: the fake has no epilogue %u", who, x.what->epilogue);
    }
    if (x.d->type == CUDA_R_64F) wrong("%s: f64 has no epilogues", who);
    if (x.d->batch > 1) wrong("%s: the fake has no epilogue for batches", who);
    if (x.vector_length() && !x.what->vector) wrong("%s: the bias has no pointer", who);
    if (!x.has_aux()) return;
    if (!x.what->aux) wrong("%s: GELU's argument has no pointer", who);
    if (x.what->aux_ld < x.m() || x.what->aux_ld % 8 != 0)
        wrong("%s: GELU's argument has a leading dimension of %lld", who, (long long)x.what->aux_ld);
}

static void check_call(const char *who, const call &x) {
    check_shapes(who, x);
    check_types(who, x);
    check_epilogue(who, x);
}

/* ---- algorithms ---- */

struct algorithm {
    std::vector<int64_t> made_for;
    size_t workspace;
    uint32_t alignment[4], vector_alignment, aux_alignment;
};

static std::vector<algorithm> algorithms;
static const uint64_t MAGIC = 0x6865656466616b65;

static uint32_t alignment_of(const void *data) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(data) | 256;
    return (uint32_t)(address & (0 - address));
}

static std::vector<int64_t> numbers_of(const call &x) {
    std::vector<int64_t> all = {x.what->compute, x.what->scale,    x.what->op_a,
                                x.what->op_b,    x.what->epilogue, x.has_aux() ? x.what->aux_ld : 0};
    for (const layout *l : {x.a, x.b, x.c, x.d})
        all.insert(all.end(), {l->type, l->rows, l->columns, l->ld, l->batch, l->stride});
    return all;
}

/* Long sums of few elements are divided, as the real one does, where there is workspace for the parts. */
static size_t workspace_for(const call &x, const preference *wishes) {
    const uint64_t bytes = (uint64_t)(x.m() * x.n() * x.d->batch) * sizeof(float) * 2;
    const bool divides = x.k() > 16 && wishes->schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    return divides && bytes <= wishes->workspace ? (size_t)bytes : 0;
}

static bool has_algorithm(const call &x) {
    const char *wish = getenv("HEED_FAKE_CUBLASLT");
    if (!wish || !*wish) return true;
    return strcmp(wish, "plain") == 0 && x.what->epilogue == CUBLASLT_EPILOGUE_DEFAULT;
}

extern "C" cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t what,
                                                         cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                         cublasLtMatmulPreference_t wish, int most,
                                                         cublasLtMatmulHeuristicResult_t *results,
                                                         int *found) {
    guard lock(mutex);
    const char *who = "cublasLtMatmulAlgoGetHeuristic";
    find<object>(who, handle, HANDLE);
    const call x = find_call(who, what, a, b, c, d);
    const preference *wishes = find<preference>(who, wish, PREFERENCE);
    check_call(who, x);
    if (most < 1) wrong("%s: %d results", who, most);
    if (wishes->schemes & ~(unsigned)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
        wrong("%s: reductions that are not the same every time are allowed", who);
    control.heuristics++;
    *found = 0;
    if (emulated()->fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
    if (!has_algorithm(x)) return CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm made = {numbers_of(x), workspace_for(x, wishes), {}, 1, 1};
    memcpy(made.alignment, wishes->alignment, sizeof made.alignment);
    if (x.vector_length()) made.vector_alignment = alignment_of(x.what->vector);
    if (x.has_aux()) made.aux_alignment = alignment_of(x.what->aux);
    memset(results, 0, sizeof *results);
    results->algo.data[0] = MAGIC;
    results->algo.data[1] = algorithms.size();
    results->workspaceSize = made.workspace;
    algorithms.push_back(made);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static const algorithm *find_algorithm(const char *who, const cublasLtMatmulAlgo_t *algo, const call &x) {
    if (!algo) wrong("%s: no algorithm: cuBLASLt would choose any", who);
    if (algo->data[0] != MAGIC || algo->data[1] >= algorithms.size())
        wrong("%s: the algorithm is none of the heuristic's", who);
    const algorithm *found = &algorithms[algo->data[1]];
    if (found->made_for != numbers_of(x)) wrong("%s: the algorithm is for another problem", who);
    return found;
}

/* ---- memory ---- */

struct range {
    const char *name;
    const char *from;
    size_t bytes;
};

static bool overlap(const range &x, const range &y) {
    return x.from < y.from + y.bytes && y.from < x.from + x.bytes;
}

static range check_range(const char *who, const char *name, const void *data, size_t bytes,
                         uint32_t alignment) {
    char where[100];
    snprintf(where, sizeof where, "%s, %s", who, name);
    if (bytes == 0) return {name, NULL, 0};
    emulated()->check_memory(where, data, bytes);
    if (reinterpret_cast<uintptr_t>(data) % alignment != 0)
        wrong("%s: %p is not aligned to %u bytes", where, data, alignment);
    return {name, static_cast<const char *>(data), bytes};
}

static range check_matrix(const char *who, const char *name, const void *data, const layout *x,
                          uint32_t alignment) {
    const size_t bytes = bytes_of(x->type);
    const uint32_t least = alignment > bytes ? alignment : (uint32_t)bytes;
    return check_range(who, name, data, (size_t)extent(x) * bytes, least);
}

static void check_memory(const char *who, const call &x, const algorithm *how, const void *a, const void *b,
                         const void *d, const void *workspace) {
    const size_t bytes = bytes_of(x.d->type);
    const uint32_t *alignment = how->alignment;
    const size_t aux_bytes = x.has_aux() ? (size_t)((x.n() - 1) * x.what->aux_ld + x.m()) * bytes : 0;
    const range aux = check_range(who, "GELU's argument", x.what->aux, aux_bytes,
                                  how->aux_alignment > 16 ? how->aux_alignment : 16);
    const range vector = check_range(who, x.sums() ? "the sums" : "the bias", x.what->vector,
                                     (size_t)x.vector_length() * bytes, how->vector_alignment);
    const range none = {"", NULL, 0};
    const range read[] = {check_matrix(who, "A", a, x.a, alignment[0]),
                          check_matrix(who, "B", b, x.b, alignment[1]), x.sums() ? none : vector,
                          x.slopes() ? aux : none};
    const range written[] = {
        check_matrix(who, "D", d, x.d, alignment[2] > alignment[3] ? alignment[2] : alignment[3]),
        x.sums() ? vector : none, x.keeps() ? aux : none,
        check_range(who, "the workspace", workspace, how->workspace, 256)};
    for (const range &w : written) {
        for (const range &r : read)
            if (overlap(w, r)) wrong("%s: %s overlaps %s", who, w.name, r.name);
        for (const range &other : written)
            if (&w != &other && overlap(w, other)) wrong("%s: %s overlaps %s", who, w.name, other.name);
    }
}

/* ---- computing ---- */

/* `lines` of k numbers each, one behind the other. */
static std::vector<double> gather(const layout *x, const void *data, int64_t batch, bool lines_are_columns,
                                  int64_t lines, int64_t k) {
    std::vector<double> all((size_t)(lines * k));
    const int64_t line = lines_are_columns ? x->ld : 1, inner = lines_are_columns ? 1 : x->ld;
    for (int64_t i = 0; i < lines; i++)
        for (int64_t p = 0; p < k; p++)
            all[(size_t)(i * k + p)] = load(x->type, data, batch * x->stride + i * line + p * inner);
    return all;
}

static double gelu(double x) {
    return 0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static double gelu_slope(double x) {
    const double c = 0.79788456080286535588, t = std::tanh(c * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

/* D = epilogue(alpha · op(A) · op(B) + beta · C). */
static void compute_batch(const call &x, int64_t batch, double alpha, const void *a, const void *b,
                          double beta, void *d) {
    const int64_t m = x.m(), n = x.n(), k = x.k();
    const std::vector<double> rows = gather(x.a, a, batch, x.what->op_a != CUBLAS_OP_N, m, k),
                              columns = gather(x.b, b, batch, x.what->op_b == CUBLAS_OP_N, n, k);
    const cudaDataType_t type = x.d->type;
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < m; i++) {
            const int64_t at = batch * x.d->stride + j * x.d->ld + i;
            double sum = 0;
            for (int64_t p = 0; p < k; p++) sum += rows[(size_t)(i * k + p)] * columns[(size_t)(j * k + p)];
            sum *= alpha;
            if (beta != 0) sum += beta * load(type, d, at);
            if (!x.sums() && x.vector_length()) sum += load(type, x.what->vector, i);
            if (x.keeps()) store(type, x.what->aux, j * x.what->aux_ld + i, sum);
            if (x.slopes()) sum *= gelu_slope(load(type, x.what->aux, j * x.what->aux_ld + i));
            store(type, d, at, x.has(CUBLASLT_EPILOGUE_GELU) ? gelu(sum) : sum);
        }
    }
    for (int64_t j = 0; x.sums() && j < n; j++) {
        double sum = 0;
        for (int64_t p = 0; p < k; p++) sum += columns[(size_t)(j * k + p)];
        store(type, x.what->vector, j, sum);
    }
}

/* A product in a queue: what it was called with, which may have changed when its turn comes. */
struct job {
    product what;
    layout a_layout, b_layout, d_layout;
    call x;
    double alpha, beta;
    const void *a, *b;
    void *d, *workspace;
    size_t workspace_bytes;

    job(const call &c, double alpha_, double beta_, const void *a_, const void *b_, void *d_,
        void *workspace_, size_t bytes)
        : what(*c.what), a_layout(*c.a), b_layout(*c.b),
          d_layout(*c.d), x{&what, &a_layout, &b_layout, &d_layout, &d_layout}, alpha(alpha_), beta(beta_),
          a(a_), b(b_), d(d_), workspace(workspace_), workspace_bytes(bytes) {
    }
    job(const job &) = delete;
};

static void compute(void *argument) {
    const std::unique_ptr<job> j(static_cast<job *>(argument));
    if (j->workspace_bytes) memset(j->workspace, 0xff, j->workspace_bytes);
    for (int64_t batch = 0; batch < j->d_layout.batch; batch++)
        compute_batch(j->x, batch, j->alpha, j->a, j->b, j->beta, j->d);
}

static void keep_last(const call &x, const algorithm *how) {
    control.products++;
    control.slopes += x.slopes();
    control.m = x.m();
    control.n = x.n();
    control.k = x.k();
    control.batch = x.d->batch;
    control.epilogue = (int)x.what->epilogue;
    control.compute = x.what->compute;
    control.factors = x.a->type;
    control.result = x.d->type;
    control.workspace = (int64_t)how->workspace;
}

extern "C" cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t what,
                                         const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                                         const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                                         const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                                         cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                                         void *workspace, size_t workspace_bytes, cudaStream_t stream) {
    guard lock(mutex);
    const char *who = "cublasLtMatmul";
    find<object>(who, handle, HANDLE);
    const call x = find_call(who, what, a_layout, b_layout, c_layout, d_layout);
    check_call(who, x);
    const algorithm *how = find_algorithm(who, algo, x);
    if (c != d) wrong("%s: C is not D", who);
    if (workspace_bytes < how->workspace)
        wrong("%s: %zu bytes of workspace, and the algorithm takes %zu", who, workspace_bytes,
              how->workspace);
    emulated()->check_stream(who, stream);
    check_memory(who, x, how, a, b, d, workspace);
    if (emulated()->fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
    keep_last(x, how);
    emulated()->queue(stream, compute,
                      new job(x, load(x.what->scale, alpha, 0), load(x.what->scale, beta, 0), a, b, d,
                              workspace, how->workspace));
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- handles ---- */

extern "C" cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    guard lock(mutex);
    if (emulated()->fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = reinterpret_cast<cublasLtHandle_t>(keep(new object(), HANDLE));
    return CUBLAS_STATUS_SUCCESS;
}

/* With the last handle all that was made is to be gone. */
extern "C" cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    const cublasStatus_t status = destroy("cublasLtDestroy", handle, HANDLE);
    if (control.handles == 0 && control.objects != 0)
        wrong("cublasLtDestroy: %lld descriptors are left", (long long)control.objects);
    return status;
}

extern "C" size_t cublasLtGetVersion() {
    return CUBLAS_VERSION;
}

extern "C" const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    default:
        return "an internal operation failed";
    }
}

/* ---- descriptors ---- */

extern "C" cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *what, cublasComputeType_t compute,
                                                   cudaDataType_t scale) {
    guard lock(mutex);
    if (emulated()->fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    product *made = keep(new product(), PRODUCT);
    made->compute = compute;
    made->scale = scale;
    *what = reinterpret_cast<cublasLtMatmulDesc_t>(made);
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t what) {
    return destroy("cublasLtMatmulDescDestroy", what, PRODUCT);
}

extern "C" cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t what,
                                                         cublasLtMatmulDescAttributes_t attribute,
                                                         const void *from, size_t bytes) {
    guard lock(mutex);
    const char *who = "cublasLtMatmulDescSetAttribute";
    product *x = find<product>(who, what, PRODUCT);
    const std::map<int, void *> places = {{CUBLASLT_MATMUL_DESC_TRANSA, &x->op_a},
                                          {CUBLASLT_MATMUL_DESC_TRANSB, &x->op_b},
                                          {CUBLASLT_MATMUL_DESC_EPILOGUE, &x->epilogue},
                                          {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &x->vector},
                                          {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &x->aux},
                                          {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &x->aux_ld}};
    take(who, PRODUCT, attribute, from, bytes, places);
    for (const int32_t op : {x->op_a, x->op_b})
        if (op != CUBLAS_OP_N && op != CUBLAS_OP_T) wrong("%s: operation %d", who, (int)op);
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *to, cudaDataType_t type,
                                                     uint64_t rows, uint64_t columns, int64_t ld) {
    guard lock(mutex);
    bytes_of(type);
    if (emulated()->fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    layout *made = keep(new layout(), LAYOUT);
    made->type = type;
    made->rows = (int64_t)rows;
    made->columns = (int64_t)columns;
    made->ld = ld;
    *to = reinterpret_cast<cublasLtMatrixLayout_t>(made);
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t x) {
    return destroy("cublasLtMatrixLayoutDestroy", x, LAYOUT);
}

extern "C" cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t to,
                                                           cublasLtMatrixLayoutAttribute_t attribute,
                                                           const void *from, size_t bytes) {
    guard lock(mutex);
    const char *who = "cublasLtMatrixLayoutSetAttribute";
    layout *x = find<layout>(who, to, LAYOUT);
    take(who, LAYOUT, attribute, from, bytes,
         {{CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &x->batch},
          {CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &x->stride}});
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *to) {
    guard lock(mutex);
    if (emulated()->fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    *to = reinterpret_cast<cublasLtMatmulPreference_t>(keep(new preference(), PREFERENCE));
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t x) {
    return destroy("cublasLtMatmulPreferenceDestroy", x, PREFERENCE);
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t to,
                                                               cublasLtMatmulPreferenceAttributes_t attribute,
                                                               const void *from, size_t bytes) {
    guard lock(mutex);
    const char *who = "cublasLtMatmulPreferenceSetAttribute";
    preference *x = find<preference>(who, to, PREFERENCE);
    take(who, PREFERENCE, attribute, from, bytes,
         {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &x->workspace},
          {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &x->schemes},
          {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &x->alignment[0]},
          {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x->alignment[1]},
          {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &x->alignment[2]},
          {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &x->alignment[3]}});
    return CUBLAS_STATUS_SUCCESS;
}
