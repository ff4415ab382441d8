/* Matmul and linear of the CPU backend, or of the device that stands for it, against the reference kernels on
 * random problems: shapes from 0 to beyond several tiles, strides in any order, broadcast batches, transposed
 * and strided gradients, every activation. A problem is made from a seed alone; HEED_FUZZ=N tries N of them,
 * HEED_FUZZ=1 HEED_SEED=S one.
 */
#include "harness_calls.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/internal.h"

struct problem {
    struct kernel_call call;         /* backward's arguments are forward's and the gradients */
    const char *name[KERNEL_BLOCKS]; /* of each block of the call */
    int64_t terms;                   /* of the longest sum */
    bool bf16;                       /* each view is bf16 or f32 by chance */
    char text[200];
};

static int64_t below(struct problem *p, int64_t n) {
    return (int64_t)(test_bits(&p->call.random) % (uint64_t)n);
}

static bool chance(struct problem *p, double probability) {
    return test_uniform(&p->call.random) < probability;
}

/* ---- making a problem ---- */

/* A view in memory of its own, filled. */
static struct heed_view make(struct problem *p, const char *name, enum kernel_layout layout, unsigned repeats,
                             int rank, const int64_t *size) {
    p->name[p->call.blocks] = name;
    const heed_dtype dtype = p->bf16 && chance(p, 0.6) ? HEED_BF16 : HEED_F32;
    const struct heed_view v = kernel_view(&p->call, dtype, layout, repeats, rank, size);
    kernel_fill_view(&p->call, &v, KERNEL_NORMAL);
    return v;
}

/* A gradient may hold something already. */
static struct heed_grad_view make_gradient(struct problem *p, const char *name, enum kernel_layout layout,
                                           unsigned repeats, const struct heed_view *of) {
    if (chance(p, 0.15)) return (struct heed_grad_view){0};
    return (struct heed_grad_view){make(p, name, layout, repeats, of->rank, of->size), chance(p, 0.4)};
}

static enum kernel_layout any_layout(struct problem *p) {
    static const enum kernel_layout layouts[] = {KERNEL_DENSE,    KERNEL_DENSE,    KERNEL_LINES,
                                                 KERNEL_SHUFFLED, KERNEL_SHUFFLED, KERNEL_SCATTERED};
    return layouts[below(p, 6)];
}

static enum kernel_layout rows_layout(struct problem *p) {
    return chance(p, 0.5) ? KERNEL_ROWS : KERNEL_DENSE;
}

static int64_t length(struct problem *p) {
    static const int64_t lengths[] = {0, 1, 1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 65, 100, 131, 260};
    return lengths[below(p, test_small() ? 13 : 17)];
}

/* The first rank − 2 sizes are those of the batch. */
static void make_matmul_of(struct problem *p, int rank, int64_t size[4], int64_t m, int64_t n, int64_t k) {
    struct heed_matmul_args *a = &p->call.args.matmul;
    int64_t a_size[4], b_size[4];
    const unsigned batch = (1u << (rank - 2)) - 1, a_repeats = (unsigned)below(p, 4) & batch,
                   b_repeats = (unsigned)below(p, 4) & batch;
    memcpy(a_size, size, sizeof a_size);
    memcpy(b_size, size, sizeof b_size);
    size[rank - 2] = a_size[rank - 2] = m;
    size[rank - 1] = b_size[rank - 1] = n;
    a_size[rank - 1] = b_size[rank - 2] = k;
    p->call.primitive = HEED_PRIMITIVE_MATMUL;
    a->a = make(p, "a", any_layout(p), a_repeats, rank, a_size);
    a->b = make(p, "b", any_layout(p), b_repeats, rank, b_size);
    a->y = make(p, "y", KERNEL_DENSE, 0, rank, size);
    unsigned dy_repeats = (unsigned)below(p, 1 << rank);
    dy_repeats &= (unsigned)below(p, 1 << rank); /* each dimension with probability 1/4 */
    a->dy = make(p, "dy", any_layout(p), dy_repeats, rank, size);
    a->da = make_gradient(p, "da", any_layout(p), a_repeats, &a->a);
    a->db = make_gradient(p, "db", any_layout(p), b_repeats, &a->b);
    p->terms = m + n + k;
    for (int d = 0; d < rank - 2; d++) p->terms *= size[d] + 1;
    snprintf(p->text, sizeof p->text, "matmul, rank %d, batch %lld %lld, %lld x %lld x %lld, repeats %u %u",
             rank, (long long)(rank > 2 ? size[0] : 1), (long long)(rank > 3 ? size[1] : 1), (long long)m,
             (long long)n, (long long)k, a_repeats, b_repeats);
}

