/* y = activation(x·wᵀ + bias).
 *
 * Bias and activation are applied to each tile of the product by the thread that made it. saved: [rows, out],
 * the value before or after the activation, whichever its derivative is a function of; nothing without an
 * activation. */
#include "backend/cpu/product.h"
#include "backend/cpu/vector/products.h"

static bool linear_applies(const struct heed_exec *exec, const void *arguments, struct heed_why *why) {
    const struct heed_linear_args *a = arguments;
    (void)exec;
    if (!heed_cpu_takes_f32(HEED_PRIMITIVE_LINEAR, a, why)) return false;
    if (!heed_cpu_product_fits(a->x.size[0], a->w.size[0], a->x.size[1]) || a->x.stride[0] > INT32_MAX ||
        a->w.stride[0] > INT32_MAX || a->y.stride[0] > INT32_MAX) {
        why->reason = "a size is beyond 31 bits";
        return false;
    }
    return true;
}

static size_t output_bytes(const struct heed_linear_args *a) {
    return (size_t)a->x.size[0] * (size_t)a->w.size[0] * sizeof(float);
}

/* Whether what is saved is the value after the activation. */
static bool keeps_output(const struct heed_linear_args *a) {
    return !(heed_unary_needs(heed_activation_unary(a->activation)) & HEED_NEEDS_X);
}

static void linear_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_linear_args *a = arguments;
    (void)exec;
    if (a->activation == HEED_ACTIVATION_NONE) return;
    sizes->saved = output_bytes(a);
    if (!heed_has(&a->dz)) sizes->backward_scratch = output_bytes(a);
}

/* ---- forward ---- */

struct finish {
    const struct heed_linear_args *args;
    const struct heed_product_vectors *vectors;
    float *product; /* where the product was put: y or saved */
    int64_t product_row;
    float *saved; /* NULL: nothing is recorded */
    bool save_output;
};

static void finish_tile(void *arg, int64_t row, int64_t column, int64_t rows, int64_t columns) {
    const struct finish *f = arg;
    const struct heed_linear_args *a = f->args;
    const int64_t out = a->w.size[0];
    float *kept = f->saved ? f->saved + row * out + column : NULL;
    struct heed_activate activate = {.activation = a->activation,
                                     .rows = rows,
                                     .columns = columns,
                                     .x = f->product + row * f->product_row + column,
                                     .x_row = f->product_row,
                                     .y = (float *)a->y.data + row * a->y.stride[0] + column,
                                     .y_row = a->y.stride[0],
                                     .pre = f->save_output ? NULL : kept,
                                     .pre_row = out,
                                     .copy = f->save_output ? kept : NULL,
                                     .copy_row = out};
    if (heed_has(&a->bias)) activate.bias = (const float *)a->bias.data + column;
    f->vectors->activate(&activate);
}

static heed_status linear_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_linear_args *a = arguments;
    const bool activated = a->activation != HEED_ACTIVATION_NONE;
    struct finish finish = {.args = a,
                            .vectors = heed_product_vectors(exec->isa),
                            .product = a->y.data,
                            .product_row = a->y.stride[0],
                            .saved = activated ? saved : NULL};
    (void)scratch;
    if (finish.saved) {
        finish.save_output = keeps_output(a);
        if (!finish.save_output) {
            finish.product = saved;
            finish.product_row = a->w.size[0];
        }
    }
    struct heed_cpu_product product = {.m = a->x.size[0],
                                       .n = a->w.size[0],
                                       .k = a->x.size[1],
                                       .a = a->x.data,
                                       .a_row = a->x.stride[0],
                                       .a_column = 1,
                                       .b = a->w.data,
                                       .b_row = 1,
                                       .b_column = a->w.stride[0],
                                       .c = finish.product,
                                       .c_row = finish.product_row};
    if (activated || heed_has(&a->bias)) {
        product.finish = finish_tile;
        product.finish_arg = &finish;
    }
    return heed_cpu_product_run(exec, HEED_PRIMITIVE_LINEAR, &product);
}

/* ---- backward ---- */

struct slopes {
    const struct heed_linear_args *args;
    const struct heed_product_vectors *vectors;
    const float *kept;
    struct heed_view dz; /* may be dy */
    int64_t rows;        /* per tile */
};

static void slope_tile(void *arg, int64_t tile, int worker) {
    const struct slopes *s = arg;
    const struct heed_linear_args *a = s->args;
    const int64_t out = a->w.size[0], first = tile * s->rows;
    const int64_t end = first + heed_cpu_part(a->x.size[0], s->rows, tile);
    (void)worker;
    for (int64_t i = first; i < end; i++) {
        const float *dy = (const float *)a->dy.data + i * a->dy.stride[0];
        float *dz = (float *)s->dz.data + i * s->dz.stride[0];
        s->vectors->slope(a->activation, s->kept + i * out, dy, dz, out);
    }
}

