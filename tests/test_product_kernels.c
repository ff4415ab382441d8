/* The CPU backend's matmul and linear against the reference kernels on random problems: shapes from 0 to
 * beyond several tiles, strides in any order, broadcast batches, transposed and strided gradients, every
 * activation. A problem is made from a seed alone; HEED_FUZZ=N tries N of them. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "tensor/internal.h"
#include "tensor/memory.h"

#define GAP 12345.0f /* between the elements of a strided view */

struct buffer {
    float *data, *start; /* what it holds before each run */
    int64_t count;
    bool output;
    char name[8];
};

struct problem {
    struct test_random random;
    enum heed_primitive primitive;
    union {
        struct heed_matmul_args matmul;
        struct heed_linear_args linear;
    } forward, backward;
    struct buffer buffer[12];
    int buffers;
    int64_t terms; /* of the longest sum */
    char text[200];
};

static int64_t below(struct problem *p, int64_t n) {
    return (int64_t)(test_bits(&p->random) % (uint64_t)n);
}

static bool chance(struct problem *p, double probability) {
    return test_uniform(&p->random) < probability;
}

/* ---- making a problem ---- */

static void order_in_memory(struct problem *p, int rank, bool shuffled, bool rows, int *order) {
    for (int d = 0; d < rank; d++) order[d] = rank - 1 - d;
    const int fixed = rows ? 1 : 0;
    for (int d = rank - 1; d > fixed && shuffled; d--) {
        const int other = fixed + (int)below(p, d - fixed + 1), swap = order[d];
        order[d] = order[other];
        order[other] = swap;
    }
}

/* A view in memory of its own. rows: the last dimension contiguous. dense: all of it. */
static struct heed_view make(struct problem *p, const char *name, bool output, bool dense, bool rows,
                             unsigned repeats, int rank, const int64_t *size) {
    struct buffer *b = &p->buffer[p->buffers++];
    struct heed_view v = {.dtype = HEED_F32, .rank = rank};
    int order[HEED_MAX_RANK];
    int64_t stride = 1;
    order_in_memory(p, rank, !dense && chance(p, 0.6), rows, order);
    for (int i = 0; i < rank; i++) {
        const int d = order[i];
        v.size[d] = size[d];
        v.stride[d] = repeats >> d & 1 ? 0 : stride;
        if (!(repeats >> d & 1)) stride *= size[d] > 0 ? size[d] : 1;
        if (!dense && i < rank - 1) stride += below(p, 2) * below(p, 5);
        if (!dense && !rows && i == 0 && chance(p, 0.1)) stride *= 2;
    }
    b->count = stride;
    b->data = malloc((size_t)stride * sizeof(float));
    b->start = malloc((size_t)stride * sizeof(float));
    b->output = output;
    snprintf(b->name, sizeof b->name, "%s", name);
    for (int64_t i = 0; i < stride; i++) b->start[i] = output ? GAP : (float)test_normal(&p->random);
    v.data = b->data;
    return v;
}

/* A gradient may hold something already. */
static struct heed_grad_view make_gradient(struct problem *p, const char *name, bool rows, unsigned repeats,
                                           const struct heed_view *of) {
    if (chance(p, 0.15)) return (struct heed_grad_view){0};
    struct heed_grad_view g = {make(p, name, true, chance(p, 0.4), rows, repeats, of->rank, of->size),
                               chance(p, 0.4)};
    struct buffer *b = &p->buffer[p->buffers - 1];
    for (int64_t i = 0; g.add && i < b->count; i++) b->start[i] = (float)test_normal(&p->random);
    return g;
}

static int64_t length(struct problem *p) {
    static const int64_t lengths[] = {0, 1, 1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 65, 100, 131, 260};
    return lengths[below(p, test_small() ? 13 : 17)];
}