static void make_matmul(struct problem *p) {
    const int rank = 2 + (int)below(p, 3);
    const int64_t m = length(p), n = length(p), k = length(p);
    int64_t size[4] = {0};
    for (int d = 0; d < rank - 2; d++)
        size[d] = chance(p, 0.05) ? 0 : 1 + below(p, m * n * k > 100000 ? 3 : 9);
    make_matmul_of(p, rank, size, m, n, k);
}

static void make_linear(struct problem *p) {
    struct heed_linear_args *a = &p->call.args.linear;
    const int64_t rows = length(p) * (chance(p, 0.3) ? 5 : 1), in = length(p), out = length(p);
    p->call.primitive = HEED_PRIMITIVE_LINEAR;
    a->activation =
        chance(p, 0.4) ? HEED_ACTIVATION_NONE : (heed_activation)(1 + below(p, HEED_ACTIVATION_SIGMOID));
    a->x = make(p, "x", rows_layout(p), 0, 2, (int64_t[]){rows, in});
    a->w = make(p, "w", rows_layout(p), 0, 2, (int64_t[]){out, in});
    if (chance(p, 0.6)) a->bias = make(p, "bias", KERNEL_DENSE, 0, 1, (int64_t[]){out});
    a->y = make(p, "y", rows_layout(p), 0, 2, (int64_t[]){rows, out});
    a->dy = make(p, "dy", rows_layout(p), 0, 2, (int64_t[]){rows, out});
    a->dx = make_gradient(p, "dx", rows_layout(p), 0, &a->x);
    a->dw = make_gradient(p, "dw", rows_layout(p), 0, &a->w);
    if (heed_has(&a->bias)) a->dbias = make_gradient(p, "dbias", KERNEL_DENSE, 0, &a->bias);
    p->terms = rows + in + out;
    snprintf(p->text, sizeof p->text, "linear, %lld x %lld x %lld, activation %d%s", (long long)rows,
             (long long)out, (long long)in, (int)a->activation, heed_has(&a->bias) ? ", bias" : "");
}

static void start_problem(struct problem *p, uint64_t state) {
    memset(p, 0, sizeof *p);
    p->call.random.state = state;
    p->call.edge = state % 3 == 0 ? TEST_EDGE_BEFORE : TEST_EDGE_BEHIND;
}

static void make_problem(struct problem *p, uint64_t seed, bool bf16) {
    start_problem(p, seed * 104729 + 3);
    p->bf16 = bf16;
    if (seed % 2) {
        make_linear(p);
    } else {
        make_matmul(p);
    }
}

/* ---- running it ---- */

/* A block of the call, and where its numbers are now. */
struct spot {
    int block;
    void *data;
    size_t bytes;
};

static int block_of(const struct kernel_call *c, const struct heed_view *v) {
    int block = 0;
    while (c->block[block].data != v->data) block++;
    return block;
}

static struct spot spot_of(const struct kernel_call *c, int block, const struct heed_view *v) {
    return (struct spot){block, v->data,
                         (size_t)c->block[block].count * heed_dtype_bytes(c->block[block].dtype)};
}

static void put(struct heed_exec *exec, const struct spot *spot, const struct kernel_image *image) {
    ck_assert_int_eq(heed_elements_write(exec, spot->data, image->data[spot->block], spot->bytes), HEED_OK);
}

static void *get(struct heed_exec *exec, const struct spot *spot) {
    void *bytes = malloc(spot->bytes + 1);
    ck_assert_int_eq(heed_elements_read(exec, bytes, spot->data, spot->bytes), HEED_OK);
    return bytes;
}

/* The output again, from what the kernel saved: the same bits, and nothing between its rows. */
static void remake(struct problem *p, const struct kernel_image *start, struct heed_exec *exec,
                   const struct heed_kernel *kernel, const struct spot *y, const void *saved) {
    const void *args = &p->call.args;
    if (!kernel->remake || (kernel->remakes && !kernel->remakes(exec, args))) return;
    void *before = get(exec, y);
    put(exec, y, start);
    ck_assert_int_eq(kernel->remake(exec, args, saved), HEED_OK);
    void *again = get(exec, y);
    test_check(memcmp(before, again, y->bytes) == 0, "%s: other bits the second time", p->text);
    free(before);
    free(again);
}

