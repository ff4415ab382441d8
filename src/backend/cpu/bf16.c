/* Kernels of f32 for operands of which some are bf16 (backend/widened.h). */
#include "backend/cpu/bf16.h"

#include "backend/widened.h"

#define KERNEL_FORWARD(of, word, primitive, inner)                                                           \
    HEED_WIDENED(of, primitive, inner, heed_cpu_copy)                                                        \
    const struct heed_kernel heed_cpu_##of##_bf16 = {                                                        \
        .name = word, .applies = of##_applies, .sizes = of##_sizes, .forward = of##_forward};

#define KERNEL(of, word, primitive, inner)                                                                   \
    HEED_WIDENED(of, primitive, inner, heed_cpu_copy)                                                        \
    HEED_WIDENED_BACKWARD(of)                                                                                \
    const struct heed_kernel heed_cpu_##of##_bf16 = {.name = word,                                           \
                                                     .applies = of##_applies,                                \
                                                     .sizes = of##_sizes,                                    \
                                                     .forward = of##_forward,                                \
                                                     .backward = of##_backward};

/* clang-format off */
KERNEL_FORWARD(copy, "cpu-bf16", HEED_PRIMITIVE_COPY, heed_cpu_copy)
KERNEL(unary, "cpu-bf16", HEED_PRIMITIVE_UNARY, heed_cpu_unary)
KERNEL(binary, "cpu-bf16", HEED_PRIMITIVE_BINARY, heed_cpu_binary)
KERNEL(where, "cpu-bf16", HEED_PRIMITIVE_WHERE, heed_cpu_where)
KERNEL(reduce, "cpu-bf16", HEED_PRIMITIVE_REDUCE, heed_cpu_reduce)
KERNEL_FORWARD(argmax, "cpu-bf16", HEED_PRIMITIVE_ARGMAX, heed_cpu_argmax)
KERNEL(softmax, "cpu-bf16", HEED_PRIMITIVE_SOFTMAX, heed_cpu_softmax)
KERNEL(norm, "cpu-bf16", HEED_PRIMITIVE_NORM, heed_cpu_norm)
KERNEL(residual_norm, "cpu-bf16", HEED_PRIMITIVE_RESIDUAL_NORM, heed_cpu_residual_norm)
KERNEL(rotary, "cpu-bf16", HEED_PRIMITIVE_ROTARY, heed_cpu_rotary)
KERNEL(matmul, "cpu-bf16", HEED_PRIMITIVE_MATMUL, heed_cpu_matmul)
KERNEL(gather, "cpu-bf16", HEED_PRIMITIVE_GATHER, heed_cpu_gather)
KERNEL(dropout, "cpu-bf16", HEED_PRIMITIVE_DROPOUT, heed_cpu_dropout)
KERNEL(cross_entropy, "cpu-bf16", HEED_PRIMITIVE_CROSS_ENTROPY, heed_cpu_cross_entropy)
KERNEL(pair_loss, "cpu-bf16", HEED_PRIMITIVE_PAIR_LOSS, heed_cpu_pair_loss)
KERNEL(attention_short, "cpu-short-bf16", HEED_PRIMITIVE_ATTENTION, heed_cpu_attention_short)
KERNEL(attention_decode, "cpu-decode-bf16", HEED_PRIMITIVE_ATTENTION, heed_cpu_attention_decode)
KERNEL(attention, "cpu-bf16", HEED_PRIMITIVE_ATTENTION, heed_cpu_attention)
/* clang-format on */

/* ---- linear ----
 *
 * The product is kept in y's dtype, and if that is bf16 rounded; the activation is a primitive of its own
 * then. saved: [rows, out] of that dtype, only with an activation. */

HEED_WIDENED(product, HEED_PRIMITIVE_LINEAR, heed_cpu_linear, heed_cpu_copy)
HEED_WIDENED_BACKWARD(product)

static const struct heed_kernel product_kernel = {
    .name = "cpu-bf16", .sizes = product_sizes, .forward = product_forward, .backward = product_backward};

static struct heed_linear_args without_activation(const struct heed_linear_args *a) {
    struct heed_linear_args product = *a;
    product.activation = HEED_ACTIVATION_NONE;
    return product;
}

