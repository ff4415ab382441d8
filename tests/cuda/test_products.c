/* Matrix products of the CUDA backend on the emulated device: which implementation makes them, what is fused
 * and joined, that plans are kept, few, and given back, and every call failing once. */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulation.h"
#include "fakes/cublaslt.h"
#include "harness.h"

/* cublasLt.h's numbers, in a file that is C without CUDA's headers. */
enum { DEFAULT = 1, BIAS = 4, GELU_AUX = 160, GELU_AUX_BIAS = 164, BGRADB = 512 };
enum { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_TF32 = 77 };
enum { F32 = 0, F64 = 1, BF16 = 14 };

static heed_ctx *context_of(heed_dtype precision, const char *products) {
    if (products)
        setenv("HEED_CUDA_PRODUCTS", products, 1);
    else
        unsetenv("HEED_CUDA_PRODUCTS");
    return heed_ctx_new(
        &(heed_ctx_options){.device = "cudaemu", .precision = precision, .chunk_bytes = 1, .poison = true});
}

static heed_ctx *new_context(const char *products) {
    return context_of(HEED_F32, products);
}

/* A function of a library that is loaded, with the name `name` in its path. */
static void *find(const char *name, const char *function) {
    void *library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(library != NULL, "%s", dlerror());
    void *found = dlsym(library, function);
    ck_assert_msg(found != NULL, "%s", dlerror());
    return found;
}

static struct fake_cublaslt *fake(void) {
    heed_fake_cublaslt_function *function;
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%s", HEED_TEST_CUBLAS);
    *(void **)&function = find(name, "heed_fake_cublaslt");
    return function();
}

static void explains(heed_ctx *ctx, const char *part) {
    char text[8000];
    heed_explain(ctx, text, sizeof text);
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" is not in\n%s", part, text);
}

static void last_was(int epilogue, int compute, int64_t m, int64_t n, int64_t k, int64_t batch) {
    const struct fake_cublaslt *last = fake();
    ck_assert_int_eq(last->epilogue, epilogue);
    ck_assert_int_eq(last->compute, compute);
    ck_assert_int_eq(last->m, m);
    ck_assert_int_eq(last->n, n);
    ck_assert_int_eq(last->k, k);
    ck_assert_int_eq(last->batch, batch);
}

static heed_tensor normal(heed_ctx *ctx, heed_dtype dtype, int rank, const int64_t *size) {
    return heed_cast(heed_normal(ctx, dtype == HEED_BF16 ? HEED_F32 : dtype, rank, size, 0, 1), dtype);
}

static heed_tensor sum(heed_tensor x) {
    return heed_sum(x, 0, NULL, false);
}

/* y = activation(x·wᵀ + bias), x [6, 24], w [16, 24]; of x nobody wants the gradient. */
static heed_tensor linear(heed_ctx *ctx, heed_dtype dtype, heed_activation activation, bool bias) {
    const heed_linear_options options = {.activation = activation};
    heed_tensor x = normal(ctx, dtype, TEST_SHAPE(6, 24)), w = normal(ctx, dtype, TEST_SHAPE(16, 24)),
                b = {0};
    heed_require_grad(w, true);
    if (bias) {
        b = normal(ctx, dtype, TEST_SHAPE(16));
        heed_require_grad(b, true);
    }
    return heed_linear(x, w, b, &options);
}

/* ---- which, and why ---- */

