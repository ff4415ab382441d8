/* Kernels of the CPU backend, or of the device that stands for it, against ref on the same memory: random
 * strides, repeats and shapes on both sides of every border (vector tails, boxes, tiles, chunks of long
 * sums), each instruction set and number of threads, which must give the same bits. What lies between the
 * elements must stay as it was. */
#include "harness_calls.h"
#include "harness_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "tensor/internal.h"

#define SIZES(...)                                                                                           \
    (int64_t[]) {                                                                                            \
        __VA_ARGS__                                                                                          \
    }

/* ---- shapes ---- */

struct shape {
    int rank;
    int64_t size[4];
};

static const struct shape shapes[] = {
    {0, {0}},           {1, {1}},          {1, {37}},         {1, {40001}},      {2, {5, 0}},
    {2, {0, 3}},        {2, {3, 50}},      {2, {2000, 3}},    {2, {3, 2000}},    {2, {500, 40}},
    {2, {1, 5000}},     {2, {97, 101}},    {3, {2, 3, 4}},    {3, {7, 1, 33}},   {3, {5, 300, 17}},
    {3, {20, 6, 129}},  {3, {2, 2100, 3}}, {3, {3, 2, 2100}}, {4, {2, 3, 4, 5}}, {4, {3, 8, 4, 16}},
    {4, {2, 5, 6, 70}}, {4, {1, 2, 1, 3}}, {2, {9000, 4}},    {2, {4, 9000}},
};
enum { SHAPES = (int)(sizeof shapes / sizeof *shapes) };

static enum kernel_layout layout_of(int variant) {
    return variant % 3 == 0 ? KERNEL_DENSE : variant % 3 == 1 ? KERNEL_LINES : KERNEL_SCATTERED;
}

/* Which dimensions repeat: none, or by chance. */
static unsigned some_repeats(struct kernel_call *c) {
    return test_bits(&c->random) & 1 ? (unsigned)(test_bits(&c->random) & 15) : 0;
}

/* ---- calls ---- */

static bool is_f32_or_bf16(heed_dtype dtype) {
    return dtype == HEED_F32 || dtype == HEED_BF16;
}

static void build_copy(struct kernel_call *c, int variant) {
    struct heed_copy_args *a = &c->args.copy;
    const struct shape *s = &shapes[variant % SHAPES];
    static const heed_dtype dtypes[] = {HEED_F32, HEED_F32,  HEED_F32,  HEED_F64,
                                        HEED_I32, HEED_BOOL, HEED_BF16, HEED_BF16};
    const uint64_t kinds = test_has_bf16() ? 8 : 6;
    const heed_dtype from = dtypes[test_bits(&c->random) % kinds], to = dtypes[test_bits(&c->random) % kinds];
    const bool add = is_f32_or_bf16(from) && is_f32_or_bf16(to) && test_bits(&c->random) & 1;
    c->primitive = HEED_PRIMITIVE_COPY;
    a->x = kernel_view(c, from, layout_of(variant), some_repeats(c), s->rank, s->size);
    kernel_fill_view(c, &a->x, KERNEL_NORMAL);
    a->y.view = kernel_view(c, to, layout_of(variant / 3), add ? some_repeats(c) : 0, s->rank, s->size);
    a->y.add = add;
    if (add) kernel_fill_view(c, &a->y.view, KERNEL_NORMAL);
}

static void build_fill(struct kernel_call *c, int variant) {
    static const heed_dtype dtypes[] = {HEED_F32, HEED_F64, HEED_I32, HEED_BOOL, HEED_BF16};
    static const double numbers[] = {0, 1, -2.5, 1e10, NAN};
    struct heed_fill_args *a = (struct heed_fill_args *)&c->args;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_FILL;
    a->arange = s->rank == 1 && variant & 1;
    a->value = numbers[test_bits(&c->random) % 5];
    a->y = kernel_view(c, dtypes[test_bits(&c->random) % (test_has_bf16() ? 5 : 4)], layout_of(variant), 0,
                       s->rank, s->size);
}

static void build_random(struct kernel_call *c, int variant) {
    struct heed_random_args *a = (struct heed_random_args *)&c->args;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_RANDOM;
    a->normal = variant & 1;
    a->a = -0.7;
    a->b = 1.3;
    a->random = (struct heed_random){test_bits(&c->random), HEED_STREAM_INIT, 3, (uint32_t)variant};
    a->y = kernel_view(c, HEED_F32, KERNEL_DENSE, 0, s->rank, s->size);
}

