/* What the tape does not keep and computes again: that it is gone meanwhile, comes back with the same bits,
 * once for all that need it, and that whoever has a handle never notices. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/heads.h"
#include "layers/layer.h"
#include "tensor/internal.h"

enum { ROWS = 24, WIDTH = 32, LEAVES = 8 };

static const heed_tensor none;

/* ---- programs: each makes something that can be computed again, and consumes it ---- */

struct program {
    const char *name;
    /* Of leaves x [2, 12, 32] and matrices or vectors of width 32. */
    heed_tensor (*run)(const heed_tensor *leaf, int number);
    int number;
};

enum { X, W1, W2, GAIN, BIAS };

static heed_tensor norm_linear(const heed_tensor *leaf, int number) {
    heed_tensor y = number ? heed_rms_norm(leaf[X], leaf[GAIN], 1e-3)
                           : heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3);
    return heed_linear(y, leaf[W1], none, NULL);
}

static heed_tensor two_products(const heed_tensor *leaf, int activation) {
    heed_linear_options options = {.activation = (heed_activation)activation};
    return heed_linear(heed_linear(leaf[X], leaf[W1], leaf[BIAS], &options), leaf[W2], none, NULL);
}

static heed_tensor elementwise(const heed_tensor *leaf, int number) {
    heed_tensor y = number == 0   ? heed_gelu(leaf[X])
                    : number == 1 ? heed_silu(leaf[X])
                    : number == 2 ? heed_gelu_tanh(leaf[X])
                                  : heed_pow_scalar(leaf[X], 3);
    return heed_mul(heed_linear(y, leaf[W1], none, NULL), y);
}

static heed_tensor gated(const heed_tensor *leaf, int number) {
    (void)number;
    heed_tensor gate = heed_silu(heed_linear(leaf[X], leaf[W1], none, NULL));
    return heed_linear(heed_mul(gate, heed_linear(leaf[X], leaf[W2], none, NULL)), leaf[W1], none, NULL);
}

static heed_tensor matrices(const heed_tensor *leaf, int number) {
    (void)number;
    heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], none, 1e-3);
    return heed_matmul(y, heed_transpose(y, -1, -2));
}

static heed_tensor dropped_out(const heed_tensor *leaf, int activation) {
    heed_linear_options options = {.activation = (heed_activation)activation};
    heed_tensor hidden = heed_linear(leaf[X], leaf[W1], leaf[BIAS], &options);
    return heed_linear(heed_dropout(hidden, 0.3), leaf[W2], none, NULL);
}

/* The second norm is made of the first, which is made again for it. */
static heed_tensor chain(const heed_tensor *leaf, int links) {
    heed_tensor y = leaf[X];
    for (int i = 0; i < links; i++) y = heed_layer_norm(y, leaf[GAIN], i % 2 ? leaf[BIAS] : none, 1e-2);
    return heed_linear(y, leaf[W1], none, NULL);
}

static heed_tensor viewed(const heed_tensor *leaf, int number) {
    heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3);
    if (number == 0) y = heed_reshape(y, 2, (int64_t[]){ROWS, WIDTH});
    if (number == 1) y = heed_slice(y, 1, 3, 10, 2); /* rows that lie apart */
    if (number == 2) y = heed_transpose(y, 0, 1);
    if (number == 3)
        return heed_linear(heed_slice(y, 2, 5, 13, 1), heed_slice(leaf[W1], 1, 0, 8, 1), none, NULL);
    return heed_linear(y, leaf[W1], leaf[BIAS], NULL);
}

static heed_tensor many_consumers(const heed_tensor *leaf, int number) {
    (void)number;
    heed_tensor y = heed_rms_norm(leaf[X], leaf[GAIN], 1e-3);
    heed_tensor a = heed_linear(y, leaf[W1], none, NULL), b = heed_linear(y, leaf[W2], leaf[BIAS], NULL);
    return heed_mul(heed_add(a, y), heed_gelu(b));
}

