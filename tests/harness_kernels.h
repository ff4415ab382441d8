/* Calling one kernel directly, without tensors or tape: arguments with random strided views in memory that
 * knows when something outside of them was written, gradients against central differences, and adding,
 * skipping and precision. */
#ifndef HEED_TESTS_HARNESS_KERNELS_H
#define HEED_TESTS_HARNESS_KERNELS_H

#include "harness.h"

#include "backend/backend.h"

enum kernel_layout {
    KERNEL_DENSE,
    KERNEL_LINES,    /* the last dimension dense, the others in any order and with gaps */
    KERNEL_ROWS,     /* a matrix whose rows are dense, with a gap between them */
    KERNEL_SCATTERED /* all dimensions in any order and with gaps */
};

enum kernel_fill { KERNEL_NORMAL, KERNEL_POSITIVE, KERNEL_AWAY, KERNEL_DISTINCT };

#define KERNEL_BLOCKS 48
#define KERNEL_INPUTS 16

/* A call that is being built: the arguments, and which of their views are what. */
struct kernel_call {
    struct test_random random;
    heed_dtype dtype; /* of its floating-point views */
    enum heed_primitive primitive;
    union {
        struct heed_copy_args copy;
        struct heed_unary_args unary;
        struct heed_binary_args binary;
        struct heed_where_args where;
        struct heed_reduce_args reduce;
        struct heed_softmax_args softmax;
        struct heed_norm_args norm;
        struct heed_rotary_args rotary;
        struct heed_matmul_args matmul;
        struct heed_linear_args linear;
        struct heed_gather_args gather;
        struct heed_dropout_args dropout;
        struct heed_cross_entropy_args cross_entropy;
        struct heed_pair_loss_args pair_loss;
        struct heed_attention_args attention;
    } args;
    int inputs, outputs, hidden, blocks;
    struct {
        struct heed_view *x;
        struct heed_grad_view *dx;
    } input[KERNEL_INPUTS];
    struct {
        struct heed_view *y, *dy; /* dy->data NULL: no gradient arrives there */
    } output[2];
    struct heed_view *hide[8]; /* not there in backward */
    struct heed_bound_mask mask[3];
    struct {
        void *data;
        heed_dtype dtype;
        int64_t count;
        void *away; /* the same memory where a device can reach it, or NULL */
    } block[KERNEL_BLOCKS];
};

typedef void kernel_build(struct kernel_call *c, int variant);

/* ---- for builders ---- */

/* A view of new memory; bit d of `repeats` gives dimension d the stride 0. */
struct heed_view kernel_view(struct kernel_call *c, heed_dtype dtype, enum kernel_layout layout,
                             unsigned repeats, int rank, const int64_t *size);

/* An input at *x with its gradient at *dx (both of the same layout and repeats), filled. */
void kernel_input(struct kernel_call *c, struct heed_view *x, struct heed_grad_view *dx,
                  enum kernel_fill fill, enum kernel_layout layout, unsigned repeats, int rank,
                  const int64_t *size);

/* An output at *y and its gradient at *dy. Both have their own layouts. */
void kernel_output(struct kernel_call *c, struct heed_view *y, enum kernel_layout y_layout,
                   struct heed_view *dy, enum kernel_layout dy_layout, unsigned repeats, int rank,
                   const int64_t *size);

void kernel_fill_view(struct kernel_call *c, const struct heed_view *v, enum kernel_fill fill);

/* This view is gone when backward runs. */
void kernel_hide(struct kernel_call *c, struct heed_view *v);

/* ---- where the elements are ---- */

/* Takes the memory of a call to where the kernels of exec can reach it, and what they did with it back. In
 * between the views of the arguments point there, and nobody else may look at elements. Nothing to do where
 * elements are in host memory. */
void kernel_send(struct heed_exec *exec, struct kernel_call *c);
void kernel_fetch(struct heed_exec *exec, struct kernel_call *c);

/* ---- checking ---- */

/* For several seeds: gradients in f64 against central differences; every gradient alone and added to what was
 * there; f32 against f64. */
void kernel_check(struct heed_exec *exec, const char *name, kernel_build *build, int variant);

/* ---- calling with small dense arrays ---- */

/* Runs a primitive by the kernel that applies, one way or the other. */
heed_status kernel_forward(heed_ctx *ctx, enum heed_primitive primitive, const void *args);
void kernel_backward(heed_ctx *ctx, enum heed_primitive primitive, const void *args); /* that saves nothing */

/* Asserts that numbers agree to about 1e-14; NaN meets NaN. */
void kernel_equals(const double *actual, const double *expected, int count);
#define EQUALS(actual, ...)                                                                                  \
    kernel_equals((actual), (double[]){__VA_ARGS__}, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)))

#define VECTOR(array, type)                                                                                  \
    ((struct heed_view){(array), (type), 1, {(int64_t)(sizeof(array) / sizeof((array)[0]))}, {1}})
#define F64(array) VECTOR(array, HEED_F64)
#define MATRIX(array, rows, columns)                                                                         \
    ((struct heed_view){(array), HEED_F64, 2, {(rows), (columns)}, {(columns), 1}})
#define SCALAR(place) ((struct heed_view){(place), HEED_F64, 0, {0}, {0}})
#define GRADIENT(v) ((struct heed_grad_view){(v), false})

#endif
