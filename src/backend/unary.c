/* The unary operations: values, gradients, and what the gradients read. */
#include "backend/unary.h"

#include <math.h>

unsigned heed_unary_needs(enum heed_unary op) {
    switch (op) {
    case HEED_UNARY_EXP:
    case HEED_UNARY_SQRT:
    case HEED_UNARY_TANH:
    case HEED_UNARY_SIGMOID:
    case HEED_UNARY_RELU:
        return HEED_NEEDS_Y;
    case HEED_UNARY_LOG:
    case HEED_UNARY_GELU:
    case HEED_UNARY_GELU_TANH:
    case HEED_UNARY_SILU:
    case HEED_UNARY_POW_SCALAR:
    case HEED_UNARY_ABS:
    case HEED_UNARY_MAX_SCALAR:
    case HEED_UNARY_MIN_SCALAR:
        return HEED_NEEDS_X;
    case HEED_UNARY_NEG:
    case HEED_UNARY_ADD_SCALAR:
    case HEED_UNARY_MUL_SCALAR:
    case HEED_UNARIES:
        break;
    }
    return 0;
}

enum heed_unary heed_activation_unary(heed_activation activation) {
    switch (activation) {
    case HEED_ACTIVATION_RELU:
        return HEED_UNARY_RELU;
    case HEED_ACTIVATION_GELU:
        return HEED_UNARY_GELU;
    case HEED_ACTIVATION_GELU_TANH:
        return HEED_UNARY_GELU_TANH;
    case HEED_ACTIVATION_SILU:
        return HEED_UNARY_SILU;
    case HEED_ACTIVATION_TANH:
        return HEED_UNARY_TANH;
    case HEED_ACTIVATION_SIGMOID:
        return HEED_UNARY_SIGMOID;
    case HEED_ACTIVATION_NONE:
        break;
    }
    return HEED_UNARIES;
}

/* The form whose exponential cannot overflow. */
static double sigmoid(double x) {
    if (x >= 0) return 1 / (1 + exp(-x));
    double e = exp(x);
    return e / (1 + e);
}

/* Φ(x); by erfc it keeps its relative precision where it is small. */
static double normal_cdf(double x) {
    return 0.5 * erfc(-x * HEED_SQRT_HALF);
}

static double gelu_tanh_inner(double x) {
    return tanh(HEED_SQRT_2_OVER_PI * (x + HEED_GELU_CUBIC * x * x * x));
}

static double gelu_tanh_slope(double x) {
    double t = gelu_tanh_inner(x);
    double slope = 0.5 * (1 + t), rest = 1 - t * t;
    if (rest != 0) slope += 0.5 * x * rest * HEED_SQRT_2_OVER_PI * (1 + 3 * HEED_GELU_CUBIC * x * x);
    return slope;
}

double heed_unary_value(enum heed_unary op, double c, double x) {
    switch (op) {
    case HEED_UNARY_NEG:
        return -x;
    case HEED_UNARY_ABS:
        return fabs(x);
    case HEED_UNARY_EXP:
        return exp(x);
    case HEED_UNARY_LOG:
        return log(x);
    case HEED_UNARY_SQRT:
        return sqrt(x);
    case HEED_UNARY_TANH:
        return tanh(x);
    case HEED_UNARY_SIGMOID:
        return sigmoid(x);
    case HEED_UNARY_RELU:
        return x <= 0 ? 0 : x; /* NaN stays */
    case HEED_UNARY_GELU:
        return x * normal_cdf(x);
    case HEED_UNARY_GELU_TANH:
        return 0.5 * x * (1 + gelu_tanh_inner(x));
    case HEED_UNARY_SILU:
        return x * sigmoid(x);
    case HEED_UNARY_ADD_SCALAR:
        return x + c;
    case HEED_UNARY_MUL_SCALAR:
        return x * c;
    case HEED_UNARY_POW_SCALAR:
        return pow(x, c);
    case HEED_UNARY_MAX_SCALAR:
        return x < c ? c : x;
    case HEED_UNARY_MIN_SCALAR:
        return x > c ? c : x;
    case HEED_UNARIES:
        break;
    }
    return x;
}

double heed_unary_gradient(enum heed_unary op, double c, double x, double y, double dy) {
    switch (op) {
    case HEED_UNARY_NEG:
        return -dy;
    case HEED_UNARY_ABS:
        return x < 0 ? -dy : x == 0 ? 0 : dy;
    case HEED_UNARY_EXP:
        return dy * y;
    case HEED_UNARY_LOG:
        return dy / x;
    case HEED_UNARY_SQRT:
        return dy / (2 * y);
    case HEED_UNARY_TANH:
        return dy * (1 - y * y);
    case HEED_UNARY_SIGMOID:
        return dy * y * (1 - y);
    case HEED_UNARY_RELU:
        return y <= 0 ? 0 : dy;
    case HEED_UNARY_GELU:
        return dy * (normal_cdf(x) + x * HEED_INVERSE_SQRT_2PI * exp(-0.5 * x * x));
    case HEED_UNARY_GELU_TANH:
        return dy * gelu_tanh_slope(x);
    case HEED_UNARY_SILU: {
        double s = sigmoid(x);
        return dy * s * (1 + x * (1 - s));
    }
    case HEED_UNARY_ADD_SCALAR:
        return dy;
    case HEED_UNARY_MUL_SCALAR:
        return dy * c;
    case HEED_UNARY_POW_SCALAR:
        return c == 0 ? 0 : dy * c * pow(x, c - 1);
    case HEED_UNARY_MAX_SCALAR:
        return x < c ? 0 : dy;
    case HEED_UNARY_MIN_SCALAR:
        return x > c ? 0 : dy;
    case HEED_UNARIES:
        break;
    }
    return dy;
}