/* First through the activation, in place; then, with nothing saved any more, the gradients one by one. */
static void backward_in_steps(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel,
                              const struct kernel_saved *saved) {
    struct heed_linear_args step = p->call.args.linear;
    const struct heed_grad_view dx = step.dx, dw = step.dw, dbias = step.dbias, none = {0};
    const struct kernel_saved nothing = {.exec = exec, .edge = saved->edge};
    step.dx = step.dw = step.dbias = none;
    step.dz = step.dy;
    kernel_run_backward(exec, kernel, &step, saved);
    step.dz = (struct heed_view){0};
    step.activation = HEED_ACTIVATION_NONE;
    step.dw = dw;
    step.dbias = dbias;
    kernel_run_backward(exec, kernel, &step, &nothing);
    step.dw = step.dbias = none;
    step.dx = dx;
    kernel_run_backward(exec, kernel, &step, &nothing);
}

static bool has_steps(const struct problem *p) {
    return p->call.primitive == HEED_PRIMITIVE_LINEAR &&
           p->call.args.linear.activation != HEED_ACTIVATION_NONE;
}

static void run(struct problem *p, const struct kernel_image *start, struct heed_exec *exec,
                const struct heed_kernel *kernel, bool in_steps) {
    struct kernel_call *c = &p->call;
    struct heed_view *y = c->primitive == HEED_PRIMITIVE_MATMUL ? &c->args.matmul.y : &c->args.linear.y,
                     *dy = c->primitive == HEED_PRIMITIVE_MATMUL ? &c->args.matmul.dy : &c->args.linear.dy;
    kernel_image_restore(c, start);
    const int y_block = block_of(c, y), dy_block = block_of(c, dy);
    const struct kernel_away away = kernel_send(exec, c);
    const struct heed_view y_view = *y, dy_view = *dy;
    const struct spot y_spot = spot_of(c, y_block, y), dy_spot = spot_of(c, dy_block, dy);
    dy->data = NULL;
    const struct kernel_saved saved = kernel_run_forward(exec, kernel, &c->args, c->edge);
    *dy = dy_view;
    if (in_steps) remake(p, start, exec, kernel, &y_spot, saved.memory);
    y->data = NULL;
    if (in_steps) {
        backward_in_steps(p, exec, kernel, &saved);
        put(exec, &dy_spot, start); /* dz was in its place */
    } else {
        kernel_run_backward(exec, kernel, &c->args, &saved);
    }
    *y = y_view;
    kernel_saved_free(&saved);
    kernel_fetch(exec, c, &away);
}

static void compare(const struct problem *p, uint64_t seed, const struct kernel_image *expected,
                    const char *device) {
    /* Inputs are about 1 large; errors of sums grow like the root of their terms. In bf16 results are
     * neighbours, and so are products before an activation, of which gradients are sums. */
    const double root = sqrt((double)p->terms + 16);
    const struct test_tolerance exact = {1e-5, 2e-6 * root}, rounded = {0x1p-7, 0x1p-9 * root},
                                tolerance = p->bf16 ? rounded : exact;
    for (int b = 0; b < p->call.blocks; b++) {
        char text[200];
        test_check(kernel_image_close(&p->call, b, expected, tolerance, 4, text, sizeof text),
                   "seed %llu: %s, %s, %s: %s", (unsigned long long)seed, p->text, device, p->name[b], text);
    }
}

/* Runs the problem on `ref` and on every device, and drops it. */
static void try_problem(struct problem *p, uint64_t seed, heed_ctx *const *contexts) {
    const struct test_device *devices;
    const int device_count = test_devices(&devices);
    struct kernel_image start = kernel_image_take(&p->call), one = {{NULL}};
    run(p, &start, &contexts[0]->exec, heed_ref_kernels[p->call.primitive], false);
    struct kernel_image expected = kernel_image_take(&p->call);
    if (has_steps(p)) {
        run(p, &start, &contexts[0]->exec, heed_ref_kernels[p->call.primitive], true);
        compare(p, seed, &expected, "ref in steps");
    }
    for (int d = 1; d < device_count; d++) {
        struct heed_exec *exec = &contexts[d]->exec;
        const struct heed_kernel *kernel = heed_exec_select(exec, p->call.primitive, &p->call.args);
        char device[64];
        test_check(exec->fallbacks == 0, "%s: no kernel of the device applies", p->text);
        run(p, &start, exec, kernel, false);
        compare(p, seed, &expected, test_device_name(&devices[d], device, sizeof device));
        if (devices[d].threads == 1) {
            kernel_image_free(&one);
            one = kernel_image_take(&p->call);
        }
        for (int b = 0; b < p->call.blocks; b++)
            test_check(kernel_image_has(&p->call, b, &one), "seed %llu: %s, %s: bits of %s differ",
                       (unsigned long long)seed, p->text, device, p->name[b]);
        if (!has_steps(p)) continue;
        run(p, &start, exec, kernel, true);
        compare(p, seed, &expected, device);
    }
    kernel_image_free(&start);
    kernel_image_free(&expected);
    kernel_image_free(&one);
    kernel_call_end(&p->call);
}