static heed_tensor attended(const heed_tensor *leaf, int number) {
    heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3), part[3];
    heed_tensor w[3] = {leaf[W1], leaf[W2], leaf[W1]}, bias[3] = {none, leaf[BIAS], none}, x[3] = {y, y, y};
    const heed_mha_weights weights = {.q = leaf[W1], .k = leaf[W2], .v = leaf[W1], .out = leaf[W2]};
    if (number == 0)
        return heed_multi_head_attention(y, none, none, &weights, NULL, &(heed_mha_call_options){.heads = 4},
                                         NULL);
    heed_project_heads(3, x, w, bias, (int64_t[]){4, 4, 4}, part);
    if (number == 1) return heed_attention(part[0], part[1], part[2], NULL, NULL, NULL);
    for (int i = 0; i < 2; i++) part[i] = heed_rotary_over(heed_rms_norm(part[i], none, 1e-3), NULL);
    return heed_attention(part[0], part[1], part[2], NULL, NULL, NULL);
}

static const struct program programs[] = {
    {"layer norm", norm_linear, 0},
    {"rms norm", norm_linear, 1},
    {"relu", two_products, HEED_ACTIVATION_RELU},
    {"gelu", two_products, HEED_ACTIVATION_GELU},
    {"gelu tanh", two_products, HEED_ACTIVATION_GELU_TANH},
    {"silu", two_products, HEED_ACTIVATION_SILU},
    {"tanh", two_products, HEED_ACTIVATION_TANH},
    {"sigmoid", two_products, HEED_ACTIVATION_SIGMOID},
    {"gelu alone", elementwise, 0},
    {"silu alone", elementwise, 1},
    {"gelu tanh alone", elementwise, 2},
    {"power alone", elementwise, 3},
    {"a gate", gated, 0},
    {"matrix products", matrices, 0},
    {"dropout of gelu", dropped_out, HEED_ACTIVATION_GELU},
    {"dropout of tanh", dropped_out, HEED_ACTIVATION_TANH},
    {"two norms", chain, 2},
    {"seven norms", chain, 7},
    {"reshaped", viewed, 0},
    {"sliced", viewed, 1},
    {"transposed", viewed, 2},
    {"columns", viewed, 3},
    {"many consumers", many_consumers, 0},
    {"multi-head attention", attended, 0},
    {"heads", attended, 1},
    {"normed and turned heads", attended, 2},
};
enum { PROGRAMS = (int)(sizeof programs / sizeof *programs) };

/* ---- running one ---- */

struct outcome {
    double *values[LEAVES + 1]; /* gradients, and the result */
    int64_t count[LEAVES + 1];
    size_t kept; /* by the tape, when forward has run */
};

static void make_leaves(heed_ctx *ctx, heed_tensor *leaf) {
    leaf[X] = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(2, ROWS / 2, WIDTH));
    leaf[W1] = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(WIDTH, WIDTH));
    leaf[W2] = test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(WIDTH, WIDTH));
    leaf[GAIN] = test_tensor(ctx, HEED_F32, 4, TEST_SHAPE(WIDTH));
    leaf[BIAS] = test_tensor(ctx, HEED_F32, 5, TEST_SHAPE(WIDTH));
    for (int i = X; i <= BIAS; i++) heed_require_grad(leaf[i], true);
}

/* nested: what the program makes ends before backward runs. passes: of backward, all but the last retained.
 */
static struct outcome run(const struct test_device *device, const struct program *p, bool nested,
                          int passes) {
    heed_ctx *ctx = test_ctx(device);
    heed_tensor leaf[LEAVES];
    struct outcome o = {{NULL}, {0}, 0};
    make_leaves(ctx, leaf);
    heed_random_state start = {.seed = 11};
    heed_random_set(ctx, &start);
    heed_step_begin(ctx, HEED_TRAIN);
    const size_t before = heed_memory(ctx).in_use;
    if (nested) heed_scope_begin(ctx);
    heed_tensor y = p->run(leaf, p->number);
    if (nested) y = heed_scope_end(ctx, y);
    o.kept = heed_memory(ctx).in_use - before;
    heed_tensor loss = heed_sum(heed_mul(y, y), HEED_ALL, false);
    for (int i = 1; i <= passes; i++)
        heed_backward_with(loss, &(heed_backward_options){.retain = i < passes});
    ck_assert_msg(!heed_failed(ctx), "%s: %s", p->name, heed_error(ctx));
    o.values[LEAVES] = test_values(y, &o.count[LEAVES]);
    for (int i = X; i <= BIAS; i++) {
        heed_tensor g = heed_grad(leaf[i]);
        if (!heed_is_none(g)) o.values[i] = test_values(g, &o.count[i]);
    }
    heed_step_end(ctx);
    ck_assert_uint_eq(heed_memory_overruns(ctx->exec.memory), 0);
    heed_ctx_free(ctx);
    return o;
}

