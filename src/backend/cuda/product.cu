/* A block of threads makes a tile of C: slices of A and B go through shared memory, and every thread keeps a
 * block of C in registers. Each element of C is summed in order of k, then of `sum`, whatever the tiles are.
 *
 * Per tile of TM × TN and slice of TK it reads (TM + TN)·TK elements for 2·TM·TN·TK operations: 16 operations
 * per byte at 128 × 128 in f32, which FMA units and not memory bound on an A100 (19.5 TFLOP/s, 1.5 TB/s: 13).
 */
#include "backend/cuda/bf16.cuh"
#include "backend/cuda/product.cuh"

/* Rows and columns of a tile, of its slice, and of a thread's block. */
template <int M, int N, int K, int ROWS, int COLUMNS> struct tile_shape {
    static constexpr int m = M, n = N, k = K, rows = ROWS, columns = COLUMNS;
    static constexpr int down = M / ROWS, across = N / COLUMNS, threads = down * across;
};
typedef tile_shape<128, 128, 8, 8, 8> large_tile;
typedef tile_shape<32, 32, 8, 4, 4> small_tile;

/* An element of a matrix; `low`: of bf16, where T is float. */
template <typename T> static __device__ inline T element(const void *x, bool low, int64_t i) {
    if (sizeof(T) == sizeof(float) && low) return (T)(float)static_cast<const cuda_bf16 *>(x)[i];
    return static_cast<const T *>(x)[i];
}

/* Where index i of the repetition begins. */
static __device__ inline void repeat_to(const cuda_repeat &r, int64_t i, int64_t *a, int64_t *b, int64_t *c) {
    for (int d = r.rank - 1; d >= 0; d--) {
        const int64_t at = i % r.size[d];
        i /= r.size[d];
        *a += at * r.a[d];
        *b += at * r.b[d];
        *c += at * r.c[d];
    }
}

/* A slice [LINES, K] of lines with inner elements, to to[inner][line], zeros beyond the ends. Neighbouring
 * threads read what is neighbouring in memory. */
template <typename T, int LINES, int K, int THREADS>
static __device__ inline void load_slice(const void *x, bool low, int64_t first, int64_t line_stride,
                                         int64_t inner_stride, int64_t lines, int64_t inner,
                                         T (*to)[LINES + 1]) {
    const bool along_inner = inner_stride == 1;
#pragma unroll 2 /* more would hold addresses in registers that sums need */
    for (int e = threadIdx.x; e < LINES * K; e += THREADS) {
        const int p = along_inner ? e % K : e / LINES, i = along_inner ? e / K : e % LINES;
        to[p][i] =
            i < lines && p < inner ? element<T>(x, low, first + i * line_stride + p * inner_stride) : T(0);
    }
}

template <typename T, typename SHAPE> struct slices {
    T a[SHAPE::k][SHAPE::m + 1], b[SHAPE::k][SHAPE::n + 1];
};

/* sum += A · B of one tile, which begins at elements a and b. */
template <typename T, typename SHAPE>
static __device__ inline void accumulate(const cuda_product &x, int64_t a, int64_t b, int64_t rows,
                                         int64_t columns, slices<T, SHAPE> *slice,
                                         T sum[SHAPE::rows][SHAPE::columns]) {
    const int row = threadIdx.x / SHAPE::across, column = threadIdx.x % SHAPE::across;
#pragma unroll 1
    for (int64_t p = 0; p < x.k; p += SHAPE::k) {
        load_slice<T, SHAPE::m, SHAPE::k, SHAPE::threads>(x.a, x.a_dtype == HEED_BF16, a + p * x.a_column,
                                                          x.a_row, x.a_column, rows, x.k - p, slice->a);
        load_slice<T, SHAPE::n, SHAPE::k, SHAPE::threads>(x.b, x.b_dtype == HEED_BF16, b + p * x.b_row,
                                                          x.b_column, x.b_row, columns, x.k - p, slice->b);
        __syncthreads();
#pragma unroll
        for (int q = 0; q < SHAPE::k; q++) {
            T right[SHAPE::columns];
#pragma unroll
            for (int j = 0; j < SHAPE::columns; j++) right[j] = slice->b[q][column + j * SHAPE::across];
#pragma unroll
            for (int i = 0; i < SHAPE::rows; i++) {
                const T left = slice->a[q][row + i * SHAPE::down];
#pragma unroll
                for (int j = 0; j < SHAPE::columns; j++) sum[i][j] += left * right[j];
            }
        }
        __syncthreads();
    }
}

template <typename T, typename SHAPE>
static __device__ inline void store_tile(const cuda_product &x, int64_t c, int64_t first_row,
                                         int64_t first_column, const T sum[SHAPE::rows][SHAPE::columns]) {
    const bool low = x.c_dtype == HEED_BF16;
    const int64_t row = first_row + threadIdx.x / SHAPE::across,
                  column = first_column + threadIdx.x % SHAPE::across;
#pragma unroll
    for (int i = 0; i < SHAPE::rows; i++) {
#pragma unroll
        for (int j = 0; j < SHAPE::columns; j++) {
            const int64_t r = row + i * SHAPE::down, s = column + j * SHAPE::across;
            if (r >= x.m || s >= x.n) continue;
            const int64_t at = c + r * x.c_row + s * x.c_column;
            T value = sum[i][j];
            if (x.bias) value += element<T>(x.bias, x.bias_dtype == HEED_BF16, s);
            if (x.add) value += element<T>(x.c, low, at);
            if (sizeof(T) == sizeof(float) && low)
                static_cast<cuda_bf16 *>(x.c)[at] = cuda_bf16((float)value);
            else
                static_cast<T *>(x.c)[at] = value;
        }
    }
}

