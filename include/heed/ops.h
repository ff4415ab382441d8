/**
 * @file ops.h
 * @brief Operations: functions of tensors, recorded under HEED_RECORD.
 *
 * Every function returns a tensor of the innermost scope, or the context's inert tensor after an
 * error. Unless said otherwise tensors are f32, f64 or bf16, all of one dtype (in mixed precision,
 * heed/context.h, f32 and bf16 may meet), of any strides, and gradients flow to every floating-point
 * argument. The loss of bf16 tensors is f32. "Broadcast" is NumPy's rule: sizes are aligned at the end, and a
 * size of 1 repeats.
 */
#ifndef HEED_OPS_H
#define HEED_OPS_H

#include <heed/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- elementwise, two tensors, broadcast ---- */

HEED_API heed_tensor heed_add(heed_tensor a, heed_tensor b); /**< a + b */
HEED_API heed_tensor heed_sub(heed_tensor a, heed_tensor b); /**< a − b */
HEED_API heed_tensor heed_mul(heed_tensor a, heed_tensor b); /**< a · b */
HEED_API heed_tensor heed_div(heed_tensor a, heed_tensor b); /**< a / b */
HEED_API heed_tensor heed_pow(heed_tensor a, heed_tensor b); /**< a to the power b, as C's pow */

/** The larger of a and b; NaN wins, and where they are equal each gets half of the gradient. */
HEED_API heed_tensor heed_maximum(heed_tensor a, heed_tensor b);
/** The smaller of a and b; likewise. */
HEED_API heed_tensor heed_minimum(heed_tensor a, heed_tensor b);

/* ---- comparisons, broadcast, of two tensors of any one dtype: bool, no gradient ---- */

HEED_API heed_tensor heed_equal(heed_tensor a, heed_tensor b);   /**< a = b */
HEED_API heed_tensor heed_less(heed_tensor a, heed_tensor b);    /**< a < b */
HEED_API heed_tensor heed_greater(heed_tensor a, heed_tensor b); /**< a > b */

/* ---- elementwise, a tensor and a number ---- */

HEED_API heed_tensor heed_add_scalar(heed_tensor x, double c); /**< x + c */
HEED_API heed_tensor heed_sub_scalar(heed_tensor x, double c); /**< x − c */
HEED_API heed_tensor heed_mul_scalar(heed_tensor x, double c); /**< x · c */
HEED_API heed_tensor heed_div_scalar(heed_tensor x, double c); /**< x / c */
HEED_API heed_tensor heed_pow_scalar(heed_tensor x, double c); /**< x to the power c */

/** x, at least `low` and at most `high`, of which −INFINITY and INFINITY are no bounds; low ≤ high. NaN
 * stays. The gradient flows where x is within the bounds or at one of them. */
HEED_API heed_tensor heed_clamp(heed_tensor x, double low, double high);

/* ---- elementwise, one tensor ---- */

HEED_API heed_tensor heed_neg(heed_tensor x);       /**< −x */
HEED_API heed_tensor heed_abs(heed_tensor x);       /**< |x|; gradient 0 at 0 */
HEED_API heed_tensor heed_exp(heed_tensor x);       /**< e to the power x */
HEED_API heed_tensor heed_log(heed_tensor x);       /**< natural logarithm */
HEED_API heed_tensor heed_sqrt(heed_tensor x);      /**< square root */
HEED_API heed_tensor heed_tanh(heed_tensor x);      /**< hyperbolic tangent */
HEED_API heed_tensor heed_sigmoid(heed_tensor x);   /**< 1 / (1 + e^−x) */
HEED_API heed_tensor heed_relu(heed_tensor x);      /**< max(x, 0); gradient 0 at 0 */
HEED_API heed_tensor heed_silu(heed_tensor x);      /**< x · sigmoid(x) */
HEED_API heed_tensor heed_gelu(heed_tensor x);      /**< x · Φ(x) by erf (Hendrycks & Gimpel 2016) */
HEED_API heed_tensor heed_gelu_tanh(heed_tensor x); /**< its tanh approximation, same paper */

/** Where `mask` (bool, broadcast to x) is true, `value`; elsewhere x (f32, f64 or bf16). No gradient flows
 *  where filled, even from NaN. */
HEED_API heed_tensor heed_masked_fill(heed_tensor x, heed_tensor mask, double value);

/** condition (bool) ? a : b, all broadcast; a and b are f32, f64 or bf16. The branch not taken gets gradient
 * 0, never NaN. */
HEED_API heed_tensor heed_where(heed_tensor condition, heed_tensor a, heed_tensor b);

/* ---- reductions over `count` dimensions (HEED_DIMS(…); HEED_ALL for all) ---- */

