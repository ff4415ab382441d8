/* The primitives: what a backend computes. One argument struct each, shared by forward and backward.
 *
 * Conventions of all argument structs
 * - x, a, b, …: inputs; y: output; dy: gradient of y; dx, …: gradients to produce (struct heed_grad_view).
 * - Forward reads inputs and writes outputs. Backward reads inputs and outputs that the comment names, the
 *   `saved` bytes the same kernel wrote in forward, and dy; it writes the gradients that are wanted. All else
 *   may be gone (data NULL).
 * - "strided": any strides, repeated dimensions (stride 0) included in inputs; in a gradient a stride of 0
 *   means that contributions are summed over that dimension.
 * - "rows": a contiguous matrix [rows, n].
 * - Views of one primitive have one floating dtype, f32 or f64, except where i32 or bool is said; or each is
 *   f32 or bf16 as it likes (mixed precision). A kernel then computes in f32 or better and rounds what it
 * writes once; LINEAR rounds twice, before its activation too, if y is bf16.
 * - Inputs, outputs and gradients do not overlap, unless the comment says so.
 * - Sums are accumulated in a fixed order that depends on shapes only. */
#ifndef HEED_SRC_BACKEND_PRIMITIVES_H
#define HEED_SRC_BACKEND_PRIMITIVES_H

#include <heed/ops.h>
#include <heed/score.h>

#include <math.h>

#include "backend/masks.h"
#include "tensor/everywhere.h"
#include "tensor/philox.h"
#include "tensor/view.h"

/* X(NAME, word for messages, argument struct) */
#define HEED_PRIMITIVE_LIST(X)                                                                               \
    X(COPY, "copy", heed_copy_args)                                                                          \
    X(FILL, "fill", heed_fill_args)                                                                          \
    X(RANDOM, "random", heed_random_args)                                                                    \
    X(UNARY, "unary", heed_unary_args)                                                                       \
    X(BINARY, "binary", heed_binary_args)                                                                    \
    X(WHERE, "where", heed_where_args)                                                                       \
    X(REDUCE, "reduce", heed_reduce_args)                                                                    \
    X(ARGMAX, "argmax", heed_argmax_args)                                                                    \
    X(SOFTMAX, "softmax", heed_softmax_args)                                                                 \
    X(NORM, "norm", heed_norm_args)                                                                          \
    X(RESIDUAL_NORM, "residual_norm", heed_residual_norm_args)                                               \
    X(ROTARY, "rotary", heed_rotary_args)                                                                    \
    X(MATMUL, "matmul", heed_matmul_args)                                                                    \
    X(LINEAR, "linear", heed_linear_args)                                                                    \
    X(GATHER, "gather", heed_gather_args)                                                                    \
    X(DROPOUT, "dropout", heed_dropout_args)                                                                 \
    X(CROSS_ENTROPY, "cross_entropy", heed_cross_entropy_args)                                               \
    X(PAIR_LOSS, "pair_loss", heed_pair_loss_args)                                                           \
    X(ATTENTION, "attention", heed_attention_args)                                                           \
    X(MHA, "multi_head_attention", heed_mha_args)                                                            \
    X(LOSS, "backward", heed_loss_args)                                                                      \
    X(GRAD_NORM, "grad_norm", heed_grad_norm_args)                                                           \
    X(UPDATE, "update", heed_update_args)

enum heed_primitive {
#define HEED_PRIMITIVE_ENUM(name, word, args) HEED_PRIMITIVE_##name,
    HEED_PRIMITIVE_LIST(HEED_PRIMITIVE_ENUM)
#undef HEED_PRIMITIVE_ENUM
        HEED_PRIMITIVES
};

/* y = x converted to y's dtype, same shape; strided both. With y.add: y += x, where y may have repeated
 * dimensions (a sum) and both are of one floating dtype, or each f32 or bf16. Without add y does not repeat.
 * No backward. */
struct heed_copy_args {
    struct heed_view x;
    struct heed_grad_view y;
};

/* y = value, strided, any dtype; with arange y (rank 1) = 0, 1, 2, …. No backward. */
struct heed_fill_args {
    struct heed_view y;
    double value;
    bool arange;
};

