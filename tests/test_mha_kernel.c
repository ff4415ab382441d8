/* The composite multi-head attention kernel. What it does differently from one projection after the other,
 * joining neighbouring weights, must not show: every combination of shared inputs, neighbouring weights and
 * gradients, wanted and unwanted gradients agrees with separate projections in f64. */
#include "harness_calls.h"

#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/composite/mha.h"
#include "backend/masks.h"
#include "tensor/internal.h"

enum {
    BATCH = 2,
    QUERIES = 5,
    KEYS = 7,
    HEADS = 4,
    KV_HEADS = 2,
    WIDTH = 3,
    VALUE_WIDTH = 5,
    IN = 6,
    OUT = 8
};

/* How inputs are shared: all three the same, key and value the same, none. */
enum sharing { SELF, KEY_IS_VALUE, CROSS };

struct variant {
    enum sharing sharing;
    bool biases, weights_adjacent, gradients_adjacent, add, with_weights, output_unused;
    unsigned unwanted; /* bits: query, key, value, wq, wk, wv, wo, then biases */
};

enum { X, W, B, DX, DW, DB, ROLES };

struct call {
    struct heed_mha_args args;
    heed_dtype dtype;
    struct {
        void *data;
        size_t bytes;
    } block[64];
    int blocks;
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

static void *block(struct call *c, int64_t count) {
    const size_t bytes = (size_t)count * heed_dtype_bytes(c->dtype);
    c->block[c->blocks].data = test_guarded(TEST_EDGE_BEHIND, heed_dtype_bytes(c->dtype), bytes);
    c->block[c->blocks].bytes = bytes;
    return c->block[c->blocks++].data;
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
    return view_at(c, block(c, count), rank, size);
}

/* Three views, one after the other in memory or each alone. */
static void three(struct call *c, bool adjacent, int rank, const int64_t rows[3], int64_t columns,
                  struct heed_view *v[3]) {
    char *data = block(c, (rows[0] + rows[1] + rows[2]) * columns);
    for (int i = 0; i < 3; i++) {
        const int64_t size[2] = {rows[i], columns};
        *v[i] = adjacent ? view_at(c, data, rank, size) : view_new(c, rank, size);
        data += (size_t)heed_view_count(v[i]) * heed_dtype_bytes(c->dtype);
    }
}

static void make_inputs(struct call *c, const struct variant *v) {
    struct heed_mha_args *a = &c->args;
    a->query = view_new(c, 3, (int64_t[]){BATCH, QUERIES, IN});
    a->key = v->sharing == SELF ? a->query : view_new(c, 3, (int64_t[]){BATCH, KEYS, IN});
    a->value = v->sharing != CROSS ? a->key : view_new(c, 3, (int64_t[]){BATCH, KEYS, IN});
    a->dquery = (struct heed_grad_view){view_new(c, 3, a->query.size), v->add};
    a->dkey = v->sharing == SELF ? a->dquery : (struct heed_grad_view){view_new(c, 3, a->key.size), v->add};
    a->dvalue =
        v->sharing != CROSS ? a->dkey : (struct heed_grad_view){view_new(c, 3, a->value.size), v->add};
}

static void make_weights(struct call *c, const struct variant *v) {
    struct heed_mha_args *a = &c->args;
    const int64_t rows[3] = {HEADS * WIDTH, KV_HEADS * WIDTH, KV_HEADS * VALUE_WIDTH};
    three(c, v->weights_adjacent, 2, rows, IN, (struct heed_view *[]){&a->wq, &a->wk, &a->wv});
    three(c, v->gradients_adjacent, 2, rows, IN,
          (struct heed_view *[]){&a->dwq.view, &a->dwk.view, &a->dwv.view});
    a->wo = view_new(c, 2, (int64_t[]){OUT, HEADS * VALUE_WIDTH});
    a->dwo.view = view_new(c, 2, a->wo.size);
    if (v->biases) {
        three(c, v->weights_adjacent, 1, rows, 1, (struct heed_view *[]){&a->bq, &a->bk, &a->bv});
        three(c, v->gradients_adjacent, 1, rows, 1,
              (struct heed_view *[]){&a->dbq.view, &a->dbk.view, &a->dbv.view});
        a->bo = view_new(c, 1, (int64_t[]){OUT});
        a->dbo.view = view_new(c, 1, (int64_t[]){OUT});
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
    const int64_t keys = a->key.size[1], cells[4] = {BATCH, HEADS, QUERIES, keys};
    a->heads = HEADS;
    a->kv_heads = KV_HEADS;
    a->y = view_new(c, 3, (int64_t[]){BATCH, QUERIES, OUT});
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
    for (int i = 0; i < c->blocks; i++) test_guarded_free(c->block[i].data, c->block[i].bytes);
}

static void run(struct call *c, struct heed_exec *exec) {
    struct heed_mha_args forward = c->args;
    memset(&forward.dy, 0, sizeof forward.dy);
    memset(&forward.attention.dweights, 0, sizeof forward.attention.dweights);
    const struct kernel_saved saved =
        kernel_run_forward(exec, &heed_composite_mha, &forward, TEST_EDGE_BEHIND);
    c->args.chosen = forward.chosen;
    const struct heed_view y = c->args.y;
    c->args.y.data = NULL;
    kernel_run_backward(exec, &heed_composite_mha, &c->args, &saved);
    c->args.y = y;
    kernel_saved_free(&saved);
}

static double element(const struct heed_view *v, int64_t i) {
    return v->dtype == HEED_F64 ? ((double *)v->data)[i] : (double)((float *)v->data)[i];
}

static void same(const struct heed_view *a, const struct heed_view *b, const char *what, int variant) {
    ck_assert_int_eq(heed_has(a), heed_has(b));
    for (int64_t i = 0; heed_has(a) && i < heed_view_count(a); i++) {
        test_check(fabs(element(a, i) - element(b, i)) < 2e-5,
                   "variant %d, %s: element %lld is %g and not %g", variant, what, (long long)i,
                   element(a, i), element(b, i));
    }
}

static void same_calls(const struct call *c, const struct call *d, int variant) {
    const struct heed_mha_args *a = &c->args, *b = &d->args;
    same(&a->y, &b->y, "y", variant);
    same(&a->dquery.view, &b->dquery.view, "dquery", variant);
    same(&a->dkey.view, &b->dkey.view, "dkey", variant);
    same(&a->dvalue.view, &b->dvalue.view, "dvalue", variant);
    same(&a->dwq.view, &b->dwq.view, "dwq", variant);
    same(&a->dwk.view, &b->dwk.view, "dwk", variant);
    same(&a->dwv.view, &b->dwv.view, "dwv", variant);
    same(&a->dwo.view, &b->dwo.view, "dwo", variant);
    same(&a->dbq.view, &b->dbq.view, "dbq", variant);
    same(&a->dbk.view, &b->dbk.view, "dbk", variant);
    same(&a->dbv.view, &b->dbv.view, "dbv", variant);
    same(&a->dbo.view, &b->dbo.view, "dbo", variant);
    same(&a->attention.weights, &b->attention.weights, "weights", variant);
}

static struct variant variant_of(int i) {
    struct test_random random = {(uint64_t)i};
    struct variant v = {.sharing = (enum sharing)(i % 3),
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
    const heed_ctx_options options = {
        .poison = true, .allocator = test_guarded_allocator(), .chunk_bytes = 1};
    heed_ctx *ref = test_ctx_with(&(struct test_device){"ref", NULL, 1}, options),
             *cpu = test_ctx_with(&(struct test_device){"cpu", NULL, 0}, options);
    for (int i = 0; i < 48 * 4; i++) {
        struct variant v = variant_of(i), plain;
        struct call a, b;
        const struct heed_bound_mask mask = {.kind = &heed_mask_kind_causal,
                                             .number = {-HEED_MASK_FAR, 0, HEED_BOTTOM_RIGHT}};
        plain = v;
        plain.weights_adjacent = plain.gradients_adjacent = false;
        make_call(&a, &plain, &mask, HEED_F64);
        make_call(&b, &v, &mask, HEED_F32);
        run(&a, &ref->exec);
        run(&b, &cpu->exec);
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
        const struct variant v = {.sharing = SELF, .biases = true, .weights_adjacent = adjacent};
        make_call(&c, &v, NULL, HEED_F32);
        const uint64_t before = cpu->exec.last[HEED_PRIMITIVE_LINEAR].runs;
        ck_assert_int_eq(heed_composite_mha.forward(&cpu->exec, &c.args, NULL, NULL), HEED_OK);
        ck_assert_uint_eq(cpu->exec.last[HEED_PRIMITIVE_LINEAR].runs - before, adjacent ? 2 : 4);
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
    return test_main(suite);
}