/* The gradient of the product: dy itself, or dy · activation' where it is asked for or in scratch. */
static struct heed_view product_gradient(struct heed_exec *exec, const struct heed_linear_args *a,
                                         const void *saved, void *scratch) {
    if (a->activation == HEED_ACTIVATION_NONE) return a->dy;
    struct slopes s = {.args = a,
                       .vectors = heed_product_vectors(exec->isa),
                       .kept = saved,
                       .dz = heed_has(&a->dz) ? a->dz : a->dy,
                       .rows = heed_cpu_rows_per_tile(a->w.size[0], HEED_CPU_GRAIN)};
    if (!heed_has(&a->dz)) {
        s.dz.data = scratch;
        s.dz.stride[0] = a->w.size[0];
    }
    heed_threads_run(exec->threads, heed_cpu_tiles(a->x.size[0], s.rows), slope_tile, &s);
    return s.dz;
}

struct bias_sums {
    const struct heed_product_vectors *vectors;
    const struct heed_view *dz;
    const struct heed_grad_view *dbias;
};

/* Columns per tile: whole cache lines, and few enough that there are several tiles. */
enum { BIAS_COLUMNS = 64 };

static void bias_tile(void *arg, int64_t tile, int worker) {
    const struct bias_sums *b = arg;
    const int64_t first = tile * BIAS_COLUMNS, columns = heed_cpu_part(b->dz->size[1], BIAS_COLUMNS, tile);
    (void)worker;
    b->vectors->column_sums((const float *)b->dz->data + first, b->dz->stride[0], b->dz->size[0], columns,
                            (float *)b->dbias->view.data + first, b->dbias->add);
}

static void bias_gradient(struct heed_exec *exec, const struct heed_view *dz,
                          const struct heed_grad_view *dbias) {
    struct bias_sums sums = {heed_product_vectors(exec->isa), dz, dbias};
    heed_threads_run(exec->threads, heed_cpu_tiles(dz->size[1], BIAS_COLUMNS), bias_tile, &sums);
}

static heed_status linear_backward(struct heed_exec *exec, const void *arguments, void *saved,
                                   void *scratch) {
    const struct heed_linear_args *a = arguments;
    const int64_t rows = a->x.size[0], in = a->x.size[1], out = a->w.size[0];
    const struct heed_view dz = product_gradient(exec, a, saved, scratch);
    if (heed_has(&a->dbias.view)) bias_gradient(exec, &dz, &a->dbias);
    if (heed_has(&a->dw.view)) {
        const struct heed_cpu_product dw = {.m = out,
                                            .n = in,
                                            .k = rows,
                                            .a = dz.data,
                                            .a_row = 1,
                                            .a_column = dz.stride[0],
                                            .b = a->x.data,
                                            .b_row = a->x.stride[0],
                                            .b_column = 1,
                                            .c = a->dw.view.data,
                                            .c_row = a->dw.view.stride[0],
                                            .add = a->dw.add};
        const heed_status status = heed_cpu_product_run(exec, HEED_PRIMITIVE_LINEAR, &dw);
        if (status) return status;
    }
    if (heed_has(&a->dx.view)) {
        const struct heed_cpu_product dx = {.m = rows,
                                            .n = in,
                                            .k = out,
                                            .a = dz.data,
                                            .a_row = dz.stride[0],
                                            .a_column = 1,
                                            .b = a->w.data,
                                            .b_row = a->w.stride[0],
                                            .b_column = 1,
                                            .c = a->dx.view.data,
                                            .c_row = a->dx.view.stride[0],
                                            .add = a->dx.add};
        return heed_cpu_product_run(exec, HEED_PRIMITIVE_LINEAR, &dx);
    }
    return HEED_OK;
}

/* ---- the output again ---- */

struct remaking {
    const struct heed_linear_args *args;
    const struct heed_product_vectors *vectors;
    const float *kept;
    bool kept_is_output;
    int64_t rows; /* per tile */
};

static void remake_tile(void *arg, int64_t tile, int worker) {
    const struct remaking *r = arg;
    const struct heed_linear_args *a = r->args;
    const int64_t out = a->w.size[0], first = tile * r->rows;
    const struct heed_activate activate = {.activation =
                                               r->kept_is_output ? HEED_ACTIVATION_NONE : a->activation,
                                           .rows = heed_cpu_part(a->x.size[0], r->rows, tile),
                                           .columns = out,
                                           .x = r->kept + first * out,
                                           .x_row = out,
                                           .y = (float *)a->y.data + first * a->y.stride[0],
                                           .y_row = a->y.stride[0]};
    (void)worker;
    r->vectors->activate(&activate);
}

static heed_status linear_remake(struct heed_exec *exec, const void *arguments, const void *saved) {
    const struct heed_linear_args *a = arguments;
    struct remaking r = {.args = a,
                         .vectors = heed_product_vectors(exec->isa),
                         .kept = saved,
                         .kept_is_output = keeps_output(a),
                         .rows = heed_cpu_rows_per_tile(a->w.size[0], HEED_CPU_GRAIN)};
    heed_threads_run(exec->threads, heed_cpu_tiles(a->x.size[0], r.rows), remake_tile, &r);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_linear = {.name = "cpu",
                                            .applies = linear_applies,
                                            .sizes = linear_sizes,
                                            .forward = linear_forward,
                                            .backward = linear_backward,
                                            .remake = linear_remake};
