/* What the suites of layers and models share. Each asserts, and that no error is kept. */
#ifndef HEED_TESTS_HARNESS_MODULES_H
#define HEED_TESTS_HARNESS_MODULES_H

#include "harness.h"

/* The tensor is valid and has the shape, e.g. "[2,5,8]". */
void test_shape(heed_tensor t, const char *expected);

/* Two tensors hold the same numbers but for rounding. */
void test_same(heed_tensor actual, heed_tensor expected, const char *what);

/* The names and shapes of all parameters, e.g. "weight[3,5] bias[3]". */
void test_params(const heed_module *module, const char *expected);

/* After backward: every parameter has a gradient that is finite and not 0 throughout. Biases of keys are
 * excused: they move all scores of a row alike. */
void test_gradients(const heed_module *module);

/* Gives norms and biases values other than 1 and 0, so that one that is missing shows. */
void test_shake(heed_module *module);

#endif
