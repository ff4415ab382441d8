/* What optimisers run, on the CPU or a device against ref: lists of parameters of ragged sizes at odd places,
 * and norms that are not finite, of which a device may tell late. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "tensor/internal.h"

enum { MOST_ITEMS = 40, PARAM = 0, GRAD, MOMENT1, MOMENT2, PARTS };

/* Counts of items, ended by −1: on both sides of packs and chunks. */
static const int64_t lists[][MOST_ITEMS + 1] = {
    {-1},
    {0, -1},
    {1, -1},
    {5, 0, 3, -1},
    {0, 0, 64, 0, -1},
    {8192, 8193, 8191, -1},
    {20000, 1, 7, 40001, 4, -1},
    {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7, 9, 5, -1},
};
enum { LISTS = (int)(sizeof lists / sizeof *lists) };

/* A list in memory of its own: each part of all items in a row, some items at odd places. */
struct list {
    heed_dtype dtype;
    int64_t items, elements; /* of a part */
    struct heed_param_item item[MOST_ITEMS];
    int64_t first[MOST_ITEMS]; /* the place of an item in each part */
    void *host;
};

static size_t list_bytes(const struct list *l) {
    return (size_t)(l->elements * PARTS) * heed_dtype_bytes(l->dtype);
}

static struct heed_view all_of(const struct list *l) {
    return (struct heed_view){l->host, l->dtype, 1, {l->elements * PARTS}, {1}};
}

static struct list list_new(const int64_t *counts, heed_dtype dtype) {
    struct list l = {.dtype = dtype};
    struct test_random random = {(uint64_t)counts[0] + 5};
    for (; counts[l.items] >= 0; l.items++) {
        l.first[l.items] = l.elements + (l.items % 3 == 1);
        l.item[l.items] = (struct heed_param_item){.count = counts[l.items],
                                                   .rate = 0.01 * (double)(1 + l.items % 2),
                                                   .decay = 0.1,
                                                   .number = 100 + l.items};
        l.elements = (l.first[l.items] + counts[l.items] + 15) / 16 * 16;
    }
    l.host = malloc(list_bytes(&l) + 1);
    const struct heed_view all = all_of(&l);
    for (int64_t i = 0; i < l.elements * PARTS; i++) {
        const double number = test_normal(&random);
        heed_ref_store(&all, i, i / l.elements == MOMENT2 ? fabs(number) : number);
    }
    return l;
}

static void set_gradient(const struct list *l, int item, int64_t i, double value) {
    const struct heed_view all = all_of(l);
    heed_ref_store(&all, GRAD * l->elements + l->first[item] + i, value);
}

/* A call's memory where a context's kernels reach it. */
struct far_list {
    heed_ctx *ctx;
    void *elements;
    struct heed_grad_norm *norm;
    struct heed_param_item item[MOST_ITEMS];
};

static struct far_list send(heed_ctx *ctx, const struct list *l, bool with_momentum) {
    struct heed_exec *exec = &ctx->exec;
    struct far_list far = {.ctx = ctx};
    far.elements = heed_block_new(exec->elements, list_bytes(l));
    far.norm = heed_block_new(exec->elements, sizeof *far.norm);
    ck_assert(far.elements && far.norm);
    ck_assert_int_eq(heed_elements_write(exec, far.elements, l->host, list_bytes(l)), HEED_OK);
    for (int64_t i = 0; i < l->items; i++) {
        void *at[PARTS];
        for (int part = 0; part < PARTS; part++)
            at[part] = (char *)far.elements +
                       (size_t)(part * l->elements + l->first[i]) * heed_dtype_bytes(l->dtype);
        far.item[i] = l->item[i];
        far.item[i].param = at[PARAM];
        far.item[i].grad = at[GRAD];
        far.item[i].moment1 = with_momentum ? at[MOMENT1] : NULL;
        far.item[i].moment2 = with_momentum ? at[MOMENT2] : NULL;
    }
    return far;
}

/* The memory as it is now (malloc). */
static void *fetch(const struct far_list *far, const struct list *l) {
    void *host = malloc(list_bytes(l) + 1);
    ck_assert_int_eq(heed_elements_read(&far->ctx->exec, host, far->elements, list_bytes(l)), HEED_OK);
    return host;
}

static struct heed_grad_norm fetch_norm(const struct far_list *far) {
    struct heed_grad_norm norm;
    heed_elements_read(&far->ctx->exec, &norm, far->norm, sizeof norm);
    return norm;
}

static void far_free(struct far_list *far) {
    heed_block_free(far->ctx->exec.elements, far->elements);
    heed_block_free(far->ctx->exec.elements, far->norm);
}

