/* The kernels of multi-head attention. What they do differently from one projection after the other must not
 * show: every combination of shared inputs, neighbouring weights and gradients, wanted and unwanted gradients
 * agrees with separate projections in f64. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/composite/mha.h"
#include "backend/cpu/cpu.h"
#include "backend/masks.h"
#include "tensor/internal.h"
#include "tensor/memory.h"

struct shape {
    int64_t batch, queries, keys, heads, kv_heads, width, value_width, in, out;
};

/* How inputs are shared: all three the same, key and value the same, none. */
enum sharing { SELF, KEY_IS_VALUE, CROSS };

struct variant {
    struct shape shape;
    enum sharing sharing;
    bool biases, weights_adjacent, gradients_adjacent, add, with_weights, output_unused;
    unsigned unwanted; /* bits: query, key, value, wq, wk, wv, wo, then biases */
};

enum { X, W, B, DX, DW, DB, ROLES };

struct call {
    struct heed_mha_args args;
    heed_dtype dtype;
    void *block[64];
    int blocks;
    void *next; /* where the next view goes that has to be adjacent */
};

static struct test_random numbers;

static void fill(const struct heed_view *v) {
    for (int64_t i = 0; i < heed_view_count(v); i++) {
        const double x = floor(test_normal(&numbers) * 256) / 512; /* f32 has it too */
        if (v->dtype == HEED_F64) {
            ((double *)v->data)[i] = x;
        } else {
            ((float *)v->data)[i] = (float)x;
        }
    }
}

static void *block(struct call *c, size_t bytes) {
    c->block[c->blocks] = calloc(1, bytes + 64);
    return c->block[c->blocks++];
}

static struct heed_view view_at(struct call *c, void *data, int rank, const int64_t *size) {
    struct heed_view v = {data, c->dtype, rank, {0}, {0}};
    for (int d = 0; d < rank; d++) v.size[d] = size[d];
    heed_view_set_contiguous(&v);
    fill(&v);
    return v;
}

static struct heed_view view_new(struct call *c, int rank, const int64_t *size) {
    int64_t count = 1;
    for (int d = 0; d < rank; d++) count *= size[d];
    return view_at(c, block(c, (size_t)count * sizeof(double)), rank, size);
}

/* Three views, one after the other in memory or each alone. */
static void three(struct call *c, bool adjacent, int rank, const int64_t rows[3], int64_t columns,
                  struct heed_view *v[3]) {
    char *data = block(c, (size_t)((rows[0] + rows[1] + rows[2]) * columns) * sizeof(double));
    for (int i = 0; i < 3; i++) {
        const int64_t size[2] = {rows[i], columns};
        *v[i] = adjacent ? view_at(c, data, rank, size) : view_new(c, rank, size);
        data += (size_t)heed_view_count(v[i]) * heed_dtype_bytes(c->dtype);
    }
}

static void make_inputs(struct call *c, const struct variant *v) {
    struct heed_mha_args *a = &c->args;
    const struct shape *s = &v->shape;
    a->query = view_new(c, 3, (int64_t[]){s->batch, s->queries, s->in});
    a->key = v->sharing == SELF ? a->query : view_new(c, 3, (int64_t[]){s->batch, s->keys, s->in});
    a->value = v->sharing != CROSS ? a->key : view_new(c, 3, (int64_t[]){s->batch, s->keys, s->in});
    a->dquery = (struct heed_grad_view){view_new(c, 3, a->query.size), v->add};
    a->dkey = v->sharing == SELF ? a->dquery : (struct heed_grad_view){view_new(c, 3, a->key.size), v->add};
    a->dvalue =
        v->sharing != CROSS ? a->dkey : (struct heed_grad_view){view_new(c, 3, a->value.size), v->add};
}