static void build_unary(struct kernel_call *c, int variant) {
    struct heed_unary_args *a = &c->args.unary;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_UNARY;
    a->op = (enum heed_unary)(test_bits(&c->random) % HEED_UNARIES);
    const bool positive =
        a->op == HEED_UNARY_LOG || a->op == HEED_UNARY_SQRT || a->op == HEED_UNARY_POW_SCALAR;
    a->c = 2.5;
    kernel_input(c, &a->x, &a->dx, positive ? KERNEL_POSITIVE : KERNEL_NORMAL, layout_of(variant),
                 some_repeats(c), s->rank, s->size);
    kernel_output(c, &a->y, layout_of(variant / 3), &a->dy, layout_of(variant / 9), 0, s->rank, s->size);
}

static void build_binary(struct kernel_call *c, int variant) {
    struct heed_binary_args *a = &c->args.binary;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_BINARY;
    a->op = (enum heed_binary)(test_bits(&c->random) % HEED_BINARY_EQUAL);
    const bool positive = a->op == HEED_BINARY_DIV || a->op == HEED_BINARY_POW;
    const enum kernel_fill fill = positive ? KERNEL_POSITIVE : KERNEL_NORMAL;
    kernel_input(c, &a->a, &a->da, fill, layout_of(variant), some_repeats(c), s->rank, s->size);
    kernel_input(c, &a->b, &a->db, fill, layout_of(variant / 3), some_repeats(c), s->rank, s->size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, layout_of(variant / 9), 0, s->rank, s->size);
}

static void build_compare(struct kernel_call *c, int variant) {
    struct heed_binary_args *a = &c->args.binary;
    const struct shape *s = &shapes[variant % SHAPES];
    const heed_dtype dtype = variant & 1 ? HEED_I32 : HEED_F32;
    c->primitive = HEED_PRIMITIVE_BINARY;
    a->op = (enum heed_binary)(HEED_BINARY_EQUAL + test_bits(&c->random) % 3);
    a->a = kernel_view(c, dtype, layout_of(variant), some_repeats(c), s->rank, s->size);
    a->b = kernel_view(c, dtype, layout_of(variant / 3), some_repeats(c), s->rank, s->size);
    kernel_fill_view(c, &a->a, KERNEL_DISTINCT);
    kernel_fill_view(c, &a->b, KERNEL_DISTINCT);
    a->y = kernel_view(c, HEED_BOOL, KERNEL_DENSE, 0, s->rank, s->size);
}

static void build_where(struct kernel_call *c, int variant) {
    struct heed_where_args *a = &c->args.where;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_WHERE;
    a->condition = kernel_view(c, HEED_BOOL, layout_of(variant), some_repeats(c), s->rank, s->size);
    kernel_fill_view(c, &a->condition, KERNEL_NORMAL);
    struct heed_walk own, repeated;
    for (heed_walk_split(&a->condition, &own, &repeated); own.more; heed_walk_next(&own))
        heed_ref_put(&a->condition, own.at, (double)(test_bits(&c->random) & 1));
    kernel_input(c, &a->a, &a->da, KERNEL_NORMAL, layout_of(variant / 3), some_repeats(c), s->rank, s->size);
    kernel_input(c, &a->b, &a->db, KERNEL_NORMAL, layout_of(variant / 9), some_repeats(c), s->rank, s->size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_SCATTERED, 0, s->rank, s->size);
}

static void build_reduce(struct kernel_call *c, int variant) {
    struct heed_reduce_args *a = &c->args.reduce;
    const struct shape *s = &shapes[variant % SHAPES];
    const unsigned reduced = (unsigned)(test_bits(&c->random) & 15);
    const bool any =
        heed_view_count(&(struct heed_view){.rank = s->rank, .size = {s->size[0], s->size[1]}}) > 0;
    c->primitive = HEED_PRIMITIVE_REDUCE;
    a->op = (enum heed_reduce)(test_bits(&c->random) % (any ? 3 : 1));
    if (a->op == HEED_REDUCE_OP_MAX && c->dtype == HEED_BF16)
        a->op = HEED_REDUCE_OP_MEAN; /* y has x's dtype */
    a->reduced = 1;
    for (int d = 0; d < s->rank; d++) a->reduced *= reduced >> d & 1 ? s->size[d] : 1;
    kernel_input(c, &a->x, &a->dx, variant & 1 ? KERNEL_NORMAL : KERNEL_DISTINCT, layout_of(variant), 0,
                 s->rank, s->size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, reduced, s->rank, s->size);
}

