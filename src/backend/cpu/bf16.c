/* Kernels of f32 for operands of which some are bf16: what the kernel reads is widened into scratch, and what
 * it writes there is rounded once it is complete. Sums are those of f32, and a gradient that is f32 already
 * is written or added to where it lies.
 *
 * In scratch a view has the order of its dimensions in memory and no gaps, and repeats what it repeated, so
 * that a kernel finds rows contiguous that were. */
#include "backend/cpu/bf16.h"

#include <string.h>

#include "backend/views.h"

/* ---- the arguments a kernel of f32 gets ---- */

enum direction { FORWARD, BACKWARD };

enum { MOST_VIEWS = 24 + 2 * HEED_MAX_STAGES + 2 * HEED_MAX_STAGE_PARAMS };

struct widened {
    enum direction direction;
    char *scratch; /* NULL: only sizes matter, views stay where they are */
    size_t bytes;  /* of it, so far */
    bool any;      /* bf16 */
    int count;
    struct {
        struct heed_view low, wide;
        unsigned how;
    } item[MOST_VIEWS]; /* those that have a place in scratch */
    _Alignas(16) char args[HEED_MOST_ARGS_BYTES];
};

static unsigned reads(enum direction direction) {
    return direction == FORWARD ? HEED_FORWARD_READS : HEED_BACKWARD_READS;
}

static unsigned writes(enum direction direction) {
    return direction == FORWARD ? HEED_FORWARD_WRITES : HEED_BACKWARD_WRITES;
}

/* Strides without gaps in the order that they had. Returns how many elements there are: what repeats is there
 * once, even if it is repeated no times. */
static int64_t close_gaps(struct heed_view *v) {
    int order[HEED_MAX_RANK];
    for (int d = 0; d < v->rank; d++) {
        int at = d;
        for (; at > 0 && v->stride[order[at - 1]] < v->stride[d]; at--) order[at] = order[at - 1];
        order[at] = d;
    }
    int64_t count = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        const int d = order[i];
        if (v->stride[d] == 0) continue;
        v->stride[d] = count;
        count *= v->size[d];
    }
    return count;
}

/* What the kernel passes over in this direction may be gone: one number, wherever it looks. */
static void hide(struct heed_view *view) {
    static const float nothing = 0.0f;
    for (int d = 0; d < view->rank; d++) view->stride[d] = 0;
    view->data = (void *)(uintptr_t)&nothing;
}