/** Sum. @param keep whether reduced dimensions stay with size 1 */
HEED_API heed_tensor heed_sum(heed_tensor x, int count, const int *dims, bool keep);
/** Mean; of nothing it is NaN, as in PyTorch. */
HEED_API heed_tensor heed_mean(heed_tensor x, int count, const int *dims, bool keep);
/** Maximum; NaN wins; the gradient is divided evenly among equal maxima. Nothing to reduce is an error. */
HEED_API heed_tensor heed_max(heed_tensor x, int count, const int *dims, bool keep);
/** The first index of the maximum along `dim`, i32, that dimension dropped. Of i32 too, not of bool. No
 *  gradient. */
HEED_API heed_tensor heed_argmax(heed_tensor x, int dim);

/* ---- rows ---- */

/** e^xᵢ / Σⱼ e^xⱼ along `dim`, computed with the maximum subtracted. A row of −∞ only gives 0. */
HEED_API heed_tensor heed_softmax(heed_tensor x, int dim);
/** xᵢ − log Σⱼ e^xⱼ along `dim`. A row of −∞ only gives −∞, with gradient 0. */
HEED_API heed_tensor heed_log_softmax(heed_tensor x, int dim);

/**
 * Layer normalisation over the last dimension (Ba et al. 2016, eq. 3–4):
 * (x − mean) / sqrt(variance + eps) · weight + bias, with the biased variance.
 * @param weight,bias [width] or none  @param eps 0 means 1e-5
 */
HEED_API heed_tensor heed_layer_norm(heed_tensor x, heed_tensor weight, heed_tensor bias, double eps);

/** Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019, eq. 4):
 *  x / sqrt(mean(x²) + eps) · weight. @param weight [width] or none  @param eps 0 means 1e-5 */
HEED_API heed_tensor heed_rms_norm(heed_tensor x, heed_tensor weight, double eps);

/** Options of heed_residual_norm(). */
typedef struct heed_residual_norm_options {
    bool rms;             /**< root-mean-square normalisation instead of layer normalisation */
    double eps;           /**< 0 means 1e-5 */
    double dropout;       /**< of the branch: the probability of heed_dropout() */
    uint64_t reserved[4]; /**< must be zero */
} heed_residual_norm_options;

/**
 * A residual connection and the norm behind it ("Add & Norm", Vaswani et al. 2017, sections 3.1 and 5.4) in
 * one pass over memory: with *sum = x + heed_dropout(branch), the norm heed_layer_norm() or heed_rms_norm()
 * of *sum. Dropout has the random numbers that heed_dropout() would have in its place. In mixed precision the
 * sum is as wide as the wider of x and branch, and rounded once; the norm is that of the rounded sum, and
 * bf16.
 *
 * @param x,branch [.., width], of one shape
 * @param weight,bias [width] or none
 * @param options NULL for the defaults
 * @param[out] sum NULL if it is of no use; otherwise a tensor of the innermost scope too, the inert one after
 *        an error. Gradients may arrive at either result or at both
 * @return the norm, in the shape of x
 */
HEED_API heed_tensor heed_residual_norm(heed_tensor x, heed_tensor branch, heed_tensor weight,
                                        heed_tensor bias, const heed_residual_norm_options *options,
                                        heed_tensor *sum);

/* ---- rotary positions ---- */

/** Options of heed_rotary(). */
typedef struct heed_rotary_options {
    bool half_split;       /**< pairs (i, i + rotated / 2), as in Llama's files; default (2i, 2i + 1) */
    double base;           /**< of the angles; 0: 10000 */
    int64_t rotated;       /**< how many of a row's first elements are rotated, even; 0: all */
    int64_t offset;        /**< added to every position: what came before, with a cache */
    heed_tensor positions; /**< i32 [length] or [batch.., length]; none: 0, 1, 2, … */
    uint64_t reserved[4];  /**< must be zero */
} heed_rotary_options;

/**
 * Rotary position embedding (Su et al. 2021, "RoFormer", eq. 34): turns pair i of each row by the angle
 * position · base^(−2i / rotated), so that products of queries and keys depend on the distance of their
 * positions. The gradient is turned back by the same angle.
 *
 * @param x [.., length, width]; queries or keys, [batch.., heads, length, width]
 * @param options NULL for the defaults. Dimensions of `positions` before its last stand for x's first ones
 *        (or are 1); x's dimensions between them and `length` share positions
 * @return the shape of x. No gradient flows to positions.
 */
HEED_API heed_tensor heed_rotary(heed_tensor x, const heed_rotary_options *options);

/* ---- products ---- */

/** Matrix product of the last two dimensions, [.., m, k] · [.., k, n]; leading ones broadcast. Both
 *  operands have rank ≥ 2; transposed views cost no copy. */
