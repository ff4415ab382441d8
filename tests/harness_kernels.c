#include "harness_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "tensor/internal.h"

#define STEP 1e-5

/* ---- running ---- */

static const struct heed_kernel *kernel_of(const struct heed_exec *exec, const struct kernel_call *c) {
    return exec->kernel[c->primitive][0];
}

static struct kernel_saved forward(struct heed_exec *exec, struct kernel_call *c) {
    return kernel_run_forward(exec, kernel_of(exec, c), &c->args, c->edge);
}

static void backward(struct heed_exec *exec, struct kernel_call *c, const struct kernel_saved *saved) {
    struct heed_view kept[8];
    for (int i = 0; i < c->hidden; i++) {
        kept[i] = *c->hide[i];
        c->hide[i]->data = NULL;
    }
    kernel_run_backward(exec, kernel_of(exec, c), &c->args, saved);
    for (int i = 0; i < c->hidden; i++) *c->hide[i] = kept[i];
    kernel_saved_free(saved);
}

static int64_t own_count(const struct heed_view *v) {
    struct heed_walk own, repeated;
    int64_t count = 0;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own)) count++;
    return count;
}

/* Σ dy·y over all outputs. */
static double total(const struct kernel_call *c) {
    double sum = 0;
    for (int o = 0; o < c->outputs; o++) {
        const struct heed_view *y = c->output[o].y, *dy = c->output[o].dy;
        struct heed_walk own, repeated;
        if (!dy->data) continue;
        for (heed_walk_split(y, &own, &repeated); own.more; heed_walk_next(&own)) {
            sum += heed_ref_get(dy, own.at) * heed_ref_get(y, own.at);
        }
    }
    return sum;
}

static double total_with(struct heed_exec *exec, struct kernel_call *c, const struct heed_view *x,
                         int64_t offset, double value) {
    double before = heed_ref_load(x, offset);
    heed_ref_store(x, offset, value);
    const struct kernel_saved saved = forward(exec, c);
    kernel_saved_free(&saved);
    heed_ref_store(x, offset, before);
    return total(c);
}

/* The elements of a view (calloc); they become untouched again, and so must the rest of their memory be. */
static double *take(struct kernel_call *c, const struct heed_view *v, const char *name) {
    double *values = calloc((size_t)own_count(v) + 1, sizeof(double));
    ck_assert_ptr_nonnull(values);
    struct heed_walk own, repeated;
    int64_t i = 0;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own)) {
        values[i++] = heed_ref_get(v, own.at);
        heed_ref_put(v, own.at, KERNEL_UNTOUCHED);
    }
    for (int b = 0; b < c->blocks; b++) {
        if (c->block[b].data != v->data) continue;
        struct heed_view all = {v->data, c->block[b].dtype, 1, {c->block[b].count}, {1}};
        for (i = 0; i < c->block[b].count; i++) {
            test_check(heed_ref_load(&all, i) == KERNEL_UNTOUCHED, "%s: wrote between the elements", name);
        }
    }
    return values;
}

/* ---- the three checks ---- */

/* The gradient of one input against central differences. */
static void check_differences(struct heed_exec *exec, struct kernel_call *c, int input, const double *dx,
                              const char *name) {
    const struct heed_view *x = c->input[input].x;
    struct heed_walk own, repeated;
    int64_t i = 0;
    ck_assert_ptr_nonnull(dx);
    for (heed_walk_split(x, &own, &repeated); own.more; heed_walk_next(&own), i++) {
        int64_t offset = heed_ref_offset(x, own.at);
        double value = heed_ref_load(x, offset);
        if (isinf(value)) continue;
        double up = total_with(exec, c, x, offset, value + STEP);
        double down = total_with(exec, c, x, offset, value - STEP);
        double slope = (up - down) / (2 * STEP);
        test_check(fabs(slope - dx[i]) <= 1e-6 * (1 + fabs(slope)),
                   "%s: gradient %d, element %lld: %.12g, by differences %.12g", name, input, (long long)i,
                   dx[i], slope);
    }
}

static void want_only(struct kernel_call *c, const struct heed_view *views, int input) {
    for (int i = 0; i < c->inputs; i++) {
        c->input[i].dx->view = views[i];
        c->input[i].dx->add = false;
        if (i != input && input >= 0) c->input[i].dx->view.data = NULL;
    }
}