/* The first rank − 2 sizes are those of the batch. */
static void make_matmul_of(struct problem *p, int rank, int64_t size[4], int64_t m, int64_t n, int64_t k) {
    struct heed_matmul_args *f = &p->forward.matmul, *b = &p->backward.matmul;
    int64_t a_size[4], b_size[4];
    const unsigned a_repeats = (unsigned)below(p, 4) & ((1u << (rank - 2)) - 1);
    const unsigned b_repeats = (unsigned)below(p, 4) & ((1u << (rank - 2)) - 1);
    memcpy(a_size, size, sizeof a_size);
    memcpy(b_size, size, sizeof b_size);
    size[rank - 2] = a_size[rank - 2] = m;
    size[rank - 1] = b_size[rank - 1] = n;
    a_size[rank - 1] = b_size[rank - 2] = k;
    p->primitive = HEED_PRIMITIVE_MATMUL;
    f->a = make(p, "a", false, chance(p, 0.3), false, a_repeats, rank, a_size);
    f->b = make(p, "b", false, chance(p, 0.3), false, b_repeats, rank, b_size);
    f->y = make(p, "y", true, true, false, 0, rank, size);
    *b = *f;
    b->y.data = NULL;
    unsigned dy_repeats = (unsigned)below(p, 1 << rank);
    dy_repeats &= (unsigned)below(p, 1 << rank); /* each dimension with probability 1/4 */
    b->dy = make(p, "dy", false, chance(p, 0.3), false, dy_repeats, rank, size);
    b->da = make_gradient(p, "da", false, a_repeats, &f->a);
    b->db = make_gradient(p, "db", false, b_repeats, &f->b);
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
    struct heed_linear_args *f = &p->forward.linear, *b = &p->backward.linear;
    const int64_t rows = length(p) * (chance(p, 0.3) ? 5 : 1), in = length(p), out = length(p);
    p->primitive = HEED_PRIMITIVE_LINEAR;
    f->activation =
        chance(p, 0.4) ? HEED_ACTIVATION_NONE : (heed_activation)(1 + below(p, HEED_ACTIVATION_SIGMOID));
    f->x = make(p, "x", false, chance(p, 0.5), true, 0, 2, (int64_t[]){rows, in});
    f->w = make(p, "w", false, chance(p, 0.5), true, 0, 2, (int64_t[]){out, in});
    if (chance(p, 0.6)) f->bias = make(p, "bias", false, true, true, 0, 1, (int64_t[]){out});
    f->y = make(p, "y", true, chance(p, 0.5), true, 0, 2, (int64_t[]){rows, out});
    *b = *f;
    b->y.data = NULL;
    b->dy = make(p, "dy", false, chance(p, 0.5), true, 0, 2, (int64_t[]){rows, out});
    b->dx = make_gradient(p, "dx", true, 0, &f->x);
    b->dw = make_gradient(p, "dw", true, 0, &f->w);
    if (heed_has(&f->bias)) {
        b->dbias = make_gradient(p, "dbias", true, 0, &f->bias);
    }
    p->terms = rows + in + out;
    snprintf(p->text, sizeof p->text, "linear, %lld x %lld x %lld, activation %d%s", (long long)rows,
             (long long)out, (long long)in, (int)f->activation, heed_has(&f->bias) ? ", bias" : "");
}

static void make_problem(struct problem *p, uint64_t seed) {
    *p = (struct problem){.random = {seed * 104729 + 3}};
    if (seed % 2) {
        make_linear(p);
    } else {
        make_matmul(p);
    }
}

static void drop_problem(struct problem *p) {
    for (int i = 0; i < p->buffers; i++) {
        free(p->buffer[i].data);
        free(p->buffer[i].start);
    }
}

/* ---- running it ---- */

/* The output again, from what the kernel saved: the same bits, and nothing between its rows. */
static void remake(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel,
                   const void *saved) {
    int y = 0;
    while (p->buffer[y].data != p->forward.linear.y.data) y++;
    const size_t bytes = (size_t)p->buffer[y].count * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, p->buffer[y].data, bytes);
    memcpy(p->buffer[y].data, p->buffer[y].start, bytes);
    ck_assert_int_eq(kernel->remake(exec, &p->forward, saved), HEED_OK);
    ck_assert_msg(memcmp(before, p->buffer[y].data, bytes) == 0, "%s: other bits the second time", p->text);
    free(before);
}