template <typename T, typename SHAPE>
static __global__ void __launch_bounds__(SHAPE::threads, 1) multiply(const __grid_constant__ cuda_product x) {
    HEED_SHARED(char, shared, (sizeof(slices<T, SHAPE>)));
    slices<T, SHAPE> *slice = reinterpret_cast<slices<T, SHAPE> *>(shared);
    const int64_t row = (int64_t)blockIdx.y * SHAPE::m, column = (int64_t)blockIdx.x * SHAPE::n;
    for (int64_t batch = blockIdx.z; batch < x.batch.count; batch += gridDim.z) {
        int64_t a0 = row * x.a_row, b0 = column * x.b_column, c0 = 0, none = 0;
        T sum[SHAPE::rows][SHAPE::columns] = {};
        repeat_to(x.batch, batch, &a0, &b0, &c0);
#pragma unroll 1
        for (int64_t s = 0; s < x.sum.count; s++) {
            int64_t a = a0, b = b0;
            repeat_to(x.sum, s, &a, &b, &none);
            accumulate<T, SHAPE>(x, a, b, x.m - row, x.n - column, slice, sum);
        }
        store_tile<T, SHAPE>(x, c0, row, column, sum);
    }
}

template <typename T, typename SHAPE> static void start(struct heed_exec *exec, const cuda_product &x) {
    const int64_t most = 65535;
    const dim3 grid((unsigned)((x.n + SHAPE::n - 1) / SHAPE::n), (unsigned)((x.m + SHAPE::m - 1) / SHAPE::m),
                    (unsigned)(x.batch.count < most ? x.batch.count : most));
    CUDA_RUN(exec, (multiply<T, SHAPE>), grid, SHAPE::threads, 0, x);
}

/* Small tiles where large ones would leave processors without work. */
static bool is_large(struct heed_exec *exec, const cuda_product &x) {
    const int64_t tiles =
        (x.m + large_tile::m - 1) / large_tile::m * ((x.n + large_tile::n - 1) / large_tile::n);
    return x.m >= large_tile::m / 2 && x.n >= large_tile::n / 2 &&
           tiles * x.batch.count >= cuda_of(exec)->processors;
}

/* Rows of tiles beyond what a grid holds are products of their own. */
template <typename T>
static heed_status run(struct heed_exec *exec, enum heed_primitive primitive, cuda_product x) {
    const int64_t most = (int64_t)65535 * small_tile::m, rows = x.m;
    const char *a = static_cast<const char *>(x.a);
    char *c = static_cast<char *>(x.c);
    if (x.batch.rank == 0) x.batch.count = 1;
    if (x.sum.rank == 0) x.sum.count = 1;
    if (x.m == 0 || x.n == 0 || x.batch.count == 0) return HEED_OK;
    for (int64_t first = 0; first < rows; first += most) {
        x.m = rows - first < most ? rows - first : most;
        x.a = a + first * x.a_row * (int64_t)heed_dtype_bytes(x.a_dtype);
        x.c = c + first * x.c_row * (int64_t)heed_dtype_bytes(x.c_dtype);
        if (is_large(exec, x)) {
            start<T, large_tile>(exec, x);
        } else {
            start<T, small_tile>(exec, x);
        }
    }
    return cuda_started(exec, primitive);
}

heed_status cuda_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                             const struct cuda_product *product) {
    return cuda_is_f64(product) ? run<double>(exec, primitive, *product)
                                : run<float>(exec, primitive, *product);
}

/* ---- products of views ---- */

/* An empty repetition is done once. */
static void repeat_add(struct cuda_repeat *r, int64_t size, int64_t a, int64_t b, int64_t c) {
    if (r->rank == 0) r->count = 1;
    r->size[r->rank] = size;
    r->a[r->rank] = a;
    r->b[r->rank] = b;
    r->c[r->rank] = c;
    r->rank++;
    r->count *= size;
}

void cuda_product_bias(struct cuda_product *x, const struct heed_view *bias) {
    x->bias = bias->data;
    x->bias_dtype = bias->dtype;
}

struct cuda_product cuda_product_of(const struct heed_view *a, const struct heed_view *b,
                                    const struct heed_view *c, bool add) {
    const int last = c->rank - 1;
    struct cuda_product x = {};
    x.a_dtype = a->dtype;
    x.b_dtype = b->dtype;
    x.c_dtype = c->dtype;
    x.m = c->size[last - 1];
    x.n = c->size[last];
    x.k = a->size[last];
    x.a = a->data;
    x.b = b->data;
    x.c = c->data;
    x.a_row = a->stride[last - 1];
    x.a_column = a->stride[last];
    x.b_row = b->stride[last - 1];
    x.b_column = b->stride[last];
    x.c_row = c->stride[last - 1];
    x.c_column = c->stride[last];
    x.add = add;
    for (int d = 0; d < last - 1; d++) {
        if (c->size[d] == 1) continue;
        repeat_add(c->stride[d] == 0 ? &x.sum : &x.batch, c->size[d], a->stride[d], b->stride[d],
                   c->stride[d]);
    }
    return x;
}
