/* How parameters start. */
#include <heed/module.h>

#include "tensor/internal.h"

#include <math.h>

/* Fan-in and fan-out of a weight [out, in, ..]: what is behind `in` counts to both, as in PyTorch. */
static void fans(const struct heed_view *v, double *in, double *out) {
    double behind = 1;
    for (int d = 2; d < v->rank; d++) behind *= (double)v->size[d];
    *out = (double)v->size[0] * behind;
    *in = v->rank > 1 ? (double)v->size[1] * behind : *out;
}

/* sqrt(a / b), 0 for a weight without elements. */
static double root_of_ratio(double a, double b) {
    return b > 0 ? sqrt(a / b) : 0;
}

struct distribution {
    enum { FILL, NORMAL, UNIFORM, ORTHOGONAL } form;
    double a, b;
};

static struct distribution symmetric(double bound) {
    return (struct distribution){UNIFORM, -bound, bound};
}

static bool resolve(const struct heed_view *v, heed_init init, struct distribution *d) {
    double in, out;
    fans(v, &in, &out);
    switch (init.kind) {
    case HEED_INIT_ZEROS:
        *d = (struct distribution){FILL, 0, 0};
        return true;
    case HEED_INIT_ONES:
        *d = (struct distribution){FILL, 1, 0};
        return true;
    case HEED_INIT_CONSTANT:
        *d = (struct distribution){FILL, init.a, 0};
        return true;
    case HEED_INIT_NORMAL:
        *d = (struct distribution){NORMAL, init.a, init.b};
        return true;
    case HEED_INIT_UNIFORM:
        *d = (struct distribution){UNIFORM, init.a, init.b};
        return true;
    case HEED_INIT_GLOROT_UNIFORM:
        *d = symmetric(root_of_ratio(6, in + out));
        return true;
    case HEED_INIT_GLOROT_NORMAL:
        *d = (struct distribution){NORMAL, 0, root_of_ratio(2, in + out)};
        return true;
    case HEED_INIT_KAIMING_UNIFORM:
        *d = symmetric(root_of_ratio(6, in));
        return true;
    case HEED_INIT_KAIMING_NORMAL:
        *d = (struct distribution){NORMAL, 0, root_of_ratio(2, in)};
        return true;
    case HEED_INIT_ORTHOGONAL:
        *d = (struct distribution){ORTHOGONAL, init.a != 0 ? init.a : 1, 0};
        return true;
    case HEED_INIT_DEFAULT:
        break;
    }
    return false;
}

/* ---- orthogonal ---- */

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Takes the parts along `count` orthonormal vectors out of v. */
static void project_out(double *v, const double *basis, int64_t count, int64_t n) {
    for (int64_t j = 0; j < count; j++) {
        double along = dot(v, basis + j * n, n);
        for (int64_t i = 0; i < n; i++) v[i] -= along * basis[j * n + i];
    }
}

/* The first `count` vectors of length n ≥ count of a random orthonormal basis: Gram–Schmidt over normal
 * vectors, done twice, which is enough (Giraud et al. 2005). Uniform over all such bases, as R has a positive
 * diagonal (Mezzadri 2007). */
static bool orthonormal(double *basis, int64_t count, int64_t n, const struct heed_random *random) {
    uint64_t element = 0;
    for (int64_t j = 0; j < count; j++) {
        double *v = basis + j * n;
        double length = 0;
        for (int tries = 0; tries < 8 && !(length > 1e-8); tries++) {
            for (int64_t i = 0; i < n; i++) v[i] = heed_normal_f64(random, element++);
            project_out(v, basis, j, n);
            project_out(v, basis, j, n);
            length = sqrt(dot(v, v, n));
        }
        if (!(length > 1e-8)) return false;
        for (int64_t i = 0; i < n; i++) v[i] /= length;
    }
    return true;
}

static void put(const struct heed_view *y, int64_t i, double value) {
    if (y->dtype == HEED_F64)
        ((double *)y->data)[i] = value;
    else
        ((float *)y->data)[i] = (float)value;
}

/* y (contiguous) as the matrix [size[0], rest]: its rows are orthonormal, or its columns where it has more
 * rows. */