static const struct {
    int64_t rows, n;
} row_shapes[] = {{0, 5},     {3, 0},    {1, 1},    {500, 1},   {500, 2},  {77, 3},  {301, 4},
                  {55, 7},    {999, 8},  {33, 15},  {201, 16},  {100, 17}, {60, 31}, {50, 100},
                  {100, 384}, {3, 1025}, {2, 9001}, {1, 40000}, {3000, 8}, {300, 65}};
enum { ROW_SHAPES = (int)(sizeof row_shapes / sizeof *row_shapes) };

static int64_t *row_size(int variant) {
    static int64_t size[2];
    size[0] = row_shapes[variant % ROW_SHAPES].rows;
    size[1] = row_shapes[variant % ROW_SHAPES].n;
    return size;
}

static void build_argmax(struct kernel_call *c, int variant) {
    struct heed_argmax_args *a = (struct heed_argmax_args *)&c->args;
    int64_t *size = row_size(variant);
    if (size[1] == 0) size[1] = 1;
    c->primitive = HEED_PRIMITIVE_ARGMAX;
    a->x = kernel_view(c, HEED_F32, KERNEL_DENSE, 0, 2, size);
    kernel_fill_view(c, &a->x, variant & 1 ? KERNEL_NORMAL : KERNEL_DISTINCT);
    const int64_t count = size[0] * size[1];
    for (int64_t i = 5; i < count; i += 97) ((float *)a->x.data)[i] = i % 3 ? -INFINITY : NAN;
    a->y = kernel_view(c, HEED_I32, KERNEL_DENSE, 0, 1, size);
}

static void build_softmax(struct kernel_call *c, int variant) {
    struct heed_softmax_args *a = &c->args.softmax;
    const int64_t *size = row_size(variant);
    c->primitive = HEED_PRIMITIVE_SOFTMAX;
    a->log = variant / ROW_SHAPES & 1;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    for (int64_t i = 0; i < size[1] && size[0] > 2; i++)
        heed_ref_store(&a->x, 2 * size[1] + i, -INFINITY); /* a row of nothing */
    if (size[0] * size[1] > 20) heed_ref_store(&a->x, size[0] * size[1] - 1, -INFINITY);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
}