static void make_weights(struct call *c, const struct variant *v) {
    struct heed_mha_args *a = &c->args;
    const struct shape *s = &v->shape;
    const int64_t rows[3] = {s->heads * s->width, s->kv_heads * s->width, s->kv_heads * s->value_width};
    three(c, v->weights_adjacent, 2, rows, s->in, (struct heed_view *[]){&a->wq, &a->wk, &a->wv});
    three(c, v->gradients_adjacent, 2, rows, s->in,
          (struct heed_view *[]){&a->dwq.view, &a->dwk.view, &a->dwv.view});
    a->wo = view_new(c, 2, (int64_t[]){s->out, s->heads * s->value_width});
    a->dwo.view = view_new(c, 2, a->wo.size);
    if (v->biases) {
        three(c, v->weights_adjacent, 1, rows, 1, (struct heed_view *[]){&a->bq, &a->bk, &a->bv});
        three(c, v->gradients_adjacent, 1, rows, 1,
              (struct heed_view *[]){&a->dbq.view, &a->dbk.view, &a->dbv.view});
        a->bo = view_new(c, 1, (int64_t[]){s->out});
        a->dbo.view = view_new(c, 1, (int64_t[]){s->out});
    }
    struct heed_grad_view *const gradients[] = {&a->dwq, &a->dwk, &a->dwv, &a->dwo,
                                                &a->dbq, &a->dbk, &a->dbv, &a->dbo};
    for (int i = 0; i < 8; i++) gradients[i]->add = v->add;
}

static void make_call(struct call *c, const struct variant *v, const struct heed_bound_mask *mask,
                      heed_dtype dtype) {
    *c = (struct call){.dtype = dtype};
    numbers = (struct test_random){11};
    make_inputs(c, v);
    make_weights(c, v);
    struct heed_mha_args *a = &c->args;
    const int64_t keys = a->key.size[1], cells[4] = {v->shape.batch, v->shape.heads, v->shape.queries, keys};
    a->heads = v->shape.heads;
    a->kv_heads = v->shape.kv_heads;
    a->y = view_new(c, 3, (int64_t[]){v->shape.batch, v->shape.queries, v->shape.out});
    struct heed_view dy = view_new(c, 3, a->y.size), weights = view_new(c, 4, cells),
                     dweights = view_new(c, 4, cells);
    if (!v->output_unused) a->dy = dy;
    a->attention =
        (struct heed_attention_args){.scale = 0.5, .mask = mask, .threshold = 50000, .random = {.seed = 3}};
    if (v->with_weights || v->output_unused) {
        a->attention.weights = weights;
        a->attention.dweights = dweights;
    }
    struct heed_grad_view *const gradients[] = {&a->dquery, &a->dkey, &a->dvalue, &a->dwq, &a->dwk, &a->dwv,
                                                &a->dwo,    &a->dbq,  &a->dbk,    &a->dbv, &a->dbo};
    for (int i = 0; i < 11; i++) {
        if (v->unwanted >> i & 1) gradients[i]->view.data = NULL;
    }
}

static void drop_call(struct call *c) {
    for (int i = 0; i < c->blocks; i++) free(c->block[i]);
}

static void run(struct call *c, struct heed_exec *exec, const struct heed_kernel *kernel) {
    struct heed_sizes sizes = {0};
    struct heed_mha_args forward = c->args;
    memset(&forward.dy, 0, sizeof forward.dy);
    memset(&forward.attention.dweights, 0, sizeof forward.attention.dweights);
    kernel->sizes(exec, &forward, &sizes);
    void *saved = heed_block_new(exec->memory, sizes.saved);
    ck_assert_int_eq(heed_exec_forward(exec, kernel, &forward, saved), HEED_OK);
    c->args.chosen = forward.chosen;
    const struct heed_view y = c->args.y;
    c->args.y.data = NULL;
    ck_assert_int_eq(heed_exec_backward(exec, kernel, &c->args, saved), HEED_OK);
    c->args.y = y;
    heed_block_free(exec->memory, saved);
}

static double element(const struct heed_view *v, int64_t i) {
    return v->dtype == HEED_F64 ? ((double *)v->data)[i] : (double)((float *)v->data)[i];
}

/* What a call has to find. */
enum { RESULTS = 13 };
struct result {
    const char *name;
    const struct heed_view *view;
};

static void results_of(const struct call *c, struct result results[RESULTS]) {
    const struct heed_mha_args *a = &c->args;
    const struct result all[RESULTS] = {{"y", &a->y},
                                        {"weights", &a->attention.weights},
                                        {"dquery", &a->dquery.view},
                                        {"dkey", &a->dkey.view},
                                        {"dvalue", &a->dvalue.view},
                                        {"dwq", &a->dwq.view},
                                        {"dwk", &a->dwk.view},
                                        {"dwv", &a->dwv.view},
                                        {"dwo", &a->dwo.view},
                                        {"dbq", &a->dbq.view},
                                        {"dbk", &a->dbk.view},
                                        {"dbv", &a->dbv.view},
                                        {"dbo", &a->dbo.view}};
    memcpy(results, all, sizeof all);
}