static heed_status write_orthogonal(heed_ctx *ctx, const struct heed_view *y, double gain) {
    int64_t rows = y->size[0], total = heed_view_count(y);
    if (total == 0) return HEED_OK;
    int64_t columns = total / rows;
    bool tall = rows > columns;
    int64_t count = tall ? columns : rows, length = tall ? rows : columns;
    double *basis = heed_block_new(ctx->exec.memory, (size_t)total * sizeof *basis);
    if (!basis) return heed_fail(ctx, HEED_ERROR_MEMORY, "init", "out of memory");
    struct heed_random random = heed_random_next(ctx);
    struct heed_view host;
    bool made = orthonormal(basis, count, length, &random);
    heed_status status = heed_elements_map(&ctx->exec, y, HEED_MAP_WRITE, &host);
    for (int64_t i = 0; made && status == HEED_OK && i < total; i++) {
        int64_t row = i / columns, column = i % columns;
        put(&host, i, gain * (tall ? basis[column * length + row] : basis[row * length + column]));
    }
    if (status == HEED_OK) status = heed_elements_unmap(&ctx->exec, y, HEED_MAP_WRITE, &host);
    heed_block_free(ctx->exec.memory, basis);
    if (status != HEED_OK) return status;
    return made ? HEED_OK : heed_fail(ctx, HEED_ERROR_NUMERIC, "init", "no orthogonal basis found");
}

/* ---- writing ---- */

static heed_status write_contiguous(heed_ctx *ctx, const struct heed_view *y, struct distribution d) {
    if (d.form == ORTHOGONAL) return write_orthogonal(ctx, y, d.a);
    if (d.form == FILL) {
        struct heed_fill_args args = {.y = *y, .value = d.a};
        return heed_exec_run(&ctx->exec, HEED_PRIMITIVE_FILL, &args);
    }
    if (!heed_random_range(ctx, "init", d.form == NORMAL, d.a, d.b)) return ctx->status;
    struct heed_random_args args = {
        .y = *y, .normal = d.form == NORMAL, .a = d.a, .b = d.b, .random = heed_random_next(ctx)};
    return heed_exec_run(&ctx->exec, HEED_PRIMITIVE_RANDOM, &args);
}

/* A leaf with gaps gets its values by way of a contiguous copy. */
static heed_status write_strided(heed_ctx *ctx, const struct heed_view *y, struct distribution d) {
    struct heed_view dense = *y;
    heed_view_set_contiguous(&dense);
    size_t bytes = (size_t)heed_view_count(y) * heed_dtype_bytes(y->dtype);
    struct heed_storage *storage = heed_storage_new(ctx, bytes);
    if (!storage) return ctx->status;
    dense.data = storage->data;
    heed_status status = write_contiguous(ctx, &dense, d);
    struct heed_copy_args copy = {.x = dense, .y = {.view = *y}};
    if (status == HEED_OK) status = heed_exec_run(&ctx->exec, HEED_PRIMITIVE_COPY, &copy);
    heed_storage_drop(storage);
    return status;
}

static heed_status init_node(struct heed_node *node, heed_init init) {
    heed_ctx *ctx = node->ctx;
    const struct heed_view *v = &node->view;
    struct distribution d;
    if (node->producer)
        return heed_fail(ctx, HEED_ERROR_STATE, "init", "the tensor was made by a recorded operation");
    if (v->dtype != HEED_F32 && v->dtype != HEED_F64)
        return heed_fail(ctx, HEED_ERROR_DTYPE, "init", "the tensor is %s, not f32 or f64",
                         heed_dtype_name(v->dtype));
    if (v->rank < 1 || heed_view_repeats(v))
        return heed_fail(ctx, HEED_ERROR_SHAPE, "init", "the tensor has rank 0 or repeats elements");
    if (!resolve(v, init, &d))
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, "init", "kind %d is not an initialiser", (int)init.kind);
    heed_status status = heed_view_is_contiguous(v) ? write_contiguous(ctx, v, d) : write_strided(ctx, v, d);
    if (status == HEED_OK) heed_node_wrote(node);
    return status;
}

heed_status heed_init_tensor(heed_tensor t, heed_init init) {
    heed_ctx *ctx = heed_context(t);
    if (heed_failed(ctx)) return heed_error_status(ctx);
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    struct heed_node *node = heed_node_of(t, "init");
    if (node) init_node(node, init);
    heed_leave(ctx);
    return heed_error_status(ctx);
}