static void same(const struct program *p, const char *what, struct outcome *a, struct outcome *b) {
    for (int i = 0; i <= LEAVES; i++) {
        ck_assert(!a->values[i] == !b->values[i]);
        for (int64_t k = 0; k < a->count[i]; k++) {
            const double expected = a->values[i][k];
            ck_assert_msg(expected == b->values[i][k], "%s, %s: number %d of %d is %.9g and not %.9g",
                          p->name, what, (int)k, i, b->values[i][k], expected);
        }
        free(a->values[i]);
        free(b->values[i]);
    }
}

/* Values that were computed again have the same bits, and take no memory meanwhile. */
START_TEST(the_same_bits) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    const struct program *p = &programs[_i];
    for (int d = 0; d < count; d++) {
        char name[80];
        struct outcome flat = run(&devices[d], p, false, 1), nested = run(&devices[d], p, true, 1);
        ck_assert_msg(nested.kept + ROWS * WIDTH * 2 < flat.kept, "%s keeps %d bytes, %d if handles live",
                      p->name, (int)nested.kept, (int)flat.kept);
        same(p, test_device_name(&devices[d], name, sizeof name), &flat, &nested);
    }
}
END_TEST

/* A retained graph gives them again. */
START_TEST(retained) {
    const struct test_device device = {"cpu", NULL, 2};
    struct outcome flat = run(&device, &programs[_i], false, 3),
                   nested = run(&device, &programs[_i], true, 3);
    same(&programs[_i], "retained", &flat, &nested);
}
END_TEST

/* ---- memory ---- */

enum { BIG = 128 };

static heed_tensor big(heed_ctx *ctx, uint64_t seed) {
    heed_tensor t = test_tensor(ctx, HEED_F32, seed, TEST_SHAPE(BIG, BIG));
    heed_require_grad(t, true);
    return t;
}

static size_t in_use(heed_ctx *ctx) {
    return heed_memory(ctx).in_use;
}

/* A hidden layer of four times the width is kept once and not twice. */
START_TEST(feed_forward_keeps_one) {
    heed_ctx *ctx = test_cpu();
    heed_tensor x = big(ctx, 1), w1 = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(4 * BIG, BIG)),
                w2 = test_tensor(ctx, HEED_F32, 3, TEST_SHAPE(BIG, 4 * BIG));
    const size_t hidden = 4 * BIG * BIG * sizeof(float), y_bytes = hidden / 4, slack = hidden / 16;
    heed_require_grad(w1, true);
    heed_require_grad(w2, true);
    for (int i = 0; i < 4; i++) {
        const double dropout = i % 2 ? 0.1 : 0;
        heed_step_begin(ctx, HEED_TRAIN);
        const size_t before = in_use(ctx);
        heed_tensor y = heed_feed_forward(x, w1, none, w2, none,
                                          i < 2 ? HEED_ACTIVATION_GELU : HEED_ACTIVATION_TANH, dropout);
        const size_t kept = in_use(ctx) - before;
        ck_assert_msg(kept < hidden + y_bytes + slack, "%d bytes are kept, of which y is %d", (int)kept,
                      (int)y_bytes);
        const heed_backward_options options = {
            .gradient = test_tensor(ctx, HEED_F32, 4, TEST_SHAPE(BIG, BIG)), .retain = true};
        heed_backward_with(y, &options);
        const size_t after = in_use(ctx);
        heed_backward_with(y, &options);
        ck_assert_msg(in_use(ctx) == after, "what was made again stays: %d bytes and then %d", (int)after,
                      (int)in_use(ctx));
        ck_assert_msg(after < before + hidden + 11 * y_bytes + slack, "a retained graph keeps %d bytes",
                      (int)(after - before));
        ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* ---- how often ---- */

static int64_t forwards;

static heed_status counted_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    forwards++;
    return heed_ref_kernels[HEED_PRIMITIVE_NORM]->forward(exec, args, saved, scratch);
}

static heed_status counted_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    return heed_ref_kernels[HEED_PRIMITIVE_NORM]->backward(exec, args, saved, scratch);
}