static void build_norm(struct kernel_call *c, int variant) {
    struct heed_norm_args *a = &c->args.norm;
    static const int64_t strided[][4] = {
        {2, 3, 5, 64}, {3, 1, 40, 16}, {1, 70, 2, 33}, {2, 2, 0, 8}, {1, 1, 1, 5}};
    int64_t rows[2] = {1};
    const int64_t *size = row_size(variant), *line = strided[variant % 5];
    c->primitive = HEED_PRIMITIVE_NORM;
    a->rms = test_bits(&c->random) & 1;
    a->eps = 1e-2;
    if (test_bits(&c->random) & 1) {
        for (int d = 0; d < 3; d++) rows[0] *= line[d];
        rows[1] = line[3];
        size = rows;
        kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_LINES, 0, 4, line);
    } else {
        kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    }
    if (variant % 3 > 0)
        kernel_input(c, &a->weight, &a->dweight, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    if (variant % 3 > 1) kernel_input(c, &a->bias, &a->dbias, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
}

static void build_residual_norm(struct kernel_call *c, int variant) {
    static const double p[] = {0.1, 0, 0.5, 1e-9, 0.99999};
    struct heed_residual_norm_args *a = &c->args.residual_norm;
    const int64_t *size = row_size(variant);
    const uint64_t arrives = test_bits(&c->random) % 4;
    c->primitive = HEED_PRIMITIVE_RESIDUAL_NORM;
    a->rms = test_bits(&c->random) & 1;
    a->eps = 1e-2;
    a->threshold = heed_keep_threshold(p[test_bits(&c->random) % 5]);
    a->random = (struct heed_random){test_bits(&c->random), HEED_STREAM_TRAIN, 3, (uint32_t)variant};
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    kernel_input(c, &a->branch, &a->dbranch, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->sum, KERNEL_DENSE, &a->dsum, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
    if (arrives == 1) a->dsum.data = NULL;
    if (arrives == 2) a->dy.data = NULL;
    if (arrives == 2) return;
    if (variant % 3 > 0)
        kernel_input(c, &a->weight, &a->dweight, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    if (variant % 3 > 1) kernel_input(c, &a->bias, &a->dbias, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
}

static void build_rotary(struct kernel_call *c, int variant) {
    struct heed_rotary_args *a = &c->args.rotary;
    static const int64_t sizes[][4] = {{2, 3, 70, 64}, {1, 1, 1, 128}, {3, 2, 5, 6},  {1, 2, 200, 34},
                                       {2, 1, 33, 2},  {2, 3, 0, 8},   {1, 4, 9, 100}};
    const int64_t *size = sizes[variant % 7];
    c->primitive = HEED_PRIMITIVE_ROTARY;
    a->half = variant & 1;
    a->base = 10000;
    a->rotated = variant / 7 % 2 ? size[3] : size[3] / 4 * 2;
    a->offset = (variant % 5 - 1) * 1001;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, variant % 3 ? KERNEL_LINES : KERNEL_DENSE, 0, 4, size);
    kernel_output(c, &a->y, KERNEL_LINES, &a->dy, variant % 2 ? KERNEL_LINES : KERNEL_DENSE, 0, 4, size);
    if (variant % 4 == 0) return;
    const int64_t rows = variant % 4 == 1 ? 1 : size[0];
    a->positions = kernel_view(c, HEED_I32, KERNEL_DENSE, 0, 2, (int64_t[]){rows, size[2]});
    for (int64_t i = 0; i < rows * size[2]; i++)
        ((int32_t *)a->positions.data)[i] = (int32_t)(test_bits(&c->random) % 3000) - 500;
    a->positions = (struct heed_view){.data = a->positions.data,
                                      .dtype = HEED_I32,
                                      .rank = 3,
                                      .size = {size[0], size[1], size[2]},
                                      .stride = {rows > 1 ? size[2] : 0, 0, 1}};
}

static void build_gather(struct kernel_call *c, int variant) {
    struct heed_gather_args *a = &c->args.gather;
    static const int64_t large[][3] = {{40, 30, 20}, {1, 400, 100}, {100, 3, 1},
                                       {3, 1, 500},  {2, 5000, 3},  {0, 4, 4}};
    const int64_t *size = large[test_bits(&c->random) % 6];
    c->primitive = HEED_PRIMITIVE_GATHER;
    a->dim = variant % 3;
    const unsigned repeats = variant & 1 ? 7u & ~(1u << a->dim) : 0;
    int64_t x_size[3] = {size[0], size[1], size[2]};
    x_size[a->dim] = 3;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, layout_of(variant), variant % 5 == 0 ? 1 : 0, 3, x_size);
    a->index = kernel_view(c, HEED_I32, layout_of(variant / 3), repeats, 3, size);
    kernel_fill_view(c, &a->index, KERNEL_POSITIVE); /* 0 … 2 */
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 3, size);
}

static void build_dropout(struct kernel_call *c, int variant) {
    static const double p[] = {0.5, 0.1, 0.9, 0, 1e-9, 0.99999};
    struct heed_dropout_args *a = &c->args.dropout;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_DROPOUT;
    a->threshold = heed_keep_threshold(p[variant % 6]);
    a->random = (struct heed_random){test_bits(&c->random), HEED_STREAM_TRAIN, 3, (uint32_t)variant};
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, s->rank, s->size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, s->rank, s->size);
}

static void build_cross_entropy(struct kernel_call *c, int variant) {
    struct heed_cross_entropy_args *a = &c->args.cross_entropy;
    int64_t *size = row_size(variant);
    if (size[1] < 3) size[1] = 3; /* targets are 0 … 2 */
    c->primitive = HEED_PRIMITIVE_CROSS_ENTROPY;
    a->reduction = variant & 1 ? HEED_REDUCE_SUM : HEED_REDUCE_MEAN;
    a->smoothing = (double[]){0, 0.1, 1}[variant % 3];
    a->ignore_index = variant & 4 ? 1 : -100;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    a->target = kernel_view(c, HEED_I32, KERNEL_DENSE, 0, 1, size);
    kernel_fill_view(c, &a->target, KERNEL_POSITIVE);
    if (size[0] > 1) ((int32_t *)a->target.data)[1] = a->ignore_index;
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 0, NULL);
}

