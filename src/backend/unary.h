/* The unary operations on one number: what `unary` and the activation of `linear` mean. Other backends
 * compute the same in their own way. */
#ifndef HEED_SRC_BACKEND_UNARY_H
#define HEED_SRC_BACKEND_UNARY_H

#include "backend/primitives.h"

/* op(x, c); of HEED_UNARIES, which is no operation, x itself. */
double heed_unary_value(enum heed_unary op, double c, double x);

/* dy · d op(x, c) / dx, given what heed_unary_needs() names of x and y = op(x, c). */
double heed_unary_gradient(enum heed_unary op, double c, double x, double y, double dy);

#endif