static bool linear_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    const struct heed_linear_args product = without_activation(args);
    return product_applies(exec, &product, why);
}

/* [rows, out] of y's dtype at a place. */
static struct heed_view product_view(const struct heed_linear_args *a, void *data) {
    const int64_t rows = a->x.size[0], out = a->w.size[0];
    return (struct heed_view){data, a->y.dtype, 2, {rows, out}, {out, 1}};
}

static size_t product_bytes(const struct heed_linear_args *a) {
    const size_t bytes = (size_t)a->x.size[0] * (size_t)a->w.size[0] * heed_dtype_bytes(a->y.dtype);
    return (bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
}

/* Scratch: the product if it isn't saved; backward: its gradient, and y. What kernels want for themselves
 * they are given when they run. */
static void linear_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct heed_linear_args *a = args;
    if (a->activation == HEED_ACTIVATION_NONE) {
        product_sizes(exec, args, sizes);
        return;
    }
    sizes->saved = sizes->forward_scratch = product_bytes(a);
    sizes->backward_scratch = 2 * product_bytes(a);
}

static heed_status activate(struct heed_exec *exec, const struct heed_linear_args *a, void *product,
                            struct heed_view y) {
    const struct heed_unary_args args = {
        .op = heed_activation_unary(a->activation), .x = product_view(a, product), .y = y};
    return heed_exec_run(exec, HEED_PRIMITIVE_UNARY, &args);
}

static heed_status linear_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_linear_args *a = args;
    if (a->activation == HEED_ACTIVATION_NONE) return product_forward(exec, args, NULL, scratch);
    void *place = saved ? saved : scratch;
    struct heed_linear_args product = without_activation(a);
    product.y = product_view(a, place);
    const heed_status status = heed_exec_forward(exec, &product_kernel, &product, NULL);
    return status == HEED_OK ? activate(exec, a, place, a->y) : status;
}

static heed_status linear_remake(struct heed_exec *exec, const void *args, const void *saved) {
    const struct heed_linear_args *a = args;
    return activate(exec, a, (void *)(uintptr_t)saved, a->y);
}

/* dz from dy, through the activation. */
static heed_status activation_backward(struct heed_exec *exec, const struct heed_linear_args *a, void *saved,
                                       void *place_of_y, const struct heed_view *dz) {
    struct heed_unary_args args = {.op = heed_activation_unary(a->activation),
                                   .x = product_view(a, saved),
                                   .y = product_view(a, place_of_y),
                                   .dy = a->dy,
                                   .dx.view = *dz};
    const struct heed_kernel *kernel = heed_exec_select(exec, HEED_PRIMITIVE_UNARY, &args);
    if (!kernel) return HEED_ERROR_UNSUPPORTED;
    if (heed_unary_needs(args.op) & HEED_NEEDS_Y) {
        const heed_status status = activate(exec, a, saved, args.y);
        if (status != HEED_OK) return status;
    }
    return heed_exec_backward(exec, kernel, &args, NULL);
}

static heed_status linear_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    const struct heed_linear_args *a = args;
    if (a->activation == HEED_ACTIVATION_NONE) return product_backward(exec, args, NULL, scratch);
    const struct heed_view dz = heed_has(&a->dz) ? a->dz : product_view(a, scratch);
    const heed_status status = activation_backward(exec, a, saved, (char *)scratch + product_bytes(a), &dz);
    if (status != HEED_OK) return status;
    struct heed_linear_args product = without_activation(a);
    product.dy = dz;
    product.dz.data = NULL;
    if (!heed_has(&a->dx.view) && !heed_has(&a->dw.view) && !heed_has(&a->dbias.view)) return HEED_OK;
    return heed_exec_backward(exec, &product_kernel, &product, NULL);
}

const struct heed_kernel heed_cpu_linear_bf16 = {.name = "cpu-bf16",
                                                 .applies = linear_applies,
                                                 .sizes = linear_sizes,
                                                 .forward = linear_forward,
                                                 .backward = linear_backward,
                                                 .remake = linear_remake};