static void compare(const struct list *l, const void *actual, const void *expected, double tolerance,
                    const char *name) {
    struct heed_view a = all_of(l), e = a;
    a.data = (void *)(uintptr_t)actual;
    e.data = (void *)(uintptr_t)expected;
    for (int64_t i = 0; i < l->elements * PARTS; i++) {
        const double is = heed_ref_load(&a, i), ought = heed_ref_load(&e, i);
        const bool same =
            isnan(ought) ? isnan(is) : is == ought || fabs(is - ought) <= tolerance * (1 + fabs(ought));
        /* Said only where it fails: Check notes the place of each assertion. */
        if (!same)
            ck_abort_msg("%s: part %d, place %lld is %.9g and not %.9g", name, (int)(i / l->elements),
                         (long long)(i % l->elements), is, ought);
    }
}

/* ---- the norm ---- */

struct watcher {
    struct heed_grad_witness witness;
    int64_t number, step;
    int times, for_nothing; /* steps that changed nothing */
};

static heed_status watch(struct heed_grad_witness *witness, int64_t number, int64_t step) {
    struct watcher *w = (struct watcher *)witness;
    w->number = number;
    w->step = step;
    w->times++;
    return HEED_ERROR_NUMERIC;
}

static void watch_nothing(struct heed_grad_witness *witness, int64_t step) {
    struct watcher *w = (struct watcher *)witness;
    ck_assert_int_eq(w->times, 0); /* before the error */
    ck_assert_int_eq(step, 77);
    w->for_nothing++;
}

static const struct norm_case {
    double scale, clamp, bad; /* bad: an element of the last two items, 0: all are fine */
} norm_cases[] = {{1, 0, 0},   {0.75, 0, 0},      {1, 0.5, 0},   {3, 0.25, 0},
                  {1, 0, NAN}, {1, 0, -INFINITY}, {2, 0.5, NAN}, {2, 0.5, INFINITY}};
enum { NORM_CASES = (int)(sizeof norm_cases / sizeof *norm_cases) };

static struct heed_grad_norm_args norm_args(const struct list *l, const struct far_list *far,
                                            const struct norm_case *c, struct watcher *watcher) {
    watcher->witness = (struct heed_grad_witness){watch, watch_nothing};
    return (struct heed_grad_norm_args){.dtype = l->dtype,
                                        .items = l->items,
                                        .item = far->item,
                                        .clamp = c->clamp,
                                        .scale = c->scale,
                                        .result = far->norm,
                                        .witness = &watcher->witness,
                                        .step = 77};
}

static void check_norm(heed_ctx *ref, heed_ctx *ctx, const struct list *l, const struct norm_case *c,
                       const char *name) {
    struct far_list right = send(ref, l, true), far = send(ctx, l, true);
    struct watcher told_right = {.times = 0}, told = {.times = 0};
    struct heed_grad_norm_args args = norm_args(l, &right, c, &told_right);
    heed_exec_run(&ref->exec, HEED_PRIMITIVE_GRAD_NORM, &args);
    args = norm_args(l, &far, c, &told);
    const heed_status status = heed_exec_run(&ctx->exec, HEED_PRIMITIVE_GRAD_NORM, &args);
    ck_assert(status == HEED_OK || status == HEED_ERROR_NUMERIC);
    heed_elements_wait(&ctx->exec);
    const struct heed_grad_norm expected = fetch_norm(&right), found = fetch_norm(&far);
    ck_assert_msg(isfinite(expected.norm) ? fabs(found.norm - expected.norm) <= 1e-12 * expected.norm
                                          : !isfinite(found.norm),
                  "%s: the norm is %.17g and not %.17g", name, found.norm, expected.norm);
    ck_assert_msg(found.first_bad == expected.first_bad, "%s: first bad %lld and not %lld", name,
                  (long long)found.first_bad, (long long)expected.first_bad);
    ck_assert_msg(told.times == told_right.times && told.number == told_right.number &&
                      told.step == told_right.step,
                  "%s: told %d times of %lld in step %lld", name, told.times, (long long)told.number,
                  (long long)told.step);
    void *is = fetch(&far, l), *ought = fetch(&right, l);
    compare(l, is, ought, 0, name);
    free(is);
    free(ought);
    far_free(&right);
    far_free(&far);
}