static void counted_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    heed_ref_kernels[HEED_PRIMITIVE_NORM]->sizes(exec, args, sizes);
}

static const struct heed_kernel counted = {
    .name = "counted", .sizes = counted_sizes, .forward = counted_forward, .backward = counted_backward};

START_TEST(once_for_all) {
    heed_ctx *ctx = test_ref();
    heed_tensor leaf[LEAVES];
    ctx->exec.kernel[HEED_PRIMITIVE_NORM][0] = &counted;
    make_leaves(ctx, leaf);
    heed_step_begin(ctx, HEED_TRAIN);
    forwards = 0;
    heed_scope_begin(ctx);
    heed_tensor y = heed_scope_end(ctx, many_consumers(leaf, 0));
    heed_tensor loss = heed_sum(y, HEED_ALL, false);
    ck_assert_int_eq(forwards, 1);
    heed_backward_with(loss, &(heed_backward_options){.retain = true});
    ck_assert_int_eq(forwards, 2);
    heed_backward(loss);
    ck_assert_int_eq(forwards, 3);
    heed_step_end(ctx);
    /* Not at all where a handle lives. */
    heed_step_begin(ctx, HEED_TRAIN);
    forwards = 0;
    heed_backward(heed_sum(many_consumers(leaf, 0), HEED_ALL, false));
    ck_assert_int_eq(forwards, 1);
    heed_step_end(ctx);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- handles ---- */

/* Whatever still looks at the elements keeps them. */
START_TEST(handles_keep_elements) {
    heed_ctx *ctx = test_cpu();
    heed_tensor leaf[LEAVES];
    make_leaves(ctx, leaf);
    for (int i = 0; i < 4; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_scope_begin(ctx);
        heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3), view = y;
        heed_tensor sum = heed_sum(heed_linear(y, leaf[W1], none, NULL), HEED_ALL, false);
        heed_tensor expected = heed_keep(heed_contiguous(heed_transpose(y, 1, 2)));
        if (i == 1) view = heed_reshape(y, 2, (int64_t[]){ROWS, WIDTH});
        if (i == 2) view = heed_transpose(y, 1, 2);
        if (i == 3) view = heed_detach(y);
        view = heed_scope_end(ctx, view);
        (void)sum; /* ended, and with it the way to it; the tape has it still */
        for (int pass = 0; pass < 2; pass++) {
            heed_tensor same =
                i == 2 ? view : heed_transpose(heed_reshape(view, 3, (int64_t[]){2, ROWS / 2, WIDTH}), 1, 2);
            double *a, *b;
            int64_t count;
            a = test_values(same, &count);
            b = test_values(expected, &count);
            ck_assert(memcmp(a, b, (size_t)count * sizeof *a) == 0);
            free(a);
            free(b);
            if (i < 3 && pass == 0) heed_backward(heed_sum(heed_mul(view, view), HEED_ALL, false));
        }
        heed_free(expected);
        ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    }
    heed_ctx_free(ctx);
}
END_TEST

/* ---- graphs that are used in parts ---- */

/* The trunk is freed by the first loss; what the second one needs of it without its gradient is there. */
START_TEST(behind_a_detached_tensor) {
    for (int scoped = 0; scoped < 2; scoped++) {
        heed_ctx *ctx = test_cpu();
        heed_tensor leaf[LEAVES];
        make_leaves(ctx, leaf);
        heed_step_begin(ctx, HEED_TRAIN);
        if (scoped) heed_scope_begin(ctx);
        heed_tensor y = heed_linear(leaf[X], leaf[W1], leaf[BIAS],
                                    &(heed_linear_options){.activation = HEED_ACTIVATION_GELU});
        heed_tensor first = heed_sum(heed_linear(y, leaf[W1], none, NULL), HEED_ALL, false);
        heed_tensor second = heed_sum(heed_linear(heed_detach(y), leaf[W2], none, NULL), HEED_ALL, false);
        double sum_of_y = heed_item(heed_sum(heed_slice(y, 2, 0, 1, 1), HEED_ALL, false));
        if (scoped) first = heed_scope_end_two(ctx, first, &second);
        ck_assert_int_eq(heed_backward(first), HEED_OK);
        ck_assert_int_eq(heed_backward(second), HEED_OK);
        /* The gradient of each row of W2 is the sum of y's rows. */
        double got = heed_at(heed_grad(leaf[W2]), 2, (int64_t[]){3, 0});
        ck_assert_msg(fabs(got - sum_of_y) < 1e-4 * (1 + fabs(sum_of_y)), "%g and not %g", got, sum_of_y);
        heed_step_end(ctx);
        test_ok(ctx);
        heed_ctx_free(ctx);
    }
}
END_TEST

