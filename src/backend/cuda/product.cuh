/* Matrix products, and heed's own kernel for them: what does not go to cuBLASLt (lt.cuh). */
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
 * C are distinct. All are f64, or each is f32 or bf16; sums are f64 or f32. */
struct cuda_product {
    heed_dtype a_dtype, b_dtype, c_dtype, bias_dtype;
    int64_t m, n, k;
    const void *a, *b, *bias; /* bias NULL: none */
    void *c;
    int64_t a_row, a_column, b_row, b_column, c_row, c_column;
    struct cuda_repeat batch, sum;
    bool add;
};

/* Of views of rank 2 and more, of which the last two dimensions are the matrices. Dimensions before them are
 * expanded to those of c; where c repeats, the products are summed. */
struct cuda_product cuda_product_of(const struct heed_view *a, const struct heed_view *b,
                                    const struct heed_view *c, bool add);

static inline bool cuda_is_f64(const struct cuda_product *x) {
    return x->c_dtype == HEED_F64;
}

/* With a vector [n] that is added to each row of c, unless it is absent. */
void cuda_product_bias(struct cuda_product *x, const struct heed_view *bias);

heed_status cuda_product_run(struct heed_exec *exec, enum heed_primitive primitive,
                             const struct cuda_product *product);

#endif
