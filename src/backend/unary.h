/* The unary operations on one number: what `unary` and the activation of `linear` mean. Other backends
 * compute the same in their own way. */
#ifndef HEED_SRC_BACKEND_UNARY_H
#define HEED_SRC_BACKEND_UNARY_H

#include "backend/primitives.h"

#define HEED_SQRT_HALF 0.70710678118654752440        /* √½ */
#define HEED_SQRT_2_OVER_PI 0.79788456080286535588   /* √(2/π) */
#define HEED_INVERSE_SQRT_2PI 0.39894228040143267794 /* 1/√(2π) */
#define HEED_GELU_CUBIC 0.044715                     /* Hendrycks & Gimpel 2016, section 2 */

/* op(x, c); of HEED_UNARIES, which is no operation, x itself. */
double heed_unary_value(enum heed_unary op, double c, double x);

/* dy · d op(x, c) / dx, given what heed_unary_needs() names of x and y = op(x, c). */
double heed_unary_gradient(enum heed_unary op, double c, double x, double y, double dy);

#endif