/* Terms that cancel are as large as the largest number of the call: gradients of the keys' biases are 0. */
static double largest_of(const struct call *c) {
    struct result results[RESULTS];
    double largest = 1;
    results_of(c, results);
    for (int r = 0; r < RESULTS; r++) {
        const struct heed_view *v = results[r].view;
        for (int64_t i = 0; heed_has(v) && i < heed_view_count(v); i++)
            largest = fmax(largest, fabs(element(v, i)));
    }
    return largest;
}

static void same_calls(const struct call *c, const struct call *d, int variant) {
    const double tolerance = 2e-6 * largest_of(d);
    struct result actual[RESULTS], expected[RESULTS];
    results_of(c, actual);
    results_of(d, expected);
    for (int r = 0; r < RESULTS; r++) {
        const struct heed_view *a = actual[r].view, *b = expected[r].view;
        ck_assert_int_eq(heed_has(a), heed_has(b));
        for (int64_t i = 0; heed_has(a) && i < heed_view_count(a); i++) {
            ck_assert_msg(fabs(element(a, i) - element(b, i)) < tolerance,
                          "variant %d, %s: element %lld is %g and not %g", variant, actual[r].name,
                          (long long)i, element(a, i), element(b, i));
        }
    }
}

static struct variant variant_of(int i) {
    struct test_random random = {(uint64_t)i};
    struct variant v = {.shape = {2, 5, 7, 4, 2, 3, 5, 6, 8},
                        .sharing = (enum sharing)(i % 3),
                        .biases = i / 3 % 2,
                        .weights_adjacent = i / 6 % 2,
                        .gradients_adjacent = i / 12 % 2,
                        .add = i / 24 % 2};
    v.with_weights = test_bits(&random) % 3 == 0;
    v.output_unused = test_bits(&random) % 5 == 0;
    if (test_bits(&random) % 2) {
        v.unwanted = (unsigned)test_bits(&random) & 0x7ff;
        v.unwanted &= (unsigned)test_bits(&random); /* each with probability 1/4 */
    }
    /* The same memory is wanted or not. */
    if (v.sharing == SELF) v.unwanted = v.unwanted & 1 ? v.unwanted | 6 : v.unwanted & ~6u;
    if (v.sharing == KEY_IS_VALUE) v.unwanted = v.unwanted & 2 ? v.unwanted | 4 : v.unwanted & ~4u;
    return v;
}

START_TEST(joined_like_separate) {
    heed_ctx *ref = test_ref(), *cpu = test_cpu();
    for (int i = 0; i < 48 * 4; i++) {
        struct variant v = variant_of(i), plain;
        struct call a, b;
        const struct heed_bound_mask mask = {.kind = &heed_mask_kind_causal,
                                             .number = {-HEED_MASK_FAR, 0, HEED_BOTTOM_RIGHT}};
        plain = v;
        plain.weights_adjacent = plain.gradients_adjacent = false;
        make_call(&a, &plain, &mask, HEED_F64);
        make_call(&b, &v, &mask, HEED_F32);
        run(&a, &ref->exec, &heed_composite_mha);
        run(&b, &cpu->exec, &heed_composite_mha);
        test_ok(ref);
        test_ok(cpu);
        same_calls(&b, &a, i);
        drop_call(&a);
        drop_call(&b);
    }
    heed_ctx_free(ref);
    heed_ctx_free(cpu);
}
END_TEST

/* Self-attention out of one weight storage is one matrix product, and one more for the output. */
START_TEST(counts_products) {
    heed_ctx *cpu = test_cpu();
    for (int adjacent = 0; adjacent < 2; adjacent++) {
        struct call c;
        const struct variant v = {
            .shape = variant_of(0).shape, .sharing = SELF, .biases = true, .weights_adjacent = adjacent};
        make_call(&c, &v, NULL, HEED_F32);
        const uint64_t before = cpu->exec.last[HEED_PRIMITIVE_LINEAR].runs;
        ck_assert_int_eq(heed_composite_mha.forward(&cpu->exec, &c.args, NULL, NULL), HEED_OK);
        ck_assert_uint_eq(cpu->exec.last[HEED_PRIMITIVE_LINEAR].runs - before, adjacent ? 2 : 4);
        drop_call(&c);
    }
    heed_ctx_free(cpu);
}
END_TEST

/* ---- the kernel for many short sequences ---- */