enum { MOST_DEVICES = 32 };

static void open_devices(heed_ctx *contexts[MOST_DEVICES]) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    ck_assert_int_le(count, MOST_DEVICES);
    const heed_ctx_options options = {
        .poison = true, .allocator = test_guarded_allocator(), .chunk_bytes = 1};
    for (int i = 0; i < MOST_DEVICES; i++)
        contexts[i] = i < count ? test_ctx_with(&devices[i], options) : NULL;
}

static void close_devices(heed_ctx *contexts[MOST_DEVICES]) {
    for (int i = 0; i < MOST_DEVICES; i++) heed_ctx_free(contexts[i]);
}

static void try_seeds(struct test_seeds seeds, bool bf16) {
    heed_ctx *contexts[MOST_DEVICES];
    static struct problem p;
    open_devices(contexts);
    test_fault_says(p.text);
    for (uint64_t seed = seeds.first; seed < seeds.end; seed++) {
        make_problem(&p, seed, bf16);
        try_problem(&p, seed, contexts);
    }
    test_fault_says(NULL);
    close_devices(contexts);
}

START_TEST(random_problems) {
    try_seeds(test_seeds(500, 100), false);
}
END_TEST

START_TEST(random_problems_in_bf16) {
    if (test_has_bf16()) try_seeds(test_seeds(200, 50), true);
}
END_TEST

/* More rows, columns and inner elements than the packed kernel takes at a time, and products of a batch that
 * are large enough for it. */
START_TEST(slabs_and_slices) {
    static const int64_t shapes[][4] = {
        {1, 4100, 33, 17}, {1, 33, 4110, 17}, {1, 65, 70, 900}, {2, 400, 330, 270}};
    heed_ctx *contexts[MOST_DEVICES];
    open_devices(contexts);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t *s = shapes[i];
        struct problem p;
        if (i == 3 && test_small()) break;
        start_problem(&p, i);
        make_matmul_of(&p, s[0] > 1 ? 3 : 2, (int64_t[4]){s[0]}, s[1], s[2], s[3]);
        try_problem(&p, i, contexts);
    }
    close_devices(contexts);
}
END_TEST

/* A gradient that relu stops is 0 whatever it is, and NaN passes the layer. */
START_TEST(relu_stops_nan) {
    if (test_elsewhere()) return; /* the arrays are the host's */
    heed_ctx *ctx = test_cpu();
    float x[2] = {-1, 2}, w[1] = {1}, y[2], dy[2] = {NAN, 3}, dx[2];
    struct heed_linear_args args = {.activation = HEED_ACTIVATION_RELU,
                                    .x = {x, HEED_F32, 2, {2, 1}, {1, 1}},
                                    .w = {w, HEED_F32, 2, {1, 1}, {1, 1}},
                                    .y = {y, HEED_F32, 2, {2, 1}, {1, 1}}};
    const struct heed_kernel *kernel = ctx->exec.kernel[HEED_PRIMITIVE_LINEAR][0];
    const struct kernel_saved saved = kernel_run_forward(&ctx->exec, kernel, &args, TEST_EDGE_BEHIND);
    args.dy = (struct heed_view){dy, HEED_F32, 2, {2, 1}, {1, 1}};
    args.dx.view = (struct heed_view){dx, HEED_F32, 2, {2, 1}, {1, 1}};
    kernel_run_backward(&ctx->exec, kernel, &args, &saved);
    ck_assert(y[0] == 0 && y[1] == 2 && dx[0] == 0 && dx[1] == 3);
    kernel_saved_free(&saved);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("product_kernels");
    TCase *tests = test_case(suite, "against_ref");
    tcase_add_test(tests, random_problems);
    tcase_add_test(tests, random_problems_in_bf16);
    tcase_add_test(tests, slabs_and_slices);
    tcase_add_test(tests, relu_stops_nan);
    return test_main(suite);
}