/* First through the activation, in place; then, with nothing saved any more, the gradients one by one. */
static void backward_in_steps(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel,
                              void *saved) {
    struct heed_linear_args step = p->backward.linear;
    const struct heed_grad_view dx = step.dx, dw = step.dw, dbias = step.dbias, none = {0};
    step.dx = step.dw = step.dbias = none;
    step.dz = step.dy;
    ck_assert_int_eq(heed_exec_backward(exec, kernel, &step, saved), HEED_OK);
    step.dz = (struct heed_view){0};
    step.activation = HEED_ACTIVATION_NONE;
    step.dw = dw;
    step.dbias = dbias;
    ck_assert_int_eq(heed_exec_backward(exec, kernel, &step, NULL), HEED_OK);
    step.dw = step.dbias = none;
    step.dx = dx;
    ck_assert_int_eq(heed_exec_backward(exec, kernel, &step, NULL), HEED_OK);
}

static void run(struct problem *p, struct heed_exec *exec, const struct heed_kernel *kernel, bool in_steps) {
    struct heed_sizes sizes = {0};
    for (int i = 0; i < p->buffers; i++) {
        memcpy(p->buffer[i].data, p->buffer[i].start, (size_t)p->buffer[i].count * sizeof(float));
    }
    if (kernel->sizes) kernel->sizes(exec, &p->forward, &sizes);
    void *saved = heed_block_new(exec->memory, sizes.saved);
    ck_assert_int_eq(heed_exec_forward(exec, kernel, &p->forward, saved), HEED_OK);
    if (in_steps) {
        remake(p, exec, kernel, saved);
        backward_in_steps(p, exec, kernel, saved);
    } else {
        ck_assert_int_eq(heed_exec_backward(exec, kernel, &p->backward, saved), HEED_OK);
    }
    heed_block_free(exec->memory, saved);
}

static bool has_steps(const struct problem *p) {
    return p->primitive == HEED_PRIMITIVE_LINEAR && p->forward.linear.activation != HEED_ACTIVATION_NONE;
}

static double *results(const struct problem *p, int which) {
    const struct buffer *b = &p->buffer[which];
    double *values = malloc((size_t)b->count * sizeof(double));
    for (int64_t i = 0; i < b->count; i++) values[i] = b->data[i];
    return values;
}

static void compare(const struct problem *p, uint64_t seed, double *const *expected, const char *device) {
    /* Inputs are about 1 large; errors of sums grow like the root of their terms. */
    const struct test_tolerance tolerance = {1e-5, 2e-6 * sqrt((double)p->terms + 16)};
    for (int i = 0; i < p->buffers; i++) {
        char text[200];
        if (!p->buffer[i].output) continue;
        double *values = results(p, i);
        const bool close =
            test_close(p->buffer[i].count, values, expected[i], tolerance, 4, text, sizeof text);
        ck_assert_msg(close, "seed %llu: %s, %s, %s: %s", (unsigned long long)seed, p->text, device,
                      p->buffer[i].name, text);
        free(values);
    }
}

/* The bits of all outputs as one number (FNV-1a). */
static uint64_t fingerprint(const struct problem *p) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < p->buffers; i++) {
        const unsigned char *bytes = (const unsigned char *)p->buffer[i].data;
        for (size_t j = 0; p->buffer[i].output && j < (size_t)p->buffer[i].count * sizeof(float); j++) {
            hash = (hash ^ bytes[j]) * 1099511628211u;
        }
    }
    return hash;
}