static void build_pair_loss(struct kernel_call *c, int variant) {
    struct heed_pair_loss_args *a = &c->args.pair_loss;
    const struct shape *s = &shapes[variant % SHAPES];
    c->primitive = HEED_PRIMITIVE_PAIR_LOSS;
    a->bce = test_bits(&c->random) & 1;
    a->reduction = test_bits(&c->random) & 1 ? HEED_REDUCE_SUM : HEED_REDUCE_MEAN;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, s->rank, s->size);
    kernel_input(c, &a->t, &a->dt, KERNEL_NORMAL, KERNEL_DENSE, 0, s->rank, s->size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 0, NULL);
}

static void *new_row(struct kernel_call *c, heed_dtype dtype, enum kernel_fill fill, int64_t count) {
    const struct heed_view v = kernel_view(c, dtype, KERNEL_DENSE, 0, 1, &count);
    kernel_fill_view(c, &v, fill);
    return v.data;
}

/* Parameters of some lengths, on both sides of a tile's end. */
static int64_t make_items(struct kernel_call *c, int variant) {
    static const int64_t counts[] = {1, 0, 7, 8, 33, 1000, 20000, 4096, 12345, 3};
    const int64_t items = 1 + variant % KERNEL_ITEMS;
    for (int64_t i = 0; i < items; i++) {
        const int64_t count = counts[test_bits(&c->random) % 10];
        c->item[i] = (struct heed_param_item){.count = count,
                                              .param = new_row(c, HEED_F32, KERNEL_NORMAL, count),
                                              .grad = new_row(c, HEED_F32, KERNEL_NORMAL, count),
                                              .moment1 = new_row(c, HEED_F32, KERNEL_NORMAL, count),
                                              .moment2 = new_row(c, HEED_F32, KERNEL_POSITIVE, count),
                                              .rate = 0.01 * (double)(i + 1),
                                              .decay = i % 2 ? 0.1 : 0};
    }
    return items;
}

static void build_grad_norm(struct kernel_call *c, int variant) {
    struct heed_grad_norm_args *a = &c->args.grad_norm;
    const int64_t items = make_items(c, variant);
    c->primitive = HEED_PRIMITIVE_GRAD_NORM;
    *a = (struct heed_grad_norm_args){.dtype = HEED_F32,
                                      .items = items,
                                      .item = c->item,
                                      .clamp = variant % 3 == 1 ? 0.5 : 0,
                                      .scale = variant % 3 == 2 ? 0.3 : 1,
                                      .result = new_row(c, HEED_F64, KERNEL_NORMAL, 2)};
    const struct heed_param_item *last = &c->item[items - 1];
    /* A device makes an error of it. */
    if (variant % 5 == 4 && last->count > 0 && !test_elsewhere())
        ((float *)last->grad)[last->count / 2] = NAN;
}

static void build_update(struct kernel_call *c, int variant) {
    struct heed_update_args *a = &c->args.update;
    struct heed_grad_norm *norm = new_row(c, HEED_F64, KERNEL_NORMAL, 2);
    *norm = (struct heed_grad_norm){.norm = 2, .first_bad = -1};
    c->primitive = HEED_PRIMITIVE_UPDATE;
    *a = (struct heed_update_args){.kind = (enum heed_update)(variant % 3),
                                   .dtype = HEED_F32,
                                   .items = make_items(c, variant),
                                   .item = c->item,
                                   .norm = norm,
                                   .max_norm = variant % 2 ? 1.4 : 0,
                                   .momentum = variant % 4 ? 0.9 : 0,
                                   .nesterov = variant % 4 == 1,
                                   .beta1 = 0.9,
                                   .beta2 = 0.99,
                                   .eps = 1e-6,
                                   .step = 1 + variant % 5};
    for (int64_t i = 0; i < a->items && a->kind == HEED_UPDATE_SGD && a->momentum == 0; i++)
        c->item[i].moment1 = NULL;
}