/* A branch that backward never reaches ends with the step, or with the error. */
START_TEST(unused_branches) {
    heed_ctx *ctx = test_cpu();
    heed_tensor leaf[LEAVES];
    make_leaves(ctx, leaf);
    const size_t before = in_use(ctx);
    for (int i = 0; i < 3; i++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_scope_begin(ctx);
        heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3);
        heed_linear(y, leaf[W2], none, NULL);
        heed_tensor z = heed_scope_end(ctx, heed_linear(y, leaf[W1], none, NULL));
        if (i > 0) heed_backward(heed_sum(z, HEED_ALL, false));
        if (i == 2) {
            heed_backward(heed_sum(z, HEED_ALL, false));
            test_error(ctx, HEED_ERROR_STATE, "the graph through linear was freed", "again");
        }
        heed_step_end(ctx);
        test_ok(ctx);
        for (int k = X; k <= BIAS; k++) heed_grad_clear(leaf[k]);
    }
    ck_assert_msg(in_use(ctx) < before + 5 * WIDTH * WIDTH * sizeof(float) + 40000, "%d bytes and then %d",
                  (int)before, (int)in_use(ctx));
    heed_ctx_free(ctx);
}
END_TEST

/* ---- what cannot be made again ---- */

static heed_tensor normed(heed_ctx *ctx, const heed_tensor *leaf) {
    heed_scope_begin(ctx);
    heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3);
    return heed_scope_end(ctx, heed_sum(heed_linear(y, leaf[W1], none, NULL), HEED_ALL, false));
}

START_TEST(overwritten_ingredients) {
    heed_ctx *ctx = test_cpu();
    heed_tensor leaf[LEAVES];
    make_leaves(ctx, leaf);
    static const int written[] = {X, GAIN, BIAS};
    float numbers[ROWS * WIDTH] = {1};
    for (int i = 0; i < 3; i++) {
        heed_tensor t = leaf[written[i]];
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor loss = normed(ctx, leaf);
        ck_assert_int_eq(heed_write(t, numbers, (size_t)heed_count(t) * sizeof *numbers), HEED_OK);
        ck_assert_int_eq(heed_backward(loss), HEED_ERROR_STATE);
        test_error(ctx, HEED_ERROR_STATE, "a tensor that layer_norm needs was overwritten since", "norm");
        heed_step_end(ctx);
    }
    heed_ctx_free(ctx);
}
END_TEST