/* y (contiguous) = a + b·normal, or uniform in [a, b): a + (b − a)·u in y's dtype, at most the number below
 * b. No backward. */
/* The largest f32 below `high`, where `low` is below that; otherwise no bound. */
static inline float heed_below_f32(float high, float low) {
    return high > low ? nextafterf(high, low) : INFINITY;
}

struct heed_random_args {
    struct heed_view y;
    bool normal;
    double a, b;
    struct heed_random random;
};

enum heed_unary {
    HEED_UNARY_NEG,
    HEED_UNARY_ABS,
    HEED_UNARY_EXP,
    HEED_UNARY_LOG,
    HEED_UNARY_SQRT,
    HEED_UNARY_TANH,
    HEED_UNARY_SIGMOID,
    HEED_UNARY_RELU,
    HEED_UNARY_GELU,
    HEED_UNARY_GELU_TANH,
    HEED_UNARY_SILU,
    HEED_UNARY_ADD_SCALAR, /* x + c */
    HEED_UNARY_MUL_SCALAR, /* x · c */
    HEED_UNARY_POW_SCALAR, /* x ^ c */
    HEED_UNARY_MAX_SCALAR, /* the larger of x and c; c is a number, and NaN in x stays */
    HEED_UNARY_MIN_SCALAR, /* the smaller; likewise */
    HEED_UNARIES
};

/* y = op(x, c). Strided x and y of one shape; dy, dx strided. Backward has x and y both if the op's entry in
 * heed_unary_needs() says so. */