/* Shapes of that kernel: 16 heads fill the vectors of every instruction set. */
static const struct shape short_shapes[] = {
    {8, 8, 8, 16, 16, 4, 4, 20, 24},    {9, 8, 8, 32, 32, 4, 4, 64, 48},  {70, 1, 1, 16, 16, 1, 1, 16, 16},
    {35, 2, 2, 16, 16, 2, 3, 17, 8},    {23, 3, 3, 16, 16, 5, 1, 33, 11}, {18, 4, 4, 32, 32, 1, 2, 8, 50},
    {17, 5, 5, 16, 16, 3, 6, 49, 31},   {11, 6, 6, 16, 16, 16, 16, 9, 9}, {10, 7, 7, 48, 48, 2, 2, 47, 13},
    {12, 9, 9, 16, 16, 4, 7, 100, 10},  {7, 12, 12, 16, 16, 6, 4, 8, 64}, {5, 17, 17, 16, 16, 4, 2, 19, 21},
    {3, 31, 31, 16, 16, 3, 4, 13, 130}, {4, 32, 32, 16, 16, 2, 8, 24, 8}, {264, 8, 8, 16, 16, 1, 1, 9, 8},
};
enum { SHORT_SHAPES = (int)(sizeof short_shapes / sizeof short_shapes[0]) };

static struct variant short_variant_of(int i) {
    struct variant v = variant_of(3 * i); /* self-attention */
    v.shape = short_shapes[i % SHORT_SHAPES];
    return v;
}

static const struct heed_bound_mask causal = {.kind = &heed_mask_kind_causal,
                                              .number = {-HEED_MASK_FAR, 0, HEED_TOP_LEFT}};

/* Asserts that nothing differs in a bit, whatever the number of threads was. */
static void same_bits(const struct call *c, const struct call *d, int variant) {
    struct result a[RESULTS], b[RESULTS];
    results_of(c, a);
    results_of(d, b);
    for (int r = 0; r < RESULTS; r++) {
        if (!heed_has(a[r].view)) continue;
        const size_t bytes = (size_t)heed_view_count(a[r].view) * sizeof(float);
        ck_assert_msg(memcmp(a[r].view->data, b[r].view->data, bytes) == 0, "variant %d: %s has other bits",
                      variant, a[r].name);
    }
}

/* One instruction set, any number of threads. */
static void short_on(const char *isa, int i, const struct variant *v, const struct heed_bound_mask *mask,
                     const struct call *expected) {
    struct call first;
    for (int threads = 1; threads <= 3; threads++) {
        heed_ctx *cpu = test_ctx(&(struct test_device){"cpu", isa, threads});
        struct heed_why why = {""};
        struct call c;
        make_call(&c, v, mask, HEED_F32);
        ck_assert_msg(heed_cpu_mha_short.applies(&cpu->exec, &c.args, &why), "variant %d: %s", i, why.reason);
        run(&c, &cpu->exec, &heed_cpu_mha_short);
        test_ok(cpu);
        if (threads == 1) {
            same_calls(&c, expected, i);
            first = c;
        } else {
            same_bits(&c, &first, i);
            drop_call(&c);
        }
        heed_ctx_free(cpu);
    }
    drop_call(&first);
}

START_TEST(short_is_like_separate) {
    const char *const *isa;
    const int isas = test_isas(&isa), variants = (int)test_size(4 * SHORT_SHAPES, SHORT_SHAPES);
    heed_ctx *ref = test_ref();
    for (int i = 0; i < variants; i++) {
        const struct variant v = short_variant_of(i);
        const struct heed_bound_mask *mask = i % 4 < 2 ? &causal : NULL;
        struct call expected;
        make_call(&expected, &v, mask, HEED_F64);
        run(&expected, &ref->exec, &heed_composite_mha);
        for (int s = 0; s < isas; s++) short_on(isa[s], i, &v, mask, &expected);
        drop_call(&expected);
    }
    heed_ctx_free(ref);
}
END_TEST

