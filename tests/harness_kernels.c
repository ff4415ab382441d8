#include "harness_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "tensor/internal.h"

#define UNTOUCHED (-7777.25)
#define STEP 1e-5

/* ---- memory ---- */

static void *block_new(struct kernel_call *c, heed_dtype dtype, int64_t count) {
    ck_assert_int_lt(c->blocks, KERNEL_BLOCKS);
    void *data = malloc((size_t)count * heed_dtype_bytes(dtype) + 1);
    ck_assert_ptr_nonnull(data);
    struct heed_view all = {data, dtype, 1, {count}, {1}};
    for (int64_t i = 0; i < count; i++) heed_ref_store(&all, i, UNTOUCHED);
    c->block[c->blocks].data = data;
    c->block[c->blocks].dtype = dtype;
    c->block[c->blocks++].count = count;
    return data;
}

static void call_end(struct kernel_call *c) {
    for (int i = 0; i < c->blocks; i++) free(c->block[i].data);
}

static int64_t below(struct kernel_call *c, int64_t n) {
    return (int64_t)(test_bits(&c->random) % (uint64_t)n);
}

/* The dimensions from the one that is innermost in memory to the outermost. */
static void order_in_memory(struct kernel_call *c, enum kernel_layout layout, int rank, int *order) {
    for (int d = 0; d < rank; d++) order[d] = rank - 1 - d;
    bool shuffled = layout == KERNEL_LINES || layout == KERNEL_SCATTERED;
    int first = layout == KERNEL_LINES ? 1 : 0;
    for (int d = rank - 1; d > first && shuffled; d--) {
        int other = first + (int)below(c, d - first + 1), swap = order[d];
        order[d] = order[other];
        order[other] = swap;
    }
}

struct heed_view kernel_view(struct kernel_call *c, heed_dtype dtype, enum kernel_layout layout,
                             unsigned repeats, int rank, const int64_t *size) {
    struct heed_view v = {NULL, dtype, rank, {0}, {0}};
    int order[HEED_MAX_RANK];
    int64_t stride = 1, last = 0;
    order_in_memory(c, layout, rank, order);
    for (int i = 0; i < rank; i++) {
        int d = order[i];
        v.size[d] = size[d];
        if (layout == KERNEL_SCATTERED || (layout != KERNEL_DENSE && i == 1)) stride += below(c, 3);
        v.stride[d] = repeats >> d & 1 ? 0 : stride;
        if (repeats >> d & 1) continue;
        if (size[d] > 0) last += (size[d] - 1) * stride;
        stride *= size[d] > 0 ? size[d] : 1;
    }
    v.data = block_new(c, dtype, last + 1);
    return v;
}

static double number(struct kernel_call *c, enum kernel_fill fill, int64_t place) {
    double u = floor(test_uniform(&c->random) * 512) / 256; /* [0, 2) in steps that f32 has */
    switch (fill) {
    case KERNEL_POSITIVE:
        return 0.25 + u;
    case KERNEL_AWAY:
        return test_bits(&c->random) & 1 ? 0.25 + u : -0.25 - u;
    case KERNEL_DISTINCT:
        return (double)((place * 37 + 11) % 101) / 32;
    case KERNEL_NORMAL:
        break;
    }
    return floor(test_normal(&c->random) * 256) / 256;
}

void kernel_fill_view(struct kernel_call *c, const struct heed_view *v, enum kernel_fill fill) {
    struct heed_walk own, repeated;
    int64_t place = 0;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own)) {
        heed_ref_put(v, own.at, number(c, fill, place++));
    }
}

void kernel_input(struct kernel_call *c, struct heed_view *x, struct heed_grad_view *dx,
                  enum kernel_fill fill, enum kernel_layout layout, unsigned repeats, int rank,
                  const int64_t *size) {
    *x = kernel_view(c, c->dtype, layout, repeats, rank, size);
    dx->view = kernel_view(c, c->dtype, layout, repeats, rank, size);
    kernel_fill_view(c, x, fill);
    c->input[c->inputs].x = x;
    c->input[c->inputs++].dx = dx;
}

void kernel_output(struct kernel_call *c, struct heed_view *y, enum kernel_layout y_layout,
                   struct heed_view *dy, enum kernel_layout dy_layout, unsigned repeats, int rank,
                   const int64_t *size) {
    *y = kernel_view(c, c->dtype, y_layout, repeats, rank, size);
    *dy = kernel_view(c, c->dtype, dy_layout, repeats, rank, size);
    kernel_fill_view(c, dy, KERNEL_NORMAL);
    c->output[c->outputs].y = y;
    c->output[c->outputs++].dy = dy;
}

void kernel_hide(struct kernel_call *c, struct heed_view *v) {
    c->hide[c->hidden++] = v;
}

/* ---- where the elements are ---- */

/* What points from `from` on in the arguments points as far from `to` on. */
static void point_elsewhere(struct kernel_call *c, const void *from, size_t bytes, void *to) {
    for (size_t at = 0; at + sizeof(char *) <= sizeof c->args; at += sizeof(char *)) {
        char *pointer;
        memcpy(&pointer, (char *)&c->args + at, sizeof pointer);
        const uintptr_t distance = (uintptr_t)pointer - (uintptr_t)from;
        if (distance >= bytes) continue;
        pointer = (char *)to + distance;
        memcpy((char *)&c->args + at, &pointer, sizeof pointer);
    }
}