START_TEST(choice) {
    heed_ctx *ctx = new_context(NULL);
    linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true);
    explains(ctx, "cuBLASLt " HEED_TEST_CUBLAS);
    explains(ctx, "products in f32");
    explains(ctx, "linear: cublaslt, 1 runs; f32, 6 x 16 x 24, 1 times with bias");
    last_was(BIAS, COMPUTE_32F, 16, 6, 24, 1);
    linear(ctx, HEED_F64, HEED_ACTIVATION_NONE, false);
    last_was(DEFAULT, COMPUTE_64F, 16, 6, 24, 1);
    heed_ctx_free(ctx);

    ctx = new_context("tf32");
    explains(ctx, "products in tf32");
    linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true);
    last_was(BIAS, COMPUTE_TF32, 16, 6, 24, 1);
    heed_ctx_free(ctx);

    ctx = context_of(HEED_BF16, NULL);
    linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true);
    explains(ctx, "linear: cublaslt, 1 runs; bf16, 6 x 16 x 24, 1 times with bias");
    heed_step_begin(ctx, HEED_TRAIN);
    heed_backward(sum(linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true)));
    explains(ctx, "; bf16 to f32, 16 x 24 x 6, 1 times with the gradient of the bias");
    heed_step_end(ctx);
    heed_ctx_free(ctx);

    ctx = new_context("own");
    const int64_t before = fake()->products;
    linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true);
    explains(ctx, "heed's own products (HEED_CUDA_PRODUCTS is own)");
    explains(ctx, "linear: cuda, 1 runs\n    not cublaslt: HEED_CUDA_PRODUCTS is own\n");
    ck_assert_int_eq(fake()->products, before);
    heed_ctx_free(ctx);

    ctx = new_context("f16");
    ck_assert_int_eq(heed_error_status(ctx), HEED_ERROR_DEVICE);
    ck_assert_msg(strstr(heed_error(ctx), "HEED_CUDA_PRODUCTS=f16 is not one of f32, tf32, own") != NULL,
                  "%s", heed_error(ctx));
    heed_ctx_free(ctx);
}
END_TEST

/* Run again as a program of its own: a process opens the library once. */
static int without_library(void) {
    heed_ctx *ctx = new_context(NULL);
    char text[8000];
    heed_tensor y = linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, true);
    heed_explain(ctx, text, sizeof text);
    const bool ok =
        heed_is_valid(y) &&
        strstr(text,
               "heed's own products (cuBLASLt: libcublasLt.so." HEED_TEST_CUBLAS " cannot be opened)") &&
        strstr(text, "    not cublaslt: cuBLASLt: libcublasLt.so." HEED_TEST_CUBLAS " cannot be opened\n");
    if (!ok) fputs(text, stderr);
    heed_ctx_free(ctx);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

