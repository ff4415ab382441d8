/* Matrix products by cuBLASLt. */
#ifndef HEED_SRC_BACKEND_CUDA_LT_CUH
#define HEED_SRC_BACKEND_CUDA_LT_CUH

#include "backend/cuda/product.cuh"

/* Opens cuBLASLt for a device, whose stream is there. Products that it does not make — for there may be none,
 * or HEED_CUDA_PRODUCTS says so — are heed's own; false only if that cannot be understood, or without memory.
 */
bool cuda_lt_open(struct cuda_device *device, char *why, size_t bytes);
void cuda_lt_close(struct cuda_device *device);

/* "cuBLASLt 13.1.0, products in f32", or why not. */
void cuda_lt_describe(const struct cuda_device *device, char *text, size_t size);

/* Why cuBLASLt cannot make a product, NULL where it can. Looks at shapes and strides only. */
const char *cuda_lt_refuses(const struct heed_exec *exec, const struct cuda_product *product);

/* Bytes of workspace for a product of that shape. */
size_t cuda_lt_workspace_bytes(const struct cuda_product *product);

/* Whether a product may end in CUDA_LT_GELU. */
bool cuda_lt_fuses_gelu(const struct heed_exec *exec, const struct cuda_product *product);

/* What a product does beside itself. */
enum cuda_lt_end {
    CUDA_LT_PLAIN,
    CUDA_LT_GELU, /* C = GELU(A · B + bias), tanh form; aux [m, n], of C's dtype: its argument */
    CUDA_LT_SUMS, /* aux [m], of C's dtype, = Σ over k of A */
    CUDA_LT_SLOPE /* C = (A · B) ∘ GELU'(aux), tanh form; aux [m, n], of C's dtype, is read */
};

/* Makes a product that cuBLASLt does not refuse, which says in *done whether it had an algorithm for it. */
heed_status cuda_lt_run(struct heed_exec *exec, enum heed_primitive primitive,
                        const struct cuda_product *product, enum cuda_lt_end end, void *aux, void *workspace,
                        bool *done);

/* Makes a product: by cuBLASLt, or where it cannot by heed's own kernel. */
heed_status cuda_lt_multiply(struct heed_exec *exec, enum heed_primitive primitive,
                             const struct cuda_product *product, void *workspace);

#endif
