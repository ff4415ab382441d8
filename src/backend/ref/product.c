/* Reference kernels: matrix product, and linear with its activation. */
#include "backend/ref/ref.h"

#include "backend/unary.h"
#include "tensor/bf16.h"

/* ---- matmul ---- */

/* Σ over n of two lines of elements. */
static double line_product(const struct heed_view *a, int64_t a_start, int64_t a_stride,
                           const struct heed_view *b, int64_t b_start, int64_t b_stride, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += heed_ref_load(a, a_start + i * a_stride) * heed_ref_load(b, b_start + i * b_stride);
    }
    return sum;
}

/* Where the batch of an index begins. */
static int64_t batch_offset(const struct heed_view *v, const int64_t *at) {
    int64_t offset = 0;
    for (int d = 0; d < v->rank - 2; d++) offset += at[d] * v->stride[d];
    return offset;
}

/* y[i, j] = Σ_k a[i, k]·b[k, j] */
static double matmul_y(const void *p, const int64_t *at) {
    const struct heed_matmul_args *args = p;
    const struct heed_view *a = &args->a, *b = &args->b;
    int r = a->rank - 2, c = a->rank - 1;
    return line_product(a, batch_offset(a, at) + at[r] * a->stride[r], a->stride[c], b,
                        batch_offset(b, at) + at[c] * b->stride[c], b->stride[r], a->size[c]);
}

static heed_status matmul_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_matmul_args *args = p;
    heed_ref_map(&args->y, matmul_y, args);
    return HEED_OK;
}

/* da[i, k] = Σ_j dy[i, j]·b[k, j] */
static double matmul_da(const void *p, const int64_t *at) {
    const struct heed_matmul_args *args = p;
    const struct heed_view *dy = &args->dy, *b = &args->b;
    int r = b->rank - 2, c = b->rank - 1;
    return line_product(dy, batch_offset(dy, at) + at[r] * dy->stride[r], dy->stride[c], b,
                        batch_offset(b, at) + at[c] * b->stride[r], b->stride[c], b->size[c]);
}

/* db[k, j] = Σ_i a[i, k]·dy[i, j] */
static double matmul_db(const void *p, const int64_t *at) {
    const struct heed_matmul_args *args = p;
    const struct heed_view *dy = &args->dy, *a = &args->a;
    int r = a->rank - 2, c = a->rank - 1;
    return line_product(a, batch_offset(a, at) + at[r] * a->stride[c], a->stride[r], dy,
                        batch_offset(dy, at) + at[c] * dy->stride[c], dy->stride[r], a->size[r]);
}

static heed_status matmul_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_matmul_args *args = p;
    heed_ref_gradient(&args->da, matmul_da, args);
    heed_ref_gradient(&args->db, matmul_db, args);
    return HEED_OK;
}

const struct heed_kernel heed_ref_matmul = {"ref", NULL, NULL, matmul_forward, matmul_backward};

/* ---- linear: with z = x·wᵀ + bias, y = activation(z). Saved: z, where there is an activation. In bf16 z is
 * rounded before the activation, since that is what other kernels keep. ---- */

static void linear_sizes(const struct heed_exec *exec, const void *p, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_linear_args *args = p;
    size_t bytes = (size_t)args->x.size[0] * (size_t)args->w.size[0] * sizeof(double);
    if (args->activation != HEED_ACTIVATION_NONE) sizes->saved = bytes;
    sizes->backward_scratch = bytes;
}

static heed_status linear_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)scratch;
    const struct heed_linear_args *args = p;
    const struct heed_view *x = &args->x, *w = &args->w;
    int64_t rows = x->size[0], out = w->size[0];
    enum heed_unary activation = heed_activation_unary(args->activation);
    double *keep = activation == HEED_UNARIES ? NULL : saved;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < out; o++) {
            double z = line_product(x, r * x->stride[0], 1, w, o * w->stride[0], 1, x->size[1]);
            if (heed_has(&args->bias)) z += heed_ref_load(&args->bias, o);
            if (args->y.dtype == HEED_BF16) z = heed_bf16_round(z);
            if (keep) keep[r * out + o] = z;
            heed_ref_put2(&args->y, r, o, heed_unary_value(activation, 0, z));
        }
    }
    return HEED_OK;
}

static void linear_dz(const struct heed_linear_args *args, const double *z, double *dz) {
    int64_t rows = args->x.size[0], out = args->w.size[0];
    enum heed_unary activation = heed_activation_unary(args->activation);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < out; o++) {
            double dy = heed_ref_get2(&args->dy, r, o);
            if (activation != HEED_UNARIES) {
                double x = z[r * out + o];
                dy = heed_unary_gradient(activation, 0, x, heed_unary_value(activation, 0, x), dy);
            }
            dz[r * out + o] = dy;
            if (heed_has(&args->dz)) heed_ref_put2(&args->dz, r, o, dy);
        }
    }
}

/* dx = dz·w, dw = dzᵀ·x, dbias = Σ over rows of dz. */
static heed_status linear_backward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec;
    const struct heed_linear_args *args = p;
    const struct heed_view *x = &args->x, *w = &args->w, *dx = &args->dx.view, *dw = &args->dw.view;
    int64_t rows = x->size[0], in = x->size[1], out = w->size[0];
    struct heed_view dz = {scratch, HEED_F64, 2, {rows, out}, {out, 1}};
    linear_dz(args, saved, scratch);
    for (int64_t r = 0; r < rows && heed_has(dx); r++) {
        for (int64_t i = 0; i < in; i++) {
            heed_ref_contribute(&args->dx, r * dx->stride[0] + i,
                                line_product(&dz, r * out, 1, w, i, w->stride[0], out));
        }
    }
    for (int64_t o = 0; o < out && heed_has(dw); o++) {
        for (int64_t i = 0; i < in; i++) {
            heed_ref_contribute(&args->dw, o * dw->stride[0] + i,
                                line_product(&dz, o, out, x, i, x->stride[0], rows));
        }
    }
    for (int64_t o = 0; o < out && heed_has(&args->dbias.view); o++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++) sum += heed_ref_get2(&dz, r, o);
        heed_ref_contribute(&args->dbias, o, sum);
    }
    return HEED_OK;
}

static heed_status linear_remake(struct heed_exec *exec, const void *p, const void *saved) {
    (void)exec;
    const struct heed_linear_args *args = p;
    const double *z = saved;
    enum heed_unary activation = heed_activation_unary(args->activation);
    int64_t rows = args->x.size[0], out = args->w.size[0];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++)
            heed_ref_put2(&args->y, r, o, heed_unary_value(activation, 0, z[r * out + o]));
    return HEED_OK;
}

const struct heed_kernel heed_ref_linear = {"ref",           NULL,         linear_sizes, linear_forward,
                                            linear_backward, linear_remake};