START_TEST(missing_library) {
    char command[4096];
    snprintf(command, sizeof command, "LD_LIBRARY_PATH=%s /proc/%d/exe --without-library",
             getenv("HEED_TEST_BROKEN"), (int)getpid());
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* ---- what is asked of cuBLASLt ---- */

static const struct fused {
    heed_dtype precision, dtype;
    heed_activation activation;
    bool bias, record;
    const char *products;
    int epilogue, gradient; /* of the product forward, and of the one for dw */
    int types[3];           /* of factors, y and dw */
} fused[] = {
    {HEED_F32, HEED_F32, HEED_ACTIVATION_NONE, true, true, NULL, BIAS, BGRADB, {F32, F32, F32}},
    {HEED_F32, HEED_F32, HEED_ACTIVATION_NONE, false, true, NULL, DEFAULT, DEFAULT, {F32, F32, F32}},
    {HEED_F32,
     HEED_F32,
     HEED_ACTIVATION_GELU_TANH,
     true,
     true,
     NULL,
     BIAS,
     BGRADB,
     {F32, F32, F32}}, /* exact tanh */
    {HEED_F32,
     HEED_F32,
     HEED_ACTIVATION_GELU_TANH,
     true,
     true,
     "tf32",
     GELU_AUX_BIAS,
     BGRADB,
     {F32, F32, F32}},
    {HEED_F32, HEED_F32, HEED_ACTIVATION_GELU_TANH, false, true, "tf32", GELU_AUX, DEFAULT, {F32, F32, F32}},
    {HEED_F32,
     HEED_F32,
     HEED_ACTIVATION_GELU_TANH,
     true,
     false,
     "tf32",
     GELU_AUX_BIAS,
     0,
     {F32, F32, F32}}, /* the same bits */
    {HEED_F32,
     HEED_F32,
     HEED_ACTIVATION_GELU,
     true,
     true,
     "tf32",
     BIAS,
     BGRADB,
     {F32, F32, F32}}, /* another formula */
    {HEED_F32, HEED_F32, HEED_ACTIVATION_RELU, true, true, "tf32", BIAS, BGRADB, {F32, F32, F32}},
    {HEED_F32, HEED_F64, HEED_ACTIVATION_GELU_TANH, true, true, "tf32", DEFAULT, DEFAULT, {F64, F64, F64}},
    {HEED_F32, HEED_BF16, HEED_ACTIVATION_NONE, true, true, NULL, BIAS, BGRADB, {BF16, BF16, BF16}},
    {HEED_F32,
     HEED_BF16,
     HEED_ACTIVATION_GELU_TANH,
     true,
     true,
     NULL,
     GELU_AUX_BIAS,
     BGRADB,
     {BF16, BF16, BF16}},
    {HEED_F32, HEED_BF16, HEED_ACTIVATION_SILU, false, true, "tf32", DEFAULT, DEFAULT, {BF16, BF16, BF16}},
    /* parameters and their gradients are f32, and read as bf16 */
    {HEED_BF16, HEED_F32, HEED_ACTIVATION_NONE, true, true, NULL, BIAS, BGRADB, {BF16, BF16, F32}},
    {HEED_BF16,
     HEED_F32,
     HEED_ACTIVATION_GELU_TANH,
     true,
     true,
     NULL,
     GELU_AUX_BIAS,
     BGRADB,
     {BF16, BF16, F32}},
    {HEED_BF16, HEED_F32, HEED_ACTIVATION_GELU_TANH, true, false, NULL, GELU_AUX_BIAS, 0, {BF16, BF16, F32}},
    {HEED_BF16, HEED_F32, HEED_ACTIVATION_RELU, false, true, NULL, DEFAULT, DEFAULT, {BF16, BF16, F32}},
};

START_TEST(epilogues) {
    const struct fused *row = &fused[_i];
    heed_ctx *ctx = context_of(row->precision, row->products);
    heed_step_begin(ctx, row->record ? HEED_TRAIN : HEED_EVAL);
    heed_tensor y = linear(ctx, row->dtype, row->activation, row->bias);
    ck_assert_int_eq(fake()->epilogue, row->epilogue);
    ck_assert_int_eq(fake()->factors, row->types[0]);
    ck_assert_int_eq(fake()->result, row->types[1]);
    const int64_t before = fake()->products;
    if (row->record) {
        heed_backward(sum(y));
        ck_assert_int_eq(fake()->products, before + 1);
        ck_assert_int_eq(fake()->epilogue, row->gradient);
        ck_assert_int_eq(fake()->factors, row->types[0]);
        ck_assert_int_eq(fake()->result, row->types[2]);
    }
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    heed_ctx_free(ctx);
}
END_TEST

/* a·b of batches as one product where they can be joined; with strides where not; own where neither. */
START_TEST(batches) {
    heed_ctx *ctx = new_context(NULL);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor a = normal(ctx, HEED_F32, TEST_SHAPE(4, 3, 20)), w = normal(ctx, HEED_F32, TEST_SHAPE(20, 8));
    heed_require_grad(w, true);
    heed_tensor y = heed_matmul(a, w);
    last_was(DEFAULT, COMPUTE_32F, 8, 12, 20, 1); /* rows of all batches */
    heed_backward(sum(y));
    last_was(DEFAULT, COMPUTE_32F, 8, 20, 12, 1); /* and their sum */

    heed_tensor b = normal(ctx, HEED_F32, TEST_SHAPE(4, 20, 8));
    heed_matmul(a, b);
    last_was(DEFAULT, COMPUTE_32F, 8, 3, 20, 4);
    heed_matmul(heed_transpose(a, -1, -2), heed_matmul(a, b));
    last_was(DEFAULT, COMPUTE_32F, 8, 20, 3, 4);

    heed_tensor heads =
        heed_transpose(normal(ctx, HEED_F32, TEST_SHAPE(2, 5, 3, 4)), 1, 2); /* [2, 3, 5, 4] */
    const int64_t before = fake()->products;
    heed_matmul(heads, heed_transpose(heads, -1, -2));
    ck_assert_int_eq(fake()->products, before);
    explains(ctx, "    not cublaslt: cuBLASLt: batches are not one stride apart\n");
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s", heed_error(ctx));
    heed_ctx_free(ctx);
}
END_TEST

/* ---- the same shapes with other strides, one after another in one context ---- */

/* Of a leaf some of a dimension, and its dimensions in another order; both make [4, rows, columns], or 1 of
 * that. */
struct operand {
    int64_t leaf[3];
    int slice; /* 0: none; else the dimension, counted from 1 */
    int64_t first, end;
    int order[3]; /* all 0: as it is */
};

static const struct strides {
    struct operand a, b;
} strides[] = {
    {{{4, 3, 20}}, {{4, 20, 8}}},
    {{{4, 3, 40}, 3, 0, 20}, {{4, 20, 8}}},
    {{{4, 3, 21}, 3, 1, 21}, {{4, 20, 9}, 3, 1, 9}}, /* at odd places */
    {{{4, 20, 3}, .order = {0, 2, 1}}, {{4, 20, 8}}},
    {{{4, 3, 20}}, {{4, 20, 16}, 3, 0, 8}},
    {{{4, 3, 20}}, {{4, 8, 20}, .order = {0, 2, 1}}},
    {{{4, 5, 20}, 2, 0, 3}, {{4, 20, 8}}}, /* gaps between batches */
    {{{4, 3, 20}}, {{1, 20, 8}}},          /* rows of all batches */
    {{{4, 5, 20}, 2, 0, 3}, {{1, 20, 8}}}, /* neither they nor their sum can be joined */
    {{{1, 3, 20}}, {{4, 20, 8}}},
    {{{3, 4, 20}, .order = {1, 0, 2}}, {{1, 20, 8}}},
    {{{4, 1, 20}}, {{20, 4, 8}, .order = {1, 0, 2}}}, /* what looks like columns of one product */
    {{{1, 1, 20}}, {{20, 4, 8}, .order = {1, 0, 2}}}, /* and here is */
    {{{1, 1, 20}}, {{4, 20, 8}}},
    {{{1, 1, 20}}, {{4, 16, 20}, 2, 8, 16, {0, 2, 1}}}, /* what looks like one sum */
    {{{4, 3, 40}, 3, 0, 20}, {{4, 16, 20}, 2, 8, 16, {0, 2, 1}}},
};
enum { STRIDES = sizeof strides / sizeof *strides, MOST_NUMBERS = 1280 };

static heed_tensor view_of(heed_tensor leaf, const struct operand *o) {
    heed_tensor t = leaf;
    if (o->slice) t = heed_slice(t, o->slice - 1, o->first, o->end, 1);
    return o->order[0] || o->order[1] ? heed_permute(t, 3, o->order) : t;
}

static int64_t put(double *to, heed_tensor t) {
    int64_t count;
    double *values = test_values(t, &count);
    ck_assert_int_le(count, MOST_NUMBERS);
    memcpy(to, values, (size_t)count * sizeof *to);
    free(values);
    return count;
}

/* y, da, db of each, and how many there are. */
static void multiply_all(const char *device, double (*to)[3 * MOST_NUMBERS], int64_t *counts) {
    unsetenv("HEED_CUDA_PRODUCTS");
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = device, .poison = true, .seed = 5});
    for (int i = 0; i < STRIDES; i++) {
        const struct strides *row = &strides[i];
        heed_step_begin(ctx, HEED_TRAIN);
        heed_tensor a = heed_normal(ctx, HEED_F32, 3, row->a.leaf, 0, 1),
                    b = heed_normal(ctx, HEED_F32, 3, row->b.leaf, 0, 1);
        heed_require_grad(a, true);
        heed_require_grad(b, true);
        heed_tensor y = heed_matmul(view_of(a, &row->a), view_of(b, &row->b));
        heed_backward(sum(heed_mul(y, y)));
        test_ok(ctx);
        counts[i] = put(to[i], y);
        counts[i] += put(to[i] + counts[i], heed_grad(a));
        counts[i] += put(to[i] + counts[i], heed_grad(b));
        heed_step_end(ctx);
    }
    heed_ctx_free(ctx);
}

