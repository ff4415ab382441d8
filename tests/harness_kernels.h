/* Checking one kernel directly: gradients against central differences, and adding, skipping and precision. */
#ifndef HEED_TESTS_HARNESS_KERNELS_H
#define HEED_TESTS_HARNESS_KERNELS_H

#include "harness_calls.h"

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