/* What lies in the last row reaches no query that does not see it. */
START_TEST(short_hides_what_is_masked) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const char *const *isa;
    const int isas = test_isas(&isa);
    const struct variant v = {.shape = {16, 5, 5, 16, 16, 3, 2, 8, 8}, .biases = true, .with_weights = true};
    const int64_t length = v.shape.queries, in = v.shape.in, out = v.shape.out;
    for (int i = 0; i < 3 * isas; i++) {
        heed_ctx *cpu = test_ctx(&(struct test_device){"cpu", isa[i / 3], 1});
        struct call clean, dirty;
        make_call(&clean, &v, &causal, HEED_F32);
        make_call(&dirty, &v, &causal, HEED_F32);
        for (int64_t r = length - 1; r < v.shape.batch * length; r += length) {
            ((float *)dirty.args.query.data)[r * in + r % in] = bad[i % 3];
        }
        run(&clean, &cpu->exec, &heed_cpu_mha_short);
        run(&dirty, &cpu->exec, &heed_cpu_mha_short);
        for (int64_t r = 0; r < v.shape.batch * length; r++) {
            if (r % length == length - 1) continue;
            const float *y = clean.args.y.data, *y2 = dirty.args.y.data;
            ck_assert_mem_eq(y + r * out, y2 + r * out, (size_t)out * sizeof(float));
        }
        drop_call(&clean);
        drop_call(&dirty);
        heed_ctx_free(cpu);
    }
}
END_TEST

/* ---- when the short kernel applies ---- */

static void not_f32(struct heed_mha_args *a) {
    a->query.dtype = HEED_F64;
}
static void other_keys(struct heed_mha_args *a) {
    a->key.data = a->wq.data;
}
static void other_values(struct heed_mha_args *a) {
    a->value.data = a->wq.data;
}
static void stages(struct heed_mha_args *a) {
    a->attention.stages = 1;
}
static void sigmoid(struct heed_mha_args *a) {
    a->attention.normalizer = HEED_NORMALIZER_SIGMOID;
}
static void sink(struct heed_mha_args *a) {
    a->attention.sink = a->wq;
}
static void shared_heads(struct heed_mha_args *a) {
    a->kv_heads = 8;
}
static void odd_heads(struct heed_mha_args *a) {
    a->heads = a->kv_heads = 18;
}
static void long_sequences(struct heed_mha_args *a) {
    a->query.size[1] = a->key.size[1] = a->value.size[1] = 33;
}
static void wide_heads(struct heed_mha_args *a) {
    a->wq.size[0] = a->wk.size[0] = 16 * 17;
}
static void wide_values(struct heed_mha_args *a) {
    a->wv.size[0] = a->wo.size[1] = 16 * 17;
}
static void wide_input(struct heed_mha_args *a) {
    a->query.size[2] = 1025;
}
static void wide_output(struct heed_mha_args *a) {
    a->wo.size[0] = 1025;
}
static void narrow_input(struct heed_mha_args *a) {
    a->query.size[2] = 7;
}
static void narrow_output(struct heed_mha_args *a) {
    a->wo.size[0] = 7;
}
static void few_rows(struct heed_mha_args *a) {
    a->query.size[0] = 7;
}
static void nothing(struct heed_mha_args *a) {
    (void)a;
}

static const struct {
    void (*change)(struct heed_mha_args *a);
    const char *reason; /* NULL: it applies */
} limits[] = {
    {nothing, NULL},
    {not_f32, "dtype is not f32"},
    {other_keys, "keys or values are of another input"},
    {other_values, "keys or values are of another input"},
    {stages, "the score has stages"},
    {sigmoid, "the normaliser is not the softmax"},
    {sink, "there is a sink"},
    {shared_heads, "heads share keys and values"},
    {odd_heads, "heads do not fill vectors"},
    {long_sequences, "sequences are not short"},
    {wide_heads, "heads are wide"},
    {wide_values, "heads are wide"},
    {wide_input, "weights are large"},
    {wide_output, "weights are large"},
    {narrow_input, "rows are narrow"},
    {narrow_output, "rows are narrow"},
    {few_rows, "there are few rows"},
};

START_TEST(short_says_when) {
    heed_ctx *cpu = test_cpu();
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        const struct variant v = {.shape = short_shapes[0]};
        struct heed_why why = {NULL};
        struct call c;
        make_call(&c, &v, NULL, HEED_F32);
        limits[i].change(&c.args);
        const bool applies = heed_cpu_mha_short.applies(&cpu->exec, &c.args, &why);
        ck_assert_int_eq(applies, limits[i].reason == NULL);
        if (!applies) ck_assert_str_eq(why.reason, limits[i].reason);
        drop_call(&c);
    }
    heed_ctx_free(cpu);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mha_kernel");
    TCase *tests = test_case(suite, "composite");
    tcase_add_test(tests, joined_like_separate);
    tcase_add_test(tests, counts_products);
    tests = test_case(suite, "short");
    tcase_add_test(tests, short_is_like_separate);
    tcase_add_test(tests, short_hides_what_is_masked);
    tcase_add_test(tests, short_says_when);
    return test_main(suite);
}
