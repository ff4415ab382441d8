#include "backend/cpu/vector/elementwise.h"

LANES_BY_LIBM(vf_pow, powf)

/* Powers that occur, exact as products and roots are; others by libm. */
static inline vf power(vf x, vf c) {
    const float exponent = c[0];
    if (exponent == 1.0f) return x;
    if (exponent == 2.0f) return x * x;
    if (exponent == 3.0f) return x * x * x;
    if (exponent == -1.0f) return vf_set(1.0f) / x;
    if (exponent == -2.0f) return vf_set(1.0f) / (x * x);
    return vf_pow(x, c);
}

/* Of x = a. */
MAP_1(neg, -a)
MAP_1(absolute, vf_abs(a))
MAP_1(exponential, vf_exp(a))
MAP_1(logarithm, vf_log(a))
MAP_1(square_root, vf_sqrt(a))
MAP_1(tangent, vf_tanh(a))
MAP_1(sigmoid, vf_sigmoid(a))
MAP_1(relu, vf_relu(a))
MAP_1(gelu, vf_gelu(a))
MAP_1(gelu_tanh, vf_gelu_tanh(a))
MAP_1(silu, vf_silu(a))
MAP_1(add_scalar, a + k)
MAP_1(mul_scalar, a *k)
MAP_1(pow_scalar, power(a, k))
MAP_1(max_scalar, vf_select(vm_less(a, k), k, a))
MAP_1(min_scalar, vf_select(vm_less(k, a), k, a))

/* Of dy = a and y or x = b. */
MAP_2(absolute_back, vf_where(vm_not(vm_equal(b, vf_set(0.0f))), vf_select(vm_less(b, vf_set(0.0f)), -a, a)))
MAP_2(exponential_back, a *b)
MAP_2(logarithm_back, a / b)
MAP_2(square_root_back, a / (b + b))
MAP_2(tangent_back, a *vf_fnma(b, b, vf_set(1.0f)))
MAP_2(sigmoid_back, a *b *(vf_set(1.0f) - b))
MAP_2(relu_back, vf_where(vm_not(vm_less_equal(b, vf_set(0.0f))), a))
MAP_2(gelu_back, a *vf_gelu_slope(b))
MAP_2(gelu_tanh_back, a *vf_gelu_tanh_slope(b))
MAP_2(silu_back, a *vf_silu_slope(b))
MAP_2(pow_scalar_back, k[0] == 0.0f ? vf_set(0.0f) : a * k * power(b, k - vf_set(1.0f)))
MAP_2(max_scalar_back, vf_where(vm_not(vm_less(b, k)), a))
MAP_2(min_scalar_back, vf_where(vm_not(vm_less(k, b)), a))

static void identity(const void *self, int64_t n, const void *const *in, const int *step, void *out) {
    const float one = 1.0f;
    (void)self;
    mul_scalar(&one, n, in, step, out);
}

const struct heed_unary_vectors HEED_VECTOR_NAME(heed_unary_vectors) = {
    .forward =
        {
            [HEED_UNARY_NEG] = neg,
            [HEED_UNARY_ABS] = absolute,
            [HEED_UNARY_EXP] = exponential,
            [HEED_UNARY_LOG] = logarithm,
            [HEED_UNARY_SQRT] = square_root,
            [HEED_UNARY_TANH] = tangent,
            [HEED_UNARY_SIGMOID] = sigmoid,
            [HEED_UNARY_RELU] = relu,
            [HEED_UNARY_GELU] = gelu,
            [HEED_UNARY_GELU_TANH] = gelu_tanh,
            [HEED_UNARY_SILU] = silu,
            [HEED_UNARY_ADD_SCALAR] = add_scalar,
            [HEED_UNARY_MUL_SCALAR] = mul_scalar,
            [HEED_UNARY_POW_SCALAR] = pow_scalar,
            [HEED_UNARY_MAX_SCALAR] = max_scalar,
            [HEED_UNARY_MIN_SCALAR] = min_scalar,
        },
    .backward =
        {
            [HEED_UNARY_NEG] = neg,
            [HEED_UNARY_ABS] = absolute_back,
            [HEED_UNARY_EXP] = exponential_back,
            [HEED_UNARY_LOG] = logarithm_back,
            [HEED_UNARY_SQRT] = square_root_back,
            [HEED_UNARY_TANH] = tangent_back,
            [HEED_UNARY_SIGMOID] = sigmoid_back,
            [HEED_UNARY_RELU] = relu_back,
            [HEED_UNARY_GELU] = gelu_back,
            [HEED_UNARY_GELU_TANH] = gelu_tanh_back,
            [HEED_UNARY_SILU] = silu_back,
            [HEED_UNARY_ADD_SCALAR] = identity,
            [HEED_UNARY_MUL_SCALAR] = mul_scalar,
            [HEED_UNARY_POW_SCALAR] = pow_scalar_back,
            [HEED_UNARY_MAX_SCALAR] = max_scalar_back,
            [HEED_UNARY_MIN_SCALAR] = min_scalar_back,
        },
};