START_TEST(strides_of_one_shape) {
    static double of_ref[STRIDES][3 * MOST_NUMBERS], of_cuda[STRIDES][3 * MOST_NUMBERS];
    int64_t counts[STRIDES], again[STRIDES];
    multiply_all("ref", of_ref, counts);
    multiply_all("cudaemu", of_cuda, again);
    for (int i = 0; i < STRIDES; i++) {
        ck_assert_int_eq(counts[i], again[i]);
        for (int64_t j = 0; j < counts[i]; j++)
            ck_assert_msg(fabs(of_ref[i][j] - of_cuda[i][j]) <= 1e-5 * (1 + fabs(of_ref[i][j])),
                          "row %d, number %d of %d: %g, not %g", i, (int)j, (int)counts[i], of_cuda[i][j],
                          of_ref[i][j]);
    }
}
END_TEST

/* With and without what is in the epilogue. */
START_TEST(epilogues_of_one_shape) {
    heed_ctx *ctx = new_context(NULL);
    for (int i = 0; i < 4; i++) {
        linear(ctx, HEED_F32, HEED_ACTIVATION_NONE, i % 2);
        ck_assert_int_eq(fake()->epilogue, i % 2 ? BIAS : DEFAULT);
    }
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- gradients through the activation before ---- */

enum { TOKENS = 6, MODEL = 24, HIDDEN = 16, NET = 5 };

static const struct net {
    heed_dtype precision;
    heed_activation activation;
    const char *products, *algorithms; /* of the fake */
    bool twice, between; /* the hidden units are used twice; something is between the products */
    int slopes;
} nets[] = {
    {HEED_F32, HEED_ACTIVATION_GELU_TANH, "tf32", NULL, false, false, 1},
    {HEED_BF16, HEED_ACTIVATION_GELU_TANH, NULL, NULL, false, false, 1},
    {HEED_BF16, HEED_ACTIVATION_GELU_TANH, NULL, "plain", false, false, 0}, /* in a pass of its own */
    {HEED_F32, HEED_ACTIVATION_GELU_TANH, NULL, NULL, false, false, 0},     /* exact tanh */
    {HEED_F32, HEED_ACTIVATION_GELU, "tf32", NULL, false, false, 0},
    {HEED_F32, HEED_ACTIVATION_SILU, "tf32", NULL, false, false, 0},
    {HEED_F32, HEED_ACTIVATION_NONE, "tf32", NULL, false, false, 0},
    {HEED_F32, HEED_ACTIVATION_GELU_TANH, "tf32", NULL, true, false, 0},
    {HEED_F32, HEED_ACTIVATION_GELU_TANH, "tf32", NULL, false, true, 0},
};

/* y and the gradients of x, both weights and the first bias; twice over one graph. */
static void run_net(heed_ctx *ctx, const struct net *row, double *values[NET], int64_t count[NET]) {
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor leaf[] = {
        normal(ctx, HEED_F32, TEST_SHAPE(TOKENS, MODEL)), normal(ctx, HEED_F32, TEST_SHAPE(HIDDEN, MODEL)),
        normal(ctx, HEED_F32, TEST_SHAPE(HIDDEN)), normal(ctx, HEED_F32, TEST_SHAPE(MODEL, HIDDEN))};
    for (int i = 0; i < 4; i++) heed_require_grad(leaf[i], true);
    heed_tensor h = heed_linear(heed_mul_scalar(leaf[0], 1), leaf[1], leaf[2],
                                &(heed_linear_options){.activation = row->activation});
    heed_tensor y = heed_linear(row->between ? heed_mul_scalar(h, 2) : h, leaf[3], (heed_tensor){0}, NULL);
    heed_tensor loss = sum(heed_mul(y, y));
    if (row->twice) loss = heed_add(loss, sum(heed_mul(h, h)));
    heed_backward_with(loss, &(heed_backward_options){.retain = true});
    heed_backward(loss);
    for (int i = 0; i < NET; i++) values[i] = test_values(i < 4 ? heed_grad(leaf[i]) : y, &count[i]);
    test_ok(ctx);
    heed_step_end(ctx);
}

START_TEST(feed_forward) {
    const struct net *row = &nets[_i];
    double *found[NET], *right[NET];
    int64_t count[NET];
    heed_ctx *ref = heed_ctx_new(&(heed_ctx_options){.device = "ref"});
    run_net(ref, row, right, count);
    if (row->algorithms) setenv("HEED_FAKE_CUBLASLT", row->algorithms, 1);
    heed_ctx *ctx = context_of(row->precision, row->products);
    const int64_t before = fake()->slopes;
    run_net(ctx, row, found, count);
    ck_assert_int_eq(fake()->slopes - before, 2 * row->slopes);
    if (row->slopes) explains(ctx, "linear: cublaslt, ");
    for (int i = 0; i < NET; i++) {
        char text[200];
        const struct test_tolerance near = {0, row->precision == HEED_BF16 ? 0.03 : 1e-5};
        ck_assert_msg(test_close(count[i], found[i], right[i], near, test_largest(count[i], right[i]), text,
                                 sizeof text),
                      "result %d: %s", i, text);
        free(found[i]);
        free(right[i]);
    }
    heed_ctx_free(ctx);
    heed_ctx_free(ref);
}
END_TEST

/* ---- plans ---- */

/* Twice the same asks for algorithms once; many shapes do not keep many. */
START_TEST(plans) {
    heed_ctx *ctx = new_context(NULL);
    int64_t asked = 0;
    for (int step = 0; step < 4; step++) {
        heed_step_begin(ctx, HEED_TRAIN);
        heed_backward(sum(linear(ctx, HEED_F32, HEED_ACTIVATION_SILU, true)));
        ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
        if (step == 0) asked = fake()->heuristics;
        ck_assert_int_eq(fake()->heuristics, asked);
    }
    heed_step_begin(ctx, HEED_EVAL);
    for (int64_t n = 1; n <= 700; n++) {
        heed_scope_begin(ctx);
        heed_matmul(heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 3)), heed_zeros(ctx, HEED_F32, TEST_SHAPE(3, n)));
        heed_scope_end(ctx, (heed_tensor){0});
    }
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    ck_assert_int_ge(fake()->heuristics, asked + 700);
    ck_assert_int_le(fake()->objects, 4 * 256);
    ck_assert_int_gt(fake()->objects, 4 * 128);
    heed_ctx_free(ctx);
    ck_assert_int_eq(fake()->objects, 0);
    ck_assert_int_eq(fake()->handles, 0);
}
END_TEST