struct heed_unary_args {
    enum heed_unary op;
    double c;
    struct heed_view x, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

enum heed_binary {
    HEED_BINARY_ADD,
    HEED_BINARY_SUB,
    HEED_BINARY_MUL,
    HEED_BINARY_DIV,
    HEED_BINARY_POW,
    HEED_BINARY_MAXIMUM, /* NaN wins; equal ones halve the gradient */
    HEED_BINARY_MINIMUM, /* likewise */
    HEED_BINARY_EQUAL,   /* from here on y is bool, inputs may be i32 or bool, and there is no backward */
    HEED_BINARY_LESS,
    HEED_BINARY_GREATER,
    HEED_BINARIES
};

/* y = a op b. a and b are expanded to y's shape; y is contiguous. da and db are expanded likewise: a stride
 * of 0 sums. Backward has a and b from MUL on. (ADD's and SUB's da and db may overlap nothing.) */
struct heed_binary_args {
    enum heed_binary op;
    struct heed_view a, b, y;
    struct heed_view dy;
    struct heed_grad_view da, db;
};

/* Whether either gradient is made of both a and b. */
static inline bool heed_binary_needs_both(enum heed_binary op) {
    return op >= HEED_BINARY_POW && op < HEED_BINARY_EQUAL;
}

/* y = condition ? a : b, all expanded to y's shape; condition bool; y contiguous. Backward has condition. */
struct heed_where_args {
    struct heed_view condition, a, b, y;
    struct heed_view dy;
    struct heed_grad_view da, db;
};

enum heed_reduce { HEED_REDUCE_OP_SUM, HEED_REDUCE_OP_MEAN, HEED_REDUCE_OP_MAX };

/* y = reduction of x. y and dy are seen in x's shape, with stride 0 in every reduced dimension; their own
 * memory is contiguous. x strided, for MAX of y's dtype. dx strided, x's shape. Backward has x and y for MAX
 * (gradient divided evenly among equal maxima). Reducing nothing: SUM 0, MEAN NaN; MAX is refused before. */
struct heed_reduce_args {
    enum heed_reduce op;
    struct heed_view x, y;
    int64_t reduced; /* elements of x per element of y */
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* y[row] (i32) = first index of the maximum of x rows; the first NaN wins. n ≥ 1. x may be i32. No backward.
 */
struct heed_argmax_args {
    struct heed_view x, y;
};

/* Softmax or its logarithm of rows. Backward has y. A row that is −∞ throughout: softmax 0, log −∞, gradient
 * 0. */
struct heed_softmax_args {
    bool log;
    struct heed_view x, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* Layer or RMS norm along the last dimension, n. x strided, but with contiguous rows (last stride 1); y
 * contiguous, as rows. weight, bias [n], contiguous, may be absent. Backward has x and weight; mean and
 * reciprocal deviation are saved by the kernel. dy as y; dx as x, strides of its own. */
struct heed_norm_args {
    bool rms;
    double eps;
    struct heed_view x, weight, bias, y;
    struct heed_view dy;
    struct heed_grad_view dx, dweight, dbias;
};

/* sum = x + dropout(branch), y = norm(sum): what DROPOUT does with `branch`, of the same numbers for the same
 * places, and then what NORM does. x, branch, sum, y, dsum, dy, dx, dbranch rows of one shape [rows, n];
 * weight, bias [n], contiguous, may be absent. threshold as of DROPOUT; 65536: nothing is dropped. y is made
 * of the sum as it is stored, so that backward, which reads that, finds the same numbers; `rounded` says that
 * it will be stored as bf16 though its view is f32 (backend/widened.h). Forward without x and branch finds
 * the sum where it is, and writes y (again) with the same bits. Backward has sum and weight; mean and
 * reciprocal deviation are saved by the kernel. dsum and dy: either may be absent, not both; without dy no
 * gradient of weight and bias is wanted. With d = dsum + the gradient of norm(sum): dx = d, dbranch = d
 * through the dropout. dx may be dsum itself. */
struct heed_residual_norm_args {
    uint32_t threshold;
    struct heed_random random;
    bool rms, rounded;
    double eps;
    struct heed_view x, branch, weight, bias, sum, y;
    struct heed_view dsum, dy;
    struct heed_grad_view dx, dbranch, dweight, dbias;
};

/* Rotary positions. x [.., length, width] and y of one shape, rank ≥ 2; each row's first `rotated` (even)
 * elements are cut into pairs, (2i, 2i + 1), or (i, i + rotated / 2) with `half`; pair i is turned by the
 * angle position · base^(−2i / rotated); the rest is copied. The position of a row is `offset` plus its
 * element of `positions`, i32, in x's shape without the last dimension (strides into a contiguous tensor, 0
 * where it repeats), or plus its place along `length` where that is absent. All with contiguous rows
 * (last stride 1, or at most one element). y may be x itself. Backward has positions, and turns dy back. */
struct heed_rotary_args {
    bool half;
    double base;
    int64_t rotated, offset;
    struct heed_view positions;
    struct heed_view x, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* y = a · b over the last two dimensions. All of one rank ≥ 2; batch dimensions of a and b are expanded to
 * y's. a, b strided; y contiguous; dy strided; da and db as a and b (repeated batch dimensions sum). Backward
 * has a, b. */
struct heed_matmul_args {
    struct heed_view a, b, y;
    struct heed_view dy;
    struct heed_grad_view da, db;
};

/* y = activation(x·wᵀ + bias). x [rows, in] with contiguous rows (stride[1] 1, stride[0] ≥ in); w [out, in]
 * and y [rows, out] likewise; bias [out] contiguous or absent. Backward has x, w, bias; not y: what the
 * activation needs the kernel saves. dy, dx, dw as their tensors. dz (as dy, and may be dy; absent: not asked
 * for) gets the gradient of x·wᵀ + bias: with it as dy, and without the activation, the same kernel's
 * backward gives the other gradients too, and needs nothing saved. With `inner` (as x; absent: not asked for)
 * x is inner_activation(inner), and dx is to be the gradient of inner, not added to: only of kernels that say
 * so (takes_inner). */
struct heed_linear_args {
    heed_activation activation, inner_activation;
    struct heed_view x, w, bias, y;
    struct heed_view dy, dz, inner;
    struct heed_grad_view dx, dw, dbias;
};

/* y[i, j, k] = x[i, index[i, j, k], k] along `dim`. x, y, index (i32) of one rank; x strided; index strided
 * and of y's shape (a stride of 0 where it is one index for whole slices); y contiguous. Forward reports an
 * index out of range. Backward has index; dx (x's shape) is added to in order of y's elements. */
struct heed_gather_args {
    int dim;
    struct heed_view x, index, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* y = x where kept · scale, else 0; see philox.h for the map over row-major elements. x, y, dy, dx
 * contiguous. */
struct heed_dropout_args {
    uint32_t threshold;
    struct heed_random random;
    struct heed_view x, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* y (scalar) = Σ or mean over rows that count of −Σ_c q_c log softmax(x)_c, with q = (1 −
 * smoothing)·onehot(target) + smoothing / classes. x rows; target i32 [rows] contiguous. A target out of
 * range is reported. Backward has x and target; the kernel saves what it needs (never the probabilities). dy
 * scalar. */
struct heed_cross_entropy_args {
    heed_reduction reduction;
    int32_t ignore_index;
    double smoothing;
    struct heed_view x, target, y;
    struct heed_view dy;
    struct heed_grad_view dx;
};

/* y (scalar) = Σ or mean of (x − t)², or of max(x, 0) − x·t + log(1 + e^−|x|) with `bce`. x, t, dx, dt
 * contiguous, of one shape. Mean of nothing is 0. Backward has x and t. */
struct heed_pair_loss_args {
    bool bce;
    heed_reduction reduction;
    struct heed_view x, t, y;
    struct heed_view dy;
    struct heed_grad_view dx, dt;
};

/* ---- attention ---- */

enum heed_stage_kind {
    HEED_STAGE_BIAS,     /* s + tensor[batch, head, q, k] */
    HEED_STAGE_DISTANCE, /* s + tensor[batch, head, 0, k − q + queries − 1] */
    HEED_STAGE_SOFTCAP,  /* cap · tanh(s / cap) */
    HEED_STAGE_CUSTOM    /* what the rule says (heed/score.h) */
};

#define HEED_MAX_STAGES 8
#define HEED_MAX_STAGE_PARAMS 8

/* BIAS: tensor is expanded to [batch, heads, queries, keys]. DISTANCE: to [batch, heads, 1, queries + keys −
 * 1]. Both strided; gradients are expanded likewise, a stride of 0 sums. */
struct heed_stage {
    enum heed_stage_kind kind;
    struct heed_view tensor;
    struct heed_grad_view dtensor;
    double cap;
    heed_align align; /* DISTANCE in packed problems: the corner that distances are counted from */
    const heed_stage_rule *rule;
    int param; /* the first of the rule's parameters among those of the arguments */
    void *user;
};

/* A parameter of a user's stage, expanded to [batch, heads, 1, n] (per call, per head), [batch, heads,
 * queries, 1] or [batch, heads, 1, keys]; strided, but a vector of n numbers is contiguous. */
struct heed_stage_param {
    heed_param_scope scope;
    struct heed_view tensor;
    struct heed_grad_view dtensor;
};

/* Sequences that lie one behind the other: sequence i has the queries query_starts[i] … query_starts[i + 1] −
 * 1, and keys likewise. Starts begin at 0, do not decrease and end at the number of rows. */
struct heed_packed {
    int64_t sequences;
    const int32_t *query_starts, *key_starts; /* NULL: nothing is packed */
    int64_t most_queries, most_keys;          /* of one sequence */
};

static inline bool heed_is_packed(const struct heed_packed *p) {
    return p->query_starts != NULL;
}

/* s = q·kᵀ·scale → stages → mask → normaliser → dropout → ·v, per batch and head.
 * q [batch, heads, queries, width], k [batch, kv_heads, keys, width], v [batch, kv_heads, keys, value_width],
 * y [batch, heads, queries, value_width]: any strides with stride[3] = 1 (or width ≤ 1). weights [batch,
 * heads, queries, keys] contiguous, absent if not asked for. Query head h uses key/value head h / (heads /
 * kv_heads). sink [batch, heads, 1, 1], strided, absent if there is none: e^sink is in the softmax's sum. lse
 * [batch, heads, queries] contiguous, absent if not asked for: the logarithm of that sum, −∞ for a query that
 * sees nothing. sink and lse are for the softmax only.
 * chosen [batch, chosen heads, chosen queries, keys] and column_sums [batch, chosen heads, keys], contiguous,
 * each absent if not asked for: the weights of some heads and queries, and their sums over those queries.
 * Lists (i32) say which, an absent one means all. Forward only.
 * Packed: batch is the number of sequences, and each is a problem of its own (backend/sequences.h) with its
 * own lengths; masks, positions and dropout see it as that entry of a batch. The rows of all of them lie in
 * one slice: q, k, v, y, lse and their gradients have stride[0] = 0, and so have tensors of stages and
 * parameters that have rows of queries or keys. A vector by distance is that of most_queries and most_keys.
 * No weights, nothing chosen. Backward has q, k, v, y, stage tensors, params, sink, mask, (not weights or
 * lse); dy, dweights and dlse, each absent if no gradient arrived there (not all), dy and dweights with
 * stride[3] = 1, dlse contiguous; dq, dk, dv as q, k, v, stride[3] = 1, no repeats. */
struct heed_attention_args {
    struct heed_view q, k, v, y, weights, lse;
    struct heed_view chosen, column_sums, head_list, query_list;
    struct heed_packed packed;
    double scale;
    int stages;
    struct heed_stage stage[HEED_MAX_STAGES];
    int params;
    struct heed_stage_param param[HEED_MAX_STAGE_PARAMS];
    struct heed_view sink;
    heed_normalizer normalizer;
    const struct heed_bound_mask *mask; /* NULL: all visible */
    uint32_t threshold;                 /* of dropout (philox.h); 65536: none */
    struct heed_random random;
    struct heed_view dy, dweights, dlse;
    struct heed_grad_view dq, dk, dv, dsink;
};

/* The chosen heads and queries: how many, and which the i-th is. */
static inline bool heed_attention_chooses(const struct heed_attention_args *a) {
    return heed_has(&a->chosen) || heed_has(&a->column_sums);
}
static inline int64_t heed_attention_chosen_count(const struct heed_view *list, int64_t all) {
    return heed_has(list) ? list->size[0] : all;
}
static inline int64_t heed_attention_chosen_at(const struct heed_view *list, int64_t i) {
    return heed_has(list) ? ((const int32_t *)list->data)[i] : i;
}

/* Whether a gradient of anything but q, k and v is wanted. */
static inline bool heed_attention_wants_score(const struct heed_attention_args *a) {
    bool wanted = heed_has(&a->dsink.view);
    for (int i = 0; i < a->stages; i++) wanted = wanted || heed_has(&a->stage[i].dtensor.view);
    for (int i = 0; i < a->params; i++) wanted = wanted || heed_has(&a->param[i].dtensor.view);
    return wanted;
}

/* The kernels that multi-head attention made of others ran in forward, which writes them here; backward has
 * them. */
struct heed_kernel;
struct heed_mha_chosen {
    const struct heed_kernel *linear[3], *out, *attention;
};

/* The whole block. query [batch, queries, ·], key and value [batch, keys, ·]: contiguous; key and value may
 * be the very same memory as query or key (self-attention). Weights and biases as heed_mha_weights,
 * contiguous. y [batch, queries, out_width] contiguous. `attention` holds scale, stages, mask, dropout,
 * weights and dweights; its q, k, v, y and their gradients are filled in by the kernel. Backward has
 * everything but y, and what the kernel saved. Where key (value) is the same memory as query (key), its
 * gradient is the same memory too, and contributions add. */
struct heed_mha_args {
    int64_t heads, kv_heads;
    struct heed_view query, key, value, y;
    struct heed_view wq, wk, wv, wo, bq, bk, bv, bo;
    struct heed_attention_args attention;
    struct heed_view dy;
    struct heed_grad_view dquery, dkey, dvalue;
    struct heed_grad_view dwq, dwk, dwv, dwo, dbq, dbk, dbv, dbo;
    struct heed_mha_chosen chosen;
};

/* ---- where backward begins ---- */

/* dloss = 1, of one element; 1 more with add. A loss that is not finite is an error, told by the kernel, or,
 * where kernels run behind the host, when the host waits for the device: until then optimisers change
 * nothing. Both are of one floating dtype. No backward. */
struct heed_loss_args {
    struct heed_view loss;
    struct heed_grad_view dloss;
    uint64_t step; /* for the error */
};

/* That error, HEED_ERROR_NUMERIC: of a double, for which every NaN is the same, and an unsigned long long. */
#define HEED_LOSS_NOT_FINITE "the loss is %g at step %llu"

/* ---- optimisers: work on many tensors at once, in place. No backward. ---- */

/* One gradient with its parameter and moments; all contiguous, of one dtype and count. */
struct heed_param_item {
    int64_t count;
    void *param, *grad;      /* dtype of `dtype` */
    void *moment1, *moment2; /* SGD: moment1 is the momentum, or NULL; Adam: both */
    double rate, decay;      /* already scaled for the group */
    int64_t number;          /* what the witness below knows it by */
};

/* norm = sqrt(Σ g²) over all items, accumulated in f64; first_bad = the first item with an element that is
 * not finite, −1 if none. */
struct heed_grad_norm {
    double norm;
    int64_t first_bad;
};

/* Who makes an error of a norm that is not finite; `number` is that of the first bad item, −1 if all items
 * are fine. Told by the kernel, or, where kernels run behind the host, when the host waits for the device:
 * until then it must live. Before any error that is told so late, it learns of each step since, the latest
 * first, that its updates changed nothing. */
struct heed_grad_witness {
    heed_status (*not_finite)(struct heed_grad_witness *self, int64_t number, int64_t step);
    void (*changed_nothing)(struct heed_grad_witness *self, int64_t step);
};

/* Finds the norm; the result lies where elements do. With scale ≠ 1 elements are first multiplied by it, in
 * place. With clamp > 0 they are then clamped to ± clamp, in place (NaN stays). */
struct heed_grad_norm_args {
    heed_dtype dtype;
    int64_t items;
    const struct heed_param_item *item;
    double clamp, scale;
    struct heed_grad_norm *result;
    struct heed_grad_witness *witness; /* NULL: a norm that is not finite is no error */
    int64_t step;                      /* for the witness */
};

/* How a kernel on the host ends. */
static inline heed_status heed_grad_norm_found(const struct heed_grad_norm_args *a, double norm,
                                               int64_t first_bad) {
    const struct heed_grad_norm found = {norm, first_bad};
    *a->result = found;
    if (isfinite(norm) || !a->witness) return HEED_OK;
    return a->witness->not_finite(a->witness, first_bad < 0 ? -1 : a->item[first_bad].number, a->step);
}

/* The factor that brings a norm to at most max_norm, as PyTorch's clip_grad_norm_; 1 if max_norm ≤ 0. */
HEED_EVERYWHERE static inline double heed_clip_factor(double norm, double max_norm) {
    if (!(max_norm > 0)) return 1;
    const double factor = max_norm / (norm + 1e-6); /* PyTorch's guard against a norm of 0 */
    return factor < 1 ? factor : 1;
}

enum heed_update { HEED_UPDATE_SGD, HEED_UPDATE_ADAM, HEED_UPDATE_ADAMW };

/* One step of every item, with gradients clipped to max_norm as they are read. A norm that is not finite
 * changes nothing. SGD: g += decay·p; m = step = 1 ? g : momentum·m + g; p −= rate·(nesterov ? g + momentum·m
 * : m) (PyTorch's order). ADAM: g += decay·p, ADAMW: p −= rate·decay·p; then m = β1·m + (1 − β1)·g, v = β2·v
 * + (1 − β2)·g², p −= rate / (1 − β1^step) · m / (sqrt(v / (1 − β2^step)) + eps). */
struct heed_update_args {
    enum heed_update kind;
    heed_dtype dtype;
    int64_t items;
    const struct heed_param_item *item;
    const struct heed_grad_norm *norm; /* of all gradients; lies where elements do */
    double max_norm;                   /* ≤ 0: none */
    double momentum;
    bool nesterov;
    double beta1, beta2, eps;
    int64_t step; /* counts from 1 */
};

/* Which values the backward of a unary op reads. */
enum { HEED_NEEDS_X = 1, HEED_NEEDS_Y = 2 };
unsigned heed_unary_needs(enum heed_unary op);

/* The unary op of an activation; HEED_UNARIES for none. */
enum heed_unary heed_activation_unary(heed_activation activation);

#endif