static const struct {
    const char *name;
    kernel_build *build;
    double tolerance; /* relative to the largest number of each memory block; 0: the same bits */
    int variants;
    bool bf16; /* its views may be bf16 */
} kernels[] = {
    {"copy", build_copy, 2e-6, 3 * SHAPES},
    {"fill", build_fill, 0, 4 * SHAPES},
    {"random", build_random, 0, 2 * SHAPES},
    {"unary", build_unary, 5e-6, 3 * SHAPES, true},
    {"binary", build_binary, 5e-6, 3 * SHAPES, true},
    {"compare", build_compare, 0, 4 * SHAPES},
    {"where", build_where, 5e-6, 2 * SHAPES, true},
    {"reduce", build_reduce, 5e-6, 3 * SHAPES, true},
    {"argmax", build_argmax, 0, 2 * ROW_SHAPES},
    {"softmax", build_softmax, 2e-6, 2 * ROW_SHAPES, true},
    {"norm", build_norm, 1e-5, 4 * ROW_SHAPES, true},
    {"residual_norm", build_residual_norm, 1e-5, 8 * ROW_SHAPES, true},
    {"rotary", build_rotary, 1e-6, 56, true},
    {"gather", build_gather, 5e-6, 60, true},
    {"dropout", build_dropout, 2e-7, 2 * SHAPES, true},
    {"cross_entropy", build_cross_entropy, 2e-6, 3 * ROW_SHAPES, true},
    {"pair_loss", build_pair_loss, 2e-6, 4 * SHAPES, true},
    {"grad_norm", build_grad_norm, 2e-6, 60},
    {"update", build_update, 5e-6, 60},
};
enum { KERNELS = (int)(sizeof kernels / sizeof *kernels) };

/* ---- running one call ---- */

static void call_start(struct kernel_call *c, int kernel, int variant, heed_dtype dtype) {
    memset(c, 0, sizeof *c);
    c->random.state = (uint64_t)kernel * 1000 + (uint64_t)variant + 1;
    c->edge = variant % 4 == 3 ? TEST_EDGE_BEFORE : TEST_EDGE_BEHIND;
    c->dtype = dtype;
    kernels[kernel].build(c, variant);
    /* Half of the gradients add to something, some are not wanted. */
    for (int i = 0; i < c->inputs; i++) {
        const uint64_t bits = test_bits(&c->random);
        c->input[i].dx->add = bits & 1;
        if (bits & 1) kernel_fill_view(c, &c->input[i].dx->view, KERNEL_NORMAL);
        if (bits % 8 == 6) c->input[i].dx->view.data = NULL;
    }
}

static void call_run(struct heed_exec *exec, struct kernel_call *c, const char *name) {
    const struct kernel_away away = kernel_send(exec, c);
    const struct heed_kernel *kernel = heed_exec_select(exec, c->primitive, &c->args);
    test_check(exec->fallbacks == 0, "%s: no kernel of the device applies", name);
    const struct kernel_saved saved = kernel_run_forward(exec, kernel, &c->args, c->edge);
    if (kernel->backward && c->outputs > 0) kernel_run_backward(exec, kernel, &c->args, &saved);
    kernel_saved_free(&saved);
    kernel_fetch(exec, c, &away);
}

/* ---- comparing ---- */

static void compare(const struct kernel_call *c, const struct kernel_image *right, double tolerance,
                    const char *name) {
    char text[200];
    for (int b = 0; b < c->blocks; b++) {
        const double scale = fmax(0.1, kernel_image_largest(c, b, right));
        const bool rounded = c->block[b].dtype == HEED_BF16 && tolerance > 0; /* to neighbours */
        const struct test_tolerance allowed = {rounded ? 0x1p-7 : 0, tolerance};
        test_check(kernel_image_close(c, b, right, allowed, scale, text, sizeof text), "%s: block %d: %s",
                   name, b, text);
    }
}

static void same_bits(const struct kernel_call *c, const struct kernel_image *other, const char *name) {
    for (int b = 0; b < c->blocks; b++)
        test_check(kernel_image_has(c, b, other), "%s: block %d depends on the number of threads", name, b);
}

/* ---- tests ---- */

enum { MOST_COUNTS = 3 };