static void widen(void *self, struct heed_view *view, unsigned how) {
    struct widened *w = self;
    if (!heed_has(view) || view->dtype != HEED_BF16) return;
    w->any = true;
    const struct heed_view low = *view;
    view->dtype = HEED_F32;
    how &= reads(w->direction) | writes(w->direction);
    if (!how) {
        hide(view);
        return;
    }
    const size_t bytes = (size_t)close_gaps(view) * sizeof(float);
    if (w->scratch) {
        view->data = w->scratch + w->bytes;
        w->item[w->count].low = low;
        w->item[w->count].wide = *view;
        w->item[w->count++].how = how;
    }
    w->bytes += (bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
}

static void widen_args(struct widened *w, enum direction direction, enum heed_primitive primitive,
                       const void *args, void *scratch) {
    w->direction = direction;
    w->scratch = scratch;
    w->bytes = 0;
    w->count = 0;
    w->any = false;
    memcpy(w->args, args, heed_args_bytes(primitive));
    heed_args_visit(primitive, w->args, widen, w);
}

/* ---- conversion ---- */

/* Elements that repeat are converted once. */
static heed_status convert(struct heed_exec *exec, const struct heed_view *from, const struct heed_view *to) {
    struct heed_copy_args copy = {.x = *from, .y.view = *to};
    for (int d = 0; d < from->rank; d++)
        if (to->stride[d] == 0) copy.x.size[d] = copy.y.view.size[d] = 1;
    return heed_cpu_copy.forward(exec, &copy, NULL, NULL);
}

static heed_status read_all(struct heed_exec *exec, const struct widened *w) {
    heed_status status = HEED_OK;
    for (int i = 0; i < w->count && status == HEED_OK; i++)
        if (w->item[i].how & reads(w->direction)) status = convert(exec, &w->item[i].low, &w->item[i].wide);
    return status;
}

static heed_status write_all(struct heed_exec *exec, const struct widened *w) {
    heed_status status = HEED_OK;
    for (int i = 0; i < w->count && status == HEED_OK; i++)
        if (w->item[i].how & writes(w->direction)) status = convert(exec, &w->item[i].wide, &w->item[i].low);
    return status;
}

/* ---- the kernels ---- */

struct wrapped {
    enum heed_primitive primitive;
    const struct heed_kernel *kernel;
};

static bool wrapped_applies(const struct wrapped *of, const struct heed_exec *exec, const void *args,
                            struct heed_why *why) {
    struct widened w;
    widen_args(&w, FORWARD, of->primitive, args, NULL);
    if (w.any) return !of->kernel->applies || of->kernel->applies(exec, w.args, why);
    why->reason = "nothing is bf16";
    return false;
}

static void wrapped_sizes(const struct wrapped *of, const struct heed_exec *exec, const void *args,
                          struct heed_sizes *sizes) {
    struct heed_sizes inner = {0};
    struct widened w;
    widen_args(&w, FORWARD, of->primitive, args, NULL);
    if (of->kernel->sizes) of->kernel->sizes(exec, w.args, &inner);
    sizes->saved = inner.saved;
    sizes->forward_scratch = w.bytes + inner.forward_scratch;
    widen_args(&w, BACKWARD, of->primitive, args, NULL);
    inner = (struct heed_sizes){0};
    if (of->kernel->sizes && of->kernel->backward) of->kernel->sizes(exec, w.args, &inner);
    sizes->backward_scratch = w.bytes + inner.backward_scratch;
}

static heed_status wrapped_run(const struct wrapped *of, enum direction direction, struct heed_exec *exec,
                               const void *args, void *saved, void *scratch) {
    struct widened w;
    widen_args(&w, direction, of->primitive, args, scratch);
    void *rest = (char *)scratch + w.bytes;
    heed_status status = read_all(exec, &w);
    if (status == HEED_OK)
        status = direction == FORWARD ? of->kernel->forward(exec, w.args, saved, rest)
                                      : of->kernel->backward(exec, w.args, saved, rest);
    return status == HEED_OK ? write_all(exec, &w) : status;
}

#define WRAPPED(of, primitive, inner)                                                                        \
    static const struct wrapped of_##of = {primitive, &(inner)};                                             \
    static bool of##_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {         \
        return wrapped_applies(&of_##of, exec, args, why);                                                   \
    }                                                                                                        \
    static void of##_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {       \
        wrapped_sizes(&of_##of, exec, args, sizes);                                                          \
    }                                                                                                        \
    static heed_status of##_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {  \
        return wrapped_run(&of_##of, FORWARD, exec, args, saved, scratch);                                   \
    }

#define WRAPPED_BACKWARD(of)                                                                                 \
    static heed_status of##_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) { \
        return wrapped_run(&of_##of, BACKWARD, exec, args, saved, scratch);                                  \
    }

#define KERNEL_FORWARD(of, word, primitive, inner)                                                           \
    WRAPPED(of, primitive, inner)                                                                            \
    const struct heed_kernel heed_cpu_##of##_bf16 = {                                                        \
        .name = word, .applies = of##_applies, .sizes = of##_sizes, .forward = of##_forward};

#define KERNEL(of, word, primitive, inner)                                                                   \
    WRAPPED(of, primitive, inner)                                                                            \
    WRAPPED_BACKWARD(of)                                                                                     \
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

WRAPPED(product, HEED_PRIMITIVE_LINEAR, heed_cpu_linear)
WRAPPED_BACKWARD(product)

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