static heed_status train(heed_ctx *ctx) {
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor y = linear(ctx, HEED_F32, HEED_ACTIVATION_GELU_TANH, true);
    heed_backward(sum(heed_matmul(y, heed_transpose(y, 0, 1))));
    heed_sync(ctx);
    return heed_step_end(ctx);
}

START_TEST(every_call_may_fail) {
    heed_ctx_free(new_context(NULL)); /* loads the plugin */
    struct emulated_control *control = emulation();
    int64_t n = 1;
    for (bool reached = true; reached; n++) {
        control->calls = 0;
        control->fail_at = n;
        heed_ctx *ctx = context_of(_i ? HEED_BF16 : HEED_F32, "tf32");
        const heed_status status = train(ctx);
        reached = control->calls >= n;
        ck_assert_msg(reached == (status != HEED_OK), "call %d: %s", (int)n, heed_error(ctx));
        heed_ctx_free(ctx);
        control->fail_at = 0;
        ck_assert_int_eq(fake()->objects, 0);
        ck_assert_int_eq(fake()->handles, 0);
        ck_assert_int_eq(emulation()->allocations, 0);
    }
    ck_assert_int_gt(n, 60);
}
END_TEST

int main(int arguments, char **argument) {
    if (arguments == 2 && strcmp(argument[1], "--without-library") == 0) return without_library();
    Suite *suite = suite_create("cuda_products");
    TCase *tcase = test_case(suite, "products");
    tcase_add_test(tcase, choice);
    tcase_add_test(tcase, missing_library);
    tcase_add_loop_test(tcase, epilogues, 0, sizeof fused / sizeof *fused);
    tcase_add_test(tcase, batches);
    tcase_add_test(tcase, strides_of_one_shape);
    tcase_add_test(tcase, epilogues_of_one_shape);
    tcase_add_loop_test(tcase, feed_forward, 0, sizeof nets / sizeof *nets);
    tcase_add_test(tcase, plans);
    tcase_add_loop_test(tcase, every_call_may_fail, 0, 2);
    return test_main(suite);
}