/* One gradient alone, added to 0.5 everywhere. */
static void check_added(struct heed_exec *exec, struct kernel_call *c, int input, const double *dx,
                        const char *name) {
    struct heed_view views[KERNEL_INPUTS];
    for (int i = 0; i < c->inputs; i++) views[i] = c->input[i].dx->view;
    want_only(c, views, input);
    c->input[input].dx->add = true;
    const struct heed_view *v = &c->input[input].dx->view;
    struct heed_walk own, repeated;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own)) heed_ref_put(v, own.at, 0.5);
    const struct kernel_saved saved = forward(exec, c);
    backward(exec, c, &saved);
    double *added = take(c, v, name);
    for (int64_t i = 0; i < own_count(v); i++) {
        test_check(fabs(added[i] - 0.5 - dx[i]) <= 1e-12 * (1 + fabs(dx[i])), "%s: gradient %d does not add",
                   name, input);
    }
    free(added);
    want_only(c, views, -1);
}

/* Outputs and gradients of a call, one array per view (calloc). */
struct results {
    double *values[KERNEL_INPUTS + 2];
    int64_t count[KERNEL_INPUTS + 2];
    int views;
};

static void results_add(struct results *r, struct kernel_call *c, const struct heed_view *v,
                        const char *name) {
    r->count[r->views] = own_count(v);
    r->values[r->views++] = take(c, v, name);
}

/* Forward and backward with all gradients. */
static struct results run_all(struct heed_exec *exec, struct kernel_call *c, const char *name) {
    struct results r;
    memset(&r, 0, sizeof r);
    const struct kernel_saved saved = forward(exec, c);
    backward(exec, c, &saved);
    for (int i = 0; i < c->inputs; i++) results_add(&r, c, &c->input[i].dx->view, name);
    for (int o = 0; o < c->outputs; o++) results_add(&r, c, c->output[o].y, name);
    return r;
}

static void results_free(struct results *r) {
    for (int i = 0; i < r->views; i++) free(r->values[i]);
}

/* The call stays where it is: it points into itself. */
static void call_start(struct kernel_call *c, kernel_build *build, int variant, heed_dtype dtype,
                       uint64_t seed) {
    memset(c, 0, sizeof *c);
    c->random.state = seed;
    c->edge = seed % 2 ? TEST_EDGE_BEHIND : TEST_EDGE_BEFORE;
    c->dtype = dtype;
    build(c, variant);
}

static void check_f32(struct heed_exec *exec, const struct results *exact, kernel_build *build, int variant,
                      uint64_t seed, const char *name) {
    struct kernel_call c;
    call_start(&c, build, variant, HEED_F32, seed);
    struct results r = run_all(exec, &c, name);
    ck_assert_int_eq(r.views, exact->views);
    for (int i = 0; i < r.views; i++) {
        double largest = 1;
        ck_assert_int_eq(r.count[i], exact->count[i]);
        for (int64_t e = 0; e < r.count[i]; e++) largest = fmax(largest, fabs(exact->values[i][e]));
        for (int64_t e = 0; e < r.count[i]; e++) {
            test_check(fabs(r.values[i][e] - exact->values[i][e]) <= 1e-5 * largest,
                       "%s: view %d, element %lld is %.9g in f32, %.9g in f64", name, i, (long long)e,
                       r.values[i][e], exact->values[i][e]);
        }
    }
    results_free(&r);
    kernel_call_end(&c);
}

void kernel_check(struct heed_exec *exec, const char *name, kernel_build *build, int variant) {
    char text[96] = "";
    test_fault_says(text);
    for (uint64_t seed = 1; seed <= (test_small() ? 1 : 3); seed++) {
        snprintf(text, sizeof text, "%s, variant %d, seed %d", name, variant, (int)seed);
        struct kernel_call c;
        call_start(&c, build, variant, HEED_F64, seed);
        struct results r = run_all(exec, &c, text);
        for (int i = 0; i < c.inputs; i++) check_differences(exec, &c, i, r.values[i], text);
        for (int i = 0; i < c.inputs; i++) check_added(exec, &c, i, r.values[i], text);
        check_f32(exec, &r, build, variant, seed, text);
        results_free(&r);
        kernel_call_end(&c);
    }
    test_fault_says(NULL);
}

/* ---- small dense arrays ---- */

heed_status kernel_forward(heed_ctx *ctx, enum heed_primitive primitive, const void *args) {
    return heed_exec_run(&ctx->exec, primitive, args);
}

void kernel_backward(heed_ctx *ctx, enum heed_primitive primitive, const void *args) {
    const struct heed_kernel *kernel = heed_exec_select(&ctx->exec, primitive, args);
    ck_assert_int_eq(heed_exec_backward(&ctx->exec, kernel, args, NULL), HEED_OK);
}

void kernel_equals(const double *actual, const double *expected, int count) {
    for (int i = 0; i < count; i++) {
        bool same = isnan(expected[i]) ? isnan(actual[i])
                                       : fabs(actual[i] - expected[i]) <= 1e-14 * (1 + fabs(expected[i]));
        test_check(same || actual[i] == expected[i], "element %d is %g, not %g", i, actual[i], expected[i]);
    }
}