/* Written over through a detached handle: not made again as it was. */
START_TEST(overwritten_result) {
    heed_ctx *ctx = test_cpu();
    heed_tensor leaf[LEAVES];
    make_leaves(ctx, leaf);
    float numbers[ROWS * WIDTH] = {1};
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_tensor y = heed_layer_norm(leaf[X], leaf[GAIN], leaf[BIAS], 1e-3);
    heed_tensor loss = heed_sum(heed_linear(y, leaf[W1], none, NULL), HEED_ALL, false);
    heed_write(heed_detach(y), numbers, sizeof numbers);
    loss = heed_scope_end(ctx, loss);
    ck_assert_int_eq(heed_backward(loss), HEED_ERROR_STATE);
    test_error(ctx, HEED_ERROR_STATE, "a tensor that linear needs was overwritten since", "linear");
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* Operations of the user's own have their inputs where they were. */
static heed_status first_of_all(const heed_custom_call *call) {
    *(float *)call->output[0].data = *(const float *)call->input[0].data;
    return HEED_OK;
}

static heed_status square_back(const heed_custom_call *call) {
    *(float *)call->d_input[0].data = 2 * *(const float *)call->input[0].data;
    return HEED_OK;
}

START_TEST(custom_operations_keep_inputs) {
    heed_ctx *ctx = test_cpu();
    heed_tensor leaf[LEAVES];
    make_leaves(ctx, leaf);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_tensor y = heed_silu(leaf[BIAS]), z;
    const double first = heed_at(y, 1, (int64_t[]){0});
    heed_linear(heed_reshape(y, 2, (int64_t[]){1, WIDTH}), leaf[W1], none, NULL);
    heed_custom_op(ctx,
                   &(heed_custom_options){.name = "first",
                                          .forward = first_of_all,
                                          .backward = square_back,
                                          .inputs = 1,
                                          .input = &y,
                                          .outputs = 1,
                                          .output = &(heed_raw){.dtype = HEED_F32, .rank = 0}},
                   &z);
    z = heed_scope_end(ctx, z);
    heed_backward(z);
    test_ok(ctx);
    float x0;
    heed_read(heed_slice(leaf[BIAS], 0, 0, 1, 1), &x0, sizeof x0);
    const double s = 1 / (1 + exp(-(double)x0)), slope = s * (1 + (double)x0 * (1 - s));
    const double got = heed_at(heed_grad(leaf[BIAS]), 1, (int64_t[]){0});
    ck_assert_msg(fabs(got - 2 * first * slope) < 1e-5, "%g and not %g", got, 2 * first * slope);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- deep and failing ---- */

/* However long a chain is, the work is proportional, and no call is within a call for each link. */
START_TEST(a_long_chain) {
    heed_ctx *ctx = test_cpu();
    const int links = (int)test_size(20000, 500);
    heed_tensor x = test_tensor(ctx, HEED_F32, 1, TEST_SHAPE(1, 4)),
                w = test_tensor(ctx, HEED_F32, 2, TEST_SHAPE(1, 4));
    heed_require_grad(x, true);
    heed_require_grad(w, true);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_scope_begin(ctx);
    heed_tensor y = x;
    for (int i = 0; i < links; i++) y = heed_rms_norm(y, none, 1e-3);
    heed_tensor z = heed_scope_end(ctx, heed_linear(y, w, none, NULL));
    ck_assert_int_eq(heed_backward(z), HEED_OK);
    test_ok(ctx);
    heed_step_end(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* Memory that ends while something is made again is an error, and the next step is as if nothing had been. */
START_TEST(out_of_memory) {
    for (int64_t n = 1; n < 200; n++) {
        struct test_allocator state = {0};
        heed_ctx *ctx = heed_ctx_new(
            &(heed_ctx_options){.threads = 1, .allocator = test_allocator(&state), .chunk_bytes = 1});
        heed_tensor leaf[LEAVES];
        make_leaves(ctx, leaf);
        heed_step_begin(ctx, HEED_TRAIN);
        heed_scope_begin(ctx);
        heed_tensor y = chain(leaf, 3);
        heed_tensor loss = heed_scope_end(ctx, heed_sum(y, HEED_ALL, false));
        test_ok(ctx);
        state.calls = 0;
        state.fail_at = n;
        const heed_status status = heed_backward(loss);
        const bool reached = state.calls >= n;
        ck_assert_int_eq(status, reached ? HEED_ERROR_MEMORY : HEED_OK);
        state.fail_at = 0;
        heed_error_clear(ctx);
        heed_step_end(ctx);
        heed_step_begin(ctx, HEED_TRAIN);
        ck_assert_int_eq(heed_backward(heed_sum(chain(leaf, 3), HEED_ALL, false)), HEED_OK);
        heed_step_end(ctx);
        heed_ctx_free(ctx);
        ck_assert_int_eq(state.living, 0);
        if (!reached) return;
    }
    ck_abort_msg("backward allocates without end");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("remake");
    TCase *tcase = test_case(suite, "bits");
    tcase_add_loop_test(tcase, the_same_bits, 0, PROGRAMS);
    tcase_add_loop_test(tcase, retained, 0, PROGRAMS);
    tcase = test_case(suite, "memory");
    tcase_add_test(tcase, feed_forward_keeps_one);
    tcase_add_test(tcase, once_for_all);
    tcase_add_test(tcase, handles_keep_elements);
    tcase_add_test(tcase, behind_a_detached_tensor);
    tcase_add_test(tcase, unused_branches);
    tcase_add_test(tcase, overwritten_ingredients);
    tcase_add_test(tcase, overwritten_result);
    tcase_add_test(tcase, custom_operations_keep_inputs);
    tcase_add_test(tcase, a_long_chain);
    tcase_add_test(tcase, out_of_memory);
    return test_main(suite);
}