static size_t block_bytes(const struct kernel_call *c, int b) {
    return (size_t)c->block[b].count * heed_dtype_bytes(c->block[b].dtype);
}

void kernel_send(struct heed_exec *exec, struct kernel_call *c) {
    for (int b = 0; b < c->blocks && exec->remote.device; b++) {
        const size_t bytes = block_bytes(c, b);
        void *away = heed_block_new(exec->elements, bytes);
        ck_assert_ptr_nonnull(away);
        ck_assert_int_eq(heed_elements_write(exec, away, c->block[b].data, bytes), HEED_OK);
        point_elsewhere(c, c->block[b].data, bytes, away);
        c->block[b].away = away;
    }
}

void kernel_fetch(struct heed_exec *exec, struct kernel_call *c) {
    for (int b = 0; b < c->blocks && exec->remote.device; b++) {
        const size_t bytes = block_bytes(c, b);
        ck_assert_int_eq(heed_elements_read(exec, c->block[b].data, c->block[b].away, bytes), HEED_OK);
        point_elsewhere(c, c->block[b].away, bytes, c->block[b].data);
        heed_block_free(exec->elements, c->block[b].away);
        c->block[b].away = NULL;
    }
}

/* ---- running ---- */

static const struct heed_kernel *kernel_of(const struct heed_exec *exec, const struct kernel_call *c) {
    return exec->kernel[c->primitive][0];
}

static void *forward(struct heed_exec *exec, struct kernel_call *c) {
    const struct heed_kernel *kernel = kernel_of(exec, c);
    struct heed_sizes sizes = {0, 0, 0};
    if (kernel->sizes) kernel->sizes(exec, &c->args, &sizes);
    void *saved = heed_block_new(exec->memory, sizes.saved);
    ck_assert_ptr_nonnull(saved);
    ck_assert_int_eq(heed_exec_forward(exec, kernel, &c->args, saved), HEED_OK);
    return saved;
}

static void backward(struct heed_exec *exec, struct kernel_call *c, void *saved) {
    struct heed_view kept[8];
    for (int i = 0; i < c->hidden; i++) {
        kept[i] = *c->hide[i];
        c->hide[i]->data = NULL;
    }
    ck_assert_int_eq(heed_exec_backward(exec, kernel_of(exec, c), &c->args, saved), HEED_OK);
    for (int i = 0; i < c->hidden; i++) *c->hide[i] = kept[i];
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
    heed_block_free(exec->memory, forward(exec, c));
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
        heed_ref_put(v, own.at, UNTOUCHED);
    }
    for (int b = 0; b < c->blocks; b++) {
        if (c->block[b].data != v->data) continue;
        struct heed_view all = {v->data, c->block[b].dtype, 1, {c->block[b].count}, {1}};
        for (i = 0; i < c->block[b].count; i++) {
            ck_assert_msg(heed_ref_load(&all, i) == UNTOUCHED, "%s: wrote between the elements", name);
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
        ck_assert_msg(fabs(slope - dx[i]) <= 1e-6 * (1 + fabs(slope)),
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
    void *saved = forward(exec, c);
    backward(exec, c, saved);
    heed_block_free(exec->memory, saved);
    double *added = take(c, v, name);
    for (int64_t i = 0; i < own_count(v); i++) {
        ck_assert_msg(fabs(added[i] - 0.5 - dx[i]) <= 1e-12 * (1 + fabs(dx[i])),
                      "%s: gradient %d does not add", name, input);
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
    void *saved = forward(exec, c);
    backward(exec, c, saved);
    heed_block_free(exec->memory, saved);
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
            ck_assert_msg(fabs(r.values[i][e] - exact->values[i][e]) <= 1e-5 * largest,
                          "%s: view %d, element %lld is %.9g in f32, %.9g in f64", name, i, (long long)e,
                          r.values[i][e], exact->values[i][e]);
        }
    }
    results_free(&r);
    call_end(&c);
}

void kernel_check(struct heed_exec *exec, const char *name, kernel_build *build, int variant) {
    char text[96];
    for (uint64_t seed = 1; seed <= (test_small() ? 1 : 3); seed++) {
        snprintf(text, sizeof text, "%s, variant %d, seed %d", name, variant, (int)seed);
        struct kernel_call c;
        call_start(&c, build, variant, HEED_F64, seed);
        struct results r = run_all(exec, &c, text);
        for (int i = 0; i < c.inputs; i++) check_differences(exec, &c, i, r.values[i], text);
        for (int i = 0; i < c.inputs; i++) check_added(exec, &c, i, r.values[i], text);
        check_f32(exec, &r, build, variant, seed, text);
        results_free(&r);
        call_end(&c);
    }
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
        ck_assert_msg(same || actual[i] == expected[i], "element %d is %g, not %g", i, actual[i],
                      expected[i]);
    }
}
