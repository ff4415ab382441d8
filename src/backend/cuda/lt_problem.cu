/* A product described for cuBLASLt. Its matrices are in column-major order; a row-major matrix is its
 * transpose there, so it is given Cᵀ = Bᵀ · Aᵀ: its A is our B, its rows of D are our columns of C. What
 * continues the rows or columns of a matrix is joined to them, so that few products are left to be made in a
 * batch. */
#include "backend/cuda/lt_problem.cuh"

#include <string.h>

static const char *const EMPTY = "cuBLASLt: nothing to multiply";

/* Sums that continue the inner dimension. */
static const char *join_sums(struct cuda_product *x) {
    for (int d = x->sum.rank - 1; d >= 0; d--) {
        if (x->k == 1) {
            x->a_column = x->sum.a[d];
            x->b_row = x->sum.b[d];
        } else if (x->sum.a[d] != x->k * x->a_column || x->sum.b[d] != x->k * x->b_row) {
            return "cuBLASLt: a sum over batches does not continue the inner dimension";
        }
        x->k *= x->sum.size[d];
    }
    x->sum = {};
    return NULL;
}

/* Whether a batch dimension continues the rows of A and C, and B is the same for all. */
static bool join_rows(struct cuda_product *x, int d) {
    const struct cuda_repeat *r = &x->batch;
    if (r->b[d] != 0) return false;
    if (x->m == 1) {
        x->a_row = r->a[d];
        x->c_row = r->c[d];
    } else if (r->a[d] != x->m * x->a_row || r->c[d] != x->m * x->c_row) {
        return false;
    }
    x->m *= r->size[d];
    return true;
}

/* The same of the columns of B and C. */
static bool join_columns(struct cuda_product *x, int d) {
    const struct cuda_repeat *r = &x->batch;
    if (r->a[d] != 0) return false;
    if (x->n == 1) {
        x->b_column = r->b[d];
        x->c_column = r->c[d];
    } else if (r->b[d] != x->n * x->b_column || r->c[d] != x->n * x->c_column) {
        return false;
    }
    x->n *= r->size[d];
    return true;
}

/* Leaves one batch dimension, or none. */
static const char *join_batches(struct cuda_product *x, bool as_is) {
    struct cuda_repeat one = {};
    for (int d = x->batch.rank - 1; d >= 0; d--) {
        const struct cuda_repeat *r = &x->batch;
        if (!as_is && (join_rows(x, d) || join_columns(x, d))) continue;
        if (one.rank == 0) {
            one.rank = 1;
            one.size[0] = r->size[d];
            one.a[0] = r->a[d];
            one.b[0] = r->b[d];
            one.c[0] = r->c[d];
        } else if (r->a[d] == one.size[0] * one.a[0] && r->b[d] == one.size[0] * one.b[0] &&
                   r->c[d] == one.size[0] * one.c[0]) {
            one.size[0] *= r->size[d];
        } else {
            return "cuBLASLt: batches are not one stride apart";
        }
    }
    one.count = one.rank ? one.size[0] : 1;
    x->batch = one;
    return NULL;
}

/* Whether `slow` lines of `fast` elements are a matrix with a leading dimension. */
static bool is_matrix(int64_t fast, int64_t slow, int64_t fast_stride, int64_t slow_stride, int64_t *ld) {
    if (fast > 1 && fast_stride != 1) return false;
    *ld = slow > 1 ? slow_stride : fast;
    return *ld >= fast;
}

static const char *refuses_dtypes(const struct cuda_product *x) {
    if (x->a_dtype != x->b_dtype) return "cuBLASLt: factors have two dtypes";
    if (x->c_dtype != x->a_dtype && (x->a_dtype != HEED_BF16 || x->c_dtype != HEED_F32))
        return "cuBLASLt: the result is narrower than the factors";
    if (x->bias && x->bias_dtype != x->c_dtype) return "cuBLASLt: the bias has not the result's dtype";
    return NULL;
}

const char *cuda_lt_problem_of(struct cuda_product *x, bool as_is, struct cuda_lt_problem *p) {
    const char *reason = NULL;
    memset(p, 0, sizeof *p);
    if (x->m == 0 || x->n == 0 || x->k == 0) return EMPTY;
    if ((x->batch.rank && x->batch.count == 0) || (x->sum.rank && x->sum.count == 0)) return EMPTY;
    if ((reason = refuses_dtypes(x)) || (reason = join_sums(x)) || (reason = join_batches(x, as_is)))
        return reason;
    if (!is_matrix(x->n, x->m, x->c_column, x->c_row, &p->d.ld))
        return "cuBLASLt: rows of the result are not contiguous";
    if (!is_matrix(x->n, x->k, x->b_column, x->b_row, &p->a.ld)) {
        p->a.transposed = 1;
        if (!is_matrix(x->k, x->n, x->b_row, x->b_column, &p->a.ld))
            return "cuBLASLt: neither rows nor columns of a factor are contiguous";
    }
    if (!is_matrix(x->k, x->m, x->a_column, x->a_row, &p->b.ld)) {
        p->b.transposed = 1;
        if (!is_matrix(x->m, x->k, x->a_row, x->a_column, &p->b.ld))
            return "cuBLASLt: neither rows nor columns of a factor are contiguous";
    }
    p->dtype = x->a_dtype;
    p->d_dtype = x->c_dtype;
    p->m = x->n;
    p->n = x->m;
    p->k = x->k;
    p->batch = x->batch.count;
    p->a.stride = x->batch.b[0];
    p->b.stride = x->batch.a[0];
    p->d.stride = x->batch.c[0];
    const int64_t extents[] = {p->m, p->n, p->k, p->batch, p->a.ld, p->b.ld, p->d.ld};
    for (int64_t extent : extents)
        if (extent > INT32_MAX) return "cuBLASLt: an extent is beyond 31 bits";
    return NULL;
}
