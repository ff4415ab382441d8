/* What the suites of optimisers share: a model of two parameters whose gradients are known, and Adam's
 * formula. */
#ifndef HEED_TESTS_HARNESS_OPTIM_H
#define HEED_TESTS_HARNESS_OPTIM_H

#include "harness.h"

enum { OPTIM_ROWS = 3, OPTIM_COLUMNS = 4, OPTIM_COUNT = OPTIM_ROWS * OPTIM_COLUMNS };

/* The fixture: weight [3, 4] and bias [4], all ones. */
extern heed_ctx *optim_ctx;
extern heed_module *optim_model;
extern heed_tensor optim_weight, optim_bias;
void optim_setup(void);
void optim_teardown(void);

/* Another such model. */
extern const heed_module_class optim_model_class;
heed_module *optim_model_new(heed_ctx *of);

/* The gradient of element i in step t: some large, some small, of both signs. */
float optim_gradient(int t, int i);

/* Leaves gradients at the weight, and at the bias if it is wanted; `factor` multiplies them. */
void optim_backward(int t, double factor, bool with_bias);

/* A step. */
void optim_train(heed_optim *optim, int t, double rate);

/* The tensor holds these numbers but for rounding. */
void optim_check(heed_tensor t, int count, const double *expected, const char *what);

/* ---- the formulas, written once more in double ---- */

/* A parameter and its moments. */
struct optim_reference {
    double p[OPTIM_COUNT], m[OPTIM_COUNT], v[OPTIM_COUNT];
};
struct optim_reference optim_reference_new(void);

/* A step of Adam, the parameter's own number `step` (from 1 on), with the gradients of step t. */
void optim_reference_adam(struct optim_reference *r, int count, int t, int step, double rate, double decay,
                          bool decoupled);

#endif
