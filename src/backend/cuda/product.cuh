/* Matrix products by heed's own kernel: what does not go to cuBLASLt. */
#ifndef HEED_SRC_BACKEND_CUDA_PRODUCT_CUH
#define HEED_SRC_BACKEND_CUDA_PRODUCT_CUH

#include "backend/cuda/device.cuh"

enum { CUDA_PRODUCT_DIMS = HEED_MAX_RANK - 2 };

/* Dimensions over which products repeat, the last fastest; strides in elements. */
struct cuda_repeat {
    int rank;
    int64_t count; /* of all */
    int64_t size[CUDA_PRODUCT_DIMS];
    int64_t a[CUDA_PRODUCT_DIMS], b[CUDA_PRODUCT_DIMS], c[CUDA_PRODUCT_DIMS];
};

/* C [m, n] (+)= Σ over `sum` of A [m, k] · B [k, n] + bias [n], for each of `batch`. Any strides; elements of
 * C are distinct. */
template <typename T> struct cuda_product {
    int64_t m, n, k;
    const T *a, *b, *bias; /* bias NULL: none */
    T *c;
    int64_t a_row, a_column, b_row, b_column, c_row, c_column;
    struct cuda_repeat batch, sum;
    bool add;
};

/* An empty repetition is done once. */
static inline void cuda_repeat_add(struct cuda_repeat *r, int64_t size, int64_t a, int64_t b, int64_t c) {
    if (r->rank == 0) r->count = 1;
    r->size[r->rank] = size;
    r->a[r->rank] = a;
    r->b[r->rank] = b;
    r->c[r->rank] = c;
    r->rank++;
    r->count *= size;
}

heed_status cuda_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                             const cuda_product<float> &x);
heed_status cuda_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                             const cuda_product<double> &x);

#endif