/* One instruction set: against ref with one thread, and the others against that. */
static void check_isa(heed_ctx *const *cpu, int counts, struct kernel_call *c,
                      const struct kernel_image *start, const struct kernel_image *right, double tolerance,
                      const char *name) {
    kernel_image_restore(c, start);
    call_run(&cpu[0]->exec, c, name);
    compare(c, right, tolerance, name);
    struct kernel_image one = kernel_image_take(c);
    for (int t = 1; t < counts; t++) {
        kernel_image_restore(c, start);
        call_run(&cpu[t]->exec, c, name);
        same_bits(c, &one, name);
    }
    kernel_image_free(&one);
}

static void against_ref(int kernel, heed_dtype dtype, double tolerance) {
    const char *const *isa;
    const int isas = test_isas(&isa), step = test_small() ? 7 : 1;
    const int *threads, counts = test_threads(&threads);
    heed_ctx *ref = test_ref(), *cpu[HEED_ISAS][MOST_COUNTS] = {{NULL}};
    for (int i = 0; i < isas; i++)
        for (int t = 0; t < counts; t++)
            cpu[i][t] = test_ctx(&(struct test_device){"cpu", isa[i], threads[t]});
    char name[128] = "";
    test_fault_says(name);
    for (int variant = 0; variant < kernels[kernel].variants; variant += step) {
        struct kernel_call c;
        call_start(&c, kernel, variant, dtype);
        struct kernel_image start = kernel_image_take(&c);
        snprintf(name, sizeof name, "%s, variant %d on ref", kernels[kernel].name, variant);
        call_run(&ref->exec, &c, name);
        struct kernel_image right = kernel_image_take(&c);
        for (int i = 0; i < isas; i++) {
            snprintf(name, sizeof name, "%s, variant %d on %s", kernels[kernel].name, variant, isa[i]);
            check_isa(cpu[i], counts, &c, &start, &right, tolerance, name);
        }
        kernel_image_free(&start);
        kernel_image_free(&right);
        kernel_call_end(&c);
    }
    for (int i = 0; i < isas; i++)
        for (int t = 0; t < counts; t++) heed_ctx_free(cpu[i][t]);
    heed_ctx_free(ref);
    test_fault_says(NULL);
}

START_TEST(test_against_ref) {
    against_ref(_i, HEED_F32, kernels[_i].tolerance);
}
END_TEST

/* What backward reads of forward's results was rounded, on each side by itself. */
START_TEST(test_against_ref_bf16) {
    if (kernels[_i].bf16 && test_has_bf16()) against_ref(_i, HEED_BF16, 0x1p-7);
}
END_TEST

/* A function that is new to the primitive and has no vectors yet. */
START_TEST(what_has_no_vectors_is_left_to_ref) {
    if (test_elsewhere()) return;
    heed_ctx *ctx = test_cpu();
    float x[4] = {1, 2, 3, 4}, y[4];
    const struct heed_view view = VECTOR(x, HEED_F32), out = VECTOR(y, HEED_F32);
    struct heed_unary_args unary = {.op = HEED_UNARY_EXP, .x = view, .y = out};
    struct heed_binary_args binary = {.op = HEED_BINARY_POW, .a = view, .b = view, .y = out};
    ck_assert_str_eq(heed_exec_select(&ctx->exec, HEED_PRIMITIVE_UNARY, &unary)->name, "cpu");
    ck_assert_str_eq(heed_exec_select(&ctx->exec, HEED_PRIMITIVE_BINARY, &binary)->name, "cpu");
    unary.op = HEED_UNARIES;
    binary.op = HEED_BINARIES;
    ck_assert_str_eq(heed_exec_select(&ctx->exec, HEED_PRIMITIVE_UNARY, &unary)->name, "ref");
    ck_assert_str_eq(heed_exec_select(&ctx->exec, HEED_PRIMITIVE_BINARY, &binary)->name, "ref");
    ck_assert_str_eq(ctx->exec.last[HEED_PRIMITIVE_UNARY].why_not[0], "the function has no vector form");
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kernels");
    tcase_add_loop_test(test_case(suite, "against ref"), test_against_ref, 0, KERNELS);
    tcase_add_loop_test(test_case(suite, "against ref in bf16"), test_against_ref_bf16, 0, KERNELS);
    tcase_add_test(test_case(suite, "no vectors"), what_has_no_vectors_is_left_to_ref);
    return test_main(suite);
}