START_TEST(norms) {
    heed_ctx *ref = test_ref(), *ctx = test_cpu();
    for (int variant = 0; variant < NORM_CASES * 2; variant++) {
        const struct norm_case *c = &norm_cases[variant / 2];
        struct list l = list_new(lists[_i], variant & 1 ? HEED_F64 : HEED_F32);
        for (int64_t item = l.items - 2; item < l.items && c->bad != 0; item++)
            if (item >= 0 && l.item[item].count > 0)
                set_gradient(&l, (int)item, l.item[item].count - 1, c->bad);
        char name[64];
        snprintf(name, sizeof name, "list %d, variant %d", _i, variant);
        check_norm(ref, ctx, &l, c, name);
        free(l.host);
    }
    heed_ctx_free(ref);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- the step ---- */

static const struct step_case {
    enum heed_update kind;
    bool with_momentum, nesterov;
    int64_t step;
    double norm, max_norm;
} step_cases[] = {
    {HEED_UPDATE_SGD, false, false, 1, 3, 0},       {HEED_UPDATE_SGD, true, false, 1, 3, 2},
    {HEED_UPDATE_SGD, true, false, 5, 3, 2},        {HEED_UPDATE_SGD, true, true, 1, 3, 4},
    {HEED_UPDATE_SGD, true, true, 2, 3, 1},         {HEED_UPDATE_ADAM, true, false, 1, 3, 1},
    {HEED_UPDATE_ADAM, true, false, 100, 0, 1},     {HEED_UPDATE_ADAMW, true, false, 1, 3, 0},
    {HEED_UPDATE_ADAMW, true, false, 7, 3, 1},      {HEED_UPDATE_ADAMW, true, false, 7, NAN, 1},
    {HEED_UPDATE_SGD, true, false, 7, INFINITY, 0},
};
enum { STEP_CASES = (int)(sizeof step_cases / sizeof *step_cases) };

/* One step; the memory afterwards (malloc). */
static void *take_step(heed_ctx *ctx, const struct list *l, const struct step_case *c) {
    struct far_list far = send(ctx, l, c->with_momentum);
    const struct heed_grad_norm norm = {c->norm, -1};
    ck_assert_int_eq(heed_elements_write(&ctx->exec, far.norm, &norm, sizeof norm), HEED_OK);
    const struct heed_update_args args = {.kind = c->kind,
                                          .dtype = l->dtype,
                                          .items = l->items,
                                          .item = far.item,
                                          .norm = far.norm,
                                          .max_norm = c->max_norm,
                                          .momentum = 0.9,
                                          .nesterov = c->nesterov,
                                          .beta1 = 0.9,
                                          .beta2 = 0.99,
                                          .eps = 1e-6,
                                          .step = c->step};
    ck_assert_int_eq(heed_exec_run(&ctx->exec, HEED_PRIMITIVE_UPDATE, &args), HEED_OK);
    void *after = fetch(&far, l);
    far_free(&far);
    return after;
}

START_TEST(steps) {
    heed_ctx *ref = test_ref(), *ctx = test_cpu();
    for (int variant = 0; variant < STEP_CASES * 2; variant++) {
        const struct step_case *c = &step_cases[variant / 2];
        struct list l = list_new(lists[_i], variant & 1 ? HEED_F64 : HEED_F32);
        char name[64];
        snprintf(name, sizeof name, "list %d, variant %d", _i, variant);
        void *is = take_step(ctx, &l, c), *ought = take_step(ref, &l, c);
        compare(&l, is, ought, variant & 1 ? 1e-14 : 2e-6, name);
        if (!isfinite(c->norm))
            ck_assert_msg(memcmp(is, l.host, list_bytes(&l)) == 0, "%s changes something", name);
        free(is);
        free(ought);
        free(l.host);
    }
    heed_ctx_free(ref);
    heed_ctx_free(ctx);
}
END_TEST

/* Where the witness is not told at once, nothing changes until it is, whatever norm the next step has. */
START_TEST(nothing_after_a_bad_norm) {
    heed_ctx *ctx = test_cpu();
    struct list l = list_new(lists[5], HEED_F32);
    struct watcher told = {.times = 0};
    set_gradient(&l, 1, 3, NAN);
    struct far_list far = send(ctx, &l, true);
    const struct heed_grad_norm_args args = norm_args(&l, &far, &norm_cases[0], &told);
    heed_exec_run(&ctx->exec, HEED_PRIMITIVE_GRAD_NORM, &args);
    const bool late = told.times == 0;
    const struct heed_grad_norm fine = {1, -1};
    const struct heed_update_args update = {
        .dtype = HEED_F32, .items = 1, .item = far.item, .norm = far.norm, .step = 1};
    heed_elements_write(&ctx->exec, far.norm, &fine, sizeof fine);
    heed_exec_run(&ctx->exec, HEED_PRIMITIVE_UPDATE, &update);
    ck_assert_int_eq(heed_elements_wait(&ctx->exec), late ? HEED_ERROR_NUMERIC : HEED_OK);
    ck_assert_int_eq(told.times, 1);
    ck_assert_int_ge(told.for_nothing, late);
    ck_assert_int_eq(told.number, 101);
    void *after = fetch(&far, &l);
    ck_assert_int_eq(memcmp(after, l.host, list_bytes(&l)) == 0, late);
    free(after);
    heed_exec_run(&ctx->exec, HEED_PRIMITIVE_UPDATE, &update);
    after = fetch(&far, &l);
    ck_assert(memcmp(after, l.host, list_bytes(&l)) != 0);
    free(after);
    free(l.host);
    far_free(&far);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("update kernels");
    TCase *tcase = test_case(suite, "update kernels");
    tcase_add_loop_test(tcase, norms, 0, LISTS);
    tcase_add_loop_test(tcase, steps, 0, LISTS);
    tcase_add_test(tcase, nothing_after_a_bad_norm);
    return test_main(suite);
}