HEED_API heed_tensor heed_matmul(heed_tensor a, heed_tensor b);

/** What heed_linear() applies to its result. */
typedef enum heed_activation {
    HEED_ACTIVATION_NONE = 0,  /**< identity */
    HEED_ACTIVATION_RELU,      /**< heed_relu() */
    HEED_ACTIVATION_GELU,      /**< heed_gelu() */
    HEED_ACTIVATION_GELU_TANH, /**< heed_gelu_tanh() */
    HEED_ACTIVATION_SILU,      /**< heed_silu() */
    HEED_ACTIVATION_TANH,      /**< heed_tanh() */
    HEED_ACTIVATION_SIGMOID    /**< heed_sigmoid() */
} heed_activation;

/** Options of heed_linear(). */
typedef struct heed_linear_options {
    heed_activation activation; /**< default none */
    uint64_t reserved[4];       /**< must be zero */
} heed_linear_options;

/** activation(x · wᵀ + bias). @param x [.., in]  @param w [out, in]  @param bias [out] or none
 *  @param options NULL for the defaults  @return [.., out] */
HEED_API heed_tensor heed_linear(heed_tensor x, heed_tensor w, heed_tensor bias,
                                 const heed_linear_options *options);

/* ---- joining, cutting, choosing ---- */

/** Tensors of any one dtype joined along an existing dimension; all other sizes equal. count ≥ 1. */
HEED_API heed_tensor heed_cat(int count, const heed_tensor *tensors, int dim);
/** Tensors of one shape and any one dtype joined along a new dimension. count ≥ 1. */
HEED_API heed_tensor heed_stack(int count, const heed_tensor *tensors, int dim);
/** Cuts `dim` into `count` views of the given sizes, whose sum must be the whole.
 *  @param[out] parts count handles; all inert after an error */
HEED_API heed_status heed_split(heed_tensor x, int dim, int count, const int64_t *sizes, heed_tensor *parts);
/** y[.., i, ..] = x[.., index[.., i, ..], ..] along `dim`, as PyTorch's gather. @param x f32, f64 or bf16
 *  @param index i32 of x's
 *  rank, in every other dimension not larger than x; an index out of range is an error */
HEED_API heed_tensor heed_gather(heed_tensor x, int dim, heed_tensor index);
/** Slices of `dim` by their numbers. @param x f32, f64 or bf16 @param index i32 [n] */
HEED_API heed_tensor heed_index_select(heed_tensor x, int dim, heed_tensor index);
/** Rows of a table. @param table [rows, width], f32, f64 or bf16  @param index i32 of any shape  @return
 * [index.., width] */
HEED_API heed_tensor heed_embedding(heed_tensor table, heed_tensor index);

/* ---- chance ---- */

/** Under HEED_RANDOM sets elements to 0 with probability p and scales the others by 1/(1 − p) (Srivastava
 *  et al. 2014); otherwise x itself. 0 ≤ p < 1. The mask is recomputed in backward, not stored. */
HEED_API heed_tensor heed_dropout(heed_tensor x, double p);

/* ---- losses ---- */

/** How a loss becomes one number. */
typedef enum heed_reduction {
    HEED_REDUCE_MEAN = 0, /**< divided by the number of terms that count */
    HEED_REDUCE_SUM       /**< their sum */
} heed_reduction;

/** Options of heed_cross_entropy(). */
typedef struct heed_cross_entropy_options {
    heed_reduction reduction; /**< default mean */
    bool has_ignore; /**< use ignore_index below; if false, targets of −100 are ignored, as in PyTorch */
    int32_t ignore_index;   /**< rows with this target do not contribute */
    double label_smoothing; /**< in [0, 1] (Szegedy et al. 2016) */
    uint64_t reserved[4];   /**< must be zero */
} heed_cross_entropy_options;

/** −log softmax(logits)[target], in nats. @param logits [.., classes]  @param target i32 [..]
 *  @param options NULL for the defaults
 *  @return a scalar; 0 with gradients 0 where every row is ignored. A target out of range is an error. */
HEED_API heed_tensor heed_cross_entropy(heed_tensor logits, heed_tensor target,
                                        const heed_cross_entropy_options *options);

/** (x − target)², reduced to a scalar. Shapes must be equal. */
HEED_API heed_tensor heed_mse(heed_tensor x, heed_tensor target, heed_reduction reduction);

/** Binary cross-entropy of sigmoid(logits) with target in [0, 1], in the form that cannot overflow:
 *  max(x, 0) − x·t + log(1 + e^−|x|). Shapes must be equal. */
HEED_API heed_tensor heed_bce_with_logits(heed_tensor logits, heed_tensor target, heed_reduction reduction);

#ifdef __cplusplus
}
#endif
#endif