/* Runs the problem on `ref` and on every device, and drops it. */
static void try_problem(struct problem *p, uint64_t seed, heed_ctx *const *contexts) {
    const struct test_device *devices;
    const int device_count = test_devices(&devices);
    double *expected[12] = {NULL};
    uint64_t bits = 0;
    run(p, &contexts[0]->exec, heed_ref_kernels[p->primitive], false);
    for (int i = 0; i < p->buffers; i++) expected[i] = results(p, i);
    if (has_steps(p)) {
        run(p, &contexts[0]->exec, heed_ref_kernels[p->primitive], true);
        compare(p, seed, expected, "ref in steps");
    }
    for (int d = 1; d < device_count; d++) {
        struct heed_exec *exec = &contexts[d]->exec;
        const struct heed_kernel *kernel = exec->kernel[p->primitive][0];
        struct heed_why why = {NULL};
        char device[64];
        ck_assert_msg(kernel->applies(exec, &p->forward, &why), "%s: %s", p->text, why.reason);
        run(p, exec, kernel, false);
        compare(p, seed, expected, test_device_name(&devices[d], device, sizeof device));
        if (devices[d].threads == 1) bits = fingerprint(p);
        ck_assert_msg(bits == fingerprint(p), "seed %d: %s, %s: bits differ", (int)seed, p->text, device);
        if (!has_steps(p)) continue;
        run(p, exec, kernel, true);
        compare(p, seed, expected, device);
    }
    for (int i = 0; i < p->buffers; i++) free(expected[i]);
    drop_problem(p);
}

enum { MOST_DEVICES = 32 };

static void open_devices(heed_ctx *contexts[MOST_DEVICES]) {
    const struct test_device *devices;
    const int count = test_devices(&devices);
    ck_assert_int_le(count, MOST_DEVICES);
    for (int i = 0; i < MOST_DEVICES; i++) contexts[i] = i < count ? test_ctx(&devices[i]) : NULL;
}

static void close_devices(heed_ctx *contexts[MOST_DEVICES]) {
    for (int i = 0; i < MOST_DEVICES; i++) heed_ctx_free(contexts[i]);
}

START_TEST(random_problems) {
    heed_ctx *contexts[MOST_DEVICES];
    const char *fuzz = getenv("HEED_FUZZ");
    const int count = fuzz ? atoi(fuzz) : (int)test_size(500, 100);
    open_devices(contexts);
    for (int seed = 0; seed < count; seed++) {
        struct problem p;
        make_problem(&p, (uint64_t)seed);
        try_problem(&p, (uint64_t)seed, contexts);
    }
    close_devices(contexts);
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
        struct problem p = {.random = {i}};
        if (i == 3 && test_small()) break;
        make_matmul_of(&p, s[0] > 1 ? 3 : 2, (int64_t[4]){s[0]}, s[1], s[2], s[3]);
        try_problem(&p, i, contexts);
    }
    close_devices(contexts);
}
END_TEST

/* A gradient that relu stops is 0 whatever it is, and NaN passes the layer. */
START_TEST(relu_stops_nan) {
    heed_ctx *ctx = test_cpu();
    float x[2] = {-1, 2}, w[1] = {1}, y[2], dy[2] = {NAN, 3}, dx[2];
    struct heed_linear_args args = {.activation = HEED_ACTIVATION_RELU,
                                    .x = {x, HEED_F32, 2, {2, 1}, {1, 1}},
                                    .w = {w, HEED_F32, 2, {1, 1}, {1, 1}},
                                    .y = {y, HEED_F32, 2, {2, 1}, {1, 1}}};
    const struct heed_kernel *kernel = ctx->exec.kernel[HEED_PRIMITIVE_LINEAR][0];
    struct heed_sizes sizes = {0};
    kernel->sizes(&ctx->exec, &args, &sizes);
    void *saved = heed_block_new(ctx->exec.memory, sizes.saved);
    ck_assert_int_eq(heed_exec_forward(&ctx->exec, kernel, &args, saved), HEED_OK);
    args.dy = (struct heed_view){dy, HEED_F32, 2, {2, 1}, {1, 1}};
    args.dx.view = (struct heed_view){dx, HEED_F32, 2, {2, 1}, {1, 1}};
    ck_assert_int_eq(heed_exec_backward(&ctx->exec, kernel, &args, saved), HEED_OK);
    ck_assert(y[0] == 0 && y[1] == 2 && dx[0] == 0 && dx[1] == 3);
    heed_block_free(ctx->exec.memory, saved);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("product_kernels");
    TCase *tests = test_case(suite, "against_ref");
    tcase_add_test(tests, random_problems);
    tcase_add_test(tests, slabs_and_slices);
    tcase_add_test(tests, relu_stops_nan);
    return test_main(suite);
}
